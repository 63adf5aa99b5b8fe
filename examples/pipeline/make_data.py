"""Write the CSV files of the examples: two from scikit-learn's package, one made here.

python -m examples.pipeline.make_data [DIRECTORY]
"""

from __future__ import annotations

import csv
import datetime
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sklearn.datasets

__all__ = ["write"]

HERE = Path(__file__).parent / "data"


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _cancer(path: Path) -> None:
    bunch = sklearn.datasets.load_breast_cancer()
    header = ["id", "diagnosis", *(str(name).replace(" ", "_") for name in bunch.feature_names)]
    rows = (
        [1000 + place, "malignant" if target == 0 else "benign", *map(float, values)]
        for place, (values, target) in enumerate(zip(bunch.data, bunch.target, strict=True))
    )
    _write(path, header, rows)


def _diabetes(path: Path) -> None:
    """With the blood pressure as a second target, gaps, and the sex as a text."""
    bunch = sklearn.datasets.load_diabetes(scaled=False)
    names = [str(name) for name in bunch.feature_names]
    pressure, sex = names.index("bp"), names.index("sex")
    kept = [place for place in range(len(names)) if place not in (pressure, sex)]
    rows = (
        [
            *("" if (number + place) % 61 == 0 else float(values[place]) for place in kept),
            "female" if values[sex] == 2 else "male",
            float(target),
            "" if number % 50 == 49 else float(values[pressure]),
        ]
        for number, (values, target) in enumerate(zip(bunch.data, bunch.target, strict=True))
    )
    _write(path, [*(names[place] for place in kept), "sex", "progression", "pressure"], rows)


def _demand(path: Path) -> None:
    """Three years of a shop: a trend, a week, a year, holidays and chance."""
    noise = np.random.default_rng(7)
    first = datetime.date(2022, 1, 1)
    days = [first + datetime.timedelta(place) for place in range(3 * 365)]
    demand = [
        round(
            200
            + 0.05 * place
            + 30 * np.sin(2 * np.pi * place / 365.25)
            + (40 if day.weekday() == 5 else -30 if day.weekday() == 6 else 0)
            + (60 if (day.month, day.day) in ((12, 23), (12, 24)) else 0)
            + noise.normal(0, 6)
        )
        for place, day in enumerate(days)
    ]
    rows = (
        [
            day.isoformat(), day.strftime("%A"), day.timetuple().tm_yday,
            demand[place - 1], demand[place - 7], sum(demand[place - 7 : place]) / 7, demand[place],
        ]
        for place, day in enumerate(days)
        if place >= 7
    )  # fmt: skip
    _write(path, ["date", "weekday", "day_of_year", "yesterday", "week_ago", "mean_of_week", "demand"], rows)


def write(directory: Path = HERE) -> Path:
    """All three files. Returns: the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    _cancer(directory / "cancer.csv")
    _diabetes(directory / "diabetes.csv")
    _demand(directory / "demand.csv")
    return directory


if __name__ == "__main__":
    print(write(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE))
