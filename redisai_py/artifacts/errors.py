"""Errors of artifacts. Each text says what was wrong and, if possible, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "AliasMoved",
    "ArchiveError",
    "ArtifactError",
    "Conflict",
    "Corrupt",
    "Invalid",
    "Malformed",
    "Missing",
    "NotParity",
    "needing",
    "reading",
]


class ArtifactError(Exception):
    """Base class of all errors of this package; `str(error)` is meant for people."""


class Invalid(ArtifactError, ValueError):
    """A name, a reference, a manifest or a file is invalid. Nothing was written."""


class Malformed(Invalid):
    """What is stored, in Redis or in an archive, is not what it has to be: the caller's words are not to blame."""


@contextmanager
def reading() -> Iterator[None]:
    """What is invalid inside, or in the function decorated, was read from a store. Raises: Malformed, not Invalid."""
    try:
        yield
    except Malformed:
        raise
    except Invalid as error:
        raise Malformed(str(error)) from error


@contextmanager
def needing(what: str, extra: str) -> Iterator[None]:
    """An import inside may find nothing. Raises: Invalid: `what`, and the extra to install."""
    try:
        yield
    except ImportError:
        raise Invalid(f"{what}: pip install 'redisai_py[{extra}]'") from None


class Missing(ArtifactError, LookupError):
    """No such name, version, alias, blob or manifest."""


class Conflict(ArtifactError):
    """Something else is already there, or still needed."""


class AliasMoved(Conflict):
    """Somebody else moved the alias first.

    version: where it points now, None if it was removed.   who: who moved it, empty if the log does not say.
    """

    def __init__(self, name: str, alias: str, version: int | None, who: str) -> None:
        self.version = version
        self.who = who
        now = f"points to {name}:{version} now" if version is not None else "is gone now"
        by = f", moved by {who}" if who else ""
        super().__init__(f"{name}@{alias} {now}{by}; nothing was changed. Look at it and try again")


class Corrupt(ArtifactError):
    """Bytes do not match their digest.

    what: the layer's title, or another description.   expected, found: digests.
    """

    def __init__(self, what: str, expected: str, found: str, where: str = "") -> None:
        self.what = what
        self.expected = expected
        self.found = found
        place = f" in {where}" if where else ""
        super().__init__(f"{what}{place} is damaged: its digest must be {expected}, and is {found}")


class ArchiveError(ArtifactError):
    """The archive could not be read or written; the text names the place, the status and what to check."""


class NotParity(ArtifactError):
    """A model does not reproduce the predictions stored with it."""
