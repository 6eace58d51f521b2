"""What every benchmark prints and stores: figures, checks against targets, seed, machine, versions."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from supernet_registry.registry.evaluation.checks import Check

PACKAGES = ["supernet-registry", "torch", "torchvision", "numpy", "POT", "faiss-cpu", "mlflow", "grpcio", "protobuf"]


@dataclass(frozen=True)
class Options:
    """What the sections of a benchmark are run with."""

    tasks: Path
    seeds: int
    quick: bool
    """A smoke profile of under a minute, whose figures say nothing."""


@dataclass(frozen=True)
class Section:
    """What one section of a benchmark found."""

    figures: Any
    checks: list[Check]


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
    error = statistics.stdev(points) / len(points) ** 0.5 if len(points) > 1 else float("nan")
    return f"{statistics.fmean(points):+.1f} ± {error:.1f}"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A human table; the first column is left-aligned, the others right."""
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if os.isatty(1) else 120).print(table)


def finish(
    name: str,
    figures: Any,
    checks: Sequence[Check],
    *,
    seeds: Sequence[int],
    arguments: dict[str, Any],
    path: Path | None,
) -> None:
    """Print the checks and, with a path, store everything as JSON."""
    print_table(
        "checks",
        ["check", "value", "target", "passed"],
        [[c.name, f"{c.value:.4g} {c.unit}", c.target, "yes" if c.passed else "NO"] for c in checks],
    )
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "benchmark": name,
        "commit": commit(),
        "arguments": arguments,
        "seeds": list(seeds),
        "machine": machine(),
        "versions": versions(),
        "figures": figures,
        "checks": [asdict(check) for check in checks],
    }
    path.write_text(json.dumps(report, indent=2, default=str) + "\n")
    print(f"figures: {path}")
