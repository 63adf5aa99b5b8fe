"""Deployment: a version becomes the model of a key; the server replaces the model without failing a request.

Afterwards the key is an ordinary model, as after any AI.MODELSTORE; its TAG names the version.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import redis

from redisai_py.artifacts.archive import Archive
from redisai_py.artifacts.errors import Conflict, Corrupt, Invalid, Missing, reading
from redisai_py.artifacts.manifest import Descriptor, Manifest
from redisai_py.artifacts.names import Reference, version_number
from redisai_py.artifacts.parity import Parity, Tolerance, check_parity, serving
from redisai_py.artifacts.predictions import Predictions
from redisai_py.artifacts.publish import BACKEND, INPUTS, MODEL, OUTPUTS
from redisai_py.artifacts.registry import LogEntry, Version
from redisai_py.artifacts.store import Store
from redisai_py.artifacts.transfer import pull
from redisai_py.client.call import Progress

__all__ = ["Deployed", "Settings", "deploy", "deployments", "model_of", "rollback", "verify_version"]

_DEPLOYING = ("deploy", "rollback")
_MAX_PREDICTIONS = 1024 * 1024 * 1024
_LARGE = 512 * 1024 * 1024


@dataclass(frozen=True)
class Settings:
    """Options of AI.MODELSTORE: device CPU, GPU or GPU:1; sizes in rows; timeout in ms."""

    device: str = "CPU"
    batchsize: int | None = None
    minbatchsize: int | None = None
    minbatchtimeout: int | None = None

    def as_log(self) -> dict[str, str | int]:
        """Fields for a log entry; a rollback reads them back."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_log(cls, fields: Any) -> Settings:
        """The settings in a log entry."""
        given = {name: fields.get(name, "") for name in ("batchsize", "minbatchsize", "minbatchtimeout")}
        numbers = {name: int(text) for name, text in given.items() if version_number(text) is not None}
        return cls(fields.get("device", "CPU"), **numbers)


@dataclass(frozen=True)
class Deployed:
    """version: the key's version now.   was: its previous version, by the log.   title: file name of the model."""

    key: str
    version: Version
    title: str
    was: int | None = None
    parity: list[Parity] = field(default_factory=list)


