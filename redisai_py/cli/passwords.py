"""The password for a URL without one: from a file, or the one that `redisai serve --require-password` generated."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from redisai_py.cli.failures import UsageError
from redisai_py.serve.data_directory import password_of
from redisai_py.urls import authority

__all__ = ["with_password"]

_FILE = "REDISAI_PASSWORD_FILE"
_DIRECTORIES = ("redisai-data", "data")
"""Default data directories of `redisai serve` and `make run`, relative to where they are started."""
_PORT = 6379


def with_password(url: str) -> str:
    """The URL with the password from the file in REDISAI_PASSWORD_FILE, or else that of a local server whose data
    directory is REDISAI_DATA_DIR, `redisai-data` or `data`. Unchanged if it has a password, or none is found.

    Raises: UsageError: the file in REDISAI_PASSWORD_FILE cannot be read.   ValueError: not a URL.
    """
    parts = urlsplit(url)
    if parts.password is not None or parts.scheme not in ("redis", "rediss", "unix") or "password=" in parts.query:
        return url
    password = _of_variable() or _of_server(url)
    if not password:
        return url
    user = f"{parts.username or ''}:{quote(password, safe='')}"
    return parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}").geturl()


def _of_variable() -> str | None:
    path = os.environ.get(_FILE)
    if not path:
        return None
    try:
        return Path(path).expanduser().read_text().partition("\n")[0].rstrip("\r")
    except (OSError, ValueError) as error:
        raise UsageError(f"{_FILE} names {path}, which cannot be read: {error}") from error


def _of_server(url: str) -> str | None:
    parts = urlsplit(url)
    if parts.username is not None:  # the generated password belongs to the default user
        return None
    if parts.scheme == "unix":
        addresses = [f"unix://{unquote(parts.path)}"]
    else:
        port = parts.port or _PORT
        names = {"localhost": ("127.0.0.1", "::1")}.get(parts.hostname or "localhost", (parts.hostname or "",))
        addresses = [authority(name, port) for name in names]
    own = os.environ.get("REDISAI_DATA_DIR")
    for directory in ([own] if own else []) + list(_DIRECTORIES):
        for address in addresses:
            if password := password_of(Path(directory).expanduser(), address):
                return password
    return None
