"""Deleting several keys: tries each, and reports each failure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import typer

from redisai_py.cli.failures import Exit, fail, refusal_of
from redisai_py.cli.options import key_of
from redisai_py.cli.output import Output, printable
from redisai_py.cli.remote import Remote
from redisai_py.client.call import Call

__all__ = ["remove"]


def remove(client: Remote, output: Output, keys: Sequence[str], delete: Callable[[bytes], Call[str]]) -> None:
    """Delete the keys; exit code 1 if one of them could not be deleted."""
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
