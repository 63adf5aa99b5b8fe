"""Appending, sealing and following, by many at once, in a real Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from redisai_py.artifacts import Conflict, Invalid, Missing, Store, collect
from redisai_py.datasets.dataset import Dataset
from redisai_py.datasets.layout import Schema
from redisai_py.datasets.tail import START, Tail, Window
from redisai_py.datasets.torch import RedisDataset
from redisai_py.datasets.writer import Writer, put
from tests.datasets.conftest import rows


def together(count: int, work: Callable[[int], None]) -> None:
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def test_a_hundred_producers_lose_no_row(store: Store) -> None:
    def produce(number: int) -> None:
        writer = Writer(store, "live", Schema.of(rows(2)))
        for turn in range(3):
            writer.append(rows(10, (number * 3 + turn) * 10))

    together(100, produce)
    tail = list(Tail(store, "live").read())
    order = [y for shard in tail for y in Dataset.fetch(_any(store), [shard], ["y"])[0]["y"].tolist()]
    assert sorted(order) == list(range(3000))
    Writer(store, "live").seal()
    found = Dataset.open(store, "live:1")
    assert found.read()["y"].tolist() == order  # the stream's order
    assert len(found.shards()) == 1  # 300 appends of a few rows are joined
    assert collect(store).removed == 0  # the tail holds them until the next seal
    assert Dataset.open(store, "live").read()["y"].tolist() == order


def _any(store: Store) -> Dataset:
    from redisai_py.datasets.follow import followed

    return followed(store, "live")


def test_who_seals_while_others_append_and_seal_repeats_and_loses_nothing(store: Store) -> None:
    Writer(store, "live", Schema.of(rows(2)))

    def work(number: int) -> None:
        writer = Writer(store, "live")
        for turn in range(10):
            writer.append(rows(4, (number * 10 + turn) * 4))
            if number < 3:
                try:
                    writer.seal()
                except Missing:  # another one has taken it in
                    assert turn >= 0

    together(8, work)
    try:
        Writer(store, "live").seal()
    except Missing:
        assert True
    seen: list[int] = []
    for version in store.registry("dataset").versions("live"):
        found = Dataset.open(store, str(version)).read()["y"].tolist()
        assert found[: len(seen)] == seen  # each version begins with the one before
        seen = found
    assert sorted(seen) == list(range(320))


def test_a_seal_starts_over_if_others_sealed_while_it_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, other = Writer(store, "live", Schema.of(rows(2))), Writer(store, "live", Schema.of(rows(2)))
    writer.append(rows(100))
    writer.seal()
    writer.append(rows(100, 100))
    read, late = writer._newest_version, [200]

    def read_late() -> Dataset | None:
        newest = read()
        for start in late:
            other.seal()
            other.append(rows(100, start))
            other.seal()  # drops from the tail what the seal before took in
            other.append(rows(100, start + 100))
        late.clear()
        return newest

    monkeypatch.setattr(writer, "_newest_version", read_late)
    version = writer.seal()
    assert Dataset.open(store, str(version)).read()["y"].tolist() == list(range(400))


def test_sealing(store: Store) -> None:
    writer = Writer(store, "live", Schema.of(rows(2)))
    with pytest.raises(Missing, match="nothing was appended"):
        writer.seal()
    assert writer.append({name: values[:0] for name, values in rows(2).items()}) == []
    writer.append(rows(100))
    assert collect(store).removed == 0
    assert writer.seal(["good"]).version == 1
    with pytest.raises(Missing, match="nothing was appended"):
        writer.seal()
    writer.append(rows(100, 100))
    store.registry("dataset").promote("live", 1, "latest")  # an alias that somebody keeps elsewhere
    assert writer.seal().version == 2
    assert Dataset.open(store, "live:2").read()["y"].tolist() == list(range(200))
    collect(store)
    assert Dataset.open(store, "live@good").read()["y"].tolist() == list(range(100))
    assert Dataset.open(store, "live:2").read()["y"].tolist() == list(range(200))


def test_a_version_that_was_put_goes_on_by_appending(store: Store) -> None:
    put(store, "live", rows(100))
    writer = Writer(store, "live")
    writer.append(rows(100, 100))
    writer.seal()
    assert Dataset.open(store, "live").read()["y"].tolist() == list(range(200))


def test_what_is_appended_must_be_like_what_is_there(store: Store) -> None:
    put(store, "live", rows(100))
    keys = store.redis.dbsize()
    with pytest.raises(Conflict, match="data set live has other columns: x float32"):
        Writer(store, "live", Schema.of({"x": np.zeros(3)}))
    assert store.redis.hget(store.keys.versions("dataset", "live"), "schema") is None
    writer = Writer(store, "live", Schema.of(rows(2)))
    for wrong, error in (
        ({**rows(10), "x": np.full((10, 8), np.nan, np.float32)}, "column x lacks a value in row 1"),
        ({**rows(10), "y": np.arange(10.0)}, "column y is int64, not float64"),
        ({**rows(10), "y": np.arange(9)}, "different numbers of rows"),
    ):
        with pytest.raises(Invalid, match=error):
            writer.append(wrong)
    assert store.redis.dbsize() == keys
    writer.append(rows(10))
    put(store, "live", {"z": np.arange(3)})
    with pytest.raises(Conflict, match="live:2 has other columns than what was appended: z int64"):
        writer.seal()


def test_a_window_of_rows_and_of_age(store: Store) -> None:
    writer = Writer(store, "live", Schema.of(rows(2)), Window(rows=300))
    for turn in range(20):
        writer.append(rows(50, turn * 50))
    held = sum(shard.rows for shard in writer.tail.read())
    assert 300 <= held <= 400
    assert Dataset.open(store, str(writer.seal())).read()["y"].tolist()[-300:] == list(range(700, 1000))
    writer.append(rows(50, 1000))
    kept = Dataset.open(store, str(writer.seal(window=Window(rows=60)))).read()["y"]
    assert kept.tolist()[-50:] == list(range(1000, 1050))
    assert len(kept) < 500
    time.sleep(0.3)
    writer.append(rows(50, 1050))
    fresh = Dataset.open(store, str(writer.seal(window=Window(age_s=0.25))))
    assert fresh.read()["y"].tolist()[-50:] == list(range(1050, 1100))
    assert fresh.rows < len(kept) + 50
    for wrong in ({"rows": 0}, {"age_s": 0}):
        with pytest.raises(Invalid, match="at least one row"):
            Window(**wrong)  # type: ignore[arg-type]


def test_a_reader_follows_what_is_appended(store: Store, url: str) -> None:
    writer = Writer(store, "live", Schema.of(rows(2)))
    writer.append(rows(100))
    got: list[int] = []
    reader = RedisDataset(url, "live", batch_size=64, follow=True, idle_s=20)
    with pytest.raises(TypeError, match="has no number of steps"):
        len(reader)
    batches = iter(reader)
    got += next(batches)["y"].tolist()
    before = store.redis.info("commandstats")
    late = threading.Timer(1.0, lambda: [writer.append(rows(100, first)) for first in (100, 200)])
    late.start()
    began = time.monotonic()
    for _ in range(3):
        got += next(batches)["y"].tolist()
    assert time.monotonic() - began >= 0.5
    late.join()
    calls = store.redis.info("commandstats")
    # It waited in Redis, and did not ask again and again.
    assert calls["cmdstat_xread"]["calls"] - before.get("cmdstat_xread", {}).get("calls", 0) <= 10
    assert got == list(range(256))
    state = reader.state_dict()
    again = RedisDataset(url, "live", batch_size=64, follow=True, idle_s=0.2)
    again.load_state_dict(state)
    assert [batch["y"].tolist() for batch in again] == []  # 44 rows are no step yet
    writer.append(rows(20, 300))
    assert [batch["y"].tolist() for batch in again] == [list(range(256, 320))]


def test_ranks_and_workers_that_follow_share_each_step(store: Store, url: str) -> None:
    put(store, "live", rows(10, 10_000))
    writer = Writer(store, "live")
    for first in range(0, 700, 70):
        writer.append(rows(70, first))
    parts = [RedisDataset(url, "live", batch_size=60, follow=True, idle_s=0.3, rank=r, ranks=3) for r in range(3)]
    seen = [[batch["y"].tolist() for batch in part] for part in parts]
    steps = [[y for part in step for y in part] for step in zip(*seen, strict=True)]
    assert [y for step in steps for y in step] == list(range(660))
    loader = RedisDataset(url, "live", batch_size=60, follow=True, idle_s=0.5).loader(2)
    assert [batch["y"].tolist() for batch in loader] == steps


def test_a_reader_that_is_too_slow_is_told(store: Store) -> None:
    writer = Writer(store, "live", Schema.of(rows(2)))
    writer.append(rows(10))
    reader: Iterator[object] = writer.tail.follow(START, idle_s=5)
    next(reader)
    for turn in range(4):
        writer.append(rows(10, 10 + turn * 10))
    writer.tail.trim(Window(rows=10))
    with pytest.raises(Missing, match="the tail has lost shards up to"):
        list(reader)
    assert len(list(writer.tail.follow(START, idle_s=0.1))) == 1  # who begins takes what is there


def test_an_entry_of_a_stranger_is_refused(store: Store) -> None:
    writer = Writer(store, "live", Schema.of(rows(2)))
    store.redis.xadd(store.keys.tail("dataset", "live"), {"digest": "sha256:1", "rows": "-1"})
    with pytest.raises(Invalid, match="has an entry that is not a shard"):
        writer.seal()
    store.redis.hset(store.keys.versions("dataset", "live"), "schema", "[[")
    with pytest.raises(Invalid, match="schema of data set live is not JSON"):
        Writer(store, "live")


def test_small_shards_are_joined_within_a_split_only(store: Store) -> None:
    put(store, "live", {"train": rows(50), "test": rows(20, 50)})
    writer = Writer(store, "live")
    for first in range(70, 100, 10):
        writer.append(rows(10, first))
    found = Dataset.open(store, str(writer.seal()))
    assert [(shard.split, shard.rows) for shard in found.shards()] == [("train", 50), ("test", 20), ("", 30)]
    np.testing.assert_array_equal(found.read()["y"], np.arange(100))
