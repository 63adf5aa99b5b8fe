import pytest

from redisai_py.commands.admin import RunInfo, info_reply
from redisai_py.commands.models import ModelGet, model_reply, scan_reply
from redisai_py.commands.scripts import ScriptGet, script_reply
from redisai_py.commands.tensors import parse_tensor_get, tensor_reply
from redisai_py.model import Kind, Model, Script
from redisai_py.resp.replies import encode_reply
from redisai_py.tensor import Device, DType

MODEL = Model("id", "ONNX", Device("CPU", None, "cpu"), b"v7", 8, 2, 0, ("x",), ("y", ""), b"12345678")
SCRIPT = Script("id", Device("CPU", None, "CPU"), b"", ("norm", "crop"), "def")
MODEL_META = [b"backend", b"ONNX", b"device", b"cpu", b"tag", b"v7", b"batchsize", 8, b"minbatchsize", 2]
MODEL_META += [b"inputs", [b"x"], b"outputs", [b"y", b""], b"minbatchtimeout", 0]
SCRIPT_META = [b"device", b"CPU", b"tag", b"", b"Entry Points", [b"norm", b"crop"]]


@pytest.mark.parametrize(
    ("options", "wire"),
    [
        ([], b"*6\r\n$5\r\ndtype\r\n$4\r\nINT8\r\n$5\r\nshape\r\n*2\r\n:2\r\n:1\r\n$4\r\nblob\r\n$2\r\n\3\4\r\n"),
        ([b"META"], b"*4\r\n$5\r\ndtype\r\n$4\r\nINT8\r\n$5\r\nshape\r\n*2\r\n:2\r\n:1\r\n"),
        (
            [b"VALUES", b"META"],
            b"*6\r\n$5\r\ndtype\r\n$4\r\nINT8\r\n$5\r\nshape\r\n*2\r\n:2\r\n:1\r\n$6\r\nvalues\r\n*2\r\n:3\r\n:4\r\n",
        ),
        ([b"BLOB"], b"$2\r\n\3\4\r\n"),
        ([b"VALUES"], b"*2\r\n:3\r\n:4\r\n"),
    ],
)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_tensor_reply(options, wire, kind):
    request = parse_tensor_get([b"AI.TENSORGET", b"w", *options])
    reply = tensor_reply(request, DType.INT8, (2, 1), kind(b"\3\4"))
    for protocol in (2, 3):
        assert b"".join(encode_reply(reply, protocol)) == wire


def test_scalar_has_an_empty_shape():
    request = parse_tensor_get([b"AI.TENSORGET", b"w", b"META"])
    wire = b"".join(encode_reply(tensor_reply(request, DType.BOOL, (), b"\1"), 2))
    assert wire == b"*4\r\n$5\r\ndtype\r\n$4\r\nBOOL\r\n$5\r\nshape\r\n*0\r\n"


def test_model_reply():
    assert model_reply(ModelGet(b"m", True, False), MODEL, 100) == MODEL_META
    assert model_reply(ModelGet(b"m", True, True), MODEL, 100) == [*MODEL_META, b"blob", b"12345678"]
    assert model_reply(ModelGet(b"m", False, True), MODEL, 100) == b"12345678"


@pytest.mark.parametrize(
    ("size", "blob"),
    [
        (9, b"12345678"),
        (8, [b"12345678", b""]),
        (5, [b"12345", b"678"]),
        (4, [b"1234", b"5678", b""]),
        (3, [b"123", b"456", b"78"]),
    ],
)
def test_blobs_of_the_chunk_size_and_more_are_arrays(size, blob):
    assert model_reply(ModelGet(b"m", False, True), MODEL, size) == blob


def test_script_reply():
    assert script_reply(ScriptGet(b"s", True, False), SCRIPT) == SCRIPT_META
    assert script_reply(ScriptGet(b"s", True, True), SCRIPT) == [*SCRIPT_META, b"source", b"def"]
    assert script_reply(ScriptGet(b"s", False, True), SCRIPT) == b"def"


def test_scan_reply():
    assert scan_reply([(b"net", b"v7"), (b"mul", b"")]) == [[b"net", b"v7"], [b"mul", b""]]


def test_info_reply():
    info = RunInfo(b"net", Kind.MODEL, "ONNX", "CPU", b"v7", 5310, 16, 9, 1, {b"queued": 3})
    fields = [b"key", b"net", b"type", b"MODEL", b"backend", b"ONNX", b"device", b"CPU", b"tag", b"v7"]
    fields += [b"duration", 5310, b"samples", 16, b"calls", 9, b"errors", 1]
    assert info_reply(info) == fields
    assert info_reply(info, full=True) == [*fields, b"queued", 3]
