"""How a taste weighs its evidence: paired, in standard errors, the nearer source among equals."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from supernet_registry.search.recipe import Recipe
from supernet_registry.search.starts.contenders import Contender
from supernet_registry.search.starts.evidence import Evidence
from supernet_registry.search.starts.setup import SearchSetup, Start
from supernet_registry.search.starts.taste import _best, _compete
from supernet_registry.search.training.data import load_data
from tests.tiny_search import tiny_dataset, tiny_space

RECIPE = Recipe.for_space(tiny_space())
NO_STEPS = replace(RECIPE, taste_share=0.0)


@pytest.fixture(scope="module")
def start() -> Start:
    data = load_data(tiny_dataset(), tiny_space(), torch.device("cpu"))
    return SearchSetup(tiny_space(), data, RECIPE, 0, lambda: False).prepare(None, "SCRATCH")


def evidence(losses: list[float]) -> Evidence:
    return Evidence(torch.tensor(losses), torch.zeros(len(losses)))


def contender(start: Start, name: str, distance: float, losses: list[float]) -> Contender:
    return Contender(name, distance, replace(start, evidence=evidence(losses)))


@given(st.lists(st.floats(0, 10, width=32), min_size=2, max_size=30), st.integers(0, 2**32 - 1))
def test_a_gain_is_the_mean_of_paired_differences_with_its_standard_error(losses, seed):
    other = torch.rand(len(losses), generator=torch.Generator().manual_seed(seed)) * 10
    gain, error = evidence(losses).gain_over(Evidence(other, torch.zeros(len(losses))))
    saved = [theirs - mine for mine, theirs in zip(losses, other.tolist(), strict=True)]
    mean = math.fsum(saved) / len(saved)
    variance = math.fsum((value - mean) ** 2 for value in saved) / len(saved)
    assert gain == pytest.approx(mean, abs=1e-5)
    assert error == pytest.approx(math.sqrt(variance / len(saved)), abs=1e-5)


def test_between_equals_there_is_no_lead():
    assert evidence([1.0, 2.0, 3.0]).lead_over(evidence([1.0, 2.0, 3.0])) == 0.0


def test_evidence_of_different_rounds_is_compared_on_the_images_of_both():
    """The validation split comes last in either."""
    before, after = evidence([9.0, 9.0, 2.0, 2.0]), evidence([1.0, 1.0])
    assert after.gain_over(before) == (1.0, 0.0)


def test_losses_are_those_of_cross_entropy():
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = Evidence.of((logits, torch.tensor([0, 0])))
    torch.testing.assert_close(found.losses, torch.log1p(torch.exp(torch.tensor([-1.0, 1.0]))))
    assert found.accuracy == 0.5


def test_one_image_that_a_head_is_sure_and_wrong_about_does_not_decide_alone():
    logits = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    found = Evidence.of((logits, torch.tensor([0, 0])))
    assert found.losses.tolist() == pytest.approx([0.0, 2 * math.log(2)])


def test_the_source_with_the_least_loss_comes_first(start):
    far = contender(start, "far", 9.0, [0.1, 0.2, 0.1, 0.2])
    near = contender(start, "near", 1.0, [1.1, 1.3, 1.1, 1.3])
    assert [c.version for c in _best([near, far], 2)] == ["far", "near"]


def test_of_sources_that_the_images_cannot_tell_apart_the_nearer_comes_first(start):
    far = contender(start, "far", 9.0, [0.0, 1.0, 0.0, 1.0])
    near = contender(start, "near", 1.0, [1.0, 0.0, 1.0, 0.05])
    assert [c.version for c in _best([far, near], 2)] == ["near", "far"]


def test_of_sources_that_differ_by_next_to_nothing_the_nearer_comes_first(start):
    """An offspring may be surely better by a hundredth of a nat; that says nothing."""
    far = contender(start, "offspring, far", 9.0, [0.50, 0.60, 0.50, 0.60])
    near = contender(start, "near", 1.0, [0.51, 0.611, 0.51, 0.61])
    assert far.evidence.lead_over(near.evidence) > 10
    assert [c.version for c in _best([far, near], 2)] == ["near", "offspring, far"]


@pytest.mark.parametrize(
    ("losses", "winner"),
    [
        ([0.5, 0.6, 0.5, 0.6], "source"),  # always better
        ([0.9, 1.1, 0.9, 1.1], ""),  # no better on the mean
        ([0.0, 1.9, 0.0, 1.9], ""),  # better on the mean, but these few images may have been lucky
        ([1.5, 1.6, 1.5, 1.6], ""),  # worse
    ],
)
def test_a_source_wins_only_by_a_lead_that_is_not_luck(start, losses, winner):
    scratch = contender(start, "", 0.0, [1.0, 1.0, 1.0, 1.0])
    assert _compete(scratch, [contender(start, "source", 1.0, losses)], NO_STEPS).version == winner


def test_without_a_source_scratch_wins_and_says_why(start):
    scratch = contender(start, "", 0.0, [1.0, 1.0])
    assert _compete(scratch, [], RECIPE) is scratch
    assert "no source can be used" in scratch.verdict
