"""Jobs: work that waits in a stream of Redis for a worker of any machine.

A job names a registered builder and its parameters, as JSON; it carries no code, so that whoever may write to the
stream cannot run programs on the workers. See docs/pipeline.md.
"""
