"""The near cache's one rule, attacked: a command that arrives after a write was acknowledged, by Redis itself or by any
sidecar, sees that write, and nothing that it leaves behind tells of an older value.

Models multiply by 2 or by 1, so what a result was computed from can be read off it. The first tests stop the
invalidations on their way and so make sure of the moment that a race only may hit; the hammer then hits at random.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
import redis

from redisai_py.config import Config
from scripts import make_models
from tests.support import LOCALHOST, FrontDoor, RedisServer
from tests.wire import Wire, numbers, value

RUN = ("AI.MODELEXECUTE", "m", "INPUTS", "1", "x", "OUTPUTS", "1", "y")
IN_PLACE = ("AI.MODELEXECUTE", "m", "INPUTS", "1", "x", "OUTPUTS", "1", "x")
DAG = ("AI.DAGEXECUTE", "LOAD", "1", "x", "PERSIST", "1", "y", "|>", *RUN)
WARM_UP = 3


class HoldingProxy:
    """Forwards bytes to Redis and back; can hold back what Redis sends on connections that track keys."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server((LOCALHOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._flowing = threading.Event()
        self._flowing.set()
        self._tracking: set[socket.socket] = set()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.asked = threading.Semaphore(0)
        """Released for each piece sent to Redis on a tracking connection while its replies are held."""

    def hold(self) -> None:
        """From now on no byte from Redis reaches a connection that tracks keys."""
        self._flowing.clear()

    def release(self) -> None:
        """What was held goes on, in order."""
        self._flowing.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((LOCALHOST, self._target))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += (client, server)
            for source, sink, answers in ((client, server, False), (server, client, True)):
                thread = threading.Thread(target=self._pump, args=(source, sink, client, answers))
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, client: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(65536):
                if answers:
                    if client in self._tracking:
                        self._flowing.wait(20)
                    sink.sendall(data)
                    continue
                if b"TRACKING" in data:
                    self._tracking.add(client)
                sink.sendall(data)
                if client in self._tracking and not self._flowing.is_set():
                    self.asked.release()
        except OSError:
            pass
        for end in (source, sink):
            _shut(end)

    def close(self) -> None:
        """Cut everything and wait for the threads."""
        self.release()
        _shut(self._listener)
        for end in self._sockets:
            _shut(end)
        for thread in self._threads:
            thread.join(5)
        for end in (self._listener, *self._sockets):
            end.close()


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[HoldingProxy]:
    """Between the front door of `held` and Redis."""
    proxy = HoldingProxy(redis_server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def held(proxy: HoldingProxy, bare: redis.Redis) -> Iterator[Wire]:
    """A client of a front door behind the proxy; the models are stored and x, 1, is near."""
    server = FrontDoor(Config(redis=f"redis://{LOCALHOST}:{proxy.port}", port=0, drain_timeout_s=1))
    with Wire(server.port) as client:
        _prepare(client)
        yield client
        proxy.release()
    server.stop()


@pytest.fixture(scope="module")
def other_door(redis_server: RedisServer) -> Iterator[FrontDoor]:
    """A second sidecar on the same Redis."""
    server = FrontDoor(Config(redis=redis_server.url, port=0, drain_timeout_s=1))
    yield server
    server.stop()


def _prepare(client: Wire) -> None:
    assert client("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", make_models.build_onnx_mul()) == b"OK"
    assert client("SET", "x", value(1)) == b"OK"
    for _ in range(WARM_UP):
        assert client(*RUN) == b"OK"


def _held_result(held: Wire, proxy: HoldingProxy, command: tuple[str, ...]) -> None:
    """Send a command whose entries are out of date unknown to the server; let it find out only later."""
    held.send(*command)
    assert proxy.asked.acquire(timeout=10), "the server asked Redis nothing"
    proxy.release()
    assert held.receive() in (b"OK", [b"OK"])


@pytest.mark.parametrize("command", [RUN, DAG], ids=["model", "dag"])
def test_an_invalidation_on_its_way_is_waited_for(
    command: tuple[str, ...], held: Wire, proxy: HoldingProxy, bare: redis.Redis
) -> None:
    held(*command)
    proxy.hold()
    bare.set("x", value(10))
    _held_result(held, proxy, command)
    assert numbers(bare.get("y")) == [20, 20]


def test_an_acknowledged_write_is_not_lost_to_a_run_in_place(
    held: Wire, proxy: HoldingProxy, bare: redis.Redis
) -> None:
    proxy.hold()
    bare.set("x", value(10))
    _held_result(held, proxy, IN_PLACE)
    assert numbers(bare.get("x")) == [20, 20]


def _until_end(events: redis.client.PubSub) -> Iterator[dict[str, bytes]]:
    while (message := events.get_message(timeout=5)) is not None and message["data"] != b"end":
        yield message


@pytest.mark.parametrize("command", [RUN, DAG], ids=["model", "dag"])
def test_nobody_ever_reads_an_output_of_an_old_input(
    command: tuple[str, ...], held: Wire, proxy: HoldingProxy, bare: redis.Redis, redis_server: RedisServer
) -> None:
    held(*command)
    bare.delete("y")
    held("PING")
    proxy.hold()
    bare.set("x", value(10))
    with redis.Redis(port=redis_server.port) as watcher, watcher.pubsub() as events:
        bare.config_set("notify-keyspace-events", "K$")
        events.subscribe("__keyspace@0__:y")
        assert events.get_message(timeout=5)["type"] == "subscribe"
        _held_result(held, proxy, command)
        bare.config_set("notify-keyspace-events", "")
        bare.publish("__keyspace@0__:y", "end")
        written = [message["data"] for message in _until_end(events)]
    assert written == [b"set"]
    assert numbers(bare.get("y")) == [20, 20]
