"""The policies of a model's runs (queueing, merging, placement), from its options, its session and the settings."""

from __future__ import annotations

from redisai_py.backend import Session, may_keep_state, may_loop, what_branches
from redisai_py.engine.batching import BatchQueue
from redisai_py.engine.inline import InlinePolicy
from redisai_py.engine.isolation.inline_runs import RemoteInlinePolicy
from redisai_py.engine.isolation.session import RemoteSession
from redisai_py.engine.loader import has_dynamic_rows
from redisai_py.engine.proof import MergeProof
from redisai_py.engine.run import Run
from redisai_py.engine.settings import EngineSettings
from redisai_py.model import Model

__all__ = ["policies"]

_LONGEST_WAIT_S = 0.1
"""Maximum wait of a run for others in a server with several front doors, if the model has no MINBATCHTIMEOUT."""
_STATE = "the model may keep a state from run to run"
_BRANCHES = "values of its inputs decide its control flow ({})"


def policies(
    model: Model, session: Session, settings: EngineSettings
) -> tuple[BatchQueue[Run], InlinePolicy, MergeProof]:
    """The run queue, whether runs may be executed on the event loop, and whether they may be merged."""
    on_gpu = model.device.kind == "GPU"
    proof = MergeProof(settings.merge_checks, on_gpu)
    max_rows, min_rows = model.batchsize, model.minbatchsize
    if not max_rows and settings.auto_batch > 1 and has_dynamic_rows(session):
        max_rows = settings.auto_batch
    reason = _why_never_merged(session)
    if max_rows and reason:
        max_rows = min_rows = 0
        proof.reason = reason
    timeout_s = model.minbatchtimeout_ms / 1000
    if settings.processes > 1 and min_rows > 1:
        # The runs that would fill a batch may wait in another front door.
        min_rows = max(1, min_rows // settings.processes)
        timeout_s = timeout_s or _LONGEST_WAIT_S
    queue: BatchQueue[Run] = BatchQueue(max_rows, min_rows, timeout_s)
    limit_s = 0.0 if on_gpu or min_rows > 1 else settings.inline_run_us / 1e6
    if isinstance(session, RemoteSession):
        inline: InlinePolicy = RemoteInlinePolicy(limit_s, session)
    else:
        inline = InlinePolicy(0.0 if may_loop(session) else limit_s)
    return queue, inline, proof


def _why_never_merged(session: Session) -> str:
    """Why its runs are never merged: comparisons with single runs could not show it. Empty without a reason."""
    if may_keep_state(session):
        return _STATE
    branches = what_branches(session)
    return _BRANCHES.format(branches) if branches else ""
