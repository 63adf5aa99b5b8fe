"""What each side is sent for a message, and the check that all sides answer alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from harness.servers import Target
from harness.wire import Client, HttpReplies, Word, encode, post

from benchmarks.chatbot.load import Replies, RespReplies, ask
from benchmarks.chatbot.models import GRU_MESSAGE, GRU_STATE, Models
from benchmarks.chatbot.programs import STATE_TTL_S
from examples.chatbot.shapes import MESSAGE_WORDS

__all__ = ["Side", "Task", "check", "our_side", "program_side", "store_models", "tasks"]

_MOST_ROWS = 16
_TEXTS = (
    "hello", "my name is Ada", "How much is the sencha?", "and where does it come from?", "what about the assam",
    "I will take it", "what is my name?", "what did I order?",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Task:
    """A model and what is said to it.

    messages: as bytes, of a few turns.   dag: our command, of (key of the state, message).
    alike: whether two replies are the same.
    """

    name: str
    messages: Sequence[bytes]
    dag: Callable[[str, bytes], bytes]
    alike: Callable[[bytes, bytes], bool]


def tasks(models: Models) -> list[Task]:
    """gru: one step of a GRU, a vector in and a vector out.   network: the chatbot's, words' numbers in and text out.
    chatbot: all of it, text in and text out, read by its script, and safe against two messages at a time.
    """
    rng = np.random.default_rng(1)
    vectors = [rng.standard_normal(GRU_MESSAGE, np.float32).tobytes() for _ in _TEXTS]
    script = torch.jit.CompilationUnit(models.script.read_text())
    numbers = [script.read([], [], [text]).numpy().tobytes() for text in _TEXTS]
    return [
        Task("gru", vectors, _gru_dag, _close),
        Task("network", numbers, _network_dag, _same_text),
        Task("chatbot", [text.encode() for text in _TEXTS], _chatbot_dag, _same_text),
    ]


def _dag(state: str, *operations: Word) -> bytes:
    return encode("AI.DAGEXECUTE", "LOAD", 1, state, "PERSIST", 1, state, "EX", STATE_TTL_S, *operations)


def _gru_dag(state: str, message: bytes) -> bytes:
    return _dag(
        state,
        "|>", "AI.TENSORSET", "message", "FLOAT", 1, GRU_MESSAGE, "BLOB", message,
        "|>", "AI.MODELEXECUTE", "gru", "INPUTS", 2, "message", state, "OUTPUTS", 2, "reply", state,
        "|>", "AI.TENSORGET", "reply", "BLOB",
    )  # fmt: skip


def _network_dag(state: str, message: bytes) -> bytes:
    return _dag(
        state,
        "|>", "AI.TENSORSET", "words", "INT64", 1, MESSAGE_WORDS, "BLOB", message,
        "|>", "AI.MODELEXECUTE", "network", "INPUTS", 2, "words", state, "OUTPUTS", 2, "text", state,
        "|>", "AI.TENSORGET", "text", "BLOB",
    )  # fmt: skip


def _chatbot_dag(state: str, message: bytes) -> bytes:
    """The command of `examples.chatbot.conversation`."""
    return _dag(
        state, "IFUNCHANGED",
        "|>", "AI.SCRIPTEXECUTE", "script", "read", "INPUTS", 0, "ARGS", 1, message, "OUTPUTS", 1, "words",
        "|>", "AI.MODELEXECUTE", "network", "INPUTS", 2, "words", state, "OUTPUTS", 2, "text", state,
        "|>", "AI.TENSORGET", "text", "BLOB",
    )  # fmt: skip


def _close(a: bytes, b: bytes) -> bool:
    """Vectors up to rounding, since a batch sums in another order than a single run."""
    return np.allclose(np.frombuffer(a, np.float32), np.frombuffer(b, np.float32), atol=1e-5)


def _same_text(a: bytes, b: bytes) -> bool:
    """Texts, of which ours come with zeros between the letters."""
    return a.replace(b"\0", b"").strip() == b.replace(b"\0", b"").strip()


@dataclass(frozen=True, slots=True)
class Side:
    """A server and how it is spoken to. request: of (task, conversation, message)."""

    target: Target
    request: Callable[[Task, str, bytes], bytes]
    replies: Callable[[], Replies]
    reply: Callable[[Any], bytes]

    def conversations(self, task: Task, count: int) -> list[list[bytes]]:
        """The requests of so many conversations."""
        return [[self.request(task, _name(number), text) for text in task.messages] for number in range(count)]


def our_side(target: Target) -> Side:
    """Our server: a command per message, the reply is the last operation's."""
    return Side(
        target,
        lambda task, name, text: task.dag(_state_key(task.name, name), text),
        RespReplies,
        lambda reply: reply[-1],
    )


def program_side(target: Target) -> Side:
    """A program: a POST per message on a connection that stays open."""
    return Side(target, _post, HttpReplies, bytes)


def _state_key(task: str, conversation: str) -> str:
    return f"redisai:{task}:{conversation}"


def _post(task: Task, conversation: str, message: bytes) -> bytes:
    return post(f"/{task.name}/{conversation}", message)


def store_models(target: Target, models: Models, conversations: int) -> None:
    """Give our server the models and the script, and every conversation a state in which nothing was said."""
    with Client(target.port) as client:
        for name, path in (("gru", models.gru), ("network", models.chatbot)):
            client.call("AI.MODELSTORE", name, "ONNX", "CPU", "BATCHSIZE", _MOST_ROWS, "BLOB", path.read_bytes())
        for task in ("gru", "network", "chatbot"):
            for number in range(conversations):
                key = _state_key(task, _name(number))
                client.call("AI.TENSORSET", key, "FLOAT", 1, GRU_STATE, "BLOB", bytes(4 * GRU_STATE))
        source = models.script.read_text()
        client.call("AI.SCRIPTSTORE", "script", "CPU", "ENTRY_POINTS", 1, "read", "SOURCE", source)


def _name(number: int) -> str:
    return f"{number:04}"


def check(sides: dict[str, Side], task: Task, number: int) -> list[bytes]:
    """The replies in conversation `number`, which must be new. Raises: SystemExit: the sides do not answer alike."""
    answers = {}
    for name, side in sides.items():
        requests = [side.request(task, _name(number), message) for message in task.messages]
        answers[name] = [side.reply(reply) for reply in ask(side.target, requests, side.replies())]
    expected = answers.popitem()[1]
    for name, found in answers.items():
        for a, b in zip(found, expected, strict=True):
            if not task.alike(a, b):
                raise SystemExit(f"{task.name}: {name} answers {a!r}, not {b!r}")
    return expected
