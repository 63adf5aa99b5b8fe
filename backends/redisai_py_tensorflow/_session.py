"""One loaded TensorFlow graph, run through a callable of its session; feeds and fetches are resolved at load."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.protobuf import config_pb2

from redisai_py.backend import Array, TensorSpec, framework_error
from redisai_py.errors import BackendError
from redisai_py.tensor import DType
from redisai_py_tensorflow._graph import Bound, Traits, apart

__all__ = ["TensorflowSession", "tensorflow_error"]

# TensorFlow appends where the client's Python program created a node; a stored model has no such program.
_GRAPH_STACK = re.compile(
    r"Graph execution error:\s+(Detected at node.*?(<stack traces unavailable>|Node: '[^']*')\s*)?", re.DOTALL
)
_ORIGINAL_STACK = re.compile(r"\s*Original stack trace for .*", re.DOTALL)


def tensorflow_error(error: BaseException) -> BackendError:
    """TensorFlow's exception as a BackendError, without the stack traces in its text."""
    text = str(error.message if isinstance(error, tf.errors.OpError) else error)
    text = _ORIGINAL_STACK.sub("", _GRAPH_STACK.sub("", text))
    return framework_error(RuntimeError(text) if text else error)


class TensorflowSession:
    """Implements `redisai_py.backend.Session`."""

    def __init__(self, session: Any, bound: Bound, nbytes: int, parallel: bool, traits: Traits) -> None:
        """Bind a session to its input and output tensors, in the session's graph.

        Args: parallel: whether independent nodes may run at the same time, in TensorFlow's pool.
        """
        fed = bound.fed
        self._session = session
        self._call: Callable[..., Any] | None = _callable(session, fed, apart(bound.fetches, fed), parallel)
        self._defaults = [value for _, value in bound.defaults]
        self.inputs: Sequence[TensorSpec] = [
            _spec(name, feed) for name, feed in zip(bound.inputs, bound.feeds, strict=True)
        ]
        self.outputs: Sequence[str] = list(bound.outputs)
        self.output_specs: Sequence[TensorSpec] = [
            _spec(name, fetch) for name, fetch in zip(bound.outputs, bound.fetches, strict=True)
        ]
        self.nbytes = nbytes
        self.stateful, self.loops, self.draws, self.branches = traits
        self.concurrent = True

    def run(self, inputs: Sequence[Array], keep_on_device: bool = False) -> list[Array | None]:
        """Run once; see `redisai_py.backend.Session.run`. Outputs are always in host memory.

        Raises: BackendError with TensorFlow's text.
        """
        assert self._call is not None, "run after close"
        arrays = [array if isinstance(array, np.ndarray) else array.numpy() for array in inputs]
        try:
            values = self._call(*arrays, *self._defaults)
        except Exception as error:
            raise tensorflow_error(error) from error
        return [_array(value, arrays) for value in values]

    def terminate(self, thread_id: int | None = None) -> bool:
        """False: a TensorFlow session cannot be interrupted without losing its state."""
        return False

    def close(self) -> None:
        """Close the session, which frees its variables and GPU memory."""
        self._call = None
        self._session.close()


def _callable(session: Any, feeds: Sequence[Any], fetches: Sequence[Any], parallel: bool) -> Callable[..., Any]:
    """A function of arrays.

    The public way, `Session.make_callable`, goes through all of `Session.run`'s Python if there are feeds: a product of
    two small arrays took 75 to 160 us that way and 4 us this way (TensorFlow 2.21). It also silently casts feeds of a
    wrong dtype; this one refuses them.
    """
    options = config_pb2.CallableOptions()
    options.feed.extend(feed.name for feed in feeds)
    options.fetch.extend(fetch.name for fetch in fetches)
    options.run_options.inter_op_thread_pool = 0 if parallel else -1
    function: Callable[..., Any] = session._make_callable_from_options(options)
    return function


def _spec(name: str, feed: Any) -> TensorSpec:
    shape = None if feed.shape.rank is None else tuple(feed.shape.as_list())
    try:
        return TensorSpec(name, np.dtype(feed.dtype.as_numpy_dtype), shape, feed.dtype.name)
    except TypeError:  # a resource or a variant
        return TensorSpec(name, None, shape, feed.dtype.name)


def _array(value: Any, inputs: Sequence[NDArray[Any]]) -> Array | None:
    """An output with its own memory: TensorFlow reads aligned feeds in place and may pass them through to an output."""
    if isinstance(value, np.ndarray):
        shared = any(np.may_share_memory(value, array) for array in inputs)
        return value.copy() if shared else value
    # Outputs of rank 0 arrive as numpy scalars, strings as bytes.
    array = np.array(value, dtype=object if isinstance(value, bytes) else None)
    return array if DType.from_numpy(array.dtype) is not None else None
