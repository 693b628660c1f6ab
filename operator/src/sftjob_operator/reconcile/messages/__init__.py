"""Sentences of conditions and events: what happened, and what to change."""
