"""Versions, aliases and the log, with several at work at the same time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from redisai_py.artifacts import AliasMoved, Conflict, Invalid, Missing, Registry, Store, digest_of

DIGESTS = [digest_of(bytes([number])) for number in range(40)]


@pytest.fixture
def registry(store: Store) -> Registry:
    return store.registry("artifact")


def test_versions_are_numbered(registry: Registry) -> None:
    assert [registry.add("cancer", digest).version for digest in DIGESTS[:3]] == [1, 2, 3]
    assert registry.resolve("cancer").version == registry.resolve("cancer@latest").version == 3
    assert registry.resolve("cancer:2").digest == DIGESTS[1]
    assert str(registry.resolve("cancer:2")) == "cancer:2"


def test_the_same_manifest_stays_the_version_that_it_is(registry: Registry) -> None:
    for digest in (DIGESTS[0], DIGESTS[1], DIGESTS[0]):
        registry.add("cancer", digest)
    assert [version.digest for version in registry.versions("cancer")] == DIGESTS[:2]
    assert registry.add("cancer", DIGESTS[0]).version == 1


def test_a_number_may_be_chosen_as_steps_are(store: Store) -> None:
    runs = store.registry("run")
    runs.add("mlp", DIGESTS[0], version=20, aliases=["latest", "best"])
    runs.add("mlp", DIGESTS[1], version=40, aliases=["latest"])
    assert [(v.version, v.aliases) for v in runs.versions("mlp")] == [(20, ("best",)), (40, ("latest",))]
    assert runs.add("mlp", DIGESTS[1], version=40).version == 40
    with pytest.raises(Conflict, match="mlp:40"):
        runs.add("mlp", DIGESTS[2], version=40)
    with pytest.raises(Invalid):
        runs.add("mlp", DIGESTS[2], version=-1)


def test_numbers_are_not_given_twice(registry: Registry) -> None:
    for digest in DIGESTS[:3]:
        registry.add("cancer", digest)
    registry.remove("cancer", [3])
    assert registry.add("cancer", DIGESTS[3]).version == 4


def test_what_an_alias_needs_is_not_removed(registry: Registry) -> None:
    registry.add("cancer", DIGESTS[0])
    registry.promote("cancer", 1, "production")
    with pytest.raises(Conflict, match="production"):
        registry.remove("cancer", [1])
    registry.demote("cancer", "production")
    registry.remove("cancer", [1])
    assert registry.names() == []
    with pytest.raises(Missing):
        registry.versions("cancer")


def test_what_is_not_there_is_named(registry: Registry) -> None:
    registry.add("cancer", DIGESTS[0], aliases=["staging"])
    for reference, words in {
        "other": "no artifact other",
        "cancer:7": "versions: 1",
        "cancer@production": "aliases: staging",
    }.items():
        with pytest.raises(Missing, match=words):
            registry.resolve(reference)
    with pytest.raises(Missing, match="cancer:9"):
        registry.promote("cancer", 9, "production")
    with pytest.raises(Missing, match="production"):
        registry.demote("cancer", "production")
    with pytest.raises(Invalid):
        registry.promote("cancer", 1, "7")


def test_the_log_says_who_and_what(registry: Registry) -> None:
    registry.add("cancer", DIGESTS[0], note="first")
    registry.promote("cancer", 1, "production")
    promoted, published = registry.log("cancer")
    assert (promoted.event, promoted.who, promoted.fields) == (
        "promote",
        "ann@lab",
        {"alias": "production", "version": "1"},
    )
    assert published.fields == {"version": "1", "digest": DIGESTS[0], "note": "first"}
    assert published.at <= promoted.at


def test_publishers_at_the_same_time_lose_nothing(store: Store) -> None:
    def publish(digest: str) -> int:
        return store.registry("artifact").add("cancer", digest).version

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(publish, DIGESTS))
    assert sorted(numbers) == list(range(1, 41))
    assert {v.digest for v in store.registry("artifact").versions("cancer")} == set(DIGESTS)


def test_the_one_who_comes_second_is_told_who_won(store: Store, bare: redis.Redis) -> None:
    mine, other = store.registry("artifact"), Store(bare, actor="bob@desk").registry("artifact")
    for digest in DIGESTS[:3]:
        mine.add("cancer", digest)
    mine.promote("cancer", 1, "production")
    seen = mine.pointed("cancer", "production")
    other.promote("cancer", 2, "production")
    with pytest.raises(AliasMoved, match="cancer:2 now, moved by bob@desk") as lost:
        mine.promote("cancer", 3, "production", expected=seen)
    assert (lost.value.version, lost.value.who) == (2, "bob@desk")
    assert mine.pointed("cancer", "production") == 2
    mine.promote("cancer", 3, "production")
    with pytest.raises(AliasMoved):
        mine.promote("cancer", 1, "production", expected=None)


def test_of_promoters_at_the_same_time_one_wins(store: Store) -> None:
    for digest in DIGESTS[:8]:
        store.registry("artifact").add("cancer", digest)
    begin = threading.Barrier(8)

    def promote(version: int) -> int | None:
        registry = store.registry("artifact")
        begin.wait(20)
        try:
            return registry.promote("cancer", version, "production", expected=None).version
        except AliasMoved:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [version for version in pool.map(promote, range(1, 9)) if version is not None]
    assert won == [store.registry("artifact").pointed("cancer", "production")]


def test_kinds_are_apart(store: Store) -> None:
    for kind in ("artifact", "dataset", "run"):
        store.registry(kind).add("same", digest_of(kind.encode()))
    for kind in ("artifact", "dataset", "run"):
        assert store.registry(kind).resolve("same").digest == digest_of(kind.encode())
        assert store.registry(kind).names() == ["same"]
    with pytest.raises(Invalid, match="kind"):
        store.registry("model")
