"""The whole pipeline, and the state between its steps for notebooks."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from redisai_py.artifacts import Contents, Deployed, Invalid, Missing, Settings, Store, Version, environment
from redisai_py.artifacts.connection import AnyClient
from redisai_py.artifacts.deploy import deploy
from redisai_py.artifacts.publish import publish
from redisai_py.datasets.layout import Columns
from redisai_py.datasets.tables import read_parquet
from redisai_py.pipeline.builders import check_params, load_builder
from redisai_py.pipeline.definition import Definition
from redisai_py.pipeline.evaluate import Evaluation, check_metrics, evaluate
from redisai_py.pipeline.gates import GateFailed, GateResult, check_gates
from redisai_py.pipeline.report import plots, report
from redisai_py.pipeline.source import Sides, Table, load, split
from redisai_py.pipeline.trained import Trained, train

__all__ = [
    "Baseline",
    "Pipeline",
    "Progress",
    "Result",
    "baseline_of",
    "check",
    "check_words",
    "contents",
    "run",
    "titles",
]

Progress = Callable[[str, int, int], object]
"""Called before each step with its name, its number from 0, and the number of steps."""

Baseline = Mapping[str, int]
"""The versions that a run is compared with, by alias, without aliases that point to nothing.

Chosen once, so that a second attempt compares with the same ones.
"""

_PRODUCTION = "@production"
_MAX_ROWS_BYTES = 4 << 30


@dataclass(frozen=True)
class Result:
    """The result of a run.   gates: all, passed.   deployed: by target."""

    version: Version
    evaluations: Sequence[Evaluation]
    metrics: Mapping[str, float]
    gates: Sequence[GateResult] = ()
    deployed: Sequence[Deployed] = ()

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{html.escape(n)}</td><td>{v:.6g}</td></tr>" for n, v in self.metrics.items())
        gates = "".join(f"<li>{html.escape(str(gate))}</li>" for gate in self.gates)
        return f"<p><b>{self.version}</b> <code>{self.version.digest}</code></p><table>{rows}</table><ul>{gates}</ul>"


def check_words(definition: Definition) -> None:
    """Check that builder, parameters, metrics and gates exist. Raises: Invalid."""
    builder = load_builder(definition.model.builder)
    check_params(definition.model.builder, builder, definition.model.params)
    check_metrics(definition, builder.task)


def check(definition: Definition, store: Store | None = None, directory: Path | str = ".") -> Sides:
    """Check everything that needs no training: words, rows, split, leaks. Raises: Invalid, Missing, OSError."""
    check_words(definition)
    return split(definition, load(definition, store, directory))


def titles(definition: Definition) -> dict[str, str]:
    """File name of each target's model in the artifact."""
    targets = definition.dataset.targets
    if len(targets) == 1:
        return {targets[0]: "model.onnx"}
    found: dict[str, str] = {}
    for target in targets:
        plain = "".join(c if c.isalnum() or c in "_-. " else "_" for c in target).strip()[:100] or "_"
        title = f"model-{plain}.onnx"
        number = 2
        while title in found.values():
            title = f"model-{plain}-{number}.onnx"
            number += 1
        found[target] = title
    return found


def baseline_of(definition: Definition, store: Store) -> Baseline:
    """The current versions of the aliases that a definition uses."""
    aliases = {_PRODUCTION, *(gate.versus for gate in definition.evaluate.gate if gate.versus is not None)}
    found = {}
    for alias in sorted(aliases):
        with suppress(Missing):
            found[alias] = store.registry("artifact").resolve(f"{definition.artifact.name}{alias}").version
    return found


def _read(store: Store, reference: str, title: str) -> bytes | None:
    """A file of a version, None if it has no file of that name."""
    _, manifest = store.open("artifact", reference)
    for layer in manifest.layers:
        if layer.title == title:
            return store.read(layer, _MAX_ROWS_BYTES)
    return None


