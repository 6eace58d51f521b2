"""Everything that wants a CUDA device, in at most eight minutes: tests, steps, passes, a search.

    python -m benchmarks cuda-check [--cpu] [--parts NAME ...] [--json FILE]

It needs torch, torchvision, numpy, safetensors, grpcio and protobuf, and nothing else; with pytest it runs the tests
that are marked `gpu`, too. Four parts, each in a process of its own that is ended when its time is over; what it has
measured by then is kept:

    tests    pytest -m gpu
    bilevel  steps/s and memory of the search's loop, as it is and with CUDA graphs, against the textbook supernet
    passes   a gradient pass of supernet and child in float32, bfloat16, as CUDA graph, compiled, against the textbook
    search   a search of 50 epochs on 25,000 + 25,000 generated images

Without a device nothing is measured, and every row says so. `--cpu` rehearses the same code on a CPU with tiny sizes;
its figures say nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.cuda_check.parts import PARTS, Device, Row
from benchmarks.harness.places import ROOT
from benchmarks.harness.report import Check, Options, Section, print_table

ALL_S = 450.0
"""Of the four parts together; half a minute is left for what is around them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where, and what of it."""
    parser.add_argument("--cpu", action="store_true", help="rehearse on a CPU, with tiny sizes")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="NAME")


def run(options: Options) -> Section:
    """The parts, one after another."""
    names = options.own.parts
    device = Device("cpu", tiny=True) if options.own.cpu else Device("cuda", tiny=False)
    there = options.own.cpu or torch.cuda.is_available()
    # A rehearsal shows that it runs, not that it is quick.
    most = 3.0 if options.own.cpu else 1.0
    scale = most if options.budget_s is None else min(most, options.budget_s / ALL_S)
    rows: list[Row] = []
    for name in names:
        found = run_part(name, device, scale * PARTS[name].seconds) if there else not_run(name, "no CUDA device")
        print_table(f"cuda-check: {name}", ["", "state", "figures"], [table_line(row) for row in found])
        rows += found
    figures = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "rehearsal": options.own.cpu,
        "rows": [vars(row) for row in rows],
    }
    checks = [Check(**check) for row in rows for check in row.checks]
    return Section(figures, checks, {"parts": names, "cpu": options.own.cpu}, seeds=[0])


def run_part(name: str, device: Device, seconds: float) -> list[Row]:
    """A part in a process of its own; rows that it did not come to say why."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        arguments = [sys.executable, "-m", "benchmarks.cuda_check.parts", name, str(file), device.name, str(seconds)]
        began = time.monotonic()
        # A session of its own, for it may have started processes that have to end with it.
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=sys.stderr, start_new_session=True)
        try:
            ended = f"ended with code {process.wait(seconds)}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {seconds:.0f} s"
        finally:
            end_session(process)
        lines = file.read_text("utf-8").splitlines() if file.exists() else []
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    rows = [Row(**json.loads(line)) for line in lines]
    done = {row.name for row in rows}
    return rows + [row for row in not_run(name, ended) if row.name not in done]


def end_session(process: subprocess.Popen[bytes]) -> None:
    """The process and all that it has started."""
    with contextlib.suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def not_run(part: str, reason: str) -> list[Row]:
    """Its rows, without figures."""
    return [Row(part, name, f"not run: {reason}") for name in PARTS[part].rows]


def table_line(row: Row) -> Sequence[str]:
    """A row for people."""
    return [row.name, row.state, ", ".join(f"{name} {_short(value)}" for name, value in row.figures.items())]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
