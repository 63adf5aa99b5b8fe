"""Claims and files: what the manager keeps so that front doors read a model once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from redisai_py.engine.isolation import claims as claims_module
from redisai_py.engine.isolation.claims import Claims
from redisai_py.engine.isolation.model_files import ModelFiles


def take(claims: Claims[str], door: str, number: int, what: str = "m") -> tuple[threading.Thread, list[bool]]:
    taken: list[bool] = []
    claims.announce((door, number))
    thread = threading.Thread(target=lambda: taken.append(claims.take((door, number), what)))
    thread.start()
    return thread, taken


def test_a_claim_passes_from_one_to_the_next() -> None:
    claims: Claims[str] = Claims()
    claims.announce(("a", 1))
    assert claims.take(("a", 1), "m")
    claims.announce(("a", 2))
    assert claims.take(("a", 2), "another"), "claims of other things are free"
    thread, taken = take(claims, "b", 1)
    time.sleep(0.05)
    assert taken == []
    claims.release(("a", 1))
    thread.join(10)
    assert taken == [True]


@pytest.mark.parametrize("how", ["gives up", "its front door ends"])
def test_one_that_waits_no_more_gets_no_claim(how: str) -> None:
    claims: Claims[str] = Claims()
    claims.announce(("a", 1))
    assert claims.take(("a", 1), "m")
    thread, taken = take(claims, "b", 1)
    claims.release(("b", 1)) if how == "gives up" else claims.left("b")
    thread.join(10)
    assert taken == [False]
    claims.announce(("b", 2))
    claims.release(("b", 2))  # before its thread has begun
    claims.release(("a", 1))
    assert not claims.take(("b", 2), "m")


def test_the_claims_of_a_front_door_that_ends_are_free() -> None:
    claims: Claims[str] = Claims()
    claims.announce(("a", 1))
    assert claims.take(("a", 1), "m")
    thread, taken = take(claims, "b", 1)
    claims.left("a")
    thread.join(10)
    assert taken == [True]


def test_nobody_waits_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "_PATIENCE_S", 0.05)
    claims: Claims[str] = Claims()
    claims.announce(("a", 1))
    assert claims.take(("a", 1), "m")
    claims.announce(("b", 1))
    assert not claims.take(("b", 1), "m")
    assert not claims._waiting


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("model", os.MFD_CLOEXEC)
    os.write(fd, b"a model's bytes")
    yield fd
    os.close(fd)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_file_is_kept_until_its_last_user_leaves(file: int) -> None:
    files, before = ModelFiles(), open_files()
    files.keep(("a", 1), "m", file)
    files.keep(("b", 1), "m", file)
    files.rename("m", "n")
    assert files.open("m") == -1
    fd = files.open("n")
    assert os.pread(fd, 100, 0) == b"a model's bytes"
    os.close(fd)
    files.drop(("a", 1))
    files.drop(("a", 1))
    assert open_files() == before + 1
    files.drop(("b", 1))
    assert files.open("n") == -1
    assert open_files() == before
    assert not any(vars(files).values())


def test_no_file_is_lost_among_many_models(file: int) -> None:
    files, before = ModelFiles(), open_files()
    for number in range(2000):
        for door in ("a", "b"):
            files.keep((door, number), f"stored {number}", file)
        files.rename(f"stored {number}", f"m{number}")
        files.keep(("a", number), f"m{number}", file)  # placed again
        for door in ("a", "b"):
            files.drop((door, number))
    files.keep(("a", 1), "one", file)
    files.keep(("a", 2), "two", file)
    files.rename("one", "two")  # there is one: nothing is lost
    for user in files.users():
        files.drop(user)
    assert open_files() == before
    assert not any(vars(files).values())
