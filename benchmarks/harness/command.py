"""The one door to the benchmarks: their names, their options, how a run ends.

    python -m benchmarks list
    python -m benchmarks NAME [--quick] [--seeds N] [--jobs N] [--tasks DIR] [--budget MINUTES] [--json FILE]

A new benchmark is a module with a function `run(options: Options) -> Section`, and one line here. Options that it alone
has are declared beside it, in a function `add_arguments(parser)`; it finds them in `options.own`, and may change a
default there by `parser.set_defaults`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

from benchmarks.harness.places import RESULTS, default_tasks
from benchmarks.harness.report import Options, Section, finish

__all__ = ["BENCHMARKS", "PROBLEM", "UNFINISHED", "Benchmark", "main"]

PROBLEM, UNFINISHED = 1, 3
"""Exit codes: runs have failed; the budget did not suffice. Checks that are not met are figures, no failure."""


@dataclass(frozen=True)
class Benchmark:
    """A line of the list."""

    name: str
    what: str
    where: str
    """`module:function`, imported when it is run."""

    def module(self) -> ModuleType:
        """What it is written in."""
        return importlib.import_module(self.where.partition(":")[0])

    def run(self, options: Options) -> Section:
        """Its figures and checks."""
        function = getattr(self.module(), self.where.partition(":")[2])
        return cast("Callable[[Options], Section]", function)(options)


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            "similarity",
            "nearest source: exact transport, sketch, embedding, index, query, encoders",
            "benchmarks.similarity.similarity:run",
        ),
        Benchmark(
            "selection",
            "what the registry picks against what would have been best",
            "benchmarks.selection.selection:run",
        ),
        Benchmark(
            "gain-model",
            "whether predicted gains pick better sources than distance (reads selection's figures)",
            "benchmarks.selection.gain:run",
        ),
        Benchmark(
            "transfer", "warm starts, searches from scratch, and a fixed network", "benchmarks.transfer.transfer:run"
        ),
        Benchmark("transfer-choices", "the choices of a warm start, one at a time", "benchmarks.transfer.choices:run"),
        Benchmark(
            "warm-children", "what a child keeps of a warm supernet", "benchmarks.transfer.warm_children:run"
        ),
        Benchmark("starts", "what stored supernets know before any step", "benchmarks.transfer.starts:run"),
        Benchmark("supernet", "steps/s and memory against the textbook supernet", "benchmarks.supernet.speed:run"),
        Benchmark(
            "cuda-check", "all that wants a CUDA device, in eight minutes", "benchmarks.cuda_check.check:run"
        ),
        Benchmark("variants", "variants of DARTS: accuracy and cost", "benchmarks.supernet.variants:run"),
        Benchmark(
            "child-choices",
            "how children are trained, what the derived architecture is worth",
            "benchmarks.supernet.child_choices:run",
        ),
        Benchmark(
            "norm-statistics",
            "BatchNorm statistics: the source's, a running average, afresh",
            "benchmarks.supernet.norm_statistics:run",
        ),
        Benchmark(
            "continual", "whether knowledge builds up, through the real service", "benchmarks.continual.continual:run"
        ),
    )
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line names; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("list", "-h", "--help"):
        print(__doc__ if words and words[0] != "list" else listing())
        return 0
    benchmark = BENCHMARKS.get(words[0])
    if benchmark is None:
        print(f"There is no benchmark {words[0]!r}.\n\n{listing()}", file=sys.stderr)
        return 2
    arguments = parser_of(benchmark).parse_args(words[1:])
    section = benchmark.run(options_of(arguments))
    finish(benchmark.name, section, options_of(arguments), arguments.json)
    if section.problem:
        print(section.problem, file=sys.stderr)
        return PROBLEM
    return UNFINISHED if section.missing else 0


def listing() -> str:
    """Every name with its line."""
    width = max(map(len, BENCHMARKS))
    lines = (f"  {benchmark.name:{width}}  {benchmark.what}" for benchmark in BENCHMARKS.values())
    return "\n".join(["python -m benchmarks NAME [--quick] [--json FILE]; NAME --help tells more", "", *lines])


def parser_of(benchmark: Benchmark) -> argparse.ArgumentParser:
    """The options of all benchmarks and its own."""
    module = benchmark.module()
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {benchmark.name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a smoke profile; its figures say nothing")
    parser.add_argument("--seeds", type=_positive, default=3, metavar="N", help="of every comparison (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes of one thread each (%(default)s)")
    parser.add_argument("--tasks", type=_folder, default=default_tasks(), metavar="DIR", help="folder of the tasks")
    parser.add_argument("--budget", type=_minutes, metavar="MINUTES", help="after which no new run begins")
    parser.add_argument("--json", type=Path, metavar="FILE", help="store figures, seeds, machine, versions and checks")
    work = RESULTS / benchmark.name
    parser.add_argument("--work", type=Path, default=work, metavar="DIR", help="where finished runs are kept")
    parser.add_argument("--any-code", action="store_true", help="take up finished runs that other code has made, too")
    if hasattr(module, "add_arguments"):
        module.add_arguments(parser)
    return parser


def options_of(arguments: argparse.Namespace) -> Options:
    """As benchmarks want them."""
    return Options(
        tasks=arguments.tasks,
        seeds=arguments.seeds,
        quick=arguments.quick,
        jobs=arguments.jobs,
        work=arguments.work,
        budget_s=None if arguments.budget is None else 60.0 * arguments.budget,
        any_code=arguments.any_code,
        own=arguments,
    )


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return Path(text)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(text)


def _minutes(text: str) -> float:
    if not float(text) > 0.0:
        raise argparse.ArgumentTypeError("more than 0 minutes")
    return float(text)
