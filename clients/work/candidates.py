"""Which candidates of a nearest-source answer are worth a taste."""

from __future__ import annotations

import math

from supernet_registry.clients.wire.resources import GAIN, NearestSources, SourceCandidate
from supernet_registry.search.results import NEAREST

__all__ = ["choose_candidates"]


def choose_candidates(found: NearestSources, limit: int) -> list[SourceCandidate]:
    """Which candidates are worth a taste: eligible ones, the best of each dataset, the task's own dataset first.

    Then comes the nearest one, then those with the highest predicted gain, then the others by distance. Where the
    registry predicts nothing, that is the order of distance. The nearest keeps its place against any prediction: it
    costs one taste, and without it finished jobs could no longer tell whether the predictions are worth anything.

    What is not here for its distance, as the generalist, comes beside these and takes nobody's place; with a limit of 0
    nothing is tasted at all.
    """
    best_of_dataset: dict[str, SourceCandidate] = {}
    beside = []
    for candidate in found.candidates:
        if candidate.eligible and candidate.compatible:
            if candidate.origin != NEAREST:
                beside.append(candidate)
                continue
            best_of_dataset.setdefault(candidate.dataset, candidate)
    own = [candidate for candidate in best_of_dataset.values() if candidate.same_dataset]
    others = [candidate for candidate in best_of_dataset.values() if not candidate.same_dataset]
    others[1:] = sorted(others[1:], key=_by_predicted_gain)  # stable: keeps the rank
    return [*[*own, *others][:limit], *(beside if limit else [])]


def _by_predicted_gain(candidate: SourceCandidate) -> float:
    """Sorts the highest first, those without a prediction last."""
    return -candidate.predictions.get(GAIN, -math.inf)
