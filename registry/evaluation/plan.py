"""What an evaluation runs: streams, policies, seeds, options; and where its folder keeps what."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from supernet_registry.clients.streams.results import StreamResult, StreamRow
from supernet_registry.clients.streams.stream import Experience, TaskStream
from supernet_registry.clients.wire.options import StreamOptions
from supernet_registry.clients.wire.resources import DatasetMap, DatasetPoint
from supernet_registry.registry.evaluation.policies import DEFAULT_POLICIES, Policy
from supernet_registry.registry.evaluation.records import Run
from supernet_registry.search.errors import InvalidArgument, NotFound
from supernet_registry.search.spaces import SearchSpace, make_space, space_from_json

__all__ = ["Folder", "Plan", "Unit"]

SHUFFLED = "-shuffled"
"""Ending of the name of a stream that is run in another order for every seed."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Unit:
    """One policy on one stream with one seed: what a process does at a time."""

    seed: int
    stream: str
    policy: Policy

    def __str__(self) -> str:
        return f"{self.stream} · {self.policy} · seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An evaluation. Every seed is one of the search and, where the steps of a stream are drawn, another draw."""

    tasks: Path
    """Folder of the tasks."""
    streams_file: Path | None = None
    """JSON file that defines the streams; None for one stream of all tasks in the folder."""
    streams: tuple[str, ...] = ()
    policies: tuple[Policy, ...] = DEFAULT_POLICIES
    seeds: tuple[int, ...] = (0, 1, 2)
    device: str = "auto"
    pretrained: Path | None = None
    """Weights of the torchvision network of `fixed-pretrained`."""
    search: Mapping[str, Any] = field(default_factory=dict)
    """Of every search: `space` as `SearchSpace.to_json` gives it, and `recipe`, settings as text by name."""

    def __post_init__(self) -> None:
        missing = sorted(p.needs for p in self.policies if p.needs is not None and p.needs not in self.policies)
        if missing:
            raise InvalidArgument(
                f"A fixed network is given the seconds of {missing[0]}, which is not among the policies.",
                remedy=f"Add the policy {missing[0]}.",
                field="policies",
            )
        if Policy.FIXED_PRETRAINED in self.policies and self.pretrained is None:
            raise InvalidArgument(
                "fixed-pretrained needs a file of weights.", remedy="Name it with --pretrained.", field="pretrained"
            )

    @property
    def configuration(self) -> dict[str, Any]:
        """What all units of a folder must share, as JSON; streams, policies and seeds may be added later."""
        return {
            "tasks": str(self.tasks.resolve()),
            "streams_file": str(self.streams_file.resolve()) if self.streams_file else None,
            "device": self.device,
            "pretrained": str(self.pretrained.resolve()) if self.pretrained else None,
            "search": dict(self.search),
        }

    @classmethod
    def from_configuration(cls, values: Mapping[str, Any]) -> Plan:
        """A plan without streams, from what `configuration` gave."""
        return cls(
            tasks=Path(values["tasks"]),
            streams_file=_path(values["streams_file"]),
            device=values["device"],
            pretrained=_path(values["pretrained"]),
            search=values["search"],
        )

    def units(self) -> list[Unit]:
        """All units, those first whose seconds others are given."""
        return [
            Unit(seed=seed, stream=stream, policy=policy)
            for seed in self.seeds
            for stream in self.streams
            for policy in sorted(self.policies, key=lambda policy: policy.fixed)
        ]

    @property
    def space(self) -> SearchSpace:
        """The search space. Raises InvalidSearchSpace."""
        stored = self.search.get("space")
        return space_from_json(stored) if stored else make_space()

    def options(self, policy: Policy, seed: int) -> StreamOptions:
        """How the searches of a policy's stream are run."""
        return {
            "space": self.space,
            "recipe": self.search.get("recipe", {}),
            "source": "scratch" if policy is Policy.SCRATCH else "auto",
            "seed": seed,
            "retain_images": policy is Policy.GENERALIST,
            "device": self.device,
            "evaluate": True,
        }

    def stream(self, name: str, seed: int) -> TaskStream:
        """A stream as a seed sees it. Raises NotFound, InvalidArgument, InvalidDataset."""
        if name.endswith(SHUFFLED):
            return self.stream(name.removesuffix(SHUFFLED), seed).shuffled(seed)
        if self.streams_file is None:
            return TaskStream.from_folder(self.tasks, name=name)
        return TaskStream.from_json(self.streams_file, name, tasks=self.tasks, redraw=seed)


