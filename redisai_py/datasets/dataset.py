"""One version of a data set, for reading: a manifest over shards that never changes."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redisai_py.artifacts import Archive, Descriptor, Invalid, Manifest, Missing, Reference, Store, Version
from redisai_py.artifacts.errors import reading
from redisai_py.artifacts.manifest import MAX_MANIFEST, decode_json
from redisai_py.artifacts.strings import ReceiveBuffer
from redisai_py.datasets.layout import Columns, Schema, row_count
from redisai_py.datasets.shards import Shard, archived_shards, read_shards

__all__ = ["FORMAT", "KIND", "Dataset"]

KIND = "dataset"
FORMAT = "redisai.dataset/1"
_GROUP = 16
_PLACE = re.compile(r"[0-9]{1,15}-[0-9]{1,15}")


class Dataset:
    """One version, as of the time it was opened; later seals and promotions do not change it.

    Create it with `Dataset.open`.   store: None if it is read only from its archive.
    """

    def __init__(
        self,
        store: Store | None,
        version: Version,
        schema: Schema,
        shards: Sequence[Shard],
        sealed: str = "",
        archive: Archive | str | None = None,
    ) -> None:
        self.store = store
        self.version = version
        self.schema = schema
        self.sealed = sealed
        """Stream id of the last tail shard in this version; later shards are not sealed yet."""
        self._shards = tuple(shards)
        self._given = archive

    @classmethod
    def open(cls, store: Store, reference: str | Reference, archive: Archive | str | None = None) -> Dataset:
        """Open the version of a reference such as `clicks:3` or `clicks@latest`.

        Args:   archive: source of shards missing in Redis; by default the archive the version was pushed to, if
                the extra `archive` is installed.
        Raises: Missing: no such version, or its manifest is missing.   Corrupt.   Malformed: not a data set.
        """
        version, manifest = store.open(KIND, reference)
        return cls._described(store, version, manifest, store.config(manifest), archive)

    @classmethod
    def in_archive(cls, archive: Archive, reference: str | Reference) -> Dataset:
        """Open the version of a reference in an archive. It is read from there; nothing is copied to Redis.

        Raises: Missing: no such version.   ArchiveError.   Corrupt.   Malformed: not a data set.
        """
        entry = archive.index()[0].select(KIND, str(reference))[-1]
        manifest = archive.manifest(entry.digest, str(entry))
        with reading():
            content = archive.get(manifest.config.digest, MAX_MANIFEST, f"{entry}: config")
            config = decode_json(f"{entry}: config", content)
        version = Version(entry.name, entry.version, entry.digest, entry.aliases, archive.url)
        return cls._described(None, version, manifest, config, archive)

    @classmethod
    @reading()
    def _described(
        cls, store: Store | None, version: Version, manifest: Manifest, config: Any, archive: Archive | str | None
    ) -> Dataset:
        if not isinstance(config, dict) or config.get("format") != FORMAT:
            raise Invalid(f"{version} is not a data set that this release reads")
        places = config.get("shards")
        if not isinstance(places, list) or len(places) != len(manifest.layers):
            raise Invalid(f"{version} lists {len(manifest.layers)} shards, and its config others")
        described = enumerate(zip(places, manifest.layers, strict=True))
        shards = [_shard(str(version), number, place, layer) for number, (place, layer) in described]
        sealed = config.get("sealed", "")
        if not isinstance(sealed, str) or (sealed and not _PLACE.fullmatch(sealed)):
            raise Invalid(f"{version} was sealed without a stream position")
        return cls(store, version, Schema.from_json(config.get("schema")), shards, sealed, archive)

    def on(self, store: Store) -> Dataset:
        """The same version on another connection."""
        return Dataset(store, self.version, self.schema, self._shards, self.sealed, self._given)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without connections: another process opens its own, see `on`."""
        return {name: value for name, value in self.__dict__.items() if name not in ("store", "_archive")}

    @cached_property
    def _archive(self) -> Archive | None:
        if isinstance(self._given, Archive):
            return self._given
        url = self._given or self.version.archived
        return Archive(url) if url and (self._given or find_spec("obstore")) else None

    def _repr_html_(self) -> str:
        """Show the schema and the rows of each split in notebooks."""
        columns = "".join(
            f"<tr><td>{html.escape(column.name)}</td><td>{column.type}</td><td>{list(column.shape) or ''}</td></tr>"
            for column in self.schema.columns
        )
        splits = ", ".join(f"{html.escape(name)} {rows:,}" for name, rows in self.splits.items())
        head = f"<b>{html.escape(str(self.version))}</b>: {self.rows:,} rows{f' ({splits})' if splits else ''}"
        return f"<p>{head}</p><table><tr><th>column</th><th>type</th><th>shape</th></tr>{columns}</table>"

    @property
    def rows(self) -> int:
        """Number of rows of all splits."""
        return sum(shard.rows for shard in self._shards)

    @property
    def splits(self) -> dict[str, int]:
        """Rows by split, in the order of their first shards; empty without splits."""
        found: dict[str, int] = {}
        for shard in self._shards:
            if shard.split:
                found[shard.split] = found.get(shard.split, 0) + shard.rows
        return found

    def shards(self, split: str | None = None) -> list[Shard]:
        """The shards of one split, or all. Raises: Missing: no such split; the text lists the splits."""
        if split is None:
            return list(self._shards)
        if split not in self.splits:
            known = ", ".join(self.splits) or "none"
            raise Missing(f"data set {self.version} has no split {split}; splits: {known}")
        return [shard for shard in self._shards if shard.split == split]

    def fetch(self, shards: Sequence[Shard], columns: Sequence[str] | None = None) -> list[Columns]:
        """The columns of some shards, read in one round trip and checked.

        Raises: Missing, Corrupt: naming data set, shard and digest.   Invalid: no such column.
        """
        return list(self.stream(shards, columns))

    def stream(
        self, shards: Sequence[Shard], columns: Sequence[str] | None = None, buffer: ReceiveBuffer | None = None
    ) -> Iterator[Columns]:
        """The same, shard by shard.

        Args:   buffer: to read into; each shard overwrites the columns of the previous one.
        """
        unknown = [name for name in columns or () if name not in self.schema.names]
        if unknown:
            raise Invalid(f"data set {self.version} has no column {unknown[0]}; it has {', '.join(self.schema.names)}")
        what = f"data set {self.version}"
        if self.store is None:
            assert self._archive is not None
            return archived_shards(self._archive, what, self.schema, shards, columns)
        return read_shards(self.store, what, self.schema, shards, columns, lambda: self._archive, buffer)

    def batches(self, split: str | None = None, columns: Sequence[str] | None = None) -> Iterator[Columns]:
        """Iterate shard by shard, in order, with at most 16 shards in memory."""
        shards = self.shards(split)
        for at in range(0, len(shards), _GROUP):
            yield from self.fetch(shards[at : at + _GROUP], columns)

    def read(self, split: str | None = None, columns: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """All rows of a split: (rows, ...) per column."""
        return self._joined(list(self.batches(split, columns)), columns)

    def head(
        self, rows: int = 10, split: str | None = None, columns: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """The first rows; reads only the shards that hold them."""
        found: list[Columns] = []
        for shard in self.shards(split):
            found += self.fetch([shard], columns)
            if sum(map(row_count, found)) >= rows:
                break
        return {name: values[:rows] for name, values in self._joined(found, columns).items()}

    def _joined(self, parts: Sequence[Columns], columns: Sequence[str] | None) -> dict[str, NDArray[Any]]:
        names = [name for name in self.schema.names if columns is None or name in columns]
        return {name: np.concatenate([part[name] for part in parts]) if parts else np.empty(0) for name in names}


def _shard(what: str, number: int, place: Any, layer: Descriptor) -> Shard:
    place = place if isinstance(place, dict) else {}
    rows, split, at = place.get("rows"), place.get("split", ""), place.get("at", "")
    if type(rows) is not int or not 0 < rows < 2**40 or not isinstance(split, str):
        raise Invalid(f"{what}: shard {number} has no number of rows")
    if not isinstance(at, str) or (at and not _PLACE.fullmatch(at)):
        raise Invalid(f"{what}: shard {number} was appended without a stream position")
    return Shard(number, rows, split, layer, at)
