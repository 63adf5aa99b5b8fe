"""Scripts that hang, hog, crash or lie, many of them at once, and what is left of them afterwards."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from redisai_py.engine.torchscript.engine import ScriptEngine
from redisai_py.engine.torchscript.frames import ReplyTree
from redisai_py.engine.torchscript.jobs import ScriptSettings
from redisai_py.errors import BackendError, QueueTimeout, RedisAIError, RunTimeout
from redisai_py.framing import encode_frame
from redisai_py.frontdoor.eager_task import run_eagerly
from redisai_py.model import Script
from redisai_py.tensor import Device, DType, Tensor
from tests.backends.script_harness import ENTRY, LIMITS, Host, Scripts, engine_processes, tensor

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def scripts() -> Iterator[Scripts]:
    made = Scripts(LIMITS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def single() -> Iterator[Scripts]:
    """An engine that nothing is compiled on, so that it has one worker, the newest of its processes."""
    made = Scripts(LIMITS)
    yield made
    made.close()


@pytest.fixture
def fresh() -> Iterator[Callable[..., Scripts]]:
    """Makes engines of one's own."""
    made: list[Scripts] = []

    def make(**settings: int) -> Scripts:
        made.append(Scripts(ScriptSettings(**settings)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def wait_for_end(pid: int, timeout_s: float = 20) -> bool:
    """Whether the process ends (or has ended) within the time."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], timeout_s)[0])
    finally:
        os.close(fd)


def parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


def test_time_in_which_the_server_stood_still_is_not_the_scripts(fresh: Callable[..., Scripts]) -> None:
    """A machine that sleeps, a process that is stopped: the server finds the time over before it reads the answer."""
    scripts = fresh(script_execution_timeout_ms=1000)
    source = (
        ENTRY
        + """
        redis.execute("STALL")
        redis.execute("NEXT")
        return tensors[0]
    """
    )

    def execute(argv: list[bytes]) -> ReplyTree:
        if argv[0] == b"STALL":
            time.sleep(2)
        return b"OK"

    (output,) = scripts.run(source, (tensor(1.0),), host=Host(execute))
    assert output.tolist() == [1.0]


NO_LIMIT = ScriptSettings(script_execution_timeout_ms=0)

# --- limits and crashes ---------------------------------------------------------------------------------------------

ENDLESS = """
i = 0
while i >= 0:
    i = (i + 1) % 1000
return torch.tensor(i)
"""


def test_endless_loop_is_stopped(fresh: Callable[..., Scripts]) -> None:
    scripts = fresh(script_execution_timeout_ms=300)
    scripts.compile("")
    with pytest.raises(RunTimeout, match=r"^ERR .*SCRIPT_EXECUTION_TIMEOUT \(300 ms\)"):
        scripts.value(ENDLESS)
    scripts.engine.settings = NO_LIMIT  # a new worker has much to do before it runs anything
    assert scripts.value("return torch.tensor(7)") == 7


def test_limit_holds_while_the_host_works(fresh: Callable[..., Scripts]) -> None:
    """The worker is free for others at once; the client hears when what was done in its name is over."""
    scripts = fresh(script_execution_timeout_ms=0)
    calling = scripts.script(ENTRY + "    redis.execute('X')\n    return tensors\n")
    simple = scripts.script(ENTRY + "    return tensors\n")

    async def go() -> None:
        # Compiled by now, what is limited does nothing but call.
        await scripts.engine.run(calling, "f", [], [], [], 0, Host())
        scripts.engine.settings = ScriptSettings(script_execution_timeout_ms=300)
        answer, answered = asyncio.Event(), []

        async def slow(argv: list[bytes]) -> ReplyTree:
            scripts.engine.settings = NO_LIMIT  # for the next run
            await answer.wait()
            answered.append(argv)
            return None

        run = scripts.engine.run(calling, "f", [], [], [], 0, Host(slow))
        # It waits behind the first run, which therefore has been stopped when it is over.
        assert await scripts.engine.run(simple, "f", [tensor(7)], [], [], 1, Host()) == [tensor(7)]
        assert not run.done
        answer.set()
        with pytest.raises(RunTimeout, match="SCRIPT_EXECUTION_TIMEOUT"):
            await run
        assert answered

    scripts.do(go())


@pytest.mark.parametrize(
    "body",
    [
        "return torch.zeros([1 << 40])",
        "kept = [tensors]\nwhile len(kept) > 0:\n    kept.append([torch.rand([1 << 22])])\nreturn kept[0]",
        "text = 'x'\nwhile len(text) > 0:\n    text = text + text\nreturn torch.tensor(len(text))",
        "kept = [1]\nwhile len(kept) > 0:\n    kept.extend(kept)\nreturn torch.tensor(kept)",
    ],
)
def test_absurd_memory_is_refused(scripts: Scripts, body: str) -> None:
    with pytest.raises(BackendError, match="SCRIPT_MEMORY_LIMIT"):
        scripts.value(body)
    assert scripts.value("return torch.tensor(7)") == 7


def test_inputs_count_as_memory(scripts: Scripts) -> None:
    size = LIMITS.script_memory_limit_bytes + (64 << 20)
    big = Tensor(DType.UINT8, (size,), bytes(size))
    with pytest.raises(BackendError, match="SCRIPT_MEMORY_LIMIT"):
        scripts.run(ENTRY + "    return torch.tensor(1)\n", (big,))
    assert scripts.value("return torch.tensor(7)") == 7


def test_worker_killed_in_a_run(scripts: Scripts) -> None:
    def kill(argv: list[bytes]) -> ReplyTree:
        for pid in scripts.engine.worker_pids():
            os.kill(pid, signal.SIGKILL)
        return None

    with pytest.raises(BackendError, match="ended by SIGKILL"):
        scripts.value(f"redis.execute('X')\n{ENDLESS}", Host(kill))
    assert scripts.value("return torch.tensor(7)") == 7


def test_idle_worker_killed(scripts: Scripts) -> None:
    assert scripts.value("return torch.tensor(7)") == 7
    for pid in scripts.engine.worker_pids():
        os.kill(pid, signal.SIGSEGV)
        assert wait_for_end(pid)

    assert scripts.value("return torch.tensor(7)") == 7


def socket_of(pid: int) -> socket.socket:
    """A duplicate of the socket of a worker's lane: of the streams that one which is not the bond to the server."""
    folder = f"/proc/{pid}/fd"
    numbers = [int(fd) for fd in os.listdir(folder) if os.readlink(f"{folder}/{fd}").startswith("socket:")]
    process = os.pidfd_open(pid)
    pidfd_getfd = 438
    found = []
    for number in numbers:
        fd = ctypes.CDLL(None, use_errno=True).syscall(pidfd_getfd, process, number, 0)
        if fd < 0:
            pytest.skip(f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
        found.append(socket.socket(fileno=fd))
    os.close(process)
    streams = [each for each in found if each.type == socket.SOCK_STREAM]
    (lane,) = [each for each in streams if not fcntl.fcntl(each, fcntl.F_GETFL) & os.O_ASYNC]
    for each in found:
        if each is not lane:
            each.close()
    return lane


def frame(**header: Any) -> bytes:
    return b"".join(bytes(part) for part in encode_frame(header))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"x" * 100, id="no frame"),
        pytest.param(struct.pack(">IQ", 16, 1 << 40) + b"{}" + b" " * 14, id="payload beyond the limit"),
        pytest.param(frame(), id="no op"),
        pytest.param(frame(op="ready"), id="ready again"),
        pytest.param(frame(op="result", duration_us=1, tensors=[]), id="result while a question is open"),
        pytest.param(frame(op="execute", words=[]), id="second question"),
    ],
)
def test_worker_taken_over_is_killed(single: Scripts, data: bytes) -> None:
    scripts = single
    workers: list[int] = []

    async def take_over(argv: list[bytes]) -> ReplyTree:
        workers.append(scripts.engine.worker_pids()[-1])
        with socket_of(workers[0]) as worker:
            worker.send(data)
        await asyncio.to_thread(wait_for_end, workers[0])
        return None

    with pytest.raises(BackendError, match=r"^ERR script worker sent "):
        scripts.value("redis.execute('X')\nreturn torch.tensor(1)", Host(take_over))
    assert wait_for_end(workers[0])
    assert scripts.value("return torch.tensor(7)") == 7


