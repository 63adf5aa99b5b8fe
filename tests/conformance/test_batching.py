"""Batches and time limits over sockets: what clients see of each other's requests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis

from tests.conformance.conversation import Conversation, talk
from tests.support import FrontDoor, one_front_door
from tests.waiting import until

Clients = tuple[Conversation, Conversation, Conversation]


@pytest.fixture
def clients(front_door: FrontDoor, bare: redis.Redis) -> Iterator[Clients]:
    """Two clients that run, and one that looks on."""
    with ExitStack() as stack:
        yield tuple(stack.enter_context(talk(front_door.port)) for _ in range(3))  # type: ignore[misc]


def _rows(watcher: Conversation, model: str) -> dict[int, int]:
    """Batch size in rows -> batches."""
    reply = watcher.ask(f"AI.INFO {model} FULL")
    match = re.search(r'"batch_rows", \[([^]]*)]', reply)
    assert match is not None, reply
    numbers = [int(word) for word in re.findall(r":(\d+)", match[1])]
    return dict(zip(numbers[::2], numbers[1::2], strict=True))


def _wait_unfinished(watcher: Conversation, model: str, count: int) -> None:
    until(
        lambda: f'"unfinished", :{count},' in watcher.ask(f"AI.INFO {model} FULL"),
        f"{model} never had {count} runs waiting or running",
        every_s=0.001,
    )


def _run_both(first: Conversation, second: Conversation, commands: tuple[str, str]) -> list[str]:
    for client, command in zip((first, second), commands, strict=True):
        client.send(command)
    return [first.reply(), second.reply()]


def _prove(clients: Clients) -> None:
    """Run both together as often as merging is checked, and forget the counters."""
    first, second, watcher = clients
    for _ in range(2):
        assert _run_both(first, second, RUN) == ["+OK", "+OK"]
    watcher.given("AI.INFO m RESETSTAT")


RUN = ("AI.MODELEXECUTE m INPUTS 1 x OUTPUTS 1 u", "AI.MODELEXECUTE m INPUTS 1 y OUTPUTS 1 v")


@one_front_door
def test_requests_of_two_clients_are_one_batch(clients: Clients) -> None:
    first, second, watcher = clients
    watcher.given(
        "AI.MODELSTORE m ONNX CPU BATCHSIZE 4 MINBATCHSIZE 3 BLOB <onnx_mul>",
        "AI.TENSORSET x FLOAT 1 2 VALUES 1 2",
        "AI.TENSORSET y FLOAT 2 2 VALUES 3 4 5 6",
    )
    _prove(clients)
    assert _run_both(first, second, RUN) == ["+OK", "+OK"]
    assert _rows(watcher, "m") == {3: 1}
    assert watcher.ask("AI.TENSORGET u VALUES") == '["2", "4"]'
    assert watcher.ask("AI.TENSORGET v VALUES") == '["6", "8", "10", "12"]'
    assert watcher.ask("AI.INFO m").endswith('"samples", :3, "calls", :2, "errors", :0]')


@one_front_door
def test_a_dag_and_a_plain_run_are_one_batch(clients: Clients) -> None:
    first, second, watcher = clients
    watcher.given(
        "AI.MODELSTORE m ONNX CPU BATCHSIZE 2 MINBATCHSIZE 2 BLOB <onnx_mul>",
        "AI.TENSORSET x FLOAT 1 2 VALUES 1 2",
        "AI.TENSORSET y FLOAT 1 2 VALUES 1 2",
    )
    _prove(clients)
    dag = "AI.DAGEXECUTE LOAD 1 x |> AI.MODELEXECUTE m INPUTS 1 x OUTPUTS 1 y |> AI.TENSORGET y VALUES"
    assert _run_both(first, second, (dag, RUN[0])) == ['[+OK, ["2", "4"]]', "+OK"]
    assert _rows(watcher, "m") == {2: 1}


def test_batches_do_not_exceed_batchsize(clients: Clients) -> None:
    first, second, watcher = clients
    watcher.given(
        "AI.MODELSTORE m ONNX CPU BATCHSIZE 4 MINBATCHSIZE 4 MINBATCHTIMEOUT 100 BLOB <onnx_mul>",
        "AI.TENSORSET x FLOAT 3 2 VALUES 1 2 3 4 5 6",
        "AI.TENSORSET y FLOAT 3 2 VALUES 1 2 3 4 5 6",
    )
    assert _run_both(first, second, RUN) == ["+OK", "+OK"]
    assert _rows(watcher, "m") == {3: 2}


def test_only_equal_dtypes_are_merged(clients: Clients) -> None:
    first, second, watcher = clients
    watcher.given(
        "AI.MODELSTORE m TORCH CPU BATCHSIZE 4 MINBATCHSIZE 2 MINBATCHTIMEOUT 100 BLOB <torch_half>",
        "AI.TENSORSET x FLOAT 1 2 VALUES 1 2",
        "AI.TENSORSET y DOUBLE 1 2 VALUES 3 4",
    )
    assert _run_both(first, second, RUN) == ["+OK", "+OK"]
    assert _rows(watcher, "m") == {1: 2}
    assert watcher.ask("AI.TENSORGET v VALUES") == '["3"]'


def test_one_bad_request_fails_alone(clients: Clients) -> None:
    first, second, watcher = clients
    watcher.given(
        "AI.MODELSTORE m ONNX CPU BATCHSIZE 2 MINBATCHSIZE 2 BLOB <onnx_gather>",
        "AI.TENSORSET x INT64 1 VALUES 3",
        "AI.TENSORSET y INT64 1 VALUES 99",
    )
    good, bad = _run_both(first, second, RUN)
    assert good == "+OK"
    assert bad.startswith("-")
    assert "99" in bad
    assert watcher.ask("AI.TENSORGET u VALUES") == '["9"]'
    assert watcher.ask("EXISTS v") == ":0"
    assert watcher.ask("AI.INFO m").endswith('"samples", :1, "calls", :2, "errors", :1]')


def test_expired_head_takes_others_with_it(front_door: FrontDoor, clients: Clients) -> None:
    first, second, watcher = clients
    watcher.given(
        "AI.MODELSTORE m ONNX CPU BATCHSIZE 4 MINBATCHSIZE 3 MINBATCHTIMEOUT 400 BLOB <onnx_mul>",
        "AI.TENSORSET x FLOAT 1 2 VALUES 1 2",
        "AI.TENSORSET y FLOAT 1 2 VALUES 3 4",
    )
    _prove(clients)
    with front_door.held():  # the second comes in time
        first.send(RUN[0])
        second.send(RUN[1])
    assert [first.reply(), second.reply()] == ["+OK", "+OK"]
    assert _rows(watcher, "m") == {2: 1}


@one_front_door
def test_output_of_another_size_than_the_batch_is_nobodys_error(clients: Clients) -> None:
    first, second, watcher = clients
    watcher.given(
        "AI.MODELSTORE m ONNX CPU BATCHSIZE 2 MINBATCHSIZE 2 BLOB <onnx_row_sum>",
        "AI.TENSORSET x FLOAT 1 2 VALUES 1 2",
        "AI.TENSORSET y FLOAT 1 2 VALUES 3 4",
    )
    assert _run_both(first, second, RUN) == ["+OK", "+OK"]
    assert watcher.ask("AI.TENSORGET v VALUES") == '["7"]'
    assert '"not_merged", "merged runs differ from single ones: output 1 has' in watcher.ask("AI.INFO m FULL")
    assert first.ask(RUN[0]) == "+OK"  # it is not held for company any more


@one_front_door
def test_a_replaced_model_is_not_batched_with_its_predecessor(clients: Clients) -> None:
    first, second, watcher = clients
    store = "AI.MODELSTORE m ONNX CPU BATCHSIZE 2 MINBATCHSIZE 2 MINBATCHTIMEOUT {} BLOB <onnx_mul>"
    watcher.given(store.format(1500), "AI.TENSORSET x FLOAT 1 2 VALUES 1 2", "AI.TENSORSET y FLOAT 1 2 VALUES 3 4")
    first.send(RUN[0])
    _wait_unfinished(watcher, "m", 1)
    watcher.given(store.format(1))
    assert second.ask(RUN[1]) == "+OK"
    assert first.reply() == "+OK"
    assert _rows(watcher, "m") == {1: 1}


@one_front_door
def test_a_queued_run_of_a_lost_client_is_dropped(front_door: FrontDoor, clients: Clients) -> None:
    _, second, watcher = clients
    watcher.given(
        "AI.MODELSTORE m ONNX CPU BATCHSIZE 2 MINBATCHSIZE 2 BLOB <onnx_mul>",
        "AI.TENSORSET x FLOAT 1 2 VALUES 1 2",
        "AI.TENSORSET y FLOAT 1 2 VALUES 3 4",
    )
    with talk(front_door.port) as leaving:
        leaving.send(RUN[0])
        _wait_unfinished(watcher, "m", 1)
    _wait_unfinished(watcher, "m", 0)
    # Were it still there, the two would be a batch.
    assert second.ask(f"{RUN[1]} TIMEOUT 20") == "+TIMEDOUT"
    assert watcher.ask("AI.INFO m").endswith('"calls", :0, "errors", :0]')
    assert watcher.ask("EXISTS u v") == ":0"


@one_front_door
@pytest.mark.parametrize(
    "command",
    [
        "AI.MODELEXECUTE m INPUTS 1 x OUTPUTS 1 v TIMEOUT 20",
        "AI.MODELRUN m TIMEOUT 20 INPUTS x OUTPUTS v",
    ],
)
def test_timeout_passes_while_the_worker_is_busy(command: str, clients: Clients) -> None:
    _timed_out_before_the_run_ends(clients, command)


@one_front_door
def test_timeout_of_a_dag_passes_while_the_worker_is_busy(clients: Clients) -> None:
    dag = "AI.DAGEXECUTE LOAD 1 x PERSIST 1 v TIMEOUT 20 |> AI.MODELEXECUTE m INPUTS 1 x OUTPUTS 1 v"
    _timed_out_before_the_run_ends(clients, dag)


def _timed_out_before_the_run_ends(clients: Clients, command: str) -> None:
    first, second, watcher = clients
    watcher.given("AI.MODELSTORE m ONNX CPU:7 BLOB <onnx_slow>", "AI.TENSORSET x FLOAT 1 2 VALUES 1 2")
    first.send(RUN[0])
    _wait_unfinished(watcher, "m", 1)
    assert second.ask(command) == "+TIMEDOUT"
    assert '"unfinished", :1,' in watcher.ask("AI.INFO m FULL")  # the first one still runs
    assert first.reply() == "+OK"
    assert watcher.ask("EXISTS v") == ":0"
    assert watcher.ask("AI.INFO m").endswith('"calls", :1, "errors", :0]')
