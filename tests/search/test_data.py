"""Images as tensors: sizes, channels, normalisation, augmentation, batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from supernet_registry.search.networks.inputs import Normalisation, fit_size, prepare_images
from supernet_registry.search.spaces import make_space
from supernet_registry.search.training.data import Augmentation, Batches, load_data, make_generator
from tests.tiny_search import tiny_dataset, tiny_space

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("side", "resolution", "expected"),
    [(28, 32, 28), (32, 32, 32), (64, 32, 32), (8, 32, 16), (16, 16, 16)],
)
def test_large_images_shrink_small_ones_grow_and_the_rest_stays(side, resolution, expected):
    assert fit_size(side, side, resolution) == (expected, expected)


def test_a_long_image_keeps_its_shape():
    assert fit_size(64, 128, 64) == (32, 64)


def test_grey_becomes_three_equal_channels_and_colour_stays():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (2, 20, 20, 1), dtype=np.uint8)
    colour = rng.integers(0, 256, (2, 20, 20, 3), dtype=np.uint8)
    assert torch.equal(prepare_images(grey, (20, 20))[:, 2], torch.from_numpy(grey[..., 0]))
    assert torch.equal(prepare_images(colour, (20, 20)), torch.from_numpy(colour).permute(0, 3, 1, 2))


def test_shrinking_averages_areas():
    image = np.zeros((1, 64, 64, 1), np.uint8)
    image[:, ::2, ::2] = 200
    assert prepare_images(image, (32, 32)).unique().tolist() == [50]


def test_the_training_split_is_standardised():
    data = load_data(tiny_dataset(), make_space(), CPU)
    pixels = data.normalisation(data.train.images)
    torch.testing.assert_close(pixels.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(pixels.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_constant_images_do_not_divide_by_zero():
    assert Normalisation((0.5,) * 3, (1e-3,) * 3)(torch.full((1, 3, 16, 16), 128, dtype=torch.uint8)).isfinite().all()


def test_a_shift_moves_whole_pixels_and_repeats_the_edge():
    image = torch.arange(16.0).repeat(16, 1).expand(64, 3, 16, 16)  # a horizontal ramp
    shifted = Augmentation(2, 0.0, 0.0, flip=False)(image, make_generator(0, "shift"))
    assert shifted.unique().tolist() == list(range(16))
    offsets = (shifted[:, 0, 0, 8] - 8).unique().tolist()
    assert offsets == [-2, -1, 0, 1, 2]
    assert (shifted[:, 0, :, 1:] >= shifted[:, 0, :, :-1]).all()


def test_images_are_mirrored_only_on_request():
    """A mirrored letter is another letter."""
    ramp = torch.arange(16.0).repeat(16, 1).expand(64, 3, 16, 16)
    straight = Augmentation(0, 0.0, 0.0, flip=False)(ramp, make_generator(0, "flip"))
    mirrored = Augmentation(0, 0.0, 0.0, flip=True)(ramp, make_generator(0, "flip"))
    assert torch.equal(straight, ramp)
    assert 0 < (mirrored[:, 0, 0, 0] == 15).sum() < 64


def test_rotation_and_zoom_keep_the_middle_where_it_is():
    image = torch.zeros(32, 3, 17, 17)
    image[:, :, 8, 8] = 1.0
    warped = Augmentation(0, 15.0, 0.2, flip=False)(image, make_generator(0, "warp"))
    assert (warped[:, 0].flatten(1).argmax(dim=1) == 8 * 17 + 8).all()


def test_batches_show_every_image_once_an_epoch_and_are_nearly_equal():
    batches = Batches(70, 32, make_generator(0, "batches"))
    for _ in range(2):
        drawn = [batches.draw() for _ in range(len(batches))]
        assert sorted(torch.cat(drawn).tolist()) == list(range(70))
        assert {len(batch) for batch in drawn} == {35}


def test_batches_go_on_from_their_state():
    generator = make_generator(0, "batches")
    batches = Batches(30, 10, generator)
    batches.draw()
    state, random_state = batches.state(), generator.get_state()
    expected = [batches.draw().tolist() for _ in range(5)]
    other = torch.Generator()
    other.set_state(random_state)
    resumed = Batches(30, 10, other)
    resumed.load_state(state)
    assert [resumed.draw().tolist() for _ in range(5)] == expected


def test_joined_data_have_the_validation_images_in_both_splits():
    data = load_data(tiny_dataset(), tiny_space(), CPU)
    joined = data.joined()
    assert torch.equal(joined.train.images, torch.cat([data.train.images, data.val.images]))
    assert torch.equal(joined.train.labels, torch.cat([data.train.labels, data.val.labels]))
    assert joined.train.images.is_contiguous(memory_format=torch.channels_last)
    assert (joined.val, joined.test, joined.normalisation) == (data.val, data.test, data.normalisation)


def test_every_purpose_has_its_own_random_stream():
    draws = {
        (seed, purpose): torch.rand(1, generator=make_generator(seed, purpose)).item()
        for seed in (0, 1)
        for purpose in "ab"
    }
    assert len(set(draws.values())) == 4
