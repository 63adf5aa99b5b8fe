import pytest

from redisai_py.commands.checks import ScriptExists
from redisai_py.commands.script_runs import ScriptExecute
from redisai_py.commands.scripts import ScriptDel, ScriptGet, ScriptScan, ScriptStore
from redisai_py.errors import CommandError
from redisai_py.tensor import Device
from tests.parsing import parse

CPU = Device("CPU", None, "CPU")
MISSING_ENTRY_POINTS = "ERR Insufficient arguments, missing script entry points"
MISSING_SOURCE = "ERR Insufficient arguments, missing script SOURCE"
KEYS_COUNT = "ERR Invalid or negative value found in number of KEYS"
TOO_FEW = "ERR number of {} to AI.SCRIPTEXECUTE command does not match the number of given arguments"


def words(text):
    return text.encode().split()


def error(text):
    with pytest.raises(CommandError) as caught:
        parse(words(text))
    return str(caught.value), caught.value.checks


def test_store():
    request = parse(
        [*words("AI.SCRIPTSTORE pre CPUfoo TAG v2 ENTRY_POINTS 2.0 norm crop SOURCE"), b"def f():\n 1\0x", b"ignored"]
    )
    device = Device("CPU", None, "CPUfoo")
    assert request == ScriptStore(b"pre", device, ("norm", "crop"), "def f():\n 1", b"v2")


def test_store_without_entry_points():
    request = parse(words("AI.SCRIPTSTORE pre CPU TAG v ENTRY_POINTS 0 SOURCE text"))
    assert request == ScriptStore(b"pre", CPU, (), "text", b"v")


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        ("CPU TAG v SOURCE a b c", MISSING_ENTRY_POINTS),
        (
            "CPU ENTRY_POINTS two norm SOURCE t",
            "ERR Non numeric entry points number provided to AI.SCRIPTSTORE command",
        ),
        ("CPU TAG v TAG v ENTRY_POINTS", MISSING_ENTRY_POINTS),
        ("CPU ENTRY_POINTS 9 norm SOURCE t", MISSING_ENTRY_POINTS),
        ("CPU ENTRY_POINTS -1 norm SOURCE t", MISSING_ENTRY_POINTS),
        ("CPU ENTRY_POINTS 2 norm SOURCE t", MISSING_SOURCE),
        ("CPU TAG v ENTRY_POINTS 1 norm SOURCE", MISSING_SOURCE),
        ("TPU ENTRY_POINTS 1 norm SOURCE t", "ERR unsupported device"),
        ("GPU:x ENTRY_POINTS 1 norm SOURCE t", "ERR unsupported device"),
    ],
)
def test_store_errors(rest, text):
    assert error(f"AI.SCRIPTSTORE k {rest}") == (text, ())


def test_store_count_missing():
    argv = words("AI.SCRIPTSTORE k CPU ENTRY_POINTS a b c d")
    argv[3:5] = [b"TAG", b"v"]
    with pytest.raises(CommandError, match="missing script entry points"):
        parse(argv)


def test_set():
    request = parse(words("AI.SCRIPTSET old GPU:1 TAG a SOURCE text"))
    assert request == ScriptStore(b"old", Device("GPU", 1, "GPU:1"), (), "text", b"a")
    assert parse(words("AI.SCRIPTSET old CPU SOURCE text")).tag == b""


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        ("CPU TEXT t", MISSING_SOURCE),
        ("CPU TAG a", MISSING_SOURCE),
        ("CPU TAG a TEXT t", MISSING_SOURCE),
        ("TPU SOURCE t", "ERR unsupported device"),
    ],
)
def test_set_errors(rest, text):
    assert error(f"AI.SCRIPTSET k {rest}") == (text, ())


@pytest.mark.parametrize(
    "text",
    [
        "AI.SCRIPTSTORE pre CPU SOURCE t",
        "AI.SCRIPTSET old CPU",
        "AI.SCRIPTSET old CPU TAG a SOURCE",
        "AI.SCRIPTGET",
        "AI.SCRIPTGET a b c d",
        "AI.SCRIPTDEL",
        "AI.SCRIPTDEL a b",
        "AI._SCRIPTSCAN x",
    ],
)
def test_arity(text):
    name = text.split()[0].lower()
    assert error(text) == (f"ERR wrong number of arguments for '{name}' command", ())


@pytest.mark.parametrize(
    ("options", "request_"),
    [
        ("", ScriptGet(b"s", True, True)),
        ("FOO", ScriptGet(b"s", True, True)),
        ("meta", ScriptGet(b"s", True, False)),
        ("SOURCE", ScriptGet(b"s", False, True)),
        ("SOURCE META", ScriptGet(b"s", True, True)),
    ],
)
def test_get(options, request_):
    assert parse(words(f"AI.SCRIPTGET s {options}")) == request_


def test_del_and_scan():
    assert parse(words("AI.SCRIPTDEL s")) == ScriptDel(b"s")
    assert parse(words("AI._SCRIPTSCAN")) == ScriptScan()


def test_execute():
    text = "AI.SCRIPTEXECUTE pre norm KEYS 1 cfg OUTPUTS 1 x ARGS 2 0.5 abc INPUTS 2 a b TIMEOUT 7"
    request = parse(words(text))
    assert request == ScriptExecute(b"pre", "norm", (b"cfg",), (b"a", b"b"), (b"0.5", b"abc"), (b"x",), 7)
    assert (request.reads, request.writes) == ((b"a", b"b"), (b"x",))


