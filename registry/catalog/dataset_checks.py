"""What a dataset must be before it is registered."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from supernet_registry.clients.wire.resources import Dataset
from supernet_registry.registry.catalog import names
from supernet_registry.registry.catalog.blobs import Blobs
from supernet_registry.registry.catalog.checks import check_labels, check_number, check_text
from supernet_registry.search.errors import (
    DigestMismatch,
    DimensionMismatch,
    InvalidArgument,
    NotFinite,
    SupernetRegistryError,
)
from supernet_registry.search.similarity.sketch import Sketch
from supernet_registry.search.tasks import unpack_images

__all__ = ["check_dataset_draft", "check_embedding", "check_images", "read_sketch"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_IMAGES = 100_000_000
_LONGEST_SIDE = 4096


def read_sketch(data: bytes) -> Sketch:
    """Parse a sketch; errors carry field `sketch`. Raises InvalidSketch, NotFinite, DimensionMismatch."""
    try:
        return Sketch.from_bytes(data)
    except SupernetRegistryError as error:
        error.field = error.field or "sketch"
        raise


def check_dataset_draft(dataset: Dataset, sketch: Sketch) -> Dataset:
    """The input fields of a dataset, checked, with the counts of its sketch; output-only fields are cleared.

    Raises:
        InvalidArgument: with the path of the field.
    """
    if not _DIGEST.fullmatch(dataset.digest):
        raise InvalidArgument(
            f"{dataset.digest[:80]!r} is not a digest.",
            remedy="Give the sha256 over the dataset's arrays in 64 lower-case hexadecimal digits.",
            field="dataset.digest",
        )
    if dataset.name and dataset.name != names.dataset_name(dataset.digest):
        raise InvalidArgument(
            f"{dataset.name[:80]!r} is not the name of a dataset with this digest.",
            remedy=f"Leave it out, or give {names.dataset_name(dataset.digest)}.",
            field="dataset.name",
        )
    for field in ("val_count", "test_count"):
        check_number(getattr(dataset, field), f"dataset.{field}", low=0, high=_MOST_IMAGES)
    for field in ("height", "width"):
        check_number(getattr(dataset, field), f"dataset.{field}", low=1, high=_LONGEST_SIDE)
    if dataset.channels not in {1, 3}:
        raise InvalidArgument(
            f"{dataset.channels} channels.", remedy="Images have 1 or 3 channels.", field="dataset.channels"
        )
    if dataset.class_names and len(dataset.class_names) != sketch.n_classes:
        raise InvalidArgument(
            f"{len(dataset.class_names)} class names for {sketch.n_classes} classes.",
            remedy="Name every class of the sketch, in label order, or none.",
            field="dataset.class_names",
        )
    for i, class_name in enumerate(dataset.class_names):
        check_text(class_name, f"dataset.class_names[{i}]", max_length=200)
    if dataset.images_blob:
        names.blob_sha256(dataset.images_blob, "dataset.images_blob")
    return Dataset(
        display_name=check_text(dataset.display_name, "dataset.display_name", max_length=200),
        digest=dataset.digest,
        class_names=dataset.class_names,
        train_count=int(sketch.class_counts.sum()),
        val_count=dataset.val_count,
        test_count=dataset.test_count,
        height=dataset.height,
        width=dataset.width,
        channels=dataset.channels,
        images_blob=dataset.images_blob,
        retain_images=dataset.retain_images,
        labels=check_labels(dataset.labels, "dataset.labels"),
    )


def check_embedding(embedding: NDArray[np.float32]) -> NDArray[np.float32]:
    """A finite vector, shape (d,). Raises DimensionMismatch, NotFinite."""
    vector = np.asarray(embedding, dtype=np.float32)
    if vector.ndim != 1 or vector.size == 0:
        raise DimensionMismatch(
            f"The embedding has shape {vector.shape}.", remedy="One vector is needed.", field="embedding"
        )
    if not np.isfinite(vector).all():
        raise NotFinite("The embedding has NaN or infinity.", remedy="Check the sketch.", field="embedding")
    return vector


def check_images(blobs: Blobs, name: str, digest: str, field: str) -> None:
    """The blob holds the images of this very dataset: a wrong one would silently train on other data.

    Raises:
        NotFound, InvalidArgument, BlobCorrupt: the blob.
        InvalidDataset: not images.
        DigestMismatch: images of another dataset.
    """
    try:
        found = unpack_images(blobs.read(name, field)).digest
    except SupernetRegistryError as error:
        error.field = error.field or field
        raise
    if found != digest:
        raise DigestMismatch(
            f"{name} holds the images of dataset {found}, not of {digest}.",
            remedy="Upload the images of the dataset that is being registered.",
            field=field,
            metadata={"expected": digest, "found": found},
        )
