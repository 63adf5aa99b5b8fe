"""Trains the network on conversations and measures it on others: `train` gives all that the server has to store.

Everything is drawn from one seed, so that two trainings on one machine give the same network. PyTorch sums in another
order on another machine or number of threads; the network may then differ in its last digits.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from examples.chatbot.dialogues import Dialogues, Turn, reply_words
from examples.chatbot.network import Network, export_onnx
from examples.chatbot.script import script_source
from examples.chatbot.shapes import FIRST_WORD, REPLY_WORDS, STATE_SIZE, version

__all__ = ["Progress", "Trained", "train"]

_SEED = 20
_STEPS = 640
_CONVERSATIONS = 32
_TURNS = 7
_NOISE = 0.25
_RATE = 4e-3
_KNOWING = 0.1
"""Weight of what the state has to hold, beside the replies: these alone teach to remember too, but much later."""

Progress = Callable[[int, int, float], None]
"""Called with the steps done, the steps in all, and the loss."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What goes to the server, and how good it is.

    model: ONNX.   script: TorchScript.   version: of both.
    exact: share of unseen conversations' replies that are right to the letter.   duration_s: of the training.
    """

    model: bytes
    script: str
    version: str
    exact: float
    duration_s: float


class _Encoder:
    """Turns as numbers. Messages go through the very script that the server runs."""

    def __init__(self, book: Dialogues, said: Sequence[str], answered: Sequence[str]) -> None:
        self.source = script_source(said)
        self._script = torch.jit.CompilationUnit(self.source)
        self._answered = {word: i + FIRST_WORD for i, word in enumerate(answered)}
        self._messages: dict[str, Tensor] = {}
        self._replies: dict[str, Tensor] = {}
        self._slots = [{value: i for i, value in enumerate(slot)} for slot in book.slots]

    def message(self, text: str) -> Tensor:
        """INT64 (MESSAGE_WORDS,)."""
        if text not in self._messages:
            self._messages[text] = self._script.read([], [], [text])[0]
        return self._messages[text]

    def reply(self, text: str) -> Tensor:
        """INT64 (REPLY_WORDS,), at least one zero at its end."""
        if text not in self._replies:
            words = [self._answered[word] for word in reply_words(text)]
            assert len(words) < REPLY_WORDS, f"too long: {text}"
            self._replies[text] = torch.tensor(words + [0] * (REPLY_WORDS - len(words)))
        return self._replies[text]

    def known(self, conversations: Sequence[Sequence[Turn]]) -> Tensor:
        """What is known after each message, INT64 (slots, b, t)."""
        numbers = [
            [[slot[turn.known[i]] for turn in turns] for turns in conversations] for i, slot in enumerate(self._slots)
        ]
        return torch.tensor(numbers)

    def batch(self, conversations: Sequence[Sequence[Turn]]) -> tuple[Tensor, Tensor]:
        """messages (b, t, MESSAGE_WORDS) and replies (b, t, REPLY_WORDS), INT64."""
        messages = [torch.stack([self.message(turn.message) for turn in turns]) for turns in conversations]
        replies = [torch.stack([self.reply(turn.reply) for turn in turns]) for turns in conversations]
        return torch.stack(messages), torch.stack(replies)


def train(progress: Progress = lambda done, steps, loss: None, steps: int = _STEPS) -> Trained:
    """Train a network from nothing. About a minute; on one core, since these tensors are too small to share out.

    Args: steps: batches of conversations; fewer give a worse network sooner.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _train(progress, steps)
    finally:
        torch.set_num_threads(threads)


def _train(progress: Progress, steps: int) -> Trained:
    began = time.monotonic()
    rng = random.Random(_SEED)
    book = Dialogues()
    said, answered = book.words()
    encoder = _Encoder(book, said, answered)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        net = Network(len(said) + FIRST_WORD, len(answered) + FIRST_WORD, [len(slot) for slot in book.slots])
    optimizer = torch.optim.AdamW(net.parameters(), lr=_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=0.1)
    weights = _word_weights(encoder, book, len(answered) + FIRST_WORD)
    for step in range(steps):
        conversations = [book.conversation(rng, _TURNS, _NOISE) for _ in range(_CONVERSATIONS)]
        loss = _loss(net, *encoder.batch(conversations), encoder.known(conversations), weights)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress(step + 1, steps, loss.item())
    duration_s = time.monotonic() - began
    return Trained(export_onnx(net, answered), encoder.source, version(), _exact(net, encoder, book), duration_s)


def _word_weights(encoder: _Encoder, book: Dialogues, words: int) -> Tensor:
    """Weights that fall with the square root of a word's frequency, FLOAT (words,).

    A guest's name is one word in a hundred, and the rest of "Your name is ..." is soon right without it: unweighted,
    the network learns names last.
    """
    rng = random.Random(_SEED - 1)
    _, replies = encoder.batch([book.conversation(rng, _TURNS) for _ in range(200)])
    counts = torch.bincount(replies.flatten(), minlength=words).float()
    counts[0] = replies.shape[0] * replies.shape[1]  # a reply ends once, the rest is padding
    weights = (counts + 3) ** -0.5
    return weights * counts.sum() / (weights * counts).sum()


def _loss(net: Network, messages: Tensor, replies: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """Cross entropy of the replies' words, their ends included, and of what is known. Columns of padding are left out.

    weights: of each word of the replies, FLOAT (words,).
    """
    longest = int((messages != 0).sum(-1).max())
    given = replies.roll(1, -1)[..., : int((replies != 0).sum(-1).max()) + 1]
    counted = given != 0
    counted[..., 0] = True
    scores, beliefs = net.training_scores(messages[..., -longest:], given)
    loss = nn.functional.cross_entropy(scores[counted], replies[..., : given.shape[-1]][counted], weights)
    for belief, values in zip(beliefs, known, strict=True):
        loss = loss + _KNOWING * nn.functional.cross_entropy(belief.flatten(0, 1), values.flatten())
    return loss


def _exact(net: Network, encoder: _Encoder, book: Dialogues, conversations: int = 100, turns: int = 10) -> float:
    """Share of right replies in conversations that were not trained on, longer than those that were."""
    rng = random.Random(_SEED + 1)
    messages, replies = encoder.batch([book.conversation(rng, turns) for _ in range(conversations)])
    state = torch.zeros(conversations, STATE_SIZE)
    right = 0
    with torch.inference_mode():
        for turn in range(turns):
            reply, state = net(messages[:, turn], state)
            right += int((reply == replies[:, turn]).all(-1).sum())
    return right / (conversations * turns)
