"""From supernet to architecture: the largest α against DARTS-PT's perturbation, on the same searched supernets.

    python benchmarks/derivation.py --tasks DIR [--names a b c] [--seeds 0 1] [--steps N] [--json FILE]

Both arms search with one seed and thus end the search with the same supernet, bit for bit; only what is derived from it
and the child network's training differ. Reported are the child networks' test accuracies, and what the derivation took.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from clients._threads import limit_threads
from search.recipe import DERIVATIONS, Recipe
from search.spaces import make_space
from search.tasks import load_dataset

NAMES = ("hand_digits", "print_greek", "fashion_foot_bag")


def main() -> None:
    arguments = parse()
    limit_threads()
    from search.pipeline import run_pipeline

    space = make_space(arguments.space)
    rows: list[dict[str, Any]] = []
    for name in arguments.names:
        dataset = load_dataset(arguments.tasks / f"{name}.npz")
        for seed in arguments.seeds:
            for derivation in DERIVATIONS:
                recipe = replace(Recipe.for_space(space), derivation=derivation, child_holds_out=True)
                if derivation == "perturbation":
                    recipe = replace(recipe, derivation_steps=arguments.steps)
                result = run_pipeline(dataset, space, recipe, seed=seed, device=arguments.device)
                rows.append(
                    {
                        "task": name,
                        "seed": seed,
                        "derivation": derivation,
                        "genotype": result.genotype,
                        "child_val_accuracy": result.child_val_accuracy,
                        "child_test_accuracy": result.child_test_accuracy,
                        "child_macs": result.child_macs,
                        "search_seconds": result.search_seconds,
                        "child_seconds": result.child_seconds,
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
                if arguments.json:
                    arguments.json.write_text(json.dumps(rows, indent=1))
    gains = [
        100 * (b["child_test_accuracy"] - a["child_test_accuracy"]) for a, b in zip(rows[::2], rows[1::2], strict=True)
    ]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
    print(
        f"perturbation - argmax: {statistics.fmean(gains):+.2f} ± {error:.2f} points of test accuracy, n={len(gains)}"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, required=True, help="folder of the tasks")
    parser.add_argument("--names", nargs="+", default=list(NAMES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--space", default="nas-bench-201")
    parser.add_argument("--steps", type=int, default=0, help="weight steps of fine-tuning after every decision")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
