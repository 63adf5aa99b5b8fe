"""Scripts in real worker processes with real torch: compiling, calling, calling back, and what can go wrong."""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis.asyncio
import redis.exceptions
import uvloop

from redisai_py.engine.scripts import ReplyTree, ScriptEngine, ScriptSettings
from redisai_py.engine.scripts.frames import encode_frame
from redisai_py.errors import BackendError, BackendNotInstalled, DeadlineExceeded, RedisAIError
from redisai_py.model import Script
from redisai_py.server.driver import drive
from redisai_py.tensor import Device, DType, Tensor

pytest.importorskip("torch")

ENTRY = "def f(tensors: List[Tensor], keys: List[str], args: List[str]):\n"
LIMITS = ScriptSettings(timeout_ms=10_000, memory_limit_bytes=512 << 20)


class Host:
    """Answers `redis.execute` from a table or a function, and `redisAI.model_execute` with the inputs."""

    def __init__(self, execute: Callable[[list[bytes]], Any] | dict[bytes, ReplyTree] | None = None) -> None:
        self.commands: list[list[bytes]] = []
        self.models: list[tuple[bytes, int]] = []
        self._execute = execute

    async def execute(self, argv: list[bytes]) -> ReplyTree:
        self.commands.append(argv)
        if callable(self._execute):
            reply = self._execute(argv)
            answer: ReplyTree = await reply if asyncio.iscoroutine(reply) else reply
            return answer
        return (self._execute or {}).get(argv[0])

    async def model_execute(self, key: bytes, inputs: list[Tensor], outputs: int) -> list[Tensor]:
        self.models.append((key, outputs))
        if key == b"absent":
            raise RedisAIError("ERR model key is empty")
        return inputs[:outputs]


class Scripts:
    """An engine on a loop of its own, and the shortest way to run a function on it."""

    def __init__(self, settings: ScriptSettings) -> None:
        self._runner = asyncio.Runner()
        self.engine = ScriptEngine(settings, self._runner.get_loop())
        self._ids = 0

    def do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(asyncio.wait_for(coroutine, 25))

    def compile(self, source: str, device: str = "CPU", entry_points: tuple[str, ...] = ()) -> None:
        self.do(self.engine.compile(source, device, entry_points))

    def script(self, source: str, entry_points: tuple[str, ...] = ("f",)) -> Script:
        self._ids += 1
        return Script(f"id{self._ids}", Device("CPU", None, "CPU"), b"", entry_points, textwrap.dedent(source))

    def run(
        self,
        source: str | Script,
        tensors: tuple[Tensor, ...] = (),
        keys: tuple[bytes, ...] = (),
        args: tuple[bytes, ...] = (),
        outputs: int = 1,
        host: Any = None,
        function: str = "f",
    ) -> list[np.ndarray[Any, Any]]:
        script = source if isinstance(source, Script) else self.script(source)

        async def go() -> list[Tensor]:
            return await self.engine.run(script, function, tensors, keys, args, outputs, host or Host())

        return [tensor.numpy() for tensor in self.do(go())]

    def value(self, body: str, host: Any = None, **inputs: Any) -> Any:
        """The single number that a function with this body returns."""
        return self.run(ENTRY + textwrap.indent(textwrap.dedent(body), "    "), host=host, **inputs)[0].item()

    def close(self) -> None:
        self.do(self.engine.close())
        self._runner.close()


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


def tensor(*values: float, dtype: Any = np.float32) -> Tensor:
    return Tensor.from_numpy(np.array(values, dtype))


