"""Nearest source: exact transport, sketch, embedding, index, query, encoders. One section each, checks in the end.

    python benchmarks/similarity/similarity.py [--section NAME ...] [--quick] [--json FILE]

What is compared is measured side by side in the same process, in CPU seconds of one thread. Uses the shared benchmark
tasks where they lie beside the checkout, else the shipped ones.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib
import multiprocessing
import os
from pathlib import Path

from benchmarks.harness.report import Check, Options, Section, finish

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "tasks"
SECTIONS = ("transport", "sketch", "embedding", "index", "query", "encoders")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def run_section(name: str, options: Options) -> Section:
    """One section, which is the module `similarity_{name}`."""
    section: Section = importlib.import_module(f"similarity_{name}").run(options)
    return section


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", choices=SECTIONS, nargs="+", default=list(SECTIONS), help="all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a smoke profile; its figures say nothing")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    options = Options(
        tasks=SHARED if SHARED.is_dir() else ROOT / "examples" / "tasks", seeds=arguments.seeds, quick=arguments.quick
    )
    os.environ.update(ONE_THREAD)  # inherited by the sections, read when they import numpy
    figures, checks = {}, list[Check]()
    for name in arguments.section:
        print(f"\n== {name} ==", flush=True)
        # A process each: torch and faiss bring an OpenMP runtime each, and must not meet.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            section = pool.submit(run_section, name, options).result()
        figures[name] = section.figures
        checks += section.checks
    finish(
        "similarity",
        figures,
        checks,
        seeds=list(range(options.seeds)),
        arguments={"sections": arguments.section, "quick": options.quick, "shared_tasks": SHARED.is_dir()},
        path=arguments.json,
    )


if __name__ == "__main__":
    main()
