"""The films as `make recommendation` trains them: how good the recommendations are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from examples.recommendation.ratings import movielens
from examples.recommendation.shapes import WINDOW
from examples.recommendation.training import Examples, examples_of, learn, recall, train

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_it_is_better_than_popularity_and_stays_so_while_it_learns() -> None:
    ratings = movielens()
    trained = train(ratings)
    assert trained.recall >= 0.07
    assert trained.recall >= 1.4 * trained.popular
    assert trained.popular > 0.03, "a yardstick that is worth something"

    # Sixty clicks of one visitor, of films that nobody else combines, do not make everybody's worse.
    chance = torch.Generator().manual_seed(3)
    replayed = examples_of(ratings.without_last.histories)
    for _ in range(3):
        films = torch.randint(1, len(ratings.titles), (20, WINDOW + 1), generator=chance)
        learn(trained.network, Examples(films[:, :-1], films[:, -1]), replayed, chance)
    assert recall(trained.network, ratings) >= 0.85 * trained.recall


def test_measure_says_what_the_page_of_the_documentation_says(tmp_path: Path) -> None:
    words = ["-m", "examples.recommendation", "measure", "--data-dir", str(tmp_path), "--seconds", "1"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = " ".join(done.stdout.split())
    assert re.search(r"Trained in \d+ s; recall@10 0\.\d+, popularity 0\.\d+: \d+\.\d+ times", shown), shown
    assert len(re.findall(r"p50 \d+\.\d+ ms", shown)) == 3
    assert "50 models published" in shown
    assert " 0 failed" in shown
