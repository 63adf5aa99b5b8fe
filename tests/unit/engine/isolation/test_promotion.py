from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from redisai_py.engine.isolation.promotion import Proof
from redisai_py.engine.isolation.settings import IsolationSettings
from redisai_py.tensor import Device

SHORT, LONG = 200_000, 400_000


def model(**differences: Any) -> Any:
    values = {"stateful": False, "loops": False, "branches": "", "nbytes": 1000, "device": Device("CPU", None, "CPU")}
    return SimpleNamespace(**{**values, **differences})


def proof(mode: str = "auto", backend: str = "ONNX", runs: int = 5, doors: int = 1) -> Proof:
    return Proof(IsolationSettings(isolation=mode, proof_runs=runs, front_doors=doors), backend)


def after(proof: Proof, runs: list[int], loaded: Any) -> list[bool]:
    return [proof.ran(run_ns, loaded) for run_ns in runs]


def test_enough_short_runs_are_a_proof_once() -> None:
    found = proof()
    assert found.wanted
    assert after(found, [SHORT] * 5, model()) == [False] * 4 + [True]
    assert not found.wanted


def test_a_long_run_takes_one_off() -> None:
    found = proof()
    assert not any(after(found, [LONG, SHORT, SHORT, LONG, SHORT, SHORT, SHORT], model()))
    assert found.ran(SHORT, model())


def test_a_model_of_long_runs_never_gets_there() -> None:
    found = proof()
    assert not any(after(found, [SHORT, LONG] * 500, model()))
    assert found.wanted


@pytest.mark.parametrize(
    "differences",
    [
        {"stateful": True},
        {"loops": True},
        {"branches": "If"},
        {"nbytes": 100_000_000},
        {"device": Device("GPU", 0, "GPU:0")},
    ],
)
def test_what_no_number_of_runs_can_prove(differences: dict[str, Any]) -> None:
    found = proof()
    assert not any(after(found, [SHORT] * 20, model(**differences)))


@pytest.mark.parametrize(("mode", "backend"), [("all", "ONNX"), ("auto", "TORCH"), ("auto", "FAULTY")])
def test_whose_runs_do_not_count(mode: str, backend: str) -> None:
    assert not proof(mode, backend).wanted


@pytest.mark.parametrize("doors", [1, 2, 4, 64])
def test_the_copies_of_all_front_doors_take_no_more_than_one(doors: int) -> None:
    most = 64 * 1024 * 1024 // doors
    assert after(proof(doors=doors), [SHORT] * 5, model(nbytes=most))[-1]
    assert not any(after(proof(doors=doors), [SHORT] * 5, model(nbytes=most + 1)))
