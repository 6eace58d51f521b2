"""The choices of a warm start, one at a time: what of the source is kept, how the head begins, how fast it is tuned.

    python benchmarks/transfer/choices.py [--tasks DIR] [--seeds 3] [--jobs 2] [--quick] [--json FILE]

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
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from benchmarks.harness.report import finish, print_table
from benchmarks.supernet.child_choices import held_out
from benchmarks.transfer.warm_starts import couple_head, perturb
from supernet_registry.search.children.child import derive_child
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.similarity import load_encoder, make_sketch, otdd
from supernet_registry.search.spaces import make_space
from supernet_registry.search.starts.setup import SearchSetup, Start
from supernet_registry.search.tasks import ImageDataset, TaskDerivation, derive, load_dataset
from supernet_registry.search.training.data import Data, load_data, make_generator
from supernet_registry.search.training.evaluation import calibrate, collect_logits, score_logits
from supernet_registry.search.training.loop import Loop, Plan

SHIPPED = Path(__file__).parents[2] / "examples" / "tasks"
SHARED = Path(__file__).parents[3] / "shared" / "tasks"
SPACE = make_space()
RECIPE = Recipe.for_space(SPACE)
SCRATCH = "scratch"
SHARE = 0.95  # of scratch's best validation accuracy
SOURCE_IMAGES, TARGET_IMAGES, VALIDATION_IMAGES = 400, 150, 75  # about

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
Row = dict[str, Any]

RELATED = [
    ("print_latin_lower", "print_greek"),
    ("print_latin_upper", "print_cyrillic"),
    ("print_latin_upper_wild", "print_digits_wild"),
    ("print_latin_upper_wild", "print_devanagari_wild"),
    ("fashion_tops", "fashion_tops_twin"),
    ("omni_katakana", "omni_latin"),
    ("omni_balinese", "omni_tagalog"),
    ("emoji_food", "emoji_animals"),
    ("mnist_0to4", "mnist_5to9"),
    ("mnist_all10", "hand_digits"),
]
UNRELATED = [
    ("fashion_tops", "hand_digits"),
    ("omni_balinese", "print_hebrew"),
    ("mnist_0to4", "emoji_food"),
    ("fashion_tops", "print_latin_upper_wild"),
    ("texture3", "pneumonia"),
    ("print_latin_lower", "fashion_tops_twin"),
    ("emoji_food", "print_digits"),
    ("print_latin_upper_wild", "trash_grey"),
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


@cache
def find(folder: Path, task: str) -> ImageDataset:
    """A task by name."""
    return load_dataset(folder / f"{task}.npz")


def draw(task: ImageDataset, seed: int) -> ImageDataset:
    """A target: a few images of every class, judged on those of the training split that are left."""
    n_train = max(4, TARGET_IMAGES // task.n_classes)
    return held_out(task, n_train, max(2, VALIDATION_IMAGES // task.n_classes), seed)


def draw_source(task: ImageDataset, seed: int) -> ImageDataset:
    """A source, with more images."""
    n_train = max(4, SOURCE_IMAGES // task.n_classes)
    return derive(task, TaskDerivation(n_train=n_train, n_val=max(3, n_train // 3), seed=seed))


def run(loop: Loop) -> list[tuple[int, float]]:
    """Search to the end; (steps, validation accuracy) of the start and of every epoch."""
    assert loop.best is not None
    points = [(0, loop.best.accuracy)]
    while not loop.finished:
        epoch = loop.run_epoch()
        points.append((epoch.steps, epoch.val_accuracy))
    loop.restore_best()
    return points


def judge(network: Network, data: Data) -> float:
    """Accuracy on the held-out images."""
    calibrate(network, data, RECIPE)
    return score_logits(*collect_logits(network, data, data.test, RECIPE)).accuracy


def train_child(supernet: Network, data: Data, seed: int) -> float:
    """Held-out accuracy of its child network, trained on both splits as the pipeline does it."""
    data = data.joined()
    generator = make_generator(seed, "child-network")
    return finish_child(derive_child(supernet, supernet.derive(), data, RECIPE, generator=generator), data, seed)


def finish_child(child: Network, data: Data, seed: int, recipe: Recipe = RECIPE) -> float:
    """Train a child network on the training split to the last epoch; its held-out accuracy."""
    plan = Plan(
        phase="CHILD",
        epochs=recipe.child_epochs,
        patience=recipe.child_epochs,
        learning_rate=recipe.child_learning_rate,
        weight_decay=recipe.child_weight_decay,
        label_smoothing=recipe.child_label_smoothing,
        search_alphas=False,
        keep_last=True,
        judged=False,
    )
    loop = Loop(child, data, recipe, plan, generator=make_generator(seed, "child"))
    while not loop.finished:
        loop.run_epoch()
    loop.restore_best()
    return judge(child, data)


def search_source(folder: Path, task: str, seed: int) -> dict[str, Tensor]:
    """Tensors of a supernet searched from scratch, from another initialisation than the targets'."""
    data = load_data(draw_source(find(folder, task), seed), SPACE, torch.device("cpu"))
    loop = SearchSetup(SPACE, data, RECIPE, seed + 1000, lambda: False).prepare(None, "SCRATCH").loop
    run(loop)
    return dict(loop.network.state_dict())


