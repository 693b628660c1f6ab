"""The status of a job, built from a decision."""
