"""`nearest`, `map` and the taste in `show`, against the real service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from supernet_registry import JobEvent, RegistryClient, SourceDecision, TasteResult
from supernet_registry.search.similarity import Sketch
from tests.clients.service import write_bars
from tests.tiny_search import QUICK, tiny_dataset, tiny_space

Cli = Callable[..., SimpleNamespace]


@pytest.fixture
def unknown(tmp_path: Path) -> Path:
    """A task like the stored ones that the registry has not seen."""
    return write_bars(tmp_path / "unknown.npz", seed=77)


@pytest.fixture
def tasted(registry_server: Any) -> str:
    """A job of the server without a worker, whose taste had two sources."""
    tried = {"steps": (0, 6), "val_losses": (1.0, 0.8)}
    tastes = (
        TasteResult(version="supernets/a/versions/1", ot_distance=0.8, val_accuracies=(0.4, 0.6), **tried),
        TasteResult(version="supernets/b/versions/2", ot_distance=0.9, reason="not tried: no skill"),
        TasteResult(val_accuracies=(0.3, 0.7), chosen=True, reason="beats all sources", **tried),
    )
    with RegistryClient(registry_server.address) as client:
        job = client.submit_search(tiny_dataset(), name="tasted", space=tiny_space(), **QUICK)
        leased = client.lease_search_job("w", device="cpu", job=job.name)
        assert leased is not None
        decision = SourceDecision(reason="scratch", tastes=tastes, taste_steps=12, taste_seconds=1.5)
        client.report_progress(leased[0], [JobEvent(decision=decision)])
    return job.name


def fits(result: SimpleNamespace) -> bool:
    return result.code == 0 and max(len(line) for line in result.out.splitlines()) <= 80


def test_nearest_explains_what_became_of_every_shortlisted_dataset(cli: Cli, unknown: Path, searched: object) -> None:
    plain, explained = cli("nearest", unknown, "--json").json, cli("nearest", unknown, "--explain", "--json").json
    assert plain["shortlist"] == []
    assert {entry["outcome"] for entry in explained["shortlist"]} <= {"CACHED", "COMPUTED", "PRUNED"}
    assert {c["dataset"] for c in explained["candidates"]} <= {entry["dataset"] for entry in explained["shortlist"]}
    table = cli("nearest", unknown, "--explain")
    assert fits(table)
    for expected in ("Shortlist: ", "OT at least", "known already", "NEAREST"):
        assert expected in table.out
    assert "Shortlist" not in cli("nearest", unknown).out


def test_nearest_draws_the_class_coupling_and_json_carries_it(
    cli: Cli, unknown: Path, searched: object, tmp_path: Path
) -> None:
    found = cli("nearest", unknown, "--plot", tmp_path / "deep" / "classes.png", "--json").json
    coupling = found["candidates"][0]["class_coupling"]
    assert (coupling["rows"], coupling["columns"], len(coupling["mass"])) == (3, 3, 9)
    assert sum(coupling["mass"]) == pytest.approx(1.0)
    with Image.open(found["plot"]) as picture:
        assert min(picture.size) > 200
    assert cli("nearest", unknown, "--json").json["plot"] is None


def test_where_nothing_is_stored_nearest_says_so_and_draws_nothing(idle: Cli, unknown: Path, tmp_path: Path) -> None:
    result = idle("nearest", unknown, "--explain", "--plot", tmp_path / "none.png", "--json")
    assert (result.code, result.json["candidates"], result.json["plot"]) == (0, [], None)
    assert "Nothing to draw" in result.err
    assert idle("nearest", unknown, "--explain").code == 0
    assert not (tmp_path / "none.png").exists()


def test_a_map_has_the_target_first_and_stores_nothing(cli: Cli, unknown: Path, searched: dict[str, object]) -> None:
    before = cli("list", "datasets", "--json").json
    found = cli("map", unknown, "--json").json
    assert [point["target"] for point in found["points"]] == [True] + [False] * (len(found["points"]) - 1)
    assert found["target"] == "unknown"
    ours = next(point for point in found["points"] if point["dataset"] == searched["dataset"])
    assert ours["version"].startswith("supernets/")
    table = cli("map", unknown)
    assert fits(table)
    assert "from target" in table.out
    assert "% of the variance" in table.err
    assert cli("list", "datasets", "--json").json == before


def test_a_map_without_a_target_names_each_datasets_nearest(cli: Cli, searched: object) -> None:
    table = cli("map")
    assert fits(table)
    assert "nearest here" in table.out
    assert not any(point["target"] for point in cli("map", "--json").json["points"])
    assert len(cli("map", "--max", 1, "--json").json["points"]) == 1


def test_a_registered_dataset_is_a_target_by_its_name_or_its_beginning(cli: Cli, searched: dict[str, object]) -> None:
    name = str(searched["dataset"])
    whole, beginning = cli("map", name, "--json").json, cli("map", name[: len("datasets/") + 12], "--json").json
    assert whole == beginning
    assert (whole["points"][0]["dataset"], whole["points"][0]["target"], whole["target"]) == (name, True, "bars")


def test_a_map_is_drawn(cli: Cli, unknown: Path, searched: object, tmp_path: Path) -> None:
    found = cli("map", unknown, "--plot", tmp_path / "map.png", "--json").json
    with Image.open(found["plot"]) as picture:
        assert min(picture.size) > 500
    cli("map", "--plot", tmp_path / "map.svg")
    assert "bars" in (tmp_path / "map.svg").read_text()


def test_an_empty_registry_has_an_empty_map(idle: Cli, tmp_path: Path) -> None:
    result = idle("map", "--plot", tmp_path / "map.png", "--json")
    assert (result.code, result.json["points"], result.json["plot"]) == (0, [], None)
    assert "No datasets yet" in idle("map").err


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["datasets/00000000000000000000000000000000"], 3, "NOT_FOUND"),
        (["datasets/"], 2, "INVALID_ARGUMENT"),
        (["nowhere.npz"], 2, "INVALID_DATASET"),
        (["--max", "2001"], 2, "INVALID_ARGUMENT"),
    ],
)
def test_wrong_targets_and_numbers_end_a_map_with_a_typed_error(
    idle: Cli, words: list[str], code: int, reason: str
) -> None:
    result = idle("map", *words, "--json")
    assert (result.code, result.json["error"]["reason"]) == (code, reason)


def test_with_moments_only_the_registry_gets_no_sampled_features(
    idle: Cli, registry_server: Any, unknown: Path
) -> None:
    job = idle("search", unknown, "--name", "shy", "--no-wait", "--moments-only", "--json").json
    sketch_digest = idle("show", job["dataset"], "--json").json["sketch_digest"]
    with RegistryClient(registry_server.address) as client:
        assert Sketch.from_bytes(client.download_blob(f"blobs/{sketch_digest}")).moments_only


def test_moments_only_asks_as_well_and_refuses_classes_that_are_nearly_single_images(
    cli: Cli, unknown: Path, searched: object, tmp_path: Path
) -> None:
    assert cli("nearest", unknown, "--moments-only", "--json").json["candidates"]
    assert cli("map", unknown, "--moments-only", "--json").json["points"][0]["target"]
    write_bars(tmp_path / "few.npz", seed=3, per_class=2)
    for command in ("nearest", "map"):
        result = cli(command, tmp_path / "few.npz", "--moments-only", "--json")
        assert (result.code, result.json["error"]["field"]) == (2, "moments_only")


def test_a_job_shows_and_draws_its_taste(idle: Cli, tasted: str, tmp_path: Path) -> None:
    shown = idle("show", tasted)
    assert fits(shown)
    for expected in ("Taste (12 steps in all, 1.5 s)", "a/1", "40.0% → 60.0%", "not tried", "scratch *"):
        assert expected in shown.out
    assert "decision.tastes" not in shown.out
    drawn = idle("show", tasted, "--plot", tmp_path / "taste.png", "--json").json
    assert len(drawn["decision"]["tastes"]) == 3
    with Image.open(drawn["plot"]) as picture:
        assert min(picture.size) > 200


def test_only_a_job_that_tasted_can_be_drawn(idle: Cli, tasted: str, tmp_path: Path) -> None:
    queued = idle("search", write_bars(tmp_path / "t.npz", seed=1), "--name", "later", "--no-wait", "--json").json
    for name, field in ((queued["job"], "decision"), (queued["dataset"], "plot")):
        result = idle("show", name, "--plot", tmp_path / "x.png", "--json")
        assert (result.code, result.json["error"]["field"]) == (2, field)
    assert not (tmp_path / "x.png").exists()
