"""The loop over several datasets that take turns.

The bilevel step of `search.training.loop` is made on one dataset t at a time, as DARTS makes it on one:

    1. update α               by descending    ∇_α L_val^t(w, α)
    2. update w and head t    by descending    ∇_{w, head t} L_train^t(w, α)

Datasets take turns in shuffled rounds, α and w each with rounds of their own: everyone gets as many steps as everyone
else, however large it is, and no rhythm of the recipe (`alpha_every`) can let α see only some of them. A batch holds
images of one dataset, standardised by that dataset's own mean and deviation, so BatchNorm never mixes two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from supernet_registry.search.networks.multi_head import MultiHeadNetwork
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.training.data import Batches, Data
from supernet_registry.search.training.evaluation import Score, evaluate
from supernet_registry.search.training.loop import Loop
from supernet_registry.search.training.plan import Plan

__all__ = ["GeneralistLoop"]


class GeneralistLoop(Loop):
    """The bilevel loop over several datasets; its scores are means over those that it trains on.

    Args:
        network: trained in place.
        tasks: the datasets, in the order of the network's heads.
        trained: numbers of those to train on; the others may be scored.
        recipe, plan, options: as for `Loop`.
    """

    recordable = False  # every dataset has a head of its own

    def __init__(
        self,
        network: MultiHeadNetwork,
        tasks: Sequence[Data],
        trained: Sequence[int],
        recipe: Recipe,
        plan: Plan,
        *,
        generator: torch.Generator,
        **options: Any,
    ) -> None:
        super().__init__(network, tasks[trained[0]], recipe, plan, generator=generator, **options)
        self.multi, self.tasks, self.trained = network, tasks, trained
        self._decks = [
            (
                Batches(len(data.train), recipe.batch_size, generator),
                Batches(len(data.val), recipe.batch_size, generator),
            )
            for data in tasks
        ]
        self._weight_turns = Batches(len(trained), 1, generator)
        self._alpha_turns = Batches(len(trained), 1, generator)
        self.select(trained[0])

    def select(self, task: int) -> None:
        """Turn to a dataset: its images, its batches, its head."""
        self.multi.select(task)
        self.data = self.tasks[task]
        self._train_batches, self._val_batches = self._decks[task]

    @property
    def steps_per_epoch(self) -> int:
        """Weight steps of one pass over all training splits together, shared out evenly."""
        return sum(len(self._decks[task][0]) for task in self.trained)

    def evaluate(self) -> Score:
        """Mean score on the validation splits; the network's state is kept if it is the best so far."""
        scores = [self.score(task) for task in self.trained]
        mean = Score(fmean(score.loss for score in scores), fmean(score.accuracy for score in scores))
        self.note(mean)
        return mean

    def score(self, task: int) -> Score:
        """Score on one dataset's validation split."""
        self.select(task)
        return evaluate(self.network, self.data, self.data.val, self.recipe)

    def alpha_step(self) -> None:
        self.select(self.trained[int(self._alpha_turns.draw())])
        super().alpha_step()

    def weight_step(self) -> Tensor:
        # Unless the variant's α step looked ahead at the batch that comes now: it is of the dataset of that α step.
        if self._held_batch is None:
            self.select(self.trained[int(self._weight_turns.draw())])
        return super().weight_step()

    def state(self) -> dict[str, Any]:
        """As `Loop.state`, with whose turn it is and every dataset's batches."""
        return {
            **super().state(),
            "decks": [[train.state(), val.state()] for train, val in self._decks],
            "weight_turns": self._weight_turns.state(),
            "alpha_turns": self._alpha_turns.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, with the same datasets and recipe."""
        super().load_state(state)
        for deck, stored in zip(self._decks, state["decks"], strict=True):
            for batches, batches_state in zip(deck, stored, strict=True):
                batches.load_state(batches_state)
        self._weight_turns.load_state(state["weight_turns"])
        self._alpha_turns.load_state(state["alpha_turns"])
