"""Blobs, manifests and layers in a real Redis."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import redis
import redis.asyncio

from redisai_py import AsyncClient, Client
from redisai_py.artifacts import PART_SIZE, Conflict, Corrupt, Descriptor, Invalid, Missing, Store, digest_of
from redisai_py.artifacts.store import chunks_of
from redisai_py.artifacts.strings import ReceiveBuffer
from tests.artifacts.building import contents_of, version_of
from tests.support import RedisServer


def put(store: Store, data: bytes) -> str:
    with store.lease() as lease:
        return store.blobs.put(data, lease)


@pytest.mark.parametrize("size", [0, 1, 100_000, PART_SIZE])
def test_a_blob_is_a_string_under_its_digest(store: Store, size: int) -> None:
    data = os.urandom(min(size, 1000)) * (size // 1000 + 1)
    data = data[:size]
    digest = put(store, data)
    assert digest == digest_of(data)
    assert store.redis.get(f"ai:blob:{digest}") == data
    assert store.redis.ttl(f"ai:blob:{digest}") == -1
    assert store.blobs.get(digest) == data
    assert store.blobs.size(digest) == size


def test_a_large_blob_is_in_parts(store: Store) -> None:
    data = os.urandom(1 << 20) * 130 + b"tail"
    digest = put(store, data)
    assert store.redis.exists(f"ai:blob:{digest}") == 0
    parts = store.blobs.parts(digest)
    assert parts is not None
    assert [size for _, size in parts] == [PART_SIZE, PART_SIZE, len(data) - 2 * PART_SIZE]
    assert store.blobs.size(digest) == len(data)
    assert store.blobs.get(digest) == data
    store.redis.delete(f"ai:blob:{parts[1][0]}")
    assert store.blobs.size(digest) is None
    with pytest.raises(Missing, match=parts[1][0]):
        store.blobs.get(digest)
    put(store, data)
    assert store.blobs.size(digest) == len(data)


def test_what_is_there_is_not_sent_again(store: Store) -> None:
    data = os.urandom(2 << 20)
    put(store, data)
    before = store.redis.info("stats")["total_net_input_bytes"]  # type: ignore[index]
    put(store, data)
    after = store.redis.info("stats")["total_net_input_bytes"]  # type: ignore[index]
    assert after - before < 20_000


def test_a_blob_that_was_cut_is_made_whole(store: Store) -> None:
    digest = put(store, b"all of it")
    store.redis.set(f"ai:blob:{digest}", b"all of")
    with pytest.raises(Corrupt, match=digest):
        store.blobs.get(digest)
    assert put(store, b"all of it") == digest
    assert store.blobs.get(digest) == b"all of it"


def test_many_blobs_take_few_round_trips(store: Store) -> None:
    items = [f"item {number}".encode() for number in range(1200)]
    with store.lease() as lease:
        before = store.redis.info("stats")["total_reads_processed"]  # type: ignore[index]
        digests = store.blobs.put_many(items, lease)
        reads = store.redis.info("stats")["total_reads_processed"] - before  # type: ignore[index]
    assert digests == [digest_of(item) for item in items]
    wanted = [(digest, len(item)) for digest, item in zip(digests, items, strict=True)]
    assert list(store.blobs.get_many(wanted)) == items
    assert [bytes(data) for data in store.blobs.get_many(wanted, ReceiveBuffer())] == items
    assert reads < 60
    sizes = store.blobs.sizes([*digests, digest_of(b"absent")])
    assert sizes[digest_of(b"absent")] is None
    assert sizes[digests[7]] == len(items[7])


def test_a_changed_byte_is_refused_naming_the_layer(store: Store) -> None:
    version_of(store, "cancer", b"weights", b"other")
    _, manifest = store.open("artifact", "cancer")
    layer = manifest.layers[0]
    store.redis.setrange(f"ai:blob:{layer.digest}", 3, b"X")
    with pytest.raises(Corrupt) as refused:
        store.read(layer)
    assert "layer-0" in str(refused.value)
    assert layer.digest in str(refused.value)
    assert digest_of(b"weiXhts") in str(refused.value)
    assert store.read(manifest.layers[1]) == b"other"


def test_a_manifest_that_was_changed_is_refused(store: Store) -> None:
    digest = version_of(store, "cancer", b"weights").digest
    store.redis.append(f"ai:blob:{digest}", b" ")
    with pytest.raises(Corrupt, match="cancer:1"):
        store.open("artifact", "cancer")
    store.redis.delete(f"ai:blob:{digest}")
    with pytest.raises(Missing, match="cancer:1"):
        store.open("artifact", "cancer")


def test_data_is_compressed_where_it_pays(store: Store) -> None:
    pytest.importorskip("zstandard")
    table, noise = b"0123456789abcdef" * 10_000, os.urandom(100_000)
    with store.lease() as lease:
        squeezed = store.put_layer(table, "application/x", "table", lease)
        kept = store.put_layer(noise, "application/x", "noise", lease)
        refused = store.put_layer(table, "application/x", "weights", lease, compress=False)
    assert squeezed.media_type == "application/x+zstd"
    assert squeezed.size < len(table) / 10
    assert (squeezed.media_type, squeezed.content_size) == ("application/x+zstd", len(table))
    assert squeezed.content_digest == digest_of(table)
    assert kept.media_type == refused.media_type == "application/x"
    assert store.read(squeezed) == store.read(refused) == table
    assert store.read(kept) == noise


def test_a_bomb_stops_where_it_says_it_ends(store: Store) -> None:
    zstandard = pytest.importorskip("zstandard")
    bomb = zstandard.ZstdCompressor().compress(b"\0" * (256 << 20))
    digest = put(store, bomb)
    liar = Descriptor.of_content("application/x", "bomb", (digest, len(bomb)), (digest_of(b"small"), 5))
    with pytest.raises(Corrupt, match="5 bytes"):
        store.read(liar)
    honest = Descriptor.of_content("application/x", "bomb", (digest, len(bomb)), (digest_of(b""), 256 << 20))
    with pytest.raises(Invalid, match="the maximum is 1000"):
        store.read(honest, limit=1000)


def test_compressed_nonsense_is_refused(store: Store) -> None:
    pytest.importorskip("zstandard")
    digest = put(store, b"no zstd")
    layer = Descriptor.of_content("application/x", "table", (digest, 7), (digest_of(b"x"), 1))
    with pytest.raises(Corrupt, match="table"):
        store.read(layer)


def test_files_and_chunks_are_layers_too(store: Store, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(data)
    (tmp_path / "empty").touch()
    with store.lease() as lease:
        one = store.put_layer(tmp_path / "file", "application/x", "file", lease)
        other = store.put_layer((data[at : at + 1000] for at in range(0, len(data), 1000)), "application/x", "c", lease)
        empty = store.put_layer(tmp_path / "empty", "application/x", "empty", lease)
    assert one.digest == other.digest == digest_of(data)
    assert store.read(one) == data
    assert store.read(empty) == b""


def test_two_layers_of_one_title_are_refused(store: Store) -> None:
    with store.lease() as lease:
        layer = store.put_layer(b"x", "application/x", "same", lease)
        with pytest.raises(Invalid, match="same"):
            store.manifest({}, [layer, layer], lease)


def test_nothing_is_committed_if_a_blob_went_away(store: Store) -> None:
    with store.lease() as lease:
        layer = store.put_layer(b"weights", "application/x", "w", lease)
        manifest = store.manifest({}, [layer], lease)
        store.redis.delete(f"ai:blob:{layer.digest}")
        with pytest.raises(Conflict, match="disappeared"):
            store.commit("artifact", "cancer", manifest, lease)
    with pytest.raises(Missing):
        store.open("artifact", "cancer")


def test_a_redis_that_is_full_keeps_what_it_has(store: Store) -> None:
    version_of(store, "cancer", b"weights")
    used = int(store.redis.info("memory")["used_memory"])  # type: ignore[index]
    store.redis.config_set("maxmemory", used + 3_000_000)
    try:
        with pytest.raises(redis.ResponseError, match=r"OOM|maxmemory"):
            version_of(store, "cancer", *[os.urandom(1_000_000) for _ in range(8)])
        assert contents_of(store, "cancer") == [b"weights"]
        assert [version.version for version in store.registry("artifact").versions("cancer")] == [1]
    finally:
        store.redis.config_set("maxmemory", 0)
    assert version_of(store, "cancer", b"next").version == 2


def test_a_file_that_changes_while_it_is_read_is_stored_as_it_was_read(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"a" * 1000)
    with store.lease() as lease:
        source = iter(chunks_of(path))
        first = next(source)
        path.write_bytes(b"b" * 10)
        layer = store.put_layer([first, *source], "application/x", "w", lease)
    assert store.read(layer) == b"a" * 1000


@pytest.mark.parametrize("kind", ["decoding", "ours", "url", "resp3", "asyncio", "ours, asyncio"])
def test_any_client_will_do(redis_server: RedisServer, bare: redis.Redis, kind: str) -> None:
    port = redis_server.port
    clients = {
        "decoding": lambda: redis.Redis(port=port, decode_responses=True),
        "ours": lambda: Client(port=port),
        "url": lambda: redis_server.url,
        "resp3": lambda: redis.Redis(port=port, protocol=3),
        "asyncio": lambda: redis.asyncio.Redis(port=port, decode_responses=True),
        "ours, asyncio": lambda: AsyncClient(port=port),
    }
    store = Store(clients[kind]())
    version_of(store, "cancer", b"\xff\xfe")
    version, manifest = store.open("artifact", "cancer@latest")
    assert (version.version, store.read(manifest.layers[0])) == (1, b"\xff\xfe")
    assert store.registry("artifact").log("cancer")[0].event == "publish"
    assert store.registry("artifact").names() == ["cancer"]
    store.redis.close()


def test_a_prefix_keeps_environments_apart(bare: redis.Redis) -> None:
    one, other = Store(bare, prefix="a:"), Store(bare, prefix="b:")
    version_of(one, "cancer", b"1")
    assert one.registry("artifact").names() == ["cancer"]
    assert other.registry("artifact").names() == []
    assert all(key.startswith(b"a:") for key in bare.scan_iter())
