"""The manager of engine processes, as one of several front doors uses it: in another process, and replaced if it dies.

The supervisor sends a socket to each new manager on a socket of ours. When a manager dies, so do its processes: the
front door loads its models again, with the next manager.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, astuple
from typing import Any, Protocol

import structlog

from redisai_py.engine.isolation.channel import Channel, Message
from redisai_py.engine.isolation.managed import Door, Placement, Wanted
from redisai_py.engine.isolation.quarantine import Quarantine, Strikes
from redisai_py.engine.isolation.settings import IsolationSettings
from redisai_py.engine.isolation.verdicts import Suspect, Verdict
from redisai_py.errors import BackendError, BackendNotInstalled

__all__ = ["ManagerLost", "RemoteDoor", "RemoteManager"]

_AWAY_S = 20.0
"""Seconds to wait for the next manager."""
_ANSWER_S = 30.0
"""Seconds for an answer, besides the time that a load may take."""
_AT_ONCE = 50

logger = structlog.get_logger()


class RemoteDoor(Door, Protocol):
    """This process, as the manager's messages concern it."""

    def manager_lost(self) -> None:
        """The manager has died, and all its processes with it."""


class ManagerLost(Exception):
    """The manager died before it answered, or there is none now."""


class RemoteManager:
    """See `manager.Manager`, whose methods these are. Args: managers: a socket that brings one to each manager."""

    def __init__(self, settings: IsolationSettings, managers: socket.socket) -> None:
        self.settings = settings
        self.quarantine = Quarantine()
        """A copy of the manager's."""
        self.shared = True
        self.closing = False
        self._managers = managers
        self._changed = threading.Condition()
        self._channel: Channel | None = None
        self._asked: dict[int, Future[Any]] = {}
        self._numbers = itertools.count(1)

    def welcome(self, door: RemoteDoor) -> None:
        """Connect."""
        threading.Thread(target=self._live, args=(door,), name="redisai manager", daemon=True).start()

    # -- requests ------------------------------------------------------------------------------------------------------

    def place(self, door: Door, wanted: Wanted, file: int = -1) -> int:
        """See Manager."""
        return int(self._ask({"op": "place", "wanted": asdict(wanted)}, file))

    def import_backend(self, name: str) -> str:
        """See Manager."""
        return str(self._ask({"op": "import", "backend": name}))

    def leave(self, door: Door, session: int, number: int) -> None:
        """See Manager."""
        self._tell({"op": "leave", "session": session, "process": number})

    def kill(self, number: int, program: int, why: str) -> None:
        """See Manager."""
        self._tell({"op": "kill", "process": number, "program": program, "why": why})

    def ended(self, door: Door, number: int, suspects: Sequence[Suspect]) -> None:
        """See Manager."""
        self._tell({"op": "ended", "process": number, "suspects": list(suspects)})

    def clear(self, identity: str) -> None:
        """See Manager."""
        self.quarantine.forget(identity)
        self._tell({"op": "clear", "identity": identity})

    # -- requests of the event loop, which does not wait ---------------------------------------------------------------

    def claim(self, what: str) -> tuple[int, Future[bool]]:
        """Wait for a claim (`Claims`). Returns: its number, to `release` it; and when it is had, or not.

        The result fails with ManagerLost if the manager dies first, or there is none now.
        """
        number = next(self._numbers)
        return number, self._request({"op": "claim", "what": what}, number)

    def release(self, number: int) -> None:
        """Release a claim, or give it up."""
        self._tell({"op": "release", "number": number})

    def file_of(self, identity: str) -> Future[int]:
        """A descriptor of a model's file, for the caller to close; -1 if the manager has none. Fails as above."""
        return self._request({"op": "file", "identity": identity}, next(self._numbers))

    def rename(self, before: str, identity: str) -> Future[None]:
        """See Manager. Returns: when the manager has done it. Fails as above."""
        self.quarantine.rename(before, identity)
        return self._request({"op": "rename", "before": before, "identity": identity}, next(self._numbers))

    def _request(self, message: Message, number: int) -> Future[Any]:
        answer: Future[Any] = Future()
        with self._changed:
            channel = self._channel
            if channel is not None:
                self._asked[number] = answer
        if channel is None:
            answer.set_exception(ManagerLost())
        else:
            channel.send({**message, "id": number})
        return answer

    # ------------------------------------------------------------------------------------------------------------------

    def close(self, timeout_s: float = 2.0) -> None:
        """Leave all processes; they end if nobody else uses them."""
        with self._changed:
            self.closing = True
            channel = self._channel
            self._changed.notify_all()
        if channel is not None:
            channel.close()

    def _tell(self, message: Message) -> None:
        channel = self._channel
        if channel is not None:
            channel.send(message)

    def _ask(self, message: Message, file: int = -1) -> Any:
        """file: to send along; it stays the caller's."""
        until = time.monotonic() + _AWAY_S
        while True:
            channel = self._wait_for_manager(until)
            number = next(self._numbers)
            answer: Future[Any] = Future()
            with self._changed:
                if self._channel is not channel:
                    continue
                self._asked[number] = answer
            channel.send({**message, "id": number}, _copy_of(file))
            try:
                limit_s = self.settings.model_load_timeout_s
                return answer.result(None if limit_s is None else limit_s + _ANSWER_S)
            except ManagerLost:
                continue
            except TimeoutError:
                raise BackendError("ERR the manager of the engine processes does not answer") from None
            finally:
                self._asked.pop(number, None)

    def _wait_for_manager(self, until: float) -> Channel:
        with self._changed:
            while self._channel is None:
                left_s = until - time.monotonic()
                if self.closing or left_s <= 0:
                    raise BackendError("ERR the manager of the engine processes is not there")
                self._changed.wait(left_s)
            return self._channel

    # -- messages ------------------------------------------------------------------------------------------------------

    def _live(self, door: RemoteDoor) -> None:
        while (sock := self._next()) is not None:
            channel = Channel(sock)
            self._recall(channel)
            with self._changed:
                self._channel = channel
                if self.closing:
                    channel.close()
                self._changed.notify_all()
            while (received := channel.receive()) is not None:
                self._do(door, *received)
            self._lose(channel)
            door.manager_lost()

    def _next(self) -> socket.socket | None:
        try:
            word, fds, _, _ = socket.recv_fds(self._managers, 1, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return None
        return socket.socket(fileno=fds[0]) if word and fds else None

    def _recall(self, channel: Channel) -> None:
        """Tell a new manager what its predecessor knew."""
        records = [(identity, astuple(strikes)) for identity, strikes in self.quarantine.records().items()]
        for at in range(0, len(records), _AT_ONCE):
            channel.send({"op": "recall", "strikes": dict(records[at : at + _AT_ONCE])})

    def _lose(self, channel: Channel) -> None:
        with self._changed:
            self._channel = None
            asked, self._asked = list(self._asked.values()), {}
        channel.close()
        for answer in asked:
            if answer.set_running_or_notify_cancel():
                answer.set_exception(ManagerLost())

    def _do(self, door: RemoteDoor, message: Message, fd: int) -> None:
        match message["op"]:
            case "placed" if fd < 0:  # no files are left here
                self.leave(door, message["session"], message["process"])
            case "placed":
                control = socket.socket(fileno=fd)
                door.placed(message["session"], Placement(message["process"], message["program"], control))
            case "answer":
                self._answered(message, fd)
            case "ended":
                door.has_ended(message["process"])
            case "judged":
                door.judged(message["process"], Verdict(*message["verdict"]))
            case "record":
                strikes = message["strikes"]
                self.quarantine.record(message["identity"], None if strikes is None else Strikes(*strikes))

    def _answered(self, message: Message, fd: int) -> None:
        answer = self._asked.pop(message["id"], None)
        if answer is None or not answer.set_running_or_notify_cancel():
            if fd >= 0:
                os.close(fd)
        elif "file" in message:
            answer.set_result(fd)
        elif "value" in message:
            answer.set_result(message["value"])
        else:
            kind = BackendNotInstalled if message["missing"] else BackendError
            answer.set_exception(kind(message["error"]))


def _copy_of(file: int) -> int:
    try:
        return os.dup(file) if file >= 0 else -1
    except OSError:  # no files are left: then others read it themselves
        return -1
