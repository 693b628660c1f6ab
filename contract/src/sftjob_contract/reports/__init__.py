"""What a trainer reports: progress, the outcome of a stage, and what Prepare found."""
