"""From a CSV file to predictions in Redis, through S3 and back.

    python -m examples.pipeline.demo [--archive URL]

A definition is run: the CSV file is split, a classifier trained, tested, exported and published as an artifact. The
artifact is pushed to S3 and its Redis emptied. A second server with a Redis of its own pulls and deploys it, and has to
give the predictions that the trained model gave. The exit status is 1 if one label differs, or a probability by more
than 1e-5. Without --archive an S3 server, SeaweedFS, is started here.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console

from examples.artifacts.s3 import seaweedfs
from examples.own_server import server_url
from examples.pipeline.make_data import write
from redisai_py import Client
from redisai_py.artifacts import Archive, Artifacts, Predictions
from redisai_py.pipeline.definition import Definition
from redisai_py.pipeline.run import Pipeline, Result

__all__ = ["main"]

BUCKET = "models"
FILE = Path(__file__).parent / "cancer.toml"
CLOSE = 1e-5


@contextmanager
def _archive(url: str | None) -> Iterator[Archive]:
    if url is not None:
        yield Archive(url)
        return
    with seaweedfs(BUCKET) as server:
        os.environ.update(server.environment)
        yield Archive(f"s3://{BUCKET}/pipeline")


def _first(url: str, archive: Archive, console: Console) -> Result:
    with tempfile.TemporaryDirectory() as directory, Client.from_url(url) as client:
        write(Path(directory, "data"))
        result = Pipeline(Definition.from_file(FILE), client, directory).run()
        for name, value in result.metrics.items():
            console.print(f"  {name} {value:.4f}")
        for gate in result.gates:
            console.print(f"  gate: {gate}")
        console.print(f"published {result.version} {result.version.digest[:19]}", highlight=False)
        with Artifacts(client) as artifacts:
            pushed = artifacts.push(["cancer"], archive)
        console.print(f"pushed to {archive.url}: {pushed.blobs} blobs, {pushed.bytes:,} bytes")
        client.flushall()
        console.print("FLUSHALL: the first Redis is empty")
        return result


def _second(url: str, archive: Archive, result: Result, console: Console) -> bool:
    with Client.from_url(url) as client, Artifacts(client) as artifacts:
        artifacts.pull(archive, ["cancer@production"])
        done = artifacts.deploy("cancer@production", "cancer", verify=True)
        console.print(f"the second server pulled {done.version} and deployed it: {done.parity[0]}")
        kept = Predictions.from_parquet(artifacts.get("cancer@production").read("predictions.parquet"))
        replies = (
            client.dag(routing="cancer")
            .tensorset("numbers", kept.inputs["numbers"])
            .modelexecute("cancer", ["numbers"], ["label", "probabilities"])
            .tensorget("label")
            .tensorget("probabilities")
            .execute()
        )
        labels, probabilities = replies[-2], replies[-1]
        same = int((labels.astype(str) == kept.outputs["label"].astype(str)).sum())
        off = float(np.abs(probabilities - kept.outputs["probabilities"]).max())
        console.print(f"{same} of {kept.rows} labels are those of the trained model; probabilities off by {off:.2g}")
        return same == kept.rows and off <= CLOSE and done.version.digest == result.version.digest


def main(argv: list[str] | None = None) -> int:
    """The demo. Returns the exit status: 1 if a prediction differs."""
    parser = argparse.ArgumentParser(description="CSV to artifact to S3 to another Redis to the same predictions.")
    parser.add_argument("--archive", help="s3://BUCKET/PREFIX or a directory; by default an S3 server is started")
    arguments = parser.parse_args(argv)
    console = Console()
    began = time.monotonic()
    with ExitStack() as stack:
        with console.status("starting two servers and S3"):
            archive = stack.enter_context(_archive(arguments.archive))
            first, second = (stack.enter_context(server_url()) for _ in range(2))
        result = _first(first, archive, console)
        same = _second(second, archive, result, console)
    verdict = "The same model, by digest and by prediction" if same else "Something differs"
    console.print(f"{verdict}; {time.monotonic() - began:.0f} s")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
