"""Puts tables and pictures together: report.html, report.md, main.png."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from supernet_registry.clients.plots import accuracy_matrix, dataset_map_picture, lineage_picture
from supernet_registry.clients.wire.resources import DatasetMap
from supernet_registry.registry.evaluation.checks import Check
from supernet_registry.registry.evaluation.policies import Policy
from supernet_registry.registry.evaluation.records import Run, Summary
from supernet_registry.registry.evaluation.report import pictures
from supernet_registry.registry.evaluation.report.tables import (
    Table,
    accumulation_table,
    check_table,
    decision_table,
    policy_table,
    task_table,
)
from supernet_registry.search.errors import OptionalDependency

__all__ = ["write_report"]

_MOST_PANELS = 12
"""Learning curves of a stream that are shown."""
_LONG_STREAM = 20
"""Tasks from which on the matrix of a stream is left out: it repeats one number down each column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image in the page."""

    title: str
    text: str
    source: str
    """A data URI."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPart:
    """What the page says of one stream."""

    name: str
    tasks: Table
    pictures: tuple[Picture, ...]
    decisions: tuple[tuple[str, Table], ...]


def write_report(
    folder: Path,
    runs: Sequence[Run],
    summary: Summary,
    checks: Sequence[Check],
    *,
    title: str,
    configuration: Mapping[str, str],
    maps: Mapping[str, DatasetMap | None] | None = None,
) -> list[Path]:
    """Write `report.html`, `report.md` and `main.png` into a folder; the files.

    Args:
        folder: where to.
        runs: finished runs.
        summary: of them.
        checks: the numbers that are asked for.
        title: heading.
        configuration: what was run, in words.
        maps: datasets of each stream on a plane, for the streams where they are known.

    Raises:
        OptionalDependency: Jinja2 or matplotlib is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise OptionalDependency(
            "The report needs Jinja2, which is not installed.", remedy="pip install 'supernet-registry[evaluate]'"
        ) from error
    raced = any(t.policy == Policy.REGISTRY and t.speed_up is not None for t in summary.tasks)
    main = [pictures.main_figure(summary, folder / "main.png")] if raced else []
    with tempfile.TemporaryDirectory() as scratch:
        draw = _Drawing(Path(scratch))
        overall = _overall_pictures(draw, summary)
        streams = [
            _stream_part(draw, stream, runs, summary, (maps or {}).get(stream))
            for stream in dict.fromkeys(run.stream for run in runs)
        ]
        figure = (
            draw.picture("Main figure", _MAIN_TEXT, lambda path: pictures.main_figure(summary, path)) if raced else None
        )
    template = files("supernet_registry.registry.evaluation.report").joinpath("page.html.jinja").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template).render(
        title=title,
        configuration=configuration,
        checks=checks,
        figure=figure,
        policies=policy_table(summary),
        overall=overall,
        accumulation=accumulation_table(summary),
        streams=streams,
        target_share=summary.target_share,
        tie_band=summary.tie_band,
    )
    written = [folder / "report.html", folder / "report.md"]
    written[0].write_text(page, "utf-8")
    written[1].write_text(_markdown(title, configuration, checks, summary, streams), "utf-8")
    return [*written, *main]


_MAIN_TEXT = (
    "Each dot is a task under the policy registry, over all seeds: left the steps that it needed to reach 95 % of the "
    "best validation accuracy of a search from scratch, taste included, as a share of scratch's; right the test "
    "accuracy of its child network against scratch's. Filled: tasks for which the stream expects a source, a near "
    "relative that came before."
)


class _Drawing:
    """Draws files into a folder that will go, and keeps them as data URIs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def picture(self, title: str, text: str, draw: Callable[[Path], Path]) -> Picture:
        """One picture."""
        self._count += 1
        path = draw(self._folder / f"{self._count}.svg")
        data = base64.b64encode(path.read_bytes()).decode()
        return Picture(title=title, text=text, source=f"data:image/svg+xml;base64,{data}")


