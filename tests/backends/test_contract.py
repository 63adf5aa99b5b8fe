"""One contract for all backends: what the engine relies on, whatever the framework."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from redisai_py.backend import Backend, LoadOptions, Session, backend_names, load_backend, runs_concurrently
from redisai_py.errors import BackendError, BackendNotInstalled
from redisai_py.tensor import Device
from tests.backends.conftest import Models, as_input

CPU = Device.parse(b"CPU")


@dataclass(frozen=True)
class Case:
    """A model with two float32 inputs (N, 2) and the numpy function that it is."""

    model: str
    function: Callable[[Any, Any], Any]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    promotes: bool = False  # takes other numeric dtypes than the model was made for


CASES = {
    "ONNX": Case("onnx_add.onnx", np.add),
    "TORCH": Case("torch_mul.pt", np.multiply, promotes=True),
    "TF": Case("tf_mul.pb", np.multiply, ("a", "b"), ("mul",)),
    "TFLITE": Case("tflite_mul.tflite", np.multiply),
}


@dataclass(frozen=True)
class Subject:
    case: Case
    backend: Backend
    blob: bytes

    def load(self, blob: bytes | None = None) -> Session:
        """Load the case's model, or another blob."""
        blob = self.blob if blob is None else blob
        return self.backend.load_model(blob, CPU, self.case.inputs, self.case.outputs, LoadOptions(intra_op_threads=1))


@pytest.fixture(params=sorted(CASES))
def subject(request: pytest.FixtureRequest, models: Models) -> Subject:
    case = CASES[request.param]
    try:
        backend = load_backend(request.param)
    except BackendNotInstalled as error:
        pytest.skip(f"{request.param}: {error}")
    return Subject(case, backend, models(case.model))


@pytest.fixture
def session(subject: Subject) -> Iterator[Session]:
    session = subject.load()
    yield session
    session.close()


def pair(rows: int, dtype: str = "float32") -> list[NDArray[Any]]:
    """Two different inputs (rows, 2)."""
    first = np.arange(rows * 2).reshape(rows, 2).astype(dtype)
    return [as_input(first), as_input((first + 3).astype(dtype))]


def strings(rows: int) -> NDArray[Any]:
    array = np.empty((rows, 2), object)
    array[:] = b"text"
    return array


def only(outputs: list[Any]) -> NDArray[Any]:
    assert len(outputs) == 1
    assert isinstance(outputs[0], np.ndarray)
    return outputs[0]


def test_every_backend_of_this_distribution_has_a_case() -> None:
    assert set(CASES) <= set(backend_names())


def test_backend_says_what_it_is(subject: Subject) -> None:
    assert CASES[subject.backend.name] is subject.case
    assert subject.backend.version[0].isdigit()


def test_session_says_what_it_takes_and_gives(subject: Subject, session: Session) -> None:
    assert [spec.name for spec in session.inputs] == ["a", "b"]
    assert len(session.outputs) == 1
    assert session.nbytes >= len(subject.blob)
    for spec in session.inputs:
        assert spec.dtype in (None, np.float32)
        assert spec.shape in (None, (None, 2))


@pytest.mark.parametrize("rows", [1, 2, 17])
def test_run_computes_the_model_for_any_number_of_rows(subject: Subject, session: Session, rows: int) -> None:
    inputs = pair(rows)
    output = only(session.run(inputs))
    np.testing.assert_array_equal(output, subject.case.function(*inputs))
    assert output.dtype == np.float32
    assert output.flags.c_contiguous


def test_number_of_rows_may_change_from_run_to_run(subject: Subject, session: Session) -> None:
    for rows in (1, 5, 2, 5, 1):
        inputs = pair(rows)
        np.testing.assert_array_equal(only(session.run(inputs)), subject.case.function(*inputs))