def wait_for_end(pid: int, timeout_s: float = 10) -> bool:
    """Whether the process ends (or has ended) within the time."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], timeout_s)[0])
    finally:
        os.close(fd)


# --- compiling ------------------------------------------------------------------------------------------------------


def test_compiler_message_on_one_line(scripts: Scripts) -> None:
    with pytest.raises(BackendError) as error:
        scripts.compile("return 1")
    expected = """expected def but found 'return' here:   File "<string>", line 1 return 1 ~~~~~~ <--- HERE """
    assert error.value.wire() == expected


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("f", "absent"), "Function absent does not exist in the given script."),
        (("f", "two"), "Wrong number of inputs in function two. Expected 3 but was 2"),
        (
            ("wrong", "two"),
            "Wrong inputs type in function wrong. Expected signature similar to: "
            "def wrong(tensors: List[Tensor], keys: List[str], args: List[str])",
        ),
    ],
)
def test_entry_point_errors(scripts: Scripts, names: tuple[str, ...], text: str) -> None:
    source = ENTRY + (
        "    return tensors\n"
        "def two(a: List[Tensor], b: List[str]):\n    return a\n"
        "def wrong(a: List[Tensor], b: List[str], c: int):\n    return a\n"
    )
    with pytest.raises(BackendError) as error:
        scripts.compile(source, "CPU", names)
    assert error.value.wire() == text


def test_entry_points_may_have_any_names_and_repeat(scripts: Scripts) -> None:
    source = "def g(x: List[Tensor], y: List[str], z: List[str]) -> int:\n    return 3"
    scripts.compile(source, "cpuFOO", ("g", "g"))
    scripts.compile("def old(a, b):\n    return a + b\n")
    scripts.compile("")


@pytest.mark.parametrize("device", ["TPU", "GPUx", "GPU:", "GPU:x", "", "xCPU"])
def test_unsupported_device_masks_compile_error(scripts: Scripts, device: str) -> None:
    with pytest.raises(BackendError, match=r"^ERR unsupported device$"):
        scripts.compile("return 1", device)


@pytest.mark.parametrize("device", ["GPU", "gpu:0"])
def test_gpu_without_cuda(scripts: Scripts, device: str) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(BackendError, match=r"^GPU requested but Torch couldn't find CUDA$"):
        scripts.compile("return 1", device)


def test_source_is_cut_at_nul(scripts: Scripts) -> None:
    scripts.compile(ENTRY + "    return tensors\n\0not a script", "CPU", ("f",))


@pytest.mark.parametrize(
    "expression",
    [
        "torch.from_file(keys[0], True, 1)",
        "torch.save([1], keys[0])",
        "torch.ops.aten.relu(tensors[0])",
        "torch.nn.functional.relu(tensors[0])",
        "torch.classes.x",
        "torch.__dict__",
        "torch.library",
        "redis.__class__",
        "redis.host",
        "host.execute(keys)",
        "math.sqrt(2.0)",
        "open(keys[0])",
        "__import__('os')",
        "tensors[0].__class__",
    ],
)
def test_nothing_else_resolves(scripts: Scripts, expression: str) -> None:
    with pytest.raises(BackendError):
        scripts.compile(f"{ENTRY}    return {expression}\n")


def test_variadic_calls_keep_lines_in_messages(scripts: Scripts) -> None:
    source = ENTRY + (
        "    redis.execute('SET', keys[0],  # a comment, with a comma\n"
        "                  args[0])\n"
        "    redis.execute('SET', keys[0], nothing, redis.execute('a', 'b', 'c'))\n"
        "    return tensors\n"
    )
    with pytest.raises(BackendError) as error:
        scripts.compile(source)
    text = str(error.value)
    assert 'undefined value nothing:\n  File "<string>", line 4' in text
    assert "    redis.execute('SET', keys[0], nothing, redis.execute('a', 'b', 'c'))\n" in text


def test_arguments_of_execute_must_be_strings(scripts: Scripts) -> None:
    for call in ("redis.execute('INCRBY', keys[0], 1)", "redis.execute('GET', 1)", "redis.execute(1)"):
        with pytest.raises(BackendError, match="Expected a value of type"):
            scripts.compile(f"{ENTRY}    {call}\n    return tensors\n")


def test_missing_framework(fresh: Callable[..., Scripts], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError(\"No module named 'torch'\")")
    monkeypatch.syspath_prepend(tmp_path)
    scripts = fresh()
    for _ in range(2):
        with pytest.raises(
            BackendNotInstalled, match=r"^ERR Could not load backend: No module named 'torch'.*\[torch\]"
        ):
            scripts.compile("return 1", "TPU")
    with pytest.raises(BackendNotInstalled, match=r"^ERR Could not load backend"):
        scripts.run(ENTRY + "    return tensors\n")


# --- calling --------------------------------------------------------------------------------------------------------


def test_entry_point_gets_three_lists(scripts: Scripts) -> None:
    source = ENTRY + "    return tensors[0] * float(args[0]) + len(keys[1]) + len(args)\n"
    (result,) = scripts.run(source, (tensor(1, 2),), (b"a", "äb".encode()), (b"2.5", b"x\0y", b""))
    assert result.tolist() == [2.5 + 3 + 3, 5 + 3 + 3]
    (result,) = scripts.run(ENTRY + "    return torch.tensor(len(args[0]))\n", args=(b"ab\0cd",))
    assert (result.dtype, result.shape, result.item()) == (np.int64, (), 2)


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype is not DType.STRING])
def test_every_dtype_passes(scripts: Scripts, dtype: DType) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype.numpy_dtype)
    (result,) = scripts.run(ENTRY + "    return tensors[0]\n", (Tensor.from_numpy(array),))
    assert (result.dtype, result.tolist()) == (array.dtype, array.tolist())


def test_shapes_and_sizes(scripts: Scripts) -> None:
    arrays: list[np.ndarray[Any, Any]] = [
        np.array(3.5, np.float32),
        np.zeros((0, 4), np.int16),
        np.arange(3, dtype=np.uint8),
        np.random.default_rng(0).random((512, 1024)),
    ]
    source = ENTRY + "    return [t.reshape(t.shape) for t in tensors]\n"
    results = scripts.run(source, tuple(Tensor.from_numpy(array) for array in arrays), outputs=4)
    for array, result in zip(arrays, results, strict=True):
        np.testing.assert_array_equal(array, result)
    (result,) = scripts.run(ENTRY + "    return tensors[0].t()\n", (Tensor.from_numpy(arrays[3]),))
    np.testing.assert_array_equal(result, arrays[3].T)


def test_string_tensors_are_refused(scripts: Scripts) -> None:
    with pytest.raises(BackendError, match=r"^Unsupported code 7$"):
        scripts.run(ENTRY + "    return tensors\n", (Tensor(DType.STRING, (1,), b"a\0"),))


OLD_STYLE = """
def add(a, b):
    return a + b

