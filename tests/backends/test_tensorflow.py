"""TF: node names and texts as RedisAI has them, SavedModels as archives, and archives that must not be unpacked."""

from __future__ import annotations

import io
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from redisai_py.backend import LoadOptions
from redisai_py.errors import BackendError
from redisai_py.tensor import Device, Tensor
from scripts.make_models import frozen_graph
from tests.backends.conftest import Models, as_input

tf = pytest.importorskip("tensorflow", reason="TF: tensorflow is not installed")

from redisai_py_tensorflow import TensorflowBackend, _archive  # noqa: E402  # after the skip
from redisai_py_tensorflow._session import TensorflowSession  # noqa: E402  # after the skip

CPU = Device.parse(b"CPU")


def load(blob: bytes, inputs: str, outputs: str, options: LoadOptions | None = None) -> TensorflowSession:
    """Load with names given in one word each, separated by spaces."""
    return TensorflowBackend().load_model(blob, CPU, inputs.split(), outputs.split(), options or LoadOptions())


ONES = as_input(np.ones((2, 2), np.float32))


def error_of(function: Callable[..., Any], *args: Any) -> str:
    with pytest.raises(BackendError) as caught:
        function(*args)
    return str(caught.value)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="this machine has a GPU")
@pytest.mark.parametrize("device", [b"GPU", b"GPU:1"])
def test_gpu_that_is_not_there_is_refused_at_store_time(models: Models, device: bytes) -> None:
    text = error_of(
        TensorflowBackend().load_model, models("tf_mul.pb"), Device.parse(device), ["a"], ["mul"], LoadOptions()
    )
    assert text == "ERR GPU requested but TF couldn't find CUDA"


@pytest.mark.parametrize(
    ("inputs", "outputs", "text"),
    [
        ("a nope", "mul", 'ERR Input node named "nope" not found in TF graph.'),
        ("a mul", "mul", 'ERR Input node named "mul" not found in TF graph.'),  # no placeholder
        ("a b", "mul:0", 'ERR Output node named "mul:0" not found in TF graph'),
    ],
)
def test_names_that_the_graph_does_not_have(models: Models, inputs: str, outputs: str, text: str) -> None:
    assert error_of(load, models("tf_mul.pb"), inputs, outputs) == text


def test_invalid_graph(models: Models) -> None:
    assert error_of(load, b"garbage", "a b", "mul") == "Invalid GraphDef"
    assert error_of(load, models("tf_mul.pb")[:-3], "a b", "mul") == "Invalid GraphDef"


def test_unknown_operation_is_tensorflows_text() -> None:
    definition = tf.compat.v1.GraphDef()
    definition.node.add(name="a", op="NoSuchOp")
    assert "NoSuchOp" in error_of(load, definition.SerializeToString(), "a", "a")


def test_inputs_and_outputs_have_the_given_order() -> None:
    def build(tf: Any) -> None:
        a, b = (tf.compat.v1.placeholder(tf.float32, name=name) for name in "ab")
        tf.subtract(a, b, name="difference")
        tf.add(a, b, name="sum")

    session = load(frozen_graph(build), "b a", "sum difference")
    assert [spec.name for spec in session.inputs] == ["b", "a"]
    assert list(session.outputs) == ["sum", "difference"]
    added, difference = session.run([ONES, as_input(np.full((2, 2), 5, np.float32))])
    np.testing.assert_array_equal(added, np.full((2, 2), 6))
    np.testing.assert_array_equal(difference, np.full((2, 2), 4))


def test_output_that_is_an_input_is_a_copy(models: Models) -> None:
    _, output = load(models("tf_mul.pb"), "a b", "mul a").run([ONES, ONES])
    assert isinstance(output, np.ndarray)
    np.testing.assert_array_equal(output, ONES)
    assert not np.shares_memory(output, ONES)


