"""Errors of the server as exceptions that derive both from redis-py's ResponseError and from `redisai_py.errors`.

So `except redis.ResponseError` keeps working, and `except redisai_py.errors.MissingKey` is precise. As in redis-py, the
text is the server's without a leading `ERR `.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import ResponseError

from redisai_py import errors

__all__ = ["failure_of", "failures_among", "from_error"]


class MissingKey(ResponseError, errors.MissingKey):
    """The key in a command does not exist."""


class WrongType(ResponseError, errors.WrongType):
    """The key holds something else than the command expects."""


class Conflict(ResponseError, errors.Conflict):
    """A key that a DAG loaded was changed before its commit; nothing was written."""


class BackendNotInstalled(ResponseError, errors.BackendNotInstalled):
    """The server does not have the framework, or cannot import it."""


class DeadlineExceeded(ResponseError, errors.DeadlineExceeded):
    """A run exceeded a time limit of the server."""


_MISSING = (errors.TENSOR_KEY_EMPTY, errors.MODEL_KEY_EMPTY, errors.SCRIPT_KEY_EMPTY, errors.NO_RUN_INFO)

# Prefixes of texts, without ERR, and their classes.
_BEGINNINGS: tuple[tuple[str, type[ResponseError]], ...] = (
    ("WRONGTYPE ", WrongType),
    ("CONFLICT ", Conflict),
    ("Could not load backend", BackendNotInstalled),
    ("MODEL_EXECUTION_TIMEOUT ", DeadlineExceeded),
    ("script ran longer than SCRIPT_EXECUTION_TIMEOUT", DeadlineExceeded),
    *((text.removeprefix("ERR "), MissingKey) for text in _MISSING),
)


def failure_of(error: ResponseError) -> ResponseError:
    """The error as one of the classes above, or unchanged."""
    text = str(error)
    for beginning, kind in _BEGINNINGS:
        if text.startswith(beginning):
            return kind(text)
    return error


def failures_among(results: Any) -> Any:
    """Results of a DAG, with `failure_of` applied to errors."""
    if not isinstance(results, list):
        return results
    return [failure_of(item) if isinstance(item, ResponseError) else item for item in results]


def from_error(error: errors.RedisAIError) -> ResponseError:
    """An error found by the client (direct mode), in the form in which the server would have sent it."""
    return failure_of(ResponseError(str(error).removeprefix("ERR ")))
