"""Coroutines that are stepped without a task."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redisai_py.frontdoor.eager_task import run_eagerly
from redisai_py.pending import Pending


class Outcome:
    """What `run_eagerly` reported, which it must do exactly once."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, BaseException | None]] = []

    def __call__(self, value: Any, error: BaseException | None) -> None:
        self.calls.append((value, error))


def test_what_need_not_wait_is_over_at_once() -> None:
    async def answer() -> int:
        ready: Pending[int] = Pending()
        ready.resolve(40)
        return await ready + 2

    outcome = Outcome()
    run_eagerly(answer(), outcome)
    assert outcome.calls == [(42, None)]


def test_a_pending_wakes_it_up() -> None:
    first: Pending[int] = Pending()
    second: Pending[int] = Pending()

    async def add() -> int:
        return await first + await second

    outcome = Outcome()
    run_eagerly(add(), outcome)
    second.resolve(2)
    assert outcome.calls == []
    first.resolve(1)
    first.resolve(100)
    assert outcome.calls == [(3, None)]


@pytest.mark.parametrize("error", [ValueError("bug"), asyncio.CancelledError()])
def test_failures_are_reported(error: BaseException) -> None:
    waiting: Pending[None] = Pending()
    closed: list[str] = []

    async def fail() -> None:
        try:
            await waiting
        finally:
            closed.append("closed")

    outcome = Outcome()
    run_eagerly(fail(), outcome)
    waiting.fail(error)
    ((value, reported),) = outcome.calls
    assert value is None
    assert type(reported) is type(error)
    assert closed == ["closed"]


def test_what_is_no_failure_goes_through() -> None:
    async def stop() -> None:
        raise KeyboardInterrupt

    outcome = Outcome()
    with pytest.raises(KeyboardInterrupt):
        run_eagerly(stop(), outcome)
    assert outcome.calls == []


def test_futures_of_asyncio_and_sleeps_of_no_time() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        finished = asyncio.Event()

        async def work() -> int:
            await asyncio.sleep(0)
            return await future + await loop.create_task(asyncio.sleep(0, 1))

        outcome = Outcome()

        def done(value: Any, error: BaseException | None) -> None:
            outcome(value, error)
            finished.set()

        run_eagerly(work(), done)
        loop.call_soon(future.set_result, 41)
        await asyncio.wait_for(finished.wait(), 20)
        assert outcome.calls == [(42, None)]

    asyncio.run(main())
