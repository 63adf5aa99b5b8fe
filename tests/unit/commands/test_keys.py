import pytest

from redisai_py.commands import COMMANDS
from redisai_py.errors import CommandError


def keys(text):
    argv = text.encode().split()
    return b" ".join(COMMANDS[argv[0]].keys(argv)).decode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AI.TENSORGET a META", "a"),
        ("AI.MODELEXECUTE m INPUTS 2 a b OUTPUTS 1 c TIMEOUT 5", "m a b c"),
        ("AI.MODELRUN m TIMEOUT 5 INPUTS a b OUTPUTS c", "m a b c"),
        ("AI.MODELRUN m x y", "m"),
        ("AI.SCRIPTRUN s f INPUTS a $ b OUTPUTS c", "s a b c"),
        # Lists that end the command, and lists after ARGS, are reported too.
        ("AI.SCRIPTEXECUTE s f INPUTS 1 a OUTPUTS 1 o", "s a o"),
        ("AI.SCRIPTEXECUTE s f INPUTS 1 a", "s a"),
        ("AI.SCRIPTEXECUTE s f KEYS 1 k ARGS 2 x INPUTS OUTPUTS 1 o TIMEOUT 5", "s k o"),
        ("AI.SCRIPTEXECUTE s f KEYS x k", "s"),
        (
            "AI.DAGEXECUTE LOAD 1 a TIMEOUT 5 PERSIST 2 p q ROUTING {r} |> AI.MODELEXECUTE m INPUTS 1 a OUTPUTS 1 p",
            "a p q {r} m",
        ),
        ("AI.DAGEXECUTE LOAD 1 a EX 5 KEEPTTL ROUTING r |> AI.SCRIPTEXECUTE s f KEYS 1 k |> AI.TENSORGET t", "a r s"),
        ("AI.DAGEXECUTE LOAD 1 a |> AI.TENSORSET t STRING 2 VALUES AI.MODELEXECUTE m", "a"),
        ("AI.DAGRUN LOAD x a ROUTING r |> AI.MODELEXECUTE m", "m"),
        ("AI.DAGRUN LOAD 9 a", "a"),
    ],
)
def test_keys(text, expected):
    assert keys(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("AI.CONFIG GET x", "ERR The command has no key arguments"),
        ("AI._MODELSCAN", "ERR The command has no key arguments"),
        ("AI.DAGRUN |> AI.TENSORSET a FLOAT 1", "ERR Invalid arguments specified for command"),
        ("AI.TENSORGET", "ERR Invalid arguments specified for command"),
    ],
)
def test_no_keys(text, message):
    with pytest.raises(CommandError) as caught:
        keys(text)
    assert str(caught.value) == message
