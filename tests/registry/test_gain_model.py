"""The gain model is used where it beats distance on held-out jobs, and nowhere else."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from supernet_registry.registry.sources.signals import gain_model
from supernet_registry.registry.sources.signals.gain_features import SourceFacts, TargetFacts, features
from supernet_registry.registry.sources.signals.gain_model import (
    MIN_JOBS,
    Experience,
    fit_gain_model,
    held_out_gains,
    judge,
)

NEAREST, FURTHEST = 10.0, 20.0


def random_source(random: np.random.Generator) -> SourceFacts:
    return SourceFacts(
        ot_distance=float(random.uniform(NEAREST, FURTHEST)),
        skill=float(random.uniform(0.25, 1.0)),
        class_count=int(random.integers(2, 30)),
        train_count=int(random.integers(50, 3000)),
    )


def world(
    jobs: int,
    *,
    seed: int = 0,
    per_skill: float = 0.0,
    per_distance: float = 0.0,
    noise: float = 0.03,
    jobs_a_target: int = 1,
    sources: int = 3,
) -> list[Experience]:
    """Jobs that taste sources of random quality; the gain follows from skill, distance, the task, and luck."""
    random = np.random.default_rng(seed)
    experiences = []
    for job in range(jobs):
        target = TargetFacts(class_count=int(random.integers(2, 30)), train_count=int(random.integers(50, 3000)))
        tasted = [random_source(random) for _ in range(sources)]
        easy = random.normal(0.1, 0.1)
        gains = [
            float(np.clip(easy + per_skill * s.skill - per_distance * s.ot_distance + random.normal(0, noise), -1, 1))
            for s in tasted
        ]
        name = f"datasets/{job // jobs_a_target}"
        experiences.append(Experience(target_name=name, target=target, sources=tasted, gains=gains))
    return experiences


def test_where_quality_matters_it_is_used_and_picks_better_sources() -> None:
    model = fit_gain_model(world(60, per_skill=0.3))
    assert model.usable
    assert model.reason.startswith("Used: on 60 held-out jobs (60 datasets) the model's pick loses ")
    unseen = world(200, seed=1, per_skill=0.3, noise=0.0)
    picked = [e.gains[int(np.argmax(model.predict(e.target, e.sources)))] for e in unseen]
    nearest = [e.gains[int(np.argmin(e.distances))] for e in unseen]
    best = [max(e.gains) for e in unseen]
    assert np.mean(best) - np.mean(picked) < 0.2 * (np.mean(best) - np.mean(nearest))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("jobs", [30, 100])
def test_where_distance_is_all_there_is_it_stays_unused(jobs: int, seed: int) -> None:
    model = fit_gain_model(world(jobs, seed=seed, per_distance=0.03))
    assert not model.usable
    assert model.reason.startswith(f"Not used: on {jobs} held-out jobs ")
    assert model.reason.endswith("; it must be better at p < 0.01.")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("jobs", [30, 100])
def test_where_nothing_can_be_learnt_it_stays_unused(jobs: int, seed: int) -> None:
    assert not fit_gain_model(world(jobs, seed=seed)).usable


def test_with_too_few_jobs_it_stays_unused_however_clear_they_are() -> None:
    model = fit_gain_model(world(MIN_JOBS - 1, per_skill=1.0, noise=0.0))
    assert not model.usable
    assert model.reason == (
        f"Not used: {MIN_JOBS - 1} finished jobs have tasted two sources or more, at least {MIN_JOBS} are needed."
    )


def test_jobs_that_tasted_one_source_compare_nothing() -> None:
    single = world(100, per_skill=1.0, sources=1)
    assert fit_gain_model(single).reason.startswith("Not used: 0 finished jobs ")
    assert fit_gain_model([*single, *world(30, per_skill=0.5)]).reason.startswith("Used: on 30 held-out jobs ")


def test_many_jobs_on_few_datasets_are_not_enough() -> None:
    """Six datasets cannot say it at 1%, however often they return; nor can a single one be held out at all."""
    clear = {"per_skill": 1.0, "noise": 0.0}
    assert "(6 datasets)" in (few := fit_gain_model(world(120, jobs_a_target=20, **clear))).reason
    assert not few.usable
    one = fit_gain_model(world(120, jobs_a_target=120, **clear))
    assert one.reason == "Not used: all 120 jobs with two tasted sources or more are on one dataset."


@pytest.mark.parametrize("seed", range(3))
def test_what_a_returning_task_has_shown_is_not_taken_for_knowledge(seed: int) -> None:
    """Ten tasks return ten times each and show the same random gains: to remember them is not to predict."""
    once = world(10, seed=seed, noise=0.1)
    assert not fit_gain_model([job for job in once for _ in range(10)]).usable


def test_the_same_experiences_give_the_same_model() -> None:
    jobs = world(40, per_skill=0.3)
    first, second = fit_gain_model(jobs), fit_gain_model(world(40, per_skill=0.3))
    assert first.reason == second.reason
    job = world(1, seed=9)[0]
    assert first.predict(job.target, job.sources).tobytes() == second.predict(job.target, job.sources).tobytes()


# Predictions


def test_it_predicts_the_gain_itself_and_not_only_an_order() -> None:
    model = fit_gain_model(world(300, per_skill=0.3))
    target = TargetFacts(class_count=10, train_count=500)
    sources = [replace(random_source(np.random.default_rng(0)), skill=skill) for skill in (0.3, 0.6, 0.9)]
    np.testing.assert_allclose(model.predict(target, sources), 0.1 + 0.3 * np.array([0.3, 0.6, 0.9]), atol=0.04)


def test_it_is_silent_about_what_lies_further_away_than_anything_tasted() -> None:
    model = fit_gain_model(world(60, per_skill=0.3))
    target, near = TargetFacts(class_count=10, train_count=500), random_source(np.random.default_rng(0))
    beyond = replace(near, ot_distance=2 * FURTHEST)
    close = replace(near, ot_distance=0.1 * NEAREST)
    assert np.isnan(model.predict(target, [near, beyond])).tolist() == [False, True]
    # Never was a source tasted whose nearest rival lay at a tenth of its distance.
    assert np.isnan(model.predict(target, [close, near])).tolist() == [False, True]


def test_other_features_are_not_extrapolated() -> None:
    model = fit_gain_model(world(60, per_skill=0.3))
    target, usual = TargetFacts(class_count=10, train_count=500), random_source(np.random.default_rng(0))
    large, huge = replace(usual, train_count=3000), replace(usual, train_count=10**9)
    gains = model.predict(target, [large, huge])
    assert gains[0] == pytest.approx(gains[1], abs=1e-3)


def test_while_it_is_not_usable_it_predicts_nothing() -> None:
    job = world(1)[0]
    assert np.isnan(fit_gain_model([]).predict(job.target, job.sources)).all()
    assert fit_gain_model(world(60, per_skill=0.3)).predict(job.target, []).shape == (0,)


USABLE = fit_gain_model(world(60, per_skill=0.3))
SOURCES = st.lists(
    st.builds(
        SourceFacts,
        ot_distance=st.floats(0.0, 1e6),
        skill=st.floats(0.0, 1.0),
        class_count=st.integers(0, 10_000),
        train_count=st.integers(0, 10**12),
        same_dataset=st.booleans(),
    ),
    max_size=5,
)


@given(sources=SOURCES, classes=st.integers(0, 10_000), images=st.integers(0, 10**12))
def test_a_prediction_is_a_difference_of_accuracies_or_nothing(
    sources: list[SourceFacts], classes: int, images: int
) -> None:
    gains = USABLE.predict(TargetFacts(class_count=classes, train_count=images), sources)
    assert gains.shape == (len(sources),)
    assert (np.isnan(gains) | (np.abs(gains) <= 1.0)).all()


# The judgement


def experience(name: str, *pairs: tuple[float, float]) -> Experience:
    """A job on a dataset, from (OT distance, gain) of its sources."""
    sources = [SourceFacts(ot_distance=d, skill=0.5, class_count=2, train_count=100) for d, _ in pairs]
    target = TargetFacts(class_count=2, train_count=100)
    return Experience(target_name=name, target=target, sources=sources, gains=[gain for _, gain in pairs])


def test_regret_is_the_best_observed_gain_less_that_of_the_pick() -> None:
    jobs = [
        experience("a", (2.0, 0.30), (1.0, 0.10), (3.0, 0.20)),  # the nearest loses 0.2
        experience("b", (1.0, 0.05), (2.0, 0.00)),  # the nearest is the best
        experience("b", (1.0, 0.9)),  # nothing to choose
    ]
    judgement = judge(jobs, [np.array([0.0, 0.1, 0.2]), np.array([0.0, 0.1]), np.array([0.0])])
    assert (judgement.jobs, judgement.targets) == (2, 2)
    assert judgement.distance_regret == pytest.approx(0.2 / 2)
    assert judgement.model_regret == pytest.approx((0.1 + 0.05) / 2)


def test_between_equal_predictions_the_model_picks_the_nearest() -> None:
    jobs = [experience("a", (2.0, 0.3), (1.0, 0.1))]
    assert judge(jobs, [np.array([0.5, 0.5])]).model_regret == pytest.approx(0.2)


def test_only_whole_datasets_are_evidence() -> None:
    """A dataset that returns twelve times is one dataset on which the model is better."""
    better = np.array([0.0, 1.0])
    many = [experience(f"dataset {i}", (1.0, 0.0), (2.0, 0.1)) for i in range(12)]
    same = [experience("dataset", (1.0, 0.0), (2.0, 0.1)) for _ in range(12)]
    assert judge(many, [better] * 12).p_value == pytest.approx(2**-12, abs=1e-3)
    assert judge(same, [better] * 12).p_value == pytest.approx(0.5, abs=0.05)


def test_a_model_that_always_picks_the_nearest_is_no_better() -> None:
    jobs = [experience(f"dataset {i}", (1.0, 0.0), (2.0, 0.1)) for i in range(30)]
    judgement = judge(jobs, [np.array([1.0, 0.0])] * 30)
    assert judgement.p_value == 1.0
    assert not judgement.passed


# The regression, against its definition


def reference_held_out(experiences: Sequence[Experience]) -> list[NDArray[np.float64]]:
    """Generalised least squares with the whole covariance matrix, refitted without each target for each setting."""
    x = np.concatenate([features(e.target, e.sources) for e in experiences])
    scale = np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)
    design = np.column_stack([np.ones(len(x)), (x - x.mean(axis=0)) / scale])
    gains = np.concatenate([e.gains for e in experiences])
    job = np.repeat(np.arange(len(experiences)), [len(e.sources) for e in experiences])
    name = np.repeat([e.target_name for e in experiences], [len(e.sources) for e in experiences])
    targets = sorted(set(name))
    predictions, errors = [], []
    for penalty, ratio in itertools.product(gain_model._PENALTIES, gain_model._INTERCEPT_RATIOS):
        inverse = np.linalg.inv(np.eye(len(gains)) + ratio * (job[:, None] == job))
        ridge = penalty * len(gains) * np.diag([0.0] + [1.0] * x.shape[1])
        predicted = np.empty(len(gains))
        for target in targets:
            keep = name != target
            weighted = design[keep].T @ inverse[np.ix_(keep, keep)]
            solved = np.linalg.solve(weighted @ design[keep] + ridge, weighted @ gains[keep])
            predicted[~keep] = design[~keep] @ solved
        error = gains - predicted
        within = np.array([error[i] - error[job == job[i]].mean() for i in range(len(error))])
        predictions.append(predicted)
        errors.append([float((within[name == target] ** 2).sum()) for target in targets])
    chosen = np.empty(len(gains))
    for i, target in enumerate(targets):
        best = int(np.argmin([sum(error[:i] + error[i + 1 :]) for error in errors]))
        chosen[name == target] = predictions[best][name == target]
    return [chosen[job == number] for number in range(len(experiences))]


@pytest.mark.parametrize("seed", range(4))
def test_held_out_predictions_are_those_of_models_refitted_without_the_target(seed: int) -> None:
    """In any order of the jobs, with one to four sources each, and targets that return."""
    random = np.random.default_rng(seed)
    jobs = [
        replace(job, target_name=f"datasets/{random.integers(6)}")
        for count in (1, 2, 3, 4)
        for job in world(5, seed=10 * seed + count, per_skill=0.2, sources=count)
    ]
    shuffled = [jobs[i] for i in random.permutation(len(jobs))]
    for found, expected in zip(held_out_gains(shuffled), reference_held_out(shuffled), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
