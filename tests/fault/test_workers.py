"""Six kinds of workers go on through restarts of Redis, by the retry logic that they bring along."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from redisai_py import AsyncClient, Client
from redisai_py.config import Config
from tests.support import FrontDoor, RedisServer, redis_binaries
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

DOWN_S = 2.0
ROUNDS = 2
PATIENCE_S = 60.0

CELERY = """
import os, celery
app = celery.Celery("work", broker=os.environ["URL"])
app.conf.update(broker_connection_retry_on_startup=True, broker_connection_max_retries=None)
@app.task(name="push")
def push(word):
    import redis
    from redis.backoff import ConstantBackoff
    from redis.retry import Retry
    with redis.Redis.from_url(os.environ["URL"], retry=Retry(ConstantBackoff(0.3), 100)) as client:
        client.rpush("done:celery", word)
"""
RQ = """
import os, redis, rq, rq.worker
from redis.backoff import ConstantBackoff
from redis.retry import Retry
client = redis.Redis.from_url(os.environ["URL"])
rq.SimpleWorker(["work"], connection=client).work()
"""
RQ_JOB = """
import os, redis
def push(word):
    with redis.Redis.from_url(os.environ["URL"]) as client:
        client.rpush("done:rq", word)
"""
IOREDIS = """
const Redis = require("ioredis");
const options = { maxRetriesPerRequest: null, retryStrategy: () => 200 };
const [waiting, working] = [0, 1].map(() => new Redis(process.env.URL, options));
for (const client of [waiting, working]) client.on("error", () => {});
(async () => {
  for (;;) {
    const [, word] = await waiting.blpop("jobs:ioredis", 0);
    await working.rpush("done:ioredis", word);
  }
})().catch((error) => { console.error(error); process.exit(1); });
"""


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that keeps what it has acknowledged."""
    server = RedisServer(redis_binaries()["redis-server"], tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.stop()


@pytest.fixture
def door(stock: RedisServer) -> Iterator[FrontDoor]:
    """A front door with the settings that it comes with."""
    server = FrontDoor(Config(redis=stock.url, port=0, drain_timeout_s=2))
    yield server
    server.stop()


class Worker:
    """Something that does jobs, each of which ends as a word in the list `done:NAME`."""

    def __init__(self, name: str, submit: Callable[[str], object], end: Callable[[], object]) -> None:
        self.name = name
        self.submit = submit
        self.end = end


def _program(name: str, door: FrontDoor, directory: Path, *command: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "URL": f"redis://127.0.0.1:{door.port}/0", "PYTHONPATH": str(directory)}
    with (directory / f"{name}.log").open("wb") as log:
        return subprocess.Popen(command, cwd=directory, env=environment, stdout=log, stderr=log)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _celery(door: FrontDoor, directory: Path) -> Worker:
    celery = pytest.importorskip("celery")
    (directory / "work_celery.py").write_text(CELERY)
    process = _program(
        "celery", door, directory, sys.executable, "-m", "celery", "-A", "work_celery", "worker", "-P", "solo",
        "--without-gossip", "--without-mingle",
    )  # fmt: skip
    app = celery.Celery("work", broker=f"redis://127.0.0.1:{door.port}/0")
    return Worker("celery", lambda word: app.send_task("push", [word]), lambda: (_end(process), app.close()))


def _rq(door: FrontDoor, directory: Path) -> Worker:
    rq = pytest.importorskip("rq")
    (directory / "work_rq.py").write_text(RQ)
    (directory / "rq_jobs.py").write_text(RQ_JOB)
    process = _program("rq", door, directory, sys.executable, "work_rq.py")
    client = redis.Redis(port=door.port)
    queue = rq.Queue("work", connection=client)
    return Worker("rq", lambda word: queue.enqueue("rq_jobs.push", word), lambda: (_end(process), client.close()))


def _ioredis(door: FrontDoor, directory: Path) -> Worker:
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("ioredis needs node and npm")
    (directory / "work.js").write_text(IOREDIS)
    try:
        subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "ioredis@5"],
            cwd=directory,
            check=True,
            capture_output=True,
            timeout=60,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"npm cannot install ioredis: {error}")
    process = _program("ioredis", door, directory, "node", "work.js")
    client = redis.Redis(port=door.port)
    return Worker("ioredis", lambda word: client.rpush("jobs:ioredis", word), lambda: (_end(process), client.close()))


