"""Handwritten digits: one network in four frameworks and a scikit-learn pipeline, run through the server.

    python -m examples.digits.demo [--url redis://HOST:PORT] [--images N]

Every held-out image is classified on its own and twice by every model: by plain redis-py, and by our client. Both must
say what the framework itself says without any server; the exit status is 1 if one of them does not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.digits.data import Digits, digits
from examples.digits.models import Entry, build
from examples.own_server import server_url
from redisai_py import Client

__all__ = ["Result", "classify_with_client", "classify_with_redis_py", "main", "measure"]

PREFIX = "demo:digits:"
CLOSE = 1e-5
"""Largest difference of a probability: frameworks may add in another order for one image than for many."""

Classify = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Result:
    """One model's answers, through the server and without it.

    accuracy: share of right answers through the server.   largest_difference: of any probability.
    same: for each client, images with the framework's own answer.
    """

    entry: Entry
    images: int
    accuracy: float
    same: tuple[int, ...]
    largest_difference: float

    @property
    def agrees(self) -> bool:
        """Whether every answer is the framework's own."""
        return all(count == self.images for count in self.same) and self.largest_difference <= CLOSE


def classify_with_redis_py(client: redis.Redis, entry: Entry) -> Classify:
    """How a program that knows nothing of us does it: three commands, sent together."""
    model, image, result = (PREFIX + name for name in (entry.name, "image", "probabilities"))
    outputs = [*(PREFIX + name for name in entry.extra_outputs), result]

    def classify(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        pipeline: Any = client.pipeline(transaction=False)
        pipeline.execute_command("AI.TENSORSET", image, "FLOAT", 1, len(pixels), "BLOB", pixels.tobytes())
        pipeline.execute_command("AI.MODELEXECUTE", model, "INPUTS", 1, image, "OUTPUTS", len(outputs), *outputs)
        pipeline.execute_command("AI.TENSORGET", result, "BLOB")
        return np.frombuffer(pipeline.execute()[2], np.float32)

    return classify


def classify_with_client(client: Client, entry: Entry) -> Classify:
    """The same with our client: arrays in, arrays out."""
    model, image, result = (PREFIX + name for name in (entry.name, "image", "probabilities"))
    outputs = [*(PREFIX + name for name in entry.extra_outputs), result]

    def classify(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        client.tensorset(image, pixels[np.newaxis])
        client.modelexecute(model, image, outputs)
        probabilities: NDArray[np.float32] = client.tensorget(result)[0]
        return probabilities

    return classify


def measure(
    entry: Entry, held_out: Digits, plain: redis.Redis, client: Client, advance: Callable[[], object]
) -> Result:
    """Store the model and classify every image, with each client. `advance` is called once per image and client."""
    client.modelstore(PREFIX + entry.name, entry.backend, "CPU", entry.blob, inputs=entry.inputs, outputs=entry.outputs)
    expected = entry.offline(held_out.images)
    answers = []
    for classify in (classify_with_redis_py(plain, entry), classify_with_client(client, entry)):
        rows = []
        for pixels in held_out.images:
            rows.append(classify(pixels))
            advance()
        answers.append(np.stack(rows))
    return Result(
        entry=entry,
        images=len(expected),
        accuracy=float((answers[-1].argmax(1) == held_out.labels).mean()),
        same=tuple(int((answer.argmax(1) == expected.argmax(1)).sum()) for answer in answers),
        largest_difference=max(float(np.abs(answer - expected).max()) for answer in answers),
    )


def _table(results: list[Result]) -> Table:
    table = Table(
        title=f"{results[0].images} held-out images, classified one by one through the server",
        caption="redis-py, client: answers that are the framework's own; off by: largest difference of a probability",
        caption_justify="left",
    )
    for heading in ("model", "backend", "bytes", "accuracy", "redis-py", "client", "off by"):
        table.add_column(heading, justify="left" if heading in ("model", "backend") else "right", no_wrap=True)
    for result in results:
        table.add_row(
            result.entry.name,
            result.entry.backend,
            f"{len(result.entry.blob):,}",
            f"{result.accuracy:.1%}",
            *(f"{count} / {result.images}" for count in result.same),
            f"{result.largest_difference:.0e}",
            style=None if result.agrees else "bold red",
        )
    return table


def _run(url: str, images: int | None, console: Console) -> list[Result]:
    learn, held_out = digits()
    held_out = Digits(held_out.images[:images], held_out.labels[:images])
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    results: list[Result] = []
    with redis.Redis.from_url(url) as plain, Client.from_url(url) as client:
        with Progress(*columns, console=console, transient=True) as progress:
            training = progress.add_task("train and export", total=None)
            for entry in build(learn):
                task = progress.add_task(entry.name, total=2 * len(held_out.images))
                results.append(measure(entry, held_out, plain, client, partial(progress.advance, task)))
            progress.update(training, total=1, completed=1)
        names = {name for result in results for name in (result.entry.name, *result.entry.extra_outputs)}
        plain.delete(*(PREFIX + name for name in names | {"image", "probabilities"}))
    return results


def main(argv: list[str] | None = None) -> int:
    """The demo. Returns the exit status: 1 if an answer differs from the framework's own."""
    parser = argparse.ArgumentParser(description="Classify handwritten digits through the server, in every framework.")
    parser.add_argument("--url", help="a running server, redis://HOST:PORT; by default one is started")
    parser.add_argument("--images", type=int, help="how many of the 450 held-out images to use; by default all")
    arguments = parser.parse_args(argv)
    console = Console()
    with server_url(arguments.url) as url:
        results = _run(url, arguments.images, console)
    console.print(_table(results))
    if all(result.agrees for result in results):
        console.print("Every answer is the framework's own.")
        return 0
    console.print("[bold red]Some answers differ from the framework's own.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
