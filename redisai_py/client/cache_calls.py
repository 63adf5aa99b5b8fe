"""AI.CACHE as calls: from arguments to words and a decoder of the reply. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redisai_py.client.call import Call, Key, Keys, counted, listify, option, pairs, text

__all__ = ["cachedel", "cacheget", "cachepurge", "cacheset", "cachestats", "cachewarm"]


def cacheset(
    key: Key,
    ttl: int,
    jitter: int | None = None,
    rows: bool = False,
    maxbytes: int | None = None,
    warm: int | None = None,
    scope: str | None = None,
    minrun: int | None = None,
) -> Call[str]:
    """Set the cache rule of a model. Raises: MissingKey, WrongType.

    Args: ttl: lifetime of an entry in seconds.   jitter: maximum random reduction of it, in per cent.
          rows: one entry per row.   maxbytes: maximum bytes inserted within one lifetime.
          warm: number of frequent inputs on which a new version runs when stored.   scope: 'DB' or 'USER'.
          minrun: microseconds; the cache is not used while runs are shorter.
    """
    words: list[Any] = ["AI.CACHE", "SET", key, "TTL", ttl, *option("JITTER", jitter), *(["ROWS"] if rows else [])]
    words += option("MAXBYTES", maxbytes) + option("WARM", warm) + option("SCOPE", scope) + option("MINRUN", minrun)
    return Call(words, text)


def cacheget(key: Key) -> Call[dict[str, Any] | None]:
    """A model's cache rule: a dict, None without one. Raises: MissingKey, WrongType."""
    return Call(["AI.CACHE", "GET", key], lambda reply: None if reply is None else pairs(reply))


def cachedel(key: Key) -> Call[bool]:
    """Remove the cache rule of a model. Returns: whether it had one. Raises: MissingKey, WrongType."""
    return Call(["AI.CACHE", "DEL", key], bool, repeatable=False)


def cachepurge(key: Key) -> Call[int]:
    """Delete the predictions of a model. Returns: number of deleted keys. Raises: MissingKey, WrongType."""
    return Call(["AI.CACHE", "PURGE", key], int, repeatable=False)


def cachestats(key: Key) -> Call[dict[str, Any]]:
    """The cache statistics of a model on this server: a dict; so is `errors` in it. Raises: MissingKey, WrongType."""
    return Call(["AI.CACHE", "STATS", key], _stats)


def cachewarm(key: Key, inputs: Keys | Sequence[Keys]) -> Call[dict[str, int]]:
    """Compute and store predictions. Returns: a dict with the numbers inserted, present and failed.

    Args:   inputs: keys of tensors, for several requests one request after the other; or a list of such lists.
    Raises: MissingKey, WrongType.
    """
    items = listify(inputs)
    groups = items if items and all(isinstance(item, (list, tuple)) for item in items) else [items]
    words = [word for group in groups for word in counted("INPUTS", group)]
    return Call(["AI.CACHE", "WARM", key, *words], pairs)


def _stats(reply: Sequence[Any]) -> dict[str, Any]:
    fields = pairs(reply)
    fields["hit_rate"] = float(fields["hit_rate"])
    fields["errors"] = pairs(fields["errors"])
    return fields
