"""What the demo stores: a trained model in the format of a backend, and the framework's own answer to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.digits import classifiers, cnn
from examples.digits.data import Digits

__all__ = ["Entry", "build"]

Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Entry:
    """One model to store.

    name: also the end of its key.   backend: wire name.   blob: what AI.MODELSTORE takes.
    offline: images (N, 64) -> probabilities (N, 10), by the framework itself, without the server.
    inputs, outputs: node names; the protocol asks for them for TF only.   extra_outputs: names before `probabilities`.
    """

    name: str
    backend: str
    blob: bytes
    offline: Callable[[NDArray[np.float32]], Probabilities]
    inputs: str | None = None
    outputs: str | None = None
    extra_outputs: tuple[str, ...] = ()


def build(learn: Digits) -> Iterator[Entry]:
    """Train and export, one entry after another: the network in all four backends, scikit-learn's pipeline in ONNX."""
    network = cnn.train(learn)
    yield Entry("cnn-torch", "TORCH", cnn.to_torchscript(network), network.predict)
    blob = cnn.to_onnx(network)
    yield Entry("cnn-onnx", "ONNX", blob, _with_onnxruntime(blob))
    blob = cnn.to_tensorflow(network)
    yield Entry("cnn-tf", "TF", blob, _with_tensorflow(blob), "image", "probabilities")
    blob = cnn.to_tflite(network)
    yield Entry("cnn-tflite", "TFLITE", blob, _with_litert(blob))
    pipeline = classifiers.regression_pipeline(learn)
    yield Entry("sklearn-onnx", "ONNX", classifiers.to_onnx(pipeline), pipeline.predict_proba, extra_outputs=("label",))


def _with_onnxruntime(blob: bytes) -> Callable[[NDArray[np.float32]], Probabilities]:
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(blob, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"image": images})[0]


def _with_tensorflow(blob: bytes) -> Callable[[NDArray[np.float32]], Probabilities]:
    import tensorflow as tf

    definition = tf.compat.v1.GraphDef.FromString(blob)
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(definition, name="")
    session = tf.compat.v1.Session(graph=graph)
    return lambda images: session.run("probabilities:0", {"image:0": images})


def _with_litert(blob: bytes) -> Callable[[NDArray[np.float32]], Probabilities]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter: Any = Interpreter(model_content=blob)

    def run(images: NDArray[np.float32]) -> Probabilities:
        (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(given["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        probabilities: Probabilities = interpreter.get_tensor(result["index"])
        return probabilities

    return run
