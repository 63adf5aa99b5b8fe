"""A worker process: compiles and runs the server's scripts, one at a time, until the server closes the connection.

Frames from the server:  open, with the worker's options; compile, run, calls; source, reply, tensors, failure answer
                         this worker's questions.
Frames to the server:    ready; the questions source, execute, model; the outcomes compiled, result, error, done.
All are described in docs/adr/0009 and 0052. `calls` and `done` have nothing but a name: calls and results lie in memory
that the server maps too (docs/adr/0045). A worker holds no state but its cache of compiled sources: it may be killed at
any moment.
"""

from __future__ import annotations

import json
import re
import resource
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from redisai_py.errors import BackendError
from redisai_py.tensor import DType
from redisai_py_torch import script_calls
from redisai_py_torch.script_language import (
    Reply,
    Unit,
    check_entry_points,
    compile_source,
    prepare,
    set_host,
    without_profiling,
)
from redisai_py_torch.script_tensors import decode_tensors, encode_output, encode_tensors, input_at

__all__ = ["OUT_OF_MEMORY_STATUS", "Lane", "WorkerOptions", "prepare", "serve"]

OUT_OF_MEMORY_STATUS = 12
"""Exit status of a worker that ran out of memory even for reporting it (errno ENOMEM)."""

_CACHED_UNITS = 128
_CACHED_CALLS = 1024
_OPEN_FILES = 64


class Lane(Protocol):
    """The connection to the server; see `redisai_py.engine.isolation.host_scripts`."""

    requests: memoryview
    results: Any

    def send(self, header: dict[str, Any], parts: Sequence[Any] = ()) -> None:
        """Send a frame."""

    def send_done(self) -> None:
        """Say that the calls in the shared memory have run."""

    def receive(self) -> tuple[dict[str, Any], memoryview]:
        """The next frame. Raises: EOFError, MemoryError."""

    def calls(self) -> Iterator[tuple[int, list[Any]]]:
        """The calls of a batch: where each one's message lies in `requests`, and its tensors."""

    def dtype_of(self, code: int) -> DType:
        """The element type of a tensor."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """device: as the user typed it.   memory_limit_bytes: beyond the process's size at start, 0 is none.
    intra_op_threads: 0 leaves torch's default."""

    device: str
    memory_limit_bytes: int
    intra_op_threads: int


def serve(lane: Lane) -> int:
    """Answer the server until it hangs up. Returns: the status to end with; 0: the server ends the process."""
    try:
        header, _ = lane.receive()
        worker = _Worker(lane, WorkerOptions(**header["options"]))
        set_host(worker)
        lane.send({"op": "ready"})
        while worker.serve_one():
            pass
    except (EOFError, ConnectionError):
        return 0
    except MemoryError:
        return OUT_OF_MEMORY_STATUS
    return 0


