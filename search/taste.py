"""The taste: candidates and scratch each get a few steps on the target's own data, and the best goes on.

Distance between datasets cannot see what a source has learnt: one with random labels lies as near as its honest twin.
So a candidate must have learnt its own task, and is then judged where it will be used, in two rounds (successive
halving):

    round 0   no step at all: transfer, BatchNorm statistics and prototype head on the target, validation accuracy.
              This costs a pass over the training images, and already ranks features well. A source that leads
              scratch by far wins here, and one that does not lead at all has lost.
    round 1   where it is close, the best candidates and scratch make a few steps each, each with its own schedule.

A source must beat scratch by a margin, for a bad source costs more than a missed good one saves. It gets the short
schedule of a fine-tuning only if it clearly leads before any step, and the full one otherwise. The winner's loop simply
goes on, so its steps are not lost; everyone's steps and seconds are counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from search.data import Data, make_generator
from search.evaluation import Score, collect_logits, score_logits
from search.loop import Loop, Plan
from search.recipe import Recipe
from search.results import Decision, Taste
from search.spaces import SearchSpace
from search.supernet import Network
from search.warm_start import carries_weights, fit_head, temper, transfer

__all__ = ["Contender", "SearchSetup", "Source", "taste_sources"]

_MUCH_LOWER = 0.7
_LEAST_SKILL = 0.1
_UNSKILLED = "not tried: its accuracy on its own task is hardly above chance"
_CLEAR_LEAD = 3.0  # margins at which no step is needed to see who is better


@dataclass(frozen=True)
class Source:
    """A stored supernet that may be tried.

    `skill` is its accuracy on its own task as a share of the way from chance (0) to perfect (1), where it is known.
    """

    version: str
    ot_distance: float
    tensors: Mapping[str, Tensor]
    skill: float | None = None

    @property
    def is_skilled(self) -> bool:
        """Whether it has learnt its own task at all. Even features fitted to random labels can beat fresh ones on the
        first steps, so the trial alone would not unmask such a source."""
        return self.skill is None or self.skill >= _LEAST_SKILL


@dataclass(frozen=True)
class Evidence:
    """How a start does before any step, image by image, on images that its head has not seen: the training split by
    cross-validation, then the validation split. Everybody is judged on the same images, so differences are paired."""

    losses: Tensor  # (N + V,) nats
    hits: Tensor  # (N + V,) 1.0 where the most probable class is right

    @classmethod
    def of(cls, *parts: tuple[Tensor, Tensor]) -> Evidence:
        """From pairs of logits (M, K) and labels (M,)."""
        losses = [F.cross_entropy(logits, labels, reduction="none") for logits, labels in parts]
        hits = [(logits.argmax(dim=1) == labels).float() for logits, labels in parts]
        return cls(torch.cat(losses), torch.cat(hits))


@dataclass(frozen=True)
class Start:
    """A loop before its first step, scored on the validation split, and what else is known of it."""

    loop: Loop
    evidence: Evidence


@dataclass
class Contender:
    """A source that is tried (scratch if `version` is empty) and what its trial has shown so far."""

    version: str
    ot_distance: float
    loop: Loop
    steps: list[int] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    verdict: str = ""

    def judge(self) -> None:
        """Score the contender as it stands."""
        self.steps.append(self.loop.steps)
        self.scores.append(self.loop.evaluate())

    @property
    def best(self) -> Score:
        """Its best score so far: the loop keeps that state, so later harm is no loss."""
        return min(self.scores, key=lambda score: (-score.accuracy, score.loss))

    def to_taste(self, *, chosen: bool) -> Taste:
        """What is reported."""
        return Taste(
            version=self.version,
            ot_distance=self.ot_distance,
            steps=tuple(self.steps),
            val_accuracies=tuple(score.accuracy for score in self.scores),
            val_losses=tuple(score.loss for score in self.scores),
            chosen=chosen,
            reason=self.verdict,
        )


@dataclass(frozen=True)
class SearchSetup:
    """All that is needed to set up the search loop of any contender."""

    space: SearchSpace
    data: Data
    recipe: Recipe
    seed: int
    should_stop: Callable[[], bool]

    def prepare(self, source: Mapping[str, Tensor] | None, mode: str) -> Start:
        """A loop ready for its first step: fresh or transferred network, head computed from prototypes."""
        loop = self.bare_loop(warm=source is not None and carries_weights(mode))
        if source is not None:
            transfer(loop.network, source, mode)
            temper(loop.network, self.recipe.entropy_floor)
        head = fit_head(loop.network, self.data, self.recipe)
        logits, labels = collect_logits(loop.network, self.data, self.data.val, self.recipe)
        loop.network.set_norm_mode("train")
        loop.note(score_logits(logits, labels))
        return Start(loop, Evidence.of((head.held_out_logits, head.held_out_labels), (logits.cpu(), labels.cpu())))

    def choose_schedule(self, loop: Loop, scratch: Loop) -> None:
        """Give a source's loop the full schedule of a search from scratch, unless fine-tuning is enough for it.

        A source that knows the target already beats scratch clearly before any step, when both have nothing but their
        prototype heads. One that does not is only an initialisation, and cutting its search short would hurt: 6
        gentle epochs from a faint relative left a task at 43% which 14 from scratch bring to 81%.
        """
        mine, theirs = loop.best, scratch.best
        assert mine is not None
        assert theirs is not None
        error = 1.0 - theirs.accuracy
        if mine.accuracy - theirs.accuracy < self.recipe.fine_tune_closing * error:
            loop.replan(epochs=self.recipe.epochs, learning_rate=self.recipe.learning_rate)

    def bare_loop(self, *, warm: bool) -> Loop:
        """A loop around a freshly initialised supernet; `warm` decides its length and learning rate."""
        recipe = self.recipe
        network = Network(
            self.space,
            self.data.n_classes,
            generator=make_generator(self.seed, "supernet"),
            alpha_scale=recipe.alpha_scale,
        )
        plan = Plan(
            phase="SEARCH",
            epochs=recipe.warm_epochs if warm else recipe.epochs,
            patience=recipe.patience,
            learning_rate=recipe.warm_learning_rate if warm else recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            label_smoothing=recipe.label_smoothing,
            search_alphas=True,
        )
        return Loop(
            network.to(self.data.device),
            self.data,
            recipe,
            plan,
            generator=make_generator(self.seed, "search"),
            should_stop=self.should_stop,
        )


def taste_sources(setup: SearchSetup, candidates: Sequence[Source], mode: str) -> tuple[Loop, Decision]:
    """Try candidates, the nearest first, against scratch.

    Returns:
        The winner's loop, to go on with, and the decision with everyone's scores.
    """
    began = time.monotonic()
    recipe = setup.recipe
    scratch = Contender("", 0.0, setup.prepare(None, "SCRATCH").loop)
    unskilled = [
        Taste(source.version, source.ot_distance, (), (), (), chosen=False, reason=_UNSKILLED)
        for source in candidates
        if not source.is_skilled
    ]
    skilled = [source for source in candidates if source.is_skilled][: recipe.taste_candidates]
    sources = [Contender(s.version, s.ot_distance, setup.prepare(s.tensors, mode).loop) for s in skilled]
    contenders = [scratch, *sources]
    for contender in contenders:
        assert contender.loop.best is not None
        contender.steps.append(0)
        contender.scores.append(contender.loop.best)
    for source in sources:
        setup.choose_schedule(source.loop, scratch.loop)
    winner = _compete(scratch, sources, recipe, len(setup.data.val))
    decision = Decision(
        source=winner.version,
        transfer_mode=mode if winner.version else "SCRATCH",
        reason=winner.verdict,
        ot_distance=winner.ot_distance,
        tastes=tuple(contender.to_taste(chosen=contender is winner) for contender in [*sources, scratch])
        + tuple(unskilled),
        taste_steps=sum(contender.loop.steps for contender in contenders),
        taste_seconds=time.monotonic() - began,
    )
    return winner.loop, decision


def _compete(scratch: Contender, sources: list[Contender], recipe: Recipe, n_val: int) -> Contender:
    """Both rounds, given the scores before training; the winner. Everyone gets a verdict."""
    if not sources:
        scratch.verdict = "scratch: no source has learnt its own task"
        return scratch
    finalists = _best(sources, recipe.taste_finalists, n_val)
    for source in sources:
        if source not in finalists:
            source.verdict = f"dropped before training: {_percent(source)} against {_percent(finalists[0])}"
    steps = 0
    if 0.0 < _lead(finalists[0], scratch, recipe, n_val) < _CLEAR_LEAD:
        steps = _steps_each(recipe, scratch.loop.steps_per_epoch, len(finalists) + 1)
        for contender in [scratch, *finalists] if steps else []:
            contender.loop.advance(steps)
            contender.judge()
    (best,) = _best(finalists, 1, n_val)
    winner = best if _lead(best, scratch, recipe, n_val) >= 1.0 else scratch
    _explain(winner, scratch, finalists, steps)
    return winner


def _best(contenders: Sequence[Contender], count: int, n_val: int) -> list[Contender]:
    """The best by their best score. Among those that so few images cannot tell apart the nearer comes first: the
    distance knows nothing of these images' luck."""
    top = max(contender.best.accuracy for contender in contenders)
    tied = top - 0.5 * _standard_error(top, n_val)

    def order(contender: Contender) -> tuple[float, float, float]:
        score = contender.best
        return (
            (0.0, contender.ot_distance, score.loss) if score.accuracy >= tied else (1.0, -score.accuracy, score.loss)
        )

    return sorted(contenders, key=order)[:count]


