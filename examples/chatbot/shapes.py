"""What the programs that talk and the network that learns have to agree on, without a framework imported."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["FIRST_WORD", "MESSAGE_WORDS", "REPLY_WORDS", "STATE_SIZE", "version"]

MESSAGE_WORDS = 14
"""Words of a message that are read; the last ones, if there are more."""
REPLY_WORDS = 18
"""Words of a reply, punctuation and its end included."""
STATE_SIZE = 256
"""Floats of a conversation's state."""
FIRST_WORD = 2
"""Number of a vocabulary's first word. 0 is not a word (before a message, after a reply), 1 an unknown one."""

_MADE_OF = ("dialogues.toml", "dialogues.py", "network.py", "script.py", "shapes.py", "training.py")


def version() -> str:
    """Eight characters that change with the dialogues and with all that makes a network of them."""
    sources = [Path(__file__).with_name(name).read_bytes() for name in _MADE_OF]
    return hashlib.sha256(b"".join(sources)).hexdigest()[:8]
