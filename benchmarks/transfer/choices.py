"""The choices of a warm start, one at a time: what of the source is kept, how the head begins, how fast it is tuned.

    python -m benchmarks transfer-choices [--tasks DIR] [--seeds 3] [--jobs 2] [--arms NAME ...] [--quick] [--json FILE]

Each cell is a target, a source that was searched before, and a seed. The source is taken as given (there is no taste),
and every arm differs from the default in one choice. Related pairs are near relatives; the others are sources of
another domain, which a registry without relatives would offer. "Below by 1" says how often an arm ended more than a
point below scratch.

Targets are judged on images that were kept out of the draw (of the training split, at most 600): a choice made here has
seen no test image. Steps are weight updates until 95 % of scratch's best validation accuracy; a head that is there
before the first step costs one pass over the images and counts as one epoch.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.paired import Arm, Experiment, Run, carry_out, cells_of
from benchmarks.harness.paired import Cell as Place
from benchmarks.harness.pairs import (
    RECIPE,
    RELATED,
    SPACE,
    UNRELATED,
    Pair,
    choose_pairs,
    draw,
    draw_source,
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
from benchmarks.harness.report import Options, Section, print_table
from benchmarks.transfer.warm_starts import couple_head, perturb
from supernet_registry.search.children.child import derive_child
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.similarity import load_encoder, make_sketch, otdd
from supernet_registry.search.starts.setup import SearchSetup, Start
from supernet_registry.search.tasks import ImageDataset
from supernet_registry.search.training.data import Data, make_generator
from supernet_registry.search.training.loop import Loop

SCRATCH, DEFAULT = "scratch", "default"
SHARE = 0.95  # of scratch's best validation accuracy

HEADINGS = [
    "arm",
    "speed-up",
    "start, val",
    "gain over scratch",
    "over default",
    "worst",
    "below by 1",
    "child gain",
    "its worst",
]


@dataclass(frozen=True)
class Cell:
    """One target with one source and seed, on its way to an arm's first step."""

    setup: SearchSetup
    source: Mapping[str, Tensor]
    coupling: Tensor  # (classes of the target, classes of the source)
    scratch: Start

    def start(self, recipe: Recipe = RECIPE, mode: str = "WEIGHTS_AND_ALPHAS") -> Start:
        """The default warm start, with another recipe or mode."""
        setup = replace(self.setup, recipe=recipe)
        start = setup.prepare(self.source, mode)
        setup.choose_schedule(start, self.scratch)
        return start


def default(cell: Cell) -> Loop:
    """As it is."""
    return cell.start().loop


def with_recipe(**values: Any) -> Callable[[Cell], Loop]:
    """Other settings."""
    return lambda cell: cell.start(replace(RECIPE, **values)).loop


def with_mode(mode: str) -> Callable[[Cell], Loop]:
    """Another transfer mode."""
    return lambda cell: cell.start(mode=mode).loop


def random_head(cell: Cell) -> Loop:
    """PyTorch's initialisation of a linear layer."""
    fresh = cell.setup.bare_loop(warm=True).network
    return _with_head(cell.start().loop, lambda _: fresh.head.state_dict())


def source_head(cell: Cell) -> Loop:
    """The source's own rows, through the class coupling."""

    def coupled(network: Network) -> Mapping[str, Tensor]:
        couple_head(network, cell.source, cell.coupling)
        return network.head.state_dict()

    return _with_head(cell.start().loop, coupled)


def scratch_with(**values: Any) -> Callable[[Cell], Loop]:
    """From scratch, with other settings."""
    return lambda cell: replace(cell.setup, recipe=replace(RECIPE, **values)).prepare(None, "SCRATCH").loop


def shrunk(kept: float) -> Callable[[Cell], Loop]:
    """Shrink and perturb, on the schedule that the untouched source would have."""

    def begin(cell: Cell) -> Loop:
        plan = cell.start().loop.plan
        mixed = _mixed(cell, kept)
        loop = cell.setup.prepare(mixed, "WEIGHTS_AND_ALPHAS").loop
        loop.replan(epochs=plan.epochs, learning_rate=plan.learning_rate)
        return loop

    return begin


