"""An engine process as its manager knows it: who uses it, and how it ended. Its state is guarded by the manager's lock.

The process serves the manager on a control socket, and each front door on one more.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from redisai_py.engine.isolation.orders import JOIN, ORDER, STUCK, UNABLE
from redisai_py.engine.isolation.program_table import ProgramTable
from redisai_py.engine.isolation.verdicts import Suspect, Verdict, exit_word
from redisai_py.engine.isolation.zygotes import Zygote

__all__ = ["Door", "ManagedProcess", "Placement", "Wanted"]

_START_S = 2.0
"""Seconds for a new process's id to be known."""
_OUT_OF_MEMORY = "its models have taken all memory that it may have (--engine-memory-limit-mb)"
_LEFT_BEHIND = "it was still at a run of a front door that has ended"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model for which a front door wants a process.

    session: the front door's number of it.   gpu: index of the device, None for the CPU.   apart: it must be alone.
    full: a process that has refused it memory, 0 for none.
    scripts: no model, but scripts, which need a process of their own on whatever device.
    """

    session: int
    identity: str
    backend: str
    gpu: int | None = None
    apart: bool = False
    full: int = 0
    scripts: bool = False

    @property
    def place(self) -> str:
        """The kind of process; those of a kind may be shared."""
        if self.scripts:
            return "scripts"
        return self.backend if self.gpu is None else f"GPU:{self.gpu}"

    @property
    def zygote(self) -> str:
        """The backend that the process has from its zygote."""
        return self.backend if self.gpu is None else ""

    @property
    def alone(self) -> bool:
        """Whether no other model may be in the process. One process owns a GPU, so there the models share it."""
        return self.scripts or (self.apart and self.gpu is None)

    @property
    def takes_spare(self) -> bool:
        """Whether the process may be one that was forked ahead."""
        return self.gpu is None and not self.scripts


class Placement(NamedTuple):
    """Where a model is to be loaded. process: its number.   program: the model's number there.   control: the front
    door's own control socket.
    """

    process: int
    program: int
    control: socket.socket


class Door(Protocol):
    """A front door, as the manager uses it. None of this waits. Thread: any."""

    def placed(self, session: int, placement: Placement) -> None:
        """A model has a process. Called under the manager's lock."""

    def has_ended(self, process: int) -> None:
        """A process has ended: say what was under way there."""

    def judged(self, process: int, verdict: Verdict) -> None:
        """Why it has ended."""


class ManagedProcess:
    """Args: number: unique.   alone: for one model only.   exited: called once, when it has ended, on any thread."""

    def __init__(
        self, number: int, place: str, alone: bool, zygote: Zygote, exited: Callable[[ManagedProcess], object]
    ) -> None:
        self.number = number
        self.place = place
        self.alone = alone
        self.pid = 0
        self.programs: ProgramTable[tuple[Door, int]] = ProgramTable()
        """Its models; a user is a front door and its number of the model."""
        self.full = False
        """It has refused memory, so it gets no more models."""
        self.retired = False
        """It is being ended because nobody needs it."""
        self.gone = False
        """It has ended, as somebody has noticed."""
        self.judged = False
        self.reported = False
        """The zygote has reported its end."""
        self.blamed = 0
        """Program for which it was killed."""
        self.blamed_for = ""
        self.suspects: list[Suspect] = []
        self.waits_for: list[Door] = []
        """Front doors that have not said yet what was under way."""
        self.witnesses: list[Door] = []
        self.lost_a_door = False
        self.status: int | None = None
        """Exit status, or minus the signal's number; None if it is not known."""
        self.zygote = zygote
        self._exited = exited
        self._known = threading.Event()
        self._control, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._far_end: socket.socket | None = far_end

    def fork(self, memory_limit_bytes: int, worker_nice: int, kind: str) -> None:
        """Start it.

        Args: worker_nice: how much less urgent than this process.   kind: `engine`, `spare` or `script`, for `ps`.
        """
        far_end, self._far_end = self._far_end, None
        assert far_end is not None
        # The main thread's: others may have their own.
        nice = os.getpriority(os.PRIO_PROCESS, os.getpid()) + worker_nice
        options = {"memory_limit_bytes": memory_limit_bytes, "nice": nice, "name": f"redisai-{kind}"}
        self.zygote.fork(self, far_end, options)

    def join(self) -> socket.socket:
        """A control socket for a front door. Raises: OSError: no files are left."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far, contextlib.suppress(OSError):  # it has ended: then so does the socket
            socket.send_fds(self._control, [ORDER.pack(JOIN, 0, 0)], [far.fileno()], socket.MSG_DONTWAIT)
        return near

    @property
    def doors(self) -> list[Door]:
        """The front doors that use it."""
        return list(dict.fromkeys(door for door, _ in self.programs.users()))

    def kill(self) -> None:
        """Kill it immediately. Thread: any, without the lock."""
        self.zygote.kill(self.number)

    def wait_started(self) -> int:
        """Its process id, 0 if it is not known soon. Thread: any, without the lock."""
        self._known.wait(_START_S)
        return self.pid

    # -- the end -------------------------------------------------------------------------------------------------------

    @property
    def by_itself(self) -> bool:
        """Whether one of its models may be to blame."""
        never_started = self.reported and not self.pid
        return not (never_started or self._left_behind)

    @property
    def how(self) -> str:
        """How it ended, in words."""
        if self.blamed_for:
            return self.blamed_for
        if self.out_of_memory:
            return _OUT_OF_MEMORY
        return f"SIGKILL: {_LEFT_BEHIND}" if self._left_behind else exit_word(self.status)

    @property
    def out_of_memory(self) -> bool:
        """Whether it had no memory left for its own work: which of its models took it is not known."""
        return self.status == UNABLE

    @property
    def _left_behind(self) -> bool:
        return self.status == STUCK and self.lost_a_door

    # -- zygotes.Child -------------------------------------------------------------------------------------------------

    def started(self, pid: int) -> None:
        """See Child."""
        self.pid = pid
        self._known.set()

    def exited(self, status: int | None) -> None:
        """See Child."""
        self.status = status
        self.reported = True
        self._known.set()
        self._control.close()
        self._exited(self)
