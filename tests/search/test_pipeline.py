"""The pipeline end to end: results, exact resume wherever it was interrupted, refusals."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from safetensors.torch import save

from supernet_registry.search.children.child import load_child
from supernet_registry.search.errors import (
    BlobCorrupt,
    InvalidArgument,
    SearchCancelled,
    SearchDiverged,
    SpaceMismatch,
    UnsafeWeights,
)
from supernet_registry.search.networks.stored import discrete_network, load_weights
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.runs.pipeline import Candidate, Decision, Epoch, Listener, PipelineResult, run_pipeline
from supernet_registry.search.spaces import family_of, make_space
from supernet_registry.search.storage.weights import check_weights
from supernet_registry.search.training.checkpoint import pack_checkpoint, unpack_checkpoint
from supernet_registry.search.training.data import load_data
from supernet_registry.search.training.devices import pick_device
from supernet_registry.search.training.evaluation import Score, collect_logits
from supernet_registry.search.training.loop import Loop
from tests.tiny_search import tiny_dataset, tiny_space

SPACE = tiny_space()
RECIPE = replace(
    Recipe.for_space(SPACE), epochs=3, warm_epochs=2, child_epochs=2, batch_size=16, patience=99, taste_share=0.5
)


class Recorder(Listener):
    """Remembers everything; stops before step `stop_before`, if given."""

    def __init__(self, stop_before: int | None = None) -> None:
        self.decisions: list[Decision] = []
        self.epochs: list[Epoch] = []
        self.checkpoints: list[bytes] = []
        self.messages: list[str] = []
        self.polls = 0
        self.stop_before = stop_before

    def on_decision(self, d: Decision) -> None:
        self.decisions.append(d)

    def on_epoch(self, e: Epoch) -> None:
        self.epochs.append(e)

    def on_checkpoint(self, data: bytes) -> None:
        self.checkpoints.append(data)

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def should_stop(self) -> bool:
        self.polls += 1
        return self.stop_before is not None and self.polls > self.stop_before


def run(listener: Listener | None = None, **options) -> PipelineResult:
    options = {"dataset": tiny_dataset(), "space": SPACE, "recipe": RECIPE, "device": "cpu", **options}
    return run_pipeline(
        options.pop("dataset"), options.pop("space"), options.pop("recipe"), listener=listener, **options
    )


def timeless(result: PipelineResult) -> dict:
    return {name: value for name, value in asdict(result).items() if not name.endswith("_seconds")}


@pytest.fixture(scope="module")
def cold() -> tuple[PipelineResult, Recorder]:
    recorder = Recorder()
    return run(recorder), recorder


@pytest.fixture(scope="module")
def candidate(cold) -> Candidate:
    return Candidate("supernets/a/versions/1", 0.5, cold[0].weights)


def test_a_search_reports_every_epoch_and_what_it_cost(cold):
    result, recorder = cold
    assert [(e.phase, e.epoch, e.steps) for e in recorder.epochs] == [
        ("SEARCH", 1, 2),
        ("SEARCH", 2, 4),
        ("SEARCH", 3, 6),
        ("CHILD", 1, 3),
        ("CHILD", 2, 6),
    ]
    assert [d.source for d in recorder.decisions] == [""]
    assert (result.search_steps, result.taste_steps, result.child_steps) == (6, 0, 6)
    assert result.device == "cpu"
    assert 0.0 < result.alpha_entropy <= 1.0
    family_of(SPACE).parse_genotype(SPACE, result.genotype)
    assert result.child_macs > result.child_parameters > 0
    assert 0.0 < result.child_single_seconds < 64 * result.child_batch_seconds


def test_a_child_network_learns_from_both_splits_and_claims_no_validation_accuracy(cold):
    """Three batches an epoch where the training split alone has two; nothing is left that it has not seen."""
    result, recorder = cold
    assert all(e.val_loss is e.val_accuracy is None for e in recorder.epochs if e.phase == "CHILD")
    assert all(e.val_loss > 0.0 for e in recorder.epochs if e.phase == "SEARCH")
    assert result.child_val_accuracy is None
    assert "val_accuracy" not in check_weights(result.child).metadata
    assert "val_accuracy" in check_weights(result.weights).metadata


def test_a_child_network_that_holds_the_validation_split_out_is_judged_by_it(cold):
    """The same supernet; other steps, other weights, an honest accuracy; resumed as undisturbed."""
    recorder, recipe = Recorder(), replace(RECIPE, child_holds_out=True)
    result = run(recorder, recipe=recipe)
    assert result.child_steps == 4
    children = [e for e in recorder.epochs if e.phase == "CHILD"]
    assert all(e.val_loss > 0.0 for e in children)
    assert result.child_val_accuracy == children[-1].val_accuracy
    assert check_weights(result.child).metadata["val_accuracy"] == result.child_val_accuracy
    assert result.val_accuracy == cold[0].val_accuracy
    assert result.child != cold[0].child
    assert timeless(run(recipe=recipe, checkpoint=recorder.checkpoints[-2])) == timeless(result)


def test_a_child_network_whose_answers_are_no_numbers_is_no_result(monkeypatch):
    """Its training loss was finite and nothing else looks at it before the test split does."""
    restore = Loop.restore_best

    def restore_broken(loop: Loop) -> Score:
        score = restore(loop)
        if loop.plan.phase == "CHILD":
            loop.network.head.bias.data.fill_(float("inf"))
        return score

    monkeypatch.setattr(Loop, "restore_best", restore_broken)
    with pytest.raises(SearchDiverged, match="test loss"):
        run()


def test_equal_seeds_give_equal_bytes_and_others_do_not(cold):
    assert timeless(run()) == timeless(cold[0])
    assert run(seed=1).weights != cold[0].weights


def frozen(**rates) -> Recipe:
    """Epochs that make everything worse, so that where a search starts from is better than all of them."""
    return replace(RECIPE, optimizer="sgd", momentum=0.0, weight_decay=0.0, clip_norm=0.0, child_epochs=0, **rates)


def test_a_search_from_scratch_stores_what_an_epoch_left_even_if_the_start_was_better():
    """Random features under a prototype head, and an α that has learnt nothing: no source for anybody."""
    recorder = Recorder()
    result = run(recorder, recipe=frozen(learning_rate=0.5))
    start = unpack_checkpoint(recorder.checkpoints[0])["search"]["best"]
    assert all((e.val_accuracy, -e.val_loss) < (start[1], -start[0]) for e in recorder.epochs), "worse, as intended"
    assert result.val_accuracy == max(e.val_accuracy for e in recorder.epochs)
    assert not any("start" in message for message in recorder.messages)


def test_a_source_that_no_epoch_improves_is_kept_as_it_came_and_a_message_says_so(candidate):
    recorder = Recorder()
    options = {"candidates": [candidate], "taste": False, "recipe": frozen(warm_learning_rate=0.5, learning_rate=0.5)}
    result = run(recorder, **options)
    start = unpack_checkpoint(recorder.checkpoints[0])["search"]["best"]
    assert all((e.val_accuracy, -e.val_loss) < (start[1], -start[0]) for e in recorder.epochs), "worse, as intended"
    assert result.val_accuracy == start[1]
    (said,) = [message for message in recorder.messages if "start" in message]
    assert said.startswith("search: no epoch was better")
    for checkpoint in (recorder.checkpoints[0], recorder.checkpoints[-1]):
        again = Recorder()
        assert timeless(run(again, **options, checkpoint=checkpoint)) == timeless(result)
        assert said in again.messages


def test_the_stored_weights_pass_the_check_and_say_what_they_are(cold):
    result, _ = cold
    for data, kind in ((result.weights, "supernet"), (result.child, "child")):
        info = check_weights(data)
        assert (info.kind, info.space, info.n_classes, info.genotype) == (kind, SPACE, 2, result.genotype)
        assert info.metadata["dataset"] == tiny_dataset().digest


def test_the_reported_accuracy_is_that_of_the_stored_child(cold):
    result, _ = cold
    dataset = tiny_dataset()
    predicted = load_child(result.child).predict(dataset.test.images).argmax(axis=1)
    assert (predicted == dataset.test.labels).mean() == pytest.approx(result.child_test_accuracy)


def test_a_child_predicts_after_loading_as_before_and_whatever_the_batch(cold):
    result, _ = cold
    dataset, child = tiny_dataset(), load_child(result.child)
    data = load_data(dataset, SPACE, pick_device("cpu"))
    logits, _ = collect_logits(discrete_network(*load_weights(result.child, "child")), data, data.test, RECIPE)
    probabilities = child.predict(dataset.test.images)
    np.testing.assert_allclose(probabilities, logits.softmax(dim=1).numpy(), atol=1e-5)
    np.testing.assert_allclose(child.predict(dataset.test.images, batch_size=3), probabilities, atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    assert child.class_names == dataset.class_names


def test_a_child_takes_other_sizes_and_colours_but_no_other_shapes(cold):
    child = load_child(cold[0].child)
    assert child.predict(np.zeros((2, 40, 40, 3), np.uint8)).shape == (2, 2)
    assert child.predict(np.zeros((0, 16, 16, 1), np.uint8)).shape == (0, 2)
    for wrong in (np.zeros((2, 16, 16), np.uint8), np.zeros((2, 16, 16, 1), np.float32)):
        with pytest.raises(InvalidArgument):
            child.predict(wrong)


def test_a_resumed_search_keeps_the_batch_size_that_it_began_with(cold):
    """Where it began memory was short, and its batches were smaller than the recipe's."""
    tree = unpack_checkpoint(cold[1].checkpoints[0])
    assert tree["batch_sizes"]["batch_size"] == RECIPE.batch_size
    small = replace(RECIPE, batch_size=RECIPE.batch_size // 2)
    began = Recorder()
    run(began, recipe=small)
    other = unpack_checkpoint(began.checkpoints[0])
    resumed = Recorder()
    result = run(resumed, checkpoint=pack_checkpoint({**other, "identity": tree["identity"]}))
    assert [e.train_loss for e in resumed.epochs] == [e.train_loss for e in began.epochs]
    assert result.search_steps == 2 * cold[0].search_steps


@pytest.mark.parametrize("number", range(7))
def test_a_search_resumed_from_any_checkpoint_ends_bit_for_bit_the_same(cold, number):
    """After the decision, after every epoch of the search, at the birth of the child, after every epoch of it."""
    result, recorder = cold
    assert len(recorder.checkpoints) == 7
    assert timeless(run(checkpoint=recorder.checkpoints[number])) == timeless(result)


@pytest.mark.parametrize("stop_before", [0, 3, 5, 8])
def test_a_search_stopped_in_the_middle_of_an_epoch_goes_on_from_the_last_checkpoint(cold, stop_before):
    stopped = Recorder(stop_before)
    with pytest.raises(SearchCancelled):
        run(stopped)
    assert stopped.polls == stop_before + 1
    assert timeless(run(checkpoint=stopped.checkpoints[-1])) == timeless(cold[0])


@pytest.mark.parametrize("mode", ["WEIGHTS_AND_ALPHAS", "ALPHAS_ONLY"])
def test_a_tasted_warm_start_resumes_bit_for_bit_without_tasting_again(candidate, mode):
    options = {"dataset": tiny_dataset(1), "candidates": [candidate], "transfer_mode": mode}
    recorder = Recorder()
    whole = run(recorder, **options)
    assert recorder.decisions[0].tastes
    for checkpoint in recorder.checkpoints:
        resumed = Recorder()
        assert timeless(run(resumed, dataset=tiny_dataset(1), checkpoint=checkpoint)) == timeless(whole)
        assert resumed.decisions == []


def test_the_callers_choice_is_used_without_a_taste(candidate):
    recorder = Recorder()
    result = run(recorder, dataset=tiny_dataset(1), candidates=[candidate], taste=False)
    (decision,) = recorder.decisions
    assert (decision.source, decision.transfer_mode, decision.ot_distance) == (
        candidate.version,
        "WEIGHTS_AND_ALPHAS",
        0.5,
    )
    assert result.taste_steps == 0


@pytest.mark.parametrize(("needed", "epochs"), [(-99.0, RECIPE.warm_epochs), (99.0, RECIPE.epochs)])
def test_a_source_that_does_not_clearly_lead_before_any_step_gets_the_full_schedule(candidate, needed, epochs):
    """A short, gentle schedule is for sources that know the task; a faint one is only an initialisation."""
    recorder = Recorder()
    recipe = replace(RECIPE, fine_tune_closing=needed)
    whole = run(recorder, dataset=tiny_dataset(1), recipe=recipe, candidates=[candidate], taste=False)
    searched = [epoch for epoch in recorder.epochs if epoch.phase == "SEARCH"]
    assert [epoch.epochs for epoch in searched] == [epochs] * epochs
    resumed = run(dataset=tiny_dataset(1), recipe=recipe, checkpoint=recorder.checkpoints[1])
    assert timeless(resumed) == timeless(whole)


def test_scratch_mode_ignores_candidates(candidate, cold):
    result = run(candidates=[candidate], transfer_mode="SCRATCH")
    assert result.weights == cold[0].weights


def test_no_child_is_trained_when_none_is_wanted():
    result = run(recipe=RECIPE.override(child_epochs=0))
    assert (result.child, result.child_steps, result.child_parameters, result.child_macs) == (None, 0, None, None)
    assert result.child_test_accuracy is result.child_val_accuracy is result.child_single_seconds is None


def test_a_child_of_another_width_is_trained_from_fresh_weights():
    result = run(recipe=replace(RECIPE, epochs=1, child_epochs=1, child_channels=6))
    assert check_weights(result.child).space == replace(SPACE, channels=6)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"dataset": tiny_dataset(1)},
        {"space": make_space(channels=4)},
        {"recipe": replace(RECIPE, epochs=9)},
    ],
)
def test_a_checkpoint_of_another_job_is_refused(cold, change):
    with pytest.raises(InvalidArgument, match="another job"):
        run(checkpoint=cold[1].checkpoints[1], **change)