def _mixed(cell: Cell, kept: float) -> dict[str, Tensor]:
    """The source's tensors, on the way back to an initialisation that is neither its own nor the target's."""
    n_classes = len(cell.source["head.bias"])
    network = Network(SPACE, n_classes, generator=None)
    network.load_state_dict(cell.source)
    perturb(network, Network(SPACE, n_classes, generator=make_generator(cell.setup.seed, "perturb")), kept)
    return dict(network.state_dict())


def _with_head(loop: Loop, make: Callable[[Network], Mapping[str, Tensor]]) -> Loop:
    """A start with another head, scored anew."""
    loop.network.head.load_state_dict(make(loop.network))
    loop.best = None
    loop.evaluate()
    return loop


ARMS: dict[str, Callable[[Cell], Loop]] = {
    "default": default,
    "weights only": with_mode("WEIGHTS_ONLY"),
    "α only": with_mode("ALPHAS_ONLY"),
    "random head": random_head,
    "prototypes at full strength": with_recipe(head_scale=1.0),
    "prototypes × 0.1": with_recipe(head_scale=0.1),
    "source head by coupling": source_head,
    "head alone for an epoch": with_recipe(head_steps=8),
    "α tempered to 0.99": with_recipe(entropy_floor=0.99),
    "warm rate × 0.5": with_recipe(warm_learning_rate=RECIPE.warm_learning_rate / 2),
    "warm rate × 2": with_recipe(warm_learning_rate=RECIPE.warm_learning_rate * 2),
    "fine-tuning from two fifths closed": with_recipe(fine_tune_closing=0.4),
    "always the full schedule": with_recipe(fine_tune_closing=9.0),
    "always fine-tuning": with_recipe(fine_tune_closing=-9.0),
    "weight decay 0.01": with_recipe(weight_decay=0.01),
    "weight decay × 0.25": with_recipe(weight_decay=0.25 * RECIPE.weight_decay),
    "shrink to 0.8": shrunk(0.8),
    "shrink to 0.6": shrunk(0.6),
    "shrink to 0.4": shrunk(0.4),
    "scratch, prototypes at full strength": scratch_with(head_scale=1.0),
    "scratch, prototypes × 0.1": scratch_with(head_scale=0.1),
}


def train_child(supernet: Network, data: Data, seed: int) -> float:
    """Held-out accuracy of its child network, trained on both splits as the pipeline does it."""
    data = data.joined()
    generator = make_generator(seed, "child-network")
    return finish_child(derive_child(supernet, supernet.derive(), data, RECIPE, generator=generator), data, seed)


def class_coupling(source: ImageDataset, target: ImageDataset) -> Tensor:
    """Mass that the transport plan moves between the classes, (target, source)."""
    encoder = load_encoder("pixels")
    return torch.from_numpy(otdd(make_sketch(target, encoder), make_sketch(source, encoder)).class_coupling)


def prepare(folder: Path, place: Place) -> Cell:
    """With the source searched, once for all its targets."""
    source, target = pair_of(place)
    seed = place.seed
    tensors = search_source(folder, source, seed)
    before, dataset = draw_source(find(folder, source), seed), draw(find(folder, target), seed)
    setup = SearchSetup(SPACE, on_cpu(dataset), RECIPE, seed, lambda: False)
    return Cell(setup, tensors, class_coupling(before, dataset), setup.prepare(None, "SCRATCH"))


def measure(with_child: Sequence[str], cell: Cell, arm: str, _cpu_s: float | None) -> dict[str, Any]:
    """One arm from its first step to its last."""
    setup = cell.setup
    loop = setup.prepare(None, "SCRATCH").loop if arm == SCRATCH else ARMS[arm](cell)
    figures: dict[str, Any] = {"points": search(loop)}
    figures |= {"epoch_steps": loop.steps_per_epoch, "supernet": judge(loop.network, setup.data)}
    if arm in with_child:
        figures["child"] = train_child(loop.network, setup.data, setup.seed)
    return figures


