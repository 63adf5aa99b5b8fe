"""`redisai cache`: the prediction cache of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from redisai_py.cli.command import on_server
from redisai_py.cli.options import key_of
from redisai_py.cli.output import Output

if TYPE_CHECKING:
    from redisai_py.cli.remote import Remote

__all__ = ["app"]

app = typer.Typer(help="Cache the predictions of models.", no_args_is_help=True)

_Key = Annotated[str, typer.Argument(metavar="KEY", show_default=False, help="The model's key.")]
_Ttl = Annotated[int, typer.Option("--ttl", metavar="S", show_default=False, help="Lifetime of an entry in seconds.")]
_Jitter = Annotated[
    int | None,
    typer.Option("--jitter", metavar="PERCENT", help="Random reduction of lifetimes, in percent. Default: 10."),
]
_Rows = Annotated[bool, typer.Option("--rows", help="One entry per row of a batch.")]
_MaxBytes = Annotated[
    int | None, typer.Option("--max-bytes", metavar="BYTES", help="Maximum bytes inserted within one lifetime.")
]
_Warm = Annotated[
    int | None,
    typer.Option("--warm", metavar="COUNT", help="Number of frequent inputs to run a new version on when stored."),
]
_Scope = Annotated[
    str | None, typer.Option("--scope", metavar="WORD", help="db: users share entries. user: each has its own.")
]
_MinRun = Annotated[
    int | None,
    typer.Option(
        "--min-run", metavar="US", help="Do not cache models with shorter runs, in microseconds. Default: 100."
    ),
]
_RULE = ("key", "ttl", "jitter", "rows", "maxbytes", "warm", "scope", "minrun")


@on_server(app, "set")
def set_rule(
    client: Remote,
    output: Output,
    key: _Key,
    ttl: _Ttl,
    jitter: _Jitter = None,
    rows: _Rows = False,
    max_bytes: _MaxBytes = None,
    warm: _Warm = None,
    scope: _Scope = None,
    min_run: _MinRun = None,
) -> None:
    """Set the cache rule of a model."""
    client.cacheset(key_of(key), ttl, jitter, rows, max_bytes, warm, scope, min_run)
    rule = client.cacheget(key_of(key)) or {}
    output.fields({"key": key, **rule})


@on_server(app)
def ls(client: Remote, output: Output) -> None:
    """List the models that have a cache rule."""
    from redisai_py.client import cache_calls

    keys = [key for key, _ in sorted(client.modelscan())]
    rules = client.several([cache_calls.cacheget(key.encode("utf-8", "surrogateescape")) for key in keys])
    found = [{"key": key, **rule} for key, rule in zip(keys, rules, strict=True) if isinstance(rule, dict)]
    output.table(found, _RULE, "no model has a cache rule")


@on_server(app)
def stats(client: Remote, output: Output, key: _Key) -> None:
    """Show hits, misses, times, and whether the cache pays."""
    found = client.cachestats(key_of(key))
    output.fields({**found, "key": key})


@on_server(app)
def warm(
    client: Remote,
    output: Output,
    key: _Key,
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="TENSOR...", show_default=False, help="Keys of the inputs, request after request."),
    ],
) -> None:
    """Compute and store the predictions of stored tensors."""
    found = client.cachewarm(key_of(key), [key_of(each) for each in inputs])
    output.fields({"key": key, **found})


@on_server(app)
def purge(client: Remote, output: Output, key: _Key) -> None:
    """Delete the cached predictions of a model; its rule stays."""
    count = client.cachepurge(key_of(key))
    output.line(f"{key}: {count} {'key' if count == 1 else 'keys'} deleted", key=key, deleted=count)


@on_server(app)
def rm(client: Remote, output: Output, key: _Key) -> None:
    """Remove the cache rule of a model; its predictions expire."""
    existed = client.cachedel(key_of(key))
    output.line(f"{key}: {'no longer cached' if existed else 'it had no rule'}", key=key, existed=existed)
