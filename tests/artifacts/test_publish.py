"""Publishing, deploying and rolling back, through a real server."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import redis
import redis.asyncio

from redisai_py import AsyncClient, Client
from redisai_py.artifacts import (
    Archive,
    Artifacts,
    AsyncArtifacts,
    Conflict,
    Contents,
    Corrupt,
    Invalid,
    Missing,
    NotParity,
    Predictions,
    Settings,
    Store,
    Tolerance,
    digest_of,
    environment,
    model_file,
)
from redisai_py.artifacts.parity import compare
from scripts import make_models
from tests.artifacts.models import MUL, scaling
from tests.support import FrontDoor

X = np.arange(12, dtype=np.float32).reshape(6, 2)


@pytest.fixture
def con(front_door: FrontDoor) -> Client:
    return Client(port=front_door.port)


def contents(factor: float, claimed: float | None = None, **more: object) -> Contents:
    """A model that multiplies, and its predictions, which may be another's."""
    predictions = Predictions({"x": X}, {"y": X * (factor if claimed is None else claimed)})
    return Contents(
        scaling(factor), backend="ONNX", metrics={"accuracy": factor / 10}, predictions=predictions, **more  # type: ignore[arg-type]
    )  # fmt: skip


def answer(con: Client, key: str) -> list[float]:
    con.tensorset("x", X[:1])
    con.modelexecute(key, ["x"], ["y"])
    return con.tensorget("y").reshape(-1).tolist()


def test_an_artifact_holds_all_that_was_given(artifacts: Artifacts, tmp_path: Path) -> None:
    (tmp_path / "plot.png").write_bytes(b"\x89PNG....")
    (tmp_path / "pipeline.toml").write_text('[artifact]\nname = "cancer"\n')
    version = artifacts.publish(
        "cancer",
        contents(
            2,
            analysis={"confusion": [[1, 0], [0, 1]]},
            plots={"roc.png": tmp_path / "plot.png"},
            environment=environment(),
            definition=tmp_path / "pipeline.toml",
            files={"notes.txt": b"hello"},
            lineage={"data": digest_of(b"data")},
        ),
        aliases=["staging"],
    )
    found = artifacts.get("cancer@staging")
    assert found.version.version == version.version == 1
    assert found.titles == [
        "model.onnx", "predictions.parquet", "metrics.json", "analysis.json", "environment.json", "pipeline.toml",
        "roc.png", "notes.txt",
    ]  # fmt: skip
    assert found.read("model.onnx") == scaling(2)
    assert json.loads(found.read("metrics.json")) == {"accuracy": 0.2}
    assert json.loads(found.read("environment.json"))["packages"]["redisai_py"]
    back = Predictions.from_parquet(found.read("predictions.parquet"))
    np.testing.assert_array_equal(back.outputs["y"], X * 2)
    np.testing.assert_array_equal(back.inputs["x"], X)
    written = found.save(tmp_path / "out", ["notes.txt", "model.onnx"])
    assert [path.read_bytes() for path in written] == [b"hello", scaling(2)]
    with pytest.raises(Missing, match=r"it has model\.onnx"):
        found.read("other")
    seen = artifacts.show("cancer")
    assert (seen.metrics, seen.lineage, seen.missing) == ({"accuracy": 0.2}, {"data": digest_of(b"data")}, [])


def test_the_same_inputs_are_the_same_version(artifacts: Artifacts) -> None:
    first = artifacts.publish("cancer", contents(2))
    assert artifacts.publish("cancer", contents(2)) == first
    assert artifacts.publish("cancer", contents(3)).version == 2
    assert artifacts.publish("cancer", contents(2)).version == 1


def test_the_second_version_costs_what_changed(artifacts: Artifacts) -> None:
    """Unchanged data: a predictor's training set beside a model that is another."""
    data = np.random.default_rng(0).bytes(400_000)
    artifacts.publish("cancer", contents(2, files={"train.bin": data}))
    artifacts.publish("cancer", contents(3, files={"train.bin": data}))
    seen = artifacts.diff("cancer:1", "cancer:2")
    assert seen.new < 0.25 * (seen.new + seen.shared)
    assert seen.metrics == {"accuracy": (0.2, 0.3)}
    assert seen.layers == {
        "metrics.json": "changed", "model.onnx": "changed", "predictions.parquet": "changed", "train.bin": "same",
    }  # fmt: skip
    used = artifacts.du()
    assert used.names.keys() == {"artifact cancer"}
    assert 400_000 < used.total < 420_000
    assert used.orphans == 0


