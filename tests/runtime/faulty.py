"""A third party's backend whose models do what their bytes say, and how tests use it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psutil
import redis

from tests.runtime.serving import Serving

__all__ = ["PLUGIN", "engines", "info", "run", "spares", "store"]

PLUGIN = """
    import ctypes
    import os
    import signal
    import threading
    import time

    import numpy as np
    from redisai_py.backend import InputSpec
    from redisai_py.errors import BackendError

    KEPT = []

    def do(word):
        if word == b"segv":
            ctypes.string_at(0)
        elif word == b"kill":
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(10)
        elif word == b"exit":
            os._exit(7)
        elif word == b"loop":
            while True:
                pass
        elif word == b"freeze":
            ctypes.PyDLL(None).sleep(100_000)
        elif word == b"memory":
            np.ones(100_000_000_000, np.uint8)
        elif word == b"grow":
            KEPT.append(np.ones(100_000_000, np.uint8))
        elif word == b"reserve":  # counts, and takes no memory of the machine's
            KEPT.append(np.empty(2_000_000_000, np.uint8))
        elif word == b"need":
            np.ones(250_000_000, np.uint8)
        elif word == b"fill":
            for size in (50_000_000, 1_000_000, 10_000):
                try:
                    while True:
                        KEPT.append(np.empty(size, np.uint8))
                except MemoryError:
                    pass
        elif word == b"nonsense":
            for fd in range(3, 200):
                try:
                    os.write(fd, b"x" * 24)
                except OSError:
                    pass
        elif word == b"sleep":
            time.sleep(0.3)
        elif word.startswith(b"tell:"):  # in a file that it is at it, for as long as a test may take
            open(word[5:], "wb").close()
            time.sleep(100)
        elif word == b"raise":
            raise KeyError("a bug of the plugin's")
        elif word == b"refuse":
            raise BackendError("ERR the framework's own words")
        elif word == b"quit":
            raise SystemExit("a plugin that quits")

    class Held:
        # A value on a device that is none.
        def __init__(self, array):
            self._array = array
            self.shape = array.shape
            self.nbytes = array.nbytes

        def numpy(self):
            return self._array

        def __dlpack__(self, *args, **kwargs):
            raise BufferError

        def __dlpack_device__(self):
            return (2, 0)

    class OnDevice:
        inputs = [InputSpec("x")]
        outputs = ["y"]
        nbytes = 8

        def run(self, inputs, keep_on_device=False):
            (x,) = inputs
            held = isinstance(x, Held)
            y = (x.numpy() if held else x) * 2 + (100 if held else 0)
            return [Held(y) if keep_on_device else y]

        def terminate(self):
            return True

        def close(self):
            pass

    class Session:
        inputs = [InputSpec("x")]
        outputs = ["y"]
        nbytes = 8

        def __init__(self, word):
            self._word = word
            self.concurrent = word == b"concurrent"
            self.stateful = word == b"counts"
            self.branches = "an if" if word == b"branches" else ""
            self._count = 0

        def run(self, inputs, keep_on_device=False):
            if inputs[0].size and inputs[0].flat[0] < 0:
                do(self._word)
            if self.concurrent:
                time.sleep(0.2)
            if self.stateful:
                self._count += 1
                return [np.array([self._count], np.float32)]
            return [inputs[0] * 2]

        def terminate(self, thread_id=None):
            return False

        def close(self):
            pass

    class Backend:
        name = "FAULTY"
        version = "1.0"

        def check_device(self, device):
            pass

        def load_model(self, blob, device, inputs, outputs, options):
            if device.kind == "GPU":
                return OnDevice()
            place, _, word = bytes(blob).partition(b":")
            if place == b"load":
                do(word)
            elif place == b"load-if" and os.path.exists(word.partition(b":")[0]):
                do(word.partition(b":")[2])
            return Session(word)
"""


def store(client: redis.Redis, key: str, blob: bytes | str = b"well") -> Any:
    return client.execute_command("AI.MODELSTORE", key, "FAULTY", "CPU", "BLOB", blob)


def run(client: redis.Redis, key: str, x: str = "x") -> float:
    assert client.execute_command("AI.MODELEXECUTE", key, "INPUTS", 1, x, "OUTPUTS", 1, f"{key}:y") == b"OK"
    return float(client.execute_command("AI.TENSORGET", f"{key}:y", "VALUES")[0])


def info(client: redis.Redis, key: str) -> dict[bytes, Any]:
    reply = client.execute_command("AI.INFO", key, "FULL")
    return dict(zip(reply[::2], reply[1::2], strict=True))


def engines(serving: Serving, name: str = "redisai-engine") -> list[psutil.Process]:
    """The engine processes, without the zygotes that they were forked from."""
    found = []
    for process in serving.supervisor.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.name() == name and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def spares(serving: Serving) -> list[psutil.Process]:
    """The engine processes that wait for a model."""
    return engines(serving, "redisai-spare")
