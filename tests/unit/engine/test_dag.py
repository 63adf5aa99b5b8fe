"""DAG plans by example; tests/property/test_dag_plan.py holds them against the sequential run."""

from __future__ import annotations

import pytest

from redisai_py.engine.dag import Graph, Operation, OperationKind, Outcome, Plan, Version


def model(reads: str, writes: str) -> Operation:
    return Operation(OperationKind.MODEL, tuple(reads), tuple(writes))


def script(reads: str, writes: str) -> Operation:
    return Operation(OperationKind.SCRIPT, tuple(reads), tuple(writes))


def tensor_set(name: str) -> Operation:
    return Operation(OperationKind.TENSOR, (), (name,))


def tensor_get(name: str) -> Operation:
    return Operation(OperationKind.TENSOR, (name,))


def test_independent_operations_are_ready_together_and_dependent_ones_wait() -> None:
    plan = Plan(Graph([model("a", "x"), model("a", "y"), model("xy", "z")], "a"))
    assert plan.ready() == [0, 1]
    assert plan.ready() == []
    plan.finish(1)
    assert plan.ready() == []
    plan.finish(0)
    assert plan.ready() == [2]
    assert not plan.done
    plan.finish(2)
    assert plan.done
    assert plan.succeeded


def test_a_reader_sees_the_latest_version_before_it() -> None:
    plan = Plan(Graph([tensor_get("a"), tensor_set("a"), tensor_get("a"), model("a", "a"), tensor_get("a")], "a"))
    assert [plan.graph.inputs[i] for i in (0, 2, 3, 4)] == [
        (Version("a", -1),),
        (Version("a", 1),),
        (Version("a", 1),),
        (Version("a", 3),),
    ]
    assert plan.graph.last["a"] == Version("a", 3)
    assert plan.ready() == [3]


def test_scripts_keep_their_order_among_themselves_only() -> None:
    plan = Plan(Graph([script("a", "x"), script("a", "y"), model("a", "z")], "a"))
    assert plan.ready() == [0, 2]
    plan.finish(0)
    assert plan.ready() == [1]


def test_the_example_of_the_specification() -> None:
    """add2 runs, boom fails, the rest is NA, but tensors that were set or computed before are there."""
    operations = [
        tensor_set("p"),
        model("aa", "x"),
        model("a", "y"),
        model("xa", "q"),
        tensor_get("p"),
        tensor_get("x"),
        tensor_get("y"),
        tensor_set("z"),
    ]
    plan = Plan(Graph(operations, "a"))
    assert plan.ready() == [1, 2]
    plan.fail(2)
    plan.finish(1)
    assert plan.ready() == []
    assert plan.done
    assert not plan.succeeded
    assert [plan.outcome(i) for i in range(8)] == [
        *(Outcome.OK, Outcome.OK, Outcome.FAILED, Outcome.NOT_RUN),
        *[Outcome.OK] * 4,
    ]
    assert [plan.exists(plan.graph.inputs[i][0]) for i in (4, 5, 6)] == [True, True, False]


def test_what_ran_after_the_first_failing_position_counts_as_never_run() -> None:
    plan = Plan(Graph([model("a", "x"), model("a", "y"), tensor_get("y")], "a"))
    assert plan.ready() == [0, 1]
    plan.finish(1)
    plan.fail(0)
    assert plan.outcome(1) is Outcome.NOT_RUN
    assert not plan.exists(Version("y", 1))
    assert not any(plan.precedes_failure(i) for i in range(3))


def test_operations_before_a_failed_one_are_still_started_and_the_earliest_failure_counts() -> None:
    plan = Plan(Graph([model("a", "x"), model("x", "y"), model("a", "z"), model("z", "w")], "a"))
    assert plan.ready() == [0, 2]
    plan.fail(2)
    plan.finish(0)
    assert plan.ready() == [1]
    assert not plan.done
    plan.fail(1)
    assert plan.done
    assert [plan.outcome(i) for i in range(4)] == [
        Outcome.OK,
        Outcome.FAILED,
        Outcome.NOT_RUN,
        Outcome.NOT_RUN,
    ]


def test_a_name_that_nobody_wrote_before_is_an_error() -> None:
    with pytest.raises(KeyError):
        Plan(Graph([model("b", "x")], "a"))
    with pytest.raises(KeyError):
        Graph([], "a").last["b"]


def test_an_empty_plan_is_done() -> None:
    assert Plan(Graph([])).done


def test_whole_is_done_without_a_failure() -> None:
    plan = Plan(Graph([model("a", "x"), tensor_get("x"), model("x", "y")], "a"))
    for i in (0, 2):
        assert not plan.whole
        assert plan.ready() == [i]
        assert not plan.whole
        plan.finish(i)
    assert plan.whole
    assert plan.done
    assert plan.ready() == []
    failing = Plan(Graph([model("a", "x")], "a"))
    failing.ready()
    failing.fail(0)
    assert failing.done
    assert not failing.whole
    assert Plan(Graph([])).whole