@pytest.mark.parametrize(
    ("source", "backend", "title"),
    [
        (pickle.dumps({"a": 1}), "ONNX", None),
        (pickle.dumps([1]), "TORCH", "model.pt"),
        (b"", "ONNX", None),
        (b"nonsense", "ONNX", None),
        (b"nonsense", "TFLITE", None),
        (b"nonsense", "TORCH", None),
        (b"\x08\x01", "PICKLE", None),
        (b"\x08\x01", None, None),
        (b"PK\x03\x04 cut", "TORCH", None),
        (b"\x08\x01", "ONNX", "../model.onnx"),
        (b"\x08\x01", "ONNX", "model.pkl"),
    ],
)
def test_what_is_no_model_is_refused(
    artifacts: Artifacts, source: bytes, backend: str | None, title: str | None
) -> None:
    with pytest.raises(Invalid):
        artifacts.publish("cancer", Contents({title: source} if title else source, backend=backend))
    assert artifacts.names() == []


def test_torch_save_is_a_pickle_and_torchscript_is_not(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.ones(2)}, tmp_path / "state.pt")
    with pytest.raises(Invalid, match=r"torch\.save"):
        model_file(tmp_path / "state.pt")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 1)), str(tmp_path / "script.pt"))
    assert model_file(tmp_path / "script.pt").backend == "TORCH"
    torch.export.save(torch.export.export(torch.nn.Linear(2, 1), (torch.ones(1, 2),)), tmp_path / "program.pt2")
    assert model_file(tmp_path / "program.pt2").backend == "TORCH"
    hidden = io.BytesIO()
    with zipfile.ZipFile(hidden, "w") as archive:
        archive.writestr("notes", "")
    with pytest.raises(Invalid, match="not a model for TORCH"):
        model_file(hidden.getvalue(), "TORCH")


def test_a_saved_model_is_packed_the_same_whenever(tmp_path: Path) -> None:
    for name in ("one", "two"):
        directory = tmp_path / name / "model"
        (directory / "variables").mkdir(parents=True)
        (directory / "variables" / "variables.index").write_bytes(b"v")
        (directory / "saved_model.pb").write_bytes(b"\x0a\x00")
    first, second = (model_file(tmp_path / name / "model", inputs=["x"], outputs=["y"]) for name in ("one", "two"))
    assert (first.backend, first.title, first.format) == ("TF", "model.tar", "tensorflow")
    assert first.source == second.source
    assert model_file(tmp_path / "one" / "model").inputs == ()  # its signatures name them
    with pytest.raises(Invalid, match="not a SavedModel"):
        model_file(tmp_path, inputs=["x"], outputs=["y"])


