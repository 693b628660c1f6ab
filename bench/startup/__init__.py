"""Benchmark of the time to the first step."""
