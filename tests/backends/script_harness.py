"""What the tests of scripts share: an engine with a loop of its own, and a host that answers from a table."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from redisai_py.engine.isolation.isolation import Isolation
from redisai_py.engine.isolation.manager import Manager
from redisai_py.engine.isolation.settings import IsolationSettings
from redisai_py.engine.torchscript.engine import ScriptEngine
from redisai_py.engine.torchscript.frames import ReplyTree
from redisai_py.engine.torchscript.jobs import ScriptSettings
from redisai_py.errors import RedisAIError
from redisai_py.model import Script
from redisai_py.tensor import Device, Tensor

__all__ = ["ENTRY", "LIMITS", "Host", "Scripts", "engine_processes", "tensor"]

ENTRY = "def f(tensors: List[Tensor], keys: List[str], args: List[str]):\n"
LIMITS = ScriptSettings(script_execution_timeout_ms=10_000, script_memory_limit_bytes=512 << 20)


class Host:
    """Answers `redis.execute` from a table or a function, and `redisAI.model_execute` with the inputs."""

    def __init__(self, execute: Callable[[list[bytes]], Any] | dict[bytes, ReplyTree] | None = None) -> None:
        self.commands: list[list[bytes]] = []
        self.models: list[tuple[bytes, int]] = []
        self._execute = execute

    async def execute(self, argv: list[bytes]) -> ReplyTree:
        self.commands.append(argv)
        if callable(self._execute):
            reply = self._execute(argv)
            answer: ReplyTree = await reply if asyncio.iscoroutine(reply) else reply
            return answer
        return (self._execute or {}).get(argv[0])

    async def model_execute(self, key: bytes, inputs: list[Tensor], outputs: int) -> list[Tensor]:
        self.models.append((key, outputs))
        if key == b"absent":
            raise RedisAIError("ERR model key is empty")
        return inputs[:outputs]


def engine_processes() -> Isolation:
    """As a server has them whose models run in the server itself."""
    return Isolation(Manager(IsolationSettings(isolation="none")), lambda identity: identity)


class Scripts:
    """An engine on a loop of its own, and the shortest way to run a function on it."""

    def __init__(self, settings: ScriptSettings) -> None:
        self._runner = asyncio.Runner()
        self._processes = engine_processes()
        self.engine = ScriptEngine(settings, self._runner.get_loop(), self._processes)
        self._ids = 0

    def do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(asyncio.wait_for(coroutine, 50))

    def compile(self, source: str, device: str = "CPU", entry_points: tuple[str, ...] = ()) -> None:
        self.do(self.engine.compile(source, device, entry_points))

    def script(self, source: str, entry_points: tuple[str, ...] = ("f",)) -> Script:
        self._ids += 1
        return Script(f"id{self._ids}", Device("CPU", None, "CPU"), b"", entry_points, textwrap.dedent(source))

    def run(
        self,
        source: str | Script,
        tensors: tuple[Tensor, ...] = (),
        keys: tuple[bytes, ...] = (),
        args: tuple[bytes, ...] = (),
        outputs: int = 1,
        host: Any = None,
        function: str = "f",
    ) -> list[np.ndarray[Any, Any]]:
        script = source if isinstance(source, Script) else self.script(source)

        async def go() -> list[Tensor]:
            return await self.engine.run(script, function, tensors, keys, args, outputs, host or Host())

        return [tensor.numpy() for tensor in self.do(go())]

    def value(self, body: str, host: Any = None, **inputs: Any) -> Any:
        """The single number that a function with this body returns."""
        return self.run(ENTRY + textwrap.indent(textwrap.dedent(body), "    "), host=host, **inputs)[0].item()

    def close(self) -> None:
        self.engine.close()
        self._runner.close()
        self._processes.close(timeout_s=20)


def tensor(*values: float, dtype: Any = np.float32) -> Tensor:
    return Tensor.from_numpy(np.array(values, dtype))
