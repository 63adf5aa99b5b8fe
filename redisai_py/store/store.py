"""Tensors, models and scripts in Redis, for one identity. The only place that knows which Redis commands they need.

Redis is reached through an injected `Link`: a shared pipelined stream for what is small, dedicated connections for
large values and for WATCH. Every method raises the errors of the wire: MissingKey, WrongType, UpstreamError with
Redis's own text. It knows nothing of clients, frameworks or replies.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from redisai_py.blobs import FROM_FILE, Blob, Gathering, ModelFile
from redisai_py.bounded import BoundedCache
from redisai_py.errors import (
    MODEL_KEY_EMPTY,
    SCRIPT_KEY_EMPTY,
    TENSOR_KEY_EMPTY,
    Conflict,
    MissingKey,
    NoScript,
    NoSuchKey,
    RedisAIError,
    UpstreamError,
    UpstreamLost,
    WrongFraming,
    WrongType,
)
from redisai_py.model import Kind, Model, Script
from redisai_py.store import codec
from redisai_py.store.kinds import hash_fields, no_string, tensor_or_absent, watch_kind, watch_tensors
from redisai_py.store.link import Caller, Link, commit, executed, last_reply, transaction
from redisai_py.store.lua import DELETE_KIND, SET_TENSORS, SET_TENSORS_SHA
from redisai_py.tensor import Buffer, Tensor

__all__ = ["LARGE_VALUE", "MODEL_ID_FIELDS", "Store", "expiry_options"]

LARGE_VALUE = 64 * 1024
"""Values of this many bytes and more travel on dedicated connections."""
MODEL_ID_FIELDS = (b"kind", b"id")
"""What tells which model a key holds."""
_COMMIT_ATTEMPTS = 16
_STAGING_TTL_S = 3600
_SCAN_COUNT = 500
_CHUNKS_AT_ONCE = 512
_FORGET_EVERY_S = 0.005
_STAGED = re.compile(rb":staging:[0-9a-f]{32}\Z")
_STAGED_SUFFIX = len(":staging:") + 32
_STAGED_LOST = "ERR Redis dropped what was to be stored before it was published; nothing was stored"
"""Staged keys expire, so that Redis may evict them; and others may flush the database."""


class Store:
    """Keys of one identity. All methods are coroutines on the event loop's thread."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._large_keys: BoundedCache[bytes, None] = BoundedCache(4096)  # seen with large values: a hint, no truth

    # -- tensors -----------------------------------------------------------------------------------------------------

    async def tensor(self, key: bytes) -> Tensor:
        """The tensor under a key. Raises MissingKey, WrongType."""
        return (await self.tensors((key,)))[0]

    async def tensors(self, keys: Sequence[bytes]) -> list[Tensor]:
        """The tensors under `keys`, one consistent snapshot (MGET). Raises for the first key that is missing or
        wrong.
        """
        if not keys:
            return []
        if self.expects_large(keys):
            values = await self.large_values(keys)
        else:
            (pending,) = self._link.pipeline([(b"MGET", *keys)])
            values = await pending
        return await self.decode_all(keys, values)

    async def decode_all(self, keys: Sequence[bytes], values: Sequence[Buffer | None]) -> list[Tensor]:
        """Tensors from the reply of an MGET; a nil is followed by TYPE, so that a hash answers WRONGTYPE, not
        "empty".
        """
        tensors = []
        for key, value in zip(keys, values, strict=True):
            if value is None:
                raise await no_string(self._link, key)
            if len(value) >= LARGE_VALUE:
                self._note_large(key)
            tensors.append(codec.decode_tensor(value))
        return tensors

    async def large_tensor(self, key: bytes) -> Tensor:
        """A tensor whose value is known to be large. Raises MissingKey, WrongType."""
        self._note_large(key)
        async with self._link.dedicated() as connection:
            value = await connection.call(b"GET", key)
        if value is None:
            raise MissingKey(TENSOR_KEY_EMPTY)
        return codec.decode_tensor(value)

    async def check_tensor_or_absent(self, key: bytes) -> bool:
        """Whether a tensor is there. Raises WrongType if something else is."""
        return await tensor_or_absent(self._link, key)

    def model_and_tensors(
        self, key: bytes, names: Sequence[bytes]
    ) -> tuple[Awaitable[Any], Callable[[], Awaitable[Any]]]:
        """Ask for a model's id and for tensors in one round trip: the reply to HMGET of MODEL_ID_FIELDS, and a function
        that gives the reply to MGET. What is expected to be large is asked for only when that function is called.
        """
        fields = (b"HMGET", key, *MODEL_ID_FIELDS)
        if self.expects_large(names):
            (ids,) = self._link.pipeline([fields])
            return ids, partial(self.large_values, names)
        if not names:
            (ids,) = self._link.pipeline([fields])
            return ids, partial(self.large_values, names)
        ids, values = self._link.pipeline([fields, (b"MGET", *names)])
        return ids, lambda: values

    def expects_large(self, keys: Sequence[bytes]) -> bool:
        """Whether a value under one of these keys was large when last seen: a hint which way to fetch them."""
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
        """`put_tensors`, where None stands for an output that is no tensor: its key is deleted, so that nobody takes an
        old value for the answer. That is a round trip of its own, after the tensors are written.
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
        """Write all tensors or none; the last of two under one key wins.

        Args:   ex_seconds, keepttl: expiry of the keys; without either it is cleared, as a plain SET does.
                watching: a connection with keys under WATCH: write only if those are unchanged, and only with it.
        Raises: WrongType if a key holds something else, Conflict if a watched key was changed: then nothing is written.
                Atomic where Redis allows scripts, and for large values (WATCH); else there is a window of one round
                trip between the check and the write.
        """
        tensors = dict(items)
        if not tensors:
            return
        write = _Write(tensors, expiry_options(ex_seconds, keepttl))
        self._link.forget(tensors)
        if watching is not None:
            await self._put_if_unchanged(write, watching)
        elif write.size_bytes >= LARGE_VALUE:
            await self._put_watched(write)
        else:
            await self._put_shared(write)
        if write.size_bytes < LARGE_VALUE:
            self._link.wrote(zip(tensors, write.values(), strict=True))

    async def _put_shared(self, write: _Write) -> None:
        if self._link.scripting:
            await self._put_scripted(write)
        else:
            allowed = self._link.pipeline(transaction())  # see `rehearse`
            for key in write.tensors:
                await self.check_tensor_or_absent(key)
            await last_reply(allowed)
            await executed(self._link.pipeline(transaction(write.joined())))

    async def _put_scripted(self, write: _Write) -> None:
        command = (b"EVALSHA", SET_TENSORS_SHA, *write.script_words())
        try:
            (pending,) = self._link.pipeline([command])
            await pending
        except NoScript:
            await last_reply(self._link.pipeline([(b"SCRIPT", b"LOAD", SET_TENSORS), command]))

    async def _put_watched(self, write: _Write) -> None:
        for key in write.tensors:
            self._note_large(key)
        try:
            async with self._link.dedicated() as connection:
                for _ in range(_COMMIT_ATTEMPTS):
                    if await self._check_and_set(write, connection):
                        return
        except UpstreamError as error:
            raise await self.too_large(error, *write.largest) from error
        raise UpstreamError("ERR the keys kept changing while they were written; nothing was written")

    async def too_large(self, error: UpstreamError, size_bytes: int, value_bytes: int) -> UpstreamError:
        """The error for a large write that failed: if its size was the reason, one that names both sizes.

        Args: size_bytes: of the tensor.   value_bytes: of the string that holds it.
        """
        # Redis closes such a connection, often before its words about it can be read: so the limit is asked for.
        if not isinstance(error, UpstreamLost | WrongFraming):
            return error
        with contextlib.suppress(UpstreamError, ValueError):  # CONFIG may be withheld
            (pending,) = self._link.pipeline([(b"CONFIG", b"GET", b"proto-max-bulk-len")])
            reply = await pending
            limit = int(next(iter(reply.values())) if isinstance(reply, dict) else reply[1])
            if value_bytes > limit:
                return UpstreamError(
                    f"ERR a tensor of {size_bytes} bytes is more than Redis takes in one string "
                    f"(proto-max-bulk-len: {limit})"
                )
        return error

    async def _put_if_unchanged(self, write: _Write, watching: Caller) -> None:
        if self._link.scripting and write.size_bytes < LARGE_VALUE:
            # EVAL, not EVALSHA: a script that Redis forgot could not be sent again, since EXEC ends the WATCH.
            unchanged = await commit(watching, [(b"EVAL", SET_TENSORS, *write.script_words())]) is not None
        else:
            unchanged = await self._check_and_set(write, watching)
        if not unchanged:
            raise Conflict("CONFLICT a key that the command loaded was changed before its commit; nothing was written")

    async def _check_and_set(self, write: _Write, connection: Caller) -> bool:
        """WATCH and check the keys, then write them in one transaction; False if a watched key was changed."""
        if not await watch_tensors(connection, write.tensors):
            return False
        return await commit(connection, write.commands()) is not None

    def _note_large(self, key: bytes) -> None:
        self._large_keys.keep(key, None)

    # -- models and scripts ------------------------------------------------------------------------------------------

    async def model(self, key: bytes) -> Model:
        """A model's description, without its blob. Raises MissingKey, WrongType."""
        return (await self._model(key))[0]

    async def _model(self, key: bytes) -> tuple[Model, int]:
        (pending,) = self._link.pipeline([(b"HMGET", key, *codec.MODEL_META_FIELDS)])
        return codec.decode_model(await hash_fields(self._link, key, codec.MODEL_META_FIELDS, pending, MODEL_KEY_EMPTY))

    async def model_id(self, key: bytes, pending: Awaitable[Any]) -> str:
        """The id of a model, in the coming reply of an HMGET of MODEL_ID_FIELDS. Raises MissingKey, WrongType."""
        kind, model_id = await hash_fields(self._link, key, MODEL_ID_FIELDS, pending, MODEL_KEY_EMPTY)
        if kind != Kind.MODEL.value:
            raise WrongType
        return codec.decode_id(model_id)

    async def model_with_blob(self, key: bytes) -> Model:
        """A model whole: description and blob are of one store. Raises MissingKey, WrongType."""
        async with self._link.dedicated() as connection:
            while True:
                model, chunks = await self._model(key)
                blob = await self._blob(connection, key, model.id.encode(), chunks)
                if blob is not None:
                    return replace(model, blob=blob)

    @staticmethod
    async def _blob(connection: Caller, key: bytes, model_id: bytes, chunks: int) -> Blob | None:
        """A model's bytes; None if the key holds another model by now.

        The count was read from the key, and anybody may have written it: pieces are asked for so many at a time, and
        the first that is missing ends it. Raises: WrongType: a piece is missing.
        """
        gathering, loop = Gathering(), asyncio.get_running_loop()
        for start in range(0, chunks, _CHUNKS_AT_ONCE):
            names = [b"blob:%d" % i for i in range(start, min(start + _CHUNKS_AT_ONCE, chunks))]
            values = await connection.call(b"HMGET", key, b"id", *names)
            if values[0] != model_id:
                return None
            if None in values:
                raise WrongType  # another look would find the same
            pieces = values[1:]
            del values  # the pieces go one by one as they are gathered
            if sum(map(len, pieces)) < FROM_FILE:
                gathering.add(pieces)
            else:
                await loop.run_in_executor(None, gathering.add, pieces)
            del pieces
        return gathering.blob()

    async def script(self, key: bytes) -> Script:
        """A script. Raises MissingKey, WrongType."""
        (pending,) = self._link.pipeline([(b"HMGET", key, *codec.SCRIPT_FIELDS)])
        return await self.decode_script(key, pending)

    async def decode_script(self, key: bytes, pending: Awaitable[Any]) -> Script:
        """The script in the coming reply of an HMGET of SCRIPT_FIELDS. Raises MissingKey, WrongType."""
        return codec.decode_script(await hash_fields(self._link, key, codec.SCRIPT_FIELDS, pending, SCRIPT_KEY_EMPTY))

    def staging_key(self, key: bytes, unique: bytes) -> bytes:
        """A name to write under before publishing: it begins with the final name, so that ACL patterns cover it, and
        hashes to the same slot."""
        return b"%b:staging:%b" % (key, unique) + (b"" if b"{" in key else b"{%b}" % key)

    async def publish_tensor(self, connection: Caller, staging: bytes, key: bytes) -> None:
        """Give a staged tensor its final name if that is free for one. Raises WrongType, UpstreamError: then the staged
        one is gone.
        """
        self._note_large(key)
        self._link.forget((key,))
        try:
            while not (await watch_tensors(connection, (key,)) and await self._rename(connection, staging, key)):
                pass
        except RedisAIError:
            await self._drop(staging)
            raise

    async def _rename(self, connection: Caller, staging: bytes, key: bytes) -> bool:
        """Publish what is staged; False if a watched key was changed."""
        try:
            return await commit(connection, [(b"PERSIST", staging), (b"RENAME", staging, key)]) is not None
        except NoSuchKey as error:
            raise UpstreamError(_STAGED_LOST) from error

    async def _drop(self, staging: bytes) -> None:
        """Delete what is staged, by the shared stream: the connection that staged it may be lost. It expires anyhow."""
        with contextlib.suppress(UpstreamError):
            await last_reply(self._link.pipeline([(b"DEL", staging)]))

    async def check_large_write(self, connection: Caller, staging: bytes, key: bytes) -> None:
        """Raise, before any data is sent, if the key holds no tensor or Redis refuses the two names."""
        await connection.call(b"DEL", staging)
        while not await watch_tensors(connection, (key,)):
            pass
        await connection.call(b"UNWATCH")

    async def check_store(self, key: bytes, new_id: str) -> None:
        """Raise, before a framework sees what is to be stored, if Redis refuses this identity to store it.

        A rehearsal under the staging name, which leaves nothing. The type of what the key holds is not looked at.
        """
        staging = self.staging_key(key, new_id.encode())
        rehearsal = transaction([(b"HSET", staging, b"kind", b""), (b"DEL", staging)])
        await last_reply(self._link.pipeline([(b"EXISTS", key), *rehearsal]))

    async def put_model(self, key: bytes, model: Model, chunk_size: int) -> None:
        """Store a model, staged chunk by chunk, published by one RENAME: readers see the old or the new one, whole.

        Args:   model: identified.
        Raises: WrongType if the key holds something else; then, and after any other failure, nothing is left behind.
        """
        blob = memoryview(model.blob)
        chunk_size = max(chunk_size, -(-len(blob) // codec.MAX_CHUNKS))
        chunks = [blob[i : i + chunk_size] for i in range(0, len(blob), chunk_size)] or [blob]
        fields = codec.encode_model(model, model.sha256, len(chunks))
        pieces: list[list[Buffer]] = [[b"blob:%d" % i, chunk] for i, chunk in enumerate(chunks)]
        with _forgotten_when_sent(model.blob):
            await self._publish(key, Kind.MODEL, model.id, fields, pieces)

    async def put_script(self, key: bytes, script: Script) -> None:
        """Store a script, as `put_model` does."""
        await self._publish(key, Kind.SCRIPT, script.id, codec.encode_script(script), [])

    async def _publish(
        self, key: bytes, kind: Kind, new_id: str, fields: dict[bytes, bytes], pieces: list[list[Buffer]]
    ) -> None:
        staging = self.staging_key(key, new_id.encode())
        flat: list[Buffer] = [item for field in fields.items() for item in field]
        async with self._link.dedicated() as connection:
            try:
                await watch_kind(connection, key, kind)
                for piece in (flat, *pieces):
                    expire = (b"EXPIRE", staging, b"%d" % _STAGING_TTL_S)  # sent at once: the server may end here
                    await last_reply([connection.call(b"HSET", staging, *piece), connection.call(*expire)])
                while not await self._rename_whole(connection, staging, key, kind):
                    await watch_kind(connection, key, kind)
            except RedisAIError:
                await self._drop(staging)
                raise

    async def _rename_whole(self, connection: Caller, staging: bytes, key: bytes, kind: Kind) -> bool:
        """`_rename` of what was staged in pieces, of which Redis may have dropped the first."""
        watch = connection.call(b"WATCH", staging)
        found = connection.call(b"HGET", staging, b"kind")
        await watch
        if await found != kind.value:
            raise UpstreamError(_STAGED_LOST)
        return await self._rename(connection, staging, key)

    async def delete(self, key: bytes, kind: Kind, missing: str) -> None:
        """Delete a model or script. Raises MissingKey with the text `missing`, WrongType."""
        if self._link.scripting:
            # Not a transaction: Redis takes none while it is out of memory, and deleting is what helps then.
            (pending,) = self._link.pipeline([(b"EVAL", DELETE_KIND, b"1", key, kind.value)])
            deleted = await pending
        else:
            deleted = await self._delete_watched(key, kind)
        if not deleted:
            raise MissingKey(missing)

    async def _delete_watched(self, key: bytes, kind: Kind) -> int:
        async with self._link.dedicated() as connection:
            while True:
                await watch_kind(connection, key, kind)
                deleted = await commit(connection, [(b"DEL", key)])
                if deleted is not None:
                    return int(deleted[0])

    async def scan(self, kind: Kind) -> AsyncIterator[tuple[bytes, bytes]]:
        """(key, tag) of every model or script of the database that this identity may read; O(keys), in steps."""
        cursor = b"0"
        seen: set[bytes] = set()
        while True:
            (page,) = self._link.pipeline([(b"SCAN", cursor, b"COUNT", b"%d" % _SCAN_COUNT, b"TYPE", b"hash")])
            cursor, keys = await page
            found = self._link.pipeline([(b"HMGET", key, b"kind", b"tag") for key in keys])
            for key, pending in zip(keys, found, strict=True):
                try:
                    values = await pending
                except (UpstreamError, WrongType):
                    continue  # not ours to read, or gone and replaced by another type meanwhile
                if values[0] == kind.value and key not in seen and not _is_staged(key):
                    seen.add(key)
                    yield key, values[1] or b""
            if cursor == b"0":
                return


@contextlib.contextmanager
def _forgotten_when_sent(blob: Blob) -> Iterator[None]:
    """What was sent of a file is not kept in memory while the rest is sent."""
    if not isinstance(blob, ModelFile):
        yield
        return
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []

    def forget() -> None:
        blob.forget_pages()
        timers[:] = [loop.call_later(_FORGET_EVERY_S, forget)]

    forget()
    try:
        yield
    finally:
        timers[0].cancel()
        blob.forget_pages()


def _is_staged(key: bytes) -> bool:
    """Whether `Store.staging_key` made this name. Keys may be very long: no search through them."""
    if key.endswith(b"}"):
        size = (len(key) - _STAGED_SUFFIX - 2) // 2  # of the final name, which is in it twice
        if size < 0 or key[size + _STAGED_SUFFIX :] != b"{%b}" % key[:size]:
            return False
        key = key[: size + _STAGED_SUFFIX]
    return _STAGED.search(key, max(0, len(key) - _STAGED_SUFFIX)) is not None


class _Write:
    """Tensors to be written together, in the forms that the ways of writing them need."""

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
        """The strings, in the order of the tensors; joined when first asked for."""
        if not self._values:
            items = zip(self._headers, self.tensors.values(), strict=True)
            self._values = [b"".join((header, tensor.data)) for header, tensor in items]
        return self._values

    def script_words(self) -> tuple[bytes, ...]:
        """What follows the script in EVAL: the number of keys, the keys, their values, the expiry."""
        return (b"%d" % len(self.tensors), *self.tensors, *self.values(), *self._expiry)

    def commands(self) -> list[tuple[Any, ...]]:
        """Plain SETs, the values unjoined."""
        items = zip(self._headers, self.tensors.items(), strict=True)
        return [(b"SET", key, (header, tensor.data), *self._expiry) for header, (key, tensor) in items]

    def joined(self) -> list[tuple[Any, ...]]:
        """Plain SETs for a stream that takes whole words."""
        return [(b"SET", key, v, *self._expiry) for key, v in zip(self.tensors, self.values(), strict=True)]


def expiry_options(ex_seconds: int | None, keepttl: bool) -> tuple[bytes, ...]:
    """The options of SET for an expiry."""
    if ex_seconds is not None:
        return (b"EX", b"%d" % ex_seconds)
    return (b"KEEPTTL",) if keepttl else ()