def class_coupling(source: ImageDataset, target: ImageDataset) -> Tensor:
    """Mass that the transport plan moves between the classes, (target, source)."""
    encoder = load_encoder("pixels")
    return torch.from_numpy(otdd(make_sketch(target, encoder), make_sketch(source, encoder)).class_coupling)


@dataclass(frozen=True)
class Job:
    """A source at one seed, and what is measured from there."""

    folder: Path
    source: str
    targets: tuple[str, ...]
    seed: int
    arms: tuple[str, ...]
    with_child: tuple[str, ...]


def measure(job: Job) -> list[Row]:
    """All targets of a source at one seed: a row for scratch and for every arm."""
    torch.set_num_threads(1)
    tensors = search_source(job.folder, job.source, job.seed)
    before = draw_source(find(job.folder, job.source), job.seed)
    rows: list[Row] = []
    for target in job.targets:
        dataset = draw(find(job.folder, target), job.seed)
        setup = SearchSetup(SPACE, load_data(dataset, SPACE, torch.device("cpu")), RECIPE, job.seed, lambda: False)
        cell = Cell(setup, tensors, class_coupling(before, dataset), setup.prepare(None, "SCRATCH"))
        for arm in (SCRATCH, *job.arms):
            loop = setup.prepare(None, "SCRATCH").loop if arm == SCRATCH else ARMS[arm](cell)
            row: Row = {"source": job.source, "target": target, "seed": job.seed, "arm": arm, "points": run(loop)}
            row |= {"epoch_steps": loop.steps_per_epoch, "supernet": judge(loop.network, setup.data)}
            if arm in job.with_child:
                row["child"] = train_child(loop.network, setup.data, job.seed)
            rows.append(row)
    return rows


def speed_up(row: Row, scratch: Row) -> float:
    """Scratch's steps to the goal over this arm's; 0 where it never got there."""
    goal = SHARE * max(accuracy for _, accuracy in scratch["points"][1:])
    here, there = (next((n for n, accuracy in r["points"] if accuracy >= goal), None) for r in (row, scratch))
    assert there is not None
    least = row["epoch_steps"]
    return 0.0 if here is None else max(least, there) / max(least, here)


