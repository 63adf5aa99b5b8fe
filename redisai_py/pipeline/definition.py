"""A pipeline's definition: from TOML to frozen dataclasses, and back. Pure.

Every word is checked before anything runs. An unknown word is an error that names the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redisai_py.artifacts.errors import Invalid
from redisai_py.artifacts.names import check_alias, check_name
from redisai_py.datasets.split import Split
from redisai_py.errors import CommandError
from redisai_py.pipeline.gates import Gate, read_gates
from redisai_py.tensor import Device

__all__ = [
    "ALL_FEATURES",
    "IN_REDIS",
    "URLS",
    "ArtifactPart",
    "DatasetPart",
    "Definition",
    "DeployPart",
    "EvaluatePart",
    "ModelPart",
    "nearest",
]

ALL_FEATURES = "*"
IN_REDIS = ("redis", "artifact")
"""Kinds of sources that any machine with the same Redis can read."""
URLS = ("s3", "gs", "az", "file")
"""Kinds of sources that are URLs of an archive or of a table."""
_SCHEMES = ("csv", "parquet", "npz", *IN_REDIS, "sklearn")


def nearest(word: str, known: Iterable[str]) -> str:
    """The hint for an unknown word: the nearest known word, or all of them."""
    listed = sorted(known)
    close = difflib.get_close_matches(word, listed, 1, 0.5)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(listed)}"


@dataclass(frozen=True)
class ArtifactPart:
    """name: of the artifact.   promote: aliases to point to the new version once its gates have passed."""

    name: str
    promote: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetPart:
    """source: one of

        csv:FILE parquet:FILE npz:FILE        a file
        redis:NAME                            a data set in Redis: NAME, NAME:VERSION or NAME@ALIAS
        artifact:NAME                         the rows of an artifact in Redis, with their split
        s3://BUCKET/PREFIX#NAME               a data set in an archive; also gs://, az://, file:///
        s3://BUCKET/PATH/FILE.csv             a table in an object store
        sklearn:NAME                          a data set of scikit-learn

    targets: columns to predict, one model each.   features: columns to predict from; `*` is all others.
    ignore: columns to leave out.   types: column types that override those of the file.
    """

    source: str
    targets: tuple[str, ...]
    features: tuple[str, ...] = (ALL_FEATURES,)
    ignore: tuple[str, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)

    @property
    def scheme(self) -> str:
        """The part of the source before the first colon."""
        return self.source.partition(":")[0]

    @property
    def place(self) -> str:
        """The part of the source after the first colon."""
        return self.source.partition(":")[2]


@dataclass(frozen=True)
class ModelPart:
    """builder: its name, see `redisai_py.pipeline.builders`.   params: its parameters.   seed: for all randomness.

    max_categories: maximum number of values of a string column; rarer values are treated as unknown.
    """

    builder: str
    params: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    max_categories: int = 100


@dataclass(frozen=True)
class EvaluatePart:
    """metrics: their names; by default those of the task.   gate: conditions for publishing.

    tolerance: maximum difference between the exported and the trained model: of a probability, or of a value divided
    by the target's standard deviation.
    """

    metrics: tuple[str, ...] = ()
    gate: tuple[Gate, ...] = ()
    tolerance: float = 1e-5


@dataclass(frozen=True)
class DeployPart:
    """key: of the model; with several targets `KEY:TARGET` each.   The rest: options of AI.MODELSTORE."""

    key: str
    device: str = "CPU"
    batchsize: int | None = None
    minbatchsize: int | None = None
    minbatchtimeout: int | None = None


_PARTS: dict[str, type[Any]] = {
    "artifact": ArtifactPart,
    "dataset": DatasetPart,
    "split": Split,
    "model": ModelPart,
    "evaluate": EvaluatePart,
    "deploy": DeployPart,
}


@dataclass(frozen=True)
class Definition:
    """A pipeline.   split: None if the data set has splits `train` and `test`.   deploy: None to publish only."""

    artifact: ArtifactPart
    dataset: DatasetPart
    model: ModelPart
    split: Split | None = None
    evaluate: EvaluatePart = field(default_factory=EvaluatePart)
    deploy: DeployPart | None = None

    def __post_init__(self) -> None:
        check_name(self.artifact.name)
        for alias in self.artifact.promote:
            check_alias(alias)
        _check_dataset(self.dataset)
        if not self.evaluate.tolerance > 0:
            raise Invalid(f"evaluate.tolerance is {self.evaluate.tolerance}; it must be above 0")
        if not 0 <= self.model.seed < 1 << 32:
            raise Invalid(f"model.seed is {self.model.seed}; it must be between 0 and 4294967295")
        if self.deploy is not None:
            _check_deploy(self.deploy)
        if self.model.max_categories < 1:
            raise Invalid(f"model.max_categories is {self.model.max_categories}; it must be at least 1")

    @classmethod
    def from_toml(cls, text: str, settings: Sequence[str] = ()) -> Definition:
        """Parse a definition.

        Args:   settings: overrides such as `model.params.n_estimators=100`.
        Raises: Invalid: not TOML, an unknown or missing word, or a value of the wrong type; the text names it.
        """
        try:
            value = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise Invalid(f"the definition is not TOML: {error}") from None
        for setting in settings:
            _set(value, setting)
        return cls.from_value(value)

    @classmethod
    def from_file(cls, path: Path | str, settings: Sequence[str] = ()) -> Definition:
        """Parse a file. Raises: Invalid, OSError."""
        try:
            return cls.from_toml(Path(path).read_text("utf-8"), settings)
        except (Invalid, UnicodeDecodeError) as error:
            raise Invalid(f"{path}: {error}") from None

    @classmethod
    def from_value(cls, value: Any) -> Definition:
        """Build a definition from parsed TOML or JSON. Raises: Invalid."""
        if not isinstance(value, dict):
            raise Invalid("a definition consists of tables: [artifact], [dataset], [split], [model], ...")
        for word in value:
            if word not in _PARTS:
                raise Invalid(f"[{word}] is not part of a pipeline; {nearest(str(word), _PARTS)}")
        for needed in ("artifact", "dataset", "model"):
            if needed not in value:
                raise Invalid(f"[{needed}] is missing")
        return cls(**{name: _part(name, table) for name, table in value.items()})

    def as_value(self) -> dict[str, dict[str, Any]]:
        """The definition as JSON values; words with their default values are left out."""
        found: dict[str, dict[str, Any]] = {}
        for name in _PARTS:
            part = getattr(self, name)
            if part is None or (name == "evaluate" and part == EvaluatePart()):
                continue
            found[name] = {}
            for each in dataclasses.fields(part):
                given = getattr(part, each.name)
                if _is_default(each, given):
                    continue
                if each.name == "gate":
                    given = {key: item for gate in given for key, item in gate.as_value().items()}
                found[name][each.name] = list(given) if isinstance(given, tuple) else given
        return found

    def as_toml(self) -> str:
        """Canonical TOML: equal definitions give equal text."""
        lines = []
        for name, table in self.as_value().items():
            lines += [f"[{name}]", *(f"{_key(word)} = {_toml(item)}" for word, item in table.items()), ""]
        return "\n".join(lines)


def _check_dataset(data: DatasetPart) -> None:
    known = data.place.startswith("//") and data.place.strip("/#") if data.scheme in URLS else data.scheme in _SCHEMES
    if not known or not data.place:
        kinds = ", ".join([*(f"{scheme}:..." for scheme in _SCHEMES), *(f"{scheme}://..." for scheme in URLS)])
        raise Invalid(f"dataset.source is {data.source!r}; it must be one of {kinds}")
    if not data.targets:
        raise Invalid("dataset.targets is empty; name the column to predict")
    if len(set(data.targets)) < len(data.targets):
        raise Invalid("dataset.targets names a column twice")
    for target in data.targets:
        if target in data.features:
            raise Invalid(f"{target} is a target and a feature; the model would be told the answer")
        if target in data.ignore:
            raise Invalid(f"{target} is a target and ignored")
    for name in data.ignore:
        if name in data.features:
            raise Invalid(f"{name} is a feature and ignored")
    if not data.features:
        raise Invalid('dataset.features is empty; name columns, or use ["*"] for all')


def _check_deploy(place: DeployPart) -> None:
    if not place.key:
        raise Invalid("deploy.key is empty; name the key of the model")
    try:
        Device.parse(place.device.encode())
    except CommandError:
        raise Invalid(f"deploy.device is {place.device!r}; it must be CPU, GPU or such as GPU:1") from None
    for word in ("batchsize", "minbatchsize", "minbatchtimeout"):
        value = getattr(place, word)
        if value is not None and value < 0:
            raise Invalid(f"deploy.{word} is {value}; it must be 0, which is off, or more")
    if place.minbatchsize and not place.batchsize:
        raise Invalid("deploy.minbatchsize needs deploy.batchsize")
    if place.minbatchtimeout and not place.minbatchsize:
        raise Invalid("deploy.minbatchtimeout needs deploy.minbatchsize")


def _is_default(each: dataclasses.Field[Any], given: Any) -> bool:
    if each.default_factory is not dataclasses.MISSING:
        return bool(given == each.default_factory())
    return each.default is not dataclasses.MISSING and given == each.default


def _part(name: str, table: Any) -> Any:
    if not isinstance(table, dict):
        raise Invalid(f"[{name}] must be a table")
    kind = _PARTS[name]
    fields = {each.name: each for each in dataclasses.fields(kind)}
    found: dict[str, Any] = {}
    for word, given in table.items():
        if word not in fields:
            raise Invalid(f"{name}.{word} is unknown; {nearest(word, fields)}")
        found[word] = _typed(f"{name}.{word}", str(fields[word].type), given)
    for word, each in fields.items():
        if word not in found and each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            raise Invalid(f"{name}.{word} is missing")
    return kind(**found)


_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _typed(what: str, kind: str, given: Any) -> Any:
    """The value, converted to the field's type. Raises: Invalid."""
    if kind == "tuple[Gate, ...]":
        return read_gates(what, given)
    if kind.startswith("tuple[str"):
        if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
            raise Invalid(f"{what} must be a list of strings")
        return tuple(given)
    if kind.startswith("Mapping"):
        if not isinstance(given, dict) or ("str, str" in kind and not all(isinstance(x, str) for x in given.values())):
            raise Invalid(f"{what} must be a table" + (" of strings" if "str, str" in kind else ""))
        return given
    wanted: type[Any] = {"str": str, "int": int, "float": float}[kind.partition(" ")[0]]
    allowed = (int, float) if wanted is float else (wanted,)
    if isinstance(given, bool) or not isinstance(given, allowed):
        raise Invalid(f"{what} is {json.dumps(given, default=str)}; it must be {_NAMES[wanted]}")
    return wanted(given)


def _set(value: dict[str, Any], setting: str) -> None:
    path, equals, text = setting.partition("=")
    words = path.strip().split(".")
    if not equals or len(words) < 2 or not all(words):
        raise Invalid(f"{setting!r} is not a setting; write it as model.params.n_estimators=100")
    try:
        given = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        given = text  # a string whose quotes the shell removed
    inner = value
    for word in words[:-1]:
        inner = inner.setdefault(word, {})
        if not isinstance(inner, dict):
            raise Invalid(f"{setting!r}: {word} is not a table")
    inner[words[-1]] = given


def _key(word: str) -> str:
    bare = word.isascii() and word.replace("_", "").replace("-", "").isalnum()
    return word if bare else _toml(word)


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(str(word))} = {_toml(item)}" for word, item in sorted(value.items()))
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, (int, float)):
        return repr(value)
    raise Invalid(f"a definition cannot contain a value of type {type(value).__name__}")
