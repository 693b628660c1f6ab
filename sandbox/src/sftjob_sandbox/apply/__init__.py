"""Patches and server-side apply, and the managed fields that they record."""
