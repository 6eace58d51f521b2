"""The accuracy matrix of a stream, grown by one row a step."""

from __future__ import annotations

from importlib.util import find_spec

from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.clients.streams.stream import Experience
from supernet_registry.clients.wire.resources import SupernetVersion

__all__ = ["Scores"]

_Pair = tuple[float | None, float | None]


class Scores:
    """Test accuracies of every stored version on its task, asked for anew after every step.

    Versions are immutable, so this looks like waste; but a matrix that merely repeated what step j once said could
    never show that the registry has lost or changed something. A blob that was measured before is not measured again:
    its name is the hash of its bytes.

    Args:
        client: the registry.
        device: where to measure.
        measure: evaluate downloaded weights, if torch is installed; otherwise the recorded metrics are taken.
    """

    def __init__(self, client: RegistryClient, *, device: str, measure: bool) -> None:
        self._client = client
        self._device = device
        self.measured = measure and find_spec("torch") is not None
        self._steps: list[tuple[Experience, str]] = []
        self._seen: dict[tuple[str, str], float] = {}
        self._rows: list[list[_Pair]] = []

    @property
    def supernets(self) -> tuple[tuple[float | None, ...], ...]:
        """R[i][j] of the supernets."""
        return self._square(0)

    @property
    def children(self) -> tuple[tuple[float | None, ...], ...]:
        """R[i][j] of the child networks."""
        return self._square(1)

    def after_step(self, experience: Experience, version: SupernetVersion | None) -> None:
        """Add a row; `version` is what the newest step has stored, None where it failed."""
        self._steps.append((experience, version.name if version is not None else ""))
        self._rows.append([self._score(task, name) for task, name in self._steps])

    def _score(self, experience: Experience, name: str) -> _Pair:
        if not name:
            return None, None
        version = self._client.get_version(name)
        if not self.measured:
            metrics = version.metrics
            child = metrics.child_test_accuracy if metrics is not None and version.child_blob else None
            return (metrics.test_accuracy if metrics is not None else None), child
        supernet = self._measure(version.weights_blob, experience, version.dataset)
        return supernet, self._measure(version.child_blob, experience, version.dataset) if version.child_blob else None

    def _measure(self, blob: str, experience: Experience, dataset: str) -> float:
        key = (blob, dataset)
        if key not in self._seen:
            from supernet_registry.search.children.scoring import evaluate_weights

            weights = self._client.download_blob(blob)
            self._seen[key] = evaluate_weights(weights, experience.dataset, device=self._device)
        return self._seen[key]

    def _square(self, which: int) -> tuple[tuple[float | None, ...], ...]:
        size = len(self._rows)
        return tuple(tuple(pair[which] for pair in row) + (None,) * (size - len(row)) for row in self._rows)
