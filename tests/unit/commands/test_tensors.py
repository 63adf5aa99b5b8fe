import numpy as np
import pytest

from redisai_py.bounded import BoundedCache
from redisai_py.commands import tensors
from redisai_py.commands.checks import TensorExists, TensorOrAbsent
from redisai_py.commands.tensors import (
    Form,
    TensorGet,
    parse_tensor_get,
    parse_tensor_set,
)
from redisai_py.errors import CommandError, WrongArity
from redisai_py.tensor import MAX_RANK, DType

SHAPE_ERROR = "ERR invalid or negative value found in tensor shape"
BLOB_ERROR = "ERR a single binary string should come after the BLOB argument in 'AI.TENSORSET' command"
COUNT_ERROR = "ERR wrong number of values was given in 'AI.TENSORSET' command"
LENGTH_ERROR = "ERR data length does not match tensor shape and type"


def tensor(*words):
    request = parse_tensor_set([b"AI.TENSORSET", b"k", *words])
    assert request.key == b"k"
    return request.tensor


def test_values():
    t = tensor(b"FLOAT", b"2", b"2", b"VALUES", b"0.5", b"1", b"-2", b"3e1")
    assert (t.dtype, t.shape) == (DType.FLOAT, (2, 2))
    assert t.numpy().tolist() == [[0.5, 1.0], [-2.0, 30.0]]


def test_keywords_and_dtypes_in_any_case():
    t = tensor(b"int16", b"2", b"blob", b"\xff\xff\x07\x00")
    assert (t.dtype, t.numpy().tolist()) == (DType.INT16, [-1, 7])


@pytest.mark.parametrize("words", [(b"VALUES", b"5"), (b"BLOB", np.float32(5).tobytes())])
def test_scalar(words):
    t = tensor(b"FLOAT", *words)
    assert t.shape == ()
    assert t.numpy() == 5


@pytest.mark.parametrize("dtype", list(DType))
def test_no_data_is_zeros(dtype):
    t = tensor(dtype.wire_name, b"3")
    assert t.shape == (3,)
    assert bytes(t.data) == bytes(3 * (dtype.itemsize or 1))


@pytest.mark.parametrize("repeat", [1, 2])  # the second is answered from the remembered head
def test_blob_is_never_copied(repeat):
    for kind in (bytes, bytearray, memoryview):
        data = kind(bytes(12))
        for _ in range(repeat):
            assert tensor(b"FLOAT", b"3", b"BLOB", data).data is data


def test_remembered_head_still_checks_the_length():
    tensor(b"DOUBLE", b"7", b"BLOB", bytes(56))
    with pytest.raises(CommandError, match="data length does not match"):
        tensor(b"DOUBLE", b"7", b"BLOB", bytes(55))


def test_remembered_heads_are_bounded(monkeypatch):
    monkeypatch.setattr(tensors, "_BLOB_HEADS", BoundedCache(2))
    for size in (1, 2, 3, 1):
        assert tensor(b"INT8", b"%d" % size, b"BLOB", bytes(size)).shape == (size,)
        assert len(tensors._BLOB_HEADS) <= 2


