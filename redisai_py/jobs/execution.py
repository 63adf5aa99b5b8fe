"""One attempt at a job, in a process of its own, so that a crash or a hang does not affect the worker."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from redisai_py.artifacts import ArtifactError, Invalid
from redisai_py.jobs.queue import Queue, Taken, read_definition
from redisai_py.pipeline.definition import IN_REDIS, URLS, Definition

if TYPE_CHECKING:
    from redisai_py.pipeline.run import Baseline

__all__ = ["execute"]


def execute(url: str, prefix: str, data: str | None, taken: Taken, result: Any) -> None:
    """Run the job and send its outcome through the pipe: (state or `retry`, fields).

    data: the only directory from which jobs may read files; None for none.
    """
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        result.send(("done", _run(url, prefix, data, taken)))
    except (redis.ConnectionError, redis.TimeoutError) as error:
        result.send(("retry", {"error": f"Redis: {error}"}))
    except (ArtifactError, redis.ResponseError) as error:
        result.send(("failed", {"error": " ".join(str(error).split())}))
    except Exception as error:
        traceback.print_exc()
        result.send(("retry", {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}))


def _leave_with_parent() -> None:
    """End this process when the worker dies, so that no orphan keeps working."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(url: str, prefix: str, data: str | None, taken: Taken) -> dict[str, str]:
    # Imported late: the worker itself does not need it, only the process from which its jobs are forked.
    from redisai_py.pipeline.run import Pipeline, check_words

    queue = Queue(url, prefix)
    definition = Definition.from_value(read_definition(taken.fields))
    directory = _directory(definition, data)
    check_words(definition)

    def progress(step: str, number: int, steps: int) -> None:
        queue.note(taken, progress=f"{number}/{steps}", step=step)
        queue.say(taken, step)

    pipeline = Pipeline(definition, queue.redis, directory, prefix, progress, _pinned(queue, taken, definition))
    result = pipeline.run(deploy=taken.fields.get("deploy", "1") != "0")
    steps = len(pipeline.steps)
    return {
        "artifact": str(result.version),
        "digest": result.version.digest,
        "metrics": json.dumps(dict(result.metrics), sort_keys=True),
        "progress": f"{steps}/{steps}",
    }


def _pinned(queue: Queue, taken: Taken, definition: Definition) -> Baseline:
    """The baseline of the first attempt. A second attempt might otherwise find its own artifact in production."""
    from redisai_py.artifacts import Store
    from redisai_py.pipeline.run import baseline_of

    now = baseline_of(definition, Store(queue.redis, queue.prefix))
    found: Baseline = json.loads(queue.pin(taken, "baseline", json.dumps(dict(now))))
    return found


def _directory(definition: Definition, data: str | None) -> Path:
    """The directory of the job's files. Raises: Invalid: the job names a file that workers may not read."""
    source = definition.dataset
    if source.scheme in (*IN_REDIS, "sklearn"):
        return Path()
    if source.scheme in URLS:
        raise Invalid(
            f"{source.source}: workers read no URLs, since they would do it with their own rights; submit the job by "
            "`redisai pipeline submit`, which puts the rows into Redis"
        )
    if data is None:
        raise Invalid(
            f"{source.source}: workers read no files; submit the job by `redisai pipeline submit`, which puts the rows "
            "into Redis, or start workers with --data DIRECTORY"
        )
    root = Path(data).resolve()
    if not (root / source.place).resolve().is_relative_to(root):
        raise Invalid(f"{source.source} is outside the directory that workers may read")
    return root
