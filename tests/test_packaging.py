"""The distribution as its users get it: what is in the wheel, and that it works where the sources are not."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import redisai_py
from scripts.check_wheel import problems

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """The output of a command that has to succeed, run where the sources cannot be found by chance."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "REDISAI_"))}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built with the tools of this environment."""
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory, ROOT, cwd=directory)
    (built,) = directory.glob("*.whl")
    return built


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    assert problems(wheel) == []
    assert wheel.name.startswith(f"redisai_py-{redisai_py.__version__}-py3-none-any")


def test_the_check_of_the_wheel_can_fail(wheel: Path, tmp_path: Path) -> None:
    broken = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as good, zipfile.ZipFile(broken, "w") as bad:
        for name in good.namelist():
            if not name.startswith("redisai_py_onnx/") and not name.endswith("entry_points.txt"):
                bad.writestr(name, good.read(name))
        bad.writestr("backends/redisai_py_onnx/__init__.py", "")
        bad.writestr("redisai_py/model.bin", "")
    found = "\n".join(problems(broken))
    for words in ("has backends at", "lacks the package redisai_py_onnx", "model.bin", "entry points"):
        assert words in found


def test_the_wheel_works_without_the_sources(wheel: Path, tmp_path: Path) -> None:
    """Unpacked beside the libraries of this environment: a plain path, in which no editable install can be found."""
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    libraries = str(Path(metadata.distribution("typer").locate_file("")))
    path = os.pathsep.join([str(site), libraries])
    where = "import redisai_py, redisai_py_onnx as o; print(redisai_py.__file__, o.__file__)"
    # -S leaves out the .pth file of the editable install.
    for file in run(sys.executable, "-S", "-c", where, cwd=tmp_path, PYTHONPATH=path).split():
        assert file.startswith(str(site))
    page = run(sys.executable, "-S", "-m", "redisai_py", "serve", "--help", cwd=tmp_path, PYTHONPATH=path)
    assert "--data-dir" in page


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_wheel_installs_into_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    binaries = tmp_path / "venv" / "bin"
    constraints = ROOT / "constraints.txt"
    run(binaries / "pip", "install", "--quiet", "--constraint", constraints, wheel, cwd=tmp_path)
    assert "--data-dir" in run(binaries / "redisai", "serve", "--help", cwd=tmp_path)
    assert redisai_py.__version__ in run(binaries / "redisai", "--version", cwd=tmp_path)
    script = "from redisai_py import backend; print(backend.backend_names()); backend.load_backend('ONNX')"
    failed = subprocess.run(
        [binaries / "python", "-c", script], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert "['ONNX', 'TF', 'TFLITE', 'TORCH']" in failed.stdout
    assert "pip install '.[onnx]'" in failed.stderr
    run(binaries / "pip", "check", cwd=tmp_path)


def normalized(requirement: str) -> str:
    """The name in a requirement, as it would be imported: `prometheus-client>=1` is prometheus_client."""
    return re.split(r"[<>=!\[; ]", requirement)[0].lower().replace("-", "_")


def imported_by(directory: Path) -> set[str]:
    """Top-level names that the modules under the directory import."""
    names: set[str] = set()
    for path in directory.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names


def test_what_the_server_imports_is_declared() -> None:
    """Every library that the package imports is a dependency of it, not only of another dependency."""
    declared = set(map(normalized, PROJECT["dependencies"])) | {"pydantic"}  # the other half of pydantic-settings
    declared |= {"pil"}  # Pillow, of the extra `images`: imported when an image is read or written
    declared |= {"sklearn"}  # scikit-learn, of the extra `pipeline`
    # Of artifacts, data sets, training and pipelines, which say so when one is missing.
    for extra in ("archive", "data", "train", "ray", "pipeline", "onnx"):
        declared |= set(map(normalized, PROJECT["optional-dependencies"][extra]))
    third_party = {name.lower() for name in imported_by(ROOT / "redisai_py")} - sys.stdlib_module_names
    assert third_party - {"redisai_py"} <= declared


def test_every_pin_satisfies_what_is_required() -> None:
    packaging = pytest.importorskip("packaging.requirements")
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"
    )
    versions = {normalized(name): version for name, version in pins.items()}
    wanted = [*PROJECT["dependencies"], *(w for ws in PROJECT["optional-dependencies"].values() for w in ws)]
    for text in wanted:
        requirement = packaging.Requirement(text)
        version = versions.get(normalized(requirement.name))
        if version is not None:
            assert requirement.specifier.contains(version, prereleases=True), text


def test_extras_name_every_framework() -> None:
    extras = PROJECT["optional-dependencies"]
    assert {
        "onnx",
        "torch",
        "tensorflow",
        "tflite",
        "onnx-gpu",
        "torch-gpu",
        "tensorflow-gpu",
        "all",
        "dev",
    } <= extras.keys()
    assert set(PROJECT["entry-points"]["redisai_py.backends"]) == {"onnx", "tf", "tflite", "torch"}


def test_make_lists_every_verb_with_a_line_of_help() -> None:
    listed = run("make", cwd=ROOT)
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.M)
    assert phony is not None
    for verb in phony[1].split():
        assert re.search(rf"^  make {verb} +\w", listed, re.M), verb
