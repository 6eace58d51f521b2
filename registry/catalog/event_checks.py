"""What a worker may report of a job."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import sqlalchemy as sa

from supernet_registry.clients.wire.resources import EpochMetrics, JobEvent, Phase, SourceDecision, TransferMode
from supernet_registry.registry.catalog import names
from supernet_registry.registry.catalog.checks import check_number, check_text
from supernet_registry.registry.catalog.spaces import stored_space
from supernet_registry.registry.catalog.supernets import find_supernet
from supernet_registry.registry.catalog.versions import find_version
from supernet_registry.search.errors import InvalidArgument, SpaceMismatch
from supernet_registry.search.spaces import check_compatible

__all__ = ["check_event", "check_source", "explicit_mode"]

_MOST_TASTES = 64
_MOST_TASTE_POINTS = 1000
_ACCURACIES = ("train_accuracy", "val_accuracy")


def check_event(event: JobEvent, field: str) -> None:
    """Exactly one of epoch, decision and message, with finite figures in range. Raises InvalidArgument, NotFinite."""
    parts = [name for name in ("state", "epoch", "decision", "message") if getattr(event, name) is not None]
    if len(parts) != 1 or parts == ["state"]:
        raise InvalidArgument(
            f"An event with {', '.join(parts) or 'nothing'}.",
            remedy="A worker reports exactly one of epoch, decision and message.",
            field=field,
        )
    if event.epoch is not None:
        _check_epoch(event.epoch, f"{field}.epoch")
    elif event.decision is not None:
        _check_decision(event.decision, f"{field}.decision")
    elif event.message is not None:
        check_text(event.message, f"{field}.message")


def check_source(connection: sa.Connection, job: sa.Row[Any], decision: SourceDecision) -> str:
    """Name of the decided source ("" for scratch): it exists, and its weights fit the job's supernet.

    Raises:
        NotFound, InvalidArgument, SpaceMismatch: with field `decision.source`.
    """
    if not decision.source:
        return ""
    field = "decision.source"
    source = find_version(connection, decision.source, field)
    target = find_supernet(connection, job.supernet_id)
    assert target is not None, "a supernet with unfinished jobs is not deleted"
    try:
        check_compatible(stored_space(source.space), stored_space(target.space))
    except SpaceMismatch as error:
        error.field = field
        raise
    return names.version_name(source.supernet_id, source.number)


def explicit_mode(decision: SourceDecision) -> SourceDecision:
    """The decision with what an unset transfer mode means."""
    if decision.transfer_mode is not TransferMode.UNSPECIFIED:
        return decision
    mode = TransferMode.WEIGHTS_AND_ALPHAS if decision.source else TransferMode.SCRATCH
    return replace(decision, transfer_mode=mode)


def _check_epoch(epoch: EpochMetrics, field: str) -> None:
    if epoch.phase is Phase.UNSPECIFIED:
        raise InvalidArgument("No phase.", remedy="Say SEARCH or CHILD.", field=f"{field}.phase")
    for item in fields(epoch):
        if item.name != "phase":
            high = 1.0 if item.name in _ACCURACIES else float("inf")
            low = 0.0 if not item.name.endswith("loss") else float("-inf")
            value = getattr(epoch, item.name)
            if value is not None:
                check_number(value, f"{field}.{item.name}", low=low, high=high)


def _check_decision(decision: SourceDecision, field: str) -> None:
    if bool(decision.source) == (explicit_mode(decision).transfer_mode is TransferMode.SCRATCH):
        raise InvalidArgument(
            f"Source {decision.source[:200]!r} with transfer mode {decision.transfer_mode}.",
            remedy="Scratch has no source, and everything else has one.",
            field=f"{field}.transfer_mode",
        )
    check_text(decision.reason, f"{field}.reason")
    for name in ("ot_distance", "taste_steps", "taste_seconds"):
        check_number(getattr(decision, name) or 0, f"{field}.{name}", low=0)
    if len(decision.tastes) > _MOST_TASTES:
        raise InvalidArgument(
            f"{len(decision.tastes)} tastes.", remedy=f"At most {_MOST_TASTES}.", field=f"{field}.tastes"
        )
    for i, taste in enumerate(decision.tastes):
        here = f"{field}.tastes[{i}]"
        if taste.version:
            names.version_key(taste.version, f"{here}.version")
        check_text(taste.reason, f"{here}.reason")
        check_number(taste.ot_distance or 0.0, f"{here}.ot_distance", low=0)
        if not len(taste.steps) == len(taste.val_accuracies) == len(taste.val_losses) <= _MOST_TASTE_POINTS:
            raise InvalidArgument(
                f"{len(taste.steps)} steps, {len(taste.val_accuracies)} accuracies, {len(taste.val_losses)} losses.",
                remedy=f"Give one accuracy and one loss a step, at most {_MOST_TASTE_POINTS}.",
                field=f"{here}.steps",
            )
        for value in taste.val_accuracies:
            check_number(value, f"{here}.val_accuracies", low=0, high=1)
        for value in taste.val_losses:
            check_number(value, f"{here}.val_losses", low=float("-inf"))
