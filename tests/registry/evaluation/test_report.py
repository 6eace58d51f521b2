"""The page needs nothing else, says everything, and survives names that mean harm."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from supernet_registry.clients.wire.resources import DatasetMap, DatasetPoint, JobState
from supernet_registry.registry.evaluation.checks import checks_of
from supernet_registry.registry.evaluation.policies import Policy
from supernet_registry.registry.evaluation.records import Run
from supernet_registry.registry.evaluation.report import write_report
from supernet_registry.registry.evaluation.summary import summarise
from tests.registry.evaluation.made_up_runs import made_up_runs, run


class Page(HTMLParser):
    """Text, addresses and ids of a page; fails on tags that do not match."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.text, self.addresses, self.ids, self.open = "", [], set(), []
        self.images: list[str] = []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.add(value)
            if name == "alt":
                self.images.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def report(folder: Path, runs: list[Run], **options: object) -> tuple[str, str]:
    summary = summarise(runs, resamples=20)
    configuration = {"streams": "s_test", "seeds": "0"}
    files = write_report(
        folder,
        runs,
        summary,
        checks_of(summary),
        title="Does it?",
        configuration=configuration,
        **options,  # type: ignore[arg-type]
    )
    assert all(path.stat().st_size for path in files)
    return (folder / "report.html").read_text(), (folder / "report.md").read_text()


def test_the_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    points = DatasetMap(points=tuple(DatasetPoint(dataset=f"datasets/{i}", x=i, y=i % 2) for i in range(3)))
    html, _ = report(tmp_path, made_up_runs(), maps={"s_test": points})
    page = Page(html)
    assert all(address.startswith(("data:image/svg+xml;base64,", "#")) for address in page.addresses)
    assert all(address[1:] in page.ids for address in page.addresses if address.startswith("#"))
    assert {alt.partition(":")[0] for alt in page.images} == {
        "Main figure",
        "Speed-ups",
        "Accumulation",
        "Learning curves",
        "Accuracy matrix",
        "Map",
        "Lineage",
    }
    for words in ["task 0", "task 2", "registry", "scratch", "fixed-warm", "2.2×", "chosen: <b>it leads</b>", "✗ no"]:
        assert words in page.text
    assert (tmp_path / "main.png").read_bytes().startswith(b"\x89PNG")


def test_names_are_escaped(tmp_path: Path) -> None:
    runs = made_up_runs()
    rows = [replace(row, task="<script>alert(1)</script> | a") for row in runs[0].result.rows]
    html, markdown = report(tmp_path, [run(Policy.REGISTRY, 0, *rows), *runs[1:]])
    assert "<script" not in html
    assert "<script" not in markdown


def test_markdown_tables_are_rectangular(tmp_path: Path) -> None:
    _, markdown = report(tmp_path, made_up_runs())
    for table in re.findall(r"(?:^\|.*\|$\n?)+", markdown, flags=re.MULTILINE):
        assert len({line.count("|") for line in table.strip().splitlines()}) == 1
    assert "### s_test" in markdown


@pytest.mark.parametrize("kept", [(0,), (1,), (0, 1), (0, 2)])
def test_policies_may_be_missing(tmp_path: Path, kept: tuple[int, ...]) -> None:
    runs = made_up_runs()
    html, _ = report(tmp_path, [runs[i] for i in kept])
    Page(html)


def test_a_failed_task_is_told(tmp_path: Path) -> None:
    runs = made_up_runs()
    broken = replace(runs[0].result.rows[1], state=JobState.FAILED, version="", error="out of memory", curve=())
    rows = (runs[0].result.rows[0], broken, runs[0].result.rows[2])
    html, _ = report(tmp_path, [run(Policy.REGISTRY, 0, *rows), *runs[1:]])
    assert "failed: out of memory" in Page(html).text


def test_a_long_stream_shows_a_dozen_curves(tmp_path: Path) -> None:
    first = made_up_runs()
    rows = [
        [replace(r.result.rows[i % 3], step=i, expect=None, version=f"supernets/s{i}/versions/1") for i in range(40)]
        for r in first[:2]
    ]
    runs = [run(Policy.REGISTRY, 0, *rows[0]), run(Policy.SCRATCH, 0, *rows[1])]
    html, _ = report(tmp_path, runs)
    page = Page(html)
    assert "The 12 tasks" in page.text
    assert not any(alt.startswith("Accuracy matrix") for alt in page.images)
