"""What both clients do before they send: describe a dataset, sketch it, spell out a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from supernet_registry.clients.wire.errors import EncoderMismatch
from supernet_registry.clients.wire.resources import (
    Dataset,
    Derivation,
    Encoder,
    Executor,
    SearchSpec,
    SourcePolicy,
    SpaceDescriptor,
    TransferMode,
    Variant,
)
from supernet_registry.search.recipe.settings import settings_text
from supernet_registry.search.spaces import SearchSpace, make_space

if TYPE_CHECKING:
    from supernet_registry.search.similarity import Encoder as LocalEncoder
    from supernet_registry.search.tasks import ImageDataset

__all__ = [
    "Space",
    "dataset_record",
    "local_encoder",
    "search_spec",
    "sketch_bytes",
    "space_descriptor",
    "supernet_name",
]

Space = SearchSpace | SpaceDescriptor | str
"""A search space as users give it: built, described, or by the name of its family."""


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


def search_spec(
    space: Space | None,
    source: str,
    transfer_mode: TransferMode | str,
    *,
    epochs: int,
    patience: int,
    batch_size: int,
    seed: int,
    child_epochs: int,
    taste_share: float,
    taste_candidates: int,
    derivation: Derivation | str,
    derivation_steps: int,
    child_holds_out: bool,
    variant: Variant | str,
    drop_shares: Sequence[float],
    recipe: Mapping[str, object] | None,
    here: bool,
) -> SearchSpec:
    """The spec of a job from a user's options; zeros leave the choice to the server and the recipe.

    `recipe` has other fields of the recipe by name.

    Raises InvalidArgument for an unknown variant or derivation, InvalidSearchSpace.
    """
    policy = {"auto": SourcePolicy.AUTO, "scratch": SourcePolicy.SCRATCH}.get(source.lower(), SourcePolicy.VERSION)
    return SearchSpec(
        search_space=space_descriptor(space),
        source_policy=policy,
        source_version=supernet_name(source) if policy is SourcePolicy.VERSION else "",
        transfer_mode=TransferMode(transfer_mode),
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        seed=seed,
        child_epochs=child_epochs,
        taste_share=taste_share,
        taste_candidates=taste_candidates,
        variant=Variant.named(variant),
        drop_shares=tuple(drop_shares),
        recipe=settings_text(recipe or {}),
        executor=Executor.CALLER if here else Executor.POOL,
        derivation=Derivation.named(derivation),
        derivation_steps=derivation_steps,
        child_holds_out=child_holds_out,
    )
