"""Names, versions and aliases, and their keys in Redis. Pure.

A reference selects one version: `cancer:7`, `cancer@production`, or `cancer` for the newest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from redisai_py.artifacts.digest import hex_of
from redisai_py.artifacts.errors import Invalid

__all__ = ["KINDS", "LATEST", "Keys", "Reference", "check_alias", "check_name", "is_name", "version_number"]

KINDS = ("artifact", "dataset", "run")
"""Families of names. Each has its own keys; all share the blobs."""
LATEST = "latest"
"""The alias of the newest version, unless somebody has set an alias of that name."""

_NAME = re.compile(r"[A-Za-z0-9]+(?:[._/-]+[A-Za-z0-9]+)*")
_ALIAS = re.compile(r"[A-Za-z](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_LONGEST_NAME = 128
_LONGEST_ALIAS = 64
_DIGITS = 18


def is_name(text: str) -> bool:
    """Whether the text is a name; keys of others may look like those of names."""
    return len(text) <= _LONGEST_NAME and _NAME.fullmatch(text) is not None


def version_number(text: bytes | str) -> int | None:
    """The number of a version, read from a hash or a log that anybody may have written. None: it is none."""
    padded = len(text) > 1 and text[:1] in ("0", b"0")  # two fields would be one number
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS and not padded else None


def check_name(name: str) -> str:
    """Return the name if it is valid. Raises: Invalid."""
    if not is_name(name):
        raise Invalid(
            f"{name[:200]!r} is not a name: use letters and digits, with . _ - / between them, at most {_LONGEST_NAME}"
        )
    return name


def check_alias(alias: str) -> str:
    """Return the alias if it is valid. Raises: Invalid."""
    if len(alias) > _LONGEST_ALIAS or not _ALIAS.fullmatch(alias):
        raise Invalid(
            f"{alias[:200]!r} is not an alias: use a letter, then letters, digits, . _ -, at most {_LONGEST_ALIAS}"
        )
    return alias


@dataclass(frozen=True)
class Reference:
    """One version of a name.   version: its number.   alias: an alias that points to it.   Neither: the newest."""

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse NAME, NAME:VERSION or NAME@ALIAS. Raises: Invalid."""
        if "@" in text:
            name, _, alias = text.partition("@")
            return cls(check_name(name), alias=check_alias(alias))
        name, colon, version = text.partition(":")
        check_name(name)
        if not colon:
            return cls(name)
        if not (version.isascii() and version.isdigit() and len(version) <= _DIGITS):
            raise Invalid(f"{text[:200]!r}: expected a version number after the colon, such as 7")
        return cls(name, version=int(version))

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}:{self.version}"
        return f"{self.name}@{self.alias}" if self.alias else self.name


@dataclass(frozen=True)
class Keys:
    """The keys in Redis (docs/artifact-keys.md).   prefix: prefix of all keys."""

    prefix: str = "ai:"

    def blob(self, digest: str) -> str:
        """String: a blob of at most 64 MiB."""
        return f"{self.prefix}blob:sha256:{hex_of(digest)}"

    def parts(self, digest: str) -> str:
        """String: digests and sizes of a larger blob's parts, which are blobs."""
        return f"{self.prefix}parts:sha256:{hex_of(digest)}"

    def versions(self, kind: str, name: str) -> str:
        """Hash: version -> digest of its manifest; `next` -> number of the next version."""
        return f"{self.prefix}{kind}:{check_name(name)}"

    def aliases(self, kind: str, name: str) -> str:
        """Hash: alias -> version."""
        return f"{self.prefix}alias:{kind}:{check_name(name)}"

    def log(self, kind: str, name: str) -> str:
        """Stream: who did what, and when."""
        return f"{self.prefix}log:{kind}:{check_name(name)}"

    def tail(self, kind: str, name: str) -> str:
        """Stream: appended blobs that belong to no version yet."""
        return f"{self.prefix}tail:{kind}:{check_name(name)}"

    def summary(self, name: str) -> str:
        """Hash: a run's state, parameters and newest metrics, in plain text."""
        return f"{self.prefix}summary:run:{check_name(name)}"

    def series(self, name: str) -> str:
        """Stream: the metrics of a run, by step."""
        return f"{self.prefix}series:run:{check_name(name)}"

    @property
    def leases(self) -> str:
        """Sorted set: blobs that running writers need."""
        return f"{self.prefix}leases"
