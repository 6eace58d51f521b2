"""Does knowledge build up? Task streams through the real service, under the policies that are compared.

    python -m benchmarks continual [STREAM ...] [--quick] [--seeds 3] [--tasks DIR] [--work DIR] [--docs FILE]

The same as `supernet-registry evaluate`, with the numbers that are asked for as checks. Killed, it goes on where it
was. Uses the 36 benchmark tasks and their nine streams where they lie beside the checkout, else the shipped tasks.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from benchmarks.harness.places import SHIPPED
from benchmarks.harness.report import Options, Section
from supernet_registry.registry.evaluation.evaluating import evaluate_plan, report
from supernet_registry.registry.evaluation.plan import SHUFFLED, Plan
from supernet_registry.registry.evaluation.policies import DEFAULT_POLICIES, QUICK_POLICIES, Policy

BEGIN, END = "<!-- figures: made by python -m benchmarks continual -->", "<!-- end of figures -->"


def renew(docs: Path, out: Path) -> None:
    """Put the report's tables between the two marks of a Markdown file, and the main figure beside it."""
    before, rest = docs.read_text("utf-8").split(BEGIN)
    _, after = rest.split(END)
    title, _, tables = (out / "report.md").read_text("utf-8").partition("\n\n")
    assert title.startswith("# "), "the report begins with its title"
    docs.write_text(f"{before}{BEGIN}\n\n{tables.strip()}\n\n{END}{after}", "utf-8")
    shutil.copyfile(out / "main.png", docs.parent / "pictures" / "continual.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is run, and where its figures go."""
    parser.set_defaults(jobs=0)
    parser.add_argument("streams", nargs="*", help="by default all of the file")
    parser.add_argument("--policy", type=Policy, action="append", choices=list(Policy), dest="policies")
    parser.add_argument("--shuffled", action="store_true", help="also every stream in another order for each seed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--report-only", action="store_true", help="of the runs that are in the work folder")
    parser.add_argument("--docs", type=Path, help="Markdown file whose figures are replaced by these")


def run(options: Options) -> Section:
    """All streams under all policies; jobs 0 are one a core."""
    own = options.own
    shipped = options.quick or not (options.tasks / "streams.json").is_file()
    tasks = SHIPPED if shipped else options.tasks
    file = SHIPPED.parent / "streams.json" if shipped else tasks / "streams.json"
    names = tuple(own.streams or (["quick"] if shipped else json.loads(file.read_text())))
    plan = Plan(
        tasks=tasks,
        streams_file=file,
        streams=(*names, *(name + SHUFFLED for name in names if own.shuffled)),
        policies=tuple(own.policies or (QUICK_POLICIES if options.quick else DEFAULT_POLICIES)),
        seeds=tuple(options.seed_range),
        device=own.device,
    )
    failures = [] if own.report_only else evaluate_plan(plan, options.work, workers=options.jobs)
    summary, checks, files = report(options.work)
    print("\n".join(f"written: {path}" for path in files))
    if own.docs:
        renew(own.docs, options.work)
    failed = f"{len(failures)} runs failed: {', '.join(str(failure.unit) for failure in failures)}"
    return Section(
        asdict(summary),
        checks,
        {"streams": list(names), "policies": [policy.value for policy in plan.policies]},
        seeds=plan.seeds,
        problem=failed if failures else "",
    )
