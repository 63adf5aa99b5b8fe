"""The TorchScript source that turns a message into word numbers.

It runs inside the server (AI.SCRIPTSTORE), so that a client sends text and knows no vocabulary. Training uses the same
function, compiled from the same source: the two cannot disagree.
"""

from __future__ import annotations

from collections.abc import Sequence

from examples.chatbot.shapes import FIRST_WORD, MESSAGE_WORDS

__all__ = ["ENTRY_POINT", "script_source"]

ENTRY_POINT = "read"
# A dictionary would have to be built at every call, since a script has no globals. So the vocabulary is one string of
# slots of equal width, a word's number is its offset by the width, and looking it up is one search by the C library.
_SOURCE = '''
def read(tensors: List[Tensor], keys: List[str], args: List[str]):
    """args: the message. Returns INT64 (1, {message_words}): numbers of its last words, zeros before them."""
    vocabulary = "{slots}"
    text = args[0][:{message_characters}].lower().replace("can't", "cannot").replace("n't", " not")
    text = text.replace("'s", " is").replace("'m", " am").replace("'ll", " will").replace("'d", " would")
    for mark in [".", ",", "?", "!", ";", ":", "-", "(", ")", "*", "/", "\\"", "'"]:
        text = text.replace(mark, " ")
    ids: List[int] = []
    for word in text.split():
        slot = vocabulary.find(" " + word + " ")
        ids.append(1 if slot < 0 else slot // {width} + {first_word})
    ids = ids[-{message_words}:]
    return torch.tensor([[0] * ({message_words} - len(ids)) + ids])
'''


def script_source(vocabulary: Sequence[str]) -> str:
    """The source for a vocabulary of words in lower case. Word i has number i + FIRST_WORD."""
    width = max(map(len, vocabulary)) + 2
    return _SOURCE.format(
        slots="".join(f" {word}".ljust(width) for word in vocabulary),
        width=width,
        first_word=FIRST_WORD,
        message_words=MESSAGE_WORDS,
        message_characters=16 * MESSAGE_WORDS,
    )
