"""The SFTJob operator: creates Pods and volumes for SFTJobs, and writes their reports to the status."""