def model_of(manifest: Manifest, what: str, title: str | None = None) -> Descriptor:
    """The model's layer. Raises: Missing: no model of that title.   Invalid: several models."""
    models = [layer for layer in manifest.layers if BACKEND in layer.annotations]
    found = [layer for layer in models if title in (None, layer.title)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(layer.title for layer in models) or "none"
    if not found:
        raise Missing(f"{what} has no model{f' {title}' if title else ''}; models: {known}")
    raise Invalid(f"{what} has several models, choose one to deploy: {known}")


def deploy(
    store: Store,
    reference: str,
    key: str,
    settings: Settings | None = None,
    model: str | None = None,
    verify: bool = False,
    tolerance: Tolerance | None = None,
    archive: Archive | None = None,
    event: str = "deploy",
    progress: Progress | None = None,
) -> Deployed:
    """Store a version's model under a key, through `redisai serve`.

    Args:    model: its title, if there are several.   verify: let the server recompute the predictions first.
             archive: source of what is missing in Redis; by default the archive the version was pushed to.
             progress: called with the bytes sent and the total.
    Raises:  Missing, Corrupt: nothing was changed.   NotParity.   redis.ResponseError: the server refused the model.
    """
    version, manifest = _brought(store, reference, archive, model)
    layer = model_of(manifest, str(version), model)
    chosen = settings or Settings()
    checked = verify_version(store, version, manifest, tolerance, layer.title) if verify else []
    was = deployments(store, version.name).get(key)
    _store_model(store, key, layer, chosen, f"{version} {version.digest}", progress)
    fields: dict[str, str | int] = {
        "key": key,
        "version": version.version,
        "digest": version.digest,
        "model": layer.title,
    }
    store.registry("artifact").note(version.name, event, fields | chosen.as_log())
    return Deployed(key, version, layer.title, was, checked)


def _store_model(
    store: Store, key: str, layer: Descriptor, settings: Settings, tag: str, progress: Progress | None
) -> None:
    """AI.MODELSTORE, then check the key's content. Raises: Corrupt: other bytes than the layer's."""
    try:
        serving(store.redis).modelstore(
            key,
            data=list(store.stream(layer)),
            batch=settings.batchsize,
            minbatch=settings.minbatchsize,
            minbatchtimeout=settings.minbatchtimeout,
            tag=tag,
            progress=progress,
            **_words(layer, settings.device),
        )
    except redis.ConnectionError as error:
        if layer.size < _LARGE:
            raise
        raise Conflict(
            f"the server closed the connection while {layer.title} was sent, {layer.size} bytes: it takes models of up "
            f"to its --client-query-buffer-limit, 1 GiB unless changed, and no more than its memory ({error})"
        ) from error
    found: Any = store.redis.hget(key, "sha256")
    there = "none" if found is None else f"sha256:{found.decode()}"
    if there != layer.content_digest:
        raise Corrupt(f"model {key}", layer.content_digest, there, "the server")


def _words(layer: Descriptor, device: str) -> dict[str, Any]:
    words: dict[str, Any] = {"backend": layer.annotations[BACKEND], "device": device}
    if layer.annotations.get(INPUTS):
        words |= {"inputs": layer.annotations[INPUTS].split(), "outputs": layer.annotations.get(OUTPUTS, "").split()}
    return words


def _brought(store: Store, reference: str, archive: Archive | None, model: str | None) -> tuple[Version, Manifest]:
    """The version and its manifest, after fetching its model from the archive if it is not in Redis."""
    try:
        version, manifest = store.open("artifact", reference)
    except Missing:
        if archive is None:
            raise
        (version,) = pull(store, archive, [_one(archive, reference)]).versions
        return store.open("artifact", str(version))
    layer = model_of(manifest, str(version), model)
    if store.blobs.size(layer.digest) is None:
        source = archive or (Archive(version.archived) if version.archived else None)
        if source is None:
            raise Missing(f"{version}: layer {layer.title} is not in Redis; name the archive that has it")
        pull(store, source, [str(version)])
    return version, manifest


def _one(archive: Archive, reference: str) -> str:
    """A reference to one version: the newest, for a plain name."""
    wanted = Reference.parse(reference)
    return reference if wanted.version is not None or wanted.alias else f"{wanted.name}@latest"


def verify_version(
    store: Store, version: Version, manifest: Manifest, tolerance: Tolerance | None = None, model: str | None = None
) -> list[Parity]:
    """Let the server recompute the predictions stored with a version, of one model or of all.

    Raises: NotParity.   Invalid: the version has no predictions that can be recomputed.
    """
    done = []
    for kept in manifest.layers:
        title = kept.annotations.get(MODEL)
        if title is None or model not in (None, title):
            continue
        with reading():
            predictions = Predictions.from_parquet(store.read(kept, _MAX_PREDICTIONS))
        layer = model_of(manifest, str(version), title)
        blob = list(store.stream(layer))
        done.append(check_parity(store, f"{version} {title}", blob, _words(layer, "CPU"), predictions, tolerance))
    if not done:
        raise Invalid(f"{version} keeps no predictions to recompute")
    return done


def deployments(store: Store, name: str) -> dict[str, int]:
    """Keys and the version last deployed to each, by the log."""
    found: dict[str, int] = {}
    with suppress(redis.ResponseError):  # no right to read the log
        for entry in _deployed(store, name):
            found.setdefault(entry.fields["key"], int(entry.fields["version"]))
    return found


def _deployed(store: Store, name: str) -> list[LogEntry]:
    """The entries of the log about deployments, newest first."""
    return [
        entry
        for entry in store.registry("artifact").log(name)
        if entry.event in _DEPLOYING
        and "key" in entry.fields
        and version_number(entry.fields.get("version", "")) is not None
    ]


def rollback(store: Store, name: str, key: str, verify: bool = False, archive: Archive | None = None) -> Deployed:
    """Deploy the key's previous version again, with its settings.

    Raises: Missing: the log has no previous version.   See `deploy`.
    """
    given = [entry for entry in _deployed(store, Reference.parse(name).name) if entry.fields["key"] == key]
    if not given:
        raise Missing(f"{name} was not deployed to {key}, as far as the log goes back")
    stack: list[Any] = []
    for entry in reversed(given):
        if entry.event == "rollback":
            stack = stack[:-1] or stack
        elif not stack or stack[-1].fields["version"] != entry.fields["version"]:
            stack.append(entry)
    if len(stack) < 2:
        raise Missing(f"{key} had no other version of {name} before {stack[-1].fields['version']}, by the log")
    before = stack[-2].fields
    reference = f"{name}:{before['version']}"
    version = store.registry("artifact").resolve(reference)
    if version.digest != before.get("digest", version.digest):
        raise Conflict(f"{reference} is another manifest than the one that was deployed, {before['digest']}")
    return deploy(
        store, reference, key, Settings.from_log(before), before.get("model"), verify, None, archive, event="rollback"
    )
