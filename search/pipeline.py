"""One search from data to result: source decided, supernet searched, child network derived, both evaluated on test."""

from __future__ import annotations

from collections.abc import Sequence

from search.recipe import Recipe
from search.results import Candidate, Decision, Epoch, Listener, PipelineResult, Taste
from search.spaces import SearchSpace
from search.tasks import ImageDataset

__all__ = ["Candidate", "Decision", "Epoch", "Listener", "PipelineResult", "Taste", "run_pipeline"]


def run_pipeline(
    dataset: ImageDataset,
    space: SearchSpace,
    recipe: Recipe,
    *,
    seed: int = 0,
    candidates: Sequence[Candidate] = (),
    taste: bool = True,
    transfer_mode: str = "WEIGHTS_AND_ALPHAS",
    device: str = "auto",
    checkpoint: bytes | None = None,
    listener: Listener | None = None,
) -> PipelineResult:
    """Run a search. Signature only, for now."""
    raise NotImplementedError
