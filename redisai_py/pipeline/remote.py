"""Rows that are not in a local file: data sets in archives, tables in object stores, rows of artifacts."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from redisai_py.artifacts import Archive, Invalid, Missing, Store
from redisai_py.datasets.dataset import KIND, Dataset
from redisai_py.datasets.layout import Columns, row_count
from redisai_py.datasets.tables import read_parquet, read_table, table_format
from redisai_py.pipeline.definition import nearest

__all__ = ["Rows", "from_artifact", "from_dataset", "from_file", "from_url", "joined"]

Rows = tuple[Columns, str, NDArray[np.bool_] | None]
"""Columns, the digest of their source, and True for each test row if the source is split."""

_SIDES = ("train", "test")
_MAX_ROWS_BYTES = 4 << 30


def joined(parts: Mapping[str, Columns], digest: str) -> Rows:
    """The rows of `train`, followed by those of `test`."""
    columns = {name: np.concatenate([parts[side][name] for side in _SIDES]) for name in parts["train"]}
    return columns, digest, np.repeat([False, True], [row_count(parts[side]) for side in _SIDES])


def from_dataset(dataset: Dataset) -> Rows:
    """All rows, with their split if the data set has the splits `train` and `test`."""
    if set(_SIDES) <= set(dataset.splits):
        return joined({side: dataset.read(side) for side in _SIDES}, dataset.version.digest)
    return dataset.read(), dataset.version.digest, None


def from_artifact(reference: str, store: Store) -> Rows:
    """The rows an artifact was made from. Raises: Missing, Invalid: no such artifact, or it holds no rows."""
    version, manifest = store.open("artifact", reference)
    layers = {layer.title: layer for layer in manifest.layers}
    parts = {}
    for side in _SIDES:
        title = f"{side}.parquet"
        if title not in layers:
            raise Missing(f"artifact {version} holds no {title}; it holds {', '.join(layers)}")
        parts[side] = read_parquet(f"{title} of {version}", store.read(layers[title], _MAX_ROWS_BYTES))
    return joined(parts, version.digest)


def from_url(source: str, types: Mapping[str, str]) -> Rows:
    """A data set in an archive, `URL#NAME`, or a table, `URL/FILE.csv`.

    Raises: Missing: it does not exist; the text lists what does.   ArchiveError.   Invalid: the URL names neither.
    """
    url, _, reference = source.partition("#")
    if reference:
        return _from_archive(source, url, reference)
    try:
        table_format(url)
    except Invalid:
        raise Invalid(
            f"{source} names neither a table nor a data set: end it with .csv, .parquet or .npz, or with #NAME, "
            "the name of a data set in that archive"
        ) from None
    if url.startswith("file:"):
        return _from_path(source, Path(unquote(url.removeprefix("file://"))), types)
    parent, _, name = url.rpartition("/")
    with tempfile.TemporaryDirectory() as directory:
        local = Path(directory, name)
        try:
            with local.open("wb") as file:
                file.writelines(Archive(parent).file(name))
        except Missing:
            raise Missing(f"there is no {source}") from None
        return _from_path(source, local, types)


def from_file(path: Path, types: Mapping[str, str]) -> Rows:
    """The rows of a file. Raises: Invalid, OSError."""
    columns = read_table(path, nan="keep", types=types)
    with path.open("rb") as file:
        return columns, f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}", None


def _from_path(source: str, path: Path, types: Mapping[str, str]) -> Rows:
    try:
        return from_file(path, types)
    except FileNotFoundError:
        raise Missing(f"there is no {source}") from None
    except Invalid as error:
        raise Invalid(str(error).replace(str(path), source)) from None


def _from_archive(source: str, url: str, reference: str) -> Rows:
    if url.startswith("file:") and not Path(unquote(url.removeprefix("file://"))).is_dir():
        raise Missing(f"{source}: there is no folder {url.removeprefix('file://')}")
    archive = Archive(url)
    try:
        return from_dataset(Dataset.in_archive(archive, reference))
    except Missing as error:
        names: Any = {entry.name for entry in archive.index()[0].entries if entry.kind == KIND}
        hint = nearest(reference.partition("@")[0].partition(":")[0], names) if names else "it holds no data sets"
        raise Missing(f"{source}: {error}; {hint}") from None
