"""Which rows of a stored supernet's head belong to which dataset. Imports no torch.

A supernet of one dataset has one head. A generalist has one for each of its datasets; they are stored side by side as
one head over all classes, so that its blob is a supernet like any other, and its metadata say where each begins:

    {"heads": [{"dataset": digest, "name": …, "rows": [0, 10], "val_accuracy": …, …}, {"rows": [10, 14], …}], …}
"""

from __future__ import annotations

from dataclasses import dataclass

from supernet_registry.search.errors import UnsafeWeights
from supernet_registry.search.storage.weights import WeightsInfo

__all__ = ["Head", "heads_of"]


@dataclass(frozen=True, slots=True)
class Head:
    """Rows `start` to `stop` (exclusive) of the head's matrix are the classes of one dataset, in label order."""

    dataset: str  # digest; empty where a supernet does not say what it was searched on
    start: int
    stop: int

    @property
    def n_classes(self) -> int:
        """Classes of the dataset."""
        return self.stop - self.start


def heads_of(info: WeightsInfo) -> tuple[Head, ...]:
    """The heads that a checked blob says it has: one for an ordinary supernet, one a dataset for a generalist.

    Raises:
        UnsafeWeights: the rows leave gaps, overlap, or are not those of the head.
    """
    told = info.metadata.get("heads")
    if told is None:
        dataset = info.metadata.get("dataset")
        return (Head(dataset if isinstance(dataset, str) else "", 0, info.n_classes),)
    heads = [_read(item) for item in told] if isinstance(told, list) else []
    starts = [0, *(head.stop for head in heads if head is not None)]
    fits = all(head is not None and head.start == start < head.stop for head, start in zip(heads, starts, strict=False))
    if not heads or not fits or starts[-1] != info.n_classes:
        raise UnsafeWeights(
            "The heads in the metadata of these weights do not add up to its head.",
            remedy="Store weights as this project writes them.",
            field="weights",
        )
    return tuple(head for head in heads if head is not None)


def _read(item: object) -> Head | None:
    """One entry; None if it is malformed."""
    if not isinstance(item, dict):
        return None
    dataset, rows = item.get("dataset"), item.get("rows")
    if not isinstance(dataset, str) or not isinstance(rows, list) or [type(row) for row in rows] != [int, int]:
        return None
    return Head(dataset, *rows)