def _overall_pictures(draw: _Drawing, summary: Summary) -> list[Picture]:
    found = []
    if any(c.cost_ratio is not None and c.stored and c.policy != Policy.SCRATCH for c in summary.comparisons):
        text = "Share of tasks that have reached scratch's accuracy within so much of its steps, first tasks left out."
        found.append(draw.picture("Speed-ups", text, lambda path: pictures.speed_ups(summary.comparisons, path)))
    mine = [a for a in summary.accumulation if a.policy == Policy.REGISTRY]
    if mine:
        text = "Cost of a new task over scratch's, against the versions stored; of long streams the rolling median."
        found.append(draw.picture("Accumulation", text, lambda path: pictures.accumulation(mine, path)))
    return found


def _stream_part(
    draw: _Drawing, stream: str, runs: Sequence[Run], summary: Summary, points: DatasetMap | None
) -> StreamPart:
    mine = [run for run in runs if run.stream == stream and run.policy == Policy.REGISTRY]
    found = []
    steps = _steps_shown(summary, stream)
    if mine and steps:
        left_out = len({row.step for run in mine for row in run.result.rows}) > len(steps)
        text = "Best validation accuracy so far against weight updates; mean over seeds, the band from least to most."
        if left_out:
            text += f" The {_MOST_PANELS} tasks whose cost differs most from scratch's."
        found.append(
            draw.picture("Learning curves", text, lambda path: pictures.learning_curves(runs, stream, steps, path))
        )
    if mine:
        run = mine[0]
        seed = f"Seed {run.seed}."
        if len(run.result.rows) < _LONG_STREAM and run.result.accuracies:
            text = f"Test accuracy of every stored supernet after every step, measured on downloaded weights. {seed}"
            found.append(draw.picture("Accuracy matrix", text, lambda path: accuracy_matrix(run.result, path)))
        if points is not None and points.points:
            by_version = {row.version: row.dataset for row in run.result.rows}
            arrows = [(by_version[r.source], r.dataset) for r in run.result.rows if r.source in by_version]
            text = f"Datasets on a plane by their embeddings, and the transfers between them. {seed}"
            found.append(draw.picture("Map", text, lambda path: dataset_map_picture(points, path, warm_starts=arrows)))
        lineage, distances = pictures.lineage_of(run)
        if lineage.versions and len(lineage.versions) < _LONG_STREAM:
            text = f"Versions and what they were warm-started from. {seed}"
            found.append(
                draw.picture("Lineage", text, lambda path: lineage_picture(lineage, path, distances=distances))
            )
    return StreamPart(
        name=stream,
        tasks=task_table(summary, stream),
        pictures=tuple(found),
        decisions=tuple((f"seed {run.seed}", decision_table(run, summary.comparisons)) for run in mine),
    )


def _steps_shown(summary: Summary, stream: str) -> list[int]:
    """The steps whose curves are shown: those of most and least speed-up where there are too many."""
    tasks = [t for t in summary.tasks if t.stream == stream and t.policy == Policy.REGISTRY]
    if len(tasks) > _MOST_PANELS:
        tasks.sort(key=lambda t: abs((t.speed_up or 1.0) - 1.0), reverse=True)
    return sorted(t.step for t in tasks[:_MOST_PANELS])


def _markdown(
    title: str,
    configuration: Mapping[str, str],
    checks: Sequence[Check],
    summary: Summary,
    streams: Sequence[StreamPart],
) -> str:
    parts = [f"# {title}", "\n".join(f"- {name}: {value}" for name, value in configuration.items())]
    parts += ["## What was asked for", check_table(checks).markdown()]
    parts += ["## Policies", policy_table(summary).markdown()]
    if summary.accumulation:
        parts += ["## Accumulation", accumulation_table(summary).markdown()]
    parts.append(
        "## Tasks\n\nTest accuracy of the child network (supernet), mean over seeds. *: a near relative came before."
    )
    for stream in streams:
        parts += [f"### {stream.name}", stream.tasks.markdown()]
    return "\n\n".join(parts) + "\n"
