import pytest

from redisai_py.commands import backends
from redisai_py.commands.checks import ModelCounts, ModelExists
from redisai_py.commands.model_runs import ModelExecute
from redisai_py.commands.models import ModelDel, ModelGet, ModelScan, ModelStore
from redisai_py.errors import CommandError, WrongArity
from redisai_py.tensor import Device
from tests.parsing import parse

CPU = Device("CPU", None, "CPU")
MISSING_BLOB = "ERR Insufficient arguments, missing model BLOB"
TOO_FEW = "ERR number of {} keys to AI.MODELEXECUTE command does not match the number of given arguments"


def words(text):
    return text.encode().split()


def error(text):
    with pytest.raises(CommandError) as caught:
        parse(words(text))
    return str(caught.value), caught.value.checks


def test_store():
    request = parse([*words("ai.modelstore net onnx cpu:1 tag v7 batchsize 4.0 minbatchsize 1e0"), b"BLOB", b"a", b"b"])
    assert request == ModelStore(b"net", "ONNX", Device("CPU", 1, "cpu:1"), (b"a", b"b"), b"v7", 4, 1)


def test_store_tf():
    request = parse(words("AI.MODELSTORE mul TF CPU MINBATCHSIZE 0 INPUTS 2.0 a b OUTPUTS 1 mul BLOB x"))
    assert request == ModelStore(b"mul", "TF", CPU, (b"x",), inputs=("a", "b"), outputs=("mul",))


def test_chunks_are_never_copied():
    chunks = (memoryview(b"abc"), bytearray(b"def"))
    for name in (b"AI.MODELSTORE", b"AI.MODELSET"):
        request = parse([name, b"k", b"ONNX", b"CPU", b"BLOB", *chunks])
        assert all(kept is given for kept, given in zip(request.chunks, chunks, strict=True))


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        ("NOPE CPU BLOB x", "ERR unsupported backend"),
        ("NOPE TPU BLOB x", "ERR unsupported backend"),
        ("TORCH CPU:123456 BLOB x", "ERR Invalid DEVICE"),
        ("TORCH TPU BLOB x", "ERR Invalid DEVICE"),
        ("TORCH CPU TAG t BATCHSIZE", "ERR Invalid argument for BATCHSIZE"),
        ("TORCH CPU BATCHSIZE -1 BLOB x", "ERR Invalid argument for BATCHSIZE"),
        ("TORCH CPU BATCHSIZE 1.5 BLOB x", "ERR Invalid argument for BATCHSIZE"),
        ("TORCH CPU BATCHSIZE 4 MINBATCHSIZE x BLOB x", "ERR Invalid argument for MINBATCHSIZE"),
        ("TORCH CPU MINBATCHSIZE 1 BLOB x", "ERR MINBATCHSIZE specified without BATCHSIZE"),
        ("TORCH CPU BATCHSIZE 0 MINBATCHSIZE 1 BLOB x", "ERR MINBATCHSIZE specified without BATCHSIZE"),
        ("TORCH CPU MINBATCHTIMEOUT x BLOB x", "ERR Invalid argument for MINBATCHTIMEOUT"),
        ("TORCH CPU BATCHSIZE 4 MINBATCHTIMEOUT 1 BLOB x", "ERR MINBATCHTIMEOUT specified without MINBATCHSIZE"),
        ("TORCH CPU BATCHSIZE 4", MISSING_BLOB),
        ("TORCH CPU TAG v BLOB", MISSING_BLOB),
        ("TORCH CPU BATCHSIZE 2 TAG v1 BLOB x", "ERR Invalid argument, expected BLOB"),
        ("TORCH CPU OUTPUTS 1 x BLOB x", "ERR Invalid argument, expected BLOB"),
        ("TORCH CPU INPUTS 1 x BLOB x", "ERR INPUTS argument should not be specified for this backend"),
        ("TF CPU TAG t BLOB", "ERR INPUTS not specified for TF"),
        ("TF CPU a BLOB x", "ERR INPUTS not specified for TF"),
        ("TF CPU SIGNATURE s a BLOB x", "ERR INPUTS not specified for TF"),
        ("ONNX CPU SIGNATURE s BLOB x", "ERR Invalid argument, expected BLOB"),
        ("TFLITE CPU SIGNATURE s INPUTS 1 x BLOB x", "ERR INPUTS argument should not be specified for this backend"),
        ("TFLITE CPU SIGNATURE BLOB x", "ERR Invalid argument, expected BLOB"),
        ("TF CPU INPUTS 0 OUTPUTS 0 BLOB x", "ERR Invalid argument for output_count"),
        ("TF CPU INPUTS 0 BLOB x", "ERR Invalid argument for input_count"),
        ("TF CPU INPUTS x a BLOB x", "ERR Invalid argument for input_count"),
        ("TF CPU TAG t INPUTS", "ERR Invalid argument for input_count"),
        ("TF CPU INPUTS 9 a BLOB x", "ERR number of model inputs does not match the number of given arguments"),
        ("TF CPU INPUTS 1 a BLOB x", "ERR OUTPUTS not specified for TF"),
        ("TF CPU INPUTS 1 a OUTPUTS -1 BLOB x", "ERR Invalid argument for output_count"),
        ("TF CPU INPUTS 1 a OUTPUTS 9 b", "ERR number of model outputs does not match the number of given arguments"),
        ("TF CPU INPUTS 1 a OUTPUTS 1 b", "ERR Invalid argument, expected BLOB"),
    ],
)
def test_store_errors(rest, text):
    assert error(f"AI.MODELSTORE k {rest}") == (text, ())


