"""Source selection on real transfer runs: what the registry picks, against what would have been best.

    python -m benchmarks selection [--seeds 3] [--jobs 2] [--race POINTS] [--quick] [--json FILE] [--work DIR]

Small targets, each searched from scratch, from every stored source, and as the registry decides (distance, quality
gate, taste). Among the sources lie the traps of the shared streams: labels drawn at random, permuted pixels, inverted
brightness, the same pictures under other labels, textures that look like X-rays.

Every number is the test accuracy of the final supernet, equal recipe and paired seeds; a policy is scored by its mean
over seeds. "Best in hindsight" is the single choice (a source, or scratch) with the best mean test accuracy over the
seeds of that target: nobody can know it beforehand, and being a maximum of noisy means it flatters; so the table also
gives the regret against the choice that was best on the *other* seeds, which does not.

Nothing is decided by test accuracy. Interrupted, it goes on where it was (`--work`). `--race POINTS` saves half of the
time: on seeds after the first, sources that were further than that below the best on the first are not tried again (the
nearest and the generalist always are); they could hardly have been best in hindsight, but the regret is a lower bound.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.harness.pairs import has
from benchmarks.harness.processes import worker_processes
from benchmarks.harness.report import Check, Options, Section, print_table
from benchmarks.selection.gain import evaluate
from benchmarks.selection.runs import Step, World, run_source, run_target, search_recipe

SOURCES = {
    "print_latin_lower": Step("print_latin_lower", 12, 5),
    "fashion_tops": Step("fashion_tops", 60, 20),
    "mnist_0to4": Step("mnist_0to4", 60, 20),
    "print_latin_upper_wild": Step("print_latin_upper_wild"),
    "emoji_food": Step("emoji_food", 20, 5),
    "omni_balinese": Step("omni_balinese"),
    "texture3": Step("texture3", 100, 30),
    "emoji_group": Step("emoji_group", 40, 12),
    # traps
    "mnist_random_labels": Step("mnist_all10", 30, 10, seed=3, labels="random"),
    "mnist_permuted_pixels": Step("mnist_0to4", 60, 20, transform="permute_pixels"),
    "fashion_inverted": Step("fashion_tops", 60, 20, transform="invert"),
}
GENERALIST = ["print_latin_lower", "fashion_tops", "mnist_0to4", "emoji_food", "omni_balinese", "texture3"]
TARGETS = {
    "omni_latin": Step("omni_latin", 5, 3),
    "fashion_tops_twin": Step("fashion_tops_twin", 10, 5),
    "mnist_5to9": Step("mnist_5to9", 10, 5),
    "print_digits_wild": Step("print_digits_wild", 10, 4),
    "emoji_animals": Step("emoji_animals", 8, 3),
    "omni_tagalog": Step("omni_tagalog", 6, 2),
    "emoji_vendor": Step("emoji_vendor", 40, 10),
    "fashion_foot_bag": Step("fashion_foot_bag", 10, 5),
    "pneumonia": Step("pneumonia", 20, 10),
    "print_greek": Step("print_greek", 8, 4),
    "notmnist_AtoJ": Step("notmnist_AtoJ", 12, 6),
    "hand_digits": Step("hand_digits", 10, 5),
}
QUICK_SOURCES = {
    "print_latin_lower": Step("print_latin_lower", 6, 3),
    "fashion_tops": Step("fashion_tops", 20, 10),
    "digits_random_labels": Step("optdigits", 10, 5, labels="random"),
}
QUICK_TARGETS = {"print_greek": Step("print_greek", 5, 3), "fashion_tops_twin": Step("fashion_tops_twin", 10, 5)}
POLICIES = ("scratch", "auto", "nearest", "random", "generalist")

Row = dict[str, Any]


def run_all(world: World, seeds: Sequence[int], jobs: int, race: float) -> list[Row]:
    """All searches, sources first; prints one line a finished target."""
    with worker_processes(jobs) as pool:
        sources = [pool.submit(run_source, world, name, seed) for seed in seeds for name in world.source_names]
        for source in concurrent.futures.as_completed(sources):
            source.result()
        first = run_targets(pool, world, seeds[:1], dict.fromkeys(world.targets, world.source_names))
        others = run_targets(pool, world, seeds[1:], {row["target"]: still_racing(row, race) for row in first})
    return sorted(first + others, key=lambda row: (list(world.targets).index(row["target"]), row["seed"]))


def run_targets(
    pool: concurrent.futures.Executor, world: World, seeds: Sequence[int], sources: Mapping[str, Sequence[str]]
) -> list[Row]:
    """Each target and seed with its sources."""
    rows: list[Row] = []
    targets = [pool.submit(run_target, world, name, seed, sources[name]) for seed in seeds for name in world.targets]
    for future in concurrent.futures.as_completed(targets):
        row = future.result()
        rows.append(row)
        outcomes = f"scratch {outcome(row, 'scratch'):.1f}, auto {outcome(row, 'auto'):.1f}"
        origin = row["auto"]["source"] or "scratch"
        print(f"[{len(rows)}/{len(targets)}] {row['target']}, {row['seed']}: {outcomes} from {origin}", flush=True)
    return rows


def still_racing(row: Row, points: float) -> list[str]:
    """Sources that are tried again: within `points` of the best on this seed, and the generalist."""
    best = max(outcome(row, option) for option in options_of([row]))
    return [name for name in row["sources"] if name == "generalist" or outcome(row, name) >= best - points]


def nearest_of(row: Row) -> str:
    """The nearest stored source."""
    return min((n for n in row["sources"] if n != "generalist"), key=lambda n: row["distances"][n]["ot_distance"])


def outcome(row: Row, policy: str) -> float:
    """Test accuracy in points that a policy, or a fixed source, gets on one target and seed."""
    sources = row["sources"]
    match policy:
        case "scratch" | "auto":
            return 100 * float(row[policy]["test_accuracy"])
        case "nearest":
            return 100 * float(sources[nearest_of(row)]["test_accuracy"])
        case "random":
            return 100 * statistics.fmean(sources[name]["test_accuracy"] for name in sources if name != "generalist")
        case _:
            return 100 * float(sources[policy]["test_accuracy"])


def options_of(rows: Sequence[Row]) -> list[str]:
    """Everything that could have been chosen on all of these: scratch or any source."""
    return ["scratch", *(name for name in rows[0]["sources"] if all(name in row["sources"] for row in rows))]


def mean_outcome(rows: Sequence[Row], policy: str) -> float:
    """Over the seeds of one target; for a random source over those seeds on which all were tried."""
    if policy == "random":
        most = max(len(row["sources"]) for row in rows)
        rows = [row for row in rows if len(row["sources"]) == most]
    return statistics.fmean(outcome(row, policy) for row in rows)


def hindsight(rows: Sequence[Row]) -> str:
    """The one choice with the best mean over the seeds of one target."""
    return max(options_of(rows), key=lambda option: mean_outcome(rows, option))


def regret(rows: Sequence[Row], policy: str) -> float:
    """Points of test accuracy below the best choice in hindsight, of one target."""
    return mean_outcome(rows, hindsight(rows)) - mean_outcome(rows, policy)


def unbiased_regret(rows: Sequence[Row], policy: str) -> float:
    """The same against the choice that was best on the other seeds: its noise is not the one it is scored with."""
    if policy == "random":
        return float("nan")
    losses = []
    for row in rows:
        others = [other for other in rows if other is not row]
        best = max(options_of(rows), key=lambda option: mean_outcome(others, option))
        losses.append(outcome(row, best) - outcome(row, policy))
    return statistics.fmean(losses)


def by_target(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """The seeds of each target."""
    for name in dict.fromkeys(row["target"] for row in rows):
        yield name, [row for row in rows if row["target"] == name]


def taste_share(row: Row, unit: str) -> float:
    """Cost of the taste as a share of taste and search together; in `steps` or `seconds`."""
    taste, search = row["auto"][f"taste_{unit}"], row["auto"][f"search_{unit}"]
    return float(taste / max(taste + search, 1e-9))


def matrix_rows(rows: Sequence[Row], world: World) -> list[dict[str, Any]]:
    """What transfer gained, one row for each target, source and seed; read by the encoder and gain-model sections."""
    result = []
    for row in rows:
        for source, trial in row["sources"].items():
            facts = run_source(world, source, row["seed"])
            chance = row["distances"][source]["chance"]
            result.append(
                {
                    "target": row["target"],
                    "source": source,
                    "seed": row["seed"],
                    "gain": trial["test_accuracy"] - row["scratch"]["test_accuracy"],
                    "zero_step_gain": trial["zero_step_accuracy"] - row["scratch"]["zero_step_accuracy"],
                    "ot_distance": row["distances"][source]["ot_distance"],
                    "source_skill": (facts["val_accuracy"] - chance) / (1.0 - chance),
                    "source_images": facts["train_count"],
                    "target_images": row["train_count"],
                    "source_classes": facts["classes"],
                    "target_classes": row["classes"],
                }
            )
    return result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many at a time, and what is not tried again."""
    parser.set_defaults(jobs=os.cpu_count() or 1)
    parser.add_argument(
        "--race", type=float, default=100.0, metavar="POINTS", help="see above; by default all are tried"
    )


