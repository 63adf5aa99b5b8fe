"""Private parts of libraries: the few in use are listed with the reason, and a new one fails here."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.source_tree import PACKAGE, PLUGINS, modules

PUBLIC = {"_exit", "_replace"}
"""Documented in spite of their names."""
PINNED = {
    "_C": "torch: `torch.jit.freeze` refuses modules in training mode, and rewrites the graph besides; nothing public "
    "turns off the profiling of TorchScript.",
    "_asyncio_future_blocking": "asyncio: by this a Task knows what it may await, and `asyncio.isfuture` a future.",
    "_c": "torch: what `_C._freeze_module` takes.",
    "_freeze_module": "See `_C`.",
    "_get_method": "torch: the graph of a frozen module.",
    "_jit_pass_inline": "torch: the graph of a fork, inlined; the public `inlined_graph` is of functions and modules.",
    "_jit_set_profiling_mode": "See `_C`.",
    "_make_callable_from_options": "TensorFlow: the public `make_callable` takes 75 to 160 us a run, this one 4 us.",
    "_model_bytes": "ONNX Runtime: bytes kept for a change of providers, which does not happen here; they would "
    "double a model's memory.",
    "_orig_mod": "torch: the module inside a compiled one.",
    "_pytree": "torch: how exported programs describe their arguments; it has no public name.",
    "_schema": "torch: of an operator that a graph calls.",
    "_sess": "ONNX Runtime: the public `run` compares the names of the inputs with the model's once more, 1 us a run.",
    "_single_conn_lock": "redis-py: commands must not mix with its own on an asynchronous client's only connection.",
    "_sock": "redis-py: a connection's socket. Large values are received straight into a buffer.",
}
"""Private name of a library -> why there is no public way without loss."""


def _own() -> set[str]:
    """Private names that are defined here: functions, classes, attributes, slots, modules."""
    found: set[str] = set()
    for root in (PACKAGE, PLUGINS):
        for name, module in modules(root).items():
            found.add(name.rpartition(".")[2])
            for node in ast.walk(module.tree):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                    found.add(node.name)
                elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    found.add(node.id)
                elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    found.update([node.attr] if getattr(node.value, "id", "") == "self" else [])
    return found


def _foreign() -> Iterator[str]:
    """Private names that are used and not defined here, and those of other objects than `self` that are pinned."""
    own = _own()
    for root in (PACKAGE, PLUGINS):
        for module in modules(root).values():
            for node in ast.walk(module.tree):
                names: list[str] = []
                if isinstance(node, ast.Attribute):
                    names = [node.attr]
                elif isinstance(node, ast.ImportFrom) and node.module is not None:
                    names = [*node.module.split("."), *(alias.name for alias in node.names)]
                elif isinstance(node, ast.Import):
                    names = [part for alias in node.names for part in alias.name.split(".")]
                elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
                    names = [str(word.value) for word in node.args if isinstance(word, ast.Constant)]
                for name in names:
                    if (
                        name.startswith("_")
                        and not name.startswith("__")
                        and (name in PINNED or name not in own | PUBLIC)
                    ):
                        yield name


def test_private_parts_of_libraries_are_listed() -> None:
    assert set(_foreign()) == set(PINNED)
