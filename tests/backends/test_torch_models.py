"""TORCH: names, counts and texts as RedisAI has them; memory shared only where that is safe; .pt2 archives."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from redisai_py.backend import LoadOptions
from redisai_py.errors import BackendError
from redisai_py.tensor import Device
from scripts.make_models import mlp_weights, torch_script
from tests.backends.conftest import Models, as_input

torch = pytest.importorskip("torch", reason="TORCH: torch is not installed")

from redisai_py_torch import TorchBackend  # noqa: E402  # after the skip
from redisai_py_torch._archive import check_export_archive, is_export_archive  # noqa: E402  # after the skip
from redisai_py_torch._session import TorchSession  # noqa: E402  # after the skip

CPU = Device.parse(b"CPU")


def load(blob: bytes) -> TorchSession:
    return TorchBackend().load_model(blob, CPU, (), (), LoadOptions())


def script(body: str, parameters: str = "x", **weights: Any) -> TorchSession:
    """A TorchScript model whose forward has this body."""
    return load(torch_script(f"def forward(self, {parameters}):\n    {body}", weights))


VECTOR = as_input(np.arange(6, dtype=np.float32).reshape(2, 3))


def error_of(function: Callable[..., Any], *args: Any) -> str:
    with pytest.raises(BackendError) as caught:
        function(*args)
    return str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("device", [b"GPU", b"gpu:7"])
def test_gpu_without_cuda_is_refused_at_store_time(models: Models, device: bytes) -> None:
    text = error_of(TorchBackend().load_model, models("torch_mul.pt"), Device.parse(device), (), (), LoadOptions())
    assert text == "GPU requested but Torch couldn't find CUDA"


def test_inputs_are_forwards_parameters_and_outputs_nameless(models: Models) -> None:
    session = load(models("torch_multi.pt"))
    assert [spec.name for spec in session.inputs] == ["a", "b"]
    assert list(session.outputs) == ["", ""]
    added, subtracted = session.run([VECTOR, VECTOR])
    np.testing.assert_array_equal(added, VECTOR * 2)
    np.testing.assert_array_equal(subtracted, VECTOR * 0)


def test_weights_are_used_and_counted(models: Models) -> None:
    session = load(models("torch_mlp.pt"))
    x = np.linspace(0, 1, 784, dtype=np.float32).reshape(1, 784)
    expected = x
    for i, (weight, bias) in enumerate(mlp_weights()):
        expected = (np.maximum(expected, 0) if i else expected) @ weight + bias
    np.testing.assert_allclose(session.run([x])[0], expected, rtol=1e-4, atol=1e-4)
    assert session.nbytes >= sum(weight.nbytes + bias.nbytes for weight, bias in mlp_weights())


@pytest.mark.parametrize("whole", [False, True], ids=["weights", "module"])
def test_a_file_of_torch_save_is_told_from_a_corrupt_one(whole: bool) -> None:
    module = torch.nn.Linear(2, 2)
    file = io.BytesIO()
    torch.save(module if whole else module.state_dict(), file)
    with pytest.raises(BackendError, match=r"weights or a pickled module.*torch\.jit\.save"):
        load(file.getvalue())


def test_a_truncated_file_is_called_so_by_pytorch(models: Models) -> None:
    with pytest.raises(BackendError, match="central directory"):
        load(models("torch_mul.pt")[:-100])


def test_module_without_forward() -> None:
    text = error_of(load, torch_script("def other(self, x):\n    return x"))
    assert text == "Erorr while trying to retrive model inputs number: Method 'forward' is not defined."


def test_wrong_number_of_values() -> None:
    """The count of a session is fixed at load, what `forward` gives may still differ."""
    session = script("return x, x")
    session.outputs = ("",)
    assert error_of(session.run, [VECTOR]) == "Function returned unexpected number of outputs - forward"


def test_strings_are_refused() -> None:
    assert error_of(script("return x").run, [as_input(np.array([b"a"], object))]) == "Unsupported code 7"


@pytest.mark.parametrize(
    ("value", "name"),
    [("torch.complex(x, x)", "ComplexFloat"), ("torch.complex(x.double(), x.double())", "ComplexDouble")],
)
def test_outputs_that_no_tensor_type_holds(value: str, name: str) -> None:
    assert error_of(script(f"return {value}").run, [VECTOR]) == f"{name} is not supported by dlpack"


def test_error_in_the_model_is_pytorchs_text_on_one_line() -> None:
    text = error_of(script("return torch.matmul(x, x)").run, [VECTOR])
    assert "mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)" in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    "dtype",
    ["f4", "f8", "f2", ml_dtypes.bfloat16, "?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"],
)
def test_every_numeric_type_passes_unchanged(dtype: Any) -> None:
    array = as_input(np.array([0, 1, 100]).astype(dtype))
    (output,) = script("return x.reshape(3, 1)").run([array])
    assert isinstance(output, np.ndarray)
    assert output.dtype == array.dtype
    assert output.tobytes() == array.tobytes()


def test_gradients_are_off() -> None:
    assert load(torch_script("def forward(self, x):\n    return x * self.w", {"w": np.ones(3, np.float32)})).run(
        [VECTOR]
    )
    (flag,) = script("return torch.tensor(torch.is_grad_enabled())").run([VECTOR])
    assert not flag


# --- Memory


def test_model_that_writes_in_place_does_not_change_its_input() -> None:
    array = as_input(np.zeros(3, np.float32))
    session = script("x.add_(1)\n    return x")
    for _ in range(2):
        np.testing.assert_array_equal(session.run([array])[0], [1, 1, 1])
    np.testing.assert_array_equal(array, [0, 0, 0])


def test_writes_are_found_in_branches_and_called_methods() -> None:
    source = "def touch(self, x):\n    return x.add_(1)\n\n"
    source += "def forward(self, x):\n    if bool(x.sum() < 1):\n        x = self.touch(x)\n    return x"
    array = as_input(np.zeros(3, np.float32))
    np.testing.assert_array_equal(load(torch_script(source)).run([array])[0], [1, 1, 1])
    np.testing.assert_array_equal(array, [0, 0, 0])


@pytest.mark.parametrize(
    "body", ["return x", "return x.view(-1)", "return x[0]", "return x.t()", "return self.w", "return self.w[1]"]
)
def test_output_that_is_part_of_an_input_or_a_weight_is_a_copy(body: str) -> None:
    session = script(body, w=np.ones((2, 3), np.float32))
    (output,) = session.run([VECTOR])
    assert isinstance(output, np.ndarray)
    assert output.flags.c_contiguous
    assert not np.shares_memory(output, VECTOR)
    expected = output.copy()
    output[...] = 9
    np.testing.assert_array_equal(session.run([VECTOR])[0], expected)


def test_output_of_a_stateful_model_survives_the_next_run() -> None:
    session = script("self.w.add_(1)\n    return self.w", w=np.zeros(2, np.float32))
    (first,), (second,) = session.run([VECTOR]), session.run([VECTOR])
    np.testing.assert_array_equal(first, [1, 1])
    np.testing.assert_array_equal(second, [2, 2])


def test_small_slice_does_not_keep_a_large_result_alive() -> None:
    (output,) = script("return torch.zeros(1000000)[:2]").run([VECTOR])
    assert isinstance(output, np.ndarray)
    owner: Any = output
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert owner.untyped_storage().nbytes() == output.nbytes == 8


# --- torch.export


class Named(torch.nn.Module):  # type: ignore[misc]
    """Nested and keyword inputs, nested outputs, a buffer, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.ones(2))

    def forward(self, pair: dict[str, Any], *, scale: Any) -> dict[str, Any]:
        return {"sum": pair["left"] + pair["right"] * scale, "parts": [self.offset + torch.tensor([1.0, 2.0])]}


