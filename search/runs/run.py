"""What every long job has in common: memory, checkpoints and their identity, epochs until a plateau, the test split.

A job derives from `Run` and says what is its own: which data it is about, what a checkpoint holds besides, and how it
is brought back. A setting that is read here is honoured by all of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any, ClassVar

from supernet_registry.search.errors import BlobCorrupt, InvalidArgument, SearchDiverged
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.results import Listener
from supernet_registry.search.spaces import Genotype, SearchSpace, family_of
from supernet_registry.search.training.checkpoint import pack_checkpoint, unpack_checkpoint
from supernet_registry.search.training.data import Data
from supernet_registry.search.training.evaluation import Score, calibrate, collect_logits, score_logits
from supernet_registry.search.training.loop import Loop
from supernet_registry.search.training.memory import fit_batch_size, free_bytes, measure_step
from supernet_registry.search.training.runtime import Runtime

__all__ = ["Run"]


class Run(ABC):
    """The state of one job.

    Args:
        space: what is searched.
        recipe: how, as asked for.
        seed: of every random choice.
        runtime: where it computes, and with whom.
        listener: hears of progress, and may stop the job.

    Raises:
        InvalidArgument: a value of the recipe is out of range, or a strategy cannot be used in the space.
    """

    format: ClassVar[str | int]  # of checkpoints; another one is of another job

    def __init__(self, space: SearchSpace, recipe: Recipe, seed: int, runtime: Runtime, listener: Listener) -> None:
        recipe.check()
        recipe.check_space(space)
        self.space, self.seed, self.runtime, self.listener = space, seed, runtime, listener
        self.given = self.recipe = recipe  # as asked for; with the batch size that fits the memory
        self.seconds = {"search": 0.0, "child": 0.0}

    @abstractmethod
    def subject(self) -> dict[str, Any]:
        """What it is about, besides space, recipe and seed: JSON values that a checkpoint must agree on."""

    @abstractmethod
    def progress(self) -> dict[str, Any]:
        """What a checkpoint holds of it, besides what `Run` itself has: tensors and JSON values."""

    @abstractmethod
    def restore(self, tree: dict[str, Any]) -> None:
        """Go on where `progress` was taken; the recipe is then the one that it was taken with."""

    def use(self, recipe: Recipe) -> None:
        """Go on with this recipe: the one that was given, with other batch sizes."""
        self.recipe = recipe

    def fit_memory(self, steps: Iterable[tuple[Network, Data]]) -> None:
        """Halve the batch size until a step of each network on its data fits into the free memory, in all processes;
        a resumed job keeps what it began with.

        Raises:
            NotEnoughMemory: not even two images do.
            InvalidArgument: the group cannot run such a search.
        """
        recipe = self.recipe
        for network, data in steps:
            recipe, remark = fit_batch_size(recipe, data, measure_step(network, data), free_bytes(data.device))
            if remark:
                self.listener.on_message(remark)
        ranks = self.runtime.ranks
        batch, evaluated = ranks.least(recipe.batch_size), ranks.least(recipe.eval_batch_size)
        ranks.check(recipe.variant, batch)
        self.use(replace(recipe, batch_size=batch, eval_batch_size=evaluated))

    def train(self, loop: Loop, phase: str) -> None:
        """Train until the last epoch or a plateau, a checkpoint after every epoch; the network is then in its best
        state."""
        while not loop.finished:
            epoch = loop.run_epoch()
            self.seconds[phase] += epoch.seconds
            self.listener.on_epoch(epoch)
            self.checkpoint()
        if loop.epoch < loop.plan.epochs:
            self.listener.on_message(
                f"{phase}: neither validation accuracy nor loss got better for {loop.plan.patience} epochs; "
                f"stopped after {loop.epoch}."
            )
        loop.restore_best()

    def test(self, network: Network, data: Data) -> Score:
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

    def genotype_text(self, genotype: Genotype) -> str:
        """An architecture as the space's family writes it."""
        return family_of(self.space).format_genotype(genotype)

    def checkpoint(self) -> None:
        """Hand the listener all that the future depends on."""
        tree = {
            "identity": self._identity(),
            "seconds": self.seconds,
            "batch_sizes": {"batch_size": self.recipe.batch_size, "eval_batch_size": self.recipe.eval_batch_size},
            **self.progress(),
        }
        self.listener.on_checkpoint(pack_checkpoint(tree))

    def resume(self, checkpoint: bytes) -> None:
        """Go on where a checkpoint was taken.

        Raises:
            InvalidArgument: it is of another job.
            BlobCorrupt: it cannot be read.
        """
        tree = unpack_checkpoint(checkpoint)
        try:
            self._check_identity(tree["identity"])
            self.seconds = dict(tree["seconds"])
            self.use(replace(self.given, **tree["batch_sizes"]))
            self.restore(tree)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            raise BlobCorrupt(
                f"The checkpoint is not complete ({type(error).__name__}).",
                remedy="Start again without it.",
                field="checkpoint",
            ) from error

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on with the job that resumes it."""
        return {
            "format": self.format,
            **self.subject(),
            "space": self.space.id,
            "recipe": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.given).items()},
            "seed": self.seed,
        }

    def _check_identity(self, stored: dict[str, Any]) -> None:
        own = self._identity()
        different = [name for name in own if stored.get(name) != own[name]]
        if different:
            raise InvalidArgument(
                f"The checkpoint is of another job: {', '.join(different)} differ.",
                remedy="Resume with the same data, space, recipe and seed, or start without it.",
                field="checkpoint",
            )
