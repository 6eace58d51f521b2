"""The gain model in service: learns in the background what finished jobs have seen, and answers queries from memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from supernet_registry.clients.wire.resources import Dataset, SourceCandidate
from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.catalog.tastes import TastedJob
from supernet_registry.registry.catalog.versions import batches
from supernet_registry.registry.sources.signals.gain_features import SourceFacts, TargetFacts, skill
from supernet_registry.registry.sources.signals.gain_model import Experience, GainModel, fit_gain_model
from supernet_registry.registry.sources.signals.signal import Signal
from supernet_registry.search.similarity import Sketch

__all__ = ["GainPredictor"]

_log = logging.getLogger(__name__)

MOST_JOBS = 5000
"""The model learns from so many of the newest finished jobs."""


class GainPredictor(Signal):
    """Expects of a source the gain that sources like it have had over scratch. Thread-safe; no query waits for a fit.

    Args:
        catalog: what finished jobs have seen.
        most_jobs: how many of the newest to learn from.
    """

    def __init__(self, catalog: Catalog, *, most_jobs: int = MOST_JOBS) -> None:
        self._tastes = catalog.tastes
        self._most_jobs = most_jobs
        self._learning = threading.Lock()
        self._jobs: dict[int, TastedJob | None] = {}  # that were read, by row id; None for one that tasted nothing
        self._fitted_on: list[int] | None = None
        self._model = GainModel("Not used: the finished jobs have not been read yet.")

    @property
    def reason(self) -> str:
        """Whether predictions are made and why, in one sentence with its numbers."""
        return self._model.reason

    def refresh(self, interrupted: Callable[[], bool] = lambda: False) -> bool:
        """Take in what finished since the last call; returns whether the model was fitted anew.

        A look without news reads row ids only. The first one reads all decisions: seconds with thousands of jobs.

        Args:
            interrupted: asked now and then while jobs are read; True stops, and the next call goes on from there.
        """
        with self._learning:
            newest = sorted(self._tastes.finished_jobs(self._most_jobs))
            if newest == self._fitted_on:
                return False
            for batch in batches(row for row in newest if row not in self._jobs):
                if interrupted():
                    return False
                tasted = {job.row_id: job for job in self._tastes.of_jobs(batch)}
                self._jobs.update({row: tasted.get(row) for row in batch})
            self._jobs = {row: self._jobs[row] for row in newest}
            model = fit_gain_model([_experience(job) for job in self._jobs.values() if job is not None])
            if model.usable != self._model.usable:
                _log.info("gain model: %s", model.reason)
            self._model, self._fitted_on = model, newest
            return True

    def predict(
        self, candidates: Sequence[SourceCandidate], target: Sketch, datasets: Mapping[str, Dataset]
    ) -> dict[str, float]:
        """Expected gain by version name, of the eligible candidates that are like those that were tasted.

        Empty while the model does not beat distance. See `GainModel.predict`.
        """
        model = self._model
        if not model.usable:
            return {}
        known = [(c, datasets[c.dataset]) for c in candidates if c.eligible and c.dataset in datasets]
        facts = TargetFacts(class_count=target.n_classes, train_count=int(target.class_counts.sum()))
        gains = model.predict(facts, [_source(candidate, dataset) for candidate, dataset in known])
        return {c.version: float(gain) for (c, _), gain in zip(known, gains, strict=True) if not np.isnan(gain)}


def _source(candidate: SourceCandidate, dataset: Dataset) -> SourceFacts:
    return SourceFacts(
        ot_distance=candidate.ot_distance,
        skill=skill(candidate.quality, dataset.class_count),
        class_count=dataset.class_count,
        train_count=dataset.train_count,
        same_dataset=candidate.same_dataset,
    )


def _experience(job: TastedJob) -> Experience:
    return Experience(
        target_name=job.dataset,
        target=TargetFacts(class_count=job.class_count, train_count=job.train_count),
        sources=[
            SourceFacts(
                ot_distance=source.ot_distance,
                skill=skill(source.val_accuracy, source.class_count),
                class_count=source.class_count,
                train_count=source.train_count,
                same_dataset=source.same_dataset,
            )
            for source in job.sources
        ],
        gains=[source.gain for source in job.sources],
    )
