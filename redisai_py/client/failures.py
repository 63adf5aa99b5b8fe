"""Errors of the server as exceptions that are both redis-py's ResponseError and one of ours.

`except redis.ResponseError` goes on to work, and `except redisai_py.errors.MissingKey` says what is meant. Texts are
those of redis-py: the server's without a leading `ERR `.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import ResponseError

from redisai_py import errors

__all__ = ["failure_of", "failures_among", "from_error"]


class MissingKey(ResponseError, errors.MissingKey):
    """The key that a command names does not exist."""


class WrongType(ResponseError, errors.WrongType):
    """The key holds something other than what the command works on."""


class Conflict(ResponseError, errors.Conflict):
    """A key that a DAG loaded was changed before its commit; nothing was written."""


class BackendNotInstalled(ResponseError, errors.BackendNotInstalled):
    """The server has no such framework, or cannot import it."""


class DeadlineExceeded(ResponseError, errors.DeadlineExceeded):
    """A limit of the server on the time of a run passed."""


_MISSING = (errors.TENSOR_KEY_EMPTY, errors.MODEL_KEY_EMPTY, errors.SCRIPT_KEY_EMPTY, errors.NO_RUN_INFO)

# Beginnings of texts, without ERR, and what they mean.
_BEGINNINGS: tuple[tuple[str, type[ResponseError]], ...] = (
    ("WRONGTYPE ", WrongType),
    ("CONFLICT ", Conflict),
    ("Could not load backend", BackendNotInstalled),
    ("MODEL_EXECUTION_TIMEOUT ", DeadlineExceeded),
    ("script ran longer than SCRIPT_EXECUTION_TIMEOUT", DeadlineExceeded),
    *((text.removeprefix("ERR "), MissingKey) for text in _MISSING),
)


def failure_of(error: ResponseError) -> ResponseError:
    """The error as one of the classes above, or as it is if it is none of them."""
    text = str(error)
    for beginning, kind in _BEGINNINGS:
        if text.startswith(beginning):
            return kind(text)
    return error


def failures_among(results: Any) -> Any:
    """Results of a DAG, with the errors among them as of `failure_of`."""
    if not isinstance(results, list):
        return results
    return [failure_of(item) if isinstance(item, ResponseError) else item for item in results]


def from_error(error: errors.RedisAIError) -> ResponseError:
    """An error found on this side (in direct mode) as the server would have sent it."""
    return failure_of(ResponseError(str(error).removeprefix("ERR ")))
