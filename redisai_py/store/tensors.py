"""Tensors in Redis: read as snapshots, written all or none, and never over a key that holds something else."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from redisai_py.bounded import BoundedCache
from redisai_py.errors import (
    TENSOR_KEY_EMPTY,
    Conflict,
    MissingKey,
    NoScript,
    RedisAIError,
    UpstreamError,
    UpstreamLost,
    WrongFraming,
)
from redisai_py.store import codec
from redisai_py.store.kinds import no_string, tensor_or_absent, watch_tensors
from redisai_py.store.link import Caller, Link, commit, executed, last_reply, transaction
from redisai_py.store.lua import SET_TENSORS, SET_TENSORS_SHA
from redisai_py.store.programs import MODEL_ID_FIELDS
from redisai_py.store.staging import discard, rename
from redisai_py.tensor import Buffer, Tensor

__all__ = ["LARGE_VALUE", "TensorStore", "Write", "expiry_options"]

LARGE_VALUE = 64 * 1024
"""Values of at least this many bytes use exclusive connections."""
_COMMIT_ATTEMPTS = 16


class TensorStore:
    """The tensors of one identity. All methods are coroutines on the event loop's thread."""

    _link: Link
    _large_keys: BoundedCache[bytes, None]
    """Keys that had large values: a hint, which may be wrong."""

    async def tensor(self, key: bytes) -> Tensor:
        """The tensor under a key. Raises MissingKey, WrongType."""
        return (await self.tensors((key,)))[0]

    async def tensors(self, keys: Sequence[bytes]) -> list[Tensor]:
        """The tensors under `keys`, as a consistent snapshot (MGET). Raises for the first missing or wrong key."""
        if not keys:
            return []
        if self.expects_large(keys):
            values = await self.large_values(keys)
        else:
            (pending,) = self._link.pipeline([(b"MGET", *keys)])
            values = await pending
        return await self.decode_all(keys, values)

    async def decode_all(self, keys: Sequence[bytes], values: Sequence[Buffer | None]) -> list[Tensor]:
        """Tensors from the reply of an MGET; a nil is followed by TYPE, so that a hash gives WRONGTYPE, not "empty"."""
        tensors = []
        for key, value in zip(keys, values, strict=True):
            if value is None:
                raise await no_string(self._link, key)
            if len(value) >= LARGE_VALUE:
                self._large_keys.keep(key, None)
            tensors.append(codec.decode_tensor(value))
        return tensors

    async def large_tensor(self, key: bytes) -> Tensor:
        """A tensor whose value is probably large. Raises MissingKey, WrongType."""
        self._large_keys.keep(key, None)
        async with self._link.dedicated() as connection:
            value = await connection.call(b"GET", key)
        if value is None:
            raise MissingKey(TENSOR_KEY_EMPTY)
        return codec.decode_tensor(value)

    async def check_tensor_or_absent(self, key: bytes) -> bool:
        """Whether the key holds a tensor. Raises WrongType if it holds something else."""
        return await tensor_or_absent(self._link, key)

    def model_and_tensors(
        self, key: bytes, names: Sequence[bytes], fields: Sequence[bytes] = MODEL_ID_FIELDS
    ) -> tuple[Awaitable[Any], Callable[[], Awaitable[Any]]]:
        """Read fields of a model or script, and tensors, in one round trip: the reply to HMGET of `fields`, and a
        function that returns the reply to MGET. Probably large values are requested only when that function is called.
        """
        of_model = (b"HMGET", key, *fields)
        if not names or self.expects_large(names):
            (ids,) = self._link.pipeline([of_model])
            return ids, partial(self.large_values, names)
        ids, values = self._link.pipeline([of_model, (b"MGET", *names)])
        return ids, lambda: values

    def expects_large(self, keys: Sequence[bytes]) -> bool:
        """Whether a value under one of these keys was large when last seen: a hint how to fetch them."""
        return any(key in self._large_keys for key in keys)

    async def large_values(self, names: Sequence[bytes]) -> Any:
        if not names:
            return []
        async with self._link.dedicated() as connection:
            return await connection.call(b"MGET", *names)

    async def put_outputs(
        self,
        items: Iterable[tuple[bytes, Tensor | None]],
        *,
        ex_seconds: int | None = None,
        keepttl: bool = False,
        watching: Caller | None = None,
    ) -> None:
        """`put_tensors`; None stands for an output that is not a tensor: its key is deleted, so that no old value is
        mistaken for the answer. That takes another round trip, after the tensors are written.
        """
        outputs = dict(items)
        absent = [key for key, output in outputs.items() if output is None]
        for key in absent:
            await self.check_tensor_or_absent(key)
        tensors = [(key, output) for key, output in outputs.items() if output is not None]
        await self.put_tensors(tensors, ex_seconds=ex_seconds, keepttl=keepttl, watching=watching)
        if absent:
            self._link.forget(absent)
            (pending,) = self._link.pipeline([(b"DEL", *absent)])
            await pending

    async def put_tensors(
        self,
        items: Sequence[tuple[bytes, Tensor]],
        *,
        ex_seconds: int | None = None,
        keepttl: bool = False,
        watching: Caller | None = None,
    ) -> None:
        """Write all tensors or none; of two for the same key, the last wins.

        Args:   ex_seconds, keepttl: expiry of the keys; without either it is cleared, as by a plain SET.
                watching: a connection with keys under WATCH: write through it, and only if those keys are unchanged.
        Raises: WrongType if a key holds something else, Conflict if a watched key was changed: then nothing is written.
                Atomic if Redis allows scripts, and for large values (WATCH). Otherwise there is a window of one round
                trip between the check and the write.
        """
        tensors = dict(items)
        if not tensors:
            return
        write = Write(tensors, expiry_options(ex_seconds, keepttl))
        self._link.forget(tensors)
        if watching is not None:
            await self._put_if_unchanged(write, watching)
        elif write.size_bytes >= LARGE_VALUE:
            await self._put_watched(write)
        else:
            await self._put_shared(write)
        if write.size_bytes < LARGE_VALUE:
            self._link.wrote(zip(tensors, write.values(), strict=True))

    async def _put_shared(self, write: Write) -> None:
        if self._link.scripting:
            await self._put_scripted(write)
        else:
            allowed = self._link.pipeline(transaction())  # see `rehearse`
            for key in write.tensors:
                await self.check_tensor_or_absent(key)
            await last_reply(allowed)
            await executed(self._link.pipeline(transaction(write.joined())))

    async def _put_scripted(self, write: Write) -> None:
        command = (b"EVALSHA", SET_TENSORS_SHA, *write.script_words())
        try:
            (pending,) = self._link.pipeline([command])
            await pending
        except NoScript:
            await last_reply(self._link.pipeline([(b"SCRIPT", b"LOAD", SET_TENSORS), command]))

    async def _put_watched(self, write: Write) -> None:
        for key in write.tensors:
            self._large_keys.keep(key, None)
        try:
            async with self._link.dedicated() as connection:
                for _ in range(_COMMIT_ATTEMPTS):
                    if await self._check_and_set(write, connection):
                        return
        except UpstreamError as error:
            raise await self.too_large(error, *write.largest) from error
        raise UpstreamError("ERR the keys changed repeatedly during the write; nothing was written")

    async def too_large(self, error: UpstreamError, size_bytes: int, value_bytes: int) -> UpstreamError:
        """The error for a failed large write: if its size was the reason, one that names both sizes.

        Args: size_bytes: of the tensor.   value_bytes: of the string that holds it.
        """
        # Redis closes such a connection, often before its error can be read. So ask for the limit.
        if not isinstance(error, UpstreamLost | WrongFraming):
            return error
        with contextlib.suppress(UpstreamError, ValueError):  # the user may lack CONFIG
            (pending,) = self._link.pipeline([(b"CONFIG", b"GET", b"proto-max-bulk-len")])
            reply = await pending
            limit = int(next(iter(reply.values())) if isinstance(reply, dict) else reply[1])
            if value_bytes > limit:
                return UpstreamError(
                    f"ERR a tensor of {size_bytes} bytes is more than Redis takes in one string "
                    f"(proto-max-bulk-len: {limit})"
                )
        return error

    async def _put_if_unchanged(self, write: Write, watching: Caller) -> None:
        if self._link.scripting and write.size_bytes < LARGE_VALUE:
            # EVAL, not EVALSHA: if Redis has lost the script, it cannot be sent again, because EXEC ends the WATCH.
            unchanged = await commit(watching, [(b"EVAL", SET_TENSORS, *write.script_words())]) is not None
        else:
            unchanged = await self._check_and_set(write, watching)
        if not unchanged:
            raise Conflict("CONFLICT a key that the command loaded was changed before its commit; nothing was written")

    async def _check_and_set(self, write: Write, connection: Caller) -> bool:
        """WATCH and check the keys, then write them in one transaction; False if a watched key was changed."""
        if not await watch_tensors(connection, write.tensors):
            return False
        return await commit(connection, write.commands()) is not None

    async def publish_tensor(self, connection: Caller, staging: bytes, key: bytes) -> None:
        """Give a staged tensor its final name, if the key is free for a tensor. Raises WrongType, UpstreamError: then
        the staged key is deleted.
        """
        self._large_keys.keep(key, None)
        self._link.forget((key,))
        try:
            while not (await watch_tensors(connection, (key,)) and await rename(connection, staging, key)):
                pass
        except RedisAIError:
            await discard(self._link, staging)
            raise

    async def check_large_write(self, connection: Caller, staging: bytes, key: bytes) -> None:
        """Raise, before data is sent, if the key holds something other than a tensor, or Redis refuses the names."""
        await connection.call(b"DEL", staging)
        while not await watch_tensors(connection, (key,)):
            pass
        await connection.call(b"UNWATCH")


