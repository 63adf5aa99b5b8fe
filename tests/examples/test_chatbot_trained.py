"""The chatbot as `make chatbot` trains it: what it says, and what it remembers while it does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def chat(data_dir: Path, *lines: str, conversation: str = "test") -> str:
    """What the terminal shows; the first call trains."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.chatbot", "--data-dir", str(data_dir), "--conversation", conversation],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def replies(shown: str) -> list[str]:
    return re.findall(r"Shop: (.*)", shown)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(data directory, what the training showed)."""
    data_dir = tmp_path_factory.mktemp("chatbot")
    return data_dir, chat(data_dir)


def test_it_learns_what_it_was_trained_on(trained: tuple[Path, str]) -> None:
    _, shown = trained
    found = re.search(r"Trained in (\d+) s; .* (\d+\.\d)%", " ".join(shown.split()))
    assert found is not None, shown
    assert float(found[2]) >= 95


def test_it_answers_by_what_was_said_before(trained: tuple[Path, str]) -> None:
    data_dir, _ = trained
    assert replies(chat(data_dir, "My name is Ada.", "How much is the sencha?", "And where does it come from?")) == [
        "Nice to meet you, Ada. What would you like to know about tea?",
        "Sencha costs 8.50 euros per 100 grams.",
        "Our sencha comes from Shizuoka in Japan.",
    ]
    # Another process, and another server on the same data: only Redis can know.
    shown = chat(data_dir, "what about the assam?", "I'll take it", "What is my name?", "What did I order?")
    assert "The shop remembers you" in shown
    assert replies(shown) == [
        "Our assam comes from Assam in India.",
        "100 grams of assam for 6.40 euros. Anything else?",
        "Your name is Ada.",
        "You ordered assam for 6.40 euros.",
    ]
    assert replies(chat(data_dir, "/new", "what is my name?")) == ["You have not told me your name yet."]


def test_the_same_words_mean_something_else_in_another_conversation(trained: tuple[Path, str]) -> None:
    data_dir, _ = trained
    question = "how much is it?"
    assert replies(chat(data_dir, "tell me about oolong", question, conversation="a"))[1] == (
        "Oolong costs 14.00 euros per 100 grams."
    )
    assert replies(chat(data_dir, "tell me about rooibos", question, conversation="b"))[1] == (
        "Rooibos costs 5.60 euros per 100 grams."
    )
    assert replies(chat(data_dir, question, conversation="c")) == ["Which tea do you mean?"]
