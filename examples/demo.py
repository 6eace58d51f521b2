"""The whole service on real data: a stream of tasks, each warm-started from what the ones before it learnt.

    python examples/demo.py --data-dir demo-data

Starts the registry on loopback, streams eight shipped tasks through it, searches some of them from scratch for contrast
(outside the registry, so that nothing profits from them), prints a table, and leaves pictures. Run it again on the same
data folder and it continues: finished steps answer at once with the jobs they had, and two tasks return with newly
drawn images.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from from_scratch import HERE, STREAMS, TASKS, read_row, result_file
from rich.console import Console
from rich.table import Table

from supernet_registry import (
    Experience,
    JobEvent,
    Lineage,
    LineageEdge,
    RegistryClient,
    StreamListener,
    StreamResult,
    StreamRow,
    TaskStream,
    draw_cells,
    plots,
    run_stream,
)

CONTRAST = ["print_greek", "fashion_tops_twin", "print_digits_wild"]
"""Tasks that are also searched from scratch. Each has a near relative earlier in the stream."""

console = Console(width=None if sys.stdout.isatty() else 150)


@contextmanager
def service(data_dir: Path) -> Iterator[str]:
    """`supernet-registry serve` on a free loopback port, drained when the block ends. Yields the address."""
    data_dir.mkdir(parents=True, exist_ok=True)
    ready = data_dir / "server.json"
    ready.unlink(missing_ok=True)
    options = ["--data-dir", str(data_dir), "--address", "127.0.0.1:0"]
    command = [sys.executable, "-P", "-m", "supernet_registry", "serve", *options]
    log = (data_dir / "serve.log").open("ab")
    with log, subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL) as process:
        try:
            yield wait_for_address(process, ready, data_dir / "serve.log")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def wait_for_address(process: subprocess.Popen[bytes], ready: Path, log: Path) -> str:
    """The address that the server writes to `server.json` once it listens."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"The service ended with code {process.returncode}; see {log}.")
        if ready.exists():
            return str(json.loads(ready.read_text())["address"])
        time.sleep(0.1)
    sys.exit(f"The service did not start within two minutes; see {log}.")


