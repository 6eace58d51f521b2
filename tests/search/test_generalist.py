"""The generalist: who is trained by what, exact resume, going on with and without replay, use as a source."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import save

from supernet_registry.search.errors import (
    BlobCorrupt,
    InvalidArgument,
    SearchCancelled,
    SearchDiverged,
    SpaceMismatch,
    UnsafeWeights,
)
from supernet_registry.search.networks.multi_head import MultiHeadNetwork
from supernet_registry.search.networks.stored import load_weights
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.results import Listener
from supernet_registry.search.runs.generalist import GeneralistResult, pretrain_generalist
from supernet_registry.search.runs.pipeline import Candidate, run_pipeline
from supernet_registry.search.spaces import make_space
from supernet_registry.search.storage.container import canonical_json
from supernet_registry.search.storage.head_rows import Head, heads_of
from supernet_registry.search.storage.weights import check_weights
from supernet_registry.search.tasks import ImageDataset, Split
from supernet_registry.search.training.data import load_data, make_generator
from supernet_registry.search.training.evaluation import Score, calibrate, collect_logits, score_logits
from supernet_registry.search.training.plan import Plan
from supernet_registry.search.training.turns import GeneralistLoop
from tests.tiny_search import tiny_dataset, tiny_space

CPU = torch.device("cpu")
SPACE = tiny_space()
# No augmentation: a shifted stripe is a stripe of another class.
STILL = {"crop_padding": 0, "max_rotation_degrees": 0.0, "max_zoom": 0.0}
RECIPE = replace(Recipe.for_space(SPACE), epochs=2, child_epochs=0, batch_size=16, patience=99, **STILL)
TWO, THREE = tiny_dataset(0), tiny_dataset(1, n_classes=3)


def noisy_bars() -> ImageDataset:
    """A bar, upright, lying or slanted, in noise: needs other features than stripes, and more than a new head."""
    rng = np.random.default_rng(1)

    def split(per_class: int) -> Split:
        labels = np.tile(np.arange(3), per_class).astype(np.int64)
        images = rng.normal(90, 60, (len(labels), 16, 16, 1))
        for image, label in zip(images, labels, strict=True):
            at = rng.integers(3, 13)
            place = (slice(None), at) if label == 0 else (at,) if label == 1 else (np.arange(16), np.arange(16))
            image[place] += 130
        return Split(images.clip(0, 255).astype(np.uint8), labels)

    return ImageDataset("bars", split(12), split(6), split(6), ("upright", "lying", "slanted"))


class Recorder(Listener):
    """Remembers checkpoints and messages; stops before step `stop_before`, if given."""

    def __init__(self, stop_before: int | None = None) -> None:
        self.checkpoints: list[bytes] = []
        self.messages: list[str] = []
        self.decisions = []
        self.epochs = []
        self.polls, self.stop_before = 0, stop_before

    def on_decision(self, d):
        self.decisions.append(d)

    def on_epoch(self, e):
        self.epochs.append(e)

    def on_checkpoint(self, data):
        self.checkpoints.append(data)

    def on_message(self, text):
        self.messages.append(text)

    def should_stop(self):
        self.polls += 1
        return self.stop_before is not None and self.polls > self.stop_before


def pretrain(*datasets: ImageDataset, recipe: Recipe = RECIPE, **options) -> GeneralistResult:
    return pretrain_generalist(datasets, options.pop("space", SPACE), recipe, device="cpu", **options)


def timeless(result: GeneralistResult) -> dict:
    plain = asdict(result)
    return {**plain, "result": {k: v for k, v in plain["result"].items() if not k.endswith("_seconds")}}


@pytest.fixture(scope="module")
def whole() -> tuple[GeneralistResult, Recorder]:
    recorder = Recorder()
    return pretrain(TWO, THREE, listener=recorder), recorder


@pytest.fixture(scope="module")
def base(whole) -> Candidate:
    return Candidate("supernets/generalist/versions/1", 0.0, whole[0].result.weights)


def make_loop(*datasets: ImageDataset, recipe: Recipe = RECIPE) -> GeneralistLoop:
    tasks = [load_data(dataset, SPACE, CPU) for dataset in datasets]
    counts = [data.n_classes for data in tasks]
    network = MultiHeadNetwork(SPACE, counts, generator=make_generator(0, "net"), alpha_scale=1e-3)
    plan = Plan(
        phase="SEARCH",
        epochs=recipe.epochs,
        patience=99,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        label_smoothing=0.0,
        search_alphas=True,
    )
    return GeneralistLoop(network, tasks, range(len(tasks)), recipe, plan, generator=make_generator(0, "loop"))


def test_a_step_on_one_dataset_leaves_the_heads_of_the_others_to_the_bit():
    """Neither momentum nor weight decay may move a head that the step did not use."""
    loop = make_loop(TWO, THREE)
    loop.advance(4)
    for _ in range(6):
        before = [head.weight.detach().clone() for head in loop.multi.heads]
        loop.advance(1)
        now = loop.multi.head
        changed = [not torch.equal(head.weight, old) for head, old in zip(loop.multi.heads, before, strict=True)]
        assert changed == [head is now for head in loop.multi.heads]


def test_a_step_with_many_heads_is_the_step_with_one():
    """The reference: an ordinary supernet with the same backbone, head and batch has the same gradients."""
    loop = make_loop(TWO, THREE)
    for task, dataset in enumerate((TWO, THREE)):
        loop.select(task)
        data = load_data(dataset, SPACE, CPU)
        single = Network(SPACE, data.n_classes, generator=None)
        shared = {name: t for name, t in loop.network.state_dict().items() if not name.startswith("heads.")}
        head = {f"head.{name}": t for name, t in loop.multi.head.state_dict().items()}
        single.load_state_dict(shared | head)
        images, labels = data.normalisation(data.train.images[:8]), data.train.labels[:8]
        losses = [torch.nn.functional.cross_entropy(net(images), labels) for net in (loop.network, single)]
        assert torch.equal(*losses)
        ours, theirs = (
            torch.autograd.grad(loss, net.blocks[0].parameters(), allow_unused=True)
            for loss, net in zip(losses, (loop.network, single), strict=True)
        )
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("alpha_every", [1, 2])
def test_every_dataset_gets_as_many_steps_as_every_other_for_weights_and_for_alpha(alpha_every):
    """Also where α steps come every second step, which a fixed order of two datasets would give to one of them."""
    seen = {"weights": [], "alpha": []}

    class Watched(GeneralistLoop):
        def weight_step(self):
            result = super().weight_step()
            seen["weights"].append(self.data.n_classes)
            return result

        def alpha_step(self):
            super().alpha_step()
            seen["alpha"].append(self.data.n_classes)

    loop = make_loop(TWO, THREE, recipe=replace(RECIPE, alpha_every=alpha_every))
    loop.__class__ = Watched
    loop.advance(8)
    assert sorted(seen["weights"]) == [2] * 4 + [3] * 4
    assert sorted(seen["alpha"]) == [2] * (4 // alpha_every) + [3] * (4 // alpha_every)


def test_an_epoch_has_as_many_steps_as_all_datasets_have_batches(whole):
    result, recorder = whole
    assert [epoch.steps for epoch in recorder.epochs] == [5, 10]  # 32 and 48 images in batches of 16
    assert result.result.search_steps == 10


def test_it_learns_all_its_datasets_and_reports_means(whole):
    result, _ = whole
    accuracies = [task.val_accuracy for task in result.tasks]
    assert min(accuracies) > 0.8
    assert result.result.val_accuracy == pytest.approx(np.mean(accuracies))
    assert result.result.test_accuracy == pytest.approx(np.mean([task.test_accuracy for task in result.tasks]))
    assert [task.val_accuracy_before for task in result.tasks] == [None, None]
    assert result.result.child is None


def test_equal_seeds_give_equal_bytes_and_others_do_not(whole):
    assert timeless(pretrain(TWO, THREE)) == timeless(whole[0])
    other = pretrain(TWO, THREE, seed=1, recipe=replace(RECIPE, epochs=1))
    assert other.result.weights != whole[0].result.weights


@pytest.mark.parametrize("number", range(3))
def test_it_resumes_from_any_checkpoint_bit_for_bit(whole, number):
    result, recorder = whole
    assert len(recorder.checkpoints) == 3
    assert timeless(pretrain(TWO, THREE, checkpoint=recorder.checkpoints[number])) == timeless(result)


def test_stopped_within_an_epoch_it_goes_on_from_the_last_checkpoint(whole):
    stopped = Recorder(stop_before=7)
    with pytest.raises(SearchCancelled):
        pretrain(TWO, THREE, listener=stopped)
    assert timeless(pretrain(TWO, THREE, checkpoint=stopped.checkpoints[-1])) == timeless(whole[0])


def test_a_continued_one_takes_over_heads_exactly_and_resumes_bit_for_bit_without_its_base(whole, base):
    """Before the first step its known datasets score what the base reported."""
    recorder = Recorder()
    recipe = replace(RECIPE, epochs=1)
    datasets = (TWO, THREE, tiny_dataset(2))
    continued = pretrain(*datasets, base=base, listener=recorder, recipe=recipe)
    (decision,) = recorder.decisions
    assert (decision.source, decision.transfer_mode) == (base.version, "WEIGHTS_AND_ALPHAS")
    before = [task.val_accuracy_before for task in continued.tasks]
    assert before == [*(task.val_accuracy for task in whole[0].tasks), None]
    assert timeless(pretrain(*datasets, checkpoint=recorder.checkpoints[0], recipe=recipe)) == timeless(continued)


@pytest.mark.parametrize("variant", ["darts-2nd", "smooth-darts-adv", "drnas"])
def test_a_variant_that_looks_ahead_sees_one_dataset_a_step_and_resumes_bit_for_bit(variant):
    """A batch drawn for the α step of one dataset must not meet the head of another in the weight step."""
    recorder, recipe = Recorder(), replace(RECIPE, variant=variant, drop_shares=(0.5,))
    result = pretrain(TWO, THREE, recipe=recipe, listener=recorder)
    assert timeless(pretrain(TWO, THREE, recipe=recipe, checkpoint=recorder.checkpoints[1])) == timeless(result)
    loop = make_loop(TWO, THREE, recipe=replace(recipe, alpha_every=1))
    loop.advance(4)
    assert [int(loop.weight_optimizer.state[head.weight]["step"]) for head in loop.multi.heads] == [2, 2]


def test_the_blob_is_an_ordinary_supernet_with_its_heads_as_blocks_of_rows(whole):
    """Each block, on its dataset's own statistics, predicts as the report says."""
    result, _ = whole
    info, tensors = load_weights(result.result.weights, "supernet")
    assert info.n_classes == 5
    assert heads_of(info) == (Head(TWO.digest, 0, 2), Head(THREE.digest, 2, 5))
    for head, report, dataset in zip(heads_of(info), result.tasks, (TWO, THREE), strict=True):
        network = Network(SPACE, head.n_classes, generator=None)
        rows = slice(head.start, head.stop)
        network.load_state_dict(
            tensors | {"head.weight": tensors["head.weight"][rows], "head.bias": tensors["head.bias"][rows]}
        )
        data = load_data(dataset, SPACE, CPU)
        calibrate(network, data, RECIPE)
        assert score_logits(*collect_logits(network, data, data.test, RECIPE)).accuracy == report.test_accuracy


