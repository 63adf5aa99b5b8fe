"""Tensors, models and scripts as Redis values; `safetensors` itself reads what is written, and the other way round."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from redisai_py.errors import WrongType
from redisai_py.model import Model, Script
from redisai_py.store import codec
from redisai_py.tensor import Device, DType, Tensor

NUMERIC = [dtype for dtype in DType if dtype is not DType.STRING]
shapes = st.lists(st.integers(0, 4), max_size=5).map(tuple)


def encode(tensor: Tensor) -> bytes:
    return codec.encode_header(tensor) + bytes(tensor.data)


@st.composite
def numeric_tensors(draw: st.DrawFn) -> Tensor:
    dtype, shape = draw(st.sampled_from(NUMERIC)), draw(shapes)
    size = dtype.itemsize * math.prod(shape)
    return Tensor(dtype, shape, draw(st.binary(min_size=size, max_size=size)))


@st.composite
def string_tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(shapes)
    size = math.prod(shape)
    words = draw(
        st.lists(st.binary(max_size=5).map(lambda word: word.replace(b"\0", b"")), min_size=size, max_size=size)
    )
    return Tensor(DType.STRING, shape, b"".join(word + b"\0" for word in words))


@given(numeric_tensors() | string_tensors())
def test_round_trip(tensor: Tensor) -> None:
    value = encode(tensor)
    assert codec.decode_tensor(value) == tensor
    assert codec.decode_tensor(memoryview(value)) == tensor
    assert codec.header_size(value) % 64 == 0, "the data is aligned"
    assert codec.header_size(value) == len(codec.encode_header(tensor))
    assert codec.read_header(codec.encode_header(tensor)) == (tensor.dtype, tensor.shape, len(tensor.data))


@pytest.mark.parametrize("dtype", [dtype for dtype in NUMERIC if dtype is not DType.BFLOAT16], ids=lambda d: d.name)
def test_safetensors_reads_what_is_written(dtype: DType) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype.numpy_dtype)
    read = safetensors.numpy.load(encode(Tensor.from_numpy(array)))
    assert list(read) == ["tensor"]
    assert read["tensor"].dtype == array.dtype
    np.testing.assert_array_equal(read["tensor"], array)


def test_safetensors_reads_bfloat16() -> None:
    array = np.array([1.5, -2], ml_dtypes.bfloat16)
    ((name, entry),) = safetensors.deserialize(encode(Tensor.from_numpy(array)))
    assert (name, entry["dtype"], entry["shape"]) == ("tensor", "BF16", [2])
    assert bytes(entry["data"]) == array.tobytes()


@pytest.mark.parametrize("longest", [0, 3, 1000, 200_000])
@pytest.mark.parametrize("count", [1, 2, 100, 70_000])
def test_strings_are_split_at_their_ends_whatever_their_lengths(count: int, longest: int) -> None:
    some = b"x" * longest
    elements = [some[: at * 7919 % (longest + 1)] for at in range(min(count, 100))] + [b"yz", b""] * (count // 2)
    tensor = Tensor(DType.STRING, (len(elements),), b"".join(element + b"\0" for element in elements))
    assert tensor.numpy().tolist() == elements


def test_safetensors_reads_strings_as_their_bytes() -> None:
    tensor = Tensor(DType.STRING, (2, 1), b"ab\0\0")
    assert bytes(safetensors.numpy.load(encode(tensor))["tensor"]) == b"ab\0\0"


@pytest.mark.parametrize("dtype", [dtype for dtype in NUMERIC if dtype is not DType.BFLOAT16], ids=lambda d: d.name)
def test_what_safetensors_writes_is_a_tensor(dtype: DType) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype.numpy_dtype)
    value = safetensors.numpy.save({"any name": array}, metadata={"format": "pt", "anything": "else"})
    assert codec.decode_tensor(value) == Tensor.from_numpy(array)


def test_scalars_and_empty_tensors_from_elsewhere() -> None:
    for array in (np.array(3.5, np.float32), np.zeros((0, 2), np.int8)):
        assert codec.decode_tensor(safetensors.numpy.save({"x": array})) == Tensor.from_numpy(array)


def _value(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _entry(dtype: str = "U8", shape: Any = (2,), offsets: Any = (0, 2)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"x",
        b"any string that somebody stored",
        b"\0" * 100,
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 1 << 40) + b"{",
        struct.pack("<Q", 100) + b'{"x":',
        _value({"x": _entry()}, b"1"),
        _value({"x": _entry()}, b"123"),
        _value({"x": _entry(), "y": _entry()}, b"12"),
        _value({"__metadata__": {}}, b""),
        _value({"x": _entry("F99")}, b"12"),
        _value({"x": _entry("F8_E4M3")}, b"12"),
        _value({"x": _entry(shape=[3])}, b"12"),
        _value({"x": _entry(shape=[-2])}, b"12"),
        _value({"x": _entry(shape=[-1, -2])}, b"12"),
        _value({"x": _entry(shape=[2.0])}, b"12"),
        _value({"x": _entry(shape=[True, 2])}, b"12"),
        _value({"x": _entry(shape="2")}, b"12"),
        _value({"x": _entry(shape=None)}, b"12"),
        _value({"x": _entry(offsets=[1, 3])}, b"123"),
        _value({"x": _entry(offsets=[0])}, b"12"),
        _value({"x": _entry(offsets=[0, "2"])}, b"12"),
        _value({"x": _entry(offsets=[0, 2.0])}, b"12"),
        _value({"x": 5}, b"12"),
        _value({"x": []}, b"12"),
        _value({"x": _entry(), "__metadata__": 5}, b"12"),
        _value({"x": _entry(), "__metadata__": {"dtype": "STRING"}}, b"12"),
        _value({"x": _entry(), "__metadata__": {"dtype": "STRING", "shape": "[9]"}}, b"a\0"),
        _value({"x": _entry(), "__metadata__": {"dtype": "STRING", "shape": "9"}}, b"a\0"),
        _value({"x": _entry(), "__metadata__": {"dtype": "STRING", "shape": "[-1]"}}, b"a\0"),
        _value({"x": _entry(), "__metadata__": {"dtype": "STRING", "shape": "[["}}, b"a\0"),
        _value({"x": _entry(), "__metadata__": {"dtype": "STRING", "shape": 5}}, b"a\0"),
        _value({"x": _entry(), "__metadata__": {"dtype": "STRING", "shape": "[" * 9000}}, b"a\0"),
        _value({"x": _entry(shape=[1] * 64 + [2])}, b"12"),
        # `math.prod` of these repeats a string, a list, or makes numbers of kilobytes.
        _value({"x": _entry(shape=["a", 1_000_000_000])}, b"12"),
        _value({"x": _entry(shape=["a", 2**56])}, b"12"),
        _value({"x": _entry(shape=["a", 2**66])}, b"12"),
        _value({"x": _entry(shape=[[0], 10**9])}, b"12"),
        _value({"x": _entry(shape=[1e308, 10**300])}, b"12"),
        _value({"x": _entry(shape=[10**4000, 0], offsets=[0, 0])}, b""),
        _value({"x": _entry(shape={"a": 1})}, b"12"),
        _value({"x": _entry(shape=[{}])}, b"12"),
        # What no array can be, although it would have no elements.
        _value({"x": _entry(shape=[2**63, 0], offsets=[0, 0])}, b""),
        _value({"x": _entry(shape=[0, 2**62, 2], offsets=[0, 0])}, b""),
        _value({"x": _entry("F32", shape=[2**61, 0], offsets=[0, 0])}, b""),
        _value({"x": _entry(shape=[0] * 65, offsets=[0, 0])}, b""),
        _value({"x": _entry(shape=[0], offsets=[0, 0]), "__metadata__": {"dtype": "STRING", "shape": "[0,1e9]"}}, b""),
        _value(
            {"x": _entry(shape=[0], offsets=[0, 0]), "__metadata__": {"dtype": "STRING", "shape": f"[0,{2**60}]"}}, b""
        ),
        _value({"x": _entry(offsets=[False, 2])}, b"12"),
        _value({"x": _entry(offsets={"0": 0})}, b"12"),
        _value({"x": {**_entry(), "dtype": ["U8"]}}, b"12"),
        _value({"x": {**_entry(), "dtype": {}}}, b"12"),
        _value('{"x":1}'.encode("utf-16-le"), b"12"),
        _value(b"[1, 2]", b"12"),
        _value(b'{"x": NaN}', b"12"),
        _value(b"{" + b"[" * 60000, b"12"),
        _value(b'{"\xff": 1}', b"12"),
        _value({"x": _entry(), "__metadata__": {"k": "v" * 70000}}, b"12"),
    ],
)
def test_what_is_no_tensor(value: bytes) -> None:
    with pytest.raises(WrongType):
        codec.decode_tensor(value)


def test_a_string_tensor_must_end_with_a_nul() -> None:
    header = {"x": _entry(shape=[3], offsets=[0, 3]), "__metadata__": {"dtype": "STRING", "shape": "[1]"}}
    with pytest.raises(WrongType):
        codec.decode_tensor(_value(header, b"a\0b"))


@given(st.binary(max_size=40), st.binary(max_size=10))
def test_hostile_headers_are_refused(text: bytes, data: bytes) -> None:
    with pytest.raises(WrongType):
        codec.decode_tensor(_value(b"{" + text, data))


def test_decoding_copies_nothing() -> None:
    value = encode(Tensor(DType.UINT8, (1000,), bytes(1000)))
    data = codec.decode_tensor(value).data
    assert isinstance(data, memoryview)
    assert data.obj is value


def test_long_headers_are_not_kept() -> None:
    header = {"x": _entry(), "__metadata__": {"k": "v" * 60000}}
    value = _value(header, b"12")
    assert codec.decode_tensor(value).shape == (2,)
    assert value[:-2] not in codec._decoded


@pytest.mark.parametrize("device", ["CPU", "cpu:1", "GPU:12345", "CPUfoo", "CPU:"])
def test_models(device: str) -> None:
    index = int(device.partition(":")[2] or 0) or None if "foo" not in device else None
    model = Model(
        id="0123", backend="ONNX", device=Device(device[:3].upper(), index, device), tag=b"\xff\0tag", batchsize=8,
        minbatchsize=2, minbatchtimeout_ms=100, inputs=("x", "\u00fc"), outputs=("", ""), blob=b"",
    )  # fmt: skip
    fields = codec.encode_model(model, "digest", 3)
    assert all(type(name) is bytes and type(value) is bytes for name, value in fields.items())
    assert fields[b"sha256"] == b"digest"
    decoded, chunks = codec.decode_model([fields.get(name) for name in codec.MODEL_META_FIELDS])
    assert (decoded, chunks) == (model, 3)
    assert codec.with_blob(decoded, b"blob").blob == b"blob"


def test_scripts() -> None:
    script = Script("0123", Device("CPU", None, "CPUfoo"), b"tag", ("f", "g"), "def f(x):\n    return x # \u00fc\n")
    fields = codec.encode_script(script)
    assert codec.decode_script([fields.get(name) for name in codec.SCRIPT_FIELDS]) == script


@pytest.mark.parametrize("field", codec.MODEL_META_FIELDS)
def test_hashes_that_are_no_models(field: bytes) -> None:
    model = Model("0", "ONNX", Device("CPU", None, "CPU"), b"", 0, 0, 0, ("x",), ("y",))
    fields: dict[bytes, bytes | None] = dict(codec.encode_model(model, "", 1))
    fields[field] = None
    if field not in (b"tag", b"signature"):
        with pytest.raises(WrongType):
            codec.decode_model([fields.get(name) for name in codec.MODEL_META_FIELDS])
    with pytest.raises(WrongType):
        codec.decode_script([fields.get(name) for name in codec.SCRIPT_FIELDS])


@pytest.mark.parametrize("shape", [[0], [2**62, 0], [0, 2**31, 2**31], [0] * 64], ids=str)
def test_what_has_no_elements_is_an_array_of_its_shape(shape: list[int]) -> None:
    value = _value({"x": _entry(shape=shape, offsets=[0, 0])}, b"")
    assert codec.decode_tensor(value).numpy().shape == tuple(shape)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=4) | st.sampled_from([0, 1, 2, -1, 2**63, 2**80]),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    ),
    st.binary(max_size=4),
)
def test_a_shape_of_any_type_is_a_shape_or_refused(shape: Any, data: bytes) -> None:
    for offsets in ([0, len(data)], [0, shape], shape):
        value = _value({"x": {"dtype": "U8", "shape": shape, "data_offsets": offsets}}, data)
        try:
            tensor = codec.decode_tensor(value)
        except WrongType:
            continue
        assert tensor.numpy().nbytes == len(data)


_ODD_NAMES = [b"[", b"{}", b"5", b"null", b'"x"', b"[1]", b"[null]", b'[["x"]]', b'["\\ud800"]', b"\xff", b"[" * 50_000]
_ODD_NUMBERS = [b"", b"-3", b"+3", b"3.0", b" 3", b"1_0", b"\xd9\xa3", b"9" * 19, b"9" * 5000, b"0x3", b"nan"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(field, value) for field in (b"inputs", b"outputs") for value in _ODD_NAMES],
        *[
            (field, value)
            for field in (b"batchsize", b"minbatchsize", b"minbatchtimeout", b"chunks")
            for value in _ODD_NUMBERS
        ],
        (b"chunks", b"1048577"),
        *[(b"device", value) for value in (b"XPU", b"", b"\xff", b"GPU:", b"GPU:x", b"CPU" + b"x" * 100)],
        *[(b"id", value) for value in (b"", b"\xff\xfe", b"x" * 129)],
        *[(b"backend", value) for value in (b"", b"\xff", b"x" * 65)],
        (b"kind", b"SCRIPT"),
    ],
)
def test_models_written_by_hand(field: bytes, value: bytes) -> None:
    model = Model("0", "ONNX", Device("CPU", None, "CPU"), b"", 0, 0, 0, ("x",), ("y",))
    fields = codec.encode_model(model, "", 1) | {field: value}
    with pytest.raises(WrongType):
        codec.decode_model([fields.get(name) for name in codec.MODEL_META_FIELDS])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(b"entry_points", value) for value in _ODD_NAMES],
        (b"device", b"XPU"), (b"id", b"\xff"), (b"kind", b"MODEL"),
    ],
)  # fmt: skip
def test_scripts_written_by_hand(field: bytes, value: bytes) -> None:
    script = Script("0", Device("CPU", None, "CPU"), b"", ("f",), "def f(): pass")
    fields = codec.encode_script(script) | {field: value}
    with pytest.raises(WrongType):
        codec.decode_script([fields.get(name) for name in codec.SCRIPT_FIELDS])


def test_a_source_of_any_bytes_comes_back() -> None:
    source = b"def f(x):  # \xff\xe4\n    return x\n"
    script = Script("0", Device("CPU", None, "CPU"), b"", ("f",), source.decode("utf-8", "surrogateescape"))
    fields = codec.encode_script(script)
    assert fields[b"source"] == source
    assert codec.decode_script([fields.get(name) for name in codec.SCRIPT_FIELDS]) == script


def test_a_missing_tag_is_an_empty_one() -> None:
    model = Model("0", "ONNX", Device("CPU", None, "CPU"), b"", 0, 0, 0, (), ())
    fields = codec.encode_model(model, "", 1)
    del fields[b"tag"]
    assert codec.decode_model([fields.get(name) for name in codec.MODEL_META_FIELDS])[0].tag == b""
