"""Look-ups in the keyspace that RedisAI makes before it sees a syntax error, as data: the parsers are pure.

An error carries its `checks` in order. The server makes these look-ups, and the first that fails gives the reply.
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
    """ModelExists, and then the model takes that many inputs and gives that many outputs.

    None is not checked. Inputs come first: `Number of keys given as INPUTS here does not match model definition`, then
    the same with OUTPUTS.
    """

    key: bytes
    inputs: int | None
    outputs: int | None


@dataclass(frozen=True, slots=True)
class ScriptExists:
    """The key holds a script, else `ERR script key is empty` or WRONGTYPE."""

    key: bytes


Check = TensorOrAbsent | TensorExists | ModelExists | ModelCounts | ScriptExists
