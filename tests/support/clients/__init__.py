"""Clients of a real server: kubectl, HTTP, Helm, containers, and waiting."""
