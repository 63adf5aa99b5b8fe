"""Models in their engine process, each once, however many front doors use it. One thread at a time runs a model unless
its session allows more.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from redisai_py.backend import Array, Session, runs_concurrently
from redisai_py.engine.isolation.vital import or_end, reserve

__all__ = ["Hosted", "Programs", "Unloaded"]


class Unloaded(Exception):
    """The model was unloaded before its run ended, so the run says nothing of it: it is repeated where the model is."""


class Hosted:
    """session: of the framework.   exclusive: one thread at a time may enter it.   guard: held during each run."""

    __slots__ = ("_closed", "_programs", "exclusive", "guard", "session")

    def __init__(self, session: Session, programs: Programs) -> None:
        self.session = session
        self._closed = False
        self._programs = programs
        self.exclusive = not runs_concurrently(session)
        self.guard: AbstractContextManager[object] = threading.Lock() if self.exclusive else nullcontext()

    def run(self, inputs: Sequence[Array], keep: bool) -> list[Array | None]:
        """Run it (`Session.run`). If it leaves the other models no memory, the process ends. Raises also: Unloaded."""
        try:
            outputs = self.session.run(inputs, keep)
        except BaseException:
            if self._closed:
                raise Unloaded from None
            raise
        self._programs.look_after_others()
        return outputs

    def terminate(self, thread_id: int | None) -> None:
        """Stop the run on that thread. A framework that cannot stop goes on: the server kills the process then."""
        try:
            if self.exclusive:
                self.session.terminate()
            else:
                self.session.terminate(thread_id)  # type: ignore[call-arg]  # a ConcurrentSession's
        except Exception:
            traceback.print_exc()

    def close(self) -> None:
        """Close the session; what it says of runs from now on says nothing of the model."""
        self._closed = True
        with self.guard:
            self.session.close()


class _Entry:
    """references: of front doors that have it or wait for its load."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.references = 0
        self.hosted: Hosted | None = None
        self.error: BaseException | None = None


class Programs:
    """The models by the manager's numbers. Thread: any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[int, _Entry] = {}

    def load(self, number: int, build: Callable[[], Session]) -> tuple[Hosted, bool]:
        """One more reference to a model, which is loaded if it is not; `release` ends it.

        Returns: also whether it was there, or being loaded, before. Raises: what `build` raises, to all that wait.
        """
        with self._lock:
            entry = self._entries.get(number)
            was_there = entry is not None
            entry = entry or self._entries.setdefault(number, _Entry())
            entry.references += 1
        if was_there:
            entry.ready.wait()
        else:
            self._build(number, entry, build)
        if entry.error is not None:
            raise entry.error
        assert entry.hosted is not None
        return entry.hosted, was_there

    def look_after_others(self) -> None:
        """After a load or a run, which is still under way for the server: if several models are here, and it has taken
        all memory that the process may have, the process ends, so that it is repeated in one of its own.
        """
        if len(self._entries) > 1:
            or_end(reserve)

    def _build(self, number: int, entry: _Entry, build: Callable[[], Session]) -> None:
        try:
            entry.hosted = Hosted(build(), self)
        except BaseException as error:  # of whatever kind: the front doors are told
            entry.error = error
            with self._lock:
                del self._entries[number]
        finally:
            entry.ready.set()

    def release(self, number: int) -> None:
        """One reference less; the last one closes the session."""
        with self._lock:
            entry = self._entries[number]
            entry.references -= 1
            if entry.references:
                return
            del self._entries[number]
        assert entry.hosted is not None
        entry.hosted.close()
