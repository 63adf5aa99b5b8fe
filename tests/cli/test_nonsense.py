"""Every command given nonsense: words on standard error and an exit code, never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from redisai_py.cli import app
from scripts.make_models import build_onnx_iris_zipmap
from tests.cli.conftest import MUL, Redisai

PROGRAM: Any = typer.main.get_command(app)
COMMANDS = [
    [name, *([inner] if inner else [])]
    for name, command in PROGRAM.commands.items()
    if name not in ("serve", "worker")  # these run until they are stopped
    for inner in getattr(command, "commands", [""])
]
NONSENSE = [
    "",
    "-",
    "nosuch",
    "/nosuch/file",
    "/",
    "\udcff",
    "a b\n c",
    "-1",
    "1e400",
    "{}",
    "x" * 5000,
    "=",
    "=x",
    "x=",
]


def parameters_of(words: list[str]) -> list[Any]:
    command = PROGRAM
    for word in words:
        command = command.commands[word]
    return list(command.params)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_nonsense(
    words: list[str], redisai: Redisai, con: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    con.modelstore("m", "ONNX", "CPU", MUL)
    con.set("string", "s")
    con.tensorset("t", np.zeros(2, np.float32))
    parameters = parameters_of(words)
    arguments = [p for p in parameters if p.param_type_name == "argument"]
    options = [p for p in parameters if p.param_type_name == "option" and not p.is_flag and p.name != "url"]
    tried = [[value] * len(arguments) for value in [*NONSENSE, "m", "t", "string"]]
    tried += [["m"] * len(arguments) + [option.opts[0], value] for option in options for value in NONSENSE]
    for given in tried:
        done = redisai(*words, *given)  # raises what is not an exit
        assert done.code in (0, 1, 2, 3), (given, done)
        assert "Traceback" not in done.stderr
        assert done.code == 0 or done.stderr.strip(), (given, done)
        assert done.stderr.count("redisai: ") <= max(1, len(given)), (given, done)


@pytest.mark.parametrize(
    "url", ["", "nosuch", "redis://", "redis://:::", "http://h", "redis://h:99999999", "redis://127.0.0.1:1"]
)
def test_a_url_that_leads_nowhere(url: str, redisai: Redisai) -> None:
    done = redisai("ping", "--url", url)
    assert done.code in (2, 3), done
    assert done.stderr.count("\n") == 1


def test_an_output_that_is_no_tensor(redisai: Redisai, con: Any, tmp_path: Path) -> None:
    """A classifier of scikit-learn: its second output is a sequence of maps, which the server leaves out."""
    con.modelstore("iris", "ONNX", "CPU", build_onnx_iris_zipmap())
    np.save(tmp_path / "x.npy", np.ones((2, 4), np.float32))
    run = ("model", "run", "iris", "--input", tmp_path / "x.npy")
    shown = redisai(*run)
    assert shown.code == 0, shown
    assert "INT64 [2]" in shown.stdout
    assert "no tensor, but a sequence or a map" in shown.stdout
    first, second = redisai(*run, "--json").document["outputs"]
    assert first["shape"] == [2]
    assert second["dtype"] is None
    names = con.modelget("iris", meta_only=True)["outputs"]
    refused = redisai(*run, "--output", f"{second['name']}={tmp_path / 'y.npy'}") if names[0] else redisai(*run)
    if names[0]:
        assert refused.code == 2
        assert "is not a tensor" in refused.stderr
        assert not (tmp_path / "y.npy").exists()
    both = redisai(*run, "--output", tmp_path / "a.npy", "--output", tmp_path / "b.npy")
    assert both.code == 2
    assert not (tmp_path / "a.npy").exists()
    one = redisai(*run, "--output", tmp_path / "a.npy")
    assert one.code == 0, one
    assert np.load(tmp_path / "a.npy").shape == (2,)