class Folder:
    """Where an evaluation keeps its results; every file appears whole or not at all.

        evaluation.json                               the configuration
        independent/POLICY/seed-N/DIGEST.json         a row of a task whose result depends on nothing before it
        runs/STREAM/seed-N/POLICY/run.json            a finished run
                                 /registry/           the registry that it filled
                                 /networks/           fixed networks, to be warm-started from

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """What was stored by `claim`. Raises NotFound."""
        path = self.root / "evaluation.json"
        if not path.exists():
            raise NotFound(f"{self.root} holds no evaluation.", remedy="Name the folder that one was run in.")
        stored: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return stored

    def claim(self, plan: Plan) -> None:
        """Begin an evaluation here, or go on with it. Raises InvalidArgument where another one lies here."""
        path = self.root / "evaluation.json"
        if path.exists():
            other = [name for name, value in plan.configuration.items() if self.configuration.get(name) != value]
            if other:
                raise InvalidArgument(
                    f"{self.root} holds an evaluation with other {', '.join(other)}.",
                    remedy="Choose another folder, or the options that it was begun with.",
                    field="output",
                )
            return
        self.write(path, {"id": uuid4().hex, **plan.configuration})

    def run_folder(self, unit: Unit) -> Path:
        """Folder of one run."""
        return self.root / "runs" / unit.stream / f"seed-{unit.seed}" / unit.policy

    def run_file(self, unit: Unit) -> Path:
        """File that a finished run leaves."""
        return self.run_folder(unit) / "run.json"

    def finished(self) -> list[Unit]:
        """Every finished run."""
        units = []
        for path in sorted(self.root.glob("runs/*/seed-*/*/run.json")):
            stream, seed, policy = path.parts[-4:-1]
            units.append(Unit(seed=int(seed.removeprefix("seed-")), stream=stream, policy=Policy(policy)))
        return units

    def read_run(self, unit: Unit) -> Run:
        """A finished run."""
        stored = json.loads(self.run_file(unit).read_text("utf-8"))
        return Run(
            stream=unit.stream,
            policy=unit.policy.value,
            seed=unit.seed,
            result=StreamResult.from_json(stored["result"]),
            stored_bytes=tuple(stored.get("stored_bytes", ())),
        )

    def read_map(self, unit: Unit) -> DatasetMap | None:
        """The datasets of a finished run's registry on a plane; None where it had none."""
        stored = json.loads(self.run_file(unit).read_text("utf-8")).get("map")
        if stored is None:
            return None
        return DatasetMap(**{**stored, "points": tuple(DatasetPoint(**point) for point in stored["points"])})

    @staticmethod
    def read_row(path: Path) -> StreamRow:
        """A row from its JSON file."""
        return StreamRow.from_json(json.loads(path.read_text("utf-8")))

    def independent_row(self, policy: Policy, seed: int, experience: Experience) -> StreamRow | None:
        """A task's row under an independent policy, as a step of the stream at hand; None if it was not run yet."""
        path = self._independent(policy, seed, experience)
        if not path.exists():
            return None
        return replace(
            self.read_row(path),
            step=experience.current_experience,
            task=experience.name,
            expect=experience.expect,
        )

    def keep_independent_row(self, policy: Policy, seed: int, experience: Experience, row: StreamRow) -> None:
        """Store such a row."""
        self.write(self._independent(policy, seed, experience), row.to_json())

    def _independent(self, policy: Policy, seed: int, experience: Experience) -> Path:
        return self.root / "independent" / policy / f"seed-{seed}" / f"{experience.dataset.digest[:32]}.json"

    @staticmethod
    def write(path: Path, content: Any) -> None:
        """Write JSON so that a reader, or a crash, meets the whole file or none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        with partial.open("w", encoding="utf-8") as file:
            json.dump(content, file, default=_plain)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None


def _plain(value: Any) -> Any:
    """JSON for what `json` does not know: dataclasses."""
    return asdict(value)
