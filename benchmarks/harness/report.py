"""What every benchmark prints and stores: figures, checks against targets, seed, machine, versions."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from supernet_registry.registry.evaluation.checks import Check

__all__ = ["Check", "Options", "Section", "finish", "machine", "print_table", "versions", "with_error"]

PACKAGES = [
    *("supernet-registry", "torch", "torchvision", "numpy", "scipy"),
    *("POT", "faiss-cpu", "mlflow", "grpcio", "protobuf"),
]


@dataclass(frozen=True)
class Options:
    """What a benchmark is run with."""

    tasks: Path
    """Folder of the tasks."""
    seeds: int
    quick: bool
    """A smoke profile, whose figures say nothing."""
    jobs: int = 1
    """Processes of one thread each."""
    work: Path = Path("results")
    """Where finished runs are kept."""
    budget_s: float | None = None
    """Seconds after which no new run begins; None: no limit."""
    any_code: bool = False
    """Whether finished runs are taken up that other code has made."""
    own: argparse.Namespace = field(default_factory=argparse.Namespace)
    """Options that only this benchmark has."""

    @property
    def seed_range(self) -> range:
        """The seeds; a smoke profile has one."""
        return range(1 if self.quick else self.seeds)


@dataclass(frozen=True)
class Section:
    """What a benchmark, or one section of it, found."""

    figures: Any
    checks: list[Check]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What it was run with, beyond the options that all have."""
    seeds: Sequence[int] | None = None
    """None: those of the options."""
    missing: Sequence[str] = ()
    """Runs for which the budget did not suffice."""
    problem: str = ""
    """Why the figures cannot be trusted."""


def machine() -> dict[str, Any]:
    """What the figures were measured on, as far as it matters for comparing them."""
    cpu = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return {"platform": platform.platform(), "python": platform.python_version(), "cpu": cpu, "cores": os.cpu_count()}


def versions() -> dict[str, str]:
    """Installed versions of what the figures depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit that was measured, marked when the checkout has changes."""
    here = Path(__file__).parent
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=here, check=False
    )
    return result.stdout.strip()


def with_error(points: Sequence[float]) -> str:
    """Mean ± standard error of paired differences."""
    error = statistics.stdev(points) / len(points) ** 0.5 if len(points) > 1 else math.nan
    return f"{statistics.fmean(points):+.1f} ± {error:.1f}"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A human table; the first column is left-aligned, the others right."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:  # `cuda-check` runs where little is installed
        print(plain_table(title, columns, rows), flush=True)
        return
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if os.isatty(1) else 120).print(table)


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same without rich."""
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    texts = [
        "  ".join(cell.rjust(width) if index else cell.ljust(width) for index, (cell, width) in enumerate(zipped))
        for zipped in (zip(line, widths, strict=True) for line in lines)
    ]
    return "\n".join(["", title, *texts])


def finish(name: str, section: Section, options: Options, path: Path | None) -> None:
    """Print the checks and what is missing and, with a path, store everything as JSON."""
    print_table(
        "checks",
        ["check", "value", "target", "passed"],
        [[c.name, f"{c.value:.4g} {c.unit}", c.target, "yes" if c.passed else "NO"] for c in section.checks],
    )
    if section.missing:
        print(f"Stopped by its budget: {len(section.missing)} runs are missing; run it again to go on.")
        print("\n".join(f"  missing: {run}" for run in section.missing))
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "benchmark": name,
        "commit": commit(),
        "arguments": {"quick": options.quick, "tasks": options.tasks.name, **section.arguments},
        "seeds": list(options.seed_range if section.seeds is None else section.seeds),
        "machine": machine(),
        "versions": versions(),
        "figures": section.figures,
        "checks": [asdict(check) for check in section.checks],
        "missing": list(section.missing),
        "problem": section.problem,
    }
    path.write_text(json.dumps(_finite(report), indent=2, default=str, allow_nan=False) + "\n", "utf-8")
    print(f"figures: {path}")


def _finite(value: Any) -> Any:
    """Without what JSON has no word for: a number that is none is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
