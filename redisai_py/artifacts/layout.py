"""OCI image layouts: the index of an archive. Pure.

The index has one entry per version. Its reference name is NAME:VERSION, which registry tools accept, as in
`skopeo inspect --raw oci:DIR:cancer:7`. Entries written by others are kept.

Source: opencontainers/image-spec image-layout.md, image-index.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from redisai_py.artifacts.digest import Buffer
from redisai_py.artifacts.errors import Conflict, Invalid, Missing, reading
from redisai_py.artifacts.manifest import MANIFEST_TYPE, Descriptor, decode_json, encode_json
from redisai_py.artifacts.names import KINDS, LATEST, Reference, check_alias, check_name

__all__ = ["COLLECTED", "INDEX", "LAYOUT", "LAYOUT_CONTENT", "MAX_INDEX", "Entry", "Index", "blob_path"]

LAYOUT = "oci-layout"
LAYOUT_CONTENT = b'{"imageLayoutVersion":"1.0.0"}'
INDEX = "index.json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MAX_INDEX = 64 * 1024 * 1024

_REF = "org.opencontainers.image.ref.name"
_KIND = "io.redisai.kind"
_ALIASES = "io.redisai.aliases"
_COLLECTING = "io.redisai.collecting"
COLLECTED = "io.redisai.collected"
"""Annotation of an index: token of the last collection."""


def blob_path(digest: str) -> str:
    """Path of a blob in a layout."""
    return f"blobs/sha256/{digest[7:]}"


@dataclass(frozen=True)
class Entry:
    """One version in an archive.   digest, size: of its manifest."""

    kind: str
    name: str
    version: int
    digest: str
    size: int
    artifact_type: str
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"

    def _as_json(self) -> dict[str, Any]:
        ref = str(self) if self.kind == "artifact" else f"{self.kind}/{self}"
        notes = {_REF: ref, _KIND: self.kind}
        if self.aliases:
            notes[_ALIASES] = " ".join(self.aliases)
        return {
            "mediaType": MANIFEST_TYPE,
            "digest": self.digest,
            "size": self.size,
            "artifactType": self.artifact_type,
            "annotations": notes,
        }

    @classmethod
    def _from_json(cls, what: str, value: Any) -> Entry | None:
        """The entry, or None if it is not one of our versions: another media type, or another form of reference."""
        described = Descriptor.from_json(what, value)
        notes = described.annotations
        kind = notes.get(_KIND, "artifact")
        try:
            reference = Reference.parse(notes.get(_REF, "").removeprefix(f"{kind}/"))
        except Invalid:
            return None
        if described.media_type != MANIFEST_TYPE or reference.version is None or kind not in KINDS:
            return None
        aliases = tuple(check_alias(alias) for alias in notes.get(_ALIASES, "").split())
        artifact_type = str(value.get("artifactType", ""))
        return cls(kind, reference.name, reference.version, described.digest, described.size, artifact_type, aliases)


@dataclass(frozen=True)
class Index:
    """Contents of an archive.   foreign: entries of others.   collecting: start of a running collection, or None."""

    entries: tuple[Entry, ...] = ()
    foreign: tuple[Mapping[str, Any], ...] = ()
    collecting: float | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    @reading()
    def decode(cls, what: str, data: Buffer) -> Index:
        """Parse `index.json`. Raises: Malformed."""
        value = decode_json(what, data, MAX_INDEX)
        if (
            not isinstance(value, dict)
            or value.get("schemaVersion") != 2
            or not isinstance(value.get("manifests"), list)
        ):
            raise Invalid(f"{what} is not an OCI image index")
        entries, foreign = [], []
        for place, item in enumerate(value["manifests"]):
            entry = Entry._from_json(f"{what}, entry {place}", item)
            entries.append(entry) if entry else foreign.append(item)
        notes = value.get("annotations") or {}
        if not isinstance(notes, dict):
            raise Invalid(f"{what}: annotations must map strings to strings")
        collecting = notes.pop(_COLLECTING, None)
        try:
            began = None if collecting is None else float(collecting)
        except (TypeError, ValueError, OverflowError):
            raise Invalid(f"{what}: {_COLLECTING} is not a time") from None
        return cls(tuple(entries), tuple(foreign), began, notes)

    def encode(self) -> bytes:
        """The bytes of `index.json`."""
        ordered = sorted(self.entries, key=lambda entry: (entry.kind, entry.name, entry.version))
        value: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": INDEX_TYPE,
            "manifests": [*(entry._as_json() for entry in ordered), *self.foreign],
        }
        notes = dict(self.annotations)
        if self.collecting is not None:
            notes[_COLLECTING] = str(self.collecting)
        if notes:
            value["annotations"] = notes
        return encode_json(value)

    def merged(self, added: Iterable[Entry]) -> Index:
        """The index with added versions; an alias of an added version moves to it.

        Raises: Conflict: the archive has another manifest under the same number.
        """
        there = {(entry.kind, entry.name, entry.version): entry for entry in self.entries}
        for entry in added:
            key = (entry.kind, entry.name, entry.version)
            if key in there and there[key].digest != entry.digest:
                raise Conflict(
                    f"the archive has another {entry.kind} {entry}, {there[key].digest}; it comes from another Redis. "
                    "Use another prefix, or pull that one first and publish again"
                )
            for other, known in there.items():
                if other[:2] == key[:2]:
                    there[other] = replace(known, aliases=tuple(a for a in known.aliases if a not in entry.aliases))
            aliases = {*entry.aliases, *(there[key].aliases if key in there else ())}
            there[key] = replace(entry, aliases=tuple(sorted(aliases)))
        return replace(self, entries=tuple(there.values()))

    def without(self, kind: str, name: str, versions: Iterable[int]) -> Index:
        """The index without some versions of a name."""
        gone = {(kind, name, version) for version in versions}
        return replace(self, entries=tuple(e for e in self.entries if (e.kind, e.name, e.version) not in gone))

    def select(self, kind: str, reference: str) -> list[Entry]:
        """The versions a reference selects: all of NAME, one for NAME:7 and NAME@ALIAS. Raises: Missing, Invalid."""
        wanted = Reference.parse(reference)
        named = [entry for entry in self.entries if (entry.kind, entry.name) == (kind, check_name(wanted.name))]
        if not named:
            raise Missing(f"the archive has no {kind} {wanted.name}")
        found = named
        if wanted.version is not None:
            found = [entry for entry in named if entry.version == wanted.version]
        elif wanted.alias is not None:
            found = [entry for entry in named if wanted.alias in entry.aliases]
            if not found and wanted.alias == LATEST:
                found = [max(named, key=lambda entry: entry.version)]
        if not found:
            known = ", ".join(f"{entry}{''.join(f' @{alias}' for alias in entry.aliases)}" for entry in named)
            raise Missing(f"the archive has no {kind} {wanted}; it has {known}")
        return sorted(found, key=lambda entry: entry.version)
