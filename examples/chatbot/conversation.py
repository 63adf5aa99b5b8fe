"""One message of one conversation: a single command to the server, and what to do when it does not go through.

The program holds a connection and nothing else. Model, script and the conversation's state are keys in Redis; any
number of such programs may serve the same conversations, and each may be restarted at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save

from examples.chatbot.script import ENTRY_POINT
from examples.chatbot.shapes import STATE_SIZE
from redisai_py.client import AsyncClient, AsyncDag
from redisai_py.errors import TENSOR_KEY_EMPTY, Conflict, MissingKey

if TYPE_CHECKING:
    from examples.chatbot.training import Trained

__all__ = ["Busy", "Chatbot"]

_MOST_ROWS = 16
_ATTEMPTS = 16


class Busy(Exception):
    """Other messages of the same conversation kept coming first."""


@dataclass(frozen=True, slots=True)
class Chatbot:
    """Replies to messages.

    client: of the server.   version: of the model and script; states of one version mean nothing to another.
    ttl_s: seconds after its last message that a conversation is forgotten.
    """

    client: AsyncClient
    version: str
    ttl_s: int = 24 * 3600

    @property
    def model_key(self) -> str:
        """Key of the model."""
        return f"chatbot:{self.version}:model"

    @property
    def script_key(self) -> str:
        """Key of the script."""
        return f"chatbot:{self.version}:script"

    def state_key(self, conversation: str) -> str:
        """Key of a conversation's state: a tensor, FLOAT (1, STATE_SIZE)."""
        return f"chatbot:{self.version}:state:{conversation}"

    async def is_stored(self) -> bool:
        """Whether the server has the model and the script."""
        try:
            await self.client.modelget(self.model_key, meta_only=True)
            await self.client.scriptget(self.script_key, meta_only=True)
        except MissingKey:
            return False
        return True

    async def store(self, trained: Trained) -> None:
        """Give the server what was trained. Runs of concurrent conversations are merged up to 16 at a time."""
        await self.client.modelstore(
            self.model_key, "ONNX", "CPU", trained.model, batch=_MOST_ROWS, tag=trained.version
        )
        await self.client.scriptstore(self.script_key, "CPU", trained.script, ENTRY_POINT, tag=trained.version)

    def dag(self, conversation: str, message: str) -> AsyncDag:
        """All that a message needs, as one command.

        The server reads and answers it. The new state replaces the old one, with its expiry, in one step,
        unless another message of the same conversation has done so in the meantime (IFUNCHANGED).
        """
        state = self.state_key(conversation)
        dag = self.client.dag(load=state, persist=state, ex=self.ttl_s, ifunchanged=True)
        # With a blank before it a message is never the word that separates a DAG's operations.
        dag.scriptexecute(self.script_key, ENTRY_POINT, inputs=[], args=f" {message}", outputs="words")
        dag.modelexecute(self.model_key, ["words", state], ["text", state])
        return dag.tensorget("text")

    async def reply(self, conversation: str, message: str) -> str:
        """Answer a message and go on from there.

        Raises: Busy.   redis.ConnectionError: the server was lost; the message may or may not have been taken in.
                redis.ResponseError: anything that is wrong with the model or script.
        """
        dag = self.dag(conversation, message)
        for _ in range(_ATTEMPTS):
            try:
                results = await dag.execute()
            except MissingKey as error:
                if not TENSOR_KEY_EMPTY.endswith(str(error)):
                    raise  # the model or the script is not there
                await self._begin(conversation)
            except Conflict:
                continue
            else:
                return _text(results)
        raise Busy(conversation)

    async def _begin(self, conversation: str) -> None:
        """The state of a conversation in which nothing was said yet, unless there is one.

        A tensor is an ordinary Redis string that holds a safetensors file, so SET with NX does it in one step.
        """
        nothing = save({"tensor": np.zeros((1, STATE_SIZE), np.float32)})
        await self.client.set(self.state_key(conversation), nothing, nx=True, ex=self.ttl_s)

    async def remembers(self, conversation: str) -> bool:
        """Whether there has been a message that is not forgotten."""
        return bool(await self.client.exists(self.state_key(conversation)))

    async def forget(self, conversation: str) -> None:
        """End a conversation."""
        await self.client.delete(self.state_key(conversation))


def _text(results: list[Any]) -> str:
    for result in results:
        if isinstance(result, Exception):
            raise result
    letters: bytes = results[-1].tobytes()
    return letters.replace(b"\0", b"").strip().decode()
