"""Layers: what may import what, without running anything. The one table of layers is in ARCHITECTURE.md."""

from __future__ import annotations

import ast
import graphlib
import re

import pytest

from tests.source_tree import PACKAGE, PLUGINS, ROOT, Module, modules

TABLE_ROW = re.compile(r"^\| (\w+) \| ([^|]+) \|", re.MULTILINE)


def _layers() -> dict[str, tuple[str, ...]]:
    """Layer -> prefixes of module names, from the table of layers in ARCHITECTURE.md."""
    page = (ROOT / "ARCHITECTURE.md").read_text()
    section = page.partition("\n## Layers\n")[2].partition("\n## ")[0]
    _, *rows = TABLE_ROW.findall(section)
    return {layer: tuple(re.findall(r"`([^`]+)`", prefixes)) for layer, prefixes in rows}


LAYERS = _layers()
RANKS = {layer: rank for rank, layer in enumerate(LAYERS)}
PREFIXES = {prefix: layer for layer, prefixes in LAYERS.items() for prefix in prefixes}
OURS = modules(PACKAGE)
WAITING = {"asyncio", "threading", "socket", "time", "random", "logging", "structlog", "subprocess"}
STRANGERS = (
    ("store", "engine"),
    ("frontdoor", "client"),
    ("ai", "client"),
    ("client", "engine"),
    ("frontdoor", "artifacts"),
    ("engine", "artifacts"),
    ("frontdoor", "datasets"),
    ("engine", "datasets"),
    ("frontdoor", "training"),
    ("engine", "training"),
    ("frontdoor", "pipeline"),
    ("engine", "pipeline"),
    ("frontdoor", "jobs"),
    ("engine", "jobs"),
)
"""Pairs of packages that never import each other."""


def layer_of(name: str) -> str:
    """The layer of a module of the package."""
    parts = name.removeprefix("redisai_py.").split(".")
    for length in range(len(parts), 0, -1):
        layer = PREFIXES.get(".".join(parts[:length]))
        if layer is not None:
            return layer
    raise AssertionError(f"{name} has no layer: add it to the table of layers in ARCHITECTURE.md")


def targets(module: Module) -> set[str]:
    """Modules of the package that a module imports, the package itself excepted: that holds a version and no code."""
    found = set()
    for taken in module.imports:
        full = f"{taken.module}.{taken.name}"
        name = full if full in OURS else taken.module
        if name in OURS and name != "redisai_py":
            found.add(name)
    return found


MODULES = [name for name in OURS if name != "redisai_py"]


def test_imports_go_downwards() -> None:
    wrong = [
        f"{name} ({layer_of(name)}) imports {target} ({layer_of(target)})"
        for name in MODULES
        for target in targets(OURS[name])
        if RANKS[layer_of(target)] > RANKS[layer_of(name)]
    ]
    assert wrong == []


def _is_shell(name: str) -> bool:
    return layer_of(name) not in ("values", "core")


def test_strangers_stay_strangers() -> None:
    wrong = [
        f"{name} imports {target}"
        for pair in STRANGERS
        for one, other in (pair, pair[::-1])
        for name in MODULES
        if name.startswith(f"redisai_py.{one}") and _is_shell(name)
        for target in targets(OURS[name])
        if target.startswith(f"redisai_py.{other}.") and _is_shell(target)
    ]
    assert wrong == []


def test_the_core_does_not_wait() -> None:
    wrong = []
    for name in MODULES:
        if _is_shell(name):
            continue
        module = OURS[name]
        used = {taken.module.partition(".")[0] for taken in module.imports if not taken.late} & WAITING
        if used:
            wrong.append(f"{name} imports {', '.join(sorted(used))}")
        if any(isinstance(node, (ast.AsyncFunctionDef, ast.Await)) for node in ast.walk(module.tree)):
            wrong.append(f"{name} awaits")
    assert wrong == []


def knows(name: str) -> set[str]:
    """Modules that a module names in an import, for types too; the longest name of each."""
    named = OURS[name].known & OURS.keys() - {"redisai_py", name}
    return {each for each in named if not any(other.startswith(f"{each}.") for other in named)}


def test_there_are_no_cycles() -> None:
    graph = {name: targets(OURS[name]) for name in MODULES}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"modules that import each other: {' -> '.join(error.args[1])}", pytrace=False)


def test_no_modules_know_each_other() -> None:
    """Nor do types make a cycle: who reads one module need not read the other."""
    graph = {name: knows(name) for name in MODULES}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"modules that know each other: {' -> '.join(error.args[1])}", pytrace=False)


FACADE = {f"redisai_py.engine.{name}" for name in ("dag", "engine", "reports", "run", "settings", "stats")}
"""What the rest of the server may import of the engine, besides scripts and what is needed to set it up."""
SETTING_UP = ("redisai_py.engine.torchscript", "redisai_py.engine.isolation")


def test_the_engine_is_known_by_its_facade() -> None:
    wrong = [
        f"{name} imports {target}"
        for name in MODULES
        if not name.startswith("redisai_py.engine")
        for target in knows(name)
        if target.startswith("redisai_py.engine.") and target not in FACADE and not target.startswith(SETTING_UP)
    ]
    assert wrong == []


def test_a_loaded_model_is_changed_by_its_own_module_only() -> None:
    """Others call its methods; a device keeps its own note of it, `in_ring`."""
    wrong = [
        f"{name}:{node.lineno} sets {ast.unparse(node)}"
        for name in MODULES
        for node in ast.walk(OURS[name].tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if ast.unparse(node.value).rpartition(".")[2] in ("loaded", "queued") and node.attr != "in_ring"
    ]
    assert wrong == []


def test_ai_and_store_know_no_connection() -> None:
    for name in MODULES:
        if name.startswith(("redisai_py.ai", "redisai_py.store")):
            assert not knows(name) & {"redisai_py.frontdoor.connection", "redisai_py.frontdoor.server"}, name


def test_the_table_has_the_layers() -> None:
    assert tuple(LAYERS) == ("values", "core", "seam", "shells", "ends", "entry")
    listed = [prefix for prefixes in LAYERS.values() for prefix in prefixes]
    assert len(listed) == len(PREFIXES), "a module is in two layers"


def test_every_prefix_is_used() -> None:
    used = {prefix for prefix in PREFIXES for name in MODULES if f"{name}.".startswith(f"redisai_py.{prefix}.")}
    assert used == PREFIXES.keys()


def test_plugins_know_the_seam_only() -> None:
    seam = ("backend", "tensor", "errors", "protobuf", "dataflow")
    allowed = {f"redisai_py.{name}" for name in seam}
    wrong = [
        f"{name} imports {taken.module}"
        for name, plugin in modules(PLUGINS).items()
        for taken in plugin.imports
        if taken.module.partition(".")[0] == "redisai_py" and taken.module not in allowed
    ]
    assert wrong == []


def test_no_module_imports_a_plugin() -> None:
    plugins = {plugin.partition(".")[0] for plugin in modules(PLUGINS)}
    wrong = [
        f"{name} imports {taken.module}"
        for name in MODULES
        for taken in OURS[name].imports
        if taken.module.partition(".")[0] in plugins
    ]
    assert wrong == []


def test_modules_are_short() -> None:
    """A module that is longer than 400 lines is about more than one thing."""
    lines = {name: len(module.path.read_text().splitlines()) for name, module in {**OURS, **modules(PLUGINS)}.items()}
    assert {name: count for name, count in lines.items() if count > 400} == {}
