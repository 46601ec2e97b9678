"""The command line's parts: one file a group of commands, and what they share. cluster/cli.py puts them together."""
