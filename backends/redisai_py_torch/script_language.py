"""Compiling users' TorchScript: the names available to scripts, and the operators behind calls to Redis.

A script can use three names, in any case: `torch` (ATen operators and dtypes), `redis` and `redisAI`. The latter two
lead to operators registered here with `torch.library`, partly through a TorchScript prelude that is compiled once; the
operators' Python side calls the `Host` given to `set_host`. docs/adr/0010 has the reasons.

Rules: single-threaded; no sockets and no processes.
"""

from __future__ import annotations

import ast
import builtins
import functools
import re
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch

from redisai_py.errors import BackendError

__all__ = ["Host", "Reply", "Unit", "check_entry_points", "compile_source", "prepare", "set_host", "without_profiling"]

Reply = tuple[list[int], list[bytes], list[int]]
"""A reply tree in postfix order: kinds (one per node), strings, and integers together with the lengths of arrays."""

_ENTRY_POINT_TYPES = ["List[Tensor]", "List[str]", "List[str]"]

# Operators that touch files or start work that outlives the call. A script reaches only the namespace `aten`, as
# `torch.name(...)` or `value.name(...)`, and operators that the language itself emits, which are checked in the
# compiled graph.
_FORBIDDEN = frozenset({"aten::from_file", "aten::save", "prim::PythonOp", "prim::fork"})
_HOST_NAMESPACE = "redisai_py::"
_ASKING = frozenset({"execute", "model_execute"})
"""Functions of the prelude that ask the host."""
_NAMESPACES = ("aten::", "prim::", _HOST_NAMESPACE)

_EXCEPTIONS = frozenset(
    {
        "AssertionError",
        "Exception",
        "IndexError",
        "KeyError",
        "NotImplementedError",
        "RuntimeError",
        "TypeError",
        "ValueError",
    }
)

# Kinds of nodes in a reply. The server's encoder uses the same numbers (redisai_py.engine.torchscript.replies).
_PRELUDE = """
def _decode(kinds: List[int], strings: List[str], integers: List[int]) -> Any:
    stack: List[Any] = []
    s = 0
    i = 0
    for kind in kinds:
        if kind == 0:
            stack.append(None)
        elif kind == 1:
            stack.append(strings[s])
            s += 1
        elif kind == 2:
            stack.append(integers[i])
            i += 1
        else:
            at = len(stack) - integers[i]
            i += 1
            items: List[Any] = stack[at:]
            stack = stack[:at]
            stack.append(items)
    return stack[0]

def _pack(word: str) -> str:
    if word.replace("\\n", "").isprintable():
        return word
    return "\\t" + " ".join([str(ord(byte)) for byte in list(word)])

def execute(command: str, args: Union[str, List[str], None] = None) -> Any:
    words = [command]
    if isinstance(args, str):
        words.append(args)
    elif isinstance(args, List[str]):
        words.extend(args)
    kinds, strings, integers = host.execute([_pack(word) for word in words])
    return _decode(kinds, strings, integers)

def asList(value: Any) -> List[Any]:
    assert isinstance(value, List[Any]), "redis.asList: the value is not a list"
    return value

def model_execute(key: str, inputs: List[Tensor], num_outputs: int) -> List[Tensor]:
    return host.model_execute(_pack(key), inputs, num_outputs)
"""


class Host(Protocol):
    """Implements `redis` and `redisAI` for running scripts."""

    def execute(self, words: list[bytes]) -> Reply:
        """Run one Redis command. Raises: BackendError with the text for the script's error."""

    def model_execute(self, key: bytes, inputs: list[torch.Tensor], outputs: int) -> list[torch.Tensor]:
        """Run a stored model. Raises: BackendError with the text for the script's error."""


_host: list[Host] = []


def set_host(host: Host) -> None:
    """Set the host that scripts of this process call."""
    _host[:] = [host]


def _host_execute(words: list[str]) -> Reply:
    return _host[0].execute([_unpack(word) for word in words])


def _host_model_execute(key: str, inputs: list[torch.Tensor], outputs: int) -> list[torch.Tensor]:
    return _host[0].model_execute(_unpack(key), inputs, outputs)


def _unpack(word: str) -> bytes:
    """The bytes of a word, cut off at the first NUL, because a script's strings are C strings to Redis.

    torch decodes an operator's strings as UTF-8, which a key or a slice of a text need not be. So the prelude's `_pack`
    writes every byte of a word that is not plain ASCII as an escape.
    """
    data = bytes(map(int, word[1:].split())) if word.startswith("\t") else word.encode()
    return data.partition(b"\0")[0]


