"""The order in which a DAG's operations may be executed, and the reply of each. Pure.

Names are local to the DAG and may be assigned repeatedly: every assignment makes a new version, and an operation reads
the latest version assigned before it in the text. Independent operations are executed in any order, except that script
operations keep their textual order, because they may talk to Redis.

Whatever the order, the outcome is that of a sequential run: operations before the first failing one (by position, not
by time) succeeded, and every model or script operation after it counts as not executed, even if it was.
Source: AI.DAG* commands, scoping and replies; the order of failures is ours.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Graph", "Operation", "OperationKind", "Outcome", "Plan", "Version"]


class OperationKind(enum.Enum):
    """TENSOR operations (TENSORSET, TENSORGET) take no time: their tensors exist from the start."""

    TENSOR = "tensor"
    MODEL = "model"
    SCRIPT = "script"


class Outcome(enum.Enum):
    """An operation's element of the reply: its result, its error, or `NA`."""

    OK = "ok"
    FAILED = "failed"
    NOT_RUN = "not run"


_TENSOR, _OK = OperationKind.TENSOR, Outcome.OK  # an enum looks its members up with Python code, each time


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation, as the plan needs it: the names it reads and writes, in order."""

    kind: OperationKind
    reads: tuple[Hashable, ...] = ()
    writes: tuple[Hashable, ...] = ()


class Version(NamedTuple):
    """The value of a name after one operation; `writer` is that operation's position, -1 for a loaded key.

    If an operation writes a name twice, there is one version, with the value of the later output.
    """

    name: Hashable
    writer: int


_LOADED = -1


class Graph:
    """The dependencies: the part of a DAG that is the same in each execution. Made once, executed often.

    Args:   loaded: names that exist before the first operation.
    Raises: KeyError: an operation reads a name that is neither loaded nor written before it.
    """

    __slots__ = ("inputs", "last", "needs", "operations")

    def __init__(self, operations: Sequence[Operation], loaded: Iterable[Hashable] = ()) -> None:
        self.operations = tuple(operations)
        self.last: dict[Hashable, Version] = {name: Version(name, _LOADED) for name in loaded}
        """The version of each name after the last operation: what PERSIST saves."""
        self.inputs: list[tuple[Version, ...]] = []
        """Per operation, the versions that it reads, in the order of its `reads`."""
        self.needs: dict[int, frozenset[int]] = {}
        """Model and script operations -> the operations that must end before."""
        previous_script: int | None = None
        for i, operation in enumerate(self.operations):
            inputs = tuple(self.last[name] for name in operation.reads)
            self.inputs.append(inputs)
            self.last.update((name, Version(name, i)) for name in operation.writes)
            if operation.kind is OperationKind.TENSOR:
                continue
            needs = {version.writer for version in inputs if self._is_computed(version)}
            if operation.kind is OperationKind.SCRIPT:
                if previous_script is not None:
                    needs.add(previous_script)
                previous_script = i
            self.needs[i] = frozenset(needs)

    def _is_computed(self, version: Version) -> bool:
        return version.writer != _LOADED and self.operations[version.writer].kind is not OperationKind.TENSOR


class Plan:
    """One execution of a DAG: call `ready`, start those, report each with `finish` or `fail`, until `done`."""

    __slots__ = ("_finished", "_first_failed", "_operations", "_running", "_waits_for", "graph")

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._operations = graph.operations
        self._waits_for = dict(graph.needs)  # operations not started -> those they need
        self._running: set[int] = set()
        self._finished: set[int] = set()
        self._first_failed = len(self._operations)

    def ready(self) -> list[int]:
        """Model and script operations to start now, in textual order; each is returned once."""
        if not self._waits_for:
            return []
        started = [i for i, needs in self._waits_for.items() if i < self._first_failed and needs <= self._finished]
        for i in started:
            del self._waits_for[i]
        self._running.update(started)
        return started

    def finish(self, i: int) -> None:
        """A started operation succeeded."""
        self._running.remove(i)
        self._finished.add(i)

    def fail(self, i: int) -> None:
        """A started operation failed: later operations are not started any more, earlier ones still are."""
        self._running.remove(i)
        self._first_failed = min(self._first_failed, i)

    @property
    def done(self) -> bool:
        """Nothing is running and nothing is left to start."""
        if self._running:
            return False
        return not self._waits_for or all(i > self._first_failed for i in self._waits_for)

    @property
    def whole(self) -> bool:
        """Every operation has been executed, and none has failed."""
        return not (self._waits_for or self._running) and self._first_failed == len(self._operations)

    @property
    def succeeded(self) -> bool:
        """No operation has failed; only then are keys persisted."""
        return self._first_failed == len(self._operations)

    def precedes_failure(self, i: int) -> bool:
        """Whether a sequential run reaches operation `i` and continues after it."""
        return i < self._first_failed

    def outcome(self, i: int) -> Outcome:
        """The reply's element for operation `i`, once `done`. TENSOR ones are always OK: see `exists` for TENSORGET."""
        if self._operations[i].kind is _TENSOR or (i in self._finished and i < self._first_failed):
            return _OK
        return Outcome.FAILED if i == self._first_failed else Outcome.NOT_RUN

    def exists(self, version: Version) -> bool:
        """Whether a version was loaded, set, or computed by an operation whose outcome is OK."""
        return version.writer == _LOADED or self.outcome(version.writer) is _OK
