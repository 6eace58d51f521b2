"""Between the words of a job on the wire and those of the search library."""

from __future__ import annotations

from dataclasses import asdict, replace

from supernet_registry.clients.wire.resources import (
    Cost,
    EpochMetrics,
    Metrics,
    Phase,
    SourceDecision,
    SupernetVersion,
    TasteResult,
    TransferMode,
)
from supernet_registry.search.results import Decision, Epoch, PipelineResult, Taste

__all__ = ["decision_resource", "epoch_resource", "version_resource"]


def epoch_resource(epoch: Epoch) -> EpochMetrics:
    """An epoch as it is reported."""
    return EpochMetrics(**{**asdict(epoch), "phase": Phase(epoch.phase)})


def decision_resource(decision: Decision, *, novel: bool) -> SourceDecision:
    """A decision as it is reported; scratch has no distance."""
    return SourceDecision(
        source=decision.source,
        transfer_mode=TransferMode(decision.transfer_mode),
        reason=decision.reason,
        ot_distance=decision.ot_distance if decision.source else None,
        novel=novel,
        tastes=tuple(_taste_resource(taste) for taste in decision.tastes),
        taste_steps=decision.taste_steps,
        taste_seconds=decision.taste_seconds,
    )


def _taste_resource(taste: Taste) -> TasteResult:
    result = TasteResult(**asdict(taste))
    return result if taste.version else replace(result, ot_distance=None)


def version_resource(result: PipelineResult, weights_blob: str, child_blob: str, device: str) -> SupernetVersion:
    """A result as it is written back."""
    return SupernetVersion(
        weights_blob=weights_blob,
        weights_size_bytes=len(result.weights),
        child_blob=child_blob,
        genotype=result.genotype,
        metrics=Metrics(
            val_accuracy=result.val_accuracy,
            test_accuracy=result.test_accuracy,
            child_val_accuracy=result.child_val_accuracy,
            child_test_accuracy=result.child_test_accuracy,
            child_parameters=result.child_parameters,
            alpha_entropy=result.alpha_entropy,
            skip_count=result.skip_count,
            child_macs=result.child_macs,
            child_single_seconds=result.child_single_seconds,
            child_batch_seconds=result.child_batch_seconds,
        ),
        cost=Cost(
            search_steps=result.search_steps,
            taste_steps=result.taste_steps,
            child_steps=result.child_steps,
            search_seconds=result.search_seconds,
            taste_seconds=result.taste_seconds,
            child_seconds=result.child_seconds,
            device=device,
        ),
    )
