from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from safetensors.numpy import load_file

from redisai_py.cli.failures import UsageError
from redisai_py.cli.files.models import backend_of, read_model
from tests.cli.conftest import MUL, Redisai
from tests.support import RedisServer, long_model


def test_a_model_goes_in_and_comes_out_as_it_was(redisai: Redisai, con: Any, tmp_path: Path) -> None:
    stored = redisai("model", "put", "net", MUL, "--tag", "v7", "--batch", 8, "--min-batch", 2)
    assert (stored.code, stored.stdout, stored.stderr) == (0, "net: ONNX on CPU, 100 B\n", "")
    meta = con.modelget("net", meta_only=True)
    assert (meta["backend"], meta["device"], meta["tag"], meta["batchsize"]) == ("ONNX", "CPU", "v7", 8)
    assert meta["minbatchsize"] == 2

    fetched = redisai("model", "get", "net", tmp_path / "out.onnx")
    assert fetched.code == 0
    assert (tmp_path / "out.onnx").read_bytes() == MUL.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]


def test_a_model_longer_than_a_chunk_comes_out_whole(redisai: Redisai, con: Any, tmp_path: Path) -> None:
    model = long_model()
    (tmp_path / "in.onnx").write_bytes(model)
    redisai("model", "put", "net", tmp_path / "in.onnx")
    before = con.config("MODEL_CHUNK_SIZE")
    try:
        con.config("MODEL_CHUNK_SIZE", 65536)
        assert redisai("model", "get", "net", tmp_path / "out.onnx", "--json").document["bytes"] == len(model)
    finally:
        con.config("MODEL_CHUNK_SIZE", before)
    assert (tmp_path / "out.onnx").read_bytes() == model


def test_models_are_listed_for_people_and_for_programs(redisai: Redisai) -> None:
    nothing = redisai("model", "ls")
    assert (nothing.stdout, nothing.stderr) == ("", "no models\n")
    assert redisai("model", "ls", "--json").document == []
    redisai("model", "put", "b", MUL, "--tag", "v1")
    redisai("model", "put", "a", MUL)
    lines = redisai("model", "ls").stdout.splitlines()
    assert lines[0].split() == ["key", "backend", "device", "tag", "batchsize", "inputs", "outputs"]
    assert [line.split() for line in lines[1:]] == [
        ["a", "ONNX", "CPU", "0", "x", "y"],
        ["b", "ONNX", "CPU", "v1", "0", "x", "y"],
    ]
    listed = redisai("model", "ls", "--json").document
    assert [(model["key"], model["tag"], model["inputs"]) for model in listed] == [("a", "", ["x"]), ("b", "v1", ["x"])]


def test_a_model_is_shown_with_the_types_and_shapes_of_its_tensors(redisai: Redisai) -> None:
    redisai("model", "put", "net", MUL, "--tag", "v1", "--batch", "8")
    shown = redisai("model", "show", "net").stdout
    assert "x FLOAT [" in shown
    assert "v1" in shown
    document = redisai("model", "show", "net", "--json").document
    assert document["inputs"][0][:2] == ["x", "FLOAT"]
    assert (document["batchsize"], document["loaded"], document["keeps state"]) == (8, True, False)
    missing = redisai("model", "show", "nope")
    assert missing.code == 1
    assert "model key is empty" in missing.stderr


def test_a_key_that_could_steer_a_terminal_is_shown_in_escapes(redisai: Redisai) -> None:
    redisai("model", "put", "\x1b[31mred", MUL, "--tag", "[bold]b\nc")
    shown = redisai("model", "ls").stdout
    assert "\\x1b[31mred" in shown
    assert "[bold]b\\nc" in shown
    assert len(shown.splitlines()) == 2
    assert redisai("model", "ls", "--json").document[0]["key"] == "\x1b[31mred"


def test_models_are_deleted_and_what_is_not_there_is_named(redisai: Redisai, bare: redis.Redis) -> None:
    for key in ("a", "b"):
        redisai("model", "put", key, MUL)
    done = redisai("model", "rm", "a", "nope", "b")
    assert done.code == 1
    assert done.stdout == "a: deleted\nb: deleted\n"
    assert done.stderr == "redisai: nope: model key is empty\n"
    assert bare.dbsize() == 0
    redisai("model", "put", "a", MUL)
    assert redisai("model", "rm", "a", "--json").document == {"deleted": ["a"]}


