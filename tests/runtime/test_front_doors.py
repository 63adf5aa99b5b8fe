"""`redisai serve --processes N`: several front doors that look like one server, and restarts that refuse nobody."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

import psutil
import pytest
import redis

from redisai_py.serve.server_process import SPARE_NAME
from scripts.make_models import build_onnx_mul
from tests.runtime.serving import Serving, eventually, wait_until_gone
from tests.runtime.test_http import get, metric
from tests.support import free_port
from tests.waiting import until

Serve = Callable[..., Serving]
RUN = ("AI.MODELEXECUTE", "net", "INPUTS", 1, "x", "OUTPUTS", 1, "y")


def front_doors(serving: Serving) -> list[psutil.Process]:
    """The server's processes that have got their orders, the oldest first."""
    return sorted((p for p in serving.servers() if re.fullmatch(r"server(-\d+)?", p.name())), key=lambda p: p.pid)


def spare(serving: Serving, before: psutil.Process | None = None) -> psutil.Process:
    """The process that waits for the end of another, once it has imported its modules. before: not this one."""
    return eventually(lambda: next(p for p in serving.servers() if p.name() == SPARE_NAME and p != before))


@pytest.fixture
def clients() -> Iterator[Callable[[Serving], redis.Redis]]:
    """Clients of one connection each, closed at the end."""
    with ExitStack() as stack:

        def connect(serving: Serving) -> redis.Redis:
            client = serving.client(protocol=2, single_connection_client=True)
            stack.callback(client.close)
            client.ping()
            return client

        yield connect


def store_model(client: redis.Redis) -> None:
    client.execute_command("AI.MODELSTORE", "net", "ONNX", "CPU", "BLOB", build_onnx_mul())
    client.execute_command("AI.TENSORSET", "x", "FLOAT", 3, 2, "VALUES", *range(6))


def calls(client: redis.Redis, key: str = "net") -> int:
    reply = client.execute_command("AI.INFO", key)
    return int(dict(zip(reply[::2], reply[1::2], strict=True))[b"calls"])


def test_they_look_like_one_server(serve: Serve, data_dir: Path, clients: Callable[[Serving], redis.Redis]) -> None:
    port = free_port()
    serving = serve("--data-dir", data_dir, "--processes", 2, "--http", port)
    assert len(front_doors(serving)) == 2
    several = [clients(serving) for _ in range(4)]
    held = [sum(c.status == "ESTABLISHED" and c.laddr.port == serving.port for c in door.net_connections())
            for door in front_doors(serving)]  # fmt: skip
    assert held == [2, 2], "the supervisor gives each client to the process that has fewest"

    store_model(several[0])
    for client in several:
        for _ in range(3):
            client.execute_command(*RUN)
    assert [calls(client) for client in several] == [12] * 4
    full = several[3].execute_command("AI.INFO", "net", "FULL")
    figures = dict(zip(full[::2], full[1::2], strict=True))
    assert (figures[b"loaded"], figures[b"loads"], figures[b"loaded_bytes"]) == (1, 1, len(build_onnx_mul()))
    assert figures[b"batch_rows"] == [3, 12]
    assert figures[b"samples"] == 36
    with pytest.raises(redis.ResponseError):
        several[1].execute_command("AI.MODELEXECUTE", "net", "INPUTS", 1, "net", "OUTPUTS", 1, "y")
    for command in (("MULTI",), ("AI.INFO", "net")):
        several[2].execute_command(*command)
    assert several[2].execute_command("EXEC")[0][15] == 12

    labels = {"model": "net", "db": "0", "backend": "ONNX", "device": "CPU"}
    for _ in range(4):  # whichever process answers
        assert metric(port, "redisai_model_runs_total", **labels) == 12
        assert metric(port, "redisai_model_run_seconds_count", **labels) == 12
        assert metric(port, "redisai_clients") == 4
        assert metric(port, "redisai_loaded_models") == 1
    assert get(port, "/readyz") == (200, "ok\n")
    assert several[1].info("ai_backends_info") == several[0].info("ai_backends_info")
    assert several[1].info("ai_backends_info")["ai_onnxruntime_memory_access_num"] == 13

    several[1].execute_command("AI.CONFIG", "MODEL_CHUNK_SIZE", 70_000)
    assert [c.execute_command("AI.CONFIG", "GET", "MODEL_CHUNK_SIZE") for c in several] == [70_000] * 4
    several[2].execute_command("AI.INFO", "net", "RESETSTAT")
    assert [calls(client) for client in several] == [0] * 4
    several[3].execute_command(*RUN)
    assert [calls(client) for client in several] == [1] * 4

    several[0].execute_command("AI.MODELDEL", "net")
    eventually(lambda: metric(port, "redisai_loaded_models") == 0)
    assert metric(port, "redisai_model_runs_total", **labels) is None
    store_model(several[1])
    assert [calls(client) for client in several] == [0] * 4
    assert serving.stop() == 0
    assert "Traceback" not in serving.stderr


