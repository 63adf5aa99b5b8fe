"""A backend of somebody else's, installed beside `redisai serve`: loaded by name, run, reported."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.runtime.serving import Serving, search_path

Serve = Callable[..., Serving]

PLUGIN = """
    import numpy as np
    from redisai_py.backend import InputSpec

    class Doubler:
        inputs = [InputSpec("x")]
        outputs = ["y"]
        nbytes = 77

        def run(self, inputs, keep_on_device=False):
            if inputs[0].size > 2:
                raise KeyError("a bug of the plugin's")
            return [np.ascontiguousarray(inputs[0] * 2)]

        def terminate(self):
            return False

        def close(self):
            pass

    class Backend:
        name = "DOUBLER"
        version = "4.2"

        def check_device(self, device):
            pass

        def load_model(self, blob, device, inputs, outputs, options):
            return Doubler()
"""

ENDLESS = """
    import threading

    import numpy as np
    from redisai_py.backend import InputSpec

    class Endless:
        inputs = [InputSpec("x", np.dtype(np.float32), (1,))]
        outputs = ["y"]
        nbytes = 0

        def __init__(self):
            self._told = threading.Event()

        def run(self, inputs, keep_on_device=False):
            self._told.wait()
            raise RuntimeError("told to stop")

        def terminate(self):
            self._told.set()
            return True

        def close(self):
            pass

    class Backend:
        name = "ENDLESS"
        version = "1.0"

        def check_device(self, device):
            pass

        def load_model(self, blob, device, inputs, outputs, options):
            return Endless()
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with three installed distributions: a plugin that works, one that cannot be imported, and one whose
    models run until they are stopped.
    """
    for name, code in (("doubler", PLUGIN), ("broken", "import no_such_framework"), ("endless", ENDLESS)):
        info = tmp_path / f"{name}_backend-1.0.dist-info"
        info.mkdir()
        (tmp_path / f"{name}_backend.py").write_text(textwrap.dedent(code))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}_backend\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[redisai_py.backends]\n{name} = {name}_backend:Backend\n")
    return tmp_path


def test_a_plugin_is_loaded_by_name_and_used(serve: Serve, data_dir: Path, site: Path) -> None:
    serving = serve("--data-dir", data_dir, environment=search_path(site))
    with serving.client() as client:
        assert "ai_DOUBLER_version" not in client.info("ai")
        assert client.execute_command("AI.CONFIG", "LOADBACKEND", "doubler", "ignored") == b"OK"
        assert client.info("ai")["ai_DOUBLER_version"] == 4.2
        with pytest.raises(redis.ResponseError, match=r"^error loading backend$"):
            client.execute_command("AI.CONFIG", "LOADBACKEND", "DOUBLER", "ignored")
        client.execute_command("AI.MODELSTORE", "m", "DOUBLER", "CPU", "BLOB", b"anything")
        client.execute_command("AI.TENSORSET", "in", "FLOAT", 2, "VALUES", 1, 2)
        client.execute_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "in", "OUTPUTS", 1, "out")
        assert [float(x) for x in client.execute_command("AI.TENSORGET", "out", "VALUES")] == [2.0, 4.0]
        assert client.execute_command("AI.INFO", "m")[4:6] == [b"backend", b"DOUBLER"]


def test_a_plugin_that_fails_is_answered_and_logged(serve: Serve, data_dir: Path, site: Path) -> None:
    serving = serve("--data-dir", data_dir, environment=search_path(site))
    with serving.client() as client:
        with pytest.raises(redis.ResponseError, match=r"^error loading backend$"):
            client.execute_command("AI.CONFIG", "LOADBACKEND", "broken", "ignored")
        assert "No module named 'no_such_framework'" in serving.stderr
        with pytest.raises(redis.ResponseError, match="No module named 'no_such_framework'"):
            client.execute_command("AI.MODELSTORE", "m", "BROKEN", "CPU", "BLOB", b"anything")
        client.execute_command("AI.MODELSTORE", "m", "DOUBLER", "CPU", "BLOB", b"anything")
        client.execute_command("AI.TENSORSET", "in", "FLOAT", 3, "VALUES", 1, 2, 3)
        with pytest.raises(redis.ResponseError, match="a bug of the plugin's"):
            client.execute_command("AI.MODELEXECUTE", "m", "INPUTS", 1, "in", "OUTPUTS", 1, "out")
        assert "a plugin failed" in serving.stderr
        assert "KeyError" in serving.stderr


def test_a_warm_up_that_is_stopped_is_logged_with_the_models_key(serve: Serve, data_dir: Path, site: Path) -> None:
    options = ("--model-execution-timeout-ms", 1000, "--log-format", "json")
    serving = serve("--data-dir", data_dir, *options, environment=search_path(site))
    with serving.client() as client:
        assert client.execute_command("AI.MODELSTORE", "m", "ENDLESS", "CPU", "BLOB", b"anything") == b"OK"
        assert client.execute_command("AI.INFO", "m")[-4:] == [b"calls", 0, b"errors", 0]
    (line,) = [line for line in serving.stderr.splitlines() if '"run failed"' in line]
    assert '"model": "m", "db": 0, "backend": "ENDLESS"' in line
    assert "MODEL_EXECUTION_TIMEOUT of 1000 ms passed" in line
