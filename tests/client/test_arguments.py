"""Mistyped arguments: each is an error that says what to write; and many calls at once wait for a connection."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from redisai_py import AsyncClient, Client
from redisai_py.client import calls
from tests.support import FrontDoor

MUL = Path(__file__).resolve().parents[2] / "examples" / "mul.onnx"
METHODS = [name for name in calls.__all__ if not name.endswith("_words")]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_address_in_the_place_of_switches(kind: type) -> None:
    with pytest.raises(TypeError, match=r"debug must be True or False, not 'localhost'.* host='localhost', port"):
        kind("localhost", 6390)
    with pytest.raises(TypeError, match="enable_postprocess must be True or False, not 6390"):
        kind(False, 6390)
    with pytest.raises(TypeError, match="debug must be True or False"):
        kind.from_url("redis://localhost:1", debug="localhost")  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="debug must be True or False, not None"):
        kind(None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_models_file_is_a_path(make_client: Any) -> None:
    con = make_client()
    for method in (con.modelstore, con.modelset):
        with pytest.raises(TypeError, match=r"for a file's name write Path\('mul.onnx'\)"):
            method("m", "ONNX", "CPU", "mul.onnx")
        for data in (MUL, MUL.read_bytes(), bytearray(MUL.read_bytes()), memoryview(MUL.read_bytes())):
            assert method("m", "ONNX", "CPU", data) == "OK"


_GOOD = {
    "key": "k", "backend": "ONNX", "device": "CPU", "data": MUL, "script": "def f(a, b, c): pass", "function": "f",
    "entry_points": "f", "inputs": "a", "outputs": "b", "tensor": [1.0], "dtype": "float", "name": "N",
    "identifier": "X", "path": "p",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", METHODS)
def test_nonsense_is_refused_in_words(name: str, make_client: Any) -> None:
    con = make_client()
    parameters = [p for p in inspect.signature(getattr(Client, name)).parameters if p != "self"]
    needed = {p: _GOOD[p] for p in parameters if p in _GOOD and (p not in ("inputs", "outputs") or name[-3:] != "set")}
    if name.endswith("store"):
        needed = {p: value for p, value in needed.items() if p not in ("inputs", "outputs")}
    for parameter in parameters:
        for nonsense in (None, 5, 2.5, True, [], [None], {}, {"a": 1}, object(), {"x"}, "", b"", -3, "file.onnx"):
            # Numbers are keys too, and the server has the last word: not all of it is an error.
            said = _said(getattr(con, name), needed | {parameter: nonsense})
            assert said != "", (parameter, nonsense)
            assert "has no attribute" not in said, (parameter, nonsense)
    assert con.ping()


def _said(method: Any, arguments: dict[str, Any]) -> str:
    try:
        method(**arguments)
    except (TypeError, ValueError, OverflowError, redis.RedisError) as error:
        return str(error)
    return "no error"


@pytest.mark.parametrize("from_url", [False, True])
def test_the_101st_call_waits(front_door: FrontDoor, bare: redis.Redis, from_url: bool) -> None:
    async def many() -> list[Any]:
        url = f"redis://127.0.0.1:{front_door.port}"
        client = AsyncClient.from_url(url) if from_url else AsyncClient(port=front_door.port)
        async with client:
            assert client.connection_pool.max_connections == 100
            await client.tensorset("x", np.array([1, 2], np.float32))
            return await asyncio.gather(*(client.tensorget("x") for _ in range(300)))

    assert [array.tolist() for array in asyncio.run(many())] == [[1, 2]] * 300


def test_a_call_waits_no_longer_than_pool_timeout(front_door: FrontDoor, bare: redis.Redis) -> None:
    async def blocked() -> None:
        async with AsyncClient(port=front_door.port, max_connections=1, pool_timeout=0.05) as client:
            waiting = asyncio.create_task(client.blpop("nothing", 1))  # type: ignore[arg-type]
            while client.connection_pool.can_get_connection():  # noqa: ASYNC110 - redis-py tells nobody
                await asyncio.sleep(0)
            with pytest.raises(redis.ConnectionError, match="No connection available"):
                await client.tensorget("x")
            await waiting
            assert await client.ping()

    asyncio.run(blocked())


def test_pipelines_have_all_runs(make_client: Any) -> None:
    con = make_client()
    con.modelstore("mul", "ONNX", "CPU", MUL)
    con.tensorset("x", np.array([[1, 2]], np.float32))
    pipeline = con.pipeline(transaction=False)
    with pytest.warns(DeprecationWarning, match="deprecated method modelrun"):
        pipeline.modelexecute("mul", "x", "y").modelrun("mul", "y", "z").tensorget("z")
    results = pipeline.execute()
    assert results[:2] == ["OK", "OK"]
    assert results[2].tolist() == [[4, 8]]


def test_methods_of_pipelines_are_typed() -> None:
    from redisai_py.client.aio import AsyncPipeline
    from redisai_py.client.sync import Pipeline

    for kind in (Pipeline, AsyncPipeline):
        for name in ("tensorset", "tensorget", "modelexecute", "modelrun", "scriptexecute", "scriptrun"):
            assert inspect.signature(getattr(kind, name)).return_annotation == "Self"


def test_a_backend_of_somebody_else_is_one_of_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    information = tmp_path / "dummy_backend-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: dummy-backend\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[redisai_py.backends]\ndummy = dummy_backend:DummyBackend\n")
    with pytest.raises(ValueError, match="Backend not allowed"):
        calls.modelstore("m", "DUMMY", "CPU", b"m")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert calls.modelstore("m", "dummy", "CPU", b"m").argv[:4] == ["AI.MODELSTORE", "m", "dummy", "CPU"]
    from redisai_py.cli.files.models import backend_of

    assert backend_of(Path("any.bin"), "Dummy") == "DUMMY"