def test_predictions_are_counted_and_purged_for_all_together(
    serve: Serve, data_dir: Path, clients: Callable[[Serving], redis.Redis]
) -> None:
    serving = serve("--data-dir", data_dir, "--processes", 2)
    first, second = clients(serving), clients(serving)
    store_model(first)
    first.execute_command("AI.CACHE", "SET", "net", "TTL", 100, "MINRUN", 0)

    def counted(client: redis.Redis) -> int:
        reply = client.execute_command("AI.CACHE", "STATS", "net")
        fields = dict(zip(reply[::2], reply[1::2], strict=True))
        return sum(fields[name] for name in (b"hits", b"misses", b"joined", b"bypassed"))

    for client in (first, second):
        for _ in range(3):
            client.execute_command(*RUN)
    assert counted(first) == counted(second) == 6
    first.execute_command("AI.CACHE", "DEL", "net")
    second.execute_command("AI.CACHE", "SET", "net", "TTL", 100, "MINRUN", 0)
    assert counted(first) == counted(second) == 0, "a first rule counts anew, everywhere"


def test_runs_at_different_front_doors_do_not_wait_for_each_other(
    serve: Serve, data_dir: Path, clients: Callable[[Serving], redis.Redis]
) -> None:
    serving = serve("--data-dir", data_dir, "--processes", 2)
    first, second = clients(serving), clients(serving)
    options = ("BATCHSIZE", 8, "MINBATCHSIZE", 2)  # no MINBATCHTIMEOUT: one server waits until there are two
    first.execute_command("AI.MODELSTORE", "net", "ONNX", "CPU", *options, "BLOB", build_onnx_mul())
    first.execute_command("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
    for client in (first, second):
        assert client.execute_command(*RUN) == b"OK"
    first.execute_command("AI.MODELSTORE", "net", "ONNX", "CPU", *options[:3], 8, "BLOB", build_onnx_mul())
    for client in (first, second):  # half of 8 is 4, and none of the others comes
        assert client.execute_command(*RUN) == b"OK"


def test_the_limit_on_clients_is_that_of_all_together(
    serve: Serve, data_dir: Path, clients: Callable[[Serving], redis.Redis]
) -> None:
    serving = serve("--data-dir", data_dir, "--processes", 2, "--max-clients", 3)
    several = [clients(serving) for _ in range(3)]
    for _ in range(2):
        with pytest.raises(redis.ConnectionError, match="max number of clients reached"):
            clients(serving)
    several[1].close()
    assert eventually(lambda: clients(serving)).ping()


def test_one_that_is_killed_costs_its_own_clients_and_no_figure(
    serve: Serve, data_dir: Path, clients: Callable[[Serving], redis.Redis]
) -> None:
    port = free_port()
    serving = serve("--data-dir", data_dir, "--processes", 2, "--http", port)
    first, second = clients(serving), clients(serving)
    store_model(first)
    first.execute_command("AI.CONFIG", "MODEL_CHUNK_SIZE", 70_000)
    for client in (first, second):
        for _ in range(5):
            client.execute_command(*RUN)
    assert calls(second) == 10
    victim, other = front_doors(serving)
    victim.kill()
    with pytest.raises(redis.ConnectionError):
        first.execute_command(*RUN)
    second.execute_command(*RUN)
    assert calls(second) == 11, "what the killed process has counted stays counted"
    # Nobody waits for the next process: the one that is left takes all connections meanwhile.
    assert clients(serving).ping()
    eventually(lambda: len(front_doors(serving)) == 2 and "the server is back" in serving.stderr)
    assert victim.pid not in [door.pid for door in front_doors(serving)]
    assert other.is_running()
    newcomers = [clients(serving) for _ in range(3)]
    for client in newcomers:
        client.execute_command(*RUN)
    assert [calls(client) for client in newcomers] == [14] * 3
    assert {c.execute_command("AI.CONFIG", "GET", "MODEL_CHUNK_SIZE") for c in newcomers} == {70_000}
    assert get(port, "/readyz") == (200, "ok\n")


def test_the_spare_process_takes_the_place_of_one_that_dies(serve: Serve, data_dir: Path) -> None:
    serving = serve("--data-dir", data_dir, "--processes", 2)
    gone = spare(serving)
    gone.kill()
    waiting = spare(serving, gone)
    victim, _ = front_doors(serving)
    victim.kill()
    eventually(lambda: "the server is back" in serving.stderr)
    assert waiting in front_doors(serving)
    assert len(front_doors(serving)) == 2
    with serving.client() as client:
        assert client.ping()
    # What is installed may be newer than a process that waits, so a restart starts every process anew.
    waiting = spare(serving, waiting)
    serving.signal(signal.SIGUSR2)
    eventually(lambda: "restarted;" in serving.stderr)
    assert waiting not in front_doors(serving)
    wait_until_gone(waiting)
    waiting = spare(serving, waiting)
    assert serving.stop() == 0
    wait_until_gone(waiting)
    assert "Traceback" not in serving.stderr


@pytest.mark.slow
def test_one_that_does_not_answer_holds_up_nobody(
    serve: Serve, data_dir: Path, clients: Callable[[Serving], redis.Redis]
) -> None:
    serving = serve("--data-dir", data_dir, "--processes", 2)
    first, second = clients(serving), clients(serving)
    store_model(second)
    for client in (first, second):
        client.execute_command(*RUN)
    assert calls(second) == 2
    asleep = front_doors(serving)[0]
    asleep.suspend()
    try:
        assert calls(second) == 2, "its last figures count"
        began = time.monotonic()
        for _ in range(20):  # after the first time nobody waits for it
            assert calls(second) == 2
        assert time.monotonic() - began < 15
        second.execute_command("AI.INFO", "net", "RESETSTAT")
        second.execute_command("AI.CONFIG", "MODEL_CHUNK_SIZE", 80_000)
        eventually(partial(_connects_twice, serving))
    finally:
        asleep.resume()
    assert eventually(lambda: first.execute_command("AI.CONFIG", "GET", "MODEL_CHUNK_SIZE") == 80_000)
    assert calls(first) == 0, "it was told what it had missed"


def _connects_twice(serving: Serving) -> bool:
    """Whether new clients are given to a process that answers; a silent one is noticed after a second or two."""
    for _ in range(2):
        with redis.Redis(port=serving.port, socket_timeout=2, retry=None) as client:
            client.ping()
    return True


def test_memory_held_for_clients_is_bounded_for_all_together(
    serve: Serve, data_dir: Path, clients: Callable[[Serving], redis.Redis]
) -> None:
    serving = serve("--data-dir", data_dir, "--processes", 2, "--maxmemory-clients", 4 * 1024 * 1024)
    begun = b"PING\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n"
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(("127.0.0.1", serving.port), 20)) for _ in range(3)]
        for each in sockets[:2]:  # one at each process, with a word that never ends
            each.sendall(begun % 3_000_000)
            assert each.recv(100) == b"+PONG\r\n"
        sockets[0].sendall(bytes(2_500_000))
        time.sleep(0.2)
        sockets[1].sendall(bytes(2_000_000))
        assert b"maxmemory_clients" in sockets[0].recv(1000), "the one that holds most goes, wherever it is"
        sockets[1].sendall(bytes(1_000_000) + b"\r\n")
        assert sockets[1].recv(100) == b"+OK\r\n"


