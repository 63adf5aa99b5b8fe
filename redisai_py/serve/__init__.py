"""Processes: from the command line to a listening socket, and back."""
