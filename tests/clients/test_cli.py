"""The command line without a server: help, names, errors, exit codes, and what it does not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from supernet_registry.clients.cli import app, names, output, run
from supernet_registry.clients.cli.searching import failure, print_result
from supernet_registry.clients.wire.resources import (
    JobError,
    JobState,
    SearchJob,
    SourceDecision,
    SpaceDescriptor,
    Supernet,
    SupernetVersion,
    TasteResult,
)
from supernet_registry.search.errors import InvalidArgument, SearchCancelled, SearchDiverged, SearchFailed, Unavailable

Cli = Callable[..., SimpleNamespace]
COMMANDS = [
    "search",
    "nearest",
    "map",
    "stream",
    "list",
    "show",
    "lineage",
    "jobs",
    "watch",
    "cancel",
    "download",
    "export",
    "predict",
]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command line in this process: `.code`, `.out`, `.err`, `.json`."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*words: str) -> SimpleNamespace:
        code = run(app, list(words))
        captured = capsys.readouterr()
        parsed = json.loads(captured.out) if "--json" in words else None
        return SimpleNamespace(code=code, out=captured.out, err=captured.err, json=parsed)

    return call


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_examples_and_fits_80_columns(cli: Cli, command: str) -> None:
    result = cli(command, "--help")
    assert result.code == 0
    assert f"supernet-registry {command}" in result.out
    assert "Example" in result.out
    assert "--json" in result.out
    assert max(len(line) for line in result.out.splitlines()) <= 80


def test_help_lists_every_command(cli: Cli) -> None:
    result = cli("--help")
    assert all(f" {command} " in result.out for command in COMMANDS)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from supernet_registry.clients.cli import app, run; run(app, ['search', '--help']);"
        "print(sorted(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = result.stdout.splitlines()[-1]
    for module in ("torch", "grpc", "numpy", "matplotlib", "faiss", "mlflow"):
        assert f"'{module}'" not in loaded


def test_the_version_is_the_distributions(cli: Cli) -> None:
    result = cli("--version")
    assert (result.code, result.out.strip().count(".")) == (0, 2)


@pytest.mark.parametrize(
    ("words", "field", "remedy"),
    [
        (["--variant", "nas-net"], "set.variant", "darts-2nd"),
        (["--drop-shares", "2"], "set.drop_shares", "range"),
        (["--epochs", "many"], "set.epochs", "whole number"),
        (["--set", "epochs"], "set", "horizontal_flip=true"),
        (["--set", "epoch=3"], "set.epoch", "warm_epochs"),
    ],
)
def test_a_wrong_setting_ends_with_2_and_says_what_is_right(
    cli: Cli, words: list[str], field: str, remedy: str
) -> None:
    """Before a file is read or a server asked, whichever way it was given."""
    result = cli("search", "x.npz", "--name", "x", *words, "--json")
    assert result.code == 2
    assert result.json["error"]["field"] == field
    assert remedy in result.json["error"]["remedy"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serach"], "No such command"),
        (["search"], "Missing argument 'DATASET'"),
        (["search", "x.npz"], "Missing option '--name'"),
        (["list", "cats"], "cats"),
        (["jobs", "--state", "sleeping"], "sleeping"),
        (["nearest", "x.npz", "--top-k", "1000"], "--top-k"),
        (["nearest", "x.npz", "--frobnicate"], "--frobnicate"),
    ],
)
def test_wrong_usage_ends_with_2_and_points_to_help(cli: Cli, words: list[str], message: str) -> None:
    result = cli(*words, "--json")
    assert result.code == 2
    assert message in result.json["error"]["message"]
    assert "--help" in result.err
    assert "Traceback" not in result.err


def test_a_missing_dataset_is_a_typed_error_with_field_and_remedy(cli: Cli, tmp_path: Path) -> None:
    result = cli("search", str(tmp_path / "gone.npz"), "--name", "x", "--json")
    assert result.code == 2
    error = result.json["error"]
    assert (error["reason"], error["field"]) == ("INVALID_DATASET", "dataset")
    assert error["remedy"]
    assert result.err.startswith("error: dataset: ")


def test_without_json_stdout_stays_empty_when_something_is_wrong(cli: Cli, tmp_path: Path) -> None:
    result = cli("nearest", str(tmp_path / "gone.npz"))
    assert (result.code, result.out) == (2, "")


def test_unknown_streams_and_tasks_are_not_found(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "streams.json").write_text('{"known": [{"task": "nowhere"}]}')
    assert cli("stream", "unknown", "--tasks", str(tmp_path)).code == 3
    result = cli("stream", "known", "--tasks", str(tmp_path), "--json")
    assert (result.code, result.json["error"]["field"]) == (3, "known[0].task")


def test_no_server_is_said_with_the_remedy_and_ends_with_6(cli: Cli, tmp_path: Path) -> None:
    result = cli("--address", f"unix:{tmp_path / 'nobody.sock'}", "--timeout", "1", "list", "--json")
    assert result.code == Unavailable.exit_code
    assert "supernet-registry serve" in result.json["error"]["remedy"]


def test_a_bug_shows_no_traceback_and_ends_with_70(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "parse", lambda text, **_: 1 / 0)
    result = cli("show", "x", "--json")
    assert (result.code, result.json["error"]["reason"]) == (70, "INTERNAL")
    assert "ZeroDivisionError" in result.err
    assert "Traceback" not in result.err


def test_a_light_install_says_which_extra_a_search_here_needs(tmp_path: Path) -> None:
    code = """
