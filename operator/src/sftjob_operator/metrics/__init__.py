"""Prometheus metrics: the operator's activity, and the state of its jobs."""
