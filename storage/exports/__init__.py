"""Finished pictures in the formats of other programs. Knows pixels and files; knows no job that is still running."""
