"""The output of a run: export, merge, model card, copies."""
