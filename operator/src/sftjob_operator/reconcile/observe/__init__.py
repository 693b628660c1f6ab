"""What a decision sees of a job: its Pods, reports and clocks."""
