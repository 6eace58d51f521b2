"""What a loop descends is the objective's; a dummy of any axis is one class and one entry of its table."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load

from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.results import Listener
from supernet_registry.search.runs.pipeline import run_pipeline
from supernet_registry.search.strategies import DERIVATIONS, OBJECTIVES, VARIANTS, Strategy
from supernet_registry.search.training.data import load_data, make_generator
from supernet_registry.search.training.loop import Loop
from supernet_registry.search.training.plan import Plan
from tests.tiny_search import tiny_dataset, tiny_space

SPACE = tiny_space()
RECIPE = replace(Recipe.for_space(SPACE), epochs=2, child_epochs=1, batch_size=16, patience=99)
LAZY = Strategy("lazy", "α never moves", "tests.search.dummies:Lazy")
MARGIN = Strategy("margin", "a hinge loss", "tests.search.dummies:Margin")
FIRST = Strategy("first", "no skip connections", "tests.search.dummies:select_first")


def make_loop(recipe: Recipe, *, smoothing: float = 0.0) -> Loop:
    network = Network(SPACE, 2, generator=make_generator(0, "net"), alpha_scale=0.5)
    plan = Plan(
        phase="SEARCH",
        epochs=recipe.epochs,
        patience=99,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        label_smoothing=smoothing,
        search_alphas=True,
    )
    data = load_data(tiny_dataset(), SPACE, torch.device("cpu"))
    return Loop(network, data, recipe, plan, generator=make_generator(0, "loop"))


def test_only_the_weights_see_smoothed_labels():
    plain, smooth = make_loop(RECIPE), make_loop(RECIPE, smoothing=0.3)
    batch = plain.train_batch()
    assert plain.val_loss(batch) == smooth.val_loss(batch) == plain.train_loss(batch)
    assert smooth.train_loss(batch) != plain.train_loss(batch)


@pytest.mark.parametrize(
    ("axis", "strategy"), [(VARIANTS, LAZY), (OBJECTIVES, MARGIN), (DERIVATIONS, FIRST)], ids=lambda part: part.name
)
def test_a_dummy_needs_one_entry_and_runs_a_whole_search(axis, strategy):
    class Counted(Listener):
        epochs = 0

        def on_epoch(self, e):
            self.epochs += 1

    recipe, heard = replace(RECIPE, **{axis.name: strategy.name}), Counted()
    with pytest.raises(InvalidArgument, match=f"Unknown {axis.name}"):
        run_pipeline(tiny_dataset(), SPACE, recipe, device="cpu")
    with axis.added(strategy):
        result = run_pipeline(tiny_dataset(), SPACE, recipe, device="cpu", listener=heard)
    assert heard.epochs == 3
    plain = run_pipeline(tiny_dataset(), SPACE, RECIPE, device="cpu")
    if axis is DERIVATIONS:
        assert result.child_steps == plain.child_steps + 3
    else:
        one, other = load(result.weights), load(plain.weights)
        assert not all(torch.equal(one[name], other[name]) for name in one)


def test_an_objectives_state_is_kept():
    with OBJECTIVES.added(MARGIN):
        whole, resumed = (make_loop(replace(RECIPE, objective="margin")) for _ in range(2))
        whole.advance(2)
        resumed.load_state(whole.snapshot())
    assert resumed.state()["objective"] == {"asked": 2}
    assert resumed.run_epoch().train_loss == whole.run_epoch().train_loss
