"""A cluster, a node and Pods in memory, and the lives of a job on them."""
