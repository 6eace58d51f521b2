"""One search from data to result: source decided, supernet searched, child network trained, both judged on test.

    decide ──► search (epochs, checkpoint each) ──► child (derived; epochs, checkpoint each) ──► result
      ▲                   ▲                                      ▲
      └── nothing stored  └── checkpoint of phase SEARCH         └── checkpoint of phase CHILD

A checkpoint holds all that the future depends on, the decision included; resumed on the same machine's CPU, the result
is the same to the last bit as if nothing had happened (times apart).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from statistics import fmean
from typing import Any

from supernet_registry.search.children.child import derive_child, make_child
from supernet_registry.search.children.cost import ChildCost, measure_child
from supernet_registry.search.children.selection import selector
from supernet_registry.search.errors import BlobCorrupt, InvalidArgument, SearchDiverged
from supernet_registry.search.networks.mapping import map_supernet
from supernet_registry.search.networks.stored import load_weights, save_weights
from supernet_registry.search.networks.supernet import Network, alpha_entropy, skip_count
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.results import Candidate, Decision, Epoch, Listener, PipelineResult, Taste
from supernet_registry.search.spaces import Genotype, SearchSpace, family_of
from supernet_registry.search.starts.contenders import Source
from supernet_registry.search.starts.setup import SearchSetup
from supernet_registry.search.starts.taste import taste_sources
from supernet_registry.search.starts.warm_start import MODES, carries_weights
from supernet_registry.search.storage.head_rows import heads_of
from supernet_registry.search.storage.weights import WeightsInfo
from supernet_registry.search.tasks import ImageDataset
from supernet_registry.search.training.checkpoint import pack_checkpoint, unpack_checkpoint
from supernet_registry.search.training.data import Data, load_data, make_generator
from supernet_registry.search.training.evaluation import UNJUDGED, Score, calibrate, collect_logits, score_logits
from supernet_registry.search.training.loop import Loop, Plan
from supernet_registry.search.training.memory import fit_batch_size, free_bytes, measure_step
from supernet_registry.search.training.runtime import Runtime

__all__ = ["Candidate", "Decision", "Epoch", "Listener", "PipelineResult", "Taste", "run_pipeline"]

_FORMAT = 2


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
    recipe.check()
    recipe.check_space(space)
    if transfer_mode not in MODES:
        raise InvalidArgument(f"Unknown transfer mode {transfer_mode!r}.", remedy=f"Use one of {', '.join(MODES)}.")
    run = _Run(dataset, space, recipe, seed, runtime or Runtime.on(device), listener or Listener())
    if checkpoint is None:
        run.decide([] if transfer_mode == "SCRATCH" else candidates, transfer_mode, taste=taste)
    else:
        run.resume(checkpoint)
    run.search()
    run.train_child()
    return run.result()


class _Run:
    """The state of one pipeline."""

    def __init__(
        self, dataset: ImageDataset, space: SearchSpace, recipe: Recipe, seed: int, runtime: Runtime, listener: Listener
    ) -> None:
        self.dataset, self.space, self.seed, self.listener = dataset, space, seed, listener
        self.given = self.recipe = recipe  # as asked for; with the batch size that fits the memory
        self.runtime = runtime
        self.data: Data = load_data(dataset, space, runtime.device)
        self.setup = SearchSetup(space, self.data, recipe, seed, listener.should_stop, listener.on_message, runtime)
        self.decision: Decision | None = None
        self.loop: Loop | None = None
        self.child_loop: Loop | None = None
        self.genotype: Genotype | None = None  # once derived
        self.derivation_steps = 0
        self.seconds = {"search": 0.0, "child": 0.0}

    @cached_property
    def child_data(self) -> Data:
        """What the child network is trained on; made when it is needed, for it is another copy on the device."""
        return self.data if self.given.child_holds_out else self.data.joined()

    def decide(self, candidates: Sequence[Candidate], mode: str, *, taste: bool) -> None:
        """Choose where the search starts, and set up its loop."""
        self._fit_memory()
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
        self._checkpoint()

    def _fit_memory(self) -> None:
        """Halve the batch size until a step fits into the free memory; a resumed search keeps what it began with."""
        step = measure_step(self.setup.bare_loop(warm=False).network, self.data)
        recipe, remark = fit_batch_size(self.recipe, self.data, step, free_bytes(self.data.device))
        if remark:
            self.listener.on_message(remark)
        ranks = self.runtime.ranks
        batch, evaluated = ranks.least(recipe.batch_size), ranks.least(recipe.eval_batch_size)
        ranks.check(recipe.variant, batch)
        self._use(replace(recipe, batch_size=batch, eval_batch_size=evaluated))

    def _use(self, recipe: Recipe) -> None:
        self.recipe = recipe
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
            self._train(self.loop, "search")
            self.loop.restore_best()
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
            self._checkpoint()
        self._train(self.child_loop, "child")
        self.child_loop.restore_best()

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

    def _train(self, loop: Loop, phase: str) -> None:
        if loop.best is None:
            loop.evaluate()  # where it starts from may already be the best there will be
        while not loop.finished:
            epoch = loop.run_epoch()
            self.seconds[phase] += epoch.seconds
            self.listener.on_epoch(epoch)
            self._checkpoint()
        if loop.epoch < loop.plan.epochs:
            self.listener.on_message(
                f"{phase}: neither validation accuracy nor loss got better for {loop.plan.patience} epochs; "
                f"stopped after {loop.epoch}."
            )

    def result(self) -> PipelineResult:
        """Judge both networks on the test split, once, and pack everything."""
        assert self.loop is not None
        assert self.decision is not None
        supernet = self.loop.network
        val = self.loop.best
        assert val is not None
        test = self._test(supernet, self.data)
        genotype = self.genotype
        assert genotype is not None
        text = family_of(self.space).format_genotype(genotype)
        child, child_val, child_test = None, UNJUDGED, UNJUDGED
        cost = ChildCost(0, 0, 0.0, 0.0)
        if self.child_loop is not None:
            assert self.child_loop.best is not None
            child_val, child_test = self.child_loop.best, self._test(self.child_loop.network, self.child_data)
            child = self._save(self.child_loop.network, text, child_val, child_test)
            cost = measure_child(self.child_loop.network, self.data)
        return PipelineResult(
            weights=self._save(supernet, text, val, test),
            child=child,
            genotype=text,
            val_accuracy=val.accuracy,
            test_accuracy=test.accuracy,
            child_val_accuracy=child_val.accuracy,
            child_test_accuracy=child_test.accuracy,
            child_parameters=cost.parameters,
            child_macs=cost.macs,
            child_single_seconds=cost.single_seconds,
            child_batch_seconds=cost.batch_seconds,
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

    def _tasted_steps(self) -> int:
        """Steps that the winner's loop made while it was tasted; they are counted there."""
        assert self.decision is not None
        return next((taste.steps[-1] for taste in self.decision.tastes if taste.chosen and taste.steps), 0)

    def _test(self, network: Network, data: Data) -> Score:
        """Score on the test split; leaves the network calibrated on what it was trained on, as it is to be stored.

        Raises:
            SearchDiverged: the loss is no number. Nothing has looked at the answers of a child network before.
        """
        calibrate(network, data, self.recipe)
        score = score_logits(*collect_logits(network, data, data.test, self.recipe))
        if not math.isfinite(score.loss):
            raise SearchDiverged(
                "The test loss became infinite.",
                remedy="Lower the learning rate, or look for constant or broken images.",
            )
        return score

    def _save(self, network: Network, genotype: str, val: Score, test: Score) -> bytes:
        facts = {
            "dataset": self.dataset.digest,
            "class_names": list(self.dataset.class_names),
            "test_accuracy": test.accuracy,
        }
        if val != UNJUDGED:
            facts["val_accuracy"] = val.accuracy
        return save_weights(
            network, genotype=genotype, normalisation=self.data.normalisation, size=self.data.size, facts=facts
        )

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on with the job that resumes it."""
        return {
            "format": _FORMAT,
            "dataset": self.dataset.digest,
            "space": self.space.id,
            "recipe": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.given).items()},
            "seed": self.seed,
        }

    def _checkpoint(self) -> None:
        assert self.loop is not None
        assert self.decision is not None
        tree = {
            "identity": self._identity(),
            "decision": asdict(self.decision),
            "seconds": self.seconds,
            "batch_sizes": {"batch_size": self.recipe.batch_size, "eval_batch_size": self.recipe.eval_batch_size},
            "search": self.loop.state(),
            "genotype": "" if self.genotype is None else family_of(self.space).format_genotype(self.genotype),
            "derivation_steps": self.derivation_steps,
            "child": None if self.child_loop is None else self.child_loop.state(),
        }
        self.listener.on_checkpoint(pack_checkpoint(tree))

    def resume(self, checkpoint: bytes) -> None:
        """Go on where a checkpoint was taken."""
        tree = unpack_checkpoint(checkpoint)
        try:
            identity, decision = tree["identity"], _decision_from(tree["decision"])
            _check_identity(identity, self._identity())
            self.decision, self.seconds = decision, dict(tree["seconds"])
            self._use(replace(self.given, **tree["batch_sizes"]))
            self.loop = self.setup.bare_loop(warm=bool(decision.source) and carries_weights(decision.transfer_mode))
            self.loop.load_state(tree["search"])
            if tree["child"] is not None:
                self.loop.restore_best()
                self.genotype = family_of(self.space).parse_genotype(self.space, tree["genotype"])
                self.derivation_steps = tree["derivation_steps"]
                self.child_loop = self._make_child_loop(self._bare_child(self.genotype))
                self.child_loop.load_state(tree["child"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise BlobCorrupt(
                f"The checkpoint is not complete ({type(error).__name__}).",
                remedy="Start the search again without it.",
                field="checkpoint",
            ) from error

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


def _check_identity(stored: dict[str, Any], own: dict[str, Any]) -> None:
    different = [name for name in own if stored.get(name) != own[name]]
    if different:
        raise InvalidArgument(
            f"The checkpoint is of another job: {', '.join(different)} differ.",
            remedy="Resume with the same dataset, space, recipe and seed, or start without it.",
            field="checkpoint",
        )
