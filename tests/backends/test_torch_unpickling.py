"""TorchScript archives whose objects would compute while they are loaded; buffers that claim what they do not hold."""

from __future__ import annotations

import io
import warnings
import zipfile
from typing import Any

import pytest

from redisai_py.backend import LoadOptions
from redisai_py.errors import BackendError
from redisai_py.tensor import Device

torch = pytest.importorskip("torch", reason="TORCH: torch is not installed")

from redisai_py_torch import TorchBackend  # noqa: E402  # after the skip
from redisai_py_torch._unpickling import check_unpickling  # noqa: E402  # after the skip

_HEAD = "class M(Module):\n  __parameters__ = []\n  __buffers__ = []\n"
_FORWARD = "  def forward(self: __torch__.M, x: Tensor) -> Tensor:\n    return x\n"


class Plain(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
    def forward(self, x):  # TorchScript takes it for a tensor
        return x + 1


def archive(module: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), file)
    return file.getvalue()


def with_code(setstate: str, rest: str = "") -> bytes:
    """An archive of a model with a `__setstate__` of this body, as far as a check can see."""
    body = "".join(f"    {line}\n" for line in setstate.splitlines())
    code = f"{_HEAD}{_FORWARD}  def __setstate__(self: __torch__.M, state: Tuple[int, bool]) -> NoneType:\n{body}{rest}"
    return _replaced(archive(Plain()), code)


def _replaced(blob: bytes, code: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(blob)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, code if name.endswith(".py") else old.read(name))
    return file.getvalue()


@pytest.mark.parametrize(
    ("setstate", "rest", "why"),
    [
        ("while True:\n  self.n = 1", "", "While in __setstate__"),
        ("for i in range(9):\n  self.n = 1", "", "For in __setstate__"),
        ("self.w = torch.mm((state)[0], (state)[0])", "", "calls torch.mm"),
        ("self.w = ops.aten.mm((state)[0], (state)[0])", "", "calls ops.aten.mm"),
        ("_0 = (self).again()", "  def again(self) -> None:\n    while True:\n      pass\n", "While in again"),
        ("_0 = (self).__setstate__(state, )", "", "calls __setstate__ from itself"),
        (
            "_0 = (self).f0()",
            "".join(f"  def f{i}(self):\n    (self).f{i + 1}()\n    (self).f{i + 1}()\n" for i in range(40)),
            "more than 1000 calls",
        ),
        ("this is not a code (", "", "not readable"),
        ("_0 = " + "(" * 5000 + "state" + ")" * 5000, "", "not readable"),
    ],
)
def test_code_that_runs_while_a_model_is_loaded_computes_nothing(setstate: str, rest: str, why: str) -> None:
    with pytest.raises(BackendError, match="TorchScript archive refused") as caught:
        TorchBackend().load_model(with_code(setstate, rest), Device.parse(b"CPU"), (), (), LoadOptions())
    assert why in str(caught.value)


def test_packing_weights_is_allowed() -> None:
    head = "  def set_weight(self, w: Tensor, b: Optional[Tensor]) -> NoneType:\n"
    rest = f"{head}    _0 = ops.quantized.linear_prepack(w, b)\n"
    check_unpickling(with_code("self.training = (state)[1]\n_0 = (self).set_weight((state)[0], None, )", rest))
    check_unpickling(archive(Plain()))


def test_two_files_of_one_name_are_refused() -> None:
    file = io.BytesIO(archive(Plain()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with zipfile.ZipFile(file, "a") as more:
            more.writestr(more.namelist()[0], b"")
    with pytest.raises(BackendError, match="a second file"):
        check_unpickling(file.getvalue())


def test_what_is_held_is_counted_and_not_what_is_claimed() -> None:
    class Liar(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("w", torch.zeros(1).expand(10**12))

    blob = archive(Liar())
    session = TorchBackend().load_model(blob, Device.parse(b"CPU"), (), (), LoadOptions())
    assert session.nbytes == len(blob)
