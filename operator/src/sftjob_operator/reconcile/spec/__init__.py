"""Checks of a spec, and the plan computed from it."""
