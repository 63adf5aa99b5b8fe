"""URLs of Redis: validity, and display without passwords."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

__all__ = ["authority", "check_url", "masked_url"]

_REDIS_SCHEMES = ("redis", "rediss", "unix")
_DATABASE_ZERO = ("", "/", "/0")


def authority(host: str, port: int) -> str:
    """HOST:PORT, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_url(url: str) -> None:
    """Raise ValueError, with a text for the setting `redis`, if it is not the URL of a Redis."""
    try:
        parts = urlsplit(url)
        port = parts.port if parts.scheme != "unix" else None
    except ValueError as error:
        raise ValueError(f"redis is {masked_url(url)!r}, which is not a URL: {error}") from None
    shown = masked_url(url)
    if parts.scheme not in _REDIS_SCHEMES:
        raise ValueError(f"redis is {shown!r}, but must begin with redis://, rediss:// or unix://")
    if port == 0:
        raise ValueError(f"redis is {shown!r}: port 0 is not valid")
    if parts.scheme == "unix" and not parts.path.strip("/"):
        raise ValueError(f"redis is {shown!r}, but must name the socket: unix:///PATH")
    if parts.query and "db" not in parse_qs(parts.query):
        shown = shown.partition("?")[0]  # the query may contain a password
        raise ValueError(
            f"redis is {shown!r} with a query after ?, which is not supported; put user and password after the two "
            "slashes: USER:PASSWORD@"
        )
    if parts.query or (parts.scheme != "unix" and parts.path not in _DATABASE_ZERO):
        raise ValueError(f"redis is {shown!r}: the URL cannot select a database; clients do so with SELECT")


def masked_url(url: str) -> str:
    """The URL with `***` instead of the password, for messages and logs."""
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, _, credentials = head.partition("://")
    user, colon, _ = credentials.partition(":")
    return f"{scheme}://{user}{colon}***@{tail}"
