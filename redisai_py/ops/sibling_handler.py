"""What this front door does for its siblings: it answers their requests, and reports its counts to the supervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import astuple
from typing import Any

import structlog

from redisai_py.backend import TensorSpec
from redisai_py.errors import BackendError
from redisai_py.frontdoor.services import Services
from redisai_py.model import Kind
from redisai_py.ops.aggregate import own_counts
from redisai_py.ops.keymap import ProgramKey
from redisai_py.ops.shared_limit import apply_limit
from redisai_py.ops.siblings import Reply, Siblings
from redisai_py.ops.tallies import ClientFigures, counts_of, recent, server_state
from redisai_py.predictions.rule import decode_rule
from redisai_py.tensor import DType

__all__ = ["SiblingHandler", "apply_setting", "keep_reporting_counts", "program_state", "report_all_counts"]

_INTERVAL_S = 1.0
_REPORTED_TOGETHER = 64

logger = structlog.get_logger()


class SiblingHandler:
    """Args: clients, obstacles: of this process.   evict: disconnects the client that holds the most memory."""

    def __init__(
        self,
        services: Services,
        clients: Callable[[], ClientFigures],
        obstacles: Callable[[], list[str]],
        evict: Callable[[], object],
    ) -> None:
        self._services = services
        self._clients = clients
        self._obstacles = obstacles
        self._evict = evict
        self._kinds: dict[str, Callable[[dict[str, Any]], Reply | Coroutine[Any, Any, Reply]]] = {
            "state": self._state,
            "program": self._program,
            "identity": self._identity,
            "reset": self._reset,
            "forget": self._forget,
            "set": self._set,
            "import": self._import,
            "cache": self._cache,
            "predictions": self._predictions,
            "rule": self._rule,
            "evict": self._evict_one,
            "limit": self._limit,
        }

    async def __call__(self, what: dict[str, Any]) -> Reply:
        reply = self._kinds[what["kind"]](what)
        return reply if isinstance(reply, Reply) else await reply

    async def _state(self, what: dict[str, Any]) -> Reply:
        services = self._services
        topics = what["topics"]
        figures = await own_counts(services, recent(services) if topics is None else topics)
        return Reply(server_state(services, self._clients(), self._obstacles()), figures)

    def _program(self, what: dict[str, Any]) -> Reply:
        """The part of an AI.INFO reply about a model or script that is no counter."""
        services = self._services
        identity = what["identity"]
        return Reply(program_state(services, Kind[what["of"]], identity), counts_of(services, what["topics"]))

    def _identity(self, what: dict[str, Any]) -> Reply:
        """What this process knows of a stored id: the identity if it was read under that key, with the digest of the
        model's blob if it is loaded; and whether the id was read under any key.
        """
        keys = self._services.keys
        program_key = ProgramKey(Kind[what["of"]], what["database"], bytes.fromhex(what["key"]))
        stored_id = what["id"]
        identity = keys.identity(program_key, stored_id)
        loaded = None if identity is None else self._services.engine.loaded(identity)
        return Reply([identity, "" if loaded is None else loaded.model.sha256, keys.has_seen(stored_id)])

    def _reset(self, what: dict[str, Any]) -> Reply:
        self._services.stats(Kind[what["of"]]).reset(what["identity"])
        return Reply(None, counts_of(self._services, [what["topic"]]))

    def _forget(self, what: dict[str, Any]) -> Reply:
        program_key = ProgramKey(Kind[what["of"]], what["database"], bytes.fromhex(what["key"]))
        entry = self._services.keys.get(program_key)
        if entry is not None and what["identity"] in (None, entry.identity):
            self._services.programs.record_deleted(program_key, by_sibling=what["identity"] is not None)
        return Reply()

    def _set(self, what: dict[str, Any]) -> Reply:
        apply_setting(self._services, what["name"], what["value"])
        return Reply()

    async def _import(self, what: dict[str, Any]) -> Reply:
        try:
            engine = self._services.engine
            await asyncio.get_running_loop().run_in_executor(None, engine.import_backend, what["backend"])
        except BackendError as error:
            logger.warning("backend not loaded", backend=what["backend"], error=str(error))
        return Reply()

    def _cache(self, what: dict[str, Any]) -> Reply:
        return Reply(None, counts_of(self._services, what["topics"]))

    def _predictions(self, what: dict[str, Any]) -> Reply:
        """Predictions were purged: drop those kept in this process."""
        self._services.predictions.local.forget(bytes.fromhex(what["prefix"]))
        return Reply()

    def _rule(self, what: dict[str, Any]) -> Reply:
        """A model has another cache rule, or none."""
        rule = decode_rule(bytes.fromhex(what["rule"])) if what["rule"] else None
        self._services.predictions.rule_changed(what["database"], bytes.fromhex(what["key"]), rule, what["anew"])
        return Reply()

    def _evict_one(self, what: dict[str, Any]) -> Reply:
        self._evict()
        return Reply()

    def _limit(self, what: dict[str, Any]) -> Reply:
        """Unload what others need the memory of; what is loaded then."""
        return Reply([astuple(model) for model in apply_limit(self._services.engine, what)])


def program_state(services: Services, kind: Kind, identity: str) -> dict[str, Any]:
    """The state of a model or script in this process."""
    model = services.engine.loaded(identity) if kind is Kind.MODEL else None
    return {
        "loaded": int(model is not None),
        "loaded_bytes": 0 if model is None else model.nbytes,
        "unfinished": 0 if model is None else model.unfinished,
        "inputs": [] if model is None else [_tensor(spec) for spec in model.input_specs],
        "outputs": [] if model is None else [_tensor(spec) for spec in model.output_specs],
        "stateful": int(model is not None and model.stateful),
        "merged_kinds": 0 if model is None else model.merged_kinds,
        "not_merged": "" if model is None else model.not_merged,
        "process": 0 if model is None else model.process,
        "here": model is not None and model.here,
        "quarantine": services.engine.quarantine(identity) if kind is Kind.MODEL else "",
        "last_error": services.stats(kind).snapshot(identity).last_error,
    }


def _tensor(spec: TensorSpec) -> list[Any]:
    """Name, dtype and dimensions; -1 for a dimension of any size, None for what the model does not declare."""
    dtype = None if spec.dtype is None else DType.from_numpy(spec.dtype)
    kind = dtype.wire_name.decode() if dtype is not None else spec.says or None
    shape = None if spec.shape is None else [-1 if dim is None else dim for dim in spec.shape]
    return [spec.name, kind, shape]


def apply_setting(services: Services, name: str, value: str | int) -> None:
    """Apply a setting of AI.CONFIG in this process."""
    if name == "MODEL_CHUNK_SIZE":
        services.settings.model_chunk_size = int(value)
    else:
        services.settings.backends_path = str(value)


async def keep_reporting_counts(services: Services) -> None:
    """Report changed counts to the supervisor every second, until cancelled."""
    siblings = services.siblings
    reported: dict[str, Any] = {}
    while not siblings.alone:
        await asyncio.sleep(_INTERVAL_S)
        counts = await own_counts(services, recent(services))
        changed = {topic: tally for topic, tally in counts.items() if reported.get(topic) != tally}
        reported = counts
        _report(siblings, changed)


def report_all_counts(services: Services) -> None:
    """Report all counts to the supervisor; call this before the process ends."""
    if not services.siblings.alone:
        _report(services.siblings, counts_of(services, recent(services)))


def _report(siblings: Siblings, counts: dict[str, Any]) -> None:
    topics = list(counts)
    for at in range(0, len(topics), _REPORTED_TOGETHER):
        siblings.report({topic: counts[topic] for topic in topics[at : at + _REPORTED_TOGETHER]})