def test_outputs_share_memory_with_neither_inputs_nor_later_runs(subject: Subject, session: Session) -> None:
    inputs = pair(3)
    copies = [array.copy() for array in inputs]
    first = only(session.run(inputs))
    assert not any(np.shares_memory(first, array) for array in inputs)
    kept = first.copy()
    second = only(session.run([inputs[1], inputs[1]]))
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, kept)
    for array, copy in zip(inputs, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_repeated_runs_are_equal(session: Session) -> None:
    outputs = [only(session.run(pair(4))).tobytes() for _ in range(5)]
    assert len(set(outputs)) == 1


@pytest.mark.parametrize("count", [0, 1, 3])
def test_wrong_number_of_inputs_is_an_error(session: Session, count: int) -> None:
    inputs = [*pair(2), *pair(2)][:count]
    with pytest.raises(BackendError):
        session.run(inputs)
    assert only(session.run(pair(2))).shape == (2, 2)


@pytest.mark.parametrize("dtype", ["float64", "int32", "bool", "STRING"])
def test_wrong_dtype_is_an_error_and_never_a_silent_cast(subject: Subject, session: Session, dtype: str) -> None:
    wrong = [strings(2), strings(2)] if dtype == "STRING" else pair(2, dtype)
    if subject.case.promotes and dtype != "STRING":
        assert only(session.run(wrong)).dtype == np.dtype(dtype)
        return
    with pytest.raises(BackendError):
        session.run(wrong)
    assert only(session.run(pair(2))).shape == (2, 2)


@pytest.mark.parametrize("shapes", [((2, 2), (3, 2)), ((4, 2), (3, 3))])
def test_wrong_shape_is_an_error_of_that_run_only(
    subject: Subject, session: Session, shapes: tuple[tuple[int, int], ...]
) -> None:
    with pytest.raises(BackendError):
        session.run([as_input(np.ones(shape, np.float32)) for shape in shapes])
    inputs = pair(2)
    np.testing.assert_array_equal(only(session.run(inputs)), subject.case.function(*inputs))


@pytest.mark.parametrize(
    "blob", [b"", b"\0", b"garbage" * 100, bytes(range(256)) * 8], ids=["empty", "nul", "text", "bytes"]
)
def test_what_is_no_model_is_refused_in_one_line(subject: Subject, blob: bytes) -> None:
    with pytest.raises(BackendError) as caught:
        subject.load(blob)
    text = str(caught.value)
    assert text
    assert text.splitlines() == [text]


@pytest.mark.parametrize("part", [0.05, 0.5, 0.9, 0.99])
def test_truncated_model_is_refused(subject: Subject, part: float) -> None:
    with pytest.raises(BackendError):
        subject.load(subject.blob[: int(len(subject.blob) * part)])


def test_failure_of_a_load_leaves_loaded_models_alone(subject: Subject, session: Session) -> None:
    with pytest.raises(BackendError):
        subject.load(b"garbage")
    assert only(session.run(pair(1))).shape == (1, 2)


def test_replacement_is_loaded_before_its_predecessor_is_closed(subject: Subject) -> None:
    old, new = subject.load(), subject.load()
    old.run(pair(1))
    old.close()
    inputs = pair(2)
    np.testing.assert_array_equal(only(new.run(inputs)), subject.case.function(*inputs))
    new.close()
    new.close()  # a second time does nothing


def test_terminate_of_an_idle_session_does_nothing(session: Session) -> None:
    assert session.terminate() is False
    assert only(session.run(pair(1))).shape == (1, 2)


def test_run_errors_are_one_line(session: Session) -> None:
    with pytest.raises(BackendError) as caught:
        session.run([strings(1), strings(1)])
    assert len(str(caught.value).splitlines()) == 1


def test_device_that_is_an_index_of_the_cpu_is_the_cpu(subject: Subject) -> None:
    device = Device.parse(b"cpu:3")
    subject.backend.check_device(device)
    session = subject.backend.load_model(
        subject.blob, device, subject.case.inputs, subject.case.outputs, LoadOptions(intra_op_threads=1)
    )
    assert only(session.run(pair(1))).shape == (1, 2)
    session.close()


def test_two_sessions_run_at_once_in_two_threads(subject: Subject) -> None:
    sessions = [subject.load(), subject.load()]
    barrier = threading.Barrier(len(sessions))
    wrong: list[object] = []

    def work(session: Session, rows: int) -> None:
        inputs = pair(rows)
        expected = subject.case.function(*inputs)
        barrier.wait()
        wrong.extend(rows for _ in range(50) if not np.array_equal(only(session.run(inputs)), expected))

    threads = [threading.Thread(target=work, args=(session, 3 + i)) for i, session in enumerate(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    for session in sessions:
        session.close()


_CONCURRENT = {"ONNX": True, "TORCH": True, "TF": True, "TFLITE": False}


def test_several_threads_may_be_in_one_session_where_the_framework_allows_it(
    subject: Subject, session: Session
) -> None:
    assert runs_concurrently(session) is _CONCURRENT[subject.backend.name]
    if not runs_concurrently(session):
        return
    barrier = threading.Barrier(3)
    wrong: list[object] = []

    def work(rows: int) -> None:
        inputs = pair(rows)
        expected = subject.case.function(*inputs)
        barrier.wait()
        wrong.extend(rows for _ in range(100) if not np.array_equal(only(session.run(inputs)), expected))

    threads = [threading.Thread(target=work, args=(3 + i,)) for i in range(barrier.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert session.terminate(threading.get_ident()) is False
