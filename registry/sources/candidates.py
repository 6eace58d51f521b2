"""Which of the measured datasets' versions to offer as sources, and why: gates, ranking, ties, novelty.

Pure functions of numbers that `registry.sources.finder` has measured. The rules, with their reasons:

*Quality gate.* Transport sees pixels and label groups, not whether labels mean anything: a source trained on shuffled
labels lies as near as the honest one and costs 10 to 60 points. So a version must have learnt something itself:

    floor = chance + max(¼·(1 − chance), 3·√(chance·(1 − chance) / n_val)),   at most 0.95

where chance is the share of the largest class. The second term is three standard errors of guessing: with few
validation images, a quarter of the way above chance can be luck.

*Collapse.* Skip connections train fastest, so a DARTS search that runs too long ends in a network that is mostly skip
connections and no longer says anything about the data. More than half of the genotype's edges, and more than in the
family's own prior architecture, is called collapsed. It is a remark, not a gate: easy tasks are rightly solved with
many skips (print_digits: 4 of 6, 98.7% on test), the weights are worth having all the same, the taste sees whether
they help, and a peaked α is tempered on transfer.

*Ties.* In the published 27×27 OTDD matrix the nearest source is within 4% of the next for 13 of 27 targets. Whatever
lies within the tie band of the nearest eligible candidate is marked, and left to the taste to decide.

*Novelty.* The yardstick is the registry's own: how far each stored dataset lies from its nearest stored neighbour. A
target whose nearest eligible candidate lies above Tukey's upper fence of these distances, Q3 + 1.5·(Q3 − Q1), is novel:
nothing stored is as near to it as stored datasets usually are to each other. An empty registry has nothing near.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from supernet_registry.clients.wire.resources import (
    Dataset,
    Metrics,
    Reason,
    SourceCandidate,
    SpaceDescriptor,
    SupernetVersion,
)
from supernet_registry.search.errors import InvalidArgument, SpaceMismatch
from supernet_registry.search.results import GENERALIST
from supernet_registry.search.spaces import Genotype, SearchSpace, check_compatible, family_of, space_from_fields
from supernet_registry.search.spaces.family import SKIP

__all__ = [
    "Cutoff",
    "LearntDataset",
    "Measured",
    "candidates_of",
    "generalist_candidate",
    "judge_novelty",
    "place",
    "quality_floor",
    "skip_share",
]

COLLAPSED_SHARE = 0.5
"""A genotype with a larger share of skip connections is called collapsed, unless its family begins with as many."""
_MARGIN = 1e-4
"""Share by which a bound must lie above the cutoff: far more than rounding, far less than bounds are off."""
FEWEST_NEIGHBOURS = 4
"""With fewer distances between stored datasets there is no distribution to compare with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A stored dataset with its exact distance from the target, and the versions searched on it."""

    dataset: Dataset
    same_dataset: bool
    embedding_distance: float
    ot_distance: float
    ot_converged: bool
    chance: float
    """Share of its largest class."""
    moments_only: bool = False
    """Whether its sketch or the target's holds no features of images, so that the distance is between moments."""
    versions: Sequence[SupernetVersion]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearntDataset:
    """One of a generalist's datasets, with what is known of its distance from the target."""

    dataset: Dataset
    same_dataset: bool
    chance: float
    """Share of its largest class."""
    moments_only: bool
    embedding_distance: float | None
    ot_distance: float | None
    ot_converged: bool


def candidates_of(item: Measured, space: SearchSpace | None) -> list[SourceCandidate]:
    """What one dataset has to offer, not yet compared with the others.

    The best version of every search space; if a space was asked for, only the best version of that space, or, where
    there is none, the best of a space that differs in size only (marked), or the best of all (marked as incompatible).
    """
    candidates = [(_gated(item, version, space), _space_id(version.search_space)) for version in item.versions]

    def order(pair: tuple[SourceCandidate, str]) -> tuple[bool, bool, bool, float]:
        candidate, space_id = pair
        other_size = space is not None and space_id != space.id
        return not candidate.eligible, not candidate.compatible, other_size, -candidate.quality

    candidates.sort(key=order)  # stable: `versions` come newest first, so of two equal ones the newer is kept
    if space is not None:
        return [candidate for candidate, _ in candidates[:1]]
    best: dict[str, SourceCandidate] = {}
    for candidate, space_id in candidates:
        best.setdefault(space_id, candidate)
    return list(best.values())


