"""Between the words of a job on the wire and those of the search library."""

from __future__ import annotations

from dataclasses import asdict

from supernet_registry.clients.wire.resources import (
    Cost,
    Metrics,
    SearchSpec,
    SourceDecision,
    SupernetVersion,
    TasteResult,
    TransferMode,
)
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.recipe.settings import apply_settings
from supernet_registry.search.results import Decision, PipelineResult
from supernet_registry.search.spaces import SearchSpace

__all__ = ["decision_resource", "recipe_of", "transfer_mode_of", "version_resource"]


def recipe_of(spec: SearchSpec, space: SearchSpace) -> Recipe:
    """The space's recipe with what the spec wants otherwise. Raises InvalidArgument."""
    recipe = Recipe.for_space(space).override(
        epochs=spec.epochs,
        patience=spec.patience,
        batch_size=spec.batch_size,
        child_epochs=spec.child_epochs,
        taste_share=spec.taste_share,
        taste_candidates=spec.taste_candidates,
        derivation=spec.derivation.recipe_name,
        derivation_steps=spec.derivation_steps,
        child_holds_out=spec.child_holds_out,
        variant=spec.variant.recipe_name,
        drop_shares=spec.drop_shares,
    )
    return apply_settings(recipe, spec.recipe)


def transfer_mode_of(spec: SearchSpec) -> TransferMode:
    if spec.transfer_mode is TransferMode.UNSPECIFIED:
        return TransferMode.WEIGHTS_AND_ALPHAS
    return spec.transfer_mode


def decision_resource(decision: Decision, *, novel: bool) -> SourceDecision:
    return SourceDecision(
        source=decision.source,
        transfer_mode=TransferMode(decision.transfer_mode),
        reason=decision.reason,
        ot_distance=decision.ot_distance,
        novel=novel,
        tastes=tuple(TasteResult(**asdict(taste)) for taste in decision.tastes),
        taste_steps=decision.taste_steps,
        taste_seconds=decision.taste_seconds,
    )


def version_resource(result: PipelineResult, weights_blob: str, child_blob: str, device: str) -> SupernetVersion:
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
