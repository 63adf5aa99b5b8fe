"""The front door: client connections, connections to Redis, and the handlers where store and engine meet."""