def test_large_words_that_are_views_are_understood():
    t = tensor(memoryview(b"INT8"), bytearray(b"2"), memoryview(b"BLOB"), memoryview(b"\x01\x02"))
    assert t.numpy().tolist() == [1, 2]
    request = parse_tensor_set([b"AI.TENSORSET", memoryview(b"key"), b"INT8", b"2", b"BLOB", b"\x01\x02"])
    assert request.key == b"key"
    assert type(request.key) is bytes


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((b"NOPE", b"1"), "ERR invalid data type"),
        ((b"FLOAT32", b"1"), "ERR invalid data type"),
        ((b"X" * 100, b"1"), "ERR invalid data type"),
        ((b"FLOAT", b"-1"), SHAPE_ERROR),
        ((b"FLOAT", b"2", b"WORD"), SHAPE_ERROR),
        ((b"FLOAT", b"01", b"BLOB", b"abcd"), SHAPE_ERROR),
        ((b"FLOAT", b"2", b"BLOB"), BLOB_ERROR),
        ((b"FLOAT", b"2", b"BLOB", b"abcd", b"efgh"), BLOB_ERROR),
        ((b"FLOAT", b"2", b"VALUES", b"1"), COUNT_ERROR),
        ((b"FLOAT", b"2", b"VALUES", b"1", b"2", b"3"), COUNT_ERROR),
        ((b"FLOAT", b"VALUES"), COUNT_ERROR),
        ((b"FLOAT", b"2", b"BLOB", b"abcd"), LENGTH_ERROR),
        ((b"FLOAT", b"2", b"BLOB", b""), LENGTH_ERROR),
        ((b"BOOL", b"2", b"BLOB", b"\x01"), LENGTH_ERROR),
        ((b"BOOL", b"2", b"BLOB", b"\x01\x07"), "ERR BOOL tensor elements must be 0 or 1"),
        ((b"BOOL", b"2", b"BLOB", b"\x02\x01"), "ERR BOOL tensor elements must be 0 or 1"),
        ((b"UINT8", b"1", b"VALUES", b"256"), "ERR invalid value"),
        # Shapes that overflow, or that would allocate without limit.
        ((b"FLOAT", b"9223372036854775807", b"9223372036854775807"), SHAPE_ERROR),
        ((b"FLOAT", b"9223372036854775807", b"3", b"BLOB", b"abcd"), SHAPE_ERROR),
        ((b"FLOAT", b"134217729"), SHAPE_ERROR),
        ((b"STRING", b"536870913"), SHAPE_ERROR),
        ((b"FLOAT", *[b"1"] * (MAX_RANK + 1)), SHAPE_ERROR),
    ],
)
def test_errors_come_after_the_look_up_of_the_key(words, text):
    with pytest.raises(CommandError) as caught:
        tensor(*words)
    assert str(caught.value) == text
    assert caught.value.checks == (TensorOrAbsent(b"k"),)
    with pytest.raises(CommandError) as caught:
        parse_tensor_set([b"AI.TENSORSET", b"k", *words], in_dag=True)
    assert str(caught.value) == text
    assert caught.value.checks == ()


def test_most_dimensions():
    assert tensor(b"INT8", *[b"1"] * MAX_RANK).numpy().ndim == MAX_RANK


@pytest.mark.parametrize("argv", [[b"Ai.TensorSet"], [b"Ai.TensorSet", b"k"], [b"Ai.TensorSet", b"k", b"FLOAT"]])
def test_set_arity(argv):
    with pytest.raises(WrongArity) as caught:
        parse_tensor_set(argv)
    assert str(caught.value) == "ERR wrong number of arguments for 'ai.tensorset' command"
    assert caught.value.checks == ()
    with pytest.raises(CommandError) as in_dag:
        parse_tensor_set(argv, in_dag=True)
    assert str(in_dag.value) == "wrong number of arguments for 'AI.TENSORSET' command"


@pytest.mark.parametrize(
    ("options", "meta", "form"),
    [
        ((), True, Form.BLOB),
        ((b"META",), True, Form.NONE),
        ((b"meta", b"META"), True, Form.NONE),
        ((b"META", b"BLOB"), True, Form.BLOB),
        ((b"blob", b"meta"), True, Form.BLOB),
        ((bytearray(b"values"), b"META"), True, Form.VALUES),
        ((b"BLOB",), False, Form.BLOB),
        ((b"VALUES", b"values"), False, Form.VALUES),
    ],
)
def test_get_options(options, meta, form):
    request = parse_tensor_get([b"AI.TENSORGET", b"k", *options])
    assert request == TensorGet(b"k", meta, form)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((b"JSON",), "ERR unsupported data format"),
        ((b"META", b"BLOBS"), "ERR unsupported data format"),
        ((b"BLOB", b"VALUES"), "ERR both BLOB and VALUES specified"),
        ((b"values", b"blob"), "ERR both BLOB and VALUES specified"),
    ],
)
def test_get_errors_come_after_the_look_up_of_the_key(options, text):
    with pytest.raises(CommandError) as caught:
        parse_tensor_get([b"AI.TENSORGET", b"k", *options])
    assert str(caught.value) == text
    assert caught.value.checks == (TensorExists(b"k"),)


@pytest.mark.parametrize("words", [(), (b"k", b"META", b"BLOB", b"VALUES")])
def test_get_arity(words):
    with pytest.raises(WrongArity, match=r"^ERR wrong number of arguments for 'ai\.tensorget' command$"):
        parse_tensor_get([b"AI.TENSORGET", *words])
    with pytest.raises(CommandError, match=r"^wrong number of arguments for 'AI\.TENSORGET' command$"):
        parse_tensor_get([b"AI.TENSORGET", *words], in_dag=True)


def test_names_in_a_dag():
    put = parse_tensor_set([b"AI.TENSORSET", b"k", b"INT8", b"1"])
    get = parse_tensor_get([b"AI.TENSORGET", b"k"])
    assert (put.reads, put.writes) == ((), (b"k",))
    assert (get.reads, get.writes) == ((b"k",), ())
