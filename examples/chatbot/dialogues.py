"""Conversations with the tea shop, made of `dialogues.toml`: what is said, and what has to be answered.

Pure: randomness comes in as `random.Random`. `Keeper` is the yardstick that the network is held against: it knows what
has been said and gives the right reply; the network sees words only and learns to do the same.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

__all__ = ["Dialogues", "Keeper", "Turn", "reply_words"]

SOURCE = Path(__file__).with_name("dialogues.toml")

# What people put around a question; it changes nothing.
_BEFORE = ("hi", "hello", "please", "so", "ok", "well", "excuse me", "and", "oh", "tell me please", "thanks")
_AFTER = ("please", "thanks", "then", "today", "exactly", "by the way")
_STRANGE = "qxzv"
"""Stands for any word that is not in the vocabulary."""

# How often each kind of message comes up in a conversation, and in its first message: only what was told can be asked.
_KINDS = {
    "ask": 18, "it": 18, "another": 10, "name": 7, "my_name": 14, "my_tea": 4, "order": 8, "order_it": 5, "my_order": 9,
    "cancel": 4, "advice": 7, "lines": 12, "strange": 2, "bye": 6,
}  # fmt: skip
_FIRST_KINDS = {"ask": 2, "name": 6, "order": 1, "lines": 2}


@dataclass(frozen=True, slots=True)
class Turn:
    """One message and the reply that is right at that point of its conversation.

    known: what a listener then knows, one value for each of `Dialogues.slots`, "" for nothing.
    """

    message: str
    reply: str
    known: tuple[str, ...] = ("", "", "", "")


class Dialogues:
    """The tables of `dialogues.toml`."""

    def __init__(self, source: Path = SOURCE) -> None:
        self.tables: dict[str, Any] = tomllib.loads(source.read_text())
        self.names: list[str] = self.tables["names"]
        self.teas: dict[str, dict[str, str]] = self.tables["teas"]
        self.facts: dict[str, dict[str, Any]] = self.tables["facts"]
        self.context: dict[str, Any] = self.tables["context"]
        self.advice: list[dict[str, Any]] = self.tables["advice"]
        self.lines: list[dict[str, Any]] = self.tables["lines"]
        self.slots = tuple(["", *values] for values in (self.teas, self.facts, self.names, self.teas))

    def conversation(self, rng: random.Random, turns: int, noise: float = 0.0) -> list[Turn]:
        """A conversation of so many turns. noise: share of messages with words around them that mean nothing."""
        keeper = Keeper(self)
        first = rng.choices(list(_FIRST_KINDS), list(_FIRST_KINDS.values()))
        kinds = first + rng.choices(list(_KINDS), list(_KINDS.values()), k=turns - 1)
        return [_around(rng, noise, keeper.turn(kind, rng)) for kind in kinds]

    def questions(self) -> Iterator[Turn]:
        """Every pair that needs no earlier message, once."""
        for tea in self.teas:
            for name, fact in self.facts.items():
                for phrasing in fact["ask"]:
                    yield Turn(phrasing.format(tea=tea), Keeper(self).fact(tea, name))
        for entry in (*self.lines, *self.advice):
            for message in entry["ask"]:
                yield Turn(message, entry["reply"])

    def words(self) -> tuple[list[str], list[str]]:
        """The vocabulary of messages and that of replies, each sorted."""
        said: set[str] = set(" ".join((*_BEFORE, *_AFTER)).split())
        answered: set[str] = set()
        keeper = Keeper(self)
        first, *_ = self.teas
        for key, text in _strings(self.tables):
            texts = {keeper.fill(text, tea, "") for tea in self.teas}
            if "name}" in text.lower():
                texts = {keeper.fill(text, first, name) for name in self.names}
            if key == "which" or key.endswith("reply"):
                answered.update(word for filled in texts for word in reply_words(filled))
            else:
                said.update(word for filled in texts for word in filled.split())
        return sorted(said), sorted(answered)


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All phrasings and replies, each with its key; teas and names come in through the templates."""
    if isinstance(value, str):
        yield key, value
        return
    items = value.items() if isinstance(value, dict) else ((key, item) for item in value)
    for name, item in items:
        if name not in ("teas", "names", "tea"):
            yield from _strings(item, name)


def reply_words(reply: str) -> list[str]:
    """A reply as the network writes it: punctuation at the end of a word is a word."""
    return [part for word in reply.split() for part in re.split(r"(?=[.,?!]$)", word) if part]


def _around(rng: random.Random, noise: float, turn: Turn) -> Turn:
    if rng.random() >= noise:
        return turn
    before = rng.choice((*_BEFORE, _STRANGE)) if rng.random() < 0.7 else ""
    after = rng.choice((*_AFTER, _STRANGE)) if not before or rng.random() < 0.2 else ""
    return replace(turn, message=f"{before} {turn.message} {after}".strip())


