"""Benchmarks and their pages in docs/."""