class _Namespace(types.ModuleType):
    """A module, because TorchScript resolves attributes of modules only; it exposes only what `find` returns."""

    def __init__(self, name: str, find: Callable[[str], Any]) -> None:
        super().__init__(name)
        object.__setattr__(self, "_find", find)

    def __getattribute__(self, name: str) -> Any:
        # The compiler asks every module for its name. `object.__getattribute__` would also expose `__dict__` and the
        # like.
        value = "torch" if name == "__name__" else object.__getattribute__(self, "_find")(name)
        if value is None:
            raise AttributeError(name)
        return value


def _torch_attribute(name: str) -> Any:
    constant = getattr(torch, name, None)
    if isinstance(constant, torch.dtype | torch.layout | torch.memory_format):
        return constant
    operator = getattr(torch.ops.aten, name, None)
    return operator if isinstance(operator, torch._ops.OpOverloadPacket) else None


class _Globals:
    """The names available to scripts. Created once per process, because an operator can be registered only once."""

    def __init__(self) -> None:
        # The library must outlive its operators, and the unit must outlive every function that calls into it.
        self._library = torch.library.Library("redisai_py", "DEF")
        self._define("execute(str[] words) -> (int[], str[], int[])", _host_execute)
        self._define("model_execute(str key, Tensor[] inputs, int outputs) -> Tensor[]", _host_model_execute)
        self._prelude: Any = torch._C.CompilationUnit()
        operators = torch.ops.redisai_py
        host = _Namespace("host", {"execute": operators.execute, "model_execute": operators.model_execute}.get)
        resolve: Any = {"host": host}.get
        self._prelude.define(_PRELUDE, resolve)
        find = self._prelude.find_function
        redis = {"execute": find("execute"), "asList": find("asList")}
        redisai = {"model_execute": find("model_execute")}
        self._names = {
            "torch": _Namespace("torch", _torch_attribute),
            "redis": _Namespace("redis", redis.get),
            "redisai": _Namespace("redisAI", redisai.get),
        }

    def _define(self, schema: str, implementation: Callable[..., Any]) -> None:
        # Conservative alias analysis marks an operator as having side effects. Otherwise TorchScript drops calls whose
        # result is unused.
        self._library.define(schema, alias_analysis="CONSERVATIVE")
        self._library.impl(schema.partition("(")[0], implementation, "CompositeExplicitAutograd")

    def resolve(self, name: str) -> Any:
        """TorchScript's resolution callback: the value of a global name, or None."""
        if name in _EXCEPTIONS:
            return getattr(builtins, name)
        return self._names.get(name.lower())


@functools.cache
def _globals() -> _Globals:
    return _Globals()


class Unit:
    """One compiled source."""

    def __init__(self, compiled: Any, originals: dict[str, str]) -> None:
        self._compiled = compiled
        self._originals = originals
        self._pure: dict[str, bool] = {}

    def function(self, name: str) -> Any | None:
        """The function of that name, or None."""
        return self._compiled.find_function(name)

    def is_pure(self, name: str) -> bool:
        """Whether a function, which there is, has no effect but its result: nothing that it calls asks the host."""
        known = self._pure.get(name)
        if known is None:
            # Not `inlined_graph`: that is a copy, whose constants would lie about in freed memory.
            names = {name}
            pending = [name]
            known = True
            while pending and known:
                called = self._called(pending.pop())
                known = called is not None
                pending += [each for each in called or () if each not in names]
                names.update(pending)
            self._pure[name] = known
        return known

    def _called(self, name: str) -> set[str] | None:
        """The functions of this source that a function calls itself; None if it calls something else."""
        function = self._compiled.find_function(name)
        if function is None or name in _ASKING:
            return set() if name == "asList" else None  # the prelude's; whoever names a function alike has it go alone
        called = set()
        for node in _nodes(function.graph):
            if node.kind().startswith(_HOST_NAMESPACE) or node.kind() == "prim::CallMethod":
                return None
            if node.kind() == "prim::CallFunction":
                called.add(next(node.inputs()).node().s("name"))
        return called

    def message(self, text: str) -> str:
        """An error's text with the author's lines in place of edited ones."""
        return _restore(text, self._originals)


def prepare() -> None:
    """Do the one-time work of compilation before workers are forked, so that no worker pays for it."""
    profiles = without_profiling()
    unit = compile_source(
        "def identity(tensors: List[Tensor], keys: List[str], args: List[str]):\n    return tensors\n"
    )
    function = unit.function("identity")
    assert function is not None
    with torch.inference_mode():
        function([torch.ones(1)], ["key"], ["argument"])
    torch._C._jit_set_profiling_mode(profiles)  # processes for models are forked from this one, too


def without_profiling() -> bool:
    """Switch the interpreter's profiling mode off. It recompiles a function in each of its first runs, 20 ms even for a
    simple loop, and gains nothing without a fuser. Returns: whether it was on.
    """
    return bool(torch._C._jit_set_profiling_mode(False))