import sys
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
sys.modules["torch"] = None
import numpy as np
x, y = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8), np.arange(12) % 2
np.savez("d.npz", x_train=x, y_train=y, x_val=x, y_val=y, x_test=x, y_test=y)
from supernet_registry.clients.cli import app, run
sys.exit(run(app, ["search", "d.npz", "--name", "x", "--here", "--json"]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    error = json.loads(result.stdout)["error"]
    assert (result.returncode, error["reason"]) == (5, "OPTIONAL_DEPENDENCY")
    assert "supernet-registry[worker]" in error["remedy"]


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("x", "supernet", "supernets/x"),
        ("supernets/x-1.b_2", "supernet", "supernets/x-1.b_2"),
        ("x/3", "version", "supernets/x/versions/3"),
        ("x/v3", "version", "supernets/x/versions/3"),
        ("x/head", "version", "supernets/x/versions/head"),
        ("supernets/x/versions/3", "version", "supernets/x/versions/3"),
        ("searchJobs/abc", "job", "searchJobs/abc"),
        ("datasets/0f", "dataset", "datasets/0f"),
    ],
)
def test_names_are_understood_as_people_type_them(text: str, kind: str, name: str) -> None:
    assert names.parse(text) == (kind, name)


@pytest.mark.parametrize("text", ["", "a b", "x/3/4", "supernets/", "../x", "x/y", "blobs/x"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        names.parse(text)


def test_a_supernet_stands_for_its_head_where_a_version_is_meant() -> None:
    assert names.version_name("x") == "supernets/x/versions/head"
    with pytest.raises(InvalidArgument):
        names.version_name("searchJobs/x")
    with pytest.raises(InvalidArgument):
        names.supernet_name("x/3")


def test_a_job_may_be_given_by_its_id_alone() -> None:
    assert names.job_name("abc") == names.job_name("searchJobs/abc") == "searchJobs/abc"
    with pytest.raises(InvalidArgument):
        names.job_name("a/b")


def test_resources_become_json_by_their_field_names() -> None:
    plain = output.plain(Supernet(name="supernets/x", search_space=SpaceDescriptor(operations=("a", "b"))))
    assert plain["search_space"]["operations"] == ["a", "b"]
    assert output.plain(JobState.QUEUED) == "QUEUED"


def test_names_with_brackets_are_printed_as_they_are(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(["name"], [["[red]x[/red]"]])
    output.print_fields([("a[b]", "[c]")])
    assert "[red]x[/red]" in (out := capsys.readouterr().out)
    assert "[c]" in out


def test_the_error_of_a_failed_job_keeps_its_kind() -> None:
    failed = SearchJob(
        name="searchJobs/x", state=JobState.FAILED, error=JobError(reason="SEARCH_DIVERGED", message="m")
    )
    assert isinstance(failure(failed), SearchDiverged)
    unknown = SearchJob(name="searchJobs/x", state=JobState.FAILED, error=JobError(reason="NEW", message="m"))
    assert type(failure(unknown)) is SearchFailed
    assert isinstance(failure(SearchJob(name="searchJobs/x", state=JobState.CANCELLED)), SearchCancelled)


def test_the_result_of_a_search_shows_people_who_tasted(capsys: pytest.CaptureFixture[str]) -> None:
    taste = TasteResult(version="supernets/a/versions/1", steps=(0,), val_accuracies=(0.5,), chosen=True, reason="near")
    job = SearchJob(name="searchJobs/x", decision=SourceDecision(source=taste.version, tastes=(taste,)))
    print_result(job, SupernetVersion(name="supernets/b/versions/1"), as_json=False)
    assert "a/1 *" in (printed := capsys.readouterr().out)
    assert "50.0%" in printed


def test_a_reader_that_leaves_early_gets_no_complaint() -> None:
    command = f"{sys.executable} -m supernet_registry.clients.cli --help | head -1 > {os.devnull}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.stderr == ""
