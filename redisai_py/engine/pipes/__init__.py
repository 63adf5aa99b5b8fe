"""Runs that the event loop sends ahead to engine processes through pipes; no worker thread waits for them."""
