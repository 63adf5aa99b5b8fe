"""Names: numbered versions, aliases that point to one of them, and a log of all changes.

A version is one field of a hash; it names a manifest. It is written last, in one transaction with its log entry, so it
exists completely or not at all. Aliases are in a separate hash, so that a user may be allowed to publish but not to
promote.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, TypeVar

import redis

from redisai_py.artifacts.connection import scanned, watching
from redisai_py.artifacts.digest import is_digest
from redisai_py.artifacts.errors import AliasMoved, Conflict, Invalid, Malformed, Missing
from redisai_py.artifacts.names import (
    KINDS,
    LATEST,
    Keys,
    Reference,
    check_alias,
    check_name,
    is_name,
    version_number,
)

__all__ = ["LogEntry", "Registry", "Version", "default_actor"]

_LOG_LENGTH = 1000
_NEXT = "next"
_COLD = "archived:"

T = TypeVar("T")


def default_actor() -> str:
    """Name of the actor for the log: REDISAI_ACTOR, or user and host."""
    given = os.environ.get("REDISAI_ACTOR")
    if given:
        return given
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user of a container may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@dataclass(frozen=True)
class Version:
    """One version.   digest: of its manifest.   aliases: pointing to it.   archived: URL it was pushed to."""

    name: str
    version: int
    digest: str
    aliases: tuple[str, ...] = ()
    archived: str | None = None

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


@dataclass(frozen=True)
class LogEntry:
    """One log entry.   at: seconds since 1970.   event: publish, promote, deploy, ...   fields: the rest."""

    at: float
    event: str
    who: str
    fields: Mapping[str, str]


class Registry:
    """The names of one kind.

    kind: artifact, dataset or run.   actor: name for the log; by default `default_actor()`.
    """

    def __init__(self, link: redis.Redis, keys: Keys, kind: str, actor: str | None = None) -> None:
        if kind not in KINDS:
            raise Invalid(f"{kind!r} is not a kind of name: use one of {', '.join(KINDS)}")
        self._redis = link
        self._keys = keys
        self.kind = kind
        self.actor = actor or default_actor()

    # -- reading -------------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """All names that have a version. O(keys of the database), in steps that block no other client."""
        keys = scanned(self._redis, f"{self._keys.prefix}{self.kind}:", "hash")
        return sorted({name for key, name in keys if is_name(name) and _versions_in(self._redis.hgetall(key))})

    def versions(self, name: str) -> list[Version]:
        """All versions of a name, oldest first. Raises: Missing: there are none."""
        fields: Any
        aliases: Any
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(self._keys.versions(self.kind, name))
            pipeline.hgetall(self._keys.aliases(self.kind, name))
            fields, aliases = pipeline.execute()
        versions = _versions_in(fields)
        if not versions:
            raise Missing(f"there is no {self.kind} {name}")
        pointing: dict[int, list[str]] = {}
        for alias, number in sorted(_aliases_in(aliases).items()):
            pointing.setdefault(number, []).append(alias)
        cold = {name: url.decode("utf-8", "replace") for name, url in fields.items() if name.startswith(_COLD.encode())}
        return [
            Version(name, number, digest, tuple(pointing.get(number, ())), cold.get(f"{_COLD}{number}".encode()))
            for number, digest in sorted(versions.items())
        ]

    def resolve(self, reference: str | Reference) -> Version:
        """The version a reference selects. Raises: Missing, listing what exists; Invalid."""
        wanted = Reference.parse(reference) if isinstance(reference, str) else reference
        versions = self.versions(wanted.name)
        if wanted.version is not None:
            for version in versions:
                if version.version == wanted.version:
                    return version
            raise Missing(f"there is no {self.kind} {wanted}; versions: {_some([v.version for v in versions])}")
        alias = wanted.alias or LATEST
        for version in versions:
            if alias in version.aliases:
                return version
        if alias == LATEST:
            return versions[-1]
        known = [alias for version in versions for alias in version.aliases]
        raise Missing(f"there is no {self.kind} {wanted}; aliases: {_some(known) or 'none'}")

    def select(self, references: Iterable[str]) -> list[Version]:
        """The versions references select, without duplicates: all of NAME, one for NAME:7 and NAME@ALIAS.

        Raises: Missing, Invalid.
        """
        found: dict[str, Version] = {}
        for text in references:
            reference = Reference.parse(text)
            whole = reference.version is None and reference.alias is None
            versions = self.versions(reference.name) if whole else [self.resolve(reference)]
            found |= {str(version): version for version in versions}
        return list(found.values())

    def log(self, name: str, count: int | None = None) -> list[LogEntry]:
        """Log entries of a name, newest first. count: maximum number; the log keeps about 1000."""
        entries: Any = self._redis.xrevrange(self._keys.log(self.kind, name), count=count)
        return [_log_entry(entry, fields) for entry, fields in entries]

    # -- writing -------------------------------------------------------------------------------------------------------

    def add(
        self,
        name: str,
        digest: str,
        version: int | None = None,
        aliases: Sequence[str] = (),
        replace: bool = False,
        **note: str | int,
    ) -> Version:
        """Make a version of a manifest whose blobs are all stored.

        Args:    version: its number; by default the next free one. A known manifest keeps its number.
                 aliases: set in the same transaction.   note: further fields for the log.
                 replace: take over the number from another manifest.
        Raises:  Conflict: the number belongs to another manifest.   redis.RedisError.
        """
        key, pointing = self._keys.versions(self.kind, name), self._keys.aliases(self.kind, name)
        if not is_digest(digest):
            raise Invalid(f"{digest[:100]!r} is not the digest of a manifest")
        for alias in aliases:
            check_alias(alias)

        def change(pipeline: Any) -> Version:
            fields = pipeline.hgetall(key)
            there = _versions_in(fields)
            if replace and version is not None and there.get(version) != digest:
                there.pop(version, None)
            following = _following(key, fields, there)
            number = _number_for(name, digest, version, there, following)
            pipeline.multi()
            if number not in there:
                pipeline.hset(key, mapping={str(number): digest, _NEXT: max(number + 1, following)})
            if aliases:
                pipeline.hset(pointing, mapping=dict.fromkeys(aliases, number))
            named = {"aliases": " ".join(aliases)} if aliases else {}
            self._write_log(pipeline, name, "publish", version=number, digest=digest, **named, **note)
            return Version(name, number, digest, tuple(aliases))

        return self._transaction(change, key)

    def promote(self, name: str, version: int, alias: str, expected: int | EllipsisType | None = ...) -> Version:
        """Point an alias to a version.

        Args:    expected: the version it must point to until now, None for no version; by default the one it points to
                 at the time of the call.
        Raises:  AliasMoved: it points elsewhere, because somebody moved it meanwhile.   Missing: no such version.
        """
        check_alias(alias)
        key, pointing = self._keys.versions(self.kind, name), self._keys.aliases(self.kind, name)
        before = self.pointed(name, alias) if expected is ... else expected

        def change(pipeline: Any) -> Version:
            digest, now = pipeline.hget(key, str(version)), pipeline.hget(pointing, alias)
            current = None if now is None else version_number(now)
            if digest is None:
                raise Missing(f"there is no {self.kind} {name}:{version}")
            if current not in (before, version):
                raise AliasMoved(name, alias, current, self._mover(name, alias))
            pipeline.multi()
            pipeline.hset(pointing, alias, str(version))
            was = {} if current is None else {"was": current}
            self._write_log(pipeline, name, "promote", alias=alias, version=version, **was)
            return Version(name, version, digest.decode(), (alias,))

        return self._transaction(change, key, pointing)

    def pointed(self, name: str, alias: str) -> int | None:
        """The version an alias points to, None if there is no such alias."""
        found: Any = self._redis.hget(self._keys.aliases(self.kind, name), alias)
        return None if found is None else version_number(found)

    def following(self, name: str) -> int:
        """The number that the next version gets. Raises: Malformed."""
        key = self._keys.versions(self.kind, name)
        fields: Any = self._redis.hgetall(key)
        return _following(key, fields, _versions_in(fields))

    def demote(self, name: str, alias: str) -> None:
        """Remove an alias. Raises: Missing."""
        pointing = self._keys.aliases(self.kind, name)

        def change(pipeline: Any) -> None:
            now = pipeline.hget(pointing, alias)
            if now is None:
                raise Missing(f"there is no {self.kind} {name}@{alias}")
            pipeline.multi()
            pipeline.hdel(pointing, alias)
            self._write_log(pipeline, name, "demote", alias=alias, was=now)

        self._transaction(change, pointing)

    def remove(self, name: str, versions: Sequence[int]) -> None:
        """Remove versions. Their blobs stay until `collect` finds them unused; their numbers are not reused.

        Raises: Missing: no such version.   Conflict: an alias points to one.
        """
        key, pointing = self._keys.versions(self.kind, name), self._keys.aliases(self.kind, name)

        def change(pipeline: Any) -> None:
            there = _versions_in(pipeline.hgetall(key))
            aliases = {number: alias for alias, number in _aliases_in(pipeline.hgetall(pointing)).items()}
            for version in versions:
                if version not in there:
                    raise Missing(f"there is no {self.kind} {name}:{version}")
                if version in aliases:
                    raise Conflict(
                        f"{name}@{aliases[version]} points to {name}:{version}; move or remove the alias first"
                    )
            pipeline.multi()
            for version in versions:
                pipeline.hdel(key, str(version), f"{_COLD}{version}")
                self._write_log(pipeline, name, "rm", version=version, digest=there[version])

        if versions:
            self._transaction(change, key, pointing)

    def remove_all(self, versions: Sequence[Version]) -> None:
        """`remove` for versions of several names."""
        for name in dict.fromkeys(version.name for version in versions):
            self.remove(name, [version.version for version in versions if version.name == name])

    def note(
        self, name: str, event: str, fields: Mapping[str, str | int], archived: Mapping[int, str] | None = None
    ) -> None:
        """Append a log entry.   archived: versions and the URLs where they are archived from now on."""
        with self._redis.pipeline(transaction=True) as pipeline:
            for version, url in (archived or {}).items():
                pipeline.hset(self._keys.versions(self.kind, name), f"{_COLD}{version}", url)
            self._write_log(pipeline, name, event, **fields)
            pipeline.execute()

    # -- helpers -------------------------------------------------------------------------------------------------------

    def _write_log(self, pipeline: Any, name: str, event: str, **fields: str | int) -> None:
        entry = {"event": event, "who": self.actor, **fields}
        pipeline.xadd(self._keys.log(self.kind, check_name(name)), entry, maxlen=_LOG_LENGTH, approximate=True)

    def _mover(self, name: str, alias: str) -> str:
        try:
            entries = self.log(name, 100)
        except redis.ResponseError:  # no right to read the log
            return ""
        moved = (e for e in entries if alias in (e.fields.get("alias"), *e.fields.get("aliases", "").split()))
        return next((entry.who for entry in moved), "")

    def _transaction(self, change: Callable[[Any], T], *watched: str) -> T:
        return watching(self._redis, change, *watched, busy=f"{watched[0]} changed repeatedly during the operation")


def _number_for(name: str, digest: str, version: int | None, there: Mapping[int, str], following: int) -> int:
    if version is None:
        same = [number for number, known in there.items() if known == digest]
        return max(same) if same else following
    if version < 0:
        raise Invalid(f"{version} is not a version number")
    if there.get(version, digest) != digest:
        raise Conflict(f"{name}:{version} already has another manifest, {there[version]}")
    return version


def _versions_in(fields: Any) -> dict[int, str]:
    found = {}
    for field, value in fields.items():
        number = version_number(field)
        if number is not None and is_digest(value.decode("utf-8", "replace")):
            found[number] = value.decode()
    return found


def _following(key: str, fields: Any, there: Mapping[int, str]) -> int:
    """The number after all that were given, whatever became of the field that says so."""
    text = fields.get(_NEXT.encode(), b"1")
    number = version_number(text)
    if number is None:
        raise Malformed(f"{key}: the field {_NEXT} must be the number of the next version, not {text[:40]!r}: set it")
    return max(number, *(known + 1 for known in there)) if there else number


def _aliases_in(fields: Any) -> dict[str, int]:
    numbers = {alias.decode("utf-8", "replace"): version_number(value) for alias, value in fields.items()}
    return {alias: number for alias, number in numbers.items() if number is not None}


def _log_entry(entry: bytes, fields: Any) -> LogEntry:
    text = {key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in fields.items()}
    at = int(entry.partition(b"-")[0]) / 1000
    return LogEntry(at, text.pop("event", ""), text.pop("who", ""), text)


def _some(values: Sequence[Any], limit: int = 20) -> str:
    shown = ", ".join(str(value) for value in values[-limit:])
    return f"..., {shown}" if len(values) > limit else shown
