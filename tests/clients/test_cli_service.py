"""Every command against the real service: server and worker in processes of their own, tiny searches."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from supernet_registry import AsyncRegistryClient, RegistryClient
from supernet_registry.search.children.child import load_child
from supernet_registry.search.children.predictions import Predictions
from tests.clients.service import ROOT, TINY, write_bars

Cli = Callable[..., SimpleNamespace]


def test_a_search_tells_version_source_cost_and_accuracies(searched: dict[str, object]) -> None:
    assert searched["version"] == "supernets/bars/versions/1"
    assert searched["source"] == "scratch"
    assert searched["steps"] == searched["search_steps"] == 8
    assert searched["seconds"] > 0
    assert 0 <= searched["test_accuracy"] <= 1
    assert 0 <= searched["child_test_accuracy"] <= 1
    assert searched["genotype"].count("|+|") == 1
    assert str(searched["job"]).startswith("searchJobs/")


def test_progress_goes_to_stderr_and_the_result_for_people_to_stdout(cli: Cli, bars: Path, searched: object) -> None:
    result = cli("search", bars, "--name", "people", "--source", "scratch", *TINY)
    assert result.code == 0
    assert "search, epoch 1 of 1: validation" in result.err
    assert "child network, epoch 1 of 1: training" in result.err, "it has learnt from the validation images"
    assert "people/1" in result.out
    assert max(len(line) for line in result.out.splitlines()) <= 80


def test_a_child_network_may_be_held_to_the_validation_split(cli: Cli, bars: Path, searched: dict[str, object]) -> None:
    """Else it has no validation accuracy to tell."""
    assert searched["child_val_accuracy"] is None
    held = cli("search", bars, "--name", "held", "--source", "scratch", "--child-holds-out", *TINY, "--json").json
    assert 0 < held["child_val_accuracy"] <= 1


def test_any_field_of_the_recipe_may_be_set(cli: Cli, bars: Path, searched: object) -> None:
    words = ["search", bars, "--name", "set", "--source", "scratch", *TINY, "--json"]
    assert cli(*words, "--set", "least_epoch_steps=9", "--set", "crop_padding = 0").json["steps"] == 9
    for text in ("crop_padding", "crop_paddin=1", "crop_padding=-1", "epochs=0"):
        refused = cli(*words, "--set", text)
        assert (refused.code, refused.json["error"]["reason"]) == (2, "INVALID_ARGUMENT")


def test_the_same_request_id_finds_the_same_job(cli: Cli, bars: Path) -> None:
    words = ["search", bars, "--name", "once", *TINY, "--request-id", str(uuid.uuid4()), "--json"]
    first, second = cli(*words), cli(*words)
    assert first.json == second.json
    again = cli(*words[:2], "--name", "other", *words[4:])
    assert (again.code, again.json["error"]["reason"]) == (2, "REQUEST_ID_REUSED")


def test_a_search_can_be_left_alone_and_watched_later(cli: Cli, bars: Path, searched: object) -> None:
    queued = cli("search", bars, "--name", "later", *TINY, "--no-wait", "--json").json
    watched = cli("watch", queued["job"], "--json")
    assert watched.code == 0
    assert watched.json["version"] == "supernets/later/versions/1"
    assert [event["sequence"] for event in watched.json["events"]] == list(range(1, len(watched.json["events"]) + 1))
    assert cli("watch", queued["job"].split("/")[1]).code == 0


def test_a_source_is_taken_by_its_short_name_and_shows_in_the_lineage(
    cli: Cli, searched: dict[str, object], tmp_path: Path
) -> None:
    task = write_bars(tmp_path / "more.npz", seed=2)
    result = cli("search", task, "--name", "warm", "--source", "bars", *TINY, "--json").json
    assert result["source"] == searched["version"]
    assert result["ot_distance"] > 0
    lineage = cli("lineage", "bars", "--plot", tmp_path / "lineage.png", "--json").json
    assert result["version"] in [version["name"] for version in lineage["versions"]]
    assert lineage["ot_distances"][result["version"]] == pytest.approx(result["ot_distance"])
    with Image.open(tmp_path / "lineage.png") as picture:
        assert picture.size[0] > 500
    tree = cli("lineage", "bars/1").out
    assert "bars/1" in tree
    assert "└── " in tree


def test_nearest_is_an_ordered_list_of_candidates_with_names_and_distances(
    cli: Cli, bars: Path, searched: object
) -> None:
    found = cli("nearest", bars, "--top-k", 3, "--json").json
    distances = [candidate["ot_distance"] for candidate in found["candidates"]]
    assert distances == sorted(distances)
    assert found["candidates"][0]["same_dataset"]
    assert {"supernet", "version", "embedding_distance", "eligible", "reasons"} <= set(found["candidates"][0])
    assert found["candidates"][0]["version"].startswith(f"supernets/{found['candidates'][0]['supernet']}/versions/")
    table = cli("nearest", bars)
    assert "verdict" in table.out


def test_nearest_stores_nothing(cli: Cli, tmp_path: Path, searched: object) -> None:
    before = cli("list", "datasets", "--json").json
    assert cli("nearest", write_bars(tmp_path / "new.npz", seed=33)).code == 0
    assert cli("list", "datasets", "--json").json == before


def test_lists_and_shows_of_every_kind(cli: Cli, searched: dict[str, object]) -> None:
    supernets = cli("list", "--json").json["supernets"]
    ours = next(s for s in supernets if s["name"] == "supernets/bars")
    assert ours["head_version"]["name"] == searched["version"]
    assert searched["version"] in [v["name"] for v in cli("list", "versions", "--json").json["versions"]]
    for name in (
        "bars",
        "bars/1",
        "bars/head",
        searched["job"],
        str(searched["job"]).split("/")[1],
        searched["dataset"],
    ):
        shown = cli("show", name, "--json")
        assert shown.code == 0
        assert str(shown.json["name"]) in cli("show", name).out
    assert re.search(
        r"[\d.]+ M multiply-accumulates, [\d.]+ ms for an image", " ".join(cli("show", "bars/1").out.split())
    )
    beginning = str(searched["dataset"]).removeprefix("datasets/")[:12]
    assert cli("show", beginning, "--json").json["name"] == searched["dataset"]
    for words in (["list"], ["list", "versions"], ["list", "datasets"], ["jobs"]):
        assert "bars" in cli(*words).out


def test_jobs_can_be_narrowed(cli: Cli, searched: dict[str, object]) -> None:
    jobs = cli("jobs", "--state", "succeeded", "--limit", 100, "--json").json["jobs"]
    assert searched["job"] in [job["name"] for job in jobs]
    assert cli("jobs", "--stream", "nobody", "--json").json == {"jobs": []}


def test_a_download_is_the_blob_and_an_export_is_ready_to_deploy(
    cli: Cli, searched: dict[str, object], tmp_path: Path
) -> None:
    from supernet_registry.search.storage.weights import check_weights

    path = tmp_path / "deep" / "w.safetensors"
    result = cli("download", "bars", "--output", path, "--json").json
    assert result["version"] == searched["version"]
    assert check_weights(path).kind == "supernet"
    exported = cli("export", "bars/1", "--output", tmp_path / "out", "--json").json
    assert [Path(p).name for p in exported["files"]] == ["child.safetensors", "child.json", "cell.png", "cell.svg"]
    described = json.loads((tmp_path / "out" / "child.json").read_text())
    assert described["genotype"] == searched["genotype"]
    assert described["classes"] == ["0", "1", "2"]
    assert (described["input"]["height"], described["input"]["width"]) == (16, 16)
    assert len(described["input"]["mean"]) == len(described["input"]["std"]) == 3
    content = (tmp_path / "out" / "child.safetensors").read_bytes()
    assert described["files"]["child.safetensors"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert check_weights(content).kind == "child"


def test_predictions_are_those_of_the_exported_network_in_either_format(
    cli: Cli, service_address: str, bars: Path, searched: dict[str, object], tmp_path: Path
) -> None:
    """By command, by either client, from safetensors and from ONNX: five ways to one answer."""

    async def later() -> Predictions:
        async with AsyncRegistryClient(service_address) as client:
            return await client.predict("bars/versions/1", [bars])

    formats = ["--format", "onnx", "--format", "safetensors"]
    exported = cli("export", "bars", *formats, "--output", tmp_path / "out", "--json").json
    assert [Path(p).name for p in exported["files"]][:3] == ["child.safetensors", "child.onnx", "child.json"]
    predicted = cli("predict", "bars", bars, "--top", 2, "--json").json
    assert predicted["version"] == searched["version"]
    answers = np.array([row["probabilities"] for row in predicted["predictions"]])
    with np.load(bars) as arrays:
        images, labels = arrays["x_test"], arrays["y_test"]
    assert np.mean(answers.argmax(axis=1) == labels) == pytest.approx(searched["child_test_accuracy"])
    assert [len(row["top"]) for row in predicted["predictions"]] == [2] * len(images)

    with RegistryClient(service_address) as client:
        np.testing.assert_allclose(client.predict("bars", images).probabilities, answers, atol=1e-5)
    np.testing.assert_allclose(asyncio.run(later()).probabilities, answers, atol=1e-5)
    loaded = load_child((tmp_path / "out" / "child.safetensors").read_bytes())
    np.testing.assert_allclose(loaded.predict(images), answers, atol=1e-5)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "child.onnx", providers=["CPUExecutionProvider"])
    (from_onnx,) = session.run(None, {"images": np.repeat(images, 3, axis=3)})
    np.testing.assert_allclose(from_onnx, answers, atol=1e-5)


def test_predictions_for_people_are_a_table_of_the_most_probable_classes(
    cli: Cli, bars: Path, searched: object, tmp_path: Path
) -> None:
    Image.new("RGB", (40, 30), "white").save(tmp_path / "white.png")
    shown = cli("predict", "bars/1", tmp_path / "white.png", "--top", 9)
    assert shown.code == 0
    assert "most probable" in shown.out
    assert shown.out.count("%") == 3
    assert max(len(line) for line in shown.out.splitlines()) <= 80
    missing = cli("predict", "bars", tmp_path / "gone.png", "--json")
    assert (missing.code, missing.json["error"]["reason"]) == (2, "INVALID_DATASET")
    assert cli("predict", "bars", tmp_path / "white.png", "--device", "cuda:7").code == 2
    assert cli("predict", "nobody", tmp_path / "white.png").code == 3


def test_an_output_that_cannot_be_written_is_an_error_of_the_request(
    cli: Cli, searched: object, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert cli("download", "bars", "--output", tmp_path / "file" / "x").code == 2
    assert cli("export", "bars", "--output", tmp_path / "file").code == 2


def test_a_version_without_a_child_network_cannot_be_exported(cli: Cli, bars: Path, tmp_path: Path) -> None:
    words = ["--channels", "4", "--epochs", "1", "--batch-size", "12", "--source", "scratch"]
    result = cli("search", bars, "--name", "childless", *words, "--child-epochs", "0", "--json").json
    assert result["child_test_accuracy"] is None
    assert cli("export", "childless", "--output", tmp_path / "x").code == 5
    assert not (tmp_path / "x").exists()
    assert cli("predict", "childless", bars).code == 5


def test_unknown_names_end_with_3(cli: Cli, bars: Path) -> None:
    for words in (
        ["show", "nobody"],
        ["show", "nobody/1"],
        ["lineage", "nobody"],
        ["download", "nobody"],
        ["watch", "0000000000000000"],
        ["cancel", "0000000000000000"],
        ["search", bars, "--name", "x", "--source", "nobody/7"],
    ):
        result = cli(*words, "--json")
        assert (result.code, result.json["error"]["reason"]) == (3, "NOT_FOUND"), words


def test_a_finished_job_cannot_be_cancelled(cli: Cli, searched: dict[str, object]) -> None:
    result = cli("cancel", searched["job"], "--json")
    assert (result.code, result.json["error"]["reason"]) == (5, "JOB_FINISHED")


def test_a_cancelled_search_ends_with_9_and_says_so(idle: Cli, bars: Path) -> None:
    job = idle("search", bars, "--name", "stopped", "--no-wait", "--json").json["job"]
    assert idle("jobs", "--state", "queued", "--json").json["jobs"][0]["name"] == job
    assert idle("cancel", job, "--json").json["state"] == "CANCELLED"
    watched = idle("watch", job, "--json")
    assert (watched.code, watched.json["error"]["reason"]) == (9, "SEARCH_CANCELLED")


@pytest.mark.parametrize("command", ["search", "watch", "stream"])
def test_ctrl_c_ends_the_waiting_and_not_the_job(command: str, registry_server: Any, idle: Cli, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    task = write_bars(tmp_path / "tasks" / "task.npz", seed=1)
    words = {
        "search": ["search", str(task), "--name", "patient"],
        "stream": ["stream", "s", "--tasks", str(tmp_path / "tasks")],
        "watch": ["watch", "JOB"],
    }[command]
    if command == "watch":
        words[1] = idle("search", task, "--name", "patient", "--no-wait", "--json").json["job"]
    program = [
        sys.executable,
        "-m",
        "supernet_registry.clients.cli",
        "--address",
        registry_server.address,
        *words,
        "--json",
    ]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    with process:
        assert process.stderr is not None
        while "waiting for a worker" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    job = json.loads(out)["error"]["job"]
    assert process.returncode == 130
    assert f"{job} goes on without you" in err
    assert idle("show", job, "--json").json["state"] == "QUEUED"


def test_a_search_here_keeps_the_images_here(service_address: str, cli: Cli, tmp_path: Path) -> None:
    task = write_bars(tmp_path / "private.npz", seed=5)
    command = [
        sys.executable,
        "-m",
        "supernet_registry.clients.cli",
        "--address",
        service_address,
        "search",
        str(task),
        "--name",
        "private",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, *TINY, "--here", "--device", "cpu", "--json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["version"] == "supernets/private/versions/1"
    dataset = cli("show", found["dataset"], "--json").json
    assert dataset["images_blob"] == ""


def test_a_stream_runs_is_drawn_and_continues(cli: Cli, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    write_bars(tasks / "first.npz", seed=11)
    write_bars(tasks / "second.npz", seed=12)
    words = ["stream", "mine", "--tasks", tasks, *TINY]
    result = cli(*words, "--plots", tmp_path / "plots", "--json").json
    assert [row["supernet"] for row in result["rows"]] == ["supernets/first", "supernets/second"]
    assert all(Path(path).exists() for path in result["plots"])
    assert {Path(path).name for path in result["plots"]} >= {"summary.png", "accuracy_matrix.png", "lineage.png"}
    again = cli(*words, "--json").json
    assert all(row["resumed"] for row in again["rows"])
    assert [row["version"] for row in again["rows"]] == [row["version"] for row in result["rows"]]
    table = cli(*words)
    assert "already done" in table.err
    assert max(len(line) for line in table.out.splitlines()) <= 80
