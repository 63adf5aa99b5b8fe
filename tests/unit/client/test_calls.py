"""The words of every call are those of the `redisai` package, and what it refuses is refused with its texts."""

import inspect

import numpy as np
import pytest
import redis
from redis.exceptions import ResponseError

from redisai_py import Client, errors
from redisai_py.client import calls, graph
from redisai_py.client.arrays import dtype_of
from redisai_py.client.failures import failure_of, failures_among
from redisai_py.client.files import chunks_of, open_model
from redisai_py.client.wire import decode_strings
from redisai_py.tensor import DType
from tests.parsing import parse

BATCH = {"batch": 2, "minbatch": 1, "minbatchtimeout": 5, "tag": "t"}


def store(**options):
    return calls.modelstore(**{"key": "m", "backend": "ONNX", "device": "cpu", "data": b"xyz", **options})


def plain(words):
    """Words with every buffer as bytes."""
    return [bytes(word) if isinstance(word, (memoryview, bytearray)) else word for word in words]


def encoded(words):
    return [
        word.encode() if isinstance(word, str) else b"%d" % word if isinstance(word, int) else word for word in words
    ]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (calls.tensorset("x", [2, 3], None, "float"), ["AI.TENSORSET", "x", "FLOAT", 2, "VALUES", 2, 3]),
        (calls.tensorset("x", (2, 3), (2, 1), "int16"), ["AI.TENSORSET", "x", "INT16", 2, 1, "VALUES", 2, 3]),
        (calls.tensorset("x", ["a", 1], None, str), ["AI.TENSORSET", "x", "STRING", 2, "VALUES", "a", 1]),
        (calls.tensorset("x", np.array([1], "i1"), [9]), ["AI.TENSORSET", "x", "INT8", 1, "BLOB", b"\1"]),
        (calls.tensorset("x", np.array(1, "i1")), ["AI.TENSORSET", "x", "INT8", "BLOB", b"\1"]),
        (calls.tensorset("x", np.array(["a", "bc"])), ["AI.TENSORSET", "x", "STRING", 2, "BLOB", b"a\0bc\0"]),
        # Beyond the package: what RedisAI would not take as words goes as data.
        (calls.tensorset("x", [-1], None, "int8"), ["AI.TENSORSET", "x", "INT8", 1, "BLOB", b"\xff"]),
        (calls.tensorset("x", [True], None, "bool"), ["AI.TENSORSET", "x", "BOOL", 1, "BLOB", b"\1"]),
        (calls.tensorset("x", ["", "a"], None, "str"), ["AI.TENSORSET", "x", "STRING", 2, "BLOB", b"\0a\0"]),
        (calls.tensorset("x", [[1], [2]], None, "uint8"), ["AI.TENSORSET", "x", "UINT8", 2, 1, "BLOB", b"\1\2"]),
        (calls.tensorget("x"), ["AI.TENSORGET", "x", "META", "BLOB"]),
        (calls.tensorget("x", as_numpy=False), ["AI.TENSORGET", "x", "META", "VALUES"]),
        (calls.tensorget("x", meta_only=True), ["AI.TENSORGET", "x", "META"]),
        (store(), ["AI.MODELSTORE", "m", "ONNX", "cpu", "BLOB", b"xyz"]),
        (store(device="gpu:1", tag=""), ["AI.MODELSTORE", "m", "ONNX", "gpu:1", "TAG", "", "BLOB", b"xyz"]),
        (
            store(**BATCH),
            [
                "AI.MODELSTORE",
                "m",
                "ONNX",
                "cpu",
                "TAG",
                "t",
                "BATCHSIZE",
                2,
                "MINBATCHSIZE",
                1,
                "MINBATCHTIMEOUT",
                5,
                "BLOB",
                b"xyz",
            ],
        ),
        (
            store(backend="tf", inputs=("a", "b"), outputs="c", data=b"xyz"),
            ["AI.MODELSTORE", "m", "tf", "cpu", "INPUTS", 2, "a", "b", "OUTPUTS", 1, "c", "BLOB", b"xyz"],
        ),
        (calls.modelget("m"), ["AI.MODELGET", "m", "META", "BLOB"]),
        (calls.modelget("m", meta_only=True), ["AI.MODELGET", "m", "META"]),
        (calls.modeldel("m"), ["AI.MODELDEL", "m"]),
        (
            calls.modelexecute("m", ("a", "b"), ["c"], 5),
            ["AI.MODELEXECUTE", "m", "INPUTS", 2, "a", "b", "OUTPUTS", 1, "c", "TIMEOUT", 5],
        ),
        (
            calls.scriptstore("s", "GPU:0", "src", "f", tag="t"),
            ["AI.SCRIPTSTORE", "s", "GPU:0", "TAG", "t", "ENTRY_POINTS", 1, "f", "SOURCE", "src"],
        ),
        (
            calls.scriptstore("s", "cpu", "src", ("f", "g"), tag=""),
            ["AI.SCRIPTSTORE", "s", "cpu", "ENTRY_POINTS", 2, "f", "g", "SOURCE", "src"],
        ),
        (calls.scriptget("s"), ["AI.SCRIPTGET", "s", "META", "SOURCE"]),
        (calls.scriptget("s", True), ["AI.SCRIPTGET", "s", "META"]),
        (calls.scriptdel("s"), ["AI.SCRIPTDEL", "s"]),
        (
            calls.scriptexecute("s", "f", ["k"], ("a", "b"), [1, "x"], "o", 5),
            [
                "AI.SCRIPTEXECUTE",
                "s",
                "f",
                "KEYS",
                1,
                "k",
                "INPUTS",
                2,
                "a",
                "b",
                "ARGS",
                2,
                1,
                "x",
                "OUTPUTS",
                1,
                "o",
                "TIMEOUT",
                5,
            ],
        ),
        (calls.scriptexecute("s", "f", inputs=[]), ["AI.SCRIPTEXECUTE", "s", "f", "INPUTS", 0]),
        (calls.infoget("m"), ["AI.INFO", "m"]),
        (calls.inforeset("m"), ["AI.INFO", "m", "RESETSTAT"]),
        (calls.config("MODEL_CHUNK_SIZE"), ["AI.CONFIG", "GET", "MODEL_CHUNK_SIZE"]),
        (calls.config("MODEL_CHUNK_SIZE", 65536), ["AI.CONFIG", "MODEL_CHUNK_SIZE", 65536]),
        (calls.loadbackend("TF", "a path"), ["AI.CONFIG", "LOADBACKEND", "TF", "a path"]),
    ],
)
def test_words(call, words):
    assert plain(call.argv) == words
    parse(encoded(call.argv))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: calls.modelset("m", "ONNX", "cpu", b"x", batch=2, minbatch=1, tag="t"), 12),
        (
            lambda: calls.modelset("m", "tf", "GPU:0", b"x", inputs=["a"], outputs="c"),
            ["AI.MODELSET", "m", "tf", "GPU:0", "INPUTS", "a", "OUTPUTS", "c", "BLOB", b"x"],
        ),
        (lambda: calls.modelrun("m", ["a"], "b"), ["AI.MODELRUN", "m", "INPUTS", "a", "OUTPUTS", "b"]),
        (lambda: calls.scriptset("s", "cpu", "src", "t"), ["AI.SCRIPTSET", "s", "cpu", "TAG", "t", "SOURCE", "src"]),
        (
            lambda: calls.scriptrun("s", "f", ["a", "$", "b"], "c"),
            ["AI.SCRIPTRUN", "s", "f", "INPUTS", "a", "$", "b", "OUTPUTS", "c"],
        ),
    ],
)
def test_deprecated_calls(make, words):
    with pytest.warns(DeprecationWarning, match=r"^Call to deprecated method"):
        call = make()
    assert words in (len(call.argv), plain(call.argv))


