"""Jobs: a queue in a Redis stream, and workers on any machine that run its entries.

A job names a registered builder and its parameters, as JSON. It carries no code, so a user who may write to the
stream cannot run programs on the workers. See docs/pipeline.md.
"""