def _production_rows(definition: Definition, store: Store, baseline: Baseline, own: bytes) -> Columns | None:
    """Training rows of the model in production; None if there are none, or they are this run's own."""
    number = baseline.get(_PRODUCTION)
    if number is None:
        return None
    found = _read(store, f"{definition.artifact.name}:{number}", "train.parquet")
    return None if found is None or found == own else read_parquet("train.parquet of production", found)


def _metrics(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    if len(evaluations) == 1:
        return dict(evaluations[0].metrics)
    return {f"{e.model.target}.{name}": value for e in evaluations for name, value in e.metrics.items()}


def _gates(definition: Definition, metrics: Mapping[str, float], store: Store, baseline: Baseline) -> list[GateResult]:
    others: dict[str, Any] = {}
    for alias, number in baseline.items():
        data = _read(store, f"{definition.artifact.name}:{number}", "metrics.json")
        others[alias] = None if data is None else json.loads(data)
    return check_gates(definition.evaluate.gate, metrics, others)


def _parquet(columns: Columns) -> bytes:
    import pyarrow.parquet

    from redisai_py.datasets.arrow import table_of

    packed = io.BytesIO()
    pyarrow.parquet.write_table(table_of(columns), packed, compression="zstd")
    return packed.getvalue()


def contents(definition: Definition, sides: Sides, evaluations: Sequence[Evaluation]) -> Contents:
    """The contents of the artifact. The same definition, rows and packages give the same bytes."""
    named = titles(definition)
    pictures = {each.model.target: plots(each) for each in evaluations}
    shapes = {
        each.model.target: {
            "model": named[each.model.target],
            "task": each.model.task,
            "classes": None if each.model.classes is None else each.model.classes.tolist(),
            **each.model.preparation.as_json(),
        }
        for each in evaluations
    }
    schema = {"features": sides.features.as_json(), "targets": shapes}
    single = len(evaluations) == 1
    predictions: Any = {named[each.model.target]: each.tested.predictions for each in evaluations}
    return Contents(
        {named[each.model.target]: each.tested.blob for each in evaluations},
        backend="ONNX",
        metrics=_metrics(evaluations),
        predictions=next(iter(predictions.values())) if single else predictions,
        analysis={each.model.target: each.analysis for each in evaluations},
        plots={
            f"{named[target].removesuffix('.onnx')}-{name}.png": png
            for target, found in pictures.items()
            for name, png in found.items()
        },
        environment=environment(),
        definition=definition.as_toml(),
        files={
            "report.html": report(definition, evaluations, pictures).encode(),
            "schema.json": json.dumps(schema, sort_keys=True, ensure_ascii=False).encode(),
        },
        data={"train.parquet": _parquet(sides.train), "test.parquet": _parquet(sides.test)},
        lineage={"dataset": sides.digest},
    )


class Pipeline:
    """A definition and the results of its steps; each step runs when its result is first read.

    client: a redis-py client, or a URL; None to publish nothing.   directory: base of relative file names.
    """

    def __init__(
        self,
        definition: Definition,
        client: AnyClient | None = None,
        directory: Path | str = ".",
        prefix: str = "ai:",
        progress: Progress | None = None,
        baseline: Baseline | None = None,
    ) -> None:
        self.definition = definition
        self.directory = Path(directory)
        self.store = None if client is None else Store(client, prefix)
        self._progress = progress or (lambda step, number, steps: None)
        self._baseline = baseline

    @classmethod
    def from_file(cls, path: Path | str, client: AnyClient | None = None, settings: Sequence[str] = ()) -> Pipeline:
        """The pipeline of a file; its directory is the base of relative names. Raises: Invalid, OSError."""
        return cls(Definition.from_file(path, settings), client, Path(path).parent)

    @cached_property
    def table(self) -> Table:
        """Step 1: the rows."""
        self._tell("load")
        return load(self.definition, self.store, self.directory)

    @cached_property
    def sides(self) -> Sides:
        """Step 2: training rows and test rows."""
        table = self.table
        self._tell("split")
        return split(self.definition, table)

    @cached_property
    def models(self) -> list[Trained]:
        """Steps 3 and 4: the trained models, one per target."""
        sides = self.sides
        found = []
        for target in self.definition.dataset.targets:
            self._tell(f"train {target}")
            found.append(train(self.definition, sides, target))
        return found

    @cached_property
    def baseline(self) -> Baseline:
        """The versions that this run is compared with."""
        if self._baseline is not None:
            return self._baseline
        return {} if self.store is None else baseline_of(self.definition, self.store)

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """Step 5: the models, exported, compared with the trained ones, and measured."""
        models = self.models
        production = None
        if self.store is not None:
            production = _production_rows(self.definition, self.store, self.baseline, _parquet(self.sides.train))
        found = []
        for model in models:
            self._tell(f"evaluate {model.target}")
            found.append(evaluate(self.definition, model, self.sides, production))
        return found

    def gates(self) -> list[GateResult]:
        """Check the metrics against the gates. Raises: GateFailed, with the numbers."""
        metrics = _metrics(self.evaluations)
        if self.store is None:
            found = check_gates(self.definition.evaluate.gate, metrics, {})
        else:
            found = _gates(self.definition, metrics, self.store, self.baseline)
        if not all(gate.passed for gate in found):
            raise GateFailed(found)
        return found

    def publish(self) -> tuple[Version, list[GateResult]]:
        """Publish the artifact if its gates hold, and move the aliases. Raises: GateFailed: nothing was published."""
        if self.store is None:
            raise Invalid("publishing needs a Redis: give the pipeline a client")
        gates = self.gates()
        self._tell("publish")
        made = contents(self.definition, self.sides, self.evaluations)
        notes: dict[str, Any] = {f"gate {gate.metric}": str(gate) for gate in gates}
        name = self.definition.artifact.name
        version, _ = publish(self.store, name, made, self.definition.artifact.promote, **notes)
        return version, gates

    def run(self, deploy: bool = True) -> Result:
        """Run all steps, and deploy if the definition has a [deploy] table.

        Args:   deploy: False to skip deployment.
        Raises: Invalid, GateFailed, NotParity, ExportRefused: nothing was published.   redis.RedisError.
        """
        check_words(self.definition)
        version, gates = self.publish()
        deployed = self.deploy(version) if deploy else []
        return Result(version, self.evaluations, _metrics(self.evaluations), gates, deployed)

    def deploy(self, version: Version) -> list[Deployed]:
        """Serve a version under the definition's key, after the server has recomputed its predictions."""
        place = self.definition.deploy
        if place is None or self.store is None:
            return []
        self._tell("deploy")
        settings = Settings(place.device, place.batchsize, place.minbatchsize, place.minbatchtimeout)
        named = titles(self.definition)
        keys = {target: place.key if len(named) == 1 else f"{place.key}:{target}" for target in named}
        return [
            deploy(self.store, str(version), keys[target], settings, title, verify=True)
            for target, title in named.items()
        ]

    @property
    def steps(self) -> list[str]:
        """Names of all steps, in order."""
        targets = self.definition.dataset.targets
        ends = ["publish", "deploy"] if self.definition.deploy else ["publish"]
        return ["load", "split", *(f"train {t}" for t in targets), *(f"evaluate {t}" for t in targets), *ends]

    def _tell(self, step: str) -> None:
        steps = self.steps
        self._progress(step, steps.index(step) if step in steps else len(steps), len(steps))

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.definition.as_toml())}</pre>"


def run(definition: Definition, client: AnyClient, directory: Path | str = ".", **options: Any) -> Result:
    """Run a definition; see `Pipeline`."""
    return Pipeline(definition, client, directory, **options).run()
