"""The contract between operator and trainer. Standard library only; imported by both, owned by neither."""
