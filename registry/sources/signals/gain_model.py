"""Which near source will help most: a regression on what the registry's own jobs have tasted, and the gate before it.

Model. Ridge regression of the observed gain on the standardised `registry.sources.signals.gain_features`, with a random
intercept for every job. All gains of a job are measured against the same scratch, on the same few validation images, so
they share an
error: in the transfers of `python -m benchmarks selection` jobs differ by 10 points (standard deviation of their
means), sources within a job by 11. The intercept keeps the former out of the slopes. It is fitted by quasi-demeaning:
of the rows of
each job the share

    θ = 1 - 1 / √(1 + n·r)

of their mean is subtracted (n sources, r the intercepts' variance over that of the rest), and what remains is an
ordinary ridge regression (Wooldridge, Econometric Analysis of Cross Section and Panel Data, 2010, chapter 10).

Held out. Everything is judged by leaving out all jobs on one *target dataset* at once: tasks return, and a model that
has seen the same sources on the same images has seen the answer. Penalty and r are those of a small grid whose held-out
predictions order the sources within jobs best (squared error after each job's mean error is subtracted). For the
judgement of a target they are chosen by the errors on the other targets; of its own gains the choice sees only what is
left in the models behind those errors.

Gate. On every held-out job with two tasted sources or more, the regret of a pick is the best observed gain less that of
the pick; the model picks the highest prediction, distance the nearest source. The model is `usable` if there are
MIN_JOBS such jobs and it has the smaller regret in a one-sided sign-flip permutation test, the differences of a target
flipped together. We chose that over a rule of standard errors because most differences are exactly zero (both pick the
same) and the rest are skewed: it needs no more than that differences are symmetric where neither is better, and with
fewer than 7 targets it cannot pass at all. The level is 1 %, not 5 %, because the question is asked again whenever jobs
finish. In 1600 simulated registries of 20 to 200 jobs in which gains were pure noise it passed 1.2 % of the time.

What it learns is the gain before any step, which every job measures. That is not the gain at the end of a search: it
decides what is worth a taste, and the taste decides.

Selection bias. Only what was tasted is observed: eligible sources that were near, or that this model ranked high. It
knows nothing of others, so it makes no prediction for a source further away, absolutely or compared with the nearest,
than any tasted one, and extrapolates in no other feature. The caller should go on tasting the nearest source too
(`clients.work.candidates.choose_candidates` does): without it, later jobs could not say any more whether the model is
the better guide.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from supernet_registry.registry.sources.signals.gain_features import FEATURES, SourceFacts, TargetFacts, features

__all__ = [
    "MIN_JOBS",
    "SIGNIFICANCE",
    "Experience",
    "GainModel",
    "Judgement",
    "fit_gain_model",
    "held_out_gains",
    "judge",
]

MIN_JOBS = 20
"""Finished jobs with at least two tasted sources that the model needs."""
SIGNIFICANCE = 0.01
"""Of the permutation test."""

_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Per row; a standardised feature's own sum of squares is 1 per row."""
_INTERCEPT_RATIOS = (0.0, 1.0, 10.0)
_PERMUTATIONS = 1999
_PERMUTATIONS_AT_ONCE = 100
_DISTANCES = [FEATURES.index("distance"), FEATURES.index("relative distance")]

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """What one finished job has seen: its sources, at least one, and their gains."""

    target_name: str
    """Experiences of one name are held out together."""
    target: TargetFacts
    sources: Sequence[SourceFacts]
    gains: Sequence[float]
    """One a source, in [-1, 1]."""

    @property
    def distances(self) -> list[float]:
        """OT distances of the sources."""
        return [source.ot_distance for source in self.sources]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """How the model's picks compare with the nearest sources on held-out jobs."""

    jobs: int
    """With at least two tasted sources."""
    targets: int
    """Datasets that these jobs are on."""
    model_regret: float
    """Mean over the jobs, in accuracy; 0 without any."""
    distance_regret: float
    p_value: float
    """Of the model being no better."""

    @property
    def passed(self) -> bool:
        """Whether the model may be used."""
        return self.jobs >= MIN_JOBS and self.p_value < SIGNIFICANCE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fit:
    """Coefficients, and the range of features that they were fitted on."""

    coefficients: Array  # (1 + F,) the intercept first
    mean: Array  # (F,)
    scale: Array  # (F,)
    low: Array  # (F,)
    high: Array  # (F,)


