"""`python -m examples.recommendation`: train if the server has no model, then a page, and a trainer that follows it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import redis
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from examples.chatbot.server import NotStarted, server_url
from examples.recommendation.clicks import Recommender, connect
from examples.recommendation.ratings import movielens
from examples.recommendation.shapes import TOP, Keys, version
from redisai_py import Client
from redisai_py.urls import masked_url

if TYPE_CHECKING:
    from examples.recommendation.measure import Load
    from examples.recommendation.training import Trained

app = typer.Typer(
    add_completion=False,
    help="Film recommendations that change with every click.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console(highlight=False)

Url = Annotated[str | None, typer.Option("--url", help="A running server; without it one is started.")]
DataDir = Annotated[Path, typer.Option("--data-dir", help="Where the server that is started keeps its data.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="TCP port of the page; 0: any free one.")]
Every = Annotated[int, typer.Option("--every", min=1, help="Clicks after which a new model is published.")]
ByScript = Annotated[bool, typer.Option("--by-script/--by-model", help="What shifts a history by a film.")]
_DATA_DIR = Path("data/recommendation")
_EVERY = 20


@app.callback(invoke_without_command=True)
def web(
    context: typer.Context,
    url: Url = None,
    data_dir: DataDir = _DATA_DIR,
    port: Port = 8000,
    every: Every = _EVERY,
    by_script: ByScript = False,
) -> None:
    """Show the page, and train beside it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started here is stopped then too
    if context.invoked_subcommand is not None:
        return
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        text = f"port {port} of 127.0.0.1: {os.strerror(error.errno or 0)}; choose another with --port"
        raise _failure(text) from error
    with listener, _ready(url, data_dir) as (address, keys), _trainer(address, every):
        console.print(f"The films are at [bold]http://127.0.0.1:{listener.getsockname()[1]}[/bold] (Ctrl-C ends)")
        asyncio.run(_serve(address, keys, by_script, listener))


async def _serve(address: str, keys: Keys, by_script: bool, listener: socket.socket) -> None:
    import uvicorn

    from examples.recommendation.web import page_app

    async with connect(address) as client:
        page = page_app(Recommender(client, keys, by_script), movielens())
        await uvicorn.Server(uvicorn.Config(page, log_level="warning")).serve(sockets=[listener])


@contextmanager
def _trainer(address: str, every: int) -> Iterator[None]:
    """A trainer in a process of its own: the page is not slower while it computes."""
    command = [sys.executable, "-m", "examples.recommendation", "follow", "--url", address, "--every", str(every)]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@app.command()
def follow(url: Url = None, data_dir: DataDir = _DATA_DIR, every: Every = _EVERY) -> None:
    """Learn from the clicks, and publish."""
    from examples.recommendation.follow import Differs, Follower

    with _ready(url, data_dir) as (address, keys), Client.from_url(address) as client:
        follower = Follower(client, keys, movielens(), every)
        waiting = True
        while True:
            try:
                published = follower.step()
                waiting = True
            except (redis.RedisError, Differs) as error:
                if waiting:  # said once, not at every attempt
                    console.print(f"Trainer: {error}; it goes on when that is over.")
                waiting = False
                time.sleep(1)
                continue
            if published:
                learnt = f"{published.clicks} clicks learnt, loss {published.loss:.2f}"
                console.print(f"Model {published.number} is published: {learnt}.")


@app.command()
def measure(url: Url = None, data_dir: DataDir = _DATA_DIR, seconds: float = 3.0) -> None:
    """Measure recall, time per click, and publishing under load."""
    from examples.recommendation.follow import store
    from examples.recommendation.measure import measure_clicks, measure_swaps

    keys, films = Keys("measured"), len(movielens().titles)
    with _server(url, data_dir) as address, Client.from_url(address) as client:
        network = _train().network
        store(client, keys, network, movielens())
        try:
            for by_script in (True, False):
                load = measure_clicks(address, keys, films, by_script, seconds)
                console.print(f"One viewer, history shifted by a {'script' if by_script else 'model'}: {_told(load)}")
            swaps = measure_swaps(address, keys, movielens(), network)
            console.print(f"{swaps.published} models published, {swaps.publish_ms:.0f} ms each; 4 viewers meanwhile:")
            console.print(f"{_told(swaps.load)}, {len(swaps.load.failures)} failed")
        finally:
            for key in client.scan_iter(f"films:{keys.version}:*"):
                client.delete(key)


def _told(load: Load) -> str:
    return f"p50 {load.p_ms(50):.2f} ms, p99 {load.p_ms(99):.2f} ms, {len(load.durations_s)} clicks"


@contextmanager
def _ready(url: str | None, data_dir: Path) -> Iterator[tuple[str, Keys]]:
    """URL of a server with the model in it, and its keys."""
    keys = Keys(version(movielens().titles))
    with _server(url, data_dir) as address:
        with Client.from_url(address) as client:
            if client.exists(*keys.needed) != len(keys.needed):
                from examples.recommendation.follow import store  # PyTorch, which takes seconds to import

                store(client, keys, _train().network, movielens())
        yield address, keys


@contextmanager
def _server(url: str | None, data_dir: Path) -> Iterator[str]:
    """URL of a server that answers; that it does not ends the program."""
    try:
        with server_url(url, data_dir) as address:
            try:
                with Client.from_url(address) as client:
                    client.ping()
            except ValueError as error:
                raise _failure(f"--url {masked_url(address)}: {error}") from error
            except redis.RedisError as error:
                raise _failure(f"the server at {masked_url(address)}: {error}") from error
            yield address
    except NotStarted as error:
        raise typer.Exit(1) from error


def _failure(text: str) -> typer.Exit:
    """Say what is wrong. Returns: what to raise."""
    typer.echo(f"recommendation: {text}", err=True)
    return typer.Exit(1)


def _train() -> Trained:
    from examples.recommendation.training import train

    columns = (
        TextColumn("Training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.2f}"),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", loss=float("nan"))
        trained = train(
            movielens(), lambda done, steps, loss: progress.update(bar, completed=done, total=steps, loss=loss)
        )
    times = trained.recall / trained.popular
    recalls = f"recall@{TOP} {trained.recall:.3f}, popularity {trained.popular:.3f}: {times:.1f} times"
    console.print(f"Trained in {trained.duration_s:.0f} s; {recalls}.")
    return trained


if __name__ == "__main__":
    app()