class Progress(StreamListener):
    """One line a task while it runs."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def on_task(self, experience: Experience, total: int) -> None:
        self.started = time.monotonic()
        console.print(f"[bold]{experience.current_experience + 1}/{total} {experience.task_name}[/bold]", end="  ")

    def on_event(self, event: JobEvent) -> None:
        if event.decision is not None:
            console.print(f"from {short_version(event.decision.source)}", end="  ")

    def on_row(self, row: StreamRow) -> None:
        seconds = time.monotonic() - self.started
        how = "had it already" if row.resumed else f"{row.steps} steps, {seconds:.0f} s"
        console.print(f"{how}, test {row.test_accuracy:.1%}, child {row.child_test_accuracy:.1%}")


@contextmanager
def contrast(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The searches from scratch, in a process of their own beside the stream; it is ended when the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(HERE / "from_scratch.py"), "--output", str(folder), *CONTRAST]
    with (folder / "log.txt").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.terminate()


def panel(warm: StreamRow, scratch: StreamRow) -> plots.CurvePanel:
    """The learning curves of a task, with and without a source. Both begin before the first step."""
    cold = plots.Curve.from_epochs("from scratch", scratch.curve, warm=False)
    tasted = [taste for taste in warm.tastes if not taste.version]  # scratch took part in the taste
    if tasted:
        accuracy = tasted[0].val_accuracies[0]
        cold = replace(cold, steps=(0, *cold.steps), accuracies=(accuracy, *cold.accuracies))
    # The registry may have decided for scratch, after a taste that counts: its curve is the registry's all the same.
    own = replace(plots.Curve.from_row(warm, f"from {short_version(warm.source)}"), warm=True)
    return plots.CurvePanel(warm.task_name, (own, cold))


def short_version(name: str) -> str:
    """`supernets/print_greek/versions/2` → `print_greek/2`."""
    return name.removeprefix("supernets/").replace("/versions/", "/") or "scratch"


def print_stream(result: StreamResult) -> None:
    """One row a task: source and why, distance, cost, accuracy."""
    table = Table(title=f"Stream {result.stream}: every task starts from what the ones before it learnt")
    for name, justify in [
        ("task", "left"),
        ("source", "left"),
        ("why", "left"),
        ("√OT", "right"),
        ("steps", "right"),
        ("s", "right"),
    ]:
        table.add_column(name, justify=justify, max_width=52 if name == "why" else None)
    table.add_column("supernet\ntest", justify="right")
    table.add_column("child\ntest", justify="right")
    for row in result.rows:
        distance = f"{row.ot_distance:.2f}" if row.ot_distance is not None else "–"
        steps = f"{row.steps}" + (f"\n({row.taste_steps} taste)" if row.taste_steps else "")
        seconds = f"{row.seconds + row.child_seconds:.0f}"
        table.add_row(
            row.task_name,
            short_version(row.source),
            row.reason,
            distance,
            steps,
            seconds,
            f"{row.test_accuracy:.1%}",
            f"{row.child_test_accuracy:.1%}",
        )
    console.print(table)


def print_contrast(pairs: list[tuple[StreamRow, StreamRow]]) -> list[dict[str, object]]:
    """Warm-started against from scratch: steps to scratch's best validation accuracy minus one point."""
    table = Table(
        title="Warm-started against from scratch (target: scratch's best validation accuracy − 1 point; taste counted)"
    )
    for name in [
        "task",
        "target",
        "steps, scratch",
        "steps, warm",
        "ratio",
        "supernet test,\nscratch → warm",
        "child test,\nscratch → warm",
    ]:
        table.add_column(name, justify="left" if name == "task" else "right")
    figures: list[dict[str, object]] = []
    for warm, scratch in pairs:
        curves = panel(warm, scratch)
        target = curves.target or 0.0
        steps = {curve.warm: curve.steps_to(target) for curve in curves.curves}
        ratio = plots.compare(curves)
        table.add_row(
            warm.task_name,
            f"{target:.1%}",
            str(steps[False]),
            "never" if steps[True] is None else str(steps[True]),
            "at once" if steps[True] == 0 else "–" if ratio is None else f"1/{ratio:.1f}",
            f"{scratch.test_accuracy:.1%} → {warm.test_accuracy:.1%}",
            f"{scratch.child_test_accuracy:.1%} → {warm.child_test_accuracy:.1%}",
        )
        figures.append(
            {
                "task": warm.task_name,
                "source": short_version(warm.source),
                "target_val_accuracy": target,
                "steps_scratch": steps[False],
                "steps_warm": steps[True],
                "speed_up": ratio,
                "test_accuracy": {"scratch": scratch.test_accuracy, "warm": warm.test_accuracy},
                "child_test_accuracy": {"scratch": scratch.child_test_accuracy, "warm": warm.child_test_accuracy},
            }
        )
    console.print(table)
    return figures


def whole_lineage(client: RegistryClient) -> Lineage:
    """Every version that the registry holds, with the arrows between them."""
    versions = tuple(reversed(list(client.list_versions())))
    return Lineage(
        versions=versions,
        edges=tuple(
            LineageEdge(child=version.name, parent=parent) for version in versions for parent in version.parents
        ),
    )