def exported(module: Any, args: tuple[Any, ...], **options: Any) -> bytes:
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, args, **options), file)
    return file.getvalue()


def test_export_archive(models: Models) -> None:
    session = load(models("torch_export_mul.pt2"))
    assert [(spec.name, spec.dtype, spec.shape) for spec in session.inputs] == [
        ("a", np.dtype("f4"), (None, 2)),
        ("b", np.dtype("f4"), (None, 2)),
    ]
    assert list(session.outputs) == [""]
    for rows in (1, 4):
        array = as_input(np.full((rows, 2), 3, np.float32))
        np.testing.assert_array_equal(session.run([array, array])[0], array * 3)
    assert "Guard failed" in error_of(session.run, [VECTOR, VECTOR])
    assert error_of(session.run, [VECTOR]) == "forward() expected 2 inputs but got 1"


def test_export_archive_with_nested_inputs_and_outputs() -> None:
    args = ({"left": torch.ones(2), "right": torch.ones(2)},)
    session = load(exported(Named(), args, kwargs={"scale": torch.ones(2)}))
    assert [spec.name for spec in session.inputs] == ["pair_left", "pair_right", "scale"]
    left, right, scale = (as_input(np.array(value, np.float32)) for value in ([1, 2], [3, 4], [10, 100]))
    summed, part = session.run([left, right, scale])
    np.testing.assert_array_equal(summed, [31, 402])
    np.testing.assert_array_equal(part, [2, 3])


class InPlace(torch.nn.Module):  # type: ignore[misc]
    """Writes to its input."""

    def forward(self, x: Any) -> Any:
        return x.add_(1)


def test_export_archive_that_writes_in_place_does_not_change_its_input() -> None:
    array = as_input(np.zeros(2, np.float32))
    np.testing.assert_array_equal(load(exported(InPlace(), (torch.zeros(2),))).run([array])[0], [1, 1])
    np.testing.assert_array_equal(array, [0, 0])


class Chunked(torch.nn.Module):  # type: ignore[misc]
    """Makes PyTorch write symbolic expressions with division into the archive."""

    def forward(self, x: Any) -> Any:
        return x[: x.shape[0] // 2] * 2


class Branch(torch.nn.Module):  # type: ignore[misc]
    """Control flow, a higher-order operator."""

    def forward(self, x: Any) -> Any:
        return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))


