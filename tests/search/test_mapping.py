"""A supernet of one size made into one of another, tensor by tensor."""

from __future__ import annotations

import pytest
import torch

from supernet_registry.search.errors import SpaceMismatch, UnsafeWeights
from supernet_registry.search.networks.mapping import map_supernet
from supernet_registry.search.networks.supernet import Network
from supernet_registry.search.spaces import check_compatible, family_of, make_space
from supernet_registry.search.spaces.sizes import block_origins, evenly
from supernet_registry.search.starts.warm_start import transfer
from supernet_registry.search.training.data import make_generator

FAMILIES = {
    "compact": {"channels": 4, "cells": 1, "head_pool": 1},
    "nas-bench-201": {"channels": 4, "cells": 1, "head_pool": 1},
    "darts": {"channels": 4, "cells": 4, "nodes": 2},
    "darts, affine": {"channels": 4, "cells": 4, "nodes": 2, "affine_batch_norm": True},
}


def space_of(name: str, **sizes):
    return make_space(name.split(",", maxsplit=1)[0], **{**FAMILIES[name], **sizes})


def random_supernet(space, seed: int = 0) -> Network:
    """Nothing in it is 0 or 1 by initialisation."""
    network = Network(space, 3, generator=make_generator(seed, "net"), alpha_scale=1.0).double()
    generator = make_generator(seed, "more")
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.add_(0.3 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64))
    return network


def loaded(space, tensors) -> Network:
    """A fresh supernet that took over what a warm start takes over."""
    network = Network(space, 3, generator=make_generator(1, "fresh")).double()
    transfer(network, tensors, "WEIGHTS_AND_ALPHAS")
    return network


@pytest.mark.parametrize("channels", [5, 6, 8, 12])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_wider_supernet_computes_the_same_features_each_several_times(name, channels):
    narrow, wide = space_of(name), space_of(name, channels=channels)
    source = random_supernet(narrow)
    tensors, report = map_supernet(source.state_dict(), narrow, wide)
    target = loaded(wide, tensors)
    images = torch.randn(2, 3, 18, 18, generator=make_generator(0, "images"), dtype=torch.float64)
    few, many = source.features(images).detach(), target.features(images).detach()
    differences = (many.T[:, None] - few.T).abs().amax(dim=2)  # of every feature from every feature
    assert float(differences.min(dim=1).values.max()) < 1e-9, "each is a copy of one of the source's"
    assert float(differences.min(dim=0).values.max()) < 1e-9, "and none of those is missing"
    assert not report.unused
    assert not report.sliced
    assert "stem.0.weight" in report.repeated


@pytest.mark.parametrize("channels", [5, 8, 14])
@pytest.mark.parametrize("name", FAMILIES)
def test_widening_and_narrowing_back_gives_every_tensor_as_it_was(name, channels):
    narrow, wide = space_of(name), space_of(name, channels=channels)
    source = random_supernet(narrow).state_dict()
    there, _ = map_supernet(source, narrow, wide)
    back, report = map_supernet(there, wide, narrow)
    assert back.keys() == source.keys()
    if channels % 4:  # channels with unequal numbers of copies cannot all come back with one factor
        back = {name: tensor for name, tensor in back.items() if tensor.ndim == 1}
    for name_, tensor in back.items():
        torch.testing.assert_close(tensor, source[name_], msg=name_)
    assert "stem.0.weight" in report.sliced
    assert not report.repeated


@pytest.mark.parametrize("name", FAMILIES)
def test_narrowing_and_widening_again_keeps_the_shapes_and_repeats_what_was_kept(name):
    wide, narrow = space_of(name, channels=8), space_of(name)
    source = random_supernet(wide).state_dict()
    sliced, _ = map_supernet(source, wide, narrow)
    again, _ = map_supernet(sliced, narrow, wide)
    assert {n: t.shape for n, t in again.items()} == {n: t.shape for n, t in source.items()}
    stem, kept = again["stem.0.weight"], sliced["stem.0.weight"]
    torch.testing.assert_close(stem, kept.repeat_interleave(2, dim=0))
    torch.testing.assert_close(kept, source["stem.0.weight"][::2])


