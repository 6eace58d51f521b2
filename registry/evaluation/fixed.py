"""What users do today: a fixed network for every task, given the time that the searches took.

Its `StreamRow`s count training as that of a child network, and its accuracy as that of supernet and child alike. The
budget is processor time of one thread, where the searches' seconds are those of a clock that other work slows down: on
a busy machine that favours the fixed network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from supernet_registry.clients.streams.results import StreamResult, StreamRow
from supernet_registry.clients.streams.stream import Experience, TaskStream
from supernet_registry.clients.wire.resources import EpochMetrics, JobState, Phase
from supernet_registry.registry.evaluation.plan import Folder, Plan, Unit
from supernet_registry.registry.evaluation.policies import Policy
from supernet_registry.search.errors import NotFound

if TYPE_CHECKING:
    from supernet_registry.search.runs.fixed_network import FixedResult

__all__ = ["train_from_sources", "train_independently"]

Tell = Callable[[str], None]


def train_independently(folder: Folder, plan: Plan, unit: Unit, stream: TaskStream, *, tell: Tell) -> None:
    """Train a network from nothing for every task that has none yet, in the seconds of its search from scratch."""
    for experience in stream:
        if folder.independent_row(unit.policy, unit.seed, experience) is None:
            searched = folder.independent_row(Policy.SCRATCH, unit.seed, experience)
            if searched is None:
                raise _missing(Policy.SCRATCH, experience)
            result, epochs = _train(plan, experience, unit.seed, searched, None)
            row = _row(experience, unit.policy, result, epochs, "")
            folder.keep_independent_row(unit.policy, unit.seed, experience, row)
        tell(experience.name)


def train_from_sources(folder: Folder, plan: Plan, unit: Unit, stream: TaskStream, *, tell: Tell) -> StreamResult:
    """Train a network for every task in the seconds of the registry's search.

    `fixed-warm` starts from its own network of the task whose supernet the registry chose as source, and from nothing
    where the registry chose scratch. `fixed-pretrained` starts from the weights file every time.
    """
    searched = _registry_rows(folder, unit, stream)
    position = {row.version: row.step for row in searched if row.version}
    networks = folder.run_folder(unit) / "networks"
    networks.mkdir(parents=True, exist_ok=True)
    rows = []
    for experience, row in zip(stream, searched, strict=True):
        origin = position.get(row.source) if unit.policy is Policy.FIXED_WARM else None
        kept, network = networks / f"{row.step}.json", networks / f"{row.step}.safetensors"
        if not kept.exists():
            source = (networks / f"{origin}.safetensors").read_bytes() if origin is not None else None
            pretrained = plan.pretrained if unit.policy is Policy.FIXED_PRETRAINED else None
            result, epochs = _train(plan, experience, unit.seed, row, source, pretrained)
            network.write_bytes(result.weights)
            source_name = f"{unit.policy}/{origin}" if origin is not None else ""
            folder.write(kept, _row(experience, unit.policy, result, epochs, source_name).to_json())
        rows.append(folder.read_row(kept))
        tell(experience.name)
    supernets = [row.test_accuracy for row in rows]
    matrix = tuple((*supernets[: i + 1], *[None] * (len(rows) - i - 1)) for i in range(len(rows)))
    return StreamResult(stream=unit.stream, rows=tuple(rows), accuracies=matrix, child_accuracies=matrix)


def _registry_rows(folder: Folder, unit: Unit, stream: TaskStream) -> list[StreamRow]:
    registry = Unit(seed=unit.seed, stream=unit.stream, policy=Policy.REGISTRY)
    path = folder.run_file(registry)
    if not path.exists():
        raise _missing(Policy.REGISTRY, stream[0])
    return list(folder.read_run(registry).result.rows)


def _missing(policy: Policy, experience: Experience) -> NotFound:
    return NotFound(
        f"The policy {policy} has not run {experience.name} yet, so its seconds are not known.",
        remedy=f"Run the policy {policy} first.",
        field="policy",
    )


def _train(
    plan: Plan,
    experience: Experience,
    seed: int,
    searched: StreamRow,
    source: bytes | None,
    pretrained: Path | None = None,
) -> tuple[FixedResult, list[EpochMetrics]]:
    from supernet_registry.search.recipe import Recipe
    from supernet_registry.search.runs.fixed_network import train_fixed
    from supernet_registry.search.training.data import load_data
    from supernet_registry.search.training.devices import pick_device

    epochs: list[EpochMetrics] = []
    result = train_fixed(
        load_data(experience.dataset, plan.space, pick_device(plan.device)),
        Recipe.for_space(plan.space),
        seed=seed,
        cpu_seconds=searched.prepare_seconds + searched.seconds + searched.child_seconds,
        source=source,
        pretrained=pretrained,
        on_epoch=lambda epoch: epochs.append(EpochMetrics(**{**asdict(epoch), "phase": Phase.CHILD})),
    )
    return result, epochs


def _row(
    experience: Experience, policy: Policy, result: FixedResult, epochs: list[EpochMetrics], source: str
) -> StreamRow:
    dataset = experience.dataset
    return StreamRow(
        step=experience.current_experience,
        task=experience.name,
        task_name=experience.task_name,
        task_label=experience.task_label,
        classes=dataset.n_classes,
        dataset=f"datasets/{dataset.digest[:32]}",
        state=JobState.SUCCEEDED,
        version=f"{policy}/{experience.current_experience}",
        source=source,
        expect=experience.expect,
        child_steps=result.steps,
        child_seconds=result.cpu_seconds,
        val_accuracy=result.val_accuracy or 0.0,  # where none was held out
        test_accuracy=result.test_accuracy,
        child_val_accuracy=result.val_accuracy,
        child_test_accuracy=result.test_accuracy,
        child_parameters=result.parameters,
        curve=tuple(epochs),
    )
