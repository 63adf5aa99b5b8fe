"""The network: a hierarchical recurrent encoder-decoder whose state is one vector per conversation.

A GRU reads the message's words; its last hidden state goes into a second GRU, which makes one step per message: its
hidden state is what is kept between messages. From it come beliefs, a distribution over the values of each slot (the
tea spoken of, the guest's name ...). A third GRU writes the reply, with attention to the words of the message.

Sources: Sordoni et al. 2015 (hierarchical recurrent encoder-decoder); Luong et al. 2015 (attention after the
decoder's step, dot product); Wen et al. 2016 (beliefs within a network that is trained as a whole).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from examples.chatbot.shapes import MESSAGE_WORDS, REPLY_WORDS, STATE_SIZE

__all__ = ["Network", "export_onnx", "spelled"]

_WORD_SIZE = 48
_HIDDEN_SIZE = 112


class Network(nn.Module):
    """said, answered: sizes of the vocabularies of messages and replies, their special numbers included.

    slots: for each kind of thing that is to be remembered, the number of its values, nothing being one.
    """

    def __init__(self, said: int, answered: int, slots: Sequence[int]) -> None:
        super().__init__()
        # Without biases, and with zeros for no word, the padding before a message leaves the hidden state at zero.
        self.said = nn.Embedding(said, _WORD_SIZE, padding_idx=0)
        self.answered = nn.Embedding(answered, _WORD_SIZE)
        self.reader = nn.GRU(_WORD_SIZE, _HIDDEN_SIZE, bias=False, batch_first=True)
        self.keeper = nn.GRUCell(_HIDDEN_SIZE, STATE_SIZE)
        self.beliefs = nn.ModuleList(nn.Linear(STATE_SIZE, values) for values in slots)
        self.opening = nn.Linear(STATE_SIZE, _HIDDEN_SIZE)
        self.writer = nn.GRU(_WORD_SIZE, _HIDDEN_SIZE, batch_first=True)
        self.attention = nn.Linear(_HIDDEN_SIZE, _HIDDEN_SIZE, bias=False)
        self.mixed = nn.Linear(2 * _HIDDEN_SIZE + sum(slots), _HIDDEN_SIZE)
        self.choice = nn.Linear(_HIDDEN_SIZE, answered)
        # What was said stays until something else is said: open the update gate towards the old state from the start.
        with torch.no_grad():
            self.keeper.bias_ih[STATE_SIZE : 2 * STATE_SIZE] += 1.0

    def training_scores(self, messages: Tensor, given: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores of every next word, given the right words before it (teacher forcing), and of what is remembered.

        Args:    messages: INT64 (b, t, m), t messages of each of b conversations, zeros before their first words.
                 given: INT64 (b, t, r), the replies moved right by one word.
        Returns: FLOAT (b, t, r, words); for each slot FLOAT (b, t, values).
        """
        b, t, _ = messages.shape
        words = messages.flatten(0, 1)
        read, last = self.reader(self.said(words))
        states = []
        state = read.new_zeros(b, STATE_SIZE)
        for message in last[0].view(b, t, -1).unbind(1):
            state = self.keeper(message, state)
            states.append(state)
        kept = torch.stack(states, 1).flatten(0, 1)
        beliefs = [slot(kept) for slot in self.beliefs]
        written, _ = self.writer(self.answered(given.flatten(0, 1)), torch.tanh(self.opening(kept))[None])
        scores = self._scores(written, read, words, _certain(beliefs))
        return scores.unflatten(0, (b, t)), [belief.unflatten(0, (b, t)) for belief in beliefs]

    def _scores(self, written: Tensor, read: Tensor, words: Tensor, believed: Tensor) -> Tensor:
        weights = self.attention(written) @ read.transpose(1, 2)
        weights = torch.softmax(weights.masked_fill((words == 0)[:, None], -1e4), -1)
        believed = believed.expand(-1, written.shape[1], -1)
        scores: Tensor = self.choice(torch.tanh(self.mixed(torch.cat([written, weights @ read, believed], -1))))
        return scores

    def forward(self, words: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One message.

        Args:    words: INT64 (b, MESSAGE_WORDS).   state: FLOAT (b, STATE_SIZE), zeros for a new conversation.
        Returns: reply INT64 (b, REPLY_WORDS), zeros after the last word; the new state.
        """
        b = words.shape[0]
        none = state.new_zeros(1, 1, _HIDDEN_SIZE).expand(1, b, _HIDDEN_SIZE)
        read, last = self.reader(self.said(words), none)
        state = self.keeper(last[0], state)
        believed = _certain([slot(state) for slot in self.beliefs])
        hidden = torch.tanh(self.opening(state))[None]
        word = words[:, :1] * 0
        reply = []
        for step in range(REPLY_WORDS):
            written, hidden = self.writer(self.answered(word), hidden)
            chosen = self._scores(written, read, words, believed).argmax(-1)
            word = chosen if step == 0 else chosen * (word != 0)  # what has ended stays so
            reply.append(word)
        return torch.cat(reply, 1), state


def _certain(beliefs: list[Tensor]) -> Tensor:
    """Scores as probabilities, FLOAT (b, 1, values of all slots)."""
    return torch.cat([torch.softmax(belief, -1) for belief in beliefs], -1)[:, None]


class _Speaking(nn.Module):
    """The network with its replies spelled out, so that no client needs their vocabulary."""

    def __init__(self, network: Network, answered: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.letters: Tensor
        self.register_buffer("letters", spelled(answered))

    def forward(self, words: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        reply, state = self.network(words, state)
        return self.letters[reply].flatten(1), state


def spelled(answered: Sequence[str]) -> Tensor:
    """Letters of every word of the replies, UINT8 (words, width), zeros where there are none.

    A blank comes before a word, but not before punctuation: letter after letter, without the zeros, they are the text.
    """
    words = ["", "", *(word if word in ".,?!" else f" {word}" for word in answered)]
    width = max(map(len, words))
    return torch.tensor([list(word.encode().ljust(width, b"\0")) for word in words], dtype=torch.uint8)


def export_onnx(network: Network, answered: Sequence[str]) -> bytes:
    """The network as an ONNX model; the writing of the reply is unrolled in it.

    Inputs:  words INT64 (b, MESSAGE_WORDS), state FLOAT (b, STATE_SIZE), b dynamic.
    Outputs: text UINT8 (b, letters), the reply's with zeros among them; new_state FLOAT (b, STATE_SIZE).
    """
    words = torch.zeros(2, MESSAGE_WORDS, dtype=torch.int64)
    names = ["words", "state", "text", "new_state"]
    blob = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter that follows the code, as it was run once, keeps a GRU one node; its successor takes it apart.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Speaking(network, answered).eval(),
            (words, torch.zeros(2, STATE_SIZE)),
            blob,  # type: ignore[arg-type]  # any file: the annotation is that of the other exporter
            dynamo=False,
            input_names=names[:2],
            output_names=names[2:],
            dynamic_axes={name: {0: "conversations"} for name in names},
        )
    return blob.getvalue()
