"""Which operation does the supernet miss most: DARTS-PT's way from a supernet to an architecture.

Wang et al. 2021, *Rethinking Architecture Selection in Differentiable NAS* (arXiv 2108.04392), algorithm 1. A large α
does not mean an important operation: in a trained supernet skip connections earn large α by easing the training of
the others. So α is left aside, and every edge, in random order, is decided by trial:

    for each operation o of edge e:    score o by the validation accuracy of the supernet without o
    keep on e the operation without which the accuracy is lowest; fine-tune the supernet for a few steps

Where a family keeps only some edges of a node (DARTS: two), edges are then scored in the same way. `none` is no
candidate, as it is none for α. Accuracies of small validation splits tie often; the loss decides then.

Taking an operation away sets its mixture weight to 0 and leaves the others as they are. A decided edge has its one
operation with weight 1, as in the child network. BatchNorm statistics are collected afresh before every score.

Legend: E edges, O operations of a kind of cell.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch

from supernet_registry.search.children.selection import Selection
from supernet_registry.search.errors import SearchCancelled
from supernet_registry.search.networks.supernet import Network, Projection
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.spaces import family_of
from supernet_registry.search.spaces.family import CellKind, Node
from supernet_registry.search.training.data import Data
from supernet_registry.search.training.evaluation import Score, evaluate
from supernet_registry.search.training.loop import Loop
from supernet_registry.search.training.plan import Plan
from supernet_registry.search.training.runtime import Runtime

__all__ = ["select_by_perturbation"]


def select_by_perturbation(
    supernet: Network,
    data: Data,
    recipe: Recipe,
    *,
    generator: torch.Generator,
    should_stop: Callable[[], bool] = lambda: False,
    runtime: Runtime | None = None,
) -> Selection:
    """Derive an architecture from a searched supernet, which stays as it is.

    Args:
        supernet: on the device of the data.
        data: its validation split judges; its training split calibrates and fine-tunes.
        recipe: `derivation_steps` weight steps follow every decision.
        generator: source of the order of the edges, and of the batches.
        should_stop: polled before every score; True raises `SearchCancelled`.
        runtime: of the fine-tuning; None for this process alone.
    """
    return _Selector(copy.deepcopy(supernet), data, recipe, generator, should_stop, runtime).run()


class _Selector:
    """One selection under way, on a supernet of its own."""

    def __init__(
        self,
        network: Network,
        data: Data,
        recipe: Recipe,
        generator: torch.Generator,
        should_stop: Callable[[], bool],
        runtime: Runtime | None,
    ) -> None:
        self.network, self.data, self.recipe = network, data, recipe
        self._generator, self._should_stop, self._runtime = generator, should_stop, runtime
        self._family = family_of(network.space)
        self._kinds = self._family.cell_kinds(network.space)
        self._operations = network.space.operations
        self._projection = Projection.free(network)
        network.projection = self._projection
        self._loop = self._fine_tuning() if recipe.derivation_steps else None
        self._chosen: dict[tuple[str, int], int] = {}  # (kind, row of α) -> column of α
        self._dropped: set[tuple[str, int]] = set()  # edges

    def run(self) -> Selection:
        edges = [(kind.name, row) for kind in self._kinds for row in range(len(kind.edges))]
        for number in self._shuffled(len(edges)):
            self._decide_operation(*edges[number])
            self._fine_tune()
        for kind, rows in self._shuffled_nodes():
            self._decide_edges(kind, rows)
            self._fine_tune()
        self.network.projection = None
        genotype = {kind.name: self._nodes(kind) for kind in self._kinds}
        return Selection(genotype, self.network, self._loop.steps if self._loop else 0)

    def _decide_operation(self, kind: str, row: int) -> None:
        """Keep the operation of an edge whose absence hurts most."""
        columns = [column for column, name in enumerate(self._operations) if name != "none"]
        column = columns[0] if len(columns) == 1 else self._most_missed(kind, row, columns)
        self._chosen[kind, row] = column
        self._projection.decide(kind, row, column)

    def _most_missed(self, kind: str, row: int, columns: list[int]) -> int:
        scores: list[tuple[Score, int]] = []
        for column in columns:
            with self._projection.without(kind, row, column):
                scores.append((self._score(), column))
        return min(scores, key=lambda pair: _badness(pair[0]))[1]

    def _decide_edges(self, kind: str, rows: list[int]) -> None:
        """Of a node's edges, keep those whose absence hurts most."""
        assert self._family.edges_kept is not None
        scores: list[tuple[Score, int]] = []
        for row in rows:
            with self._projection.without(kind, row, None):
                scores.append((self._score(), row))
        ranked = sorted(scores, key=lambda pair: _badness(pair[0]))
        for _, row in ranked[self._family.edges_kept :]:
            self._dropped.add((kind, row))
            self._projection.drop(kind, row)

    def _score(self) -> Score:
        if self._should_stop():
            raise SearchCancelled("The search was cancelled.", remedy="Start it again to go on from its checkpoint.")
        return evaluate(self.network, self.data, self.data.val, self.recipe)

    def _shuffled(self, count: int) -> list[int]:
        return [int(number) for number in torch.randperm(count, generator=self._generator)]

    def _shuffled_nodes(self) -> Iterator[tuple[str, list[int]]]:
        """(kind, its edges' rows) of every node that has more edges than it may keep, in random order."""
        if self._family.edges_kept is None:
            return
        nodes = [(kind.name, rows) for kind in self._kinds for rows in _rows_by_node(kind)]
        crowded = [(kind, rows) for kind, rows in nodes if len(rows) > self._family.edges_kept]
        for number in self._shuffled(len(crowded)):
            yield crowded[number]

    def _fine_tuning(self) -> Loop:
        recipe = self.recipe
        decisions = sum(len(kind.edges) + (kind.nodes if self._family.edges_kept else 0) for kind in self._kinds)
        loop = Loop(
            self.network,
            self.data,
            recipe,
            Plan(
                phase="CHILD",
                epochs=1,
                patience=1,
                learning_rate=recipe.child_learning_rate,
                weight_decay=recipe.child_weight_decay,
                label_smoothing=recipe.child_label_smoothing,
                search_alphas=False,
            ),
            generator=self._generator,
            should_stop=self._should_stop,
            runtime=self._runtime,
        )
        epochs = max(1, decisions * recipe.derivation_steps // loop.steps_per_epoch)
        loop.replan(epochs=epochs, learning_rate=recipe.child_learning_rate)  # the cosine runs over all decisions
        return loop

    def _fine_tune(self) -> None:
        if self._loop is not None:
            self._loop.advance(self.recipe.derivation_steps)

    def _nodes(self, kind: CellKind) -> tuple[Node, ...]:
        return tuple(
            tuple(
                (self._operations[self._chosen[kind.name, row]], kind.edges[row].source)
                for row in rows
                if (kind.name, row) not in self._dropped
            )
            for rows in _rows_by_node(kind)
        )


def _rows_by_node(kind: CellKind) -> list[list[int]]:
    """Rows of α of the edges that enter each node."""
    targets = range(kind.inputs, kind.inputs + kind.nodes)
    return [[row for row, edge in enumerate(kind.edges) if edge.target == target] for target in targets]


def _badness(score: Score) -> tuple[float, float]:
    """Sorts the worst score first."""
    return score.accuracy, -score.loss
