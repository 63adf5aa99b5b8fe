"""What storing and reading a large model costs in memory: docs/limits.md says how much."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.runtime.serving import Serving
from tests.wire import Wire

torch = pytest.importorskip("torch")

MEGABYTE = 1024 * 1024
_WEIGHTS = 50_000_000  # 200 MB, so that what else happens meanwhile is small beside it
_PIECE = 100 * MEGABYTE
_MOST = 2.2


class _Large(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, words: int) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.ones(words))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weights[0]


def _script(words: int, path: Path) -> bytes:
    torch.jit.save(torch.jit.script(_Large(words)), path)
    return path.read_bytes()


@contextlib.contextmanager
def _growth(process: psutil.Process) -> Iterator[list[float]]:
    """The most by which its memory grows meanwhile, in bytes."""
    before, most, stop = process.memory_info().rss, [0.0], threading.Event()

    def look() -> None:
        while not stop.wait(0.01):
            most[0] = max(most[0], process.memory_info().rss - before)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
def test_a_large_model_costs_little_more_than_twice_its_size(serve: Callable[..., Serving], tmp_path: Path) -> None:
    blob = _script(_WEIGHTS, tmp_path / "large.pt")
    small = _script(1, tmp_path / "small.pt")
    pieces = [blob[at : at + _PIECE] for at in range(0, len(blob), _PIECE)]
    serving = serve("--data-dir", tmp_path / "data")
    server = serving.server()
    with Wire(serving.port) as client:
        client.socket.settimeout(120)
        assert client("AI.MODELSTORE", "small", "TORCH", "CPU", "BLOB", small) == b"OK"  # the framework is imported
        with _growth(server) as storing:
            assert client("AI.MODELSTORE", "large", "TORCH", "CPU", "BLOB", *pieces) == b"OK"
        assert len(blob) < storing[0] < _MOST * len(blob)
        with _growth(server) as reading:
            assert client("AI.MODELGET", "large", "BLOB") == blob
        assert reading[0] < _MOST * len(blob)
