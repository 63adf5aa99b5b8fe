"""Several front doors with one set of engine processes: a model is there once, and whoever dies takes nobody along.

Every process is real. A client is connected to the front door that has fewest, so two clients are at two front doors.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psutil
import pytest
import redis

from tests.runtime.faulty import engines, info, run, store
from tests.runtime.onlookers import Onlookers
from tests.runtime.serving import Serving, eventually, wait_until_gone
from tests.runtime.test_front_doors import front_doors

Isolated = Callable[..., Serving]
Clients = Callable[[Serving], redis.Redis]


@pytest.fixture
def clients() -> Iterator[Clients]:
    """Clients of one connection each, closed at the end."""
    with ExitStack() as stack:

        def connect(serving: Serving) -> redis.Redis:
            client = serving.client(protocol=2, single_connection_client=True)
            stack.callback(client.close)
            client.ping()
            return client

        yield connect


def manager(serving: Serving) -> psutil.Process:
    """The process that manages the engine processes."""
    return next(p for p in serving.supervisor.children() if p.name() == "manager")


def door_of(serving: Serving, client: redis.Redis) -> psutil.Process:
    """The front door to which a client is connected."""
    port = client.connection._sock.getsockname()[1]
    doors = front_doors(serving)
    return next(p for p in doors if any(c.raddr and c.raddr.port == port for c in p.net_connections()))


def apart(serving: Serving, clients: Clients) -> tuple[redis.Redis, redis.Redis]:
    """Two clients, at two front doors."""
    first, second = clients(serving), clients(serving)
    while door_of(serving, first) == door_of(serving, second):  # a client that has just left was still counted
        second = clients(serving)
    return first, second


def test_a_model_is_loaded_once_for_all(isolated: Isolated, clients: Clients) -> None:
    serving = isolated("--processes", 2)
    first, second = apart(serving, clients)
    store(first, "m")
    for client in (first, second):
        for _ in range(20):
            assert run(client, "m") == 2.0
    (process,) = engines(serving)
    for client in (first, second):
        fields = info(client, "m")
        assert (fields[b"process"], fields[b"loads"], fields[b"calls"]) == (process.pid, 1, 40)
        assert (fields[b"loaded"], fields[b"loaded_bytes"]) == (1, 8)
    first.execute_command("AI.MODELSTORE", "g", "FAULTY", "GPU:0", "BLOB", b"any")
    second.execute_command("AI.MODELSTORE", "h", "FAULTY", "GPU:0", "BLOB", b"any")
    for client in (first, second):
        assert run(client, "g") == run(client, "h") == 2.0
    assert len(engines(serving)) == 2, "one process owns the device, whatever the number of front doors"
    for key in ("m", "g", "h"):
        first.execute_command("AI.MODELDEL", key)
    assert eventually(lambda: not engines(serving)), "a process without a model ends"


def test_a_state_is_one_for_all(isolated: Isolated, clients: Clients) -> None:
    serving = isolated("--processes", 2)
    first, second = apart(serving, clients)
    store(first, "counts", "run:counts")
    assert [run(client, "counts") for client in (first, second, second, first)] == [1.0, 2.0, 3.0, 4.0]


def test_quarantine_is_one_for_all(isolated: Isolated, clients: Clients) -> None:
    serving = isolated("--processes", 2)
    first, second = apart(serving, clients)
    store(first, "good")
    store(first, "m", "run:segv")
    with Onlookers(serving, "good") as others:
        for client in (first, second, first):
            with pytest.raises(redis.ResponseError, match=r"model 'm': its engine process died .*SIGSEGV|quarantine"):
                run(client, "m", "bad")
        for client in (first, second):
            with pytest.raises(redis.ResponseError, match=r"model 'm': it is in quarantine.*3 runs.*SIGSEGV"):
                run(client, "m")
            assert b"3 runs in a row" in info(client, "m")[b"quarantine"]
        assert others.pause_s() < 2.0
    assert others.errors == []
    deaths = [line for line in serving.stderr.splitlines() if "an engine process ended" in line]
    assert len(deaths) == 3, deaths  # each is counted and logged once
    store(second, "m", "run:segv")
    for client in (first, second):
        assert run(client, "m") == 2.0
        assert info(client, "m")[b"quarantine"] == b""


def test_a_good_run_at_one_clears_the_record_for_all(isolated: Isolated, clients: Clients) -> None:
    serving = isolated("--processes", 2)
    first, second = apart(serving, clients)
    store(first, "m", "run:segv")
    for _ in range(2):
        for client in (first, second):
            with pytest.raises(redis.ResponseError, match="its engine process died"):
                run(client, "m", "bad")
        assert run(second, "m") == 2.0
    assert run(first, "m") == 2.0


@pytest.mark.parametrize("victims", ["front door", "manager", "engine process"])
def test_one_that_is_killed_under_load_takes_nobody_along(isolated: Isolated, clients: Clients, victims: str) -> None:
    serving = isolated("--processes", 2)
    first, second = apart(serving, clients)
    store(first, "good")
    store(first, "other")
    for client in (first, second):
        assert run(client, "good") == run(client, "other") == 2.0
    before = engines(serving)
    with Onlookers(serving, "good") as others:
        if victims == "front door":
            door_of(serving, first).kill()
            time.sleep(0.5)
        else:
            victim = manager(serving) if victims == "manager" else before[0]
            victim.kill()
            wait_until_gone(before[0])
            assert eventually(lambda: len(engines(serving)) == 2)
        time.sleep(0.5)
        assert run(second, "other") == run(second, "good") == 2.0
    if victims == "front door":
        assert engines(serving) == before
        assert {error for error in others.errors if "onnection" not in error} == set(), "it cost connections, no more"
    elif victims == "manager":
        assert others.errors == []
        assert serving.stderr.count("the manager of the engine processes died") == 1
        for process in before:
            wait_until_gone(process)
    else:
        assert all("model 'good': its engine process died" in error for error in others.errors)
    assert info(second, "good")[b"quarantine"] == b""
    eventually(lambda: len(front_doors(serving)) == 2)
    newcomers = [clients(serving) for _ in range(2)]
    for client in newcomers:
        assert run(client, "good") == run(client, "other") == 2.0
    assert len(engines(serving)) == 2
    for key in ("good", "other"):
        newcomers[0].execute_command("AI.MODELDEL", key)
    assert eventually(lambda: not engines(serving)), "nothing of the dead is kept"


def test_a_restart_under_load_takes_the_models_over(isolated: Isolated, clients: Clients) -> None:
    serving = isolated("--processes", 2)
    store(clients(serving), "good")
    with Onlookers(serving, "good") as others:
        assert eventually(lambda: len(engines(serving)) == 1)
        (process,) = engines(serving)
        before = front_doors(serving)
        serving.signal(signal.SIGUSR2)
        eventually(lambda: "restarted;" in serving.stderr)
        for door in before:
            wait_until_gone(door)
        time.sleep(0.3)
    assert {error for error in others.errors if "onnection" not in error} == set()
    client = clients(serving)
    assert run(client, "good") == 2.0
    assert engines(serving) == [process], "it was never without a front door"
    assert info(client, "good")[b"loads"] == 1


@pytest.mark.slow
def test_a_run_that_a_dead_front_door_has_left_behind_is_ended(isolated: Isolated, clients: Clients) -> None:
    serving = isolated("--processes", 2, "--model-execution-timeout-ms", 0)
    first, second = apart(serving, clients)
    store(first, "m", "run:loop")
    assert run(first, "m") == run(second, "m") == 2.0
    (process,) = engines(serving)
    door = door_of(serving, first)
    first.connection.send_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "bad", "OUTPUTS", 1, "y")
    time.sleep(0.3)
    door.kill()
    wait_until_gone(process, 30)
    assert eventually(lambda: "still at a run of a front door that has ended" in serving.stderr)
    assert run(second, "m") == 2.0
    assert info(second, "m")[b"quarantine"] == b""


def test_killing_the_supervisor_leaves_nothing(isolated: Isolated, clients: Clients) -> None:
    serving = isolated("--processes", 2, "--drain-timeout-s", 1)
    store(clients(serving), "m")
    processes = [p for p in serving.supervisor.children(recursive=True) if "redis-server" not in p.name()]
    assert {p.pid for p in (manager(serving), *front_doors(serving), *engines(serving))} <= {p.pid for p in processes}
    serving.supervisor.kill()
    for process in processes:
        wait_until_gone(process)


@pytest.mark.slow
def test_a_run_that_waits_for_another_front_doors_is_not_late(isolated: Isolated, clients: Clients) -> None:
    """The session may be entered by one thread: four clients at four front doors, each run below the limit."""
    serving = isolated("--processes", 4, "--model-execution-timeout-ms", 1000)
    several = [clients(serving) for _ in range(4)]
    store(several[0], "m", "run:sleep")
    for client in several:
        assert run(client, "m") == 2.0
    (process,) = engines(serving)
    errors: list[str] = []

    def work(client: redis.Redis) -> None:
        for _ in range(6):
            try:
                client.execute_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "bad", "OUTPUTS", 1, "y")
            except redis.RedisError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=work, args=(client,)) for client in several]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert engines(serving) == [process]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_as_many_front_doors_as_there_may_be(
    isolated: Isolated, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.runtime.serving.READY_TIMEOUT_S", 120)
    serving = isolated("--processes", 64)
    several = [clients(serving) for _ in range(64)]
    ports = {client.connection._sock.getsockname()[1] for client in several}
    for door in front_doors(serving):
        assert ports & {connection.raddr.port for connection in door.net_connections() if connection.raddr}
    store(several[0], "m")
    with ThreadPoolExecutor(64) as threads:
        assert set(threads.map(lambda client: run(client, "m"), several)) == {2.0}
    (process,) = engines(serving)
    fields = info(several[-1], "m")
    assert (fields[b"process"], fields[b"loads"], fields[b"calls"], fields[b"loaded_bytes"]) == (process.pid, 1, 64, 8)
    taken = sum(door.memory_full_info().pss for door in front_doors(serving))
    assert taken < 64 * 60_000_000
    several[1].execute_command("AI.MODELDEL", "m")
    assert eventually(lambda: not engines(serving))
