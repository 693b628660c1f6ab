"""Benchmark of the answers before and after tuning."""
