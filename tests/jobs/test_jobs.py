"""A job ends once, with one artifact, whatever happens to its workers."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from redisai_py.artifacts import Artifacts, Invalid, Missing
from redisai_py.jobs.queue import Job, Queue
from redisai_py.pipeline.run import Pipeline
from tests.jobs.conftest import Worker, ended, wait_for
from tests.pipeline.tables import define

QUICK = define("sklearn:iris", "target", "sklearn.logistic", artifact={"name": "iris", "promote": ["production"]})
SLOW = define(
    "sklearn:digits", "target", "sklearn.random_forest_classifier", model={"params": {"n_estimators": 3000}},
    artifact={"name": "digits"},
)  # fmt: skip
Start = Callable[..., Worker]


def test_a_job_is_done(queue: Queue, worker: Worker, url: str) -> None:
    job = queue.submit(QUICK.as_value())
    found = ended(queue, job)
    assert found.state == "done", found.fields
    assert found.fields["artifact"] == "iris:1"
    assert found.fields["progress"] == "5/5"
    here = Pipeline(QUICK, url).run().version
    assert here.digest == found.fields["digest"]
    assert [line for _, _, line in queue.logs(job)][1:-1] == [
        "load",
        "split",
        "train target",
        "evaluate target",
        "publish",
    ]
    assert queue.redis.ttl(queue.key(job)) > 6 * 24 * 3600
    assert queue.redis.xpending(queue.stream, "workers")["pending"] == 0


def test_any_client_can_submit(queue: Queue, worker: Worker, bare: redis.Redis) -> None:
    value = json.dumps(QUICK.as_value())
    job = bare.execute_command("XADD", "ai:jobs", "*", "kind", "pipeline", "definition", value).decode()
    assert ended(queue, job).state == "done"
    assert bare.hget(f"ai:job:{job}", "artifact") == b"iris:1"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "pipeline", "definition": "{"}, "the definition is not JSON"),
        ({"kind": "python", "definition": "import os"}, "jobs of the kind 'python' are not known"),
        ({"definition": "{}"}, "jobs of the kind '' are not known"),
        ({"kind": "pipeline", "definition": "{}"}, r"\[artifact\] is missing"),
        ({"kind": "pipeline", "definition": "[" * 50000}, "the definition is not JSON"),
    ],
)
def test_jobs_that_make_no_sense_fail_at_once(queue: Queue, worker: Worker, fields: Any, says: str) -> None:
    job = queue.redis.xadd(queue.stream, fields).decode()
    found = ended(queue, job)
    assert found.state == "failed"
    assert found.fields["attempts"] == "1"
    import re

    assert re.search(says, found.fields["error"])


@pytest.mark.parametrize("place", ["/etc/passwd.csv", "../secret.csv"])
@pytest.mark.usefixtures("worker")
def test_workers_read_no_files_outside_their_directory(queue: Queue, data: Path, place: str) -> None:
    (data.parent / "secret.csv").write_text("x,y\n1,2\n")
    job = queue.submit(define(f"csv:{place}", "y", "sklearn.ridge").as_value())
    found = ended(queue, job)
    assert found.state == "failed"
    assert "outside the directory that workers may read" in found.fields["error"]


@pytest.mark.parametrize("source", ["file:///etc/passwd.csv", "s3://bucket/prefix#rides", "gs://bucket/x.csv"])
@pytest.mark.usefixtures("worker")
def test_workers_read_no_urls(queue: Queue, source: str) -> None:
    found = ended(queue, queue.submit(define(source, "y", "sklearn.ridge").as_value()))
    assert found.state == "failed"
    assert "workers read no URLs" in found.fields["error"]


@pytest.mark.slow
def test_workers_read_no_files_unless_told_where(queue: Queue, start: Start) -> None:
    job = queue.submit(define("csv:inside.csv", "y", "sklearn.ridge").as_value())
    start()
    found = ended(queue, job)
    assert found.state == "failed"
    assert "workers read no files" in found.fields["error"]


def test_a_failed_gate_fails_the_job_with_the_number(queue: Queue, worker: Worker) -> None:
    definition = define("sklearn:iris", "target", "sklearn.logistic", evaluate={"gate": {"accuracy": ">1"}})
    job = queue.submit(definition.as_value())
    found = ended(queue, job)
    assert found.state == "failed"
    assert "accuracy must be > 1, and is " in found.fields["error"]
    with pytest.raises(Missing):
        Artifacts(queue.redis).versions("made")


# -- cancelling --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_waiting_job_is_cancelled_at_once(queue: Queue, start: Start) -> None:
    job = queue.submit(QUICK.as_value())
    assert queue.cancel(job) == "cancelled"
    other = queue.submit(QUICK.as_value())
    start()
    assert ended(queue, other).state == "done"
    assert queue.get(job).state == "cancelled"
    assert "attempts" not in queue.get(job).fields
    assert queue.cancel(other) == "done"


def test_a_running_job_is_cancelled_in_the_middle_of_its_training(queue: Queue, worker: Worker) -> None:
    job = queue.submit(SLOW.as_value())
    wait_for(lambda: queue.get(job).fields.get("step") == "train target")
    assert queue.cancel(job) == "asked"
    found = ended(queue, job)
    assert found.state == "cancelled"
    with pytest.raises(Missing):
        Artifacts(queue.redis).versions("digits")


def test_jobs_that_are_not_there(queue: Queue) -> None:
    with pytest.raises(Missing, match="there is no job 1-1"):
        queue.get("1-1")
    with pytest.raises(Invalid, match="is not a job: its id looks like"):
        queue.cancel("x*")


# -- killed workers ----------------------------------------------------------------------------------------------------

KILLED_AT = ["load", "split", "train target", "evaluate target", "publish"]


def _kill_at(queue: Queue, start: Start, job: str, step: str) -> Job:
    first = start()
    wait_for(lambda: queue.get(job).fields.get("step") == step or queue.get(job).ended)
    at_work = queue.get(job).fields["worker"]
    done_before = queue.get(job).ended
    children = psutil.Process(first.process.pid).children(recursive=True)
    first.kill()
    second = start()
    found = ended(queue, job)
    assert done_before or found.fields["worker"] != at_work
    _gone, alive = psutil.wait_procs(children, 20)
    assert not alive, "what a killed worker started works on"
    assert second.stop() == 0
    return found


@pytest.mark.slow
@pytest.mark.parametrize("step", KILLED_AT)
@pytest.mark.timeout(240)
def test_a_killed_worker_s_job_ends_once(queue: Queue, start: Start, step: str) -> None:
    slow = define(
        "sklearn:digits", "target", "sklearn.random_forest_classifier", model={"params": {"n_estimators": 60}},
        artifact={"name": "digits", "promote": ["production"]},
        evaluate={"gate": {"accuracy": ">=0.5", "accuracy_vs": {"@production": ">=0"}}},
    )  # fmt: skip
    job = queue.submit(slow.as_value())
    found = _kill_at(queue, start, job, step)
    assert found.state == "done", found.fields
    versions = Artifacts(queue.redis).versions("digits")
    assert [str(version) for version in versions] == ["digits:1"]
    assert versions[0].digest == found.fields["digest"]
    assert queue.redis.xpending(queue.stream, "workers")["pending"] == 0


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_killed_worker_s_job_is_taken_by_another(queue: Queue, start: Start) -> None:
    job = queue.submit(QUICK.as_value())
    found = _kill_at(queue, start, job, "load")
    assert found.state == "done"
    assert [str(v) for v in Artifacts(queue.redis).versions("iris")] == ["iris:1"]


def test_a_stopped_worker_that_comes_back_changes_nothing(bare: redis.Redis) -> None:
    queue = Queue(bare, "apart:")  # which the worker that serves other tests does not read
    queue.prepare()
    job = queue.submit(QUICK.as_value())
    old = queue.take("old", 10_000, 100)
    assert old is not None
    time.sleep(0.05)
    new = queue.take("new", 1, 100)
    assert new is not None
    assert (new.id, new.attempt) == (job, 2)
    assert queue.beat("old", old, 1000) is False
    assert queue.beat("new", new, 1000) is True
    queue.note(old, step="late")
    assert queue.end(old, "failed", error="late") is False
    assert queue.end(new, "done", artifact="iris:1") is True
    assert queue.end(new, "failed") is False
    assert queue.get(job).state == "done"
    assert "step" not in queue.get(job).fields
    assert queue.take("new", 0, 100) is None


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_job_that_kills_its_process_is_tried_a_few_times(queue: Queue, start: Start) -> None:
    job = queue.submit(SLOW.as_value())
    worker = start("--attempts", "2")

    def murder() -> bool:
        if queue.get(job).fields.get("step") == "train target":
            for child in psutil.Process(worker.process.pid).children(recursive=True):
                names = " ".join(child.cmdline())
                if "forkserver" in names and child.parent() and child.parent().pid != worker.process.pid:
                    os.kill(child.pid, signal.SIGKILL)
        return queue.get(job).ended

    wait_for(murder)
    found = queue.get(job)
    assert found.state == "failed"
    assert found.fields["attempts"] == "2"
    assert "the process of the job ended with exit code" in found.fields["error"]
    assert worker.process.poll() is None


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_twenty_jobs_on_three_workers(queue: Queue, start: Start) -> None:
    definitions = [
        define("sklearn:iris", "target", "sklearn.logistic", artifact={"name": f"iris{k}"}, model={"seed": k})
        for k in range(20)
    ]
    jobs = [queue.submit(definition.as_value()) for definition in definitions]
    # None is taken for dead, however busy the machine.
    workers = [start("--name", f"w{k}", "--claim-after", "60") for k in range(3)]
    wait_for(lambda: all(job.ended for job in queue.jobs()), 300)
    found = [queue.get(job) for job in jobs]
    assert [job.state for job in found] == ["done"] * 20
    assert [job.fields["artifact"] for job in found] == [f"iris{k}:1" for k in range(20)]
    assert {job.fields["attempts"] for job in found} == {"1"}
    assert {job.fields["worker"] for job in found} == {"w0", "w1", "w2"}
    assert set(queue.workers()) == {"w0", "w1", "w2"}
    assert [worker.stop() for worker in workers] == [0, 0, 0]


# -- strangers ---------------------------------------------------------------------------------------------------------


def test_a_job_whose_key_is_somebody_else_s_stops_no_worker(queue: Queue, worker: Worker, bare: redis.Redis) -> None:
    with bare.pipeline() as pipeline:  # before the worker sees them
        for number, change in enumerate((("SET", "x"), ("RPUSH", "x"), ("HSET", "attempts", "x"))):
            pipeline.xadd("ai:jobs", {"kind": "pipeline", "definition": "{}"}, id=f"5-{number}")
            pipeline.execute_command(change[0], f"ai:job:5-{number}", *change[1:])  # type: ignore[no-untyped-call]
        pipeline.execute()
    assert ended(queue, "5-2").fields["attempts"] == "1"
    assert ended(queue, queue.submit(QUICK.as_value())).state == "done"
    wait_for(lambda: queue.redis.xpending(queue.stream, "workers")["pending"] == 0)
    assert "5-0: dropped" in worker.log.read_text()


def test_a_job_whose_key_is_taken_while_it_runs(queue: Queue, worker: Worker, bare: redis.Redis) -> None:
    job = queue.submit(SLOW.as_value())
    wait_for(lambda: queue.get(job).fields.get("step") == "train target")
    bare.delete(queue.key(job))
    bare.set(queue.key(job), "x")
    assert ended(queue, queue.submit(QUICK.as_value())).state == "done"


def test_a_worker_outlives_a_redis_that_is_full(queue: Queue, worker: Worker, bare: redis.Redis) -> None:
    before = worker.log.read_text()
    bare.config_set("maxmemory", "1")
    try:
        wait_for(lambda: "memory" in worker.log.read_text()[len(before) :])
    finally:
        bare.config_set("maxmemory", "0")
    assert ended(queue, queue.submit(QUICK.as_value())).state == "done"


@pytest.mark.slow
def test_a_queue_that_is_no_stream_is_said_in_one_line(bare: redis.Redis, start: Start) -> None:
    bare.set("ai:jobs", "x")
    worker = start()
    assert worker.process.wait(60) == 1
    assert worker.log.read_text().splitlines() == [
        "redisai: WRONGTYPE Operation against a key holding the wrong kind of value"
    ]
