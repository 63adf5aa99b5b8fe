"""Forms and bursts: what is taken as one, and what is not."""

from __future__ import annotations

from redisai_py.resp.requests import CommandParser, unroll
from redisai_py.resp.templates import MAX_FRAME, BlobTemplate, Burst, Command, Frames, KeyTemplate, encode_command


def _set(key: bytes, data: bytes = b"abcd") -> bytes:
    return b"".join(encode_command([b"AI.TENSORSET", key, b"UINT8", b"%d" % len(data), b"BLOB", data]))


def _frames(*keys: bytes, limit: int = 4096) -> Frames:
    """Frames that know the templates of these keys' commands."""
    frames = Frames(limit)
    for key in keys:
        _name(frames, key)
    return frames


def _name(frames: Frames, key: bytes, frame: bytes = b"") -> None:
    command = Command([b"AI.TENSORSET", key, b"UINT8", b"4", b"BLOB", b"abcd"], frame or _set(key))
    frames.keep_template(command, lambda template: ("action", template))


def _sizes(received: list[Command | Burst]) -> list[int]:
    """How many commands are in each burst; 0 for a command."""
    return [len(each.words) if isinstance(each, Burst) else 0 for each in received]


def test_a_row_is_one_burst() -> None:
    frames = _frames(b"k1")
    keys = [b"k%d" % n for n in range(10)] * 3
    row = b"".join(map(_set, keys))
    (burst,) = CommandParser(frames, bursts=True).feed(row)
    assert isinstance(burst, Burst)
    assert burst.frame == row
    assert burst.words == [b"$2\r\n%b\r\n" % key for key in keys]
    assert burst.action[0] == "action"
    assert [command.argv[1::4] for command in unroll(burst, frames)] == [[key, b"abcd"] for key in keys]


def test_one_alone_is_a_burst() -> None:
    parser = CommandParser(_frames(b"k"), bursts=True)
    assert parser.template is None
    assert _sizes(parser.feed(_set(b"k"))) == [1]
    assert parser.template is not None
    assert parser.template.alone(_set(b"x", b"\r\n$4"))
    for other in (_set(b"xy"), _set(b"x", b"abc"), _set(b"x") * 2, _set(b"x")[:-1] + b"\r", b"x" * len(_set(b"x"))):
        assert not parser.template.alone(other), other


def test_bursts_are_bounded() -> None:
    assert _sizes(CommandParser(_frames(b"k"), bursts=True).feed(_set(b"k") * 200)) == [64, 64, 64, 8]


ROW = object()
JOINT = {b"GET": ROW, b"SET": ROW, b"LPUSH": object()}


def _encode(*commands: str) -> bytes:
    return b"".join(b"".join(encode_command([word.encode() for word in command.split()])) for command in commands)


def test_commands_with_a_joint_meaning_are_one_burst() -> None:
    row = _encode("GET a", "SET b 1", "GET c d e")
    (burst,) = CommandParser(Frames(), bursts=True, joint=JOINT.get).feed(row)
    assert isinstance(burst, Burst)
    assert (burst.frame, burst.words, burst.action) == (row, [b"GET", b"SET", b"GET"], ROW)


def test_of_a_row_that_goes_on_what_has_come_is_one_burst() -> None:
    parser = CommandParser(Frames(), bursts=True, joint=JOINT.get)
    one = _encode("SET key value")
    row = one * 3000
    cut = 2500 * len(one) + 7
    assert cut > 64 * 1024
    assert _sizes(parser.feed(row[:cut])) == [2500]
    assert _sizes(parser.feed(row[cut:] + _encode("GET a"))) == [0, 500]


def test_a_chunk_in_which_one_has_another_meaning_is_no_row() -> None:
    for other in ("LPUSH a 1", "TYPE a"):
        parser = CommandParser(Frames(), bursts=True, joint=JOINT.get)
        assert _sizes(parser.feed(_encode("GET a", other, "GET b"))) == [0, 0, 0]
        assert _sizes(parser.feed(_encode("GET a"))) == [1]


def test_whoever_does_not_want_bursts_gets_none() -> None:
    out = CommandParser(_frames(b"k")).feed(_set(b"k") * 20)
    assert [command.argv[5] for command in out if isinstance(command, Command)] == [b"abcd"] * 20


def test_a_row_ends_at_another_command() -> None:
    parser = CommandParser(_frames(b"k"), bursts=True)
    other = b"".join(encode_command([b"PING"]))
    assert _sizes(parser.feed(_set(b"k") * 12 + other + _set(b"k") * 20)) == [12, 0, 20]


def test_keys_of_other_lengths_have_another_form() -> None:
    parser = CommandParser(_frames(b"k", b"key"), bursts=True)
    assert _sizes(parser.feed(_set(b"k") * 10 + _set(b"new") * 10 + (_set(b"k") + _set(b"new")) * 2)) == [
        10, 10, 1, 1, 1, 1
    ]  # fmt: skip


def test_an_incomplete_command_waits_for_its_rest() -> None:
    parser = CommandParser(_frames(b"k1"), bursts=True)
    row = b"".join(_set(b"k%d" % (n % 10)) for n in range(40))
    for cut in range(1, len(_set(b"k1"))):
        assert _sizes(parser.feed(row[:-cut])) == [39]
        (last,) = parser.feed(row[-cut:])
        assert isinstance(last, Burst)
        assert last.frame == _set(b"k9")


