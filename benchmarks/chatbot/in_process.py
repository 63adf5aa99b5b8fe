"""What both traditional programs do with a message once they have it and its state: the part without a web framework.

Settings come from the environment, as is usual for such programs: REDIS_SOCKET, MODELS (a directory), STATE_TTL_S.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.chatbot.models import GRU_STATE, Models
from examples.chatbot.shapes import FIRST_WORD, MESSAGE_WORDS

__all__ = ["MODELS", "REDIS_SOCKET", "SAFE", "STATE_TTL_S", "Answerer"]

REDIS_SOCKET = os.environ["REDIS_SOCKET"]
STATE_TTL_S = int(os.environ["STATE_TTL_S"])
_MODELS = Models(Path(os.environ["MODELS"]))
_MARKS = str.maketrans(dict.fromkeys(".,?!;:-()*/\"'", " "))


def _session(path: Path) -> Any:
    """With the settings of our server: one thread inside an operation, no spinning."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return ort.InferenceSession(path, options)


def _state(stored: bytes | None) -> NDArray[np.float32]:
    """A state as it comes from Redis; zeros for a new conversation."""
    if stored is None:
        return np.zeros((1, GRU_STATE), np.float32)
    return np.frombuffer(stored, np.float32).reshape(1, GRU_STATE)


class Answerer(Protocol):
    """A model with what is before and after it."""

    def answer(self, message: bytes, stored: bytes | None) -> tuple[bytes, bytes]:
        """(reply, new state)."""


class Gru:
    """Messages and replies are float32 vectors, as bytes."""

    def __init__(self) -> None:
        self._session = _session(_MODELS.gru)

    def answer(self, message: bytes, stored: bytes | None) -> tuple[bytes, bytes]:
        """(reply, new state)."""
        words = np.frombuffer(message, np.float32).reshape(1, -1)
        reply, state = self._session.run(["reply", "new_state"], {"message": words, "state": _state(stored)})
        return reply.tobytes(), state.tobytes()


class Network:
    """The chatbot's network. Messages are words' numbers, int64, as bytes; replies are text."""

    def __init__(self) -> None:
        self._session = _session(_MODELS.chatbot)

    def answer(self, message: bytes, stored: bytes | None) -> tuple[bytes, bytes]:
        """(reply, new state)."""
        words = np.frombuffer(message, np.int64).reshape(1, -1)
        text, state = self._session.run(["text", "new_state"], {"words": words, "state": _state(stored)})
        return text.tobytes().replace(b"\0", b"").strip(), state.tobytes()


class Chatbot:
    """Messages and replies are text. Reads words as the chatbot's script does."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._numbers = {word: i + FIRST_WORD for i, word in enumerate(_MODELS.vocabulary.read_text().split())}

    def answer(self, message: bytes, stored: bytes | None) -> tuple[bytes, bytes]:
        """(reply, new state)."""
        text = message.decode().lower().replace("can't", "cannot").replace("n't", " not")
        text = text.replace("'s", " is").replace("'m", " am").replace("'ll", " will").replace("'d", " would")
        words = [self._numbers.get(word, 1) for word in text.translate(_MARKS).split()][-MESSAGE_WORDS:]
        padded = np.array([0] * (MESSAGE_WORDS - len(words)) + words)
        return self._network.answer(padded.tobytes(), stored)


_network = Network()
MODELS: dict[str, Answerer] = {"gru": Gru(), "network": _network, "chatbot": Chatbot(_network)}
"""By the name that stands in a request."""
SAFE = frozenset({"chatbot"})
"""Those whose states are safe against two messages at a time, as our chatbot's are."""
