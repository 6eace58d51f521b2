"""Tasks: labelled images in three splits, loaded from files, checked, and derived for streams."""

from supernet_registry.search.tasks.checks import check_dataset
from supernet_registry.search.tasks.dataset import ImageDataset, Split
from supernet_registry.search.tasks.derivation import TaskDerivation, derive
from supernet_registry.search.tasks.images_blob import pack_images, unpack_images
from supernet_registry.search.tasks.loading import dataset_from_arrays, load_dataset

__all__ = [
    "ImageDataset",
    "Split",
    "TaskDerivation",
    "check_dataset",
    "dataset_from_arrays",
    "derive",
    "load_dataset",
    "pack_images",
    "unpack_images",
]
