"""What Prepare checks before a GPU is held."""
