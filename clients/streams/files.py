"""Tasks and streams as files: folders of tasks, and the steps of a `streams.json`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supernet_registry.search.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from supernet_registry.search.tasks import ImageDataset, TaskDerivation

__all__ = [
    "describe",
    "existing_folder",
    "find_task",
    "is_task",
    "number_tasks",
    "read_derived",
    "read_streams",
    "read_task",
]

_STEP_KEYS = ("task", "n_train", "n_val", "seed", "transform", "labels", "expect", "classes")


def read_task(path: str) -> ImageDataset:
    """The task at a path. Raises InvalidDataset."""
    from supernet_registry.search.tasks import load_dataset

    return _read_npz(path, Path(path).stat().st_mtime_ns) if Path(path).is_file() else load_dataset(path)


@lru_cache(maxsize=2)
def _read_npz(path: str, _modified_ns: int) -> ImageDataset:
    """Two files are remembered, as long as they do not change: streams like to return to the task just left."""
    from supernet_registry.search.tasks import load_dataset

    return load_dataset(path)


def is_task(path: Path) -> bool:
    """Whether a folder's entry is a task: a .npz file, or a folder of folders."""
    hidden = path.name.startswith((".", "_"))
    return not hidden and (path.suffix == ".npz" if path.is_file() else any(child.is_dir() for child in path.iterdir()))


def existing_folder(folder: str | Path, field: str) -> Path:
    """The folder. Raises NotFound."""
    path = Path(folder)
    if not path.is_dir():
        raise NotFound(f"There is no folder {path}.", remedy="Name the folder that holds the tasks.", field=field)
    return path


def find_task(folder: Path, task: str, field: str) -> Path:
    """File or folder of a task by its name. Raises NotFound with the nearest name."""
    for candidate in (folder / f"{task}.npz", folder / task):
        if Path(task).name == task and candidate.exists():
            return candidate
    known = sorted(path.stem for path in folder.iterdir() if is_task(path))
    raise NotFound(f"There is no task {task!r} in {folder}.", remedy=_did_you_mean(task, known), field=field)


def _did_you_mean(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known are: {', '.join(known[:20])}{' …' if len(known) > 20 else ''}." if known else "None is known there."


def number_tasks(tasks: Iterable[str]) -> dict[str, int]:
    """Task labels: numbers in order of first appearance."""
    return {task: number for number, task in enumerate(dict.fromkeys(tasks))}


# ----------------------------------------------------------------------------------------------------- streams.json


def read_streams(file: Path, stream: str) -> list[dict[str, Any]]:
    """The checked steps of one stream. Raises NotFound, InvalidArgument."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(
            f"There is no file {file}.", remedy="Name the file that defines the streams.", field="streams"
        ) from error
    except (OSError, ValueError) as error:
        raise InvalidArgument(
            f"{file} cannot be read as JSON: {error}.", remedy="Correct the file.", field="streams"
        ) from error
    if not isinstance(content, dict):
        raise InvalidArgument(
            f"{file} is not an object of streams.", remedy='Write {"name": [steps]}.', field="streams"
        )
    if stream not in content:
        raise NotFound(
            f"There is no stream {stream!r} in {file}.", remedy=_did_you_mean(stream, sorted(content)), field="stream"
        )
    steps = content[stream]
    if not isinstance(steps, list) or not steps:
        raise InvalidArgument(f"Stream {stream!r} has no steps.", remedy="Give a list of steps.", field=stream)
    for position, step in enumerate(steps):
        _check_step(step, f"{stream}[{position}]", position)
    return steps


def _check_step(step: Any, field: str, position: int) -> None:
    """Raise InvalidArgument for anything in a step that `derive` could not follow."""
    if not isinstance(step, Mapping):
        raise InvalidArgument(f"A step is an object, not {type(step).__name__}.", remedy="Write {...}.", field=field)
    if not isinstance(step.get("task"), str) or not step["task"]:
        raise InvalidArgument("The step names no task.", remedy='Add "task": "name".', field=f"{field}.task")
    unknown = sorted(set(step) - set(_STEP_KEYS))
    if unknown:
        raise InvalidArgument(
            f"Unknown entry {unknown[0]!r}.",
            remedy=_did_you_mean(unknown[0], list(_STEP_KEYS)),
            field=f"{field}.{unknown[0]}",
        )
    for key, least in (("n_train", 1), ("n_val", 1), ("seed", 0), ("expect", 0)):
        value = step.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise InvalidArgument(
                f"{key} is {value!r}.", remedy=f"Give a whole number from {least}, or null.", field=f"{field}.{key}"
            )
    if step.get("expect") is not None and step["expect"] >= position:
        raise InvalidArgument(
            f"expect is {step['expect']}, which is not an earlier step.",
            remedy="Count steps from 0.",
            field=f"{field}.expect",
        )
    classes = step.get("classes")
    if classes is not None and not (isinstance(classes, list) and classes and all(type(c) is int for c in classes)):
        raise InvalidArgument("classes is not a list of numbers.", remedy="Write [0, 1].", field=f"{field}.classes")


def read_derived(path: str, derivation: TaskDerivation, name: str) -> ImageDataset:
    """A task derived from the one at a path. Raises InvalidDataset, InvalidArgument."""
    from supernet_registry.search.tasks import derive

    return replace(derive(read_task(path), derivation), name=name)


def describe(step: Mapping[str, Any]) -> str:
    """`mnist_all10 (5 a class, rainbow)`: what distinguishes the step from its task."""
    parts = []
    if step.get("n_train") is not None:
        parts.append(f"{step['n_train']} a class")
    parts += [str(step[key]).replace("_", " ") for key in ("transform", "labels") if step.get(key)]
    if step.get("labels") == "random":
        parts[-1] = "random labels"
    if step.get("classes") is not None:
        parts.append(f"{len(step['classes'])} classes")
    return f"{step['task']} ({', '.join(parts)})" if parts else str(step["task"])
