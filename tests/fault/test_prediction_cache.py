"""What the prediction cache must hold when Redis, clients and other servers fail.

Servers are processes of their own.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import pytest
import redis

from redisai_py import Client
from redisai_py.client import Client as Connected
from scripts.make_models import build_onnx_add, build_onnx_heavy, torch_script
from tests.runtime.serving import Serving
from tests.waiting import until

RULE = {"ttl": 60, "minrun": 0}
SLOW_ITERATIONS = 600
"""About 0.1 s of the slow model."""


@pytest.fixture
def servers(redis_server, bare):
    """Three servers of one Redis."""
    with ExitStack() as stack:
        started = [Serving("--redis", redis_server.url) for _ in range(3)]
        for serving in started:
            stack.callback(serving.close)
        for serving in started:
            serving.wait_ready()
        yield started


@pytest.fixture
def server(redis_server, bare):
    serving = Serving("--redis", redis_server.url)
    try:
        serving.wait_ready()
        yield serving
    finally:
        serving.close()


def connected(serving: Any) -> Connected:
    return Client(port=serving.port)


def runs(con: Connected, key: str) -> int:
    """How often the framework ran the model on this server, the warm-up not counted."""
    return int(con.infoget(key, full=True)["batches"])


def store_slow(con: Connected, **rule: Any) -> None:
    con.modelstore("slow", "onnx", "cpu", build_onnx_heavy(SLOW_ITERATIONS))
    con.tensorset("x", np.ones((1, 2), np.float32))
    con.modelexecute("slow", "x", "y")  # so that a run's time is known
    con.cacheset("slow", **{**RULE, **rule})


def test_equal_requests_of_many_clients_run_once_per_server(servers, bare):
    with connected(servers[0]) as con:
        store_slow(con)
    before = []
    for serving in servers:
        with connected(serving) as con:
            con.modelexecute("slow", "x", "y", cache="NO")
            before.append(runs(con, "slow"))

    def ask(number: int) -> str:
        with connected(servers[number % 3]) as con:
            return str(con.modelexecute("slow", "x", f"y{number % 50}"))

    with ThreadPoolExecutor(60) as pool:
        assert set(pool.map(ask, range(1000))) == {"OK"}
    ran = 0
    for serving, count in zip(servers, before, strict=True):
        with connected(serving) as con:
            ran += runs(con, "slow") - count
    assert 1 <= ran <= 3


def test_a_thousand_equal_requests_at_expiry_make_at_most_three_runs(servers, bare):
    ttl_s, clients = 3, 60
    with connected(servers[0]) as con:
        store_slow(con, ttl=ttl_s, jitter=0)
    connections = [connected(servers[number % 3]) for number in range(clients)]

    def ask(number: int, past: float) -> int:
        count = 0
        while count < 17 or time.monotonic() < past:
            connections[number].modelexecute("slow", "x", f"y{number}")
            count += 1
        return count

    for _ in range(5):
        connections[0].modelexecute("slow", "x", "y", cache="REFRESH")
        before = sum(runs(con, "slow") for con in connections[:3])
        expires = time.monotonic() + ttl_s
        time.sleep(ttl_s - 0.5)
        with ThreadPoolExecutor(clients) as pool:
            asked = sum(pool.map(ask, range(clients), [expires + 0.5] * clients))
        ran = sum(runs(con, "slow") for con in connections[:3]) - before
        if time.monotonic() < expires + ttl_s - 1:  # else what was computed at the expiry has expired in turn
            break
    for con in connections:
        con.close()
    assert asked >= 1000
    assert 1 <= ran <= 3


def test_a_hit_is_never_served_after_its_end(server, bare):
    with connected(server) as con:
        store_slow(con, ttl=1, jitter=0)
        con.modelexecute("slow", "x", "y")
        until(lambda: list(bare.scan_iter(match="ai:pred:*")))
        assert con.modelexecute("slow", "x", "y", cache="ONLY") == "OK"
        time.sleep(1.2)  # past the second that it lives for, here and in Redis
        with pytest.raises(redis.ResponseError, match="MISS"):
            con.modelexecute("slow", "x", "y", cache="ONLY")


def test_an_owner_that_leaves_or_runs_out_of_time_fails_nobody(server, bare):
    with connected(server) as con:
        store_slow(con)
        con.tensorset("z", np.full((1, 2), 3, np.float32))

    outcomes: list[Any] = []

    def wait_for_it(timeout: int | None = None) -> None:
        with connected(server) as con:
            try:
                outcomes.append(con.modelexecute("slow", "x", "y", timeout=timeout))
            except redis.ResponseError as error:
                outcomes.append(error)

    owner = connected(server)
    connection = owner.connection_pool.get_connection()
    connection.send_command("AI.MODELEXECUTE", "slow", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    time.sleep(0.02)
    others = [threading.Thread(target=wait_for_it) for _ in range(8)]
    for other in others:
        other.start()
    connection.disconnect()
    for other in others:
        other.join(30)
    assert outcomes == ["OK"] * 8
    with connected(server) as con:
        assert con.tensorget("y").tolist() == [[1, 1]]


def test_when_an_owner_runs_out_of_time_one_of_the_others_takes_over(server, bare):
    with connected(server) as con:
        store_slow(con)
        before = runs(con, "slow")
    busy = 8
    """Runs that occupy every thread for longer than the owner waits."""

    def occupy(_: int) -> None:
        with connected(server) as con:
            con.modelexecute("slow", "x", "y", cache="NO")

    def ask(timeout_ms: int | None) -> str:
        with connected(server) as con:
            try:
                return str(con.modelexecute("slow", "x", "z", timeout=timeout_ms))
            except redis.ResponseError as error:
                return str(error)

    with ThreadPoolExecutor(busy + 12) as pool:
        occupied = [pool.submit(occupy, number) for number in range(busy)]
        time.sleep(0.05)
        owner = pool.submit(ask, 40)
        time.sleep(0.02)
        others = [pool.submit(ask, None) for _ in range(10)]
        assert owner.result(60) == "TIMEDOUT"
        assert [other.result(60) for other in others] == ["OK"] * 10
        for each in occupied:
            each.result(60)
    with connected(server) as con:
        found = con.cachestats("slow")
        assert runs(con, "slow") - before - busy <= 1
        assert found["inserts"] == 1
        assert found["joined"] >= 8


def test_errors_are_not_shared_and_not_kept(server, bare):
    with connected(server) as con:
        con.modelstore("bad", "onnx", "cpu", build_onnx_heavy(50))
        con.cacheset("bad", **RULE)
        con.tensorset("wrong", np.ones((1, 3), np.float32))

    def ask(_: int) -> bool:
        with connected(server) as con:
            try:
                con.modelexecute("bad", "wrong", "y")
            except redis.ResponseError as error:
                return "MISS" not in str(error)
        return False

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(64)))
    assert list(bare.scan_iter(match="ai:pred:*")) == []


class DelayingProxy(threading.Thread):
    """Passes bytes to Redis, those with a look-up `delay_s` later; or cuts the connection on which a look-up comes."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._redis = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.delay_s = 0.0
        self.cuts = 0
        """How many look-ups are still to be cut off."""

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            redis_side = socket.create_connection(("127.0.0.1", self._redis))
            threading.Thread(target=self._pass, args=(client, redis_side, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(redis_side, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, delays: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if delays and b"$3\r\nGET\r\n" in data and b"ai:pred:" in data:
                    time.sleep(self.delay_s)
                    if self.cuts:
                        self.cuts -= 1
                        break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._listener.close()


def test_a_slow_redis_costs_a_part_of_a_run_and_no_more(redis_server, bare):
    proxy = DelayingProxy(redis_server.port)
    proxy.start()
    serving = Serving("--redis", f"redis://127.0.0.1:{proxy.port}")
    try:
        serving.wait_ready()
        with connected(serving) as con:
            store_slow(con)

            def ask(value: float) -> float:
                dag = con.dag(routing="slow", readonly=True).tensorset("in", np.full((1, 2), value, np.float32))
                began = time.monotonic()
                assert dag.modelexecute("slow", "in", "out").tensorget("out").execute()[-1].tolist() == [[value, value]]
                return time.monotonic() - began

            usual = max(ask(value) for value in range(5))
            proxy.delay_s = 20 * usual + 2
            assert ask(100) < proxy.delay_s  # the run was not kept waiting for the look-up
            assert con.cachestats("slow")["late"] == 1
            proxy.delay_s = 0
            until(lambda: ask(100) < usual)  # and the prediction is stored when Redis is back
    finally:
        serving.close()
        proxy.close()


@pytest.fixture
def proxied(redis_server, bare):
    """A server, and the proxy through which it reaches Redis."""
    proxy = DelayingProxy(redis_server.port)
    proxy.start()
    serving = Serving("--redis", f"redis://127.0.0.1:{proxy.port}")
    try:
        serving.wait_ready()
        yield serving, proxy
    finally:
        serving.close()
        proxy.close()


def ask_slow(con: Connected, value: float) -> list[list[float]]:
    dag = con.dag(routing="slow", readonly=True).tensorset("in", np.full((1, 2), value, np.float32))
    return dag.modelexecute("slow", "in", "out").tensorget("out").execute()[-1].tolist()


def test_a_connection_lost_in_the_middle_of_a_look_up_costs_no_answer(proxied):
    serving, proxy = proxied
    with connected(serving) as con:
        store_slow(con)
        ask_slow(con, 1)
        proxy.cuts = 1
        with ThreadPoolExecutor(8) as pool:
            connections = [connected(serving) for _ in range(8)]
            answers = list(pool.map(lambda each: ask_slow(each, 7), connections))
            for each in connections:
                each.close()
        assert answers == [[[7, 7]]] * 8
        assert proxy.cuts == 0
        errors = con.cachestats("slow")["errors"]
        assert errors.get("redis") == 1
        until(lambda: ask_slow(con, 7) == [[7, 7]] and con.cachestats("slow")["hits"])


def test_out_of_memory_and_read_only_turn_inserts_off_and_runs_go_on(server, bare):
    with connected(server) as con:
        con.modelstore("add", "onnx", "cpu", build_onnx_add())
        con.cacheset("add", **RULE)

        def ask(number: int) -> list[Any]:
            dag = con.dag(routing="add", readonly=True).tensorset("a", np.full((1, 2), number, np.float32))
            dag.tensorset("b", np.ones((1, 2), np.float32)).modelexecute("add", ["a", "b"], "c").tensorget("c")
            return dag.execute()[-1].tolist()

        try:
            bare.config_set("maxmemory", 1)
            bare.config_set("maxmemory-policy", "noeviction")
            for number in range(10):
                assert ask(number) == [[number + 1, number + 1]]
            until(lambda: con.cachestats("add")["errors"].get("oom"))
            assert con.cachestats("add")["errors"]["oom"] <= 10
            ask(20)
            until(lambda: con.cachestats("add")["errors"].get("off"))
        finally:
            bare.config_set("maxmemory", 0)
    with connected(server) as con:
        try:
            bare.execute_command("REPLICAOF", "127.0.0.1", "1")
            for number in range(30, 34):
                dag = con.dag(routing="add", readonly=True).tensorset("a", np.full((1, 2), number, np.float32))
                dag.tensorset("b", np.ones((1, 2), np.float32)).modelexecute("add", ["a", "b"], "c").tensorget("c")
                assert dag.execute()[-1].tolist() == [[number + 1, number + 1]]
        finally:
            bare.execute_command("REPLICAOF", "NO", "ONE")


MODELS = {
    1: "def forward(self, a):\n    return a * 2",
    2: "def forward(self, a):\n    return a * 3",
}


class Swaps:
    """Clients ask `m1` and `m2` while these are stored anew, renamed over and rolled back, and `fixed`, which is not.

    A reply is right if it is that of a model that the key held at some time between question and answer.
    """

    def __init__(self, servers: list[Any]) -> None:
        self.servers = servers
        self.wrong: list[Any] = []
        self._history: dict[str, list[tuple[float, int]]] = {}
        self._blobs = {number: torch_script(source) for number, source in MODELS.items()}
        self._done = threading.Event()
        with connected(servers[0]) as con:
            for key, number in (("m1", 1), ("m2", 2), ("fixed", 1)):
                con.modelstore(key, "torch", "cpu", self._blobs[number])
                con.cacheset(key, **RULE)
                self._note(key, number)

    def _note(self, key: str, number: int) -> None:
        self._history.setdefault(key, []).append((time.monotonic(), number + 1))

    def change(self) -> None:
        """Give a key another model, again and again."""
        rng = random.Random(5)
        with connected(self.servers[1]) as con:
            while not self._done.is_set():
                key, number = rng.choice(("m1", "m2")), rng.choice((1, 2))
                self._note(key, number)  # from here on either answer may come
                if rng.random() < 0.5:
                    con.modelstore(key, "torch", "cpu", self._blobs[number])
                else:
                    con.modelstore("staged", "torch", "cpu", self._blobs[number])
                    con.cacheset("staged", **RULE)
                    con.rename("staged", key)
                self._note(key, number)
                time.sleep(0.02)

    def _allowed(self, key: str, since: float) -> set[int]:
        entries = self._history[key]
        before = [factor for moment, factor in entries if moment <= since][-2:]
        return {*before, *(factor for moment, factor in entries if moment > since)}

    def ask(self, seed: int, requests: int) -> None:
        """Ask, and keep what is wrong."""
        rng = random.Random(seed)
        with connected(self.servers[seed % len(self.servers)]) as con:
            for _ in range(requests):
                key, value = rng.choice(tuple(self._history)), rng.randrange(40)
                since = time.monotonic()
                dag = con.dag(routing=key, readonly=True).tensorset("x", np.array([[value, 1]], np.float32))
                got = dag.modelexecute(key, "x", "y").tensorget("y").execute()[-1]
                right = [[[value * factor, factor]] for factor in self._allowed(key, since)]
                if isinstance(got, Exception) or got.tolist() not in right:
                    self.wrong.append((key, value, got, right))
                    return

    def run(self, requests: int) -> None:
        """So many requests of nine clients."""
        changer = threading.Thread(target=self.change)
        changer.start()
        try:
            with ThreadPoolExecutor(9) as pool:
                list(pool.map(self.ask, range(9), [requests // 9] * 9))
        finally:
            self._done.set()
            changer.join(60)


def _no_reply_from_another_model(servers: list[Any], requests: int) -> None:
    swaps = Swaps(servers)
    swaps.run(requests)
    assert not swaps.wrong, swaps.wrong[:3]
    for serving in servers:
        with connected(serving) as con:
            found = con.cachestats("fixed")
            assert found["hits"] > found["misses"]


def test_no_reply_from_another_model(servers):
    _no_reply_from_another_model(servers, 3000)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_reply_from_another_model_in_a_hundred_thousand_requests(servers):
    _no_reply_from_another_model(servers, 100_000)


def test_what_many_ask_for_is_computed_again_before_it_expires(server, bare):
    with connected(server) as con:
        store_slow(con, ttl=2, jitter=0)
        con.modelexecute("slow", "x", "y")
        misses = con.cachestats("slow")["misses"]
        until(lambda: con.modelexecute("slow", "x", "y") and con.cachestats("slow")["refreshes"])
        assert con.cachestats("slow")["misses"] <= misses + 1
        until(lambda: con.cachestats("slow")["inserts"] >= 2)
