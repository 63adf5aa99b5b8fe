"""The queue: a stream, a consumer group, and a hash per job. Any Redis client can submit and follow jobs.

    ai:jobs             stream   XADD ai:jobs * kind pipeline definition {JSON}; the entry's id is the job's id
    ai:job:ID           hash     state, worker, attempts, progress, error, artifact ...; expires 7 days after the end
    ai:job:ID:log       stream   lines
    ai:worker:NAME      string   exists while the worker lives

A job ends only once: only the worker that took it last can end it, and the same step acknowledges the stream entry.
States: queued, running, then done, failed or cancelled.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import redis

from redisai_py.artifacts import ArtifactError, Invalid, Missing
from redisai_py.artifacts.connection import AnyClient, blocking_client, scanned
from redisai_py.artifacts.registry import default_actor
from redisai_py.pipeline.definition import nearest

__all__ = ["ENDED", "KIND", "Job", "Queue", "Taken", "Unusable", "read_definition"]

KIND = "pipeline"
ENDED = ("done", "failed", "cancelled")
_NO_HASH = -2
_GROUP = "workers"
_KEPT_S = 7 * 24 * 3600
_LOG_LENGTH = 1000
_ID = re.compile(r"\d+-\d+")
_MAX_DEFINITION = 1 << 20

_TAKE = """
local before = redis.pcall('HGET', KEYS[1], 'attempts') or '0'
if type(before) == 'table' and string.sub(before.err, 1, 9) == 'WRONGTYPE' then
    redis.call('XACK', KEYS[2], ARGV[1], ARGV[2])
    return -2
end
if type(before) == 'table' then return before end
if #before > 9 or not string.match(before, '^%d+$') then redis.call('HSET', KEYS[1], 'attempts', '0') end
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'done' or state == 'failed' or state == 'cancelled' then
    redis.call('XACK', KEYS[2], ARGV[1], ARGV[2])
    return -1
