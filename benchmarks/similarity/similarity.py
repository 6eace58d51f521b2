"""Nearest source: exact transport, sketch, embedding, index, query, encoders. One section each, checks in the end.

    python -m benchmarks similarity [--section NAME ...] [--quick] [--json FILE]

What is compared is measured side by side in the same process, in CPU seconds of one thread. Uses the shared benchmark
tasks where they lie beside the checkout, else the shipped ones.
"""

from __future__ import annotations

import argparse
import importlib

from benchmarks.harness.places import SHARED
from benchmarks.harness.processes import worker_processes
from benchmarks.harness.report import Check, Options, Section

SECTIONS = ("transport", "sketch", "embedding", "index", "query", "encoders")


def run_section(name: str, options: Options) -> Section:
    """One section, which is a module beside this one."""
    section: Section = importlib.import_module(f"benchmarks.similarity.{name}").run(options)
    return section


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which sections."""
    parser.add_argument("--section", choices=SECTIONS, nargs="+", default=list(SECTIONS), help="all by default")


def run(options: Options) -> Section:
    """The sections, one after another."""
    figures, checks = {}, list[Check]()
    for name in options.own.section:
        print(f"\n== {name} ==", flush=True)
        # A process each: torch and faiss bring an OpenMP runtime each, and must not meet.
        with worker_processes(1) as pool:
            section = pool.submit(run_section, name, options).result()
        figures[name] = section.figures
        checks += section.checks
    return Section(figures, checks, {"sections": options.own.section, "shared_tasks": SHARED.is_dir()})