def _looping(name: str, door: FrontDoor, loop: Callable[[redis.Redis, threading.Event], object]) -> Worker:
    """A worker on a thread: its loop takes words from `jobs:NAME` by a client that tries again."""
    stop = threading.Event()
    failures: list[BaseException] = []
    client = redis.Redis(port=door.port, retry=Retry(ConstantBackoff(0.3), 100), socket_timeout=None)

    def work() -> None:
        try:
            loop(client, stop)
        except BaseException as error:
            failures.append(error)

    def end() -> None:
        stop.set()
        thread.join(30)
        client.close()
        assert not failures

    thread = threading.Thread(target=work)
    thread.start()
    return Worker(name, lambda word: client.rpush(f"jobs:{name}", word), end)


def _redis_py(door: FrontDoor, directory: Path) -> Worker:
    def loop(client: redis.Redis, stop: threading.Event) -> None:
        while not stop.is_set():
            job: Any = client.blpop(["jobs:redis-py"], timeout=1)
            if job:
                client.rpush("done:redis-py", job[1])

    return _looping("redis-py", door, loop)


def _client(door: FrontDoor, directory: Path) -> Worker:
    """Tensors go in and out all the time, at Redis's end as well."""

    def loop(client: redis.Redis, stop: threading.Event) -> None:
        with Client(port=door.port, retry=Retry(ConstantBackoff(0.3), 100)) as con:
            number = 0
            while not stop.is_set():
                number += 1
                con.tensorset("sync", np.full(3, number, np.float32))
                assert con.tensorget("sync")[0] == number
                job = client.lpop("jobs:client")
                if job:
                    client.rpush("done:client", job)

    return _looping("client", door, loop)


def _async_client(door: FrontDoor, directory: Path) -> Worker:
    async def loop(client: redis.Redis, stop: threading.Event) -> None:
        async with AsyncClient(port=door.port, retry=AsyncRetry(ConstantBackoff(0.3), 100)) as con:
            number = 0
            while not stop.is_set():
                number += 1
                await con.tensorset("async", np.full(3, number, np.float32))
                assert (await con.tensorget("async"))[0] == number
                job = await asyncio.to_thread(client.lpop, "jobs:async-client")
                if job:
                    await asyncio.to_thread(client.rpush, "done:async-client", job)

    return _looping("async-client", door, lambda client, stop: asyncio.run(loop(client, stop)))


@pytest.mark.parametrize("start", [_celery, _rq, _ioredis, _redis_py, _client, _async_client])
def test_a_worker_goes_on(
    start: Callable[[FrontDoor, Path], Worker], stock: RedisServer, door: FrontDoor, tmp_path: Path
) -> None:
    """Jobs that are submitted before, between and after two restarts of Redis are all done."""
    worker = start(door, tmp_path)
    try:
        with redis.Redis(port=stock.port, retry=None) as bare:
            worker.submit("0")
            _done(bare, worker, {b"0"}, tmp_path)
            for number in range(1, ROUNDS + 1):
                stock.stop()
                time.sleep(DOWN_S)
                stock.start()
                worker.submit(str(number))
                _done(bare, worker, {b"%d" % i for i in range(number + 1)}, tmp_path)
    finally:
        worker.end()


def _done(bare: redis.Redis, worker: Worker, words: set[bytes], directory: Path) -> None:
    def missing() -> set[bytes]:
        found: Any = bare.lrange(f"done:{worker.name}", 0, -1)
        return words - set(found)

    def failure() -> str:
        log = directory / f"{worker.name}.log"
        return f"{worker.name} did not do {missing()}: {log.read_text()[-3000:] if log.exists() else ''}"

    until(lambda: not missing(), failure, seconds=PATIENCE_S, every_s=0.1)