end
local attempt = redis.call('HINCRBY', KEYS[1], 'attempts', 1)
redis.call('HSET', KEYS[1], 'state', 'running', 'worker', ARGV[3], 'started', ARGV[4])
return attempt
"""
_END = """
if tonumber(redis.call('HGET', KEYS[1], 'attempts')) ~= tonumber(ARGV[3]) then return 0 end
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'done' or state == 'failed' or state == 'cancelled' then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 5))
redis.call('XACK', KEYS[2], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('EXPIRE', KEYS[3], ARGV[4])
return 1
"""
_CANCEL = """
if redis.call('HGET', KEYS[1], 'state') == 'running' then
    redis.call('HSET', KEYS[1], 'cancel', ARGV[1])
    return 'asked'
end
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'done' or state == 'failed' or state == 'cancelled' then return state end
redis.call('HSET', KEYS[1], 'state', 'cancelled', 'cancel', ARGV[1], 'ended', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 'cancelled'
"""


@dataclass(frozen=True)
class Job:
    """A job's state. fields: those of its hash and of its stream entry."""

    id: str
    fields: Mapping[str, str]

    @property
    def state(self) -> str:
        """queued, running, done, failed or cancelled."""
        return self.fields.get("state", "queued")

    @property
    def ended(self) -> bool:
        """Whether the job has reached a final state."""
        return self.state in ENDED

    def _repr_html_(self) -> str:
        import html

        rows = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>" for k, v in self.fields.items())
        return f"<table><caption>{self.id}: {self.state}</caption>{rows}</table>"


@dataclass(frozen=True)
class Taken:
    """A job that a worker has taken. attempt: from 1; each later attempt has a higher number."""

    id: str
    attempt: int
    fields: Mapping[str, str]


class Unusable(ArtifactError):
    """No worker can take the job."""


class Queue:
    """The jobs of one Redis. client: a redis-py client, or a URL. prefix: prefix of all keys."""

    def __init__(self, client: AnyClient, prefix: str = "ai:") -> None:
        self.redis: redis.Redis = blocking_client(client)
        self.prefix = prefix
        self.stream = f"{prefix}jobs"
        self._take, self._end, self._cancel = map(self.redis.register_script, (_TAKE, _END, _CANCEL))

    def key(self, job: str) -> str:
        """The key of a job's hash. Raises: Invalid: not a job id."""
        if not _ID.fullmatch(job):
            raise Invalid(f"{job!r} is not a job: its id looks like 1700000000000-0")
        return f"{self.prefix}job:{job}"

    # -- submitting ----------------------------------------------------------------------------------------------------

    def submit(self, definition: Mapping[str, Any], deploy: bool = True) -> str:
        """Submit a definition in the form of `Definition.as_value`. Returns: the job's id."""
        text = json.dumps(definition, ensure_ascii=False)
        fields: dict[Any, Any] = {"kind": KIND, "definition": text, "deploy": str(int(deploy)), "who": default_actor()}
        found: Any = self.redis.xadd(self.stream, fields)
        return str(found.decode())

    def get(self, job: str) -> Job:
        """The current state of a job. Raises: Missing, Invalid."""
        found: Any
        entry: Any
        with self.redis.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(self.key(job))
            pipeline.xrange(self.stream, job, job)
            found, entry = pipeline.execute()
        if not found and not entry:
            raise Missing(f"there is no job {job}")
        return Job(job, {**_texts(entry[0][1] if entry else {}), **_texts(found)})

    def jobs(self, count: int = 100) -> list[Job]:
        """The newest jobs, newest first."""
        entries: Any = self.redis.xrevrange(self.stream, count=count)
        with self.redis.pipeline(transaction=False) as pipeline:
            for entry, _ in entries:
                pipeline.hgetall(self.key(entry.decode()))
            found: Any = pipeline.execute(raise_on_error=False)
        return [
            Job(
                entry.decode(), {**_texts(fields), **(_texts(more) if isinstance(more, dict) else {"error": str(more)})}
            )
            for (entry, fields), more in zip(entries, found, strict=True)
        ]

    def cancel(self, job: str) -> str:
        """Cancel a queued job, or ask the worker of a running one to. Returns: cancelled, asked, or the final state."""
        self.get(job)
        found: Any = self._cancel(keys=[self.key(job)], args=[default_actor(), _now(), _KEPT_S])
        return str(found.decode())

    def logs(self, job: str, after: str = "-") -> list[tuple[str, float, str]]:
        """Log lines of a job: id, seconds since 1970, text. after: an id; return only later lines."""
        start = after if after == "-" else f"({after}"
        entries: Any = self.redis.xrange(f"{self.key(job)}:log", start)
        return [(e.decode(), int(e.split(b"-")[0]) / 1000, _texts(f).get("line", "")) for e, f in entries]

    # -- for workers ---------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Create the consumer group, from the beginning of the stream, so that it sees earlier jobs too."""
        try:
            self.redis.xgroup_create(self.stream, _GROUP, "0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def take(self, worker: str, idle_ms: int, block_ms: int) -> Taken | None:
        """The next job: a new one, or one whose worker has been silent for `idle_ms`. None if there is none.

        Raises: Unusable: the key of the job is not a hash. The job is dropped.
        """
        claimed: Any = self.redis.xautoclaim(self.stream, _GROUP, worker, idle_ms, "0-0", count=1)
        entries = claimed[1]
        if not entries:
            read: Any = self.redis.xreadgroup(_GROUP, worker, {self.stream: ">"}, count=1, block=block_ms)
            entries = read[0][1] if read else []
        for entry, fields in entries:
            job = entry.decode()
            attempt: Any = self._take(keys=[self.key(job), self.stream], args=[_GROUP, job, worker, _now()])
            if attempt == _NO_HASH:
                raise Unusable(f"{job}: dropped, since {self.key(job)} is not a hash")
            if attempt > 0:
                return Taken(job, int(attempt), _texts(fields or {}))
        return None

    def beat(self, worker: str, taken: Taken | None, alive_ms: int) -> bool:
        """Record that the worker is alive and still has its job.

        Returns: False if the job is to be cancelled, or another worker has taken it.
        """
        self.redis.set(f"{self.prefix}worker:{worker}", taken.id if taken else "", px=alive_ms)
        if taken is None:
            return True
        found: Any = self.redis.hmget(self.key(taken.id), "attempts", "cancel")
        attempts, cancel = found
        if attempts != str(taken.attempt).encode() or cancel is not None:
            return False
        self.redis.xclaim(self.stream, _GROUP, worker, 0, [taken.id], justid=True)
        return True

    def note(self, taken: Taken, **fields: str) -> None:
        """Set fields of the job's hash, unless another worker has taken the job."""
        if self.redis.hget(self.key(taken.id), "attempts") == str(taken.attempt).encode():
            pairs: dict[Any, Any] = dict(fields)
            self.redis.hset(self.key(taken.id), mapping=pairs)

    def pin(self, taken: Taken, name: str, value: str) -> str:
        """Fix a value for all attempts. Returns: the value that the first attempt fixed."""
        key = self.key(taken.id)
        self.redis.hsetnx(key, name, value)
        found: Any = self.redis.hget(key, name)
        return str(found.decode())

    def say(self, taken: Taken, line: str) -> None:
        """Append a line to the job's log."""
        self.redis.xadd(f"{self.key(taken.id)}:log", {"line": line}, maxlen=_LOG_LENGTH, approximate=True)

    def end(self, taken: Taken, state: str, **fields: str) -> bool:
        """End a job. Returns: False if another worker has taken it; then nothing was changed."""
        pairs = [item for pair in {**fields, "state": state, "ended": _now()}.items() for item in pair]
        key = self.key(taken.id)
        done: Any = self._end(
            keys=[key, self.stream, f"{key}:log"], args=[_GROUP, taken.id, taken.attempt, _KEPT_S, *pairs]
        )
        return bool(done)

    def workers(self) -> dict[str, str]:
        """Live workers, with the id of the job of each, or an empty string."""
        found = {}
        for key, name in scanned(self.redis, f"{self.prefix}worker:"):
            value: Any = self.redis.get(key)
            if value is not None:
                found[name] = value.decode()
        return found

    def follow(self, job: str, poll_s: float = 0.3) -> Iterator[Job]:
        """Yield the job after each change, until it ends. Raises: Missing."""
        last: Job | None = None
        while last is None or not last.ended:
            now = self.get(job)
            if now != last:
                yield now
            else:
                time.sleep(poll_s)
            last = now


def read_definition(fields: Mapping[str, str]) -> Any:
    """The definition in a job's stream entry. Raises: Invalid: unknown kind, too large, or not JSON."""
    kind, text = fields.get("kind", ""), fields.get("definition", "")
    if kind != KIND:
        raise Invalid(f"jobs of the kind {kind!r} are not known; {nearest(kind, [KIND])}")
    if len(text) > _MAX_DEFINITION:
        raise Invalid(f"the definition has {len(text)} characters; at most {_MAX_DEFINITION} are read")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the definition is not JSON: {error}") from None


def _texts(fields: Mapping[Any, Any]) -> dict[str, str]:
    return {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in fields.items()}


def _now() -> str:
    return f"{time.time():.3f}"
