"""Tensors, models and scripts in Redis, for one identity. Only this package knows which Redis commands they need.

Redis is reached through an injected `Link`: a shared pipelined stream for small values, exclusive connections for large
values and for WATCH. Every method raises wire errors: MissingKey, WrongType, UpstreamError with Redis's own text. It
knows nothing of clients, frameworks or replies.
"""

from __future__ import annotations

from redisai_py.bounded import BoundedCache
from redisai_py.store.link import Link
from redisai_py.store.programs import ProgramStore
from redisai_py.store.tensors import TensorStore

__all__ = ["Store"]

_MOST_LARGE_KEYS = 4096


class Store(TensorStore, ProgramStore):
    """Keys of one identity."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._large_keys = BoundedCache(_MOST_LARGE_KEYS)
