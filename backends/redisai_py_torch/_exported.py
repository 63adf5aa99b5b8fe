"""torch.export archives (.pt2): load one and say what it takes and returns.

An exported program takes its inputs as positional and keyword arguments in any nesting; here they are its tensors in
order, named as the program names them.
"""

from __future__ import annotations

import io
from typing import Any

import torch
from torch.utils import _pytree as pytree

from redisai_py.backend import InputSpec
from redisai_py.errors import BackendError
from redisai_py_torch._archive import check_export_archive
from redisai_py_torch._dtypes import NUMPY_DTYPES
from redisai_py_torch._session import LoadedModel

__all__ = ["load_exported"]


def load_exported(blob: bytes, device: torch.device) -> LoadedModel:
    """Load an archive onto a device.

    Raises: BackendError: refused (see `_archive`), or an input that is no tensor; whatever PyTorch raises.
    """
    check_export_archive(blob)
    program = torch.export.load(io.BytesIO(blob))
    if device.type == "cuda":
        from torch.export.passes import move_to_device_pass  # newer than the rest of torch.export

        program = move_to_device_pass(program, device)
    module = program.module()
    in_spec = program.call_spec.in_spec

    def call(*tensors: torch.Tensor) -> Any:
        if len(tensors) != in_spec.num_leaves:
            raise BackendError(f"forward() expected {in_spec.num_leaves} inputs but got {len(tensors)}")
        args, kwargs = pytree.tree_unflatten(tensors, in_spec)
        return tuple(pytree.tree_leaves(module(*args, **kwargs)))

    return LoadedModel(
        call=call,
        inputs=tuple(_input_specs(program)),
        output_count=len(program.graph_signature.user_outputs),
        weights=(*program.state_dict.values(), *_tensors(program.constants)),
        writes=any(_writes(node) for node in program.graph.nodes),
    )


def _input_specs(program: Any) -> list[InputSpec]:
    placeholders = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    specs = []
    for name in program.graph_signature.user_inputs:
        value = placeholders.get(name) if isinstance(name, str) else None
        if not isinstance(value, torch.Tensor):
            raise BackendError(f"ERR torch.export archive: input {name} is not a tensor")
        shape = tuple(dim if isinstance(dim, int) else None for dim in value.shape)
        specs.append(InputSpec(name, NUMPY_DTYPES.get(value.dtype), shape))
    return specs


def _tensors(constants: Any) -> list[torch.Tensor]:
    return [value for value in constants.values() if isinstance(value, torch.Tensor)]


def _writes(node: Any) -> bool:
    """Whether an operator writes to a tensor; one without a schema may."""
    if node.op != "call_function":
        return False
    schema = getattr(node.target, "_schema", None)
    return bool(schema.is_mutable) if schema is not None else "builtin" not in type(node.target).__name__
