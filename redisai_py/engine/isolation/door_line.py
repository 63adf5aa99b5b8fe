"""A front door, as the manager's process sees it: what it asks for, and what it is told."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import structlog

from redisai_py.engine.isolation.channel import Channel, Message
from redisai_py.engine.isolation.managed import Placement, Wanted
from redisai_py.engine.isolation.manager import Manager
from redisai_py.engine.isolation.quarantine import Strikes
from redisai_py.engine.isolation.verdicts import Suspect, Verdict
from redisai_py.errors import BackendNotInstalled, RedisAIError

__all__ = ["DoorLine"]

logger = structlog.get_logger()


class DoorLine:
    """A `managed.Door`. ended: called at the front door's end, on a thread of ours."""

    def __init__(self, manager: Manager, channel: Channel, ended: Callable[[DoorLine], object]) -> None:
        self._manager = manager
        self._channel = channel
        self._ended = ended
        self._thread = threading.Thread(target=self._listen, name="redisai front door", daemon=True)

    def open(self) -> None:
        """Tell it who is in quarantine, and listen to it."""
        self._manager.welcome(self)
        with self._manager.record_lock:
            for identity, strikes in self._manager.quarantine.records().items():
                self.tell_record(identity, strikes)
        self._thread.start()

    def _listen(self) -> None:
        try:
            while (received := self._channel.receive()) is not None:
                self._do(*received)
        except Exception:  # a front door that sends what makes no sense loses its processes
            logger.exception("a front door's message makes no sense")
        self._manager.left(self)
        self._channel.close()
        self._ended(self)

    def _do(self, message: Message, fd: int) -> None:
        manager = self._manager
        match message["op"]:
            case "place":
                wanted = Wanted(**message["wanted"])
                self._answer_later(message["id"], lambda: manager.place(self, wanted, fd), fd)
            case "import":
                self._answer_later(message["id"], lambda: manager.import_backend(message["backend"]))
            case "claim" | "release" | "file":
                self._share(message)
            case "leave":
                manager.leave(self, message["session"], message["process"])
            case "kill":
                manager.kill(message["process"], message["program"], message["why"])
            case "ended":
                manager.ended(self, message["process"], [Suspect(*each) for each in message["suspects"]])
            case "rename":
                manager.rename(message["before"], message["identity"])
                self._channel.send({"op": "answer", "id": message["id"], "value": None})
            case "clear":
                manager.clear(message["identity"])
            case "recall":
                self._recall(message["strikes"])

    def _recall(self, records: dict[str, list[Any]]) -> None:
        for identity, strikes in records.items():
            self._manager.recall(identity, Strikes(*strikes))

    def _share(self, message: Message) -> None:
        """What front doors read only once."""
        manager = self._manager
        match message["op"]:
            case "claim":
                claimant = self, message["id"]
                manager.claims.announce(claimant)
                self._answer_later(message["id"], lambda: manager.claims.take(claimant, message["what"]))
            case "release":
                manager.claims.release((self, message["number"]))
            case "file":
                fd = manager.file_of(message["identity"])
                self._channel.send({"op": "answer", "id": message["id"], "file": fd >= 0}, fd)

    def _answer_later(self, number: int, work: Callable[[], Any], fd: int = -1) -> None:
        """Do what may take seconds on a thread of its own. fd: a file to close then."""
        threading.Thread(target=self._answer, args=(number, work, fd), name="redisai placing", daemon=True).start()

    def _answer(self, number: int, work: Callable[[], Any], fd: int) -> None:
        try:
            answer: Message = {"value": work()}
        except RedisAIError as error:
            answer = {"error": str(error), "missing": isinstance(error, BackendNotInstalled)}
        except Exception as error:
            logger.exception("a front door's request failed")
            answer = {"error": f"ERR an engine process cannot be started: {error}", "missing": False}
        finally:
            if fd >= 0:
                os.close(fd)
        self._channel.send({"op": "answer", "id": number, **answer})

    # -- managed.Door --------------------------------------------------------------------------------------------------

    def placed(self, session: int, placement: Placement) -> None:
        message = {"op": "placed", "session": session, "process": placement.process, "program": placement.program}
        self._channel.send(message, placement.control.detach())

    def has_ended(self, process: int) -> None:
        self._channel.send({"op": "ended", "process": process})

    def judged(self, process: int, verdict: Verdict) -> None:
        self._channel.send({"op": "judged", "process": process, "verdict": verdict})

    # ------------------------------------------------------------------------------------------------------------------

    def tell_record(self, identity: str, strikes: Strikes | None) -> None:
        """A model's record in quarantine's book has changed; None: it has none any more."""
        record = None if strikes is None else [strikes.count, strikes.how, strikes.in_load]
        self._channel.send({"op": "record", "identity": identity, "strikes": record})
