"""TRL's trainer for a run, and what it starts from."""