def addn(a, rest: List[Tensor]):
    return torch.stack(rest).sum(0) + a, torch.tensor(len(rest))

def typed(a, n: int):
    return a

def names(a, n: List[str]):
    return a
"""


@pytest.mark.parametrize(
    ("function", "inputs", "expected"),
    [
        ("add", 2, [3]),
        ("add", 4, [3]),  # surplus inputs are ignored
        ("addn", 2, [3, 1]),
        ("addn", 4, [1 + 2 + 3 + 4, 3]),
        ("add", 1, "Wrong number of inputs provided to function: add"),
        ("addn", 1, "Wrong number of inputs provided to function: addn"),
        ("typed", 2, "Unsupported input type in function definition: typed"),
        ("names", 2, "Unsupported input type in function definition: names"),
        ("absent", 2, "Function does not exist: absent"),
    ],
)
def test_binding_of_functions_that_are_no_entry_points(
    scripts: Scripts, function: str, inputs: int, expected: str | list[int]
) -> None:
    script = scripts.script(OLD_STYLE, ())
    tensors = tuple(tensor(n + 1) for n in range(inputs))
    if isinstance(expected, str):
        with pytest.raises(BackendError) as error:
            scripts.run(script, tensors, function=function)
        assert error.value.wire() == expected
    else:
        results = scripts.run(script, tensors, outputs=len(expected), function=function)
        assert [result.item() for result in results] == expected


@pytest.mark.parametrize(
    ("value", "outputs", "expected"),
    [
        ("tensors[0]", 1, 1),
        ("[tensors[0], tensors[0]]", 2, 2),
        ("(tensors[0], tensors[0])", 2, 2),
        ("(tensors[0], tensors)", 2, "Function returned non-tensor valuesf"),
        ("tensors[0]", 2, "Function returned unexpected number of outputs - f"),
        ("[tensors[0], tensors[0]]", 1, "Function returned unexpected number of outputs - f"),
        ("None", 1, "Function returned non-tensor valuesf"),
        ("1", 1, "Function returned non-tensor valuesf"),
        ("{'a': 1}", 1, "Function returned non-tensor valuesf"),
        ("'text'", 1, "Function returned non-tensor valuesf"),
        ("redis.execute('BINARY')", 1, "Function returned non-tensor valuesf"),
        ("redis.execute('BINARY')", 0, 0),
        ("'text'", 0, 0),
        ("tensors[0].to(torch.complex64)", 1, "ComplexFloat is not supported by dlpack"),
        ("torch.quantize_per_tensor(tensors[0], 1.0, 0, torch.qint8)", 1, "QInt8 is not supported by dlpack"),
    ],
)
def test_results(scripts: Scripts, value: str, outputs: int, expected: str | int) -> None:
    host = Host({b"BINARY": b"\xff\xfe"})
    source = f"{ENTRY}    return {value}\n"
    if isinstance(expected, str):
        with pytest.raises(BackendError) as error:
            scripts.run(source, (tensor(1),), outputs=outputs, host=host)
        assert error.value.wire() == expected
    else:
        assert len(scripts.run(source, (tensor(1),), outputs=outputs, host=host)) == expected


def test_run_error_carries_the_cause_on_one_line(scripts: Scripts) -> None:
    with pytest.raises(BackendError) as error:
        scripts.run(ENTRY + "    return tensors[3]\n")
    text = error.value.wire()
    assert "\n" not in text
    assert text.startswith("The following operation failed in the TorchScript interpreter.")
    assert "list index out of range" in text
    with pytest.raises(BackendError, match=r"ValueError: mine 0"):
        scripts.run(ENTRY + "    raise ValueError('mine ' + str(len(tensors)))\n")


def test_print_and_warnings_go_nowhere(scripts: Scripts, capfd: pytest.CaptureFixture[str]) -> None:
    scripts.value("print('secret')\ntorch.warn('noise', 2)\nreturn torch.tensor(1)")
    assert capfd.readouterr() == ("", "")


def test_gradients_are_off(scripts: Scripts) -> None:
    body = "w = torch.ones([1])\nw.requires_grad_(True)\nreturn torch.tensor(int((w * 2).requires_grad))"
    assert scripts.value(body) == 0


# --- Redis and models from a script ---------------------------------------------------------------------------------


def test_unused_calls_are_not_dropped_and_keep_order(scripts: Scripts) -> None:
    host = Host()
    scripts.run(
        ENTRY
        + "    redis.execute('SET', keys[0], args[0])\n"
        + "    Redis.execute('MSET', keys)\n"
        + "    REDIS.execute('PING')\n"
        + "    redis.execute('ECHO', 'a')\n"
        + "    redis.execute(('SET'), (keys[0]), (args[0]), 'EX', str(7))\n"
        + "    redis.execute('DEL', str(redis.execute('GET', 'a')), str(redis.execute('A', 'b', 'c')))\n",
        keys=(b"k", b"l"),
        args=(b"v",),
        outputs=0,
        host=host,
    )
    assert [b" ".join(argv) for argv in host.commands] == [
        b"SET k v",
        b"MSET k l",
        b"PING",
        b"ECHO a",
        b"SET k v EX 7",
        b"GET a",
        b"A b c",
        b"DEL None None",
    ]


def test_values_of_replies(scripts: Scripts) -> None:
    host = Host({b"N": None, b"S": b"12", b"I": 1 << 40, b"L": [1, b"a", None, [], [b"x", [2]]], b"B": b"\xff\0\xfe"})
    checks = """
        assert isinstance(redis.execute("N"), NoneType)
        s = redis.execute("S")
        assert isinstance(s, str) and s == "12"
        i = redis.execute("I")
        assert isinstance(i, int) and i == 1 << 40
        items = redis.asList(redis.execute("L"))
        assert len(items) == 5 and str(items[0]) == "1" and str(items[1]) == "a" and isinstance(items[2], NoneType)
        assert len(redis.asList(items[3])) == 0
        inner = redis.asList(redis.asList(items[4])[1])
        assert int(str(inner[0])) == 2
        assert len(str(redis.execute("B"))) == 3
        return torch.tensor(int(str(s)))
    """
    assert scripts.value(checks, host) == 12
    with pytest.raises(BackendError, match=r"redis.asList: the value is not a list"):
        scripts.value("return torch.tensor(len(redis.asList(redis.execute('S'))))", host)


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (
            RedisAIError("WRONGTYPE Operation against a key"),
            "Redis command returned an error: WRONGTYPE Operation against a key",
        ),
        ([1, [RedisAIError("ERR deep")]], "Redis command returned an error: ERR deep"),
        (
            RedisAIError("ERR wrong number of arguments for 'get' command"),
            "Redis command returned an error: Invalid argument",
        ),
        (RedisAIError("ERR unknown command 'X'"), "Redis command returned an error: No such file or directory"),
    ],
)
def test_error_replies_are_raised(scripts: Scripts, reply: ReplyTree, text: str) -> None:
    with pytest.raises(BackendError) as error:
        scripts.value("redis.execute('X')\nreturn torch.tensor(1)", Host({b"X": reply}))
    assert text in error.value.wire()
    assert "redisai_py_torch" not in error.value.wire()

    def fail(argv: list[bytes]) -> ReplyTree:
        assert isinstance(reply, RedisAIError | list)
        raise reply if isinstance(reply, RedisAIError) else RedisAIError("ERR deep")

    with pytest.raises(BackendError) as error:
        scripts.value("redis.execute('X')\nreturn torch.tensor(1)", Host(fail))
    assert text in error.value.wire()


def test_arguments_are_cut_at_nul(scripts: Scripts) -> None:
    host = Host({b"GET": b"a\0b"})
    scripts.run(ENTRY + "    redis.execute('SET', 'k', str(redis.execute('GET', 'k')))\n", outputs=0, host=host)
    assert host.commands[1] == [b"SET", b"k", b"a"]


@pytest.mark.parametrize("word", [b"plain", "naïve ☃".encode(), b"\xff\xfe\x80", b"\t1", b"line\nline\t", b""])
def test_strings_need_not_be_text(scripts: Scripts, word: bytes) -> None:
    host = Host({b"GET": word})
    source = ENTRY + (
        "    redis.execute('SET', keys[0], str(redis.execute('GET', 'k')), args[0])\n"
        "    return redisAI.model_execute(keys[0], tensors, 1)\n"
    )
    scripts.run(source, (tensor(1),), (word,), (word,), host=host)
    assert host.commands[1] == [b"SET", word, word, word]
    assert host.models == [(word, 1)]


def test_models(scripts: Scripts) -> None:
    host = Host()
    source = ENTRY + "    return redisAI.model_execute(keys[0], [tensors[0] / float(args[0]), tensors[0]], 2)\n"
    results = scripts.run(source, (tensor(2, 4),), (b"net",), (b"2",), outputs=2, host=host)
    assert [result.tolist() for result in results] == [[1, 2], [2, 4]]
    assert host.models == [(b"net", 2)]
    with pytest.raises(BackendError, match="ERR model key is empty"):
        scripts.run(source, (tensor(2),), (b"absent",), (b"2",), host=host)


def test_bug_of_the_host_ends_the_run_only(scripts: Scripts) -> None:
    def bug(argv: list[bytes]) -> ReplyTree:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        scripts.value("redis.execute('X')\nreturn torch.tensor(1)", Host(bug))
    assert scripts.value("return torch.tensor(7)") == 7


@pytest.fixture
def redis_socket(tmp_path: Path) -> Iterator[str]:
    """The unix socket of a stock Redis."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        pytest.skip("no Redis")
    path = str(tmp_path / "redis.sock")
    command = [binary, "--port", "0", "--unixsocket", path, "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        while "ready to accept" not in server.stdout.readline().lower():
            assert server.poll() is None
        yield path
        server.terminate()


def test_against_a_real_redis(scripts: Scripts, redis_socket: str) -> None:
    async def go() -> list[Any]:
        client = redis.asyncio.Redis(unix_socket_path=redis_socket)

        class RealHost(Host):
            async def execute(self, argv: list[bytes]) -> ReplyTree:
                try:
                    connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
                    try:
                        await connection.send_command(*argv)
                        reply: ReplyTree = await connection.read_response(disable_decoding=True)
                    finally:
                        await client.connection_pool.release(connection)
                except redis.exceptions.ResponseError as error:
                    return RedisAIError(str(error))
                return reply

        source = """
            def f(tensors: List[Tensor], keys: List[str], args: List[str]):
                redis.execute("DEL", keys)
                redis.execute("INCRBY", keys[0], args[0])
                v: Any = redis.execute("GET", keys[0])
                redis.execute("RPUSH", keys[1], "1", "20", "300")
                total = 0
                for item in redis.asList(redis.execute("LRANGE", keys[1], "0", "-1")):
                    total += int(str(item))
                return torch.tensor(int(str(v))), torch.tensor(total)
        """
        values: list[Any] = []
        for name, arg in ((b"script:n", b"5"), (b"script:n", b"x")):
            try:
                run = scripts.engine.run(scripts.script(source), "f", [], [name, b"script:l"], [arg], 2, RealHost())
                values.extend(tensor.numpy().item() for tensor in await run)
            except BackendError as error:
                values.append(error.wire())
        values.append(await client.get("script:n"))
        await client.aclose()
        return values

    first, total, error, stored = scripts.do(go())
    assert (first, total, stored) == (5, 321, None)
    assert "Redis command returned an error: " in error
    assert "not an integer" in error


# --- limits and crashes ---------------------------------------------------------------------------------------------

ENDLESS = """
i = 0
while i >= 0:
    i = (i + 1) % 1000
return torch.tensor(i)
"""


def test_endless_loop_is_stopped(fresh: Callable[..., Scripts]) -> None:
    scripts = fresh(timeout_ms=300)
    scripts.compile("")
    with pytest.raises(DeadlineExceeded, match=r"^ERR .*SCRIPT_EXECUTION_TIMEOUT \(300 ms\)"):
        scripts.value(ENDLESS)
    assert scripts.value("return torch.tensor(7)") == 7


def test_limit_holds_while_the_host_does_not_answer(fresh: Callable[..., Scripts]) -> None:
    scripts = fresh(timeout_ms=300)
    cancelled = []

    async def never() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.append(True)

    with pytest.raises(DeadlineExceeded, match="SCRIPT_EXECUTION_TIMEOUT"):
        scripts.value("redis.execute('X')\nreturn torch.tensor(1)", Host(lambda argv: never()))
    assert scripts.value("return torch.tensor(7)") == 7
    assert cancelled


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
    size = LIMITS.memory_limit_bytes + (64 << 20)
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
    """A duplicate of the one socket that a worker has."""
    folder = f"/proc/{pid}/fd"
    (number,) = [int(fd) for fd in os.listdir(folder) if os.readlink(f"{folder}/{fd}").startswith("socket:")]
    process = os.pidfd_open(pid)
    pidfd_getfd = 438
    fd = ctypes.CDLL(None, use_errno=True).syscall(pidfd_getfd, process, number, 0)
    os.close(process)
    if fd < 0:
        pytest.skip(f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
    return socket.socket(fileno=fd)


def frame(**header: Any) -> bytes:
    return b"".join(bytes(part) for part in encode_frame(header))


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 100,
        struct.pack(">IQ", 16, 1 << 40) + b"{}" + b" " * 14,
        frame(),
        frame(op="unknown"),
        frame(op="ready"),
        frame(op="result", duration_us=1, tensors=[["FLOAT", [1 << 40], 1 << 42]]),
        frame(op="result", duration_us=1, tensors=[["FLOAT"]]),
        frame(op="execute", words=1),
        frame(op="execute", words=[]),  # while a question is open
    ],
)
def test_worker_taken_over_is_killed(single: Scripts, data: bytes) -> None:
    scripts = single
    workers: list[int] = []

    async def take_over(argv: list[bytes]) -> ReplyTree:
        workers.append(scripts.engine.worker_pids()[-1])
        with socket_of(workers[0]) as worker:
            worker.send(data)
        await asyncio.get_running_loop().create_future()
        return None

    with pytest.raises(BackendError, match=r"^ERR script worker sent "):
        scripts.value("redis.execute('X')\nreturn torch.tensor(1)", Host(take_over))
    assert wait_for_end(workers[0])
    assert scripts.value("return torch.tensor(7)") == 7


