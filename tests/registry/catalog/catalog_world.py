"""What the catalog's tests are made of: tiny real datasets, weights and jobs, and a clock that stands still."""

from __future__ import annotations

import hashlib
import os
import uuid
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta

import google_crc32c
import numpy as np
import sqlalchemy as sa

from supernet_registry.clients.wire.resources import (
    Cost,
    Dataset,
    EpochMetrics,
    Executor,
    JobEvent,
    Lease,
    Metrics,
    Phase,
    SearchJob,
    SearchSpec,
    SearchWork,
    SourceDecision,
    SupernetVersion,
    TransferMode,
)
from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.catalog.spaces import describe_space
from supernet_registry.search.similarity.sketch import Sketch
from supernet_registry.search.spaces import SearchSpace, make_space
from supernet_registry.search.storage.container import pack
from supernet_registry.search.tasks import ImageDataset, dataset_from_arrays, pack_images

# Read at import: a fixture for all tests removes the project's variables from the environment.
POSTGRESQL = os.environ.get("SUPERNET_REGISTRY_TEST_DATABASE_URL", "")

SPACE = make_space(channels=4)
OTHER_SPACE = make_space(channels=8, head_pool=2)
SPACE_DESCRIPTOR = describe_space(SPACE)
CLASSES = 2
EMBEDDING_ID = "test-embedding"


class StandingClock:
    """Time moves only when told to."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


def new_id() -> str:
    """A request id."""
    return str(uuid.uuid4())


def images(seed: int) -> ImageDataset:
    """A real dataset of 8x8 noise, two classes; another one for every seed."""
    random = np.random.default_rng(seed)

    def split(n: int) -> tuple[np.ndarray, np.ndarray]:
        return random.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8), np.arange(n) % CLASSES

    return dataset_from_arrays(*split(8), *split(4), *split(4), name=f"noise{seed}")


def sketch(seed: int, encoder_id: str = "test-encoder") -> Sketch:
    """A valid sketch of two classes in three dimensions."""
    random = np.random.default_rng(seed)
    return Sketch(
        features=random.normal(size=(4, 3)).astype(np.float32),
        labels=np.array([0, 0, 1, 1], dtype=np.int64),
        class_means=random.normal(size=(CLASSES, 3)).astype(np.float32),
        class_factors=random.normal(size=(CLASSES, 1, 3)).astype(np.float32),
        class_counts=np.array([4, 4], dtype=np.int64),
        encoder_id=encoder_id,
    )


def weights(seed: int = 0, *, kind: str = "supernet", space: SearchSpace = SPACE, n_classes: int = CLASSES) -> bytes:
    """A weights blob that passes every check."""
    values = np.random.default_rng(seed).normal(size=(3,)).astype(np.float32)
    return pack({"w": values}, kind, {"space": space.to_json(), "n_classes": n_classes, "genotype": "|skip|"})


def epoch(number: int, *, phase: Phase = Phase.SEARCH, accuracy: float = 0.5) -> JobEvent:
    """An epoch as a worker reports it."""
    figures = EpochMetrics(phase=phase, epoch=number, epochs=10, steps=10 * number, val_accuracy=accuracy)
    return JobEvent(epoch=figures)


def search_spec(**values: object) -> SearchSpec:
    """A spec of a search; fields of its work by their names among those of the spec."""
    names = {item.name for item in fields(SearchWork)}
    work = SearchWork(**{name: value for name, value in values.items() if name in names})  # type: ignore[arg-type]
    rest = {name: value for name, value in values.items() if name not in names}
    return SearchSpec(search=work, **rest)  # type: ignore[arg-type]


@dataclass
class World:
    """A catalog with shorthands for what tests do again and again."""

    catalog: Catalog
    clock: StandingClock
    engine: sa.Engine | None = None
    """The catalog's, for tests that look behind its door."""

    def draft(self, seed: int = 0, *, with_images: bool = True) -> Dataset:
        """A dataset as a client would register it, its images stored."""
        dataset = images(seed)
        h, w, c = dataset.image_shape
        return Dataset(
            display_name=dataset.name,
            digest=dataset.digest,
            val_count=len(dataset.val),
            test_count=len(dataset.test),
            height=h,
            width=w,
            channels=c,
            images_blob=self.catalog.blobs.put(pack_images(dataset)) if with_images else "",
        )

    def register(self, draft: Dataset, *, seed: int = 0, request_id: str = "", encoder_id: str = "e") -> Dataset:
        """Register a draft."""
        return self.catalog.datasets.create(
            draft,
            sketch=sketch(seed, encoder_id).to_bytes(),
            embedding=np.arange(4, dtype=np.float32) + seed,
            embedding_id=EMBEDDING_ID,
            request_id=request_id,
        )

    def dataset(self, seed: int = 0, *, with_images: bool = True) -> Dataset:
        """A registered dataset."""
        return self.register(self.draft(seed, with_images=with_images), seed=seed)

    def job_draft(self, supernet: str = "supernets/a", *, seed: int = 0, **spec: object) -> SearchJob:
        """A job on a registered dataset."""
        values = {"search_space": SPACE_DESCRIPTOR, **spec}
        return SearchJob(supernet=supernet, dataset=self.dataset(seed).name, spec=search_spec(**values))

    def job(self, supernet: str = "supernets/a", *, seed: int = 0, **spec: object) -> SearchJob:
        """A queued job."""
        return self.catalog.jobs.create(self.job_draft(supernet, seed=seed, **spec))

    def lease(self, job: SearchJob | None = None, worker: str = "w1") -> tuple[Lease, SearchJob]:
        """The lease of a job."""
        leased = self.catalog.leases.lease(worker, device="cpu", job=job.name if job else "")
        assert leased is not None
        return leased[0], leased[1]

    def result(self, seed: int = 0, **changes: object) -> SupernetVersion:
        """A result as a worker reports it, its weights stored."""
        version = SupernetVersion(
            weights_blob=self.catalog.blobs.put(weights(seed)),
            child_blob=self.catalog.blobs.put(weights(seed, kind="child")),
            genotype="|skip|",
            metrics=Metrics(val_accuracy=0.9, test_accuracy=0.8),
            cost=Cost(search_steps=100, device="cpu"),
        )
        return replace(version, **changes)  # type: ignore[arg-type]

    def finish(self, job: SearchJob, *, source: str = "", seed: int = 0) -> SupernetVersion:
        """Run a job to its end."""
        lease, _ = self.lease(job)
        if source:
            decision = SourceDecision(source=source, transfer_mode=TransferMode.WEIGHTS_AND_ALPHAS, reason="near")
            self.catalog.leases.report(job.name, lease.fence, [JobEvent(decision=decision)])
        return self.catalog.write_back.complete(job.name, lease.fence, self.result(seed))[0]

    def version(self, supernet: str = "supernets/a", *, source: str = "", seed: int = 0) -> SupernetVersion:
        """A new version of a supernet."""
        return self.finish(self.job(supernet, seed=seed, executor=Executor.POOL), source=source, seed=seed)

    def upload(self, data: bytes, chunk_bytes: int = 2**20) -> str:
        """Upload bytes as a client does; the blob's name."""
        name = f"blobs/{hashlib.sha256(data).hexdigest()}"
        upload = self.catalog.uploads.start(name, len(data))
        while not upload.complete:
            start = upload.persisted_size_bytes
            chunk = data[start : start + chunk_bytes]
            upload = self.catalog.uploads.append(upload.name, start, chunk, google_crc32c.value(chunk))
        return name
