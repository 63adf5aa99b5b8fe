"""Comparing the first merged runs of a model with single ones, on a worker thread (`proof` explains why, and decides).

Every request gets its single result. The last request gets its result when the comparison is over: until then the
model's session belongs to this thread, and nobody else may enter it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from redisai_py.backend import Array
from redisai_py.engine.execution import Execution, Slot, attempt, end_merging
from redisai_py.engine.merging import Value, merge, split, to_array, to_value
from redisai_py.engine.proof import contrasts
from redisai_py.engine.queued import QueuedModel
from redisai_py.engine.run import Run
from redisai_py.errors import RedisAIError
from redisai_py.tensor import Tensor

__all__ = ["prove"]

_Single = tuple[Sequence[Tensor], list[Value]]
"""The inputs and the outputs of a single run."""


class _Trial(Execution):
    """A run without a client, which takes the time of several."""

    __slots__ = ("_requests",)

    def __init__(self, loaded: QueuedModel, rows: int, requests: int) -> None:
        super().__init__(loaded, [], rows)
        self._requests = requests

    @property
    def requests(self) -> int:
        return self._requests


def prove(slot: Slot, loaded: QueuedModel, runs: list[Run], report: Callable[[Execution], object]) -> None:
    """Execute the runs of a batch one by one, report each, and compare them with a merged run."""
    key = runs[0].key
    proof = loaded.proof
    singles: list[_Single] = []
    last: Execution | None = None
    for place, run in enumerate(runs, 1):
        inputs = run.inputs
        if last is not None:
            report(last)
        last = Execution(loaded, [run], run.rows)
        slot.behind = runs[place:]
        attempt(slot, last)
        if slot.retired is not None:  # the runs after it already have their error
            report(slot.retired)
            return
        if last.values is not None:
            singles.append((inputs, last.values[0]))  # type: ignore[arg-type]  # rows > 0: no device arrays
            proof.single_s = max(proof.single_s, last.run_s)
    assert last is not None
    slot.behind = last.runs
    try:
        reason = _compared(slot, last, singles) if len(singles) > 1 else None
    except BaseException as error:  # values that cannot be compared prove nothing, and the last run needs its result
        reason = f"they cannot be compared: {error}"
    slot.behind = ()
    if slot.retired is not None:
        report(slot.retired)
        return
    if reason:
        end_merging(last, reason)
    elif reason is not None:
        proof.passed(key)
    report(last)


def _compared(slot: Slot, last: Execution, singles: list[_Single]) -> str:
    """The fault of merged runs of these requests, and of the first one with contrasting inputs; or empty."""
    reason = _merged_differs(slot, last, singles)
    if reason:
        return reason
    first = singles[0]
    for inputs in contrasts(first[0]):
        outputs = _run(slot, last, [inputs], 1)
        if isinstance(outputs, str):
            continue  # not a valid input for this model
        reason = _merged_differs(slot, last, [first, (inputs, [to_value(output) for output in outputs])])
        if reason:
            return reason
    return ""


def _merged_differs(slot: Slot, last: Execution, singles: list[_Single]) -> str:
    """How a merged run of these requests differs from their single runs; empty if it does not."""
    outputs = _run(slot, last, [inputs for inputs, _ in singles], len(singles))
    if isinstance(outputs, str):
        return outputs
    try:
        parts = split(outputs, [inputs[0].shape[0] for inputs, _ in singles])
    except RedisAIError as error:
        return str(error)
    for (_, single), merged in zip(singles, parts, strict=True):
        reason = last.loaded.proof.compare(single, merged)
        if reason:
            return reason
    return ""


def _run(slot: Slot, last: Execution, members: list[Sequence[Tensor]], requests: int) -> list[Array | None] | str:
    """The outputs of one run, or the text of its error."""
    rows = sum(inputs[0].shape[0] for inputs in members)
    execution = _Trial(last.loaded, rows, requests)
    device = last.loaded.model.device
    arrays = [to_array(value, device) for value in members[0]] if len(members) == 1 else merge(members, rows)
    try:
        outputs = slot.run_session(execution, arrays, False)
    except BaseException as error:  # of whatever kind, as in a run
        return str(execution.stop.error if execution.stop is not None else error) or type(error).__name__
    return str(execution.stop.error) if execution.stop is not None else list(outputs)
