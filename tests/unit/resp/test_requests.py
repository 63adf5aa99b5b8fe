"""The parser of commands: what Redis calls a protocol error, its limits, inline commands, and remembered frames."""

from __future__ import annotations

import time

import pytest

from redisai_py.resp.inline import split_inline
from redisai_py.resp.requests import MAX_INLINE, CommandParser
from redisai_py.resp.templates import MAX_FRAME, Command, Frames, encode_command


def parse(data: bytes, parser: CommandParser | None = None) -> tuple[list[list[bytes]], str]:
    parser = parser or CommandParser(Frames())
    commands = [[bytes(word) for word in command.argv] for command in parser.feed(data)]
    return commands, str(parser.error or "")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"*2\r\n$3\r\nGET\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n\r\n", "expected '$', got '\r'"),
        (b"*1\r\n+PING\r\n", "expected '$', got '+'"),
        (b"*1\r\n=8\r\ntxt:PING\r\n", "expected '$', got '='"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$+1\r\na\r\n", "invalid bulk length"),
        (b"*1\r\n$01\r\na\r\n", "invalid bulk length"),
        (b"*1\r\n$ 1\r\na\r\n", "invalid bulk length"),
        (b"*1\r\n$\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n$99999999999999999999\r\n", "invalid bulk length"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*2147483648\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n$" + b"1" * MAX_INLINE, "too big bulk count string"),
        (b"*" + b"1" * MAX_INLINE, "too big mbulk count string"),
        (b"x" * MAX_INLINE, "too big inline request"),
        (b'SET "a\r\n', "unbalanced quotes in request"),
        (b'SET "a"b\r\n', "unbalanced quotes in request"),
    ],
)
def test_broken_frames(data: bytes, text: str) -> None:
    commands, error = parse(b"PING\r\n" + data)
    assert commands == [[b"PING"]]
    assert error == f"ERR Protocol error: {text}"


@pytest.mark.parametrize("word", [b"+PING\r\n", b"=8\r\ntxt:PING\r\n", b"(1\r\n", b":1\r\n", b"-PING\r\n", b"#t\r\n"])
@pytest.mark.parametrize("before", [b"", b"$4\r\nECHO\r\n", b"$4\r\nECHO--"])
def test_words_in_other_forms_are_no_words(word: bytes, before: bytes) -> None:
    data = b"*%d\r\n%b%b" % (1 + bool(before), before, word)
    error = f"ERR Protocol error: expected '$', got '{chr(word[0])}'"
    for chunk in (data, data + b"PING\r\n"):  # a command alone in its chunk is parsed in another way
        assert parse(chunk) == ([], error)


@pytest.mark.parametrize("nothing", [b"*0\r\n", b"*-1\r\n", b"\r\n", b"\n", b" \r\n"])
@pytest.mark.parametrize("authenticated", [False, True])
def test_a_million_commands_without_words_stop_nobody(nothing: bytes, authenticated: bool) -> None:
    parser = CommandParser(Frames(), authenticated=authenticated)
    before = time.thread_time()
    for _ in range(16):
        assert parse(nothing * 62_500, parser) == ([], "")
    assert time.thread_time() - before < 0.5
    assert parse(nothing * 3 + b"*1\r\n$4\r\nPING\r\n" + nothing, parser) == ([[b"PING"]], "")


def test_nothing_is_read_after_an_error() -> None:
    parser = CommandParser(Frames())
    parse(b"*x\r\n", parser)
    assert parse(b"*1\r\n$4\r\nPING\r\n", parser) == ([], "ERR Protocol error: invalid multibulk length")


def test_limits_are_the_parsers_own() -> None:
    parser = CommandParser(Frames(), max_argument_bytes=1024)
    word = b"x" * 1024
    assert parse(b"*2\r\n$3\r\nGET\r\n$1024\r\n" + word + b"\r\n", parser) == ([[b"GET", word]], "")
    assert parse(b"*1\r\n$1025\r\n", parser)[1] == "ERR Protocol error: invalid bulk length"
    parser = CommandParser(Frames(), max_arguments=2)
    assert parse(b"*3\r\n", parser)[1] == "ERR Protocol error: invalid multibulk length"


def test_announced_but_refused_arguments_take_no_memory() -> None:
    asked: list[int] = []

    def allocate(size: int) -> memoryview:
        asked.append(size)
        return memoryview(bytearray(size))

    parser = CommandParser(Frames(), max_argument_bytes=100_000_000, allocate=allocate)
    parse(b"*2\r\n$3\r\nSET\r\n$600000000\r\n", parser)
    assert parser.error is not None
    parser = CommandParser(Frames(), allocate=allocate)
    parse(b"*2\r\n$3\r\nSET\r\n$500000000\r\nbegun", parser)
    assert parser.receiving_large
    assert not asked


