"""The builder of DAG commands: methods append operations, `call()` returns the command. Pure."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self

from redisai_py.client import calls
from redisai_py.client.call import Call, Key, Keys, is_pure, listify, text

__all__ = ["DagBuilder"]

_DEPRECATED_MODE = (
    "Creating Dag without any of LOAD, PERSIST and ROUTING arguments"
    "is allowed only in deprecated AI.DAGRUN or AI.DAGRUN_RO commands"
)
_NOT_IN_DEPRECATED_MODE = (
    "You are using deprecated version of DAG, that does not supports {}."
    "The new version requires giving at least one of LOAD, PERSIST and ROUTING"
    "arguments when constructing the Dag"
)


class DagBuilder:
    """Operations on tensors with local names, sent as one command.

    load, persist: keys to read from and write to Redis.   routing: a key that selects the shard.   timeout: ms in the
    queue.   ex, keepttl: set an expiry in seconds on the persisted keys, or keep theirs.   ifunchanged: commit only if
    the loaded keys are unchanged since they were read. These three need redisai_py's server.

    executor: sends the call.   Without load, persist and routing the command is the deprecated AI.DAGRUN, which accepts
    only `modelrun`.
    """

    def __init__(
        self,
        load: Keys | None = None,
        persist: Keys | None = None,
        routing: Key | None = None,
        timeout: int | None = None,
        executor: Callable[[Call[Any]], Any] | None = None,
        readonly: bool = False,
        ex: int | None = None,
        keepttl: bool = False,
        ifunchanged: bool = False,
    ) -> None:
        if readonly and persist:
            raise RuntimeError("READONLY requests cannot write (duh!) and should not have PERSISTing values")
        self.deprecatedDagrunMode = load is None and persist is None and routing is None
        self.executor: Any = executor
        self.readonly = readonly
        if self.deprecatedDagrunMode:
            warnings.warn(_DEPRECATED_MODE, DeprecationWarning, stacklevel=3)
        name = "AI.DAGRUN" if self.deprecatedDagrunMode else "AI.DAGEXECUTE"
        self.commands: list[Any] = [name + "_RO" if readonly else name]
        for keyword, keys in (("LOAD", load), ("PERSIST", persist)):
            if keys is not None:
                self.commands += [keyword, len(listify(keys)), *listify(keys)]
        for keyword, value in (("ROUTING", routing), ("TIMEOUT", timeout), ("EX", ex)):
            if value is not None:
                self.commands += [keyword, value]
        self.commands += ["KEEPTTL"] * keepttl + ["IFUNCHANGED"] * ifunchanged + ["|>"]
        self._decoders: list[Callable[[Any], Any]] = []
        self._repeatable = is_pure(load or (), persist or ())

    def _append(self, call: Call[Any]) -> Self:
        self.commands += [*call.argv, "|>"]
        self._decoders.append(call.decode)
        return self

    def tensorset(self, key: Key, tensor: Any, shape: Sequence[int] | None = None, dtype: Any = None) -> Self:
        """Set a local tensor; arguments as for `Client.tensorset`."""
        return self._append(calls.tensorset(key, tensor, shape, dtype))

    def tensorget(
        self, key: Key, as_numpy: bool = True, as_numpy_mutable: bool = False, meta_only: bool = False
    ) -> Self:
        """Return a local tensor, as `Client.tensorget` would; 'NA' if it was never computed."""
        return self._append(calls.tensorget(key, as_numpy, as_numpy_mutable, meta_only))

    def modelexecute(self, key: Key, inputs: Keys, outputs: Keys, cache: str | None = None) -> Self:
        """Run a model. Raises: RuntimeError in deprecated mode.   cache: see `Client.modelexecute`."""
        if self.deprecatedDagrunMode:
            raise RuntimeError(_NOT_IN_DEPRECATED_MODE.format("MODELEXECUTE"))
        return self._append(calls.modelexecute(key, inputs, outputs, cache=cache))

    def modelrun(self, key: Key, inputs: Keys, outputs: Keys) -> Self:
        """Run a model; deprecated, but the only way in deprecated mode."""
        call = calls.modelrun(key, inputs, outputs)  # which warns
        return self._append(call) if self.deprecatedDagrunMode else self.modelexecute(key, inputs, outputs)

    def scriptexecute(
        self,
        key: Key,
        function: str,
        keys: Keys | None = None,
        inputs: Keys | None = None,
        args: Any = None,
        outputs: Keys | None = None,
    ) -> Self:
        """Call a function of a script. Raises: RuntimeError if read-only or in deprecated mode."""
        if self.readonly:
            raise RuntimeError("AI.SCRIPTEXECUTE cannot be used in readonly mode")
        if self.deprecatedDagrunMode:
            raise RuntimeError(_NOT_IN_DEPRECATED_MODE.format("SCRIPTEXECUTE"))
        self._append(calls.scriptexecute(key, function, keys, inputs, args, outputs))
        self._repeatable = False  # a script may write anything
        return self

    def call(self) -> Call[Any]:
        """The whole command.

        Its result is a list with one element per operation: 'OK', the result of a tensorget, 'NA' for an operation that
        did not run or a missing tensor, or an error as an exception. If a key could not be persisted, one more element
        holds that error. If the timeout passed, the result is 'TIMEDOUT'.
        """
        return Call(self.commands[:-1], self._decode, repeatable=self._repeatable)

    def _decode(self, reply: Any) -> Any:
        if not isinstance(reply, list):
            return text(reply)
        decoders = [*self._decoders, *[text] * (len(reply) - len(self._decoders))]
        return [_decode_one(decode, item) for decode, item in zip(decoders, reply, strict=True)]


def _decode_one(decode: Callable[[Any], Any], item: Any) -> Any:
    if isinstance(item, Exception):
        return item
    return "NA" if item == b"NA" else decode(item)
