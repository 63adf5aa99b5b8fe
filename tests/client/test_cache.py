"""The prediction cache with both clients and with the command line."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import numpy as np
import pytest
import redis
from typer.testing import CliRunner

from redisai_py import AsyncClient, Client
from redisai_py.cli import app
from scripts.make_models import build_onnx_add
from tests.waiting import until


@pytest.fixture
def con(front_door, bare):
    with Client(port=front_door.port) as client:
        client.modelstore("add", "onnx", "cpu", build_onnx_add())
        client.tensorset("a", np.ones((1, 2), np.float32))
        client.tensorset("b", np.ones((1, 2), np.float32))
        yield client


def test_the_methods(con):
    assert con.cacheget("add") is None
    assert con.cacheset("add", 60, jitter=5, maxbytes=10**6, warm=3, scope="USER", minrun=0) == "OK"
    rule = {"ttl": 60, "jitter": 5, "rows": 0, "maxbytes": 10**6, "warm": 3, "scope": "USER", "minrun": 0}
    assert con.cacheget("add") == rule
    with pytest.raises(redis.ResponseError, match="MISS"):
        con.modelexecute("add", ["a", "b"], ["c"], cache="ONLY")
    assert con.cachewarm("add", ["a", "b", "b", "a", "b", "b"]) == {"inserted": 1, "present": 2, "failed": 0}
    assert con.cachewarm("add", [["a", "b"], ["b", "a"]])["present"] == 2
    assert con.modelexecute("add", ["a", "b"], ["c"], timeout=1000, cache="ONLY") == "OK"
    dag = con.dag(load=["a", "b"]).modelexecute("add", ["a", "b"], "d", cache="ONLY").tensorget("d")
    assert dag.execute()[1].tolist() == [[2, 2]]
    stats = con.cachestats("add")
    assert (stats["state"], stats["hits"], stats["misses"], stats["inserts"]) == ("on", 2, 1, 1)
    assert stats["errors"] == {}
    assert con.cachepurge("add") == 2  # the entry, and the counter of MAXBYTES
    assert con.cachedel("add") is True
    assert con.cachedel("add") is False


def test_the_coroutines(con, front_door):
    async def talk() -> Any:
        async with AsyncClient(port=front_door.port) as client:
            assert await client.cacheset("add", 60, minrun=0) == "OK"
            assert await client.cachewarm("add", ["a", "b"]) == {"inserted": 1, "present": 0, "failed": 0}
            assert await client.modelexecute("add", ["a", "b"], ["c"], cache="ONLY") == "OK"
            return await client.cachestats("add"), await client.cachepurge("add"), await client.cachedel("add")

    stats, purged, existed = asyncio.run(talk())
    assert (stats["hits"], purged, existed) == (1, 1, True)


def test_the_command_line(con, front_door):
    def call(*words: str) -> Any:
        done = CliRunner().invoke(app, ["cache", *words, "--url", f"redis://127.0.0.1:{front_door.port}", "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.output.splitlines()[-1])  # this process is the server too, and logs

    assert call("ls") == []
    assert call("set", "add", "--ttl", "60", "--min-run", "0", "--scope", "user")["scope"] == "USER"
    assert [row["key"] for row in call("ls")] == ["add"]
    assert call("warm", "add", "a", "b")["inserted"] == 1
    assert call("stats", "add")["inserts"] == 1
    assert call("purge", "add")["deleted"] == 1
    assert call("rm", "add")["existed"] is True
    assert call("ls") == []


def test_another_server_finds_out_about_a_rule(con, redis_server):
    from redisai_py.config import Config
    from tests.support import FrontDoor

    other = FrontDoor(Config(redis=redis_server.url, port=0, drain_timeout_s=1))
    try:
        with Client(port=other.port) as there:
            there.tensorset("a", np.ones((1, 2), np.float32))
            there.tensorset("b", np.ones((1, 2), np.float32))
            for _ in range(5):  # on near values, so that no run reads the rule
                there.modelexecute("add", ["a", "b"], ["c"])
            assert con.cacheset("add", 60, minrun=0) == "OK"

            def missed() -> int:
                there.modelexecute("add", ["a", "b"], ["c"])
                return there.cachestats("add")["misses"]

            assert until(missed, every_s=0.05) == 1
            con.cachedel("add")
            until(lambda: there.cachestats("add")["state"] == "off", every_s=0.05)
            time.sleep(1.5)
            before = there.cachestats("add")["hits"]
            for _ in range(5):
                there.modelexecute("add", ["a", "b"], ["c"])
            assert there.cachestats("add")["hits"] == before
    finally:
        other.stop()
