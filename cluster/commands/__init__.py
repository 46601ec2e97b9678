"""The command line's parts: one file a group of commands, and what they share. app.py puts them together."""
