"""The RedisAI commands for any Redis: tensors, models, scripts and DAGs, served by a sidecar process.

Nothing is imported here: `import redisai_py` costs no framework, and the server's modules do not load the client.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
