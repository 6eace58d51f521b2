"""The generalist: one supernet over several datasets, with shared weights and α and a head for each dataset.

The second pillar of Singh & Vanschoren (arXiv 2407.20279): a supernet that was pretrained on many datasets is a good
start for most others. The datasets take turns, step by step (`search.training.turns`).

*The best epoch* is the one with the best mean over the datasets' validation splits. From scratch the start does not
count as one: heads from class prototypes can lead on untrained features for a while, but what others want of a
generalist are its features, and untrained ones are what they have already.

*Going on.* Given a generalist (or any supernet) as its base, weights, α and the heads of datasets that the base knows
are taken over; only new heads begin from class prototypes. The datasets that the base knows are trained along
(*replay*), or else only watched: then they are forgotten, and the report says how fast.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from torch import Tensor

from supernet_registry.search.errors import InvalidArgument, SpaceMismatch, UnsafeWeights
from supernet_registry.search.networks.alpha_prior import lean
from supernet_registry.search.networks.inputs import Normalisation
from supernet_registry.search.networks.multi_head import MultiHeadNetwork
from supernet_registry.search.networks.stored import load_weights, save_weights
from supernet_registry.search.networks.supernet import Network, alpha_entropy, skip_count
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.results import Candidate, Decision, Listener, PipelineResult
from supernet_registry.search.runs.run import Run
from supernet_registry.search.spaces import SearchSpace, check_compatible
from supernet_registry.search.starts.warm_start import fit_head, temper, transfer
from supernet_registry.search.storage.head_rows import heads_of
from supernet_registry.search.storage.weights import WeightsInfo
from supernet_registry.search.tasks import ImageDataset
from supernet_registry.search.training.data import Data, load_data, make_generator
from supernet_registry.search.training.evaluation import calibrate_over, evaluate
from supernet_registry.search.training.plan import Plan
from supernet_registry.search.training.runtime import Runtime
from supernet_registry.search.training.turns import GeneralistLoop

__all__ = ["GeneralistResult", "TaskReport", "pretrain_generalist"]

_FEWEST = 2
_MODE = "WEIGHTS_AND_ALPHAS"


@dataclass(frozen=True, slots=True)
class TaskReport:
    """How a generalist does on one of its datasets."""

    dataset: str  # digest
    name: str
    trained: bool  # False: watched only
    val_accuracy_before: float | None  # of the base, with its own head for this dataset; None if it has none
    val_accuracy: float
    test_accuracy: float


@dataclass(frozen=True, slots=True)
class GeneralistResult:
    """A finished generalist. The accuracies of `result` are means over datasets; it has no child network."""

    result: PipelineResult
    tasks: tuple[TaskReport, ...]


def pretrain_generalist(
    datasets: Sequence[ImageDataset],
    space: SearchSpace,
    recipe: Recipe,
    *,
    seed: int = 0,
    base: Candidate | None = None,
    replay: bool = True,
    device: str = "auto",
    checkpoint: bytes | None = None,
    listener: Listener | None = None,
    runtime: Runtime | None = None,
) -> GeneralistResult:
    """Train one supernet over several datasets.

    Args:
        datasets: at least two; those of the base among them if they are to be kept.
        space: what is searched.
        recipe: how. The architecture is that of the largest α (with `most_skips`): a selection by trial is of one
            dataset. An epoch has as many steps as all training splits have batches; a generalist that goes on from a
            base starts at `warm_learning_rate`.
        seed: of every random choice.
        base: a stored supernet to go on from; None to begin from scratch.
        replay: whether datasets that the base has a head for are trained along; otherwise they are only watched.
        device: `auto`, `cpu`, `cuda`, or any name that torch knows.
        checkpoint: bytes from `Listener.on_checkpoint`, to go on from; the base is then not needed any more.
        listener: hears of progress, and may stop it. Messages tell what became of the base's datasets.
        runtime: where it computes; None for `device`.

    Raises:
        InvalidArgument: fewer than two datasets, one of them twice, nothing to train on, or another job's checkpoint.
        SpaceMismatch: the base's search space is another.
        UnsafeWeights, NotFinite, WeightsTooLarge: the base's weights cannot be used.
        BlobCorrupt: the checkpoint is unreadable.
        SearchCancelled: the listener said stop.
        NotEnoughMemory: not even two images a step fit the device.
        SearchDiverged: loss or weights became infinite, and again after a rollback, or in the end on a test split.
    """
    digests = [dataset.digest for dataset in datasets]
    if len(digests) < _FEWEST or len(set(digests)) != len(digests):
        raise InvalidArgument(
            f"{len(digests)} datasets, {len(set(digests))} of them different.",
            remedy="Give at least two, each of them once.",
            field="datasets",
        )
    run = _Pretraining(
        datasets, space, recipe, seed, runtime or Runtime.on(device), listener or Listener(), replay=replay
    )
    if checkpoint is None:
        run.begin(base)
    else:
        run.resume(checkpoint)
    run.search()
    return run.result()


def _check_same(base: SearchSpace, own: SearchSpace) -> None:
    """Heads cannot be mapped across sizes, so a base must be of the very space."""
    check_compatible(base, own)
    if base.id != own.id:
        raise SpaceMismatch(
            f"The base's search space {base.id} is of another size than {own.id}.",
            remedy="Go on in the base's search space, or begin without a base.",
            field="search_space",
        )


class _Pretraining(Run):
    """The state of one pretraining."""

    format = "generalist 2"

    def __init__(
        self,
        datasets: Sequence[ImageDataset],
        space: SearchSpace,
        recipe: Recipe,
        seed: int,
        runtime: Runtime,
        listener: Listener,
        *,
        replay: bool,
    ) -> None:
        super().__init__(space, recipe, seed, runtime, listener)
        self.datasets, self.replay = datasets, replay
        self.tasks = [load_data(dataset, space, runtime.device) for dataset in datasets]
        self.before: list[float | None] = [None] * len(datasets)
        self.loop: GeneralistLoop | None = None

    def begin(self, base: Candidate | None) -> None:
        """Set up the supernet: from scratch, or from a base with the heads that it has."""
        began = time.monotonic()
        network = self._network()
        self.fit_memory(self._selected(network))
        known: set[int] = set()
        decision = Decision("", "SCRATCH", "scratch: the generalist has no base")
        if base is not None:
            info, tensors = load_weights(base.weights, "supernet")
            _check_same(info.space, self.space)
            known = self._go_on(network, info, tensors)
            reason = f"the base of the generalist; it has a head for {len(known)} of {len(self.datasets)} datasets"
            decision = Decision(base.version, _MODE, reason)
        trained = [task for task in range(len(self.tasks)) if self.replay or task not in known]
        if not trained:
            raise InvalidArgument(
                "The base knows every dataset, and none of them is to be trained along.",
                remedy="Add a dataset, or let the base's datasets be replayed.",
                field="replay",
            )
        for task, data in enumerate(self.tasks):
            if task not in known:
                network.select(task)
                fit_head(network, data, self.recipe)
        network.set_norm_mode("train")
        self.loop = self._make_loop(network, trained, warm=base is not None)
        if base is not None:
            self.loop.evaluate()  # the base may already be the best there will be
        self.seconds["search"] += time.monotonic() - began
        self.listener.on_decision(decision)
        self.checkpoint()

    def _selected(self, network: MultiHeadNetwork) -> Iterator[tuple[Network, Data]]:
        """The network with the head of one dataset after another."""
        for task, data in enumerate(self.tasks):
            network.select(task)
            yield network, data

    def _go_on(self, network: MultiHeadNetwork, info: WeightsInfo, tensors: Mapping[str, Tensor]) -> set[int]:
        """Take over a base, score it as it is on the datasets that it knows, temper its α; returns those datasets."""
        whole = network.joint()
        transfer(whole, tensors, _MODE)
        network.take(whole)
        weight, bias = tensors["head.weight"], tensors["head.bias"]
        if weight.shape != (info.n_classes, whole.head.in_features) or bias.shape != (info.n_classes,):
            raise UnsafeWeights(
                "The base's head is not one of its search space and classes.",
                remedy="Store weights as this project writes them.",
                field="weights",
            )
        heads = {head.dataset: head for head in heads_of(info)}
        known = set()
        for task, dataset in enumerate(self.datasets):
            head = heads.get(dataset.digest)
            if head is None or head.n_classes != dataset.n_classes:
                continue
            rows = slice(head.start, head.stop)
            network.select(task)
            network.head.load_state_dict({"weight": weight[rows], "bias": bias[rows]})
            data = self.tasks[task]
            self.before[task] = evaluate(network, data, data.val, self.recipe).accuracy
            known.add(task)
        temper(network, self.recipe.entropy_floor)
        return known

    def search(self) -> None:
        """Train until the last epoch or a plateau; the supernet is then in its best state."""
        assert self.loop is not None
        self.train(self.loop, "search")
        if self.loop.best_is_untrained:
            self.listener.on_message(
                "search: no epoch was better on the validation splits than the start; the supernet is the base's."
            )

    def result(self) -> GeneralistResult:
        """Judge the supernet on every dataset, on test once, and pack it."""
        assert self.loop is not None
        loop = self.loop
        tasks = tuple(self._report(task) for task in range(len(self.tasks)))
        for report in tasks:
            if report.val_accuracy_before is not None:
                self.listener.on_message(
                    f"{report.name}: validation accuracy {report.val_accuracy_before:.1%} before, "
                    f"{report.val_accuracy:.1%} after{'' if report.trained else ', without being trained along'}."
                )
        val, test = (fmean(getattr(task, name) for task in tasks) for name in ("val_accuracy", "test_accuracy"))
        calibrate_over(loop.network, self.tasks, self.recipe)
        genotype = loop.network.derive(most_skips=self.recipe.most_skips)
        text = self.genotype_text(genotype)
        result = PipelineResult(
            weights=self._save(text, tasks, val, test),
            genotype=text,
            val_accuracy=val,
            test_accuracy=test,
            alpha_entropy=alpha_entropy(loop.network.alpha_arrays()),
            skip_count=skip_count(genotype),
            search_steps=loop.steps,
            taste_steps=0,
            child_steps=0,
            search_seconds=self.seconds["search"],
            taste_seconds=0.0,
            child_seconds=0.0,
            device=self.runtime.device.type,
        )
        return GeneralistResult(result, tasks)

    def _report(self, task: int) -> TaskReport:
        assert self.loop is not None
        dataset = self.datasets[task]
        val = self.loop.score(task)
        test = self.test(self.loop.network, self.tasks[task])
        return TaskReport(
            dataset=dataset.digest,
            name=dataset.name,
            trained=task in self.loop.trained,
            val_accuracy_before=self.before[task],
            val_accuracy=val.accuracy,
            test_accuracy=test.accuracy,
        )

    def _save(self, genotype: str, tasks: Sequence[TaskReport], val: float, test: float) -> bytes:
        """As an ordinary supernet; pixels of an unknown dataset are best standardised by the mean over those known."""
        assert self.loop is not None
        norms = [data.normalisation for data in self.tasks]
        mean, std = (
            tuple(fmean(channel) for channel in zip(*(getattr(norm, name) for norm in norms), strict=True))
            for name in ("mean", "std")
        )
        heads, start = [], 0
        for report, data in zip(tasks, self.tasks, strict=True):
            heads.append({**asdict(report), "rows": [start, start + data.n_classes], "size": list(data.size)})
            start += data.n_classes
        facts = {
            "heads": heads,
            "class_names": [name for dataset in self.datasets for name in dataset.class_names],
            "val_accuracy": val,
            "test_accuracy": test,
        }
        return save_weights(
            self.loop.multi.joint(),
            genotype=genotype,
            normalisation=Normalisation(mean, std),
            size=max(data.size for data in self.tasks),
            facts=facts,
        )

    def _network(self) -> MultiHeadNetwork:
        network = MultiHeadNetwork(
            self.space,
            [data.n_classes for data in self.tasks],
            generator=make_generator(self.seed, "supernet"),
            alpha_scale=self.recipe.alpha_scale,
        )
        lean(network, self.recipe.alpha_prior)
        return network.to(self.runtime.device)

    def _make_loop(self, network: MultiHeadNetwork, trained: Sequence[int], *, warm: bool) -> GeneralistLoop:
        recipe = self.recipe
        plan = Plan(
            phase="SEARCH",
            epochs=recipe.epochs,
            patience=recipe.patience,
            learning_rate=recipe.warm_learning_rate if warm else recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            label_smoothing=recipe.label_smoothing,
            search_alphas=True,
        )
        generator = make_generator(self.seed, "search")
        return GeneralistLoop(
            network,
            self.tasks,
            trained,
            recipe,
            plan,
            generator=generator,
            should_stop=self.listener.should_stop,
            say=self.listener.on_message,
            runtime=self.runtime,
        )

    def subject(self) -> dict[str, Any]:
        return {"datasets": [dataset.digest for dataset in self.datasets], "replay": self.replay}

    def progress(self) -> dict[str, Any]:
        assert self.loop is not None
        return {"trained": list(self.loop.trained), "before": self.before, "loop": self.loop.state()}

    def restore(self, tree: dict[str, Any]) -> None:
        self.before = list(tree["before"])
        self.loop = self._make_loop(self._network(), list(tree["trained"]), warm=False)  # the schedule is restored
        self.loop.load_state(tree["loop"])
