"""The taste: candidates and scratch are tried on the target's own data, and the best goes on.

Distance between datasets cannot see what a source has learnt: one with random labels lies as near as its honest twin.
So a candidate must have learnt its own task, and is then judged where it will be used, in two rounds (successive
halving):

    round 0   no step at all: transfer, BatchNorm statistics, prototype head. Judged on the images that the head has not
              seen: the training split by cross-validation, and the validation split. A source that leads scratch
              clearly wins here, and one that does not lead at all has lost.
    round 1   where it is close, the best candidates and scratch make a few steps each, each with its own schedule, and
              are judged on the validation split.

Everybody is judged on the same images, so that image by image the losses are paired, and a lead is measured in standard
errors of the mean difference (t). Losses, since on the few images of a small task they tell contenders apart several
times better than accuracies do. A source gets the short schedule of a fine-tuning only if it closes much of scratch's
error before any step, and the full one otherwise. The winner's loop simply goes on, so its steps are not lost;
everyone's steps and seconds are counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from search.alpha_prior import lean
from search.data import Data, make_generator
from search.errors import SearchDiverged
from search.evaluation import calibrate, collect_logits, score_logits
from search.loop import Loop, Plan
from search.recipe import Recipe
from search.results import Decision, Taste
from search.spaces import SearchSpace
from search.supernet import Network
from search.warm_start import carries_weights, fit_head, soften_head, temper, transfer

__all__ = ["Contender", "SearchSetup", "Source", "taste_sources"]

_LEAST_SKILL = 0.1
_UNSKILLED = "not tried: its accuracy on its own task is hardly above chance"
_TIED = 0.5  # standard errors within which two sources are as good as each other
_EQUAL = 0.02  # nats within which they are, however sure the difference: one may be the other's offspring


@dataclass(frozen=True)
class Source:
    """A stored supernet that may be tried.

    `skill` is its accuracy on its own task as a share of the way from chance (0) to perfect (1), where it is known.
    """

    version: str
    ot_distance: float
    tensors: Mapping[str, Tensor]
    skill: float | None = None
    generalist: bool = False

    @property
    def is_skilled(self) -> bool:
        """Whether it has learnt its own task at all. Even features fitted to random labels can beat fresh ones on the
        first steps, so the trial alone would not unmask such a source."""
        return self.skill is None or self.skill >= _LEAST_SKILL


@dataclass(frozen=True)
class Evidence:
    """Losses and hits, image by image, on images that a head has not seen.

    No loss counts for more than twice that of a uniform guess, 2 log K: a head made from forty images can be sure and
    wrong by a thousand nats on one of them, and that one would decide the whole comparison.
    """

    losses: Tensor  # (M,) nats
    hits: Tensor  # (M,) 1.0 where the most probable class is right

    @classmethod
    def of(cls, *parts: tuple[Tensor, Tensor]) -> Evidence:
        """From pairs of logits (M_i, K) and labels (M_i,), one after another."""
        losses = [
            F.cross_entropy(logits, labels, reduction="none").clamp(max=2.0 * math.log(max(2, logits.shape[1])))
            for logits, labels in parts
        ]
        hits = [(logits.argmax(dim=1) == labels).float() for logits, labels in parts]
        return cls(torch.cat(losses).cpu(), torch.cat(hits).cpu())

    @property
    def accuracy(self) -> float:
        """Share of hits."""
        return self.hits.mean().item()

    def gain_over(self, other: Evidence) -> tuple[float, float]:
        """Mean loss in nats that is saved against `other`, paired image by image, and its standard error.

        Evidence from different rounds is compared on the images of both: the validation split, which comes last.
        """
        count = min(len(self.losses), len(other.losses))
        saved = (other.losses[-count:] - self.losses[-count:]).double()
        return saved.mean().item(), saved.std(correction=0).item() / math.sqrt(count)

    def lead_over(self, other: Evidence) -> float:
        """The gain in standard errors; 0 between equals."""
        gain, error = self.gain_over(other)
        return gain / error if error > 0.0 else 0.0


@dataclass(frozen=True)
class Start:
    """A loop before its first step, scored on the validation split, and all that is known of it."""

    loop: Loop
    evidence: Evidence


class Contender:
    """A source that is tried (scratch if `version` is empty) and what its trial has shown so far."""

    def __init__(self, version: str, ot_distance: float, start: Start, *, generalist: bool = False) -> None:
        assert start.loop.best is not None
        self.generalist = generalist
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
        return f"the generalist, {self.verdict}" if self.generalist else self.verdict

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


@dataclass(frozen=True)
class SearchSetup:
    """All that is needed to set up the search loop of any contender."""

    space: SearchSpace
    data: Data
    recipe: Recipe
    seed: int
    should_stop: Callable[[], bool]
    say: Callable[[str], None] = lambda _: None

    def prepare(self, source: Mapping[str, Tensor] | None, mode: str) -> Start:
        """A loop ready for its first step: fresh or transferred network, head computed from prototypes.

        It is judged with that head, and trained with a softer one.
        """
        network = self._fresh_network()
        if source is not None:
            transfer(network, source, mode)
            temper(network, self.recipe.entropy_floor)
        loop = self._loop(network, warm=source is not None and carries_weights(mode))
        head = fit_head(loop.network, self.data, self.recipe)
        logits, labels = collect_logits(loop.network, self.data, self.data.val, self.recipe)
        loop.network.set_norm_mode("train")
        loop.note(score_logits(logits, labels))
        soften_head(loop.network, self.recipe.head_scale)
        return Start(loop, Evidence.of((head.held_out_logits, head.held_out_labels), (logits.cpu(), labels.cpu())))

    def choose_schedule(self, start: Start, scratch: Start) -> None:
        """Give a source's loop the full schedule of a search from scratch, unless fine-tuning is enough for it.

        A source that knows the target already beats scratch clearly before any step, when both have nothing but their
        prototype heads. One that does not is only an initialisation, and cutting its search short would hurt: see
        "Transfer choices" in docs/benchmarks.md.
        """
        theirs = scratch.evidence.accuracy
        if start.evidence.accuracy - theirs < self.recipe.fine_tune_closing * (1.0 - theirs):
            start.loop.replan(epochs=self.recipe.epochs, learning_rate=self.recipe.learning_rate)

    def bare_loop(self, *, warm: bool) -> Loop:
        """A loop around a freshly initialised supernet; `warm` decides its length and learning rate."""
        return self._loop(self._fresh_network(), warm=warm)

    def _fresh_network(self) -> Network:
        network = Network(
            self.space,
            self.data.n_classes,
            generator=make_generator(self.seed, "supernet"),
            alpha_scale=self.recipe.alpha_scale,
        )
        lean(network, self.recipe.alpha_prior)
        return network.to(self.data.device)

    def _loop(self, network: Network, *, warm: bool) -> Loop:
        recipe = self.recipe
        plan = Plan(
            phase="SEARCH",
            epochs=recipe.warm_epochs if warm else recipe.epochs,
            patience=recipe.patience,
            learning_rate=recipe.warm_learning_rate if warm else recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            label_smoothing=recipe.label_smoothing,
            search_alphas=True,
            head_steps=recipe.head_steps if warm else 0,
            start_counts=warm,  # random features under a prototype head, and an α that knows nothing, are no result
        )
        return Loop(
            network,
            self.data,
            recipe,
            plan,
            generator=make_generator(self.seed, "search"),
            should_stop=self.should_stop,
            say=self.say,
        )


def taste_sources(setup: SearchSetup, candidates: Sequence[Source], mode: str) -> tuple[Loop, Decision]:
    """Try candidates, the nearest first, against scratch; a generalist among them is tried beside the others.

    Returns:
        The winner's loop, to go on with, and the decision with everyone's scores.

    Raises:
        SearchDiverged: scratch and the last source that was left, both even after a rollback.
    """
    began = time.monotonic()
    recipe = setup.recipe
    fresh = setup.prepare(None, "SCRATCH")
    scratch = Contender("", 0.0, fresh)
    sources, unusable = [], [_not_tried(source, _UNSKILLED) for source in candidates if not source.is_skilled]
    skilled = [source for source in candidates if source.is_skilled]
    near = [source for source in skilled if not source.generalist][: recipe.taste_candidates]
    for source in [*near, *(source for source in skilled if source.generalist)]:
        try:
            start = setup.prepare(source.tensors, mode)
        except SearchDiverged as error:  # finite weights may still give infinite losses
            unusable.append(_not_tried(source, f"diverged: {error.message}"))
            continue
        setup.choose_schedule(start, fresh)
        sources.append(Contender(source.version, source.ot_distance, start, generalist=source.generalist))
    winner = _compete(scratch, sources, recipe)
    contenders = [*sources, scratch]
    decision = Decision(
        source=winner.version,
        transfer_mode=mode if winner.version else "SCRATCH",
        reason=winner.reason,
        ot_distance=winner.ot_distance,
        tastes=(*(c.to_taste(scratch, chosen=c is winner) for c in contenders), *unusable),
        taste_steps=sum(contender.loop.steps for contender in contenders),
        taste_seconds=time.monotonic() - began,
    )
    return winner.loop, decision


def _compete(scratch: Contender, sources: Sequence[Contender], recipe: Recipe) -> Contender:
    """Both rounds; the winner. Everyone gets a verdict."""
    if not sources:
        scratch.verdict = "scratch: no source can be used"
        return scratch
    finalists = _best(sources, recipe.taste_finalists)
    for source in sources:
        if source not in finalists:
            source.verdict = f"dropped before training: {_compared(source, finalists[0])}"
    steps = 0
    if 0.0 < finalists[0].evidence.lead_over(scratch.evidence) < recipe.taste_clear:
        steps = _steps_each(recipe, scratch.loop.steps_per_epoch, len(finalists) + 1)
        for contender in [scratch, *finalists] if steps else []:
            contender.advance(steps)
    standing = [source for source in finalists if source.failure is None]
    if scratch.failure is not None and not standing:
        raise scratch.failure
    if not standing:
        scratch.verdict = "scratch: every source that was trained has diverged"
        return scratch
    (best,) = _best(standing, 1)
    leads = best.evidence.lead_over(scratch.evidence) >= recipe.taste_likely
    winner = best if leads or scratch.failure is not None else scratch
    _explain(winner, scratch, standing, steps)
    return winner


def _best(contenders: Sequence[Contender], count: int) -> list[Contender]:
    """Those with the least loss. Among those that so few images cannot tell from the very best, or that differ from it
    by next to nothing, the nearer comes first: the distance knows nothing of these images' luck. A generalist, which is
    not here for its distance, comes last."""
    top = max(contenders, key=lambda contender: contender.evidence.gain_over(contenders[0].evidence)[0])

    def order(contender: Contender) -> tuple[bool, bool, float]:
        behind = top.evidence.lead_over(contender.evidence)
        if behind <= _TIED or top.evidence.gain_over(contender.evidence)[0] <= _EQUAL:
            return False, contender.generalist, contender.ot_distance
        return True, False, behind

    return sorted(contenders, key=order)[:count]


def _not_tried(source: Source, reason: str) -> Taste:
    return Taste(source.version, source.ot_distance, (), (), (), chosen=False, reason=reason)


def _steps_each(recipe: Recipe, steps_per_epoch: int, trials: int) -> int:
    """Steps of one trial, so that all together stay within the taste's share of a full search from scratch."""
    return int(recipe.taste_share * recipe.epochs * steps_per_epoch / trials)


def _explain(winner: Contender, scratch: Contender, finalists: Sequence[Contender], steps: int) -> None:
    """Give everyone a verdict in words."""
    after = f"after {steps} steps"
    for source in finalists:
        comparison = f"{_compared(source, scratch)} {after}"
        source.verdict = f"chosen: {comparison}" if source is winner else f"not clearly better: {comparison}"
    if scratch.failure is not None:
        winner.verdict = f"chosen: scratch has diverged. {scratch.failure.message}"
    elif winner is scratch:
        scratch.verdict = f"scratch: no source helps {after}; best: {_compared(finalists[0], scratch)}"
    else:
        scratch.verdict = f"beaten by {_compared(winner, scratch)} {after}"


def _compared(one: Contender, other: Contender) -> str:
    """Two contenders in numbers, on the images that both are judged by."""
    gain, error = one.evidence.gain_over(other.evidence)
    accuracies = f"{100 * one.evidence.accuracy:.1f}% against {100 * other.evidence.accuracy:.1f}%"
    return f"{accuracies} of {len(one.evidence.hits)} unseen images, loss {-gain:+.2f} ± {error:.2f}"
