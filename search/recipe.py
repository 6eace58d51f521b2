"""How a search is run: every number that is not part of the search space. Imports no torch.

`Recipe.for_space` gives the defaults of a space: the reference's optimiser settings for `darts`
(quark0/darts, `cnn/train_search.py`), and a compact recipe for `nas-bench-201` that leaves chance within a few
epochs on a few hundred small images on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from search.errors import InvalidArgument
from search.spaces import SearchSpace

__all__ = ["Recipe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All settings of taste, search and child training. "Steps" are weight steps; learning rates decay by a cosine."""

    # Search: length
    epochs: int = 50  # most epochs of a search from scratch
    warm_epochs: int = 20  # most epochs of a search from a source: the backbone need only be fine-tuned
    patience: int = 10  # epochs without better validation accuracy or loss after which the search (not the child) stops
    batch_size: int = 64  # images a weight step and an α step

    # Search: weights (train split)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.025  # at the first step
    learning_rate_min: float = 0.001  # at the last step
    warm_learning_rate: float = 0.01  # first step's, when weights come from a source
    warmup_steps: int = 0  # over which the learning rate rises from 0: Adam's first steps are blind and long
    momentum: float = 0.9  # sgd only
    weight_decay: float = 3e-4
    clip_norm: float = 5.0  # largest norm of the weights' gradient; 0 for no clipping
    label_smoothing: float = 0.0

    # Search: α (validation split, as the held-out half in DARTS)
    alpha_learning_rate: float = 3e-4
    alpha_betas: tuple[float, float] = (0.5, 0.999)
    alpha_weight_decay: float = 1e-3
    alpha_every: int = 1  # weight steps per α step
    alpha_scale: float = 1e-3  # standard deviation of a fresh α

    # Augmentation of training batches: light, and none that changes what a glyph means
    crop_padding: int = 2  # shift by up to so many pixels, edges repeated
    horizontal_flip: bool = False  # off: a mirrored letter is another letter
    max_rotation_degrees: float = 0.0  # rotate by up to so much either way
    max_zoom: float = 0.0  # enlarge or shrink by up to this share

    # Transfer
    entropy_floor: float = 0.5  # α below this mean entropy (1 is uniform) is tempered up to it: peaked α learns nothing

    # Taste: short trials of candidates and scratch
    taste_share: float = 0.08  # most steps of all trials together, as a share of a full search from scratch
    taste_candidates: int = 3  # most candidates besides scratch and the generalist; 0 for neither
    taste_finalists: int = 1  # candidates that train a few steps against scratch after the zero-step round
    taste_clear: float = 2.0  # standard errors of paired loss by which a source wins before any step
    taste_likely: float = 1.0  # the same, by which it wins in the end
    fine_tune_closing: float = 0.2  # share of it closed before any step, from which on fine-tuning is enough

    # Child network
    child_epochs: int = 20  # 0 for no child network
    child_channels: int = 0  # width of its first cell; 0 for the supernet's own, which alone can inherit weights
    child_learning_rate: float = 0.01  # first step's; it inherits weights, so this is fine-tuning
    child_label_smoothing: float = 0.1
    child_weight_decay: float = 3e-4

    # Evaluation
    calibration_images: int = 256  # clean training images over which BatchNorm statistics are taken, at most
    eval_batch_size: int = 256

    @classmethod
    def for_space(cls, space: SearchSpace) -> Recipe:
        """The default recipe of a space's family."""
        return _RECIPES.get(space.family, cls())

    def override(self, **values: Any) -> Recipe:
        """This recipe with some fields replaced; zero, empty and None leave a field as it is.

        Fewer `epochs` shorten a warm search too. Negative `child_epochs` mean no child network.

        Raises:
            InvalidArgument: a field is unknown or its value out of range.
        """
        known = {f.name for f in fields(self)}
        for name in values:
            if name not in known:
                raise InvalidArgument(f"A recipe has no field {name!r}.", remedy="Correct the name.", field=name)
        given = {name: value for name, value in values.items() if value}
        if given.get("child_epochs", 0) < 0:
            given["child_epochs"] = 0
        if "epochs" in given and "warm_epochs" not in given:
            given["warm_epochs"] = min(self.warm_epochs, given["epochs"])
        recipe = replace(self, **given)
        recipe.check()
        return recipe

    def check(self) -> None:
        """Raise `InvalidArgument` if a value is out of range."""
        if self.optimizer not in ("sgd", "adamw"):
            raise InvalidArgument(
                f"Unknown optimiser {self.optimizer!r}.", remedy="Use sgd or adamw.", field="optimizer"
            )
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InvalidArgument(
                    f"{name}={value} is not between {low} and {high}.",
                    remedy="Choose a value in that range.",
                    field=name,
                )


_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 10_000),
    "warm_epochs": (1, 10_000),
    "patience": (1, 10_000),
    "batch_size": (2, 65_536),
    "learning_rate": (0.0, 10.0),
    "warm_learning_rate": (0.0, 10.0),
    "child_epochs": (0, 10_000),
    "taste_share": (0.0, 1.0),
    "taste_candidates": (0, 64),
    "alpha_every": (1, 1_000),
    "calibration_images": (2, 10_000_000),
    "eval_batch_size": (1, 65_536),
}

_RECIPES = {
    "darts": Recipe(),
    "nas-bench-201": Recipe(
        epochs=14,
        warm_epochs=10,
        patience=4,
        batch_size=32,
        optimizer="adamw",
        learning_rate=5e-3,
        learning_rate_min=2e-5,
        warm_learning_rate=2e-3,
        weight_decay=1e-2,
        alpha_learning_rate=3e-2,  # a hundred α steps must suffice; at 3e-3 α stays uniform and the genotype is noise
        alpha_every=2,
        child_epochs=20,
        child_learning_rate=5e-3,
        max_rotation_degrees=8.0,
        max_zoom=0.1,
        child_weight_decay=1e-2,
        calibration_images=128,
    ),
}
