"""`--loaded-models-limit-bytes` with several front doors: it is the whole server's, whoever loads and runs what.

A model of the test's backend takes 8 bytes.
"""

from __future__ import annotations

import threading
import time

import pytest
import redis

from tests.runtime.faulty import engines, info, run, store
from tests.runtime.serving import Serving, eventually
from tests.runtime.test_http import metric
from tests.runtime.test_shared_engines import Clients, Isolated, apart, clients
from tests.support import free_port

__all__ = ["clients"]


def loaded(client: redis.Redis, *keys: str) -> dict[str, int]:
    """What each loaded model takes in the whole server."""
    fields = {key: info(client, key) for key in keys}
    return {key: found[b"loaded_bytes"] for key, found in fields.items() if found[b"loaded"]}


def unloadings(serving: Serving) -> int:
    return serving.stderr.count("others need its memory")


def test_a_model_that_front_doors_share_counts_once(isolated: Isolated, clients: Clients) -> None:
    port = free_port()
    serving = isolated("--processes", 2, "--loaded-models-limit-bytes", 24, "--http", port)
    first, second = apart(serving, clients)
    for key in ("a", "b", "c"):
        store(first, key)
        for client in (first, second):
            assert run(client, key) == 2.0
    assert loaded(second, "a", "b", "c") == {"a": 8, "b": 8, "c": 8}
    assert metric(port, "redisai_loaded_models_bytes") == metric(port, "redisai_loaded_models_limit_bytes") == 24
    assert unloadings(serving) == 0
    run(second, "a")  # and not at the first front door, which unloads
    store(first, "d")
    assert eventually(lambda: loaded(first, "a", "b", "c", "d") == {"a": 8, "c": 8, "d": 8})
    assert eventually(lambda: len(engines(serving)) == 3), "it is unloaded at both front doors, and its process ends"
    assert metric(port, "redisai_loaded_models_bytes") == 24
    assert run(second, "b") == 2.0, "and loaded again when it is needed"
    assert eventually(lambda: loaded(first, "a", "b", "c", "d") == {"a": 8, "b": 8, "d": 8})


def test_each_copy_in_a_front_door_counts(isolated: Isolated, clients: Clients) -> None:
    serving = isolated("--processes", 2, "--loaded-models-limit-bytes", 32, mode="none")
    first, second = apart(serving, clients)
    for key in ("a", "b"):
        store(first, key)
        assert run(second, key) == 2.0
    assert loaded(first, "a", "b") == {"a": 16, "b": 16}
    assert unloadings(serving) == 0
    store(second, "c")
    assert eventually(lambda: loaded(first, "a", "b", "c") == {"b": 16, "c": 8})
    assert run(first, "a") == run(second, "a") == 2.0
    assert eventually(lambda: loaded(first, "a", "b", "c") == {"a": 16, "c": 8})


def test_a_model_in_use_at_another_front_door_stays_until_it_is_idle(isolated: Isolated, clients: Clients) -> None:
    serving = isolated("--processes", 2, "--loaded-models-limit-bytes", 15)
    first, second = apart(serving, clients)
    store(first, "busy", "run:sleep")
    assert run(second, "busy") == 2.0
    errors: list[Exception] = []

    def keep_busy() -> None:
        try:
            for _ in range(6):  # 0.3 s each, in a pipeline: never idle
                second.connection.send_command("AI.MODELEXECUTE", "busy", "INPUTS", 1, "bad", "OUTPUTS", 1, "y")
            for _ in range(6):
                second.connection.read_response()
        except Exception as error:
            errors.append(error)

    runs = threading.Thread(target=keep_busy)
    runs.start()
    time.sleep(0.5)
    store(first, "new")
    assert run(first, "new") == 2.0
    runs.join(60)
    assert errors == []
    assert info(first, "busy")[b"loads"] == 1, "it stayed"
    assert run(first, "new") == 2.0
    assert eventually(lambda: sum(loaded(first, "busy", "new").values()) == 8), "the limit holds again"


@pytest.mark.parametrize("mode", ["all", "none"])
def test_many_models_at_several_front_doors(isolated: Isolated, clients: Clients, mode: str) -> None:
    limit = 160
    serving = isolated("--processes", 3, "--loaded-models-limit-bytes", limit, mode=mode)
    several = [clients(serving) for _ in range(3)]
    keys = [f"m{number}" for number in range(30)]
    for number, key in enumerate(keys):
        store(several[number % 3], key)
    failures: list[str] = []

    def use(offset: int) -> None:
        for number in range(60):
            try:
                assert run(several[offset], keys[(number * 7 + offset) % 30], "x") == 2.0
            except Exception as error:
                failures.append(str(error))

    threads = [threading.Thread(target=use, args=(offset,)) for offset in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    assert eventually(lambda: 0 < sum(loaded(several[0], *keys).values()) <= limit)