@dataclass(frozen=True, slots=True)
class GainModel:
    """A fitted model, or what stands for it while there is none."""

    reason: str
    """Whether it is used and why, in one sentence with its numbers."""
    fit: _Fit | None = None
    """None where it is not used."""

    @property
    def usable(self) -> bool:
        """Whether it beats distance on held-out jobs."""
        return self.fit is not None

    def predict(self, target: TargetFacts, sources: Sequence[SourceFacts]) -> Array:
        """Expected gain of a target's candidates over scratch, in accuracy before any step.

        Args:
            target: the task.
            sources: all candidates, as the nearest of them is the yardstick.

        Returns:
            Shape (n,), in [-1, 1]; NaN for what lies further away than anything that was tasted, and everywhere while
            the model is not usable.
        """
        if self.fit is None or not sources:
            return np.full(len(sources), np.nan)
        x = features(target, sources)
        near = (x[:, _DISTANCES] <= self.fit.high[_DISTANCES]).all(axis=1)
        standardised = (x.clip(self.fit.low, self.fit.high) - self.fit.mean) / self.fit.scale
        gains = self.fit.coefficients[0] + standardised @ self.fit.coefficients[1:]
        return np.where(near, gains.clip(-1.0, 1.0), np.nan)


def fit_gain_model(experiences: Sequence[Experience]) -> GainModel:
    """Fit and judge a model; the same experiences give the same one."""
    comparable = sum(len(experience.sources) > 1 for experience in experiences)
    if comparable < MIN_JOBS:
        return GainModel(
            f"Not used: {comparable} finished jobs have tasted two sources or more, at least {MIN_JOBS} are needed."
        )
    design = _Design(experiences)
    if design.n_targets < 2:
        return GainModel(f"Not used: all {comparable} jobs with two tasted sources or more are on one dataset.")
    judgement = judge(experiences, _split(design.held_out(), experiences))
    reason = (
        f"on {judgement.jobs} held-out jobs ({judgement.targets} datasets) the model's pick loses "
        f"{100 * judgement.model_regret:.1f} points of accuracy before training against the best source tasted, the "
        f"nearest source {100 * judgement.distance_regret:.1f} (p = {judgement.p_value:.2g})"
    )
    if not judgement.passed:
        return GainModel(f"Not used: {reason}; it must be better at p < {SIGNIFICANCE:g}.")
    return GainModel(f"Used: {reason}.", design.fit())


def held_out_gains(experiences: Sequence[Experience]) -> list[Array]:
    """For each experience the gains of its sources as a model without its target predicts them.

    Args:
        experiences: of at least two targets.
    """
    return _split(_Design(experiences).held_out(), experiences)


def judge(experiences: Sequence[Experience], predicted: Sequence[Array]) -> Judgement:
    """Compare the picks of held-out predictions with the nearest sources."""
    regrets: list[tuple[float, float]] = []
    targets: list[str] = []
    for experience, predictions in zip(experiences, predicted, strict=True):
        if len(experience.sources) > 1:
            by_distance = np.argsort(experience.distances, kind="stable")
            gains = np.asarray(experience.gains)[by_distance]
            pick = int(np.argmax(predictions[by_distance]))  # the nearest of equals
            regrets.append((gains.max() - gains[pick], gains.max() - gains[0]))
            targets.append(experience.target_name)
    model, distance = np.array(regrets).reshape(-1, 2).T
    names, target_of = np.unique(np.array(targets, dtype=np.str_), return_inverse=True)
    advantage = np.zeros(len(names))
    np.add.at(advantage, target_of, distance - model)
    return Judgement(
        jobs=len(targets),
        targets=len(names),
        model_regret=float(model.mean()) if targets else 0.0,
        distance_regret=float(distance.mean()) if targets else 0.0,
        p_value=_sign_flip_p_value(advantage),
    )


def _sign_flip_p_value(differences: Array) -> float:
    """One-sided: how often random signs make the sum at least as large as it is."""
    differences = differences[differences != 0.0]
    observed = differences.sum() - 1e-9 * np.abs(differences).sum()  # sums that differ by rounding are equal
    random = np.random.default_rng(0)
    as_large = 0
    for start in range(0, _PERMUTATIONS, _PERMUTATIONS_AT_ONCE):
        count = min(_PERMUTATIONS_AT_ONCE, _PERMUTATIONS - start)
        signs = random.integers(0, 2, (count, len(differences))) * 2.0 - 1.0
        as_large += int(np.count_nonzero(signs @ differences >= observed))
    return (1 + as_large) / (1 + _PERMUTATIONS)


def _split(rows: Array, experiences: Sequence[Experience]) -> list[Array]:
    """Values of all sources, job by job."""
    ends = np.cumsum([len(experience.sources) for experience in experiences])
    return np.split(rows, ends[:-1])