def test_output_that_is_a_view_of_an_input_is_a_copy() -> None:
    def build(tf: Any) -> None:
        tf.reshape(tf.compat.v1.placeholder(tf.float32, name="x"), [-1], name="flat")

    (output,) = load(frozen_graph(build), "x", "flat").run([ONES])
    assert isinstance(output, np.ndarray)
    assert not np.shares_memory(output, ONES)


def test_graph_that_could_work_in_place_leaves_its_input_alone() -> None:
    def build(tf: Any) -> None:
        tf.nn.relu(tf.compat.v1.placeholder(tf.float32, name="x") - 5, name="y")

    session = load(frozen_graph(build), "x", "y")
    array = as_input(np.full((100, 100), 3, np.float32))
    for _ in range(3):
        np.testing.assert_array_equal(session.run([array])[0], np.zeros((100, 100)))
    assert (array == 3).all()


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ([ONES], "Expected 2 feed tensors, but got 1"),
        ([ONES, ONES.astype("f8")], "Type mismatch: actual double vs. expect float"),
        ([ONES, as_input(np.ones((3, 2), np.float32))], "Incompatible shapes: [2,2] vs. [3,2]"),
    ],
)
def test_run_errors_are_tensorflows_text(models: Models, inputs: list[Any], text: str) -> None:
    assert error_of(load(models("tf_mul.pb"), "a b", "mul").run, inputs).startswith(text)


def test_an_output_of_a_type_that_no_tensor_has_is_refused_when_the_model_is_stored() -> None:
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        tf.complex(x, x, name="c")
    text = error_of(load, graph.as_graph_def().SerializeToString(), "x", "c")
    assert text == "ERR output c is of the type complex64, which no tensor here has"


def test_input_that_is_not_named_is_missed_when_the_model_is_stored(models: Models) -> None:
    assert error_of(load, models("tf_mul.pb"), "a", "mul") == (
        'ERR the outputs need the input "b", which INPUTS leaves out (it names: a)'
    )


