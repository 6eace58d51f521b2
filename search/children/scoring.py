"""Scoring stored weights: the test accuracy of a blob that the registry holds, measured anew."""

from __future__ import annotations

import torch
from torch import Tensor

from supernet_registry.search.errors import InvalidArgument, UnsafeWeights
from supernet_registry.search.networks.stored import discrete_network, load_weights
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.storage.weights import WeightsInfo, check_weights
from supernet_registry.search.tasks import ImageDataset
from supernet_registry.search.training.data import load_data
from supernet_registry.search.training.devices import pick_device
from supernet_registry.search.training.evaluation import calibrate, collect_logits, score_logits

__all__ = ["evaluate_weights"]


def evaluate_weights(weights: bytes, dataset: ImageDataset, *, device: str = "auto") -> float:
    """Accuracy of a supernet or child network on the dataset's test split, as the search that made it measured it.

    BatchNorm statistics are collected afresh over training images, as before every evaluation
    (`search.training.evaluation`).

    Args:
        weights: a version's `weights_blob` or `child_blob`.
        dataset: the task that they were searched on, or one with equal classes.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        UnsafeWeights, WeightsTooLarge, NotFinite: the bytes are neither a supernet nor a child network.
        InvalidArgument: they distinguish another number of classes.
    """
    info = check_weights(weights)
    _, tensors = load_weights(weights, info.kind)
    if info.n_classes != dataset.n_classes:
        raise InvalidArgument(
            f"The network distinguishes {info.n_classes} classes, the dataset has {dataset.n_classes}.",
            remedy="Evaluate it on the task that it was searched on.",
            field="dataset",
        )
    data = load_data(dataset, info.space, pick_device(device))
    network = discrete_network(info, tensors) if info.kind == "child" else _supernet(info, tensors)
    network = network.to(data.device)
    recipe = Recipe.for_space(info.space)
    calibrate(network, data, recipe)
    return score_logits(*collect_logits(network, data, data.test, recipe)).accuracy


def _supernet(info: WeightsInfo, tensors: dict[str, Tensor]) -> Network:
    network = Network(info.space, info.n_classes, generator=torch.Generator().manual_seed(0))
    own = network.state_dict()
    if {name: tensor.shape for name, tensor in own.items()} != {name: t.shape for name, t in tensors.items()}:
        raise UnsafeWeights(
            "The tensors are not those of the supernet that the metadata describe.",
            remedy="Restore the blob, or search again.",
            field="weights",
        )
    network.load_state_dict(tensors)
    return network
