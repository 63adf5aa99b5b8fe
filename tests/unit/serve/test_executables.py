"""Which servers read which data, and which one is chosen; every row of the formats was tried with the real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from redisai_py.serve.executables import DataFormat, Executable, data_format, find_redis_server
from redisai_py.serve.preflight import StartError

OLD, NEW = DataFormat("Redis", 9), DataFormat("Redis", 10, in_directory=True)
COMMANDS = DataFormat(in_directory=True)
REDIS_8 = DataFormat("Redis", 12, in_directory=True)
VALKEY_9 = DataFormat("Valkey", 80, in_directory=True)


@pytest.mark.parametrize(
    ("product", "version", "reads"),
    [
        ("Redis", "6.2.14", {OLD}),
        ("Redis", "7.0.15", {OLD, NEW, COMMANDS}),
        ("Redis", "7.2.4", {OLD, NEW, COMMANDS}),
        ("Redis", "8.2.3", {OLD, NEW, COMMANDS, REDIS_8}),
        ("Redis", "9.0.0", {OLD, NEW, COMMANDS, REDIS_8}),
        ("Valkey", "8.1.0", {OLD, NEW, COMMANDS}),
        ("Valkey", "9.1.2", {OLD, NEW, COMMANDS, VALKEY_9}),
    ],
)
def test_what_a_server_reads(product: str, version: str, reads: set[DataFormat]) -> None:
    executable = Executable("p", version, product=product)
    assert {data for data in (OLD, NEW, COMMANDS, REDIS_8, VALKEY_9) if executable.reads(data)} == reads


def test_a_server_of_an_unknown_version_may_try() -> None:
    assert Executable("p", "", product="Redis").reads(VALKEY_9)
    assert Executable("p", "1.2.3", product="Other").reads(REDIS_8)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, DataFormat()),
        ({"appendonly.aof": b"REDIS0009..."}, OLD),
        ({"appendonly.aof": b"*2\r\n$6\r\nSELECT"}, DataFormat()),
        ({"appendonly.aof": b""}, DataFormat()),
        ({"a.base.rdb": b"REDIS0012..."}, REDIS_8),
        ({"a.base.rdb": b"VALKEY080..."}, VALKEY_9),
        ({"a.base.rdb": b"*2\r\n$6"}, COMMANDS),
        ({"a.incr.aof": b"*2\r\n$6"}, COMMANDS),
    ],
)
def test_the_format_of_a_directory(files: dict[str, bytes], found: DataFormat, tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").mkdir()
    for name, data in files.items():
        if name == "appendonly.aof":
            (tmp_path / name).write_bytes(data)
        else:
            kind = "b" if ".base." in name else "i"
            (tmp_path / "appendonlydir" / name).write_bytes(data)
            (tmp_path / "appendonlydir" / "a.manifest").write_text(f"file {name} seq 1 type {kind}\n")
    assert data_format(tmp_path) == found


def program(path: Path, version: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{version} sha=0 malloc=libc bits=64'\n")
    path.chmod(0o755)
    return path


def test_path_is_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    valkey = program(tmp_path / "bin" / "valkey-server", "Valkey server v=8.0.1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin")
    if not Path("/bin/redis-server").exists():
        assert find_redis_server(None, tmp_path) == Executable(str(valkey), "8.0.1", product="Valkey")
    redis = program(tmp_path / "bin" / "redis-server", "Redis server v=7.0.15")
    assert find_redis_server(None, tmp_path) == Executable(str(redis), "7.0.15")
    assert find_redis_server("valkey-server", tmp_path).path == str(valkey)


def test_what_cannot_be_started_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no executable none-such"):
        find_redis_server("none-such", tmp_path)
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(StartError, match="does not run"):
        find_redis_server(str(broken), tmp_path)
