"""Exit codes, and how a command fails: one line on stderr that says what and why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer

from redisai_py.cli.output import printable
from redisai_py.urls import masked_url

__all__ = ["Exit", "UsageError", "exit_codes", "fail", "refusal_of"]

_NO_PASSWORD = ("HELLO must be called with the client already authenticated", "Authentication required")
_NEEDED = "the server needs a password: give it in --url redis://:PASSWORD@HOST:PORT or a file in REDISAI_PASSWORD_FILE"


class Exit(IntEnum):
    """Exit codes of the commands."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3


class UsageError(Exception):
    """An option or a local file cannot be used; the text is one line."""


def fail(code: Exit, text: str) -> typer.Exit:
    """Print the reason. Returns: the exception to raise."""
    typer.echo(f"redisai: {' '.join(text.split())}", err=True)
    return typer.Exit(code)


@contextmanager
def exit_codes(url: str = "", extra: str = "") -> Iterator[None]:
    """An error in the block ends the command with its exit code.

    Args: url: the server that the block talks to.   extra: of this package, which has what the block imports.
    """
    try:
        yield
    except (BrokenPipeError, typer.Exit, typer.Abort):
        raise  # the reader of our output is gone, which is not a failure; or the command has told its own
    except (UsageError, OSError, UnicodeEncodeError) as error:
        raise fail(Exit.USAGE, _local_text(error)) from error
    except Exception as error:
        if extra and isinstance(error, ImportError):
            raise fail(Exit.USAGE, f"{error}: pip install 'redisai_py[{extra}]'") from error
        judged = _judged(error, url)
        if judged is None:
            raise
        raise fail(*judged) from error


def _local_text(error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object!r}: names must be UTF-8, only keys may be any bytes"
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{error.filename or 'the output'}: {error.strerror}")
    return str(error)


def _judged(error: Exception, url: str) -> tuple[Exit, str] | None:
    """Exit code and text of an error of Redis or of artifacts; None for any other."""
    import redis

    from redisai_py.artifacts import ArtifactError, Invalid, Malformed

    if isinstance(error, ArtifactError):
        mistyped = isinstance(error, Invalid) and not isinstance(error, Malformed)
        return Exit.USAGE if mistyped else Exit.REFUSED, printable(str(error))
    refused = (redis.AuthenticationError, redis.exceptions.AuthorizationError, redis.BusyLoadingError)
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError)) and not isinstance(error, refused):
        return Exit.UNREACHABLE, f"cannot reach {masked_url(url)}: {error}"
    return (Exit.REFUSED, refusal_of(error)) if isinstance(error, redis.RedisError) else None


def refusal_of(error: Exception) -> str:
    """The server's error, with a hint if its text says little."""
    text = str(error)
    if text.lower().startswith("unknown command") and "ai." in text.lower():
        return f"{text} (is this the address of a plain Redis, instead of that of `redisai serve`?)"
    if text.startswith(_NO_PASSWORD):
        return f"{_NEEDED} (Redis: {text.partition(',')[0]})"
    return text
