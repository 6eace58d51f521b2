"""Search jobs as MLflow runs.

Every step may be repeated without harm, so the publisher can be killed anywhere: a run is looked up by its job's tag
before it is created, parameters never change, metrics carry the registry's own times and steps (MLflow stores an
equal one once), tags and artifacts are overwritten, and the cursor moves only after MLflow has answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag, ViewType
from mlflow.exceptions import MlflowException

from supernet_registry.clients.wire.resources import JobEvent, SearchJob
from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.catalog.outbox import MlflowRun
from supernet_registry.registry.publisher.artifacts import log_decision, log_genotype
from supernet_registry.registry.publisher.failures import Rejected, is_missing
from supernet_registry.registry.publisher.mapping import (
    RUN_STATUS,
    TAG,
    dataset_input,
    event_metrics,
    job_params,
    job_tags,
    milliseconds,
    run_name,
    version_metrics,
)
from supernet_registry.registry.publisher.store import TrackingStore
from supernet_registry.registry.storage import failpoints
from supernet_registry.search.errors import NotFound

__all__ = ["DEFAULT_EXPERIMENT", "RunPublisher"]

DEFAULT_EXPERIMENT = "default"
"""Experiment of the jobs that belong to no stream."""
BATCH_METRICS = 1000
"""Most metrics that MLflow takes in one call."""
PAGE_EVENTS = 500


class RunPublisher:
    """Keeps the MLflow run of a job in step with the job.

    No method holds a database transaction while it talks to MLflow.
    """

    def __init__(self, client: MlflowClient, store: TrackingStore, catalog: Catalog, registry_id: str) -> None:
        self._client = client
        self._store = store
        self._catalog = catalog
        self._registry_id = registry_id

    def publish(self, job_name: str) -> None:
        """Bring the run of `job_name` up to the job's present state.

        Raises:
            MlflowException, Rejected: see `failures`; what was published stays, and is not repeated.
        """
        job = self._catalog.jobs.get(job_name)
        run = self._catalog.mlflow_links.run(job_name)
        if run is not None:
            try:
                self._bring_up_to_date(job, run)
            except MlflowException as error:
                if not is_missing(error):
                    raise
                # The store was emptied or replaced behind our back: begin again, from the first event.
                run = None
        if run is None:
            self._bring_up_to_date(job, self._find_or_create(job))

    def run_id(self, job_name: str) -> str:
        """The run of `job_name`, which is created if there is none yet."""
        run = self._catalog.mlflow_links.run(job_name) or self._find_or_create(self._catalog.jobs.get(job_name))
        return run.run_id

    def _find_or_create(self, job: SearchJob) -> MlflowRun:
        experiment_id = self._experiment(job.stream or DEFAULT_EXPERIMENT)
        found = self._client.search_runs(
            [experiment_id],
            f"tags.`{TAG}job` = '{job.name}'",
            run_view_type=ViewType.ACTIVE_ONLY,
            max_results=1,
            order_by=["attributes.start_time ASC"],
        )
        if found:
            run_id = str(found[0].info.run_id)
        else:
            run_id = str(self._create(job, experiment_id))
            failpoints.hit("publish.run_created")
        names = (job.spec.datasets if job.spec else ()) or (job.dataset,)
        stored = self._catalog.datasets.get_many(names)
        self._client.log_batch(run_id, params=job_params(job))
        self._client.log_inputs(run_id, [dataset_input(stored[name]) for name in names])
        run = MlflowRun(job=job.name, experiment_id=experiment_id, run_id=run_id)
        self._catalog.mlflow_links.save_run(run)
        return run

    def _experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            return str(self._client.create_experiment(name, artifact_location=self._store.artifact_location(name)))
        if experiment.lifecycle_stage != "active":
            raise Rejected(f"experiment {name!r} is deleted in MLflow; restore it there, then publish with --rebuild")
        return str(experiment.experiment_id)

    def _create(self, job: SearchJob, experiment_id: str) -> str:
        tags = job_tags(job) | {
            f"{TAG}registry": self._registry_id,
            "mlflow.source.name": "supernet-registry",
            "mlflow.source.type": "JOB",
            "mlflow.user": "supernet-registry",
        }
        run = self._client.create_run(
            experiment_id, start_time=milliseconds(job.create_time), tags=tags, run_name=run_name(job)
        )
        return str(run.info.run_id)

    def _bring_up_to_date(self, job: SearchJob, run: MlflowRun) -> None:
        sequence = run.published_sequence
        for events in self._pages(job.name, sequence):
            self._publish_events(run.run_id, events)
            sequence = events[-1].sequence
            self._save(run, sequence, finished=False)
        if job.version:
            self._publish_result(job, run.run_id)
        self._client.log_batch(run.run_id, tags=[RunTag(key, value) for key, value in job_tags(job).items()])
        status = RUN_STATUS[job.state]
        if job.state.ended:
            self._client.set_terminated(run.run_id, status, end_time=milliseconds(job.end_time))
            self._save(run, sequence, finished=True)
        else:
            self._client.update_run(run.run_id, status=status)

    def _pages(self, job_name: str, after: int) -> Iterator[Sequence[JobEvent]]:
        while events := self._catalog.jobs.events(job_name, after_sequence=after, limit=PAGE_EVENTS):
            yield events
            after = events[-1].sequence

    def _publish_events(self, run_id: str, events: Sequence[JobEvent]) -> None:
        self._log_metrics(run_id, [metric for event in events for metric in event_metrics(event)])
        failpoints.hit("publish.metrics_sent")
        decision = next((event.decision for event in reversed(events) if event.decision is not None), None)
        if decision is not None:
            log_decision(self._client, run_id, decision)

    def _publish_result(self, job: SearchJob, run_id: str) -> None:
        try:
            version = self._catalog.supernets.get_version(job.version)
        except NotFound:  # its supernet has been deleted since
            return
        at = milliseconds(version.create_time)
        self._log_metrics(run_id, [Metric(key, value, at, 0) for key, value in version_metrics(version).items()])
        log_genotype(self._client, run_id, version)

    def _log_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), BATCH_METRICS):
            self._client.log_batch(run_id, metrics=metrics[start : start + BATCH_METRICS])

    def _save(self, run: MlflowRun, sequence: int, *, finished: bool) -> None:
        self._catalog.mlflow_links.save_run(
            MlflowRun(
                job=run.job,
                experiment_id=run.experiment_id,
                run_id=run.run_id,
                published_sequence=sequence,
                finished=finished,
            )
        )