ALLOWED = "Device not allowed. Use any from {"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: store(key=None), "Model name was not given"),
        (lambda: store(device="tpu"), ALLOWED),
        (lambda: store(backend="X"), "Backend not allowed. Use any from {"),
        (lambda: store(minbatch=1), "Minbatch is not allowed without batch"),
        (lambda: store(batch=2, minbatchtimeout=1), "Minbatchtimeout is not allowed without minbatch"),
        (lambda: store(backend="TF"), "Require keyword arguments inputs and outputs for TF models"),
        (lambda: store(inputs="a"), "Inputs and outputs keywords should not be specified for this backend"),
        (lambda: calls.modelexecute("m", None, "b"), "Missing required arguments for model execute command"),
        (lambda: calls.scriptstore("s", "cpu", None, "f"), "Missing required arguments for script store command"),
        (lambda: calls.scriptstore("s", "tpu", "src", "f"), ALLOWED),
        (lambda: calls.scriptexecute("s", "f"), "Missing required arguments for script execute command"),
        (lambda: calls.scriptexecute("s", None, inputs="a"), "Missing required arguments for script execute command"),
    ],
)
def test_refused_arguments(make, text):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is compared below
        make()
    assert str(caught.value).startswith(text)


@pytest.mark.filterwarnings("ignore:Call to deprecated:DeprecationWarning")
def test_refused_arguments_of_deprecated_calls():
    with pytest.raises(ValueError, match=r"^Require keyword arguments input and output for TF models$"):
        calls.modelset("m", "tf", "cpu", b"x")
    with pytest.raises(ValueError, match=r"^Missing required arguments for script run command$"):
        calls.scriptrun(None, "f", "a", "b")