def test_an_ordinary_search_can_start_from_it(base):
    class KeepDecision(Listener):
        def on_decision(self, d):
            self.decision = d

    keep = KeepDecision()
    run_pipeline(
        tiny_dataset(7), SPACE, replace(RECIPE, epochs=1, warm_epochs=1), candidates=[base], device="cpu", listener=keep
    )
    taste = next(taste for taste in keep.decision.tastes if taste.version == base.version)
    assert taste.steps  # it was tried: its skill is judged by the chance of its datasets, not of all classes together


def test_without_replay_an_old_dataset_is_forgotten_and_with_it_is_kept(base):
    """News that need other features: what is not trained along decays, and the report and the messages show it."""
    recipe = replace(RECIPE, epochs=5, warm_learning_rate=4e-2)
    told = Recorder()
    kept = pretrain(TWO, THREE, noisy_bars(), recipe=recipe, base=base)
    lost = pretrain(TWO, THREE, noisy_bars(), recipe=recipe, base=base, replay=False, listener=told)

    def decay(result: GeneralistResult) -> float:
        return float(np.mean([task.val_accuracy_before - task.val_accuracy for task in result.tasks[:2]]))

    assert decay(kept) <= 0.05
    assert decay(lost) >= decay(kept) + 0.2
    assert [task.trained for task in lost.tasks] == [False, False, True]
    assert sum("without being trained along" in message for message in told.messages) == 2


