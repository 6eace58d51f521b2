"""Pictures are drawn from results alone; what can be computed in them is computed rightly."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from supernet_registry.clients.plots import (
    CouplingPanel,
    Curve,
    CurvePanel,
    accuracy_matrix,
    class_couplings,
    compare,
    dataset_map_picture,
    learning_curves,
    lineage_picture,
    stream_curves,
    stream_summary,
    taste_curves,
)
from supernet_registry.clients.plots.lineage import _arrange
from supernet_registry.clients.streams.results import StreamResult, StreamRow
from supernet_registry.clients.wire.resources import (
    ClassCoupling,
    DatasetMap,
    DatasetPoint,
    EpochMetrics,
    Lineage,
    LineageEdge,
    Metrics,
    Parent,
    ParentRole,
    Phase,
    SourceDecision,
    SupernetVersion,
    TasteResult,
)
from supernet_registry.search.errors import InvalidArgument


def version(name: str, *, head: bool = True) -> SupernetVersion:
    metrics = Metrics(test_accuracy=0.9, child_test_accuracy=0.8)
    return SupernetVersion(name=f"supernets/{name}", metrics=metrics, child_blob="blobs/x", head=head)


def edge(child: str, parent: str, role: ParentRole = ParentRole.SOURCE) -> LineageEdge:
    return LineageEdge(child=f"supernets/{child}", parent=Parent(version=f"supernets/{parent}", role=role))


LINEAGE = Lineage(
    versions=(
        version("a/versions/1", head=False),
        version("b/versions/1"),
        version("c/versions/1"),
        version("a/versions/2"),
    ),
    edges=(
        edge("c/versions/1", "a/versions/1"),
        edge("a/versions/2", "c/versions/1"),
        edge("a/versions/2", "a/versions/1", ParentRole.PREVIOUS_HEAD),
    ),
)


def row(step: int, *, source: str = "", error: str = "") -> StreamRow:
    curve = tuple(
        EpochMetrics(phase=phase, epoch=e, epochs=4, steps=10 * e, val_accuracy=0.2 * e)
        for phase in (Phase.SEARCH, Phase.CHILD)
        for e in range(5)
    )
    return StreamRow(
        step=step,
        task=f"task {step}",
        version="" if error else f"supernets/t{step}/versions/1",
        source=source,
        error=error,
        search_steps=40,
        taste_steps=8 if source else 0,
        test_accuracy=0.7,
        child_test_accuracy=0.75,
        child_parameters=100,
        curve=curve,
    )


RESULT = StreamResult(
    stream="s",
    rows=(row(0), row(1, source="supernets/t0/versions/1"), row(2, error="diverged")),
    accuracies=((0.9, None, None), (0.9, 0.8, None), (0.85, 0.8, None)),
    child_accuracies=((0.9, None, None), (0.9, 0.8, None), (0.85, 0.8, None)),
)


COUPLING = ClassCoupling(rows=2, columns=3, mass=(0.0, 0.1, 0.3, 0.6, 0.0, 0.0))
MAP = DatasetMap(
    points=(
        DatasetPoint(target=True),
        DatasetPoint(dataset="datasets/a", display_name="digits", x=1.0, version="supernets/d/versions/1"),
        DatasetPoint(dataset="datasets/b", display_name="letters", y=1.0, version="supernets/l/versions/1"),
        DatasetPoint(dataset="datasets/c0ffee00", x=-1.0),
    ),
    explained_share=0.5,
)
TASTES = SourceDecision(
    tastes=(
        TasteResult(
            version="supernets/a/versions/1", ot_distance=1.5, steps=(0, 9), val_accuracies=(0.3, 0.6), chosen=True
        ),
        TasteResult(version="supernets/b/versions/1", steps=(0,), val_accuracies=(0.2,)),
        TasteResult(version="supernets/c/versions/1"),
        TasteResult(steps=(0, 9), val_accuracies=(0.1, 0.5)),
    )
)


def is_picture(path: Path) -> bool:
    with Image.open(path) as picture:
        return min(picture.size) > 200 and len(picture.getcolors(maxcolors=1 << 24) or []) > 10


def test_a_curve_counts_the_taste_before_its_own_steps_and_leaves_the_child_out() -> None:
    curve = Curve.from_epochs("x", row(1, source="s").curve, warm=True, taste_steps=8)
    assert curve.steps == (8, 18, 28, 38, 48)
    assert curve.steps_to(0.4) == 28
    assert curve.steps_to(0.9) is None


def test_a_curve_begins_where_the_taste_left_its_winner_whose_steps_are_counted_once() -> None:
    tastes = (
        TasteResult(version="v", steps=(0, 6), val_accuracies=(0.2, 0.5), chosen=True),
        TasteResult(version="", steps=(0, 6), val_accuracies=(0.1, 0.2)),
    )
    epochs = [EpochMetrics(phase=Phase.SEARCH, epoch=1, steps=6 + 10, val_accuracy=0.8)]
    curve = Curve.from_epochs("x", epochs, warm=True, taste_steps=12, tastes=tastes)
    assert (curve.steps, curve.accuracies) == ((12, 22), (0.5, 0.8))


def test_the_speed_up_is_measured_at_scratchs_best_minus_one_point() -> None:
    scratch = Curve("", (0, 100, 200, 300), (0.1, 0.5, 0.895, 0.9), warm=False)
    warm = Curve("", (20, 50, 80), (0.7, 0.89, 0.95), warm=True)
    panel = CurvePanel("t", (warm, scratch))
    assert panel.target == pytest.approx(0.89)
    assert compare(panel) == pytest.approx(200 / 50)
    assert compare(CurvePanel("t", (warm,))) is None
    assert compare(CurvePanel("t", (Curve("", (0,), (0.1,), warm=True), scratch))) is None


def test_a_source_that_is_there_at_once_counts_as_one_step() -> None:
    scratch, warm = Curve("", (0, 50), (0.1, 0.9), warm=False), Curve("", (0,), (0.95,), warm=True)
    assert compare(CurvePanel("t", (warm, scratch))) == 50


def test_every_picture_is_drawn_into_a_folder_that_need_not_exist(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    paths = [
        stream_summary(RESULT, folder / "summary.png", scratch={1: row(1)}),
        stream_curves(RESULT, folder / "curves.png", scratch={1: row(1)}),
        accuracy_matrix(RESULT, folder / "matrix.png"),
        lineage_picture(LINEAGE, folder / "lineage.png", distances={"supernets/c/versions/1": 1.25}, title="t"),
        class_couplings([CouplingPanel("s", COUPLING)] * 2, folder / "couplings.png", title="t"),
        dataset_map_picture(MAP, folder / "map.png", title="t"),
        taste_curves(TASTES, folder / "taste.png", title="t"),
    ]
    assert all(is_picture(path) for path in paths)


def test_a_picture_of_equal_data_has_equal_bytes(tmp_path: Path) -> None:
    first = lineage_picture(LINEAGE, tmp_path / "a.svg").read_bytes()
    assert first == lineage_picture(LINEAGE, tmp_path / "b.svg").read_bytes()


def test_the_lineage_picture_names_versions_accuracies_and_distances(tmp_path: Path) -> None:
    text = lineage_picture(LINEAGE, tmp_path / "l.svg", distances={"supernets/c/versions/1": 1.25}).read_text()
    for expected in ("a · v2", "supernet 90.0% · child 80.0%", "OT 1.25", "previous version"):
        assert expected in text


def test_a_coupling_is_drawn_in_shares_of_each_target_class_with_matches_on_the_diagonal(tmp_path: Path) -> None:
    panel = CouplingPanel("source", COUPLING, source_classes=("cat", "dog", "eel"))
    text = class_couplings([panel], tmp_path / "c.svg", target_classes=("rat", "cow")).read_text()
    written = re.findall(r"<text[^>]*>([^<]+)</text>", text)
    assert {"rat", "cow", "25", "75", "100"} <= set(written)
    # The first row sends most to eel, then to dog; the second all it has to cat.
    assert [name for name in written if name in ("cat", "dog", "eel")] == ["eel", "dog", "cat"]


def test_a_coupling_whose_mass_does_not_fill_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument):
        class_couplings([CouplingPanel("s", ClassCoupling(rows=2, columns=2, mass=(1.0,)))], tmp_path / "c.png")


def test_a_coupling_of_many_classes_stays_a_picture_of_bounded_size(tmp_path: Path) -> None:
    many = ClassCoupling(rows=100, columns=120, mass=(1.0,) * 12_000)
    with Image.open(class_couplings([CouplingPanel("s", many)] * 3, tmp_path / "c.png")) as picture:
        assert max(picture.size) < 3500


def test_a_map_names_datasets_and_draws_the_warm_starts_between_them(tmp_path: Path) -> None:
    warm = [("datasets/a", "datasets/b"), ("datasets/a", "datasets/a"), ("datasets/a", "datasets/elsewhere")]
    text = dataset_map_picture(MAP, tmp_path / "m.svg", target="mine", warm_starts=warm).read_text()
    for expected in ("mine", "digits", "letters", "c0ffee00", "50% of the variance", "warm start"):
        assert expected in text
    without = dataset_map_picture(MAP, tmp_path / "n.svg", warm_starts=warm[1:]).read_text()
    assert "warm start" not in without
    assert "left out" not in without


def test_labels_of_a_crowded_map_are_left_out_and_never_of_the_target(tmp_path: Path) -> None:
    crowd = [
        DatasetPoint(dataset=f"datasets/{i}", display_name=f"crowd-{i}", x=1e-3 * i, target=i == 0) for i in range(90)
    ]
    crowd.append(DatasetPoint(dataset="datasets/far", display_name="far", x=5.0))
    text = dataset_map_picture(DatasetMap(points=tuple(crowd)), tmp_path / "m.svg").read_text()
    assert ">crowd-0<" in text
    assert ">far<" in text
    left_out = re.search(r"(\d+) names left out for want of room", text)
    assert left_out is not None
    assert int(left_out[1]) == 91 - len(re.findall(r">(?:crowd-\d+|far)<", text))


def test_a_map_of_one_dataset_is_drawn(tmp_path: Path) -> None:
    assert is_picture(dataset_map_picture(DatasetMap(points=MAP.points[1:2]), tmp_path / "m.png"))


def test_a_taste_names_the_contenders_that_were_tried(tmp_path: Path) -> None:
    text = taste_curves(TASTES, tmp_path / "t.svg").read_text()
    for expected in ("a v1, OT 1.5 (chosen)", "b v1", "scratch"):
        assert expected in text
    assert "c v1" not in text


def test_no_two_cards_of_a_lineage_share_a_place_and_children_stand_right_of_their_parents() -> None:
    names = [f"supernets/x/versions/{n}" for n in range(40)]
    parents = {name: names[i // 3] for i, name in enumerate(names) if i}
    places = _arrange([SupernetVersion(name=name) for name in names], parents)
    assert len({(p.column, p.row) for p in places.values()}) == len(names)
    assert all(places[child].column == places[parent].column + 1 for child, parent in parents.items())


def test_a_long_lineage_is_arranged_without_recursion() -> None:
    names = [f"supernets/x/versions/{n}" for n in range(3000)]
    places = _arrange([SupernetVersion(name=n) for n in names], dict(zip(names[1:], names, strict=False)))
    assert places[names[-1]].column == 2999


def test_there_is_nothing_to_draw_without_results(tmp_path: Path) -> None:
    empty = StreamResult(stream="s")
    for draw in (stream_summary, stream_curves, accuracy_matrix):
        with pytest.raises(InvalidArgument):
            draw(empty, tmp_path / "x.png")
    with pytest.raises(InvalidArgument):
        learning_curves([], tmp_path / "x.png")
    with pytest.raises(InvalidArgument):
        lineage_picture(Lineage(), tmp_path / "x.png")
    with pytest.raises(InvalidArgument):
        class_couplings([], tmp_path / "x.png")
    with pytest.raises(InvalidArgument):
        dataset_map_picture(DatasetMap(), tmp_path / "x.png")
    with pytest.raises(InvalidArgument):
        taste_curves(SourceDecision(), tmp_path / "x.png")


def test_average_accuracy_and_backward_transfer_follow_lopez_paz_and_ranzato() -> None:
    assert RESULT.average_accuracy == pytest.approx((0.85 + 0.8) / 2)
    assert RESULT.backward_transfer == pytest.approx((-0.05 + 0.0) / 2)
    assert StreamResult(stream="s").average_accuracy is None
    assert [r.step for r in RESULT.failed] == [2]


def test_a_result_becomes_json_values() -> None:
    described = RESULT.to_json()
    assert described["rows"][0]["source"] == "scratch"
    assert described["rows"][1]["steps"] == 48
    assert described["rows"][0]["curve"][1]["phase"] == "SEARCH"
    assert described["accuracies"][0] == [0.9, None, None]


def test_importing_the_plots_imports_no_matplotlib_and_lacking_it_is_said_with_the_remedy(tmp_path: Path) -> None:
    code = """
import sys
from supernet_registry.clients import plots
print("matplotlib" in sys.modules)
sys.modules["matplotlib"] = None
from supernet_registry.search.errors import OptionalDependency
try:
    plots.learning_curves([plots.CurvePanel("t", ())], "x.png")
except OptionalDependency as error:
    print(error.remedy)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.splitlines()[-2:] == ["False", "pip install 'supernet-registry[plots]'"]
