"""Publishing while training: export the model to ONNX, check it on the server that will run it, and replace it live.

    publisher = Publisher("redis://127.0.0.1:6390", model, "rec", example=(users, history), every=100)
    ...
    publisher.step(step)

The server replaces a model between two requests; no request fails. A model that differs from the trained one is not
published.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
import torch

from redisai_py.artifacts import ArtifactError, Invalid, NotParity, Parity, Predictions, Store, Tolerance, digest_of
from redisai_py.artifacts.connection import AnyClient
from redisai_py.artifacts.errors import needing
from redisai_py.artifacts.parity import check_parity, serving
from redisai_py.training.link import open_store
from redisai_py.training.ranks import rank

__all__ = ["Published", "Publisher", "publish"]

_logger = logging.getLogger("redisai_py.training")


@dataclass(frozen=True)
class Published:
    """A model that is now served.   digest: of its ONNX file.   seconds: duration, including the export."""

    key: str
    digest: str
    parity: Parity
    seconds: float


class Publisher:
    """Publishes a model under a key repeatedly.

    Args:   client: of `redisai serve`, or its URL.   example: inputs of the model, each (rows, ...); used to check
            parity. The first dimension is dynamic in the served model.
            every: `step` publishes at multiples of this number.   run: whose log records each publication.
            device, settings: as for `Client.modelstore`, for example `batch=64`.   inputs, outputs: names in ONNX.
    Raises: Invalid: no example, or it has no rows.
    """

    def __init__(
        self,
        client: AnyClient,
        model: torch.nn.Module,
        key: str,
        example: Sequence[torch.Tensor],
        *,
        every: int = 1,
        run: str | None = None,
        device: str = "CPU",
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        tolerance: Tolerance | None = None,
        prefix: str = "ai:",
        **settings: Any,
    ) -> None:
        if every < 1:
            raise Invalid(f"every must be at least 1, not {every}")
        if not example or any(value.ndim == 0 or not len(value) for value in example):
            raise Invalid("publishing needs an example: the model's inputs, each with rows as its first dimension")
        self._store: Store = open_store(client, prefix)
        self._model, self._key, self._every, self._run = model, key, every, run
        self._example = tuple(value.detach().to("cpu").clone() for value in example)
        self._inputs = list(inputs) if inputs else [f"input_{place}" for place in range(len(example))]
        self._outputs = list(outputs) if outputs else None
        self._tolerance, self._device, self._settings = tolerance, device, settings
        self._graph = _Graph()

    def step(self, step: int) -> Published | None:
        """Publish at every `every`th step, on rank 0.

        Returns: the publication, or None. A failure is logged, and training goes on.
        """
        if step % self._every or rank():
            return None
        try:
            return self.publish(step)
        except (ArtifactError, redis.RedisError) as error:
            _logger.warning("the model of step %d was not published as %s: %s", step, self._key, error)
            return None

    def publish(self, step: int | None = None) -> Published:
        """Publish now.

        Raises: NotParity: the server computes something else; it still serves the previous model.   Invalid: the model
                cannot be exported.   redis.RedisError: the server refused it, or is unreachable.
        """
        began = time.monotonic()
        model = _copied(self._model)
        with torch.no_grad():
            found = model(*self._example)
        values = list(found) if isinstance(found, (tuple, list)) else [found]
        outputs = self._outputs or [f"output_{place}" for place in range(len(values))]
        predictions = Predictions(
            {name: value.numpy() for name, value in zip(self._inputs, self._example, strict=True)},
            {name: value.numpy() for name, value in zip(outputs, values, strict=True)},
        )
        blob, parity = self._checked(model, outputs, predictions)
        digest = digest_of(blob)
        tag = f"{self._run or 'training'} {'' if step is None else f'step {step} '}{digest}"
        serving(self._store.redis).modelstore(self._key, "ONNX", self._device, data=blob, tag=tag, **self._settings)
        self._note(step, digest, parity)
        return Published(self._key, digest, parity, time.monotonic() - began)

    def _checked(self, model: Any, outputs: list[str], predictions: Predictions) -> tuple[bytes, Parity]:
        """The known graph with the new parameters, or a new export if that graph is no longer the same model."""
        blob = self._graph.filled(model)
        if blob is not None:
            try:
                return blob, self._parity(blob, predictions)
            except NotParity:
                pass
        blob = self._graph.export(model, self._example, self._inputs, outputs)
        return blob, self._parity(blob, predictions)

    def _parity(self, blob: bytes, predictions: Predictions) -> Parity:
        words = {"backend": "ONNX", "device": self._device}
        return check_parity(self._store, self._key, [blob], words, predictions, self._tolerance)

    def _note(self, step: int | None, digest: str, parity: Parity) -> None:
        if self._run is None:
            return
        fields: dict[str, str | int] = {"key": self._key, "sha256": digest, "difference": f"{parity.difference:.3g}"}
        if step is not None:
            fields["step"] = step
        self._store.registry("run").note(self._run, "publish", fields)


def publish(
    client: AnyClient, model: torch.nn.Module, key: str, example: Sequence[torch.Tensor], **settings: Any
) -> Published:
    """Publish a model once; see `Publisher`."""
    return Publisher(client, model, key, example, **settings).publish()


def _copied(model: Any) -> Any:
    """A copy of the model, on the CPU and in inference mode; the trained model stays in training mode."""
    import copy

    bare = getattr(model, "module", model) if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model
    return copy.deepcopy(getattr(bare, "_orig_mod", bare)).to("cpu").eval()


class _Graph:
    """A model's ONNX file, exported once. Later only its parameters are replaced, which takes milliseconds."""

    def __init__(self) -> None:
        self._proto: Any = None

    def export(
        self, model: Any, example: Sequence[torch.Tensor], inputs: Sequence[str], outputs: Sequence[str]
    ) -> bytes:
        """Export again. Raises: Invalid: the model cannot be exported, or onnx is not installed."""
        with needing("publishing needs onnx and onnxscript", "train"):
            import onnxscript  # noqa: F401
        rows = torch.export.Dim("rows")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch's exporter warns about its own internals
                program = torch.onnx.export(
                    model, tuple(example), dynamo=True, external_data=False, verbose=False, input_names=list(inputs),
                    output_names=list(outputs), dynamic_shapes=tuple({0: rows} for _ in example), optimize=False,
                )  # fmt: skip
            assert program is not None
            self._proto = program.model_proto
        except Exception as error:
            raise Invalid(f"the model cannot be exported to ONNX: {_first_cause(error)}") from error
        return bytes(self._proto.SerializeToString())

    def filled(self, model: Any) -> bytes | None:
        """The known graph with the model's parameters; None without a graph, or if its parameters differ."""
        if self._proto is None:
            return None
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        names = {tensor.name: tensor for tensor in self._proto.graph.initializer}
        if not {name for name, _ in model.named_parameters()} <= names.keys():
            return None
        for name in names.keys() & state.keys():
            values = state[name].detach().contiguous()
            if list(names[name].dims) != list(values.shape) or not names[name].HasField("raw_data"):
                return None
            names[name].raw_data = values.reshape(-1).view(torch.uint8).numpy().tobytes()
        return bytes(self._proto.SerializeToString())


def _first_cause(error: BaseException) -> str:
    """The exporter's actual error, without its advice and colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines and lines[0].isprintable() else repr(error)
