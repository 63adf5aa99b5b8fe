"""Runs that are sent ahead to an engine process: what happens to one of them happens to no other one.

The onlookers use the very model that crashes or does not end, so their runs are in the same pipe, before and behind it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import redis

from tests.runtime.faulty import engines, info, run, store
from tests.runtime.onlookers import Onlookers
from tests.runtime.serving import Serving, eventually

Isolated = Callable[..., Serving]


@pytest.mark.parametrize("word", ["segv", "exit"])
def test_a_crash_harms_no_run_of_the_same_model(isolated: Isolated, word: str) -> None:
    serving = isolated()
    with serving.client() as client:
        store(client, "m", f"run:{word}")
        with Onlookers(serving, "m") as others:
            for _ in range(3):
                with pytest.raises(redis.ResponseError, match="its engine process died"):
                    assert run(client, "m", "bad") == 0
                assert run(client, "m") == 2.0
            assert others.pause_s() < 2.0
        assert others.errors == []
        assert others.calls > 60
        assert info(client, "m")[b"quarantine"] == b""


def test_an_error_is_that_of_its_run_alone(isolated: Isolated) -> None:
    serving = isolated()
    with serving.client() as client:
        store(client, "m", "run:refuse")
        with Onlookers(serving, "m") as others:
            for _ in range(20):
                with pytest.raises(redis.ResponseError, match=r"^the framework's own words$"):
                    run(client, "m", "bad")
        assert others.errors == []
        fields = info(client, "m")
        assert fields[b"errors"] == 20
        assert fields[b"calls"] == others.calls + 20


def test_a_run_that_does_not_end_is_stopped_and_those_behind_it_are_repeated(isolated: Isolated) -> None:
    serving = isolated("--model-execution-timeout-ms", 1000)
    with serving.client() as client:
        store(client, "m", "run:freeze")
        with Onlookers(serving, "m") as others:
            began = time.monotonic()
            with pytest.raises(redis.ResponseError, match="MODEL_EXECUTION_TIMEOUT of 1000 ms passed"):
                run(client, "m", "bad")
            assert time.monotonic() - began > 0.9
            assert run(client, "m") == 2.0
        assert others.errors == []


def test_runs_behind_a_long_one_leave_at_their_timeout(isolated: Isolated) -> None:
    serving = isolated("--model-execution-timeout-ms", 4000)
    with serving.client() as client, serving.client() as other:
        store(client, "m", "run:freeze")
        for _ in range(20):
            run(client, "m")
        blocked = client.connection_pool.get_connection()
        blocked.send_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "bad", "OUTPUTS", 1, "y")
        time.sleep(0.2)
        reply = other.execute_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "z", "TIMEOUT", 100)
        assert reply == b"TIMEDOUT"
        assert not blocked.can_read(timeout=0), "the run before it has ended"
        leaving = client.connection_pool.get_connection()
        leaving.send_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "x", "OUTPUTS", 1, "left")
        time.sleep(0.1)
        leaving.disconnect()
        with pytest.raises(redis.ResponseError, match="MODEL_EXECUTION_TIMEOUT"):
            raise blocked.read_response()
        client.connection_pool.release(blocked)
        assert run(client, "m") == 2.0
        assert not client.exists("left")


@pytest.mark.parametrize("batchsize", [0, 16])
def test_every_client_gets_its_own_result(isolated: Isolated, batchsize: int) -> None:
    """Many at once, of several sizes, while the process is killed now and then."""
    serving = isolated()
    wrong: list[str] = []
    stop = threading.Event()

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        with serving.client() as client:
            while not stop.is_set():
                x = rng.integers(1, 100, (1, [1, 7, 5000, 70_000][number % 4])).astype(np.float32)
                client.execute_command("AI.TENSORSET", f"in{number}", "FLOAT", *x.shape, "BLOB", x.tobytes())
                words = ("INPUTS", 1, f"in{number}", "OUTPUTS", 1, f"out{number}")
                try:
                    client.execute_command("AI.MODELEXECUTE", "m", *words)
                except redis.ResponseError as error:
                    if "its engine process died" not in str(error):
                        wrong.append(str(error))
                    continue
                if client.execute_command("AI.TENSORGET", f"out{number}", "BLOB") != (x * 2).tobytes():
                    wrong.append(f"client {number} got another one's result")

    with serving.client() as client:
        words = ("BATCHSIZE", batchsize) if batchsize else ()
        client.execute_command("AI.MODELSTORE", "m", "FAULTY", "CPU", *words, "BLOB", b"well")
        threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            time.sleep(0.7)
            for process in engines(serving):
                process.kill()
            assert eventually(lambda: len(engines(serving)) == 1)
        time.sleep(0.5)
        stop.set()
        for thread in threads:
            thread.join(30)
    assert wrong == []
