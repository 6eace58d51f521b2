"""A registry of many datasets with one version each, made in minutes: sketches derived from those of real tasks.

The variants are drawn so that distances are those of real life: some classes of a task, other images of them, another
contrast, brightness and blur in feature space, other class sizes. They go through the catalog's own methods, but
without waiting for the disk, which a benchmark's setup need not survive.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from safetensors.numpy import save

from supernet_registry.clients.wire.resources import (
    Dataset,
    Executor,
    Metrics,
    SearchJob,
    SearchSpec,
    SearchWork,
    SupernetVersion,
)
from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.catalog.spaces import describe_space
from supernet_registry.registry.settings import Settings
from supernet_registry.registry.storage.blobs import open_store
from supernet_registry.registry.storage.database import open_database
from supernet_registry.registry.storage.schema import datasets, jobs, supernets, versions
from supernet_registry.search.similarity import Sketch, embed, embedding_id, load_encoder, make_sketch
from supernet_registry.search.spaces import make_space
from supernet_registry.search.tasks import load_dataset

__all__ = ["base_sketches", "derived_sketch", "fill"]

SPACE = make_space("nas-bench-201", channels=4, cells=1, resolution=16)
GENOTYPE = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
BASE_POINTS = 1024
"""Of the sketches that are derived from: four times as many as a variant takes, so that variants differ in images."""
POINTS = 256


def base_sketches(tasks: Path) -> list[Sketch]:
    """One of every task in the folder."""
    encoder = load_encoder("pixels")
    return [make_sketch(load_dataset(path), encoder, size=BASE_POINTS) for path in sorted(tasks.glob("*.npz"))]


def derived_sketch(bases: Sequence[Sketch], seed: int) -> Sketch:
    """A variant, another one for every seed."""
    random = np.random.default_rng(seed)
    base = bases[int(random.integers(len(bases)))]
    kept = _some_classes(base.n_classes, random)
    sizes = np.maximum(2, base.class_counts[kept] * random.uniform(0.3, 1.0, len(kept))).astype(np.int64)
    # Contrast and brightness act on all features alike, blur shrinks them towards the class mean.
    contrast, blur = random.uniform(0.7, 1.2), random.uniform(0.8, 1.0)
    shift = random.normal(scale=0.02, size=base.dimension)
    means = base.class_means[kept] * contrast + shift
    points, labels = [], []
    for new, old in enumerate(kept):
        rows = np.flatnonzero(base.labels == old)
        count = min(max(1, round(POINTS * sizes[new] / sizes.sum())), len(rows), sizes[new])
        rows = random.choice(rows, count, replace=False)
        centred = (base.features[rows] - base.class_means[old]) * (contrast * blur)
        points.append(means[new] + centred)
        labels += [new] * len(rows)
    return Sketch(
        features=np.concatenate(points).astype(np.float32),
        labels=np.array(labels, dtype=np.int64),
        class_means=means.astype(np.float32),
        class_factors=(base.class_factors[kept] * (contrast * blur)).astype(np.float32),
        class_counts=sizes,
        encoder_id=base.encoder_id,
    )


def _some_classes(count: int, random: np.random.Generator) -> NDArray[np.int64]:
    if count == 2 or random.random() < 0.5:
        return np.arange(count)
    chosen = random.choice(count, random.integers(2, count), replace=False)
    return np.sort(chosen)


def fill(settings: Settings, sketches: Iterable[Sketch], *, with_versions: bool) -> list[str]:
    """Register a dataset for each sketch, with one version or none; returns their names."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    engine = open_database(settings.resolved_database_url)
    sa.event.listen(engine, "connect", _relax)
    engine.dispose()  # connections that were opened before
    with _without_waiting_for_the_disk(), Catalog(engine, open_store(settings), settings) as catalog:
        names = []
        for sketch in sketches:
            names.append(_register(catalog, sketch))
            if with_versions and len(names) == 1:
                _finish(catalog, names[0], sketch.n_classes)
        if with_versions:
            _copy_version(engine)
        return names


def _register(catalog: Catalog, sketch: Sketch) -> str:
    draft = Dataset(
        digest=hashlib.sha256(sketch.digest.encode()).hexdigest(),
        display_name=f"derived-{sketch.digest[:8]}",
        val_count=500,
        test_count=500,
        height=28,
        width=28,
        channels=1,
    )
    identity = embedding_id(sketch.encoder_id, sketch.dimension)
    data = sketch.to_bytes()
    return catalog.datasets.create(draft, sketch=data, embedding=embed(sketch), embedding_id=identity).name


def _finish(catalog: Catalog, dataset: str, n_classes: int) -> None:
    """A job, taken through to a version."""
    spec = SearchSpec(search_space=describe_space(SPACE), executor=Executor.CALLER, search=SearchWork())
    draft = SearchJob(supernet="supernets/s0", dataset=dataset, spec=spec)
    leased = catalog.leases.lease("benchmark", device="cpu", job=catalog.jobs.create(draft).name)
    assert leased is not None
    lease, job = leased[0], leased[1]
    version = SupernetVersion(
        weights_blob=catalog.blobs.put(_weights(n_classes)),
        genotype=GENOTYPE,
        metrics=Metrics(val_accuracy=0.97, test_accuracy=0.97),
    )
    catalog.write_back.complete(job.name, lease.fence, version)


def _copy_version(engine: sa.Engine) -> None:
    """Give every dataset without a version a copy of the only one, with job and supernet; one in twenty fails the gate.

    Row by row, because the way through jobs and leases takes minutes for ten thousand datasets.
    """
    with engine.begin() as connection:
        supernet, job, version = (
            dict(connection.execute(table.select()).mappings().one()) for table in (supernets, jobs, versions)
        )
        rows = [row for row in connection.execute(sa.select(datasets.c.row_id)).scalars() if row != job["dataset_row"]]
        first = max(supernet["row_id"], job["row_id"], version["row_id"]) + 1
        poor = {**version["metrics"], "val_accuracy": 0.05}
        copies: dict[sa.Table, list[dict[str, Any]]] = {supernets: [], jobs: [], versions: []}
        for new, dataset_row in enumerate(rows, first):
            copies[supernets].append({**supernet, "row_id": new, "id": f"s{new}"})
            changed = {"supernet_id": f"s{new}", "version_name": f"supernets/s{new}/versions/1"}
            copies[jobs].append({**job, "row_id": new, "id": f"{new:032x}", "dataset_row": dataset_row, **changed})
            keys = {"row_id": new, "supernet_row": new, "job_row": new, "dataset_row": dataset_row}
            copies[versions].append({**version, **keys, "metrics": poor if new % 20 == 0 else version["metrics"]})
        for table, values in copies.items():
            if values:
                connection.execute(table.insert(), values)


def _weights(n_classes: int) -> bytes:
    """A blob that passes every check of weights, without being any network's."""
    described = {"space": SPACE.to_json(), "n_classes": n_classes, "genotype": GENOTYPE}
    return save({"w": np.zeros((4, 4), dtype=np.float32)}, metadata={"supernet": json.dumps(described)})


@contextmanager
def _without_waiting_for_the_disk() -> Iterator[None]:
    fsync = os.fsync
    os.fsync = lambda fd: None  # noqa: ARG005 - the name is part of its type
    try:
        yield
    finally:
        os.fsync = fsync


def _relax(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")
