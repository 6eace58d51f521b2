"""Sets up the search loop of any contender: fresh or transferred network, prototype head, schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from supernet_registry.search.networks.alpha_prior import lean
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.spaces import SearchSpace
from supernet_registry.search.starts.evidence import Evidence
from supernet_registry.search.starts.warm_start import carries_weights, fit_head, soften_head, temper, transfer
from supernet_registry.search.training.data import Data, make_generator
from supernet_registry.search.training.evaluation import collect_logits, score_logits
from supernet_registry.search.training.loop import Loop
from supernet_registry.search.training.plan import Plan
from supernet_registry.search.training.runtime import Runtime

__all__ = ["SearchSetup", "Start"]


@dataclass(frozen=True)
class Start:
    """A loop before its first step, scored on the validation split, and all that is known of it."""

    loop: Loop
    evidence: Evidence


@dataclass(frozen=True)
class SearchSetup:
    """All that is needed to set up the search loop of any contender."""

    space: SearchSpace
    data: Data
    recipe: Recipe
    seed: int
    should_stop: Callable[[], bool]
    say: Callable[[str], None] = lambda _: None
    runtime: Runtime | None = None  # of the loops; None for this process alone

    def prepare(self, source: Mapping[str, Tensor] | None, mode: str) -> Start:
        """A loop ready for its first step: fresh or transferred network, head computed from prototypes.

        It is judged with that head, and trained with a softer one.
        """
        network = self._fresh_network()
        if source is not None:
            transfer(network, source, mode)
            temper(network, self.recipe.entropy_floor)
        loop = self._loop(network, warm=source is not None and carries_weights(mode))
        head = fit_head(loop.network, self.data, self.recipe)
        logits, labels = collect_logits(loop.network, self.data, self.data.val, self.recipe)
        loop.network.set_norm_mode("train")
        loop.note(score_logits(logits, labels))
        soften_head(loop.network, self.recipe.head_scale)
        return Start(loop, Evidence.of((head.held_out_logits, head.held_out_labels), (logits.cpu(), labels.cpu())))

    def choose_schedule(self, start: Start, scratch: Start) -> None:
        """Give a source's loop the full schedule of a search from scratch, unless fine-tuning is enough for it.

        A source that knows the target already beats scratch clearly before any step, when both have nothing but their
        prototype heads. One that does not is only an initialisation, and cutting its search short would hurt: see
        "Transfer choices" in docs/benchmarks.md.
        """
        theirs = scratch.evidence.accuracy
        if start.evidence.accuracy - theirs < self.recipe.fine_tune_closing * (1.0 - theirs):
            start.loop.replan(epochs=self.recipe.epochs, learning_rate=self.recipe.learning_rate)

    def bare_loop(self, *, warm: bool) -> Loop:
        """A loop around a freshly initialised supernet; `warm` decides its length and learning rate."""
        return self._loop(self._fresh_network(), warm=warm)

    def _fresh_network(self) -> Network:
        network = Network(
            self.space,
            self.data.n_classes,
            generator=make_generator(self.seed, "supernet"),
            alpha_scale=self.recipe.alpha_scale,
        )
        lean(network, self.recipe.alpha_prior)
        return network.to(self.data.device)

    def _loop(self, network: Network, *, warm: bool) -> Loop:
        recipe = self.recipe
        plan = Plan(
            phase="SEARCH",
            epochs=recipe.warm_epochs if warm else recipe.epochs,
            patience=recipe.patience,
            learning_rate=recipe.warm_learning_rate if warm else recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            label_smoothing=recipe.label_smoothing,
            search_alphas=True,
            head_steps=recipe.head_steps if warm else 0,
            start_counts=warm,  # random features under a prototype head, and an α that knows nothing, are no result
        )
        return Loop(
            network,
            self.data,
            recipe,
            plan,
            generator=make_generator(self.seed, "search"),
            should_stop=self.should_stop,
            say=self.say,
            runtime=self.runtime,
        )
