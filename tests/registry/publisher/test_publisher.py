"""What the registry knows can be found again in MLflow: once, and in step."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    ENDPOINT_NOT_FOUND,
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    REQUEST_LIMIT_EXCEEDED,
    UNAUTHENTICATED,
)
from requests import HTTPError, Response

from supernet_registry.clients.wire.resources import (
    AbandonOutcome,
    EpochMetrics,
    JobError,
    JobEvent,
    Metrics,
    Phase,
    SupernetVersion,
)
from supernet_registry.registry.catalog import Catalog
from supernet_registry.registry.publisher.drain import Publisher
from supernet_registry.registry.publisher.failures import is_rejection
from supernet_registry.registry.publisher.mapping import event_metrics, version_metrics
from supernet_registry.registry.publisher.store import connect, tracking_store
from tests.registry.publisher.publisher_life import GENOTYPE, SPACE, Life, content, run_of

# MLflow 3.17's own tables use a loader strategy that SQLAlchemy 2.1 deprecates; the warning comes at their import.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


def http_error(status: int) -> HTTPError:
    """What the upload of an artifact raises."""
    response = Response()
    response.status_code = status
    return HTTPError(response=response)


def test_a_job_becomes_a_run(life: Life, publisher: Publisher, embedded: MlflowClient) -> None:
    """Name, parameters, tags, status and times of a run are those of its job."""
    job = life.finished_job("letters", "greek", stream="alphabets")
    report = publisher.drain()
    assert (report.refused, report.trouble) == (0, "")
    run = run_of(embedded, job)
    assert (run.info.run_name, run.info.status) == ("00 greek", "FINISHED")
    assert job.create_time is not None
    assert job.end_time is not None
    assert run.info.start_time == round(job.create_time.timestamp() * 1000)
    assert run.info.end_time == round(job.end_time.timestamp() * 1000)
    params = {"dataset": job.dataset, "recipe.epochs": "3", "seed": "7", "recipe.horizontal_flip": "true"}
    params |= {"space.family": SPACE.family, "space.channels": "4"}
    assert params.items() <= run.data.params.items()
    tags = {
        "job": job.name,
        "supernet": "supernets/letters",
        "dataset": job.dataset,
        "attempt": "1",
        "state": "SUCCEEDED",
        "source": "scratch",
        "source_version": "",
        "novel": "true",
        "version": "supernets/letters/versions/1",
        "label.team": "letters",
    }
    assert {f"supernet_registry.{key}": value for key, value in tags.items()}.items() <= run.data.tags.items()


def test_a_stream_becomes_an_experiment(life: Life, publisher: Publisher, embedded: MlflowClient) -> None:
    """Jobs of a stream share its experiment; jobs without one are in `default`."""
    jobs = [life.submit("letters", "greek", stream="alphabets", step=step) for step in (0, 1)]
    jobs.append(life.submit("letters", "greek"))
    publisher.drain()
    experiments = [embedded.get_experiment(run_of(embedded, job).info.experiment_id).name for job in jobs]
    assert experiments == ["alphabets", "alphabets", "default"]


def test_epochs_become_metrics_with_the_registrys_own_times(
    life: Life, publisher: Publisher, embedded: MlflowClient, catalog: Catalog
) -> None:
    """Every epoch is there, its step is the number of weight updates, also beyond MLflow's 1000 metrics a call."""
    job = life.finished_job("letters", "greek", epochs=250)
    publisher.drain()
    history = embedded.get_metric_history(run_of(embedded, job).info.run_id, "search/val_accuracy")
    times = [e.time for e in catalog.jobs.events(job.name) if e.epoch is not None]
    assert [(m.step, m.value) for m in history] == [(10 * epoch, epoch / 1000) for epoch in range(250)]
    assert [m.timestamp for m in history] == [round(time.timestamp() * 1000) for time in times if time is not None]


def test_a_child_network_that_nobody_judged_has_no_validation_metrics() -> None:
    """A zero would look like a failure, and an accuracy on images that it was trained on like a success."""
    child = EpochMetrics(phase=Phase.CHILD, epoch=1, steps=8, train_loss=0.5, train_accuracy=0.75)
    names = {metric.key for metric in event_metrics(JobEvent(epoch=child))}
    assert "child/train_accuracy" in names
    assert not any("val_" in name for name in names)
    judged = replace(child, val_loss=0.25, val_accuracy=0.5)
    values = {metric.key: metric.value for metric in event_metrics(JobEvent(epoch=judged))}
    assert (values["child/val_loss"], values["child/val_accuracy"]) == (0.25, 0.5)
    version = SupernetVersion(metrics=Metrics(val_accuracy=0.875, child_test_accuracy=0.75))
    assert "child_val_accuracy" not in version_metrics(version)
    version = SupernetVersion(metrics=Metrics(child_val_accuracy=0.5))
    assert version_metrics(version)["child_val_accuracy"] == 0.5


