"""What docs/artifact-keys.md says that those who submit, and workers, may do is enough, and not too much."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import redis

from redisai_py.artifacts import Store
from redisai_py.jobs.queue import Queue
from redisai_py.pipeline.definition import Definition
from redisai_py.pipeline.source import upload
from tests.artifacts.test_rights import READ, row
from tests.jobs.conftest import Worker, ended
from tests.pipeline.tables import define
from tests.support import FrontDoor

PUBLISH, PROMOTE = row("publishes"), row("promotes")


@pytest.fixture
def as_user(front_door: FrontDoor, bare: redis.Redis) -> Callable[..., str]:
    """Makes a user with the rights of some rows of the table. Returns: its URL."""
    if bare.info("server")["redis_version"].startswith("6"):  # type: ignore[index]
        pytest.skip("Redis 6 has no rights to read alone")

    def make(name: str, *rows: tuple[str, str]) -> str:
        rules = " ".join(f"{keys} {commands}" for keys, commands in rows).split()
        bare.execute_command(
            "ACL", "SETUSER", name, "reset", "on", ">pw", *[rule for rule in rules if rule[:1] in "+~%"]
        )
        return f"redis://{name}:pw@127.0.0.1:{front_door.port}"

    return make


@pytest.mark.slow
def test_who_submits_and_who_works(
    as_user: Callable[..., str], bare: redis.Redis, start: Callable[..., Worker]
) -> None:
    submitter = as_user("submitter", READ, PUBLISH, row("submits"))
    bare.execute_command("ACL", "SETUSER", "submitter", "resetkeys", *row("submits")[0].split(), "%R~ai:*")
    definition = define("sklearn:iris", "target", "sklearn.logistic", artifact={"promote": ["production"]})
    queue = Queue(submitter)
    placed = Definition.from_value(definition.as_value())
    upload(placed, Store(submitter))
    first, second = (queue.submit(placed.as_value()) for _ in range(2))
    assert queue.cancel(second) == "cancelled"
    working = as_user("worker", READ, PUBLISH, PROMOTE, row("works"))
    start("--url", working)
    found = ended(queue, first)
    assert (found.state, found.fields.get("error")) == ("done", None)
    assert next(line for _, _, line in queue.logs(first)).startswith("attempt 1")
    assert queue.get(second).state == "cancelled"
    for wrong in (
        lambda link: link.hset("ai:artifact:made", "1", "x"),
        lambda link: link.hset("ai:alias:artifact:made", "production", "1"),
        lambda link: link.set("ai:worker:me", "x"),
        lambda link: link.flushall(),
    ):
        with redis.Redis.from_url(submitter) as link, pytest.raises(redis.exceptions.NoPermissionError):
            wrong(link)
    with redis.Redis.from_url(working) as link, pytest.raises(redis.exceptions.NoPermissionError):
        link.set("anything", "x")


@pytest.mark.parametrize("who", ["submits", "works"])
def test_the_table_names_them(who: str) -> None:
    keys, commands = row(who)
    assert re.search(r"~ai:jobs ~ai:job:\*", keys)
    assert "+evalsha" in commands