def test_a_deeper_supernet_repeats_the_cells_of_the_same_stage():
    shallow, deep = space_of("nas-bench-201", cells=2), space_of("nas-bench-201", cells=3)
    # Blocks: cells 0-1, residual 2, cells 3-4, residual 5, cells 6-7.
    expected = (0, 0, 1, 2, 3, 3, 4, 5, 6, 6, 7)
    assert block_origins(family_of(deep), shallow, deep) == expected
    source = random_supernet(shallow).state_dict()
    tensors, report = map_supernet(source, shallow, deep)
    for name, tensor in tensors.items():
        parts = name.split(".")
        origin = ".".join(["blocks", str(expected[int(parts[1])]), *parts[2:]]) if parts[0] == "blocks" else name
        assert report.origins[name] == origin
        assert torch.equal(tensor, source[origin]), name
    assert set(report.copied) == set(tensors)
    back, report = map_supernet(tensors, deep, shallow)
    assert all(torch.equal(tensor, source[name]) for name, tensor in back.items())
    assert {name.split(".")[1] for name in report.unused} == {"1", "5", "9"}


def test_a_deeper_darts_supernet_takes_what_its_stages_lack_from_the_nearest():
    """4 cells: N R R N. 8 cells: N N R N N R N N."""
    shallow, deep = space_of("darts"), space_of("darts", cells=8)
    assert block_origins(family_of(deep), shallow, deep) == (0, 0, 1, 0, 0, 2, 3, 3)
    source = random_supernet(shallow).state_dict()
    tensors, report = map_supernet(source, shallow, deep)
    target = loaded(deep, tensors)
    assert target.state_dict().keys() == report.origins.keys()
    # Cell 7 has no reduction before it, as its origin has: its projection is the halves of a factorised reduction.
    whole, halves = "blocks.7.preprocess.0.1.conv.weight", "blocks.3.preprocess.0.1.conv_{}.weight"
    assert report.origins[whole] == f"{halves.format('even')} + {halves.format('odd')}"
    # And the other way round: cell 3 follows a reduction, its origin, cell 0, does not.
    half = "blocks.3.preprocess.0.1.conv_odd.weight"
    assert report.origins[half] == "blocks.0.preprocess.0.1.conv.weight[odd]"
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert set(report.origins) == set(report.copied) | set(report.sliced) | set(report.repeated)


@pytest.mark.parametrize(
    "changes",
    [{"nodes": 3}, {"operations": ("none", "sep_conv_3x3")}, {"stem_stride": 2}, {"head_pool": 2}, {"resolution": 16}],
)
def test_spaces_that_differ_in_more_than_size_do_not_fit(changes):
    source = space_of("darts")
    with pytest.raises(SpaceMismatch, match=next(iter(changes))):
        map_supernet(random_supernet(source).state_dict(), source, space_of("darts", channels=8, **changes))


def test_a_source_without_a_kind_of_cell_that_the_target_needs_does_not_fit():
    with pytest.raises(SpaceMismatch, match="no normal cell"):
        check_compatible(space_of("darts", cells=2), space_of("darts", cells=3))


def test_tensors_of_another_space_than_the_one_declared_are_refused():
    source, target = space_of("darts"), space_of("darts", channels=8)
    tensors = random_supernet(source).state_dict()
    for wrong in ({}, {**tensors, "stem.0.weight": torch.zeros(1)}):
        with pytest.raises(UnsafeWeights):
            map_supernet(wrong, source, target)


@pytest.mark.parametrize("count", [1, 2, 5, 7])
@pytest.mark.parametrize("wanted", [1, 3, 5, 8, 13])
def test_numbers_are_spread_evenly_and_come_back(count, wanted):
    there = evenly(count, wanted)
    assert len(there) == wanted
    assert there == sorted(there)
    assert 0 <= there[0] <= there[-1] < count
    if wanted >= count:
        assert [there[number] for number in evenly(wanted, count)] == list(range(count))
