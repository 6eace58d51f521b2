"""Task streams: a sequence of datasets that arrive one after another, with Avalanche's conventions.

    stream = TaskStream.from_json("streams.json", "s_minus", tasks="tasks")
    for experience in stream:
        experience.current_experience          # 0, 1, 2, ...
        experience.task_label                  # equal for experiences of the same task
        experience.classes_in_this_experience  # (0, 1, 2)
        experience.dataset                     # an ImageDataset, read only now

A stream is lazy: making one reads no image, and an experience keeps its images only as long as somebody uses them.
`expect` (which earlier step a good registry picks as source) is for scoring results afterwards; no code of this
package sends it anywhere.
"""

from __future__ import annotations

import difflib
import json
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from clients import _torch_datasets
from search.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from search.tasks import Derivation, ImageDataset

__all__ = ["Experience", "TaskStream"]

_STEP_KEYS = ("task", "n_train", "n_val", "seed", "transform", "labels", "expect", "classes")


class Experience:
    """One step of a stream.

    Attributes:
        task_name: name of the task; experiences that derive from the same images share it.
        name: name for people, which also tells how the images were derived.
        current_experience: position in the original stream, from 0; slicing keeps it.
        task_label: number of the task, from 0 in order of first appearance.
        expect: position of the step that a good registry would choose as source, None for none or unknown.
        derivation: how the images derive from the task's, None for the task as it is.
    """

    def __init__(
        self,
        load: Callable[[], ImageDataset],
        *,
        task_name: str,
        name: str = "",
        current_experience: int = 0,
        task_label: int = 0,
        classes: tuple[int, ...] | None = None,
        expect: int | None = None,
        derivation: Derivation | None = None,
    ) -> None:
        self.task_name = task_name
        self.name = name or task_name
        self.current_experience = current_experience
        self.task_label = task_label
        self.expect = expect
        self.derivation = derivation
        self._load = load
        self._classes = classes
        # Weak: a stream of sixty tasks must not end up holding all of their images.
        self._loaded: weakref.ReferenceType[ImageDataset] | None = None

    @property
    def dataset(self) -> ImageDataset:
        """The images, read (or derived) now unless somebody still holds them.

        Raises:
            InvalidDataset: the files cannot be used; the message says which and why.
        """
        dataset = self._loaded() if self._loaded is not None else None
        if dataset is None:
            dataset = self._load()
            self._loaded = weakref.ref(dataset)
        return dataset

    @property
    def task_labels(self) -> tuple[int, ...]:
        """Avalanche's plural form: the one task label."""
        return (self.task_label,)

    @property
    def classes_in_this_experience(self) -> tuple[int, ...]:
        """The classes, by the owner's numbering where the stream knows it (reads the dataset otherwise)."""
        if self._classes is None:
            self._classes = tuple(range(self.dataset.n_classes))
        return self._classes

    def __repr__(self) -> str:
        return f"Experience({self.current_experience}, {self.name!r})"


class TaskStream(Sequence[Experience]):
    """An immutable sequence of experiences; a slice of it is a stream too."""

    def __init__(self, experiences: Iterable[Experience], *, name: str = "default") -> None:
        self.name = name
        self._experiences = tuple(experiences)

    @overload
    def __getitem__(self, index: int) -> Experience: ...
    @overload
    def __getitem__(self, index: slice) -> TaskStream: ...
    def __getitem__(self, index: int | slice) -> Experience | TaskStream:
        if isinstance(index, slice):
            return TaskStream(self._experiences[index], name=self.name)
        return self._experiences[index]

    def __len__(self) -> int:
        return len(self._experiences)

    def __iter__(self) -> Iterator[Experience]:
        return iter(self._experiences)

    def __repr__(self) -> str:
        return f"TaskStream({self.name!r}, {len(self)} experiences)"

    @classmethod
    def from_folder(cls, folder: str | Path, *, name: str = "") -> TaskStream:
        """One experience for each `.npz` file or image folder in `folder`, sorted by name.

        Raises:
            NotFound: no such folder.
            InvalidArgument: it contains no task.
        """
        root = _existing_folder(folder, "tasks")
        paths = sorted(path for path in root.iterdir() if _is_task(path))
        if not paths:
            raise InvalidArgument(
                f"{root} contains neither .npz files nor image folders.",
                remedy="Name a folder with one .npz file or one image folder for each task.",
                field="tasks",
            )
        return cls.from_paths(paths, name=name or root.resolve().name)

    @classmethod
    def from_paths(cls, paths: Iterable[str | Path], *, name: str = "default") -> TaskStream:
        """One experience for each `.npz` file or image folder, in the given order; a path may occur repeatedly.

        Raises:
            NotFound: a path does not exist.
        """
        steps = []
        for position, path in enumerate(Path(path) for path in paths):
            if not path.exists():
                raise NotFound(f"There is no file or folder {path}.", remedy="Correct the path.", field=f"[{position}]")
            steps.append((path.stem if path.is_file() else path.name, partial(_read_task, str(path))))
        labels = _number_tasks(task for task, _ in steps)
        return cls(
            (
                Experience(load, task_name=task, current_experience=i, task_label=labels[task])
                for i, (task, load) in enumerate(steps)
            ),
            name=name,
        )

    @classmethod
    def from_json(cls, streams: str | Path, stream: str, *, tasks: str | Path) -> TaskStream:
        """The stream called `stream` of a `streams.json`, whose tasks lie in the folder `tasks`.

        A step is an object with `task` and optionally `n_train`, `n_val` (images a class, null for all), `seed`,
        `transform`, `labels`, `classes` (see `search.tasks.derive`) and `expect`.

        Raises:
            NotFound: no such file, stream or task.
            InvalidArgument: the file is not JSON, or a step has a missing, unknown or impossible entry.
        """
        file, folder = Path(streams), _existing_folder(tasks, "tasks")
        steps = _read_streams(file, stream)
        labels = _number_tasks(str(step["task"]) for step in steps)
        experiences = []
        for position, step in enumerate(steps):
            field = f"{stream}[{position}]"
            path = _find_task(folder, step["task"], f"{field}.task")
            experiences.append(_derived_experience(step, path, position, field, labels))
        return cls(experiences, name=stream)

    @classmethod
    def from_datasets(
        cls,
        datasets: Iterable[Any],
        *,
        names: Sequence[str] = (),
        name: str = "default",
    ) -> TaskStream:
        """One experience for each torch-style dataset.

        Each item is a map-style dataset (`len()` and `[i]` giving `(image, label)`, with a PIL image, tensor (C, H, W)
        or array (H, W, C) as image), or a mapping from "train", "test" and optionally "val" to such datasets. Splits
        that are missing are carved out of the training images, 15% of each class. Labels may be any whole numbers: the
        dataset counts them from 0, `classes_in_this_experience` keeps the owner's.

        Args:
            datasets: the datasets in the order of the stream.
            names: names of the tasks; by default `task_00`, `task_01`, ...
            name: name of the stream.

        Raises:
            InvalidArgument: names and datasets differ in number.
            InvalidDataset: when an experience is first read, and its items are not (image, label).
        """
        items = list(datasets)
        if names and len(names) != len(items):
            raise InvalidArgument(
                f"{len(names)} names were given for {len(items)} datasets.",
                remedy="Give one name for each dataset, or none.",
                field="names",
            )
        tasks = list(names) or [f"task_{i:02d}" for i in range(len(items))]
        labels = _number_tasks(tasks)
        return cls(
            (
                _TorchExperience(item, task_name=task, current_experience=i, task_label=labels[task])
                for i, (task, item) in enumerate(zip(tasks, items, strict=True))
            ),
            name=name,
        )


