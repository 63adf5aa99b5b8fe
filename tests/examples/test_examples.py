"""The examples run, and they notice when the server is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis

from examples.digits import classifiers, demo
from examples.digits.data import Digits, digits
from examples.digits.models import Entry
from examples.ensemble import average
from redisai_py import Client
from redisai_py.config import Config
from tests.support import FrontDoor, RedisServer, redis_binaries

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    binaries = redis_binaries()
    if not binaries:
        pytest.skip("no redis-server")
    stock = RedisServer(next(iter(binaries.values())), tmp_path_factory.mktemp("redis"))
    server = FrontDoor(Config(redis=stock.url, port=0, drain_timeout_s=5))
    yield server.port
    server.stop()
    stock.stop()


@pytest.fixture(scope="module")
def data() -> tuple[Digits, Digits]:
    learn, held_out = digits()
    return learn, Digits(held_out.images[:40], held_out.labels[:40])


@pytest.fixture(scope="module")
def pipeline(data: tuple[Digits, Digits]) -> Entry:
    trained = classifiers.regression_pipeline(data[0])
    blob = classifiers.to_onnx(trained)
    return Entry("sklearn-onnx", "ONNX", blob, trained.predict_proba, extra_outputs=("label",))


def measured(entry: Entry, held_out: Digits, port: int) -> demo.Result:
    with redis.Redis(port=port) as plain, Client(port=port) as client:
        return demo.measure(entry, held_out, plain, client, lambda: None)


def test_both_clients_give_the_framework_s_own_answers(pipeline: Entry, data: tuple[Digits, Digits], port: int) -> None:
    result = measured(pipeline, data[1], port)
    assert result.agrees
    assert result.same == (40, 40)
    assert result.accuracy > 0.9


def test_one_answer_that_differs_is_noticed(pipeline: Entry, data: tuple[Digits, Digits], port: int) -> None:
    def wrong_once(images: np.ndarray) -> np.ndarray:
        probabilities = pipeline.offline(images).copy()
        probabilities[7] = np.roll(probabilities[7], 1)
        return probabilities

    result = measured(replace(pipeline, offline=wrong_once), data[1], port)
    assert not result.agrees
    assert result.same == (39, 39)


def test_probabilities_that_differ_are_noticed_even_if_the_labels_agree(
    pipeline: Entry, data: tuple[Digits, Digits], port: int
) -> None:
    result = measured(replace(pipeline, offline=lambda images: pipeline.offline(images) * 1.001), data[1], port)
    assert result.same == (40, 40)
    assert not result.agrees


def test_the_ensemble_is_one_command_that_leaves_no_tensor_behind(data: tuple[Digits, Digits], port: int) -> None:
    learn, held_out = data
    with Client(port=port) as client:
        client.flushall()
        offline = average.store(client, learn)
        before = client.info("commandstats").get("cmdstat_set", {"calls": 0})["calls"]
        probabilities, labels = average.classify(client, held_out.images)
        expected = np.mean([predict(held_out.images) for predict in offline.values()], axis=0)
        np.testing.assert_allclose(probabilities, expected, atol=average.CLOSE)
        np.testing.assert_array_equal(labels, expected.argmax(1))
        assert client.dbsize() == len(average.MODELS) + 1
        assert client.info("commandstats").get("cmdstat_set", {"calls": 0})["calls"] == before


def test_an_operation_that_fails_is_raised(data: tuple[Digits, Digits], port: int) -> None:
    with Client(port=port) as client:
        client.flushall()
        average.store(client, data[0])
        with pytest.raises(redis.ResponseError):
            average.classify(client, data[1].images[:, :10])


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("module", ["examples.digits.demo", "examples.ensemble.average"])
def test_example_starts_a_server_of_its_own_and_succeeds(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module], cwd=ROOT, capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "98.7%" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_demo_uses_a_server_that_runs_and_leaves_it_as_it_was(port: int) -> None:
    with redis.Redis(port=port) as client:
        client.flushall()
        command = [sys.executable, "-m", "examples.digits.demo", "--url", f"redis://127.0.0.1:{port}", "--images", "20"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert client.dbsize() == 0
