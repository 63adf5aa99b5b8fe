import subprocess
import sys
from pathlib import Path

import pytest

from redisai_py.ai.registry import HANDLERS
from redisai_py.commands import COMMANDS
from redisai_py.errors import CommandError
from tests.parsing import parse

# COMMAND INFO of RedisAI on Redis 7: flags, then the first key's position, the last key's, and the step.
FLAGS = {
    "write denyoom module 1 1 1": "TENSORSET MODELSET MODELSTORE SCRIPTSET SCRIPTSTORE",
    "write module 1 1 1": "MODELDEL SCRIPTDEL",
    "readonly module 1 1 1": "TENSORGET MODELGET SCRIPTGET INFO",
    "readonly module 0 0 0": "_MODELSCAN _SCRIPTSCAN",
    "write module 0 0 0": "CONFIG",
    "write denyoom module movablekeys 3 3 1": "MODELRUN DAGRUN DAGEXECUTE",
    "write denyoom module movablekeys 4 4 1": "MODELEXECUTE SCRIPTRUN",
    "write denyoom module movablekeys 5 5 1": "SCRIPTEXECUTE",
    "write denyoom module movablekeys 2 2 1": "CACHE",
    "readonly module movablekeys 3 3 1": "DAGRUN_RO DAGEXECUTE_RO",
}


@pytest.mark.parametrize(("flags", "names"), FLAGS.items())
def test_flags_and_key_positions(flags, names):
    for name in names.split():
        row = COMMANDS[b"AI." + name.encode()]
        assert " ".join([*row.flags, str(row.first_key), str(row.last_key), str(row.step)]) == flags


def test_the_table_has_every_command_and_a_handler_for_every_request():
    assert len(COMMANDS) == sum(len(names.split()) for names in FLAGS.values())
    assert {kind for row in COMMANDS.values() for kind in row.request} == HANDLERS.keys()
    assert all(name == row.name for name, row in COMMANDS.items())


@pytest.mark.parametrize("row", COMMANDS.values(), ids=lambda row: row.name.decode())
def test_arity(row):
    least = abs(row.arity)
    for count in range(1, least):
        with pytest.raises(CommandError, match="argument"):
            row.parse([row.name, *[b"x"] * (count - 1)])
    try:
        row.parse([row.name, *[b"x"] * (least - 1)])
    except CommandError as error:
        assert "number of arguments" not in str(error) or row.name == b"AI.CONFIG"  # noqa: PT017


@pytest.mark.parametrize("name", COMMANDS, ids=bytes.decode)
def test_examples_are_what_the_parser_says(name):
    assert COMMANDS[name].examples
    for command, reply in COMMANDS[name].examples:
        words = command.encode().split()
        try:
            request = parse(words)
        except CommandError as error:
            assert reply == f"-{error}"  # noqa: PT017
        else:
            assert type(request) in COMMANDS[name].request


def test_syntax_lines():
    assert COMMANDS[b"AI.TENSORSET"].syntax == (
        "AI.TENSORSET key dtype [dim [dim ...]] [BLOB data | VALUES value [value ...]]"
    )
    assert COMMANDS[b"AI.DAGEXECUTE_RO"].syntax == (
        "AI.DAGEXECUTE_RO [LOAD key_count key [key ...]] [ROUTING tag] [TIMEOUT milliseconds] "
        "|> operation [|> operation ...]"
    )
    assert COMMANDS[b"AI.CONFIG"].syntax == (
        "AI.CONFIG <GET name | LOADBACKEND backend path | BACKENDSPATH path | MODEL_CHUNK_SIZE bytes>"
    )


def test_pages_of_the_docs_are_what_the_table_says():
    script = Path(__file__).parents[3] / "scripts" / "gen_commands.py"
    run = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, timeout=20, check=False)
    assert (run.returncode, run.stdout) == (0, ""), run.stdout + run.stderr


def test_every_group_has_a_page():
    pages = {page.stem for page in (Path(__file__).parents[3] / "docs" / "commands").glob("*.md")}
    assert {row.group for row in COMMANDS.values()} <= pages
