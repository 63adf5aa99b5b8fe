"""The near cache's rule, hammered: after every acknowledged write, runs through two front doors use what was written.

One round is one write, by any way that there is to write, then several runs at once; each is a trial. While that goes
on, other clients keep both front doors busy, so that invalidations and replies come in bunches. The slow test does
more than 100 000 trials.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import hiredis
import pytest
import redis

from redisai_py.config import Config
from scripts import make_models
from tests.fault.hammering import Duration
from tests.support import FrontDoor, RedisServer
from tests.wire import Wire, numbers, value

MISSING = "ERR tensor key is empty or in a different shard"
WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
NO_MODEL = "ERR model key is empty"
_SECONDS = 6
_SLOW_TRIALS = 100_000
_SLOW_SECONDS = 170
_DATA = 128  # offset of the elements in a stored tensor of this shape


@pytest.fixture(scope="module")
def doors(redis_server: RedisServer) -> Iterator[tuple[FrontDoor, FrontDoor]]:
    """Two sidecars on one Redis."""
    servers = [FrontDoor(Config(redis=redis_server.url, port=0, drain_timeout_s=1)) for _ in range(2)]
    yield servers[0], servers[1]
    for server in servers:
        server.stop()


@dataclass
class Field:
    """Key x, the model m, and everybody who writes them. `number` is what x holds, or the error that reading it is."""

    bare: Wire
    elsewhere: Wire  # in database 1
    ours: Wire
    theirs: Wire
    dumps: dict[str, bytes] = field(default_factory=dict)
    factor: int = 2
    number: int | str = 0
    counter: int = 0

    def prepare(self) -> None:
        """Store models of factor 2 and 1, and remember them as they lie in Redis."""
        for name, blob in (("by2", make_models.build_onnx_mul()), ("by1", make_models.build_onnx_heavy(0))):
            assert self.ours("AI.MODELSTORE", name, "ONNX", "CPU", "BLOB", blob) == b"OK"
            self.dumps[name] = self.bare("DUMP", name)
        self.bare("COPY", "by2", "m")
        self.bare("SET", "x", value(0))

    def next_value(self) -> bytes:
        """A number that was never there."""
        self.counter += 1
        self.number = self.counter
        return value(self.counter)

    def blob(self) -> bytes:
        """The same as the argument of AI.TENSORSET."""
        return self.next_value()[_DATA:]

    def make_good(self) -> None:
        """Let runs succeed again."""
        self.bare.pipeline([("DEL", "x"), ("SET", "x", self.next_value()), ("COPY", "by2", "m", "REPLACE")])
        self.factor = 2

    @property
    def expected(self) -> float | str:
        """What a run gives now."""
        if not self.factor:
            return NO_MODEL
        return self.number if isinstance(self.number, str) else self.number * self.factor


def _set(f: Field) -> None:
    assert f.bare("SET", "x", f.next_value()) == b"OK"


def _set_in_multi(f: Field) -> None:
    assert f.bare.pipeline([("MULTI",), ("SET", "x", f.next_value()), ("EXEC",)])[2] == [b"OK"]


def _set_in_lua(f: Field) -> None:
    f.bare("EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", "1", "x", f.next_value())


def _mset(f: Field) -> None:
    assert f.bare("MSET", "w", "-", "x", f.next_value()) == b"OK"


def _set_expiring(f: Field) -> None:
    assert f.bare("SET", "x", f.next_value(), "PX", "100000") == b"OK"


def _getset(f: Field) -> None:
    if f.number != WRONGTYPE:
        f.bare("GETSET", "x", f.next_value())


def _setrange(f: Field) -> None:
    if isinstance(f.number, int):
        assert f.bare("SETRANGE", "x", str(_DATA), f.blob()) == len(value(0))


def _append(f: Field) -> None:
    if isinstance(f.number, int):
        f.bare("APPEND", "x", "!")
        f.number = WRONGTYPE


def _rename(f: Field) -> None:
    f.bare("SET", "w", f.next_value())
    assert f.bare("RENAME", "w", "x") == b"OK"


def _rename_away(f: Field) -> None:
    if f.number != MISSING:
        assert f.bare("RENAME", "x", "w") == b"OK"
        f.number = MISSING


def _copy(f: Field) -> None:
    f.bare("SET", "w", f.next_value())
    assert f.bare("COPY", "w", "x", "REPLACE") == 1


def _restore(f: Field) -> None:
    f.bare("SET", "w", f.next_value())
    assert f.bare("RESTORE", "x", "0", f.bare("DUMP", "w"), "REPLACE") == b"OK"


def _delete(f: Field) -> None:
    f.bare(random.choice(("DEL", "UNLINK")), "x")
    f.number = MISSING


def _getdel(f: Field) -> None:
    if f.number != WRONGTYPE:
        f.bare("GETDEL", "x")
        f.number = MISSING


def _move(f: Field) -> None:
    f.elsewhere("DEL", "x")
    f.bare("MOVE", "x", "1")
    f.number = MISSING


def _expire_now(f: Field) -> None:
    f.bare("PEXPIREAT", "x", "1")
    f.number = MISSING


def _expire_soon(f: Field) -> None:
    f.bare("PEXPIRE", "x", "1")
    while f.bare("EXISTS", "x"):
        pass
    f.number = MISSING


def _touch_lifetime(f: Field) -> None:
    f.bare("EXPIRE", "x", "1000")
    f.bare("PERSIST", "x")


def _hash(f: Field) -> None:
    f.bare.pipeline([("MULTI",), ("DEL", "x"), ("HSET", "x", "f", "v"), ("EXEC",)])
    f.number = WRONGTYPE


def _flush(f: Field) -> None:
    f.bare(random.choice(("FLUSHALL", "FLUSHDB")))
    for name in ("by2", "by1"):
        f.bare("RESTORE", name, "0", f.dumps[name])
    f.bare("COPY", "by2", "m")
    f.factor, f.number = 2, MISSING


def _other_model(f: Field) -> None:
    f.factor = random.choice((1, 2))
    f.bare("COPY", f"by{f.factor}", "m", "REPLACE")


def _model_deleted(f: Field) -> None:
    random.choice((f.bare, f.theirs))("DEL", "m")
    f.factor = 0


def _model_stored(f: Field) -> None:
    f.factor = 1
    random.choice((f.ours, f.theirs))("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", make_models.build_onnx_heavy(0))


def _tensorset(f: Field) -> None:
    if f.number != WRONGTYPE:
        door = random.choice((f.ours, f.theirs))
        assert door("AI.TENSORSET", "x", "FLOAT", "1", "2", "BLOB", f.blob()) == b"OK"


def _set_through_us(f: Field) -> None:
    assert random.choice((f.ours, f.theirs))("SET", "x", f.next_value()) == b"OK"


def _tensorset_in_multi(f: Field) -> None:
    if f.number != WRONGTYPE:
        door = random.choice((f.ours, f.theirs))
        words = ("AI.TENSORSET", "x", "FLOAT", "1", "2", "BLOB", f.blob())
        assert door.pipeline([("MULTI",), words, ("EXEC",)])[2] == [b"OK"]


def _run_in_place(f: Field) -> None:
    if isinstance(f.number, int) and f.factor and f.number < 2**20:
        door = random.choice((f.ours, f.theirs))
        assert door("AI.MODELEXECUTE", "m", "INPUTS", "1", "x", "OUTPUTS", "1", "x") == b"OK"
        f.number *= f.factor


def _output(f: Field) -> None:
    if f.number != WRONGTYPE and f.factor:
        door = random.choice((f.ours, f.theirs))
        f.bare("SET", "seed", f.next_value())
        assert door("AI.MODELEXECUTE", "m", "INPUTS", "1", "seed", "OUTPUTS", "1", "x") == b"OK"
        f.number = f.counter * f.factor


def _persisted(f: Field) -> None:
    if f.number != WRONGTYPE:
        door = random.choice((f.ours, f.theirs))
        how = random.choice(((), ("EX", "1000"), ("KEEPTTL",)))
        words = ("ROUTING", "r", "PERSIST", "1", "x", *how, "|>", "AI.TENSORSET", "x", "FLOAT", "1", "2", "BLOB")
        assert door("AI.DAGEXECUTE", *words, f.blob()) == [b"OK"]


def _persisted_if_unchanged(f: Field) -> None:
    if isinstance(f.number, int):
        door = random.choice((f.ours, f.theirs))
        words = ("LOAD", "1", "x", "PERSIST", "1", "x", "IFUNCHANGED", "|>", "AI.TENSORSET", "x", "FLOAT", "1", "2")
        assert door("AI.DAGEXECUTE", *words, "BLOB", f.blob()) == [b"OK"]


def _from_another_database(f: Field) -> None:
    f.elsewhere("SET", "x", f.next_value())
    f.bare("DEL", "x")
    assert f.elsewhere("MOVE", "x", "0") == 1


WRITES: list[Callable[[Field], None]] = [
    _set, _set_in_multi, _set_in_lua, _mset, _set_expiring, _getset, _setrange, _append, _rename, _rename_away, _copy,
    _restore, _delete, _getdel, _move, _expire_now, _expire_soon, _touch_lifetime, _hash, _flush, _other_model,
    _model_deleted, _model_stored, _tensorset, _set_through_us, _tensorset_in_multi, _run_in_place, _output, _persisted,
    _persisted_if_unchanged, _from_another_database,
]  # fmt: skip
_RARE = {_flush: 0.1, _model_stored: 0.05, _expire_soon: 0.2, _model_deleted: 0.3}
_WEIGHTS = [_RARE.get(write, 1.0) for write in WRITES]


class Reader:
    """A client that runs the model on x, one way or another."""

    def __init__(self, port: int, name: str, form: str) -> None:
        self.wire = Wire(port)
        self.form = form
        self.output = f"y:{name}"
        run = ("AI.MODELEXECUTE", "m", "INPUTS", "1", "x", "OUTPUTS", "1", self.output)
        graph = ("LOAD", "1", "x", "|>", *run, "|>", "AI.TENSORGET", self.output, "BLOB")
        self.command: tuple[str, ...] = {
            "run": run,
            "dag": ("AI.DAGEXECUTE", "PERSIST", "1", self.output, *graph),
            "read-only dag": ("AI.DAGEXECUTE_RO", *graph),
        }[form]

    def judge(self, reply: Any, stored: list[float] | None, f: Field) -> None:
        """Assert that the reply and what the command wrote are of what x and m are now."""
        expected = f.expected
        if self.form != "run" and isinstance(f.number, str):
            expected = f.number  # a DAG looks at what it loads first
        if isinstance(reply, hiredis.ReplyError):
            assert str(reply) == expected
            return
        shown = [] if self.form == "run" else [float(x) for x in memoryview(reply[1]).cast("f")]
        results = [*shown, *([] if self.form == "read-only dag" else stored or [])]
        assert set(results) == {expected}


def _noise(port: int, number: int, stop: threading.Event) -> None:
    key = f"noise:{number}"
    words = ("AI.TENSORSET", key, "FLOAT", "1", "2", "VALUES", "1", "1")
    command = ("AI.MODELEXECUTE", "by2", "INPUTS", "1", key, "OUTPUTS", "1", f"{key}:out")
    with Wire(port) as client:
        while not stop.wait(0.0005):
            client.pipeline([words, command, command])


def hammer(
    redis_port: int, doors: tuple[FrontDoor, FrontDoor], trials: int, seconds: float, seed: int, enough: int
) -> int:
    """Rounds until so many trials or seconds have passed, with enough trials; the number of trials."""
    random.seed(seed)
    forms = ("run", "run", "dag", "read-only dag")
    readers = [Reader(door.port, f"{i}{j}", form) for i, door in enumerate(doors) for j, form in enumerate(forms)]
    f = Field(Wire(redis_port), Wire(redis_port), Wire(doors[0].port), Wire(doors[1].port))
    f.elsewhere("SELECT", "1")
    f.prepare()
    stop = threading.Event()
    noise = [threading.Thread(target=_noise, args=(door.port, i, stop)) for i, door in enumerate(doors)]
    for thread in noise:
        thread.start()
    done = 0
    duration = Duration(seconds, lambda: done >= enough)
    try:
        while done < trials and not duration.is_over:
            (write,) = random.choices(WRITES, _WEIGHTS)
            write(f)
            done += _round(f, random.sample(readers, random.randint(1, len(readers))), write.__name__)
            if isinstance(f.expected, str) and random.random() < 0.5:
                f.make_good()
    finally:
        stop.set()
        for thread in noise:
            thread.join()
        for wire in (f.bare, f.elsewhere, f.ours, f.theirs, *(reader.wire for reader in readers)):
            wire.close()
    return done


def _round(f: Field, readers: list[Reader], what: str) -> int:
    for reader in readers:
        reader.wire.send(*reader.command)
    replies = [reader.wire.receive() for reader in readers]
    stored = f.bare("MGET", *(reader.output for reader in readers))
    for reader, reply, output in zip(readers, replies, stored, strict=True):
        try:
            reader.judge(reply, numbers(output), f)
        except AssertionError as error:
            error.add_note(f"after {what}, x being {f.number}, the factor {f.factor}: {reader.form}")
            raise
    return len(readers)


def test_every_run_uses_what_was_written_before_it(
    bare: redis.Redis, redis_server: RedisServer, doors: tuple[FrontDoor, FrontDoor]
) -> None:
    assert hammer(redis_server.port, doors, 5_000, _SECONDS, seed=1, enough=1_000) >= 1_000


@pytest.mark.slow
@pytest.mark.timeout(_SLOW_SECONDS + 60)
def test_every_one_of_100_000_runs_uses_what_was_written_before_it(
    bare: redis.Redis, redis_server: RedisServer, doors: tuple[FrontDoor, FrontDoor]
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    done = hammer(redis_server.port, doors, _SLOW_TRIALS, _SLOW_SECONDS, seed, enough=0)
    print(f"{done} trials, seed {seed}")
    assert done >= _SLOW_TRIALS / 4


@dataclass
class Span:
    """A write or a run: its number, and when it was sent and answered."""

    number: float
    since: float
    until: float


def _write_numbers(port: int, first: int, through_us: bool, spans: list[Span], stop: threading.Event) -> None:
    number = first
    with Wire(port) as client:
        while not stop.is_set():
            number += 2
            words = ("AI.TENSORSET", "x", "FLOAT", "1", "2", "BLOB", value(number)[_DATA:])
            since = time.monotonic()
            assert client(*(words if through_us else ("SET", "x", value(number)))) == b"OK"
            spans.append(Span(number, since, time.monotonic()))


def test_a_run_beside_two_writers_uses_a_value_that_some_order_of_the_writes_explains(
    bare: redis.Redis, redis_server: RedisServer, doors: tuple[FrontDoor, FrontDoor]
) -> None:
    bare.set("x", value(0))
    with Wire(doors[0].port) as client:
        assert client("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", make_models.build_onnx_mul()) == b"OK"
        ports = (redis_server.port, doors[1].port, doors[0].port)
        writes: list[list[Span]] = [[], [], []]
        stop = threading.Event()
        writers = [
            threading.Thread(target=_write_numbers, args=(port, i, i > 0, writes[i], stop))
            for i, port in enumerate(ports[:2])
        ]
        for thread in writers:
            thread.start()
        runs = []
        try:
            for _ in range(1500):
                since = time.monotonic()
                reply = client("AI.DAGEXECUTE", "LOAD", "1", "x", "|>", "AI.MODELEXECUTE", "m", "INPUTS", "1", "x",
                               "OUTPUTS", "1", "y", "|>", "AI.TENSORGET", "y", "BLOB")  # fmt: skip
                runs.append(Span(memoryview(reply[1]).cast("f")[0] / 2, since, time.monotonic()))
        finally:
            stop.set()
            for thread in writers:
                thread.join()
    spans = sorted((span for each in writes for span in each), key=lambda span: span.since)
    by_number = {span.number: span for span in spans}
    assert len(by_number) > 500
    for run in runs:
        written = by_number.get(run.number, Span(0, 0, 0))
        assert written.since < run.until
        after = [s for s in spans if s.since > written.until and s.until < run.since]
        assert not after, f"{run.number} had been overwritten by {after[0].number} when the run began"
