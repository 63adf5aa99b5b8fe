"""`redisai artifact` against a real server, with archives in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import redis

from redisai_py.artifacts import Predictions
from tests.artifacts.models import scaling
from tests.cli.conftest import Redisai

X = np.arange(12, dtype=np.float32).reshape(6, 2)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two models with their metrics and predictions."""
    for factor in (2, 3):
        (tmp_path / f"model{factor}.onnx").write_bytes(scaling(factor))
        (tmp_path / f"metrics{factor}.json").write_text(json.dumps({"accuracy": factor / 10}))
        predictions = Predictions({"x": X}, {"y": X * factor})
        (tmp_path / f"predictions{factor}.parquet").write_bytes(predictions.to_parquet())
    return tmp_path


@pytest.fixture
def two(redisai: Redisai, files: Path) -> Path:
    """Both of them, published."""
    for factor in (2, 3):
        kept = ("--metrics", files / f"metrics{factor}.json", "--predictions", files / f"predictions{factor}.parquet")
        done = redisai("artifact", "publish", "cancer", files / f"model{factor}.onnx", *kept, "--verify")
        assert done.code == 0, done.stderr
    return files


def run(redisai: Redisai, model: str, x: Path, out: Path) -> list[float]:
    assert redisai("model", "run", model, "-i", x, "-o", out).code == 0
    return np.load(out).reshape(-1).tolist()  # type: ignore[no-any-return]


def test_from_publishing_to_rolling_back(redisai: Redisai, two: Path, x: Path) -> None:
    assert redisai("artifact", "promote", "cancer:1", "production").stdout == "cancer@production is cancer:1\n"
    assert redisai("artifact", "deploy", "cancer@production", "-k", "m").stdout.startswith("m: cancer:1 (model2.onnx)")
    deployed = redisai("artifact", "deploy", "cancer", "-k", "m", "--verify", "--json").document
    assert (deployed["version"], deployed["was"]) == ("cancer:2", 1)
    assert deployed["difference"] < 1e-5
    assert run(redisai, "m", x, two / "out.npy") == [4.5, 6]
    assert redisai("artifact", "rollback", "cancer", "-k", "m").stdout == "m: cancer:1 (model2.onnx), was cancer:2\n"
    assert run(redisai, "m", x, two / "out.npy") == [3, 4]
    log = redisai("artifact", "log", "cancer", "--json").document
    assert [entry["event"] for entry in log] == ["rollback", "deploy", "deploy", "promote", "publish", "publish"]


def test_what_is_there(redisai: Redisai, two: Path) -> None:
    redisai("artifact", "promote", "cancer:1", "production")
    redisai("artifact", "deploy", "cancer:1")
    (listed,) = redisai("artifact", "ls", "--json").document
    assert listed == {"name": "cancer", "versions": 2, "newest": 2, "aliases": {"production": 1}}
    assert [row["version"] for row in redisai("artifact", "ls", "cancer", "--json").document] == [
        "cancer:1",
        "cancer:2",
    ]
    shown = redisai("artifact", "show", "cancer@production")
    for words in ("cancer:1", "production", "accuracy: 0.2", "model2.onnx", "cancer: cancer:1"):
        assert words in shown.stdout
    document = redisai("artifact", "show", "cancer:1", "--json").document
    assert [layer["title"] for layer in document["layers"]] == ["model2.onnx", "predictions.parquet", "metrics.json"]
    diff = redisai("artifact", "diff", "cancer:1", "cancer:2")
    assert "accuracy" in diff.stdout
    assert "+0.1" in diff.stdout
    assert redisai("artifact", "diff", "cancer:1", "cancer:2", "--json").document["metrics"] == {"accuracy": [0.2, 0.3]}
    assert redisai("artifact", "du", "--json").document["orphans"] == 0
    assert "artifact cancer" in redisai("artifact", "du").stdout