def summarise(rows: Iterable[Row], pairs: Iterable[tuple[str, str]], arm: str) -> dict[str, float]:
    """An arm's figures over some pairs, against scratch and against the default, both paired."""
    found = {(row["source"], row["target"], row["seed"], row["arm"]): row for row in rows}
    mine = [row for row in rows if row["arm"] == arm and (row["source"], row["target"]) in set(pairs)]

    def other(row: Row, name: str) -> Row:
        return found[row["source"], row["target"], row["seed"], name]

    gains = [100 * (row["supernet"] - other(row, SCRATCH)["supernet"]) for row in mine]
    over = [100 * (row["supernet"] - other(row, "default")["supernet"]) for row in mine]
    figures = {
        "speed_up": statistics.median(speed_up(row, other(row, SCRATCH)) for row in mine),
        "start": 100 * statistics.fmean(row["points"][0][1] for row in mine),
        "gain": statistics.fmean(gains),
        "worst": min(gains),
        "below": 100 * statistics.fmean(gain < -1.0 for gain in gains),
        "over_default": statistics.fmean(over),
        "over_default_error": statistics.stdev(over) / len(over) ** 0.5 if len(over) > 1 else float("nan"),
    }
    children = [(row, other(row, SCRATCH), other(row, "default")) for row in mine if "child" in row]
    if children:
        figures["child_gain"] = 100 * statistics.fmean(row["child"] - scratch["child"] for row, scratch, _ in children)
        figures["child_worst"] = 100 * min(row["child"] - scratch["child"] for row, scratch, _ in children)
    return figures


def table_line(arm: str, figures: Mapping[str, float]) -> list[str]:
    """One line of the human table."""
    over = f"{figures['over_default']:+.1f} ± {figures['over_default_error']:.1f}"
    line = [arm, f"{figures['speed_up']:.1f}", f"{figures['start']:.1f}", f"{figures['gain']:+.1f}", over]
    line += [f"{figures['worst']:+.1f}", f"{figures['below']:.0f} %"]
    return [*line, *(f"{figures[name]:+.1f}" if name in figures else "" for name in ("child_gain", "child_worst"))]


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, default=SHARED if SHARED.is_dir() else SHIPPED)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--children", nargs="*", choices=[SCRATCH, *ARMS], default=[], help="arms that train a child")
    parser.add_argument("--quick", action="store_true", help="one pair of either kind, one seed")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    kinds = {"related": RELATED, "unrelated": UNRELATED}
    there = {kind: [pair for pair in pairs if has(arguments.tasks, pair)] for kind, pairs in kinds.items()}
    there = {kind: pairs[: 1 if arguments.quick else None] for kind, pairs in there.items()}
    seeds = range(1 if arguments.quick else arguments.seeds)
    jobs = list(plan_jobs(arguments.tasks, there, seeds, arguments.arms, arguments.children))
    rows: list[Row] = []
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for number, result in enumerate(pool.map(measure, jobs), 1):
            rows += result
            print(f"{number} of {len(jobs)}: from {jobs[number - 1].source}, seed {jobs[number - 1].seed}", flush=True)
    summaries = {
        kind: {arm: summarise(rows, pairs, arm) for arm in dict.fromkeys(["default", *arguments.arms])}
        for kind, pairs in there.items()
        if pairs
    }
    for kind, figures in summaries.items():
        print_table(
            f"{kind}: {len(there[kind])} pairs, {len(seeds)} seeds", HEADINGS, [table_line(*f) for f in figures.items()]
        )
    finish(
        "transfer_choices",
        {"runs": rows, "summaries": summaries},
        [],
        seeds=list(seeds),
        arguments={"pairs": there, "quick": arguments.quick},
        path=arguments.json,
    )


def has(folder: Path, pair: tuple[str, str]) -> bool:
    """Whether both tasks are there."""
    return all((folder / f"{task}.npz").exists() for task in pair)


def plan_jobs(
    folder: Path, pairs: Mapping[str, list[tuple[str, str]]], seeds: Iterable[int], arms: list[str], children: list[str]
) -> Iterator[Job]:
    """A job for every source and seed."""
    every = [pair for group in pairs.values() for pair in group]
    arms = list(dict.fromkeys(["default", *arms]))
    for seed in seeds:
        for source in dict.fromkeys(source for source, _ in every):
            targets = tuple(target for origin, target in every if origin == source)
            yield Job(folder, source, targets, seed, tuple(arms), tuple(children))


if __name__ == "__main__":
    main()
