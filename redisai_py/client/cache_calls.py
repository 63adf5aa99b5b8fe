"""AI.CACHE as calls: arguments in, words and how to read the reply out. Pure."""

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
    """Have the predictions of a model kept. Raises: MissingKey, WrongType.

    Args: ttl: life of a prediction in seconds.   jitter: per cent by which it is shortened at most.
          rows: keep each row by itself.   maxbytes: bound on what is inserted within a life.
          warm: how many frequent inputs a new version is run on when it is stored.   scope: 'DB' or 'USER'.
          minrun: microseconds; a faster model is not looked up.
    """
    words: list[Any] = ["AI.CACHE", "SET", key, "TTL", ttl, *option("JITTER", jitter), *(["ROWS"] if rows else [])]
    words += option("MAXBYTES", maxbytes) + option("WARM", warm) + option("SCOPE", scope) + option("MINRUN", minrun)
    return Call(words, text)


def cacheget(key: Key) -> Call[dict[str, Any] | None]:
    """A model's cache rule: a dict, None without one. Raises: MissingKey, WrongType."""
    return Call(["AI.CACHE", "GET", key], lambda reply: None if reply is None else pairs(reply))


def cachedel(key: Key) -> Call[bool]:
    """Keep no more predictions of a model; whether it had a rule. Raises: MissingKey, WrongType."""
    return Call(["AI.CACHE", "DEL", key], bool, repeatable=False)


def cachepurge(key: Key) -> Call[int]:
    """Delete the predictions of a model; how many keys those were. Raises: MissingKey, WrongType."""
    return Call(["AI.CACHE", "PURGE", key], int, repeatable=False)


def cachestats(key: Key) -> Call[dict[str, Any]]:
    """What this server counts of a model's predictions: a dict; `errors` is one too. Raises: MissingKey, WrongType."""
    return Call(["AI.CACHE", "STATS", key], _stats)


def cachewarm(key: Key, inputs: Keys | Sequence[Keys]) -> Call[dict[str, int]]:
    """Compute predictions ahead: a dict of how many were inserted, were present, and failed.

    Args:   inputs: keys of tensors, those of several requests one behind the other; or a list of such lists.
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
