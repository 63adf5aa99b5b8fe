"""Digests, names and manifests."""

from __future__ import annotations

import json

import pytest

from redisai_py.artifacts import Descriptor, Invalid, Keys, Manifest, Reference, digest_of
from redisai_py.artifacts.blobs import cut
from redisai_py.artifacts.digest import Hasher
from redisai_py.artifacts.manifest import ARTIFACT_TYPE, decode_json, encode_json

EMPTY = digest_of(b"")
CONFIG = Descriptor("application/vnd.cncf.model.config.v1+json", EMPTY, 0)
LAYER = Descriptor.of_content("application/x", "model.onnx", (EMPTY, 0), (EMPTY, 0))


def test_a_digest_is_that_of_sha256sum() -> None:
    assert digest_of(b"abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    hasher = Hasher()
    for piece in (b"a", b"", b"bc"):
        hasher.update(piece)
    assert (hasher.digest, hasher.size) == (digest_of(b"abc"), 3)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_cutting_keeps_the_bytes(size: int) -> None:
    chunks = [b"abc", b"", b"defgh", memoryview(b"ijklmnopq"), bytearray(b"r")]
    pieces = [bytes(piece) for piece in cut(chunks, size)]
    assert b"".join(pieces) == b"abcdefghijklmnopqr"
    assert all(len(piece) == size for piece in pieces[:-1])
    assert 0 < len(pieces[-1]) <= size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cancer", Reference("cancer")),
        ("team/cancer-v2.1:7", Reference("team/cancer-v2.1", version=7)),
        ("cancer@production", Reference("cancer", alias="production")),
    ],
)
def test_references(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "", ":7", "@production", "a b", "a:b", "a:7@b", "a@7", "a@", "a:", "a:-1",
        "../a", "a/../b:", "a*", "ä", "a\n", "a:" + "9" * 19, "n" * 129, "a:7\n", "a@b\n", "a:²",
    ],
)  # fmt: skip
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(Invalid):
        Reference.parse(text)


def test_keys_of_no_digest_are_refused() -> None:
    for digest in ("sha256:", "sha256:" + "A" * 64, "md5:" + "0" * 64, "sha256:" + "0" * 64 + "\n", "0" * 64):
        with pytest.raises(Invalid):
            Keys().blob(digest)


def test_the_same_manifest_has_the_same_bytes() -> None:
    one = Manifest(CONFIG, (LAYER,), annotations={"b": "2", "a": "1"})
    other = Manifest(CONFIG, (LAYER,), annotations={"a": "1", "b": "2"})
    assert one.encode() == other.encode()
    assert Manifest.decode("m", one.encode()) == one
    assert json.loads(one.encode())["artifactType"] == ARTIFACT_TYPE


def _manifest(**changes: object) -> bytes:
    value = json.loads(Manifest(CONFIG, (LAYER,)).encode())
    return json.dumps({**value, **changes}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 50 + b"1" + b"}" * 50,
        b" " * (4 * 1024 * 1024 + 1),
        _manifest(schemaVersion=1),
        _manifest(layers={}),
        _manifest(layers=["x"]),
        _manifest(config=None),
        _manifest(mediaType="application/vnd.oci.image.index.v1+json"),
        _manifest(config={"mediaType": "a", "digest": "sha256:../../etc/passwd", "size": 0}),
        _manifest(config={"mediaType": "a", "digest": EMPTY, "size": -1}),
        _manifest(config={"mediaType": "a", "digest": EMPTY, "size": True}),
        _manifest(config={"mediaType": "a", "digest": EMPTY, "size": 1 << 60}),
        _manifest(annotations={"a": 1}),
        _manifest(layers=[LAYER.as_json(), LAYER.as_json()]),
    ],
)
def test_hostile_manifests(data: bytes) -> None:
    with pytest.raises(Invalid):
        Manifest.decode("manifest", data)


@pytest.mark.parametrize(
    "title",
    [
        "", "..", ".", "/etc/passwd", "a/b", "a\\b", "C:x", "a\0b", "a\nb", "\x1b[31m",
        "-rf", " a", "x" * 256, ".bashrc", "a|b",
    ],
)  # fmt: skip
def test_hostile_titles(title: str) -> None:
    layer = {**LAYER.as_json(), "annotations": {"org.opencontainers.image.title": title}}
    if title:
        with pytest.raises(Invalid):
            Manifest.decode("manifest", _manifest(layers=[layer]))
    with pytest.raises(Invalid):
        Descriptor.of_content("application/x", title, (EMPTY, 0), (EMPTY, 0))


@pytest.mark.parametrize("path", ["../x", "/abs", "a/b"])
def test_a_path_in_the_other_annotation_is_refused_too(path: str) -> None:
    layer = {**LAYER.as_json(), "annotations": {"org.cncf.model.filepath": path}}
    with pytest.raises(Invalid):
        Manifest.decode("manifest", _manifest(layers=[layer]))


def test_json_that_cannot_be_kept() -> None:
    for value in (float("nan"), {1, 2}, object(), {"a": float("inf")}):
        with pytest.raises(Invalid):
            encode_json(value)
    assert decode_json("x", encode_json({"b": [1], "a": "ä"})) == {"a": "ä", "b": [1]}
