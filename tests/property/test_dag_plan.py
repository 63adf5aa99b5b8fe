"""A DAG executed in any order the plan allows, with any failures, tells the client what the sequential run would."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from redisai_py.engine.dag import Graph, Operation, OperationKind, Outcome, Plan, Version

NAMES = "abcd"


@dataclass
class Sequential:
    """One operation after the other, as a reader of the command would."""

    operations: list[Operation]
    failing: set[int]
    scope: dict[str, object] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    read: list[object] = field(default_factory=list)

    def run(self, loaded: list[str]) -> None:
        self.scope = {name: ("loaded", name) for name in loaded}
        failed = False
        for i, operation in enumerate(self.operations):
            absent = any(self.scope[str(name)] is None for name in operation.reads)
            inputs = [self.scope[str(name)] for name in operation.reads]
            self.read.append(inputs)
            if operation.kind is OperationKind.TENSOR:
                self.outcomes.append(Outcome.OK)
            elif failed:
                self.outcomes.append(Outcome.NOT_RUN)
            else:
                assert not absent
                failed = i in self.failing
                self.outcomes.append(Outcome.FAILED if failed else Outcome.OK)
            present = self.outcomes[i] is Outcome.OK
            for position, name in enumerate(operation.writes):
                self.scope[str(name)] = (i, position, tuple(inputs)) if present else None


@st.composite
def dags(draw: st.DrawFn) -> tuple[list[Operation], list[str], set[int]]:
    loaded = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True))
    known = list(loaded)
    operations: list[Operation] = []
    for _ in range(draw(st.integers(1, 10))):
        kind = draw(
            st.sampled_from([OperationKind.TENSOR, OperationKind.MODEL, OperationKind.MODEL, OperationKind.SCRIPT])
        )
        sets = kind is not OperationKind.TENSOR or draw(st.booleans())
        some_known = st.lists(st.sampled_from(known), min_size=1, max_size=3)
        reads = () if kind is OperationKind.TENSOR and sets else tuple(draw(some_known))
        writes = tuple(draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3))) if sets else ()
        operations.append(Operation(kind, reads, writes))
        known = sorted({*known, *writes})
    failing = draw(st.sets(st.integers(0, len(operations) - 1), max_size=3))
    return operations, loaded, failing


class Parallel:
    """Starts what is ready and ends what runs in an order that hypothesis chooses."""

    def __init__(self, operations: list[Operation], loaded: list[str], failing: set[int]) -> None:
        self.operations = operations
        self.failing = failing
        self.plan = Plan(Graph(operations, loaded))
        self.values: dict[Version, object] = {Version(name, -1): ("loaded", name) for name in loaded}
        self.running: list[int] = []
        self.started: list[int] = []
        for i, operation in enumerate(operations):
            if operation.kind is OperationKind.TENSOR and operation.writes:
                self._write(i)

    def _write(self, i: int) -> None:
        inputs = tuple(self.values[version] for version in self.plan.graph.inputs[i])
        for position, name in enumerate(self.operations[i].writes):
            self.values[Version(name, i)] = (i, position, inputs)

    def run(self, data: st.DataObject) -> None:
        self._start()
        while self.running:
            i = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
            assert not self.plan.done
            if i in self.failing:
                self.plan.fail(i)
            else:
                self._write(i)
                self.plan.finish(i)
            if data.draw(st.booleans()) or not self.running:
                self._start()
        assert self.plan.done

    def _start(self) -> None:
        ready = self.plan.ready()
        for i in ready:
            assert all(version in self.values for version in self.plan.graph.inputs[i])
        scripts = [i for i in self.running + ready if self.operations[i].kind is OperationKind.SCRIPT]
        assert len(scripts) <= 1
        self.running += ready
        self.started += ready


@given(dags(), st.data())
def test_the_reply_is_that_of_the_sequential_run(
    dag: tuple[list[Operation], list[str], set[int]], data: st.DataObject
) -> None:
    operations, loaded, failing = dag
    sequential = Sequential(operations, failing)
    sequential.run(loaded)
    parallel = Parallel(operations, loaded, failing)
    parallel.run(data)
    plan = parallel.plan

    assert [plan.outcome(i) for i in range(len(operations))] == sequential.outcomes
    assert plan.succeeded == (Outcome.FAILED not in sequential.outcomes)
    for i in range(len(operations)):
        seen = [parallel.values[v] if plan.exists(v) else None for v in plan.graph.inputs[i]]
        assert seen == sequential.read[i]
    for name, value in sequential.scope.items():
        version = plan.graph.last[name]
        assert (parallel.values[version] if plan.exists(version) else None) == value


@given(dags(), st.data())
def test_each_operation_is_started_once_and_scripts_in_their_order(
    dag: tuple[list[Operation], list[str], set[int]], data: st.DataObject
) -> None:
    operations, loaded, _ = dag
    parallel = Parallel(operations, loaded, set())
    parallel.run(data)
    work = [i for i, operation in enumerate(operations) if operation.kind is not OperationKind.TENSOR]
    scripts = [i for i in parallel.started if operations[i].kind is OperationKind.SCRIPT]
    assert sorted(parallel.started) == work
    assert scripts == sorted(scripts)
