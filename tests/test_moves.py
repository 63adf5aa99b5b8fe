"""A warm command passes through few files."""

from __future__ import annotations

import importlib.util
from typing import Any

from tests.source_tree import ROOT
from tests.support import RedisServer


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("count_moves", ROOT / "scripts" / "count_moves.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_warm_command_moves_seldom_between_files(redis_server: RedisServer) -> None:
    script = _script()
    counts = script.count_moves(f"redis://127.0.0.1:{redis_server.port}")
    for name, limit in script.LIMITS.items():
        moves = counts[name]
        path = "\n".join(f"{before} -> {after}: {function}" for before, after, function in moves)
        assert 5 < len(moves) <= limit, f"{name} takes {len(moves)} moves:\n{path}"
