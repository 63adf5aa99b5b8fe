"""Models and scripts in Redis: hashes, staged in pieces and published atomically."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import replace
from typing import Any

from redisai_py.blobs import FROM_FILE, Blob, Gathering, ModelFile
from redisai_py.errors import (
    MODEL_KEY_EMPTY,
    SCRIPT_KEY_EMPTY,
    MissingKey,
    RedisAIError,
    UpstreamError,
    WrongType,
)
from redisai_py.model import Kind, Model, Script
from redisai_py.predictions.rule import RULE_FIELD, Rule, decode_rule
from redisai_py.store import codec
from redisai_py.store.kinds import hash_fields, watch_kind
from redisai_py.store.link import Caller, Link, commit, last_reply, transaction
from redisai_py.store.lua import DELETE_KIND
from redisai_py.store.staging import STAGED_LOST, STAGING_TTL_S, discard, is_staged, rename, staging_key
from redisai_py.tensor import Buffer

__all__ = ["MODEL_ID_FIELDS", "ProgramStore"]

MODEL_ID_FIELDS = (b"kind", b"id", RULE_FIELD)
"""The fields that identify the model of a key, and its cache rule."""
_SCAN_COUNT = 500
_CHUNKS_AT_ONCE = 512
_FORGET_EVERY_S = 0.005


class ProgramStore:
    """The models and scripts of one identity. All methods are coroutines on the event loop's thread."""

    _link: Link

    async def model(self, key: bytes) -> Model:
        """A model's description, without its blob. Raises MissingKey, WrongType."""
        return (await self._model(key))[0]

    async def _model(self, key: bytes) -> tuple[Model, int]:
        (pending,) = self._link.pipeline([(b"HMGET", key, *codec.MODEL_META_FIELDS)])
        return codec.decode_model(await hash_fields(self._link, key, codec.MODEL_META_FIELDS, pending, MODEL_KEY_EMPTY))

    async def model_id(self, key: bytes, pending: Awaitable[Any]) -> tuple[str, Rule | None]:
        """The id and the cache rule of a model, from the pending reply of an HMGET of MODEL_ID_FIELDS.

        Raises: MissingKey, WrongType.
        """
        kind, model_id, rule = await hash_fields(self._link, key, MODEL_ID_FIELDS, pending, MODEL_KEY_EMPTY)
        if kind != Kind.MODEL.value:
            raise WrongType
        return codec.decode_id(model_id), decode_rule(rule) if rule is not None else None

    async def model_with_blob(self, key: bytes) -> Model:
        """A complete model: description and blob of the same store. Raises MissingKey, WrongType."""
        async with self._link.dedicated() as connection:
            while True:
                model, chunks = await self._model(key)
                blob = await self._blob(connection, key, model.id.encode(), chunks)
                if blob is not None:
                    return replace(model, blob=blob)

    @staticmethod
    async def _blob(connection: Caller, key: bytes, model_id: bytes, chunks: int) -> Blob | None:
        """A model's bytes; None if the key holds another model by now.

        The count in the key is untrusted: pieces are requested a limited number at a time, and the first missing one
        ends it. Raises: WrongType: a piece is missing.
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
            del values  # frees the pieces one by one as they are gathered
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
        """The script from the pending reply of an HMGET of SCRIPT_FIELDS. Raises MissingKey, WrongType."""
        return codec.decode_script(await hash_fields(self._link, key, codec.SCRIPT_FIELDS, pending, SCRIPT_KEY_EMPTY))

    async def check_store(self, key: bytes, new_id: str) -> None:
        """Raise if Redis refuses this identity to store the key, before a framework sees the blob.

        A rehearsal under the staging name, which leaves nothing behind. Does not check the type of the key's value.
        """
        staging = staging_key(key, new_id.encode())
        rehearsal = transaction([(b"HSET", staging, b"kind", b""), (b"DEL", staging)])
        await last_reply(self._link.pipeline([(b"EXISTS", key), *rehearsal]))

    async def put_model(self, key: bytes, model: Model, chunk_size: int) -> None:
        """Store a model, staged chunk by chunk and published by one RENAME: readers see the old or the new one,
        complete.

        Args:   model: identified.
        Raises: WrongType if the key holds something else. After any failure, nothing is left behind.
        """
        blob = memoryview(model.blob)
        chunk_size = max(chunk_size, -(-len(blob) // codec.MAX_CHUNKS))
        chunks = [blob[i : i + chunk_size] for i in range(0, len(blob), chunk_size)] or [blob]
        fields = codec.encode_model(model, model.sha256, len(chunks))
        pieces: list[list[Buffer]] = [[b"blob:%d" % i, chunk] for i, chunk in enumerate(chunks)]
        with _forgotten_when_sent(model.blob):
            await self._publish(key, Kind.MODEL, model.id, fields, pieces)

    async def put_script(self, key: bytes, script: Script) -> None:
        """Store a script, like `put_model`."""
        await self._publish(key, Kind.SCRIPT, script.id, codec.encode_script(script), [])

    async def _publish(
        self, key: bytes, kind: Kind, new_id: str, fields: dict[bytes, bytes], pieces: list[list[Buffer]]
    ) -> None:
        staging = staging_key(key, new_id.encode())
        flat: list[Buffer] = [item for field in fields.items() for item in field]
        async with self._link.dedicated() as connection:
            try:
                await watch_kind(connection, key, kind)
                for piece in (flat, *pieces):
                    expire = (b"EXPIRE", staging, b"%d" % STAGING_TTL_S)  # immediately: the server may end here
                    await last_reply([connection.call(b"HSET", staging, *piece), connection.call(*expire)])
                while not await self._rename_whole(connection, staging, key, kind):
                    await watch_kind(connection, key, kind)
            except RedisAIError:
                await discard(self._link, staging)
                raise

    async def _rename_whole(self, connection: Caller, staging: bytes, key: bytes, kind: Kind) -> bool:
        """`rename` for a key staged in pieces, of which Redis may have evicted the first. The cache rule of the key,
        which is watched, stays.
        """
        watch = connection.call(b"WATCH", staging)
        found = connection.call(b"HGET", staging, b"kind")
        ruled = connection.call(b"HGET", key, RULE_FIELD)
        await watch
        rule = await ruled
        if await found != kind.value:
            raise UpstreamError(STAGED_LOST)
        return await rename(connection, staging, key, [] if rule is None else [(b"HSET", staging, RULE_FIELD, rule)])

    async def delete(self, key: bytes, kind: Kind, missing: str) -> None:
        """Delete a model or script. Raises MissingKey with the text `missing`, WrongType."""
        if self._link.scripting:
            # Not a transaction: Redis accepts none while it is out of memory, but deleting helps then.
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
                    continue  # not readable for this identity, or replaced by another type meanwhile
                if values[0] == kind.value and key not in seen and not is_staged(key):
                    seen.add(key)
                    yield key, values[1] or b""
            if cursor == b"0":
                return


@contextlib.contextmanager
def _forgotten_when_sent(blob: Blob) -> Iterator[None]:
    """Drop the sent part of a file from memory while the rest is sent."""
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