@pytest.mark.parametrize(
    ("rest", "signature", "inputs", "outputs"),
    [
        ("TF CPU INPUTS 0 OUTPUTS 1 y BLOB x", "", (), ("y",)),
        ("TF CPU SIGNATURE s BLOB x", "s", (), ()),
        ("TFLITE CPU TAG t SIGNATURE s BLOB x", "s", (), ()),
        ("TFLITE CPU BLOB x", "", (), ()),
    ],
)
def test_store_names(rest, signature, inputs, outputs):
    request = parse(words(f"AI.MODELSTORE k {rest}"))
    assert (request.signature, request.inputs, request.outputs) == (signature, inputs, outputs)


def test_run_without_inputs():
    assert parse(words("AI.MODELRUN m INPUTS OUTPUTS y")).inputs == ()


def test_store_arity():
    with pytest.raises(WrongArity, match=r"'ai\.modelstore'"):
        parse(words("AI.MODELSTORE k ONNX CPU BLOB"))


def test_set():
    request = parse(words("AI.MODELSET mul TF CPU TAG v1 INPUTS a b OUTPUTS mul BLOB x y"))
    assert request == ModelStore(b"mul", "TF", CPU, (b"x", b"y"), b"v1", inputs=("a", "b"), outputs=("mul",))
    batched = parse(words("AI.MODELSET m TORCH CPUfoo BATCHSIZE 4 MINBATCHSIZE 2 MINBATCHTIMEOUT 9 any words BLOB x"))
    assert batched.device == Device("CPU", None, "CPUfoo")
    assert (batched.batchsize, batched.minbatchsize, batched.minbatchtimeout_ms) == (4, 2, 9)


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        ("NOPE CPU", "ERR unsupported backend"),
        ("TORCH BLOB x", "ERR Invalid DEVICE"),
        ("TORCH CPU4567890x BLOB x", "ERR Invalid DEVICE"),
        ("TORCH TPU BLOB x", "ERR unsupported device"),
        ("TFLITE TPU BLOB x", "ERR Unsupported device"),
        ("ONNX GPU:x BLOB x", "ERR unsupported device"),
        ("TORCH CPU", MISSING_BLOB),
        ("TORCH CPU BLOB", MISSING_BLOB),
        ("TORCH CPU TAG", MISSING_BLOB),
        ("TORCH CPU BATCHSIZE x BLOB x", "ERR Invalid argument for BATCHSIZE"),
        ("TFLITE CPU BATCHSIZE 4 BLOB x", "ERR Auto-batching not supported by the TFLITE backend"),
        ("TORCH CPU MINBATCHSIZE 0 BLOB x", "ERR MINBATCHSIZE specified without BATCHSIZE"),
        ("TORCH CPU MINBATCHTIMEOUT 0 BLOB x", "ERR MINBATCHTIMEOUT specified without BATCHSIZE"),
        ("TORCH CPU BATCHSIZE 2 MINBATCHTIMEOUT 0 BLOB x", "ERR MINBATCHTIMEOUT specified without MINBATCHSIZE"),
        ("TF CPU BLOB x", "ERR Insufficient arguments, INPUTS and OUTPUTS not specified"),
        ("TF CPU a BLOB x", "ERR INPUTS not specified"),
        ("TF CPU INPUTS a BLOB x", "ERR OUTPUTS not specified"),
        ("TF CPU INPUTS a OUTPUTS b", MISSING_BLOB),
    ],
)
def test_set_errors(rest, text):
    assert error(f"AI.MODELSET k {rest}") == (text, ())


def test_set_device_that_is_not_text():
    with pytest.raises(CommandError, match=r"^ERR unsupported device$"):
        parse([b"AI.MODELSET", b"k", b"ONNX", b"CPU\xff", b"BLOB", b"x"])


def test_set_gpu():
    assert parse(words("AI.MODELSET k ONNX gpu BLOB x")).device == Device("GPU", None, "gpu")
    assert parse(words("AI.MODELSET k ONNX GPU:3 BLOB x")).device == Device("GPU", 3, "GPU:3")


def test_backends_of_other_plugins(monkeypatch):
    monkeypatch.setattr(backends, "_accepted", set(backends._accepted))
    command = words("AI.MODELSTORE k mine CPU BLOB x")
    with pytest.raises(CommandError, match="unsupported backend"):
        parse(command)
    backends.accept_backend("mine")
    assert parse(command).backend == "MINE"


