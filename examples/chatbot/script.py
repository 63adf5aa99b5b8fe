"""The TorchScript source that turns a message into word numbers and a reply's word numbers into text.

It runs inside the server (AI.SCRIPTSTORE), so that a client sends and receives text and knows no vocabulary. Training
uses the same functions, compiled from the same source: the two cannot disagree.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["ENTRY_POINTS", "FIRST_WORD", "MESSAGE_WORDS", "REPLY_WORDS", "script_source"]

ENTRY_POINTS = ("read", "write")
MESSAGE_WORDS = 14
"""Words of a message that are read; the last ones, if there are more."""
REPLY_WORDS = 18
"""Words of a reply, punctuation and its end included."""
FIRST_WORD = 2
"""Number of a vocabulary's first word. 0 is no word (before a message, after a reply), 1 an unknown one."""

# A dictionary would have to be built at every call, since a script has no globals. So a vocabulary is one string of
# slots of equal width, a word's number is its offset by the width, and looking it up is one search by the C library.
_SOURCE = '''
def read(tensors: List[Tensor], keys: List[str], args: List[str]):
    """args: the message. Returns INT64 (1, {message_words}): numbers of its last words, zeros before them."""
    vocabulary = "{said}"
    text = args[0][:{message_characters}].lower().replace("can't", "cannot").replace("n't", " not")
    text = text.replace("'s", " is").replace("'m", " am").replace("'ll", " will").replace("'d", " would")
    ids: List[int] = []
    word = ""
    for c in text + " ":
        if c.isalnum():
            word += c
        elif c != "'" and len(word) > 0:
            slot = vocabulary.find(" " + word + " ")
            ids.append(1 if slot < 0 else slot // {said_width} + {first_word})
            word = ""
    ids = ids[-{message_words}:]
    return torch.tensor([[0] * ({message_words} - len(ids)) + ids])


def write(tensors: List[Tensor], keys: List[str], args: List[str]):
    """tensors: INT64 (1, n), numbers of words, up to the first 0. Returns UINT8 (k,): the reply's characters."""
    vocabulary = "{answered}"
    codes: List[int] = []
    ids: List[int] = tensors[0][0].tolist()
    for i in ids:
        if i == 0:
            break
        start = (i - {first_word}) * {answered_width}
        word = vocabulary[start : start + {answered_width}].strip()
        if len(codes) > 0 and word not in ".,?!":
            codes.append(32)
        for c in word:
            codes.append(ord(c))
    if len(codes) == 0:
        codes.append(63)  # a tensor has at least one element: a question mark
    return torch.tensor(codes, dtype=torch.uint8)
'''


def script_source(said: Sequence[str], answered: Sequence[str]) -> str:
    """The source for two vocabularies: of messages, in lower case, and of replies. Word i has number i + FIRST_WORD."""
    said_width, said_slots = _slots(said)
    answered_width, answered_slots = _slots(answered)
    return _SOURCE.format(
        said=said_slots,
        said_width=said_width,
        answered=answered_slots,
        answered_width=answered_width,
        first_word=FIRST_WORD,
        message_words=MESSAGE_WORDS,
        message_characters=16 * MESSAGE_WORDS,
    )


def _slots(words: Sequence[str]) -> tuple[int, str]:
    """(width, slots): every word after one blank and followed by at least one."""
    width = max(map(len, words)) + 2
    return width, "".join(f" {word}".ljust(width) for word in words)
