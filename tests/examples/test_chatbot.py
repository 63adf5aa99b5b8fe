"""The chatbot: its dialogues, what it keeps in Redis, and what survives. What it says: test_chatbot_trained."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import redis
import torch
from numpy.typing import NDArray

from examples.chatbot.conversation import Chatbot
from examples.chatbot.dialogues import Dialogues, Keeper, reply_words
from examples.chatbot.network import spelled
from examples.chatbot.script import script_source
from examples.chatbot.shapes import FIRST_WORD, MESSAGE_WORDS, REPLY_WORDS, STATE_SIZE, version
from examples.chatbot.training import Trained, train
from redisai_py import AsyncClient
from redisai_py.config import Config
from tests.runtime.serving import Serving
from tests.support import FrontDoor, RedisServer, redis_binaries


@pytest.fixture(scope="module")
def book() -> Dialogues:
    return Dialogues()


@pytest.fixture(scope="module")
def hardly_trained() -> Trained:
    """A network that has seen two batches: it talks nonsense, and its state depends on all that it was told."""
    return train(steps=2)


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


class Local:
    """The same model and script in this process: what the server has to agree with."""

    def __init__(self, trained: Trained) -> None:
        self._session = onnxruntime.InferenceSession(trained.model)
        self._script = torch.jit.CompilationUnit(trained.script)
        self.state: NDArray[np.float32] = np.zeros((1, STATE_SIZE), np.float32)

    def reply(self, message: str) -> str:
        words = self._script.read([], [], [message]).numpy()
        text, self.state = self._session.run(["text", "new_state"], {"words": words, "state": self.state})
        return text.tobytes().replace(b"\0", b"").strip().decode()


def talk(port: int, conversation: str, *messages: str, ttl_s: int = 100) -> list[str]:
    """The replies of a program that lives as long as this call."""

    async def run() -> list[str]:
        async with AsyncClient(port=port) as client:
            bot = Chatbot(client, version(), ttl_s)
            return [await bot.reply(conversation, message) for message in messages]

    return asyncio.run(run())


def store(port: int, trained: Trained) -> None:
    async def run() -> None:
        async with AsyncClient(port=port) as client:
            bot = Chatbot(client, version())
            assert not await bot.is_stored()
            await bot.store(trained)
            assert await bot.is_stored()

    asyncio.run(run())


def state_of(client: redis.Redis, conversation: str) -> NDArray[np.float32]:
    key = f"chatbot:{version()}:state:{conversation}"
    _, _, blob = client.execute_command("AI.TENSORGET", key, "META", "BLOB")[1::2]
    return np.frombuffer(blob, np.float32).reshape(1, STATE_SIZE)


@pytest.fixture(scope="module")
def stored(port: int, hardly_trained: Trained) -> int:
    """The port of a server that has the model and the script."""
    store(port, hardly_trained)
    return port


# -- dialogues


def test_a_few_hundred_questions_and_answers(book: Dialogues) -> None:
    pairs = list(book.questions())
    assert 300 <= len(pairs) <= 2000
    assert len({pair.message for pair in pairs}) == len(pairs), "a question with two answers"


def test_every_word_is_in_its_vocabulary_and_every_reply_fits(book: Dialogues) -> None:
    said, answered = (set(words) for words in book.words())
    rng = random.Random(3)
    for _ in range(300):
        for turn in book.conversation(rng, 8):
            assert set(turn.message.split()) - said <= {"qxzv"}, turn  # the word that no vocabulary has
            assert set(reply_words(turn.reply)) <= answered, turn
            assert len(reply_words(turn.reply)) < REPLY_WORDS, turn
            assert len(turn.message.split()) <= MESSAGE_WORDS, turn


def test_the_keeper_remembers_what_later_replies_depend_on(book: Dialogues) -> None:
    keeper, rng = Keeper(book), random.Random(4)
    assert keeper.turn("it", rng).reply == "Which tea do you mean?"
    assert keeper.turn("my_name", rng).reply == "You have not told me your name yet."
    assert keeper.turn("my_order", rng).reply == "You have not ordered anything yet."
    keeper.tea, keeper.asked, keeper.name_told = "assam", "price", "Ada"
    assert keeper.turn("my_name", rng).reply == "Your name is Ada."
    assert keeper.turn("order_it", rng).reply == "100 grams of assam for 6.40 euros. Anything else?"
    assert keeper.turn("another", rng).reply.endswith("euros per 100 grams.")
    assert keeper.turn("my_order", rng).reply == "You ordered assam for 6.40 euros."
    assert keeper.turn("cancel", rng).reply == "I have cancelled the assam."
    assert keeper.turn("my_order", rng).known == (keeper.tea, "price", "Ada", "")
    assert keeper.turn("bye", rng).reply == "Goodbye, Ada. Enjoy your tea!"


def test_a_seed_gives_one_conversation(book: Dialogues) -> None:
    assert book.conversation(random.Random(1), 9, 0.5) == book.conversation(random.Random(1), 9, 0.5)
    assert book.conversation(random.Random(1), 9, 0.5) != book.conversation(random.Random(2), 9, 0.5)


# -- the script, and letters


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("assam", ["assam"]),
        ("  How MUCH is the Assam?! ", ["how", "much", "is", "the", "assam"]),
        ("what's it", ["what", "is", "it"]),
        ("I'll take it, please", ["i", "will", "take", "it", None]),
        ("don't know", [None, "not", None]),
        ("tea (assam)", [None, "assam"]),
        ("ass", [None]),  # part of a word is not the word
        ("thé assam", [None, "assam"]),
        ("", []),
        ("\n\t .,?", []),
    ],
)
def test_the_script_reads_words(message: str, words: list[str | None]) -> None:
    vocabulary = ["assam", "how", "i", "is", "it", "much", "not", "take", "the", "what", "will"]
    read = torch.jit.CompilationUnit(script_source(vocabulary)).read([], [], [message])
    numbers = [1 if word is None else vocabulary.index(word) + FIRST_WORD for word in words]
    assert read.tolist() == [[0] * (MESSAGE_WORDS - len(numbers)) + numbers]


def test_of_a_long_message_the_last_words_are_read() -> None:
    read = torch.jit.CompilationUnit(script_source(["a", "b"])).read([], [], ["a " * 20 + "b"])
    assert read.tolist() == [[2] * (MESSAGE_WORDS - 1) + [3]]


def test_letters_without_zeros_are_the_text() -> None:
    answered = ["!", ".", "8.50", "T-shirt", "Tea"]
    table = spelled(answered)
    ids = [answered.index(word) + FIRST_WORD for word in reply_words("Tea T-shirt 8.50!")] + [0, 0]
    assert bytes(table[ids].flatten().tolist()).replace(b"\0", b"") == b" Tea T-shirt 8.50!"


# -- conversations


def test_replies_and_states_are_those_of_the_model(stored: int, hardly_trained: Trained) -> None:
    local = Local(hardly_trained)
    messages = ["hello", "my name is Ada", "how much is the sencha?", "and where is it from?"]
    assert talk(stored, "same", *messages) == [local.reply(message) for message in messages]
    with redis.Redis(port=stored) as client:
        np.testing.assert_allclose(state_of(client, "same"), local.state, atol=1e-6)


def test_the_state_is_all_that_a_conversation_is(stored: int) -> None:
    with redis.Redis(port=stored) as client:
        talk(stored, "first", "my name is Ada")
        talk(stored, "second", "my name is Tom")
        assert not np.array_equal(state_of(client, "first"), state_of(client, "second"))
        client.copy(f"chatbot:{version()}:state:first", f"chatbot:{version()}:state:second", replace=True)
        talk(stored, "first", "what is my name")
        talk(stored, "second", "what is my name")
        np.testing.assert_array_equal(state_of(client, "first"), state_of(client, "second"))


def test_a_conversation_expires_and_each_message_puts_that_off(stored: int) -> None:
    key = f"chatbot:{version()}:state:expires"
    with redis.Redis(port=stored) as client:
        talk(stored, "expires", "hello", ttl_s=50)
        assert 40 < client.ttl(key) <= 50
        client.expire(key, 3)
        talk(stored, "expires", "hello", ttl_s=50)
        assert 40 < client.ttl(key) <= 50


def test_messages_at_the_same_time_are_all_taken_in(stored: int, hardly_trained: Trained) -> None:
    count = 6

    async def run() -> list[str]:
        async with AsyncClient(port=stored) as client:
            bot = Chatbot(client, version())
            return await asyncio.gather(*[bot.reply("crowd", "hello") for _ in range(count)])

    local = Local(hardly_trained)
    assert sorted(asyncio.run(run())) == sorted(local.reply("hello") for _ in range(count))
    with redis.Redis(port=stored) as client:
        np.testing.assert_allclose(state_of(client, "crowd"), local.state, atol=1e-5)


@pytest.mark.parametrize("message", ["|>", "", "PERSIST", "\N{HOT BEVERAGE} тee", "x" * 10_000, "a\0b"])
def test_any_text_is_a_message(stored: int, message: str) -> None:
    (reply,) = talk(stored, "strange", message)
    assert reply.isprintable()


def test_a_forgotten_conversation_begins_anew(stored: int) -> None:
    async def run() -> list[bool]:
        async with AsyncClient(port=stored) as client:
            bot = Chatbot(client, version())
            found = [await bot.remembers("gone")]
            await bot.reply("gone", "my name is Ada")
            found.append(await bot.remembers("gone"))
            await bot.forget("gone")
            return [*found, await bot.remembers("gone")]

    assert asyncio.run(run()) == [False, True, False]


def test_a_missing_model_is_an_error_and_no_endless_loop(stored: int) -> None:
    async def run() -> None:
        async with AsyncClient(port=stored) as client:
            await Chatbot(client, "unknown").reply("x", "hello")

    with pytest.raises(redis.ResponseError, match=r"(model|script) key is empty"):
        asyncio.run(run())


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_conversation_survives_server_and_program(
    tmp_path: Path, hardly_trained: Trained, end: signal.Signals
) -> None:
    local = Local(hardly_trained)
    told = [local.reply("my name is Ada"), local.reply("what is my name?")]
    server = Serving("--data-dir", tmp_path)
    try:
        server.wait_ready()
        store(server.port, hardly_trained)
        assert talk(server.port, "long", "my name is Ada") == told[:1]
        server.server().send_signal(end) if end == signal.SIGKILL else server.stop()
    finally:
        server.close()
    server = Serving("--data-dir", tmp_path)
    try:
        server.wait_ready()
        assert talk(server.port, "long", "what is my name?") == told[1:]
        with redis.Redis(port=server.port) as client:
            np.testing.assert_allclose(state_of(client, "long"), local.state, atol=1e-6)
        server.stop()
    finally:
        server.close()
