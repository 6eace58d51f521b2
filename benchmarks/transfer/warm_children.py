"""What a child network should keep of a supernet that was searched from a source.

    python -m benchmarks warm-children [--tasks DIR] [--seeds 3] [--jobs 2] [--quick] [--json FILE]

Each cell is a pair of near relatives of `transfer-choices` and a seed: a search from the source, a search from
scratch, and children that differ in one choice, all trained alike on both splits. They are judged on images of the
training split that were kept out of the draw, so that no test image is seen.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness.paired import Arm, Cell, Experiment, Run, carry_out, cells_of, compare
from benchmarks.harness.pairs import (
    RECIPE,
    RELATED,
    SPACE,
    choose_pairs,
    draw,
    files_of,
    find,
    finish_child,
    judge,
    name_of,
    on_cpu,
    pair_of,
    same_source,
    search_source,
)
from benchmarks.harness.pairs import run as search
from benchmarks.harness.report import Options, Section, print_table, with_error
from benchmarks.transfer.warm_starts import perturb
from supernet_registry.search.children.child import inherit, make_child
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.starts.setup import SearchSetup
from supernet_registry.search.starts.warm_start import fit_head, soften_head
from supernet_registry.search.training.data import Data, make_generator

SCRATCH, DEFAULT = "scratch", "default"
NOISY = "wild"


@dataclass(frozen=True)
class Pair:
    """Two searched supernets of one target, and what their children are trained on."""

    scratch: Network
    warm: Network
    data: Data
    seed: int
    accuracies: dict[str, float]
    """Of the supernets, by the arm whose child is theirs alone."""

    def child(self, weights: Network, architecture: Network, *, kept: float = 1.0, recipe: Recipe = RECIPE) -> float:
        """Held-out accuracy of a child that keeps a share of what it inherits; the rest is a fresh initialisation."""
        generator = make_generator(self.seed, "child-network")
        child = make_child(architecture, architecture.derive(), recipe, generator=generator)
        fresh = copy.deepcopy(child)
        inherit(child, weights.state_dict())
        perturb(child, fresh, kept)
        fit_head(child, self.data, recipe)
        soften_head(child, recipe.child_head_scale)
        return finish_child(child, self.data, self.seed, recipe)


SLOW = replace(RECIPE, child_learning_rate=0.4 * RECIPE.child_learning_rate)
ARMS: dict[str, Callable[[Pair], float]] = {
    SCRATCH: lambda pair: pair.child(pair.scratch, pair.scratch),
    DEFAULT: lambda pair: pair.child(pair.warm, pair.warm),
    "scratch's weights": lambda pair: pair.child(pair.scratch, pair.warm),
    "scratch's architecture": lambda pair: pair.child(pair.warm, pair.scratch),
    "nothing inherited": lambda pair: pair.child(pair.warm, pair.warm, kept=0.0),
    "shrunk to 0.5 and perturbed": lambda pair: pair.child(pair.warm, pair.warm, kept=0.5),
    "rate × 0.4": lambda pair: pair.child(pair.warm, pair.warm, recipe=SLOW),
}


def prepare(folder: Path, cell: Cell) -> Pair:
    """Both searches."""
    source, target = pair_of(cell)
    seed = cell.seed
    data = on_cpu(draw(find(folder, target), seed))
    setup = SearchSetup(SPACE, data, RECIPE, seed, lambda: False)
    scratch = setup.prepare(None, "SCRATCH")
    warm = setup.prepare(search_source(folder, source, seed), "WEIGHTS_AND_ALPHAS")
    setup.choose_schedule(warm, scratch)
    for start in (scratch, warm):
        search(start.loop)
    networks = {SCRATCH: scratch.loop.network, DEFAULT: warm.loop.network}
    accuracies = {arm: judge(network, data) for arm, network in networks.items()}
    return Pair(*networks.values(), data.joined(), seed, accuracies)


def measure(pair: Pair, arm: str, _cpu_s: float | None) -> dict[str, Any]:
    """One child."""
    figures = {"child": ARMS[arm](pair)}
    return figures | ({"supernet": pair.accuracies[arm]} if arm in pair.accuracies else {})


def gains(runs: Sequence[Run], arm: str, base: str) -> str:
    """Points of one arm over another, paired, and the worst; nothing of an arm over itself."""
    if arm == base:
        return ""
    found = compare(runs, "child", arm=arm, base=base)
    return f"{with_error(found.differences)} ({found.worst:+.1f})"


def run(options: Options) -> Section:
    """Every pair, seed and child."""
    pairs = choose_pairs(options.tasks, {"related": RELATED}, quick=options.quick)["related"]
    experiment = Experiment(
        arms=[Arm(name) for name in ARMS],
        cells=cells_of(map(name_of, pairs), options.seed_range),
        prepare=partial(prepare, options.tasks),
        measure=measure,
        described={"recipe": asdict(RECIPE), "space": SPACE.id},
        files=partial(files_of, options.tasks),
        group=same_source,
    )
    outcome = carry_out(experiment, options)
    complete = outcome.complete()
    cells = {"all": list(complete), "clean": [cell for cell in complete if NOISY not in pair_of(cell)[1]]}
    for name, group in cells.items():
        runs = [run for cell in group for run in complete[cell].values()]
        if runs:
            print_table(
                f"{name}: {len(group)} runs; points on held-out images (worst)",
                ["child", "accuracy", "over scratch's child", "over the default"],
                [
                    [
                        arm,
                        f"{100 * statistics.fmean(run.figures['child'] for run in runs if run.arm == arm):.1f}",
                        gains(runs, arm, SCRATCH),
                        gains(runs, arm, DEFAULT),
                    ]
                    for arm in ARMS
                ],
            )
    runs = [run for by_arm in complete.values() for run in by_arm.values()]
    bases = (SCRATCH, DEFAULT) if runs else ()
    comparisons = [compare(runs, "child", arm=arm, base=base) for base in bases for arm in ARMS if arm != base]
    return Section(outcome.figures(comparisons), [], {"pairs": pairs}, missing=outcome.missing)
