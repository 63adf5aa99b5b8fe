"""Manifests: OCI image manifests, with the types of CNCF ModelPack. Pure.

The same content gives the same bytes: keys are sorted, and there are no times or names of people. A manifest that is
read is untrusted: its size, depth, digests and titles are checked before use.

Sources: opencontainers/image-spec manifest.md and descriptor.md; modelpack/model-spec docs/spec.md, annotations.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from redisai_py.artifacts.digest import Buffer, is_digest
from redisai_py.artifacts.errors import Invalid

__all__ = [
    "ARTIFACT_TYPE",
    "CONFIG_TYPE",
    "MANIFEST_TYPE",
    "MAX_MANIFEST",
    "Descriptor",
    "Manifest",
    "check_title",
    "decode_json",
    "encode_json",
]

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
MAX_MANIFEST = 4 * 1024 * 1024
"""Maximum size of a manifest in bytes, the limit of registries."""

TITLE = "org.opencontainers.image.title"
FILEPATH = "org.cncf.model.filepath"
CONTENT_DIGEST = "io.redisai.content.digest"
CONTENT_SIZE = "io.redisai.content.size"
ZSTD = "+zstd"

_MAX_DEPTH = 32
_MAX_TITLE = 255
_MAX_SIZE = 1 << 50


def encode_json(value: Any) -> bytes:
    """Canonical JSON: sorted, without spaces. Raises: Invalid: NaN, or not representable."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise Invalid(f"this cannot be kept as JSON: {error}") from None


def decode_json(what: str, data: Buffer, limit: int = MAX_MANIFEST) -> Any:
    """Parse untrusted JSON. Raises: Invalid: too large, nested too deeply, or not JSON."""
    if len(data) > limit:
        raise Invalid(f"{what} has {len(data)} bytes; the maximum is {limit}")
    try:
        value = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{what} is not JSON: {error}") from None
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [item for outer in level for item in _inside(outer)]
        if not level:
            return value
    raise Invalid(f"{what} is nested more than {_MAX_DEPTH} deep")


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def check_title(title: str) -> str:
    """The title of a layer, a plain file name. Raises: Invalid: empty, a path, or with terminal control characters."""
    plain = title.isprintable() and not set(title) & set('/\\:*?"<>|')
    if not title or len(title) > _MAX_TITLE or not plain or title[0] in ".-" or title.strip() != title:
        raise Invalid(f"{title[:100]!r} is not a valid file name for an artifact: use a plain name without a path")
    return title


@dataclass(frozen=True)
class Descriptor:
    """One blob in a manifest.

    digest, size: of the bytes as stored.   media_type: ends with `+zstd` if they are compressed.
    """

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_content(
        cls, media_type: str, title: str, stored: tuple[str, int], content: tuple[str, int], **more: str
    ) -> Descriptor:
        """A layer.   stored, content: digest and size as stored, and of the content; they differ if compressed."""
        notes = {TITLE: check_title(title), FILEPATH: title, **more}
        if stored != content:
            media_type += ZSTD
            notes |= {CONTENT_DIGEST: content[0], CONTENT_SIZE: str(content[1])}
        return cls(media_type, *stored, annotations=notes)

    @property
    def title(self) -> str:
        """File name of the layer; derived from the digest if the layer has none."""
        return self.annotations.get(TITLE) or self.annotations.get(FILEPATH) or self.digest[7:19]

    @property
    def compressed(self) -> bool:
        """Whether the stored bytes are a zstd stream."""
        return self.media_type.endswith(ZSTD) and CONTENT_DIGEST in self.annotations

    @property
    def content_digest(self) -> str:
        """Digest of the decompressed content."""
        return self.annotations[CONTENT_DIGEST] if self.compressed else self.digest

    @property
    def content_size(self) -> int:
        """Size of the decompressed content in bytes."""
        return int(self.annotations[CONTENT_SIZE]) if self.compressed else self.size

    def as_json(self) -> dict[str, Any]:
        """The descriptor as JSON."""
        found: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.annotations:
            found["annotations"] = dict(self.annotations)
        return found

    @classmethod
    def from_json(cls, what: str, value: Any) -> Descriptor:
        """Parse a descriptor. Raises: Invalid."""
        if not isinstance(value, dict):
            raise Invalid(f"{what} is not a descriptor")
        media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
        if not isinstance(media_type, str) or not isinstance(digest, str) or not is_digest(digest):
            raise Invalid(f"{what} needs a mediaType and a sha256 digest")
        if type(size) is not int or not 0 <= size < _MAX_SIZE:
            raise Invalid(f"{what} has the size {str(size)[:40]}")
        notes = _annotations(what, value)
        if TITLE in notes or FILEPATH in notes:
            check_title(notes.get(TITLE) or notes.get(FILEPATH, ""))
        if CONTENT_DIGEST in notes:
            length = notes.get(CONTENT_SIZE, "")
            if not is_digest(notes[CONTENT_DIGEST]) or not (length.isascii() and length.isdigit() and len(length) < 16):
                raise Invalid(f"{what}: {CONTENT_DIGEST} and {CONTENT_SIZE} must be a digest and a number")
        return cls(media_type, digest, size, notes)


