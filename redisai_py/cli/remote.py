"""The commands' connection to the server: transfers with progress, and what several commands do with it."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import redis
import typer
from redis.backoff import NoBackoff
from redis.retry import Retry

from redisai_py.cli.failures import Exit, UsageError, exit_codes, fail, refusal_of
from redisai_py.cli.options import key_of
from redisai_py.cli.output import Output, printable, size_text
from redisai_py.cli.passwords import with_password
from redisai_py.cli.transfers import bar, spinner
from redisai_py.client import Client
from redisai_py.client.call import Call
from redisai_py.client.failures import failure_of
from redisai_py.errors import MissingKey, WrongType
from redisai_py.urls import masked_url

__all__ = ["Remote", "check_run", "connected", "remove"]

T = TypeVar("T")

_CONNECT_TIMEOUT_S = 5


class Remote(Client):
    """A client that shows the progress of long transfers and does not retry a failed connection."""

    @classmethod
    def at(cls, url: str, patience_s: float | None = None) -> Self:
        """A client of the server at the URL.

        Args:    patience_s: timeout per reply in seconds; None to wait forever, since a run may take long.
        Raises:  ValueError: not a URL of a Redis.
        """
        return cls.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            socket_timeout=patience_s,
        )

    def ask(self, call: Call[T]) -> T:
        """Make a call with little data."""
        return self._call(call)

    def send(self, call: Call[T], now: str, afterwards: str) -> T:
        """Make a call that sends much data; see `transfers.bar` for the texts."""
        with bar(now, afterwards) as call.progress:
            return self._call(call)

    def fetch(self, call: Call[T], now: str, total: int | None) -> T:
        """Make a call whose reply is large. total: approximate size in bytes, None if unknown."""
        with spinner(now if total is None else f"{now}, {size_text(total)}"):
            return self._call(call)

    def tensor_size(self, key: bytes) -> int | None:
        """Size of a tensor's string in bytes, None if the server does not say."""
        return self._size(lambda: self.strlen(key))

    def model_size(self, key: bytes) -> int | None:
        """Size of a model in bytes, None if the server does not say."""
        return self._size(
            lambda: sum(self.hstrlen(key, f"blob:{chunk}") for chunk in range(int(self.hget(key, "chunks") or 0)))
        )

    def _size(self, ask: Callable[[], Any]) -> int | None:
        """A size for the progress bar; None without the right to ask, or if the server stores data differently."""
        if not sys.stderr.isatty():
            return None
        try:
            return int(ask()) or None
        except redis.ResponseError:
            return None

    def several(self, many: list[Call[Any]]) -> list[Any]:
        """Make calls in one round trip. Returns: their results; errors are returned as exceptions."""
        with self.pipeline(transaction=False) as pipeline:
            for call in many:
                pipeline.execute_command(*call.argv)  # type: ignore[no-untyped-call]  # redis-py's
            replies = pipeline.execute(raise_on_error=False)
        return [
            failure_of(reply) if isinstance(reply, redis.ResponseError) else call.decode(reply)
            for call, reply in zip(many, replies, strict=True)
        ]

    def listed(self, scanned: list[list[str]], get: Callable[..., Call[dict[str, Any]]]) -> list[dict[str, Any]]:
        """The keys of a scan with their descriptions, or an `error` if the user may not read the key.

        Args: get: `calls.modelget` or `calls.scriptget`.
        """
        scanned = sorted(scanned)
        found = self.several([get(key.encode("utf-8", "surrogateescape"), meta_only=True) for key, _ in scanned])
        rows = []
        for (key, tag), meta in zip(scanned, found, strict=True):
            if isinstance(meta, dict):
                rows.append({"key": key, **meta})
            elif not isinstance(meta, (MissingKey, WrongType)):  # otherwise deleted or replaced meanwhile
                rows.append({"key": key, "tag": tag, "error": str(meta)})
        return rows


@contextmanager
def connected(url: str, patience_s: float | None = None) -> Iterator[Remote]:
    """A client as from `Remote.at`, closed at the end; an error inside ends the command with its exit code."""
    with exit_codes(url), warnings.catch_warnings():
        # The `redisai` package calls AI._MODELSCAN experimental and warns at every call; so does our client.
        warnings.simplefilter("ignore")
        with _open(url, patience_s) as client:
            yield client


def _open(url: str, patience_s: float | None) -> Remote:
    parts = urlsplit(url)
    # redis-py takes a path that is not a number for database 0.
    if parts.scheme in ("redis", "rediss") and not re.fullmatch(r"/?|/\d+/?", parts.path):
        raise UsageError(f"--url {masked_url(url)}: only a database number may follow the port")
    try:
        return Remote.at(with_password(url), patience_s)
    except ValueError as error:
        raise UsageError(f"--url {masked_url(url)}: {error}") from error


def remove(client: Remote, output: Output, keys: Sequence[str], delete: Callable[[bytes], Call[str]]) -> None:
    """Delete each of the keys, and report each failure; exit code 1 if one of them could not be deleted."""
    results = client.several([delete(key_of(key)) for key in keys])
    deleted = [key for key, result in zip(keys, results, strict=True) if not isinstance(result, Exception)]
    if output.as_json:
        output.document({"deleted": deleted})
    for key in deleted if not output.as_json else ():
        typer.echo(printable(f"{key}: deleted"))
    code = None
    for key, result in zip(keys, results, strict=True):
        if isinstance(result, Exception):
            code = fail(Exit.REFUSED, f"{printable(key)}: {refusal_of(result)}")
    if code is not None:
        raise code


def check_run(reply: Any) -> None:
    """Check the reply of a run. Raises: redis.ResponseError: TIMEOUT passed, or the run failed."""
    if reply == "TIMEDOUT":
        raise redis.ResponseError("TIMEDOUT: the run waited longer than --timeout allows; nothing was computed")
    for element in reply:
        if isinstance(element, Exception):
            raise element
