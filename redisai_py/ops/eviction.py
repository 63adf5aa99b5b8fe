"""Which loaded models to unload when all of them take more memory than they may. Pure.

The limit is that of the whole server. With several front doors each tells what it holds: a model in an engine process
is there once for all, one in the front doors themselves in each (docs/adr/0053).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from redisai_py.engine.settings import ModelSnapshot

__all__ = ["taken_bytes", "to_unload"]


def taken_bytes(models: Iterable[ModelSnapshot]) -> int:
    """The memory of all copies, those in engine processes once. models: of all front doors."""
    own, shared = 0, {}
    for model in models:
        own += model.nbytes if model.here else 0
        if model.process:
            shared[model.model_id, model.process] = model.nbytes
    return own + sum(shared.values())


def to_unload(
    models: Iterable[ModelSnapshot], limit_bytes: int, spared: Collection[str]
) -> tuple[dict[str, float], int]:
    """The idle models, least recently used first, without which the others keep the limit.

    Args:    models: of all front doors.   spared: identities of models to keep.
    Returns: their identities, with when each was last used; and the memory of the others, which exceeds the limit if
             they are in use.
    """
    copies: dict[str, list[ModelSnapshot]] = {}
    for model in models:
        copies.setdefault(model.model_id, []).append(model)
    taken = sum(map(taken_bytes, copies.values()))
    last_used = {identity: max(each.last_used for each in some) for identity, some in copies.items()}
    unloaded: dict[str, float] = {}
    for identity in sorted(copies, key=last_used.__getitem__):
        if taken <= limit_bytes:
            break
        if identity not in spared and not any(each.unfinished for each in copies[identity]):
            unloaded[identity] = last_used[identity]
            taken -= taken_bytes(copies[identity])
    return unloaded, taken
