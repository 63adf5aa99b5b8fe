"""One client at a time: bytes in, commands in order, replies out in order."""