class _Worker:
    def __init__(self, lane: Lane, options: WorkerOptions) -> None:
        self._lane = lane
        self._units: OrderedDict[str, Unit] = OrderedDict()
        self._calls: dict[bytes, script_calls.Call] = {}
        without_profiling()
        warnings.simplefilter("ignore")  # torch.warn(...) would let a script fill the server's log
        # Forked processes share the generator's state; without this, all of them would draw the same numbers.
        torch.seed()
        if options.intra_op_threads:
            torch.set_num_threads(options.intra_op_threads)
        self._device, self._refusal = _open_device(options.device)
        _limit_resources(options.memory_limit_bytes, self._device)

    def serve_one(self) -> bool:
        """Handle one command of the server; False if the server ends the process."""
        try:
            header, payload = self._lane.receive()
            if self._refusal:
                raise BackendError(self._refusal)
            if header["op"] == "calls":
                return self._run_calls()
            if header["op"] == "compile":
                self._compile(header)
            else:
                self._run(header, payload)
        except BackendError as error:
            self._lane.send({"op": "error", "text": str(error)})
        except MemoryError as error:
            # The allocators' memory is fragmented and near the limit; a new process is the cleanest state.
            self._lane.send({"op": "error", "text": str(error), "memory": True})
            return False
        return True

    # --- commands ----------------------------------------------------------------------------------------------------

    def _compile(self, header: dict[str, Any]) -> None:
        unit = compile_source(header["source"])
        check_entry_points(unit, header["entry_points"])
        if header["id"]:
            self._keep(header["id"], unit)
        self._lane.send({"op": "compiled"})

    def _run(self, header: dict[str, Any], payload: memoryview) -> None:
        unit = self._unit(header["id"])
        inputs, offset = decode_tensors(header["tensors"], payload)
        inputs = [tensor.to(self._device) for tensor in inputs]
        started = time.perf_counter()
        keys, offset = _strings(payload, header["keys"], offset)
        args, offset = _strings(payload, header["args"], offset)
        call = script_calls.Call(unit, header["function"], header["entry_point"], keys, args, header["outputs"])
        with torch.inference_mode():
            metas, parts = encode_tensors(call(inputs))
        duration_us = int((time.perf_counter() - started) * 1e6)
        pure = unit.is_pure(header["function"])
        self._lane.send({"op": "result", "duration_us": duration_us, "tensors": metas, "pure": pure}, parts)

    def _run_calls(self) -> bool:
        """Run the calls in the shared memory; False if the server ends the process."""
        results = self._lane.results
        results.begin_batch()
        number = 0
        with torch.inference_mode():
            for at, parts in self._lane.calls():
                number += 1
                results.begin(number)
                try:
                    started = time.perf_counter_ns()
                    outputs = [encode_output(tensor) for tensor in self._called(at, parts)]
                    results.put(number, time.perf_counter_ns() - started, outputs)
                except BackendError as error:
                    results.fail(number, {"text": str(error)})
                except MemoryError as error:
                    results.fail(number, {"text": str(error), "memory": True})
                    self._lane.send_done()
                    return False
        self._lane.send_done()
        return True

    def _called(self, at: int, parts: Sequence[Any]) -> list[torch.Tensor]:
        memory = self._lane.requests
        start = at + parts[0].offset
        described = bytes(memory[start : start + parts[0].nbytes])
        call = self._calls.get(described)
        if call is None:
            call = self._described(described)
        dtype_of = self._lane.dtype_of
        inputs = [
            input_at(memory, dtype_of(part.code), part.shape, part.nbytes, at + part.offset) for part in parts[1:]
        ]
        if self._device.type != "cpu":
            inputs = [tensor.to(self._device) for tensor in inputs]
        return call(inputs)

    def _described(self, text: bytes) -> script_calls.Call:
        told = json.loads(text)
        keys, args = ([_cut(word.encode("latin-1")) for word in told[name]] for name in ("keys", "args"))
        unit = self._unit(told["id"])
        call = script_calls.Call(unit, told["function"], told["entry_point"], keys, args, told["outputs"])
        if len(self._calls) >= _CACHED_CALLS:
            self._calls.clear()
        self._calls[text] = call
        return call

    def _unit(self, script_id: str) -> Unit:
        unit = self._units.get(script_id)
        if unit is None:
            header, _ = self._ask({"op": "source", "id": script_id})
            unit = compile_source(header["source"])
            self._keep(script_id, unit)
        self._units.move_to_end(script_id)
        return unit

    def _keep(self, script_id: str, unit: Unit) -> None:
        self._units[script_id] = unit
        if len(self._units) > _CACHED_UNITS:
            self._units.popitem(last=False)
            self._calls.clear()  # they hold their units

    # --- calls of a running script (script_language.Host) -----------------------------------------------------------

    def execute(self, words: list[bytes]) -> Reply:
        """Run one Redis command as the client that runs the script."""
        header, payload = self._ask({"op": "execute", "words": [len(word) for word in words]}, words)
        strings, _ = _strings(payload, header["strings"], 0, cut=False)
        return header["kinds"], strings, header["integers"]

    def model_execute(self, key: bytes, inputs: list[torch.Tensor], outputs: int) -> list[torch.Tensor]:
        """Run a stored model as the client that runs the script."""
        metas, parts = encode_tensors(inputs)
        question = {"op": "model", "key": len(key), "outputs": outputs, "tensors": metas}
        header, payload = self._ask(question, [*parts, key])
        tensors, _ = decode_tensors(header["tensors"], payload)
        return [tensor.to(self._device) for tensor in tensors]

    def _ask(self, question: dict[str, Any], parts: Sequence[Any] = ()) -> tuple[dict[str, Any], memoryview]:
        self._lane.send(question, parts)
        header, payload = self._lane.receive()
        if header["op"] == "failure":
            raise BackendError(header["text"])
        return header, payload


def _strings(payload: memoryview, sizes: Sequence[int], offset: int, cut: bool = True) -> tuple[list[bytes], int]:
    """Byte strings from a payload, cut off at the first NUL if `cut`; TorchScript takes them as `str`, undecoded."""
    strings = []
    for size in sizes:
        value = bytes(payload[offset : offset + size])
        strings.append(_cut(value) if cut else value)
        offset += size
    return strings, offset


def _cut(word: bytes) -> bytes:
    return word.partition(b"\0")[0]


def _open_device(text: str) -> tuple[torch.device, str]:
    """The torch device of a device string, and the reason if it cannot be used."""
    if text.upper().startswith("CPU"):
        return torch.device("cpu"), ""
    index = int(text[4:] or 0)
    if not torch.cuda.is_available():
        return torch.device("cpu"), "GPU requested but Torch couldn't find CUDA"
    if index >= torch.cuda.device_count():
        return torch.device("cpu"), f"GPU requested but Torch couldn't find CUDA device {index}"
    device = torch.device("cuda", index)
    torch.empty(1, device=device)  # creates CUDA's context and its host memory before memory is limited
    return device, ""


def _limit_resources(memory_bytes: int, device: torch.device) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if device.type == "cpu":
        resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    if not memory_bytes:
        return
    limit = _data_bytes() + memory_bytes
    # The data limit counts private writable memory, resident or not. A limit on address space would also count
    # libraries and CUDA's reservations.
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory_bytes / total), device)


def _data_bytes() -> int:
    found = re.search(r"^VmData:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
