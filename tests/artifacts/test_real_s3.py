"""Slow: a real S3 server, registry tools, many blobs, large models, many deployments."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import redis

from examples.artifacts.s3 import S3, seaweedfs
from redisai_py import Client
from redisai_py.artifacts import Archive, ArchiveError, Artifacts, Conflict, Contents, Store, collect
from redisai_py.artifacts.transfer import collect_archive, pull, push, remove_archived
from redisai_py.config import Config
from tests.artifacts.archive_hammer import hammer
from tests.artifacts.building import blobs_of, contents_of, version_of
from tests.artifacts.models import scaling
from tests.support import FrontDoor, RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def seaweed() -> Iterator[S3]:
    with seaweedfs("models") as server:
        yield server


@pytest.fixture
def real(seaweed: S3, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The URL of an empty archive."""
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://models/{request.node.name}"


def test_1200_blobs_and_exactly_those(store: Store, other: Store, real: str) -> None:
    with store.lease() as lease:
        layers = [store.put_layer(b"blob %d" % n, "application/x", f"l{n}", lease) for n in range(1200)]
        for half in (layers[:600], layers[600:]):
            store.commit("artifact", "many", store.manifest({}, half, lease), lease)
    archive = Archive(real)
    done = push(store, archive, ["many"])
    assert done.blobs == 1203  # and two manifests, and one config
    assert set(archive.blobs()) == blobs_of(store)
    pull(other, archive)
    assert blobs_of(other) == blobs_of(store)
    remove_archived(archive, "artifact", "many", [1])
    store.registry("artifact").remove("many", [1])
    assert collect_archive(archive, older_s=0).removed == 601
    assert collect(store).removed == 601
    assert set(archive.blobs()) == blobs_of(store)
    assert contents_of(store, "many:2")[0] == b"blob 600"


def test_a_wrong_secret_is_refused_naming_the_bucket(store: Store, real: str) -> None:
    version_of(store, "cancer", b"1")
    with pytest.raises(ArchiveError, match=r"s3://models/.*HTTP 403.*check the credentials"):
        push(store, Archive(real, aws_secret_access_key="wrong"), ["cancer"])
    with pytest.raises(ArchiveError, match=r"s3://none/x.*HTTP 404.*bucket does not exist"):
        pull(store, Archive("s3://none/x"))


def test_pushers_and_collectors_at_the_same_time(store: Store, other: Store, real: str) -> None:
    hammer(store, other, lambda: Archive(real))


def test_pushers_at_the_same_time_lose_nothing(store: Store, real: str) -> None:
    for number in range(20):
        version_of(store, f"n-{number}", b"%d" % number)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: push(store, Archive(real), [f"n-{number}"]), range(20)))
    assert len(Archive(real).index()[0].entries) == 20


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="no skopeo")
def test_registry_tools_read_every_export(artifacts: Artifacts, tmp_path: Path) -> None:
    artifacts.publish("team/cancer", Contents(scaling(2), backend="ONNX", metrics={"accuracy": 0.9}))
    artifacts.publish("team/cancer", Contents(scaling(3), backend="ONNX", files={"t.csv": b"1,2,3\n" * 100_000}))
    version_of(artifacts.store, "clicks", b"shard", kind="dataset")
    artifacts.push(["team/cancer"], tmp_path / "layout")
    artifacts.push(["clicks"], tmp_path / "layout", "dataset")
    index, _ = Archive(tmp_path / "layout").index()
    for entry in index.entries:
        ref = str(entry) if entry.kind == "artifact" else f"{entry.kind}/{entry}"
        shown = skopeo("inspect", "--raw", f"oci:{tmp_path}/layout:{ref}")
        assert json.loads(shown)["layers"]
        skopeo("copy", f"oci:{tmp_path}/layout:{ref}", f"oci:{tmp_path}/copy:{ref}")
    copied = Archive(tmp_path / "copy")
    artifacts.store.redis.flushdb()
    assert [str(v) for v in artifacts.pull(copied, ["team/cancer"]).versions] == ["team/cancer:1", "team/cancer:2"]
    assert artifacts.get("team/cancer:2").read("t.csv") == b"1,2,3\n" * 100_000
    assert artifacts.verify() == []