def run(options: Options) -> Section:
    """All searches, then what they are worth."""
    quick = options.quick
    world = World(
        tasks=options.tasks,
        work=options.work,
        sources=QUICK_SOURCES if quick else SOURCES,
        targets=QUICK_TARGETS if quick else TARGETS,
        generalist=["print_latin_lower", "fashion_tops"] if quick else GENERALIST,
        recipe=search_recipe(2 if quick else 0),
    )
    steps = {**world.sources, **world.targets}
    if not has(options.tasks, *(step.task for step in steps.values())):
        raise SystemExit("The full run needs the 36 shared tasks (--tasks DIR); try --quick.")
    rows = run_all(world, options.seed_range, options.jobs, options.own.race)
    report(rows)
    matrix = matrix_rows(rows, world)
    learnt = evaluate(matrix)
    figures = {
        "rows": rows,
        "matrix": matrix,
        "gain_model": learnt.figures,
        "tasks": {name: vars(step) for name, step in steps.items()},
    }
    return Section(figures, checks(rows) + learnt.checks, {"race": options.own.race})


def report(rows: Sequence[Row]) -> None:
    """The human tables."""
    print_table(
        "test accuracy in points, mean over seeds; regret of the registry's choice",
        ["target", *POLICIES, "best in hindsight", "regret", "unbiased", "chosen (by seed)"],
        [
            [
                name,
                *(f"{mean_outcome(mine, policy):.1f}" for policy in POLICIES),
                f"{hindsight(mine)} {mean_outcome(mine, hindsight(mine)):.1f}",
                f"{regret(mine, 'auto'):.1f}",
                f"{unbiased_regret(mine, 'auto'):+.1f}" if len(mine) > 1 else "–",
                ", ".join(row["auto"]["source"] or "scratch" for row in mine),
            ]
            for name, mine in by_target(rows)
        ],
    )
    print_table(
        "policies, over all targets",
        ["policy", "mean test", "mean regret", "unbiased", "worst − scratch", "targets > 1 below scratch"],
        [
            [
                policy,
                f"{over_targets(rows, lambda mine, p=policy: mean_outcome(mine, p)):.2f}",  # type: ignore[misc]
                f"{over_targets(rows, lambda mine, p=policy: regret(mine, p)):.2f}",  # type: ignore[misc]
                f"{over_targets(rows, lambda mine, p=policy: unbiased_regret(mine, p)):+.2f}"  # type: ignore[misc]
                if len({row["seed"] for row in rows}) > 1
                else "–",
                f"{min(below_scratch(rows, policy)):+.1f}",
                str(sum(change < -1 for change in below_scratch(rows, policy))),
            ]
            for policy in POLICIES
        ],
    )


