"""An inverted file over float16 vectors whose number of probes was tested against exact search.

`IndexIVFScalarQuantizer`: k-means divides the vectors into about √n lists; a search visits only the few lists whose
centroids are nearest (Jégou et al., "Product quantization for nearest neighbor search", PAMI 2011, §IV; our codes are
the residuals in float16, which halves the memory and loses about 1e-4 of a distance).

How many lists must be visited depends on the data and cannot be known beforehand. So a new file searches for 200 of
its own vectors, and visits as many lists as it takes to find 99 % of the true 16 and 64 nearest others. If half of
the lists do not suffice, there is no structure to be used, and the caller keeps exact search.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from supernet_registry.registry.index.vector_store import Block, Found, SelfTest, check_interrupted

__all__ = ["TARGET_RECALL", "IvfStore", "build_inverted_file"]

_log = logging.getLogger(__name__)

TARGET_RECALL = 0.99
TEST_QUERIES = 200
WIDEST_TEST = 64
"""Most neighbours that are tested for: a shortlist of 16, and the fourfold that queries ask for to get it."""

_SearchParameters: Any = faiss.SearchParametersIVF  # FAISS's own type stubs leave its keywords out

_TRAINING_ROWS_A_LIST = 64
_KMEANS_ITERATIONS = 10
_CHUNK_ROWS = 16_384
"""Rows between two looks whether to stop; also bounds what brute force needs beside the vectors."""
_SAME_FACTOR, _SAME_SHARE = 1.002, 1e-6
"""Squared distances within this factor, or this share of the data's spread, of each other are equal to float16."""
_LARGEST_VALUE = 30_000.0
"""Residuals of vectors in this range fit float16, which ends at 65504."""


@dataclass(frozen=True, slots=True, eq=False)
class IvfStore:
    """Approximate search that keeps the recall of its self-test."""

    index: Any
    tested: SelfTest
    trained_imbalance: float
    """1 if all lists were equally long when it was trained; n/lists rows are scanned times this."""

    @property
    def size_bytes(self) -> int:
        return int(self.index.ntotal) * (int(self.index.code_size) + 8)

    @property
    def uneven(self) -> bool:
        """Whether searches scan twice what they did when the file was trained."""
        return float(self.index.invlists.imbalance_factor()) >= 2 * self.trained_imbalance

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def search(self, query: NDArray[np.float32], k: int, *, gone: int, selector: Any) -> Found:
        k = min(k, len(self) - gone)
        if k < 1:
            return np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
        lists = self.tested.lists
        # More neighbours than were tested for reach further; and the nearest lists may hold too few that are left.
        probes = min(lists, self.tested.probes * math.ceil(k / WIDEST_TEST))
        while True:
            parameters = _SearchParameters(sel=selector, nprobe=probes)
            squared, ids = self.index.search(query[None], k, params=parameters)
            found = ids[0] >= 0
            if found.all() or probes == lists:
                return squared[0][found], ids[0][found]
            probes = min(lists, 2 * probes)

    def extended(self, gone: Sequence[int], block: Block) -> IvfStore | None:
        """The next store: with the same lists, without some rows and with new ones; None if one does not fit float16.

        Copies all codes (0.5 s for a million rows of 256 dimensions).
        """
        if not _fits_float16(block):
            return None
        index = faiss.clone_index(self.index)
        if gone:
            index.remove_ids(faiss.IDSelectorBatch(np.array(gone, dtype=np.int64)))
        if len(block):
            index.add_with_ids(block.vectors, block.ids)
        return IvfStore(index, self.tested, self.trained_imbalance)


def build_inverted_file(
    blocks: Sequence[Block], *, interrupted: Callable[[], bool]
) -> tuple[IvfStore | None, SelfTest]:
    """Train, fill and test an inverted file.

    Args:
        blocks: all rows, ids distinct; at least two rows.
        interrupted: asked every second or so; True stops the build.

    Returns:
        The store, None if it missed the target; and the test.

    Raises:
        Interrupted: it was asked to stop.
    """
    rows = sum(len(block) for block in blocks)
    lists = 2 ** max(1, round(math.log2(math.sqrt(rows))))
    if not all(_fits_float16(block) for block in blocks):
        test = SelfTest(rows, lists, 0, 0.0, 0.0, passed=False, remark="values too large for float16")
        return None, test
    random = np.random.default_rng(0)
    sample = random.choice(rows, min(rows, _TRAINING_ROWS_A_LIST * lists), replace=False)
    index = _train(_gather(blocks, sample)[1], lists, interrupted)
    _fill(index, blocks, interrupted)
    asked = _gather(blocks, random.choice(rows, min(rows, TEST_QUERIES), replace=False))
    test = _test(index, asked, _limits(asked, blocks, interrupted), interrupted)
    _log.info(
        "inverted file of %d rows in %d lists: recall@16 %.3f, recall@64 %.3f with %d probes, %s",
        *(rows, lists, test.recall_at_16, test.recall_at_64, test.probes, test.remark),
    )
    return (IvfStore(index, test, float(index.invlists.imbalance_factor())) if test.passed else None), test


