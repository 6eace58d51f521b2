"""The bilevel loop: who learns from what, plateau, best epoch, cancelling, divergence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from supernet_registry.search.errors import SearchCancelled, SearchDiverged
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.training.checkpoint import pack_checkpoint, unpack_checkpoint
from supernet_registry.search.training.data import load_data, make_generator
from supernet_registry.search.training.evaluation import Score
from supernet_registry.search.training.loop import Loop
from supernet_registry.search.training.plan import Plan
from tests.tiny_search import tiny_dataset, tiny_space

CPU = torch.device("cpu")
SPACE = tiny_space()
RECIPE = Recipe.for_space(SPACE).override(batch_size=16, epochs=3)


def make_loop(
    recipe: Recipe = RECIPE, *, dataset=None, search_alphas=True, start_counts=True, head_steps=0, **options
) -> Loop:
    data = load_data(dataset or tiny_dataset(), SPACE, CPU)
    network = Network(SPACE, 2, generator=make_generator(0, "net"))
    plan = Plan(
        phase="SEARCH",
        epochs=recipe.epochs,
        patience=recipe.patience,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        label_smoothing=0.0,
        search_alphas=search_alphas,
        head_steps=head_steps,
        start_counts=start_counts,
    )
    return Loop(network, data, recipe, plan, generator=make_generator(0, "loop"), **options)


def snapshot(network: Network) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def changed(network: Network, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])}


def test_an_alpha_step_changes_alpha_only_and_sees_the_validation_split_only():
    loop = make_loop()
    loop.data.train.images.fill_(0)  # nothing to be learnt here
    before = snapshot(loop.network)
    loop.alpha_step()
    assert changed(loop.network, before) == {"alphas.cell"}
    assert all(parameter.grad is None for parameter in loop.network.weights())


def test_a_weight_step_changes_every_weight_but_not_alpha():
    loop = make_loop()
    before = snapshot(loop.network)
    loop.weight_step()
    loop.weight_step()  # the first leaves what begins with a zero gradient, such as shifts before a ReLU
    assert changed(loop.network, before) == set(before) - {"alphas.cell"}
    assert loop.network.alphas["cell"].grad is None


def test_at_first_only_the_head_learns_if_the_plan_says_so():
    loop = make_loop(head_steps=2)
    before = snapshot(loop.network)
    loop.advance(2)
    assert changed(loop.network, before) == {"head.weight", "head.bias"}
    loop.advance(1)
    assert changed(loop.network, before) >= {"alphas.cell", "stem.0.weight", "head.weight"}


def test_alpha_steps_come_as_often_as_the_recipe_says():
    loop = make_loop(RECIPE.override(alpha_every=2))
    seen = []
    step = loop.alpha_step
    loop.alpha_step = lambda: (seen.append(loop.steps), step())
    loop.advance(5)
    assert seen == [0, 2, 4]


def test_the_loop_learns_an_easy_task():
    loop = make_loop(replace(RECIPE, epochs=20, crop_padding=0))  # a stripe that is shifted is another class
    epochs = [loop.run_epoch() for _ in range(20)]
    assert epochs[-1].val_accuracy >= 0.9
    assert epochs[-1].train_loss < epochs[0].train_loss
    assert [epoch.steps for epoch in epochs] == [2 * number for number in range(1, 21)]
    assert 0.0 < epochs[-1].alpha_entropy <= 1.0


def test_the_learning_rate_falls_by_a_cosine_to_its_end():
    loop = make_loop(RECIPE.override(epochs=4))
    rates = [loop.learning_rate()] + [loop.run_epoch().learning_rate for _ in range(4)]
    assert rates[0] == RECIPE.learning_rate
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(RECIPE.learning_rate_min)


def test_weights_decay_by_no_more_over_a_long_schedule_than_the_recipe_allows():
    """Σ rate · decay, of the schedule from scratch: a search from a source, at a smaller rate, decays as that would."""
    recipe = replace(RECIPE, weight_decay=4.0, most_decay=0.03, learning_rate=1e-2, learning_rate_min=1e-2)
    loop = make_loop(recipe)
    steps = recipe.epochs * loop.steps_per_epoch
    assert loop.weight_decay() == pytest.approx(0.03 / (1e-2 * steps))
    loop.replan(epochs=1, learning_rate=1e-3)
    assert loop.weight_decay() == pytest.approx(0.03 / (1e-2 * steps))
    loop.advance(1)
    assert loop.weight_optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.03 / (1e-2 * steps))
    child = make_loop(recipe, search_alphas=False)
    child.replan(epochs=2 * recipe.epochs, learning_rate=1e-2)
    assert child.weight_decay() == pytest.approx(0.5 * loop.weight_decay())


@pytest.mark.parametrize("most", [0.0, 1e3])
def test_short_schedules_decay_as_the_plan_says(most):
    assert make_loop(replace(RECIPE, weight_decay=4.0, most_decay=most)).weight_decay() == 4.0


def test_the_best_state_is_kept_and_restored():
    loop = make_loop()
    best = loop.evaluate()
    tensors = {name: tensor.clone() for name, tensor in loop.network.state_dict().items()}
    loop.best = type(best)(loss=-1.0, accuracy=1.0)  # nothing can beat it
    loop.run_epoch()
    assert loop.restore_best().accuracy == 1.0
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in loop.network.state_dict().items())


PERFECT = Score(-1.0, 1.0)  # nothing can beat it


@pytest.mark.parametrize(("start_counts", "kept"), [(True, True), (False, False)])
def test_where_a_search_starts_from_is_its_best_state_only_if_the_plan_says_so(start_counts, kept):
    loop = make_loop(start_counts=start_counts)
    start = snapshot(loop.network)
    loop.note(PERFECT)
    loop.advance(1)
    loop.note(PERFECT)  # as a taste does in the middle of an epoch
    loop.run_epoch()
    loop.run_epoch()
    best = loop.restore_best()
    assert (best == PERFECT) is kept
    assert (changed(loop.network, start) == set()) is kept


def test_a_rolled_back_first_epoch_forgets_the_start_all_the_same():
    loop = make_loop(start_counts=False)
    loop.note(PERFECT)
    attempts = []
    evaluate = loop.evaluate

    def diverging_once() -> Score:
        attempts.append(loop.best)
        if len(attempts) == 1:
            raise SearchDiverged("made up")
        return evaluate()

    loop.evaluate = diverging_once
    loop.run_epoch()
    assert attempts == [None, None]
    assert loop.rollbacks == 1
    assert loop.best != PERFECT


def test_the_search_stops_on_a_plateau():
    """Two epochs in which neither accuracy nor loss gets better."""
    loop = make_loop(RECIPE.override(epochs=50, patience=2))
    scores = iter([Score(1.0, 0.5), Score(1.1, 0.6), Score(0.9, 0.5), Score(1.0, 0.6), Score(0.9, 0.6)])
    loop.evaluate = lambda: next(scores)
    while not loop.finished:
        loop.run_epoch()
    assert loop.epoch == 5
    assert loop.stalled


def test_a_search_does_not_stop_because_training_starts_below_the_prototype_head():
    loop = make_loop(RECIPE.override(epochs=50, patience=1))
    loop.evaluate()
    loop.best = Score(0.0, 1.0)
    loop.run_epoch()
    assert not loop.finished


def test_a_cancelled_search_stops_before_its_next_step():
    answers = iter([False, False, True])
    loop = make_loop(should_stop=lambda: next(answers))
    with pytest.raises(SearchCancelled):
        loop.advance(10)
    assert loop.steps == 2


def test_a_diverging_search_says_so():
    loop = make_loop()
    with torch.no_grad():
        loop.network.head.weight.fill_(float("inf"))
    with pytest.raises(SearchDiverged):
        loop.run_epoch()


def diverging(**changes) -> Recipe:
    """Weight decay makes SGD itself unstable: a step multiplies every weight by 1 - learning rate × decay = -5; at
    a quarter of the rate, by -0.5."""
    recipe = replace(RECIPE, optimizer="sgd", momentum=0.0, clip_norm=0.01, batch_size=8, epochs=50, patience=50)
    return replace(recipe, learning_rate=6.0, weight_decay=1.0, rollback_factor=0.25, **changes)


def test_a_search_that_diverges_is_rolled_back_to_its_epochs_start_and_goes_on_at_a_smaller_rate():
    said = []
    loop = make_loop(diverging(), say=said.append)
    epochs, before = [], {}
    while not loop.rollbacks:
        before = snapshot(loop.network)
        epochs.append(loop.run_epoch())
    assert len(epochs) > 1, "it was good for an epoch"
    assert [epoch.steps for epoch in epochs] == [4 * number for number in range(1, len(epochs) + 1)]
    assert epochs[-1].learning_rate == pytest.approx(0.25 * epochs[-2].learning_rate, rel=0.01)
    assert said[0].startswith("search: The ")
    assert said[0].endswith(f" Back to step {epochs[-2].steps}, with 0.25 times the learning rate.")
    assert all(parameter.isfinite().all() for parameter in before.values())
    assert loop.network.head.weight.norm() <= before["head.weight"].norm(), "it has come down since"
    loop.run_epoch()
    assert len(said) == 1, said


def test_a_second_divergence_fails_and_says_so():
    loop = make_loop(diverging())
    loop.recipe = replace(loop.recipe, rollback_factor=0.9)
    with pytest.raises(SearchDiverged, match="once more after a rollback"):
        for _ in range(50):
            loop.run_epoch()
    assert loop.rollbacks == 1


def test_without_a_rollback_factor_the_first_divergence_fails():
    loop = make_loop(replace(diverging(), rollback_factor=0.0))
    with pytest.raises(SearchDiverged):
        for _ in range(50):
            loop.run_epoch()
    assert loop.rollbacks == 0


def test_a_loop_goes_on_bit_for_bit_after_a_rollback():
    recipe = diverging()
    whole, resumed = make_loop(recipe), make_loop(recipe)
    while not whole.rollbacks:
        whole.run_epoch()
    resumed.load_state(unpack_checkpoint(pack_checkpoint(whole.state())))
    assert whole.run_epoch().train_loss == resumed.run_epoch().train_loss
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_loop_goes_on_bit_for_bit_from_its_state(optimizer, after):
    """Also in the middle of an epoch, as after a taste."""
    recipe = RECIPE.override(optimizer=optimizer, epochs=4)
    whole, first, second = make_loop(recipe), make_loop(recipe), make_loop(recipe)
    whole.advance(after)
    first.advance(after)
    second.load_state(first.state())
    expected = [whole.run_epoch() for _ in range(2)]
    resumed = [second.run_epoch() for _ in range(2)]
    assert [e.train_loss for e in resumed] == [e.train_loss for e in expected]
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, second.network.state_dict()[name]), name


@pytest.mark.gpu
@pytest.mark.parametrize("rotation", [0.0, 8.0])
def test_no_step_waits_for_the_gpu(rotation):
    """torch itself raises at whatever would make the host wait."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    data = load_data(tiny_dataset(), SPACE, device)
    network = Network(SPACE, 2, generator=make_generator(0, "net")).to(device)
    recipe = replace(RECIPE, max_rotation_degrees=rotation, horizontal_flip=True)
    loop = Loop(network, data, recipe, make_loop().plan, generator=make_generator(0, "loop"))
    loop.advance(2)  # optimisers' state, constants
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            loop.alpha_step()
            loop.weight_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
