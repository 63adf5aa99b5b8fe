"""Merging proves itself: the first merged runs are compared with single ones, and a model that fails is not merged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from redisai_py.engine.proof import MergeProof, contrasts, difference
from redisai_py.errors import BackendError
from redisai_py.tensor import Tensor
from tests.unit.engine.fakes import Bench, FakeSession, double, engine_test, tensor, values


def running_sum(inputs: Sequence[Any]) -> list[Any]:
    """Time in the first dimension: each row has all rows before it."""
    return [np.cumsum(inputs[0], axis=0)]


def quantised(inputs: Sequence[Any]) -> list[Any]:
    """A scale taken from all rows together."""
    scale = np.abs(inputs[0]).max() / 127 or 1
    return [(np.round(inputs[0] / scale) * scale).astype(np.float32)]


def positive(inputs: Sequence[Any]) -> list[Any]:
    """As many rows as there are with a positive first element."""
    return [np.ascontiguousarray(inputs[0][inputs[0][:, 0] > 0])]


def transposed(inputs: Sequence[Any]) -> list[Any]:
    return [np.ascontiguousarray(inputs[0].T)]


def centred(inputs: Sequence[Any]) -> list[Any]:
    return [inputs[0] - inputs[0].mean()]


def two_rows_at_most(inputs: Sequence[Any]) -> list[Any]:
    if len(inputs[0]) > 2:
        raise BackendError("ERR two rows at most")
    return double(inputs)


async def _together(bench: Bench, loaded: Any, inputs: Sequence[Tensor]) -> list[Any]:
    runs = [bench.engine.run_model(loaded, [value]) for value in inputs]
    return [values(await run) for run in runs]


DISHONEST = [running_sum, quantised, positive, transposed, centred, two_rows_at_most]


@pytest.mark.parametrize("inline_run_us", [0, 1_000_000], ids=["thread", "event loop"])
@pytest.mark.parametrize("compute", DISHONEST, ids=lambda compute: compute.__name__)
@pytest.mark.parametrize("alike", [True, False], ids=["equal inputs", "other inputs"])
def test_a_model_that_is_no_row_by_row_model_answers_as_if_alone(
    compute: Callable[[Any], Any], alike: bool, inline_run_us: int
) -> None:
    @engine_test(merge_checks=2, inline_run_us=inline_run_us)
    async def test(bench: Bench) -> None:
        loaded, _ = await bench.load(session=FakeSession(compute), batch=16)
        inputs = [tensor(2, 1.0 if alike else 1.0 + i) for i in range(4)]
        alone = [compute([value.numpy()])[0].tolist() for value in inputs]
        for _ in range(4):
            assert await _together(bench, loaded, inputs) == alone
        assert loaded.proof.reason.startswith("merged runs differ from single ones: ")
        assert loaded.queue.max_rows == 0
        stats = bench.engine.stats.snapshot("m")
        assert (stats.calls, stats.errors, set(stats.batch_rows)) == (16, 0, {2})

    test()


@pytest.mark.parametrize("inline_run_us", [0, 1_000_000], ids=["thread", "event loop"])
def test_an_honest_model_is_merged_after_two_checks_of_each_shape(inline_run_us: int) -> None:
    @engine_test(merge_checks=2, inline_run_us=inline_run_us)
    async def test(bench: Bench) -> None:
        loaded, session = await bench.load(batch=16)
        for columns in (2, 3):
            for turn in range(4):
                inputs = [tensor(1, float(turn + i), columns) for i in range(3)]
                expected = [[[2.0 * (turn + i)] * columns] for i in range(3)]
                assert await _together(bench, loaded, inputs) == expected
                assert len(loaded.proof.proved) == (columns - 2) + (turn >= 1)
        assert bench.engine.stats.snapshot("m").batch_rows == {1: 12, 3: 4}
        assert not loaded.proof.reason
        count = len(session.batches)
        await _together(bench, loaded, [tensor(), tensor()])
        assert len(session.batches) == count + 1  # nothing is compared after the proof

    test()


@engine_test(merge_checks=2)
async def test_a_bad_request_proves_nothing_and_ends_nothing(bench: Bench) -> None:
    def no_sevens(inputs: Any) -> list[Any]:
        if (inputs[0] == 7).any():
            raise BackendError("ERR seven")
        return double(inputs)

    loaded, _ = await bench.load(session=FakeSession(no_sevens), batch=16)
    runs = [bench.engine.run_model(loaded, [tensor(1, value)]) for value in (7.0, 1.0)]
    with pytest.raises(BackendError, match="seven"):
        await runs[0]
    assert values(await runs[1]) == [[2.0, 2.0]]
    assert not loaded.proof.reason
    assert not loaded.proof.proved


@engine_test(merge_checks=2)
async def test_rows_that_do_not_add_up_after_the_proof_are_nobodys_error(bench: Bench) -> None:
    loaded, session = await bench.load(batch=16)
    for _ in range(2):
        await _together(bench, loaded, [tensor(2), tensor(2)])
    session.compute = positive
    expected = [[[1.0, 1.0]] * 2, []]
    assert await _together(bench, loaded, [tensor(2, 1.0), tensor(2, -1.0)]) == expected
    assert "has the shape 2x2 for 4 rows" in loaded.proof.reason


@engine_test(merge_checks=2)
async def test_a_model_that_may_keep_a_state_is_neither_warmed_up_nor_merged_nor_held(bench: Bench) -> None:
    counted = 0

    def count(inputs: Sequence[Any]) -> list[Any]:
        nonlocal counted
        counted += 1
        return [inputs[0] * 0 + counted]

    session = FakeSession(count)
    session.stateful = True
    session.inputs = [type(session.inputs[0])("x", np.dtype("f4"), (None, 2))]
    loaded, _ = await bench.load(session=session, batch=16, min_batch=8)
    assert await _together(bench, loaded, [tensor()] * 3) == [[[n, n]] for n in (1, 2, 3)]
    assert loaded.proof.reason == "the model may keep a state from run to run"


def at_most_ten(inputs: Sequence[Any]) -> list[Any]:
    return double(inputs) if inputs[0].sum() < 10 else [-inputs[0]]


@pytest.mark.parametrize("checks", [0, 2], ids=["trusted", "checked"])
def test_a_model_whose_branches_depend_on_values_is_neither_merged_nor_held(checks: int) -> None:
    @engine_test(merge_checks=checks)
    async def with_bench(bench: Bench) -> None:
        session = FakeSession(at_most_ten)
        session.branches = "an if"
        loaded, _ = await bench.load(session=session, batch=16, min_batch=8)
        expected = [[[2.0, 2.0]], [[-9.0, -9.0]], [[2.0, 2.0]]]
        assert await _together(bench, loaded, [tensor(1, 1.0), tensor(1, 9.0), tensor(1, 1.0)]) == expected
        assert loaded.proof.reason == "values of its inputs decide its control flow (an if)"

    with_bench()


@engine_test(merge_checks=2)
async def test_why_a_model_is_not_merged_is_told_once(bench: Bench) -> None:
    told: list[str] = []
    bench.engine._runner._ended_merging = lambda loaded: told.append(loaded.not_merged)
    loaded, _ = await bench.load(session=FakeSession(centred), batch=16)
    for _ in range(3):
        await _together(bench, loaded, [tensor(1, 1.0), tensor(1, 2.0)])
        await asyncio.sleep(0)
    assert told == [loaded.proof.reason]


def one(array: Any) -> Tensor:
    return Tensor.from_numpy(np.asarray(array))


@pytest.mark.parametrize(
    ("single", "merged", "text"),
    [
        ([1.0, 2.0], [1.0, 2.00001], ""),
        ([1.0, 2.0], [1.0, 2.001], "output 1 differs by 0.001"),
        ([np.nan, np.inf, 1.0], [np.nan, np.inf, 1.0], ""),
        ([np.nan, 1.0], [2.0, 1.0], "output 1 differs by inf"),
        ([1.0], [np.nan], "output 1 differs by nan"),
        ([], [], ""),
        ([[1.0]], [1.0], "output 1 has the shape 1 instead of 1x1"),
    ],
)
def test_floats_agree_within_their_precision(single: Any, merged: Any, text: str) -> None:
    assert difference([one(np.array(single, "f4"))], [one(np.array(merged, "f4"))]) == text


def test_all_else_must_be_equal() -> None:
    assert difference([one(np.array([1, 2]))], [one(np.array([1, 3]))]) == "output 1 has other values"
    assert difference([one(np.array([b"a"], object))], [one(np.array([b"b"], object))]) == "output 1 has other values"
    assert difference([None], [None]) == ""
    assert difference([None], [one(1.0)]) == "output 1 is a tensor in one of them only"


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i8", "u1", "?", object])
def test_contrasts_have_the_same_shape_and_type(dtype: Any) -> None:
    array = np.array([[b"a", b"b"]], object) if dtype is object else np.array([[1, 0]], dtype)
    given = one(array)
    made = list(contrasts([given]))
    assert len(made) == 2
    for (value,) in made:
        assert (value.dtype, value.shape) == (given.dtype, given.shape)
        assert value != given


def test_kinds_of_input_that_are_remembered_are_bounded() -> None:
    proof = MergeProof(1)
    for key in range(3000):
        proof.passed(key)
    assert len(proof.proved) == 1024
    assert proof.wanted(0)
    assert not proof.wanted(2999)
