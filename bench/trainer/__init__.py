"""Benchmark of the training speed."""
