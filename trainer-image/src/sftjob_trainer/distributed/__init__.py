"""Several processes for one run: how they are started, meet, agree and stop."""