def test_an_ordinary_supernet_can_be_the_base():
    """Its head is that of its own dataset."""
    single = run_pipeline(TWO, SPACE, RECIPE, device="cpu")
    continued = pretrain(TWO, THREE, base=Candidate("s", 0.0, single.weights))
    assert [task.val_accuracy_before for task in continued.tasks] == [single.val_accuracy, None]


@pytest.mark.parametrize("datasets", [(TWO,), (TWO, TWO)])
def test_one_dataset_is_no_generalist(datasets):
    with pytest.raises(InvalidArgument, match="datasets"):
        pretrain(*datasets)


def test_without_replay_and_news_there_is_nothing_to_train_on(base):
    with pytest.raises(InvalidArgument, match="knows every dataset"):
        pretrain(TWO, THREE, base=base, replay=False)


@pytest.mark.parametrize("change", [{"seed": 1}, {"replay": False}, {"recipe": replace(RECIPE, epochs=9)}])
def test_a_checkpoint_of_another_job_is_refused(whole, change):
    with pytest.raises(InvalidArgument, match="another job"):
        pretrain(TWO, THREE, checkpoint=whole[1].checkpoints[1], **change)


def test_bytes_that_are_no_checkpoint_are_refused(whole):
    with pytest.raises(BlobCorrupt):
        pretrain(TWO, THREE, checkpoint=b"nonsense")


