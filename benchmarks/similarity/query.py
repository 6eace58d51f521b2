"""Section `query`: QueryNearestSources against a real server process with thousands of datasets, on one core.

A registry is filled with sketches derived from those of the tasks (`filled_registry`), one version each. Its server
runs in a process of its own that may use a single core, and is asked through a real channel: by datasets that are
registered but were never searched on, and by sketches that nobody has seen. Cold is the first time that a target is
asked for, when no distance from it is known; cached are the times after that.

Beside the time that a caller waits stands the processor time that the server takes for a query: the former says little
on a machine that does other things as well.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.harness.filled_registry import base_sketches, derived_sketch, fill
from benchmarks.harness.report import Check, Options, Section, print_table
from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.clients.wire.resources import NearestSources, ShortlistOutcome
from supernet_registry.registry.server.lock import read_server_file
from supernet_registry.registry.settings import Settings

DATASETS = 10_000
TARGETS = 60
"""Of each kind: registered datasets, and sketches."""
CACHED_ROUNDS = 3
SHORTLIST = 16
TOP_K = 5
COLD_P50_MS = 150.0
CACHED_P50_MS = 10.0

_FIRST_TARGET = 10**9  # seeds of targets; those of stored datasets count from 0


@dataclass(frozen=True)
class Row:
    """Queries of one kind."""

    kind: str
    queries: int
    p50_ms: float
    p99_ms: float
    server_cpu_ms: float
    """Median of the processor time that the server takes for a query."""
    outcomes: dict[str, float]
    """Datasets of the shortlist a query, by what became of them."""


def run(options: Options) -> Section:
    """Fill, ask, check."""
    datasets, targets = (300, 10) if options.quick else (DATASETS, TARGETS)
    bases = base_sketches(options.tasks)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder) / "registry")
        started = time.monotonic()
        fill(settings, (derived_sketch(bases, seed) for seed in range(datasets)), with_versions=True)
        sketches = [derived_sketch(bases, _FIRST_TARGET + i) for i in range(2 * targets)]
        names = fill(settings, sketches[:targets], with_versions=False)
        print(f"{datasets} datasets stored in {time.monotonic() - started:.0f} s", flush=True)
        kinds: dict[str, Sequence[str | bytes]] = {
            "registered dataset": names,
            "sketch": [sketch.to_bytes() for sketch in sketches[targets:]],
        }
        with server_on_one_core(settings.data_dir) as (pid, address), RegistryClient(address) as client:
            # Whatever a server does once in its life: imports, the first compilation of statements.
            client.query_nearest_sources(derived_sketch(bases, _FIRST_TARGET - 1).to_bytes())
            rows = [row for kind, asked in kinds.items() for row in ask(client, pid, kind, asked)]
    print_rows(rows, datasets)
    checks = [check(row, COLD_P50_MS if "cold" in row.kind else CACHED_P50_MS) for row in rows]
    return Section({"datasets": datasets, "rows": [asdict(row) for row in rows]}, [] if options.quick else checks)


@contextlib.contextmanager
def server_on_one_core(data_dir: Path) -> Iterator[tuple[int, str]]:
    """(process id, address) of a server that may use one core of this machine."""
    argv = [
        sys.executable,
        "-m",
        "supernet_registry.registry.server",
        "--data-dir",
        str(data_dir),
        "--address",
        "127.0.0.1:0",
    ]
    cores = os.sched_getaffinity(0)
    with (data_dir.parent / "server.log").open("ab") as log:
        os.sched_setaffinity(0, {max(cores)})  # inherited by the server's threads from the first one on
        try:
            process = subprocess.Popen(argv, stdout=log, stderr=log)
        finally:
            os.sched_setaffinity(0, cores)
    try:
        while (read_server_file(data_dir) or {}).get("pid") != process.pid:
            if process.poll() is not None:
                raise RuntimeError((data_dir.parent / "server.log").read_text())
            time.sleep(0.05)
        yield process.pid, (read_server_file(data_dir) or {})["address"]
    finally:
        process.terminate()
        process.wait()


def ask(client: RegistryClient, pid: int, kind: str, targets: Sequence[str | bytes]) -> list[Row]:
    """Every target once, and then again and again."""
    rows = []
    for name, rounds in (("cold", 1), ("cached", CACHED_ROUNDS)):
        seconds: list[float] = []
        cpu: list[float] = []
        answers: list[NearestSources] = []
        for target in [target for _ in range(rounds) for target in targets]:
            start, cpu_start = time.perf_counter(), cpu_seconds(pid)
            answers.append(client.query_nearest_sources(target, top_k=TOP_K, shortlist_size=SHORTLIST, explain=True))
            seconds.append(time.perf_counter() - start)
            cpu.append(cpu_seconds(pid) - cpu_start)
        counts = Counter(entry.outcome for answer in answers for entry in answer.shortlist)
        assert not counts[ShortlistOutcome.COMPUTED] or name == "cold", "something was computed twice"
        rows.append(
            Row(
                kind=f"{kind}, {name}",
                queries=len(seconds),
                p50_ms=1e3 * float(np.quantile(seconds, 0.5)),
                p99_ms=1e3 * float(np.quantile(seconds, 0.99)),
                server_cpu_ms=1e3 * float(np.quantile(cpu, 0.5)),
                outcomes={outcome.value: count / len(answers) for outcome, count in counts.items()},
            )
        )
    return rows


def cpu_seconds(pid: int) -> float:
    """Processor time of a process's threads so far."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def check(row: Row, limit_ms: float) -> Check:
    """A median against its target."""
    return Check(f"query p50, {row.kind}", row.p50_ms, f"≤ {limit_ms:.0f} ms", "ms", row.p50_ms <= limit_ms)


def print_rows(rows: Sequence[Row], datasets: int) -> None:
    """For people."""
    shown = (ShortlistOutcome.COMPUTED, ShortlistOutcome.CACHED, ShortlistOutcome.PRUNED)
    print_table(
        f"QueryNearestSources: {datasets} datasets, shortlist {SHORTLIST}, top {TOP_K}, server on one core",
        ["target", "queries", "p50 ms", "p99 ms", "server CPU p50 ms", *(outcome.value.lower() for outcome in shown)],
        [
            [row.kind, str(row.queries), *(f"{value:.1f}" for value in (row.p50_ms, row.p99_ms, row.server_cpu_ms))]
            + [f"{row.outcomes.get(outcome.value, 0.0):.1f}" for outcome in shown]
            for row in rows
        ],
    )
