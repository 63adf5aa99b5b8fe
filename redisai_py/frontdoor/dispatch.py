"""From a command's words to its action: `action_of` returns an object that can start it.

Actions hold no state of a client, so all connections that send the same bytes share one (`Frames`). `ai.registry` has
the AI commands, `redis_commands` all others.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from redisai_py.ai.dags.near import ExecuteDag
from redisai_py.ai.registry import ai_action
from redisai_py.ai.tensor_gets import GetTensor, GetTensors
from redisai_py.ai.tensor_sets import SetTensor, SetTensors
from redisai_py.commands import COMMANDS
from redisai_py.frontdoor.redis_commands import Relayed, RelayedBurst, redis_action
from redisai_py.resp.templates import Command, Frames

__all__ = ["Action", "action_of", "joint_action"]

_LONGEST_NAME = 32
_MOST_NAMES = 1000
_BURST = RelayedBurst()
_MOST_KEPT_BYTES = 1024
"""A tensor without data is zeros, as many as its short command says; too many must not be remembered."""


class Action(Protocol):
    """What to do for a command."""

    is_ai: bool

    def start(self, client: Any, command: Command) -> bool:
        """Start it; False if it must wait until other work of this client is done.

        client: the `Turn` for an AI command, else the `Session`.
        """


def action_of(command: Command, frames: Frames) -> Action:
    """The action of a new command; remembered by its bytes if that is safe."""
    name = command.argv[0]
    upper = bytes(name).upper() if len(name) <= _LONGEST_NAME else b""
    spec = COMMANDS.get(upper)
    if spec is None:
        command.action = redis_action(upper)
        return command.action  # type: ignore[no-any-return]
    action: Action = ai_action(spec, command)
    command.action = action
    if command.frame:
        if type(action) is ExecuteDag:
            command.template = action.template(command)
        if type(action) is SetTensor and not action.large and SetTensors.has_template(action.request, command):
            # Do not remember the frame: the next one has other data, and this data must not be kept.
            frames.keep_template(command, partial(SetTensors, action.request.tensor))
        elif type(action) is GetTensor and GetTensors.has_template(action.request):
            frames.keep_template(command, partial(GetTensors, action.request), payload=False)
            frames.remember(command)
        elif type(action) is not SetTensor or len(action.request.tensor.data) <= _MOST_KEPT_BYTES:
            frames.remember(command)
    return action


class _JointActions(dict[bytes, RelayedBurst | None]):
    """Computed on first use, for each spelling of a name."""

    def __missing__(self, name: bytes) -> RelayedBurst | None:
        if len(name) > _LONGEST_NAME:
            return None
        upper = name.upper()
        plain = redis_action(upper) if upper not in COMMANDS else None
        action = _BURST if type(plain) is Relayed and plain.changes_nothing else None
        if len(self) < _MOST_NAMES:
            self[name] = action
        return action


joint_action = _JointActions().__getitem__
"""The joint action of commands with a name; None if such commands must be handled one by one."""
