"""Starting a training script in several processes with torchrun, which restarts them when one is lost.

The script finds REDISAI_URL, REDISAI_RUN and REDISAI_KEY_PREFIX in its environment, besides torchrun's variables. The
run's summary records what `redisai train resume` needs.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from redisai_py.artifacts import Conflict, Invalid, Malformed, Missing
from redisai_py.artifacts.errors import needing
from redisai_py.artifacts.manifest import decode_json
from redisai_py.training.link import open_store
from redisai_py.training.runs import PREFIX_VARIABLE, RUN_VARIABLE, URL_VARIABLE, Run

__all__ = ["Launch", "check_script", "default_name", "launch", "launch_of", "relaunch"]

_LAUNCHER_VARIABLE = "REDISAI_LAUNCHER"
_ARGUMENTS_VARIABLE = "REDISAI_ARGUMENTS"
_FIELD = "launch"
_MOST_PROCESSES = 1 << 16


@dataclass(frozen=True)
class Launch:
    """How to start a run.   nproc: processes on this machine.   max_restarts: of all processes, when one is lost.

    nodes, rendezvous: for several machines, like torchrun's `--nnodes 2 --rdzv-endpoint HOST:PORT`.
    """

    script: str
    arguments: tuple[str, ...] = ()
    nproc: int = 1
    max_restarts: int = 3
    nodes: int = 1
    rendezvous: str = ""

    def check(self) -> None:
        """See that it is one, whoever wrote it. Raises: ValueError."""
        counts = {"nproc": (self.nproc, 1), "max_restarts": (self.max_restarts, 0), "nodes": (self.nodes, 1)}
        for name, (count, least) in counts.items():
            if type(count) is not int or not least <= count <= _MOST_PROCESSES:
                raise ValueError(f"{name} is {count!r}")
        if not isinstance(self.script, str) or not isinstance(self.rendezvous, str) or "\0" in self.script:
            raise ValueError("the script or the rendezvous is not a string")

    def words(self, run: str) -> list[str]:
        """Arguments for torchrun, without the script's own, some of which torchrun would take for its own."""
        place = ["--standalone"]
        if self.nodes > 1:
            place = [
                f"--nnodes={self.nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={self.rendezvous}",
                f"--rdzv-id={run}",
            ]  # fmt: skip
        return [
            *place, f"--nproc-per-node={self.nproc}", f"--max-restarts={self.max_restarts}",
            "--module", "redisai_py.training.worker", self.script,
        ]  # fmt: skip


def default_name(script: str) -> str:
    """A default name for a run: the script's name and the time."""
    stem = "".join(char if char.isascii() and char.isalnum() else "-" for char in Path(script).stem).strip("-")
    return f"{stem or 'run'}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_script(script: str) -> None:
    """Check that the script exists. Raises: Invalid."""
    if not os.path.isfile(script):  # Path.is_file raises OSError if the name is too long
        raise Invalid(f"{script}: there is no such script")


def launch(url: str, run: str, what: Launch, prefix: str = "ai:") -> None:
    """Train in the foreground until the run ends.

    Raises: Conflict: the run exists.   Invalid: no such script, a bad name, or torch is not installed.
            RuntimeError: the training failed despite restarts; the text has the first failure.
    """
    record = Run(url, run, prefix)
    store = open_store(url, prefix, patient=False)
    check_script(what.script)
    # With several machines, the first one creates the run, and the others find it.
    if not store.redis.hsetnx(store.keys.summary(run), _FIELD, _as_text(what)) and what.nodes == 1:
        raise Conflict(f"run {run} already exists: use `redisai train resume {run}`, or another name")
    _train(url, record, what, prefix)


def relaunch(url: str, run: str, prefix: str = "ai:", at: int | None = None, nproc: int | None = None) -> None:
    """Resume a run from its latest checkpoint, with its original settings.

    Args:   at: resume from the checkpoint of this step instead.   nproc: use this number of processes instead.
    Raises: Missing: no such run or checkpoint.   See `launch`.
    """
    record = Run(url, run, prefix)
    store = open_store(url, prefix, patient=False)
    what = launch_of(url, run, prefix)
    if nproc is not None:
        what = Launch(**{**asdict(what), "nproc": nproc})
    if at is not None:
        store.registry("run").promote(run, at, "latest")
    store.redis.hset(store.keys.summary(run), _FIELD, _as_text(what))
    _train(url, record, what, prefix)


def _as_text(what: Launch) -> str:
    return json.dumps({**asdict(what), "script": str(Path(what.script).resolve())})


def launch_of(url: str, run: str, prefix: str = "ai:") -> Launch:
    """How a run was started, by its summary. Show it before use: any user who may write the summary can change it.

    Raises: Missing: no such run, or `launch` did not start it.   Invalid: the summary is unreadable, or the script is
            missing.
    """
    summary = Run(url, run, prefix).summary()
    if _FIELD not in summary:
        raise Missing(f"run {run} was not started by `redisai train run`: start it as it was started before")
    try:
        fields: Any = decode_json(_FIELD, summary[_FIELD].encode())
        what = Launch(**{**fields, "arguments": tuple(map(str, fields["arguments"]))})
        what.check()
    except (ValueError, KeyError, TypeError) as error:
        raise Malformed(f"the summary of run {run} does not say how it was started: {error}") from None
    if not os.path.isfile(what.script):
        raise Invalid(f"run {run} was started from {what.script}, which is not there")
    return what


def _train(url: str, record: Run, what: Launch, prefix: str) -> None:
    with needing("training needs PyTorch", "train"):
        from torch.distributed import run as torchrun
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    os.environ |= {URL_VARIABLE: url, RUN_VARIABLE: record.name, PREFIX_VARIABLE: prefix}
    os.environ[_LAUNCHER_VARIABLE] = str(os.getpid())
    os.environ[_ARGUMENTS_VARIABLE] = json.dumps(what.arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun would set it too, with a warning
    # PyTorch 2.13 keeps one store for all attempts, with the addresses of killed processes, which their successors
    # would try to reach. With this variable, each attempt has its own store.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    record.note(state="running", launcher=f"{socket.gethostname()}:{os.getpid()}", nproc=what.nproc, script=what.script)
    try:
        torchrun.main(what.words(record.name))
    except ChildFailedError as error:
        text = _first_failure(error)
        record.end("failed", error=text)
        raise RuntimeError(text) from error
    except BaseException as error:
        record.end("stopped", error=type(error).__name__)
        raise
    record.end("finished")


def _first_failure(error: Any) -> str:
    rank, failure = error.get_first_failure()
    message = failure.message if isinstance(failure.message, str) else failure.message.get("message", "")
    lines = str(message).strip().splitlines()
    status = f"signal {-failure.exitcode}" if failure.exitcode < 0 else f"exit code {failure.exitcode}"
    return f"rank {rank} ended with {status}{f': {lines[-1]}' if lines and 'Traceback' not in lines[-1] else ''}"
