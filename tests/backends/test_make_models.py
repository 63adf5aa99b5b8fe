"""The script that builds test models: its command line, and that what it builds is small and the same at every call."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from scripts import make_models

pytestmark = pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="onnx is not installed")


def test_named_models_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "new" / "models"
    assert make_models.main([str(directory), "onnx_mul", "onnx_add.onnx"]) == 0
    assert {path.name for path in directory.iterdir()} == {"onnx_mul.onnx", "onnx_add.onnx"}
    assert (directory / "onnx_mul.onnx").read_bytes() == make_models.build_onnx_mul()
    assert "onnx_mul.onnx" in capsys.readouterr().out


def test_unknown_name_is_refused_and_nothing_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_models.main([str(tmp_path / "models"), "onnx_mul", "nope"])
    assert "no such model: nope" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", sorted(name for name in make_models.BUILDERS if name.startswith("onnx")))
def test_onnx_models_are_the_same_at_every_call(name: str) -> None:
    assert make_models.BUILDERS[name]() == make_models.BUILDERS[name]()