def test_the_choice_of_a_source_can_be_followed(life: Life, publisher: Publisher, embedded: MlflowClient) -> None:
    """Source, OT distance, and the taste curve of every candidate are in the run."""
    source = life.finished_job("letters", "greek").version
    job = life.finished_job("letters", "latin", source=source)
    publisher.drain()
    run = run_of(embedded, job)
    assert run.data.tags["supernet_registry.source"] == "supernets/letters"
    assert run.data.tags["supernet_registry.source_version"] == source
    assert run.data.metrics["ot_distance"] == 2.5
    curve = embedded.get_metric_history(run.info.run_id, "taste/letters.1/val_accuracy")
    assert [(m.step, m.value) for m in curve] == [(1, 0.5), (2, 0.75)]
    assert len(embedded.get_metric_history(run.info.run_id, "taste/scratch/val_loss")) == 2
    decision = json.loads(Path(embedded.download_artifacts(run.info.run_id, "decision.json")).read_text())
    assert (decision["source"], decision["tastes"][0]["chosen"]) == (source, True)


def test_a_result_brings_figures_genotype_and_drawing(life: Life, publisher: Publisher, embedded: MlflowClient) -> None:
    """A finished run carries accuracies and cost as metrics, genotype and cells as files."""
    job = life.finished_job("letters", "greek")
    publisher.drain()
    run = run_of(embedded, job)
    figures = {"test_accuracy": 0.75, "val_accuracy": 0.875, "cost/search_steps": 30.0, "cost/search_seconds": 1.5}
    assert figures.items() <= run.data.metrics.items()
    files = {file.path for file in embedded.list_artifacts(run.info.run_id)}
    assert files == {"decision.json", "genotype.txt", "cells.png"}
    text = Path(embedded.download_artifacts(run.info.run_id, "genotype.txt")).read_text()
    assert text == GENOTYPE + "\n"


def test_the_dataset_is_an_input_of_its_run(life: Life, publisher: Publisher, embedded: MlflowClient) -> None:
    """MLflow's own dataset tracking knows name, digest and size of what was searched on."""
    job = life.submit("letters", "greek")
    publisher.drain()
    (found,) = run_of(embedded, job).inputs.dataset_inputs
    dataset = life.dataset("greek")
    assert (found.dataset.name, found.dataset.digest) == ("greek", dataset.digest[:36])
    assert json.loads(found.dataset.source)["digest"] == dataset.digest
    assert json.loads(found.dataset.profile)["train_count"] == dataset.train_count


def test_a_run_follows_its_job(life: Life, publisher: Publisher, embedded: MlflowClient, catalog: Catalog) -> None:
    """Queued, running with epochs so far, then failed with its error."""
    job = life.submit("letters", "greek")
    publisher.drain()
    assert run_of(embedded, job).info.status == "SCHEDULED"
    lease = life.lease(job)
    life.report(lease, epochs=range(2))
    publisher.drain()
    run = run_of(embedded, job)
    assert run.info.status == "RUNNING"
    assert len(embedded.get_metric_history(run.info.run_id, "search/val_accuracy")) == 2
    life.report(lease, epochs=range(2, 3))
    error = JobError(reason="SEARCH_DIVERGED", message="The loss became NaN.")
    catalog.leases.abandon(lease.job, lease.fence, AbandonOutcome.FAILED, error)
    publisher.drain()
    run = run_of(embedded, job)
    assert run.info.status == "FAILED"
    assert run.data.tags["supernet_registry.error_reason"] == "SEARCH_DIVERGED"
    assert len(embedded.get_metric_history(run.info.run_id, "search/val_accuracy")) == 3


def test_a_cancelled_job_is_a_killed_run(
    life: Life, publisher: Publisher, embedded: MlflowClient, catalog: Catalog
) -> None:
    """MLflow's word for it."""
    job = life.submit("letters", "greek")
    catalog.jobs.cancel(job.name)
    publisher.drain()
    assert run_of(embedded, job).info.status == "KILLED"


def test_a_supernet_becomes_a_registered_model(life: Life, publisher: Publisher, embedded: MlflowClient) -> None:
    """Versions carry their lineage, blobs and figures, and point to the run of their job."""
    first = life.finished_job("letters", "greek")
    second = life.finished_job("letters", "latin", source=first.version)
    publisher.drain()
    version = embedded.get_model_version("letters", "2")
    assert version.run_id == run_of(embedded, second).info.run_id
    assert version.source == run_of(embedded, second).info.artifact_uri
    stored = life.catalog.supernets.get_version(second.version)
    tags = {
        "version": second.version,
        "parents": first.version,
        "source_version": first.version,
        "transfer_mode": "WEIGHTS_AND_ALPHAS",
        "weights_sha256": stored.weights_blob.removeprefix("blobs/"),
        "genotype": GENOTYPE,
        "metric.test_accuracy": "0.75",
    }
    assert {f"supernet_registry.{key}": value for key, value in tags.items()}.items() <= version.tags.items()
    assert embedded.get_model_version_by_alias("letters", "head").version == version.version


def test_the_head_alias_follows_a_rollback(
    life: Life, publisher: Publisher, embedded: MlflowClient, catalog: Catalog
) -> None:
    """`models:/letters@head` is the registry's head, in both directions."""
    first = life.finished_job("letters", "greek")
    life.finished_job("letters", "latin")
    publisher.drain()
    supernet = catalog.supernets.get("supernets/letters")
    catalog.supernets.rollback(supernet.name, first.version, etag=supernet.etag)
    publisher.drain()
    assert str(embedded.get_model_version_by_alias("letters", "head").version) == "1"