class Write:
    """Tensors to be written together, in the forms that the different ways of writing need."""

    def __init__(self, tensors: dict[bytes, Tensor], expiry: tuple[bytes, ...]) -> None:
        self.tensors = tensors
        self._expiry = expiry
        self._headers = [codec.encode_header(tensor) for tensor in tensors.values()]
        self._values: list[bytes] = []
        self.size_bytes = sum(len(tensor.data) for tensor in tensors.values())

    @property
    def largest(self) -> tuple[int, int]:
        """Bytes of the largest tensor, and of the string that holds it."""
        items = zip(self._headers, self.tensors.values(), strict=True)
        return max((len(tensor.data), len(header) + len(tensor.data)) for header, tensor in items)

    def values(self) -> list[bytes]:
        """The strings, in the order of the tensors; joined on first use."""
        if not self._values:
            items = zip(self._headers, self.tensors.values(), strict=True)
            self._values = [b"".join((header, tensor.data)) for header, tensor in items]
        return self._values

    def script_words(self) -> tuple[bytes, ...]:
        """The words after the script in EVAL: the number of keys, the keys, their values, the expiry."""
        return (b"%d" % len(self.tensors), *self.tensors, *self.values(), *self._expiry)

    def commands(self) -> list[tuple[Any, ...]]:
        """Plain SETs, the values unjoined."""
        items = zip(self._headers, self.tensors.items(), strict=True)
        return [(b"SET", key, (header, tensor.data), *self._expiry) for header, (key, tensor) in items]

    def joined(self) -> list[tuple[Any, ...]]:
        """Plain SETs, for a stream that needs whole words."""
        return [(b"SET", key, v, *self._expiry) for key, v in zip(self.tensors, self.values(), strict=True)]


def expiry_options(ex_seconds: int | None, keepttl: bool) -> tuple[bytes, ...]:
    """The options of SET for an expiry."""
    if ex_seconds is not None:
        return (b"EX", b"%d" % ex_seconds)
    return (b"KEEPTTL",) if keepttl else ()
