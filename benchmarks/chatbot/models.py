"""The two models: one GRU step of 256 floats of state, and the chatbot's own network.

Both are kept in a directory, where the programs under measurement find them; the chatbot's is trained when it is not
there yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from examples.chatbot.shapes import version

__all__ = ["GRU_MESSAGE", "GRU_STATE", "Models", "build_gru", "prepare"]

GRU_MESSAGE = 128
"""Floats of a message and of a reply."""
GRU_STATE = 256
_OPSET = 18
_IR_VERSION = 9


@dataclass(frozen=True, slots=True)
class Models:
    """Where the models are: ONNX files, and the chatbot's script beside its vocabulary."""

    directory: Path

    @property
    def gru(self) -> Path:
        """`build_gru`'s."""
        return self.directory / "gru.onnx"

    @property
    def chatbot(self) -> Path:
        """The chatbot's network."""
        return self.directory / "chatbot.onnx"

    @property
    def script(self) -> Path:
        """The chatbot's TorchScript."""
        return self.directory / "chatbot.script"

    @property
    def vocabulary(self) -> Path:
        """The words of messages, one per line, for programs that read them without the script."""
        return self.directory / "vocabulary.txt"


def build_gru() -> bytes:
    """One step of a GRU and a projection, ONNX, with weights from a fixed seed and a dynamic first dimension b.

    Inputs: message FLOAT (b, 128), state FLOAT (b, 256).   Outputs: reply FLOAT (b, 128), new_state FLOAT (b, 256).
    """
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))

    constants = {
        "input_weights": weights(1, 3 * GRU_STATE, GRU_MESSAGE),
        "state_weights": weights(1, 3 * GRU_STATE, GRU_STATE),
        "projection": weights(GRU_STATE, GRU_MESSAGE),
        "time": np.array([0]),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["message", "time"], ["sequence"]),
        helper.make_node("Unsqueeze", ["state", "time"], ["before"]),
        helper.make_node(
            "GRU",
            ["sequence", "input_weights", "state_weights", "", "", "before"],
            ["", "after"],
            hidden_size=GRU_STATE,
        ),
        helper.make_node("Squeeze", ["after", "time"], ["new_state"]),
        helper.make_node("MatMul", ["new_state", "projection"], ["reply"]),
    ]
    graph = helper.make_graph(
        nodes,
        "gru",
        [_value("message", GRU_MESSAGE), _value("state", GRU_STATE)],
        [_value("reply", GRU_MESSAGE), _value("new_state", GRU_STATE)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _value(name: str, columns: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", columns])


def prepare(directory: Path, training_steps: int | None = None) -> Models:
    """Both models in a directory of their own version; trains the chatbot's, for a minute, if it is not there.

    Args: training_steps: None for a full training; a network trained for less costs as much to run, but says nonsense.
    """
    from examples.chatbot.dialogues import Dialogues
    from examples.chatbot.training import train

    directory = directory / (version() + ("" if training_steps is None else f"-{training_steps}"))
    directory.mkdir(parents=True, exist_ok=True)
    models = Models(directory)
    models.gru.write_bytes(build_gru())
    if not models.script.exists():
        trained = train() if training_steps is None else train(steps=training_steps)
        words, _ = Dialogues().words()
        models.vocabulary.write_text("".join(f"{word}\n" for word in words))
        models.chatbot.write_bytes(trained.model)
        models.script.write_text(trained.script)  # last: it stands for all of them
    return models