def skopeo(*arguments: str) -> str:
    done = subprocess.run(["skopeo", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_200_deployments_under_16_clients(artifacts: Artifacts, front_door: FrontDoor) -> None:
    """A model of 1 MB; no request fails, every answer is that of one of the two versions."""
    for factor in (2, 3):
        artifacts.publish("cancer", Contents(scaling(factor, ballast=1_000_000), backend="ONNX"))
    artifacts.deploy("cancer:1", "m")
    stop = threading.Event()
    x = np.ones((1, 2), np.float32)

    def client(number: int) -> int:
        count = 0
        with Client(port=front_door.port) as con:
            while not stop.is_set():
                dag = con.dag(routing="m").tensorset("x", x).modelexecute("m", ["x"], ["y"]).tensorget("y")
                (_, _, y) = dag.execute()
                assert y.reshape(-1).tolist() in ([2, 2], [3, 3])
                count += 1
        return count

    took = []
    with ThreadPoolExecutor(16) as pool:
        clients = [pool.submit(client, number) for number in range(16)]
        try:
            for number in range(200):
                began = time.perf_counter()
                if number % 2:
                    artifacts.rollback("cancer", "m")
                else:
                    artifacts.deploy("cancer:2", "m")
                took.append(time.perf_counter() - began)
        finally:
            stop.set()
    runs = sum(done.result() for done in clients)
    median = sorted(took)[100]
    print(f"{runs} runs; swaps: median {median * 1000:.0f} ms, largest {max(took) * 1000:.0f} ms")
    assert runs > 1000
    assert median < 1  # 0.01 to 0.1 on a machine that does nothing else
    assert artifacts.show("cancer").deployed == {"m": "cancer:1"}


LARGE = """
import os, resource, sys, threading, time
from pathlib import Path
from redisai_py.artifacts import Artifacts, Archive, Contents
step, url, archive, model = sys.argv[1:]
artifacts = Artifacts(url)
def anonymous():
    with open("/proc/self/status") as status:
        return max(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
peak, running = 0, True
def watch():
    global peak
    while running:
        peak = max(peak, anonymous())
        time.sleep(0.02)
watcher = threading.Thread(target=watch); watcher.start()
try:
    if step == "publish": artifacts.publish("large", Contents(Path(model), backend="TORCH"))
    if step == "push": artifacts.push(["large"], archive)
    if step == "pull": artifacts.pull(archive)
    if step == "deploy": artifacts.deploy("large", "large")
finally:
    running = False
    watcher.join()
print(peak * 1024)
"""


@pytest.fixture
def wide_door(redis_server: RedisServer) -> Iterator[FrontDoor]:
    """Our server, for models of up to 4 GiB."""
    server = FrontDoor(Config(redis=redis_server.url, port=0, client_query_buffer_limit=4 << 30))
    yield server
    server.stop()


def test_a_model_of_2_gb_within_2_2_times_its_size(
    front_door: FrontDoor, wide_door: FrontDoor, bare: redis.Redis, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    model = tmp_path / "large.pt"

    class Large(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("w", torch.zeros(2_000_000_000 // 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
            return x + self.w[0]

    torch.jit.save(torch.jit.script(Large()), str(model))
    size = model.stat().st_size
    assert size > 2_000_000_000
    url = f"redis://127.0.0.1:{wide_door.port}"
    peaks = {}
    for step in ("publish", "push", "pull", "deploy"):
        if step == "pull":
            bare.flushall()
        done = subprocess.run(
            [sys.executable, "-c", LARGE, step, url, str(tmp_path / "archive"), str(model)],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (step, done.stderr)
        peaks[step] = int(done.stdout) / size
    narrow = Artifacts(f"redis://127.0.0.1:{front_door.port}")
    with narrow, pytest.raises(Conflict, match="client-query-buffer-limit"):
        narrow.deploy("large", "large2")
    print({step: round(peak, 2) for step, peak in peaks.items()})
    assert max(peaks.values()) < 2.2
    bare.flushall()


def test_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    """Two servers, SeaweedFS, FLUSHALL, and the same predictions."""
    from examples.artifacts import demo

    assert demo.main([]) == 0
    printed = capsys.readouterr().out
    assert "450 of 450 labels" in printed
    assert "The same model" in printed
