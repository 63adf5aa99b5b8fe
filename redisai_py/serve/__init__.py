"""Processes: from the command line to a served socket, and back."""