def _standard_error(accuracy: float, n: int) -> float:
    """Of an accuracy measured on n images."""
    return math.sqrt(accuracy * (1.0 - accuracy) / n)


def _steps_each(recipe: Recipe, steps_per_epoch: int, trials: int) -> int:
    """Steps of one trial, so that all together stay within the taste's share of a full search from scratch."""
    return int(recipe.taste_share * recipe.epochs * steps_per_epoch / trials)


def _lead(source: Contender, scratch: Contender, recipe: Recipe, n_val: int) -> float:
    """By how many margins a source's accuracy beats scratch's; from 1 on it helps.

    The margin is the largest of three: the recipe's, half the standard error of an accuracy on so many validation
    images (half, since both are judged on the same images, and a wrong choice between near equals costs little: a
    source that does not lead clearly gets the full schedule), and a share of scratch's error (where scratch is at 10%,
    four points more are no knowledge of the task).
    Near the ceiling accuracy has no room for a margin; there a much lower loss counts as one.
    """
    mine, theirs = source.best, scratch.best
    margin = max(
        recipe.taste_margin,
        0.5 * _standard_error(theirs.accuracy, n_val),
        recipe.taste_closing * (1.0 - theirs.accuracy),
    )
    lead = (mine.accuracy - theirs.accuracy) / margin
    return 1.0 if 0.0 <= lead < 1.0 and mine.loss < _MUCH_LOWER * theirs.loss else lead


def _explain(winner: Contender, scratch: Contender, finalists: Sequence[Contender], steps: int) -> None:
    """Give everyone a verdict in words."""
    after = f"after {steps} steps"
    for source in finalists:
        comparison = f"{_percent(source)} against scratch's {_percent(scratch)} {after}"
        source.verdict = f"chosen: {comparison}" if source is winner else f"not better enough: {comparison}"
    if winner is scratch:
        rivals = ", ".join(_percent(source) for source in finalists)
        scratch.verdict = f"scratch: {_percent(scratch)} {after}; no source helps (best: {rivals})"
    else:
        scratch.verdict = f"beaten: {_percent(scratch)} against {_percent(winner)} {after}"


def _percent(contender: Contender) -> str:
    return f"{100 * contender.best.accuracy:.1f}%"
