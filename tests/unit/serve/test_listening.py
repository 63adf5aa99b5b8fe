"""Addresses and unix sockets, bound for real."""

from __future__ import annotations

import asyncio
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from redisai_py.config import Config
from redisai_py.serve import listening
from redisai_py.serve.listening import address_text, bind, held, is_local
from redisai_py.serve.preflight import StartError


def _bind(**settings: Any) -> list[socket.socket]:
    return asyncio.run(bind(Config(**{"port": 0, **settings})))


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


@needs_ipv6
def test_localhost_is_both_on_one_port() -> None:
    with held(listeners := _bind()):
        port = listeners[0].getsockname()[1]
        assert [address_text(listener) for listener in listeners] == [f"127.0.0.1:{port}", f"[::1]:{port}"]
        assert all(map(is_local, listeners))


def test_an_address_with_a_dash_may_be_missing_and_others_not() -> None:
    with held(listeners := _bind(host=("127.0.0.1", "-192.0.2.1", "-no-such-host.invalid"))):
        assert len(listeners) == 1
    with pytest.raises(StartError, match=r"192\.0\.2\.1"):
        _bind(host=("127.0.0.1", "192.0.2.1"))
    with pytest.raises(StartError, match=r"no-such-host\.invalid"):
        _bind(host=("no-such-host.invalid",))
    with pytest.raises(StartError, match=r"none of the addresses -192\.0\.2\.1"):
        _bind(host=("-192.0.2.1",))


def test_a_port_in_use_is_refused_even_with_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_RELEASE_S", 0.1)
    with socket.create_server(("127.0.0.2", 0)) as taken:  # no address of these has servers of other tests
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=rf"port {port} of 127\.0\.0\.2 is in use"):
            _bind(host=("127.0.0.3", "-127.0.0.2"), port=port)
    with held(listeners := _bind(host=("127.0.0.3", "-127.0.0.2"), port=port)):  # nothing was left behind
        assert len(listeners) == 2


@needs_ipv6
@pytest.mark.parametrize("host", [("*", "::*"), ("0.0.0.0", "::"), ("::", "0.0.0.0"), ("::",)])
def test_every_interface_of_both_families(host: tuple[str, ...]) -> None:
    with held(listeners := _bind(host=host)):
        assert len(listeners) == len(host)
        assert not any(map(is_local, listeners))
        port = listeners[0].getsockname()[1]
        for name in ("127.0.0.1", "::1"):
            socket.create_connection((name, port), timeout=10).close()


def test_a_unix_socket_has_its_permissions_and_is_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    with held(listeners := _bind(unix_socket=path, unix_socket_perm="720")):
        assert address_text(listeners[-1]) == f"unix://{path}"
        assert is_local(listeners[-1])
        assert stat.S_IMODE(path.stat().st_mode) == 0o720
    assert not path.exists()


def test_only_a_unix_socket(tmp_path: Path) -> None:
    with held(listeners := _bind(host=(), unix_socket=tmp_path / "r.sock")):
        assert [listener.family for listener in listeners] == [socket.AF_UNIX]


def test_the_socket_of_a_dead_server_is_replaced_and_that_of_a_live_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_RELEASE_S", 0.1)
    path = tmp_path / "r.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(0)
        with pytest.raises(StartError, match=r"r\.sock is in use"):
            _bind(unix_socket=path)
        assert path.exists()
    with held(_bind(unix_socket=path)), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_successors_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    with held(_bind(unix_socket=path)):
        path.unlink()
        path.write_text("of another")
    assert path.read_text() == "of another"


@pytest.mark.parametrize("name", ["file", "none/r.sock", "s" * 200])
def test_a_path_that_cannot_be_a_socket(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(StartError, match="cannot listen on"):
        _bind(unix_socket=tmp_path / name)
    assert (tmp_path / "file").read_text() == "kept"