def test_zygote_killed(fresh: Callable[..., Scripts]) -> None:
    scripts = fresh()
    assert scripts.value("return torch.tensor(7)") == 7
    (worker,) = scripts.engine.worker_pids()

    def kill(argv: list[bytes]) -> ReplyTree:
        os.kill(int(parent_of(worker)), signal.SIGKILL)
        return None

    with pytest.raises(BackendError, match="worker process ended with the process it was forked from"):
        scripts.value(f"redis.execute('X')\n{ENDLESS}", Host(kill))
    assert wait_for_end(worker)
    assert scripts.value("return torch.tensor(7)") == 7


def parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


def test_workers_end_with_their_server() -> None:
    program = """
        import asyncio, textwrap
        from redisai_py.engine.scripts import ScriptEngine, ScriptSettings
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
            engine = ScriptEngine(ScriptSettings(timeout_ms=0), asyncio.get_running_loop())
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
    scripts = fresh(workers=3)
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

    async def go() -> None:
        host = Host(held)
        first = scripts.engine.run(script, "f", [tensor(1)], [], [], 1, host, timeout_ms=1000)
        second = scripts.engine.run(script, "f", [tensor(1)], [], [], 1, host, timeout_ms=50)
        third = scripts.engine.run(script, "f", [tensor(3)], [], [], 1, host)
        with pytest.raises(DeadlineExceeded, match=r"^TIMEDOUT$"):
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
    scripts = fresh(workers=2, max_processes=2)
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
    scripts = fresh(timeout_ms=0)
    assert scripts.value("return torch.tensor(7)") == 7
    scripts.engine.settings = ScriptSettings(timeout_ms=100)
    with pytest.raises(DeadlineExceeded, match="100 ms"):
        scripts.value(ENDLESS)


@pytest.mark.parametrize("policy", [asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy])
def test_without_asyncio_tasks(policy: Any) -> None:
    """On either loop, awaited by the server's own driver."""
    loop = policy().new_event_loop()
    engine = ScriptEngine(LIMITS, loop)
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
        loop.call_soon(drive, command(), done)
        loop.run_forever()
        assert outcomes == [[tensor(3)], None]
    finally:
        loop.run_until_complete(engine.close())
        loop.close()