@pytest.mark.parametrize(
    ("module", "shape", "dynamic"),
    [
        (Chunked(), (12, 2), True),
        (Branch(), (3,), False),
        (torch.nn.LSTM(4, 4, batch_first=True), (2, 3, 4), False),
        (torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8), False),
        (
            torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten()),
            (2, 3, 8, 8),
            False,
        ),
    ],
    ids=["expressions", "cond", "lstm", "transformer", "conv"],
)
@pytest.mark.filterwarnings("ignore")  # PyTorch's exporter warns of its own internals
def test_archives_that_pytorch_writes_are_accepted(module: Any, shape: tuple[int, ...], dynamic: bool) -> None:
    options = {"dynamic_shapes": ({0: torch.export.Dim.AUTO},)} if dynamic else {}
    module.eval()
    sample = torch.ones(shape)
    blob = exported(module, (sample,), **options)
    with torch.no_grad():
        expected = module(sample)
    outputs = load(blob).run([as_input(np.ones(shape, np.float32))])
    first = expected[0] if isinstance(expected, tuple) else expected
    np.testing.assert_allclose(outputs[0], first.numpy(), rtol=1e-4, atol=1e-5)


def rewritten(blob: bytes, change: Callable[[str, bytes], bytes], extra: tuple[str, bytes] | None = None) -> bytes:
    """The archive with every member's bytes changed, and one more member."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(blob)) as source, zipfile.ZipFile(file, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
        if extra is not None:
            target.writestr(*extra)
    return file.getvalue()


def same(_: str, data: bytes) -> bytes:
    return data


class Payload:
    """Pickles to a call of a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("unpickled",)


def test_rewritten_archive_alone_is_still_accepted(models: Models) -> None:
    blob = rewritten(models("torch_export_mul.pt2"), same)
    assert is_export_archive(blob)
    assert load(blob).run([VECTOR[:, :2].copy()] * 2)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torch.ops.aten.mul.Tensor", "torch.os.system"),
        ("torch.ops.aten.mul.Tensor", "torch.ops.aten.mul.Tensor.__globals__"),
        ("torch.ops.aten.mul.Tensor", "torch.ops.aten.mul.__globals__"),
        ("torch.ops.aten.mul.Tensor", "torch.ops.load_library"),
        ("torch.ops.aten.mul.Tensor", "_operator.call"),
        ("Symbol('", "__import__('"),
        ("Symbol('", "eval(Symbol('"),
        ('"name": "a"', '"name": "a=print(1)"'),
        ('"forward_arg_names": ["a"', '"forward_arg_names": ["a=print(1)"'),
    ],
)
def test_graph_that_would_lead_to_other_code_is_refused(
    models: Models, capsys: pytest.CaptureFixture[str], old: str, new: str
) -> None:
    hits = 0

    def change(name: str, data: bytes) -> bytes:
        nonlocal hits
        if not name.endswith("models/model.json"):
            return data
        text = json.dumps(json.loads(data))
        hits += text.count(old)
        return text.replace(old, new).encode()

    blob = rewritten(models("torch_export_mul.pt2"), change)
    assert hits, "the archive's layout has changed: this test no longer tests anything"
    assert "refused" in error_of(load, blob)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "name", ["data/aotinductor/model/x.so", "data/constants/custom_obj_0", "data/constants/opaque_obj_0"]
)
def test_archive_with_native_code_or_objects_is_refused(models: Models, name: str) -> None:
    blob = rewritten(models("torch_export_mul.pt2"), same, (f"archive/{name}", b"x"))
    assert "refused" in error_of(load, blob)


def test_pickle_of_more_than_tensors_is_refused_unread(models: Models, capsys: pytest.CaptureFixture[str]) -> None:
    file = io.BytesIO()
    torch.save(Payload(), file)
    for bad in (file.getvalue(), pickle.dumps(Payload())):
        blob = rewritten(
            models("torch_export_mul.pt2"), lambda name, data, bad=bad: bad if name.endswith(".pt") else data
        )
        assert "refused" in error_of(load, blob)
    assert capsys.readouterr().out == ""


def test_archive_with_compressed_or_double_members_is_refused(models: Models) -> None:
    blob = models("torch_export_mul.pt2")
    file = io.BytesIO(blob)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/extra/zeros", bytes(1000))
    assert "compressed" in error_of(check_export_archive, file.getvalue())
    with pytest.warns(UserWarning, match="Duplicate name"):
        double = rewritten(blob, same, (zipfile.ZipFile(io.BytesIO(blob)).namelist()[0], b"{}"))
    assert "second member" in error_of(check_export_archive, double)


def test_torchscript_archive_is_not_taken_for_an_export(models: Models) -> None:
    assert not is_export_archive(models("torch_mul.pt"))
    assert not is_export_archive(b"PK\x03\x04 nothing")


def test_a_sparse_output_says_what_would_work() -> None:
    text = error_of(script("return x.to_sparse()").run, [VECTOR])
    assert text == "ERR an output is a sparse_coo tensor, which no tensor here is; return its to_dense()"
