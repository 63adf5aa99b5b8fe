import pytest

from redisai_py.commands.checks import ModelCounts, ModelExists, ScriptExists, TensorExists
from redisai_py.commands.dags import Dag
from redisai_py.commands.model_runs import ModelExecute
from redisai_py.commands.script_runs import ScriptExecute
from redisai_py.commands.tensors import Form, TensorGet, TensorSet
from redisai_py.errors import CommandError
from redisai_py.tensor import DType, Tensor
from tests.parsing import parse

A = TensorExists(b"a")
UNEXPECTED = "ERR Invalid DAG command. Unexpected argument:  "
NOTHING_TO_ROUTE_BY = (
    "ERR AI.DAGEXECUTE and AI.DAGEXECUTE_RO commands must contain at least one out of ROUTING, LOAD, PERSIST keywords"
)
LOAD_COUNT = "ERR number of keys to LOAD into DAG does not match the number of given arguments"
PERSIST_COUNT = "ERR number of keys to PERSIST after DAG execution does not match the number of given arguments"


def words(text):
    return text.encode().split()


def error(text):
    with pytest.raises(CommandError) as caught:
        parse(words(text))
    return str(caught.value), caught.value.checks


def test_execute():
    request = parse(
        words(
            "AI.DAGEXECUTE TIMEOUT 7 PERSIST 1 r LOAD 1 a ROUTING {x} |> AI.TENSORSET b INT8 1 VALUES 3 |> "
            "AI.MODELEXECUTE add INPUTS 2 a b OUTPUTS 1 r |> AI.SCRIPTEXECUTE s f OUTPUTS 1 q KEYS 1 k INPUTS 1 r |> "
            "ai.tensorget q VALUES"
        )
    )
    ops = (
        TensorSet(b"b", Tensor(DType.INT8, (1,), b"\x03")),
        ModelExecute(b"add", (b"a", b"b"), (b"r",)),
        ScriptExecute(b"s", "f", (b"k",), (b"r",), (), (b"q",)),
        TensorGet(b"q", False, Form.VALUES),
    )
    assert request == Dag(ops, (b"a",), (b"r",), b"{x}", 7)


def test_own_prelude_words():
    request = parse(words("AI.DAGEXECUTE LOAD 1 a PERSIST 1 a EX 60 IFUNCHANGED |> AI.TENSORGET a"))
    assert (request.ex_seconds, request.keepttl, request.ifunchanged) == (60, False, True)
    kept = parse(words("AI.DAGEXECUTE KEEPTTL LOAD 1 a PERSIST 1 a |> AI.TENSORGET a"))
    assert (kept.ex_seconds, kept.keepttl, kept.ifunchanged) == (None, True, False)


def test_run():
    request = parse(words("AI.DAGRUN |> AI.TENSORSET x FLOAT 1 |> AI.MODELRUN m INPUTS x OUTPUTS y |> AI.TENSORGET y"))
    assert request.ops[1] == ModelExecute(b"m", (b"x",), (b"y",))


def test_read_only():
    run = parse(words("AI.DAGRUN_RO LOAD 1 a |> AI.SCRIPTRUN s f INPUTS a OUTPUTS q |> AI.TENSORGET q"))
    assert run.ops[0] == ScriptExecute(b"s", "f", (), (b"a",), (), (b"q",))
    execute = parse(words("AI.DAGEXECUTE_RO LOAD 2 a a |> AI.MODELEXECUTE m INPUTS 1 a OUTPUTS 1 q"))
    assert execute.load == (b"a", b"a")


@pytest.mark.parametrize("value", ["0", "-5"])
def test_timeout_of_the_prelude_may_be_none(value):
    assert parse(words(f"AI.DAGRUN TIMEOUT {value} |> AI.TENSORSET x FLOAT 1")).timeout_ms is None


