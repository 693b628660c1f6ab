"""Attempts of a job: how they start and end, and when another one follows."""
