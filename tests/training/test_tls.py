"""Data sets, checkpoints and a training with a Redis that speaks TLS alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import torch

from examples.training.train import put_digits
from redisai_py.artifacts import Store
from redisai_py.datasets.dataset import Dataset
from redisai_py.datasets.layout import Schema
from redisai_py.datasets.torch import RedisDataset
from redisai_py.datasets.writer import Writer, put
from redisai_py.training import Checkpointer, Run
from tests.source_tree import ROOT
from tests.support import RedisServer, free_port, redis_binaries


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a certificate for 127.0.0.1 that signs itself."""
    path = tmp_path_factory.mktemp("tls")
    done = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", path / "key", "-out", path / "crt"],
        capture_output=True,
        timeout=20,
        check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("no openssl to make a certificate with")
    return path


@pytest.fixture(scope="module")
def url(certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a Redis whose plain port needs a password that nobody here has."""
    server = RedisServer(next(iter(redis_binaries().values())), tmp_path_factory.mktemp("redis"))
    port = free_port()
    files = {"tls-cert-file": "crt", "tls-key-file": "key", "tls-ca-cert-file": "crt"}
    with redis.Redis(port=server.port) as bare:
        bare.config_set("tls-auth-clients", "no")
        try:
            bare.config_set("tls-port", port, *[x for k, f in files.items() for x in (k, str(certificate / f))])
        except redis.ResponseError as error:
            server.stop()
            pytest.skip(f"this Redis has no TLS: {error}")
        bare.config_set("requirepass", "p@ss")
    yield f"rediss://:p%40ss@127.0.0.1:{port}/?ssl_ca_certs={certificate / 'crt'}"
    server.stop()


def test_data_sets(url: str) -> None:
    store = Store(url)
    values = np.random.default_rng(0).random((60_000, 32)).astype(np.float32)
    put(store, "d", {"x": values, "y": np.arange(60_000)}, compress=False)
    assert np.array_equal(Dataset.open(store, "d").read()["x"], values)
    data = RedisDataset(url, "d", batch_size=1000)
    for workers in (0, 1):
        rows = torch.cat([batch["y"] for batch in data.loader(workers)])
        assert sorted(rows.tolist()) == list(range(60_000))
    writer = Writer(store, "live", Schema.of({"y": np.arange(1)}))
    writer.append({"y": np.arange(100)})
    followed = RedisDataset(url, "live", batch_size=50, follow=True, idle_s=1)
    assert sum(len(batch["y"]) for batch in followed) == 100


def test_checkpoints(url: str) -> None:
    state = {"values": torch.randn(3_000_000)}
    with Checkpointer(url, "r") as checkpoints:
        checkpoints.save(1, state=state).result(60)
        found: Any = checkpoints.load()
    assert torch.equal(found.state["state"]["values"], state["values"])


def test_a_certificate_that_nobody_vouches_for(url: str) -> None:
    with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        Dataset.open(Store(url.partition("?")[0]), "d")


@pytest.mark.slow
def test_a_training(url: str) -> None:
    put_digits(url)
    command = [sys.executable, "-m", "redisai_py", "train", "run", "--url", url, "--name", "digits", "--nproc", "2"]
    script = [str(ROOT / "examples/training/train.py"), "--steps", "20", "--every", "10"]
    done = subprocess.run(
        [*command, *script], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=180, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "p@ss" not in done.stdout + done.stderr
    summary = Run(url, "digits").summary()
    assert (summary["state"], summary["step"]) == ("finished", "20")