def test_a_pickle_beside_the_model_is_refused(artifacts: Artifacts, tmp_path: Path) -> None:
    for name, content in {"encoder.joblib": b"x", "data.bin": pickle.dumps([1])}.items():
        with pytest.raises(Invalid, match="pickle"):
            artifacts.publish("cancer", Contents(scaling(2), backend="ONNX", files={name: content}))
    (tmp_path / "model.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(Invalid, match="pickle"):
        model_file(tmp_path / "model.pkl")


# -- parity ----------------------------------------------------------------------------------------------------------


def test_predictions_are_recomputed_before_publishing(artifacts: Artifacts) -> None:
    assert artifacts.publish("cancer", contents(2), verify=True).version == 1
    with pytest.raises(NotParity, match=r"output y is off by up to 11 .*6 rows") as refused:
        artifacts.publish("cancer", contents(2, claimed=3), verify=True)
    assert "model.onnx" in str(refused.value)
    assert [version.version for version in artifacts.versions("cancer")] == [1]
    assert not list(artifacts.store.redis.scan_iter("ai:check:*"))
    with pytest.raises(Invalid, match="verifying needs predictions"):
        artifacts.publish("cancer", Contents(scaling(2), backend="ONNX"), verify=True)


def test_the_tolerance_is_that_which_was_given(artifacts: Artifacts) -> None:
    with pytest.raises(NotParity):
        artifacts.publish("cancer", contents(2, claimed=2.01), verify=True)
    artifacts.publish("cancer", contents(2, claimed=2.01), verify=True, tolerance=Tolerance(absolute=1))
    (parity,) = artifacts.recompute("cancer", Tolerance(absolute=1))
    assert parity.rows == 6
    assert 0.05 < parity.difference < 0.15
    with pytest.raises(NotParity):
        artifacts.recompute("cancer")


def test_deploying_may_be_refused_for_the_predictions(artifacts: Artifacts, con: Client) -> None:
    artifacts.publish("cancer", contents(2))
    artifacts.publish("cancer", contents(3, claimed=4))
    artifacts.deploy("cancer:1", "m", verify=True)
    with pytest.raises(NotParity, match="cancer:2"):
        artifacts.deploy("cancer:2", "m", verify=True)
    assert answer(con, "m") == [0, 2]
    assert artifacts.deploy("cancer:2", "m").version.version == 2


def test_labels_must_be_equal_and_nan_is_nan() -> None:
    labels = np.array([1, 2, 3])
    floats = np.array([1.0, np.nan, np.inf])
    compare("m", {"label": (labels, labels), "p": (floats, floats.copy())}, Tolerance())
    text = np.array(["a", "b"])
    with pytest.raises(NotParity, match="1 of 3 rows, the first is row 2"):
        compare("m", {"label": (labels, np.array([1, 2, 4]))}, Tolerance())
    with pytest.raises(NotParity, match="row 1"):
        compare("m", {"label": (text, np.array(["a", "c"]))}, Tolerance())
    with pytest.raises(NotParity, match="row 1"):
        compare("m", {"p": (floats, np.array([1.0, 2.0, np.inf]))}, Tolerance())
    with pytest.raises(NotParity, match="row 2"):
        compare("m", {"p": (floats, np.array([1.0, np.nan, 5.0]))}, Tolerance())
    with pytest.raises(NotParity, match="shape"):
        compare("m", {"label": (labels, labels[:2])}, Tolerance())


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int8", "uint8", "bool", "<U5"])
def test_predictions_survive_as_parquet(dtype: str) -> None:
    given = Predictions({"x": np.arange(24).reshape(4, 3, 2).astype(dtype)}, {"y": np.arange(4).astype(dtype)})
    back = Predictions.from_parquet(given.to_parquet())
    for one, other in ((given.inputs["x"], back.inputs["x"]), (given.outputs["y"], back.outputs["y"])):
        np.testing.assert_array_equal(one, other)
        assert one.dtype.kind == other.dtype.kind
    assert given.to_parquet() == given.to_parquet()


@pytest.mark.parametrize("data", [b"", b"nonsense", b"PAR1" + b"\0" * 20 + b"PAR1"])
def test_what_is_no_parquet_of_predictions(data: bytes) -> None:
    with pytest.raises(Invalid):
        Predictions.from_parquet(data)


def test_predictions_that_do_not_fit_together() -> None:
    with pytest.raises(Invalid, match="same number of examples"):
        Predictions({"x": np.zeros((3, 2))}, {"y": np.zeros(2)})
    with pytest.raises(Invalid):
        Predictions({}, {"y": np.zeros(2)})
    with pytest.raises(Invalid):
        Predictions({"x": np.float64(1)}, {"y": np.zeros(2)})  # type: ignore[dict-item]


# -- deploying -------------------------------------------------------------------------------------------------------


def test_a_deployed_model_is_one_of_its_own(artifacts: Artifacts, con: Client) -> None:
    version = artifacts.publish("cancer", contents(2), aliases=["production"])
    done = artifacts.deploy("cancer@production", "m", Settings(batchsize=8))
    assert (done.key, done.version.version, done.was) == ("m", 1, None)
    meta = con.modelget("m", meta_only=True)
    assert (meta["tag"], meta["batchsize"]) == (f"cancer:1 {version.digest}", 8)
    assert answer(con, "m") == [0, 2]
    artifacts.store.redis.delete(*artifacts.store.redis.scan_iter("ai:*"))
    assert answer(con, "m") == [0, 2]
    con.copy("m", "m2")
    assert answer(con, "m2") == [0, 2]


def test_rollback_puts_back_what_was_there_with_its_settings(artifacts: Artifacts, con: Client) -> None:
    for factor in (2, 3, 4):
        artifacts.publish("cancer", contents(factor))
    artifacts.deploy("cancer:1", "m", Settings(batchsize=8))
    artifacts.deploy("cancer:2", "m")
    artifacts.deploy("cancer:3", "m")
    assert answer(con, "m") == [0, 4]
    done = artifacts.rollback("cancer", "m")
    assert (done.version.version, done.was, answer(con, "m")) == (2, 3, [0, 3])
    assert (artifacts.rollback("cancer", "m").version.version, answer(con, "m")) == (1, [0, 2])
    assert con.modelget("m", meta_only=True)["batchsize"] == 8
    with pytest.raises(Missing, match="no other version"):
        artifacts.rollback("cancer", "m")
    with pytest.raises(Missing, match="was not deployed"):
        artifacts.rollback("cancer", "other")
    artifacts.deploy("cancer:3", "m")
    assert artifacts.rollback("cancer", "m").version.version == 1
    assert artifacts.show("cancer").deployed == {"m": "cancer:1"}


def test_show_says_when_somebody_else_stored_a_model_there(artifacts: Artifacts, con: Client) -> None:
    artifacts.publish("cancer", contents(2))
    for key in ("a", "b", "c", "d"):
        artifacts.deploy("cancer", key)
    con.modelstore("b", "ONNX", "CPU", scaling(5), tag="by hand")
    con.delete("c", "d")
    con.set("d", "a string")
    assert artifacts.show("cancer").deployed == {"a": "cancer:1", "b": "by", "c": "gone", "d": "not a model any more"}


def test_a_changed_byte_is_not_deployed(artifacts: Artifacts, con: Client) -> None:
    artifacts.publish("cancer", contents(2))
    artifacts.deploy("cancer", "m")
    artifacts.publish("cancer", contents(3))
    layer = artifacts.get("cancer:2").layer("model.onnx")
    artifacts.store.redis.setrange(f"ai:blob:{layer.digest}", 5, b"X")
    with pytest.raises(Corrupt, match=r"model\.onnx"):
        artifacts.deploy("cancer:2", "m")
    assert answer(con, "m") == [0, 2]
    problems = artifacts.verify()
    assert [problem.version for problem in problems] == ["cancer:2"]
    assert layer.digest in problems[0].text


def test_several_models_are_deployed_by_title(artifacts: Artifacts, con: Client) -> None:
    both = {"first.onnx": scaling(2), "second.onnx": scaling(3)}
    predictions = {title: Predictions({"x": X}, {"y": X * f}) for title, f in (("first.onnx", 2), ("second.onnx", 3))}
    artifacts.publish("pair", Contents(both, backend="ONNX", predictions=predictions), verify=True)
    with pytest.raises(Invalid, match=r"first\.onnx, second\.onnx"):
        artifacts.deploy("pair", "m")
    with pytest.raises(Missing, match="third"):
        artifacts.deploy("pair", "m", model="third.onnx")
    artifacts.deploy("pair", "m", model="second.onnx", verify=True)
    assert answer(con, "m") == [0, 3]
    assert len(artifacts.recompute("pair")) == 2


def test_deploying_at_a_plain_redis_says_so(store: Store, bare: redis.Redis) -> None:
    artifacts = Artifacts(bare)
    artifacts.publish("cancer", contents(2))
    with pytest.raises(redis.ResponseError, match="unknown command"):
        artifacts.deploy("cancer", "m")
    assert [entry.event for entry in artifacts.log("cancer")] == ["publish"]


def test_a_model_that_the_server_refuses_changes_nothing(artifacts: Artifacts, con: Client) -> None:
    artifacts.publish("cancer", contents(2))
    artifacts.deploy("cancer", "m")
    artifacts.publish("cancer", Contents(b"\x08\x01 no graph", backend="ONNX"))
    with pytest.raises(redis.ResponseError):
        artifacts.deploy("cancer:2", "m")
    assert answer(con, "m") == [0, 2]
    assert artifacts.show("cancer").deployed == {"m": "cancer:1"}


def test_all_is_lost_and_comes_back_from_the_archive(
    artifacts: Artifacts, con: Client, archive: Archive, bare: redis.Redis
) -> None:
    artifacts.publish("cancer", contents(2), aliases=["production"])
    artifacts.push(["cancer"], archive)
    bare.flushall()
    with pytest.raises(Missing):
        artifacts.deploy("cancer@production", "m")
    artifacts.deploy("cancer@production", "m", archive=archive, verify=True)
    assert answer(con, "m") == [0, 2]


def test_what_was_evicted_is_fetched_for_the_deployment(artifacts: Artifacts, con: Client, archive: Archive) -> None:
    big = np.random.default_rng(0).bytes(100_000)
    for factor in (2, 3):
        artifacts.publish("cancer", contents(factor, files={"train.bin": big, f"own-{factor}.bin": big[factor:]}))
    artifacts.promote("cancer:2", "production")
    with pytest.raises(Missing):
        artifacts.evict(["cancer:1"], archive)
    artifacts.push(["cancer"], archive)
    with pytest.raises(Invalid, match="production"):
        artifacts.evict(["cancer"], archive)
    done = artifacts.evict(["cancer:1"], archive)
    assert 100_000 < done.bytes < 110_000
    seen = artifacts.show("cancer:1")
    assert "own-2.bin" in seen.missing
    assert "train.bin" not in seen.missing
    problems = artifacts.verify(["cancer"])
    assert {problem.fatal for problem in problems} == {False}
    assert artifacts.verify(["cancer"], archive) == []
    if archive.folder:
        artifacts.deploy("cancer:1", "m")  # from where the registry says that it is
    else:
        artifacts.deploy("cancer:1", "m", archive=archive)
    assert answer(con, "m") == [0, 2]
    assert artifacts.verify(["cancer"]) == []


def test_rm_and_gc_free_the_bytes(artifacts: Artifacts, archive: Archive) -> None:
    artifacts.publish("cancer", contents(2), aliases=["production"])
    artifacts.publish("cancer", contents(3))
    artifacts.push(["cancer"], archive)
    with pytest.raises(Conflict, match="production"):
        artifacts.rm(["cancer"])
    assert [str(version) for version in artifacts.rm(["cancer:2"])] == ["cancer:2"]
    assert artifacts.gc(dry_run=True).removed == artifacts.gc().removed > 0
    artifacts.rm(["cancer:2"], archive)
    assert artifacts.gc(archive=archive, older_s=0).removed > 0
    assert artifacts.verify() == artifacts.verify(archive=archive) == []


# -- asyncio ---------------------------------------------------------------------------------------------------------


def test_both_classes_have_the_same_methods() -> None:
    public = {name for name in vars(Artifacts) if not name.startswith("_")}
    assert {name for name in vars(AsyncArtifacts) if not name.startswith("_")} == public
    for name in public:
        assert inspect.iscoroutinefunction(getattr(AsyncArtifacts, name))
        assert inspect.signature(getattr(AsyncArtifacts, name)) == inspect.signature(getattr(Artifacts, name))


@pytest.mark.parametrize("kind", [redis.asyncio.Redis, AsyncClient])
def test_asyncio(front_door: FrontDoor, bare: redis.Redis, con: Client, kind: type[redis.asyncio.Redis]) -> None:
    async def work() -> float:
        client = kind(port=front_door.port)
        async with AsyncArtifacts(client, actor="ann") as artifacts:
            beats = 0

            async def beat() -> None:
                nonlocal beats
                while True:
                    await asyncio.sleep(0.001)
                    beats += 1

            beating = asyncio.create_task(beat())
            version = await artifacts.publish("cancer", contents(2), verify=True)
            await artifacts.deploy(str(version), "m")
            assert [version.version for version in await artifacts.versions("cancer")] == [1]
            beating.cancel()
            assert beats > 3
        await client.aclose()
        return time.monotonic()

    asyncio.run(work())
    assert answer(con, "m") == [0, 2]
    assert MUL.exists()


def test_a_model_that_is_not_wrapped_says_what_to_write(artifacts: Artifacts, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"publish takes Contents\(model, ...\), not \w*Path"):
        artifacts.publish("m", tmp_path / "m.onnx")  # type: ignore[arg-type]
    assert not artifacts.names()


FORMATS: list[tuple[str, Callable[[], bytes], list[str], list[str]]] = [
    ("TORCH", make_models.build_torch_mul, [], ["a", "a"]),
    ("TORCH", make_models.build_torch_export_mul, [], ["a", "a"]),
    ("TF", make_models.build_tf_mul, ["a", "b"], ["a", "a"]),
    ("TF", make_models.build_tf_saved_model_tar, [], ["a"]),
    ("TFLITE", make_models.build_tflite_mul, [], ["a", "a"]),
]


@pytest.mark.parametrize(("backend", "build", "names", "inputs"), FORMATS)
def test_a_model_of_every_format_is_deployed(
    artifacts: Artifacts, con: Client, backend: str, build: Callable[[], bytes], names: list[str], inputs: list[str]
) -> None:
    outputs = ["mul"] if names else []
    artifacts.publish("m", Contents(build(), backend=backend, inputs=names, outputs=outputs))
    artifacts.deploy("m", "k")
    con.tensorset("a", np.full((1, 2), 2, np.float32))
    keys = ["y", "z"] if len(inputs) == 1 else ["y"]
    con.modelexecute("k", inputs, keys)
    assert con.tensorget("y").tolist() == [[4, 4]]


def test_only_a_frozen_graph_needs_names() -> None:
    with pytest.raises(Invalid, match=r"model\.pb is a frozen graph: the names"):
        Contents(b"\x0a\x02", backend="TF")
