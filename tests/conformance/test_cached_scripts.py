"""Scripts whose text and inputs the server has near: results are of what Redis holds, whoever changed it, and a script
that calls Redis is never run twice.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import redis

from redisai_py.config import Config
from tests.support import FrontDoor, RedisServer

pytest.importorskip("torch")

SOURCE = """
def twice(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0] * 2

def counted(tensors: List[Tensor], keys: List[str], args: List[str]):
    redis.execute("INCR", keys[0])
    return tensors[0] * 2

def wide(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0].repeat([100000])

def refused(tensors: List[Tensor], keys: List[str], args: List[str]):
    assert tensors[0].numel() > 10, "too few"
    return tensors[0]

def nothing(tensors: List[Tensor], keys: List[str], args: List[str]):
    return 1

def turns(tensors: List[Tensor], keys: List[str], args: List[str]):
    i = 0
    while i != int(args[0]):
        i += 1
    return tensors[0] + i
"""
NAMES = ("twice", "counted", "wide", "refused", "nothing", "turns")
RUN = ("AI.SCRIPTEXECUTE", "s", "twice", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
DAG = (
    *("AI.DAGEXECUTE", "LOAD", 1, "x", "PERSIST", 1, "y", "|>", "AI.SCRIPTEXECUTE", "s", "twice"),
    *("INPUTS", 1, "x", "OUTPUTS", 1, "y", "|>", "AI.TENSORGET", "y", "VALUES"),
)
OLD = ("AI.SCRIPTRUN", "s", "twice", "INPUTS", "x", "OUTPUTS", "y")


def store(client: redis.Redis, source: str = SOURCE, names: tuple[str, ...] = NAMES, key: str = "s") -> None:
    client.execute_command("AI.SCRIPTSTORE", key, "CPU", "ENTRY_POINTS", len(names), *names, "SOURCE", source)


def put(client: redis.Redis, *values: float, key: str = "x") -> None:
    client.execute_command("AI.TENSORSET", key, "FLOAT", len(values), "VALUES", *values)


def values(client: redis.Redis, key: str = "y") -> list[float]:
    return [float(value) for value in client.execute_command("AI.TENSORGET", key, "VALUES")]


@pytest.fixture
def near(client: redis.Redis) -> redis.Redis:
    """A client to whom script and input, 1, are near."""
    store(client)
    put(client, 1)
    for command in (RUN, DAG):
        for _ in range(4):
            client.execute_command(*command)
    assert client.execute_command(*RUN) == b"OK"
    return client


@pytest.mark.parametrize("command", [RUN, DAG], ids=["script", "dag"])
def test_what_others_changed_counts(command: tuple[str | int, ...], near: redis.Redis, bare: redis.Redis) -> None:
    raw = bare.get("x")
    put(near, 5)
    changed = bare.get("x")
    assert raw is not None
    assert changed is not None
    for written, expected in ((raw, 2), (changed, 10)) * 6:
        bare.set("x", written)
        near.execute_command(*command)
        assert values(near) == [expected]


@pytest.mark.parametrize("command", [RUN, DAG, OLD], ids=["script", "dag", "run"])
def test_a_replaced_or_deleted_script(
    command: tuple[str | int, ...], near: redis.Redis, bare: redis.Redis, front_door: FrontDoor
) -> None:
    store(near, SOURCE.replace("tensors[0] * 2", "tensors[0] * 3"), key="other")
    for key, expected in (("other", 3), ("mine", 2)) * 3:
        if key == "other":
            bare.copy("s", "mine")
        bare.copy(key, "s", replace=True)
        for _ in range(3):
            near.execute_command(*command)
            assert values(near) == [expected]
    bare.delete("s")
    for _ in range(2):
        with pytest.raises(redis.ResponseError, match="script key is empty"):
            near.execute_command(*command)
    bare.set("s", "x")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        near.execute_command(*command)


def test_outputs_that_cannot_be_written(near: redis.Redis, bare: redis.Redis) -> None:
    bare.delete("y")
    bare.rpush("y", "a")
    for _ in range(3):
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            near.execute_command(*RUN)
    assert bare.lrange("y", 0, -1) == [b"a"]
    bare.delete("y", "x")
    for _ in range(2):
        with pytest.raises(redis.ResponseError, match="tensor key is empty"):
            near.execute_command(*RUN)


def test_results_of_all_sizes_and_errors(near: redis.Redis) -> None:
    for _ in range(5):
        near.execute_command("AI.SCRIPTEXECUTE", "s", "wide", "INPUTS", 1, "x", "OUTPUTS", 1, "wide")
        assert near.execute_command("AI.TENSORGET", "wide", "META")[3] == [100000]
        with pytest.raises(redis.ResponseError, match="too few"):
            near.execute_command("AI.SCRIPTEXECUTE", "s", "refused", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        assert near.execute_command("AI.SCRIPTEXECUTE", "s", "nothing", "INPUTS", 1, "x") == b"OK"
        with pytest.raises(redis.ResponseError, match="Function does not exist: absent"):
            near.execute_command("AI.SCRIPTEXECUTE", "s", "absent", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        with pytest.raises(redis.ResponseError, match="unexpected number of outputs - twice"):
            near.execute_command("AI.SCRIPTEXECUTE", "s", "twice", "INPUTS", 1, "x", "OUTPUTS", 2, "y", "z")


def test_runs_are_counted_once(near: redis.Redis, bare: redis.Redis) -> None:
    near.execute_command("AI.INFO", "s", "RESETSTAT")
    raw = bare.get("x")
    assert raw is not None
    for n in range(10):
        put(near, n)
        if n % 2:
            bare.set("x", raw)  # what is near is out of date, and the run is repeated
        near.execute_command(*RUN)
        near.execute_command(*DAG)
    with pytest.raises(redis.ResponseError, match="too few"):
        near.execute_command("AI.SCRIPTEXECUTE", "s", "refused", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
    info = near.execute_command("AI.INFO", "s")
    assert info[-4:] == [b"calls", 21, b"errors", 1]


def test_what_calls_redis_is_run_once(near: redis.Redis, bare: redis.Redis) -> None:
    raw = bare.get("x")
    assert raw is not None
    for n in range(20):
        put(near, n)
        bare.set("x", raw)
        near.execute_command("AI.SCRIPTEXECUTE", "s", "counted", "KEYS", 1, "n", "INPUTS", 1, "x", "OUTPUTS", 1, "y")
        assert values(near) == [2]
    assert bare.get("n") == b"20"


def test_rights_are_asked_for_each_run(near: redis.Redis, front_door: FrontDoor) -> None:
    rights = ("+@all", "~x", "~y", "~s")
    near.execute_command("ACL", "SETUSER", "bob", "on", ">pw", "resetkeys", *rights)
    try:
        with redis.Redis(port=front_door.port, protocol=2, username="bob", password="pw") as bob:
            for _ in range(5):
                assert bob.execute_command(*RUN) == b"OK"
            for missing in ("~s", "~x", "~y"):
                left = [right for right in rights[1:] if right != missing]
                near.execute_command("ACL", "SETUSER", "bob", "resetkeys", *left)
                with pytest.raises(redis.ResponseError, match=r"(?i)no permissions"):
                    bob.execute_command(*RUN)
                near.execute_command("ACL", "SETUSER", "bob", "resetkeys", *rights[1:])
                assert bob.execute_command(*RUN) == b"OK"
    finally:
        near.execute_command("ACL", "DELUSER", "bob")


def test_many_clients_get_their_own_results(near: redis.Redis, front_door: FrontDoor) -> None:
    failures: list[str] = []

    def work(number: int) -> None:
        with redis.Redis(port=front_door.port, protocol=2) as client:
            for n in range(100):
                wanted = number * 1000 + n
                put(client, wanted, key=f"x{number}")
                command = DAG if n % 5 == 0 else RUN
                words = [{"x": f"x{number}", "y": f"y{number}"}.get(str(word), word) for word in command]
                client.execute_command(*words)
                if values(client, f"y{number}") != [2 * wanted]:
                    failures.append(f"{number} {n}: {values(client, f'y{number}')}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.fixture
def impatient(redis_server: RedisServer, bare: redis.Redis) -> Iterator[FrontDoor]:
    """A server with one worker for scripts, which stops them after 1.5 s."""
    server = FrontDoor(
        Config(redis=redis_server.url, port=0, threads_per_queue=1, script_execution_timeout_ms=1500, drain_timeout_s=5)
    )
    yield server
    server.stop()


@pytest.mark.parametrize("way", ["script", "dag"])
def test_a_loop_is_named_and_harms_nobody_else(way: str, impatient: FrontDoor) -> None:
    command: tuple[str | int, ...] = ("AI.SCRIPTEXECUTE", "s", "turns", "INPUTS", 1, "x", "ARGS", 1)
    before: tuple[str | int, ...] = ()
    if way == "dag":
        before = ("AI.DAGEXECUTE", "LOAD", 1, "x", "PERSIST", 1, "y", "|>")
    with redis.Redis(port=impatient.port, protocol=2) as client, redis.Redis(port=impatient.port) as other:
        store(client)
        put(client, 1)
        for _ in range(5):
            client.execute_command(*before, *command, 1, "OUTPUTS", 1, "y")
        results: list[object] = []

        def others() -> None:
            results.extend(other.execute_command(*command, n, "OUTPUTS", 1, "z") for n in range(31))

        thread = threading.Thread(target=others)
        thread.start()
        try:
            reply = client.execute_command(*before, *command, -1, "OUTPUTS", 1, "y")
        except redis.ResponseError as error:
            reply = [error]
        thread.join()
        assert results == [b"OK"] * 31
        assert str(reply[0]) == (
            "script ran longer than SCRIPT_EXECUTION_TIMEOUT (1500 ms) and was stopped (script 's', function 'turns')"
        )
        assert values(other, "z") == [31]
