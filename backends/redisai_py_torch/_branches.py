"""Do values of the inputs decide a program's control flow, or numbers that its operators take (`x.max().item()`)?

Then requests that share a run would decide for each other. Both formats are analysed in the same way: what depends on
values of the inputs is followed through the graph, until no further value is found. A number that an operator makes of
a tensor's elements decides something; a number that comes from a tensor's size does not, unless values decided that
size (`x[x > 0].size(0)`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import torch

from redisai_py.dataflow import SHAPE, VALUES, union

__all__ = ["exported_branches", "script_branches"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_METADATA = _words("""
    aten::dim aten::ndimension aten::is_floating_point aten::is_complex aten::is_signed aten::is_contiguous
    aten::element_size aten::is_leaf aten::requires_grad aten::get_device aten::device aten::result_type aten::can_cast
    aten::is_conj aten::is_neg aten::is_inference aten::is_pinned aten::is_coalesced aten::is_nested aten::qscheme
    aten::q_scale aten::q_zero_point aten::__is__ aten::__isnot__ prim::isinstance prim::device prim::dtype prim::layout
    prim::itemsize prim::ndim prim::is_cuda prim::is_cpu prim::is_xpu prim::is_mps prim::is_meta prim::is_sparse
    prim::is_sparse_csr prim::is_mkldnn prim::is_quantized prim::is_nested prim::requires_grad prim::Uninitialized
    """)
"""Operators whose result depends neither on values nor on sizes."""
_SIZES = _words("""
    aten::size aten::numel aten::len aten::stride aten::storage_offset aten::sym_size aten::sym_numel aten::sym_stride
    aten::sym_storage_offset aten::is_same_size aten::__contains__ prim::shape prim::numel
    """)
"""Operators whose result depends on sizes alone."""
_LIKE = _words("""
    aten::zeros_like aten::ones_like aten::empty_like aten::full_like aten::rand_like aten::randn_like aten::new_zeros
    aten::new_ones aten::new_empty aten::new_full
    """)
"""Operators that use the shape of their tensor alone."""
_SHAPED_BY_VALUES = _words("""
    aten::nonzero aten::nonzero_numpy aten::argwhere aten::masked_select aten::_unique aten::_unique2 aten::unique_dim
    aten::unique_consecutive aten::repeat_interleave aten::bincount aten::_pack_padded_sequence
    aten::_pad_packed_sequence torchvision::nms
    """)
_MASKS = _words("""
    aten::gt aten::lt aten::ge aten::le aten::eq aten::ne aten::logical_not aten::logical_and aten::logical_or
    aten::logical_xor aten::bitwise_not aten::bitwise_and aten::bitwise_or aten::__and__ aten::__or__ aten::isnan
    aten::isfinite aten::isinf
    """)
"""Operators that make masks; indexing with a mask gives as many rows as it has ones."""
_CHECKS = frozenset({"aten::_assert_async", "prim::tolist"})
"""Operators that take a decision although none of their results is a number."""
_UNKNOWN = "it cannot be looked through"
_NUMBERS = frozenset({"IntType", "FloatType", "BoolType", "NumberType", "ComplexType"})


def script_branches(module: Any) -> str:
    """The operators of a TorchScript module that decide by values of its inputs; empty if none."""
    try:
        found = _decisions(module.inlined_graph)
        if found:
            with suppress(Exception):  # freezing drops branches that are never taken, those for training above all
                frozen = torch._C._freeze_module(module._c, [], True, False)
                found = _decisions(frozen._get_method("forward").graph)
    except Exception:  # assume the worst of a program that cannot be analysed
        return _UNKNOWN
    return ", ".join(sorted(found))


def _decisions(graph: Any) -> set[str]:
    inputs = list(graph.inputs())
    flow = _ScriptFlow(graph, [0] + [VALUES] * (len(inputs) - 1))  # the first one is the module itself
    return flow.found


class _ScriptFlow:
    """The values of a TorchScript graph that depend on values of its inputs.

    given: the flags of the graph's inputs.   found: the operators that decide.   results: the flags of its outputs.
    """

    def __init__(self, graph: Any, given: Sequence[int]) -> None:
        self.found: set[str] = set()
        self._flags: dict[str, int] = {}
        self._changed = True
        for value, flags in zip(graph.inputs(), given, strict=True):
            self._add(value, flags)
        while self._changed:  # loops and writes in place lead back to what was seen before
            self._changed = False
            self._walk(graph.nodes())
        self.results = [self._of(value) for value in graph.outputs()]

    def _of(self, value: Any) -> int:
        return self._flags.get(value.debugName(), 0)

    def _add(self, value: Any, flags: int) -> None:
        if flags:
            name = value.debugName()
            known = self._flags.get(name, 0)
            if flags & ~known:
                self._flags[name] = known | flags
                self._changed = True

    def _decided_by(self, value: Any, kind: str) -> None:
        if self._of(value) & VALUES:
            self.found.add(kind)

    def _walk(self, nodes: Iterable[Any]) -> None:
        for node in nodes:
            kind = node.kind()
            if kind == "prim::If":
                self._branch(node)
            elif kind == "prim::Loop":
                self._loop(node)
            elif kind == "prim::TupleUnpack" and node.input().node().kind() == "prim::TupleConstruct":
                for member, output in zip(node.input().node().inputs(), node.outputs(), strict=True):
                    self._add(output, self._of(member))
            elif kind == "prim::fork" and node.hasAttribute("Subgraph"):
                self._fork(node)
            else:
                self._operator(node, kind)

    def _branch(self, node: Any) -> None:
        self._decided_by(node.input(), "prim::If")
        for block in node.blocks():
            self._walk(block.nodes())
            for result, output in zip(block.outputs(), node.outputs(), strict=True):
                self._add(output, self._of(result))

    def _loop(self, node: Any) -> None:
        """Inputs: number of rounds, whether to begin, what the rounds hand on. The body returns whether to go on."""
        rounds, begin, *first = node.inputs()
        (body,) = node.blocks()
        _, *handed_on = body.inputs()
        for source, value in zip(first, handed_on, strict=True):
            self._add(value, self._of(source))
        self._walk(body.nodes())
        again, *last = body.outputs()
        for decides in (rounds, begin, again):
            self._decided_by(decides, "prim::Loop")
        for source, value, output in zip(last, handed_on, node.outputs(), strict=True):
            self._add(value, self._of(source))
            self._add(output, self._of(source) | self._of(value))

    def _fork(self, node: Any) -> None:
        graph = node.g("Subgraph").copy()
        torch._C._jit_pass_inline(graph)
        inner = _ScriptFlow(graph, [self._of(value) for value in node.inputs()])
        self.found |= inner.found
        for output in node.outputs():
            self._add(output, union(inner.results))

    def _operator(self, node: Any, kind: str) -> None:
        inputs = list(node.inputs())
        flags = [self._of(value) for value in inputs]
        if not any(flags):
            return
        if kind in _CHECKS or kind.startswith("prim::Call"):  # a call that could not be inlined may decide anything
            self.found.add(kind)
        tensors = union(flag for value, flag in zip(inputs, flags, strict=True) if _holds_tensors(value))
        others = union(flag for value, flag in zip(inputs, flags, strict=True) if not _holds_tensors(value))
        for output in node.outputs():
            self._add(output, self._result(node, kind, output, tensors, others))
        self._written(node, kind, inputs, tensors | others)

    def _result(self, node: Any, kind: str, output: Any, tensors: int, others: int) -> int:
        """The flags of an operator's result, by those of its tensors and of its other inputs."""
        if kind in _METADATA:
            return 0
        is_number = output.type().kind() in _NUMBERS
        if kind in _SIZES or (is_number and kind.startswith("prim::")):
            return VALUES if others or tensors & SHAPE else 0
        if is_number and tensors & VALUES:
            self.found.add(kind)
            return 0  # what follows from the number says nothing new
        if kind in _LIKE:
            tensors &= SHAPE
        shaped = kind in _SHAPED_BY_VALUES or _selects(node, kind)
        return _result(tensors | others, shaped)

    def _written(self, node: Any, kind: str, inputs: Sequence[Any], flags: int) -> None:
        """Whatever an operator writes to depends on what it writes; so does that of which it is a view."""
        if kind == "prim::SetAttr":
            self._add(inputs[0], flags)
            return
        if "!" not in node.schema():
            return
        flags = VALUES if kind.endswith("_") else flags  # an operation in place keeps the shape
        for place in _written_places(node.schema()):
            value = inputs[place]
            self._add(value, flags)
            while "(a" in value.node().schema() and (sources := list(value.node().inputs())):
                value = sources[0]
                self._add(value, flags)


