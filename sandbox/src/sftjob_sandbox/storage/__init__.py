"""Writes: from the body of a request to a stored object."""
