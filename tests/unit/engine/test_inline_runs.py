"""Inline runs: of one client that is alone, without a queue."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from redisai_py.errors import BackendError, DeadlineExceeded
from tests.unit.engine.fakes import Bench, FakeSession, double, engine_test, tensor, values

SHORT = 1_000_000
"""Microseconds: every run of these tests counts as short."""


async def _known_short(bench: Bench, session: FakeSession | None = None, **fields: Any) -> tuple[Any, FakeSession]:
    """A model whose runs of up to 4 rows are known to be short, from its worker thread."""
    loaded, session = await bench.load(session=session, **fields)
    await bench.engine.run_model(loaded, [tensor(4)])
    return loaded, session


@engine_test(inline_run_us=SHORT)
async def test_it_gives_the_outputs_and_counts(bench: Bench) -> None:
    loaded, session = await _known_short(bench)
    bench.engine.stats.reset("m")
    ended = bench.engine.run_inline(loaded, [tensor(2, 3.0)])
    assert ended is not None
    outputs, run_s = ended
    assert values(outputs) == [[6, 6], [6, 6]]
    assert session.threads[-1] == threading.main_thread().name
    stats = bench.engine.stats.snapshot("m")
    assert (stats.calls, stats.samples, stats.batches, stats.batch_rows) == (1, 2, 1, {2: 1})
    assert stats.duration_us == int(run_s * 1e6)
    assert (stats.queue_time.count, stats.run_time.count) == (1, 1)
    assert bench.engine.snapshot().executions == {"FAKE": 2}


@engine_test(inline_run_us=SHORT)
async def test_more_rows_than_were_seen_to_be_short_must_be_queued(bench: Bench) -> None:
    loaded, _ = await _known_short(bench)
    assert bench.engine.run_inline(loaded, [tensor(5)]) is None
    assert bench.engine.run_inline(loaded, [tensor(4)]) is not None


@engine_test()
async def test_a_model_whose_runs_are_not_known_to_be_short_must_be_queued(bench: Bench) -> None:
    loaded, _ = await _known_short(bench)
    assert bench.engine.run_inline(loaded, [tensor()]) is None


@engine_test(inline_run_us=SHORT)
async def test_nothing_is_run_beside_a_run_of_the_same_model(bench: Bench) -> None:
    loaded, session = await _known_short(bench)
    session.gate.clear()
    on_thread = bench.engine.run_model(loaded, [tensor(8)])
    await bench.entered(session)
    await bench.entered(session)
    assert bench.engine.run_inline(loaded, [tensor()]) is None
    session.gate.set()
    await on_thread
    assert bench.engine.run_inline(loaded, [tensor()]) is not None


@engine_test(inline_run_us=SHORT)
async def test_where_runs_come_together_they_are_collected_to_be_merged(bench: Bench) -> None:
    loaded, session = await _known_short(bench, batch=4)
    runs = [bench.engine.run_model(loaded, [tensor()]) for _ in range(3)]
    assert bench.engine.run_inline(loaded, [tensor()]) is None
    for run in runs:
        await run
    assert session.batches[-1] == [(3, 2)]
    assert bench.engine.run_inline(loaded, [tensor()]) is None  # others will come again
    await bench.engine.run_model(loaded, [tensor()])
    assert bench.engine.run_inline(loaded, [tensor()]) is not None


@engine_test(inline_run_us=SHORT)
async def test_what_fails_is_left_to_the_queue_where_it_finds_its_error(bench: Bench) -> None:
    def compute(inputs: Sequence[Any]) -> list[Any]:
        if inputs[0][0, 0] < 0:
            raise BackendError("negative")
        return double(inputs)

    loaded, _ = await _known_short(bench, FakeSession(compute))
    bench.engine.stats.reset("m")
    assert bench.engine.run_inline(loaded, [tensor(1, -1.0)]) is None
    assert bench.engine.stats.snapshot("m").calls == 0
    with pytest.raises(BackendError, match="negative"):
        await bench.engine.run_model(loaded, [tensor(1, -1.0)])
    assert bench.engine.stats.snapshot("m").errors == 1


@engine_test(inline_run_us=SHORT)
async def test_another_number_of_outputs_than_declared_is_left_to_the_queue(bench: Bench) -> None:
    loaded, session = await _known_short(bench)
    session.compute = lambda inputs: [inputs[0], inputs[0]]
    assert bench.engine.run_inline(loaded, [tensor()]) is None


@engine_test(inline_run_us=SHORT)
async def test_inline_runs_leave_time_for_everybody_else(bench: Bench) -> None:
    def compute(inputs: Sequence[Any]) -> list[Any]:
        time.sleep(0.2)  # a run holds up the event loop: that is what the test is about
        return double(inputs)

    loaded, _ = await _known_short(bench, FakeSession(compute))
    assert bench.engine.run_inline(loaded, [tensor()]) is not None
    assert bench.engine.run_inline(loaded, [tensor()]) is None
    await asyncio.sleep(0.3)
    assert bench.engine.run_inline(loaded, [tensor()]) is not None


@engine_test(inline_run_us=SHORT)
async def test_a_closing_engine_runs_nothing(bench: Bench) -> None:
    loaded, _ = await _known_short(bench)
    await bench.engine.close()
    assert bench.engine.run_inline(loaded, [tensor()]) is None


@engine_test(inline_run_us=SHORT)
async def test_a_run_that_takes_too_long_is_stopped_and_is_none(bench: Bench) -> None:
    loaded, session = await _known_short(bench)
    bench.engine.set_execution_timeout(20)
    session.gate.clear()
    assert bench.engine.run_inline(loaded, [tensor()]) is None
    assert bench.engine.stats.snapshot("m").calls == 1  # the one that made it known


@engine_test(inline_run_us=100_000, model_execution_timeout_ms=600)
async def test_a_run_that_was_stopped_goes_to_the_thread_to_find_its_error(bench: Bench) -> None:
    loaded, session = await _known_short(bench)
    session.gate.clear()
    assert bench.engine.run_inline(loaded, [tensor()]) is None
    session.gate.clear()
    with pytest.raises(DeadlineExceeded):
        await bench.engine.run_model(loaded, [tensor()])
    main = threading.main_thread().name
    assert [name == main for name in session.threads] == [False, True, False]
