"""The SFTJob operator: turns SFTJobs into Pods and volumes, and what they report into status."""
