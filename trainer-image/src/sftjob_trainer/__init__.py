"""The trainer: prepares data and fine-tunes with TRL. Started as `python -m sftjob_trainer STAGE`."""
