"""Benchmarks of the operator on a fake node."""