def speed_up(run: Run, scratch: Run) -> float:
    """Scratch's steps to the goal over this arm's; 0 where it never got there."""
    goal = SHARE * max(accuracy for _, accuracy in scratch.figures["points"][1:])
    here, there = (next((n for n, value in r.figures["points"] if value >= goal), None) for r in (run, scratch))
    assert there is not None
    least = run.figures["epoch_steps"]
    return 0.0 if here is None else max(least, there) / max(least, here)


def summarise(cells: Iterable[Mapping[str, Run]], arm: str) -> dict[str, float]:
    """An arm's figures over some cells, against scratch and against the default, both paired."""
    trios = [(runs[arm], runs[SCRATCH], runs[DEFAULT]) for runs in cells]

    def gains(figure: str, base: int) -> list[float]:
        return [100 * (t[0].figures[figure] - t[base].figures[figure]) for t in trios if figure in t[0].figures]

    gain, over = gains("supernet", 1), gains("supernet", 2)
    figures = {
        "speed_up": statistics.median(speed_up(run, scratch) for run, scratch, _ in trios),
        "start": 100 * statistics.fmean(run.figures["points"][0][1] for run, _, _ in trios),
        "gain": statistics.fmean(gain),
        "worst": min(gain),
        "below": 100 * statistics.fmean(points < -1.0 for points in gain),
        "over_default": statistics.fmean(over),
        "over_default_error": statistics.stdev(over) / len(over) ** 0.5 if len(over) > 1 else math.nan,
    }
    if children := gains("child", 1):
        figures |= {"child_gain": statistics.fmean(children), "child_worst": min(children)}
    return figures


def table_line(arm: str, figures: Mapping[str, float]) -> list[str]:
    """One line of the human table."""
    over = f"{figures['over_default']:+.1f} ± {figures['over_default_error']:.1f}"
    line = [arm, f"{figures['speed_up']:.1f}", f"{figures['start']:.1f}", f"{figures['gain']:+.1f}", over]
    line += [f"{figures['worst']:+.1f}", f"{figures['below']:.0f} %"]
    return [*line, *(f"{figures[name]:+.1f}" if name in figures else "" for name in ("child_gain", "child_worst"))]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which arms are run."""
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="NAME")
    parser.add_argument(
        "--children", nargs="*", choices=[SCRATCH, *ARMS], default=[], metavar="NAME",
        help="arms that train a child; scratch has to, where another does",
    )  # fmt: skip


def run(options: Options) -> Section:
    """Every pair, seed and arm."""
    pairs = choose_pairs(options.tasks, {"related": RELATED, "unrelated": UNRELATED}, quick=options.quick)
    arms = list(dict.fromkeys([DEFAULT, *options.own.arms]))
    children = sorted({SCRATCH, *options.own.children}) if options.own.children else []
    experiment = Experiment(
        arms=[Arm(name) for name in (SCRATCH, *arms)],
        cells=cells_of([name_of(pair) for some in pairs.values() for pair in some], options.seed_range),
        prepare=partial(prepare, options.tasks),
        measure=partial(measure, children),
        described={"recipe": asdict(RECIPE), "space": SPACE.id, "children": children},
        files=partial(files_of, options.tasks),
        group=same_source,
    )
    outcome = carry_out(experiment, options)
    groups = {kind: cells_of_pairs(outcome.complete(), some) for kind, some in pairs.items()}
    summaries = {kind: {arm: summarise(cells, arm) for arm in arms} for kind, cells in groups.items() if cells}
    for kind, figures in summaries.items():
        print_table(
            f"{kind}: {len(pairs[kind])} pairs, {len(options.seed_range)} seeds",
            HEADINGS,
            [table_line(*line) for line in figures.items()],
        )
    return Section(
        {**outcome.figures(), "summaries": summaries}, [], {"pairs": pairs, "arms": arms}, missing=outcome.missing
    )


def cells_of_pairs(cells: Mapping[Place, Mapping[str, Run]], pairs: Sequence[Pair]) -> list[Mapping[str, Run]]:
    """Runs by arm, of the cells of some pairs."""
    return [runs for cell, runs in cells.items() if pair_of(cell) in pairs]
