"""Pushers keep meeting blobs that a collector is about to delete; what they pushed can be pulled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from redisai_py.artifacts import Archive, Store
from redisai_py.artifacts.transfer import collect_archive, pull, push, remove_archived
from tests.artifacts.building import blobs_of, version_of

__all__ = ["hammer"]


def hammer(store: Store, other: Store, new_archive: Callable[[], Archive]) -> None:
    """Six names of four versions each, half of which are removed again."""
    stop = threading.Event()
    contents = [bytes([number]) * 50 for number in range(8)]
    for number in range(24):
        version_of(store, f"n-{number % 6}", contents[number % 8], contents[(number * 3 + 1) % 8], b"%d" % number)

    def pusher(name: str) -> None:
        archive = new_archive()
        for version in store.registry("artifact").versions(name):
            push(store, archive, [str(version)])
            if version.version % 2:
                remove_archived(archive, "artifact", name, [version.version])

    def collector() -> None:
        while not stop.wait(0.05):
            collect_archive(new_archive(), older_s=0)

    with ThreadPoolExecutor(7) as pool:
        collecting = pool.submit(collector)
        pushing = [pool.submit(pusher, f"n-{number}") for number in range(6)]
        try:
            for done in pushing:
                done.result()
        finally:
            stop.set()
        collecting.result()
    collect_archive(new_archive(), older_s=0)
    pulled = pull(other, new_archive())
    assert {str(version) for version in pulled.versions} == {f"n-{n}:{v}" for n in range(6) for v in (2, 4)}
    assert set(new_archive().blobs()) == blobs_of(other)
