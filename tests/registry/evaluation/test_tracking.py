"""An evaluation in MLflow: a parent, its children, no twins; and a server that never answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from supernet_registry.registry.evaluation.checks import checks_of
from supernet_registry.registry.evaluation.summary import summarise
from supernet_registry.registry.evaluation.tracking import EXPERIMENT, log_evaluation
from supernet_registry.registry.publisher.store import TrackingStore, tracking_store
from tests.registry.evaluation.made_up_runs import made_up_runs

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrackingStore:
    return tracking_store(tmp_path_factory.mktemp("mlflow"))


def log(store: TrackingStore, page: Path, seeds: int) -> str:
    runs = [run for seed in range(seeds) for run in made_up_runs(seed)]
    summary = summarise(runs, resamples=20)
    page.write_text("<p>report</p>")
    configuration = {"streams": "s_test"}
    return log_evaluation(
        store, "abc", runs, summary, checks_of(summary), configuration=configuration, artifacts=[page]
    )


def test_a_parent_with_children_is_logged_once(store: TrackingStore, tmp_path: Path) -> None:
    """The second time with one seed more: three children are added, the parent stays."""
    page = tmp_path / "report.html"
    parent = log(store, page, 1)
    assert log(store, page, 2) == parent
    client = MlflowClient(tracking_uri=store.uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent]
    assert len(runs) == len(children) + 1 == 7
    (registry,) = [run for run in children if run.info.run_name == "s_test registry seed 1"]
    assert registry.data.params == {"stream": "s_test", "policy": "registry", "seed": "1", "tasks": "3"}
    history = client.get_metric_history(registry.info.run_id, "test_accuracy")
    assert sorted((metric.step, metric.value) for metric in history) == [(0, 0.8), (1, 0.7), (2, 0.9)]
    assert registry.data.tags["source.2"] == "supernets/s0/versions/1"
    logged = client.get_run(parent)
    assert logged.data.params["streams"] == "s_test"
    assert logged.data.metrics["registry/forward_transfer"] == pytest.approx(0.05)
    assert logged.data.metrics["registry/forward_transfer.low"] <= 0.05
    assert [file.path for file in client.list_artifacts(parent)] == ["report.html"]
