"""Tiny models, tokenizers and runs of the trainer."""