def test_full_queue_is_refused(fresh: Callable[..., Scripts]) -> None:
    scripts = fresh(max_queued=2)
    script = scripts.script(ENTRY + "    return tensors\n")

    async def go() -> str:
        runs = [scripts.engine.run(script, "f", [tensor(1)], [], [], 1, Host()) for _ in range(3)]
        for run in runs[:2]:
            await run
        with pytest.raises(RedisAIError) as error:
            await runs[2]
        return error.value.wire()

    assert scripts.do(go()) == "ERR 2 script runs are waiting already"


def test_workers_draw_different_random_numbers(fresh: Callable[..., Scripts]) -> None:
    scripts = fresh(workers=2)
    script = scripts.script(ENTRY + "    redis.execute('MEET', 'x')\n    return torch.rand([4])\n")

    async def go() -> tuple[Tensor, Tensor]:
        host = Host(together(2))
        runs = [scripts.engine.run(script, "f", [], [], [], 1, host) for _ in range(2)]
        return (await runs[0])[0], (await runs[1])[0]

    first, second = scripts.do(go())
    assert first != second


def test_close_leaves_no_process(fresh: Callable[..., Scripts]) -> None:
    scripts = fresh(workers=2, timeout_ms=0)
    script = scripts.script(ENTRY + "    redis.execute('MEET', 'x')\n" + textwrap.indent(ENDLESS, "    "))

    async def go() -> list[int]:
        reached = asyncio.Event()

        async def seen(argv: list[bytes]) -> ReplyTree:
            reached.set()
            return None

        runs = [scripts.engine.run(script, "f", [], [], [], 1, Host(seen)) for _ in range(3)]
        await reached.wait()
        pids = scripts.engine.worker_pids()
        pids.append(parent_of(pids[0]))
        await scripts.engine.close()
        for run in runs:
            with pytest.raises(BackendError, match="closed"):
                await run
        return pids

    pids = scripts.do(go())
    assert len(pids) >= 2
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    with pytest.raises(BackendError, match="closed"):
        scripts.run(script)
    with pytest.raises(BackendError, match="closed"):
        scripts.compile("")
