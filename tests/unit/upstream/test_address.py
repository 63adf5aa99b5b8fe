from __future__ import annotations

import pytest

from redisai_py.upstream.address import Address, Identity


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://host:7000", Address("host", 7000)),
        ("redis://host", Address("host", 6379)),
        ("redis://user:secret@host:1", Address("host", 1)),
        ("rediss://host", Address("host", 6379, tls=True)),
        ("unix:///run/redis.sock", Address(path="/run/redis.sock")),
        ("unix:///a%20b", Address(path="/a b")),
    ],
)
def test_addresses(url: str, address: Address) -> None:
    assert Address.from_url(url) == address
    assert "secret" not in str(address)


@pytest.mark.parametrize(
    ("identity", "protocol", "commands"),
    [
        (Identity(), 2, []),
        (Identity(), 3, [[b"HELLO", b"3"]]),
        (Identity(b"u", b"p"), 2, [[b"AUTH", b"u", b"p"]]),
        (Identity(b"u", b"p", 4), 3, [[b"HELLO", b"3", b"AUTH", b"u", b"p"], [b"SELECT", b"4"]]),
        (Identity(database=2), 2, [[b"SELECT", b"2"]]),
    ],
)
def test_handshakes(identity: Identity, protocol: int, commands: list[list[bytes]]) -> None:
    assert identity.handshake(protocol) == commands
