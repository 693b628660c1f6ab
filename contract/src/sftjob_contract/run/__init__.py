"""The config of a run: what the operator asks a trainer to do."""
