"""Stored supernets that may be tried, and what a trial has shown of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from supernet_registry.search.errors import SearchDiverged
from supernet_registry.search.results import NEAREST, Taste
from supernet_registry.search.starts.evidence import Evidence
from supernet_registry.search.starts.setup import Start
from supernet_registry.search.training.evaluation import calibrate, collect_logits, score_logits

__all__ = ["Contender", "Source"]

_LEAST_SKILL = 0.1


UNSKILLED = "not tried: its accuracy on its own task is hardly above chance"


@dataclass(frozen=True)
class Source:
    """A stored supernet that may be tried.

    `skill` is its accuracy on its own task as a share of the way from chance (0) to perfect (1), where it is known.
    """

    version: str
    ot_distance: float
    tensors: Mapping[str, Tensor]
    skill: float | None = None
    origin: str = NEAREST

    @property
    def is_skilled(self) -> bool:
        """Whether it has learnt its own task at all. Even features fitted to random labels can beat fresh ones on the
        first steps, so the trial alone would not unmask such a source."""
        return self.skill is None or self.skill >= _LEAST_SKILL


class Contender:
    """A source that is tried (scratch if `version` is empty) and what its trial has shown so far."""

    def __init__(self, version: str, ot_distance: float, start: Start, *, origin: str = NEAREST) -> None:
        assert start.loop.best is not None
        self.origin = origin
        self.version, self.ot_distance, self.loop = version, ot_distance, start.loop
        self.start = start.evidence
        self.evidence = start.evidence  # where its loss was least so far: a valley on the way is no loss
        self.steps = [0]
        self.scores = [start.loop.best]
        self.verdict = ""
        self.failure: SearchDiverged | None = None  # it is out of the race then, and its loop of no use

    def advance(self, steps: int) -> None:
        """Train a little, and judge it again; one that diverges even after its rollback is out."""
        try:
            self._advance(steps)
        except SearchDiverged as error:
            self.failure = error
            self.verdict = f"diverged: {error.message}"

    def _advance(self, steps: int) -> None:
        self.loop.advance(steps)
        loop = self.loop
        calibrate(loop.network, loop.data, loop.recipe)
        logits, labels = collect_logits(loop.network, loop.data, loop.data.val, loop.recipe)
        loop.network.set_norm_mode("train")
        score = score_logits(logits, labels)
        if score.loss < min(earlier.loss for earlier in self.scores):
            self.evidence = Evidence.of((logits, labels))
        self.steps.append(loop.steps)
        self.scores.append(score)
        loop.note(score)

    @property
    def reason(self) -> str:
        """The verdict, and why it was tried at all if that was not its distance."""
        return self.verdict if self.origin == NEAREST else f"the {self.origin}, {self.verdict}"

    def to_taste(self, scratch: Contender, *, chosen: bool) -> Taste:
        """What is reported."""
        gain, error = self.start.gain_over(scratch.start)
        return Taste(
            version=self.version,
            ot_distance=self.ot_distance,
            steps=tuple(self.steps),
            val_accuracies=tuple(score.accuracy for score in self.scores),
            val_losses=tuple(score.loss for score in self.scores),
            chosen=chosen,
            reason=self.reason,
            loss_gain=gain,
            loss_gain_error=error,
        )
