"""A model's life: published, archived in S3, lost with everything else, pulled elsewhere, deployed, the same.

    python -m examples.artifacts.demo [--archive URL]

A digits classifier is trained and published with its test's predictions, pushed to S3, and its Redis is emptied. A
second server with a Redis of its own pulls and deploys it. The exit status is 1 if that one predicts anything else than
scikit-learn predicted in the first place. Without --archive an S3 server, SeaweedFS, is started here.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from examples.artifacts.s3 import seaweedfs
from examples.digits import classifiers
from examples.digits.data import Digits, digits
from examples.own_server import server_url
from redisai_py import Client
from redisai_py.artifacts import Archive, Artifacts, Contents, Predictions, environment

__all__ = ["main"]

BUCKET = "models"


@contextmanager
def _archive(url: str | None) -> Iterator[Archive]:
    if url is not None:
        yield Archive(url)
        return
    with seaweedfs(BUCKET) as server:
        os.environ.update(server.environment)
        yield Archive(f"s3://{BUCKET}/demo")


def _contents(learn: Digits, held_out: Digits) -> Contents:
    """The trained pipeline in ONNX, and what scikit-learn itself says of the held-out images."""
    pipeline = classifiers.regression_pipeline(learn)
    probabilities = pipeline.predict_proba(held_out.images).astype(np.float32)
    labels = pipeline.predict(held_out.images).astype(np.int64)
    return Contents(
        classifiers.to_onnx(pipeline),
        backend="ONNX",
        metrics={"accuracy": float((labels == held_out.labels).mean())},
        predictions=Predictions({"image": held_out.images}, {"label": labels, "probabilities": probabilities}),
        environment=environment(),
    )


def _predict(client: Client, key: str, images: NDArray[np.float32]) -> NDArray[np.int64]:
    replies = client.dag(routing=key).tensorset("image", images).modelexecute(key, "image", ["label", "p"])
    labels: NDArray[np.int64] = replies.tensorget("label").execute()[-1]
    return labels


def _run(archive: Archive, first: str, second: str, console: Console) -> bool:
    learn, held_out = digits()
    with Client.from_url(first) as client, console.status("training, publishing, pushing"):
        here = Artifacts(client, actor="demo")
        contents = _contents(learn, held_out)
        version = here.publish("digits", contents, aliases=["production"], verify=True)
        console.print(f"published {version}, its {len(held_out.labels)} predictions recomputed by the server")
        pushed = here.push(["digits"], archive)
        console.print(f"pushed to {archive.url}: {pushed.blobs} blobs, {pushed.bytes:,} bytes")
        client.flushall()
        console.print("FLUSHALL: the first Redis is empty")
    with Client.from_url(second) as client, console.status("pulling, deploying"):
        there = Artifacts(client, actor="demo")
        pulled = there.pull(archive, ["digits@production"])
        done = there.deploy("digits@production", "digits", verify=True)
        console.print(f"the second server pulled {pulled.versions[0]} and deployed it: {done.parity[0]}")
        kept = Predictions.from_parquet(there.get("digits@production").read("predictions.parquet"))
        labels = _predict(client, "digits", held_out.images)
        same = int((labels == kept.outputs["label"]).sum())
        console.print(f"{same} of {len(labels)} labels are those that scikit-learn predicted")
        return same == len(labels) and done.version.digest == version.digest and not there.verify()


def main(argv: list[str] | None = None) -> int:
    """The demo. Returns the exit status: 1 if a prediction differs."""
    parser = argparse.ArgumentParser(description="Publish, archive, lose, pull and deploy a model.")
    parser.add_argument("--archive", help="s3://BUCKET/PREFIX or a directory; by default an S3 server is started")
    arguments = parser.parse_args(argv)
    console = Console()
    began = time.monotonic()
    with ExitStack() as stack:
        with console.status("starting two servers and S3"):
            archive = stack.enter_context(_archive(arguments.archive))
            first, second = (stack.enter_context(server_url()) for _ in range(2))
        same = _run(archive, first, second, console)
    verdict = "The same model, by digest and by prediction" if same else "Something differs"
    console.print(f"{verdict}; {time.monotonic() - began:.0f} s")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