@pytest.mark.parametrize("data", [b"", b"\r\n", b"\n", b"  \r\n", b"*0\r\n", b"*-1\r\n", b"*-100\r\n\r\n"])
def test_what_is_no_command(data: bytes) -> None:
    assert parse(data + b"PING\r\n") == ([[b"PING"]], "")


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        (b"GET  a\tb", [b"GET", b"a", b"b"]),
        (b'SET k "a b"', [b"SET", b"k", b"a b"]),
        (rb'"\x41\n\r\t\a\b\\\"\q"', [b'A\n\r\t\a\b\\"q']),
        (rb"'\x41\n\''", [rb"\x41\n'"]),
        (b"''", [b""]),
        (b'a"b"', [b"ab"]),
        (rb'"\xZZ"', [b"xZZ"]),
        (b'"a', None),
        (b"'a", None),
        (b'"a"x', None),
        (b"'a'x", None),
        (b"", []),
    ],
)
def test_inline_words(line: bytes, argv: list[bytes] | None) -> None:
    assert split_inline(line) == argv


def test_remembered_frames_give_the_same_object() -> None:
    frames = Frames()
    frame = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"
    (first,) = CommandParser(frames).feed(frame)
    first.action = "known"
    frames.remember(first)
    commands = CommandParser(frames).feed(frame * 3 + b"*1\r\n$4\r\nPING\r\n" + frame)
    assert [command.action for command in commands] == ["known", "known", "known", None, "known"]


def test_a_remembered_command_may_end_like_the_head_of_another() -> None:
    frames = Frames()
    words = [b"AI.TENSORGET", b"x\r\n$4\r\nBLOB\r\n$5"]
    frame = b"".join(encode_command(words))
    frames.remember(Command(words, frame))
    given = CommandParser(frames).feed(frame * 2 + b"*1\r\n$4\r\nPING\r\n")
    assert [command.argv for command in given] == [words, words, [b"PING"]]


def test_remembered_frames_are_bounded() -> None:
    frames = Frames(limit=3)
    for number in range(4):
        frames.remember(Command([b"PING"], b"frame %d" % number))
    assert list(frames.by_bytes) == [b"frame 3"]
    frames.remember(Command([b"PING"], b"x" * (MAX_FRAME + 1)))
    assert list(frames.by_bytes) == [b"frame 3"]


def test_diverting_a_large_last_argument() -> None:
    parser = CommandParser(Frames())
    assert parser.feed(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$70000\r\nabc") == []
    assert parser.large == ([b"SET", b"k"], 70000)
    assert parser.divert() == b"abc"
    assert not parser.receiving_large
    assert parse(b"PING\r\n", parser) == ([[b"PING"]], "")


def test_a_large_argument_that_is_not_the_last_is_not_offered() -> None:
    parser = CommandParser(Frames())
    parser.feed(b"*4\r\n$3\r\nSET\r\n$1\r\nk\r\n$70000\r\nabc")
    assert parser.receiving_large
    assert parser.large is None


def test_encoding_leaves_large_arguments_alone() -> None:
    large = memoryview(b"x" * 20000)
    segments = encode_command([b"SET", b"k", large, b"EX", b"1"])
    assert any(segment is large for segment in segments)
    assert b"".join(segments) == b"*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$20000\r\n" + large + b"\r\n$2\r\nEX\r\n$1\r\n1\r\n"
    parts = (b"head", large)
    segments = encode_command([b"SET", b"k", parts])
    assert b"".join(segments) == b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$20004\r\nhead" + large + b"\r\n"


def _unknown() -> CommandParser:
    return CommandParser(Frames(), authenticated=False)


def test_before_authentication_the_parser_stops_in_front_of_what_is_long() -> None:
    for data in (b"*11\r\n" + b"$1\r\nx\r\n" * 11, b"*2\r\n$3\r\nGET\r\n$16385\r\n" + b"x" * 16385 + b"\r\n"):
        for step in (1, 7, len(data)):
            parser, given = _unknown(), []
            for at in range(0, len(data), step):
                given += parser.feed(data[at : at + step])
            assert not given
            assert parser.doubt is not None
            assert not parser.at_boundary
            parser.accept(True)
            assert [len(command.argv) for command in parser.go_on()] in ([11], [2])
            assert parser.at_boundary


def test_before_authentication_what_is_long_is_an_error() -> None:
    parser = _unknown()
    assert [command.argv for command in parser.feed(b"PING\r\n*11\r\n$1\r\nx\r\n")] == [[b"PING"]]
    assert parser.go_on() == []
    assert str(parser.error) == "ERR Protocol error: unauthenticated multibulk length"
    assert parser.feed(b"PING\r\n") == []


def test_before_authentication_few_commands_are_parsed_at_a_time() -> None:
    parser = _unknown()
    given = parser.feed(b"PING\r\n" * 150)
    assert len(given) == 64
    given += parser.go_on()
    assert (len(given), parser.error) == (128, None)
    parser.accept(True)
    assert len(given + parser.go_on()) == 150
    assert parser.doubt is None


def test_what_a_command_that_is_coming_holds() -> None:
    parser = CommandParser(Frames())
    parser.feed(b"*1000000\r\n" + b"$2\r\nab\r\n" * 1000)
    assert parser.held_bytes >= 1000 * 64
    parser.feed(b"$100000\r\nabc")
    parser.get_buffer()
    parser.received(50_000)
    assert parser.held_bytes >= 1000 * 64 + 50_000
    parser.received(49_999)
    assert parser.held_bytes >= 1000 * 64 + 100_000
    parser.close()
    assert parser.held_bytes == 0
