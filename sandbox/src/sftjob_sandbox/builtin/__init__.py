"""Kinds that every API server serves: their fields, defaults and rules."""
