"""The comparison of encoders: what its figures mean."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from benchmarks.similarity import encoder_transfer as comparison
from benchmarks.similarity.other_encoders import RawEncoder
from supernet_registry.search.similarity import load_encoder

ROOT = Path(__file__).parents[2]


def test_rank_correlation_is_spearmans_with_ties() -> None:
    stats = pytest.importorskip("scipy.stats")
    x, y = np.array([1.0, 2, 2, 3, 9, 4]), np.array([0.1, 0.4, 0.3, 0.3, 0.2, 0.9])
    assert comparison.rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert comparison.rank_correlation(x, np.ones(6)) == 0.0


def test_regret_is_what_the_best_predicted_sources_leave_on_the_table() -> None:
    distances, gain = np.array([3.0, 1.0, 2.0, 4.0]), np.array([0.30, 0.10, 0.20, 0.25])
    assert comparison.regret_of_best(-distances, gain, 1) == pytest.approx(0.20)
    assert comparison.regret_of_best(-distances, gain, 2) == pytest.approx(0.10)
    assert comparison.regret_of_best(-distances, gain, 3) == 0.0


def test_a_source_alone_is_judged_by_the_other_targets() -> None:
    gain = np.array([[0.1, 0.4], [0.3, 0.2], [0.5, 0.0]])
    np.testing.assert_allclose(comparison.elsewhere(gain), [[0.4, 0.1], [0.3, 0.2], [0.2, 0.3]])


def transfer(gain: dict[tuple[str, str], float]) -> dict[str, object]:
    """Runs with two seeds, as the selection benchmark stores them."""
    step = {"n_train": 10, "n_val": 5, "seed": 0, "transform": None, "labels": None}
    names = {name for pair in gain for name in pair}
    tasks = {name: {**step, "task": name} for name in names - {"poisoned", "generalist"}}
    tasks["poisoned"] = {**step, "task": "fashion_tops", "labels": "random"}
    rows = [
        {"target": target, "source": source, "seed": seed, "gain": value + 0.01 * seed}
        for (target, source), value in gain.items()
        for seed in (0, 1)
    ]
    return {"tasks": tasks, "matrix": rows}


def test_transfer_runs_that_follow_the_domains_give_full_marks(capsys: pytest.CaptureFixture[str]) -> None:
    """Fashion helps fashion, print helps print, and the poisoned source, near as it is, counts for nothing."""
    targets = ("fashion_tops_twin", "print_latin_upper")
    gain = dict.fromkeys(product(targets, ("texture3", "poisoned", "generalist")), 0.0)
    for target, source in product(targets, ("fashion_tops", "print_latin_lower")):
        gain[target, source] = 0.2 if target.partition("_")[0] == source.partition("_")[0] else 0.1
    section = comparison.evaluate(transfer(gain), ROOT / "examples" / "tasks", [load_encoder(), RawEncoder()])
    figures = section.figures
    assert figures["sources"] == ["texture3", "fashion_tops", "print_latin_lower"]
    assert figures["pixels"]["nearest"] == ["fashion_tops", "print_latin_lower"]
    assert figures["pixels"]["regret"] == pytest.approx([0.0, 0.0])
    assert figures["gain"] == [pytest.approx([0.005, 0.205, 0.105]), pytest.approx([0.005, 0.105, 0.205])]
    assert figures["pixels"]["poisoned_ranks"]["poisoned"] < 2
    assert figures["pixels"]["ahead_of_default"]["regret"] == (0.0, 0.0, 0.0)
    assert figures["references"]["another seed"]["rank_correlation"] == pytest.approx([1.0] * 4)
    assert figures["references"]["by chance"]["regret"] == pytest.approx([10.0, 10.0])
    assert "Spearman" in capsys.readouterr().out


def test_a_source_dropped_by_a_race_counts_with_the_seeds_it_has() -> None:
    gain = {("print_greek", source): value for source, value in (("print_thai", 0.2), ("fashion_tops", 0.1))}
    runs = transfer(gain)
    runs["matrix"] = [row for row in runs["matrix"] if (row["source"], row["seed"]) != ("fashion_tops", 1)]  # type: ignore[attr-defined]
    figures = comparison.evaluate(runs, ROOT / "examples" / "tasks", [load_encoder()]).figures
    assert figures["gain"] == [pytest.approx([0.205, 0.1])]
    assert figures["references"]["another seed"] == {}
