import pytest

from redisai_py.commands._args import (
    Args,
    double,
    is_word,
    lenient_integer,
    name_text,
    show_word,
    strict_integer,
    text_name,
    to_bytes,
)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        (b"0", 0),
        (b"-1", -1),
        (b"4096", 4096),
        (b"5000", 5000),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (bytearray(b"12"), 12),
        (memoryview(b"12"), 12),
    ],
)
def test_strict_integer(word, value):
    assert strict_integer(word) == value


@pytest.mark.parametrize(
    "word",
    [
        b"",
        b"+1",
        b"01",
        b"-0",
        b" 1",
        b"1 ",
        b"1.0",
        b"1e2",
        b"-",
        b"--1",
        b"a",
        b"1_0",
        b"\xb2",
        b"1\x00",
        b"9223372036854775808",
        b"-9223372036854775809",
        b"9" * 5000,
        bytearray(b"1" * 30),
        "\u0661".encode(),
    ],
)
def test_strict_integer_rejects(word):
    assert strict_integer(word) is None


@pytest.mark.parametrize(("word", "value"), [(b"4", 4), (b"4.0", 4), (b"1e2", 100), (b"0x10", 16), (b"-2.0", -2)])
def test_lenient_integer(word, value):
    assert lenient_integer(word) == value


@pytest.mark.parametrize("word", [b"", b"4.5", b"inf", b"nan", b"1e30", b"x", b" 4"])
def test_lenient_integer_rejects(word):
    assert lenient_integer(word) is None


@pytest.mark.parametrize(
    ("word", "value"),
    [
        (b"1", 1.0),
        (b"+.5", 0.5),
        (b"5.", 5.0),
        (b"3e1", 30.0),
        (b"-1E-2", -0.01),
        (b"0x10", 16.0),
        (b"-0X1.8p1", -3.0),
        (b"0x.8", 0.5),
        (b"inf", float("inf")),
        (b"-Infinity", float("-inf")),
        (b"0e999", 0.0),
        (b"0x0p99999", 0.0),
        (b"4.9e-324", 5e-324),
    ],
)
def test_double(word, value):
    assert double(word) == value


@pytest.mark.parametrize(
    "word",
    [
        b"",
        b" 1",
        b"1 ",
        b"1\n",
        b"1_0",
        b"nan",
        b"-nan",
        b"nan(1)",
        b"1e400",
        b"-1e400",
        b"1e-400",
        b"0x1p9999",
        b"0x1p-9999",
        b"0x",
        b"0x1p",
        b"1e",
        b".",
        b"+",
        b"1.5f",
        b"1\x00",
        b"infin",
        b"1,5",
        b"10h",
    ],
)
def test_double_rejects(word):
    assert double(word) is None


def test_words_match_whole_and_in_any_case():
    assert is_word(b"BlOb", b"BLOB")
    assert is_word(memoryview(b"blob"), b"BLOB")
    assert not is_word(b"BLOB\0", b"BLOB")
    assert not is_word(b"BLO", b"BLOB")


def test_to_bytes_copies_only_what_is_not_bytes():
    word = b"abc"
    assert to_bytes(word) is word
    assert to_bytes(memoryview(word)) == word


def test_names_survive_a_round_trip_whatever_their_bytes():
    assert text_name(name_text(b"a\xff\xc3\xa9")) == b"a\xff\xc3\xa9"


def test_shown_words_are_cut_and_decoded():
    assert show_word(b"x" * 1000) == "x" * 128
    assert show_word(b"\xff") == "�"


def test_cursor_takes_what_is_left():
    args = Args([b"A", b"tag", b"b", b"c"], 1)
    assert not args.accept(b"OTHER")
    assert args.accept(b"TAG")
    assert args.left == 2
    assert args.take_words(5) == (b"b", b"c")
    assert args.left == 0
    assert not args.accept(b"TAG")


@pytest.mark.parametrize(
    "word", [b"1" * 1_000_000 + b"x", b"0x" + b"1" * 1_000_000 + b"z", b"." + b"1" * 100_000 + b"e"]
)
def test_long_words_are_refused_in_linear_time(word):
    """With backtracking these take hours, in which nobody else is served."""
    assert double(word) is None
    assert lenient_integer(word) is None