def test_execute_with_empty_lists():
    request = parse(words("AI.SCRIPTEXECUTE pre norm INPUTS 0 ARGS 0 OUTPUTS 0"))
    assert request == ScriptExecute(b"pre", "norm")


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        ("", "ERR KEYS or INPUTS scope must be provided first for AI.SCRIPTEXECUTE command"),
        ("OUTPUTS 1 x INPUTS 1 a", "ERR KEYS or INPUTS scope must be provided first for AI.SCRIPTEXECUTE command"),
        ("KEYS", "ERR Missing arguments after KEYS keyword"),
        ("KEYS 1", "ERR Missing arguments after KEYS keyword"),
        ("KEYS x a", KEYS_COUNT),
        ("KEYS 0 a", KEYS_COUNT),
        ("KEYS -1 a", KEYS_COUNT),
        (
            "KEYS 3 a b",
            "ERR Number of pre declared KEYS to be used in the command does not match the number of given arguments",
        ),
        ("INPUTS", "ERR Invalid arguments provided to AI.SCRIPTEXECUTE"),
        ("INPUTS 1 a ARGS", "ERR Invalid arguments provided to AI.SCRIPTEXECUTE"),
        ("INPUTS 2.0 a b", "ERR Invalid argument for inputs count in AI.SCRIPTEXECUTE"),
        ("INPUTS -1", "ERR Invalid argument for inputs count in AI.SCRIPTEXECUTE"),
        ("INPUTS 0 ARGS x", "ERR Invalid argument for keys count in AI.SCRIPTEXECUTE"),
        ("INPUTS 0 OUTPUTS x", "ERR Invalid argument for outputs count in AI.SCRIPTEXECUTE"),
        ("INPUTS 2 a", TOO_FEW.format("inputs")),
        ("INPUTS 0 ARGS 2 a", TOO_FEW.format("args")),
        ("INPUTS 0 OUTPUTS 2 a", TOO_FEW.format("outputs")),
        ("INPUTS 1 a inputs 1 b", "ERR Already Encountered INPUTS scope in AI.SCRIPTEXECUTE command"),
        ("KEYS 1 a KEYS 1 b", "ERR Already Encountered KEYS scope in AI.SCRIPTEXECUTE command"),
        ("INPUTS 0 ARGS 0 ARGS 0", "ERR Already Encountered ARGS scope in AI.SCRIPTEXECUTE command"),
        ("INPUTS 0 OUTPUTS 0 OUTPUTS 0", "ERR Already Encountered OUTPUTS scope in AI.SCRIPTEXECUTE command"),
        ("INPUTS 0 TIMEOUT", "ERR No value provided for TIMEOUT in AI.SCRIPTEXECUTE"),
        ("INPUTS 0 TIMEOUT 0", "ERR Invalid value for TIMEOUT"),
        ("INPUTS 0 TIMEOUT x OUTPUTS 0", "ERR Invalid value for TIMEOUT"),
        ("INPUTS 0 TIMEOUT 9 OUTPUTS 1 x", "ERR Encountered problem parsing AI.SCRIPTEXECUTE"),
        ("INPUTS 0 word", "ERR Invalid AI.SCRIPTEXECUTE command. Unexpected argument: word"),
        ("INPUTS 0 long_word", "ERR Invalid AI.SCRIPTEXECUTE command. Unexpected argument: long_word"),
    ],
)
def test_execute_errors_come_after_the_look_up_of_the_script(rest, text):
    assert error(f"AI.SCRIPTEXECUTE s f {rest}") == (text, (ScriptExists(b"s"),))


def test_run():
    request = parse(words("AI.SCRIPTRUN old addn TIMEOUT 4 INPUTS a $ b1 b2 OUTPUTS c"))
    assert request == ScriptExecute(b"old", "addn", (), (b"a", b"b1", b"b2"), (), (b"c",), 4)
    assert parse(words("AI.SCRIPTRUN s f")) == ScriptExecute(b"s", "f")
    late = parse(words("AI.SCRIPTRUN s f INPUTS a TIMEOUT 3 b OUTPUTS c"))
    assert (late.inputs, late.timeout_ms) == ((b"a", b"b"), 3)


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        ("foo", "ERR Unrecongnized parameter to SCRIPTRUN"),
        ("TIMEOUT 1 TIMEOUT 1", "ERR Already encountered an TIMEOUT section in SCRIPTRUN"),
        ("TIMEOUT", "ERR No value provided for TIMEOUT"),
        ("TIMEOUT 0 INPUTS a", "ERR Invalid value for TIMEOUT"),
        ("INPUTS a TIMEOUT x", "ERR Invalid value for TIMEOUT"),
        ("OUTPUTS o INPUTS a", "ERR Already encountered an INPUTS section in SCRIPTRUN"),
        ("INPUTS a INPUTS b", "ERR Already encountered an INPUTS keyword in SCRIPTRUN"),
        ("OUTPUTS a OUTPUTS b", "ERR Already encountered an OUTPUTS keyword in SCRIPTRUN"),
        ("$ a", "ERR Encountered a variable size list of tensors outside of input section"),
        ("OUTPUTS $ a", "ERR Encountered a variable size list of tensors outside of input section"),
        ("INPUTS $ a $ b OUTPUTS c", "ERR Already encountered a variable size list of tensors"),
    ],
)
def test_run_errors_come_after_the_look_up_of_the_script(rest, text):
    assert error(f"AI.SCRIPTRUN s f {rest}") == (text, (ScriptExists(b"s"),))


@pytest.mark.parametrize("name", ["AI.SCRIPTEXECUTE", "AI.SCRIPTRUN"])
def test_arity_of_run_commands_has_a_fixed_text(name):
    assert error(f"{name.lower()} s") == (f"ERR wrong number of arguments for '{name}' command", ())
