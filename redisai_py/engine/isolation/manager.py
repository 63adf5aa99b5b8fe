"""The manager of engine processes: starts them, decides which model is in which, and judges their ends.

A server with one process has its manager within; several front doors share one in a process of its own (docs/adr/0048).
So whatever the number of front doors, a model is loaded once, a GPU has one process, and a model that ends its
processes is in quarantine for all. Runs and loads do not come here: each front door speaks with the processes itself.

Each CPU model has its own process while there are few; further models share, by backend. A model suspected of having
ended a process is alone in its next one. Each GPU has one process, for all of its models. A process without a model
ends. Nothing is started before the first model; from then on a spare process waits for the next one.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from redisai_py.engine.isolation.claims import Claims
from redisai_py.engine.isolation.managed import Door, ManagedProcess, Placement, Wanted
from redisai_py.engine.isolation.model_files import ModelFiles
from redisai_py.engine.isolation.quarantine import Quarantine, Strikes
from redisai_py.engine.isolation.settings import IsolationSettings
from redisai_py.engine.isolation.spares import Spares
from redisai_py.engine.isolation.verdicts import Suspect, Verdict, by_program, culprit_of
from redisai_py.engine.isolation.zygotes import Zygote
from redisai_py.errors import BackendError, Overloaded, RedisAIError

__all__ = ["Manager"]

_TESTIMONY_S = 2.0
"""Seconds for the zygote and the front doors to say how a process ended, and what was under way."""

logger = structlog.get_logger()


class Manager:
    """Args: record_changed: called with a model's identity and its record in `quarantine`; None: none any more. Not for
    two changes at a time. Thread: any.
    """

    def __init__(
        self,
        settings: IsolationSettings,
        record_changed: Callable[[str, Strikes | None], object] = lambda identity, strikes: None,
    ) -> None:
        self.settings = settings
        self.quarantine = Quarantine()
        self._record_changed = record_changed
        self.record_lock = threading.Lock()
        """Held while a record changes and front doors are told, whoever caused it among them: so all of them, in the
        end, know what is true here."""
        self.shared = False
        self.closing = False
        self._numbers = itertools.count(time.time_ns())
        """Not those of an earlier manager, whose processes front doors may still mean."""
        self._lock = threading.Lock()
        self._doors: list[Door] = []
        self._processes: dict[int, ManagedProcess] = {}
        self._zygotes: dict[str, Zygote] = {}
        self._spares = Spares(self._start_spare)
        self._files = ModelFiles()
        self.claims: Claims[Door] = Claims()
        """What a front door does for all."""

    # -- front doors ---------------------------------------------------------------------------------------------------

    def welcome(self, door: Door) -> None:
        """One more front door."""
        with self._lock:
            self._doors.append(door)

    def left(self, door: Door) -> None:
        """A front door has ended, and says nothing more."""
        with self._lock:
            self._doors.remove(door)
            for process in self._processes.values():
                process.lost_a_door = process.lost_a_door or door in process.doors
                for user in [user for user in process.programs.users() if user[0] is door]:
                    process.programs.remove(user)
                process.waits_for = [each for each in process.waits_for if each is not door]
            for user in [user for user in self._files.users() if user[0] is door]:
                self._files.drop(user)
            processes = list(self._processes.values())
        self.claims.left(door)
        for process in processes:
            self._end_if_unused(process)
            self._judge_if_complete(process)

    def look(self) -> None:
        """Return at once unless the manager hangs."""
        with self._lock:
            pass

    # -- models --------------------------------------------------------------------------------------------------------

    def place(self, door: Door, wanted: Wanted, file: int = -1) -> int:
        """Find a process for a model, and tell the front door which (`Door.placed`) before this returns.

        Args:    file: the model's, to be given to other front doors (`file_of`); it stays the caller's.
        Returns: the process's id, 0 if it is not known.
        Raises:  BackendNotInstalled, BackendError: there can be none.
        """
        try:
            process = self._place(door, wanted, file) or self._place(
                door, wanted, file, self._ready_zygote(wanted.zygote)
            )
            assert process is not None
        except OSError as error:
            raise BackendError(f"ERR an engine process cannot be started: {error.strerror}") from error
        if wanted.takes_spare:
            self._spares.prepare(wanted.backend)
        return process.wait_started()

    def _place(self, door: Door, wanted: Wanted, file: int, zygote: Zygote | None = None) -> ManagedProcess | None:
        """See `place`. zygote: to fork from; without one there may be no process. Raises: OSError."""
        fresh = False
        with self._lock:
            if door not in self._doors:  # it has ended meanwhile, and nothing would ever leave
                raise Overloaded("ERR the front door has ended")
            process = self._choose(wanted)
            if process is None:
                if zygote is None:
                    return None
                process = ManagedProcess(next(self._numbers), wanted.place, wanted.alone, zygote, self._exited)
                fresh = True
            program = process.programs.number_of(wanted.identity) or next(self._numbers)
            control = process.join()
            self._processes[process.number] = process
            process.programs.add((door, wanted.session), program, wanted.identity)
            if file >= 0:
                self._files.keep((door, wanted.session), wanted.identity, file)
            door.placed(wanted.session, Placement(process.number, program, control))
        if fresh:
            self._fork(process, "script" if wanted.scripts else "engine")
            if process.retired:  # the front door has ended meanwhile
                process.kill()
        return process

    def leave(self, door: Door, session: int, number: int) -> None:
        """A model has left its process, which ends if no other model is there."""
        with self._lock:
            self._files.drop((door, session))
            process = self._processes.get(number)
            if process is not None:
                process.programs.remove((door, session))
        if process is not None:
            self._end_if_unused(process)

    def rename(self, before: str, identity: str) -> None:
        """A loaded model has another identity from now on."""
        with self.record_lock:
            strikes = self.quarantine.rename(before, identity)
            if strikes is not None:
                self._record_changed(before, None)
                self._record_changed(identity, strikes)
        with self._lock:
            self._files.rename(before, identity)
            for process in self._processes.values():
                process.programs.rename(before, identity)

    def file_of(self, identity: str) -> int:
        """A descriptor of a model's file, for the caller to close; -1: no front door has brought one."""
        with self._lock:
            return self._files.open(identity)

    def clear(self, identity: str) -> None:
        """A model ran well, or exists no more: its record is clean."""
        with self.record_lock:
            self.quarantine.forget(identity)
            self._record_changed(identity, None)

    def recall(self, identity: str, strikes: Strikes) -> None:
        """A front door remembers a model's record from an earlier manager."""
        with self.record_lock:
            if self.quarantine.recall(identity, strikes):
                self._record_changed(identity, strikes)

    def import_backend(self, name: str) -> str:
        """Import a backend where processes will be forked. Returns: its version.

        Raises: BackendNotInstalled, BackendError.
        """
        return self._ready_zygote(name).version

    def _choose(self, wanted: Wanted) -> ManagedProcess | None:
        """A process for a model, of those that are there. Under the lock."""
        on_gpu = wanted.gpu is not None
        there = [each for each in self._processes.values() if each.place == wanted.place]
        for process in there:
            process.full = process.full or (process.number == wanted.full and not on_gpu)
        there = [each for each in there if not (each.gone or each.retired or each.full or wanted.scripts)]
        for process in there:
            if process.programs.number_of(wanted.identity) and (process.alone or not wanted.alone):
                return process
        shared = [process for process in there if not process.alone]
        if not wanted.alone and len(shared) >= (1 if on_gpu else self.settings.engine_processes):
            return min(shared, key=lambda process: len(process.programs))
        spare = self._spares.take(wanted.backend) if wanted.takes_spare else None
        if spare is not None:
            spare.alone = wanted.alone
            self._processes[spare.number] = spare
        return spare

    def _start_spare(self, backend: str) -> ManagedProcess | None:
        """A process that no model has, or None if there can be none."""
        try:
            process = ManagedProcess(next(self._numbers), backend, False, self._ready_zygote(backend), self._exited)
            self._fork(process, "spare")
        except (RedisAIError, OSError) as error:
            if not self.closing:
                logger.warning("there is no spare engine process", backend=backend, reason=str(error))
            return None
        return process

    def _fork(self, process: ManagedProcess, kind: str) -> None:
        # Scripts get their limit with their lane: a GPU's context is not counted.
        limit_bytes = 0 if kind == "script" else self.settings.engine_memory_limit_bytes
        process.fork(limit_bytes, self.settings.worker_nice, kind)

    def _end_if_unused(self, process: ManagedProcess) -> None:
        with self._lock:
            unused = not (process.programs or process.gone or process.retired)
            process.retired = process.retired or unused
        if unused:
            process.kill()

    # -- zygotes -------------------------------------------------------------------------------------------------------

    def _zygote(self, backend: str) -> Zygote:
        with self._lock:
            if self.closing:
                raise Overloaded("ERR the server is shutting down")
            zygote = self._zygotes.get(backend)
            if zygote is None or not zygote.alive:
                zygote = self._zygotes[backend] = Zygote(backend, self._zygote_ended)
            return zygote

    @property
    def zygotes(self) -> list[Zygote]:
        """Those that can fork now."""
        with self._lock:
            return [zygote for zygote in self._zygotes.values() if zygote.was_ready and zygote.alive]

    def adopt(self, backend: str, control: socket.socket) -> None:
        """A copy of another manager's zygote is this one's."""
        with self._lock:
            if backend in self._zygotes:
                control.close()
            else:
                self._zygotes[backend] = Zygote(backend, self._zygote_ended, control)

    def _ready_zygote(self, backend: str) -> Zygote:
        """One that can fork. Raises: BackendNotInstalled, BackendError."""
        zygote = self._zygote(backend)
        try:
            zygote.wait_ready(self.settings.model_load_timeout_s)
        except TimeoutError:
            zygote.close()
            ms = self.settings.model_load_timeout_ms
            text = f"ERR Could not load backend: importing {zygote.backend} took longer than --model-load-timeout-ms"
            raise BackendError(f"{text} ({ms} ms)") from None
        return zygote

    def _zygote_ended(self, zygote: Zygote) -> None:
        with self._lock:
            if self._zygotes.get(zygote.backend) is zygote:
                del self._zygotes[zygote.backend]
        if zygote.was_ready and not self.closing:  # its processes live on; the next load need not wait for an import
            logger.warning("the process that forks engine processes ended; starting it again", backend=zygote.backend)
            with suppress(Overloaded):
                self._zygote(zygote.backend)

    # -- the end of a process ------------------------------------------------------------------------------------------

    def kill(self, number: int, program: int, why: str) -> None:
        """Kill a process immediately. program: the one to blame, 0 for none."""
        with self._lock:
            process = self._processes.get(number)
            if process is not None and program and not process.blamed:
                process.blamed, process.blamed_for = program, why
        if process is not None:
            process.kill()

    def ended(self, door: Door, number: int, suspects: Sequence[Suspect]) -> None:
        """A front door has noticed the end of a process, or was asked: what it had under way there."""
        process = self._processes.get(number)
        if process is not None:
            self._has_ended(process, door, suspects)

    def _exited(self, process: ManagedProcess) -> None:
        with self._lock:
            known = process.number in self._processes  # a spare process is not
            if process.retired:
                self._processes.pop(process.number, None)
        if known and not process.retired:
            self._has_ended(process)

    def _has_ended(
        self, process: ManagedProcess, witness: Door | None = None, suspects: Sequence[Suspect] = ()
    ) -> None:
        with self._lock:
            first = not process.gone
            if first:
                process.gone = True
                process.waits_for = process.doors
            if witness is not None and witness not in process.witnesses:
                process.witnesses.append(witness)
                process.suspects += suspects
                process.waits_for = [each for each in process.waits_for if each is not witness]
            asked = list(process.waits_for) if first else []
        if first:
            process.kill()  # whoever saw a socket end may be wrong about the rest of it
            timer = threading.Timer(_TESTIMONY_S, self._judge, (process,))
            timer.daemon = True
            timer.start()
        for door in asked:
            door.has_ended(process.number)
        self._judge_if_complete(process)

    def _judge_if_complete(self, process: ManagedProcess) -> None:
        if process.gone and process.reported and not process.waits_for:
            self._judge(process)

    def _judge(self, process: ManagedProcess) -> None:
        """Find the culprit, and tell the front doors."""
        with self._lock:
            if process.judged:
                return
            process.judged = True
            self._processes.pop(process.number, None)
            doors = list(dict.fromkeys([*process.witnesses, *process.doors]))
            doors = [door for door in doors if door in self._doors]
        verdict = Verdict(process.how) if self.closing else self._verdict(process)
        verdict = verdict._replace(status=process.status)
        for door in doors:
            door.judged(process.number, verdict)
            verdict = verdict._replace(counts=False)

    def _verdict(self, process: ManagedProcess) -> Verdict:
        how = process.how
        suspects = by_program(process.suspects)
        culprit = culprit_of(suspects, process.blamed, process.by_itself and not process.out_of_memory)
        names = sorted(suspect.name for suspect in suspects.values())
        logger.error("an engine process ended", pid=process.pid, place=process.place, how=how, at_work_for=names)
        identity = process.programs.identity_of(culprit)
        if not identity:
            return Verdict(how, 0, tuple(suspects) if process.by_itself else (), True)
        in_load = culprit in suspects and suspects[culprit].in_load
        with self.record_lock:
            self._record_changed(identity, self.quarantine.struck(identity, how, in_load))
        return Verdict(how, culprit, (culprit,), True)

    # -- the whole -----------------------------------------------------------------------------------------------------

    def close(self, timeout_s: float = 2.0) -> None:
        """Kill every process. Returns when they have ended, or after `timeout_s`."""
        until = time.monotonic() + timeout_s
        with self._lock:
            self.closing = True
            processes = [*self._processes.values(), *self._spares.all()]
            zygotes = {*self._zygotes.values(), *(process.zygote for process in processes)}
        for process in processes:
            process.kill()
        for zygote in zygotes:
            zygote.close()
        for zygote in zygotes:
            zygote.thread.join(max(0.0, until - time.monotonic()))
