"""The demo and the steps of the CI workflow, with archives in a folder; both start servers of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import redis_binaries

pytest.importorskip("skl2onnx")
pytest.importorskip("xgboost")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not redis_binaries(), reason="no redis-server"),
]


def test_the_workflow_ends_with_a_served_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from examples.pipeline import ci

    assert ci.main(["--archive", str(tmp_path / "archive")]) == 0
    assert "cancer: cancer:1 (model.onnx); 113 predictions recomputed" in capfd.readouterr().out
    assert (tmp_path / "archive" / "index.json").exists()


def test_a_failed_gate_is_exit_code_1_with_the_number(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from examples.pipeline import ci

    assert ci.main(["--archive", str(tmp_path / "archive"), "--set", "evaluate.gate.accuracy='>1'"]) == 1
    assert "accuracy must be > 1, and is 0.9" in capfd.readouterr().err
    assert not (tmp_path / "archive").exists()


def test_the_demo_gives_the_trained_model_s_predictions(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from examples.pipeline import demo

    assert demo.main(["--archive", str(tmp_path / "archive")]) == 0
    assert "113 of 113 labels" in capfd.readouterr().out


def test_the_gate_does_not_depend_on_who_tests_it(tmp_path: Path) -> None:
    from examples.pipeline.make_data import write
    from redisai_py.pipeline.run import Pipeline

    write(tmp_path / "data")
    file = Path(__file__).parents[2] / "examples/pipeline/cancer.toml"
    (tmp_path / "cancer.toml").write_bytes(file.read_bytes())
    for seed in range(20, 26):  # others than those by which the parameters were chosen
        pipeline = Pipeline.from_file(tmp_path / "cancer.toml", settings=[f"split.seed={seed}"])
        model, rows = pipeline.models[0], pipeline.sides.test
        accuracy = (model.predict(rows)["label"].astype(str) == rows["diagnosis"].astype(str)).mean()
        assert accuracy >= 0.93, seed
