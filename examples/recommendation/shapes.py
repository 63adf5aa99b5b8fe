"""What the programs that recommend and the network that learns have to agree on, without a framework imported."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HISTORY", "TOP", "WINDOW", "Keys", "version"]

HISTORY = 200
"""Films of a viewer that are kept, the last one at the end, zeros before the first: none of them is recommended."""
WINDOW = 20
"""Films of these that the network reads: the last ones."""
TOP = 10
"""Films of a recommendation."""

_MADE_OF = ("network.py", "ratings.py", "shapes.py", "shift.py", "training.py")


def version(titles: Sequence[str]) -> str:
    """Eight characters that change with the films and with all that makes a network of them."""
    sources = [Path(__file__).with_name(name).read_bytes() for name in _MADE_OF]
    return hashlib.sha256(b"".join(sources) + "\n".join(titles).encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of the keys in Redis. version: of films and network; numbers of one version mean nothing to another."""

    version: str

    @property
    def model(self) -> str:
        """The model, as it was published last."""
        return f"films:{self.version}:model"

    @property
    def shift(self) -> str:
        """The script that puts a film at the end of a history."""
        return f"films:{self.version}:shift"

    @property
    def shift_model(self) -> str:
        """The same as a model."""
        return f"films:{self.version}:shift-model"

    @property
    def needed(self) -> tuple[str, ...]:
        """What a server has to have before the first click."""
        return self.model, self.shift, self.shift_model, self.weights, self.progress

    @property
    def clicks(self) -> str:
        """The stream of clicks: fields `viewer` and `film`."""
        return f"films:{self.version}:clicks"

    @property
    def weights(self) -> str:
        """The network's parameters, as safetensors: what training goes on from."""
        return f"films:{self.version}:weights"

    @property
    def progress(self) -> str:
        """A hash: how far the trainer is."""
        return f"films:{self.version}:progress"

    def history(self, viewer: str) -> str:
        """A viewer's last films: a tensor, INT64 (1, HISTORY)."""
        return f"films:{self.version}:history:{viewer}"
