"""`python -m examples.chatbot`: train the network if the server has none, then chat in terminal or browser."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import redis
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from examples.chatbot.conversation import Busy, Chatbot
from examples.chatbot.server import NotStarted, server_url
from examples.chatbot.shapes import version
from redisai_py import AsyncClient
from redisai_py.urls import masked_url

app = typer.Typer(
    add_completion=False,
    help="A chatbot whose model and conversations live in Redis.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console(highlight=False)

Url = Annotated[str | None, typer.Option("--url", help="A running server; without it one is started.")]
DataDir = Annotated[Path, typer.Option("--data-dir", help="Where the server that is started keeps its data.")]
Conversation = Annotated[str, typer.Option("--conversation", help="Which conversation to go on with.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="TCP port of the page; 0: any free one.")]
_DATA_DIR = Path("data/chatbot")

_GREETING = """
You are in a tea shop. Ask what a tea costs, where it is from or how to brew it; say your name; order some.
[dim]/new forgets the conversation, Ctrl-D leaves. What was said is kept in Redis for a day.[/dim]
"""


@app.callback(invoke_without_command=True)
def chat(
    context: typer.Context, url: Url = None, data_dir: DataDir = _DATA_DIR, conversation: Conversation = "terminal"
) -> None:
    """Chat in the terminal."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a server of our own is stopped then too
    if context.invoked_subcommand is not None:
        return
    with _ready(url, data_dir) as (runner, bot):
        console.print(_GREETING)
        if runner.run(bot.remembers(conversation)):
            console.print("[dim]The shop remembers you: this conversation goes on.[/dim]\n")
        while True:
            try:
                message = console.input("[bold]You:[/bold]  ")
            except (EOFError, KeyboardInterrupt):
                console.print()
                return
            if message.strip():
                _answer(runner, bot, conversation, message)


def _answer(runner: asyncio.Runner, bot: Chatbot, conversation: str, message: str) -> None:
    try:
        if message.strip() == "/new":
            runner.run(bot.forget(conversation))
            console.print("[dim]Forgotten.[/dim]")
            return
        console.print("[bold green]Shop:[/bold green] " + escape(runner.run(bot.reply(conversation, message))))
    except (redis.RedisError, Busy) as error:
        console.print(f"[red]That did not work, say it again: {escape(str(error))}[/red]")


@app.command()
def web(url: Url = None, data_dir: DataDir = _DATA_DIR, port: Port = 8000) -> None:
    """Chat in the browser."""
    import uvicorn

    from examples.chatbot.web import page_app

    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise _failure(
            f"port {port} of 127.0.0.1: {os.strerror(error.errno or 0)}; choose another with --port"
        ) from error
    with listener, _ready(url, data_dir) as (runner, bot):
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        console.print(f"The tea shop is open at [bold]{address}[/bold] (Ctrl-C closes it)")
        server = uvicorn.Server(uvicorn.Config(page_app(bot), log_level="warning"))
        runner.run(server.serve(sockets=[listener]))


@contextmanager
def _ready(url: str | None, data_dir: Path) -> Iterator[tuple[asyncio.Runner, Chatbot]]:
    """A server with the model in it, and the chatbot before it; what goes wrong until then ends the program."""
    try:
        with server_url(url, data_dir) as address, asyncio.Runner() as runner:
            client = _client(address)
            bot = Chatbot(client, version())
            try:
                _prepare(runner, bot, address)
                yield runner, bot
            finally:
                runner.run(client.aclose())
    except NotStarted as error:
        raise typer.Exit(1) from error


def _client(address: str) -> AsyncClient:
    try:
        return AsyncClient.from_url(address)
    except ValueError as error:
        raise _failure(f"--url {masked_url(address)}: {error}") from error


def _prepare(runner: asyncio.Runner, bot: Chatbot, address: str) -> None:
    try:
        if not runner.run(bot.is_stored()):
            _train_and_store(runner, bot)
    except redis.RedisError as error:
        raise _failure(f"the server at {masked_url(address)}: {error}") from error


def _failure(text: str) -> typer.Exit:
    """Say what is wrong. Returns: what to raise."""
    typer.echo(f"chatbot: {text}", err=True)
    return typer.Exit(1)


def _train_and_store(runner: asyncio.Runner, bot: Chatbot) -> None:
    from examples.chatbot.training import train  # PyTorch, which is not needed otherwise

    columns = (
        TextColumn("Training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", loss=float("nan"))
        trained = train(lambda done, steps, loss: progress.update(bar, completed=done, total=steps, loss=loss))
    console.print(
        f"Trained in {trained.duration_s:.0f} s; of the replies in 100 new conversations {trained.exact:.1%} are right "
        f"to the letter. The model, {len(trained.model) / 1e6:.1f} MB, goes to the server."
    )
    runner.run(bot.store(trained))


if __name__ == "__main__":
    app()
