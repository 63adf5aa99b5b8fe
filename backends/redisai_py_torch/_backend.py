"""The TORCH backend: TorchScript (from `torch.jit.save`) and torch.export archives (.pt2), recognised by content.

Sources: AI.MODELSTORE for the names, the counting of outputs and the error texts (with RedisAI's spelling).
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from redisai_py.backend import Blob, LoadOptions, ModelFile, framework_error
from redisai_py.errors import BackendError
from redisai_py.tensor import Device
from redisai_py_torch._archive import is_export_archive, is_saved_object
from redisai_py_torch._branches import script_branches
from redisai_py_torch._draws import script_draws
from redisai_py_torch._exported import load_exported
from redisai_py_torch._session import LoadedModel, TorchSession
from redisai_py_torch._signature import INPUTS_TEXT, input_specs, output_specs
from redisai_py_torch._unpickling import check_unpickling

__all__ = ["TorchBackend"]

_NO_CUDA = "GPU requested but Torch couldn't find CUDA"
_NOT_A_PROGRAM = (
    "ERR a file of torch.save holds weights or a pickled module, which is not a program; "
    "store what torch.jit.save or torch.export.save writes"
)


class TorchBackend:
    """PyTorch. Thread: any. Thread counts are settings of the whole process."""

    name = "TORCH"
    version: str = torch.__version__

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = (0, 0)

    def check_device(self, device: Device) -> None:
        """Refuse GPU without CUDA, and a GPU number that this machine does not have."""
        if device.kind != "GPU":
            return
        if not torch.cuda.is_available():
            raise BackendError(_NO_CUDA)
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise BackendError(f"{_NO_CUDA} device {device.index} (devices: {torch.cuda.device_count()})")

    def load_model(
        self,
        blob: Blob,
        device: Device,
        inputs: Sequence[str],
        outputs: Sequence[str],
        options: LoadOptions,
    ) -> TorchSession:
        """Build a session; `inputs` and `outputs` are ignored: the names are those of `forward`'s parameters.

        Raises: BackendError: no CUDA; not loadable; a `forward` that takes or returns something other than tensors.
        """
        self.check_device(device)
        self._set_threads(options)
        target = torch.device("cuda", device.index or 0) if device.kind == "GPU" else torch.device("cpu")
        try:
            model = load_exported(blob, target) if is_export_archive(blob) else _load_script(blob, target)
        except BackendError:
            raise
        except Exception as error:
            if is_saved_object(blob):  # PyTorch's own error would say that the file is corrupted
                raise BackendError(_NOT_A_PROGRAM) from error
            raise framework_error(error) from error
        return TorchSession(model, len(blob), target)

    load_file = load_model

    def warm_up(self) -> None:
        """See WarmsUp: has PyTorch read an archive."""
        archive = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.save(torch.jit.script(torch.nn.Identity()), archive)
        _load_script(archive.getvalue(), torch.device("cpu"))

    def _set_threads(self, options: LoadOptions) -> None:
        """Set the thread counts, once; PyTorch itself refuses a late change of the inter-op count."""
        wanted = (options.intra_op_threads, options.inter_op_threads)
        with self._lock:
            if wanted == self._threads:
                return
            intra, inter = wanted
            if intra:
                torch.set_num_threads(intra)
            if inter and inter != torch.get_num_interop_threads():
                try:
                    torch.set_num_interop_threads(inter)
                except RuntimeError as error:
                    raise BackendError(
                        "Cannot set number of inter-op threads after parallel work has started"
                    ) from error
            self._threads = wanted


def _load_script(blob: Blob, device: torch.device) -> LoadedModel:
    check_unpickling(blob)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated", DeprecationWarning)
        # From memory, PyTorch copies an archive twice before it makes tensors.
        source = blob.path if isinstance(blob, ModelFile) else io.BytesIO(blob)
        module = torch.jit.load(source, map_location=device)
    try:
        forward = module.forward
        schema: Any = forward.schema
    except AttributeError as error:
        raise BackendError(f"{INPUTS_TEXT}Method 'forward' is not defined.") from error
    nodes = list(_nodes(module.inlined_graph))
    named = {name.rpartition(".")[2] for name in module.state_dict()}
    return LoadedModel(
        call=forward,
        inputs=input_specs(schema),
        outputs=output_specs(schema, module.inlined_graph),
        weights=(*module.parameters(), *module.buffers(), *_constants(nodes)),
        writes=any(_writes(node) or _reads_unnamed(node, named) for node in nodes),
        stateful=_may_keep_state(module, nodes),
        draws=script_draws(module, nodes, _nodes),
        branches=script_branches(module),
        loops=any(node.kind() == "prim::Loop" and next(node.inputs()).toIValue() == _WITHOUT_END for node in nodes),
    )


_WITHOUT_END = 2**63 - 1
"""Iteration limit of a `while`; a `for` has its own count."""


def _may_keep_state(module: Any, nodes: Sequence[Any]) -> bool:
    """Whether `forward` may write to something that outlives it: the module's tensors and attributes.

    Freezing folds every attribute into the graph except those that are written to, and drops branches that are never
    taken, such as the training branch of a normalisation.
    """
    if not any(_writes(node) for node in nodes):
        return False
    try:
        frozen = torch._C._freeze_module(module._c, [], True, False)
        graph = frozen._get_method("forward").graph
    except Exception:  # assume the worst of a module that cannot be frozen
        return True
    return any(node.kind() in ("prim::SetAttr", "prim::GetAttr", "prim::CallMethod") for node in _nodes(graph))


def _nodes(graph: Any) -> Iterator[Any]:
    """Every node of a graph and of its nested blocks (branches, loops)."""
    pending: list[Iterable[Any]] = [graph.nodes()]
    while pending:
        for node in pending.pop():
            yield node
            pending.extend(block.nodes() for block in node.blocks())


def _writes(node: Any) -> bool:
    """Whether a node may write to a tensor or the module: in-place operators (marked by `!`), attributes, calls."""
    kind = node.kind()
    return kind.startswith(("prim::SetAttr", "prim::Call", "prim::fork")) or "!" in node.schema()


def _reads_unnamed(node: Any, named: set[str]) -> bool:
    """Whether a node reads tensors that are neither parameters nor buffers, whose memory is unknown from outside."""
    if node.kind() != "prim::GetAttr" or node.s("name") in named:
        return False
    kind = node.output().type()
    return kind.kind() != "ClassType" and "Tensor" in str(kind)


def _constants(nodes: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Tensors that tracing stored in the graph itself."""
    for node in nodes:
        if (
            node.kind() == "prim::Constant"
            and node.output().type().kind() == "TensorType"
            and node.hasAttribute("value")
        ):
            yield node.t("value")
