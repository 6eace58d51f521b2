"""The demo's contrast: tasks searched from scratch, by the same code and recipe but without any registry.

    python examples/from_scratch.py --output demo-data/contrast print_greek fashion_tops_twin

Writes one JSON file a task, a `StreamRow` with its learning curve; a task that has its file is not searched again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from supernet_registry import EpochMetrics, Experience, Phase, StreamRow, TaskStream, limit_threads

HERE = Path(__file__).parent
TASKS = HERE / "tasks"
STREAMS = HERE / "streams.json"


def result_file(folder: Path, experience: Experience) -> Path:
    """Where a task's contrast is kept; another draw of the same task has another file."""
    return folder / f"{experience.task_name}-{experience.dataset.digest[:12]}.json"


def read_row(path: Path) -> StreamRow:
    """What `main` wrote."""
    stored = json.loads(path.read_text())
    curve = tuple(EpochMetrics(**{**epoch, "phase": Phase(epoch["phase"])}) for epoch in stored["curve"])
    return StreamRow(**{**stored, "curve": curve})


def search(experience: Experience) -> StreamRow:
    """Search one task with nothing to start from."""
    from supernet_registry import Epoch, Listener, Recipe, make_space, run_pipeline  # torch: after `limit_threads`

    class Collect(Listener):
        def __init__(self) -> None:
            self.curve: list[EpochMetrics] = []

        def on_epoch(self, epoch: Epoch) -> None:
            self.curve.append(EpochMetrics(**{**asdict(epoch), "phase": Phase(epoch.phase)}))

    listener = Collect()
    space = make_space()
    result = run_pipeline(experience.dataset, space, Recipe.for_space(space), seed=0, listener=listener)
    return StreamRow(
        step=experience.current_experience,
        task=experience.name,
        task_name=experience.task_name,
        search_steps=result.search_steps,
        child_steps=result.child_steps,
        search_seconds=result.search_seconds,
        child_seconds=result.child_seconds,
        val_accuracy=result.val_accuracy,
        test_accuracy=result.test_accuracy,
        child_test_accuracy=result.child_test_accuracy,
        genotype=result.genotype,
        curve=tuple(listener.curve),
    )


def main() -> None:
    """Search the named tasks of the demo's stream."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    limit_threads()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for experience in TaskStream.from_json(STREAMS, "demo", tasks=TASKS):
        path = result_file(arguments.output, experience)
        if experience.task_name in arguments.tasks and not path.exists():
            unfinished = path.with_suffix(".part")
            unfinished.write_text(json.dumps(asdict(search(experience))))
            unfinished.rename(path)


if __name__ == "__main__":
    main()
