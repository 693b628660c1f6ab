"""The operator's process: work queue, shutdown, watches and logs."""
