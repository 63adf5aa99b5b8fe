import math
import struct

import numpy as np
import pytest

from redisai_py.commands.values import check_blob, parse_values
from redisai_py.errors import CommandError
from redisai_py.tensor import DType, Tensor

INTEGERS = [dtype for dtype in DType if dtype.name.startswith(("INT", "UINT"))]


def values(dtype, *words):
    return Tensor(dtype, (len(words),), parse_values(dtype, words)).numpy().tolist()


@pytest.mark.parametrize("dtype", INTEGERS)
def test_whole_range_of_every_integer_type(dtype):
    limits = np.iinfo(dtype.numpy_dtype)
    assert values(dtype, b"%d" % limits.min, b"0", b"%d" % limits.max) == [limits.min, 0, limits.max]
    for beyond in (limits.min - 1, limits.max + 1):
        with pytest.raises(CommandError, match=r"^ERR invalid value$"):
            values(dtype, b"%d" % beyond)


@pytest.mark.parametrize(
    "word",
    [
        b"",
        b"A",
        b"1.87",
        b"1.0",
        b"+1",
        b"01",
        b"-0",
        b"-01",
        b" 1",
        b"1 ",
        b"1 2",
        b"1_0",
        b"--1",
        b"1-",
        b"nan",
        b"9" * 30,
        b"9" * 5000,
        b"0x1",
        b"true",
    ],
)
@pytest.mark.parametrize("dtype", [DType.INT32, DType.UINT64, DType.BOOL])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_integers_reject(dtype, word, place):
    words = [b"0", b"1", b"0"]
    words[place] = word
    with pytest.raises(CommandError, match=r"^ERR invalid value$"):
        parse_values(dtype, words)


def test_zeros_next_to_each_other():
    assert values(DType.INT8, b"0", b"0", b"10", b"0", b"-10", b"0") == [0, 0, 10, 0, -10, 0]


def test_bool():
    assert values(DType.BOOL, b"0", b"1") == [False, True]
    for word in (b"2", b"-1"):
        with pytest.raises(CommandError, match=r"^ERR invalid value$"):
            values(DType.BOOL, word)


@pytest.mark.parametrize("dtype", [DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.BFLOAT16])
def test_floats(dtype):
    assert values(dtype, b"0.5", b"-2", b"3e1", b"0", b"0.0") == [0.5, -2.0, 30.0, 0.0, 0.0]
    assert values(dtype, b"0x10", b"inf", b"-INFINITY", b"+1") == [16.0, math.inf, -math.inf, 1.0]


def test_negative_zero_keeps_its_sign():
    assert parse_values(DType.DOUBLE, [b"-0"]) == struct.pack("<d", -0.0)
    assert parse_values(DType.DOUBLE, [b"-0.00"]) == struct.pack("<d", -0.0)


def test_the_cast_of_floats_is_not_checked():
    assert values(DType.FLOAT, b"1e39", b"-1e39", b"1e-50") == [math.inf, -math.inf, 0.0]


@pytest.mark.parametrize("beside", [b"1", b"inf"])  # all plain decimals, or with a word that needs the exact grammar
@pytest.mark.parametrize(
    "word", [b"", b"A", b"nan", b" 1", b"1 ", b"1 2", b"1_0", b"1e400", b"1e-400", b"0." + b"0" * 400 + b"1", b"1e"]
)
def test_floats_reject(word, beside):
    with pytest.raises(CommandError, match=r"^ERR invalid value$"):
        parse_values(DType.DOUBLE, [b"1", word, beside])


def test_strings():
    assert parse_values(DType.STRING, [b"ab", b"cd\0", b"\0", b"", "é".encode()]) == b"ab\0cd\0\0\0\xc3\xa9\0"
    assert parse_values(DType.STRING, [bytearray(b"ab"), memoryview(b"c\0")]) == b"ab\0c\0"
    for word in (b"a\0b", b"a\0\0", b"\0\0"):
        with pytest.raises(CommandError, match=r"^ERR C-string value contains null character$"):
            parse_values(DType.STRING, [b"x", word])


@pytest.mark.parametrize("data", [b"ab\0\0", memoryview(b"ab\0\0"), bytearray(b"ab\0\0")])
def test_string_blob(data):
    check_blob(DType.STRING, 2, data)


@pytest.mark.parametrize("data", [b"", b"a\0b", b"a\0", b"a\0b\0c\0", b"ab", b"\0\0x"])
def test_string_blob_rejects(data):
    with pytest.raises(
        CommandError, match=r"^ERR Number of string elements in data blob does not match tensor length$"
    ):
        check_blob(DType.STRING, 2, data)
