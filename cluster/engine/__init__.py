"""Runs a job: from the claim of its folder to its end, on any executor."""