def generalist_candidate(
    version: SupernetVersion, learnt: Sequence[LearntDataset], space: SearchSpace | None
) -> SourceCandidate:
    """A generalist as a candidate.

    Its quality is the mean of its validation accuracies, so its gate is that of a mean: the mean chance, and as many
    images as give a guess the same standard error, T²/Σ(1/n_t) of T datasets with n_t validation images each. Its
    distances are the least known ones to any of its datasets, 0 where none is known.
    """
    measured = [item for item in learnt if item.ot_distance is not None]
    nearest = min(measured, key=lambda item: item.ot_distance or 0.0, default=None)
    counts = [item.dataset.val_count for item in learnt]
    pooled = Measured(
        dataset=Dataset(
            display_name=version.dataset_display_name,
            val_count=round(len(counts) ** 2 / sum(1.0 / count for count in counts)) if counts and all(counts) else 0,
        ),
        same_dataset=False,
        embedding_distance=min((d for item in learnt if (d := item.embedding_distance) is not None), default=0.0),
        ot_distance=(nearest.ot_distance or 0.0) if nearest is not None else 0.0,
        ot_converged=nearest.ot_converged if nearest is not None else True,
        chance=fmean(item.chance for item in learnt) if learnt else 1.0,
        moments_only=nearest.moments_only if nearest is not None else False,
        versions=(version,),
    )
    candidate = _gated(pooled, version, space)
    told = f"The generalist of {version.dataset_display_name}: tasted beside the nearest, whatever its distance."
    if nearest is not None:
        told += f" The nearest known of them is {nearest.dataset.display_name or nearest.dataset.name}."
    else:
        told += " Its distance from the target is not known."
    reason = Reason(code="GENERALIST", message=told)
    same = [Reason(code="SAME_DATASET", message="This very dataset is among those that it learnt.")]
    knows_target = any(item.same_dataset for item in learnt)
    here = (reason, *(same if knows_target else ()))
    return replace(
        candidate,
        origin=GENERALIST,
        same_dataset=knows_target,
        ot_converged=candidate.ot_converged and nearest is not None,
        reasons=(*here, *candidate.reasons) if candidate.eligible else (*candidate.reasons, *here),
    )


def place(candidates: Sequence[SourceCandidate], *, tie_band: float) -> tuple[SourceCandidate, ...]:
    """Order the candidates of all datasets by OT distance, and say of each how it compares with the nearest."""
    candidates = sorted(
        candidates, key=lambda candidate: (candidate.ot_distance, -candidate.quality, candidate.version)
    )
    nearest = next((candidate for candidate in candidates if candidate.eligible), None)
    if nearest is not None:
        candidates = [_placed(candidate, nearest, candidates, tie_band) for candidate in candidates]
    return tuple(candidates)


