"""What goes into a search pipeline besides data, and what comes out: plain dataclasses, no torch.

They are the `search` package's own words for what the wire calls `TasteResult`, `SourceDecision`, `EpochMetrics`,
`Metrics` and `Cost`; field names agree, so that a worker can copy them over one by one. Accuracies are fractions in
[0, 1], losses nats, times seconds; a figure that there is none of is None.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GENERALIST", "NEAREST", "Candidate", "Decision", "Epoch", "Listener", "PipelineResult", "Taste"]

NEAREST = "nearest"
"""Origin of a candidate that was found by its distance. Any other origin is the name of an offer of the registry: such
candidates are tasted beside the nearest ones, whatever their distance, and take nobody's place."""
GENERALIST = "generalist"
"""Origin of a supernet that was pretrained over several datasets."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stored supernet that the search may start from."""

    version: str
    ot_distance: float
    weights: bytes  # safetensors, as `PipelineResult.weights`
    origin: str = NEAREST


@dataclass(frozen=True, slots=True)
class Taste:
    """One candidate's short trial on the target's data; `version` is empty for scratch."""

    version: str
    ot_distance: float
    steps: tuple[int, ...]  # weight steps after which the two below were measured; 0 is before any training
    val_accuracies: tuple[float, ...]
    val_losses: tuple[float, ...]
    chosen: bool
    reason: str
    loss_gain: float = 0.0  # before any step: mean loss saved against scratch on images that no head has seen, nats
    loss_gain_error: float = 0.0  # standard error of that mean


@dataclass(frozen=True, slots=True)
class Decision:
    """What the search starts from, and why; `source` is empty for scratch."""

    source: str
    transfer_mode: str
    reason: str
    ot_distance: float = 0.0
    tastes: tuple[Taste, ...] = ()
    taste_steps: int = 0
    taste_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch reports. `steps` are weight steps of its phase; a tasted winner counts on from its taste."""

    phase: str  # SEARCH or CHILD
    epoch: int  # from 1
    epochs: int  # at most
    steps: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None  # this and the next: None of a child network that is trained on the validation split as well
    val_accuracy: float | None
    alpha_entropy: float  # mean over edges, 1 is uniform and 0 decided
    skip_count: int  # skip connections in the genotype
    learning_rate: float
    seconds: float


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """A finished search."""

    weights: bytes  # the supernet: safetensors with one metadata key, `supernet`
    genotype: str
    val_accuracy: float
    test_accuracy: float
    alpha_entropy: float
    skip_count: int
    search_steps: int  # weight steps of the search, without the taste's
    taste_steps: int
    child_steps: int
    search_seconds: float
    taste_seconds: float
    child_seconds: float
    device: str
    # The child network: safetensors with one metadata key, `child`, and its figures; None where there is no child
    child: bytes | None = None
    child_val_accuracy: float | None = None  # also None where the child is trained on the validation split as well
    child_test_accuracy: float | None = None
    child_parameters: int | None = None
    child_macs: int | None = None  # multiply-accumulates of one image
    child_single_seconds: float | None = None  # on one image, warm, median
    child_batch_seconds: float | None = None  # the same on 64 images at once


class Listener:
    """Hears of a search while it runs. Override what you need; all methods are called in the search's thread."""

    def on_decision(self, d: Decision) -> None:
        """Called once the source is decided, before the first epoch (not again after a resume)."""

    def on_epoch(self, e: Epoch) -> None:
        """Called at the end of every epoch of search and child."""

    def on_checkpoint(self, data: bytes) -> None:
        """Called after the decision and after every epoch with all that `run_pipeline` needs to go on."""

    def on_message(self, text: str) -> None:
        """Called with remarks for people, such as an early stop."""

    def should_stop(self) -> bool:
        """Polled before every step; True makes the pipeline raise `SearchCancelled`."""
        return False