class _TorchExperience(Experience):
    """An experience over a torch-style dataset, which learns the owner's class numbers when it is read."""

    def __init__(self, item: Any, *, task_name: str, current_experience: int, task_label: int) -> None:
        super().__init__(
            self._convert, task_name=task_name, current_experience=current_experience, task_label=task_label
        )
        self._item = item

    def _convert(self) -> ImageDataset:
        dataset, self._classes = _torch_datasets.convert(self._item, name=self.task_name)
        return dataset

    @property
    def classes_in_this_experience(self) -> tuple[int, ...]:
        if self._classes is None:
            _ = self.dataset
        return self._classes or ()


# ------------------------------------------------------------------------------------------------------------ files


def _read_task(path: str) -> ImageDataset:
    from search.tasks import load_dataset

    return _read_npz(path, Path(path).stat().st_mtime_ns) if Path(path).is_file() else load_dataset(path)


@lru_cache(maxsize=2)
def _read_npz(path: str, _modified_ns: int) -> ImageDataset:
    """Two files are remembered, as long as they do not change: streams like to return to the task just left."""
    from search.tasks import load_dataset

    return load_dataset(path)


def _is_task(path: Path) -> bool:
    hidden = path.name.startswith((".", "_"))
    return not hidden and (path.suffix == ".npz" if path.is_file() else any(child.is_dir() for child in path.iterdir()))


def _existing_folder(folder: str | Path, field: str) -> Path:
    path = Path(folder)
    if not path.is_dir():
        raise NotFound(f"There is no folder {path}.", remedy="Name the folder that holds the tasks.", field=field)
    return path


def _find_task(folder: Path, task: str, field: str) -> Path:
    for candidate in (folder / f"{task}.npz", folder / task):
        if Path(task).name == task and candidate.exists():
            return candidate
    known = sorted(path.stem for path in folder.iterdir() if _is_task(path))
    raise NotFound(f"There is no task {task!r} in {folder}.", remedy=_did_you_mean(task, known), field=field)


def _did_you_mean(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known are: {', '.join(known[:20])}{' …' if len(known) > 20 else ''}." if known else "None is known there."


def _number_tasks(tasks: Iterable[str]) -> dict[str, int]:
    return {task: number for number, task in enumerate(dict.fromkeys(tasks))}


# ----------------------------------------------------------------------------------------------------- streams.json


def _read_streams(file: Path, stream: str) -> list[dict[str, Any]]:
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


def _derived_experience(
    step: Mapping[str, Any], path: Path, position: int, field: str, labels: Mapping[str, int]
) -> Experience:
    from search.tasks import Derivation

    classes = tuple(step["classes"]) if step.get("classes") is not None else None
    try:
        derivation = Derivation(
            n_train=step.get("n_train"),
            n_val=step.get("n_val"),
            seed=step.get("seed") or 0,
            transform=step.get("transform"),
            labels=step.get("labels"),
            classes=classes,
        )
    except InvalidArgument as error:
        error.field = f"{field}.{error.field}"
        raise
    name = _describe(step)
    return Experience(
        partial(_read_derived, str(path), derivation, name),
        task_name=step["task"],
        name=name,
        current_experience=position,
        task_label=labels[step["task"]],
        classes=classes,
        expect=step.get("expect"),
        derivation=derivation,
    )


def _read_derived(path: str, derivation: Derivation, name: str) -> ImageDataset:
    from search.tasks import derive

    return replace(derive(_read_task(path), derivation), name=name)


def _describe(step: Mapping[str, Any]) -> str:
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
