"""Pods and their reports, parsed, bounded, and as parts of a status."""
