"""Does knowledge build up? Task streams through the real service, under the policies that are compared.

    python benchmarks/continual/continual.py [STREAM ...] [--quick] [--seeds 3] [--tasks FOLDER] [--out FOLDER] [--json
    FILE]
                                   [--docs docs/results.md]

The same as `supernet-registry evaluate`, with the numbers that are asked for as checks. Killed, it goes on where it
was. Uses the 36 benchmark tasks and their nine streams where they lie beside the checkout, else the shipped tasks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.harness.report import finish
from supernet_registry.registry.evaluation.evaluating import evaluate_plan, report
from supernet_registry.registry.evaluation.plan import SHUFFLED, Plan
from supernet_registry.registry.evaluation.policies import DEFAULT_POLICIES, QUICK_POLICIES, Policy

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "tasks"
SHIPPED = ROOT / "examples"


BEGIN, END = "<!-- figures: made by benchmarks/continual/continual.py -->", "<!-- end of figures -->"


def renew(docs: Path, out: Path) -> None:
    """Put the report's tables between the two marks of a Markdown file, and the main figure beside it."""
    before, rest = docs.read_text("utf-8").split(BEGIN)
    _, after = rest.split(END)
    title, _, tables = (out / "report.md").read_text("utf-8").partition("\n\n")
    assert title.startswith("# "), "the report begins with its title"
    docs.write_text(f"{before}{BEGIN}\n\n{tables.strip()}\n\n{END}{after}", "utf-8")
    shutil.copyfile(out / "main.png", docs.parent / "pictures" / "continual.png")


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("streams", nargs="*", help="by default all of the file")
    parser.add_argument("--tasks", type=Path, help="folder of tasks with its streams.json")
    parser.add_argument("--policy", type=Policy, action="append", choices=list(Policy), dest="policies")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shuffled", action="store_true", help="also every stream in another order for each seed")
    parser.add_argument("--workers", type=int, default=0, help="runs at the same time; 0 for one a core")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="seven shipped tasks, one seed, four policies")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("results/continual"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", type=Path, help="Markdown file whose figures are replaced by these")
    arguments = parser.parse_args()
    shipped = arguments.quick or not (arguments.tasks or SHARED.is_dir())
    tasks = SHIPPED / "tasks" if shipped else arguments.tasks or SHARED
    file = SHIPPED / "streams.json" if shipped else tasks / "streams.json"
    names = tuple(arguments.streams or (["quick"] if shipped else json.loads(file.read_text())))
    policies = arguments.policies or (QUICK_POLICIES if arguments.quick else DEFAULT_POLICIES)
    plan = Plan(
        tasks=tasks,
        streams_file=file,
        streams=(*names, *(name + SHUFFLED for name in names if arguments.shuffled)),
        policies=tuple(policies),
        seeds=tuple(range(1 if arguments.quick else arguments.seeds)),
        device=arguments.device,
    )
    failures = [] if arguments.report_only else evaluate_plan(plan, arguments.out, workers=arguments.workers)
    summary, checks, files = report(arguments.out)
    print("\n".join(f"written: {path}" for path in files))
    finish(
        "continual",
        asdict(summary),
        checks,
        seeds=plan.seeds,
        arguments={"streams": list(names), "policies": [policy.value for policy in plan.policies]},
        path=arguments.json,
    )
    if arguments.docs:
        renew(arguments.docs, arguments.out)
    if failures:
        raise SystemExit(f"{len(failures)} runs failed: {', '.join(str(failure.unit) for failure in failures)}")


if __name__ == "__main__":
    main()