def test_description_and_labels_of_a_supernet_are_kept_in_step(
    life: Life, publisher: Publisher, embedded: MlflowClient, catalog: Catalog
) -> None:
    """A label that is removed in the registry disappears in MLflow."""
    life.finished_job("letters", "greek")
    catalog.supernets.update("supernets/letters", description="Alphabets", labels={"owner": "ada"})
    publisher.drain()
    model = embedded.get_registered_model("letters")
    assert (model.description, model.tags["supernet_registry.label.owner"]) == ("Alphabets", "ada")
    catalog.supernets.update("supernets/letters", labels={"owner": ""})
    publisher.drain()
    assert "supernet_registry.label.owner" not in embedded.get_registered_model("letters").tags


def test_publishing_everything_again_changes_nothing(
    life: Life, publisher: Publisher, embedded: MlflowClient, data_dir: Path
) -> None:
    """A rebuild into the same store finds what is there by its tags."""
    source = life.finished_job("letters", "greek").version
    life.finished_job("letters", "latin", source=source)
    life.submit("digits", "arabic")
    publisher.drain()
    before = content(embedded)
    assert publisher.drain().published == 0
    assert publisher.rebuild() == 5  # three jobs, two supernets
    assert Publisher(life.catalog, tracking_store(data_dir)).drain().published == 5
    assert content(embedded) == before


def test_an_emptied_store_is_noticed_and_filled_again(
    life: Life, publisher: Publisher, embedded: MlflowClient, catalog: Catalog, tmp_path: Path, empty_store: Path
) -> None:
    """A publisher that starts on another store than the last one publishes everything there."""
    life.finished_job("letters", "greek")
    publisher.drain()
    other = tracking_store(tmp_path, f"sqlite:///{shutil.copy(empty_store, tmp_path / 'other.db')}")
    Publisher(catalog, other).drain()
    assert content(connect(other)) == content(embedded)


def test_somebody_elses_model_is_left_alone(
    life: Life, publisher: Publisher, embedded: MlflowClient, catalog: Catalog
) -> None:
    """A name that is taken becomes a dead letter with its reason; everything else is published all the same."""
    embedded.create_registered_model("letters", description="not ours")
    life.finished_job("letters", "greek")
    life.finished_job("digits", "arabic")
    report = publisher.drain()
    assert report.refused > 0
    assert report.trouble == ""
    assert catalog.outbox.backlog().count == 0
    assert {row.resource for row in catalog.outbox.dead()} == {"supernets/letters"}
    assert "belongs to somebody else" in str(catalog.outbox.dead()[0].dead_reason)
    assert embedded.get_registered_model("letters").description == "not ours"
    assert content(embedded)["versions"] == 1
    embedded.rename_registered_model("letters", "their-letters")
    publisher.rebuild()
    publisher.drain()
    assert content(embedded)["versions"] == 2
    assert catalog.outbox.dead() == []


def test_a_deleted_supernet_takes_its_model_along(
    life: Life, publisher: Publisher, embedded: MlflowClient, catalog: Catalog
) -> None:
    """Runs stay: they are history."""
    life.finished_job("letters", "greek")
    publisher.drain()
    supernet = catalog.supernets.get("supernets/letters")
    catalog.supernets.delete(supernet.name, etag=supernet.etag)
    publisher.drain()
    assert (content(embedded)["models"], content(embedded)["runs"]) == (0, 1)
    life.finished_job("letters", "latin")
    publisher.drain()
    assert content(embedded)["versions"] == 1


def test_a_deleted_experiment_does_not_block_the_others(
    life: Life, publisher: Publisher, embedded: MlflowClient, catalog: Catalog
) -> None:
    """What somebody deleted in MLflow is not forced back."""
    embedded.delete_experiment(embedded.create_experiment("alphabets"))
    life.submit("letters", "greek", stream="alphabets")
    other = life.submit("digits", "arabic", stream="numbers")
    publisher.drain()
    assert run_of(embedded, other).info.status == "SCHEDULED"
    assert any("is deleted in MLflow" in str(row.dead_reason) for row in catalog.outbox.dead())


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        (MlflowException("changed a parameter", INVALID_PARAMETER_VALUE), True),
        (MlflowException("token expired", UNAUTHENTICATED), False),
        (MlflowException("no MLflow at this address", ENDPOINT_NOT_FOUND), False),
        (MlflowException("too many requests", REQUEST_LIMIT_EXCEEDED), False),
        (MlflowException("timeout", INTERNAL_ERROR), False),
        (http_error(413), True),
        (http_error(401), False),
        (http_error(502), False),
        (ConnectionResetError(), False),
    ],
)
def test_only_what_concerns_the_entry_itself_is_given_up(error: Exception, permanent: bool) -> None:
    """A wrong token or address must not turn the whole backlog into dead letters."""
    assert is_rejection(error) is permanent
