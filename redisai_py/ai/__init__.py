"""The AI commands: the only place where the store and the engine meet.

One file holds all forms of a command: the fast path, its handler, and its form inside MULTI. A command sees its client
as a `Turn` and the server as `Services`; it knows no connection.
"""
