"""Searches that one process leads and the others of its group follow (see `search.training.parallel`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from supernet_registry.search.errors import SupernetRegistryError
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.results import Candidate, Listener, PipelineResult
from supernet_registry.search.runs.pipeline import run_pipeline
from supernet_registry.search.spaces import SearchSpace, space_from_json
from supernet_registry.search.tasks import ImageDataset, pack_images, unpack_images
from supernet_registry.search.training.checkpoint import pack_checkpoint, unpack_checkpoint
from supernet_registry.search.training.parallel import ProcessLost
from supernet_registry.search.training.runtime import Runtime

__all__ = ["dismiss", "follow", "run_together"]

_log = logging.getLogger(__name__)


def run_together(
    dataset: ImageDataset,
    space: SearchSpace,
    recipe: Recipe,
    *,
    runtime: Runtime,
    candidates: Sequence[Candidate] = (),
    checkpoint: bytes | None = None,
    listener: Listener | None = None,
    **options: Any,
) -> PipelineResult:
    """`run_pipeline` here, and in all processes of the runtime's group, which wait in `follow`. Alone it is just that.

    Raises:
        ProcessLost: another process is gone, or does not answer; this one should end.
        SupernetRegistryError: as `run_pipeline`, in all processes alike.
    """
    if runtime.ranks.size > 1:
        runtime.ranks.send(_pack(dataset, space, recipe, candidates, checkpoint, options))
    return run_pipeline(
        dataset,
        space,
        recipe,
        candidates=candidates,
        checkpoint=checkpoint,
        listener=listener,
        runtime=runtime,
        **options,
    )


def follow(runtime: Runtime) -> None:
    """Run what the leader runs, until it dismisses its followers. Results are the leader's to keep.

    A search that fails, fails in all processes alike (a refused recipe, bad weights, a divergence): the leader tells,
    and the next one may come.

    Raises:
        ProcessLost: the leader is gone, or has left a search.
    """
    while message := runtime.ranks.receive():
        arguments = _unpack(message)
        try:
            run_pipeline(**arguments, runtime=runtime)
        except ProcessLost:
            raise
        except SupernetRegistryError as error:
            _log.info("The search has failed here as at the leader: %s", error)


def dismiss(runtime: Runtime) -> None:
    """Let the followers leave."""
    if runtime.ranks.size > 1:
        runtime.ranks.send(b"")


def _pack(
    dataset: ImageDataset,
    space: SearchSpace,
    recipe: Recipe,
    candidates: Sequence[Candidate],
    checkpoint: bytes | None,
    options: dict[str, Any],
) -> bytes:
    """Arguments of `run_pipeline` as bytes: JSON and safetensors, as a checkpoint is."""
    tree = {
        "dataset": {"bytes": _tensor(pack_images(dataset)), "name": dataset.name},
        "space": space.to_json(),
        "recipe": asdict(recipe),
        "candidates": [{**asdict(c), "weights": _tensor(c.weights)} for c in candidates],
        "checkpoint": None if checkpoint is None else _tensor(checkpoint),
        "options": options,
    }
    return pack_checkpoint(tree)


def _unpack(message: bytes) -> dict[str, Any]:
    tree = unpack_checkpoint(message)
    recipe: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in tree["recipe"].items()
    }
    return {
        "dataset": unpack_images(_bytes(tree["dataset"]["bytes"]), name=tree["dataset"]["name"]),
        "space": space_from_json(tree["space"]),
        "recipe": Recipe(**recipe),
        "candidates": [Candidate(**{**c, "weights": _bytes(c["weights"])}) for c in tree["candidates"]],
        "checkpoint": None if tree["checkpoint"] is None else _bytes(tree["checkpoint"]),
        **tree["options"],
    }


def _tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.numpy().tobytes()
