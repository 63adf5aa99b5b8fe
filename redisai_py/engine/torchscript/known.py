"""What this server knows of scripts that it has read: their text, and of each function what its runs were like. Pure.

A script is found by its identity, as models are. A function that calls neither Redis nor a model has no effect but its
outputs: it may be run again, on near values too, and several of its calls may be on their way to a worker. Workers know
that from the compiled graph.
"""

from __future__ import annotations

import re

from redisai_py.bounded import BoundedCache
from redisai_py.engine.torchscript.calls import Call
from redisai_py.errors import BackendError
from redisai_py.model import Script

__all__ = ["Function", "KnownScript", "KnownScripts", "pool_of"]

_GPU = re.compile(r"GPU(?::(\d+))?\Z", re.IGNORECASE)
_MOST_CALLS = 256

_MOST_SCRIPTS = 256
_MOST_FUNCTIONS = 256
_MOST_SOURCE = 64 * 1024
_MOST_WORDS = 1024
_LONG_S = 0.002


class Function:
    """pure: it calls neither Redis nor a model.   ran_s: seconds of a run, lately."""

    __slots__ = ("pure", "ran_s", "too_large")

    def __init__(self) -> None:
        self.pure = False
        self.ran_s = _LONG_S
        self.too_large = False
        """Outputs did not fit into the shared memory."""

    @property
    def short(self) -> bool:
        """Whether its runs have no effects and end soon."""
        return self.pure and self.ran_s < _LONG_S and not self.too_large

    def ran(self, seconds: float) -> None:
        """A run has ended well."""
        self.ran_s += (seconds - self.ran_s) * (0.5 if seconds < self.ran_s else 0.25)


class KnownScript:
    """A script and its functions. queue, pool: see `jobs.Job`. Raises: BackendError: no such device."""

    __slots__ = ("_calls", "functions", "pool", "queue", "script")

    def __init__(self, script: Script) -> None:
        self.script = script
        self.queue = script.device.text.upper()
        self.pool = pool_of(script.device.text)
        self.functions: BoundedCache[str, Function] = BoundedCache(_MOST_FUNCTIONS)
        self._calls: BoundedCache[tuple[str, tuple[bytes, ...], tuple[bytes, ...], int], Call] = BoundedCache(
            _MOST_CALLS
        )

    def function(self, name: str) -> Function:
        """What is known of a function."""
        return self.functions.get(name) or self.functions.keep(name, Function())

    def call(self, name: str, keys: tuple[bytes, ...], args: tuple[bytes, ...], outputs: int) -> Call:
        """All of a call but its inputs."""
        words = (name, keys, args, outputs)
        found = self._calls.get(words)
        if found is not None:
            return found
        script = self.script
        call = Call(script.identity, name, name in script.entry_points, keys, args, outputs)
        if sum(map(len, keys)) + sum(map(len, args)) > _MOST_WORDS:
            return call
        return self._calls.keep(words, call)


class KnownScripts:
    """Scripts by identity; a bounded number of them, and none with a long text."""

    def __init__(self) -> None:
        self._scripts: BoundedCache[str, KnownScript] = BoundedCache(_MOST_SCRIPTS)
        self.get = self._scripts.get

    def of(self, script: Script) -> KnownScript:
        """What is known of a script, which is known from now on."""
        known = self._scripts.get(script.identity)
        if known is not None:
            return known
        known = KnownScript(script)
        return known if len(script.source) > _MOST_SOURCE else self._scripts.keep(script.identity, known)


def pool_of(device: str) -> str:
    """The kind of worker for a device string: `CPU`, or `GPU:n`.

    Raises: BackendError.   Source: AI.SCRIPTSTORE, whose grammar differs from that of models.
    """
    if device.upper().startswith("CPU"):
        return "CPU"
    match = _GPU.match(device)
    if match is None:
        raise BackendError("ERR unsupported device")
    return f"GPU:{int(match[1] or 0)}"
