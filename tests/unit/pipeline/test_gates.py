from __future__ import annotations

import pytest

from redisai_py.artifacts import Invalid
from redisai_py.pipeline.gates import GateFailed, check_gates, read_gates


def _passed(gates: object, metrics: dict[str, float], others: dict[str, dict[str, float] | None]) -> list[bool]:
    return [result.passed for result in check_gates(read_gates("gate", gates), metrics, others)]


@pytest.mark.parametrize(
    ("bound", "value", "passes"),
    [(">=0.93", 0.93, True), (">0.93", 0.93, False), ("<= 1e-1", 0.1, True), ("<.1", 0.1, False), (">=-2", -1, True)],
)
def test_a_metric_is_held_against_its_bound(bound: str, value: float, passes: bool) -> None:
    assert _passed({"m": bound}, {"m": value}, {}) == [passes]


def test_a_version_is_compared_with_another() -> None:
    gate = {"accuracy_vs": {"@production": ">=-0.01"}}
    assert _passed(gate, {"accuracy": 0.90}, {"@production": {"accuracy": 0.905}}) == [True]
    assert _passed(gate, {"accuracy": 0.90}, {"@production": {"accuracy": 0.92}}) == [False]
    assert _passed(gate, {"accuracy": 0.90}, {}) == [True]
    assert _passed(gate, {"accuracy": 0.90}, {"@production": {"f1": 1}}) == [True]


def test_a_gate_holds_for_every_target_unless_it_names_one() -> None:
    metrics = {"a.r2": 0.9, "b.r2": 0.1}
    assert _passed({"r2": ">=0.5"}, metrics, {}) == [True, False]
    assert _passed({"a.r2": ">=0.5"}, metrics, {}) == [True]


def test_a_gate_without_a_metric_is_an_error() -> None:
    with pytest.raises(Invalid, match="the gate f1 has no metric; measured were accuracy"):
        _passed({"f1": ">0"}, {"accuracy": 1.0}, {})


def test_a_failed_gate_says_the_numbers() -> None:
    results = check_gates(read_gates("gate", {"accuracy": ">=0.93"}), {"accuracy": 0.929204}, {})
    assert str(GateFailed(results)) == (
        "nothing is published, since a gate failed: accuracy must be >= 0.93, and is 0.929204"
    )
