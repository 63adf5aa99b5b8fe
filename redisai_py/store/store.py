"""Tensors, models and scripts in Redis, for one identity. The only place that knows which commands Redis is asked.

Redis is reached through an injected `Link`: a shared pipelined stream for what is small, dedicated connections for
large values and for WATCH. Every method raises the errors of the wire: MissingKey, WrongType, UpstreamError with
Redis's own text. It knows nothing of clients, frameworks or replies.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Protocol

from redisai_py.errors import Conflict, MissingKey, RedisAIError, UpstreamError, WrongType
from redisai_py.model import Model, Script
from redisai_py.store import codec
from redisai_py.store.scripts import DELETE_KIND, PROBE_SIZE, SET_TENSORS, SET_TENSORS_SHA
from redisai_py.tensor import Buffer, Tensor

__all__ = ["LARGE_VALUE", "Link", "Store", "empty_tensor_key", "expiry_options"]

LARGE_VALUE = 64 * 1024
"""Values of this many bytes and more travel on dedicated connections."""
_COMMIT_ATTEMPTS = 16
_STAGING_TTL_S = 3600
_SCAN_COUNT = 500


class Caller(Protocol):
    """Something that sends one command and gives its reply."""

    def call(self, *argv: Any) -> Awaitable[Any]:
        """Raises UpstreamError with the text of an error reply."""


class Link(Protocol):
    """An identity's connections."""

    scripting: bool
    """Whether Redis lets this identity run scripts."""

    def pipeline(self, commands: Iterable[Sequence[Any]]) -> list[Awaitable[Any]]:
        """Send commands on the shared stream in one write."""

    def dedicated(self) -> AbstractAsyncContextManager[Caller]:
        """A connection to oneself for a while."""

    def forget(self, keys: Iterable[bytes]) -> None:
        """These keys are being written: what is known of their values will be out of date."""

    def wrote(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """These keys hold these strings now."""


def empty_tensor_key() -> MissingKey:
    """The error for a tensor that is not there."""
    return MissingKey("ERR tensor key is empty or in a different shard")


def _refused(error: UpstreamError) -> RedisAIError:
    """Redis's refusal; one about the key's type in RedisAI's words, wherever Redis puts it in its text."""
    return WrongType() if "WRONGTYPE" in str(error) else error


class Store:
    """Keys of one identity. All methods are coroutines on the event loop's thread."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._large_keys: dict[bytes, None] = {}  # keys seen with large values, bounded: a hint, not a truth

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
                raise await self._absent(key)
            if len(value) >= LARGE_VALUE:
                self._note_large(key)
            tensors.append(codec.decode_tensor(value))
        return tensors

    async def _absent(self, key: bytes) -> RedisAIError:
        (kind,) = self._link.pipeline([(b"TYPE", key)])
        return empty_tensor_key() if await kind == b"none" else WrongType()

    async def large_tensor(self, key: bytes) -> Tensor:
        """A tensor whose value is known to be large. Raises MissingKey, WrongType."""
        self._note_large(key)
        async with self._link.dedicated() as connection:
            try:
                value = await connection.call(b"GET", key)
            except UpstreamError as error:
                raise _refused(error) from error
        if value is None:
            raise empty_tensor_key()
        return codec.decode_tensor(value)

    async def check_tensor_or_absent(self, key: bytes) -> bool:
        """Whether a tensor is there. Raises WrongType if something else is."""
        try:
            (head,) = self._link.pipeline([(b"GETRANGE", key, 0, codec.MAX_HEADER + 8)])
            value = await head
        except UpstreamError as error:
            raise _refused(error) from error
        if value:
            size = codec.header_size(value)
            codec.read_header(bytes(value[:size]))
            return True
        (kind,) = self._link.pipeline([(b"TYPE", key)])
        if await kind != b"none":
            raise WrongType
        return False

    def model_and_tensors(self, key: bytes, names: Sequence[bytes]) -> tuple[Awaitable[Any], Awaitable[Any]]:
        """Ask for a model's id and for tensors in one round trip: the replies to HMGET kind id and to MGET."""
        fields = (b"HMGET", key, b"kind", b"id")
        if self.expects_large(names):
            (ids,) = self._link.pipeline([fields])
            return ids, self.large_values(names)
        ids, values = self._link.pipeline([fields, (b"MGET", *names)])
        return ids, values

    def expects_large(self, keys: Sequence[bytes]) -> bool:
        """Whether a value under one of these keys was large when last seen: a hint which way to fetch them."""
        return any(key in self._large_keys for key in keys)

    async def large_values(self, names: Sequence[bytes]) -> Any:
        async with self._link.dedicated() as connection:
            return await connection.call(b"MGET", *names)

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
            for key in write.tensors:
                await self.check_tensor_or_absent(key)
            await _last(self._link.pipeline(_transaction(write.joined())))

    async def _put_scripted(self, write: _Write) -> None:
        command = (b"EVALSHA", SET_TENSORS_SHA, *write.script_words())
        try:
            (pending,) = self._link.pipeline([command])
            await pending
        except UpstreamError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise _refused(error) from error
            try:
                await _last(self._link.pipeline([(b"SCRIPT", b"LOAD", SET_TENSORS), command]))
            except UpstreamError as again:
                raise _refused(again) from again

    async def _put_watched(self, write: _Write) -> None:
        for key in write.tensors:
            self._note_large(key)
        try:
            async with self._link.dedicated() as connection:
                for _ in range(_COMMIT_ATTEMPTS):
                    if await self._check_and_set(write, connection):
                        return
        except UpstreamError as error:
            raise await self.too_large(error, write.size_bytes) from error
        raise UpstreamError("ERR the keys kept changing while they were written; nothing was written")

    async def too_large(self, error: UpstreamError, size_bytes: int) -> UpstreamError:
        """The error for a large write that Redis refused: if its size was the reason, one that names both sizes."""
        # Redis closes such a connection, often before its words about it can be read: so the limit is asked for.
        with contextlib.suppress(UpstreamError, ValueError):  # CONFIG may be withheld
            (pending,) = self._link.pipeline([(b"CONFIG", b"GET", b"proto-max-bulk-len")])
            reply = await pending
            limit = int(next(iter(reply.values())) if isinstance(reply, dict) else reply[1])
            if size_bytes >= limit - codec.MAX_HEADER:
                return UpstreamError(
                    f"ERR a tensor of {size_bytes} bytes is more than Redis takes in one string "
                    f"(proto-max-bulk-len: {limit})"
                )
        return error

    async def _put_if_unchanged(self, write: _Write, watching: Caller) -> None:
        if self._link.scripting and write.size_bytes < LARGE_VALUE:
            # EVAL, not EVALSHA: a script that Redis forgot could not be sent again, since EXEC ends the WATCH.
            commit = _transaction([(b"EVAL", SET_TENSORS, *write.script_words())])
            results = await _last([watching.call(*command) for command in commit])
            if results is not None and isinstance(results[0], UpstreamError):
                raise _refused(results[0])
            unchanged = results is not None
        else:
            unchanged = await self._check_and_set(write, watching)
        if not unchanged:
            raise Conflict("CONFLICT a key that the command loaded was changed before its commit; nothing was written")

    async def _check_and_set(self, write: _Write, connection: Caller) -> bool:
        """WATCH and check the keys, then write them in one transaction; False if a watched key was changed."""
        watch = connection.call(b"WATCH", *write.tensors)
        heads = [connection.call(b"GETRANGE", key, b"0", b"%d" % (PROBE_SIZE - 1)) for key in write.tensors]
        await watch
        for key, head in zip(write.tensors, heads, strict=True):
            await self._check_head(connection, key, head)
        results = await _last([connection.call(*command) for command in _transaction(write.commands())])
        return results is not None

    async def _check_head(self, connection: Caller, key: bytes, pending: Awaitable[Any]) -> None:
        """Raise WrongType unless the first bytes of a value are a tensor's, or the key is absent."""
        try:
            head = await pending
            if not head:
                if await connection.call(b"EXISTS", key):
                    raise WrongType
                return
            size = codec.header_size(head)
            if size > len(head):
                head = await connection.call(b"GETRANGE", key, b"0", b"%d" % (size - 1))
            codec.read_header(bytes(head[:size]))
        except UpstreamError as error:
            raise _refused(error) from error

    def _note_large(self, key: bytes) -> None:
        if len(self._large_keys) >= 4096:
            self._large_keys.clear()
        self._large_keys[key] = None

    # -- models and scripts ------------------------------------------------------------------------------------------

    async def model(self, key: bytes) -> Model:
        """A model's description, without its blob. Raises MissingKey, WrongType."""
        return (await self._model(key))[0]

    async def _model(self, key: bytes) -> tuple[Model, int]:
        (pending,) = self._link.pipeline([(b"HMGET", key, *codec.MODEL_META_FIELDS)])
        return codec.decode_model(await self._fields(key, pending, "ERR model key is empty"))

    async def model_with_blob(self, key: bytes) -> Model:
        """A model whole: description and blob are of one store. Raises MissingKey, WrongType."""
        async with self._link.dedicated() as connection:
            while True:
                model, chunks = await self._model(key)
                names = [b"blob:%d" % i for i in range(chunks)]
                values = await connection.call(b"HMGET", key, b"id", *names)
                if values[0] == model.id.encode():
                    if None in values:
                        raise WrongType  # a piece is missing: another look would find the same
                    blob = values[1] if chunks == 1 else b"".join(values[1:])
                    return replace(model, blob=bytes(blob))

    async def script(self, key: bytes) -> Script:
        """A script. Raises MissingKey, WrongType."""
        (pending,) = self._link.pipeline([(b"HMGET", key, *codec.SCRIPT_FIELDS)])
        return await self.decode_script(key, pending, "ERR script key is empty")

    async def decode_script(self, key: bytes, pending: Awaitable[Any], missing: str) -> Script:
        """The script in the coming reply of an HMGET of SCRIPT_FIELDS. Raises MissingKey, WrongType."""
        return codec.decode_script(await self._fields(key, pending, missing))

    async def _fields(self, key: bytes, pending: Awaitable[Any], missing: str) -> list[bytes | None]:
        try:
            values: list[bytes | None] = await pending
        except UpstreamError as error:
            raise _refused(error) from error
        if values[0] is None:
            raise await self.no_value(key, missing)
        return values

    async def no_value(self, key: bytes, missing: str) -> RedisAIError:
        """The error for a hash without our fields: `missing` if there is no key at all, else WRONGTYPE."""
        (kind,) = self._link.pipeline([(b"TYPE", key)])
        return MissingKey(missing) if await kind == b"none" else WrongType()

    def staging_key(self, key: bytes, unique: bytes) -> bytes:
        """A name to write under before publishing: it begins with the final name, so that ACL patterns cover it, and
        hashes to the same slot."""
        return b"%b:staging:%b" % (key, unique) + (b"" if b"{" in key else b"{%b}" % key)

    async def publish_tensor(self, connection: Caller, staging: bytes, key: bytes) -> None:
        """Give a staged tensor its final name if that is free for one. Raises WrongType: then the staged one is
        gone.
        """
        self._note_large(key)
        self._link.forget((key,))
        try:
            while True:
                watch = connection.call(b"WATCH", key)
                await self._check_head(connection, key, connection.call(b"GETRANGE", key, b"0", b"127"))
                await watch
                commit = _transaction([(b"PERSIST", staging), (b"RENAME", staging, key)])
                if await _last([connection.call(*command) for command in commit]) is not None:
                    return
        except RedisAIError:
            await connection.call(b"DEL", staging)
            raise

    async def check_large_write(self, connection: Caller, staging: bytes, key: bytes) -> None:
        """Raise, before any data is sent, if the key holds no tensor or Redis refuses the two names."""
        head = connection.call(b"GETRANGE", key, b"0", b"%d" % (PROBE_SIZE - 1))
        await connection.call(b"DEL", staging)
        await self._check_head(connection, key, head)

    async def check_store(self, key: bytes, new_id: str) -> None:
        """Raise, before a framework sees what is to be stored, if Redis refuses this identity to store it.

        A rehearsal under the staging name, which leaves nothing. The type of what the key holds is not looked at.
        """
        staging = self.staging_key(key, new_id.encode())
        rehearsal = _transaction([(b"HSET", staging, b"kind", b""), (b"DEL", staging)])
        await _last(self._link.pipeline([(b"EXISTS", key), *rehearsal]))

    async def put_model(self, key: bytes, model: Model, chunk_size: int) -> None:
        """Store a model, staged chunk by chunk, published by one RENAME: readers see the old or the new one, whole.

        Raises: WrongType if the key holds something else; then, and after any other failure, nothing is left behind.
        """
        blob = memoryview(model.blob)
        chunk_size = max(chunk_size, -(-len(blob) // codec.MAX_CHUNKS))
        chunks = [blob[i : i + chunk_size] for i in range(0, len(blob), chunk_size)] or [blob]
        fields = codec.encode_model(model, hashlib.sha256(blob).hexdigest(), len(chunks))
        pieces: list[list[Buffer]] = [[b"blob:%d" % i, chunk] for i, chunk in enumerate(chunks)]
        await self._publish(key, b"MODEL", model.id, fields, pieces)

    async def put_script(self, key: bytes, script: Script) -> None:
        """Store a script, as `put_model` does."""
        await self._publish(key, b"SCRIPT", script.id, codec.encode_script(script), [])

    async def _publish(
        self, key: bytes, kind: bytes, new_id: str, fields: dict[bytes, bytes], pieces: list[list[Buffer]]
    ) -> None:
        staging = self.staging_key(key, new_id.encode())
        flat = [item for field in fields.items() for item in field]
        async with self._link.dedicated() as connection:
            try:
                await self._check_kind(connection, key, kind)
                await connection.call(b"HSET", staging, *flat)
                await connection.call(b"EXPIRE", staging, b"%d" % _STAGING_TTL_S)
                for piece in pieces:
                    await connection.call(b"HSET", staging, *piece)
                    await connection.call(b"EXPIRE", staging, b"%d" % _STAGING_TTL_S)
                commit = _transaction([(b"PERSIST", staging), (b"RENAME", staging, key)])
                while await _last([connection.call(*command) for command in commit]) is None:
                    await self._check_kind(connection, key, kind)
            except RedisAIError:
                await connection.call(b"UNWATCH")
                await connection.call(b"DEL", staging)
                raise

    async def _check_kind(self, connection: Caller, key: bytes, kind: bytes) -> None:
        """WATCH the key and raise WrongType if it holds anything but `kind`; absent is fine."""
        await connection.call(b"WATCH", key)
        exists = connection.call(b"EXISTS", key)
        try:
            found = await connection.call(b"HGET", key, b"kind")
        except UpstreamError as error:
            raise _refused(error) from error
        if await exists and found != kind:
            raise WrongType

    async def delete(self, key: bytes, kind: bytes, missing: str) -> None:
        """Delete a model or script. Raises MissingKey with the text `missing`, WrongType."""
        if self._link.scripting:
            # Not a transaction: Redis takes none while it is out of memory, and deleting is what helps then.
            (pending,) = self._link.pipeline([(b"EVAL", DELETE_KIND, b"1", key, kind)])
            try:
                deleted = await pending
            except UpstreamError as error:
                raise _refused(error) from error
        else:
            deleted = await self._delete_watched(key, kind)
        if not deleted:
            raise MissingKey(missing)

    async def _delete_watched(self, key: bytes, kind: bytes) -> int:
        async with self._link.dedicated() as connection:
            while True:
                await self._check_kind(connection, key, kind)
                deleted = await _last([connection.call(*command) for command in _transaction([(b"DEL", key)])])
                if deleted is not None:
                    return int(deleted[0])

    async def scan(self, kind: bytes) -> AsyncIterator[tuple[bytes, bytes]]:
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
                except UpstreamError:
                    continue  # not ours to read, or gone and replaced by another type meanwhile
                if values[0] == kind and key not in seen and b":staging:" not in key:
                    seen.add(key)
                    yield key, values[1] or b""
            if cursor == b"0":
                return


class _Write:
    """Tensors to be written together, in the forms that the ways of writing them need."""

    def __init__(self, tensors: dict[bytes, Tensor], expiry: tuple[bytes, ...]) -> None:
        self.tensors = tensors
        self._expiry = expiry
        self._headers = [codec.encode_header(tensor) for tensor in tensors.values()]
        self._values: list[bytes] = []
        self.size_bytes = sum(len(tensor.data) for tensor in tensors.values())

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


def _transaction(commands: Iterable[Sequence[Any]]) -> list[Sequence[Any]]:
    return [(b"MULTI",), *commands, (b"EXEC",)]


async def _last(pendings: Sequence[Awaitable[Any]]) -> Any:
    """The value of the last of several commands sent together; the first error of any of them is raised."""
    values = [await pending for pending in pendings]
    return values[-1]
