"""The TF backend: frozen graphs (a GraphDef) and SavedModels (a tar or zip file of the directory).

The blob's content decides which; both end as one session over one graph. For a frozen graph, INPUTS of AI.MODELSTORE
names placeholders and OUTPUTS operations; for a SavedModel they name keys of its signature.
Sources: AI.MODELSTORE and RedisAI's error texts; otherwise TensorFlow's own texts.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before the import, to keep stderr for the server

import tensorflow as tf

from redisai_py.backend import Blob, LoadOptions
from redisai_py.errors import BackendError
from redisai_py.tensor import Device
from redisai_py_tensorflow._archive import is_archive, unpack_saved_model
from redisai_py_tensorflow._frozen import read_frozen
from redisai_py_tensorflow._graph import Bound, check_fed, traits_of
from redisai_py_tensorflow._session import TensorflowSession, tensorflow_error
from redisai_py_tensorflow._signature import bind_signature

__all__ = ["TensorflowBackend"]

_NO_CUDA = "ERR GPU requested but TF couldn't find CUDA"

v1: Any = tf.compat.v1

# The loader of SavedModels warns at every call that it is deprecated, and lists the files it restores.
logging.getLogger("tensorflow").setLevel(logging.ERROR)


class TensorflowBackend:
    """TensorFlow. Thread: any; sessions share TensorFlow's thread pools, whose sizes the first session sets."""

    name = "TF"
    version: str = tf.__version__

    def check_device(self, device: Device) -> None:
        """Refuse GPU if TensorFlow sees none, and a GPU number that this machine does not have."""
        if device.kind != "GPU":
            return
        count = len(tf.config.list_physical_devices("GPU"))
        if not count:
            raise BackendError(_NO_CUDA)
        if device.index is not None and device.index >= count:
            raise BackendError(f"{_NO_CUDA} device {device.index} (devices: {count})")

    def load_model(
        self,
        blob: Blob,
        device: Device,
        inputs: Sequence[str],
        outputs: Sequence[str],
        options: LoadOptions,
    ) -> TensorflowSession:
        """Build a session with the named inputs and outputs, in the given order.

        Args:    inputs, outputs: empty for all of a SavedModel's signature, sorted by name.
                 options: `extra["signature"]` selects a signature; by default the default one, or one with these names.
        Raises:  BackendError: no GPU; neither a GraphDef nor a readable archive; a name that the model does not have; a
                 required input that is left out.
        """
        self.check_device(device)
        signature = options.extra.get("signature", "")
        if signature and not is_archive(blob):
            raise BackendError(f'ERR a frozen graph has no signature "{signature}": name its INPUTS and OUTPUTS')
        graph = tf.Graph()
        session = v1.Session(graph=graph, config=_config(device, options))
        try:
            with graph.as_default(), graph.device(f"/GPU:{device.index or 0}" if device.kind == "GPU" else "/CPU:0"):
                if is_archive(blob):
                    bound, nbytes = _load_saved_model(blob, session, inputs, outputs, signature)
                else:
                    bound, nbytes = _load_frozen(blob, session, inputs, outputs)
                check_fed(bound)
                traits = traits_of(bound, graph)
                return TensorflowSession(session, bound, nbytes, options.inter_op_threads > 1, traits)
        except BaseException as error:
            session.close()
            if isinstance(error, Exception) and not isinstance(error, BackendError):
                raise tensorflow_error(error) from error
            raise

    load_file = load_model


def _config(device: Device, options: LoadOptions) -> Any:
    config = v1.ConfigProto(
        intra_op_parallelism_threads=options.intra_op_threads,
        inter_op_parallelism_threads=options.inter_op_threads,
        # Operations without a GPU kernel (strings, tables) run on the CPU. Whether there is a GPU was checked before.
        allow_soft_placement=True,
    )
    if device.kind == "CPU":
        config.device_count["GPU"] = 0  # otherwise TensorFlow places operations on the GPU by default
    config.gpu_options.allow_growth = True
    return config


def _load_frozen(blob: Blob, session: Any, inputs: Sequence[str], outputs: Sequence[str]) -> tuple[Bound, int]:
    for word, names in (("INPUTS", inputs), ("OUTPUTS", outputs)):
        if not names and not (word == "INPUTS" and outputs):
            raise BackendError(f"ERR {word} not specified for TF")
    try:
        frozen = read_frozen(blob, outputs)
    except Exception as error:
        raise BackendError("Invalid GraphDef") from error
    tf.graph_util.import_graph_def(frozen.definition, name="")
    operations = {operation.name: operation for operation in session.graph.get_operations()}
    for name in inputs:
        if name not in operations or operations[name].type != "Placeholder":
            raise BackendError(f'ERR Input node named "{name}" not found in TF graph.')
    for name in outputs:
        if name not in operations or not operations[name].outputs:
            raise BackendError(f'ERR Output node named "{name}" not found in TF graph')
    feeds, fetches = ([operations[name].outputs[0] for name in names] for names in (inputs, outputs))
    frozen.assign(session, blob)
    return Bound(inputs, outputs, feeds, fetches), len(blob)


def _load_saved_model(
    blob: Blob, session: Any, inputs: Sequence[str], outputs: Sequence[str], signature: str
) -> tuple[Bound, int]:
    """Restore a SavedModel's variables and tables into the session; its files are deleted before this returns."""
    with tempfile.TemporaryDirectory(prefix="redisai_py_") as directory:
        folder = unpack_saved_model(blob, Path(directory))
        nbytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        meta_graph = v1.saved_model.loader.load(session, [tf.saved_model.SERVING], str(folder))
    signatures = {name: value for name, value in meta_graph.signature_def.items() if not name.startswith("__")}
    return bind_signature(signatures, session.graph, inputs, outputs, signature), max(len(blob), nbytes)
