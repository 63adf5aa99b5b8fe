"""Short calls that go to a worker together: their results, and what befalls the others when one of them goes wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from redisai_py.engine.isolation.wire import FRAME, Op
from redisai_py.engine.torchscript.jobs import ScriptRun, ScriptSettings, Worker
from redisai_py.engine.torchscript.lane import Lane
from redisai_py.engine.torchscript.work import Work
from redisai_py.errors import BackendError, QueueTimeout, RunTimeout
from redisai_py.model import Script
from redisai_py.tensor import DType, Tensor
from tests.backends.script_harness import Host, Scripts, tensor
from tests.support import suspend

pytest.importorskip("torch")

SOURCE = """
def f(tensors: List[Tensor], keys: List[str], args: List[str]):
    turns = int(args[0])
    i = 0
    while i != turns:
        i += 1
    return tensors[0] + turns

def grown(tensors: List[Tensor], keys: List[str], args: List[str]):
    return torch.zeros([int(args[0])], dtype=torch.uint8)

def refused(tensors: List[Tensor], keys: List[str], args: List[str]):
    assert int(args[0]) < 100, "too many"
    return tensors[0]

def old(a, rest: List[Tensor]):
    return a + rest[0] * len(rest)

def asks(tensors: List[Tensor], keys: List[str], args: List[str]):
    redis.execute("IS", args[0])
    return tensors[0]

def both(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0] + len(keys[0]), tensors[0].to(torch.int64).t(), torch.zeros([2, 0])

