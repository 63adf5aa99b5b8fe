"""The command table: the rows of all families. Dispatch, COMMAND INFO, DOCS and GETKEYS, docs and tests use it."""

from __future__ import annotations

from redisai_py.commands import admin, cache, dags, model_runs, models, script_runs, scripts, tensors
from redisai_py.commands.spec import CommandSpec

__all__ = ["COMMANDS"]

_FAMILIES = (tensors, models, model_runs, scripts, script_runs, dags, cache, admin)

COMMANDS: dict[bytes, CommandSpec] = {row.name: row for family in _FAMILIES for row in family.ROWS}
"""Upper-case name -> row."""