def over_targets(rows: Sequence[Row], figure: Callable[[list[Row]], float]) -> float:
    """Mean of a figure over targets."""
    return statistics.fmean(figure(mine) for _, mine in by_target(rows))


def below_scratch(rows: Sequence[Row], policy: str) -> list[float]:
    """For each target, a policy's mean test accuracy less scratch's, in points."""
    return [mean_outcome(mine, policy) - mean_outcome(mine, "scratch") for _, mine in by_target(rows)]


def checks(rows: Sequence[Row]) -> list[Check]:
    """The issue's numbers."""
    mean_regret = over_targets(rows, lambda mine: regret(mine, "auto"))
    worst = min(below_scratch(rows, "auto"))
    steps = statistics.fmean(taste_share(row, "steps") for row in rows)
    seconds = statistics.fmean(taste_share(row, "seconds") for row in rows)
    return [
        Check("mean regret against the best choice in hindsight", mean_regret, "≤ 1", "points", mean_regret <= 1),
        Check("worst target against scratch", worst, "≥ -1", "points", worst >= -1),
        Check("taste's share of the steps of a search, mean", 100 * steps, "≤ 15", "%", steps <= 0.15),
        Check("taste's share of the seconds of a search, mean", 100 * seconds, "≤ 15", "%", seconds <= 0.15),
    ]
