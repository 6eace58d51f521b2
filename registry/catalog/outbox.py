"""What is still to be published, and what has been. (Signatures first; bodies follow.)"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """Something changed: read the resource's present state and publish that."""

    row_id: int
    topic: str  # "job" or "supernet"
    resource: str  # "searchJobs/..." or "supernets/..."; may be gone by now
    create_time: datetime
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How far the publisher is behind."""

    count: int
    oldest_age_s: float


class Outbox:
    """Rows are written in the transaction of the change; several rows of one resource may be published as one."""

    def pending(self, limit: int = 100) -> list[OutboxRow]:
        """Oldest first; deferred rows are left out."""
        raise NotImplementedError

    def done(self, row_ids: Iterable[int]) -> None:
        raise NotImplementedError

    def defer(self, row_ids: Iterable[int], seconds: float) -> None:
        """Count a failed attempt; come back later."""
        raise NotImplementedError

    def backlog(self) -> Backlog:
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowRun:
    """Job → MLflow run."""

    job: str
    experiment_id: str
    run_id: str
    published_sequence: int = 0
    finished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowVersion:
    """Supernet version → MLflow model version."""

    version: str
    model_name: str
    model_version: str


class MlflowLinks:
    """The publisher's memory; upserts."""

    def run(self, job: str) -> MlflowRun | None:
        raise NotImplementedError

    def save_run(self, run: MlflowRun) -> None:
        raise NotImplementedError

    def version(self, version: str) -> MlflowVersion | None:
        raise NotImplementedError

    def save_version(self, link: MlflowVersion) -> None:
        raise NotImplementedError

    def forget_version(self, version: str) -> None:
        raise NotImplementedError