@pytest.mark.parametrize("wrong", [b"", b"nonsense", b"\0" * 64])
def test_bytes_that_are_no_checkpoint_are_refused(wrong):
    with pytest.raises(BlobCorrupt):
        run(checkpoint=wrong)


def test_a_checkpoint_without_its_tensors_is_refused(cold):
    tree = unpack_checkpoint(cold[1].checkpoints[2])
    del tree["search"]["network"]["stem.0.weight"]
    with pytest.raises(BlobCorrupt):
        run(checkpoint=pack_checkpoint(tree))


def test_checkpoints_survive_packing(cold):
    data = cold[1].checkpoints[-1]
    assert pack_checkpoint(unpack_checkpoint(data)) == data


def test_a_source_of_another_space_is_refused(candidate):
    with pytest.raises(SpaceMismatch):
        run(space=make_space(channels=4), candidates=[candidate])


def test_a_source_of_another_size_is_mapped_and_the_listener_hears_how(candidate):
    recorder = Recorder()
    space = replace(SPACE, channels=8, cells=2)
    result = run(recorder, space=space, candidates=[candidate], recipe=replace(RECIPE, epochs=1, child_epochs=0))
    assert check_weights(result.weights).space == space
    assert candidate.version in {taste.version for taste in recorder.decisions[0].tastes}
    (message,) = (text for text in recorder.messages if "another size" in text)
    assert message.startswith(f"{candidate.version} is of another size: ")
    assert " repeated, 0 of the source's not used" in message


def test_a_child_is_no_source(cold):
    with pytest.raises(UnsafeWeights, match="not a supernet"):
        run(candidates=[Candidate("x", 0.0, cold[0].child)])


def test_a_child_that_claims_to_be_larger_than_its_tensors_is_refused_without_building_it(cold):
    """The described network would need gigabytes."""
    _, tensors = load_weights(cold[0].child, "child")
    space = make_space("darts", channels=256, cells=64)
    known = family_of(space)
    genotype = known.derive(space, {kind: np.zeros(shape) for kind, shape in known.alpha_shapes(space).items()})
    metadata = {"space": space.to_json(), "n_classes": 2, "genotype": known.format_genotype(genotype)}
    with pytest.raises(UnsafeWeights, match="not those of the network"):
        load_child(save(tensors, {"child": json.dumps(metadata)}))


def test_a_darts_space_runs_too():
    space = make_space("darts", channels=4, cells=3, nodes=2, resolution=16)
    recipe = replace(Recipe.for_space(space), epochs=1, child_epochs=1, batch_size=16)
    result = run(space=space, recipe=recipe)
    family_of(space).parse_genotype(space, result.genotype)
    assert load_child(result.child).predict(tiny_dataset().test.images).shape == (16, 2)
