"""Push and pull, with a folder and with S3: complete, resumable, with nobody's work lost."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from redisai_py.artifacts import (
    PART_SIZE,
    Archive,
    ArchiveError,
    Conflict,
    Corrupt,
    Invalid,
    Malformed,
    Missing,
    Store,
    collect,
    digest_of,
)
from redisai_py.artifacts.inspect import verify
from redisai_py.artifacts.layout import Index, blob_path
from redisai_py.artifacts.transfer import collect_archive, pull, push, remove_archived
from tests.artifacts.archive_hammer import hammer
from tests.artifacts.building import blobs_of, contents_of, version_of
from tests.proxy import Proxy

OpenArchive = Callable[[], Archive]


def test_there_and_back(store: Store, other: Store, archive: Archive) -> None:
    version_of(store, "cancer", b"shared", b"one")
    version_of(store, "cancer", b"shared", b"two")
    store.registry("artifact").promote("cancer", 1, "production")
    done = push(store, archive, ["cancer"])
    assert [str(version) for version in done.versions] == ["cancer:1", "cancer:2"]
    assert set(archive.blobs()) == blobs_of(store)
    back = pull(other, archive)
    assert [str(version) for version in back.versions] == ["cancer:1", "cancer:2"]
    assert contents_of(other, "cancer@production") == [b"shared", b"one"]
    assert contents_of(other, "cancer") == [b"shared", b"two"]
    assert blobs_of(other) == blobs_of(store)
    assert store.registry("artifact").versions("cancer")[1].archived == archive.url
    assert store.registry("artifact").log("cancer")[0].fields["url"] == archive.url


def test_what_is_there_is_not_sent_again(store: Store, other: Store, archive: Archive) -> None:
    version_of(store, "cancer", b"shared" * 1000, b"one")
    first = push(store, archive, ["cancer"])
    assert first.blobs == 4
    again = push(store, archive, ["cancer"])
    assert (again.blobs, again.bytes) == (0, 0)
    version_of(store, "cancer", b"shared" * 1000, b"two")
    assert push(store, archive, ["cancer:2"]).bytes < 1500
    assert pull(other, archive, ["cancer:1"]).blobs == 3
    assert pull(other, archive, ["cancer"]).blobs == 1  # the layer: the config is the same
    assert pull(other, archive, ["cancer"]).blobs == 0


def test_large_blobs_go_in_pieces_both_ways(store: Store, other: Store, archive: Archive) -> None:
    data = os.urandom(70 << 20) + b"end"
    version_of(store, "big", data)
    seen: list[tuple[int, int]] = []
    push(store, archive, ["big"], progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert archive.size(digest_of(data)) == len(data)
    pull(other, archive, ["big"])
    assert contents_of(other, "big") == [data]
    assert other.blobs.parts(digest_of(data)) == store.blobs.parts(digest_of(data))


def test_every_kind_can_be_kept(store: Store, other: Store, archive: Archive) -> None:
    for kind in ("artifact", "dataset", "run"):
        version_of(store, "same", kind.encode(), kind=kind)
        push(store, archive, ["same"], kind)
    for kind in ("artifact", "dataset", "run"):
        pull(other, archive, kind=kind)
        assert contents_of(other, "same", kind) == [kind.encode()]


def test_pulling_moves_no_alias(store: Store, other: Store, archive: Archive) -> None:
    version_of(store, "cancer", b"1")
    version_of(store, "cancer", b"2")
    store.registry("artifact").promote("cancer", 1, "production")
    push(store, archive, ["cancer"])
    pull(other, archive, ["cancer@production"])
    assert other.registry("artifact").pointed("cancer", "production") == 1
    store.registry("artifact").promote("cancer", 2, "production")
    push(store, archive, ["cancer@production"])
    done = pull(other, archive, ["cancer@production"])
    assert (str(done.versions[0]), done.kept) == ("cancer:2", ["cancer@production"])
    assert other.registry("artifact").pointed("cancer", "production") == 1
    index, _ = archive.index()
    assert [(str(entry), entry.aliases) for entry in index.entries] == [
        ("cancer:1", ()),
        ("cancer:2", ("production",)),
    ]


def test_a_number_that_is_taken_here_becomes_the_next(store: Store, other: Store, archive: Archive) -> None:
    version_of(store, "cancer", b"theirs")
    push(store, archive, ["cancer"])
    version_of(other, "cancer", b"ours")
    assert [str(version) for version in pull(other, archive).versions] == ["cancer:2"]
    assert contents_of(other, "cancer:1") == [b"ours"]
    assert contents_of(other, "cancer:2") == [b"theirs"]
    with pytest.raises(Conflict, match="another Redis"):
        push(other, archive, ["cancer"])


def test_references_that_lead_nowhere(store: Store, other: Store, archive: Archive) -> None:
    with pytest.raises(Missing, match="has no artifact"):
        pull(other, archive)
    version_of(store, "cancer", b"1")
    push(store, archive, ["cancer"])
    for reference, words in {
        "nobody": "no artifact nobody",
        "cancer:7": "it has cancer:1",
        "cancer@x": "cancer:1",
    }.items():
        with pytest.raises(Missing, match=words):
            pull(other, archive, [reference])
        with pytest.raises(Missing):
            push(store, archive, [reference])
    assert pull(other, archive, ["cancer@latest"]).versions[0].version == 1


def test_two_pushers_lose_nothing(store: Store, other: Store, new_archive: OpenArchive) -> None:
    for number in range(10):
        version_of(store, f"mine-{number}", b"mine %d" % number)
        version_of(other, f"yours-{number}", b"yours %d" % number)

    def pushing(which: Store, name: str) -> None:
        push(which, new_archive(), [name])

    with ThreadPoolExecutor(8) as pool:
        work = [
            pool.submit(pushing, which, f"{name}-{number}")
            for number in range(10)
            for which, name in ((store, "mine"), (other, "yours"))
        ]
    for done in work:
        done.result()
    index, _ = new_archive().index()
    assert {entry.name for entry in index.entries} == {f"{who}-{n}" for who in ("mine", "yours") for n in range(10)}


def test_a_stale_index_is_not_written(archive: Archive) -> None:
    _, nothing = archive.index()
    assert archive.replace(Index(annotations={"a": "1"}), nothing)
    assert not archive.replace(Index(), nothing)
    index, seen = archive.index()
    assert archive.replace(replace(index, annotations={"a": "2"}), seen)
    assert not archive.replace(replace(index, annotations={"a": "3"}), seen)
    assert archive.index()[0].annotations == {"a": "2"}


def test_a_byte_changed_in_the_archive_is_refused(store: Store, other: Store, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    for content in (b"weights", os.urandom(3_000_000)):
        version = version_of(store, "cancer", content)
        push(store, archive, [str(version)])
        path = tmp_path / "archive" / blob_path(digest_of(content))
        path.write_bytes(b"X" + content[1:])
        with pytest.raises(Corrupt) as refused:
            pull(other, archive, [str(version)])
        for words in ("layer-0", digest_of(content), digest_of(b"X" + content[1:])):
            assert words in str(refused.value)
        with pytest.raises(Missing):
            other.open("artifact", str(version))
        path.write_bytes(content[:-1])
        with pytest.raises(Corrupt):
            pull(other, archive, [str(version)])
        path.write_bytes(content)
        assert contents_of(other, str(pull(other, archive, [str(version)]).versions[0])) == [content]


def test_a_byte_changed_in_redis_is_not_pushed(store: Store, archive: Archive) -> None:
    version_of(store, "cancer", b"weights")
    store.redis.setrange(f"ai:blob:{digest_of(b'weights')}", 0, b"X")
    with pytest.raises(Corrupt, match="layer-0"):
        push(store, archive, ["cancer"])
    assert archive.size(digest_of(b"weights")) is None
    assert archive.index()[0].entries == ()


@pytest.mark.parametrize("damage", ["cut", "list", "media", "path", "size"])
def test_hostile_indexes(store: Store, other: Store, tmp_path: Path, damage: str) -> None:
    archive = Archive(tmp_path / "archive")
    version_of(store, "cancer", b"weights")
    push(store, archive, ["cancer"])
    file = tmp_path / "archive" / "index.json"
    index = json.loads(file.read_bytes())
    changed = {
        "cut": file.read_bytes()[:-5],
        "list": b"[]",
        "media": json.dumps({**index, "manifests": [{**index["manifests"][0], "mediaType": "x"}]}).encode(),
        "path": json.dumps(
            {**index, "manifests": [{**index["manifests"][0], "digest": "sha256:../../../../etc/passwd"}]}
        ).encode(),
        "size": json.dumps({**index, "manifests": [{**index["manifests"][0], "size": "1"}]}).encode(),
    }[damage]
    file.write_bytes(changed)
    with pytest.raises((Invalid, Missing)):
        pull(other, archive)
    assert blobs_of(other) == set()


def test_a_manifest_that_promises_other_sizes(store: Store, other: Store, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    version_of(store, "cancer", b"weights" * 1000)
    _, manifest = store.open("artifact", "cancer")
    lying = replace(manifest, layers=(replace(manifest.layers[0], size=10),), raw=None)
    push(store, archive, ["cancer"])
    index = json.loads((tmp_path / "archive" / "index.json").read_bytes())
    index["manifests"][0] |= {"digest": digest_of(lying.encode()), "size": len(lying.encode())}
    (tmp_path / "archive" / blob_path(digest_of(lying.encode()))).write_bytes(lying.encode())
    (tmp_path / "archive" / "index.json").write_text(json.dumps(index))
    with pytest.raises(Corrupt, match="layer-0"):
        pull(other, archive)
    assert other.registry("artifact").names() == []


def test_what_other_tools_wrote_is_kept_and_read(store: Store, other: Store, tmp_path: Path) -> None:
    """A manifest with spaces, and an entry without a name: byte for byte as they were."""
    archive = Archive(tmp_path / "archive")
    version_of(store, "cancer", b"weights")
    push(store, archive, ["cancer"])
    file = tmp_path / "archive" / "index.json"
    index = json.loads(file.read_bytes())
    (entry,) = index["manifests"]
    spaced = json.dumps(json.loads((tmp_path / "archive" / blob_path(entry["digest"])).read_bytes()), indent=4).encode()
    (tmp_path / "archive" / blob_path(digest_of(spaced))).write_bytes(spaced)
    foreign = {**entry, "digest": digest_of(spaced), "size": len(spaced)}
    index["manifests"] += [
        {**foreign, "annotations": {"org.opencontainers.image.ref.name": "theirs:3"}},
        {**foreign, "annotations": {}},
    ]
    file.write_text(json.dumps(index))
    assert pull(other, archive, ["theirs"]).versions[0].digest == digest_of(spaced)
    assert contents_of(other, "theirs:3") == [b"weights"]
    version_of(store, "cancer", b"next")
    push(store, archive, ["cancer"])
    after = json.loads(file.read_bytes())["manifests"]
    assert {**foreign, "annotations": {}} in after
    assert collect_archive(archive, older_s=0).removed == 0


def test_what_is_damaged_in_redis_is_replaced_on_demand(store: Store, archive: Archive) -> None:
    large = os.urandom(PART_SIZE + 5)
    version = version_of(store, "cancer", b"weights", large, b"right")
    push(store, archive, ["cancer"])
    parts = store.blobs.parts(digest_of(large))
    assert parts is not None
    for digest in (version.digest, digest_of(b"weights"), parts[1][0]):
        store.redis.setrange(f"ai:blob:{digest}", 0, b"XX")
    assert len(verify(store, [version])) == 1  # the manifest, without which nobody knows of the others
    assert pull(store, archive, check=True).versions == [replace(version, aliases=())]
    assert verify(store, [version]) == []
    assert contents_of(store, "cancer") == [b"weights", large, b"right"]
    assert pull(store, archive, check=True).blobs == 0


# -- failures --------------------------------------------------------------------------------------------------------


def test_failures_name_the_bucket_and_what_to_check(
    store: Store, credentials: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version_of(store, "cancer", b"1")
    with pytest.raises(ArchiveError, match=r"s3://no-such-bucket/x.*bucket does not exist"):
        push(store, Archive("s3://no-such-bucket/x"), ["cancer"])
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{dead.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(ArchiveError, match=r"s3://models/x.*check the network and the endpoint"):
            push(store, Archive("s3://models/x"), ["cancer"])
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("url", ["ftp://x/y", "s3://", "file://host/dir", "nonsense://x"])
def test_what_is_no_archive(url: str) -> None:
    with pytest.raises((Invalid, ArchiveError)):
        Archive(url).index()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArchiveError, match="cannot make the folder"):
        Archive(tmp_path / "file" / "archive")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"aws_server_side_encryption": "AES256"}, {"ServerSideEncryption": "AES256"}),
        (
            {"aws_server_side_encryption": "aws:kms", "aws_sse_kms_key_id": "key-7"},
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-7"},
        ),
    ],
)
def test_encryption_is_asked_of_s3(
    store: Store, credentials: str, options: dict[str, str], expected: dict[str, str]
) -> None:
    boto3 = pytest.importorskip("boto3")
    version = version_of(store, "cancer", b"small", os.urandom(20 << 20))
    push(store, Archive(f"s3://models/{options['aws_server_side_encryption']}", **options), ["cancer"])
    _, manifest = store.open("artifact", str(version))
    client = boto3.client("s3", endpoint_url=credentials)
    paths = [*(blob_path(blob.digest) for blob in manifest.blobs()), blob_path(version.digest), "index.json"]
    for path in paths:
        head = client.head_object(Bucket="models", Key=f"{options['aws_server_side_encryption']}/{path}")
        assert {name: head.get(name) for name in expected} == expected


# -- collecting ------------------------------------------------------------------------------------------------------


def test_the_archive_holds_what_its_index_reaches(store: Store, archive: Archive) -> None:
    for number in range(3):
        version_of(store, "cancer", b"shared", b"%d" % number)
    push(store, archive, ["cancer"])
    remove_archived(archive, "artifact", "cancer", [1, 2])
    assert collect_archive(archive).removed == 0  # all were written within the hour
    told = collect_archive(archive, older_s=0, dry_run=True)
    done = collect_archive(archive, older_s=0)
    assert done.digests == told.digests
    assert done.removed == 4  # two layers, two manifests
    store.registry("artifact").remove("cancer", [1, 2])
    collect(store)
    assert set(archive.blobs()) == blobs_of(store)
    with pytest.raises(Missing):
        remove_archived(archive, "artifact", "cancer", [1])


def test_a_damaged_manifest_stops_the_collector(store: Store, archive: Archive) -> None:
    version = version_of(store, "cancer", b"1")
    push(store, archive, ["cancer"])
    archive.delete([version.digest])
    with pytest.raises(Conflict, match="Nothing was collected"):
        collect_archive(archive, older_s=0)
    assert archive.size(digest_of(b"1")) == 1
    assert archive.index()[0].collecting is None


def test_one_collector_at_a_time_and_one_that_was_killed_is_forgotten(store: Store, archive: Archive) -> None:
    version_of(store, "cancer", b"1")
    push(store, archive, ["cancer"])
    index, seen = archive.index()
    assert archive.replace(replace(index, collecting=time.time()), seen)
    with pytest.raises(Conflict, match="being collected already"):
        collect_archive(archive)
    index, seen = archive.index()
    assert archive.replace(replace(index, collecting=time.time() - 3600), seen)
    version_of(store, "cancer", b"2")
    assert push(store, archive, ["cancer"]).blobs == 2
    assert collect_archive(archive).removed == 0


@pytest.mark.parametrize("when", ["tomorrow", "1e308", "nan", "9" * 400])
def test_a_collector_whose_clock_is_ahead_stops_no_push(store: Store, tmp_path: Path, when: str) -> None:
    archive = Archive(tmp_path / "archive")
    version_of(store, "cancer", b"1")
    push(store, archive, ["cancer"])
    file = tmp_path / "archive" / "index.json"
    text = str(time.time() + 86400) if when == "tomorrow" else when
    marked = {**json.loads(file.read_bytes()), "annotations": {"io.redisai.collecting": text}}
    file.write_text(json.dumps(marked))
    version_of(store, "cancer", b"2")
    assert push(store, archive, ["cancer"]).blobs == 2


@pytest.mark.parametrize("when", [True, [], "soon", 10**400])
def test_a_collector_that_began_at_no_time(store: Store, tmp_path: Path, when: object) -> None:
    archive = Archive(tmp_path / "archive")
    version_of(store, "cancer", b"1")
    push(store, archive, ["cancer"])
    file = tmp_path / "archive" / "index.json"
    marked = {**json.loads(file.read_bytes()), "annotations": {"io.redisai.collecting": when}}
    file.write_text(json.dumps(marked))
    if when is True:  # JSON's true is the number 1, long ago
        push(store, archive, ["cancer"])
        return
    with pytest.raises(Malformed, match="is not a time"):
        push(store, archive, ["cancer"])


def test_a_push_that_looked_before_a_collection_looks_again(store: Store, archive: Archive) -> None:
    """The index after a collection reads as before it, all but for a token; else the push would not notice."""
    version_of(store, "cancer", b"1")
    version_of(store, "cancer", b"2")
    push(store, archive, ["cancer"])
    remove_archived(archive, "artifact", "cancer", [2])
    _, seen = archive.index()
    assert collect_archive(archive, older_s=0).removed == 2
    index, _ = archive.index()
    assert index.collecting is None
    assert not archive.replace(index, seen)


@pytest.mark.timeout(180)
def test_pushers_and_collectors_at_the_same_time(store: Store, other: Store, new_archive: OpenArchive) -> None:
    hammer(store, other, new_archive)


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_s3_that_goes_away_in_the_middle(store: Store, other: Store, credentials: str, direction: str) -> None:
    """The error names the place; nothing is half there; the next attempt goes on where this one ended."""
    version_of(store, "cancer", os.urandom(20 << 20), *[b"blob %d" % number for number in range(40)])
    url = f"s3://models/gone-{direction}"
    if direction == "pull":
        push(store, Archive(url), ["cancer"])
    proxy = Proxy(int(credentials.rpartition(":")[2]))
    try:
        proxy.cut_after(13_000 if direction == "push" else 4 << 20)
        leaving = threading.Thread(target=lambda: proxy.refuse(proxy.cut_happened.wait(50)))
        leaving.start()
        away = Archive(url, endpoint=f"http://127.0.0.1:{proxy.port}")
        began = time.monotonic()
        with pytest.raises(ArchiveError, match=url):
            push(store, away, ["cancer"]) if direction == "push" else pull(other, away)
        assert time.monotonic() - began < 50
        leaving.join()
    finally:
        proxy.close()
    if direction == "push":
        assert Archive(url).index()[0].entries == ()
        assert 0 < push(store, Archive(url), ["cancer"]).blobs < 43
    else:
        assert other.registry("artifact").names() == []
        assert 0 < pull(other, Archive(url)).blobs < 42
        assert contents_of(other, "cancer") == contents_of(store, "cancer")
