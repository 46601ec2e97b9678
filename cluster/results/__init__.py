"""What is done with a finished job: exports, a look for seams, a picture of its times."""