def test_a_run_survives_the_process_that_its_own_was_forked_from(fresh: Callable[..., Scripts]) -> None:
    scripts = fresh()
    assert scripts.value("return torch.tensor(7)") == 7
    (worker,) = scripts.engine.worker_pids()

    def kill(argv: list[bytes]) -> ReplyTree:
        os.kill(int(parent_of(worker)), signal.SIGKILL)
        return None

    assert scripts.value("redis.execute('X')\nreturn torch.tensor(8)", Host(kill)) == 8
    assert scripts.engine.worker_pids() == [worker]
    os.kill(worker, signal.SIGKILL)
    assert wait_for_end(worker)
    assert scripts.value("return torch.tensor(7)") == 7


REFUSE_TO_FORK = """
import os, pathlib
fork, refuse = os.fork, pathlib.Path(__file__).with_name("refuse")
def fork_or_not():
    if refuse.exists():
        raise BlockingIOError("no more processes")
    return fork()
os.fork = fork_or_not
"""


def test_no_more_processes(fresh: Callable[..., Scripts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system refuses to fork: a job is told, and the next one may have better luck."""
    refuse = tmp_path / "refuse"
    refuse.touch()
    (tmp_path / "sitecustomize.py").write_text(REFUSE_TO_FORK)
    monkeypatch.syspath_prepend(tmp_path)
    scripts = fresh()
    for _ in range(2):
        with pytest.raises(BackendError, match=r"^ERR script worker process ended with status 1$"):
            scripts.value("return torch.tensor(7)")
    refuse.unlink()
    assert scripts.value("return torch.tensor(7)") == 7


def test_workers_end_with_their_server() -> None:
    program = """
        import asyncio, textwrap
        from redisai_py.engine.isolation.isolation import Isolation
        from redisai_py.engine.isolation.manager import Manager
        from redisai_py.engine.isolation.settings import IsolationSettings
        from redisai_py.engine.torchscript.engine import ScriptEngine
        from redisai_py.engine.torchscript.jobs import ScriptSettings
        from redisai_py.model import Script
        from redisai_py.tensor import Device

        source = '''
        def f(tensors: List[Tensor], keys: List[str], args: List[str]):
            redis.execute('PIDS')
            i = 0
            while i >= 0:
                i = (i + 1) % 1000
            return torch.tensor(i)
        '''

        class Host:
            async def execute(self, argv):
                print(*engine.worker_pids(), flush=True)

        async def main():
            global engine
            processes = Isolation(Manager(IsolationSettings()), lambda identity: identity)
            settings = ScriptSettings(script_execution_timeout_ms=0)
            engine = ScriptEngine(settings, asyncio.get_running_loop(), processes)
            script = Script("a", Device("CPU", None, "CPU"), b"", ("f",), textwrap.dedent(source))
            await engine.run(script, "f", [], [], [], 0, Host())

        asyncio.run(main())
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        worker = int(server.stdout.readline())
        zygote = parent_of(worker)
        server.kill()
    assert wait_for_end(worker)
    assert wait_for_end(zygote)


def test_a_server_that_goes_with_an_answer_unread_is_no_error() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "redisai_py.engine.isolation.boot", str(far.fileno()), str(os.getpid()), "TORCH"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, pass_fds=[far.fileno()], stderr=subprocess.PIPE) as zygote:
        far.close()
        assert select.select([near], [], [], 25)[0]  # `ready` has come, and is not read
        near.close()
        _, words = zygote.communicate(timeout=25)
    assert (zygote.returncode, words) == (0, b"")


# --- many at once ---------------------------------------------------------------------------------------------------


def together(count: int) -> Callable[[list[bytes]], Awaitable[ReplyTree]]:
    """A host's `execute` that answers nobody before `count` scripts have asked."""
    arrived: list[bytes] = []
    everyone = asyncio.Event()

    async def execute(argv: list[bytes]) -> ReplyTree:
        arrived.append(argv[1])
        if len(arrived) == count:
            everyone.set()
        await everyone.wait()
        return len(arrived)

    return execute


def test_independent_runs_are_parallel(fresh: Callable[..., Scripts]) -> None:
    scripts = fresh(threads_per_queue=3)
    script = scripts.script(ENTRY + "    return torch.tensor(int(str(redis.execute('MEET', args[0]))))\n")

    async def go() -> list[Any]:
        host = Host(together(3))
        runs = [scripts.engine.run(script, "f", [], [], [b"%d" % n], 1, host) for n in range(3)]
        return [(await run)[0].numpy().item() for run in runs]

    assert scripts.do(go()) == [3, 3, 3]
    assert len(scripts.engine.worker_pids()) == 3


def test_one_worker_is_first_in_first_out(scripts: Scripts) -> None:
    script = scripts.script(ENTRY + "    redis.execute('IS', args[0])\n    return tensors[0] + int(args[0])\n")
    host = Host()

    async def go() -> list[float]:
        runs = [scripts.engine.run(script, "f", [tensor(1)], [], [b"%d" % n], 1, host) for n in range(200)]
        assert sum(scripts.engine.queue_depths().values()) >= 199
        results = [(await run)[0].numpy().item() for run in runs]
        assert all(run.duration_us > 0 for run in runs)
        assert runs[-1].queued_us > runs[0].queued_us
        return results

    assert scripts.do(go()) == [1 + n for n in range(200)]
    assert [int(argv[1]) for argv in host.commands] == list(range(200))
    assert scripts.engine.queue_depths() == {}


def test_timeout_in_the_queue(scripts: Scripts) -> None:
    script = scripts.script(ENTRY + "    redis.execute('WAIT')\n    return tensors\n")
    release = asyncio.Event()

    async def held(argv: list[bytes]) -> ReplyTree:
        await release.wait()
        return None

    assert scripts.value("return torch.tensor(7)") == 7  # a worker is there

    async def go() -> None:
        host = Host(held)
        first = scripts.engine.run(script, "f", [tensor(1)], [], [], 1, host, timeout_ms=1000)
        second = scripts.engine.run(script, "f", [tensor(1)], [], [], 1, host, timeout_ms=50)
        third = scripts.engine.run(script, "f", [tensor(3)], [], [], 1, host)
        with pytest.raises(QueueTimeout, match=r"^TIMEDOUT$"):
            await second
        release.set()
        await first
        assert (await third)[0] == tensor(3)
        assert len(host.commands) == 2

    scripts.do(go())


def test_cancelled_while_waiting_is_never_run(scripts: Scripts) -> None:
    script = scripts.script(ENTRY + "    redis.execute('IS', args[0])\n    return tensors\n")

    async def go() -> list[list[bytes]]:
        host = Host()
        runs = [scripts.engine.run(script, "f", [tensor(1)], [], [b"%d" % n], 1, host) for n in range(3)]
        runs[1].cancel()
        await runs[2]
        return host.commands

    assert scripts.do(go()) == [[b"IS", b"0"], [b"IS", b"2"]]


def test_bound_on_processes(fresh: Callable[..., Scripts]) -> None:
    scripts = fresh(threads_per_queue=2, max_processes=2)
    source = scripts.script(ENTRY + "    return tensors\n")
    names = ["CPU", "CPU:1", "cpufoo"]
    every = [Script(source.id, Device("CPU", None, name), b"", ("f",), source.source) for name in names]

    async def go() -> int:
        runs = [scripts.engine.run(each, "f", [tensor(1)], [], [], 1, Host()) for each in every for _ in range(5)]
        for run in runs:
            await run
        return len(scripts.engine.worker_pids())

    assert scripts.do(go()) <= 2


def test_settings_may_change(fresh: Callable[..., Scripts]) -> None:
    scripts = fresh(script_execution_timeout_ms=0)
    assert scripts.value("return torch.tensor(7)") == 7
    scripts.engine.settings = ScriptSettings(script_execution_timeout_ms=100)
    with pytest.raises(RunTimeout, match="100 ms"):
        scripts.value(ENDLESS)


@pytest.mark.parametrize("policy", [asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy])
def test_without_asyncio_tasks(policy: Any) -> None:
    """On either loop, awaited by the server's own eager task."""
    loop = policy().new_event_loop()
    processes = engine_processes()
    engine = ScriptEngine(LIMITS, loop, processes)
    source = ENTRY + "    redis.execute('X')\n    return tensors\n"
    outcomes: list[Any] = []

    async def command() -> list[Tensor]:
        await engine.compile(source, "CPU", ("f",), "id")
        return await engine.run(
            Script("id", Device("CPU", None, "CPU"), b"", ("f",), source), "f", [tensor(3)], [], [], 1, Host()
        )

    def done(value: Any, error: BaseException | None) -> None:
        outcomes.extend((value, error))
        loop.stop()

    try:
        loop.call_soon(run_eagerly, command(), done)
        loop.run_forever()
        assert outcomes == [[tensor(3)], None]
    finally:
        engine.close()
        loop.close()
        processes.close()


def test_full_queue_is_refused(fresh: Callable[..., Scripts]) -> None:
    scripts = fresh(queue_limit=2)
    script = scripts.script(ENTRY + "    return tensors\n")

    async def go() -> str:
        runs = [scripts.engine.run(script, "f", [tensor(1)], [], [], 1, Host()) for _ in range(3)]
        for run in runs[:2]:
            await run
        with pytest.raises(RedisAIError) as error:
            await runs[2]
        return error.value.wire()

    assert scripts.do(go()) == "ERR the run queue of scripts is full: 2 runs are waiting"


def test_workers_draw_different_random_numbers(fresh: Callable[..., Scripts]) -> None:
    scripts = fresh(threads_per_queue=2)
    script = scripts.script(ENTRY + "    redis.execute('MEET', 'x')\n    return torch.rand([4])\n")

    async def go() -> tuple[Tensor, Tensor]:
        host = Host(together(2))
        runs = [scripts.engine.run(script, "f", [], [], [], 1, host) for _ in range(2)]
        return (await runs[0])[0], (await runs[1])[0]

    first, second = scripts.do(go())
    assert first != second


def test_close_leaves_no_process(fresh: Callable[..., Scripts]) -> None:
    scripts = fresh(threads_per_queue=2, script_execution_timeout_ms=0)
    script = scripts.script(ENTRY + "    redis.execute('MEET', 'x')\n" + textwrap.indent(ENDLESS, "    "))

    async def go() -> list[int]:
        reached = asyncio.Event()

        async def seen(argv: list[bytes]) -> ReplyTree:
            reached.set()
            return None

        runs = [scripts.engine.run(script, "f", [], [], [], 1, Host(seen)) for _ in range(3)]
        await reached.wait()
        pids = scripts.engine.worker_pids()
        scripts.engine.close()
        for run in runs:
            with pytest.raises(BackendError, match="closed"):
                await run
        return pids

    pids = scripts.do(go())
    assert pids
    assert all([wait_for_end(pid) for pid in pids])
    with pytest.raises(BackendError, match="closed"):
        scripts.run(script)
    with pytest.raises(BackendError, match="closed"):
        scripts.compile("")
