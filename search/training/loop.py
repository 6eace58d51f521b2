"""The training loop: bilevel DARTS, and with α left out the training of a discrete network.

One step of the search (DARTS, algorithm 1):

    1. update α by descending    ∇_α L_val(w, α)      on a batch of the validation split, which stands for the
                                                       held-out half of the training set in the paper
    2. update w by descending    ∇_w L_train(w, α)    on an augmented batch of the training split

That is first-order DARTS. Another gradient in 1 and another mixture in 2 are what the variants differ in; they are the
recipe's strategy (`search.training.variants`), and all the rest is the same for them. What L is, the recipe's objective
says (`search.training.objectives`). Each pass computes only the gradients that it needs. The validation split therefore
steers α (a few dozen numbers) and picks the best epoch; the test split is seen once, at the very end, by the run.

A search that diverges goes back to where its epoch began, once, and goes on with a smaller learning rate.

Everything that the future depends on is in `state()`: with it a search goes on bit for bit (on a CPU).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from supernet_registry.search.errors import SearchCancelled, SearchDiverged
from supernet_registry.search.networks.supernet import Kept, Mixture, Network, alpha_entropy, skip_count
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.results import Epoch
from supernet_registry.search.training.data import Augmentation, Batches, Data, TensorSplit
from supernet_registry.search.training.devices import send
from supernet_registry.search.training.dropping import drop_weakest
from supernet_registry.search.training.evaluation import UNJUDGED, Score, autocast, evaluate
from supernet_registry.search.training.objectives import make_objective
from supernet_registry.search.training.optimizers import (
    Adam,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
    set_gradients,
    set_rates,
)
from supernet_registry.search.training.plan import Plan
from supernet_registry.search.training.recording import Recorded
from supernet_registry.search.training.runtime import Runtime
from supernet_registry.search.training.variants import Batch, make_variant

__all__ = ["Loop"]

_HUGE = 1e30  # a loss worse than any; infinity has no JSON
_Result = TypeVar("_Result")
_CHECK_EVERY = 50  # steps after which the device is asked whether all is finite: rarely, for it waits for the answer


class Loop:
    """Trains a network on a dataset, epoch by epoch, and remembers its best state.

    Args:
        network: trained in place.
        data: the dataset, on the device of the network.
        recipe: settings.
        plan: what this run is for.
        generator: source of batches and augmentation.
        should_stop: polled before every step; True raises `SearchCancelled`.
        say: hears of a rollback.
        runtime: with whom it trains, and how passes are recorded; its device is that of the data. None for alone, and
            as they are.
    """

    recordable: ClassVar[bool] = True  # whether a gradient pass differs from another in its inputs and weights alone

    def __init__(
        self,
        network: Network,
        data: Data,
        recipe: Recipe,
        plan: Plan,
        *,
        generator: torch.Generator,
        should_stop: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda _: None,
        runtime: Runtime | None = None,
    ) -> None:
        runtime = runtime or Runtime(data.device)
        self.network, self.data, self.recipe, self.plan = network, data, recipe, plan
        self._generator, self._should_stop, self._say = generator, should_stop, say
        self._augment = Augmentation.of(recipe)
        self._train_batches = Batches(len(data.train), recipe.batch_size, generator)
        self._val_batches = Batches(len(data.val), recipe.batch_size, generator)
        self._held_batch: Batch | None = None  # drawn for an α step, to be used by the weight step that follows
        self._variant = make_variant(network, recipe, generator) if plan.search_alphas else None
        self._objective = make_objective(network, recipe, label_smoothing=plan.label_smoothing)
        self.weights = network.weights()
        self.architecture = network.architecture()
        self._ranks = runtime.ranks
        self._forward = self._ranks.wrap(network, self.weights)
        record = runtime.record if self.recordable and self._ranks.size == 1 else None
        self._weight_pass = Recorded(self._weight_gradients, record)
        self._alpha_pass = Recorded(self._val_gradients, record)
        self.weight_optimizer = make_optimizer(
            self.weights, recipe, learning_rate=plan.learning_rate, weight_decay=plan.weight_decay
        )
        self._alpha_optimizer = (
            None
            if self._variant is None
            else Adam(
                self.architecture,
                lr=recipe.alpha_learning_rate,
                betas=recipe.alpha_betas,
                weight_decay=recipe.alpha_weight_decay if self._variant.decays_alpha else 0.0,
            )
        )
        self.steps = 0  # weight steps since the loop began, a taste's included
        self.epoch = 0  # epochs completed
        self.rollbacks = 0  # 1 after a divergence; the learning rate is then smaller for good
        self.best: Score | None = None
        self._best_tensors: dict[str, Tensor] = {}
        self._best_kept: Kept = {}
        self._best_steps: int | None = None  # steps made when it was the network's state; unknown in old checkpoints
        self._drops = 0  # rounds of dropped operations
        self._peak = (_HUGE, -1.0)  # least loss and highest accuracy of all trained epochs
        self._epochs_without_progress = 0

    @property
    def steps_per_epoch(self) -> int:
        """Weight steps in which every training image comes once, or as often as it takes for the recipe's fewest."""
        return max(self.recipe.least_epoch_steps, len(self._train_batches))

    @property
    def finished(self) -> bool:
        """All epochs done, or no progress for `plan.patience` epochs."""
        return self.epoch >= self.plan.epochs or self.stalled

    @property
    def stalled(self) -> bool:
        """Whether neither accuracy nor loss on the validation split has improved for `plan.patience` epochs."""
        return self._epochs_without_progress >= self.plan.patience

    def run_epoch(self) -> Epoch:
        """Train until the next epoch is full, score it on the validation split, and keep it if it is the best so far.

        Steps of a taste belong to the first epoch: a search that the taste decided for scratch is the one it would have
        been without a taste.

        Raises:
            SearchCancelled: `should_stop` said so.
            SearchDiverged: the search diverged again after it had been rolled back.
        """
        began = time.monotonic()
        train, score = self._with_rollback(self._run_epoch)
        self.epoch += 1
        self._note_progress(score)
        genotype = self.network.derive() if self.plan.search_alphas else self.network.genotype
        return Epoch(
            phase=self.plan.phase,
            epoch=self.epoch,
            epochs=self.plan.epochs,
            steps=self.steps,
            train_loss=train.loss,
            train_accuracy=train.accuracy,
            val_loss=score.loss if self.plan.judged else None,
            val_accuracy=score.accuracy if self.plan.judged else None,
            alpha_entropy=alpha_entropy(self.network.alpha_arrays()),
            skip_count=skip_count(genotype or {}),
            learning_rate=self.learning_rate(),
            seconds=time.monotonic() - began,
        )

    def _run_epoch(self) -> tuple[Score, Score]:
        """Mean training score over the steps that were left of the epoch, and the validation score after it."""
        train = self._advance(self._steps_left())
        if self.epoch == 0 and not self.plan.start_counts:
            self.best = None
        return train, self.evaluate()

    def _steps_left(self) -> int:
        """Steps until the epoch is full; a taste may have made some of them."""
        return self.steps_per_epoch - self.steps % self.steps_per_epoch

    def advance(self, steps: int) -> Score:
        """Make so many weight steps, α steps among them; the mean training loss and accuracy over them.

        The first time that they diverge they are undone, and made again with a smaller learning rate.
        """
        return self._with_rollback(lambda: self._advance(steps))

    def _with_rollback(self, attempt: Callable[[], _Result]) -> _Result:
        """What `attempt` returns; if it diverges, from a second one with a smaller learning rate, once in a search."""
        before = self.snapshot()
        try:
            return attempt()
        except SearchDiverged as error:
            if self.rollbacks or not self.recipe.rollback_factor:
                raise
            self.load_state(before)
            self.rollbacks = 1
            self._say(
                f"{self.plan.phase.lower()}: {error.message} Back to step {self.steps}, with "
                f"{self.recipe.rollback_factor:g} times the learning rate."
            )
        return attempt()

    def _advance(self, steps: int) -> Score:
        """`advance` without a second attempt."""
        self.network.set_norm_mode("train")
        totals = torch.zeros(
            3, device=self.data.device
        )  # loss, hits, images: read rarely, no synchronisation in a step
        for number in range(1, steps + 1):
            look = number % self._ranks.looks_every == 1 % self._ranks.looks_every
            if look and self._ranks.any_wants(flag=self._should_stop()):
                raise SearchCancelled(
                    "The search was cancelled.", remedy="Start it again to go on from its checkpoint."
                )
            set_rates(self.weight_optimizer, learning_rate=self.learning_rate(), weight_decay=self.weight_decay())
            if self._alpha_optimizer is not None:
                self._drop_operations()
                if self.steps % self.recipe.alpha_every == 0:
                    self.alpha_step()
            totals += self.weight_step()
            self.steps += 1
            if number % _CHECK_EVERY == 0 or number == steps:
                self._check_finite(self._ranks.sum(totals))
        loss, hits, images = self._ranks.sum(totals).tolist()
        return Score(loss / max(images, 1.0), hits / max(images, 1.0))

    def _check_finite(self, totals: Tensor) -> None:
        """Raise `SearchDiverged` unless the summed loss and all parameters are finite."""
        size = nn.utils.get_total_norm([parameter.detach() for parameter in (*self.weights, *self.architecture)])
        if not (math.isfinite(float(totals[0])) and math.isfinite(size)):
            raise self._diverged("The training loss or the weights")

    def _diverged(self, what: str) -> SearchDiverged:
        again = ", once more after a rollback" if self.rollbacks else ""
        return SearchDiverged(
            f"{what} became infinite within {self.steps} steps{again}.",
            remedy="Lower the learning rate, or look for constant or broken images.",
        )

    def evaluate(self) -> Score:
        """Score on the validation split; the network's state is kept if it is the best so far.

        Where the plan is not judged it has no score: `UNJUDGED`.
        """
        score = evaluate(self.network, self.data, self.data.val, self.recipe) if self.plan.judged else UNJUDGED
        self.note(score)
        return score

    def note(self, score: Score) -> None:
        """Keep the network's state if `score`, its own on the validation split, is the best so far, or the plan keeps
        the last one.

        Raises:
            SearchDiverged: the score is no number. BatchNorm can hide weights from the training loss that are too large
                for the statistics by which it is replaced here.
        """
        if not math.isfinite(score.loss):
            raise self._diverged("The validation loss")
        if self.plan.keep_last or score.beats(self.best):
            self.best = score
            self._best_steps = self.steps
            self._best_tensors = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
            self._best_kept = dict(self.network.kept)

    def _note_progress(self, score: Score) -> None:
        """Count epochs without progress, among trained epochs only: on a hard task the first steps fall below the
        prototype head's accuracy, and a search must not stop in that valley."""
        progress = score.accuracy > self._peak[1] or score.loss < self._peak[0]
        self._peak = (min(score.loss, self._peak[0]), max(score.accuracy, self._peak[1]))
        self._epochs_without_progress = 0 if progress else self._epochs_without_progress + 1

    def replan(self, *, epochs: int, learning_rate: float) -> None:
        """Change the schedule; only before the first step, for the cosine runs over the whole of it."""
        assert self.steps == 0, "a schedule is chosen before the first step"
        self.plan = replace(self.plan, epochs=epochs, learning_rate=learning_rate)

    def restore_best(self) -> Score:
        """Put the network into its best state; the score that it had there.

        The state is settled: what the variant made of α, and what was dropped, is written into α.
        """
        if self.best is None:
            self.evaluate()
        assert self.best is not None
        self.network.load_state_dict(self._best_tensors)
        self.network.keep(self._best_kept)
        self.network.settle()
        self._forget_recordings()
        return self.best

    @property
    def best_is_untrained(self) -> bool:
        """Whether the best state is the one before any step."""
        return self.best is not None and self._best_steps == 0

    @property
    def share(self) -> float:
        """Steps done, as a share of all that are planned."""
        return min(1.0, self.steps / max(1, self.plan.epochs * self.steps_per_epoch))

    def train_batch(self) -> Batch:
        """The augmented images that the next weight step will see: the same at every call before it."""
        if self._held_batch is None:
            images, labels = self._batch(self.data.train, self._train_batches)
            self._held_batch = self._augment(images, self._generator), labels
        return self._held_batch

    def train_loss(self, batch: Batch, mixture: Mixture | None = None) -> Tensor:
        """What a weight step descends."""
        return self._objective.weight_loss(self.network, *batch, mixture)[0]

    def val_loss(self, batch: Batch, mixture: Mixture | None = None) -> Tensor:
        """What an α step descends."""
        return self._objective.alpha_loss(self.network, *batch, mixture)

    def _drop_operations(self) -> None:
        """Drop as many rounds of operations as are due by now."""
        while self._drops < sum(share <= self.share for share in self.recipe.drop_shares):
            self.network.keep(drop_weakest(self.network))
            self._drops += 1
            self._forget_recordings()

    def _forget_recordings(self) -> None:
        """Other operations are computed from now on, or training is over."""
        self._weight_pass.forget()
        self._alpha_pass.forget()

    def alpha_step(self) -> None:
        """Descend α's gradient, unless α rests; clean images, as they are all that α is judged by. Only in a search."""
        assert self._variant is not None
        assert self._alpha_optimizer is not None
        if self._variant.rests(self) or self.steps < self.plan.head_steps:
            return
        images, labels = self._batch(self.data.val, self._val_batches)
        mine = self._ranks.slice(images), self._ranks.slice(labels)
        gradients = self._variant.alpha_gradients(self, mine)
        set_gradients(self.architecture, self._ranks.average(gradients, len(mine[1]), len(labels)))
        self._alpha_optimizer.step()

    def weight_step(self) -> Tensor:
        """Descend ∇_w of the training loss; summed loss, hits and images, (3,)."""
        whole = self.train_batch()
        self._held_batch = None
        mixture = self._weight_mixture(whole)
        totals, *gradients = self._weight_pass(*whole, *(mixture or {}).values())
        assert totals is not None
        set_gradients(self.weights, self._of_learners(gradients))
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.weights, self.recipe.clip_norm)
        self.weight_optimizer.step()
        return totals

    def _weight_mixture(self, batch: Batch) -> Mixture | None:
        """The mixture under which a weight step sees its batch: the variant's, or the one in force where α is not
        searched; None of a discrete network."""
        if self._variant is not None:
            return self._variant.weight_mixture(self, batch)
        with torch.no_grad():
            return self.network.current_mixture()

    def _weight_gradients(self, images: Tensor, labels: Tensor, *mixture: Tensor) -> list[Tensor | None]:
        """Summed loss, hits and number of this process's images, (3,), and gradients of the weights; a `GradientPass`.

        `mixture` are the weights of every kind of cell, none of a discrete network.
        """
        whole = len(labels)
        images, labels = self._ranks.slice(images), self._ranks.slice(labels)
        with autocast(self.data.device):
            weights = dict(zip(self.network.alphas, mixture, strict=True)) or None
            loss, logits = self._objective.weight_loss(self._forward, images, labels, weights)
        gradients = self._ranks.gradients(loss, self.weights, len(labels), whole)
        hits = (logits.detach().argmax(dim=1) == labels).sum()
        totals = torch.stack([loss.detach() * len(labels), hits, torch.full_like(hits, len(labels))]).float()
        return [totals, *gradients]

    def val_gradients(self, batch: Batch) -> tuple[Tensor, ...]:
        """Gradients of α of what an α step descends, under the mixture in force."""
        gradients = self._alpha_pass(*batch)
        return tuple(gradient for gradient in gradients if gradient is not None)

    def _val_gradients(self, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """`val_gradients` as a `GradientPass`."""
        with autocast(self.data.device):
            loss = self.val_loss((images, labels))
        return torch.autograd.grad(loss, self.architecture)

    def _of_learners(self, gradients: list[Tensor | None]) -> list[Tensor | None]:
        """Nothing for the weights below the head while the head alone learns; optimisers pass over them."""
        if self.steps >= self.plan.head_steps:
            return gradients
        head = {id(parameter) for parameter in self.network.head.parameters()}
        return [
            gradient if id(weight) in head else None for weight, gradient in zip(self.weights, gradients, strict=True)
        ]

    def _batch(self, split: TensorSplit, batches: Batches) -> tuple[Tensor, Tensor]:
        """Normalised images (B, 3, H, W) and labels (B,)."""
        indices = send(batches.draw(), self.data.device)
        return self.data.normalisation(split.images[indices]), split.labels[indices]

    def learning_rate(self) -> float:
        """Cosine from the plan's first rate to the recipe's last, over all epochs, after a linear warm-up; all of it
        smaller after a rollback."""
        return self._planned_learning_rate() * self.recipe.rollback_factor**self.rollbacks

    def _planned_learning_rate(self) -> float:
        if self.steps < self.recipe.warmup_steps:
            return self.plan.learning_rate * (self.steps + 1) / (self.recipe.warmup_steps + 1)
        low = min(self.recipe.learning_rate_min, self.plan.learning_rate)
        return low + (self.plan.learning_rate - low) * 0.5 * (1.0 + math.cos(math.pi * self.share))

    def weight_decay(self) -> float:
        """The plan's, unless over so many steps that were more than the recipe's `most_decay`.

        A weight that no gradient renews shrinks by exp(−Σ rate · decay): a decay that is right for a hundred steps
        leaves nothing of what thousands learn (Wang & Aitchison, arXiv 2405.13698). A search from a source decays as
        one from scratch would.
        """
        recipe, plan = self.recipe, self.plan
        if not recipe.most_decay:
            return plan.weight_decay
        epochs, rate = (
            (recipe.epochs, recipe.learning_rate) if plan.search_alphas else (plan.epochs, plan.learning_rate)
        )
        mean_rate = 0.5 * (rate + min(rate, recipe.learning_rate_min))  # of the cosine
        return min(plan.weight_decay, recipe.most_decay / max(mean_rate * epochs * self.steps_per_epoch, 1e-9))

    def state(self) -> dict[str, Any]:
        """A tree of tensors and JSON values from which `load_state` goes on exactly."""
        return {
            "network": dict(self.network.state_dict()),
            "kept": dict(self.network.kept),
            "drops": self._drops,
            "objective": self._objective.state(),
            "variant": {} if self._variant is None else self._variant.state(),
            "weight_optimizer": optimizer_state(self.weight_optimizer),
            "alpha_optimizer": None if self._alpha_optimizer is None else optimizer_state(self._alpha_optimizer),
            "generator": self._generator.get_state(),
            "train_batches": self._train_batches.state(),
            "val_batches": self._val_batches.state(),
            "schedule": {"epochs": self.plan.epochs, "learning_rate": self.plan.learning_rate},
            "steps": self.steps,
            "epoch": self.epoch,
            "best": None if self.best is None else [self.best.loss, self.best.accuracy],
            "best_tensors": self._best_tensors,
            "best_kept": dict(self._best_kept),
            "best_steps": self._best_steps,
            "peak": list(self._peak),
            "epochs_without_progress": self._epochs_without_progress,
            "rollbacks": self.rollbacks,
        }

    def snapshot(self) -> dict[str, Any]:
        """`state()` as it is now, whatever training does afterwards; the best tensors are copies already."""
        state = self.state()
        best = state.pop("best_tensors")
        return {**cast("dict[str, Any]", _cloned(state)), "best_tensors": best}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, with the same data and recipe."""
        self.plan = replace(self.plan, **state["schedule"])
        self.network.load_state_dict(state["network"])
        self.network.keep(state["kept"])
        self._forget_recordings()
        self._drops = state["drops"]
        self._objective.load_state(state["objective"])
        if self._variant is not None:
            self._variant.load_state(state["variant"])
        load_optimizer_state(self.weight_optimizer, state["weight_optimizer"])
        if self._alpha_optimizer is not None:
            load_optimizer_state(self._alpha_optimizer, state["alpha_optimizer"])
        self._generator.set_state(state["generator"])
        self._train_batches.load_state(state["train_batches"])
        self._val_batches.load_state(state["val_batches"])
        self.steps, self.epoch = state["steps"], state["epoch"]
        self._held_batch = None
        self.best = None if state["best"] is None else Score(*state["best"])
        self._best_tensors = {name: tensor.to(self.data.device) for name, tensor in state["best_tensors"].items()}
        self._best_kept = {kind: mask.to(self.data.device) for kind, mask in state["best_kept"].items()}
        self._best_steps = state.get("best_steps")  # for a remark only: not worth refusing an older checkpoint
        self._peak = (state["peak"][0], state["peak"][1])
        self._epochs_without_progress = state["epochs_without_progress"]
        self.rollbacks = state["rollbacks"]


def _cloned(tree: Any) -> Any:
    """A tree of dicts with its own tensors."""
    if isinstance(tree, dict):
        return {key: _cloned(value) for key, value in tree.items()}
    return tree.clone() if isinstance(tree, Tensor) else tree
