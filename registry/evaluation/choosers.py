"""Functions that choose where each task's search starts, one for each policy but the registry's own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from uuid import UUID, uuid5

from supernet_registry.clients.prepare import space_descriptor
from supernet_registry.clients.registry_client import RegistryClient
from supernet_registry.clients.streams.results import StreamRow
from supernet_registry.clients.streams.runner import ChooseSource
from supernet_registry.clients.streams.stream import Experience
from supernet_registry.clients.wire.options import StreamOptions
from supernet_registry.clients.wire.resources import SourceCandidate
from supernet_registry.registry.evaluation.policies import Policy
from supernet_registry.search.errors import SearchFailed
from supernet_registry.search.results import NEAREST

__all__ = ["source_chooser"]

_NAMESPACE = UUID("6b0c9a4e-4c83-4e0e-8d0b-1c5f0b9c8a55")
_MOST_CANDIDATES = 100


def source_chooser(policy: Policy, client: RegistryClient, options: StreamOptions) -> ChooseSource | None:
    """The function that chooses the sources of a policy's stream; None for what the registry decides by itself.

    Args:
        policy: what to choose.
        client: of the run's registry.
        options: those of the run's searches; a generalist is pretrained with the same seed, space and recipe.

    Each is a function of the rows so far alone, so that an interrupted stream is continued as it began.
    """

    def previous(_: Experience, rows: Sequence[StreamRow]) -> str:
        return next((row.version for row in reversed(rows) if row.version), "scratch")

    def at_random(experience: Experience, rows: Sequence[StreamRow]) -> str:
        versions = [row.version for row in rows if row.version]
        chooser = random.Random(f"{options.get('seed', 0)} {experience.current_experience}")
        return chooser.choice(versions) if versions else "scratch"

    def nearest(experience: Experience, rows: Sequence[StreamRow]) -> str:
        if not any(row.version for row in rows):
            return "scratch"
        dataset = client.register_dataset(experience.dataset)
        found = client.query_nearest_sources(
            dataset.name,
            top_k=_MOST_CANDIDATES,
            search_space=space_descriptor(options.get("space")),
            min_index_sequence=dataset.index_sequence,
        )
        usable = [candidate for candidate in found.candidates if candidate.compatible and candidate.origin == NEAREST]
        return min(usable, key=_by_distance).version if usable else "scratch"

    choosers: dict[Policy, ChooseSource] = {
        Policy.SCRATCH: lambda *_: "scratch",
        Policy.FINETUNE_PREVIOUS: previous,
        Policy.NEAREST_ONLY: nearest,
        Policy.RANDOM_SOURCE: at_random,
        Policy.GENERALIST: _Generalist(client, options),
    }
    return choosers.get(policy)


def _by_distance(candidate: SourceCandidate) -> float:
    return candidate.ot_distance


class _Generalist:
    """Pretrains one supernet over all tasks so far, incrementally, and starts every search from it."""

    def __init__(self, client: RegistryClient, options: StreamOptions) -> None:
        self._client = client
        self._options = options
        self._version = ""
        self._learnt: list[str] = []

    def __call__(self, experience: Experience, rows: Sequence[StreamRow]) -> str:
        done = [row for row in rows if row.version]
        datasets = list(dict.fromkeys(row.dataset for row in done))
        if len(datasets) < 2:  # nothing to generalise over yet
            return done[-1].version if done else "scratch"
        new = [name for name in datasets if name not in self._learnt]
        if new:
            options = self._options
            seed = options.get("seed", 0)
            request = f"{seed} {experience.current_experience} {new} {self._version}"
            job = self._client.pretrain_generalist(
                new,
                base=self._version,
                space=options.get("space"),
                recipe=options.get("recipe", {}),
                seed=seed,
                request_id=str(uuid5(_NAMESPACE, request)),
            )
            job = self._client.wait_search_job(job.name)
            if not job.version:
                reason = job.error.message if job.error else job.state.value
                raise SearchFailed(f"The generalist could not be pretrained: {reason}", metadata={"job": job.name})
            self._version, self._learnt = job.version, datasets
        return self._version