def test_a_base_of_another_space_is_refused(base):
    with pytest.raises(SpaceMismatch):
        pretrain(TWO, THREE, base=base, space=make_space(channels=4))


@pytest.mark.parametrize("damage", ["missing", "narrow"])
def test_a_base_whose_head_is_not_what_it_says_is_refused(whole, damage):
    info, tensors = load_weights(whole[0].result.weights, "supernet")
    if damage == "missing":
        del tensors["head.bias"]
    else:
        tensors["head.weight"] = tensors["head.weight"][:, :3].contiguous()
    base = Candidate("g", 0.0, save(tensors, {"supernet": canonical_json(info.metadata)}))
    with pytest.raises(UnsafeWeights):
        pretrain(TWO, THREE, base=base)


@pytest.mark.parametrize(
    "heads",
    [
        [],
        "x",
        [{"rows": [0, 5]}],
        [{"dataset": "a", "rows": [0, 4]}],
        [{"dataset": "a", "rows": [1, 5]}],
        [{"dataset": "a", "rows": [0, 5.0]}],
        [{"dataset": "a", "rows": [0, 3]}, {"dataset": "b", "rows": [2, 5]}],
    ],
)
def test_heads_that_do_not_add_up_are_refused(whole, heads):
    info = check_weights(whole[0].result.weights)
    with pytest.raises(UnsafeWeights):
        heads_of(replace(info, metadata={**info.metadata, "heads": heads}))


def test_skip_connections_of_its_architecture_are_limited_as_those_of_a_search():
    """`most_skips` was for searches alone: now what one kind of run honours, the other does."""
    space = make_space("nas-bench-201", channels=4, cells=1, nodes=4, stem_stride=2, head_pool=2, resolution=16)
    skips = {}
    for most in (-1, 0):
        # An α that leans towards a skip connection on every edge, and does not move.
        recipe = replace(RECIPE, epochs=1, alpha_prior=0.0, alpha_learning_rate=0.0, alpha_scale=3.0, most_skips=most)
        skips[most] = pretrain(TWO, THREE, recipe=recipe, space=space).result.skip_count
    assert skips[-1] > skips[0] == 0


def test_a_test_loss_that_is_no_number_is_an_error(monkeypatch):
    """The supernet's answers on the test split are checked as those of a search are."""
    score = GeneralistLoop.score

    def score_and_break(loop: GeneralistLoop, task: int) -> Score:
        found = score(loop, task)
        if loop.finished:
            loop.network.head.bias.data.fill_(float("inf"))
        return found

    monkeypatch.setattr(GeneralistLoop, "score", score_and_break)
    with pytest.raises(SearchDiverged, match="test loss"):
        pretrain(TWO, THREE)