class _Design:
    """All experiences as one regression. Shapes: N sources of J jobs on T targets, P = 1 + F columns."""

    def __init__(self, experiences: Sequence[Experience]) -> None:
        x = np.concatenate([features(experience.target, experience.sources) for experience in experiences])
        self.gains = np.concatenate([np.asarray(experience.gains, np.float64) for experience in experiences])  # (N,)
        self._sizes = np.array([len(experience.sources) for experience in experiences])  # (J,)
        names, self._target_of_job = np.unique([e.target_name for e in experiences], return_inverse=True)
        self.n_targets = len(names)
        self._job = np.repeat(np.arange(len(experiences)), self._sizes)  # (N,)
        self._target = self._target_of_job[self._job]  # (N,)
        self._mean, scale = x.mean(axis=0), x.std(axis=0)
        # A feature that does not vary must not be divided by its rounding errors.
        self._scale = np.where(scale > 1e-9 * (1.0 + np.abs(self._mean)), scale, 1.0)
        self._low, self._high = x.min(axis=0), x.max(axis=0)
        self._columns = np.column_stack([np.ones(len(x)), (x - self._mean) / self._scale])  # (N, P)

    def held_out(self) -> Array:
        """Predictions of models that have not seen the row's target, (N,)."""
        predictions, errors = self._grid
        best = np.argmin(errors.sum(axis=1, keepdims=True) - errors, axis=0)  # (T,) the target itself has no say
        held_out: Array = predictions[best[self._target], np.arange(len(self.gains))]
        return held_out

    def fit(self) -> _Fit:
        """The model of all experiences."""
        _, errors = self._grid
        penalty, ratio = list(itertools.product(_PENALTIES, _INTERCEPT_RATIOS))[int(np.argmin(errors.sum(axis=1)))]
        squares, products = self._moments(ratio)
        coefficients = np.linalg.solve(squares.sum(axis=0) + self._ridge(penalty), products.sum(axis=0))
        return _Fit(coefficients=coefficients, mean=self._mean, scale=self._scale, low=self._low, high=self._high)

    @functools.cached_property
    def _grid(self) -> tuple[Array, Array]:
        """For each setting of the grid: held-out predictions (G, N), and each target's error within its jobs (G, T)."""
        predictions, errors = [], []
        moments = {ratio: self._moments(ratio) for ratio in _INTERCEPT_RATIOS}
        for penalty, ratio in itertools.product(_PENALTIES, _INTERCEPT_RATIOS):
            squares, products = moments[ratio]
            rest = squares.sum(axis=0) - squares + self._ridge(penalty)  # (T, P, P)
            coefficients = np.linalg.solve(rest, (products.sum(axis=0) - products)[:, :, None])[:, :, 0]  # (T, P)
            predicted = (self._columns * coefficients[self._target]).sum(axis=1)
            error = self.gains - predicted
            within = error - self._job_means(error)
            predictions.append(predicted)
            errors.append(np.bincount(self._target, weights=within**2, minlength=self.n_targets))
        return np.array(predictions), np.array(errors)

    def _moments(self, ratio: float) -> tuple[Array, Array]:
        """XᵀX (T, P, P) and Xᵀy (T, P) of each target's quasi-demeaned rows."""
        share = (1.0 - 1.0 / np.sqrt(1.0 + self._sizes * ratio))[self._job]
        x = self._columns - share[:, None] * self._job_means(self._columns)
        y = self.gains - share * self._job_means(self.gains)
        squares = np.zeros((self.n_targets, x.shape[1], x.shape[1]))
        products = np.zeros((self.n_targets, x.shape[1]))
        np.add.at(squares, self._target_of_job, self._job_sums(x[:, :, None] * x[:, None, :]))
        np.add.at(products, self._target_of_job, self._job_sums(x * y[:, None]))
        return squares, products

    def _job_means(self, rows: Array) -> Array:
        """For each row the mean over its job's rows, same shape."""
        means: Array = (self._job_sums(rows).T / self._sizes).T[self._job]
        return means

    def _job_sums(self, rows: Array) -> Array:
        """Sums over each job's rows, which lie side by side: (N, ...) to (J, ...)."""
        first_rows = np.cumsum(self._sizes) - self._sizes
        sums: Array = np.add.reduceat(rows, first_rows)
        return sums

    def _ridge(self, penalty: float) -> Array:
        """The penalty's matrix (P, P); the intercept goes free."""
        ridge: Array = np.diag([0.0] + [penalty * len(self.gains)] * len(FEATURES))
        return ridge
