"""The network that users write by hand, as our competitor."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from supernet_registry.search.errors import UnsafeWeights
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.results import Epoch
from supernet_registry.search.runs.fixed_network import FixedRecipe, FixedResult, train_fixed
from supernet_registry.search.tasks import Split
from supernet_registry.search.training.data import Data, load_data
from tests.tiny_search import tiny_dataset, tiny_space

RECIPE = Recipe.for_space(tiny_space())
FIXED = FixedRecipe(cold_epochs=2, warm_epochs=1, most_epochs=2)


@pytest.fixture
def data() -> Data:
    return load_data(tiny_dataset(0), tiny_space(), torch.device("cpu"))


@pytest.fixture
def trained(data: Data) -> FixedResult:
    return train_fixed(data, RECIPE, seed=0, cpu_seconds=0.0, fixed=FIXED)


def test_it_learns_and_tells_every_epoch(data: Data) -> None:
    epochs: list[Epoch] = []
    result = train_fixed(
        data,
        RECIPE,
        seed=0,
        cpu_seconds=60.0,
        fixed=replace(FIXED, most_epochs=15, holds_out=True),
        on_epoch=epochs.append,
    )
    assert [epoch.epoch for epoch in epochs] == list(range(1, 16))
    assert epochs[-1].steps == result.steps == 15
    assert max(epoch.val_accuracy for epoch in epochs) == pytest.approx(result.val_accuracy)
    assert result.test_accuracy > 0.9
    assert result.parameters == sum(parameter.numel() for parameter in result.network.parameters())


def test_it_learns_from_both_splits_unless_told_to_hold_one_out(data: Data) -> None:
    epochs: list[Epoch] = []
    both = train_fixed(data, RECIPE, seed=0, cpu_seconds=0.0, fixed=FIXED, on_epoch=epochs.append)
    assert [epoch.val_loss for epoch in epochs] == [None, None]
    assert both.val_accuracy is None
    assert both.steps == 2 * math.ceil((len(data.train) + len(data.val)) / FIXED.batch_size)
    alone = train_fixed(data, RECIPE, seed=0, cpu_seconds=0.0, fixed=replace(FIXED, holds_out=True))
    assert alone.steps == 2 * math.ceil(len(data.train) / FIXED.batch_size)


def test_the_time_buys_epochs_between_the_fewest_and_the_most(data: Data, trained: FixedResult) -> None:
    recipe = replace(FIXED, cold_epochs=3, warm_epochs=2, most_epochs=5)
    assert train_fixed(data, RECIPE, seed=0, cpu_seconds=0.0, fixed=recipe).epochs == 3
    assert train_fixed(data, RECIPE, seed=0, cpu_seconds=0.0, fixed=recipe, source=trained.weights).epochs == 2
    assert train_fixed(data, RECIPE, seed=0, cpu_seconds=1e6, fixed=recipe).epochs == 5


def test_a_warm_start_keeps_the_body_and_makes_a_head_of_prototypes(trained: FixedResult) -> None:
    """With a learning rate of zero what is left is what it began with; other classes need another head."""
    other = load_data(tiny_dataset(1, n_classes=3), tiny_space(), torch.device("cpu"))
    still = replace(FIXED, learning_rate=0.0, weight_decay=0.0)
    result = train_fixed(other, RECIPE, seed=1, cpu_seconds=0.0, fixed=still, source=trained.weights)
    before, after = load(trained.weights), load(result.weights)
    for name, value in before.items():
        if name.startswith("body.") and "running" not in name and "num_batches" not in name:
            assert torch.equal(after[name], value), name
    assert after["head.weight"].shape == (3, 2048)


def test_equal_seeds_give_equal_networks(data: Data, trained: FixedResult) -> None:
    assert train_fixed(data, RECIPE, seed=0, cpu_seconds=0.0, fixed=FIXED).weights == trained.weights
    assert train_fixed(data, RECIPE, seed=1, cpu_seconds=0.0, fixed=FIXED).weights != trained.weights


@pytest.mark.parametrize("source", [b"", b"no weights at all", None])
def test_other_bytes_are_refused(data: Data, trained: FixedResult, source: bytes | None) -> None:
    wrong = trained.weights[:-4] if source is None else source
    with pytest.raises(UnsafeWeights, match="no fixed network"):
        train_fixed(data, RECIPE, seed=0, cpu_seconds=0.0, fixed=FIXED, source=wrong)


def test_a_pretrained_network_is_fine_tuned(tmp_path: Path) -> None:
    """On a few images: each is enlarged to what a resnet takes."""
    torchvision = pytest.importorskip("torchvision")
    weights = tmp_path / "resnet18.safetensors"
    state = torchvision.models.resnet18(weights=None).state_dict()
    save_file(state, weights)
    tiny = tiny_dataset(0)
    few = {name: Split(split.images[::4], split.labels[::4]) for name, split in tiny.splits()}
    data = load_data(replace(tiny, **few), tiny_space(), torch.device("cpu"))
    fixed = replace(FIXED, most_epochs=1, batch_size=4)
    still = replace(fixed, pretrained_learning_rate=0.0, weight_decay=0.0)
    result = train_fixed(data, RECIPE, seed=0, cpu_seconds=0.0, fixed=still, pretrained=weights)
    assert torch.equal(load(result.weights)["body.1.layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    moved = train_fixed(data, RECIPE, seed=0, cpu_seconds=0.0, fixed=fixed, pretrained=weights)
    assert not torch.equal(load(moved.weights)["body.1.layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
