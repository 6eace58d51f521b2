"""What fills a catalog, as server and worker do, and what counts the content of an MLflow store."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from dataclasses import replace

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.numpy import save

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
    SourcePolicy,
    SpaceDescriptor,
    SupernetVersion,
    TasteResult,
    TransferMode,
)
from supernet_registry.registry.catalog import Catalog
from supernet_registry.search.similarity.sketch import Sketch
from supernet_registry.search.spaces import make_space

SPACE = make_space(channels=4, cells=1)
GENOTYPE = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|nor_conv_3x3~2|"


class Life:
    """What clients and workers do to a registry, in a few words."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def dataset(self, name: str) -> Dataset:
        """Register a dataset of two classes; its name decides about its content."""
        digest = hashlib.sha256(name.encode()).hexdigest()
        rng = np.random.default_rng(int(digest[:8], 16))
        sketch = Sketch(
            features=rng.normal(size=(8, 4)).astype(np.float32),
            labels=np.repeat([0, 1], 4),
            class_means=np.zeros((2, 4), np.float32),
            class_factors=np.zeros((2, 1, 4), np.float32),
            class_counts=np.array([4, 4]),
            encoder_id="pixels-test",
        ).to_bytes()
        dataset = Dataset(
            display_name=name,
            digest=digest,
            encoder_id="pixels-test",
            class_count=2,
            class_names=("a", "b"),
            train_count=8,
            val_count=4,
            test_count=4,
            height=8,
            width=8,
            channels=1,
        )
        embedding = rng.normal(size=256).astype(np.float32)
        return self.catalog.datasets.create(dataset, sketch=sketch, embedding=embedding, embedding_id="test")

    def submit(self, supernet: str, dataset: str, *, stream: str = "", step: int = 0) -> SearchJob:
        """Queue a job that the caller runs itself: so the registry needs no images."""
        spec = SearchSpec(
            search_space=SpaceDescriptor(family=SPACE.family, channels=4, cells=1),
            search=SearchWork(source_policy=SourcePolicy.AUTO),
            seed=7,
            recipe={"epochs": "3", "horizontal_flip": "true"},
            executor=Executor.CALLER,
        )
        job = SearchJob(
            supernet=f"supernets/{supernet}",
            dataset=self.dataset(dataset).name,
            spec=spec,
            stream=stream,
            stream_step=step,
            labels={"team": "letters"},
        )
        return self.catalog.jobs.create(job)

    def lease(self, job: SearchJob) -> Lease:
        """Become the worker of `job`."""
        leased = self.catalog.leases.lease("worker-1", device="cpu", job=job.name)
        assert leased is not None
        return leased[0]

    def report(self, lease: Lease, *, epochs: range, source: str = "") -> None:
        """Decide for `source`, if the first epoch is among `epochs`, and finish these epochs."""
        events = [JobEvent(epoch=_epoch(epoch)) for epoch in epochs]
        if epochs.start == 0:
            events.insert(0, JobEvent(decision=_decision(source)))
        self.catalog.leases.report(lease.job, lease.fence, events)

    def complete(self, lease: Lease, *, source: str = "", child: bytes = b"") -> SupernetVersion:
        """Write the result back."""
        weights = {"w": np.full((2, 3), float(len(lease.job)), np.float32)}
        about = {"space": SPACE.to_json(), "n_classes": 2, "genotype": GENOTYPE}
        blob = self.catalog.blobs.put(save(weights, metadata={"supernet": json.dumps(about)}))
        draft = SupernetVersion(
            weights_blob=blob,
            child_blob=self.catalog.blobs.put(child) if child else "",
            genotype=GENOTYPE,
            transfer_mode=TransferMode.WEIGHTS_AND_ALPHAS if source else TransferMode.SCRATCH,
            metrics=Metrics(
                val_accuracy=0.875,
                test_accuracy=0.75,
                child_test_accuracy=0.8125,
                child_parameters=1000,
                child_macs=5000,
                child_single_seconds=0.25,
                child_batch_seconds=0.5,
                alpha_entropy=1.25,
                skip_count=1,
            ),
            cost=Cost(search_steps=30, taste_steps=4, search_seconds=1.5, device="cpu"),
        )
        return self.catalog.write_back.complete(lease.job, lease.fence, draft)[0]

    def finished_job(
        self,
        supernet: str,
        dataset: str,
        *,
        stream: str = "",
        source: str = "",
        epochs: int = 3,
        child: bytes = b"",
    ) -> SearchJob:
        """A job from submission to write-back."""
        job = self.submit(supernet, dataset, stream=stream)
        lease = self.lease(job)
        self.report(lease, epochs=range(epochs), source=source)
        self.complete(lease, source=source, child=child)
        return self.catalog.jobs.get(job.name)


def _decision(source: str) -> SourceDecision:
    scratch = TasteResult(version="", steps=(1, 2), val_accuracies=(0.25, 0.5), val_losses=(1.5, 1.0))
    if not source:
        return SourceDecision(transfer_mode=TransferMode.SCRATCH, reason="nothing is near", novel=True)
    chosen = replace(scratch, version=source, ot_distance=2.5, val_accuracies=(0.5, 0.75), chosen=True)
    return SourceDecision(
        source=source,
        transfer_mode=TransferMode.WEIGHTS_AND_ALPHAS,
        reason="it tasted best",
        ot_distance=2.5,
        tastes=(chosen, scratch),
        taste_steps=4,
    )


def _epoch(epoch: int) -> EpochMetrics:
    return EpochMetrics(
        phase=Phase.SEARCH,
        epoch=epoch,
        epochs=100,
        steps=10 * epoch,
        train_loss=1.0 / (1 + epoch),
        val_loss=2.0 / (1 + epoch),
        val_accuracy=epoch / 1000,
        alpha_entropy=1.5,
        skip_count=1,
        learning_rate=0.025,
    )


class HangingServer:
    """A TCP server that accepts, reads, and never answers, until it is closed."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._lock = threading.Lock()
        self.called = threading.Event()
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.append(connection)
            if connection.recv(1):
                self.called.set()

    def close(self) -> None:
        """Hang up on everybody; again, if it was done already."""
        if self._listener.fileno() < 0:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        with self._lock:
            for connection in self._connections:
                connection.close()


def runs_of(client: MlflowClient, job: SearchJob | None = None) -> list[Run]:
    """All runs, or those of one job."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    wanted = "" if job is None else f"tags.`supernet_registry.job` = '{job.name}'"
    return list(client.search_runs(experiments, wanted))


def run_of(client: MlflowClient, job: SearchJob) -> Run:
    """The only run of a job."""
    (run,) = runs_of(client, job)
    return run


def content(client: MlflowClient) -> dict[str, int]:
    """How much there is of everything."""
    runs = runs_of(client)
    return {
        "runs": len(runs),
        "metrics": sum(len(client.get_metric_history(r.info.run_id, key)) for r in runs for key in r.data.metrics),
        "params": sum(len(r.data.params) for r in runs),
        "inputs": sum(len(r.inputs.dataset_inputs) for r in runs),
        "artifacts": sum(len(client.list_artifacts(r.info.run_id)) for r in runs),
        "models": len(client.search_registered_models()),
        "versions": len(client.search_model_versions()),
    }
