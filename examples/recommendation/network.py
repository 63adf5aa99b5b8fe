"""Two towers: one makes 48 numbers of a viewer's last films, the other 48 of a film; their product is the score."""

from __future__ import annotations

import io
import warnings

import torch
from torch import Tensor, nn

from examples.recommendation.shapes import HISTORY, TOP, WINDOW

__all__ = ["Network", "Recommending", "export_onnx"]

_WIDTH = 48
_DROPOUT = 0.3
_NEVER = -1e9


class Network(nn.Module):
    """films: their number, with 0 for none.   popularity: ratings of each, (films,), or None if weights are loaded."""

    def __init__(self, films: int, popularity: Tensor | None = None) -> None:
        super().__init__()
        self.seen = nn.Embedding(films, _WIDTH, padding_idx=0)
        self.viewer = nn.GRU(_WIDTH, _WIDTH, batch_first=True)
        self.outlook = nn.Sequential(nn.Linear(_WIDTH, 2 * _WIDTH), nn.ReLU(), nn.Linear(2 * _WIDTH, _WIDTH))
        self.film = nn.Embedding(films, _WIDTH)
        # A film's own weight begins as its share of the ratings: what remains to be learnt is taste.
        self.liked = nn.Parameter(torch.zeros(films) if popularity is None else torch.log(popularity.float() + 1))
        self.dropout = nn.Dropout(_DROPOUT)
        for table in (self.seen, self.film):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, films: Tensor) -> Tensor:
        """Scores of all films. films: INT64 (b, WINDOW).   Returns: FLOAT (b, films)."""
        _, state = self.viewer(self.dropout(self.seen(films)))
        taste = state[0] + self.outlook(state[0])
        return self.dropout(taste) @ self.film.weight.T + self.liked


class Recommending(nn.Module):
    """The network as it is served: the best films that are not in the history."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """history: INT64 (b, HISTORY).   Returns: films INT64 (b, TOP), the best first; scores FLOAT (b, TOP)."""
        scores = self.network(history[:, -WINDOW:])
        none = torch.zeros_like(history[:, :1])  # 0 is not a film, also in a history without zeros
        shown = torch.cat([history, none], 1)
        scores = scores.scatter(1, shown, torch.full_like(shown, _NEVER, dtype=scores.dtype))
        best, films = scores.topk(TOP)
        return films, best


def export_onnx(network: Network) -> bytes:
    """The network as it is served, as an ONNX model. It is put into evaluation mode.

    Inputs:  history INT64 (b, HISTORY), b dynamic.   Outputs: films INT64 (b, TOP), scores FLOAT (b, TOP).
    """
    blob = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter that follows the code, as it was run once, keeps a GRU one node and takes a tenth of a second.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Recommending(network).eval(),
            (torch.zeros(2, HISTORY, dtype=torch.int64),),
            blob,  # type: ignore[arg-type]  # any file: the annotation is that of the other exporter
            dynamo=False,
            opset_version=17,
            input_names=["history"],
            output_names=["films", "scores"],
            dynamic_axes={name: {0: "viewers"} for name in ("history", "films", "scores")},
        )
    return blob.getvalue()
