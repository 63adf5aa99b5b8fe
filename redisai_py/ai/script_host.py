"""What a running script may ask of the server: Redis commands and models, as the client that runs it."""

from __future__ import annotations

from typing import Any

from redisai_py.ai.model_loading import resolve
from redisai_py.commands import COMMANDS, tensors
from redisai_py.commands.tensors import tensor_reply
from redisai_py.errors import CommandError, RedisAIError, UpstreamError, UpstreamLost
from redisai_py.frontdoor.turn import Turn
from redisai_py.pending import Pending
from redisai_py.resp.reader import parse_reply
from redisai_py.resp.replies import OK, encode_reply
from redisai_py.store.programs import MODEL_ID_FIELDS
from redisai_py.tensor import Tensor
from redisai_py.upstream.access import Access

__all__ = ["ClientHost"]

_NOT_FROM_SCRIPTS = frozenset(
    (
        b"SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE MONITOR SYNC PSYNC MULTI EXEC DISCARD "
        b"WATCH UNWATCH AUTH HELLO RESET QUIT SELECT CLIENT BLPOP BRPOP BLMOVE BRPOPLPUSH BZPOPMIN BZPOPMAX BLMPOP "
        b"BZMPOP WAIT WAITAOF SHUTDOWN DEBUG REPLCONF FAILOVER"
    ).split()
)
"""Commands that block, or that change the state of the client's connection."""


class ClientHost:
    """Answers a script's calls, with the rights and in the database of the client that runs it."""

    def __init__(self, turn: Turn, access: Access) -> None:
        self._turn = turn
        self._access = access

    async def execute(self, argv: list[bytes]) -> Any:
        """Run one Redis command. Returns: None, bytes, int, a list of these, or the error as a value."""
        name = argv[0].upper() if argv else b""
        if name in COMMANDS:
            return await self._execute_ai(argv)
        blocks = name in (b"XREAD", b"XREADGROUP") and b"BLOCK" in {word.upper() for word in argv}
        if name in _NOT_FROM_SCRIPTS or blocks:
            return UpstreamError(f"ERR {name.decode()} is not allowed from a script")
        # Not on the client's own connection: that one may use RESP3, in which some replies have another form, and a
        # script must not depend on its caller's protocol.
        try:
            async with self._access.dedicated() as upstream:
                reply = await _value_or_error(upstream.call(*argv))
        except RedisAIError as error:
            return self._noted(error)
        return _plain(reply)

    def _noted(self, error: RedisAIError) -> RedisAIError:
        """An error as the script sees it. A lost Redis is lost for its client too, whatever the script does with it."""
        if isinstance(error, UpstreamLost) and not self._turn.gone:
            self._turn.end_with(error)
        return error

    async def _execute_ai(self, argv: list[bytes]) -> Any:
        try:
            request = COMMANDS[argv[0].upper()].parse(argv)
            await self._access.ensure()
            store = self._access.store
            if isinstance(request, tensors.TensorSet):
                await store.put_tensors([(request.key, request.tensor)])
                return OK
            if isinstance(request, tensors.TensorGet):
                tensor = await store.tensor(request.key)
                return parse_reply(
                    b"".join(encode_reply(tensor_reply(request, tensor.dtype, tensor.shape, tensor.data), 2))
                )
        except RedisAIError as error:
            return self._noted(error)
        return CommandError(f"ERR {argv[0].decode('utf-8', 'replace')} is not allowed from a script")

    async def model_execute(self, key: bytes, inputs: list[Tensor], outputs: int) -> list[Tensor]:
        """Run a stored model; as in RedisAI, its statistics do not count the run."""
        services, access = self._turn.services, self._access
        await access.ensure()
        (ids,) = access.pipeline([(b"HMGET", key, *MODEL_ID_FIELDS)])
        loaded, _ = await resolve(key, ids, access.store, self._turn)
        for noun, names, given in (("inputs", loaded.inputs, len(inputs)), ("outputs", loaded.outputs, outputs)):
            if len(names) != given:
                raise CommandError(f"ERR Expected {len(names)} {noun} but got {given}")
        # The script is stopped after that time, so its model must not stay in the queue.
        timeout_ms = services.scripts.settings.script_execution_timeout_ms or None
        # Alone and immediately, as in RedisAI: a minimum batch size might make it wait forever.
        alone = loaded.model.minbatchsize > 1
        run = services.engine.run_model(loaded, list(inputs), timeout_ms, counted=False, alone=alone)
        return [value for value in await run if isinstance(value, Tensor)]


async def _value_or_error(reply: Pending[Any]) -> Any:
    """Redis's error as a value, because the connection is still good."""
    try:
        return await reply
    except UpstreamLost:
        raise
    except RedisAIError as error:
        return error


def _plain(reply: Any) -> Any:
    """A reply with large strings converted to bytes."""
    if isinstance(reply, list):
        return [_plain(item) for item in reply]
    return bytes(reply) if isinstance(reply, memoryview) else reply
