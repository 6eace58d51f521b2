"""Small datasets, jobs and weights for tests of the server."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import save

from supernet_registry.clients.wire.resources import Dataset, SearchJob, SearchSpec, SearchWork, SpaceDescriptor
from supernet_registry.search.spaces import SearchSpace, make_space
from supernet_registry.search.tasks import ImageDataset, dataset_from_arrays

SPACE = make_space("nas-bench-201", channels=4, cells=1, resolution=16)
GENOTYPE = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"


def make_dataset(seed: int, *, classes: int = 3, other: float = 0.0, per_class: int = 12) -> ImageDataset:
    """Noise around one random pattern a class; `other` in [0, 1] blends in patterns of another kind: a distance."""
    kinds = np.random.default_rng(0).integers(0, 200, (2, classes, 8, 8, 1))
    patterns = (1 - other) * kinds[0] + other * kinds[1]
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)

    def split() -> np.ndarray:
        noise = rng.integers(0, 40, (len(labels), 8, 8, 1))
        return (patterns[labels] + noise).astype(np.uint8)

    arrays = {
        f"{kind}_{name}": split() if kind == "x" else labels for name in ("train", "val", "test") for kind in "xy"
    }
    return dataset_from_arrays(**arrays, name=f"set-{seed}")


def weights_blob(space: SearchSpace = SPACE, *, classes: int = 3, seed: int = 0, kind: str = "supernet") -> bytes:
    """A blob that passes every check of weights, without being any network's."""
    described = {"space": space.to_json(), "n_classes": classes, "genotype": GENOTYPE}
    tensors = {"w": np.random.default_rng(seed).normal(size=(4, 4)).astype(np.float32)}
    return save(tensors, metadata={kind: json.dumps(described)})


def job_for(dataset: Dataset, supernet: str = "tiny", space: SearchSpace = SPACE) -> SearchJob:
    """A draft of a search job."""
    descriptor = SpaceDescriptor(**space.to_json() | {"operations": space.operations})
    return SearchJob(
        supernet=f"supernets/{supernet}",
        dataset=dataset.name,
        spec=SearchSpec(search_space=descriptor, search=SearchWork()),
    )
