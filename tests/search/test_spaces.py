"""Search spaces: validation, identity, compatibility, and architectures as their communities write them."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernet_registry.search.errors import InvalidArgument, InvalidSearchSpace, SpaceMismatch
from supernet_registry.search.spaces import (
    FAMILIES,
    check_compatible,
    family_of,
    make_space,
    space_from_fields,
    space_from_json,
)
from supernet_registry.search.spaces.family import SKIP, softmax
from supernet_registry.search.spaces.skip_limit import derive_with_few_skips

PUBLISHED_DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)


def random_alphas(space, seed):
    rng = np.random.default_rng(seed)
    return {kind: rng.normal(size=shape) for kind, shape in family_of(space).alpha_shapes(space).items()}


def test_the_papers_sizes_of_alpha():
    """DARTS has 2 × 14 edges × 8 operations, NAS-Bench-201 6 edges × 5."""
    assert FAMILIES["darts"].alpha_shapes(make_space("darts")) == {"normal": (14, 8), "reduce": (14, 8)}
    assert FAMILIES["nas-bench-201"].alpha_shapes(make_space("nas-bench-201")) == {"cell": (6, 5)}


def test_an_id_names_the_family_and_changes_with_every_field():
    space = make_space()
    assert space.id.startswith("compact:")
    changes = [
        {"channels": 8},
        {"cells": 2},
        {"nodes": 3},
        {"operations": ("none", "nor_conv_3x3")},
        {"stem_stride": 2},
        {"head_pool": 1},
        {"resolution": 64},
        {"affine_batch_norm": False},
        {"partial_channels": 2},
    ]
    ids = {space.id, make_space("darts").id, *(make_space(**change).id for change in changes)}
    assert len(ids) == len(changes) + 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("parts", [1, 2])
def test_a_space_survives_json_and_the_wire_fields(family, parts):
    space = make_space(family, channels=12, partial_channels=parts)
    assert space_from_json(space.to_json()) == space
    assert space_from_fields(space) == space


def test_spaces_from_before_partial_channels_keep_their_ids():
    small = make_space("nas-bench-201")
    assert (small.id, make_space("darts").id) == ("nas-bench-201:d296281bb6c24e66", "darts:e1fa92c95c2bbc1e")
    assert "partial_channels" not in make_space().to_json()


def test_zero_and_empty_wire_fields_mean_the_familys_defaults():
    empty = SimpleNamespace(family="", channels=0, cells=0, operations=(), affine_batch_norm=False, id="")
    assert space_from_fields(empty) == make_space()
    assert space_from_fields(None) == make_space()


@pytest.mark.parametrize(
    "overrides",
    [
        {"family": "nasnet"},
        {"channels": 0},
        {"channels": 10_000},
        {"channels": "8"},
        {"channels": True},
        {"stem_stride": 3},
        {"operations": ("none",)},
        {"operations": ("nor_conv_3x3", "none")},
        {"operations": ("sep_conv_3x3",)},
        {"operations": (["a"],)},
        {"depth": 3},
        {"partial_channels": 0},
        {"partial_channels": 3},
        {"partial_channels": 16},
    ],
)
def test_an_impossible_space_is_refused(overrides):
    with pytest.raises(InvalidSearchSpace):
        make_space(**overrides)


def test_a_foreign_id_is_refused():
    descriptor = SimpleNamespace(**{**make_space().to_json(), "id": make_space("darts").id})
    with pytest.raises(InvalidSearchSpace, match="not the descriptor's own"):
        space_from_fields(descriptor)


def test_spaces_that_differ_in_more_than_size_are_incompatible_and_the_error_names_the_difference():
    check_compatible(make_space(), make_space())
    check_compatible(make_space(), make_space(channels=32, cells=3))
    with pytest.raises(SpaceMismatch, match="channels 16 against 32, head_pool 4 against 2"):
        check_compatible(make_space(), make_space(channels=32, head_pool=2))


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_derived_genotype_is_read_back_as_written(family, seed):
    space, known = make_space(family), FAMILIES[family]
    genotype = known.derive(space, random_alphas(space, seed))
    assert known.parse_genotype(space, known.format_genotype(genotype)) == genotype


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=st.integers(0, 2**32 - 1))
def test_none_is_never_derived(family, seed):
    space, known = make_space(family), FAMILIES[family]
    alphas = random_alphas(space, seed)
    for alpha in alphas.values():
        alpha[:, space.operations.index("none")] += 10.0
    assert "none" not in known.format_genotype(known.derive(space, alphas))


def skip_strengths(kind, genotype, weights):
    """softmax(α) of every skip connection of a cell, sorted; `weights` is that column of it, (E,)."""
    chosen = [
        kind.row(source, kind.inputs + node)
        for node, pairs in enumerate(genotype[kind.name])
        for operation, source in pairs
        if operation == SKIP
    ]
    return sorted(weights[chosen])


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=st.integers(0, 2**32 - 1), most=st.integers(0, 3))
def test_skip_connections_are_limited_and_the_strongest_stay(family, seed, most):
    space, known = make_space(family), FAMILIES[family]
    column = space.operations.index(SKIP)
    alphas = random_alphas(space, seed)
    for alpha in alphas.values():
        alpha[:, column] += 3.0
    plain = known.derive(space, alphas)
    assert derive_with_few_skips(known, space, alphas, most=-1) == plain
    limited = derive_with_few_skips(known, space, alphas, most=most)
    for kind in known.cell_kinds(space):
        weights = softmax(alphas[kind.name])[:, column]
        before, after = (skip_strengths(kind, genotype, weights) for genotype in (plain, limited))
        if known.edges_kept is None:
            assert after == before[max(0, len(before) - most) :]
        else:  # another edge may have taken the place of one whose skip connection is forgotten
            assert len(after) <= most


def test_skip_connections_stay_where_there_is_nothing_else():
    space = make_space("nas-bench-201", operations=("none", SKIP))
    alphas = random_alphas(space, 0)
    known = family_of(space)
    assert derive_with_few_skips(known, space, alphas, most=1) == known.derive(space, alphas)


def test_nas_bench_201_writes_an_architecture_as_its_api_does():
    space = make_space("nas-bench-201")
    alphas = {"cell": np.eye(5)[[3, 1, 2, 4, 3, 1]]}
    text = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|nor_conv_3x3~1|skip_connect~2|"
    assert FAMILIES["nas-bench-201"].format_genotype(family_of(space).derive(space, alphas)) == text


def test_darts_keeps_the_two_strongest_edges_of_a_node():
    """Section 2.4 of the paper: strength is the largest weight of an operation other than `none`."""
    space = make_space("darts")
    alpha = np.zeros((14, 8))
    alpha[2:5, 4] = [1.0, 3.0, 2.0]  # the second node's edges, from states 0, 1 and 2
    alpha[2, 0] = 9.0  # `none`: lowers the strength of this edge
    genotype = family_of(space).derive(space, {"normal": alpha, "reduce": alpha})
    assert genotype["normal"][1] == (("sep_conv_3x3", 1), ("sep_conv_3x3", 2))


def test_the_genotype_that_the_darts_authors_published_is_read():
    space = make_space("darts")
    genotype = family_of(space).parse_genotype(space, PUBLISHED_DARTS_V2)
    assert genotype["normal"][3] == (("skip_connect", 0), ("dil_conv_3x3", 2))
    written = family_of(space).format_genotype(genotype)
    assert written == PUBLISHED_DARTS_V2.replace("[2, 3, 4, 5]", "range(2, 6)")


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("nas-bench-201", ""),
        ("nas-bench-201", "|nor_conv_3x3~0|"),
        ("nas-bench-201", "|sep_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|none~2|"),
        ("nas-bench-201", "|none~1|+|none~0|none~1|+|none~0|none~1|none~2|"),
        ("darts", "__import__('os').system('true')"),
        ("darts", "Genotype(normal=[], normal_concat=range(2, 6), reduce=[], reduce_concat=range(2, 6))"),
        ("darts", PUBLISHED_DARTS_V2.replace("dil_conv_3x3", "conv_7x7")),
        ("darts", PUBLISHED_DARTS_V2.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', 9)")),
        ("darts", PUBLISHED_DARTS_V2.replace("[2, 3, 4, 5]", "range(10**12)")),
        ("darts", "(" * 10_000),
    ],
)
def test_what_is_no_genotype_is_refused_and_never_executed(family, text):
    space = make_space(family)
    with pytest.raises(InvalidArgument):
        family_of(space).parse_genotype(space, text)


def test_spaces_recipe_and_weights_check_need_no_torch():
    """The server validates spaces and weights, and must never import torch."""
    program = (
        "import sys; from supernet_registry.search import recipe, results, spaces;"
        "from supernet_registry.search.storage import weights; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
