"""How DAGs end early, over sockets: what is replied, and which operations count in AI.INFO."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis

from tests.conformance.calling_scripts import store_script
from tests.conformance.conversation import Conversation, talk
from tests.support import FrontDoor, one_front_door
from tests.waiting import until

pytest.importorskip("torch")

HELD = "ONNX CPU BATCHSIZE 8 MINBATCHSIZE {} BLOB <{}>"


@pytest.fixture
def clients(front_door: FrontDoor, client: redis.Redis) -> Iterator[tuple[Conversation, Conversation]]:
    """Two, where the scripts are stored and `x` is a tensor of one row."""
    store_script(client)
    with ExitStack() as stack:
        first, second = (stack.enter_context(talk(front_door.port)) for _ in range(2))
        first.given("AI.TENSORSET x FLOAT 1 2 VALUES 1 2")
        yield first, second


def calls(client: Conversation, key: str) -> str:
    return client.ask(f"AI.INFO {key}").partition('"calls", ')[2]


@one_front_door
def test_a_dag_of_which_several_operations_wait_times_out_as_one(clients: tuple[Conversation, Conversation]) -> None:
    first, _ = clients
    first.given(f"AI.MODELSTORE held {HELD.format(4, 'onnx_mul')}", "AI.MODELSTORE mul ONNX CPU BLOB <onnx_mul>")
    for timeout_ms in range(30, 40):  # their deadlines differ by what mul takes
        reply = first.ask(
            f"AI.DAGEXECUTE LOAD 1 x TIMEOUT {timeout_ms} |> AI.MODELEXECUTE held INPUTS 1 x OUTPUTS 1 a |> "
            "AI.MODELEXECUTE mul INPUTS 1 x OUTPUTS 1 b |> AI.MODELEXECUTE mul INPUTS 1 b OUTPUTS 1 c |> "
            "AI.MODELEXECUTE held INPUTS 1 c OUTPUTS 1 d |> AI.SCRIPTEXECUTE s mark KEYS 1 ran INPUTS 1 d"
        )
        assert reply == "+TIMEDOUT"
        assert first.ask("PING") == "+PONG"
    assert calls(first, "held") == ':0, "errors", :0]'
    assert first.ask("EXISTS ran") == ":0"


def test_a_millisecond_is_time_enough_for_a_dag(clients: tuple[Conversation, Conversation]) -> None:
    """Nobody is in its way: of many one at least ends in time, whatever else the machine does."""
    first, _ = clients
    first.given("AI.MODELSTORE mul ONNX CPU BLOB <onnx_mul>")
    op = "AI.MODELEXECUTE mul INPUTS 1 x OUTPUTS 1 y"
    assert "[+OK]" in {first.ask(f"AI.DAGEXECUTE LOAD 1 x TIMEOUT 1 |> {op}") for _ in range(100)}


@one_front_door
def test_any_number_of_dags_that_watch_their_keys_are_one_batch(front_door: FrontDoor, client: redis.Redis) -> None:
    """More of them than there are connections for large values: each needs one of its own while it waits."""
    count = 3 * front_door.config.upstream_pool
    with ExitStack() as stack:
        clients = [stack.enter_context(talk(front_door.port)) for _ in range(count)]
        clients[0].given(f"AI.MODELSTORE held ONNX CPU BATCHSIZE {count} MINBATCHSIZE {count} BLOB <onnx_mul>")
        for i, one in enumerate(clients):
            one.given(f"AI.TENSORSET x{i} FLOAT 1 2 VALUES {i} 1")
        for _ in range(4):  # the first two batches prove that the model may be merged, and run singly
            for i, one in enumerate(clients):
                op = f"AI.MODELEXECUTE held INPUTS 1 x{i} OUTPUTS 1 x{i}"
                one.send(f"AI.DAGEXECUTE LOAD 1 x{i} PERSIST 1 x{i} IFUNCHANGED TIMEOUT 8000 |> {op}")
            assert [one.reply() for one in clients] == ["[+OK]"] * count
        assert clients[0].ask("AI.TENSORGET x5 VALUES") == '["80", "16"]'
        reply = clients[0].ask("AI.INFO held FULL")
        assert f":{count}, :2" in reply.partition('"batch_rows"')[2].partition("]")[0], reply
    # They are given up again, but for a few.
    until(
        lambda: sum(entry["cmd"] == "unwatch" for entry in client.client_list()) <= front_door.config.upstream_pool,
        "connections that are not needed any more stay open",
    )


@one_front_door
def test_what_ran_before_a_timeout_counts(clients: tuple[Conversation, Conversation]) -> None:
    first, _ = clients
    first.given(f"AI.MODELSTORE held {HELD.format(4, 'onnx_mul')}", "AI.MODELSTORE mul ONNX CPU BLOB <onnx_mul>")
    # A script's first run takes its worker longer.
    first.given("AI.SCRIPTEXECUTE s mark KEYS 1 ran", "AI.INFO s RESETSTAT", "DEL ran")
    reply = first.ask(
        "AI.DAGEXECUTE LOAD 1 x PERSIST 1 p TIMEOUT 1000 |> AI.MODELEXECUTE mul INPUTS 1 x OUTPUTS 1 p |> "
        "AI.SCRIPTEXECUTE s mark KEYS 1 ran INPUTS 1 p |> AI.MODELEXECUTE held INPUTS 1 p OUTPUTS 1 c |> "
        "AI.MODELEXECUTE mul INPUTS 1 p OUTPUTS 1 after"
    )
    assert reply == "+TIMEDOUT"
    assert calls(first, "mul") == ':1, "errors", :0]'
    assert calls(first, "s") == ':1, "errors", :0]'
    assert calls(first, "held") == ':0, "errors", :0]'
    assert first.ask("EXISTS p ran") == ":1"


@pytest.mark.parametrize("kind", ["script", "model"])
def test_what_ran_behind_a_failure_does_not_count(kind: str, clients: tuple[Conversation, Conversation]) -> None:
    """It ran before that failed; the sequential run would not have come to it."""
    first, second = clients
    first.given(f"AI.MODELSTORE fails {HELD.format(2, 'onnx_boom')}", "AI.MODELSTORE mul ONNX CPU BLOB <onnx_mul>")
    op = {"script": "AI.SCRIPTEXECUTE s mark KEYS 1 ran", "model": "AI.MODELEXECUTE mul INPUTS 1 x OUTPUTS 1 b"}[kind]
    mark = "AI.SCRIPTEXECUTE s mark KEYS 1 reached INPUTS 1 b" if kind == "model" else "AI.TENSORSET y FLOAT 1"
    first.send(f"AI.DAGEXECUTE LOAD 1 x |> AI.MODELEXECUTE fails INPUTS 1 x OUTPUTS 1 a |> {op} |> {mark}")
    until(lambda: second.ask("EXISTS ran reached") == ":1", "the operations behind the held one never ran")
    # The second of the batch lets it go.
    assert second.ask("AI.MODELEXECUTE fails INPUTS 1 x OUTPUTS 1 a").startswith("-")
    reply = first.reply()
    assert reply.startswith("[-")
    assert reply.endswith("+NA, +NA]" if kind == "model" else "+NA, +OK]")
    assert calls(first, "fails") == ':2, "errors", :2]'
    assert calls(first, "s") == ':0, "errors", :0]'
    assert calls(first, "mul") == ':0, "errors", :0]'


@one_front_door
def test_a_dag_that_runs_a_replaced_script_leaves_the_new_ones_counters_alone(
    clients: tuple[Conversation, Conversation], client: redis.Redis
) -> None:
    first, second = clients
    first.given(f"AI.MODELSTORE held {HELD.format(2, 'onnx_mul')}")
    run_held = "AI.MODELEXECUTE held INPUTS 1 x OUTPUTS 1 a"
    first.send(f"AI.DAGEXECUTE LOAD 1 x |> {run_held} |> AI.SCRIPTEXECUTE s mark KEYS 1 old INPUTS 1 a")
    until(lambda: '"unfinished", :1,' in second.ask("AI.INFO held FULL"), "the DAG has not begun")
    store_script(client)
    second.given("AI.SCRIPTEXECUTE s mark KEYS 1 new")
    assert calls(second, "s") == ':1, "errors", :0]'
    second.given(run_held)
    assert first.reply() == "[+OK, +OK]"
    assert second.ask("EXISTS old new") == ":2"
    assert calls(second, "s") == ':1, "errors", :0]'
