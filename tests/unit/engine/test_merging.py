"""Merging inputs and splitting outputs: shapes, types, copies, errors."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from redisai_py.engine.merging import BatchSizeMismatch, merge, signature, split, to_array, to_value
from redisai_py.errors import ShapeMismatch
from redisai_py.tensor import Device, DType, Tensor

LARGE = 64 * 1024
CPU = Device.parse(b"CPU")


class OnGpu:
    """A device array of GPU `index`."""

    shape = (2,)
    nbytes = 8

    def __init__(self, index: int) -> None:
        self.index = index

    def numpy(self) -> NDArray[Any]:
        return np.arange(2, dtype=np.float32)

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.index


def of(array: Any, dtype: str = "f4") -> Tensor:
    return Tensor.from_numpy(np.array(array, dtype))


def test_a_signature_is_rows_and_all_that_must_agree() -> None:
    rows, key = signature([of([[1, 2]]), of([[3]], "i8")])
    assert rows == 1
    assert signature([of([[1, 2], [3, 4]]), of([[3], [4]], "i8")]) == (2, key)
    for other in (
        [of([[1, 2]], "f8"), of([[3]], "i8")],
        [of([[1, 2, 3]]), of([[3]], "i8")],
        [of([[1, 2]]), of([3], "i8")],
        [of([[3]], "i8"), of([[1, 2]])],
    ):
        assert signature(other)[1] != key


@pytest.mark.parametrize(
    "inputs",
    [[of(1.0)], [of([1.0]), of(1.0)], [of([1.0]), of([1.0, 2.0])], [of([1.0, 2.0]), of([1.0]), of([1.0, 2.0])]],
    ids=["scalar", "with a scalar", "other rows", "first and last agree"],
)
def test_inputs_that_share_no_rows_have_none(inputs: list[Tensor]) -> None:
    rows, key = signature(inputs)
    assert rows == 0
    assert key is not None


def test_disagreeing_inputs_of_different_sizes_are_different_kinds() -> None:
    assert signature([of([1.0]), of([1.0, 2.0])]) != signature([of([1.0]), of([1.0, 2.0, 3.0])])


def test_inputs_on_a_device_have_no_signature() -> None:
    on_device: Any = object()
    assert signature([on_device]) == (0, None)
    assert signature([of([1.0]), on_device]) == (0, None)


@pytest.mark.parametrize("dtype", [d for d in DType if d is not DType.STRING], ids=lambda d: d.name)
@pytest.mark.parametrize("columns", [3, LARGE], ids=["small", "large"])
def test_what_is_merged_and_split_again_is_as_before(dtype: DType, columns: int) -> None:
    rng = np.random.default_rng(0)
    sizes = [1, 3, 2]
    arrays = [rng.integers(0, 2, (size, columns)).astype(dtype.numpy_dtype) for size in sizes]
    (merged,) = merge([[Tensor.from_numpy(array)] for array in arrays], 6)
    assert isinstance(merged, np.ndarray)
    assert merged.dtype == dtype.numpy_dtype
    assert not merged.flags.writeable
    assert merged.flags.c_contiguous
    members = split([merged], sizes)
    for member, array in zip(members, arrays, strict=True):
        assert member == [Tensor.from_numpy(array)]


def test_strings_are_merged_and_split() -> None:
    parts = [of([[b"a"], [b"bc"]], "O"), of([[b""]], "O")]
    (merged,) = merge([[part] for part in parts], 3)
    assert merged.tolist() == [[b"a"], [b"bc"], [b""]]  # type: ignore[union-attr]
    assert split([merged], [2, 1]) == [[parts[0]], [parts[1]]]


def test_tensors_of_no_elements_are_merged() -> None:
    empty = Tensor(DType.FLOAT, (2, 0), b"")
    (merged,) = merge([[empty], [empty]], 4)
    assert merged.shape == (4, 0)
    assert np.shape(to_array(empty, CPU)) == (2, 0)
    assert split([merged], [2, 2]) == [[empty], [empty]]


def test_a_small_part_does_not_keep_the_batch() -> None:
    whole = np.zeros((16, 2), np.float32)
    (first, *_) = split([whole], [1] * 16)
    assert isinstance(first[0], Tensor)
    assert type(first[0].data) is bytes


def test_a_large_part_is_not_copied() -> None:
    whole = np.zeros((2, LARGE), np.float32)
    (first, _) = split([whole], [1, 1])
    assert isinstance(first[0], Tensor)
    assert np.shares_memory(np.frombuffer(first[0].data, np.float32), whole)


@pytest.mark.parametrize("output", [np.zeros((3, 2)), np.zeros(()), np.float32(1)], ids=["rows", "rank 0", "scalar"])
def test_an_output_without_the_batchs_rows_is_refused(output: Any) -> None:
    with pytest.raises(BatchSizeMismatch, match=r"^ERR output 2 has the shape .* for 4 rows of input$"):
        split([np.zeros((4, 2)), output], [2, 2])


def test_what_is_no_tensor_is_none_for_everyone() -> None:
    assert split([None], [1, 2]) == [[None], [None]]
    assert to_value(None) is None


def test_an_element_type_that_we_do_not_have_is_refused() -> None:
    for give in (lambda array: to_value(array), lambda array: split([array], [1, 1])):
        with pytest.raises(ShapeMismatch, match="unsupported dtype complex64"):
            give(np.zeros((2, 1), np.complex64))


@pytest.mark.parametrize("array", [np.float32(2), np.arange(6, dtype=">i4"), np.zeros((2, 3), order="F")])
def test_arrays_of_any_layout_become_tensors(array: Any) -> None:
    value = to_value(array)
    assert isinstance(value, Tensor)
    assert np.array_equal(value.numpy(), array)


def test_single_inputs_are_views() -> None:
    data = np.arange(4, dtype=ml_dtypes.bfloat16)
    tensor = Tensor.from_numpy(data)
    for held in (tensor, Tensor(DType.BFLOAT16, (4,), bytes(tensor.data))):
        array = to_array(held, CPU)
        assert isinstance(array, np.ndarray)
        assert not array.flags.writeable
        assert array.tolist() == data.tolist()
    assert np.shares_memory(np.asarray(to_array(tensor, CPU)).view(np.uint16), data.view(np.uint16))


@pytest.mark.parametrize(
    ("device", "index", "stays"), [(b"GPU", 0, True), (b"GPU:1", 1, True), (b"GPU:1", 0, False), (b"CPU", 0, False)]
)
def test_a_device_array_goes_through_the_host_unless_it_is_where_it_is_needed(
    device: bytes, index: int, stays: bool
) -> None:
    value = OnGpu(index)
    array = to_array(value, Device.parse(device))
    assert (array is value) == stays
    assert isinstance(array, OnGpu if stays else np.ndarray)
