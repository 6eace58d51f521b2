"""What running a stream has given: one row a task, and the accuracy matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from supernet_registry.clients.wire.resources import EpochMetrics, JobState, Phase, TasteResult

__all__ = ["StreamResult", "StreamRow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRow:
    """One task of a stream. Accuracies are fractions in [0, 1], durations seconds, steps weight updates."""

    step: int
    """Position in the stream, from 0."""
    task: str
    """Name for people: the task, and how its images were derived."""
    task_name: str = ""
    task_label: int = 0
    classes: int = 0
    dataset: str = ""
    supernet: str = ""
    job: str = ""
    request_id: str = ""
    resumed: bool = False
    """Whether an earlier run of the stream had already finished this job."""
    state: JobState = JobState.UNSPECIFIED
    error: str = ""
    version: str = ""
    source: str = ""
    """Version that it was warm-started from; empty for scratch."""
    transfer_mode: str = ""
    reason: str = ""
    ot_distance: float | None = None
    novel: bool = False
    tastes: tuple[TasteResult, ...] = ()
    expect: int | None = None
    """Step that a good registry would choose as source; for scoring only."""
    search_steps: int = 0
    taste_steps: int = 0
    child_steps: int = 0
    pass_steps: int = 0
    """Steps of one pass over the training images."""
    prepare_seconds: float = 0.0
    """From the dataset in hand to the queued job: sketch, registration, upload."""
    search_seconds: float = 0.0
    taste_seconds: float = 0.0
    child_seconds: float = 0.0
    val_accuracy: float = 0.0
    test_accuracy: float = 0.0
    child_val_accuracy: float | None = None
    child_test_accuracy: float | None = None
    child_parameters: int | None = None
    genotype: str = ""
    device: str = ""
    curve: tuple[EpochMetrics, ...] = ()
    """Every epoch of the search and of the child network's training, in order."""
    warnings: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Steps that the supernet cost: search and taste. The child network's are counted apart."""
        return self.search_steps + self.taste_steps

    @property
    def seconds(self) -> float:
        """Seconds of search and taste."""
        return self.search_seconds + self.taste_seconds

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values, with `steps` and `seconds`; `source` is "scratch" where there is none."""
        values = {field.name: _json(getattr(self, field.name)) for field in fields(self)}
        return {**values, "source": self.source or "scratch", "steps": self.steps, "seconds": self.seconds}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> StreamRow:
        """What `to_json` gave; entries that it does not know are ignored."""
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        known["source"] = "" if known.get("source") == "scratch" else known.get("source", "")
        known["state"] = JobState(known.get("state", JobState.UNSPECIFIED))
        known["tastes"] = tuple(TasteResult(**_tuples(taste)) for taste in known.get("tastes", ()))
        known["curve"] = tuple(
            EpochMetrics(**{**epoch, "phase": Phase(epoch["phase"])}) for epoch in known.get("curve", ())
        )
        known["warnings"] = tuple(known.get("warnings", ()))
        return cls(**known)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamResult:
    """A stream that has been run.

    `accuracies[i][j]` is the test accuracy on task j of the supernet version stored for task j, as the registry holds
    it after step i, and `child_accuracies` likewise for the child networks; None for j > i and where step j failed.
    Versions are immutable, so a column can change only if the registry breaks its promise.
    """

    stream: str
    rows: tuple[StreamRow, ...] = ()
    accuracies: tuple[tuple[float | None, ...], ...] = ()
    child_accuracies: tuple[tuple[float | None, ...], ...] = ()
    evaluated: bool = False
    """Whether the accuracies were measured here, on downloaded weights, rather than read from the records."""

    @property
    def average_accuracy(self) -> float | None:
        """ACC (Lopez-Paz & Ranzato 2017): mean of the matrix' last row; None where it has no entry."""
        last = [value for value in self.accuracies[-1] if value is not None] if self.accuracies else []
        return sum(last) / len(last) if last else None

    @property
    def backward_transfer(self) -> float | None:
        """BWT (Lopez-Paz & Ranzato 2017): mean over j < T of R[T][j] − R[j][j]; negative is forgetting."""
        changes = []
        for j in range(len(self.accuracies) - 1):
            last, own = self.accuracies[-1][j], self.accuracies[j][j]
            if last is not None and own is not None:
                changes.append(last - own)
        return sum(changes) / len(changes) if changes else None

    @property
    def failed(self) -> tuple[StreamRow, ...]:
        """Rows without a version."""
        return tuple(row for row in self.rows if not row.version)

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "stream": self.stream,
            "rows": [row.to_json() for row in self.rows],
            "accuracies": _json(self.accuracies),
            "child_accuracies": _json(self.child_accuracies),
            "evaluated": self.evaluated,
            "average_accuracy": self.average_accuracy,
            "backward_transfer": self.backward_transfer,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> StreamResult:
        """What `to_json` gave."""
        return cls(
            stream=values["stream"],
            rows=tuple(StreamRow.from_json(row) for row in values["rows"]),
            accuracies=tuple(tuple(row) for row in values["accuracies"]),
            child_accuracies=tuple(tuple(row) for row in values["child_accuracies"]),
            evaluated=values["evaluated"],
        )


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_json(item) for item in value]
    if isinstance(value, (EpochMetrics, TasteResult)):
        return {key: _json(item) for key, item in asdict(value).items()}
    return value
