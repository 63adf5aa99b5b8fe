"""Shared by all commands that talk to a server: options, connection, output, and failures as exit codes.

A command is written as a function of what it works on, an `Output`, and options of its own. The decorators add --url,
--key-prefix and --json, and connect.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, get_type_hints

import typer

from redisai_py.cli.failures import exit_codes
from redisai_py.cli.options import DEFAULT_URL, JsonOption, PrefixOption, UrlOption
from redisai_py.cli.output import Output

if TYPE_CHECKING:
    from redisai_py.artifacts import Artifacts
    from redisai_py.cli.remote import Remote
    from redisai_py.jobs.queue import Queue

__all__ = ["on_artifacts", "on_queue", "on_server", "open_artifacts", "open_queue"]

_Command = Callable[..., None]
_URL = ("url", UrlOption, DEFAULT_URL)
_PREFIX = ("prefix", PrefixOption, "ai:")
_JSON = ("as_json", JsonOption, False)


def on_server(app: typer.Typer | None, name: str | None = None) -> Callable[[_Command], _Command]:
    """A command of `app`, called with a client of the server and an Output.   name: by default the function's.

    app: None if somebody else registers it.
    """
    return lambda function: _connecting(app, name, function, _client, _URL)


def on_artifacts(app: typer.Typer, name: str | None = None) -> Callable[[_Command], _Command]:
    """The same, called with the artifacts of a server."""
    return lambda function: _connecting(app, name, function, open_artifacts, _URL, _PREFIX)


def on_queue(app: typer.Typer, name: str | None = None) -> Callable[[_Command], _Command]:
    """The same, called with the queue of jobs of a server."""
    return lambda function: _connecting(app, name, function, open_queue, _URL, _PREFIX)


def _client(url: str) -> AbstractContextManager[Remote]:
    from redisai_py.cli.remote import connected

    return connected(url)


@contextmanager
def open_artifacts(url: str, prefix: str) -> Iterator[Artifacts]:
    """The artifacts of a server; an error inside the block ends the command with its exit code."""
    from redisai_py.artifacts import Artifacts

    with _client(url) as client, exit_codes(url):
        yield Artifacts(client, prefix)


@contextmanager
def open_queue(url: str, prefix: str) -> Iterator[Queue]:
    """The queue of jobs of a server; see `open_artifacts`."""
    from redisai_py.jobs.queue import Queue

    with open_artifacts(url, prefix) as artifacts:
        yield Queue(artifacts.store.redis, prefix)


def _connecting(
    app: typer.Typer | None,
    name: str | None,
    function: _Command,
    connect: Callable[..., AbstractContextManager[Any]],
    *options: tuple[str, Any, Any],
) -> _Command:
    """The command with more options: name, annotation and default of each. `connect` takes all but --json."""

    @functools.wraps(function)
    def run(as_json: bool, **given: Any) -> None:
        with connect(**{name: given.pop(name) for name, _, _ in options}) as connected:
            function(connected, Output(as_json), **given)

    # The type of the first parameter is slow to import, and typer does not see the first two.
    types = get_type_hints(function, localns=dict.fromkeys(("Remote", "Artifacts", "Queue"), Any), include_extras=True)
    own = [each.replace(annotation=types[each.name]) for each in inspect.signature(function).parameters.values()][2:]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, annotation, default in (*options, _JSON)
    ]
    run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
    return run if app is None else app.command(name)(run)
