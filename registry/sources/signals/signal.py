"""What a signal is: a guide to what candidates are worth, besides their distance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from supernet_registry.clients.wire.resources import Dataset, SourceCandidate
from supernet_registry.search.similarity import Sketch

__all__ = ["Signal"]


class Signal(Protocol):
    """Predicts one number for each candidate of a query; the ranking stays that of OT distance. Thread-safe."""

    @property
    def reason(self) -> str:
        """What is known of the predictions, in one sentence with its numbers: whether there are any, and why."""

    def refresh(self, interrupted: Callable[[], bool] = lambda: False) -> bool:
        """Take in what the registry has learnt since the last call; returns whether predictions may have changed.

        The server calls it once a minute, in the background; no query waits for it.

        Args:
            interrupted: asked now and then; True stops, and the next call goes on from there.
        """

    def predict(
        self, candidates: Sequence[SourceCandidate], target: Sketch, datasets: Mapping[str, Dataset]
    ) -> Mapping[str, float]:
        """The signal's number by version name, without candidates that it says nothing of.

        Args:
            candidates: ranked, then those of the offers.
            target: the query's sketch.
            datasets: those of the ranked candidates, by name.
        """
