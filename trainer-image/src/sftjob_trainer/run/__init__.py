"""The state of one run: context, checkpoints, metrics log, errors."""
