"""Any chunking of a byte stream gives the same commands, with and without remembered frames, by either way in."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st

from redisai_py.resp.inline import split_inline
from redisai_py.resp.reader import split_replies
from redisai_py.resp.requests import LARGE_ARGUMENT, CommandParser, unroll
from redisai_py.resp.templates import Burst, Command, Frames, encode_command

Argv = list[bytes]

# Sizes about the limit from which an argument is received in a buffer of its own.
large = st.integers(LARGE_ARGUMENT - 2, LARGE_ARGUMENT + 70).map(
    lambda size: b"\r\n$*" * (size // 4) + b"x" * (size % 4)
)
small = st.binary(max_size=12) | st.sampled_from([b"", b"\r\n", b"$4", b"*1\r\n$4\r\nBLOB", b"BLOB", b"0" * 1100])
plain = st.lists(small, min_size=1, max_size=5)
tensor_set = st.tuples(st.sampled_from([b"k", b"other"]), small | large).map(
    lambda pair: [b"AI.TENSORSET", pair[0], b"UINT8", b"%d" % len(pair[1]), b"BLOB", pair[1]]
)
tensor_get = st.sampled_from([[b"AI.TENSORGET", b"k"], [b"AI.TENSORGET", b"k", b"BLOB"], [b"GET", b"k"]])
with_large = st.tuples(plain, large, plain).map(lambda parts: [*parts[0], parts[1], *parts[2]])
commands = st.lists(tensor_set | tensor_get | plain | with_large, min_size=1, max_size=6)

# Rows of commands that differ in key and blob only, which are taken as one; with what would be mistaken for a head.
row_keys = st.sampled_from([b"k1", b"k2", b"k3", b"$2", b"\r\n", b"longer", b"*6"])
row_blobs = st.sampled_from([b"abcd", b"\r\n$4", b"*6\r\n", b"\0\0\0\0", b"BLOB"]) | st.binary(min_size=4, max_size=4)
row = st.lists(st.tuples(row_keys, row_blobs), min_size=1, max_size=24).map(
    lambda pairs: [[b"AI.TENSORSET", key, b"UINT8", b"4", b"BLOB", blob] for key, blob in pairs]
)
same_row = st.tuples(row, st.integers(1, 90)).map(lambda pair: pair[0][:1] * pair[1])
get_row = st.tuples(st.lists(row_keys, min_size=1, max_size=24), st.sampled_from([[b"BLOB"], [b"META", b"BLOB"]])).map(
    lambda pair: [[b"AI.TENSORGET", key, *pair[1]] for key in pair[0]]
)
rows = st.lists(row | same_row | get_row | st.lists(tensor_set | tensor_get, max_size=2), min_size=1, max_size=5).map(
    lambda parts: list(itertools.chain.from_iterable(parts))
)

hostile = st.lists(
    st.sampled_from(
        [b"*2\r\n", b"$3\r\n", b"GET", b"\r\n", b"*", b"$", b"-1", b"x", b"1", b"\n", b'"', b"'", b"\0", b"\r"]
    )
    | st.binary(max_size=4),
    max_size=20,
).map(b"".join)

# Rows of commands that have an action together, which are taken as one, whatever they are; with some that have none.
ROW = object()
JOINT = {b"GET": ROW, b"SET": ROW, b"PING": ROW, b"other": object()}
joint_row = st.lists(
    st.tuples(st.sampled_from([b"GET", b"SET", b"PING"]), st.lists(small, max_size=3)).map(lambda p: [p[0], *p[1]]),
    max_size=12,
)
joint_rows = st.lists(
    joint_row
    | same_row
    | st.lists(tensor_get | plain | large.map(lambda data: [b"SET", b"k", data]), max_size=2)
    | st.just([[b"other", b"x"]]),
    max_size=6,
).map(lambda parts: list(itertools.chain.from_iterable(parts)))

words = st.text(st.characters(codec="ascii", exclude_categories=["C", "Z"], exclude_characters="\"'*"), min_size=1)
inline = st.lists(words, min_size=1, max_size=4).map(lambda parts: " ".join(parts).encode())


def _encode(argv: Argv) -> bytes:
    return b"".join(encode_command(argv))


def _cut(data: bytes, positions: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(position % (len(data) + 1) for position in positions), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]


def _remember(frames: Frames, command: Command) -> None:
    """What the server does with a command that it meets for the first time."""
    if not command.frame:
        return
    if command.argv[0] == b"AI.TENSORSET" and len(command.argv) == 6:
        if len(command.argv[5]) < LARGE_ARGUMENT:
            frames.keep_template(command, lambda template: template)
        return
    if command.argv[0] == b"AI.TENSORGET" and len(command.argv) > 2:
        frames.keep_template(command, lambda template: template, payload=False)
    frames.remember(command)


def _one_by_one(received: Command | Burst, frames: Frames) -> list[Command]:
    if isinstance(received, Command):
        return [received]
    commands = unroll(received, frames)
    assert len(commands) == len(received.words) >= 1
    if received.action in JOINT.values():
        assert all(JOINT[one.argv[0]] is received.action for one in commands)
        assert received.words == [one.argv[0] for one in commands]
        return commands
    for one, word in zip(commands, received.words, strict=True):
        assert word == b"$%d\r\n%b\r\n" % (len(one.argv[1]), one.argv[1])
    return commands


def _receive(chunks: Sequence[bytes], frames: Frames, *, remember: bool, buffered: bool) -> tuple[list[Argv], str]:
    """The commands of a stream and its error, received as the server does."""
    parser = CommandParser(frames, bursts=True, joint=JOINT.get)
    received: list[Argv] = []
    for chunk in chunks:
        rest = chunk
        while rest:
            if parser.receiving_large and buffered:
                buffer = parser.get_buffer()
                count = min(len(rest), len(buffer))
                buffer[:count] = rest[:count]
                out = parser.received(count)
                rest = rest[count:]
            else:
                out = parser.feed(rest)
                rest = b""
            for command in itertools.chain.from_iterable(_one_by_one(item, frames) for item in out):
                received.append([bytes(word) for word in command.argv])
                if remember:
                    _remember(frames, command)
    return received, str(parser.error or "")


@settings(max_examples=150)
@given(commands, st.lists(st.integers(0, 2**40), max_size=12), st.booleans(), st.booleans())
def test_chunks_do_not_matter(sent: list[Argv], positions: list[int], remember: bool, buffered: bool) -> None:
    frames = Frames()
    data = b"".join(map(_encode, sent))
    for _ in range(2):  # the second time, frames of the first are known
        assert _receive(_cut(data, positions), frames, remember=remember, buffered=buffered) == (sent, "")


@settings(max_examples=200)
@given(rows, st.lists(st.integers(0, 2**40), max_size=12))
def test_chunks_of_rows_do_not_matter(sent: list[Argv], positions: list[int]) -> None:
    frames = Frames()
    data = b"".join(map(_encode, sent))
    for cuts in ([], positions, positions):
        assert _receive(_cut(data, cuts), frames, remember=True, buffered=True) == (sent, "")


@settings(max_examples=200)
@given(joint_rows, hostile, st.lists(st.integers(0, 2**40), max_size=12))
def test_chunks_of_joint_rows_do_not_matter(sent: list[Argv], end: bytes, positions: list[int]) -> None:
    frames = Frames()
    data = b"".join(map(_encode, sent)) + end
    whole = _receive([data], frames, remember=True, buffered=True)
    assert whole[0][: len(sent)] == sent
    if len(data) < 1000:
        bytewise = [data[i : i + 1] for i in range(len(data))]
        assert _receive(bytewise, Frames(), remember=False, buffered=False) == whole
    for cuts in (positions, positions):
        assert _receive(_cut(data, cuts), frames, remember=True, buffered=True) == whole


@settings(max_examples=50)
@given(commands, st.booleans())
def test_cut_where_clients_cut(sent: list[Argv], buffered: bool) -> None:
    """Clients send the words before a long argument, the argument, and what follows it one after the other."""
    frames = Frames()
    data = b"".join(map(_encode, sent))
    for argv in sent:  # each alone, so that it is remembered
        _receive([_encode(argv)], frames, remember=True, buffered=buffered)
    edges, position = [], 0
    for argv in sent:
        stop = position + len(_encode(argv))
        edges += [stop - 2 - len(argv[-1]), stop - 2, stop]
        position = stop
    assert _receive(_cut(data, edges), frames, remember=True, buffered=buffered) == (sent, "")


@settings(max_examples=50)
@given(commands.map(lambda sent: [argv for argv in sent if sum(map(len, argv)) < 2000]))
def test_byte_by_byte(sent: list[Argv]) -> None:
    data = b"".join(map(_encode, sent))
    chunks = [data[i : i + 1] for i in range(len(data))]
    for remember in (False, True):
        assert _receive(chunks, Frames(), remember=remember, buffered=True) == (sent, "")


@settings(max_examples=150)
@given(st.lists(inline | plain.map(_encode) | st.sampled_from([b"", b"*0", b"*-1"]), max_size=6), st.data())
def test_inline_commands_between_others(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(part if part.endswith(b"\r\n") else part + b"\r\n" for part in parts)
    whole = _receive([stream], Frames(), remember=False, buffered=False)
    positions = data.draw(st.lists(st.integers(0, 2**40), max_size=8))
    assert _receive(_cut(stream, positions), Frames(), remember=True, buffered=True) == whole
    assert whole[1] == ""


@settings(max_examples=400)
@given(hostile, st.lists(st.integers(0, 2**40), max_size=8))
@example(b"*1\r\n$4\r\nPING\r\n*x\r\n*1\r\n$4\r\nPING\r\n", [3])
def test_broken_streams_end_in_the_same_error(data: bytes, positions: list[int]) -> None:
    whole = _receive([data], Frames(), remember=False, buffered=False)
    assert _receive(_cut(data, positions), Frames(), remember=True, buffered=True) == whole


@settings(max_examples=200)
@given(row, hostile, st.lists(st.integers(0, 2**40), max_size=8))
def test_a_row_that_breaks_off_ends_in_the_same_error(sent: list[Argv], end: bytes, positions: list[int]) -> None:
    frames = Frames()
    row = b"".join(map(_encode, sent))
    _receive([row], frames, remember=True, buffered=True)
    data = row * 10 + _encode(sent[0])[: len(end) * 3] + end
    whole = _receive([data], Frames(), remember=False, buffered=False)
    for cuts in ([], positions):
        assert _receive(_cut(data, cuts), frames, remember=True, buffered=True) == whole


@given(st.lists(small | large, min_size=1, max_size=4))
def test_what_goes_to_redis_is_what_came(argv: Argv) -> None:
    (command,) = CommandParser(Frames()).feed(_encode(argv))
    assert b"".join(command.wire()) == _encode(argv)


def test_a_large_argument_is_received_in_place() -> None:
    given_out: list[memoryview] = []

    def allocate(size: int) -> memoryview:
        given_out.append(memoryview(bytearray(size)))
        return given_out[-1]

    parser = CommandParser(Frames(), allocate=allocate)
    blob = b"b" * (LARGE_ARGUMENT + 1)
    assert parser.feed(b"*2\r\n$3\r\nSET\r\n$%d\r\n" % len(blob)) == []
    assert parser.receiving_large
    assert not given_out, "memory is asked for when it is filled"
    buffer = parser.get_buffer()
    assert len(buffer) == len(blob) + 2
    buffer[:] = blob + b"\r\n"
    (command,) = parser.received(len(buffer))
    assert command.argv[1].obj is given_out[0].obj
    assert command.argv[1].readonly


quoted = st.binary(max_size=8)


@given(st.lists(quoted, max_size=4))
def test_quoted_words_survive(argv: Argv) -> None:
    line = b" ".join(b'"' + b"".join(b"\\x%02x" % byte for byte in word) + b'"' for word in argv)
    assert split_inline(line) == argv


@given(st.lists(quoted.filter(lambda word: b"\\" not in word and b"'" not in word), max_size=4))
def test_single_quoted_words_survive(argv: Argv) -> None:
    assert split_inline(b"  ".join(b"'" + word + b"'" for word in argv)) == argv


replies = st.recursive(
    st.sampled_from(
        [b"+OK\r\n", b"-ERR x\r\n", b":5\r\n", b"$-1\r\n", b"*-1\r\n", b"_\r\n", b"#t\r\n", b",1.5\r\n", b"(12\r\n"]
    )
    | st.binary(max_size=20).map(lambda data: b"$%d\r\n%b\r\n" % (len(data), data))
    | st.binary(max_size=20).map(lambda data: b"=%d\r\ntxt:%b\r\n" % (len(data) + 4, data)),
    lambda item: (
        st.lists(item, max_size=4).map(lambda items: b"*%d\r\n" % len(items) + b"".join(items))
        | st.lists(st.tuples(item, item), max_size=3).map(
            lambda pairs: b"%%%d\r\n" % len(pairs) + b"".join(key + value for key, value in pairs)
        )
        | st.tuples(item, item, item).map(lambda three: b"|1\r\n" + three[0] + three[1] + three[2])
    ),
    max_leaves=12,
)


@given(st.lists(replies, max_size=6), st.binary(max_size=5))
def test_replies_are_told_apart(sent: list[bytes], behind: bytes) -> None:
    assert split_replies(b"".join(sent) + behind, 0, len(sent)) == sent


@given(st.lists(replies, min_size=1, max_size=4), st.integers(1, 2**40))
def test_incomplete_replies_are_seen(sent: list[bytes], missing: int) -> None:
    data = b"".join(sent)
    assert split_replies(data[: -(missing % len(data)) or -1], 0, len(sent)) is None
