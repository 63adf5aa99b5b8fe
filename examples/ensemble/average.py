"""An ensemble as one command: three models read the same images in parallel, a script averages what they say.

    python -m examples.ensemble.average [--url redis://HOST:PORT]

The network runs in PyTorch, the forest and the nearest neighbours in ONNX Runtime, the average is TorchScript, and the
client sends and gets one message. What comes back must be the average of what the models say on their own, without a
server; the exit status is 1 if it is not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from examples.digits import classifiers, cnn
from examples.digits.data import Digits, digits
from examples.own_server import server_url
from redisai_py import Client

__all__ = ["AVERAGE", "MODELS", "classify", "main", "store"]

PREFIX = "demo:ensemble:"
MODELS = ("network", "forest", "neighbours")
CLOSE = 1e-5

AVERAGE = """
def average(tensors: List[Tensor], keys: List[str], args: List[str]):
    probabilities = torch.mean(torch.stack(tensors), 0)
    return probabilities, torch.argmax(probabilities, 1)
"""

Offline = Callable[[NDArray[np.float32]], NDArray[Any]]


def store(client: Client, learn: Digits) -> dict[str, Offline]:
    """Train and store the models and the script; gives each model's own answer without the server."""
    network = cnn.train(learn)
    forest = classifiers.random_forest(learn)
    neighbours = classifiers.nearest_neighbours(learn)
    client.modelstore(PREFIX + "network", "TORCH", "CPU", cnn.to_torchscript(network))
    client.modelstore(PREFIX + "forest", "ONNX", "CPU", classifiers.to_onnx(forest))
    client.modelstore(PREFIX + "neighbours", "ONNX", "CPU", classifiers.to_onnx(neighbours))
    client.scriptstore(PREFIX + "script", "CPU", AVERAGE, "average")
    return {"network": network.predict, "forest": forest.predict_proba, "neighbours": neighbours.predict_proba}


def classify(client: Client, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(probabilities (N, 10), labels (N,)) of images (N, 64): one AI.DAGEXECUTE, which leaves no key behind.

    Raises: the error of the first operation that failed.
    """
    replies = (
        client.dag(routing=PREFIX)
        .tensorset("images", images)
        .modelexecute(PREFIX + "network", "images", "a")
        .modelexecute(PREFIX + "forest", "images", ["label b", "b"])
        .modelexecute(PREFIX + "neighbours", "images", ["label c", "c"])
        .scriptexecute(PREFIX + "script", "average", inputs=["a", "b", "c"], outputs=["probabilities", "labels"])
        .tensorget("probabilities")
        .tensorget("labels")
        .execute()
    )
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies[-2], replies[-1]


def _table(accuracies: dict[str, float]) -> Table:
    table = Table(title="One AI.DAGEXECUTE for all held-out images")
    table.add_column("", no_wrap=True)
    table.add_column("accuracy", justify="right", no_wrap=True)
    for name, accuracy in accuracies.items():
        table.add_row(name, f"{accuracy:.1%}", end_section=name == MODELS[-1])
    return table


def main(argv: list[str] | None = None) -> int:
    """The demo. Returns the exit status: 1 if the ensemble's answer is not the average of its members'."""
    parser = argparse.ArgumentParser(description="Three models in parallel, averaged by a script, in one command.")
    parser.add_argument("--url", help="a running server, redis://HOST:PORT; by default one is started")
    arguments = parser.parse_args(argv)
    console = Console()
    learn, held_out = digits()
    with server_url(arguments.url) as url, Client.from_url(url) as client:
        with console.status("train and store three models"):
            offline = store(client, learn)
        probabilities, labels = classify(client, held_out.images)
        client.delete(*(PREFIX + name for name in (*MODELS, "script")))
    members = {name: predict(held_out.images) for name, predict in offline.items()}
    accuracies = {name: float((answer.argmax(1) == held_out.labels).mean()) for name, answer in members.items()}
    console.print(_table(accuracies | {"their average": float((labels == held_out.labels).mean())}))
    difference = np.abs(probabilities - np.mean(list(members.values()), axis=0)).max()
    console.print(f"Largest difference from the average of the models' own answers: {difference:.0e}")
    return 0 if difference <= CLOSE else 1


if __name__ == "__main__":
    sys.exit(main())
