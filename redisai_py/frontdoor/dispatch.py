"""From a command's words to what is done with it: `understand` gives an object that knows how to start.

Meanings hold nothing of a client, so every connection that sends the same bytes again shares one (`Frames`). AI
commands are found in `ai.registry`, all others in `redis_commands`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from redisai_py.ai.dag_near import ExecuteDag
from redisai_py.ai.registry import understand_ai
from redisai_py.ai.tensor_gets import GetTensor, GetTensors
from redisai_py.ai.tensor_sets import SetTensor, SetTensors
from redisai_py.commands import COMMANDS
from redisai_py.frontdoor.redis_commands import Relayed, RelayedRow, understand_plain
from redisai_py.resp.templates import Command, Frames

__all__ = ["Meaning", "joint_meaning", "understand"]

_LONGEST_NAME = 32
_MOST_NAMES = 1000
_ROW = RelayedRow()
_MOST_KEPT_BYTES = 1024
"""A tensor without data is zeros, as many as its short command says: too many to be kept for the next such command."""


class Meaning(Protocol):
    """What to do with a command."""

    is_ai: bool

    def start(self, client: Any, command: Command) -> bool:
        """Start it; False if it must wait until other work of this client is done.

        client: the `Turn` for an AI command, else the `Session`.
        """


def understand(command: Command, frames: Frames) -> Meaning:
    """The meaning of a command not seen before; remembered by its bytes where that is sound."""
    name = command.argv[0]
    upper = bytes(name).upper() if len(name) <= _LONGEST_NAME else b""
    spec = COMMANDS.get(upper)
    if spec is None:
        command.meaning = understand_plain(upper)
        return command.meaning  # type: ignore[no-any-return]
    meaning: Meaning = understand_ai(spec, command)
    command.meaning = meaning
    if command.frame:
        if type(meaning) is ExecuteDag:
            command.form = meaning.form(command)
        if type(meaning) is SetTensor and not meaning.large and SetTensors.has_form(meaning.request, command):
            # Not the frame: the next one has other data, and this one's must not be kept here.
            frames.name_form(command, partial(SetTensors, meaning.request.tensor))
        elif type(meaning) is GetTensor and GetTensors.has_form(meaning.request):
            frames.name_form(command, partial(GetTensors, meaning.request), payload=False)
            frames.remember(command)
        elif type(meaning) is not SetTensor or len(meaning.request.tensor.data) <= _MOST_KEPT_BYTES:
            frames.remember(command)
    return meaning


class _JointMeanings(dict[bytes, RelayedRow | None]):
    """Worked out when first asked for, for each way of writing a name."""

    def __missing__(self, name: bytes) -> RelayedRow | None:
        if len(name) > _LONGEST_NAME:
            return None
        upper = name.upper()
        plain = understand_plain(upper) if upper not in COMMANDS else None
        meaning = _ROW if type(plain) is Relayed and plain.changes_nothing else None
        if len(self) < _MOST_NAMES:
            self[name] = meaning
        return meaning


joint_meaning = _JointMeanings().__getitem__
"""The meaning that commands of a name have together, None if one of that name must be looked at by itself."""
