"""The stream runner against the real service: lineages, continuation, retries, the accuracy matrix."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supernet_registry import RegistryClient
from supernet_registry.clients.prepare import search_spec
from supernet_registry.clients.streams.results import StreamResult, StreamRow
from supernet_registry.clients.streams.runner import StreamListener, request_id, run_stream, slug
from supernet_registry.clients.streams.stream import Experience, TaskStream
from supernet_registry.clients.wire.options import StreamOptions
from supernet_registry.clients.wire.resources import EpochMetrics, JobState, Phase, SearchJob, SearchSpec, TasteResult
from supernet_registry.search.errors import SearchFailed
from supernet_registry.search.spaces import make_space
from tests.clients.service import write_bars

OPTIONS: StreamOptions = {
    "space": make_space(channels=4),
    "recipe": {"epochs": 1, "child_epochs": 1, "batch_size": 12, "patience": 1},
}


@pytest.fixture
def client(service_address: str) -> Iterator[RegistryClient]:
    with RegistryClient(service_address) as client:
        yield client


def make_stream(folder: Path, name: str, seed: int) -> TaskStream:
    """one, two, one with fewer images, one again: with data of their own for each seed."""
    folder.mkdir(exist_ok=True)
    write_bars(folder / "one.npz", seed=seed)
    write_bars(folder / "two.npz", seed=seed + 1)
    steps = [
        {"task": "one"},
        {"task": "two", "expect": 0},
        {"task": "one", "n_train": 8, "expect": 0},
        {"task": "one", "expect": 0},
    ]
    (folder / "streams.json").write_text(json.dumps({name: steps}))
    return TaskStream.from_json(folder / "streams.json", name, tasks=folder)


class Recorder(StreamListener):
    def __init__(self) -> None:
        self.jobs: list[tuple[str, bool]] = []
        self.messages: list[str] = []
        self.uploads = 0

    def on_job(self, job: SearchJob, *, resumed: bool) -> None:
        self.jobs.append((job.name, resumed))

    def on_upload(self, sent_bytes: int, total_bytes: int) -> None:
        self.uploads += 1

    def on_message(self, text: str) -> None:
        self.messages.append(text)


def test_a_stream_grows_lineages_and_a_second_run_continues_it(client: RegistryClient, tmp_path: Path) -> None:
    stream = make_stream(tmp_path / "tasks", "grow", 100)
    first = run_stream(client, stream, **OPTIONS)
    assert [row.version for row in first.rows] == [
        "supernets/one/versions/1",
        "supernets/two/versions/1",
        "supernets/one/versions/2",
        "supernets/one/versions/3",
    ]
    assert [row.expect for row in first.rows] == [None, 0, 0, 0]
    assert all(len(row.curve) >= 2 and row.genotype and row.steps for row in first.rows)
    jobs = {job.name for job in client.list_search_jobs(stream="grow")}

    recorder = Recorder()
    second = run_stream(client, stream, listener=recorder, **OPTIONS)
    assert [resumed for _, resumed in recorder.jobs] == [True] * 4
    assert {name for name, _ in recorder.jobs} == jobs == {job.name for job in client.list_search_jobs(stream="grow")}
    again = [replace(row, resumed=False, prepare_seconds=0.0) for row in second.rows]
    assert again == [replace(row, prepare_seconds=0.0) for row in first.rows]
    assert recorder.uploads == 0


def test_the_matrix_is_lower_triangular_and_nothing_is_forgotten(client: RegistryClient, tmp_path: Path) -> None:
    stream = make_stream(tmp_path / "tasks", "grow", 100)
    result = run_stream(client, stream, **OPTIONS)
    assert not result.evaluated
    for i, row in enumerate(result.accuracies):
        assert row[: i + 1] == tuple(r.test_accuracy for r in result.rows[: i + 1])
        assert row[i + 1 :] == (None,) * (3 - i)
    assert result.backward_transfer == 0
    assert json.loads(json.dumps(result.to_json()))["rows"][0]["state"] == "SUCCEEDED"


def test_accuracies_measured_here_are_those_that_the_worker_measured(client: RegistryClient, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    stream = make_stream(tmp_path / "tasks", "grow", 100)[:2]
    result = run_stream(client, stream, **OPTIONS | {"evaluate": True, "device": "cpu"})
    assert result.evaluated
    for j, row in enumerate(result.rows):
        assert result.accuracies[1][j] == pytest.approx(row.test_accuracy, abs=0.05)
        assert result.child_accuracies[1][j] == pytest.approx(row.child_test_accuracy, abs=0.05)


def test_data_known_under_another_name_stay_in_that_lineage(client: RegistryClient, tmp_path: Path) -> None:
    write_bars(tmp_path / "mine.npz", seed=200)
    stream = TaskStream.from_paths([tmp_path / "mine.npz"], name="first")
    run_stream(client, stream, supernet_name=lambda _: "Original Name!", **OPTIONS)
    again = run_stream(client, stream, stream_name="second", **OPTIONS)
    assert again.rows[0].version == "supernets/original-name/versions/2"


def test_a_supernet_of_another_search_space_is_left_alone(client: RegistryClient, tmp_path: Path) -> None:
    write_bars(tmp_path / "wide.npz", seed=210)
    stream = TaskStream.from_paths([tmp_path / "wide.npz"], name="wide")
    run_stream(client, stream, **OPTIONS)
    other = run_stream(client, stream, **OPTIONS | {"space": make_space(channels=6)})
    assert other.rows[0].supernet.startswith("supernets/wide-compact-")
    assert len(list(client.list_versions("supernets/wide"))) == 1


def test_a_cancelled_step_is_reported_and_tried_anew_by_the_next_run(registry_server: Any, tmp_path: Path) -> None:
    write_bars(tmp_path / "task.npz", seed=220)
    stream = TaskStream.from_paths([tmp_path / "task.npz"], name="cancelled")
    with RegistryClient(registry_server.address) as client:

        class Cancel(Recorder):
            def on_job(self, job: SearchJob, *, resumed: bool) -> None:
                super().on_job(job, resumed=resumed)
                client.cancel_search_job(job.name)

        recorder = Cancel()
        with pytest.raises(SearchFailed, match="cancelled") as caught:
            run_stream(client, stream, listener=recorder, **OPTIONS)
        assert caught.value.metadata["job"] == recorder.jobs[0][0]
        result = run_stream(client, stream, listener=recorder, **OPTIONS | {"keep_going": True})
        assert [row.state for row in result.failed] == [JobState.CANCELLED]
        assert [resumed for _, resumed in recorder.jobs] == [False, False]
        assert len({name for name, _ in recorder.jobs}) == 2
        assert result.accuracies == ((None,),)


def test_warnings_about_a_task_reach_the_listener_and_the_row(client: RegistryClient, tmp_path: Path) -> None:
    import numpy as np

    with np.load(write_bars(tmp_path / "leak.npz", seed=230)) as arrays:
        content = dict(arrays)
    content["x_test"][0] = content["x_train"][0]
    np.savez(tmp_path / "leak.npz", **content)
    recorder = Recorder()
    result = run_stream(client, TaskStream.from_paths([tmp_path / "leak.npz"]), listener=recorder, **OPTIONS)
    assert any("identical to training images" in message for message in recorder.messages)
    assert result.rows[0].warnings


def test_request_ids_depend_on_all_that_makes_a_step_what_it_is() -> None:
    spec = search_spec(OPTIONS)
    ids = {
        request_id("s", 0, "d", spec),
        request_id("t", 0, "d", spec),
        request_id("s", 1, "d", spec),
        request_id("s", 0, "e", spec),
        request_id("s", 0, "d", replace(spec, seed=1)),
        request_id("s", 0, "d", spec, attempt=1),
    }
    assert len(ids) == 6
    assert request_id("s", 0, "d", spec) in ids


def test_request_ids_know_nothing_of_what_is_not_set() -> None:
    """Else every new field of a spec would make all streams begin again, whose jobs an older release has submitted."""
    assert request_id("s", 0, "d", SearchSpec(seed=3)) == "11235d83-2ae7-56c3-956b-811deab6c11a"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Print Digits", "print-digits"), ("__x__", "x"), ("äöü", "task"), ("a" * 80, "a" * 63), ("ok_1.2-b", "ok_1.2-b")],
)
def test_a_task_name_becomes_a_valid_id(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_the_whole_stream_is_named_after_itself_unless_told_otherwise(tmp_path: Path) -> None:
    experience = Experience(lambda: None, task_name="x")  # type: ignore[arg-type,return-value]
    assert TaskStream([experience], name="n").name == "n"


def test_a_result_survives_json() -> None:
    """What is stored of a stream is read back as it was, enums and tuples included."""
    epoch = EpochMetrics(phase=Phase.SEARCH, epoch=1, epochs=2, steps=7, val_accuracy=0.5)
    taste = TasteResult(version="supernets/a/versions/1", steps=(0, 4), val_accuracies=(0.1, 0.2), chosen=True)
    row = StreamRow(step=0, task="a", state=JobState.SUCCEEDED, tastes=(taste,), curve=(epoch,), warnings=("small",))
    result = StreamResult(stream="s", rows=(row,), accuracies=((0.5,),), child_accuracies=((None,),), evaluated=True)
    assert StreamResult.from_json(json.loads(json.dumps(result.to_json()))) == result
