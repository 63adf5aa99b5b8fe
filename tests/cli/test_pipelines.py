"""`redisai pipeline`, `job` and `worker` against a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Redisai

pytest.importorskip("skl2onnx")

TEXT = """
[artifact]
name = "iris"
promote = ["production"]
[dataset]
source = "sklearn:iris"
targets = ["target"]
[model]
builder = "sklearn.logistic"
[evaluate]
gate = { accuracy = ">=0.8" }
[deploy]
key = "iris"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "iris.toml"
    path.write_text(TEXT)
    return path


def test_a_file_becomes_a_served_model(redisai: Redisai, file: Path) -> None:
    done = redisai("pipeline", "run", file, "--json")
    assert done.code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["version"] == "iris:1"
    assert found["deployed"] == {"iris": "iris:1"}
    assert "3/6 train target" in done.stderr
    again = redisai("pipeline", "run", file, "--no-deploy")
    assert found["digest"] in again.stdout


def test_a_failed_gate_is_exit_code_1_with_the_number(redisai: Redisai, file: Path) -> None:
    done = redisai("pipeline", "run", file, "--set", "evaluate.gate.accuracy='>1'")
    assert done.code == 1
    assert "accuracy must be > 1, and is 0.9" in done.stderr


def test_what_is_wrong_is_exit_code_2(redisai: Redisai, file: Path) -> None:
    for setting, says in (
        ("model.bilder=x", "model.bilder is unknown; did you mean builder?"),
        ("model.builder=sklearn.logistik", "did you mean sklearn.logistic?"),
        ("model.params.Q=1", "model.params.Q is unknown to sklearn.logistic"),
        ("evaluate.metrics=['rmse']", "rmse is not a metric of classification"),
        ("dataset.targets=['species']", "has no column species"),
    ):
        done = redisai("pipeline", "check", file, "--set", setting)
        assert (done.code, says in done.stderr) == (2, True), done.stderr
    missing = redisai("pipeline", "run", file.parent / "nothing.toml")
    assert missing.code == 2
    assert "nothing.toml" in missing.stderr


def test_steps_one_by_one_need_no_server(redisai: Redisai, file: Path) -> None:
    done = redisai("pipeline", "run", file, "--step", "evaluate", "--url", "redis://127.0.0.1:1")
    assert done.code == 0, done.stderr
    assert "accuracy: 0.9" in done.stdout
    assert redisai("pipeline", "check", file, "--json", "--url", "redis://127.0.0.1:1").code == 0
    wrong = redisai("pipeline", "run", file, "--step", "trian")
    assert (wrong.code, "did you mean train?" in wrong.stderr) == (2, True)


def test_jobs_are_submitted_and_cancelled(redisai: Redisai, file: Path) -> None:
    job = redisai("pipeline", "submit", file).stdout.strip()
    assert json.loads(redisai("job", "ls", "--json").stdout)[0]["id"] == job
    assert "queued" in redisai("job", "show", job).stdout
    assert redisai("job", "cancel", job).stdout.strip() == f"{job}: cancelled"
    assert redisai("job", "logs", job).code == 0
    missing = redisai("job", "show", "1-1")
    assert (missing.code, "there is no job 1-1" in missing.stderr) == (1, True)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_worker_does_one_job(redisai: Redisai, file: Path) -> None:
    job = redisai("pipeline", "submit", file).stdout.strip()
    done = redisai("worker", "--jobs", "1")
    assert done.code == 0, done.stderr
    shown = json.loads(redisai("job", "show", job, "--json").stdout)
    assert (shown["state"], shown["artifact"]) == ("done", "iris:1")
    assert "publish" in redisai("job", "logs", job, "--follow").stdout


def test_a_server_that_is_away_is_noticed_before_the_training(redisai: Redisai, file: Path) -> None:
    done = redisai("pipeline", "run", file, "--url", "redis://127.0.0.1:1")
    assert done.code == 3
    assert done.stderr.startswith("redisai: cannot reach redis://127.0.0.1:1")
    assert redisai("pipeline", "run", file.with_name("none.toml")).stderr.endswith(
        "none.toml: No such file or directory\n"
    )


def test_a_worker_needs_the_directory_that_it_is_told(redisai: Redisai) -> None:
    done = redisai("worker", "--data", "/nonexistent", "--jobs", "1")
    assert (done.code, done.stderr) == (2, "redisai: --data /nonexistent: there is no such directory\n")
