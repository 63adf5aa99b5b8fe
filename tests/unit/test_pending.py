"""A future result."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest

from redisai_py.errors import MissingKey, OutOfMemory, QueueTimeout, RedisAIError, WrongArity, WrongType
from redisai_py.pending import Pending


class Model:
    """Something large that a command mentions."""


def finish(coroutine: Coroutine[Any, Any, Any]) -> BaseException | None:
    """Step a coroutine that has nothing to wait for. Returns: how it failed."""
    try:
        coroutine.send(None)
    except StopIteration:
        return None
    except BaseException as error:
        return error
    raise AssertionError("it waits")


@pytest.mark.parametrize(
    "error",
    [
        MissingKey("ERR no key"),
        QueueTimeout(),
        WrongType(),
        WrongArity(b"GET"),
        OutOfMemory("OOM x"),
        KeyError("a bug"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_raised_as_it_is(error: Exception) -> None:
    error.__cause__ = OSError("why")
    error.add_note("a note")
    pending: Pending[int] = Pending()
    pending.fail(error)
    with pytest.raises(type(error)) as raised:
        pending.result()
    assert type(raised.value) is type(error)
    assert str(raised.value) == str(error)
    assert raised.value.__dict__ == error.__dict__
    assert raised.value.__cause__ is error.__cause__
    assert pending.error is error


@pytest.mark.parametrize("error", [RedisAIError("ERR it failed"), asyncio.CancelledError()], ids=str)
@pytest.mark.parametrize("caught", [True, False])
def test_what_awaited_an_error_is_free_without_a_collection_of_garbage(error: BaseException, caught: bool) -> None:
    model = Model()
    freed = weakref.ref(model)

    async def command(model: Model) -> None:
        run: Pending[int] = Pending()
        run.fail(error)
        try:
            await run
        except BaseException:
            if not caught:
                raise

    gc.disable()
    try:
        assert (finish(command(model)) is None) == caught
        del model
        assert freed() is None
    finally:
        gc.enable()
