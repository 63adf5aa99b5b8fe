"""Scripts in real worker processes with real torch: compiling, calling, and calling back."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis.asyncio
import redis.exceptions

from redisai_py.engine.torchscript.frames import ReplyTree
from redisai_py.engine.torchscript.jobs import ScriptSettings
from redisai_py.errors import BackendError, BackendNotInstalled, RedisAIError
from redisai_py.tensor import DType, Tensor
from tests.backends.script_harness import ENTRY, LIMITS, Host, Scripts, tensor

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def scripts() -> Iterator[Scripts]:
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
    source = f"{ENTRY}    redis.execute('SET', keys[0], args[0])\n    return tensors[3]\n"
    with pytest.raises(BackendError, match=r"\n    redis\.execute\('SET', keys\[0\], args\[0\]\)\n"):
        scripts.run(source, keys=(b"k",), args=(b"v",))
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


def test_preparing_for_scripts_leaves_the_interpreter_as_models_need_it() -> None:
    """The process that forks those of scripts forks those of models, too."""
    torch = pytest.importorskip("torch")
    from redisai_py_torch.script_worker import prepare

    prepare()
    assert torch._C._jit_set_profiling_mode(True)