def _result(flags: int, shaped: bool) -> int:
    """The flags of a tensor that an operator computes. Elements may depend on the inputs' shapes: think of a sum."""
    return VALUES | (SHAPE if shaped else flags & SHAPE) if flags else 0


def _holds_tensors(value: Any) -> bool:
    return "Tensor" in str(value.type())


def _selects(node: Any, kind: str) -> bool:
    """Whether a TorchScript operator returns the elements for which a mask is set, or their places."""
    if kind == "aten::where":
        return sum(1 for _ in node.inputs()) == 1
    if kind != "aten::index":
        return False
    _, indices = node.inputs()
    return any(_is_mask(value) for value in indices.node().inputs())


def _is_mask(value: Any) -> bool:
    kind = value.type()
    is_bool = kind.kind() == "TensorType" and kind.scalarType() == "Bool"
    return is_bool or value.node().kind() in _MASKS


@lru_cache(maxsize=1024)
def _written_places(schema: str) -> tuple[int, ...]:
    arguments = torch._C.parse_schema(schema).arguments
    return tuple(
        place
        for place, argument in enumerate(arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def exported_branches(program: Any) -> str:
    """The operators of an exported program that decide by values of its inputs; empty if none."""
    given = {spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"}
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    try:
        flow = _ExportFlow(program.graph_module, [VALUES if node.name in given else 0 for node in nodes])
    except Exception:  # assume the worst of a program that cannot be analysed
        return _UNKNOWN
    return ", ".join(sorted(flow.found))


class _ExportFlow:
    """The same of an exported program, or of the graph of one of its branches or loops."""

    def __init__(self, module: Any, given: Sequence[int]) -> None:
        self.found: set[str] = set()
        self.results = 0
        self._module = module
        self._flags: dict[Any, int] = {}
        self._changed = True
        inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
        for node, flags in zip(inputs, given, strict=True):
            self._add(node, flags)
        while self._changed:
            self._changed = False
            for node in module.graph.nodes:
                self._visit(node)

    def _add(self, node: Any, flags: int) -> None:
        known = self._flags.get(node, 0)
        if flags & ~known:
            self._flags[node] = known | flags
            self._changed = True

    def _visit(self, node: Any) -> None:
        flags = union(self._flags.get(source, 0) for source in node.all_input_nodes)
        if node.op == "output":
            self.results = flags
        elif node.op == "call_function" and flags:
            if isinstance(node.target, torch._ops.HigherOrderOperator):
                self._add(node, self._nested(node, flags))
            else:
                self._add(node, self._result(node, flags))
                self._written(node, flags)

    def _result(self, node: Any, flags: int) -> int:
        schema = getattr(node.target, "_schema", None)
        kind = schema.name if schema is not None else ""
        tags = getattr(node.target, "tags", ())
        if (torch.Tag.data_dependent_output in tags or kind in _CHECKS) and flags & VALUES:
            self.found.add(kind)
        if kind in _METADATA:
            return 0
        if kind in _SIZES:
            return VALUES if flags & SHAPE else 0
        if kind in _LIKE:
            flags &= SHAPE
        shaped = torch.Tag.dynamic_output_shape in tags or kind in _SHAPED_BY_VALUES
        if kind == "aten::index":
            shaped = any(_is_bool(index) for index in node.args[1])
        return _result(flags, shaped)

    def _nested(self, node: Any, flags: int) -> int:
        """An operator that runs other graphs. It hands its operands on; each may get any of them."""
        name = node.target.name()
        if name == "cond" and self._flags.get(node.args[0], 0) & VALUES:
            self.found.add("torch.cond")
        results = flags
        for source in node.all_input_nodes:
            inner = getattr(self._module, str(source.target), None) if source.op == "get_attr" else None
            if not isinstance(inner, torch.fx.GraphModule):
                continue
            count = sum(1 for part in inner.graph.nodes if part.op == "placeholder")
            flow = _ExportFlow(inner, [flags] * count)
            self.found |= flow.found
            results |= flow.results
            if name == "while_loop" and source is node.args[0] and flow.results & VALUES:
                self.found.add("while_loop")
        return results

    def _written(self, node: Any, flags: int) -> None:
        schema = getattr(node.target, "_schema", None)
        if schema is None or not schema.is_mutable or not node.args:
            return
        target = node.args[0]
        while isinstance(target, torch.fx.Node):
            self._add(target, flags & VALUES)
            made_by = getattr(target.target, "_schema", None)
            is_view = made_by is not None and any(result.alias_info is not None for result in made_by.returns)
            target = target.args[0] if is_view and target.args else None


def _is_bool(index: Any) -> bool:
    value = index.meta.get("val") if isinstance(index, torch.fx.Node) else None
    return isinstance(value, torch.Tensor) and value.dtype is torch.bool
