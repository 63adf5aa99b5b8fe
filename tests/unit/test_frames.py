"""Forms and bursts: what is taken as one, and what is not."""

from __future__ import annotations

from redisai_py.frames import MAX_FRAME, Burst, Command, Frames, HeadForm, encode_command
from redisai_py.resp import CommandParser, unroll


def _set(key: bytes, data: bytes = b"abcd") -> bytes:
    return b"".join(encode_command([b"AI.TENSORSET", key, b"UINT8", b"%d" % len(data), b"BLOB", data]))


def _frames(*keys: bytes, limit: int = 4096) -> Frames:
    """Frames that remember these keys' heads, with their forms."""
    frames = Frames(limit)
    for key in keys:
        _name(frames, _set(key)[:-6], key)
    return frames


def _name(frames: Frames, head: bytes, key: bytes) -> Command:
    command = Command([b"AI.TENSORSET", key, b"UINT8", b"4", b"BLOB"], payload_size=4)
    frames.name_form(command, head, lambda form: ("meaning", form))
    frames.remember(head, command)
    return command


def test_a_row_is_one_run() -> None:
    frames = _frames(b"k1")
    keys = [b"k%d" % n for n in range(10)] * 3
    row = b"".join(map(_set, keys))
    ((burst, payload),) = CommandParser(frames, bursts=True).feed(row)
    assert isinstance(burst, Burst)
    assert payload is None
    assert burst.frame == row
    assert burst.words == [b"$2\r\n%b\r\n" % key for key in keys]
    assert burst.meaning[0] == "meaning"
    assert [(c.argv[1], p or c.argv[5]) for c, p in unroll(burst, frames)] == [(key, b"abcd") for key in keys]


def test_runs_are_bounded() -> None:
    out = CommandParser(_frames(b"k"), bursts=True).feed(_set(b"k") * 200)
    assert [len(burst.words) for burst, _ in out if isinstance(burst, Burst)] == [64, 64, 64, 8]
    assert len(out) == 4


def test_few_are_no_run() -> None:
    out = CommandParser(_frames(b"k"), bursts=True).feed(_set(b"k") * 3)
    assert [payload for _, payload in out] == [b"abcd"] * 3


def test_whoever_does_not_want_runs_gets_none() -> None:
    out = CommandParser(_frames(b"k")).feed(_set(b"k") * 20)
    assert [payload for _, payload in out] == [b"abcd"] * 20


def test_a_row_ends_at_another_command() -> None:
    parser = CommandParser(_frames(b"k"), bursts=True)
    other = b"".join(encode_command([b"PING"]))
    out = parser.feed(_set(b"k") * 12 + other + _set(b"k") * 20)
    assert [type(command).__name__ for command, _ in out] == ["Burst", "Command", "Burst"]
    assert [len(command.words) for command, _ in out if isinstance(command, Burst)] == [12, 20]


def test_keys_of_other_lengths_have_another_form() -> None:
    parser = CommandParser(_frames(b"k", b"key"), bursts=True)
    out = parser.feed(_set(b"k") * 10 + _set(b"new") * 10)
    assert [len(command.words) for command, _ in out if isinstance(command, Burst)] == [10, 10]


def test_an_incomplete_command_waits_for_its_rest() -> None:
    parser = CommandParser(_frames(b"k1"), bursts=True)
    row = b"".join(_set(b"k%d" % (n % 10)) for n in range(40))
    for cut in range(1, len(_set(b"k1"))):
        out = parser.feed(row[:-cut])
        assert [len(command.words) for command, _ in out if isinstance(command, Burst)] == [39]
        ((last, payload),) = parser.feed(row[-cut:])
        assert (last.argv[1], payload or last.argv[5]) == (b"k9", b"abcd")


def test_a_head_that_is_written_strangely_has_no_form() -> None:
    frames = Frames()
    assert _name(frames, _set(b"k").replace(b"*6", b"*06")[:-6], b"k").form is None
    assert _name(frames, _set(b"k" * MAX_FRAME)[:-6], b"k" * MAX_FRAME).form is None
    assert not frames.forms
    assert frames.form_of(b"*x\r\n") is None
    assert frames.form_of(_set(b"k")[:-6]) is None


def test_forms_are_shared_and_bounded() -> None:
    frames = _frames(b"k1", b"k2", limit=2)
    assert len(frames.forms) == 1
    _name(frames, _set(b"key")[:-6], b"key")
    _name(frames, _set(b"other")[:-6], b"other")
    assert len(frames.forms) == 1


def test_a_form_finds_nothing_where_something_else_begins() -> None:
    (form,) = _frames(b"k").forms.values()
    assert isinstance(form, HeadForm)
    row = _set(b"k") * 10
    assert form.words(b"x" + row, 0, len(row) + 1) == []
    assert len(form.words(b"x" + row, 1, len(row) + 1)) == 10
    assert len(form.words(row[:-1], 0, len(row) - 1)) == 9