class Cutoff:
    """The OT distance beyond which a dataset cannot change the answer to a query.

    It can as long as it might be among the `top_k` candidates; be the nearest eligible one, to which all others are
    compared and which novelty judges; or be the second nearest eligible one, which decides whether that is tied. The
    cutoff only ever falls.
    """

    def __init__(self, *, top_k: int, tie_band: float) -> None:
        self.top_k = top_k
        self._tie_band = tie_band
        self._nearest: list[float] = []  # of the candidates so far, ascending, at most top_k
        self._eligible: list[float] = []  # likewise, at most two

    @property
    def distance(self) -> float:
        """Infinite until `top_k` candidates and an eligible one are known."""
        if len(self._nearest) < self.top_k or not self._eligible:
            return math.inf
        tie = self._eligible[0] * (1.0 + self._tie_band)
        return max(self._nearest[-1], min(tie, self._eligible[1]) if len(self._eligible) == 2 else tie)

    def add(self, candidates: Sequence[SourceCandidate]) -> None:
        """Take what a measured dataset offers into account."""
        for candidate in candidates:
            insort(self._nearest, candidate.ot_distance)
            if candidate.eligible:
                insort(self._eligible, candidate.ot_distance)
        del self._nearest[self.top_k :]
        del self._eligible[2:]

    def excludes(self, lower_bound: float) -> bool:
        """Whether a lower bound proves, in spite of rounding, that a distance cannot change the answer."""
        return lower_bound * (1.0 - _MARGIN) > self.distance


def judge_novelty(
    candidates: Sequence[SourceCandidate], neighbour_distances: Sequence[float] | NDArray[np.float64]
) -> tuple[bool, str]:
    """Say whether the target has no near source, and why, with the numbers.

    Args:
        candidates: ranked candidates.
        neighbour_distances: for each stored dataset, its OT distance from its nearest stored neighbour.
    """
    if not candidates:
        return True, "The registry holds no version yet that could be a source."
    nearest = next((candidate for candidate in candidates if candidate.eligible), None)
    if nearest is None:
        return True, f"None of the {len(candidates)} nearest candidates passes the gates."
    if nearest.same_dataset:
        return False, f"{nearest.version} was searched on this very dataset."
    known = len(neighbour_distances)
    if known < FEWEST_NEIGHBOURS:
        return False, (
            f"The nearest candidate lies at {nearest.ot_distance:.4g}; with {known} known distances between stored "
            f"datasets (at least {FEWEST_NEIGHBOURS} are needed) there is no telling whether that is far."
        )
    low, high = np.quantile(np.asarray(neighbour_distances, dtype=np.float64), [0.25, 0.75])
    fence = float(high + 1.5 * (high - low))
    novel = nearest.ot_distance > fence
    return novel, (
        f"The nearest candidate lies at {nearest.ot_distance:.4g}, {'above' if novel else 'within'} the fence of "
        f"{fence:.4g} (quartiles {low:.4g} and {high:.4g} of {known} nearest-neighbour distances)."
    )


def quality_floor(chance: float, val_count: int) -> float:
    """Least validation accuracy that the gate accepts; see the module.

    Args:
        chance: share of the largest class, in (0, 1].
        val_count: number of validation images; 0 if unknown.
    """
    luck = 3.0 * math.sqrt(chance * (1.0 - chance) / val_count) if val_count > 0 else 0.0
    return min(0.95, chance + max(0.25 * (1.0 - chance), luck))


def skip_share(version: SupernetVersion) -> float:
    """Share of skip connections among the edges of a version's genotype; 0 if the genotype cannot be read."""
    return _skip_share(version.genotype, version.search_space)


@lru_cache(maxsize=4096)
def _skip_share(genotype: str, descriptor: SpaceDescriptor | None) -> float:
    try:
        space = space_from_fields(descriptor)
        return _share_of_skips(family_of(space).parse_genotype(space, genotype))
    except InvalidArgument:
        return 0.0


def _collapsed_share(descriptor: SpaceDescriptor | None) -> float:
    """Largest share of skip connections that is no collapse in a space."""
    try:
        space = space_from_fields(descriptor)
    except InvalidArgument:
        return COLLAPSED_SHARE
    prior = family_of(space).prior(space)
    return COLLAPSED_SHARE if prior is None else max(COLLAPSED_SHARE, _share_of_skips(prior))


def _share_of_skips(genotype: Genotype) -> float:
    operations = [operation for nodes in genotype.values() for node in nodes for operation, _ in node]
    return operations.count(SKIP) / len(operations) if operations else 0.0


