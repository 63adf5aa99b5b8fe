"""The table of rights in docs/artifact-keys.md: each part can do its own work, and none of the others'."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from redisai_py.artifacts import Archive, Artifacts, Contents
from redisai_py.artifacts.transfer import pull
from tests.artifacts.models import scaling
from tests.support import FrontDoor

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "artifact-keys.md").read_text()
STORE = "+hget +hset +exists +expire +persist +rename +del +watch +unwatch +multi +exec"


def row(who: str) -> tuple[str, str]:
    """Keys and commands of a row of the table."""
    found = re.search(rf"^\| {who}[^|]*\|([^|]*)\|([^|]*)\|$", PAGE, re.MULTILINE)
    assert found, who
    keys, commands = (" ".join(re.findall(r"`([^`]*)`", cell)) for cell in found.groups())
    return keys, commands


READ = row("reads")
RIGHTS = {
    "reader": READ,
    "publisher": tuple(f"{one} {two}" for one, two in zip(READ, row("publishes"), strict=True)),
    "promoter": tuple(f"{one} {two}" for one, two in zip(READ, row("promotes"), strict=True)),
    "deployer": tuple(f"{one} {two}" for one, two in zip(READ, row("deploys"), strict=True)),
    "collector": tuple(f"{one} {two}" for one, two in zip(READ, row("collects"), strict=True)),
}


@pytest.fixture
def as_user(front_door: FrontDoor, bare: redis.Redis) -> Callable[[str], Artifacts]:
    if bare.info("server")["redis_version"].startswith("6"):  # type: ignore[index]
        pytest.skip("Redis 6 has no rights to read alone")

    def open_as(who: str) -> Artifacts:
        keys, commands = RIGHTS[who]
        more = STORE if who == "deployer" else ""
        rules = f"{keys} {commands} {more}".replace("KEY*", "model:*").split()
        bare.execute_command(
            "ACL", "SETUSER", who, "reset", "on", ">pw", *[rule for rule in rules if rule[:1] in "+~%"]
        )
        return Artifacts(redis.Redis(port=front_door.port, username=who, password="pw"), actor=who)

    return open_as


def contents(factor: float) -> Contents:
    return Contents(scaling(factor), backend="ONNX", metrics={"accuracy": factor})


OWN: dict[str, Callable[[Artifacts, Path], object]] = {
    "reader": lambda a, folder: (a.names(), a.show("cancer"), a.diff("cancer:1", "cancer:2"), a.log("cancer"),
                                 a.verify(), a.get("cancer").save(folder)),
    "publisher": lambda a, folder: (a.publish("cancer", contents(4)), pull(a.store, Archive(folder / "kept"))),
    "promoter": lambda a, folder: (a.promote("cancer:2", "production"), a.demote("cancer", "production")),
    "deployer": lambda a, folder: (a.deploy("cancer:1", "model:m"), a.deploy("cancer:2", "model:m"),
                                   a.rollback("cancer", "model:m")),
    "collector": lambda a, folder: a.gc(),
}  # fmt: skip

REFUSED: dict[str, Callable[[Artifacts, Path], object]] = {
    "publish": lambda a, folder: a.publish("cancer", contents(5)),
    "promote": lambda a, folder: a.promote("cancer:1", "production"),
    "publish with an alias": lambda a, folder: a.publish("cancer", contents(6), aliases=["production"]),
    "deploy": lambda a, folder: a.deploy("cancer:1", "model:m"),
    "rm": lambda a, folder: a.rm(["cancer:1"]),
}
MAY = {"publisher": {"publish", "rm"}, "promoter": {"promote"}, "deployer": {"deploy"}}


@pytest.mark.parametrize("who", OWN)
def test_each_does_its_own_work(
    who: str, as_user: Callable[[str], Artifacts], artifacts: Artifacts, tmp_path: Path
) -> None:
    for factor in (2, 3):
        artifacts.publish("cancer", contents(factor))
    artifacts.push(["cancer"], tmp_path / "kept")
    with as_user(who) as mine:
        OWN[who](mine, tmp_path)


@pytest.mark.parametrize("who", ["reader", "publisher", "promoter", "deployer"])
@pytest.mark.parametrize("what", REFUSED)
def test_none_does_the_work_of_others(
    who: str, what: str, as_user: Callable[[str], Artifacts], artifacts: Artifacts, tmp_path: Path
) -> None:
    for factor in (2, 3):
        artifacts.publish("cancer", contents(factor))
    if what in MAY.get(who, ()):
        pytest.skip("its own work")
    before = artifacts.versions("cancer")
    with as_user(who) as mine, pytest.raises(redis.exceptions.NoPermissionError):
        REFUSED[what](mine, tmp_path)
    assert artifacts.versions("cancer") == before
    assert artifacts.store.redis.exists("model:m") == 0
    artifacts.gc()
    assert artifacts.verify() == []
