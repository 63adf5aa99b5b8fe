"""Values that stay on a GPU, in the process that owns it: the server holds their numbers, and can fetch them."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redisai_py.engine.isolation import exchanges
from redisai_py.engine.isolation.messages import RemoteArray
from redisai_py.engine.isolation.processes import EngineProcess, ProcessEnded
from redisai_py.engine.isolation.wire import Op, Part
from redisai_py.errors import BackendError

__all__ = ["held"]


def held(
    part: Part,
    process: EngineProcess,
    index: int,
    user: object,
    later: Callable[..., object],
    text: Callable[[str], str],
) -> RemoteArray:
    """An output that stayed in the process, which lets go of it when nobody here refers to it any more.

    Args: index: of the GPU.   user: the session.   later: calls a function on another thread.
          text: makes an error's text that names the model.
    """
    number = part.shape[0]
    value = RemoteArray(part, process, index, lambda: _fetch(number, process, user, text))
    weakref.finalize(value, later, _drop, number, process, user).atexit = False
    return value


def _fetch(number: int, process: EngineProcess, user: object, text: Callable[[str], str]) -> NDArray[Any]:
    """A copy in this process's memory. Raises: BackendError: the value's process has ended."""
    try:
        answer = exchanges.ask(process, user, Op.FETCH, number)
    except ProcessEnded as error:
        raise BackendError(text("its engine process ended, and the value on the device with it")) from error
    assert isinstance(answer, np.ndarray)
    return answer


def _drop(number: int, process: EngineProcess, user: object) -> None:
    with contextlib.suppress(BackendError, ProcessEnded):
        exchanges.ask(process, user, Op.DROP, number)