def _gated(item: Measured, version: SupernetVersion, space: SearchSpace | None) -> SourceCandidate:
    """One version as a candidate, with everything that can be said without looking at the others."""
    quality = (version.metrics or Metrics()).val_accuracy
    floor = quality_floor(item.chance, item.dataset.val_count)
    share = skip_share(version)
    mismatch = _space_mismatch(version.search_space, space)
    gates, remarks = [], []
    if mismatch:
        gates.append(Reason(code="INCOMPATIBLE_SPACE", message=mismatch))
    if not quality >= floor:
        message = (
            f"Validation accuracy {quality:.3f} on its own dataset is below the floor {floor:.3f} "
            f"(largest class {item.chance:.3f}, {item.dataset.val_count} validation images)."
        )
        gates.append(Reason(code="LOW_QUALITY", message=message))
    if not mismatch and space is not None and _space_id(version.search_space) != space.id:
        message = "Its search space differs in size: channels are sliced or repeated, cells left out or repeated."
        remarks.append(Reason(code="OTHER_SIZE", message=message))
    most = _collapsed_share(version.search_space)
    if share > most:
        message = f"Skip connections are {share:.0%} of its genotype's edges, more than {most:.0%}."
        remarks.append(Reason(code="COLLAPSED", message=message))
    if item.same_dataset:
        remarks.append(Reason(code="SAME_DATASET", message="It was searched on this very dataset."))
    if not item.ot_converged:
        message = "The transport solver did not prove optimality; the true distance is at most the one given."
        remarks.append(Reason(code="NOT_CONVERGED", message=message))
    if item.moments_only:
        message = "A sketch holds class moments only: the distance is between points drawn from Gaussians."
        remarks.append(Reason(code="MOMENTS_ONLY", message=message))
    return SourceCandidate(
        version=version.name,
        dataset=item.dataset.name,
        dataset_display_name=item.dataset.display_name,
        embedding_distance=item.embedding_distance,
        ot_distance=item.ot_distance,
        ot_converged=item.ot_converged,
        same_dataset=item.same_dataset,
        quality=quality,
        quality_floor=floor,
        compatible=not mismatch,
        eligible=not gates,
        reasons=(*gates, *remarks),
    )


def _placed(
    candidate: SourceCandidate, nearest: SourceCandidate, others: Sequence[SourceCandidate], tie_band: float
) -> SourceCandidate:
    """Add what follows from the comparison with the nearest eligible candidate."""
    limit = nearest.ot_distance * (1.0 + tie_band)
    here, there = f"OT distance {candidate.ot_distance:.4g}", f"the nearest's {nearest.ot_distance:.4g}"
    if candidate is nearest:
        place = [Reason(code="NEAREST", message=f"{here}, the least of all eligible candidates.")]
        rivals = [other.ot_distance for other in others if other.eligible and other is not nearest]
        tied = min(rivals, default=math.inf) <= limit
        if tied:
            message = f"The next one lies at {min(rivals):.4g}, within {tie_band:.0%} of it."
            place.append(Reason(code="TIED", message=message))
    elif candidate.ot_distance <= limit:
        place = [Reason(code="TIED", message=f"{here}, within {tie_band:.0%} of {there}.")]
        tied = True
    else:
        times = f", {candidate.ot_distance / nearest.ot_distance:.2f} times" if nearest.ot_distance else "; compare"
        place = [Reason(code="FAR", message=f"{here}{times} {there}.")]
        tied = False
    # What bars a candidate is said first; for the others, where they stand.
    reasons = (*place, *candidate.reasons) if candidate.eligible else (*candidate.reasons, *place)
    return replace(candidate, tied=tied, reasons=reasons)


@lru_cache(maxsize=1024)
def _space_mismatch(descriptor: SpaceDescriptor | None, space: SearchSpace | None) -> str:
    if space is None:
        return ""
    try:
        check_compatible(space_from_fields(descriptor), space)
    except SpaceMismatch as error:
        return error.message
    return ""


def _space_id(descriptor: SpaceDescriptor | None) -> str:
    return descriptor.id if descriptor is not None else ""