def test_chunks():
    data = bytes(range(10))
    assert plain(chunks_of(data, 4)) == [data[:4], data[4:8], data[8:]]
    assert plain(chunks_of(memoryview(np.arange(2, dtype="<i2")), 4)) == [b"\0\0\1\0"]
    assert plain(chunks_of(b"", 4)) == [b""]


def test_a_file_is_mapped(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"12345678")
    chunks = chunks_of(open_model(path), 5)
    assert plain(chunks) == [b"12345", b"678"]
    assert type(chunks[0].obj).__name__ == "mmap"
    assert open_model(b"abc") == b"abc"


def test_builder():
    dag = graph.DagBuilder(["a", "b"], "c", "r", 5, ex=60, ifunchanged=True)
    head = ["AI.DAGEXECUTE", "LOAD", 2, "a", "b", "PERSIST", 1, "c", "ROUTING", "r", "TIMEOUT", 5, "EX", 60]
    assert dag.commands == [*head, "IFUNCHANGED", "|>"]
    assert dag.tensorget("a", as_numpy_mutable=True) is dag
    dag.tensorget("b", meta_only=True).tensorset("c", [1], dtype="int8")
    assert dag.commands[16:] == [
        *("AI.TENSORGET", "a", "META", "BLOB", "|>"),
        *("AI.TENSORGET", "b", "META", "|>"),
        *("AI.TENSORSET", "c", "INT8", 1, "VALUES", 1, "|>"),
    ]
    assert dag.call().argv == dag.commands[:-1]
    parse(encoded(dag.call().argv))


def test_builder_in_deprecated_mode():
    with pytest.warns(
        DeprecationWarning, match=r"PERSIST and ROUTING argumentsis allowed only in deprecated AI.DAGRUN or"
    ):
        dag = graph.DagBuilder(readonly=True)
    assert dag.commands == ["AI.DAGRUN_RO", "|>"]
    with pytest.raises(RuntimeError, match=r"deprecated version of DAG, that does not supports MODELEXECUTE.The new"):
        dag.modelexecute("m", "a", "b")
    with pytest.raises(RuntimeError, match=r"^AI.SCRIPTEXECUTE cannot be used in readonly mode$"):
        dag.scriptexecute("s", "f", inputs="a")
    with pytest.warns(DeprecationWarning, match=r"^Creating Dag without"):
        dag = graph.DagBuilder()
    with pytest.raises(
        RuntimeError, match=r"does not supports SCRIPTEXECUTE.The new version requires giving at least one"
    ):
        dag.scriptexecute("s", "f", inputs="a")
    with pytest.raises(RuntimeError, match=r"^READONLY requests cannot write \(duh!\)"):
        graph.DagBuilder(persist="a", readonly=True)


def test_a_dag_that_timed_out():
    dag = graph.DagBuilder("a").tensorget("a")
    assert dag.call().decode(b"TIMEDOUT") == "TIMEDOUT"
    assert dag.call().decode([b"NA"]) == ["NA"]


