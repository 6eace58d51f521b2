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

import copy
import random
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from supernet_registry.clients.streams import torch_datasets as _torch_datasets
from supernet_registry.clients.streams.files import (
    describe,
    existing_folder,
    find_task,
    is_task,
    number_tasks,
    read_derived,
    read_streams,
    read_task,
)
from supernet_registry.search.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from supernet_registry.search.tasks import ImageDataset, TaskDerivation

__all__ = ["Experience", "TaskStream"]

_REDRAW = 1_000_003
"""Added to a step's seed for every redraw: far from the small seeds that tell the steps of a stream apart."""


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
        derivation: TaskDerivation | None = None,
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
        root = existing_folder(folder, "tasks")
        paths = sorted(path for path in root.iterdir() if is_task(path))
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
            steps.append((path.stem if path.is_file() else path.name, partial(read_task, str(path))))
        labels = number_tasks(task for task, _ in steps)
        return cls(
            (
                Experience(load, task_name=task, current_experience=i, task_label=labels[task])
                for i, (task, load) in enumerate(steps)
            ),
            name=name,
        )

    def shuffled(self, seed: int) -> TaskStream:
        """The same experiences in another order, renumbered: a control of what the order does.

        `expect` follows: of the experiences that are tied by it, the first one to come is expected nothing, every
        later one expects the latest of its kin before it.
        """
        origins: list[int] = []
        for i, experience in enumerate(self._experiences):
            origins.append(i if experience.expect is None else origins[experience.expect])
        order = list(range(len(self)))
        random.Random(seed).shuffle(order)
        latest: dict[int, int] = {}
        experiences = []
        for position, i in enumerate(order):
            moved = copy.copy(self._experiences[i])
            moved.current_experience, moved.expect = position, latest.get(origins[i])
            latest[origins[i]] = position
            experiences.append(moved)
        return TaskStream(experiences, name=f"{self.name}-shuffled")

    @classmethod
    def from_json(cls, streams: str | Path, stream: str, *, tasks: str | Path, redraw: int = 0) -> TaskStream:
        """The stream called `stream` of a `streams.json`, whose tasks lie in the folder `tasks`.

        A step is an object with `task` and optionally `n_train`, `n_val` (images a class, null for all), `seed`,
        `transform`, `labels`, `classes` (see `search.tasks.derive`) and `expect`. A positive `redraw` makes other draws
        of the same steps, as for the seeds of an experiment; whole tasks stay as they are.

        Raises:
            NotFound: no such file, stream or task.
            InvalidArgument: the file is not JSON, or a step has a missing, unknown or impossible entry.
        """
        file, folder = Path(streams), existing_folder(tasks, "tasks")
        steps = read_streams(file, stream)
        labels = number_tasks(str(step["task"]) for step in steps)
        experiences = []
        for position, step in enumerate(steps):
            field = f"{stream}[{position}]"
            path = find_task(folder, step["task"], f"{field}.task")
            experiences.append(_derived_experience(step, path, position, field, labels, redraw=redraw))
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
        labels = number_tasks(tasks)
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


def _derived_experience(
    step: Mapping[str, Any], path: Path, position: int, field: str, labels: Mapping[str, int], *, redraw: int
) -> Experience:
    from supernet_registry.search.tasks import TaskDerivation

    classes = tuple(step["classes"]) if step.get("classes") is not None else None
    try:
        derivation = TaskDerivation(
            n_train=step.get("n_train"),
            n_val=step.get("n_val"),
            seed=(step.get("seed") or 0) + _REDRAW * redraw,
            transform=step.get("transform"),
            labels=step.get("labels"),
            classes=classes,
        )
    except InvalidArgument as error:
        error.field = f"{field}.{error.field}"
        raise
    name = describe(step)
    return Experience(
        partial(read_derived, str(path), derivation, name),
        task_name=step["task"],
        name=name,
        current_experience=position,
        task_label=labels[step["task"]],
        classes=classes,
        expect=step.get("expect"),
        derivation=derivation,
    )
