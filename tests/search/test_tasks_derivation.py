"""Derived tasks: the steps of task streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.tasks import ImageDataset, TaskDerivation, derive, load_dataset
from supernet_registry.search.tasks.derivation import MIN_CONTRAST

EXAMPLES = Path(__file__).parents[2] / "examples" / "tasks"


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return load_dataset(EXAMPLES / "print_digits.npz")


def test_the_default_changes_nothing(digits: ImageDataset) -> None:
    assert derive(digits, TaskDerivation()).digest == digits.digest


def test_derived_tasks_are_the_same_on_every_machine(digits: ImageDataset) -> None:
    """The registry knows a task that returns by its digest: these must never change."""
    steps = {
        "rot90": TaskDerivation(transform="rot90"),
        "permute_pixels": TaskDerivation(5, 2, seed=1, transform="permute_pixels"),
        "rainbow": TaskDerivation(5, 2, seed=1, transform="rainbow", labels="shuffle_ids"),
        "noise": TaskDerivation(5, 2, seed=1, transform="noise", labels="random"),
    }
    assert {name: derive(digits, step).digest[:16] for name, step in steps.items()} == {
        "rot90": "e787efdf96f002e2",
        "permute_pixels": "f5498078f1020950",
        "rainbow": "8fb54fc4d42a52e7",
        "noise": "4e2b84d7bfc0f855",
    }


def test_counts_are_images_a_class_and_test_stays_whole(digits: ImageDataset) -> None:
    small = derive(digits, TaskDerivation(n_train=5, n_val=2))
    assert set(small.train.class_counts(10)) == {5}
    assert set(small.val.class_counts(10)) == {2}
    assert len(small.test) == len(digits.test)
    assert set(map(bytes, small.train.images)) <= set(map(bytes, digits.train.images))


def test_a_class_with_fewer_images_gives_all_it_has(digits: ImageDataset) -> None:
    assert len(derive(digits, TaskDerivation(n_train=10_000)).train) == len(digits.train)


def test_another_seed_draws_other_images(digits: ImageDataset) -> None:
    digests = {derive(digits, TaskDerivation(n_train=5, seed=seed)).digest for seed in range(3)}
    assert len(digests) == 3


def test_classes_are_kept_and_relabelled_in_the_given_order(digits: ImageDataset) -> None:
    pair = derive(digits, TaskDerivation(classes=(7, 2)))
    assert pair.class_names == (digits.class_names[7], digits.class_names[2])
    assert (pair.train.images[pair.train.labels == 0] == digits.train.images[digits.train.labels == 7]).all()
    assert (pair.test.images[pair.test.labels == 1] == digits.test.images[digits.test.labels == 2]).all()


def test_rotations_and_inversions_undo_themselves(digits: ImageDataset) -> None:
    for transform, times in (("rot90", 4), ("invert", 2)):
        turned = digits
        for step in range(times):
            turned = derive(turned, TaskDerivation(transform=transform))
            assert (turned.digest == digits.digest) == (step == times - 1)


def test_one_permutation_holds_for_all_images_of_all_splits(digits: ImageDataset) -> None:
    shuffled = derive(digits, TaskDerivation(seed=3, transform="permute_pixels"))
    before, after = (
        np.concatenate([split.images.reshape(len(split), -1) for _, split in dataset.splits()])
        for dataset in (digits, shuffled)
    )
    assert (before != after).any()
    assert sorted(map(bytes, before.T)) == sorted(map(bytes, after.T)), "positions are moved as wholes"


def test_rainbow_has_one_ink_and_one_ground_colour_that_can_be_told_apart(digits: ImageDataset) -> None:
    painted = derive(digits, TaskDerivation(seed=5, transform="rainbow"))
    assert painted.image_shape == (28, 28, 3)
    ground = painted.train.images[digits.train.images[..., 0] == 0]
    ink = painted.test.images[digits.test.images[..., 0] == 255]
    assert len(np.unique(ground, axis=0)) == len(np.unique(ink, axis=0)) == 1
    luminance = (ink[0].astype(float) - ground[0]) @ np.array([0.299, 0.587, 0.114])
    assert abs(luminance) >= MIN_CONTRAST - 1


def test_rainbow_of_colour_images_paints_their_luminance() -> None:
    wild = load_dataset(EXAMPLES / "print_digits_wild.npz")
    assert derive(wild, TaskDerivation(n_train=2, n_val=1, transform="rainbow")).image_shape == (32, 32, 3)


def test_noise_differs_between_images_and_leaves_the_mean_of_mid_greys(digits: ImageDataset) -> None:
    noisy = derive(digits, TaskDerivation(transform="noise"))
    assert noisy.train.images.shape == digits.train.images.shape
    grey = (digits.train.images > 100) & (digits.train.images < 156)
    change = noisy.train.images[grey].astype(float) - digits.train.images[grey]
    assert abs(change.mean()) < 1.5
    assert 28 < change.std() < 36


def test_random_labels_keep_the_counts_and_carry_no_information(digits: ImageDataset) -> None:
    random = derive(digits, TaskDerivation(seed=1, labels="random"))
    assert (random.train.images == digits.train.images).all()
    assert (random.train.class_counts(10) == digits.train.class_counts(10)).all()
    assert (random.train.labels == digits.train.labels).mean() < 0.2


def test_shuffled_ids_rename_every_class_and_keep_its_images_together(digits: ImageDataset) -> None:
    renamed = derive(digits, TaskDerivation(seed=1, labels="shuffle_ids"))
    for old in range(10):
        new = set(renamed.train.labels[digits.train.labels == old])
        assert len(new) == 1
        assert new != {old}
        assert renamed.class_names[new.pop()] == digits.class_names[old]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"transform": "blur"}, "transform"),
        ({"labels": "wrong"}, "labels"),
        ({"n_train": 0}, "n_train"),
        ({"n_val": -1}, "n_val"),
        ({"classes": (1,)}, "classes"),
        ({"classes": (1, 1)}, "classes"),
    ],
)
def test_impossible_derivations_are_refused(fields: dict, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        TaskDerivation(**fields)
    assert caught.value.field == field


def test_unknown_classes_are_refused(digits: ImageDataset) -> None:
    with pytest.raises(InvalidArgument, match="no class 10"):
        derive(digits, TaskDerivation(classes=(0, 10)))