@pytest.mark.parametrize(
    ("text", "message", "checks"),
    [
        ("AI.DAGEXECUTE LOAD 1 a |>", "ERR missing arguments for 'AI.DAGEXECUTE' command", ()),
        ("ai.dagexecute_ro x", "ERR missing arguments for 'AI.DAGEXECUTE_RO' command", ()),
        ("AI.DAGRUN |> x", "ERR wrong number of arguments for 'AI.DAGRUN' command", ()),
        ("AI.DAGRUN_RO |> x", "ERR wrong number of arguments for 'AI.DAGRUN_RO' command", ()),
        # The prelude.
        ("AI.DAGRUN ROUTING x LOAD 1", "ERR missing arguments after LOAD keyword in DAG command", ()),
        ("AI.DAGRUN ROUTING x PERSIST 1", "ERR missing arguments after PERSIST keyword in DAG command", ()),
        ("AI.DAGRUN LOAD x a |> op", "ERR invalid or negative value found in number of keys to LOAD", ()),
        ("AI.DAGRUN LOAD 0 a |> op", "ERR invalid or negative value found in number of keys to LOAD", ()),
        ("AI.DAGRUN PERSIST -1 a |> op", "ERR invalid or negative value found in number of keys to PERSIST", ()),
        ("AI.DAGRUN LOAD 9 a b", LOAD_COUNT, (A, TensorExists(b"b"))),
        ("AI.DAGRUN LOAD 2 a |> AI.TENSORGET a", UNEXPECTED + "AI.TENSORGET", (A, TensorExists(b"|>"))),
        ("AI.DAGRUN PERSIST 9 a b", PERSIST_COUNT, ()),
        ("AI.DAGRUN PERSIST 9 a a", "ERR PERSIST keys must be unique", ()),
        (
            "AI.DAGRUN_RO PERSIST 1 t |> AI.TENSORSET t FLOAT 1",
            "ERR PERSIST cannot be specified in a read-only DAG",
            (),
        ),
        ("AI.DAGRUN LOAD 1 a ROUTING", "ERR Missing ROUTING value", (A,)),
        ("AI.DAGRUN LOAD 1 a TIMEOUT", "ERR No value provided for TIMEOUT", (A,)),
        ("AI.DAGRUN TIMEOUT 1.5 |> op", "ERR Invalid value for TIMEOUT", ()),
        ("AI.DAGRUN LOAD 1 a LOAD 1 b |> op", UNEXPECTED + "LOAD", (A,)),
        ("AI.DAGRUN LOAD 1 a |>", UNEXPECTED + "|>", (A,)),
        ("AI.DAGRUN KEYS 1 a |> op", UNEXPECTED + "KEYS", ()),
        ("AI.DAGRUN LOAD 1 a PERSIST 1 a EX 0 |> op", "ERR invalid expire time in DAG command", (A,)),
        ("AI.DAGRUN PERSIST 1 a EX 1000000000000001 |> op", "ERR invalid expire time in DAG command", ()),
        ("AI.DAGRUN LOAD 1 a PERSIST 1 a EX", "ERR invalid expire time in DAG command", (A,)),
        (
            "AI.DAGRUN PERSIST 1 a EX 5 KEEPTTL |> op",
            "ERR EX and KEEPTTL cannot be used together in DAG command",
            (),
        ),
        ("AI.DAGRUN LOAD 1 a KEEPTTL |> op", "ERR EX and KEEPTTL need PERSIST in DAG command", (A,)),
        ("AI.DAGRUN PERSIST 1 a IFUNCHANGED |> op", "ERR IFUNCHANGED needs LOAD and PERSIST in DAG command", ()),
        ("AI.DAGEXECUTE |> AI.TENSORSET x FLOAT 1 VALUES 1", NOTHING_TO_ROUTE_BY, ()),
        ("AI.DAGEXECUTE TIMEOUT 1 |> AI.TENSORSET x FLOAT 1", NOTHING_TO_ROUTE_BY, ()),
        ("AI.DAGEXECUTE LOAD 1 a ROUTING x", "ERR DAG is empty", (A,)),
        # Operations.
        ("AI.DAGRUN LOAD 1 a |> AI.TENSORGET", "wrong number of arguments for 'AI.TENSORGET' command", (A,)),
        ("AI.DAGRUN LOAD 1 a |> AI.TENSORGET a NO", "ERR unsupported data format", (A,)),
        ("AI.DAGRUN |> AI.TENSORSET x FLOAT", "wrong number of arguments for 'AI.TENSORSET' command", ()),
        ("AI.DAGRUN |> AI.TENSORSET x NO 1", "ERR invalid data type", ()),
        ("AI.DAGRUN LOAD 1 a |> AI.PING", "Unsupported command within DAG", (A,)),
        ("AI.DAGRUN |> AI.TENSORSET x FLOAT 1 |> |> AI.TENSORGET x", "Unsupported command within DAG", ()),
        ("AI.DAGRUN |> AI.TENSORSET x FLOAT 1 |>", "Unsupported command within DAG", ()),
        (
            "AI.DAGEXECUTE LOAD 1 a |> AI.MODELEXECUTE m",
            "ERR wrong number of arguments for 'AI.MODELEXECUTE' command",
            (A,),
        ),
        (
            "AI.DAGEXECUTE LOAD 1 a |> AI.MODELEXECUTE m INPUTS 1 a OUTPUTS 1 b TIMEOUT 5",
            "ERR TIMEOUT not allowed within a DAG command",
            (A, ModelCounts(b"m", 1, 1)),
        ),
        (
            "AI.DAGEXECUTE LOAD 1 a |> AI.SCRIPTEXECUTE s f INPUTS 1 a TIMEOUT 5",
            "ERR TIMEOUT not allowed within a DAG command",
            (A, ScriptExists(b"s")),
        ),
        (
            "AI.DAGRUN LOAD 1 a |> AI.MODELRUN m TIMEOUT 5 INPUTS a OUTPUTS b",
            "ERR TIMEOUT not allowed within a DAG command",
            (A, ModelExists(b"m")),
        ),
        (
            "AI.DAGRUN LOAD 1 a |> AI.SCRIPTRUN s f TIMEOUT 5",
            "ERR TIMEOUT not allowed within a DAG command",
            (A, ScriptExists(b"s")),
        ),
        (
            "AI.DAGEXECUTE LOAD 1 a |> AI.MODELEXECUTE m INPUTS 1 a OUTPUTS 1 b |> AI.SCRIPTEXECUTE s f KEYS",
            "ERR Missing arguments after KEYS keyword",
            (A, ModelCounts(b"m", 1, 1), ScriptExists(b"s")),
        ),
        (
            "AI.DAGEXECUTE_RO LOAD 1 a |> AI.SCRIPTEXECUTE s f",
            "ERR AI.SCRIPTEXECUTE command cannot be specified in a read-only DAG",
            (A,),
        ),
        (
            "AI.DAGEXECUTE_RO ROUTING r |> AI.MODELRUN m",
            "Deprecated AI.MODELRUN cannot be used in AI.DAGEXECUTE command",
            (),
        ),
        (
            "AI.DAGEXECUTE ROUTING r |> AI.SCRIPTRUN m",
            "Deprecated AI.SCRIPTRUN cannot be used in AI.DAGEXECUTE command",
            (),
        ),
        ("AI.DAGRUN |> AI.MODELEXECUTE m", "AI.MODELEXECUTE cannot be used in a deprecated AI.DAGRUN command", ()),
        ("AI.DAGRUN_RO |> AI.SCRIPTEXECUTE m", "AI.SCRIPTEXECUTE cannot be used in a deprecated AI.DAGRUN command", ()),
        # Names are resolved last, after every look-up.
        ("AI.DAGEXECUTE ROUTING r |> AI.TENSORGET a", "ERR INPUT key cannot be found in DAG", ()),
        (
            "AI.DAGEXECUTE LOAD 1 a |> AI.TENSORGET b |> AI.MODELEXECUTE m INPUTS 1 a OUTPUTS 1 b",
            "ERR INPUT key cannot be found in DAG",
            (A, ModelCounts(b"m", 1, 1)),
        ),
        ("AI.DAGEXECUTE PERSIST 1 p LOAD 1 a |> AI.TENSORGET a", "ERR PERSIST key cannot be found in DAG", (A,)),
    ],
)
def test_errors_carry_the_look_ups_before_them(text, message, checks):
    assert error(text) == (message, checks)


def test_a_blob_that_begins_like_the_separator():
    request = parse([*words("AI.DAGRUN |> AI.TENSORSET x UINT8 3 BLOB"), b"|>\0"])
    assert bytes(request.ops[0].tensor.data) == b"|>\0"


def test_large_words_that_are_views_are_understood():
    argv = [*words("AI.DAGRUN |> AI.TENSORSET x UINT8 3 BLOB"), memoryview(b"abc"), memoryview(b"|>")]
    argv += words("AI.TENSORGET x")
    assert len(parse(tuple(argv)).ops) == 2
