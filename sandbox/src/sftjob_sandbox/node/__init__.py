"""The one node of the sandbox: it runs Pods as local processes, without containers and without root.

What a container has here: its command, environment, volumes, logs, exit code, termination message, restart policy, GPU
slots, a memory limit (Linux), and a clean end of all its processes. What it has not: an image's file system (its PATH
begins with the image's directory, the rest is this machine), mount and network namespaces, another user id, CPU limits,
read-only mounts. Anything else that a Pod asks for and the node can not do is refused in the Pod's status, see
`sftjob_sandbox.node.admission`.
"""