def draw(
    client: RegistryClient, result: StreamResult, pairs: list[tuple[StreamRow, StreamRow]], pictures: Path
) -> list[Path]:
    """Learning curves, summary, accuracy matrix, lineage, and a drawing of every task's cell."""
    distances = {
        job.version: job.decision.ot_distance for job in client.list_search_jobs() if job.decision and job.version
    }
    drawn = [
        plots.learning_curves(
            [panel(warm, scratch) for warm, scratch in pairs],
            pictures / "learning_curves.png",
            title="What a warm start saves",
        ),
        plots.stream_summary(result, pictures / "stream.png", scratch={warm.step: scratch for warm, scratch in pairs}),
        plots.accuracy_matrix(result, pictures / "accuracy_matrix.png"),
        plots.lineage_picture(whole_lineage(client), pictures / "lineage.svg", distances=distances, title="Lineage"),
        plots.lineage_picture(whole_lineage(client), pictures / "lineage.png", distances=distances, title="Lineage"),
    ]
    for row in result.rows:
        draw_cells(row.genotype, pictures / "cells" / f"{row.step:02d}-{row.task_name}.svg", title=row.task_name)
    return drawn


def finished(client: RegistryClient, stream_name: str, steps: int) -> bool:
    """Whether earlier runs have finished every step of a stream."""
    jobs = client.list_search_jobs(stream=stream_name)
    return len({job.stream_step for job in jobs if job.version}) == steps


def returning_tasks(seed: int, folder: Path) -> TaskStream:
    """Two tasks of the stream again, with images drawn anew."""
    steps = [{**step, "seed": seed} for step in json.loads(STREAMS.read_text())["returning"]]
    path = folder / "returning.json"
    path.write_text(json.dumps({"returning": steps}))
    return TaskStream.from_json(path, "returning", tasks=TASKS)


def run_returning_tasks(client: RegistryClient, data_dir: Path) -> None:
    """What a second run adds: tasks that the registry knows, with other images. Lineages grow, no twins."""
    number = 1
    while finished(client, f"demo-return-{number}", len(returning_tasks(number, data_dir))):
        number += 1
    console.print(f"\nRun {number + 1} on this data: tasks return with newly drawn images.")
    stream = returning_tasks(number, data_dir)
    print_stream(run_stream(client, stream, stream_name=f"demo-return-{number}", listener=Progress()))


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("demo-data"), help="where the registry lives; kept")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave through `service`, which ends what it started
    began = time.monotonic()
    data_dir: Path = arguments.data_dir.resolve()
    pictures = data_dir / "pictures"
    stream = TaskStream.from_json(STREAMS, "demo", tasks=TASKS)
    with (
        contrast(data_dir / "contrast") as from_scratch,
        service(data_dir) as address,
        RegistryClient(address) as client,
    ):
        console.print(f"Registry at {address}, data in {os.path.relpath(data_dir)}\n")
        continued = finished(client, "demo", len(stream))
        result = run_stream(client, stream, stream_name="demo", listener=Progress())
        if continued:
            run_returning_tasks(client, data_dir)
        console.print(f"\nFrom scratch, for contrast: {', '.join(CONTRAST)} …")
        if from_scratch.wait() != 0:
            sys.exit(f"The searches from scratch failed; see {data_dir / 'contrast' / 'log.txt'}.")
        rows = {row.task_name: row for row in result.rows}
        pairs = [
            (rows[experience.task_name], read_row(result_file(data_dir / "contrast", experience)))
            for experience in stream
            if experience.task_name in CONTRAST
        ]
        print_stream(result)
        figures = print_contrast(pairs)
        drawn = draw(client, result, pairs, pictures)
        supernets = list(client.list_supernets())
    console.print(
        f"{len(supernets)} supernets, {sum(s.version_count for s in supernets)} versions, "
        f"{time.monotonic() - began:.0f} s in all."
    )
    console.print(
        "Pictures: "
        + ", ".join(os.path.relpath(path) for path in drawn)
        + f", {os.path.relpath(pictures / 'cells')}/*.svg"
    )
    store = os.path.relpath(data_dir / "mlflow" / "mlflow.db")
    console.print(f"MLflow: {os.path.relpath(sys.executable)} -m mlflow ui --backend-store-uri sqlite:///{store}")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"stream": result.to_json(), "contrast": figures, "seconds": time.monotonic() - began}, indent=2)
        )


if __name__ == "__main__":
    main()