@pytest.mark.parametrize(
    "dtype", ["f4", "f8", "f2", ml_dtypes.bfloat16, "?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
)
def test_every_numeric_type_passes_unchanged(dtype: Any) -> None:
    def build(tf: Any) -> None:
        x = tf.compat.v1.placeholder(tf.as_dtype(np.dtype(dtype)), name="x")
        tf.reshape(x, [3, 1], name="y")

    array = as_input(np.array([0, 1, 100]).astype(dtype))
    session = load(frozen_graph(build), "x", "y")
    (output,) = session.run([array])
    assert isinstance(output, np.ndarray)
    assert output.dtype == array.dtype == session.inputs[0].dtype
    assert output.tobytes() == array.tobytes()


def test_strings_are_bytes_of_any_kind(models: Models) -> None:
    session = load(models("tf_string_join.pb"), "a b", "joined")
    (output,) = session.run([as_input(np.array([b"a", b"\xff"], object)), as_input(np.array([b"b", b"\xfe"], object))])
    assert isinstance(output, np.ndarray)
    assert output.tolist() == [b"ab", b"\xff\xfe"]
    assert Tensor.from_numpy(output).shape == (2,)
    scalar = np.array(b"x", object)
    (output,) = session.run([scalar, scalar])
    assert isinstance(output, np.ndarray)
    assert (output.shape, output.item()) == ((), b"xx")


def test_scalar_output_is_an_array_of_no_dimensions() -> None:
    def build(tf: Any) -> None:
        tf.reduce_sum(tf.compat.v1.placeholder(tf.float32, name="x"), name="sum")

    (output,) = load(frozen_graph(build), "x", "sum").run([ONES])
    assert isinstance(output, np.ndarray)
    assert (output.shape, output.dtype, output.item()) == ((), np.float32, 4.0)


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_threads_between_operations(models: Models, threads: int) -> None:
    session = load(models("tf_mul.pb"), "a b", "mul", LoadOptions(inter_op_threads=threads))
    np.testing.assert_array_equal(session.run([ONES, ONES])[0], ONES)
    session.close()


# --- SavedModels


@pytest.mark.parametrize("name", ["tf_saved_model.zip", "tf_saved_model.tar.gz"])
def test_saved_model_is_run_by_its_signatures_names(
    models: Models, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    session = load(models(name), "x", "shifted scaled")
    assert list(tmp_path.glob("redisai_py_*")) == []  # nothing stays on disk
    assert [(spec.name, spec.dtype, spec.shape) for spec in session.inputs] == [("x", np.float32, (None, 2))]
    shifted, scaled = session.run([ONES])
    np.testing.assert_array_equal(shifted, ONES + 2)
    np.testing.assert_array_equal(scaled, ONES * 2)
    session.close()


def test_names_that_the_signature_does_not_have_are_answered_with_those_it_has(models: Models) -> None:
    blob = models("tf_saved_model.zip")
    assert error_of(load, blob, "serving_default_x", "scaled") == (
        'ERR Input node named "serving_default_x" not found in TF graph. The SavedModel takes: x '
        "(signature serving_default)"
    )
    assert error_of(load, blob, "x", "nope") == (
        'ERR Output node named "nope" not found in TF graph. The SavedModel gives: scaled, shifted '
        "(signature serving_default)"
    )


def zipped(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def zipped_link(name: str, target: str) -> bytes:
    link = zipfile.ZipInfo(name)
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(link, target)
    return file.getvalue()


def tarred(*members: tarfile.TarInfo, data: bytes = b"") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for member in members:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def tar_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


@pytest.mark.parametrize(
    "blob",
    [
        zipped(("../escaped", b"x")),
        zipped(("model/../../escaped", b"x")),
        zipped(("/tmp/escaped", b"x")),
        zipped(("..\\escaped", b"x")),
        zipped_link("saved_model.pb", "/etc/passwd"),
        tarred(tar_member("../escaped")),
        tarred(tar_member("/tmp/escaped")),
        tarred(tar_member("saved_model.pb", tarfile.SYMTYPE, "/etc/passwd")),
        tarred(tar_member("saved_model.pb", tarfile.LNKTYPE, "/etc/passwd")),
        tarred(tar_member("pipe", tarfile.FIFOTYPE)),
        tarred(tar_member("device", tarfile.CHRTYPE)),
    ],
)
def test_archive_that_leads_out_of_itself_is_refused(blob: bytes, tmp_path: Path) -> None:
    directory = tmp_path / "inside"
    directory.mkdir()
    assert error_of(_archive.unpack_saved_model, blob, directory).startswith("ERR SavedModel archive refused")
    assert list(tmp_path.rglob("*")) == [directory]
    assert not Path("/tmp/escaped").exists()


def test_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_archive, "MIN_LIMIT_BYTES", 1 << 20)
    bomb = zipped(("a", bytes(600_000)), ("b", bytes(600_000)))
    assert "more bytes" in error_of(_archive.unpack_saved_model, bomb, tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1 << 20


def test_archive_of_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_archive, "MAX_MEMBERS", 3)
    blob = zipped(*[(f"file{i}", b"") for i in range(4)])
    assert "more than 3 files" in error_of(_archive.unpack_saved_model, blob, tmp_path)


def test_archive_with_one_name_twice_is_refused(tmp_path: Path) -> None:
    blob = tarred(tar_member("saved_model.pb"), tar_member("saved_model.pb"))
    assert "cannot be read" in error_of(_archive.unpack_saved_model, blob, tmp_path)


@pytest.mark.parametrize(
    "blob", [zipped(("readme", b"")), zipped(("a/b/saved_model.pb", b"")), tarred(tar_member("x"))]
)
def test_archive_without_a_model(blob: bytes) -> None:
    assert error_of(load, blob, "x", "y") == "ERR SavedModel archive holds no saved_model.pb"


@pytest.mark.parametrize("blob", [b"PK\x03\x04 nothing", b"\x1f\x8b nothing", zipped(("saved_model.pb", b"nothing"))])
def test_broken_archive(blob: bytes) -> None:
    assert len(error_of(load, blob, "x", "y").splitlines()) == 1
