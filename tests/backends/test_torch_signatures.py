"""TORCH: what `forward` may take and return. A model is stored if it can run; else the reason says what would do."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from redisai_py.backend import LoadOptions
from redisai_py.errors import BackendError
from redisai_py.tensor import Device
from tests.backends.conftest import as_input

torch = pytest.importorskip("torch", reason="TORCH: torch is not installed")

from redisai_py_torch import TorchBackend  # noqa: E402  # after the skip
from redisai_py_torch._session import TorchSession  # noqa: E402  # after the skip
from scripts.make_models import torch_script  # noqa: E402  # after the skip

X = as_input(np.arange(6, dtype=np.float32).reshape(2, 3))


def load(blob: bytes) -> TorchSession:
    return TorchBackend().load_model(blob, Device.parse(b"CPU"), (), (), LoadOptions())


def script(body: str, parameters: str = "x", returns: str = "") -> TorchSession:
    arrow = f" -> {returns}" if returns else ""
    return load(torch_script(f"def forward(self, {parameters}){arrow}:\n    {body}"))


def exported(forward: Callable[..., Any], *args: Any, **options: Any) -> TorchSession:
    class Module(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def forward(self, *args: Any) -> Any:
            return forward(*args)

    file = io.BytesIO()
    torch.export.save(torch.export.export(Module(), args, **options), file)
    return load(file.getvalue())


@pytest.mark.parametrize(
    ("body", "results"),
    [
        ("return x", [X]),
        ("return x, x + 1", [X, X + 1]),
        ("return x, (x + 1, (x + 2,))", [X, X + 1, X + 2]),
        ("return {'a': x, 'b': x + 1}", [X, X + 1]),
        ("return x, {'a': x + 1}", [X, X + 1]),
        ("return x, None", [X]),
    ],
)
def test_tensors_of_any_nesting_are_outputs_one_after_the_other(body: str, results: list[Any]) -> None:
    session = script(body)
    assert list(session.outputs) == [""] * len(results)
    for output, result in zip(session.run([X]), results, strict=True):
        np.testing.assert_array_equal(output, result)


def test_the_keys_of_a_dictionary_are_told() -> None:
    assert [spec.name for spec in script("return {'a': x, 'b': x + 1}").output_specs] == ["a", "b"]


@pytest.mark.parametrize(
    ("body", "returns", "what"),
    [
        ("return [x, x]", "", "a list, whose length is known only when it runs (List[Tensor])"),
        ("return x, [x]", "", "a list, whose length is known only when it runs (List[Tensor])"),
        ("d = {'a': x}\n    d['b'] = x\n    return d", "", "a dictionary, whose size is known only when it runs"),
        ("return 3", "", "something other than tensors (int)"),
        ("return x, 3", "", "something other than tensors (int)"),
        ("return 'text'", "", "something other than tensors (str)"),
        ("pass", "None", "no tensor"),
    ],
)
def test_what_could_never_run_is_refused_with_the_reason(body: str, returns: str, what: str) -> None:
    with pytest.raises(BackendError) as caught:
        script(body, returns=returns)
    text = str(caught.value)
    assert text.startswith("Erorr while trying to retrive model outputs number: forward returns " + what)
    assert text.endswith("let it return a tensor, or a tuple of tensors")


@pytest.mark.parametrize("kind", ["Tuple[Tensor, Tensor]", "List[Tensor]", "Dict[str, Tensor]", "int", "str"])
def test_a_parameter_that_no_tensor_fits_is_refused_by_name(kind: str) -> None:
    with pytest.raises(BackendError, match=r"forward's parameter state is a .*let forward take tensors"):
        script("return x", f"x, state: {kind}")


@pytest.mark.parametrize("parameters", ["x, k: int = 3", "x, k: float = 0.5, deep: bool = True"])
def test_parameters_with_a_default_keep_it(parameters: str) -> None:
    session = script("return x * k", parameters)
    assert [spec.name for spec in session.inputs] == ["x"]
    assert len(session.run([X])) == 1


def test_a_model_without_inputs_runs() -> None:
    session = script("return torch.ones(2)", "")
    assert list(session.inputs) == []
    assert session.run([])[0].tolist() == [1.0, 1.0]  # type: ignore[union-attr]


@pytest.mark.parametrize(("constant", "result"), [(3, X * 3), (0.5, X * 0.5), (None, X), ("word", X), (True, X)])
def test_constant_arguments_of_an_export_are_no_inputs(constant: Any, result: Any) -> None:
    def forward(x: Any, k: Any) -> Any:
        return x * k if isinstance(k, (int, float)) else x + 0

    session = exported(forward, torch.from_numpy(X.copy()), constant)
    assert [spec.name for spec in session.inputs] == ["args_0"]
    np.testing.assert_array_equal(session.run([X])[0], result)


@pytest.mark.parametrize(
    ("forward", "count"),
    [
        (lambda x: (x + 1, None), 1),
        (lambda x: (x + 1, 3, {"a": x, "b": [x * 2]}), 3),
        (lambda x: {"a": x + 1}, 1),
        (lambda x: (x + 1, x.shape[0]), 1),
    ],
)
def test_results_of_an_export_that_are_no_tensors_are_no_outputs(forward: Any, count: int) -> None:
    session = exported(forward, torch.from_numpy(X.copy()))
    assert len(session.outputs) == len(session.run([X])) == count
    assert all(spec.dtype == np.float32 and spec.shape == (2, 3) for spec in session.output_specs)


def test_a_number_that_varies_is_refused_by_name() -> None:
    rows = torch.export.Dim("rows")
    with pytest.raises(BackendError, match=r"output .* is not a tensor; export with a fixed number"):
        exported(lambda x: (x + 1, x.shape[0]), torch.from_numpy(X.copy()), dynamic_shapes={"args": ({0: rows},)})


def test_an_export_with_numbers_that_no_tensor_has_is_refused() -> None:
    with pytest.raises(BackendError, match=r"output .* is of the type complex64.*; torch.view_as_real makes floats"):
        exported(lambda x: torch.fft.fft(x), torch.from_numpy(X.copy()))
    with pytest.raises(BackendError, match=r"input args_0 is of the type complex64, which no tensor here has"):
        exported(lambda x: x.real + 0, torch.from_numpy(X.astype(np.complex64)))


def test_open_dimensions_of_an_export_are_told() -> None:
    rows = torch.export.Dim("rows")
    session = exported(lambda x: x + 1, torch.from_numpy(X.copy()), dynamic_shapes={"args": ({0: rows},)})
    assert [(spec.dtype, spec.shape) for spec in (*session.inputs, *session.output_specs)] == [
        (np.float32, (None, 3)),
        (np.float32, (None, 3)),
    ]
