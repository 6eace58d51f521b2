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

import time
from collections.abc import Sequence

from supernet_registry.search.errors import SearchDiverged
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.results import NEAREST, Decision, Taste
from supernet_registry.search.starts.contenders import UNSKILLED, Contender, Source
from supernet_registry.search.starts.setup import SearchSetup
from supernet_registry.search.training.loop import Loop

__all__ = ["taste_sources"]

_TIED = 0.5  # standard errors within which two sources are as good as each other
_EQUAL = 0.02  # nats within which they are, however sure the difference: one may be the other's offspring


def taste_sources(setup: SearchSetup, candidates: Sequence[Source], mode: str) -> tuple[Loop, Decision]:
    """Try candidates, the nearest first, against scratch; one that is not here for its distance is tried beside those.

    Returns:
        The winner's loop, to go on with, and the decision with everyone's scores.

    Raises:
        SearchDiverged: scratch and the last source that was left, both even after a rollback.
    """
    began = time.monotonic()
    recipe = setup.recipe
    fresh = setup.prepare(None, "SCRATCH")
    scratch = Contender("", 0.0, fresh)
    sources, unusable = [], [_not_tried(source, UNSKILLED) for source in candidates if not source.is_skilled]
    skilled = [source for source in candidates if source.is_skilled]
    near = [source for source in skilled if source.origin == NEAREST][: recipe.taste_candidates]
    for source in [*near, *(source for source in skilled if source.origin != NEAREST)]:
        try:
            start = setup.prepare(source.tensors, mode)
        except SearchDiverged as error:  # finite weights may still give infinite losses
            unusable.append(_not_tried(source, f"diverged: {error.message}"))
            continue
        setup.choose_schedule(start, fresh)
        sources.append(Contender(source.version, source.ot_distance, start, origin=source.origin))
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
    by next to nothing, the nearer comes first: the distance knows nothing of these images' luck. One that is not here
    for its distance, as a generalist is not, comes last."""
    top = max(contenders, key=lambda contender: contender.evidence.gain_over(contenders[0].evidence)[0])

    def order(contender: Contender) -> tuple[bool, bool, float]:
        behind = top.evidence.lead_over(contender.evidence)
        if behind <= _TIED or top.evidence.gain_over(contender.evidence)[0] <= _EQUAL:
            return False, contender.origin != NEAREST, contender.ot_distance
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
