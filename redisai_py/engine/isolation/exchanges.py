"""Loads, runs and other requests to an engine process: one exchange each, on its own lane.

All raise ProcessEnded if the process ends first, and a RedisAIError if the request fails. A process that sends invalid
data is killed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from redisai_py.backend import Array, LoadOptions
from redisai_py.engine.isolation import wire
from redisai_py.engine.isolation.describing import load_order
from redisai_py.engine.isolation.messages import failure, file_of, outputs_of, request_of
from redisai_py.engine.isolation.processes import EngineProcess, ProcessEnded
from redisai_py.engine.isolation.wire import Layout, Op, Part
from redisai_py.errors import BackendError, ProtocolError
from redisai_py.model import Model

__all__ = ["NONSENSE", "ask", "load", "run", "unload"]

_SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC}
_CLOSE_S = 5.0
NONSENSE = "SIGKILL: it did not keep to the protocol"


def load(
    process: EngineProcess, user: object, number: int, model: Model, options: LoadOptions, limit_ms: int
) -> dict[str, Any]:
    """Load a model. Returns: its description. limit_ms: time after which the process is killed, 0 is never."""
    header = json.dumps({**load_order(model, options), "program": process.programs[user]}).encode()
    request = Layout(header, (), wire.aligned(len(header)))
    lane = process.take(user, loads=True)
    fd = -1
    try:
        fd = file_of(model.blob)
        lane.sock.settimeout(limit_ms / 1000 if limit_ms else None)
        answer = lane.exchange(Op.LOAD, 0, number, request, (), (fd,))
        lane.sock.settimeout(None)
        if answer.op != Op.LOADED:
            raise failure(answer)
        description: dict[str, Any] = json.loads(answer.header)
        return description
    except TimeoutError as error:
        process.kill(user, f"SIGKILL: the load took longer than --model-load-timeout-ms ({limit_ms} ms)")
        raise process.lost() from error
    except OSError as error:
        raise _lost(process, error) from error
    except (ProtocolError, ValueError) as error:
        raise _nonsense(process, user) from error
    finally:
        if fd >= 0:
            os.close(fd)
        process.give_back(lane)


def run(
    process: EngineProcess,
    user: object,
    number: int,
    inputs: Sequence[Array],
    keep_on_device: bool,
    held: Callable[[Part], Array],
) -> tuple[list[Array | None], int]:
    """Run a model. Returns: its outputs, and the nanoseconds in the framework. held: a value left in the process."""
    request, data = request_of(inputs, process)
    lane = process.take(user)
    try:
        answer = lane.exchange(Op.RUN, wire.KEEP if keep_on_device else 0, number, request, data)
        if answer.op != Op.DONE:
            raise failure(answer)
        return outputs_of(answer, held), answer.number
    except OSError as error:
        raise _lost(process, error, lane.under_way) from error
    except ProtocolError as error:
        raise _nonsense(process, user) from error
    finally:
        process.give_back(lane)


def ask(process: EngineProcess, user: object, op: int, number: int) -> Array | None:
    """Fetch or drop a value on the device: FETCH returns the value, DROP nothing."""
    lane = process.take(user)
    try:
        answer = lane.exchange(op, 0, number, Layout(b"", (), 0), ())
        if answer.op != Op.DONE:
            raise failure(answer)
        return outputs_of(answer, lambda part: None)[0] if op == Op.FETCH else None
    except OSError as error:
        raise _lost(process, error) from error
    except ProtocolError as error:
        raise _nonsense(process, user) from error
    finally:
        process.give_back(lane)


def unload(process: EngineProcess, user: object, number: int) -> None:
    """Unload a model in a process that others are in; raises nothing, and waits for no model that keeps it busy."""
    with contextlib.suppress(ProcessEnded, OSError, ProtocolError):
        lane = process.take(user)
        try:
            lane.sock.settimeout(_CLOSE_S)
            lane.exchange(Op.CLOSE, 0, number, Layout(b"", (), 0), ())
            lane.sock.settimeout(None)
        except TimeoutError:  # the lane is not used again
            lane.sock.close()
            raise
        finally:
            process.give_back(lane)


def _lost(process: EngineProcess, error: OSError, under_way: bool = True) -> ProcessEnded | BackendError:
    """The exception for a failed lane: the process has ended, or something is lacking here.

    Not to be kept in a variable of the function that raises it: the cycle would keep the model loaded.
    """
    if error.errno in _SCARCE:
        return BackendError(f"ERR the model's tensors could not be handed to its process: {error.strerror}")
    lost = process.lost()
    lost.under_way = under_way
    return lost


def _nonsense(process: EngineProcess, user: object) -> ProcessEnded:
    process.kill(user, NONSENSE)
    return process.lost()