class Load:
    """Clients that work, and somebody who asks whether the server is ready, on threads until the end."""

    def __init__(self, serving: Serving, http_port: int) -> None:
        self._serving = serving
        self._http_port = http_port
        self._stop = threading.Event()
        self.acknowledged: list[str] = []
        self.failures: list[object] = []
        works: list[Callable[[], None]] = [partial(self._write, number) for number in range(6)]
        self._threads = [threading.Thread(target=self._guarded, args=(work,)) for work in [*works, self._look]]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _guarded(self, work: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                work()
            except OSError as error:  # disconnected, as all clients are by a restart: they connect again
                if "refused" in str(error):
                    self.failures.append(error)
            except BaseException as error:
                self.failures.append(error)

    def _write(self, number: int) -> None:
        with self._serving.client(protocol=2, single_connection_client=True) as client:
            while not self._stop.is_set():
                key = f"{number}:{len(self.acknowledged)}"
                try:
                    client.set(key, key)
                    client.execute_command("AI.DAGEXECUTE_RO", "LOAD", 1, "x", "|>", *RUN)
                except redis.ConnectionError as error:
                    raise OSError(str(error)) from error
                self.acknowledged.append(key)

    def _look(self) -> None:
        status = get(self._http_port, "/readyz")
        if status != (200, "ok\n"):
            self.failures.append(status)
        time.sleep(0.02)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_restart_refuses_nobody_and_loses_nothing(serve: Serve, data_dir: Path, processes: int) -> None:
    port = free_port()
    serving = serve("--data-dir", data_dir, "--processes", processes, "--http", port)
    before = front_doors(serving)
    with serving.client() as client:
        store_model(client)
    with Load(serving, port) as load:
        serving.signal(signal.SIGUSR2)
        eventually(lambda: "restarted;" in serving.stderr)
        time.sleep(0.3)
    assert load.failures == []
    for process in before:
        wait_until_gone(process)
    assert len(front_doors(serving)) == processes
    with serving.client() as client:
        assert len(load.acknowledged) > 50
        assert client.mget(load.acknowledged) == [key.encode() for key in load.acknowledged]
        if processes > 1:
            # A busy front door tells its counts later.
            until(lambda: calls(client) >= len(load.acknowledged), lambda: serving.stderr, every_s=0.1)
    assert serving.stop() == 0
    assert "Traceback" not in serving.stderr


def test_a_restart_that_fails_leaves_what_runs(serve: Serve, data_dir: Path) -> None:
    serving = serve("--data-dir", data_dir)
    (running,) = front_doors(serving)
    with serving.client() as client:
        client.ping()
        serving.signal(signal.SIGUSR2)
        fresh = eventually(lambda: next(door for door in front_doors(serving) if door != running))
        fresh.kill()
        eventually(lambda: "the restart failed" in serving.stderr)
        assert client.ping()
    assert front_doors(serving) == [running]


def test_the_bound_port_for_http_outlives_a_process(serve: Serve, data_dir: Path) -> None:
    port = free_port()
    serving = serve("--data-dir", data_dir, "--processes", 2, "--http", port)
    for door in front_doors(serving):
        door.kill()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=20) as answer:  # it waits in the queue
        assert answer.read() == b"ok\n"
