"""Plugins by entry point: a backend of somebody else's, installed as a package of its own, works without a change here.

Everything runs in a fresh interpreter, since installed packages and imported frameworks are the state of a process.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PLUGIN = """
    import numpy as np
    from redisai_py.backend import InputSpec
    from redisai_py.errors import BackendError

    class Doubler:
        inputs = [InputSpec("x")]
        outputs = ["y"]
        nbytes = 0
        def run(self, inputs, keep_on_device=False):
            return [np.ascontiguousarray(array * 2) for array in inputs]
        def terminate(self):
            return False
        def close(self):
            pass

    class DummyBackend:
        name = "DUMMY"
        version = "1.0"
        def check_device(self, device):
            if device.kind == "GPU":
                raise BackendError("ERR DUMMY has no GPU")
        def load_model(self, blob, device, inputs, outputs, options):
            self.check_device(device)
            return Doubler()
"""
PIP_OPTIONS = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
PYPROJECT = """
    [build-system]
    requires = ["hatchling"]
    build-backend = "hatchling.build"
    [project]
    name = "dummy-backend"
    version = "1.0"
    [project.entry-points."redisai_py.backends"]
    dummy = "dummy_backend:DummyBackend"
"""


def python(code: str, *paths: Path) -> str:
    """What a new interpreter prints that has these folders and this checkout on its path."""
    search = os.pathsep.join(str(path) for path in (*paths, ROOT, ROOT / "backends"))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def distribution(directory: Path, module: str, code: str, entry_points: str) -> Path:
    """A folder that holds an installed distribution: one module and its metadata."""
    info = directory / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (directory / f"{module}.py").write_text(textwrap.dedent(code))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[redisai_py.backends]\n{entry_points}\n")
    return directory


USE = """
    import numpy as np
    from redisai_py.backend import LoadOptions, backend_names, load_backend, loaded_backends
    from redisai_py.tensor import Device
    assert "DUMMY" in backend_names(), backend_names()
    assert not loaded_backends()
    backend = load_backend("dummy")
    assert load_backend("Dummy") is backend and loaded_backends() == {"DUMMY": backend}
    session = backend.load_model(b"", Device.parse(b"CPU"), (), (), LoadOptions())
    print(session.run([np.arange(3)])[0].tolist())
"""


def test_package_installed_by_pip(tmp_path: Path) -> None:
    for module in ("pip", "hatchling"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / "dummy_backend.py").write_text(textwrap.dedent(PLUGIN))
    (source / "pyproject.toml").write_text(textwrap.dedent(PYPROJECT))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *PIP_OPTIONS, "--target", str(site), str(source)],
        check=True,
        timeout=50,
    )
    assert python(USE, site) == "[0, 2, 4]"


def test_metadata_alone_makes_a_plugin(tmp_path: Path) -> None:
    site = distribution(tmp_path, "dummy_backend", PLUGIN, "dummy = dummy_backend:DummyBackend")
    assert python(USE, site) == "[0, 2, 4]"


LOAD = """
    from redisai_py.backend import load_backend
    from redisai_py.errors import BackendNotInstalled
    for name in {names!r}:
        try:
            load_backend(name)
        except BackendNotInstalled as error:
            print(error)
"""


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import no_such_framework", "ERR Could not load backend: No module named 'no_such_framework'"),
        ("raise RuntimeError('driver\\ntoo old')", "ERR Could not load backend: driver too old"),
        (
            "class DummyBackend:\n    def __init__(self): raise OSError('no library')",
            "ERR Could not load backend: no library",
        ),
        ("raise SystemExit('no licence')", "ERR Could not load backend: no licence"),
        (
            "class DummyBackend:\n    version = None",
            "ERR Could not load backend: its version is None instead of a string",
        ),
    ],
)
def test_plugin_that_cannot_be_loaded_is_one_line(tmp_path: Path, code: str, text: str) -> None:
    site = distribution(tmp_path, "dummy_backend", code, "dummy = dummy_backend:DummyBackend")
    assert python(LOAD.format(names=["dummy"]), site) == text


def test_name_that_no_plugin_has() -> None:
    assert python(LOAD.format(names=["nope"])) == "ERR Could not load backend: no plugin for NOPE is installed"


def test_absent_framework_is_answered_with_what_to_install(tmp_path: Path) -> None:
    """Each framework is hidden by a module of its name that cannot be imported."""
    for framework in ("onnxruntime", "torch", "tensorflow", "ai_edge_litert"):
        (tmp_path / f"{framework}.py").write_text(f"raise ImportError('{framework} is hidden')")
    lines = python(LOAD.format(names=["ONNX", "TORCH", "TF", "TFLITE"]), tmp_path).splitlines()
    frameworks = ["onnxruntime", "torch", "tensorflow", "ai_edge_litert"]
    assert len(lines) == 4
    for line, framework, extra in zip(lines, frameworks, ["onnx", "torch", "tensorflow", "tflite"], strict=True):
        assert line.startswith("ERR Could not load backend: ")
        assert framework in line
        assert f"; try: pip install '.[{extra}]'" in line


def test_listing_and_importing_the_seam_imports_no_framework() -> None:
    code = """
        import sys
        from redisai_py.backend import backend_names
        names = backend_names()
        frameworks = {"onnxruntime", "torch", "tensorflow", "ai_edge_litert", "redisai_py_onnx", "redisai_py_torch"}
        print(names, sorted(frameworks & set(sys.modules)))
    """
    assert python(code) == "['ONNX', 'TF', 'TFLITE', 'TORCH'] []"


def test_one_backend_is_imported_once_by_many_threads(tmp_path: Path) -> None:
    code = """
        import pathlib, time
        with pathlib.Path(__file__).with_suffix(".log").open("a") as log:
            log.write("imported\\n")
        class DummyBackend:
            name = "DUMMY"
            version = "1.0"
            def __init__(self):
                with pathlib.Path(__file__).with_suffix(".log").open("a") as log:
                    log.write("made\\n")
    """
    site = distribution(tmp_path, "dummy_backend", code, "dummy = dummy_backend:DummyBackend")
    python(
        """
        import threading
        from redisai_py.backend import load_backend
        barrier = threading.Barrier(8)
        def work():
            barrier.wait()
            load_backend("dummy")
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        """,
        site,
    )
    assert (site / "dummy_backend.log").read_text().splitlines() == ["imported", "made"]
