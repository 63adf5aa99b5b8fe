"""A small convolutional network for the digits: trained with torch, and exported for each of the four backends.

Every export takes `image`, float32 (N, 64), and gives `probabilities`, float32 (N, 10).
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from examples.digits.data import PIXELS, Digits

__all__ = ["Cnn", "to_onnx", "to_tensorflow", "to_tflite", "to_torchscript", "train"]

_EPOCHS = 20
_BATCH = 64


class Cnn(nn.Module):
    """Two convolutions of 3 x 3 with pooling, one linear layer: 6 090 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.last = nn.Linear(128, 10)

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        """Unnormalised scores (N, 10); what training needs."""
        x = torch.max_pool2d(torch.relu(self.first(image.reshape(-1, 1, 8, 8))), 2)
        x = torch.max_pool2d(torch.relu(self.second(x)), 2)
        scores: torch.Tensor = self.last(x.flatten(1))
        return scores

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.logits(image), dim=1)

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities (N, 10), by torch itself."""
        with torch.inference_mode():
            probabilities: NDArray[np.float32] = self(torch.from_numpy(images)).numpy()
        return probabilities


def train(learn: Digits) -> Cnn:
    """A trained network, in evaluation mode. Takes some seconds."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so little work is done faster without handing it around
    model = Cnn()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    images, labels = torch.from_numpy(learn.images), torch.from_numpy(learn.labels)
    for _ in range(_EPOCHS):
        for chosen in torch.randperm(len(images)).split(_BATCH):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model.logits(images[chosen]), labels[chosen])
            loss.backward()
            optimizer.step()
    return model.eval()


def to_torchscript(model: Cnn) -> bytes:
    """For backend TORCH."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        torch.jit.save(torch.jit.script(model), file)
    return file.getvalue()


def to_onnx(model: Cnn) -> bytes:
    """For backend ONNX; the number of images stays open."""
    rows = torch.export.Dim("rows")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it names every package that it could have used
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (torch.zeros(2, PIXELS),),
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_shapes=({0: rows},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def to_tensorflow(model: Cnn) -> bytes:
    """For backend TF: a frozen graph with the same weights; nodes `image` and `probabilities`."""
    tf = _tensorflow()
    graph = tf.Graph()
    with graph.as_default():
        image = tf.compat.v1.placeholder(tf.float32, [None, PIXELS], name="image")
        tf.identity(_same_in_tensorflow(tf, model, image), name="probabilities")
    return bytes(graph.as_graph_def().SerializeToString())


def to_tflite(model: Cnn) -> bytes:
    """For backend TFLITE: the same graph, converted."""
    tf = _tensorflow()
    module = tf.Module()
    module.probabilities = tf.function(
        lambda image: _same_in_tensorflow(tf, model, image),
        input_signature=[tf.TensorSpec([None, PIXELS], tf.float32, name="image")],
        autograph=False,
    )
    concrete = module.probabilities.get_concrete_function()
    return bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete], module).convert())


def _tensorflow() -> Any:
    # TensorFlow greets at length otherwise.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    return importlib.import_module("tensorflow")


def _same_in_tensorflow(tf: Any, model: Cnn, image: Any) -> Any:
    """The network in TensorFlow's words: channels last, and kernels turned to match."""
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    x = tf.reshape(image, [-1, 8, 8, 1])
    for layer in ("first", "second"):
        kernel = weights[f"{layer}.weight"].transpose(2, 3, 1, 0)  # out, in, y, x -> y, x, in, out
        x = tf.nn.relu(tf.nn.conv2d(x, kernel, strides=1, padding="SAME") + weights[f"{layer}.bias"])
        x = tf.nn.max_pool2d(x, 2, 2, "VALID")
    flat = tf.reshape(tf.transpose(x, [0, 3, 1, 2]), [-1, 128])  # torch flattens channels first
    return tf.nn.softmax(tf.matmul(flat, weights["last.weight"].T) + weights["last.bias"])