def test_a_command_that_is_written_strangely_has_no_form() -> None:
    frames = Frames()
    _name(frames, b"k", _set(b"k").replace(b"*6", b"*06"))
    _name(frames, b"k" * MAX_FRAME)
    assert not frames.templates
    assert frames.template_of(b"*x\r\n") is None
    assert frames.template_of(_set(b"k")[:-6]) is None


def test_a_payload_that_does_not_end_where_it_should_is_parsed() -> None:
    parser = CommandParser(_frames(b"k"), bursts=True)
    odd = _set(b"k")[:-2] + b"??"  # Redis, too, passes over these two bytes without a look
    (command,) = parser.feed(odd)
    assert isinstance(command, Command)
    assert command.argv[5] == b"abcd"
    assert _sizes(parser.feed(_set(b"k") * 5 + odd + _set(b"k") * 5)) == [5, 0, 5]


def test_forms_are_shared_and_bounded() -> None:
    frames = _frames(b"k1", b"k2", limit=2)
    assert len(frames.templates) == 1
    _name(frames, b"key")
    _name(frames, b"other")
    assert len(frames.templates) == 1


def test_a_form_finds_nothing_where_something_else_begins() -> None:
    (template,) = _frames(b"k").templates.values()
    assert isinstance(template, KeyTemplate)
    row = _set(b"k") * 10
    assert template.words(b"x" + row, 0, len(row) + 1) == []
    assert len(template.words(b"x" + row, 1, len(row) + 1)) == 10
    assert len(template.words(row[:-1], 0, len(row) - 1)) == 9


def _get(key: bytes, *options: bytes) -> bytes:
    return b"".join(encode_command([b"AI.TENSORGET", key, *options]))


def _get_frames(*options: bytes, remember: bool) -> Frames:
    frames = Frames()
    command = Command([b"AI.TENSORGET", b"k1", *options], _get(b"k1", *options), "alone")
    frames.keep_template(command, lambda template: ("action", template), payload=False)
    if remember:
        frames.remember(command)
    return frames


def test_a_row_without_payload_is_one_burst_also_the_first_time() -> None:
    for options in ((b"BLOB",), (b"META", b"BLOB")):
        keys = [b"k%d" % n for n in range(2, 8)] * 3
        parser = CommandParser(_get_frames(*options, remember=False), bursts=True)
        (burst,) = parser.feed(b"".join(_get(key, *options) for key in keys))
        assert isinstance(burst, Burst)
        assert burst.words == [b"$2\r\n%b\r\n" % key for key in keys]
        assert [command.argv[1:] for command in unroll(burst, Frames())] == [[key, *options] for key in keys]
        assert parser.template is not None
        assert parser.template.alone(_get(b"zz", *options))


def test_a_remembered_command_is_a_command_and_a_row_of_it_a_burst() -> None:
    parser = CommandParser(_get_frames(b"BLOB", remember=True), bursts=True)
    one = _get(b"k1", b"BLOB")
    (alone,) = parser.feed(one)
    assert isinstance(alone, Command)
    assert alone.action == "alone"
    assert parser.template is None
    assert _sizes(parser.feed(one * 16)) == [16]
    assert _sizes(parser.feed(_get(b"k1", b"META") + one + _get(b"k22", b"BLOB") + one * 2)) == [0, 1, 0, 2]


def test_options_are_no_payload() -> None:
    parser = CommandParser(_get_frames(b"BLOB", remember=False), bursts=True)
    row = _get(b"k2", b"BLOB") * 4 + _get(b"k2", b"META") * 4 + _get(b"k2", b"BLOB", b"BLOB")
    assert _sizes(parser.feed(row)) == [4, 0, 0, 0, 0, 0]


def _dag(data: bytes, key: bytes = b"x") -> bytes:
    return b"".join(encode_command([b"DAG", key, b"BLOB", data, b"|>", b"GET", key]))


def _blob_template(data: bytes) -> BlobTemplate:
    frame = _dag(data)
    return BlobTemplate(frame, frame.index(data), len(data), "action")


def test_what_differs_in_one_word_only() -> None:
    parser = CommandParser(Frames(), bursts=True)
    parser.template = template = _blob_template(b"abcd")
    for data in (b"abcd", b"\r\n$4", b"\0\0\0\0", b"*6\r\n"):
        assert template.alone(_dag(data))
        (burst,) = parser.feed(_dag(data))
        assert isinstance(burst, Burst)
        assert (burst.action, burst.words, burst.frame) == ("action", [data], _dag(data))
        assert [command.argv[3] for command in unroll(burst, Frames())] == [data]
    for other in (_dag(b"abc"), _dag(b"abcde"), _dag(b"abcd", b"y"), _dag(b"abcd") * 2, _dag(b"abcd")[:-1] + b"\r"):
        assert not template.alone(other), other


def test_one_by_one_and_in_pieces() -> None:
    stream = _dag(b"1234") + _dag(b"5678") + _dag(b"9012", b"y") + _dag(b"345") + _dag(b"6789")
    for size in (1, 2, 5, 11, 60, len(stream)):
        parser = CommandParser(Frames(), bursts=True)
        parser.template = _blob_template(b"abcd")
        received: list[Command | Burst] = []
        for at in range(0, len(stream), size):
            received += parser.feed(stream[at : at + size])
        words = [each.words[0] if isinstance(each, Burst) else each.argv[3] for each in received]
        assert words == [b"1234", b"5678", b"9012", b"345", b"6789"]
        assert _sizes(received) == [1, 1, 0, 0, 1]
