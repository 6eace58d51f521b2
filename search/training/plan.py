"""What distinguishes one run of the loop from another."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What distinguishes one run of the loop from another."""

    phase: str  # SEARCH or CHILD
    epochs: int
    patience: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    search_alphas: bool
    head_steps: int = 0  # the first steps, in which only the head learns
    start_counts: bool = True  # whether a state from before the end of the first epoch may be the best
    keep_last: bool = False  # the last epoch is the result, whatever the validation split says of earlier ones
    judged: bool = True  # by the validation split; False where that is trained on, and the last epoch is kept