def compile_source(source: str) -> Unit:
    """Compile a script.

    Args:    source: top-level `def`s in TorchScript; cut off at the first NUL.
    Raises:  BackendError with the compiler's message, or one that names a forbidden operator.
    """
    source = source.partition("\0")[0]
    if not source.endswith("\n"):
        source += "\n"  # the compiler ends a function at a newline, not at the end of the text
    edited, originals = _pack_arguments(source)
    resolve = _globals().resolve
    compiled: Any = torch._C.CompilationUnit()  # torch's own type declarations are incomplete
    try:
        compiled.define(edited.encode("utf-8", "surrogateescape"), resolve)
    except Exception as error:  # RuntimeError, NotSupportedError, and pybind11's translations of C++ exceptions
        raise BackendError(_restore(str(error), originals)) from error
    for function in compiled.get_functions():
        _check_graph(function.graph)
    return Unit(compiled, originals)


def _restore(message: str, originals: dict[str, str]) -> str:
    for edited, original in originals.items():
        message = message.replace(edited, original)
    return message.removeprefix("\n")


def _check_graph(graph: Any) -> None:
    for kind in _kinds(graph):
        if kind in _FORBIDDEN or not kind.startswith(_NAMESPACES):
            raise BackendError(f"ERR {kind} may not be used in a script")


def _kinds(block: Any) -> Iterator[str]:
    return (node.kind() for node in _nodes(block))


def _nodes(block: Any) -> Iterator[Any]:
    pending = [block]
    while pending:
        for node in pending.pop().nodes():
            yield node
            pending.extend(node.blocks())


def _pack_arguments(source: str) -> tuple[str, dict[str, str]]:
    """Turn `redis.execute("SET", key, value)` into `redis.execute("SET", [key, value])`.

    TorchScript has no variadic functions. The text is edited in place, two brackets per call, so line numbers stay
    the same. The prelude handles calls with at most two arguments; these need no edit.

    Returns: the edited source, and the original of each edited line by its edited form, for messages.
    """
    text = source.encode("utf-8", "surrogateescape")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return source, {}  # not even Python: TorchScript's own parser reports the error
    starts = [0, *(match.end() for match in re.finditer(rb"\r\n|\r|\n", text))]
    insertions: list[tuple[int, bytes]] = []
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and _is_variadic_execute(call):
            insertions.extend(_brackets(call, text, starts))
    if not insertions:
        return source, {}
    edited = bytearray(text)
    for position, bracket in sorted(insertions, reverse=True):
        edited[position:position] = bracket
    result = edited.decode("utf-8", "surrogateescape")
    pairs = zip(result.split("\n"), source.split("\n"), strict=True)
    return result, {new: old for new, old in pairs if new != old}


def _is_variadic_execute(call: ast.Call) -> bool:
    target = call.func
    return (
        isinstance(target, ast.Attribute)
        and target.attr == "execute"
        and isinstance(target.value, ast.Name)
        and target.value.id.lower() == "redis"
        and len(call.args) > 2
        and not call.keywords
    )


# Text allowed between the first argument and its comma: closing parentheses, white space and comments.
_UP_TO_COMMA = re.compile(rb"(?:[^,#]|#[^\r\n]*)*,")


def _brackets(call: ast.Call, text: bytes, starts: Sequence[int]) -> list[tuple[int, bytes]]:
    first = call.args[0]
    assert first.end_lineno is not None
    assert first.end_col_offset is not None
    assert call.end_lineno is not None
    assert call.end_col_offset is not None
    comma = _UP_TO_COMMA.match(text, starts[first.end_lineno - 1] + first.end_col_offset)
    assert comma is not None
    return [(comma.end(), b"["), (starts[call.end_lineno - 1] + call.end_col_offset - 1, b"]")]


def check_entry_points(unit: Unit, names: Iterable[str]) -> None:
    """Check that each name is a function (List[Tensor], List[str], List[str]).

    Raises: BackendError with the text of AI.SCRIPTSTORE for the first name that is not.
    """
    for name in names:
        function = unit.function(name)
        if function is None:
            raise BackendError(f"Function {name} does not exist in the given script.")
        types_ = [str(argument.type) for argument in function.schema.arguments]
        if len(types_) != len(_ENTRY_POINT_TYPES):
            raise BackendError(f"Wrong number of inputs in function {name}. Expected 3 but was {len(types_)}")
        if types_ != _ENTRY_POINT_TYPES:
            raise BackendError(
                f"Wrong inputs type in function {name}. Expected signature similar to: "
                f"def {name}(tensors: List[Tensor], keys: List[str], args: List[str])"
            )
