"""A model's cache rule: the arguments of AI.CACHE SET, kept in the field `cache` of the model's own hash. Pure.

In the hash, the rule arrives with the model's id in one read, and COPY, RENAME, DUMP and DEL include it
(docs/adr/0038).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import lru_cache

__all__ = ["DEFAULT_JITTER", "DEFAULT_MINRUN_US", "LONGEST_TTL_S", "MOST_WARMED", "RULE_FIELD", "Rule", "decode_rule"]

RULE_FIELD = b"cache"
"""The field of a model's hash."""
DEFAULT_JITTER = 10
DEFAULT_MINRUN_US = 100
"""Approximate duration of a look-up, in microseconds; the cache cannot pay for a faster model."""
LONGEST_TTL_S = 365 * 24 * 3600
MOST_WARMED = 1000
_MOST_BYTES = 2**63 - 1
_LONGEST_RULE = 512


@dataclass(frozen=True, slots=True)
class Rule:
    """How predictions of one model are cached.

    ttl_s: lifetime of an entry, in seconds.   jitter: maximum random reduction of a lifetime, in per cent.
    rows: one entry per row of dimension 0.   maxbytes: limit of the bytes inserted within one lifetime; 0 is none.
    warm: number of most frequent inputs to compute when a new version is stored.
    per_user: entries of one Redis user are not used for another.   minrun_us: the cache is not used while runs are
    shorter than this.
    """

    ttl_s: int
    jitter: int = DEFAULT_JITTER
    rows: bool = False
    maxbytes: int = 0
    warm: int = 0
    per_user: bool = False
    minrun_us: int = DEFAULT_MINRUN_US

    def encode(self) -> bytes:
        """The value of the field."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    def life_s(self, chance: float) -> int:
        """The lifetime of one entry. chance: a random number from 0 up to 1."""
        return max(1, round(self.ttl_s * (1 - chance * self.jitter / 100)))


_RANGES = {
    "ttl_s": (1, LONGEST_TTL_S),
    "jitter": (0, 100),
    "maxbytes": (0, _MOST_BYTES),
    "warm": (0, MOST_WARMED),
    "minrun_us": (0, _MOST_BYTES),
}


@lru_cache(maxsize=1024)
def decode_rule(value: bytes | None) -> Rule | None:
    """The rule in the field, or None if AI.CACHE SET would not have written it. The value is untrusted."""
    if value is None or len(value) > _LONGEST_RULE:
        return None
    try:
        words = json.loads(value)
    except (ValueError, RecursionError):
        return None
    if type(words) is not dict or words.keys() - {field.name for field in fields(Rule)} or "ttl_s" not in words:
        return None
    for name, number in words.items():
        low, high = _RANGES.get(name, (0, 1))
        kind = int if name in _RANGES else bool
        if type(number) is not kind or not low <= number <= high:
            return None
    return Rule(**words)
