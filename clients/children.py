"""What both clients do with child networks once their bytes are here. Torch is imported only then."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from supernet_registry.clients import prepare as _prepare
from supernet_registry.clients.wire.errors import NotPossibleNow, OptionalDependency
from supernet_registry.clients.wire.resources import Dataset, SupernetVersion

if TYPE_CHECKING:
    from supernet_registry.search.children.child import Child
    from supernet_registry.search.children.predictions import Predictions

__all__ = ["Images", "classify", "full_version_name", "need_torch", "open_child", "require_child"]

Images = NDArray[np.uint8] | Sequence[str | Path]
"""Images to classify: an array (n, h, w, 1 or 3), or files, folders and .npz files."""


def full_version_name(name: str) -> str:
    """`supernets/{id}/versions/{n}` as it is; of a supernet (its id will do) the head."""
    full = _prepare.supernet_name(name)
    return full if "/versions/" in full else f"{full}/versions/head"


def need_torch() -> None:
    """Raise OptionalDependency, before anything is downloaded, where child networks cannot be run."""
    if find_spec("torch") is None:
        raise OptionalDependency(
            "Running a child network needs PyTorch.",
            remedy="Install it with `pip install 'supernet-registry[worker]'`.",
        )


def require_child(version: SupernetVersion) -> str:
    """The blob of a version's child network. Raises NotPossibleNow where it has none."""
    if not version.child_blob:
        raise NotPossibleNow(
            f"{version.name} has no child network.",
            remedy="Search again without `--child-epochs 0`; `download` gives the supernet.",
            field="version",
        )
    return version.child_blob


def open_child(data: bytes, device: str) -> Child:
    """The network in a child blob, checked before torch sees it. Raises UnsafeWeights, NotFinite, InvalidArgument."""
    from supernet_registry.search.children.child import load_child
    from supernet_registry.search.training.devices import device_name

    device_name(device)  # a device that is not there is an error of the request
    return load_child(data, device=device)


def classify(
    data: bytes, version: SupernetVersion, dataset: Dataset, images: Images, *, array: str, device: str
) -> Predictions:
    """What the child network in `data` says about images. Raises InvalidDataset, InvalidArgument, UnsafeWeights."""
    from supernet_registry.search.children.predictions import Predictions
    from supernet_registry.search.tasks.images import load_images

    child = open_child(data, device)
    if isinstance(images, np.ndarray):
        names, pixels = tuple(str(position) for position in range(len(images))), images
    else:
        # The size of the task, not of the network: so files are resized in the same steps as the training images were.
        found = load_images(
            [Path(path) for path in images],
            size=(dataset.height, dataset.width),
            channels=dataset.channels,
            array=array,
        )
        names, pixels = found.names, found.images
    return Predictions(version.name, names, child.class_names, child.predict(pixels))
