"""AI.CACHE and what it changes in AI.MODELEXECUTE and in DAGs, over the wire."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from redisai_py.config import Config
from scripts.make_models import build_onnx_add, build_onnx_heavy
from tests.conformance.running import counters, store, tensor
from tests.support import FrontDoor, one_front_door
from tests.waiting import until

RULE = ("TTL", 60, "MINRUN", 0)


def fields(reply: list[Any]) -> dict[str, Any]:
    return {name.decode(): value for name, value in zip(reply[::2], reply[1::2], strict=True)}


def stats(client: redis.Redis, key: str = "net") -> dict[str, Any]:
    return fields(client.execute_command("AI.CACHE", "STATS", key))


def entries(bare: redis.Redis) -> list[bytes]:
    return sorted(key for key in bare.scan_iter(match="ai:pred:*") if not key.startswith(b"ai:pred:inputs:"))


def stored(bare: redis.Redis, count: int) -> list[bytes]:
    """The entries, when there are so many: an insert follows the answer."""
    until(lambda: len(entries(bare)) == count, lambda: f"{len(entries(bare))} entries, not {count}")
    return entries(bare)


def values(client: redis.Redis, key: str) -> list[bytes]:
    return client.execute_command("AI.TENSORGET", key, "VALUES")


@pytest.fixture
def ruled(client: redis.Redis) -> redis.Redis:
    """A client of a server that holds the model `net` with a rule, and the tensors a and b."""
    store(client, blob=build_onnx_add())
    assert client.execute_command("AI.CACHE", "SET", "net", *RULE) == b"OK"
    tensor(client, "a", (1.0, 2.0))
    tensor(client, "b", (3.0, 4.0))
    return client


def execute(client: redis.Redis, *more: str, inputs: tuple[str, ...] = ("a", "b"), output: str = "c") -> Any:
    words = ("AI.MODELEXECUTE", "net", "INPUTS", len(inputs), *inputs, "OUTPUTS", 1, output, *more)
    return client.execute_command(*words)


def test_a_rule_is_set_read_and_taken_away(client):
    store(client)
    assert client.execute_command("AI.CACHE", "GET", "net") is None
    words = ("TTL", 9, "JITTER", 0, "MAXBYTES", 1000, "WARM", 5, "SCOPE", "user", "MINRUN", 7)
    assert client.execute_command("AI.CACHE", "SET", "net", *words) == b"OK"
    assert fields(client.execute_command("AI.CACHE", "GET", "net")) == {
        "ttl": 9, "jitter": 0, "rows": 0, "maxbytes": 1000, "warm": 5, "scope": b"USER", "minrun": 7,
    }  # fmt: skip
    store(client)  # a new version keeps the rule
    assert fields(client.execute_command("AI.CACHE", "GET", "net"))["ttl"] == 9
    assert client.execute_command("AI.CACHE", "DEL", "net") == 1
    assert client.execute_command("AI.CACHE", "DEL", "net") == 0
    assert client.execute_command("AI.CACHE", "GET", "net") is None


def test_equal_inputs_are_computed_once(ruled, bare):
    assert execute(ruled) == b"OK"
    (entry,) = stored(bare, 1)
    assert 50 <= bare.ttl(entry) <= 60
    assert values(ruled, "c") == values(ruled, entry.decode())
    for number in range(20):
        assert execute(ruled, output=f"c{number}") == b"OK"
        assert values(ruled, f"c{number}") == values(ruled, "c")
    found = stats(ruled)
    assert (found["hits"], found["misses"], found["inserts"]) == (20, 1, 1)
    assert counters(ruled) == (21, 0, 21)  # a hit is a call, and no execution
    assert fields(ruled.execute_command("AI.INFO", "net", "FULL"))["batches"] == 1


def test_other_inputs_and_another_model_are_another_prediction(ruled, bare):
    execute(ruled)
    execute(ruled, inputs=("b", "a"))
    tensor(ruled, "a", (5.0, 2.0))
    execute(ruled)
    assert values(ruled, "c") == [b"8", b"6"]
    stored(bare, 3)


def test_the_words_of_a_run(ruled, bare):
    with pytest.raises(redis.ResponseError, match=r"^MISS no prediction for these inputs is stored"):
        execute(ruled, "CACHE", "ONLY")
    assert execute(ruled, "CACHE", "NO") == b"OK"
    assert entries(bare) == []
    assert execute(ruled, "TIMEOUT", 5000, "CACHE", "refresh") == b"OK"
    (entry,) = stored(bare, 1)
    bare.expire(entry, 5)
    assert execute(ruled, "CACHE", "REFRESH", "TIMEOUT", 5000) == b"OK"
    until(lambda: bare.ttl(entry) > 5)
    assert execute(ruled, "CACHE", "ONLY") == b"OK"
    for words in (("CACHE",), ("CACHE", "MAYBE"), ("CACHE", "NO", "CACHE", "NO")):
        with pytest.raises(redis.ResponseError):
            execute(ruled, *words)
    ruled.execute_command("AI.CACHE", "DEL", "net")
    with pytest.raises(redis.ResponseError, match=r"^MISS .*no cache rule"):
        execute(ruled, "CACHE", "ONLY")


def dag(client: redis.Redis, *more: str, key: str = "net") -> Any:
    words = ("AI.DAGEXECUTE_RO", "LOAD", 2, "a", "b", "|>", "AI.MODELEXECUTE", key, "INPUTS", 2, "a", "b", "OUTPUTS", 1)
    return client.execute_command(*words, "s", *more, "|>", "AI.TENSORGET", "s", "VALUES")


def test_a_dag_shares_the_entries_of_a_run(ruled, bare):
    assert dag(ruled) == [b"OK", [b"4", b"6"]]
    stored(bare, 1)
    execute(ruled)
    assert dag(ruled) == [b"OK", [b"4", b"6"]]
    found = stats(ruled)
    assert (found["hits"], found["misses"]) == (2, 1)
    assert counters(ruled) == (3, 0, 3)
    tensor(ruled, "a", (9.0, 9.0))
    missed = dag(ruled, "CACHE", "ONLY")
    assert str(missed[0]).startswith("MISS")
    assert missed[1] == b"NA"
    assert dag(ruled, "CACHE", "NO") == [b"OK", [b"12", b"13"]]
    assert dag(ruled, "CACHE", "REFRESH") == [b"OK", [b"12", b"13"]]
    stored(bare, 2)
    assert dag(ruled, "CACHE", "ONLY") == [b"OK", [b"12", b"13"]]
    ruled.execute_command("AI.CACHE", "DEL", "net")
    assert str(dag(ruled, "CACHE", "ONLY")[0]).startswith("MISS")
    with pytest.raises(redis.ResponseError, match="CACHE must be NO, REFRESH or ONLY"):
        dag(ruled, "CACHE", "NEVER")


def test_warming_then_every_request_hits(ruled, bare):
    for number in range(10):
        tensor(ruled, f"w{number}", (float(number), 1.0))
    words = [word for number in range(0, 10, 2) for word in ("INPUTS", 2, f"w{number}", f"w{number + 1}")]
    warmed = ruled.execute_command("AI.CACHE", "WARM", "net", *words)
    assert fields(warmed) == {"inserted": 5, "present": 0, "failed": 0}
    stored(bare, 5)
    for number in range(0, 10, 2):
        assert execute(ruled, "CACHE", "ONLY", inputs=(f"w{number}", f"w{number + 1}")) == b"OK"
        assert values(ruled, "c") == [b"%d" % (2 * number + 1), b"2"]
    assert [stats(ruled)[name] for name in ("hits", "misses", "inserts", "warmed")] == [5, 0, 5, 5]
    keys = [f"w{number}" for number in range(10)]  # the inputs of several requests, one behind the other
    assert fields(ruled.execute_command("AI.CACHE", "WARM", "net", "INPUTS", 10, *keys))["present"] == 5
    for words in (("INPUTS", 3, *keys[:3]), ("INPUTS", 2, "w1"), ("INPUTS", 2, "w1", "none"), ("KEYS", 1, "w1"), ()):
        with pytest.raises(redis.ResponseError):
            ruled.execute_command("AI.CACHE", "WARM", "net", *words)


def test_purge_and_flush_cost_speed_only(ruled, bare):
    for number in range(3):
        tensor(ruled, "a", (float(number), 0.0))
        execute(ruled)
    stored(bare, 3)
    bare.set("ai:pred:other:1", "x")
    assert ruled.execute_command("AI.CACHE", "PURGE", "net") == 3
    assert entries(bare) == [b"ai:pred:other:1"]
    assert execute(ruled) == b"OK"
    assert values(ruled, "c") == [b"5", b"4"]
    for key in bare.scan_iter(match="ai:pred:*"):
        bare.delete(key)
    assert execute(ruled) == b"OK"


def test_what_is_no_entry_is_a_miss_and_replaced(ruled, bare, front_door):
    execute(ruled)
    (entry,) = stored(bare, 1)
    good = bare.get(entry)
    tensor(ruled, "foreign", (7.0, 7.0))
    other = entry[:-1] + (b"0" if entry[-1:] != b"0" else b"1")
    bare.copy(entry, other)
    forged = [
        good[:-1],
        good + b"x",
        bare.get("foreign"),
        good.replace(entry[-64:], other[-64:]),
        b"",
        b"nonsense" * 40,
        good.replace(b"F32", b"I32"),
        good.replace(b"[1,2]", b"[2,1]"),
        (2**63).to_bytes(8, "little") + good[8:],
    ]
    for number, value in enumerate(forged, 1):
        ruled.execute_command("AI.CACHE", "DEL", "net")
        ruled.execute_command("AI.CACHE", "SET", "net", *RULE)  # and this server has nothing at hand
        bare.set(entry, value, ex=50)
        with pytest.raises(redis.ResponseError, match="MISS"):
            execute(ruled, "CACHE", "ONLY")  # which waits for Redis
        assert stats(ruled)["damaged"] == 1
        assert execute(ruled) == b"OK"
        assert values(ruled, "c") == [b"4", b"6"], number
        until(lambda: bare.get(entry) == good)
    ruled.execute_command("AI.CACHE", "DEL", "net")
    ruled.execute_command("AI.CACHE", "SET", "net", *RULE)
    bare.delete(entry)
    bare.rpush(entry, "a list")
    assert execute(ruled) == b"OK"
    assert values(ruled, "c") == [b"4", b"6"]


def test_several_outputs_are_one_safetensors_file(client, bare):
    from safetensors.numpy import load

    from scripts.make_models import build_torch_multi

    client.execute_command("AI.MODELSTORE", "two", "TORCH", "CPU", "BLOB", build_torch_multi())
    client.execute_command("AI.CACHE", "SET", "two", *RULE)
    tensor(client, "a", (1.0, 2.0))
    tensor(client, "b", (3.0, 5.0))
    for outputs in (("s", "d"), ("s2", "d2")):
        client.execute_command("AI.MODELEXECUTE", "two", "INPUTS", 2, "a", "b", "OUTPUTS", 2, *outputs)
        assert [values(client, key) for key in outputs] == [[b"4", b"7"], [b"-2", b"-3"]]
    assert stats(client, "two")["hits"] == 1
    (entry,) = stored(bare, 1)
    assert {name: array.tolist() for name, array in load(bare.get(entry)).items()} == {
        "0": [[4.0, 7.0]],
        "1": [[-2.0, -3.0]],
    }


RANDOM = {
    "rand": "def forward(self, a):\n    return a + torch.rand_like(a)",
    "dropout": "def forward(self, a):\n    return torch.dropout(a, 0.5, True)",
}


@pytest.mark.parametrize("source", RANDOM.values(), ids=RANDOM)
def test_models_that_draw_are_refused_and_say_why(client, source):
    from scripts.make_models import torch_script

    client.execute_command("AI.MODELSTORE", "r", "TORCH", "CPU", "BLOB", torch_script(source))
    with pytest.raises(
        redis.ResponseError, match=r"cannot be kept: its outputs are not decided by its inputs .*aten::"
    ):
        client.execute_command("AI.CACHE", "SET", "r", "TTL", 5)
    still = "def forward(self, a):\n    return torch.dropout(a, 0.5, False)"
    client.execute_command("AI.MODELSTORE", "r", "TORCH", "CPU", "BLOB", torch_script(still))
    assert client.execute_command("AI.CACHE", "SET", "r", *RULE) == b"OK"
    # Another model under a rule that it must not have: it runs each time.
    client.execute_command("AI.MODELSTORE", "r", "TORCH", "CPU", "BLOB", torch_script(source))
    tensor(client, "a", (1.0, 2.0))
    found = set()
    for _ in range(8):
        client.execute_command("AI.MODELEXECUTE", "r", "INPUTS", 1, "a", "OUTPUTS", 1, "b")
        found.add(tuple(values(client, "b")))
    assert len(found) > 1
    state = stats(client, "r")
    assert state["state"] == b"refused"
    assert b"aten::" in state["reason"]
    with pytest.raises(redis.ResponseError, match=r"^MISS .*aten::"):
        client.execute_command("AI.MODELEXECUTE", "r", "INPUTS", 1, "a", "OUTPUTS", 1, "b", "CACHE", "ONLY")


def _random_onnx() -> bytes:
    from tests.backends.test_draws import onnx_model

    return onnx_model(("RandomNormalLike", ["x"], ["y"], {"dtype": 1}))


def _random_export() -> bytes:
    import io

    import torch

    class Noise(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x + torch.rand_like(x)

    file = io.BytesIO()
    torch.export.save(torch.export.export(Noise(), (torch.ones(2),)), file)
    return file.getvalue()


def _counter() -> bytes:
    import io

    import torch

    class Counter(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n", torch.zeros(1))

        def forward(self, x: Any) -> Any:
            self.n.add_(1)
            return x + self.n

    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(Counter(), torch.ones(2), check_trace=False), file)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    ("backend", "make", "reason"),
    [
        ("ONNX", _random_onnx, r"not decided by its inputs \(RandomNormalLike\)"),
        ("TORCH", _random_export, r"not decided by its inputs \(aten::rand_like\)"),
        ("TORCH", _counter, "it may keep state between runs, so equal inputs may give other outputs"),
    ],
)
def test_models_whose_outputs_differ_from_run_to_run_are_refused(client, backend, make, reason):
    client.execute_command("AI.MODELSTORE", "r", backend, "CPU", "BLOB", make())
    with pytest.raises(redis.ResponseError, match=r"predictions cannot be kept: .*" + reason):
        client.execute_command("AI.CACHE", "SET", "r", "TTL", 5)
    assert client.execute_command("AI.CACHE", "GET", "r") is None


def test_models_that_keep_state_scripts_and_absent_keys_are_refused(client):
    from tests.conformance.running import SCRIPT

    client.execute_command("AI.SCRIPTSTORE", "script", "CPU", "ENTRY_POINTS", 1, "double", "SOURCE", SCRIPT)
    tensor(client, "t", (1.0,))
    for key, error in (("script", "WRONGTYPE"), ("t", "WRONGTYPE"), ("none", "model key is empty")):
        for words in (("SET", key, "TTL", 5), ("GET", key), ("DEL", key), ("STATS", key), ("PURGE", key)):
            with pytest.raises(redis.ResponseError, match=error):
                client.execute_command("AI.CACHE", *words)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("SET", "net"), "needs TTL seconds"),
        (("SET", "net", "TTL"), "TTL of AI.CACHE SET must be an integer from 1"),
        (("SET", "net", "TTL", "0"), "TTL of AI.CACHE SET must be an integer from 1 to 31536000, not 0"),
        (("SET", "net", "TTL", "9223372036854775808"), "to 31536000, not 9223372036854775808"),
        (
            ("SET", "net", "TTL", "5", "WARM"),
            "WARM of AI.CACHE SET must be an integer from 0 to 1000; nothing follows it",
        ),
        (("SET", "net", "TTL", "5", "JITTER", "101"), "from 0 to 100"),
        (("SET", "net", "TTL", "5", "SCOPE", "x"), "must be DB or USER, not x"),
        (("SET", "net", "TTL", "5", "SCOPE"), "must be DB or USER; nothing follows it"),
        (("SET", "net", "TTL", "5", "TTL", "5"), "given twice"),
        (("SET", "net", "TTL", "5", "EVER"), "Invalid argument of AI.CACHE SET: EVER"),
        (("SET", "net", "TTL", "5", "ROWS"), "ROWS needs a model whose batching has proved itself"),
        (("FORGET", "net"), "unknown subcommand 'FORGET'"),
        (("FORGET",), "unknown subcommand 'FORGET'"),
        ((), "wrong number of arguments for 'ai.cache' command"),
        (("GET", "net", "x"), "wrong number of arguments"),
        (("STATS",), "wrong number of arguments"),
        (("WARM", "net", "INPUTS", "1", "a"), "no cache rule"),
        (("PURGE", "net"), "no cache rule"),
    ],
)
def test_errors(client, words, error):
    store(client)
    tensor(client, "a", (1.0, 2.0))
    with pytest.raises(redis.ResponseError, match=error):
        client.execute_command("AI.CACHE", *words)


def prove(client: redis.Redis, rows: list[tuple[float, ...]]) -> None:
    """Run the model `net` on single rows until merged runs have been compared."""
    for number, row in enumerate(rows):
        tensor(client, f"r{number}", row)

    def run_one(number: int) -> None:
        client.execute_command("AI.MODELEXECUTE", "net", "INPUTS", 1, f"r{number}", "OUTPUTS", 1, f"o{number}")

    deadline = time.monotonic() + 30
    with ThreadPoolExecutor(8) as pool:
        while not fields(client.execute_command("AI.INFO", "net", "FULL"))["merged_kinds"]:
            list(pool.map(run_one, range(len(rows))))
            assert time.monotonic() < deadline


def test_rows_have_an_entry_each_and_misses_run_together(client, bare):
    store(client, "net", "BATCHSIZE", 64, "MINBATCHSIZE", 8, "MINBATCHTIMEOUT", 50)
    rows = [(float(number), 0.5) for number in range(8)]
    prove(client, rows)
    assert client.execute_command("AI.CACHE", "SET", "net", *RULE, "ROWS") == b"OK"
    tensor(client, "some", *rows[:4])
    tensor(client, "more", rows[7], rows[1], rows[1], rows[0], rows[5])
    client.execute_command("AI.MODELEXECUTE", "net", "INPUTS", 1, "some", "OUTPUTS", 1, "c")
    stored(bare, 4)
    client.execute_command("AI.MODELEXECUTE", "net", "INPUTS", 1, "more", "OUTPUTS", 1, "c")
    stored(bare, 6)
    expected = [2 * value for row in (rows[7], rows[1], rows[1], rows[0], rows[5]) for value in row]
    assert [float(value) for value in values(client, "c")] == expected
    found = stats(client)
    assert (found["hits"], found["misses"], found["inserts"]) == (3, 6, 6)
    client.execute_command("AI.MODELEXECUTE", "net", "INPUTS", 1, "more", "OUTPUTS", 1, "c", "CACHE", "ONLY")
    client.execute_command("AI.MODELEXECUTE", "net", "INPUTS", 1, "r7", "OUTPUTS", 1, "c", "CACHE", "ONLY")
    assert values(client, "c") == [b"14", b"1"]
    with pytest.raises(redis.ResponseError, match="MISS"):
        client.execute_command("AI.MODELEXECUTE", "net", "INPUTS", 1, "r6", "OUTPUTS", 1, "c", "CACHE", "ONLY")


@one_front_door
def test_equal_rows_in_flight_run_once(client, bare):
    blob = build_onnx_heavy(200)  # some 0.03 s
    store(client, "net", "BATCHSIZE", 64, "MINBATCHSIZE", 8, "MINBATCHTIMEOUT", 50, blob=blob)
    prove(client, [(float(number), 0.5) for number in range(8)])
    assert client.execute_command("AI.CACHE", "SET", "net", *RULE, "ROWS") == b"OK"
    batches = {"a": (10, 11, 12), "b": (12, 13), "c": (10, 13, 14), "d": (11,), "e": (10, 11, 12, 13, 14), "f": (14,)}
    for key, numbers in batches.items():
        tensor(client, key, *[(float(number), 0.5) for number in numbers])

    def ask(key: str) -> Any:
        return execute(client, inputs=(key,), output=f"out-{key}")

    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(ask, [*batches] * 2)) == {b"OK"}
    for key, numbers in batches.items():
        expected = [value for number in numbers for value in (float(number), 0.5)]
        assert [float(value) for value in values(client, f"out-{key}")] == pytest.approx(expected)
    found = stats(client)
    assert found["inserts"] == len(stored(bare, 5))
    assert found["misses"] == 5
    assert found["hits"] + found["joined"] > 0


def test_users_and_their_rights(ruled, bare, front_door):
    bare.execute_command("ACL", "SETUSER", "kim", "on", ">p", "~*", "+@all")
    bare.execute_command("ACL", "SETUSER", "lee", "on", ">p", "~net", "~a", "~b", "~c", "+@all")
    with redis.Redis(port=front_door.port, username="kim", password="p", protocol=2) as kim:
        execute(kim)
        (shared,) = stored(bare, 1)
        ruled.execute_command("AI.CACHE", "SET", "net", *RULE, "SCOPE", "USER")
        execute(kim)
        (own,) = set(stored(bare, 2)) - {shared}
        assert own.startswith(b"ai:pred:user:kim:")
        with pytest.raises(redis.ResponseError, match="MISS"):
            execute(ruled, "CACHE", "ONLY")
        assert kim.execute_command("AI.CACHE", "PURGE", "net") == 1
    ruled.execute_command("AI.CACHE", "SET", "net", *RULE)
    with redis.Redis(port=front_door.port, username="lee", password="p", protocol=2) as lee:
        for _ in range(3):
            assert execute(lee) == b"OK"  # no right to ai:pred: no cache, and the same results
            assert values(lee, "c") == [b"4", b"6"]
        assert stats(lee)["errors"][0] == b"noperm"
    assert entries(bare) == [shared]


def test_maxbytes_bounds_what_is_inserted(ruled, bare):
    ruled.execute_command("AI.CACHE", "SET", "net", *RULE, "MAXBYTES", 1500)
    for number in range(20):
        tensor(ruled, "a", (float(number), 0.0))
        execute(ruled)
        assert values(ruled, "c") == [b"%d" % (number + 3), b"4"]
    found = stats(ruled)
    assert found["full"] > 10
    assert 0 < found["inserts"] < 10
    kept = [key for key in entries(bare) if b":bytes:" not in key]
    counted = [key for key in entries(bare) if b":bytes:" in key]
    assert sum(len(key) + len(bare.get(key)) for key in kept) <= 1500
    assert sum(int(bare.get(key)) for key in counted) <= 1500
    assert all(bare.ttl(key) > 0 for key in counted)


def test_a_new_version_is_warm_before_it_is_seen(ruled, bare):
    ruled.execute_command("AI.CACHE", "SET", "net", *RULE, "WARM", 2)
    for number, times in ((1, 5), (2, 4), (3, 1)):
        tensor(ruled, "a", (float(number), 0.0))
        for _ in range(times):
            execute(ruled)
    stored(bare, 3)
    from scripts.make_models import torch_script

    product = torch_script("def forward(self, a, b):\n    return a * b")
    ruled.execute_command("AI.MODELSTORE", "net", "TORCH", "CPU", "BLOB", product)
    stored(bare, 5)
    for number in (1, 2):
        tensor(ruled, "a", (float(number), 0.0))
        assert execute(ruled, "CACHE", "ONLY") == b"OK"
        assert values(ruled, "c") == [b"%d" % (3 * number), b"0"]
    tensor(ruled, "a", (3.0, 0.0))
    with pytest.raises(redis.ResponseError, match="MISS"):
        execute(ruled, "CACHE", "ONLY")
    store(ruled, blob=build_onnx_add())  # rolled back: its entries are still there
    assert execute(ruled, "CACHE", "ONLY") == b"OK"
    assert values(ruled, "c") == [b"6", b"4"]


def test_inputs_that_other_servers_do_not_know_of_yet_are_warm_too(ruled, bare):
    ruled.execute_command("AI.CACHE", "SET", "net", *RULE, "WARM", 2)
    tensor(ruled, "a", (1.0, 0.0))
    for _ in range(5):
        execute(ruled)
    until(lambda: len(list(bare.scan_iter(match="ai:pred:inputs:*"))) >= 2, "the inputs are not shared")
    tensor(ruled, "a", (2.0, 0.0))
    for _ in range(4):
        execute(ruled)
    stored(bare, 2)
    store(ruled, blob=build_onnx_add().replace(b"Add", b"Mul"))  # before the next inputs are shared
    stored(bare, 4)


def test_the_most_frequent_inputs_are_those_of_all_servers(ruled, bare, redis_server):
    ruled.execute_command("AI.CACHE", "SET", "net", *RULE, "WARM", 2)
    for number, times in ((1, 5), (2, 4), (3, 2)):
        tensor(ruled, "a", (float(number), 0.0))
        for _ in range(times):
            execute(ruled)
    until(lambda: len(list(bare.scan_iter(match="ai:pred:inputs:*"))) >= 3, "the inputs are not shared")
    shared = sorted(bare.scan_iter(match="ai:pred:inputs:*"))
    counters = [key for key in shared if b":count:" in key]
    assert len(shared) - len(counters) == 2  # the most frequent two
    assert all(0 < bare.ttl(key) <= 3600 for key in shared)
    bare.zadd(counters[0], {"forged": 99, "f" * 64: 99})  # by somebody else: one is no member, one has no inputs
    from scripts.make_models import torch_script

    other = FrontDoor(Config(redis=redis_server.url, port=0, drain_timeout_s=1))  # which no client has asked
    try:
        with redis.Redis(port=other.port, protocol=2) as deployer:
            product = torch_script("def forward(self, a, b):\n    return a * b")
            deployer.execute_command("AI.CACHE", "SET", "net", *RULE, "WARM", 3)
            deployer.execute_command("AI.MODELSTORE", "net", "TORCH", "CPU", "BLOB", product)
        for number in (1, 2):
            tensor(ruled, "a", (float(number), 0.0))
            assert execute(ruled, "CACHE", "ONLY") == b"OK"
            assert values(ruled, "c") == [b"%d" % (3 * number), b"0"]
    finally:
        other.stop()


def test_a_fast_model_is_not_looked_up(client, bare):
    store(client)
    client.execute_command("AI.CACHE", "SET", "net", "TTL", 60, "MINRUN", 1_000_000)
    tensor(client, "a", (1.0, 2.0))
    for _ in range(50):
        client.execute_command("AI.MODELEXECUTE", "net", "INPUTS", 1, "a", "OUTPUTS", 1, "c")
    found = stats(client)
    assert found["state"] == b"aside"
    assert b"less than MINRUN" in found["reason"]
    assert found["bypassed"] >= 48
    client.execute_command("AI.CACHE", "SET", "net", *RULE)
    for number in range(600):  # each another input: either that, or the time, is reason enough
        tensor(client, "a", (float(number), 2.0))
        client.execute_command("AI.MODELEXECUTE", "net", "INPUTS", 1, "a", "OUTPUTS", 1, "c")
    found = stats(client)
    assert found["state"] == b"aside"
    assert b"shorter than a look-up" in found["reason"] or b"hit rate 0.00" in found["reason"]


def test_in_a_transaction_it_is_refused(client):
    store(client)
    pipe = client.pipeline()
    pipe.execute_command("AI.CACHE", "GET", "net")
    (reply,) = pipe.execute(raise_on_error=False)
    assert "Cannot run RedisAI command within a transaction" in str(reply)
