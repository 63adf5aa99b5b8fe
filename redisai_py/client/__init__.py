"""The clients, blocking and asyncio; `redisai_py.Client` and `redisai_py.AsyncClient` are these classes."""

from __future__ import annotations

from redisai_py.client.aio import AsyncClient, AsyncDag, AsyncPipeline
from redisai_py.client.sync import Client, Dag, Pipeline

__all__ = ["AsyncClient", "AsyncDag", "AsyncPipeline", "Client", "Dag", "Pipeline"]
