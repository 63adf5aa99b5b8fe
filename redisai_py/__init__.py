"""The RedisAI commands for any Redis: tensors, models, scripts and DAGs, served by a sidecar process.

This module imports nothing: `import redisai_py` loads no framework, and the server's modules do not load the client.
The clients are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redisai_py.client import AsyncClient, Client

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "Client"):
        from redisai_py import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
