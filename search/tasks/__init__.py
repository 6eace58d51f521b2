"""Tasks: labelled images in three splits, loaded from files, checked, and derived for streams."""

from search.tasks.checks import check_dataset
from search.tasks.dataset import ImageDataset, Split
from search.tasks.derivation import Derivation, derive
from search.tasks.loading import dataset_from_arrays, load_dataset

__all__ = [
    "Derivation",
    "ImageDataset",
    "Split",
    "check_dataset",
    "dataset_from_arrays",
    "derive",
    "load_dataset",
]
