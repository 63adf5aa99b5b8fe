"""Publishing: a model and its evidence become a version."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from redisai_py.artifacts.digest import Buffer
from redisai_py.artifacts.errors import Invalid
from redisai_py.artifacts.leases import Lease
from redisai_py.artifacts.manifest import Descriptor, encode_json
from redisai_py.artifacts.models import ModelFile, check_no_pickle, head_of, model_file
from redisai_py.artifacts.parity import Parity, Tolerance, check_parity
from redisai_py.artifacts.predictions import Predictions
from redisai_py.artifacts.registry import Version
from redisai_py.artifacts.store import Store, chunks_of

__all__ = ["BACKEND", "INPUTS", "MODEL", "OUTPUTS", "Contents", "environment", "publish"]

WEIGHTS = "application/vnd.cncf.model.weight.v1.raw"
WEIGHTS_CONFIG = "application/vnd.cncf.model.weight.config.v1.raw"
DOCUMENT = "application/vnd.cncf.model.doc.v1.raw"
CODE = "application/vnd.cncf.model.code.v1.raw"
DATA = "application/vnd.cncf.model.dataset.v1.raw"

BACKEND, INPUTS, OUTPUTS = "io.redisai.backend", "io.redisai.inputs", "io.redisai.outputs"
MODEL = "io.redisai.model"
"""Annotation of predictions: the title of the model that made them."""

_PACKAGES = (
    "lightgbm", "numpy", "onnx", "onnxmltools", "onnxruntime", "pandas", "pyarrow", "redisai_py", "scikit-learn",
    "scipy", "skl2onnx", "tensorflow", "tensorflow-cpu", "torch", "xgboost",
)  # fmt: skip

Bytes = Buffer | str | os.PathLike[str]
"""Bytes, or the path of a file."""


class Contents:
    """The contents of a version. Only one model is required.

    model:       bytes, a file or the directory of a SavedModel; or several by title, for example one per target.
    backend:     ONNX, TORCH, TF or TFLITE; by default from the file name.   inputs, outputs: node names, for TF.
    metrics:     numbers by name, for example {"accuracy": 0.97}.
    predictions: `Predictions`, by the model's title if there are several; or a Parquet file of any other form.
    analysis:    JSON: confusion matrix, importances, drift ...   plots: PNG files by name.
    environment: JSON; `environment()` returns the current one.   definition: how it was made, text or a file.
    files:       other files by name; no pickles.   data: rows by name, such as the training rows, as Parquet.
    lineage:     digests by name: of the training data, of the initial version.
    """

    def __init__(
        self,
        model: Bytes | Mapping[str, Bytes],
        *,
        backend: str | None = None,
        inputs: Sequence[str] = (),
        outputs: Sequence[str] = (),
        metrics: Mapping[str, float] | None = None,
        predictions: Predictions | Bytes | Mapping[str, Predictions] | None = None,
        analysis: Any = None,
        plots: Mapping[str, Bytes] | None = None,
        environment: Any = None,
        definition: Bytes | None = None,
        files: Mapping[str, Bytes] | None = None,
        data: Mapping[str, Bytes] | None = None,
        lineage: Mapping[str, str] | None = None,
    ) -> None:
        named = model if isinstance(model, Mapping) else {None: model}
        self.models = [model_file(source, backend, title, inputs, outputs) for title, source in named.items()]
        if not self.models:
            raise Invalid("an artifact needs a model")
        self.lineage = dict(lineage or {})
        self.predictions = _predictions_of(self.models, predictions)
        self.documents: list[tuple[str, str, Bytes]] = []
        for title, value in (("metrics.json", metrics), ("analysis.json", analysis)):
            if value is not None:
                self.documents.append((title, DOCUMENT, encode_json(value)))
        if environment is not None:
            self.documents.append(("environment.json", WEIGHTS_CONFIG, encode_json(environment)))
        if definition is not None:
            self.documents.append(_definition(definition))
        self.documents += [(name, DOCUMENT, source) for name, source in sorted((plots or {}).items())]
        self.documents += [(name, CODE, source) for name, source in sorted((files or {}).items())]
        self.documents += [(name, DATA, source) for name, source in sorted((data or {}).items())]


def _definition(definition: Bytes) -> tuple[str, str, Bytes]:
    if isinstance(definition, os.PathLike):
        return Path(definition).name, CODE, definition
    return "definition.toml", CODE, definition.encode() if isinstance(definition, str) else definition


def _predictions_of(
    models: Sequence[ModelFile], given: Predictions | Bytes | Mapping[str, Predictions] | None
) -> list[tuple[str, str, Bytes | Predictions]]:
    """(title, title of the model, content) of each predictions file."""
    if given is None:
        return []
    if isinstance(given, Mapping):
        titles = {model.title for model in models}
        if unknown := sorted(set(given) - titles):
            raise Invalid(
                f"there are predictions of {', '.join(unknown)}, but the models are {', '.join(sorted(titles))}"
            )
        return [(f"predictions-{title}.parquet", title, found) for title, found in sorted(given.items())]
    if len(models) > 1:
        raise Invalid("there are several models: give predictions by the model's title")
    return [("predictions.parquet", models[0].title, given)]


def publish(
    store: Store,
    name: str,
    contents: Contents,
    aliases: Sequence[str] = (),
    verify: bool = False,
    tolerance: Tolerance | None = None,
    **note: str | int,
) -> tuple[Version, list[Parity]]:
    """Publish contents as a version. Equal contents are the same version, whoever publishes them.

    Args:    verify: let the server recompute the predictions first; needs `redisai serve`.
             note: further fields for the log.
    Returns: the version, and the results of `verify`.
    Raises:  NotParity: nothing was published.   TypeError: not Contents.   Invalid, OSError, redis.RedisError.
    """
    if not isinstance(contents, Contents):
        raise TypeError(f"publish takes Contents(model, ...), not {type(contents).__name__}")
    checked = _verify(store, contents, tolerance) if verify else []
    with store.lease() as lease:
        layers = [_model_layer(store, model, lease) for model in contents.models]
        for title, model, found in contents.predictions:
            data = found.to_parquet() if isinstance(found, Predictions) else found
            layers.append(_layer(store, title, DATA, data, lease, {MODEL: model}))
        layers += [_layer(store, title, kind, source, lease) for title, kind, source in contents.documents]
        manifest = store.manifest(_config(name, contents, layers), layers, lease)
        return store.commit("artifact", name, manifest, lease, None, aliases, False, **note), checked


def _verify(store: Store, contents: Contents, tolerance: Tolerance | None) -> list[Parity]:
    found = [(model, given) for _, model, given in contents.predictions if isinstance(given, Predictions)]
    if not found:
        raise Invalid("verifying needs predictions with their inputs and outputs")
    models = {model.title: model for model in contents.models}
    done = []
    for title, predictions in found:
        model = models[title]
        settings: dict[str, Any] = {"backend": model.backend, "device": "CPU"}
        if model.inputs:
            settings |= {"inputs": list(model.inputs), "outputs": list(model.outputs)}
        blob: Any = list(chunks_of(model.source))
        done.append(check_parity(store, title, blob, settings, predictions, tolerance))
    return done


def _model_layer(store: Store, model: ModelFile, lease: Lease) -> Descriptor:
    notes = {BACKEND: model.backend}
    if model.inputs:
        notes |= {INPUTS: " ".join(model.inputs), OUTPUTS: " ".join(model.outputs)}
    return store.put_layer(model.source, WEIGHTS, model.title, lease, compress=False, annotations=notes)


def _layer(
    store: Store, title: str, kind: str, source: Bytes, lease: Lease, notes: Mapping[str, str] | None = None
) -> Descriptor:
    given = Path(source) if isinstance(source, str) else source
    check_no_pickle(title, head_of(given if isinstance(given, (bytes, bytearray, memoryview)) else Path(given)))
    return store.put_layer(given, kind, title, lease, annotations=notes)


def _config(name: str, contents: Contents, layers: Sequence[Descriptor]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "descriptor": {"name": name},
        "config": {"format": contents.models[0].format},
        "modelfs": {"type": "layers", "diffIds": [layer.content_digest for layer in layers]},
    }
    if contents.lineage:
        config["lineage"] = contents.lineage
    return config


def environment() -> dict[str, Any]:
    """Python, packages, machine and the Git commit of the working directory, for the record."""
    packages = {}
    for package in _PACKAGES:
        try:
            packages[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "packages": packages,
        "machine": platform.machine(),
        "system": sys.platform,
    }
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False)
        if done.returncode == 0:
            found["git_commit"] = done.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        pass
    return found