def test_a_run_from_file_to_file_leaves_no_keys(redisai: Redisai, bare: redis.Redis, x: Path, tmp_path: Path) -> None:
    redisai("model", "put", "net", MUL)
    done = redisai("model", "run", "net", "--input", x, "--output", tmp_path / "y.npy")
    assert done.code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), np.array([[3, 4]], np.float32))
    assert bare.keys() == [b"net"]
    named = redisai("model", "run", "net", "-i", f"x={x}", "-o", f"y={tmp_path / 'y.safetensors'}", "--json").document
    assert named == {
        "outputs": [{"name": "y", "dtype": "FLOAT", "shape": [1, 2], "file": str(tmp_path / "y.safetensors")}]
    }
    np.testing.assert_array_equal(load_file(tmp_path / "y.safetensors")["tensor"], np.array([[3, 4]], np.float32))


def test_a_run_without_a_file_prints_its_outputs(redisai: Redisai, x: Path) -> None:
    redisai("model", "put", "net", MUL)
    assert redisai("model", "run", "net", "-i", x).stdout == "y  FLOAT [1, 2]\n[[3., 4.]]\n"
    assert redisai("model", "run", "net", "-i", x, "--json").document == {
        "outputs": [{"name": "y", "dtype": "FLOAT", "shape": [1, 2], "values": [[3.0, 4.0]]}]
    }


def test_inputs_of_several_are_told_by_name_or_order(redisai: Redisai, con: Any, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "abcd"]
    nodes = [onnx.helper.make_node("Sub", ["a", "b"], ["c"]), onnx.helper.make_node("Add", ["a", "b"], ["d"])]
    graph = onnx.helper.make_graph(nodes, "g", value[:2], value[2:])
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    (tmp_path / "sub.onnx").write_bytes(model.SerializeToString())
    for name, number in (("five", 5), ("two", 2)):
        np.save(tmp_path / f"{name}.npy", np.array([number], np.float32))
    five, two = tmp_path / "five.npy", tmp_path / "two.npy"
    redisai("model", "put", "net", tmp_path / "sub.onnx")

    def values(*arguments: object) -> list[Any]:
        outputs = redisai("model", "run", "net", *arguments, "--json").document["outputs"]
        return [output["values"] for output in outputs]

    assert values("-i", five, "-i", two) == [[3.0], [7.0]]
    assert values("-i", f"b={five}", "-i", f"a={two}") == [[-3.0], [7.0]]
    done = redisai("model", "run", "net", "-i", five, "-i", two, "-o", f"d={tmp_path / 'd.npy'}")
    assert done.code == 0
    assert np.load(tmp_path / "d.npy") == [7]

    twice = redisai("model", "run", "net", "-i", f"a={five}", "-i", f"a={two}")
    assert twice.code == 2
    assert "same place" in twice.stderr
    few = redisai("model", "run", "net", "-i", five)
    assert few.code == 2
    assert "a, b" in few.stderr
    many = redisai("model", "run", "net", "-i", five, "-i", two, "-i", two)
    assert many.code == 2
    assert "cannot be combined" in many.stderr


def test_an_input_of_the_wrong_type_is_refused_until_it_is_converted(redisai: Redisai, tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.array([[1.5, 2]]))
    redisai("model", "put", "net", MUL)
    refused = redisai("model", "run", "net", "-i", tmp_path / "d.npy")
    assert refused.code == 1
    assert "double" in refused.stderr
    done = redisai("model", "run", "net", "-i", tmp_path / "d.npy", "--dtype", "float", "--json")
    assert done.document["outputs"][0]["values"] == [[3.0, 4.0]]


def test_a_run_that_waits_too_long_is_given_up(redisai: Redisai, x: Path, tmp_path: Path) -> None:
    redisai("model", "put", "net", MUL, "--batch", 8, "--min-batch", 8)  # alone, it would wait for ever
    done = redisai("model", "run", "net", "-i", x, "-o", tmp_path / "y.npy", "--timeout", 50)
    assert done.code == 1
    assert "--timeout" in done.stderr
    assert not (tmp_path / "y.npy").exists()


def test_a_model_that_cannot_be_written_is_an_error_of_this_machine(redisai: Redisai, tmp_path: Path) -> None:
    redisai("model", "put", "net", MUL)
    refused = redisai("model", "get", "net", tmp_path / "nowhere" / "net.onnx")
    assert refused.code == 2
    assert refused.stderr == f"redisai: {tmp_path}/nowhere/net.onnx: there is no directory {tmp_path}/nowhere\n"
    refused = redisai("model", "get", "net", tmp_path)
    assert refused.code == 2
    assert refused.stderr == f"redisai: {tmp_path}: this is a directory\n"


def test_outputs_that_cannot_be_written_are_refused_before_the_run(redisai: Redisai, con: Any, x: Path) -> None:
    redisai("model", "put", "net", MUL)
    for output in ("y.txt", "nowhere/y.npy", "y="):
        refused = redisai("model", "run", "net", "-i", x, "-o", output)
        assert refused.code == 2
        assert output in refused.stderr
    assert con.infoget("net")["calls"] == 0


