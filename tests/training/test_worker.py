"""What a training process leaves when it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from redisai_py.training.worker import WholeErrors


def test_a_failure_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    WholeErrors().record_exception(ValueError("no such column"))
    assert json.loads(file.read_text())["message"]["message"] == "ValueError: no such column"
    assert list(tmp_path.iterdir()) == [file]


def test_half_a_failure_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))

    def killed(data: Any, fp: Any) -> None:
        fp.write("{")
        raise SystemExit

    monkeypatch.setattr(json, "dump", killed)
    with pytest.raises(SystemExit):
        WholeErrors().record_exception(ValueError("no such column"))
    assert not file.exists()
