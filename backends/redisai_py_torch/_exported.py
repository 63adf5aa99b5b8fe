"""torch.export archives (.pt2): loading, and their inputs and outputs.

An exported program takes nested positional and keyword arguments; here its inputs are their tensors in order, with the
program's names. The export fixed arguments and results that are not tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from redisai_py.backend import Blob, TensorSpec, opened
from redisai_py.errors import BackendError
from redisai_py_torch._archive import check_export_archive
from redisai_py_torch._branches import exported_branches
from redisai_py_torch._draws import exported_draws
from redisai_py_torch._dtypes import NUMPY_DTYPES
from redisai_py_torch._session import LoadedModel
from redisai_py_torch._state import may_keep_state

__all__ = ["load_exported"]


def load_exported(blob: Blob, device: torch.device) -> LoadedModel:
    """Load an archive onto a device.

    Raises: BackendError: refused (see `_archive`), or an input or output is a number that varies; or whatever
            PyTorch raises.
    """
    check_export_archive(blob)
    with opened(blob) as file:
        program = torch.export.load(file)
    if device.type == "cuda":
        from torch.export.passes import move_to_device_pass  # newer than the rest of torch.export

        program = move_to_device_pass(program, device)
    module = program.module()
    in_spec = program.call_spec.in_spec
    arguments = [spec.arg for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    results = [spec.arg for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    inputs = tuple(_specs(program, arguments, "input"))
    outputs = tuple(TensorSpec("", spec.dtype, spec.shape) for spec in _specs(program, results, "output"))
    fixed = [None if isinstance(argument, TensorArgument) else argument.value for argument in arguments]
    takes = [isinstance(argument, TensorArgument) for argument in arguments]
    gives = [isinstance(result, TensorArgument) for result in results]

    def call(*tensors: torch.Tensor) -> Any:
        if len(tensors) != len(inputs):
            raise BackendError(f"forward() expected {len(inputs)} inputs but got {len(tensors)}")
        given = iter(tensors)
        leaves = [next(given) if is_tensor else value for is_tensor, value in zip(takes, fixed, strict=True)]
        args, kwargs = pytree.tree_unflatten(leaves, in_spec)
        values = pytree.tree_leaves(module(*args, **kwargs))
        return tuple(value for value, is_tensor in zip(values, gives, strict=True) if is_tensor)

    return LoadedModel(
        call=call,
        inputs=inputs,
        outputs=outputs,
        weights=(
            *program.state_dict.values(),
            *(value for value in program.constants.values() if isinstance(value, torch.Tensor)),
        ),
        writes=any(_writes(node) for node in program.graph.nodes),
        stateful=may_keep_state(program),
        draws=exported_draws(program),
        branches=exported_branches(program),
        loops=any(getattr(node.target, "__name__", "") == "while_loop" for node in program.graph.nodes),
    )


def _specs(program: Any, arguments: Sequence[Any], what: str) -> list[TensorSpec]:
    """The arguments that are tensors; constants were fixed by the export, and clients do not see them."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    specs = []
    for argument in arguments:
        if isinstance(argument, ConstantArgument):
            continue
        value = values.get(argument.name)
        if not isinstance(argument, TensorArgument) or not isinstance(value, torch.Tensor):
            raise BackendError(
                f"ERR torch.export archive: {what} {argument.name} is not a tensor; "
                "export with a fixed number, or with a tensor in its place"
            )
        if value.dtype not in NUMPY_DTYPES:
            kind = str(value.dtype).removeprefix("torch.")
            hint = "; torch.view_as_real makes floats of it" if value.is_complex() else ""
            what_it_is = f"{what} {argument.name} is of the type {kind}"
            raise BackendError(f"ERR torch.export archive: {what_it_is}, which no tensor here has{hint}")
        shape = tuple(dim if isinstance(dim, int) else None for dim in value.shape)
        specs.append(TensorSpec(argument.name, NUMPY_DTYPES[value.dtype], shape))
    return specs


def _writes(node: Any) -> bool:
    """Whether an operator writes to a tensor; true for an operator without a schema."""
    if node.op != "call_function":
        return False
    schema = getattr(node.target, "_schema", None)
    return bool(schema.is_mutable) if schema is not None else "builtin" not in type(node.target).__name__
