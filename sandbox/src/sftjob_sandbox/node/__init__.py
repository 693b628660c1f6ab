"""The one node of the sandbox: it runs Pods as local processes, without containers and without root.

A container here has its command, environment, volumes, log, exit code, termination message, GPU slots, a memory limit
(Linux), and all its processes end with it. It does not have an image's file system (its PATH begins with the image's
directory, the rest is this machine), mount and network namespaces, another user id, CPU limits, or read-only mounts.
The API server refuses the fields of a Pod that the node does not support (`sftjob_sandbox.builtin.pods`); the node
itself refuses a Pod that it cannot place or mount (`sftjob_sandbox.node.admission`).
"""