def _annotations(what: str, value: dict[str, Any]) -> dict[str, str]:
    notes = value.get("annotations") or {}
    if not isinstance(notes, dict) or not all(isinstance(text, str) for text in notes.values()):
        raise Invalid(f"{what}: annotations must map strings to strings")
    return notes


@dataclass(frozen=True)
class Manifest:
    """The contents of a version.

    config: a small JSON document that describes it.   layers: the files.   artifact_type: the kind of artifact.
    """

    config: Descriptor
    layers: tuple[Descriptor, ...]
    artifact_type: str = ARTIFACT_TYPE
    annotations: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = field(default=None, compare=False, repr=False)
    """The bytes it was parsed from; other tools encode the same manifest differently, under another digest."""

    def encode(self) -> bytes:
        """The bytes whose digest names this manifest. Raises: Invalid: larger than the limit."""
        if self.raw is not None:
            return self.raw
        value: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": self.artifact_type,
            "config": self.config.as_json(),
            "layers": [layer.as_json() for layer in self.layers],
        }
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        data = encode_json(value)
        if len(data) > MAX_MANIFEST:
            raise Invalid(
                f"{len(self.layers)} layers make a manifest of {len(data)} bytes; {MAX_MANIFEST} are the limit"
            )
        return data

    @classmethod
    def decode(cls, what: str, data: Buffer) -> Manifest:
        """Parse a manifest. what: its name in errors. Raises: Invalid."""
        value = decode_json(what, data)
        if not isinstance(value, dict) or value.get("schemaVersion") != 2 or not isinstance(value.get("layers"), list):
            raise Invalid(f"{what} is not an OCI image manifest")
        if value.get("mediaType", MANIFEST_TYPE) != MANIFEST_TYPE:
            raise Invalid(f"{what} has the media type {str(value['mediaType'])[:100]}, not {MANIFEST_TYPE}")
        layers = tuple(
            Descriptor.from_json(f"{what}, layer {place}", layer) for place, layer in enumerate(value["layers"])
        )
        titles = [layer.annotations[TITLE] for layer in layers if TITLE in layer.annotations]
        if len(titles) != len(set(titles)):
            raise Invalid(f"{what} has two layers of the same title")
        config = Descriptor.from_json(f"{what}, config", value.get("config"))
        kind = value.get("artifactType") or config.media_type
        return cls(config, layers, str(kind), _annotations(what, value), bytes(data))

    def blobs(self) -> Iterator[Descriptor]:
        """Every blob of the manifest: the config, then the layers."""
        yield self.config
        yield from self.layers
