"""Cell drawings: both notations are read without evaluating them, and drawn to files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from supernet_registry.search.children.drawing import CellEdge, draw_cells, parse_genotype
from supernet_registry.search.errors import InvalidArgument

NAS_BENCH_201 = "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"
DARTS = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('dil_conv_5x5', 1), "
    "('sep_conv_5x5', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=range(2, 6), "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 4)], reduce_concat=range(2, 6))"
)


def test_a_nas_bench_201_string_is_one_cell_with_an_edge_from_every_earlier_node() -> None:
    (cell,) = parse_genotype(NAS_BENCH_201)
    assert [len(edges) for edges in cell.nodes] == [1, 2, 3]
    assert cell.nodes[2] == (CellEdge("avg_pool_3x3", 0), CellEdge("none", 1), CellEdge("nor_conv_3x3", 2))


def test_a_darts_string_is_a_normal_and_a_reduction_cell_with_two_edges_a_node() -> None:
    normal, reduction = parse_genotype(DARTS)
    assert (normal.name, reduction.name) == ("normal cell", "reduction cell")
    assert normal.nodes[3] == (CellEdge("skip_connect", 0), CellEdge("dil_conv_3x3", 2))
    assert reduction.concat == (2, 3, 4, 5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "|nor_conv_3x3~1|",
        "|nor_conv_3x3~0|+",
        "|nor_conv_3x3~0|+|x~0|y|",
        "Genotype()",
        "Genotype(normal=[('a', 0)], reduce=[])",
        "Genotype(normal=[('a', 0), ('b', 2)])",
        "__import__('os').system('true')",
    ],
)
def test_what_is_no_genotype_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="not a genotype") as caught:
        parse_genotype(text)
    assert caught.value.field == "genotype"


@pytest.mark.parametrize("genotype", [NAS_BENCH_201, DARTS], ids=["nas-bench-201", "darts"])
def test_both_notations_become_pictures(tmp_path: Path, genotype: str) -> None:
    path = draw_cells(genotype, tmp_path / "new" / "cell.png", title="a title")
    with Image.open(path) as picture:
        assert picture.size[0] > 800
        assert len(picture.getcolors(maxcolors=1 << 24) or []) > 20


def test_the_same_genotype_gives_the_same_svg(tmp_path: Path) -> None:
    first = draw_cells(NAS_BENCH_201, tmp_path / "a.svg").read_bytes()
    assert first == draw_cells(NAS_BENCH_201, tmp_path / "b.svg").read_bytes()
    assert b"avg pool 3\xc3\x973" in first


def test_reading_a_genotype_imports_no_matplotlib() -> None:
    call = f"from supernet_registry.search.children.drawing import parse_genotype; parse_genotype({DARTS!r})"
    code = f"import sys; {call}; print('matplotlib' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
