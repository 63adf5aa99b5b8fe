"""Loading rows, splitting them into training and test rows, and checking the split for leaks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redisai_py.artifacts import Invalid, Store
from redisai_py.datasets.dataset import Dataset
from redisai_py.datasets.layout import Columns, row_count
from redisai_py.datasets.split import Split
from redisai_py.datasets.writer import put
from redisai_py.pipeline.definition import IN_REDIS, URLS, DatasetPart, Definition, nearest
from redisai_py.pipeline.features import Features
from redisai_py.pipeline.remote import from_artifact, from_dataset, from_file, from_url

__all__ = ["Sides", "Table", "check_sides", "load", "missing", "split", "upload"]

_SKLEARN = ("breast_cancer", "diabetes", "digits", "iris", "wine")
_SCHEMES = {"csv": ("csv", "tsv"), "parquet": ("parquet",), "npz": ("npz",)}


@dataclass(frozen=True)
class Table:
    """Rows.   digest: of the file or manifest.   side: train or test per row, if the source is split."""

    columns: Columns
    digest: str
    side: NDArray[np.bool_] | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return row_count(self.columns)


@dataclass(frozen=True)
class Sides:
    """Training rows and test rows.

    digest: of the table.   duplicates: number of test rows that are copies of training rows.
    """

    features: Features
    train: Columns
    test: Columns
    digest: str
    duplicates: int = 0
    notes: tuple[str, ...] = field(default=())

    def _repr_html_(self) -> str:
        sides = (("train", self.train), ("test", self.test))
        rows = "".join(f"<tr><td>{name}</td><td>{row_count(part)}</td></tr>" for name, part in sides)
        return f"<table><tr><th>side</th><th>rows</th></tr>{rows}</table>"


def load(definition: Definition, store: Store | None = None, directory: Path | str = ".") -> Table:
    """Load the rows of a definition.

    Args:   store: needed for `redis:` and `artifact:`.   directory: base of relative file names.
    Raises: Invalid: no rows, or no such column; the text lists the columns.   Missing.   OSError.
    """
    data = definition.dataset
    if data.scheme in IN_REDIS:
        table = _from_redis(data, store)
    elif data.scheme in URLS:
        table = Table(*from_url(data.source, data.types))
    elif data.scheme == "sklearn":
        table = _from_sklearn(data.place)
    else:
        table = _from_file(definition, Path(directory, data.place))
    if not table.rows:
        raise Invalid(f"{data.source} has no rows")
    for name in (*data.targets, *data.ignore, *_named(definition.split)):
        if name not in table.columns:
            raise Invalid(f"{data.source} has no column {name}; {nearest(name, table.columns)}")
    return table


def _from_file(definition: Definition, path: Path) -> Table:
    data = definition.dataset
    if not path.name.lower().removesuffix(".gz").endswith(tuple(f".{end}" for end in (*_SCHEMES[data.scheme], "pq"))):
        raise Invalid(f"{data.source}: the file's name must end with .{_SCHEMES[data.scheme][0]}")
    try:
        return Table(*from_file(path, data.types))
    except FileNotFoundError:
        raise Invalid(f"{path}: there is no such file") from None


def _from_redis(data: DatasetPart, store: Store | None) -> Table:
    if store is None:
        raise Invalid(f"{data.source} needs a Redis to read from")
    if data.scheme == "artifact":
        return Table(*from_artifact(data.place, store))
    return Table(*from_dataset(Dataset.open(store, data.place)))


def _from_sklearn(name: str) -> Table:
    import sklearn.datasets

    loaders: dict[str, Any] = {each: getattr(sklearn.datasets, f"load_{each}") for each in _SKLEARN}
    if name not in loaders:
        raise Invalid(f"there is no data set sklearn:{name}; {nearest(name, loaders)}")
    bunch = loaders[name]()
    columns = {str(n): np.ascontiguousarray(bunch.data[:, k]) for k, n in enumerate(bunch.feature_names)}
    columns["target"] = bunch.target
    content = hashlib.sha256(b"".join(np.ascontiguousarray(values).tobytes() for values in columns.values()))
    return Table(columns, f"sha256:{content.hexdigest()}")


def _named(how: Split | None) -> list[str]:
    given = (how.stratify, how.by, how.group) if how else ()
    return [name for name in given if name is not None]


def missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """True for each row without a value, (rows,)."""
    if values.dtype.kind in "OUT":
        return np.array([value is None or value == "" for value in values.tolist()], np.bool_)
    if values.dtype.kind == "M":
        return np.asarray(np.isnat(values))
    return np.asarray(np.isnan(values)) if values.dtype.kind == "f" else np.zeros(len(values), np.bool_)


def split(definition: Definition, table: Table) -> Sides:
    """Split the rows. Rows that lack every target are left out.

    Raises: Invalid: no training or no test rows, or a leak; see `check_sides`.
    """
    data, how = definition.dataset, definition.split
    lacking = np.logical_and.reduce([missing(np.asarray(table.columns[name])) for name in data.targets])
    if lacking.all():
        raise Invalid(f"{', '.join(data.targets)}: no row has a value to learn from")
    kept = {name: values[~lacking] for name, values in table.columns.items()}
    notes = [f"{int(lacking.sum())} rows lack every target and are left out"] if lacking.any() else []
    given = table.side if how is None else None
    test = given[~lacking] if given is not None else (how or Split()).test_rows(kept)
    if how is not None and how.by is None and any(values.dtype.kind == "M" for values in kept.values()):
        notes.append("the rows have dates and are not split by time; for forecasts use split.by")
    outside = [*data.targets, *data.ignore, *[name for name in _named(how) if name != (how and how.stratify)]]
    features = Features.choose(kept, data.features, outside)
    train, tested = ({n: v[side] for n, v in kept.items()} for side in (~test, test))
    sides = Sides(features, train, tested, table.digest, 0, (*notes, *features.notes(kept)))
    return check_sides(definition, sides)


def check_sides(definition: Definition, sides: Sides) -> Sides:
    """Check for leaks.

    Returns: the split, with duplicates counted and suspicious findings noted.
    Raises:  Invalid: no training or no test rows; a feature is a copy of a target; by time: a test row is not later
             than all training rows; by group: a group has both kinds of rows.
    """
    train, test, how = sides.train, sides.test, definition.split
    if not row_count(train) or not row_count(test):
        raise Invalid(f"no rows are left for {'testing' if row_count(train) else 'training'}")
    if how is not None and how.by is not None and not np.max(train[how.by]) < np.min(test[how.by]):
        raise Invalid(f"leak: by {how.by}, rows for testing are not all later than those for training")
    if how is not None and how.group is not None:
        both = set(map(str, train[how.group].tolist())) & set(map(str, test[how.group].tolist()))
        if both:
            raise Invalid(f"leak: {how.group} {min(both)!r} has rows for training and rows for testing")
    notes = list(sides.notes)
    for target in definition.dataset.targets:
        for item in sides.features.items:
            notes += _tells(item.name, train[item.name], target, train[target])
    names = [item.name for item in sides.features.items] + list(definition.dataset.targets)
    known = set(_row_keys(train, names))
    duplicates = sum(key in known for key in _row_keys(test, names))
    if duplicates:
        notes.append(f"{duplicates} of {row_count(test)} rows for testing are copies of rows for training")
    return replace(sides, duplicates=duplicates, notes=tuple(notes))


def _tells(feature: str, values: NDArray[Any], target: str, wanted: NDArray[Any]) -> list[str]:
    """A note if a feature determines the target. Raises: Invalid: it is a copy of the target."""
    if values.ndim != 1 or len(values) < 3:
        return []
    numeric = values.dtype.kind in "biuf" and wanted.dtype.kind in "biuf"
    same = np.array_equal(values, wanted, equal_nan=True) if numeric else values.tolist() == wanted.tolist()
    if same and len(set(wanted.tolist())) > 1:
        raise Invalid(f"leak: feature {feature} is a copy of the target {target}; ignore it")
    if numeric and wanted.dtype.kind == "f":
        full = ~(np.isnan(values.astype(float)) | np.isnan(wanted))
        a, b = values[full].astype(float), wanted[full]
        if len(a) > 2 and a.std() > 0 and b.std() > 0 and abs(np.corrcoef(a, b)[0, 1]) > 0.99999:
            return [f"feature {feature} is the target {target} on another scale; is that known when predicting?"]
        return []
    pairs = set(zip(map(str, values.tolist()), map(str, wanted.tolist()), strict=True))
    sources, classes = {a for a, _ in pairs}, {b for _, b in pairs}
    if len(pairs) == len(sources) == len(classes) > 1 and len(sources) < len(values):
        return [f"feature {feature} tells the target {target} exactly; is that known when predicting?"]
    return []


def _row_keys(columns: Columns, names: list[str]) -> list[bytes]:
    """Keys that are equal for equal rows."""
    parts = [map(repr, columns[name].tolist()) for name in names]
    return [hashlib.blake2b("\0".join(row).encode(), digest_size=16).digest() for row in zip(*parts, strict=True)]


def upload(definition: Definition, store: Store, directory: Path | str = ".") -> Definition:
    """Copy the rows of a definition's file or URL into Redis, so that any machine can run the definition.

    Returns: the definition with the data set as its source; the same file gives the same version.
    Raises:  see `load`.
    """
    if definition.dataset.scheme in (*IN_REDIS, "sklearn"):
        return definition
    table = load(definition, store, directory)
    rows: Mapping[str, Any] = table.columns
    if table.side is not None:
        sides = {"train": ~table.side, "test": table.side}
        rows = {name: {column: values[side] for column, values in rows.items()} for name, side in sides.items()}
    version = put(store, definition.artifact.name, rows, nan="keep")
    return replace(definition, dataset=replace(definition.dataset, source=f"redis:{version}", types={}))
