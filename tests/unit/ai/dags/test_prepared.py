"""A prepared DAG is shared by commands that differ in keys and data only, and by no others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redisai_py.ai.dags import prepared as prepared_dags
from redisai_py.ai.dags.prepared import BoundDag, PreparedDag, bind
from redisai_py.commands import COMMANDS
from redisai_py.commands.dags import Dag
from redisai_py.errors import CommandError
from redisai_py.resp.requests import CommandParser
from redisai_py.resp.templates import Command, Frames


@pytest.fixture(autouse=True)
def _none_prepared() -> Iterator[None]:
    prepared_dags._prepared_dags.clear()
    yield
    prepared_dags._prepared_dags.clear()


def _words(argv: list[Any]) -> list[Any]:
    """As the parser gives them."""
    (command,) = CommandParser(Frames()).feed(hiredis.pack_command(tuple(argv)))
    assert isinstance(command, Command)
    return command.argv


def _bind(argv: list[Any]) -> BoundDag:
    words = _words(argv)
    return bind(COMMANDS[words[0]], words)


def _meaning(bound: BoundDag) -> dict[str, Any]:
    """All that matters of a command: what each operation does with the results of which others."""
    prepared = bound.prepared
    graph = prepared.graph
    return {
        "load": bound.load,
        "persist": list(zip(bound.persist, [graph.last[n].writer for n in prepared.request.persist], strict=True)),
        "inputs": [[version.writer for version in inputs] for inputs in graph.inputs],
        "loaded": [[prepared.load_versions.index(v) for v in inputs if v.writer < 0] for inputs in graph.inputs],
        "runs": [(i, op.key, op.timeout_ms) for i, op in (*prepared.models, *prepared.scripts)],
        "kinds": [type(op).__name__ for op in prepared.request.ops],
        "sets": {version.writer: tensor for version, tensor in bound.values().items()},
        "options": prepared.options,
    }


def _parsed(argv: list[Any]) -> BoundDag:
    """The command without any other prepared DAG."""
    words = _words(argv)
    request: Dag = COMMANDS[words[0]].parse(words)
    return BoundDag(PreparedDag(request, {}), request.load, request.persist, words)


def _chat(state: str, token: bytes, routing: str = "chat") -> list[Any]:
    return [
        *("AI.DAGEXECUTE", "ROUTING", routing, "LOAD", 1, state, "PERSIST", 1, state, "|>"),
        *("AI.TENSORSET", "token", "INT8", 1, "BLOB", token, "|>"),
        *("AI.MODELEXECUTE", "rnn", "INPUTS", 2, "token", state, "OUTPUTS", 2, "answer", state, "|>"),
        *("AI.TENSORGET", "answer", "BLOB"),
    ]


def test_conversations_share_a_prepared_dag() -> None:
    first = _bind(_chat("state:1", b"a"))
    second = _bind(_chat("state:2", b"b"))
    assert second.prepared is first.prepared
    assert (second.load, second.persist) == ((b"state:2",), (b"state:2",))
    assert _meaning(second) == _meaning(_parsed(_chat("state:2", b"b")))
    assert _bind(_chat("state:10", b"a")).prepared is not first.prepared, "its words have other lengths"


def test_a_routing_word_that_is_the_key_is_no_obstacle() -> None:
    first = _bind(_chat("state:1", b"a", "state:1"))
    second = _bind(_chat("state:2", b"b", "state:2"))
    assert second.prepared is first.prepared
    third = _bind(_chat("state:2", b"b", "other:2"))
    assert _meaning(third) == _meaning(second)


@pytest.mark.parametrize("key", ["token", "inputs", "LOAD", "BLOB", "answer"])
def test_a_key_that_is_something_else_too_has_a_prepared_dag_of_its_own(key: str) -> None:
    first = _bind(_chat("x" * len(key), b"a"))
    own = _bind(_chat(key, b"a"))
    assert own.prepared is not first.prepared
    assert _meaning(own) == _meaning(_parsed(_chat(key, b"a")))


def test_keys_that_are_the_same_in_one_command_only_make_another_dag() -> None:
    def dag(second: str) -> list[Any]:
        run = ["AI.MODELEXECUTE", "m", "INPUTS", 1, "a", "OUTPUTS", 1, "a"]
        return ["AI.DAGEXECUTE", "LOAD", 2, "a", second, "|>", *run, "|>", "AI.TENSORGET", second, "BLOB"]

    for second in ("b", "a", "c"):
        assert _meaning(_bind(dag(second))) == _meaning(_parsed(dag(second)))


def test_a_key_that_is_called_like_the_model_is_not_taken_for_it() -> None:
    def dag(key: str, model: str) -> list[Any]:
        run = ["AI.MODELEXECUTE", model, "INPUTS", 1, key, "OUTPUTS", 1, "out"]
        return ["AI.DAGEXECUTE", "LOAD", 1, key, "|>", *run]

    for key, model in (("m", "m"), ("n", "n"), ("n", "m"), ("m", "n")):
        assert _meaning(_bind(dag(key, model))) == _meaning(_parsed(dag(key, model)))


def test_blobs_that_are_the_same_object_are_told_apart() -> None:
    def dag(first: bytes, second: bytes) -> list[Any]:
        sets = [[name, "INT8", 1, "BLOB", data] for name, data in (("a", first), ("b", second))]
        return ["AI.DAGEXECUTE", "ROUTING", "r", "|>", "AI.TENSORSET", *sets[0], "|>", "AI.TENSORSET", *sets[1]]

    first = _bind(dag(b"1", b"1"))  # as the dimension: Python has one object for each single byte
    second = _bind(dag(b"2", b"3"))
    assert second.prepared is first.prepared
    assert [bytes(tensor.data) for tensor in second.values().values()] == [b"2", b"3"]


def test_a_blob_that_looks_like_a_separator_is_one_with_and_without_a_prepared_dag() -> None:
    def dag(data: bytes) -> list[Any]:
        return ["AI.DAGEXECUTE", "ROUTING", "r", "|>", "AI.TENSORSET", "a", "INT8", 2, "BLOB", data]

    assert _bind(dag(b"12")).prepared is _bind(dag(b"34")).prepared
    with pytest.raises(CommandError, match="a single binary string"):
        _bind(dag(b"|>"))


def test_a_prepared_dag_keeps_no_blob() -> None:
    def dag(data: bytes) -> list[Any]:
        return ["AI.DAGEXECUTE", "ROUTING", "r", "|>", "AI.TENSORSET", "a", "INT8", 100_000, "BLOB", data]

    bound = _bind(dag(b"x" * 100_000))
    kept = [*bound.prepared.tensors.values(), *(op.tensor for op in bound.prepared.request.ops)]
    assert [bytes(tensor.data) for tensor in kept] == [b"", b""]
    assert [bytes(tensor.data) for tensor in bound.values().values()] == [b"x" * 100_000]
    assert [bytes(tensor.data) for tensor in _bind(dag(b"y" * 100_000)).values().values()] == [b"y" * 100_000]


def test_data_that_is_validated_is_part_of_the_prepared_dag() -> None:
    def dag(data: bytes) -> list[Any]:
        return ["AI.DAGEXECUTE", "ROUTING", "r", "|>", "AI.TENSORSET", "a", "BOOL", 1, "BLOB", data]

    assert _bind(dag(b"\1")).prepared is _bind(dag(b"\1")).prepared
    assert _bind(dag(b"\0")).prepared is not _bind(dag(b"\1")).prepared
    with pytest.raises(CommandError):
        _bind(dag(b"\2"))


def test_clients_that_call_everything_by_their_own_names_share_a_prepared_dag() -> None:
    def dag(client: int) -> list[Any]:
        key = f"reference:{client:03}"
        run = ["AI.MODELEXECUTE", "m", "INPUTS", 2, key, f"in:{client:03}", "OUTPUTS", 1, f"out:{client:03}"]
        load = ["AI.DAGEXECUTE", "LOAD", 1, key, "|>", "AI.TENSORSET", f"in:{client:03}", "INT8", 1, "BLOB", b"x"]
        return [*load, "|>", *run, "|>", "AI.TENSORGET", f"out:{client:03}", "BLOB"]

    bound = [_bind(dag(client)) for client in range(100)]
    assert len({id(each.prepared) for each in bound}) == 1
    assert [each.load for each in bound] == [(b"reference:%03d" % client,) for client in range(100)]


def test_each_model_has_its_prepared_dag_and_none_drives_out_another() -> None:
    def dag(model: int) -> list[Any]:
        run = ["AI.MODELEXECUTE", f"model:{model:03}", "INPUTS", 1, "in", "OUTPUTS", 1, "out"]
        return ["AI.DAGEXECUTE", "LOAD", 1, "in", "|>", *run]

    first = [_bind(dag(model)).prepared for model in range(100)]
    assert [_bind(dag(model)).prepared for model in range(100)] == first
    assert [prepared.models[0][1].key for prepared in first] == [b"model:%03d" % model for model in range(100)]


def test_prepared_dags_are_bounded() -> None:
    for number in range(3 * prepared_dags._MOST_PREPARED):
        _bind(["AI.DAGEXECUTE", "ROUTING", "r", "|>", "AI.TENSORSET", "a", "INT32", 1, "VALUES", 100_000 + number])
    (layouts,) = prepared_dags._prepared_dags._layouts.values()
    assert sum(len(layout.prepared) for layout in layouts) <= prepared_dags._MOST_PREPARED


names = st.sampled_from(["a", "b", "c", "m", "1", "2", "$"])
operations = st.one_of(
    st.tuples(names, st.binary(min_size=2, max_size=2)).map(
        lambda p: ["AI.TENSORSET", p[0], "UINT8", "2", "BLOB", p[1]]
    ),
    names.map(lambda name: ["AI.TENSORGET", name, "BLOB"]),
    st.tuples(st.lists(names, min_size=1, max_size=2), st.lists(names, min_size=1, max_size=2)).map(
        lambda p: ["AI.MODELEXECUTE", "m", "INPUTS", len(p[0]), *p[0], "OUTPUTS", len(p[1]), *p[1]]
    ),
    st.tuples(names, names).map(lambda p: ["AI.SCRIPTEXECUTE", "s", "f", "INPUTS", 1, p[0], "OUTPUTS", 1, p[1]]),
)


@st.composite
def dags(draw: st.DrawFn) -> list[Any]:
    """DAGs of few names and few literals, so that many could be taken for each other."""
    words: list[Any] = ["AI.DAGEXECUTE", "ROUTING", draw(names)]
    for keyword in ("LOAD", "PERSIST"):
        keys = draw(st.lists(names, max_size=2, unique=True))
        words += [keyword, len(keys), *keys] if keys else []
    for operation in draw(st.lists(operations, min_size=1, max_size=3)):
        words += ["|>", *operation]
    return words


@settings(max_examples=300)
@given(st.lists(dags(), min_size=1, max_size=12))
def test_a_shared_prepared_dag_means_what_the_command_means(commands: list[list[Any]]) -> None:
    for argv in commands:
        try:
            expected = _parsed(argv)
        except CommandError as error:
            with pytest.raises(CommandError, match=str(error).replace("|", r"\|")):
                _bind(argv)
        else:
            assert _meaning(_bind(argv)) == _meaning(expected)
