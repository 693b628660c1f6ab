"""The trainer's process: its environment, errors, exit, files and watchdog."""
