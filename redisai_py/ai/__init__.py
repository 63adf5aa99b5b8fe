"""The AI commands: the one place where the store and the engine meet.

One file holds all ways of a command: the fast one, its handler, and its form inside MULTI. A command sees its client
as a `Turn` and the server as `Services`; it knows no connection.
"""