def test_a_torch_model_has_outputs_without_names(redisai: Redisai, x: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from scripts.make_models import build_torch_mul

    del torch
    (tmp_path / "mul.pt").write_bytes(build_torch_mul())
    stored = redisai("model", "put", "net", tmp_path / "mul.pt", "--json").document
    assert stored == {"key": "net", "backend": "TORCH", "device": "CPU", "bytes": (tmp_path / "mul.pt").stat().st_size}
    np.save(tmp_path / "one.npy", np.ones((1, 2), np.float32))
    count = len(redisai("info", "net", "--json").document["inputs"])
    inputs = [word for _ in range(count) for word in ("-i", str(tmp_path / "one.npy"))]
    done = redisai("model", "run", "net", *inputs, "-o", tmp_path / "y.npy")
    assert done.code == 0, done.stderr
    assert np.load(tmp_path / "y.npy").shape == (1, 2)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_saved_model_is_sent_as_its_directory(redisai: Redisai, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    from scripts.make_models import build_tf_saved_model_zip

    with zipfile.ZipFile(io.BytesIO(build_tf_saved_model_zip())) as archive:
        archive.extractall(tmp_path)
    (directory,) = {path.parent for path in tmp_path.rglob("saved_model.pb")}
    stored = redisai("model", "put", "net", directory, "--inputs", "x", "--outputs", "scaled,shifted")
    assert stored.code == 0, stored.stderr
    np.save(tmp_path / "n.npy", np.array([[2, 3]], np.float32))
    run = redisai("model", "run", "net", "-i", tmp_path / "n.npy", "--json").document
    assert [output["values"] for output in run["outputs"]] == [[[4.0, 6.0]], [[4.0, 5.0]]]


def test_a_model_that_the_framework_refuses_is_an_error_of_the_server(redisai: Redisai, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"this is not a model")
    refused = redisai("model", "put", "net", tmp_path / "broken.onnx")
    assert refused.code == 1
    assert refused.stderr.startswith("redisai: ")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("net.bin", (), "--backend"),
        ("net.onnx", ("--backend", "KERAS"), "KERAS"),
        ("net.onnx", ("--device", "TPU"), "Device"),
        ("net.onnx", ("--min-batch", 2), "Minbatch"),
        ("net.onnx", ("--inputs", "x"), "Inputs"),
        ("net.pb", (), "--inputs and --outputs"),
        ("net.pb", ("--inputs", "x"), "--inputs and --outputs"),
        ("empty.onnx", (), "empty"),
        ("absent.onnx", (), "No such file"),
        ("", (), "not a SavedModel"),
    ],
)
def test_what_cannot_be_a_model_is_said_before_anything_is_sent(
    redisai: Redisai, bare: redis.Redis, tmp_path: Path, name: str, options: tuple[object, ...], reason: str
) -> None:
    if name not in ("absent.onnx", ""):
        (tmp_path / name).write_bytes(b"" if name == "empty.onnx" else b"model")
    refused = redisai("model", "put", "net", tmp_path / name, *options)
    assert refused.code == 2
    assert reason in refused.stderr
    assert bare.dbsize() == 0


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("a.onnx", "ONNX"),
        ("a.pt", "TORCH"),
        ("A.PTH", "TORCH"),
        ("a.pt2", "TORCH"),
        ("a.torchscript", "TORCH"),
        ("a.pb", "TF"),
        ("a.zip", "TF"),
        ("a.tar", "TF"),
        ("a.tar.gz", "TF"),
        ("a.tgz", "TF"),
        ("a.v2.tflite", "TFLITE"),
    ],
)
def test_the_name_tells_the_framework(name: str, backend: str) -> None:
    assert backend_of(Path(name), None) == backend
    assert backend_of(Path(name), "onnx") == "ONNX"


def test_a_saved_models_directory_is_packed_the_same_every_time(tmp_path: Path) -> None:
    (tmp_path / "variables").mkdir()
    with pytest.raises(UsageError, match=r"not a SavedModel"):
        read_model(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "variables" / "data").write_bytes(b"weights" * 1000)
    packed = read_model(tmp_path)
    assert isinstance(packed, bytes)
    assert backend_of(tmp_path, None) == "TF"
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert archive.getnames() == ["saved_model.pb", "variables/data"]
        weights = archive.extractfile("variables/data")
        assert weights is not None
        assert weights.read() == b"weights" * 1000
    (tmp_path / "saved_model.pb").touch()
    assert read_model(tmp_path) == packed


def test_a_plain_redis_is_recognised(redisai: Redisai, redis_server: RedisServer) -> None:
    stored = redisai("model", "put", "net", MUL, "--url", redis_server.url)
    assert stored.code == 1
    assert "plain Redis" in stored.stderr