def test_out_and_in_again(redisai: Redisai, two: Path, bare: redis.Redis, x: Path) -> None:
    layout = two / "layout"
    assert redisai("artifact", "export", "cancer", layout).code == 0
    assert (layout / "oci-layout").exists()
    assert redisai("artifact", "push", "cancer:1", f"file://{layout}", "--json").document["blobs"] == 0
    assert redisai("artifact", "verify", "--archive", layout).code == 0
    bare.flushall()
    assert redisai("artifact", "import", layout, "cancer:2", "--json").document["versions"] == ["cancer:2"]
    assert redisai("artifact", "pull", layout, "--json").document["versions"] == ["cancer:1", "cancer:2"]
    assert "recomputed" in redisai("artifact", "verify", "cancer", "--predictions").stdout
    assert redisai("artifact", "get", "cancer:1", two / "got", "--title", "metrics.json").code == 0
    assert json.loads((two / "got" / "metrics.json").read_text()) == {"accuracy": 0.2}
    assert redisai("artifact", "evict", "cancer:1", "--archive", layout, "--json").document["removed"] > 0
    assert redisai("artifact", "verify", "cancer").code == 0
    assert redisai("artifact", "deploy", "cancer:1", "-k", "m").code == 0
    assert run(redisai, "m", x, two / "out.npy") == [3, 4]


def test_what_is_removed(redisai: Redisai, two: Path) -> None:
    redisai("artifact", "promote", "cancer:2", "production")
    refused = redisai("artifact", "rm", "cancer")
    assert (refused.code, "production" in refused.stderr) == (1, True)
    assert redisai("artifact", "rm", "cancer:1").stdout == "cancer:1: removed\n"
    told = redisai("artifact", "gc", "--dry-run", "--json").document
    assert told["removed"] == redisai("artifact", "gc", "--json").document["removed"] > 0
    redisai("artifact", "export", "cancer", two / "layout")
    assert redisai("artifact", "rm", "cancer:2", "--archive", two / "layout").code == 0
    assert redisai("artifact", "gc", "--archive", two / "layout", "--older", "0", "--json").document["removed"] > 0
    assert redisai("artifact", "demote", "cancer", "production").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("show", "nobody"), 1, "no artifact nobody"),
        (("show", "../x"), 2, "not a name"),
        (("promote", "cancer:9", "production"), 1, "cancer:9"),
        (("promote", "cancer:1", "7"), 2, "not an alias"),
        (("promote", "cancer:2", "production", "--expect", "1"), 1, "is gone now"),
        (("deploy", "cancer@production"), 1, "aliases: none"),
        (("rollback", "cancer"), 1, "was not deployed"),
        (("push", "cancer", "ftp://x"), 2, "not an archive"),
        (("import", "/nowhere"), 2, "index.json"),
        (("publish", "cancer", "/nowhere.onnx"), 2, "No such file"),
        (("publish", "cancer", "/etc/hostname"), 2, "cannot tell the framework"),
    ],
)
def test_refusals(redisai: Redisai, two: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    refused = redisai("artifact", *arguments)
    assert (refused.code, refused.stdout) == (code, "")
    assert words in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_model_whose_predictions_differ_is_not_published(redisai: Redisai, files: Path) -> None:
    refused = redisai(
        "artifact",
        "publish",
        "cancer",
        files / "model2.onnx",
        "--predictions",
        files / "predictions3.parquet",
        "--verify",
    )
    assert refused.code == 1
    assert "off by up to 11" in refused.stderr
    assert redisai("artifact", "ls", "--json").document == []


def test_a_changed_byte_is_told(redisai: Redisai, two: Path, bare: redis.Redis) -> None:
    layers = redisai("artifact", "show", "cancer:1", "--json").document["layers"]
    bare.setrange(f"ai:blob:{layers[0]['digest']}", 0, b"X")
    told = redisai("artifact", "verify")
    assert told.code == 1
    assert "model2.onnx" in told.stdout
    assert redisai("artifact", "deploy", "cancer:1").code == 1
