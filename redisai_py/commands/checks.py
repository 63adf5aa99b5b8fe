"""Look-ups that RedisAI makes before it reports a syntax error, as data, because the parsers are pure.

An error carries its `checks` in order. The server makes these look-ups; the first that fails gives the reply.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Check", "ModelCounts", "ModelExists", "ScriptExists", "TensorExists", "TensorOrAbsent"]


@dataclass(frozen=True, slots=True)
class TensorOrAbsent:
    """The key is absent or holds a tensor, else WRONGTYPE."""

    key: bytes


@dataclass(frozen=True, slots=True)
class TensorExists:
    """The key holds a tensor, else `ERR tensor key is empty or in a different shard` or WRONGTYPE."""

    key: bytes


@dataclass(frozen=True, slots=True)
class ModelExists:
    """The key holds a model, else `ERR model key is empty` or WRONGTYPE."""

    key: bytes


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """ModelExists, and the model has these numbers of inputs and outputs.

    None is not checked. Inputs come first: `Number of keys given as INPUTS here does not match model definition`, then
    the same text with OUTPUTS.
    """

    key: bytes
    inputs: int | None
    outputs: int | None


@dataclass(frozen=True, slots=True)
class ScriptExists:
    """The key holds a script, else `ERR script key is empty` or WRONGTYPE."""

    key: bytes


Check = TensorOrAbsent | TensorExists | ModelExists | ModelCounts | ScriptExists
