"""The directory of the private Redis: its locks and its files.

Two flocks keep it safe. The kernel drops them with their holder, so nothing stale survives a kill -9:
- `redisai.lock` is held by the `redisai serve` in charge, and names it.
- `redis.lock` is held by the redis-server itself, which inherits the open file. While it lives, no other is started
  here, even if the process that started it is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from redisai_py.serve.preflight import StartError

__all__ = ["DataDirectory", "password_of"]

# The kernel's limit on a unix socket's path is 108 bytes on Linux, 104 on macOS, with the final NUL.
_LONGEST_SOCKET_PATH = 103

_PASSWORD = "password"
_SIGNS = ("redis.conf", "redisai.lock", "appendonlydir", "appendonly.aof")
"""Any of these marks a directory as ours, or as that of a Redis whose data are to be served."""
_OURS = (
    *("redis.*", "redisai.lock", _PASSWORD, "password.conf"),
    *("*.rdb", "*.aof*", "appendonlydir", "appendonlydir/*", "users.acl"),
)
"""Files for the owner only: they contain data sent to Redis, or a password, or lead there."""

_REDIS_CONF = """\
# Settings of the private Redis of `redisai serve`, in the format of redis.conf; they hold from its next start.
# Where the data is, the socket and the append-only file are set by `redisai serve` and cannot be changed here.
#
# requirepass choose-a-long-one
# maxmemory 4gb
"""


class DataDirectory:
    """A data directory, created if necessary, readable only by its owner.

    path: absolute.   redis_conf: settings that the user may add; the file is created with the directory.
    redis_log, redis_pid: log of the private Redis, and its pid file, which it removes at an orderly end.
    password_conf: the line of redis.conf for the password of `require_password`.

    Raises: StartError if it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path = self.path.resolve()
            self.redis_conf, self.redis_log = self.path / "redis.conf", self.path / "redis.log"
            self.redis_pid, self.password_conf = self.path / "redis.pid", self.path / "password.conf"
            self._close_to_others()
            if not self.redis_conf.exists():
                self._write("redis.conf", _REDIS_CONF)
        except OSError as error:
            raise StartError(f"cannot use the data directory {self.path}: {error.strerror}") from error

    def _close_to_others(self) -> None:
        """Take the rights of others from the directory and from what Redis and we keep in it.

        Raises: OSError; StartError: the directory belongs to somebody else, or it is open to others and not a data
                directory yet, so that what else is there might be meant for them.
        """
        status = self.path.stat()
        if status.st_uid != os.geteuid():
            raise StartError(f"the data directory {self.path} belongs to another user; choose another with --data-dir")
        if status.st_mode & 0o077:
            known = any((self.path / name).exists() for name in _SIGNS)
            if not known and any(self.path.iterdir()):
                raise StartError(
                    f"the data directory {self.path} is open to other users and holds other files; choose another with "
                    f"--data-dir, or close it: chmod 700 {self.path}"
                )
            self.path.chmod(0o700)
        for pattern in _OURS:
            for found in self.path.glob(pattern):
                mode = found.lstat().st_mode
                if mode & 0o077 and not stat.S_ISLNK(mode):
                    found.chmod(stat.S_IMODE(mode) & 0o700)

    def require_password(self) -> str:
        """The password of the private Redis, from the file `password`; generated at first use."""
        try:
            password = (self.path / _PASSWORD).read_text().strip()
            if not password or any(character.isspace() or character in "\"'\\" for character in password):
                raise StartError(f"{self.path / _PASSWORD} must hold one word without quotes: the password")
        except FileNotFoundError:
            password = secrets.token_urlsafe(32)
            self._write(_PASSWORD, password + "\n")
        except (OSError, ValueError) as error:
            raise StartError(f"cannot read {self.path / _PASSWORD}: {error}") from error
        self._write(self.password_conf.name, f"requirepass {password}\n")
        return password

    def opened_log(self) -> BinaryIO:
        """Redis's log, opened for appending."""
        return os.fdopen(os.open(self.redis_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab")

    def _write(self, name: str, text: str) -> None:
        """Write a file for the owner only, atomically. Raises StartError."""
        temporary = self.path / f"{name}.new"
        try:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
                file.write(text)
            temporary.replace(self.path / name)
        except OSError as error:
            raise StartError(f"cannot write {self.path / name}: {error.strerror}") from error

    @contextlib.contextmanager
    def held(self) -> Iterator[Callable[[Sequence[str]], None]]:
        """Lock the directory for this process. Returns: a function that records the addresses it serves, once known.

        Raises: StartError, naming the holder, if another process has locked it.
        """
        fd = self._open("redisai.lock")

        def say(addresses: Sequence[str]) -> None:
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps({"pid": os.getpid(), "addresses": addresses}).encode(), 0)

        try:
            if not _lock(fd):
                raise StartError(self._holder(fd))
            say([])
            yield say
        finally:
            os.close(fd)

    def _holder(self, fd: int) -> str:
        # For a moment after the lock is taken, the file is empty or holds an old entry.
        try:
            holder = json.loads(os.pread(fd, 4096, 0))
            at = f" at {holder['addresses'][0]}" if holder["addresses"] else ""
            who = f"the `redisai serve` with process id {holder['pid']}{at}"
        except (ValueError, KeyError):
            who = "another `redisai serve` that is just starting"
        return f"the data directory {self.path} is in use by {who}; stop that one, or choose another with --data-dir"

    def lock_redis(self) -> int | None:
        """An open file that holds `redis.lock`, for the redis-server to inherit; None while one lives here.

        The caller closes it; the lock stays for as long as any process has the file open.
        """
        fd = self._open("redis.lock")
        if _lock(fd):
            return fd
        os.close(fd)
        return None

    def redis_lives(self) -> bool:
        """Whether a redis-server on this directory, or a child of it that still writes, is alive."""
        fd = self.lock_redis()
        if fd is None:
            return True
        os.close(fd)
        return False

    def new_socket_path(self) -> str:
        """The socket path for a new redis-server: in the directory, or in a shorter one if that path is too long.

        Raises: StartError if the shorter one exists and belongs to somebody else.
        """
        path = str(self.path / "redis.sock")
        if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
            return path
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        name = f"redisai-{os.getuid()}-{digest}"
        places = [os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"]
        directories = [os.path.join(place, name) for place in places if place]
        runtime = Path(
            next(each for each in directories if len(os.fsencode(f"{each}/redis.sock")) <= _LONGEST_SOCKET_PATH)
        )
        try:
            runtime.mkdir(mode=0o700, exist_ok=True)
            status = runtime.lstat()
        except OSError as error:
            raise StartError(f"cannot make a directory for the private Redis's socket: {error}") from error
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise StartError(f"{runtime} must belong to this user alone: it holds the private Redis's socket")
        return str(runtime / "redis.sock")

    def record(self, facts: dict[str, Any]) -> None:
        """Save what a later start must know about the running redis-server; `recorded` returns it."""
        self._write("redis.json", json.dumps(facts))

    def recorded(self) -> dict[str, Any]:
        """The most recent `record`, or nothing."""
        try:
            facts = json.loads((self.path / "redis.json").read_text())
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def pid_on_file(self) -> int | None:
        """Process id of the redis-server from its pid file, if that process exists and works in this directory."""
        try:
            pid = int(self.redis_pid.read_text())
            # The process id may have been reused. Redis changes to its directory, so check the working directory.
            return pid if self.path.samefile(f"/proc/{pid}/cwd") else None
        except (OSError, ValueError):
            return None

    def redis_log_tail(self) -> str:
        """The last five lines of Redis's log, on one line."""
        try:
            text = self.redis_log.read_text(errors="replace")
        except OSError:
            return ""
        return " / ".join(line.strip() for line in text.splitlines()[-5:])

    def _open(self, name: str) -> int:
        try:
            return os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(f"cannot use the data directory {self.path}: {error.strerror}") from error


def password_of(directory: Path, address: str) -> str | None:
    """The generated password of the server that has locked the data directory and serves the address; else None.

    Args: address: in the form of `redisai_py.serve.listening.address_text`.
    """
    try:
        fd = os.open(directory / "redisai.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.fstat(fd).st_uid != os.geteuid() or _lock(fd):  # nobody serves: who listens there now is somebody else
            return None
        holder = json.loads(os.pread(fd, 4096, 0))
        return (directory / _PASSWORD).read_text().strip() if address in holder["addresses"] else None
    except (OSError, ValueError, KeyError, StartError):
        return None
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StartError(f"the file system of the data directory has no locks: {error.strerror}") from error
    return True