@pytest.mark.parametrize(
    ("call", "repeatable"),
    [
        (calls.modelexecute("m", "a", "b"), True),
        (calls.modelexecute("m", ["a", b"b"], ["b"]), False),
        (calls.modelexecute("m", 10**15, 7), True),
        (calls.modelexecute("m", [1.5, 7], "7"), False),
        (calls.modelexecute("m", "a\udcff", b"a\xff"), False),
        (calls.scriptexecute("s", "f", inputs="a"), False),
        (calls.modeldel("m"), False),
        (calls.loadbackend("TF", "p"), False),
        (graph.DagBuilder("a", "b").call(), True),
        (graph.DagBuilder("a", b"a").call(), False),
        (graph.DagBuilder("a").scriptexecute("s", "f", inputs="a").call(), False),
    ],
)
def test_what_may_be_sent_twice(call, repeatable):
    assert call.repeatable is repeatable


def test_dtypes_and_arrays_that_are_none():
    assert dtype_of(DType.BOOL) is DType.BOOL

    class Elsewhere:
        def __dlpack__(self, **options):
            raise BufferError("not on this device")

        def __dlpack_device__(self):
            return (2, 0)

    with pytest.raises(BufferError, match="not on this device"):
        calls.tensorset("x", Elsewhere())


def test_strings_of_every_kind_of_reply():
    encoder = redis.Connection(decode_responses=True).encoder
    assert decode_strings({b"a": [b"b", 1], b"c": {b"d"}}, encoder) == {"a": ["b", 1], "c": {"d"}}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("WRONGTYPE Operation against a key holding the wrong kind of value", errors.WrongType),
        ("tensor key is empty or in a different shard", errors.MissingKey),
        ("cannot find run info for key", errors.MissingKey),
        ("CONFLICT a key was changed", errors.Conflict),
        ("Could not load backend", errors.BackendNotInstalled),
        ("MODEL_EXECUTION_TIMEOUT of 5000 ms passed: stopped", errors.DeadlineExceeded),
        ("script ran longer than SCRIPT_EXECUTION_TIMEOUT (5 ms)", errors.DeadlineExceeded),
    ],
)
def test_errors_are_of_both_trees(text, kind):
    failure = failure_of(ResponseError(text))
    assert isinstance(failure, kind)
    assert isinstance(failure, ResponseError)
    assert str(failure) == text


def test_other_errors_stay_what_they_are():
    error = ResponseError("Invalid GraphDef")
    assert failure_of(error) is error
    assert failures_among("TIMEDOUT") == "TIMEDOUT"


def test_replies_of_both_protocols():
    decode = calls.tensorget("x", as_numpy=False).decode
    meta = [b"dtype", b"FLOAT", b"shape", [2], b"values"]
    assert decode([*meta, [b"0.5", b"nan"]])["values"][0] == decode([*meta, [0.5, 1.0]])["values"][0] == 0.5


# Of redisai 1.3.0, without self.
SIGNATURES = {
    "__init__": "debug enable_postprocess args kwargs",
    "config": "name value",
    "dag": "load persist routing timeout readonly",
    "infoget": "key",
    "inforeset": "key",
    "loadbackend": "identifier path",
    "modeldel": "key",
    "modelexecute": "key inputs outputs timeout",
    "modelget": "key meta_only",
    "modelrun": "key inputs outputs",
    "modelscan": "",
    "modelset": "key backend device data batch minbatch tag inputs outputs",
    "modelstore": "key backend device data batch minbatch minbatchtimeout tag inputs outputs",
    "pipeline": "transaction shard_hint",
    "scriptdel": "key",
    "scriptexecute": "key function keys inputs args outputs timeout",
    "scriptget": "key meta_only",
    "scriptrun": "key function inputs outputs",
    "scriptscan": "",
    "scriptset": "key device script tag",
    "scriptstore": "key device script entry_points tag",
    "tensorget": "key as_numpy as_numpy_mutable meta_only",
    "tensorset": "key tensor shape dtype",
}


@pytest.mark.parametrize(("name", "parameters"), SIGNATURES.items())
def test_arguments_have_the_order_of_the_redisai_package(name, parameters):
    ours = [p for p in inspect.signature(getattr(Client, name)).parameters if p != "self"]
    expected = parameters.split()
    assert [p for p in ours if p in expected] == expected
    assert ours[: len(expected)] == expected or name == "__init__"
