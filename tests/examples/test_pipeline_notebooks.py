"""The notebooks run without a browser, and give the digest that the command line gives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from redisai_py.artifacts import Artifacts
from tests.support import RedisServer, redis_binaries

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
pytest.importorskip("skl2onnx")

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = ROOT / "examples" / "pipeline"
NAMES = sorted(path.stem for path in HERE.glob("*.ipynb"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    found = redis_binaries()
    if not found:
        pytest.skip("no redis-server")
    stock = RedisServer(next(iter(found.values())), tmp_path_factory.mktemp("redis"))
    yield stock
    stock.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The definitions with their data, outside the checkout: nothing is written into it."""
    from examples.pipeline.make_data import write

    found = tmp_path_factory.mktemp("examples")
    write(found / "data")
    for path in HERE.glob("*.toml"):
        (found / path.name).write_bytes(path.read_bytes())
    return found


def test_every_definition_has_a_notebook() -> None:
    assert sorted(path.stem for path in HERE.glob("*.toml")) == NAMES
    for name in NAMES:
        notebook = nbformat.read(HERE / f"{name}.ipynb", 4)
        nbformat.validate(notebook)
        assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not kept"


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")  # those of Jupyter's packages
def test_a_notebook_gives_the_digest_of_the_command_line(
    server: RedisServer, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = os.environ | {"REDISAI_URL": server.url}
    command = [sys.executable, "-m", "redisai_py", "pipeline", "run", str(folder / f"{name}.toml")]
    with redis.Redis(port=server.port) as client:
        client.flushall()
        subprocess.run(command, env=environment, cwd=folder, check=True, timeout=120, capture_output=True)
        with Artifacts(client) as artifacts:
            (version,) = artifacts.versions(name)
        client.flushall()
        monkeypatch.setenv("REDISAI_URL", server.url)
        notebook = nbformat.read(HERE / f"{name}.ipynb", 4)
        nbclient.NotebookClient(notebook, timeout=150, resources={"metadata": {"path": str(folder)}}).execute()
    printed = notebook.cells[-1].outputs[0]["text"].strip()
    assert printed == version.digest
    assert any("text/html" in each.get("data", {}) for cell in notebook.cells for each in cell.get("outputs", []))
