"""What both clients do before they send: describe a dataset, sketch it, spell out a search."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from supernet_registry.clients.wire.errors import EncoderMismatch
from supernet_registry.clients.wire.options import JobOptions, SourceOptions, Space
from supernet_registry.clients.wire.resources import (
    Dataset,
    Encoder,
    Executor,
    SearchSpec,
    SearchWork,
    SourcePolicy,
    SpaceDescriptor,
    TransferMode,
)
from supernet_registry.search.recipe.settings import settings_text
from supernet_registry.search.spaces import make_space

if TYPE_CHECKING:
    from supernet_registry.search.similarity import Encoder as LocalEncoder
    from supernet_registry.search.tasks import ImageDataset

__all__ = [
    "dataset_record",
    "job_spec",
    "local_encoder",
    "search_spec",
    "sketch_bytes",
    "space_descriptor",
    "supernet_name",
]


def dataset_record(dataset: ImageDataset, *, retain_images: bool) -> Dataset:
    """The resource that describes `dataset`; all but its images and its sketch."""
    height, width, channels = dataset.image_shape
    return Dataset(
        name=f"datasets/{dataset.digest[:32]}",
        display_name=dataset.name,
        digest=dataset.digest,
        class_count=dataset.n_classes,
        class_names=dataset.class_names,
        train_count=len(dataset.train.labels),
        val_count=len(dataset.val.labels),
        test_count=len(dataset.test.labels),
        height=height,
        width=width,
        channels=channels,
        retain_images=retain_images,
    )


@lru_cache(maxsize=4)
def _loaded_encoder(name: str, weights: Path | None) -> LocalEncoder:
    from supernet_registry.search.similarity import load_encoder

    return load_encoder(name, weights=weights)


def local_encoder(encoder: Encoder, weights: Path | None) -> LocalEncoder:
    """The server's encoder, loaded here. Raises EncoderMismatch where ours is not the same, OptionalDependency."""
    local = _loaded_encoder(encoder.encoder, weights)
    if local.id != encoder.encoder_id:
        raise EncoderMismatch(
            f"The registry compares sketches of encoder {encoder.encoder_id}; this client has {local.id}.",
            remedy="Use a client of the server's release, and for a torchvision encoder the same weights file.",
            field="encoder_id",
            metadata={"encoder_id": local.id, "server_encoder_id": encoder.encoder_id},
        )
    return local


def sketch_bytes(dataset: ImageDataset, encoder: Encoder, weights: Path | None, *, moments_only: bool = False) -> bytes:
    """The serialised sketch of `dataset` for this registry. Raises EncoderMismatch, and what `make_sketch` does."""
    from supernet_registry.search.similarity import DEFAULT_SKETCH_SIZE, make_sketch

    local = local_encoder(encoder, weights)
    size = encoder.sketch_size or DEFAULT_SKETCH_SIZE
    return make_sketch(dataset, local, size=size, moments_only=moments_only).to_bytes()


def space_descriptor(space: Space | None) -> SpaceDescriptor | None:
    """The wire form of a search space. Raises InvalidSearchSpace."""
    if space is None or isinstance(space, SpaceDescriptor):
        return space
    built = make_space(space) if isinstance(space, str) else space
    return SpaceDescriptor(
        family=built.family,
        channels=built.channels,
        cells=built.cells,
        nodes=built.nodes,
        operations=tuple(built.operations),
        stem_stride=built.stem_stride,
        head_pool=built.head_pool,
        resolution=built.resolution,
        affine_batch_norm=built.affine_batch_norm,
        id=built.id,
        partial_channels=built.partial_channels,
    )


def supernet_name(name: str) -> str:
    """`supernets/{id}` from an id or a full name."""
    return name if name.startswith("supernets/") else f"supernets/{name}"


def job_spec(options: JobOptions) -> SearchSpec:
    """What every kind of work has in its spec; the work itself is not set. Raises InvalidSearchSpace."""
    return SearchSpec(
        search_space=space_descriptor(options.get("space")),
        seed=options.get("seed", 0),
        recipe=settings_text(options.get("recipe") or {}),
    )


def search_spec(options: SourceOptions) -> SearchSpec:
    """The spec of a search. What is not given is left to the server and the recipe. Raises InvalidSearchSpace."""
    source = options.get("source", "auto")
    policy = {"auto": SourcePolicy.AUTO, "scratch": SourcePolicy.SCRATCH}.get(source.lower(), SourcePolicy.VERSION)
    return replace(
        job_spec(options),
        executor=Executor.CALLER if options.get("here") else Executor.POOL,
        search=SearchWork(
            source_policy=policy,
            source_version=supernet_name(source) if policy is SourcePolicy.VERSION else "",
            transfer_mode=TransferMode(options.get("transfer_mode", TransferMode.UNSPECIFIED)),
        ),
    )