def _train(sample: NDArray[np.float32], lists: int, interrupted: Callable[[], bool]) -> Any:
    """An empty inverted file with the centroids of the sample, (m, d)."""
    dimension = sample.shape[1]
    # One iteration a call: a server that is stopped need not wait for all of them.
    kmeans = faiss.Kmeans(dimension, lists, niter=1, seed=0, min_points_per_centroid=1)
    centroids: Any = None
    for _ in range(_KMEANS_ITERATIONS):
        check_interrupted(interrupted)
        kmeans.train(sample, init_centroids=centroids)
        centroids = kmeans.centroids
    quantizer = faiss.IndexFlatL2(dimension)
    quantizer.add(centroids)
    index = faiss.IndexIVFScalarQuantizer(quantizer, dimension, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_L2)
    index.train(sample[:1])  # the quantizer is trained and float16 has nothing to learn; FAISS asks for it all the same
    return index


def _fill(index: Any, blocks: Sequence[Block], interrupted: Callable[[], bool]) -> None:
    for block in blocks:
        for start in range(0, len(block), _CHUNK_ROWS):
            check_interrupted(interrupted)
            part = slice(start, start + _CHUNK_ROWS)
            index.add_with_ids(block.vectors[part], block.ids[part])


def _limits(
    asked: tuple[NDArray[np.int64], NDArray[np.float32]], blocks: Sequence[Block], interrupted: Callable[[], bool]
) -> NDArray[np.float32]:
    """Squared distances, by brute force, within which the 1, 2, ... nearest other rows lie: (queries, at most 64)."""
    ids, queries = asked
    nearest = np.empty((len(ids), 0), dtype=np.float32)
    # ‖x - y‖² = ‖x‖² + ‖y‖² - 2⟨x, y⟩ cancels badly far from the origin.
    centre = queries.mean(axis=0)
    queries = queries - centre
    norms = np.square(queries).sum(axis=1, keepdims=True)
    for block in blocks:
        for start in range(0, len(block), _CHUNK_ROWS):
            check_interrupted(interrupted)
            part = slice(start, start + _CHUNK_ROWS)
            others = block.vectors[part] - centre
            squared = norms + np.square(others).sum(axis=1) - 2 * (queries @ others.T)
            squared[ids[:, None] == block.ids[part]] = np.inf  # itself
            nearest = _smallest(np.concatenate([nearest, _smallest(squared)], axis=1))
    nearest = np.sort(np.maximum(nearest, 0), axis=1)
    nearest = nearest[:, np.isfinite(nearest).all(axis=0)]
    limits: NDArray[np.float32] = nearest * np.float32(_SAME_FACTOR) + np.float32(_SAME_SHARE) * norms.mean()
    return limits


def _smallest(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The 64 smallest values of each row, in no order."""
    if values.shape[1] <= WIDEST_TEST:
        return values
    return np.partition(values, WIDEST_TEST, axis=1)[:, :WIDEST_TEST]


def _test(
    index: Any,
    asked: tuple[NDArray[np.int64], NDArray[np.float32]],
    limits: NDArray[np.float32],
    interrupted: Callable[[], bool],
) -> SelfTest:
    """The smallest power of two of probes, up to half of the lists, that reaches the target."""
    ids, queries = asked
    k = limits.shape[1]
    probes, reached = 1, (0.0, 0.0)
    while True:
        check_interrupted(interrupted)
        squared, found = index.search(queries, k + 1, params=_SearchParameters(nprobe=probes))
        squared[(found < 0) | (found == ids[:, None])] = np.inf
        squared.sort(axis=1)
        reached = _recall(squared, limits, min(16, k)), _recall(squared, limits, k)
        passed = min(reached) >= TARGET_RECALL
        if passed or 2 * probes > index.nlist // 2:
            break
        probes *= 2
    remark = f"target {TARGET_RECALL} " + ("reached" if passed else "missed, so search stays exact")
    return SelfTest(index.ntotal, index.nlist, probes, *reached, passed=passed, remark=remark)


def _recall(squared: NDArray[np.float32], limits: NDArray[np.float32], k: int) -> float:
    """Share of the k nearest that were found; a row as near as the k-th one counts as well."""
    return float((squared[:, :k] <= limits[:, k - 1 : k]).mean())


def _gather(blocks: Sequence[Block], positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids and vectors of rows by their positions in all blocks, in ascending order of the positions."""
    positions = np.sort(positions)
    ends = np.cumsum([len(block) for block in blocks])
    picks = np.split(positions, np.searchsorted(positions, ends[:-1]))
    local = [pick - (end - len(block)) for pick, end, block in zip(picks, ends, blocks, strict=True)]
    ids = np.concatenate([block.ids[at] for block, at in zip(blocks, local, strict=True)])
    vectors = np.concatenate([block.vectors[at] for block, at in zip(blocks, local, strict=True)])
    return ids, vectors


def _fits_float16(block: Block) -> bool:
    return not len(block) or float(np.abs(block.vectors).max()) <= _LARGEST_VALUE