def changes(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0].add_(1)
"""
ENDLESS = b"-1"
ONE = ScriptSettings(threads_per_queue=1)


@pytest.fixture(scope="module")
def shared() -> Iterator[Together]:
    """An engine with one worker at a time."""
    made = Together(ONE)
    yield made
    made.close()


@pytest.fixture
def fresh(shared: Together) -> Iterator[Callable[..., Together]]:
    """Gives the engine with these settings, and its functions known to be short."""

    def make(**settings: int) -> Together:
        shared.engine.settings = replace(ONE, **settings)
        shared.warm_up()
        return shared

    yield make
    shared.engine.settings = ONE


class Together(Scripts):
    """An engine on which the functions of SOURCE are known to be short."""

    def __init__(self, settings: ScriptSettings) -> None:
        super().__init__(settings)
        self.stored = self.script(SOURCE, ("f", "grown", "refused", "asks", "both", "changes"))
        self.host = Host()
        self.warm_up()

    def warm_up(self) -> None:
        """Have it known of each function that it is short, and let nobody be at work."""
        self.host.commands.clear()
        for function in ("f", "grown", "refused", "both", "changes", "old"):
            outputs = 3 if function == "both" else 1
            known = self.engine.known.of(self.stored).function(function)
            known.too_large = False
            while not known.short:
                self.do(self.results([self.start(b"1", function=function, outputs=outputs)]))

    def start(
        self, arg: bytes, function: str = "f", outputs: int = 1, owner: Hashable = None, timeout_ms: int | None = None
    ) -> ScriptRun:
        inputs = [tensor(1), tensor(1)] if function == "old" else [tensor(1)]
        return self.engine.run(
            self.stored, function, inputs, [b"k"], [arg], outputs, self.host, timeout_ms, owner
        )  # fmt: skip

    async def results(self, runs: list[ScriptRun]) -> list[Any]:
        """The number that each run gave, or its error."""
        found: list[Any] = []
        for run in runs:
            try:
                outputs = await run
                found.append(outputs[0].numpy().ravel()[0].item() if outputs else None)
            except Exception as error:
                found.append(error)
        return found


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[object]]]:
    """Whose calls went together, and to which worker."""
    seen: list[tuple[int, list[object]]] = []
    begin = Work._begun_together

    def begun(self: Work, worker: Worker, name: str) -> None:
        seen.append((worker.number, [job.owner for job in worker.jobs]))
        begin(self, worker, name)

    monkeypatch.setattr(Work, "_begun_together", begun)
    return seen


def test_results_come_in_order(fresh: Callable[..., Together], batches: list[tuple[int, list[object]]]) -> None:
    scripts = fresh()
    batches.clear()

    async def go() -> tuple[list[Any], list[int]]:
        runs = [scripts.start(b"%d" % n) for n in range(300)]
        order: list[int] = []
        for n, run in enumerate(runs):
            run.waiter = lambda _, n=n: order.append(n)
        await until(lambda: len(order) == len(runs))
        return [run.result()[0].numpy().item() for run in runs], order

    values, order = scripts.do(go())
    assert values == [1 + n for n in range(300)]
    assert order == list(range(300))
    assert sum(len(owners) for _, owners in batches) == 300
    assert len(batches) < 150, "calls went one by one"


def test_every_kind_of_result(fresh: Callable[..., Together]) -> None:
    scripts = fresh()
    every = [
        Tensor(dtype, (2, 3), np.arange(6).astype(dtype.numpy_dtype).tobytes())
        for dtype in DType
        if dtype is not DType.STRING
    ]

    async def go() -> None:
        identity = scripts.script("def same(a):\n    return a\n", ())
        for _ in range(2):  # alone, then together
            runs = [scripts.engine.run(identity, "same", [item], [], [], 1, None) for item in every]
            assert [(await run)[0] for run in runs] == every
        one, two, three = await scripts.engine.run(scripts.stored, "both", [tensor(1, 2)], [b"abc"], [], 3, None)
        assert one == tensor(4, 5)
        assert two == Tensor.from_numpy(np.array([1, 2]))
        assert three.shape == (2, 0)
        assert await scripts.results([scripts.start(b"1", "old")]) == [2]
        shared = tensor(1)
        runs = [scripts.engine.run(scripts.stored, "changes", [shared], [], [], 1, None) for _ in range(3)]
        assert await scripts.results(runs) == [2, 2, 2]
        assert shared == tensor(1)

    scripts.do(go())


def test_errors_of_calls_are_their_own(fresh: Callable[..., Together]) -> None:
    scripts = fresh()

    async def go() -> list[Any]:
        words = (b"1", b"100", b"2", b"x", b"3")
        return await scripts.results([scripts.start(word, "refused") for word in words])

    one, much, two, text, three = scripts.do(go())
    assert (one, two, three) == (1, 1, 1)
    assert isinstance(much, BackendError)
    assert "too many" in str(much)
    assert isinstance(text, BackendError)
    assert scripts.do(scripts.results([scripts.start(b"1", "refused", outputs=3)]))[0].wire() == (
        "Function returned unexpected number of outputs - refused"
    )


def test_what_asks_goes_alone_and_in_its_place(
    fresh: Callable[..., Together], batches: list[tuple[int, list[object]]]
) -> None:
    scripts = fresh()

    async def go() -> list[Any]:
        batches.clear()
        runs = [scripts.start(b"%d" % n, "asks" if n % 3 == 0 else "f") for n in range(9)]
        return await scripts.results(runs)

    assert scripts.do(go()) == [1, 2, 3, 1, 5, 6, 1, 8, 9]
    assert [argv[1] for argv in scripts.host.commands] == [b"0", b"3", b"6"]
    assert sum(len(owners) for _, owners in batches) == 6


def test_no_worker_has_two_owners(fresh: Callable[..., Together], batches: list[tuple[int, list[object]]]) -> None:
    scripts = fresh(threads_per_queue=2)
    batches.clear()
    owners = [("amy", "bob", "amy", "eve", "eve", "bob")[n % 6] for n in range(240)]

    async def go() -> list[Any]:
        runs = [scripts.start(b"%d" % n, owner=owner) for n, owner in enumerate(owners)]
        return await scripts.results(runs)

    assert scripts.do(go()) == [1 + n for n in range(240)]
    served: dict[int, set[object]] = {}
    for number, together in batches:
        served.setdefault(number, set()).update(together)
    assert all(len(each) == 1 for each in served.values()), served
    assert set.union(*served.values()) == {"amy", "bob", "eve"}


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for may be anything
        await asyncio.sleep(0.002)


def zygote_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


def middle(scripts: Together, words: tuple[bytes, ...] = (b"1", b"2", ENDLESS, b"3", b"4")) -> list[ScriptRun]:
    return [scripts.start(word) for word in words]


def test_a_loop_ends_alone(fresh: Callable[..., Together]) -> None:
    """Those before it are answered while it goes on; those behind it run in another process."""
    scripts = fresh(script_execution_timeout_ms=1500)

    async def go() -> tuple[list[Any], list[bool], float]:
        since = time.monotonic()
        runs = middle(scripts)
        await until(lambda: runs[1].done)
        before = [run.done for run in runs]
        found = await scripts.results(runs)
        return found, before, time.monotonic() - since

    (one, two, stopped, three, four), before, took = scripts.do(go())
    assert (one, two, three, four) == (2, 3, 4, 5)
    assert isinstance(stopped, RunTimeout)
    assert "SCRIPT_EXECUTION_TIMEOUT (1500 ms)" in str(stopped)
    assert before == [True, True, False, False, False]
    assert took >= 1.4


def test_many_calls_may_take_longer_than_one(fresh: Callable[..., Together]) -> None:
    """The limit is each call's, not their batch's."""
    scripts = fresh(script_execution_timeout_ms=1000)
    turns = 1000

    def seconds(turns: int) -> float:
        since = time.monotonic()
        assert scripts.do(scripts.results([scripts.start(b"%d" % turns)])) == [1 + turns]
        return time.monotonic() - since

    while seconds(turns) < 0.1:
        turns *= 2
    scripts.do(scripts.results([scripts.start(b"1") for _ in range(100)]))  # known to be short again
    assert scripts.do(scripts.results([scripts.start(b"%d" % turns) for _ in range(15)])) == [1 + turns] * 15


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_worker_takes_one_call_along(fresh: Callable[..., Together], number: signal.Signals) -> None:
    scripts = fresh(script_execution_timeout_ms=0)

    async def go() -> list[Any]:
        runs = middle(scripts)
        # A call that is not begun is repeated, this one without end.
        work = scripts.engine._work
        await until(lambda: work.worker_of(runs[2]) is not None and not work.not_begun(runs[2]))
        for pid in scripts.engine.worker_pids():
            os.kill(pid, number)
        return await scripts.results(runs)

    one, two, killed, three, four = scripts.do(go())
    assert (one, two, three, four) == (2, 3, 4, 5)
    assert isinstance(killed, BackendError)
    assert str(killed) == f"ERR script worker process was ended by {number.name}"


def test_a_zygote_that_is_killed_costs_no_call(fresh: Callable[..., Together]) -> None:
    scripts = fresh()

    async def go() -> list[Any]:
        zygote = zygote_of(scripts.engine.worker_pids()[-1])
        runs = [scripts.start(b"%d" % n) for n in range(100)]
        await asyncio.sleep(0)
        os.kill(zygote, signal.SIGKILL)
        return await scripts.results(runs)

    assert scripts.do(go()) == [1 + n for n in range(100)]


def test_workers_killed_under_load(fresh: Callable[..., Together]) -> None:
    """At most the call that is being run is lost with each."""
    scripts = fresh()

    async def go() -> tuple[list[Any], int]:
        found: list[Any] = []
        kills = 0
        for _ in range(5):
            runs = [scripts.start(b"%d" % n) for n in range(200)]
            await asyncio.sleep(0.001)
            for pid in scripts.engine.worker_pids():
                kills += 1
                os.kill(pid, signal.SIGKILL)
            found += await scripts.results(runs)
        return found, kills

    found, kills = scripts.do(go())
    wrong = [value for n, value in enumerate(found) if value != 1 + n % 200]
    assert kills
    assert len(wrong) <= kills
    assert all("SIGKILL" in str(error) for error in wrong)


def test_memory_is_one_calls(fresh: Callable[..., Together]) -> None:
    scripts = fresh(script_memory_limit_bytes=256 << 20)
    for pid in scripts.engine.worker_pids():  # the limit holds for new ones
        os.kill(pid, signal.SIGKILL)
    scripts.do(until(lambda: not scripts.engine.worker_pids()))

    async def go() -> list[Any]:
        words = (b"10", b"20", b"10000000000", b"30")
        return await scripts.results([scripts.start(word, "grown") for word in words])

    *_, last = found = scripts.do(go())
    assert [found[0], found[1], last] == [0, 0, 0]
    assert isinstance(found[2], BackendError)
    assert "SCRIPT_MEMORY_LIMIT (268435456 bytes)" in str(found[2])


def test_large_outputs_and_inputs(fresh: Callable[..., Together]) -> None:
    scripts = fresh()

    async def go() -> None:
        sizes = (10, 2 << 20, 400_000, 700_000, 3 << 20, 20)
        runs = [scripts.start(b"%d" % size, "grown") for size in sizes]
        assert [(await run)[0].shape for run in runs] == [(size,) for size in sizes]
        large = Tensor(DType.UINT8, (3 << 20,), bytes(3 << 20))
        ones = [large, Tensor(DType.UINT8, (1,), b"\0"), large]
        runs = [scripts.engine.run(scripts.stored, "f", [one], [], [b"1"], 1, None) for one in ones]
        for run, one in zip(runs, ones, strict=True):
            assert (await run)[0] == Tensor(DType.UINT8, one.shape, b"\1" * len(one.data))

    scripts.do(go())


def test_timeout_and_departure_behind_a_loop(fresh: Callable[..., Together]) -> None:
    """A call that its worker has but has not come to is still in the queue, to whoever waits for it."""
    scripts = fresh(script_execution_timeout_ms=2000)

    async def go() -> None:
        loop = scripts.start(ENDLESS)
        late, gone, last = scripts.start(b"1", timeout_ms=100), scripts.start(b"1"), scripts.start(b"3")
        with pytest.raises(QueueTimeout):
            await late
        assert not loop.done
        assert scripts.engine.cancel_queued(gone)
        assert isinstance(gone.error, asyncio.CancelledError)
        assert not scripts.engine.cancel_queued(loop)
        assert not late.started
        with pytest.raises(RunTimeout):
            await loop
        assert await scripts.results([last]) == [4]

    scripts.do(go())


def test_replaced_texts_and_many_scripts(fresh: Callable[..., Together]) -> None:
    """More scripts than a worker keeps."""
    scripts = fresh()

    def numbered(n: int) -> Script:
        return scripts.script(
            f"def f(tensors: List[Tensor], keys: List[str], args: List[str]):\n    return tensors[0] + {n}\n"
        )

    async def go() -> list[Any]:
        every = [numbered(n) for n in range(150)]
        found: list[Any] = []
        for _ in range(3):
            runs = [scripts.engine.run(each, "f", [tensor(0)], [], [], 1, None) for each in every]
            found += await scripts.results(runs)
        return found

    assert scripts.do(go()) == [n for _ in range(3) for n in range(150)]


@pytest.mark.parametrize("what", ["begun", "frame", "failure"])
def test_nonsense_in_the_lane(fresh: Callable[..., Together], monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """What a worker that a script has taken over may have written there."""
    scripts = fresh()
    take = Lane.take

    def garbled(self: Lane, count: int) -> Any:
        answers = self._answers
        if what == "begun":
            answers[:16] = b"\xff" * 16
        elif what == "frame":
            answers[64:88] = b"\xff" * 24
        else:
            answers[64:88] = FRAME.pack(Op.FAILED, 0, 0, 8, 0, 64)
        monkeypatch.setattr(Lane, "take", take)
        return take(self, count)

    monkeypatch.setattr(Lane, "take", garbled)
    found = scripts.do(scripts.results([scripts.start(b"%d" % n) for n in range(4)]))
    for value in found:
        assert isinstance(value, int | float | BackendError), value
    assert scripts.do(scripts.results([scripts.start(b"%d" % n) for n in range(4)])) == [1, 2, 3, 4]


def test_an_event_loop_that_waits_does_not_wait_long(fresh: Callable[..., Together]) -> None:
    scripts = fresh(script_execution_timeout_ms=0)
    pids = scripts.engine.worker_pids()

    async def go() -> float:
        for _ in range(40):  # alone for a while
            run = scripts.engine.run(scripts.stored, "f", [tensor(1)], [], [b"1"], 1, None, alone=True)
            await run
        assert run.done
        for pid in pids:
            suspend(pid)
            threading.Timer(0.5, os.kill, (pid, signal.SIGCONT)).start()
        since = time.monotonic()
        run = scripts.engine.run(scripts.stored, "f", [tensor(1)], [], [b"1"], 1, None, alone=True)
        took = time.monotonic() - since
        assert not run.done
        assert await scripts.results([run]) == [2]
        return took

    assert scripts.do(go()) < 0.3
