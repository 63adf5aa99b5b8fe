"""Artifacts against a real Redis, emptied before each test, and archives: a folder, and S3 as moto speaks it."""

from __future__ import annotations

import itertools
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from redisai_py.artifacts import Archive, Artifacts, Store
from redisai_py.config import Config
from tests.support import FrontDoor, RedisServer, redis_binaries

_numbers = itertools.count()

BUCKET = "models"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One stock Redis: which one it is, these tests cannot tell."""
    found = redis_binaries()
    if not found:
        pytest.skip("no redis-server")
    server = RedisServer(next(iter(found.values())), tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def front_door(redis_server: RedisServer) -> Iterator[FrontDoor]:
    """Our server in front of that one."""
    server = FrontDoor(Config(redis=redis_server.url, port=0, drain_timeout_s=5))
    yield server
    server.stop()


@pytest.fixture
def store(bare: redis.Redis) -> Store:
    return Store(bare, actor="ann@lab")


@pytest.fixture
def artifacts(front_door: FrontDoor, bare: redis.Redis) -> Iterator[Artifacts]:
    """Through our server, so that deploying works."""
    with Artifacts(f"redis://127.0.0.1:{front_door.port}", actor="ann@lab") as found:
        yield found


@pytest.fixture
def other(redis_server: RedisServer, bare: redis.Redis) -> Iterator[Store]:
    """Another environment: another database of the same Redis, empty."""
    with redis.Redis(port=redis_server.port, db=1) as client:
        client.flushdb()
        yield Store(client, actor="bob@desk")


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The endpoint of an S3 server in this process. It believes any secret.

    On one thread: with several, moto compares an ETag in one step and writes in another, and loses updates.
    """
    moto, serving = pytest.importorskip("moto.server"), pytest.importorskip("werkzeug.serving")
    application = moto.DomainDispatcherApplication(moto.create_backend_app)
    server = serving.make_server("127.0.0.1", 0, application, threaded=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.port}"
    request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
    urllib.request.urlopen(request, timeout=20).close()
    yield endpoint
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, s3: str) -> str:
    """The environment that S3's own tools read, too. Returns: the endpoint."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    return s3


@pytest.fixture(params=["folder", "s3"])
def new_archive(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Archive]:
    """Opens the same empty archive, of each kind, again and again."""
    if request.param == "folder":
        return lambda: Archive(tmp_path / "archive")
    request.getfixturevalue("credentials")
    url = f"s3://{BUCKET}/test-{next(_numbers)}"
    return lambda: Archive(url)


@pytest.fixture
def archive(new_archive: Callable[[], Archive]) -> Archive:
    return new_archive()
