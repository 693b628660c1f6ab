"""What the operator and the trainer agree on. Standard library only; imported by both, owned by neither."""
