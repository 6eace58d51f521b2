"""Supernet Registry: architecture searches that start from what earlier ones learnt.

    from supernet_registry import RegistryClient, load_dataset

    with RegistryClient("127.0.0.1:50551") as registry:
        for candidate in registry.nearest(load_dataset("my_task.npz")).candidates:
            print(candidate.version, candidate.ot_distance)

This is the whole public face: what has no name here may change without notice. A name is loaded when it is first
asked for, so that importing the package costs nothing, and a client needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from supernet_registry.search.version import __version__

if TYPE_CHECKING:
    from supernet_registry import errors
    from supernet_registry.clients import plots
    from supernet_registry.clients.async_registry_client import AsyncRegistryClient
    from supernet_registry.clients.registry_client import RegistryClient
    from supernet_registry.clients.streams.results import StreamResult, StreamRow
    from supernet_registry.clients.streams.runner import StreamListener, run_stream
    from supernet_registry.clients.streams.stream import Experience, TaskStream
    from supernet_registry.clients.wire.options import GeneralistOptions, SearchOptions, StreamOptions
    from supernet_registry.clients.wire.resources import (
        AbandonOutcome,
        ClassCoupling,
        Cost,
        Dataset,
        DatasetMap,
        DatasetPoint,
        Encoder,
        EpochMetrics,
        Executor,
        GeneralistWork,
        JobError,
        JobEvent,
        JobState,
        Lease,
        Lineage,
        LineageEdge,
        Metrics,
        NearestSources,
        Parent,
        ParentRole,
        Phase,
        Reason,
        SearchJob,
        SearchSpec,
        SearchWork,
        ShortlistEntry,
        ShortlistOutcome,
        SourceCandidate,
        SourceDecision,
        SourcePolicy,
        SpaceDescriptor,
        Supernet,
        SupernetVersion,
        TasteResult,
        TransferMode,
        Upload,
    )
    from supernet_registry.clients.work.threads import limit_threads
    from supernet_registry.search.children.child import Child, load_child
    from supernet_registry.search.children.drawing import draw_cells
    from supernet_registry.search.children.predictions import Predictions
    from supernet_registry.search.errors import SupernetRegistryError
    from supernet_registry.search.recipe import Recipe
    from supernet_registry.search.runs.pipeline import Epoch, Listener, PipelineResult, run_pipeline
    from supernet_registry.search.similarity import Sketch, load_encoder, make_sketch, otdd
    from supernet_registry.search.spaces import SearchSpace, make_space
    from supernet_registry.search.tasks import (
        ImageDataset,
        Split,
        TaskDerivation,
        dataset_from_arrays,
        derive,
        load_dataset,
    )

__all__ = [
    "AbandonOutcome",
    "AsyncRegistryClient",
    "Child",
    "ClassCoupling",
    "Cost",
    "Dataset",
    "DatasetMap",
    "DatasetPoint",
    "Encoder",
    "Epoch",
    "EpochMetrics",
    "Executor",
    "Experience",
    "GeneralistOptions",
    "GeneralistWork",
    "ImageDataset",
    "JobError",
    "JobEvent",
    "JobState",
    "Lease",
    "Lineage",
    "LineageEdge",
    "Listener",
    "Metrics",
    "NearestSources",
    "Parent",
    "ParentRole",
    "Phase",
    "PipelineResult",
    "Predictions",
    "Reason",
    "Recipe",
    "RegistryClient",
    "SearchJob",
    "SearchOptions",
    "SearchSpace",
    "SearchSpec",
    "SearchWork",
    "ShortlistEntry",
    "ShortlistOutcome",
    "Sketch",
    "SourceCandidate",
    "SourceDecision",
    "SourcePolicy",
    "SpaceDescriptor",
    "Split",
    "StreamListener",
    "StreamOptions",
    "StreamResult",
    "StreamRow",
    "Supernet",
    "SupernetRegistryError",
    "SupernetVersion",
    "TaskDerivation",
    "TaskStream",
    "TasteResult",
    "TransferMode",
    "Upload",
    "__version__",
    "dataset_from_arrays",
    "derive",
    "draw_cells",
    "errors",
    "limit_threads",
    "load_child",
    "load_dataset",
    "load_encoder",
    "make_sketch",
    "make_space",
    "otdd",
    "plots",
    "run_pipeline",
    "run_stream",
]

_HOMES = {
    "clients.async_registry_client": "AsyncRegistryClient",
    "clients.registry_client": "RegistryClient",
    "clients.streams.results": "StreamResult StreamRow",
    "clients.streams.runner": "StreamListener run_stream",
    "clients.streams.stream": "Experience TaskStream",
    "clients.wire.options": "GeneralistOptions SearchOptions StreamOptions",
    "clients.wire.resources": (
        "AbandonOutcome Executor GeneralistWork Lease SearchWork Upload "
        "ClassCoupling Cost Dataset DatasetMap DatasetPoint Encoder EpochMetrics JobError JobEvent "
        "JobState Lineage LineageEdge Metrics NearestSources Parent ParentRole Phase Reason SearchJob "
        "SearchSpec ShortlistEntry ShortlistOutcome SourceCandidate SourceDecision SourcePolicy "
        "SpaceDescriptor Supernet SupernetVersion TasteResult TransferMode"
    ),
    "clients.work.threads": "limit_threads",
    "search.children.child": "Child load_child",
    "search.children.drawing": "draw_cells",
    "search.children.predictions": "Predictions",
    "search.errors": "SupernetRegistryError",
    "search.recipe": "Recipe",
    "search.runs.pipeline": "Epoch Listener PipelineResult run_pipeline",
    "search.similarity": "Sketch load_encoder make_sketch otdd",
    "search.spaces": "SearchSpace make_space",
    "search.tasks": "ImageDataset Split TaskDerivation dataset_from_arrays derive load_dataset",
}
"""Where each name is, below this package."""

_MODULES = {"errors": "errors", "plots": "clients.plots"}
"""Names that are modules of functions and types, not one of them."""

_PLACES = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = import_module(f"{__name__}.{_MODULES[name]}")
    elif name in _PLACES:
        value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # the next one finds it without us
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