@pytest.mark.parametrize(
    ("options", "request_"),
    [
        ("", ModelGet(b"m", True, True)),
        ("FOO", ModelGet(b"m", True, True)),
        ("META", ModelGet(b"m", True, False)),
        ("blob", ModelGet(b"m", False, True)),
        ("BLOB meta", ModelGet(b"m", True, True)),
    ],
)
def test_get(options, request_):
    assert parse(words(f"AI.MODELGET m {options}")) == request_


def test_del_and_scan():
    assert parse(words("AI.MODELDEL m")) == ModelDel(b"m")
    assert parse(words("AI._MODELSCAN")) == ModelScan()


@pytest.mark.parametrize(
    "text",
    ["AI.MODELGET", "AI.MODELGET a b c d", "AI.MODELDEL", "AI.MODELDEL a b", "AI._MODELSCAN x", "AI.MODELSET a b"],
)
def test_arity(text):
    name = text.split()[0].lower()
    assert error(text) == (f"ERR wrong number of arguments for '{name}' command", ())


def test_execute():
    request = parse(words("AI.MODELEXECUTE mul INPUTS 2 x y OUTPUTS 1 z TIMEOUT 5"))
    assert request == ModelExecute(b"mul", (b"x", b"y"), (b"z",), 5)
    assert (request.reads, request.writes) == ((b"x", b"y"), (b"z",))


EXISTS, INPUTS, BOTH = ModelExists(b"m"), ModelCounts(b"m", 1, None), ModelCounts(b"m", 1, 1)


@pytest.mark.parametrize(
    ("rest", "text", "check"),
    [
        ("NOINPUTS 1 x OUTPUTS 1 y", "ERR INPUTS not specified", EXISTS),
        ("INPUTS x 1 OUTPUTS 1 y", "ERR Invalid argument for input_count", EXISTS),
        ("INPUTS 1.0 x OUTPUTS 1 y", "ERR Invalid argument for input_count", EXISTS),
        ("INPUTS -1 x OUTPUTS 1 y", "ERR Input count must be a positive integer", EXISTS),
        ("INPUTS 9 x OUTPUTS 1 y", TOO_FEW.format("input"), ModelCounts(b"m", 9, None)),
        ("INPUTS 1 x NOOUT 1 y", "ERR OUTPUTS not specified", INPUTS),
        ("INPUTS 4 x OUTPUTS 1 y", "ERR OUTPUTS not specified", ModelCounts(b"m", 4, None)),
        ("INPUTS 3 x y z OUTPUTS", "ERR Invalid argument for output_count", ModelCounts(b"m", 3, None)),
        ("INPUTS 1 x OUTPUTS y 1", "ERR Invalid argument for output_count", INPUTS),
        ("INPUTS 1 x OUTPUTS 0 y", "ERR Output count must be a positive integer", INPUTS),
        ("INPUTS 1 x OUTPUTS 9 y", TOO_FEW.format("output"), ModelCounts(b"m", 1, 9)),
        ("INPUTS 1 x OUTPUTS 1 y NOW", "Invalid argument: NOW", BOTH),
        ("INPUTS 1 x OUTPUTS 1 y TIMEOUT", "ERR No value provided for TIMEOUT", BOTH),
        ("INPUTS 1 x OUTPUTS 1 y TIMEOUT 0", "ERR Invalid value for TIMEOUT", BOTH),
        ("INPUTS 1 x OUTPUTS 1 y TIMEOUT x", "ERR Invalid value for TIMEOUT", BOTH),
        ("INPUTS 1 x OUTPUTS 1 y TIMEOUT 5 more", "Invalid argument: more", BOTH),
    ],
)
def test_execute_errors_come_after_look_ups(rest, text, check):
    assert error(f"AI.MODELEXECUTE m {rest}") == (text, (check,))


def test_run():
    request = parse(words("AI.MODELRUN mul TIMEOUT 100 INPUTS x y OUTPUTS z outputs"))
    assert request == ModelExecute(b"mul", (b"x", b"y"), (b"z", b"outputs"), 100)
    trailing = parse(words("AI.MODELRUN mul INPUTS x y OUTPUTS z TIMEOUT 5"))
    assert trailing.outputs == (b"z", b"TIMEOUT", b"5")
    assert parse(words("AI.MODELRUN mul INPUTS x y z")).outputs == ()


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        ("NOINPUTS x y OUTPUTS z", "ERR INPUTS not specified"),
        ("TIMEOUT 0 INPUTS x OUTPUTS z", "ERR Invalid value for TIMEOUT"),
        ("TIMEOUT INPUTS x OUTPUTS z", "ERR Invalid value for TIMEOUT"),
    ],
)
def test_run_errors_come_after_look_ups(rest, text):
    assert error(f"AI.MODELRUN m {rest}") == (text, (EXISTS,))


@pytest.mark.parametrize("name", ["AI.MODELEXECUTE", "AI.MODELRUN"])
def test_arity_of_run_commands_has_a_fixed_text(name):
    assert error(f"{name.lower()} m INPUTS 1 x") == (f"ERR wrong number of arguments for '{name}' command", ())
