from __future__ import annotations

from typing import Any

import numpy as np
import redis

from tests.cli.conftest import MUL, Redisai
from tests.support import RedisServer


def test_ping_says_how_long_it_took(redisai: Redisai, url: str) -> None:
    answer = redisai("ping", "--json").document
    assert (answer["url"], answer["reply"]) == (url, "PONG")
    assert 0 < answer["ms"] < 5000


def test_info_of_the_server(redisai: Redisai, redis_server: RedisServer, bare: redis.Redis) -> None:
    shown = redisai("info", "--json").document
    assert shown["RedisAI_version"] == "1.2.7"
    assert shown["redis_version"] == bare.info("server")["redis_version"]
    lines = dict(line.split(maxsplit=1) for line in redisai("info").stdout.splitlines())
    assert lines["RedisAI_version"] == "1.2.7"
    redisai("model", "put", "m", MUL, "--device", "CPU:0")  # its queue has a colon in its name
    shown = redisai("info", "--json").document
    assert isinstance(shown["queue_CPU:0_bthread_n1_used_cpu_total"], float)
    assert isinstance(shown["threads_per_queue"], int)
    plain = redisai("info", "--url", redis_server.url)
    assert plain.code == 1
    assert "plain Redis" in plain.stderr


def test_info_of_a_key(redisai: Redisai, con: Any, bare: redis.Redis) -> None:
    con.tensorset("t", np.zeros((2, 3), np.int16))
    assert redisai("info", "t", "--json").document == {"key": "t", "type": "TENSOR", "dtype": "INT16", "shape": [2, 3]}
    assert redisai("info", "t").stdout.split() == ["key", "t", "type", "TENSOR", "dtype", "INT16", "shape", "2,", "3"]
    redisai("model", "put", "m", MUL, "--tag", "v1")
    con.modelexecute("m", "x", "y") if con.tensorset("x", np.ones((3, 2), np.float32)) == "OK" else None
    shown = redisai("info", "m", "--json").document
    assert (shown["type"], shown["tag"], shown["inputs"], shown["calls"], shown["samples"]) == (
        "MODEL",
        "v1",
        [["x", "FLOAT", [-1, 2]]],
        1,
        3,
    )
    bare.lpush("l", 1)
    for key, reason in (("l", "no tensor, model or script"), ("absent", "empty")):
        refused = redisai("info", key)
        assert refused.code == 1
        assert reason in refused.stderr


def test_a_user_who_may_not_read_a_model_sees_that_it_is_there(
    redisai: Redisai, bare: redis.Redis, url: str, con: Any
) -> None:
    redisai("model", "put", "open", MUL)
    redisai("model", "put", "secret", MUL)
    bare.acl_setuser("reader", enabled=True, passwords=["+pw"], keys=["open*"], commands=["+@all"])
    try:
        listed = redisai("model", "ls", "--json", "--url", url.replace("//", "//reader:pw@")).document
    finally:
        bare.acl_deluser("reader")
    assert [model["key"] for model in listed] in (["open"], ["open", "secret"])
    assert "backend" in listed[0]
    assert all("error" in model for model in listed[1:])


def test_a_server_that_needs_a_password_says_where_to_give_it(
    redisai: Redisai, bare: redis.Redis, redis_server: RedisServer
) -> None:
    bare.execute_command("CONFIG", "SET", "requirepass", "secret")  # type: ignore[no-untyped-call]
    try:
        for arguments in (("model", "ls"), ("train", "ls"), ("artifact", "ls")):
            done = redisai(*arguments, "--url", redis_server.url)
            assert done.code == 1
            assert "needs a password: give it in --url redis://:PASSWORD@HOST:PORT" in done.stderr
            assert len(done.stderr.splitlines()) == 1
    finally:
        bare.execute_command("CONFIG", "SET", "requirepass", "")  # type: ignore[no-untyped-call]
