import math
import struct

import numpy as np
import pytest

from redisai_py.errors import CommandError, WrongType
from redisai_py.resp.replies import (
    LARGE_SEGMENT,
    NA,
    OK,
    BigNumber,
    Double,
    SetOf,
    Simple,
    TensorReply,
    Values,
    encode_reply,
)
from redisai_py.tensor import DType, Tensor
from tests.wire import read_back


def wire(value, protocol=2):
    return b"".join(encode_reply(value, protocol))


@pytest.mark.parametrize(
    ("value", "resp2", "resp3"),
    [
        (OK, b"+OK\r\n", b"+OK\r\n"),
        ([NA, Simple(b"x")], b"*2\r\n+NA\r\n+x\r\n", b"*2\r\n+NA\r\n+x\r\n"),
        (b"a\r\n", b"$3\r\na\r\n\r\n", b"$3\r\na\r\n\r\n"),
        (memoryview(b"ab"), b"$2\r\nab\r\n", b"$2\r\nab\r\n"),
        (bytearray(b""), b"$0\r\n\r\n", b"$0\r\n\r\n"),
        (-5, b":-5\r\n", b":-5\r\n"),
        (2**63 - 1, b":9223372036854775807\r\n", b":9223372036854775807\r\n"),
        (2**63, b"$19\r\n9223372036854775808\r\n", b"(9223372036854775808\r\n"),
        (-(2**63) - 1, b"$20\r\n-9223372036854775809\r\n", b"(-9223372036854775809\r\n"),
        (BigNumber(7), b"$1\r\n7\r\n", b"(7\r\n"),
        (Double(1), b"$1\r\n1\r\n", b",1\r\n"),
        (Double(0.1), b"$19\r\n0.10000000000000001\r\n", b",0.10000000000000001\r\n"),
        (Double("-inf"), b"$4\r\n-inf\r\n", b",-inf\r\n"),
        (Double("nan"), b"$3\r\nnan\r\n", b",nan\r\n"),
        (Double(math.copysign(math.nan, -1)), b"$4\r\n-nan\r\n", b",nan\r\n"),
        (Double(-0.0), b"$2\r\n-0\r\n", b",-0\r\n"),
        (None, b"$-1\r\n", b"_\r\n"),
        ((), b"*0\r\n", b"*0\r\n"),
        ([1, [None]], b"*2\r\n:1\r\n*1\r\n$-1\r\n", b"*2\r\n:1\r\n*1\r\n_\r\n"),
        (SetOf([b"a"]), b"*1\r\n$1\r\na\r\n", b"~1\r\n$1\r\na\r\n"),
        (
            {b"a": 1, b"b": None},
            b"*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n$-1\r\n",
            b"%2\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n_\r\n",
        ),
        (CommandError("ERR a\r\nb"), b"-ERR a  b\r\n", b"-ERR a  b\r\n"),
        (
            [WrongType()],
            b"*1\r\n-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
            b"*1\r\n-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
        ),
    ],
)
def test_every_kind(value, resp2, resp3):
    assert wire(value, 2) == resp2
    assert wire(value, 3) == resp3


@pytest.mark.parametrize("value", [1.5, "text", object(), True, {1, 2}, ValueError("x")])
def test_other_values_are_refused(value):
    with pytest.raises(TypeError, match="is not a reply value"):
        encode_reply([value], 2)


def test_error_texts_of_any_bytes_can_be_sent():
    assert wire(CommandError("ERR é\udcff")) == "-ERR é".encode() + b"\xff\r\n"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_large_buffers_are_segments_of_their_own(kind):
    data = kind(bytes(LARGE_SEGMENT))
    for value in ([1, data, 2], [b"x", [data], None], TensorReply(DType.UINT8, (LARGE_SEGMENT,), True, data)):
        segments = encode_reply(value, 2)
        assert sum(segment is data for segment in segments) == 1
        assert len(segments) <= 3


def test_small_parts_are_joined():
    assert len(encode_reply([b"x" * 100, [1, None, OK]], 2)) == 1


FLOATS = {DType.FLOAT: "<f4", DType.DOUBLE: "<f8", DType.FLOAT16: "<f2"}


@pytest.mark.parametrize("dtype", FLOATS)
def test_values_of_floats(dtype):
    numbers = [0.5, -2.0, 0.1, 0.0, -0.0, math.inf, -math.inf, math.nan, -math.nan, 1e4]
    array = np.array(numbers, dtype=FLOATS[dtype])
    values = Values(dtype, array.shape, array.tobytes())
    # Every element is what one double alone gives.
    for protocol in (2, 3):
        singles = b"".join(wire(Double(number), protocol) for number in array.astype(float).tolist())
        assert wire(values, protocol) == b"*10\r\n" + singles


def test_values_as_redisai_prints_them():
    data = struct.pack("<3f", 0.1, 1e20, math.inf)
    texts = [b"0.10000000149011612", b"1.0000000200408773e+20", b"inf"]
    expected = b"*3\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(text), text) for text in texts)
    assert wire(Values(DType.FLOAT, (3,), data)) == expected


def test_longest_doubles():
    numbers = np.array([-1.7976931348623157e308, -4.9406564584124654e-324])
    assert wire(Values(DType.DOUBLE, (2,), numbers.tobytes())) == (
        b"*2\r\n$24\r\n-1.7976931348623157e+308\r\n$24\r\n-4.9406564584124654e-324\r\n"
    )


def test_values_of_bfloat16():
    tensor = Tensor(DType.BFLOAT16, (2,), b"\x80\x3f\x00\xc0")
    assert wire(Values(tensor.dtype, tensor.shape, tensor.data)) == b"*2\r\n$1\r\n1\r\n$2\r\n-2\r\n"


@pytest.mark.parametrize("name", ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32"])
def test_values_of_integers(name):
    dtype = DType[name]
    limits = np.iinfo(dtype.numpy_dtype)
    data = np.array([limits.min, 0, limits.max], dtype.numpy_dtype).tobytes()
    expected = b"*3\r\n:%d\r\n:0\r\n:%d\r\n" % (limits.min, limits.max)
    assert wire(Values(dtype, (3,), data), 2) == wire(Values(dtype, (3,), data), 3) == expected


def test_values_of_uint64_beyond_int64():
    data = np.array([1, 2**63], "<u8").tobytes()
    assert wire(Values(DType.UINT64, (2,), data), 2) == b"*2\r\n:1\r\n$19\r\n9223372036854775808\r\n"
    assert wire(Values(DType.UINT64, (2,), data), 3) == b"*2\r\n:1\r\n(9223372036854775808\r\n"
    assert wire(Values(DType.UINT64, (1,), data[:8]), 2) == b"*1\r\n:1\r\n"


def test_values_of_bool():
    assert wire(Values(DType.BOOL, (2,), b"\0\1")) == b"*2\r\n:0\r\n:1\r\n"


def test_values_of_strings():
    assert wire(Values(DType.STRING, (3,), b"ab\0\0\xc3\xa9\0")) == b"*3\r\n$2\r\nab\r\n$0\r\n\r\n$2\r\n\xc3\xa9\r\n"


@pytest.mark.parametrize("protocol", [2, 3])
def test_many_values_are_read_back_by_a_client(protocol):
    array = np.linspace(-1e6, 1e6, 150_001, dtype=np.float32)
    values, end = read_back(*encode_reply([Values(DType.FLOAT, array.shape, array.tobytes()), OK], protocol))
    assert end == b"OK"
    assert np.array_equal(np.array(values, dtype=np.float64), array.astype(np.float64))
