"""SHUTDOWN sent through `redisai serve` to its own Redis: that comes back, with its data."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from tests.conformance.conversation import talk
from tests.runtime.serving import Serving, redis_processes


@pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not on PATH")
@pytest.mark.parametrize("how", ["SHUTDOWN", "SHUTDOWN NOSAVE"])
def test_the_embedded_redis_comes_back(how: str, tmp_path: Path) -> None:
    serving = Serving("--data-dir", tmp_path / "data")
    try:
        serving.wait_ready()
        with talk(serving.port) as client:
            client.given("AI.TENSORSET t FLOAT 2 VALUES 1 2")
            assert client.ask(how).startswith("-ERR upstream Redis connection lost")
            deadline = time.monotonic() + 10
            while (reply := client.ask("AI.TENSORGET t VALUES")).startswith("-ERR upstream Redis"):
                assert time.monotonic() < deadline, "the Redis did not come back"
            assert reply == '["1", "2"]'
            client.given("AI.TENSORSET t FLOAT 2 VALUES 3 4")
        assert serving.stop() == 0
    finally:
        serving.close()
        for process in redis_processes(tmp_path / "data"):
            process.kill()
