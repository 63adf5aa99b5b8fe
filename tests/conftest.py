"""Servers shared by the tests that need them. Every test of the front door runs on each Redis that
REDIS_SERVERS names (see `redis_binaries`), and with as many front doors as FRONT_DOORS says (see `FrontDoor`)."""

from __future__ import annotations

import contextlib
import importlib
import signal
from collections.abc import Iterator

import hypothesis
import pytest
import redis

from redisai_py.config import Config
from tests.support import FrontDoor, RedisServer, front_doors, installed_servers, patient, redis_binaries, version_of

# PyTorch's CUDA packages bring Triton. A process that imports it after TensorFlow crashes; in this order it does not.
with contextlib.suppress(ImportError):
    importlib.import_module("triton")

_BINARIES = redis_binaries()

# Machines are busy at times: how long an example takes, or the making of it, tells of them and not of the code.
hypothesis.settings.register_profile(
    "busy machines", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy machines")

# In the background of a shell, or under nohup, these are ignored, and so they would be by every server started here.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)


def _servers() -> str:
    """The servers that are tested with, and those that could be."""
    used = [f"{name} ({version_of(path)})" for name, path in _BINARIES.items()]
    others = [f"{name} ({version_of(path)})" for name, path in installed_servers().items() if name not in _BINARIES]
    more = f"; REDIS_SERVERS may name others: {', '.join(others)}" if others else ""
    return f"redis servers: {', '.join(used) or 'none'}{more}; front doors of ours: {front_doors()}"


def pytest_report_header() -> str:
    return _servers()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(_servers())


@pytest.fixture(scope="session", params=list(_BINARIES) or [pytest.param("none", marks=pytest.mark.skip("no Redis"))])
def redis_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A stock Redis, one per kind that is here."""
    server = RedisServer(_BINARIES[request.param], tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def front_door(redis_server: RedisServer) -> Iterator[FrontDoor]:
    """Our server in front of it. The device CPU:7 has one thread, so that one run keeps it busy."""
    server = FrontDoor(Config(redis=redis_server.url, port=0, drain_timeout_s=5, device_threads=("CPU:7=1",)))
    yield server
    server.stop()


@pytest.fixture
def bare(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client of the stock Redis itself, emptied."""
    with patient(redis_server.port) as client:
        client.flushall()
        yield client


@pytest.fixture
def client(front_door: FrontDoor, bare: redis.Redis) -> Iterator[redis.Redis]:
    """A redis-py client of our server that speaks RESP2, on an empty Redis."""
    with patient(front_door.port) as connection:
        yield connection