class Keeper:
    """Who has been told all messages so far. A method for each kind of message makes one, and knows the reply.

    tea, asked: the tea last spoken of and the fact last asked for.   name, order: of the guest.
    """

    def __init__(self, dialogues: Dialogues) -> None:
        self._dialogues = dialogues
        self._context = dialogues.context
        self._teas = list(dialogues.teas)
        self._facts = list(dialogues.facts)
        self.tea = ""
        self.asked = ""
        self.name_told = ""
        self.ordered = ""

    def turn(self, kind: str, rng: random.Random) -> Turn:
        """A message of one of the kinds."""
        turn: Turn = getattr(self, kind)(rng)
        return replace(turn, known=(self.tea, self.asked, self.name_told, self.ordered))

    def fill(self, template: str, tea: str = "", name: str = "") -> str:
        """A template with the facts of `tea` and the name put in."""
        facts = self._dialogues.teas.get(tea, {})
        return template.format(tea=tea, Tea=tea.capitalize(), name=name.lower(), Name=name, **facts)

    def fact(self, tea: str, name: str) -> str:
        """The reply to a question for one fact of one tea."""
        return self.fill(self._dialogues.facts[name]["reply"], tea)

    def _asked_for(self, tea: str, fact: str) -> str:
        self.tea, self.asked = tea, fact
        return self.fact(tea, fact) if tea else str(self._context["which"])

    def ask(self, rng: random.Random) -> Turn:
        """A fact of a tea, by its name."""
        tea, fact = rng.choice(self._teas), rng.choice(self._facts)
        return Turn(self.fill(rng.choice(self._dialogues.facts[fact]["ask"]), tea), self._asked_for(tea, fact))

    def it(self, rng: random.Random) -> Turn:
        """A fact of the tea last spoken of."""
        fact = rng.choice(self._facts)
        return Turn(rng.choice(self._dialogues.facts[fact]["it"]), self._asked_for(self.tea, fact))

    def another(self, rng: random.Random) -> Turn:
        """The last question again, for another tea; without a last question it is the taste."""
        tea = rng.choice(self._teas)
        message = self.fill(rng.choice(self._context["and"]), tea)
        return Turn(message, self._asked_for(tea, self.asked or "taste"))

    def name(self, rng: random.Random) -> Turn:
        """The guest's name; one that is not in the vocabulary cannot be kept."""
        strange = rng.random() < 0.1
        name = _STRANGE if strange else rng.choice(self._dialogues.names)
        self.name_told = "" if strange else name
        message = self.fill(rng.choice(self._context["name"]), name=name)
        return Turn(message, self.fill(self._context["unknown_name_reply" if strange else "name_reply"], name=name))

    def my_name(self, rng: random.Random) -> Turn:
        """Who am I?"""
        reply = self._context["my_name_reply" if self.name_told else "no_name_reply"]
        return Turn(rng.choice(self._context["my_name"]), self.fill(reply, name=self.name_told))

    def my_tea(self, rng: random.Random) -> Turn:
        """Which tea was that?"""
        reply = self._context["my_tea_reply"] if self.tea else self._context["which"]
        return Turn(rng.choice(self._context["my_tea"]), self.fill(reply, self.tea))

    def _order(self, message: str, tea: str) -> Turn:
        if not tea:
            return Turn(message, self._context["which"])
        self.tea = self.ordered = tea
        return Turn(message, self.fill(self._context["order_reply"], tea))

    def order(self, rng: random.Random) -> Turn:
        """An order of a tea, by its name."""
        tea = rng.choice(self._teas)
        return self._order(self.fill(rng.choice(self._context["order"]), tea), tea)

    def order_it(self, rng: random.Random) -> Turn:
        """An order of the tea last spoken of."""
        return self._order(rng.choice(self._context["order_it"]), self.tea)

    def my_order(self, rng: random.Random) -> Turn:
        """What did I order?"""
        reply = self._context["my_order_reply" if self.ordered else "no_order_reply"]
        return Turn(rng.choice(self._context["my_order"]), self.fill(reply, self.ordered))

    def cancel(self, rng: random.Random) -> Turn:
        """The order taken back."""
        reply = self.fill(self._context["cancel_reply" if self.ordered else "no_order_reply"], self.ordered)
        self.ordered = ""
        return Turn(rng.choice(self._context["cancel"]), reply)

    def advice(self, rng: random.Random) -> Turn:
        """Help with the choice; its tea is then the one spoken of."""
        entry = rng.choice(self._dialogues.advice)
        self.tea = entry["tea"]
        return Turn(rng.choice(entry["ask"]), entry["reply"])

    def lines(self, rng: random.Random) -> Turn:
        """Anything else."""
        entry = rng.choice(self._dialogues.lines)
        return Turn(rng.choice(entry["ask"]), entry["reply"])

    def strange(self, rng: random.Random) -> Turn:
        """Words that are not in the vocabulary."""
        return Turn(" ".join([_STRANGE] * rng.randint(1, 4)), self._dialogues.lines[-1]["reply"])

    def bye(self, rng: random.Random) -> Turn:
        """Goodbye."""
        reply = self._context["bye_name_reply" if self.name_told else "bye_reply"]
        return Turn(rng.choice(self._context["bye"]), self.fill(reply, name=self.name_told))
