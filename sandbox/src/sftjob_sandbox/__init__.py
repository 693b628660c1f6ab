"""A small emulator of a Kubernetes API server and one node, on loopback, for trying and testing without a cluster.

It is an emulator: it answers as a real API server would where it answers at all, and refuses what it does not know.
"""
