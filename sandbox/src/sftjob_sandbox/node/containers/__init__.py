"""One container of a Pod: its environment, files, process and log."""
