"""One search from data to result: source decided, supernet searched, child network trained, both judged on test.

    decide ──► search (epochs, checkpoint each) ──► child (derived; epochs, checkpoint each) ──► result
      ▲                   ▲                                      ▲
      └── nothing stored  └── checkpoint of phase SEARCH         └── checkpoint of phase CHILD

A checkpoint holds all that the future depends on, the decision included; resumed on the same machine's CPU, the result
is the same to the last bit as if nothing had happened (times apart).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from statistics import fmean
from typing import Any

from supernet_registry.search.children.child import derive_child, make_child
from supernet_registry.search.children.cost import measure_child
from supernet_registry.search.children.selection import selector
from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.networks.mapping import map_supernet
from supernet_registry.search.networks.stored import load_weights, save_weights
from supernet_registry.search.networks.supernet import Network, alpha_entropy, skip_count
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.results import Candidate, Decision, Epoch, Listener, PipelineResult, Taste
from supernet_registry.search.runs.run import Run
from supernet_registry.search.spaces import Genotype, SearchSpace, family_of
from supernet_registry.search.starts.contenders import Source
from supernet_registry.search.starts.setup import SearchSetup
from supernet_registry.search.starts.taste import taste_sources
from supernet_registry.search.starts.warm_start import MODES, carries_weights
from supernet_registry.search.storage.head_rows import heads_of
from supernet_registry.search.storage.weights import WeightsInfo
from supernet_registry.search.tasks import ImageDataset
from supernet_registry.search.training.data import Data, load_data, make_generator
from supernet_registry.search.training.evaluation import Score
from supernet_registry.search.training.loop import Loop
from supernet_registry.search.training.plan import Plan
from supernet_registry.search.training.runtime import Runtime

__all__ = ["Candidate", "Decision", "Epoch", "Listener", "PipelineResult", "Taste", "run_pipeline"]


def run_pipeline(
    dataset: ImageDataset,
    space: SearchSpace,
    recipe: Recipe,
    *,
    seed: int = 0,
    candidates: Sequence[Candidate] = (),
    taste: bool = True,
    transfer_mode: str = "WEIGHTS_AND_ALPHAS",
    device: str = "auto",
    checkpoint: bytes | None = None,
    listener: Listener | None = None,
    runtime: Runtime | None = None,
) -> PipelineResult:
    """Search an architecture for a dataset.

    Args:
        dataset: train, val and test images.
        space: what is searched.
        recipe: how; `Recipe.for_space(space)` to begin with.
        seed: of every random choice.
        candidates: stored supernets to start from, the nearest first; none for a search from scratch.
        taste: let candidates and scratch compete; if False the first candidate is used.
        transfer_mode: what is taken over from a source.
        device: `auto`, `cpu`, `cuda`, or any name that torch knows.
        checkpoint: bytes from `Listener.on_checkpoint`, to go on from; the decision is taken from it.
        listener: hears of progress, and may stop the search.
        runtime: where it computes, and with whom; None for this process alone, on `device`.

    Raises:
        SpaceMismatch: a candidate's search space differs in more than its size.
        UnsafeWeights, NotFinite, WeightsTooLarge: a candidate's weights cannot be used.
        InvalidArgument: unknown mode or recipe value, or a checkpoint of another job.
        BlobCorrupt: the checkpoint is unreadable.
        SearchCancelled: the listener said stop.
        NotEnoughMemory: not even two images a step fit the device.
        SearchDiverged: loss or weights became infinite, and again after a rollback, or in the end on the test split.
    """
    if transfer_mode not in MODES:
        raise InvalidArgument(f"Unknown transfer mode {transfer_mode!r}.", remedy=f"Use one of {', '.join(MODES)}.")
    run = _Pipeline(dataset, space, recipe, seed, runtime or Runtime.on(device), listener or Listener())
    if checkpoint is None:
        run.decide([] if transfer_mode == "SCRATCH" else candidates, transfer_mode, taste=taste)
    else:
        run.resume(checkpoint)
    run.search()
    run.train_child()
    return run.result()


class _Pipeline(Run):
    """The state of one pipeline."""

    format = 2

    def __init__(
        self, dataset: ImageDataset, space: SearchSpace, recipe: Recipe, seed: int, runtime: Runtime, listener: Listener
    ) -> None:
        super().__init__(space, recipe, seed, runtime, listener)
        self.dataset = dataset
        self.data: Data = load_data(dataset, space, runtime.device)
        self.setup = SearchSetup(space, self.data, recipe, seed, listener.should_stop, listener.on_message, runtime)
        self.decision: Decision | None = None
        self.loop: Loop | None = None
        self.child_loop: Loop | None = None
        self.genotype: Genotype | None = None  # once derived
        self.derivation_steps = 0

    @cached_property
    def child_data(self) -> Data:
        """What the child network is trained on; made when it is needed, for it is another copy on the device."""
        return self.data if self.given.child_holds_out else self.data.joined()

    def decide(self, candidates: Sequence[Candidate], mode: str, *, taste: bool) -> None:
        """Choose where the search starts, and set up its loop."""
        self.fit_memory([(self.setup.bare_loop(warm=False).network, self.data)])
        sources = [self._source(candidate) for candidate in candidates]
        if not sources:
            self.loop = self.setup.prepare(None, "SCRATCH").loop
            self.decision = Decision("", "SCRATCH", "scratch: there is no candidate")
        elif taste:
            self.loop, self.decision = taste_sources(self.setup, sources, mode)
        else:
            chosen = sources[0]
            start = self.setup.prepare(chosen.tensors, mode)
            self.setup.choose_schedule(start, self.setup.prepare(None, "SCRATCH"))
            self.loop = start.loop
            self.decision = Decision(chosen.version, mode, "chosen by the caller", chosen.ot_distance)
        self.listener.on_decision(self.decision)
        self.checkpoint()

    def use(self, recipe: Recipe) -> None:
        super().use(recipe)
        self.setup = replace(self.setup, recipe=recipe)

    def _source(self, candidate: Candidate) -> Source:
        info, tensors = load_weights(candidate.weights, "supernet")
        if info.space != self.space:
            tensors, report = map_supernet(tensors, info.space, self.space)
            self.listener.on_message(f"{candidate.version} is of another size: {report}.")
        return Source(candidate.version, candidate.ot_distance, tensors, _skill(info), candidate.origin)

    def search(self) -> None:
        """Search until the last epoch or a plateau; the supernet is then in its best state."""
        assert self.loop is not None
        if self.child_loop is None:
            self.train(self.loop, "search")
            if self.loop.best_is_untrained:
                self.listener.on_message(
                    "search: no epoch was better on the validation split than the start; the supernet is the source's, "
                    "with a head for this task."
                )

    def train_child(self) -> None:
        """Derive the child network and train it, unless the recipe wants none."""
        assert self.loop is not None
        if self.child_loop is None:
            began = time.monotonic()
            supernet = self._derive(self.loop.network)
            if self.recipe.child_epochs == 0:
                return
            assert self.genotype is not None
            generator = make_generator(self.seed, "child-network")
            child = derive_child(supernet, self.genotype, self.child_data, self.recipe, generator=generator)
            self.child_loop = self._make_child_loop(child)
            self.seconds["child"] += time.monotonic() - began
            self.checkpoint()
        if self.child_loop.best is None:
            self.child_loop.evaluate()  # where it starts from may already be the best there will be
        self.train(self.child_loop, "child")

    def _derive(self, supernet: Network) -> Network:
        """Choose the architecture; returns the supernet that a child network inherits from."""
        selection = selector(self.recipe)(
            supernet,
            self.data,
            self.recipe,
            generator=make_generator(self.seed, "derivation"),
            should_stop=self.listener.should_stop,
            runtime=self.runtime,
        )
        self.genotype, self.derivation_steps = selection.genotype, selection.steps
        return selection.supernet

    def _make_child_loop(self, child: Network) -> Loop:
        plan = Plan(
            phase="CHILD",
            epochs=self.recipe.child_epochs,
            patience=self.recipe.child_epochs,  # its best epochs are the last, when the learning rate has come down
            keep_last=True,  # ... and a few dozen validation images, asked sixty times, would name a luckier one
            judged=self.recipe.child_holds_out,
            learning_rate=self.recipe.child_learning_rate,
            weight_decay=self.recipe.child_weight_decay,
            label_smoothing=self.recipe.child_label_smoothing,
            search_alphas=False,
        )
        return Loop(
            child,
            self.child_data,
            self.recipe,
            plan,
            generator=make_generator(self.seed, "child"),
            should_stop=self.listener.should_stop,
            say=self.listener.on_message,
            runtime=self.runtime,
        )

    def result(self) -> PipelineResult:
        """Judge both networks on the test split, once, and pack everything."""
        assert self.loop is not None
        assert self.decision is not None
        supernet = self.loop.network
        val = self.loop.best
        assert val is not None
        test = self.test(supernet, self.data)
        genotype = self.genotype
        assert genotype is not None
        text = self.genotype_text(genotype)
        return PipelineResult(
            weights=self._save(supernet, text, val, test),
            **self._child_figures(text),
            genotype=text,
            val_accuracy=val.accuracy,
            test_accuracy=test.accuracy,
            alpha_entropy=alpha_entropy(supernet.alpha_arrays()),
            skip_count=skip_count(genotype),
            search_steps=self.loop.steps - self._tasted_steps(),
            taste_steps=self.decision.taste_steps,
            child_steps=self.derivation_steps + (self.child_loop.steps if self.child_loop else 0),
            search_seconds=self.seconds["search"],
            taste_seconds=self.decision.taste_seconds,
            child_seconds=self.seconds["child"],
            device=self.data.device.type,
        )

    def _child_figures(self, genotype: str) -> dict[str, Any]:
        """The child network and what is known of it; nothing where there is none."""
        if self.child_loop is None:
            return {}
        network, val = self.child_loop.network, self.child_loop.best if self.child_loop.plan.judged else None
        test = self.test(network, self.child_data)
        cost = measure_child(network, self.data)
        return {
            "child": self._save(network, genotype, val, test),
            "child_val_accuracy": None if val is None else val.accuracy,
            "child_test_accuracy": test.accuracy,
            "child_parameters": cost.parameters,
            "child_macs": cost.macs,
            "child_single_seconds": cost.single_seconds,
            "child_batch_seconds": cost.batch_seconds,
        }

    def _tasted_steps(self) -> int:
        """Steps that the winner's loop made while it was tasted; they are counted there."""
        assert self.decision is not None
        return next((taste.steps[-1] for taste in self.decision.tastes if taste.chosen and taste.steps), 0)

    def _save(self, network: Network, genotype: str, val: Score | None, test: Score) -> bytes:
        facts = {
            "dataset": self.dataset.digest,
            "class_names": list(self.dataset.class_names),
            "test_accuracy": test.accuracy,
        }
        if val is not None:
            facts["val_accuracy"] = val.accuracy
        return save_weights(
            network, genotype=genotype, normalisation=self.data.normalisation, size=self.data.size, facts=facts
        )

    def subject(self) -> dict[str, Any]:
        return {"dataset": self.dataset.digest}

    def progress(self) -> dict[str, Any]:
        assert self.loop is not None
        assert self.decision is not None
        return {
            "decision": asdict(self.decision),
            "search": self.loop.state(),
            "genotype": "" if self.genotype is None else self.genotype_text(self.genotype),
            "derivation_steps": self.derivation_steps,
            "child": None if self.child_loop is None else self.child_loop.state(),
        }

    def restore(self, tree: dict[str, Any]) -> None:
        self.decision = _decision_from(tree["decision"])
        warm = bool(self.decision.source) and carries_weights(self.decision.transfer_mode)
        self.loop = self.setup.bare_loop(warm=warm)
        self.loop.load_state(tree["search"])
        if tree["child"] is not None:
            self.loop.restore_best()
            self.genotype = family_of(self.space).parse_genotype(self.space, tree["genotype"])
            self.derivation_steps = tree["derivation_steps"]
            self.child_loop = self._make_child_loop(self._bare_child(self.genotype))
            self.child_loop.load_state(tree["child"])

    def _bare_child(self, genotype: Genotype) -> Network:
        """A child network of the right shape, to be filled from a checkpoint."""
        assert self.loop is not None
        generator = make_generator(self.seed, "child-network")
        return make_child(self.loop.network, genotype, self.recipe, generator=generator).to(self.data.device)


def _decision_from(tree: dict[str, Any]) -> Decision:
    """The inverse of `asdict`, lists back to tuples."""
    tastes = []
    for taste in tree["tastes"]:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in taste.items()}
        tastes.append(Taste(**values))
    return Decision(**{**tree, "tastes": tuple(tastes)})


def _skill(info: WeightsInfo) -> float | None:
    """Accuracy on a supernet's own task as a share of the way from chance to perfect, as its metadata tell it.

    The lower of validation and test counts: the best of many epochs on a small validation split flatters. The
    accuracies of a generalist are means over its datasets, and so is its chance.
    """
    told = [info.metadata.get(name) for name in ("val_accuracy", "test_accuracy")]
    accuracies = [float(value) for value in told if isinstance(value, int | float)]
    chance = fmean(1.0 / max(2, head.n_classes) for head in heads_of(info))
    return (min(accuracies) - chance) / (1.0 - chance) if accuracies else None
