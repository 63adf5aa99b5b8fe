"""Operations in processes of their own that are killed at their Nth step: for test_kills.

A step is a write to Redis's socket, or a request to the archive. The kill is SIGKILL, before the step, in the middle of
it, or right after it was sent.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import redis

from redisai_py.artifacts import Archive, Store, blobs, collect, compression
from redisai_py.artifacts.transfer import collect_archive, pull, push, remove_archived
from redisai_py.datasets.writer import Writer, put
from tests.artifacts.building import contents_of, version_of

__all__ = ["OPERATIONS", "PHASES", "prepare", "readable", "rows", "run"]

SHARD_BYTES = 2000
SMALL_PART = 50_000
"""Instead of 64 MiB: so that blobs in parts are quick."""
PHASES = ("before", "within", "after")
_FOREVER = 1 << 30

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["redisai_py.artifacts", "obstore", "pyarrow", "zstandard", "tests.artifacts.killed"])


def rows(version: int) -> dict[str, Any]:
    """Of a data set: 1000, which tell whose they are."""
    return {"version": np.full(1000, version), "row": np.arange(1000)}


def _contents(version: int) -> list[bytes]:
    noise = bytes((number * 7919 * (version + 2) >> 3) & 255 for number in range(120_000))
    return [noise, b"small %d" % version, b"shared"]


def prepare(operation: str, store: Store, other: Store, archive: Archive) -> None:
    """What has to be there before."""
    if operation.startswith("dataset"):
        put(store, "rides", rows(1), shard_bytes=SHARD_BYTES, compress=False)
        if operation == "dataset seal":
            Writer(store, "rides").append(rows(2))
        return
    version_of(store, "cancer", *_contents(1))
    store.registry("artifact").promote("cancer", 1, "production")
    if operation != "publish":
        version_of(store, "cancer", *_contents(2))
    if operation in ("pull", "gc archive"):
        push(store, archive, ["cancer"])
    if operation == "gc":
        store.registry("artifact").remove("cancer", [2])
    if operation == "gc archive":
        remove_archived(archive, "artifact", "cancer", [2])


def _collect_all(store: Store, other: Store, archive: Archive) -> None:
    collect(store)


OPERATIONS: dict[str, Callable[[Store, Store, Archive], Any]] = {
    "publish": lambda store, other, archive: version_of(store, "cancer", *_contents(2)),
    "push": lambda store, other, archive: push(store, archive, ["cancer"]),
    "pull": lambda store, other, archive: pull(other, archive),
    "promote": lambda store, other, archive: store.registry("artifact").promote("cancer", 2, "production"),
    "gc": _collect_all,
    "gc archive": lambda store, other, archive: collect_archive(archive, older_s=0),
    "dataset put": lambda store, other, archive: put(store, "rides", rows(2), shard_bytes=SHARD_BYTES, compress=False),
    "dataset append": lambda store, other, archive: Writer(store, "rides").append(rows(2)),
    "dataset seal": lambda store, other, archive: Writer(store, "rides").seal(),
}


class _Steps:
    """Counts, and kills this process when the time has come."""

    def __init__(self, last: int, phase: str) -> None:
        self._lock = threading.Lock()
        self._last = last
        self._phase = phase
        self.count = 0

    def around(self, whole: Callable[[], Any], half: Callable[[], Any]) -> Any:
        """Take a step."""
        with self._lock:
            self.count += 1
            doomed = self.count == self._last
            if doomed and self._phase == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            if doomed and self._phase == "within":
                half()
                os.kill(os.getpid(), signal.SIGKILL)
        result = whole()
        if doomed:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


class _CountedStore:
    """An object store, each of whose operations is a step."""

    def __init__(self, store: Any, steps: _Steps) -> None:
        self._store = store
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._store, name)
        return lambda *args, **options: self._steps.around(lambda: operation(*args, **options), lambda: None)


def _work(operation: str, last: int, phase: str, port: int, folder: str, told: Any) -> None:
    steps = _Steps(last, phase)
    send = redis.Connection.send_packed_command

    def send_counted(self: Any, command: Any, check_health: bool = True) -> None:
        data = b"".join(bytes(piece) for piece in ([command] if isinstance(command, (bytes, str)) else command))

        def half() -> None:
            self._sock.sendall(data[: len(data) // 2])

        steps.around(lambda: send(self, [data], check_health), half)

    blobs.PART_SIZE = compression.PART_SIZE = SMALL_PART
    store, other = (Store(redis.Redis(port=port, db=db), actor="doomed") for db in (0, 1))
    archive = Archive(folder)
    for client in (store.redis, other.redis):
        client.ping()  # connects: that takes no part
    redis.Connection.send_packed_command = send_counted  # type: ignore[assignment,method-assign]
    archive._store = _CountedStore(archive._store, steps)
    OPERATIONS[operation](store, other, archive)
    told.send(steps.count)


def run(operation: str, port: int, folder: Path, last: int = _FOREVER, phase: str = "before") -> int | None:
    """Let a process do it. Returns: its steps; None if it was killed."""
    told, telling = _forks.Pipe(duplex=False)
    process = _forks.Process(target=_work, args=(operation, last, phase, port, str(folder), telling))
    process.start()
    telling.close()
    process.join(50)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return int(told.recv()) if process.exitcode == 0 else None


def readable(store: Store) -> dict[str, list[bytes]]:
    """What every version that can be seen holds. Raises: whatever is wrong with one."""
    found = {}
    for name in store.registry("artifact").names():
        for version in store.registry("artifact").versions(name):
            found[str(version)] = contents_of(store, str(version))
    return found
