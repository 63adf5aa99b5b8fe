"""`redisai ping` and `redisai info`: describe the server or a key."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redisai_py.cli.command import on_server
from redisai_py.cli.options import DEFAULT_URL, JsonOption, UrlOption, key_of
from redisai_py.cli.output import Output
from redisai_py.urls import masked_url

if TYPE_CHECKING:
    from redisai_py.cli.remote import Remote

__all__ = ["info", "ping"]

_PATIENCE_S = 5.0


def ping(url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Check that the server answers, and show the round-trip time."""
    import time

    from redisai_py.cli.remote import connected

    with connected(url, _PATIENCE_S) as client:
        client.ping()  # also connects
        began = time.perf_counter()
        client.ping()
        took_ms = (time.perf_counter() - began) * 1000
    Output(as_json).line(
        f"PONG from {masked_url(url)} in {took_ms:.2f} ms", url=masked_url(url), reply="PONG", ms=round(took_ms, 3)
    )


@on_server(None)
def info(
    client: Remote,
    output: Output,
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY", show_default=False, help="Key of a model, script or tensor. By default the server itself."
        ),
    ] = None,
) -> None:
    """Describe the server, or the contents and usage of a key."""
    output.fields(_of_server(client) if key is None else {"key": key, **_of_key(client, key_of(key))})


def _of_server(client: Remote) -> dict[str, Any]:
    import redis

    from redisai_py.client.call import Call

    own = client.ask(Call(["INFO", "ai"], _lines))
    if not own:
        raise redis.ResponseError("this is a plain Redis, without the AI commands; is `redisai serve` elsewhere?")
    stock: dict[str, Any] = client.info("server")
    kept = {name: stock[name] for name in ("redis_version", "valkey_version") if name in stock}
    return kept | {name.removeprefix("ai_"): value for name, value in own.items()}


def _lines(reply: bytes) -> dict[str, Any]:
    """Parse INFO. redis-py ends a name at its first colon, but a queue's name may contain one."""
    found = (line.rpartition(":") for line in reply.decode("utf-8", "replace").splitlines())
    return {name: _number(value) for name, _, value in found if name}


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def _of_key(client: Remote, key: bytes) -> dict[str, Any]:
    """Describe a key by asking for each type in turn, which also works if TYPE cannot tell them apart."""
    import redis

    from redisai_py.client import calls
    from redisai_py.client.call import Call, pairs
    from redisai_py.errors import MissingKey, WrongType

    kinds = {
        "TENSOR": calls.tensorget(key, meta_only=True),
        "MODEL": calls.modelget(key, meta_only=True),
        "SCRIPT": calls.scriptget(key, meta_only=True),
        "used": Call(["AI.INFO", key, "FULL"], pairs),
    }
    found = dict(zip(kinds, client.several(list(kinds.values())), strict=True))
    used = found.pop("used")
    for kind, fields in found.items():
        if isinstance(fields, dict):
            return {"type": kind, **fields, **(_counters(used) if isinstance(used, dict) else {})}
    error = found["TENSOR"]
    if isinstance(error, MissingKey):
        raise redis.ResponseError("the key is empty")
    if isinstance(error, WrongType):
        raise redis.ResponseError("the key holds no tensor, model or script")
    raise error


def _counters(used: dict[str, Any]) -> dict[str, Any]:
    """The run statistics; batch sizes as {rows: number of batches}."""
    fields = {name: value for name, value in used.items() if name not in ("key", "type", "backend", "device", "tag")}
    rows = fields.get("batch_rows")
    if isinstance(rows, list):
        fields["batch_rows"] = {str(size): count for size, count in zip(rows[::2], rows[1::2], strict=True)}
    return fields
