"""What a job tells while it runs, and how it is read."""
