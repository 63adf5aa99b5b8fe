"""docs/command-line.md: its session is one that happens, and its tables are those of the program."""

from __future__ import annotations

import typer

from redisai_py.cli import app
from redisai_py.cli.failures import Exit
from redisai_py.cli.files.images import LAYOUTS
from redisai_py.client.files import SUFFIXES
from tests.cli.conftest import ROOT

PAGE = (ROOT / "docs" / "command-line.md").read_text()


def test_every_command_and_every_option_is_on_the_page_or_shared() -> None:
    program = typer.main.get_command(app)
    everywhere = {"--help", "--json", "--url", "--version"}
    for name, command in program.commands.items():  # type: ignore[attr-defined]
        if name == "serve":  # its options are the settings, docs/operations.md
            continue
        for sub_name, sub_command in getattr(command, "commands", {"": command}).items():
            assert f"redisai {name} {sub_name}".strip() in PAGE
            options = {option for parameter in sub_command.params for option in parameter.opts if option[:2] == "--"}
            assert not {option for option in options - everywhere if option not in PAGE}, (name, sub_name)


def test_the_tables_are_those_of_the_program() -> None:
    for code in Exit:
        assert f"| {code.value} |" in PAGE
    for suffix, backend in SUFFIXES.items():
        row = next(line for line in PAGE.splitlines() if f"`{suffix}`" in line and line.startswith("|"))
        assert row.split("|")[2].split(",")[0].strip() == backend
    for layout in LAYOUTS:
        assert f"`{layout}`" in PAGE
