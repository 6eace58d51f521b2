"""How a search is run: every number that is not part of the search space. Imports no torch.

`Recipe.for_space` gives the defaults of a space: the reference's optimiser settings for `darts`
(quark0/darts, `cnn/train_search.py`), and for `compact` and `nas-bench-201` one that leaves chance within a few
epochs on a few hundred small images on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.spaces import SearchSpace
from supernet_registry.search.strategies import DERIVATIONS, VARIANTS

__all__ = ["Recipe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All settings of taste, search and child training. "Steps" are weight steps; learning rates decay by a cosine."""

    # Search: length
    epochs: int = 50  # most epochs of a search from scratch
    warm_epochs: int = 20  # most epochs of a search from a source: the backbone need only be fine-tuned
    patience: int = 10  # epochs without better validation accuracy or loss after which the search (not the child) stops
    batch_size: int = 64  # images a weight step and an α step
    least_epoch_steps: int = 1  # of search and child: a tiny training set is passed several times in one epoch

    # Search: weights (train split)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.025  # at the first step
    learning_rate_min: float = 0.001  # at the last step
    warm_learning_rate: float = 0.01  # first step's, when weights come from a source
    warmup_steps: int = 0  # over which the learning rate rises from 0: Adam's first steps are blind and long
    momentum: float = 0.9  # sgd only
    weight_decay: float = 3e-4
    most_decay: float = 0.0  # of weights over a whole schedule, Σ rate · decay; longer ones decay less. 0 for no limit
    clip_norm: float = 5.0  # largest norm of the weights' gradient; 0 for no clipping
    label_smoothing: float = 0.0
    rollback_factor: float = 0.5  # of the learning rate after a divergence, once; 0 fails at the first

    # Search: α (validation split, as the held-out half in DARTS)
    alpha_learning_rate: float = 3e-4
    alpha_betas: tuple[float, float] = (0.5, 0.999)
    alpha_weight_decay: float = 1e-3
    alpha_every: int = 1  # weight steps per α step
    alpha_scale: float = 1e-3  # standard deviation of a fresh α
    alpha_prior: float = 0.0  # by which a fresh α leans towards the family's prior architecture, where it has one

    # Search: variant of DARTS, and what only one of them reads (defaults of its paper)
    variant: str = "darts"
    curvature: Literal["difference", "exact"] = "difference"  # darts-2nd: how its second term is computed
    perturbation: float = 0.03  # smooth-darts: largest change of a mixture weight, reached at the end of the search
    perturbation_steps: int = 7  # smooth-darts-adv: steps of gradient ascent
    alpha_rest: float = 0.3  # pc-darts: share of the search in which α rests (15 of 50 epochs)
    dirichlet_anchor: float = 1e-3  # drnas: weight of the divergence from the uniform Dirichlet distribution

    # Search: dropping
    drop_shares: tuple[float, ...] = ()  # shares of the search at which every edge loses its weakest operation

    # Augmentation of training batches: light, and none that changes what a glyph means
    crop_padding: int = 2  # shift by up to so many pixels, edges repeated
    horizontal_flip: bool = False  # off: a mirrored letter is another letter
    max_rotation_degrees: float = 0.0  # rotate by up to so much either way
    max_zoom: float = 0.0  # enlarge or shrink by up to this share

    # Start and transfer
    head_scale: float = 1.0  # of the prototype head that a search starts with, once it has been judged
    head_steps: int = 0  # of a search from a source's weights, in which only the head learns
    entropy_floor: float = 0.5  # α below this mean entropy (1 is uniform) is tempered up to it: peaked α learns nothing

    # Taste: short trials of candidates and scratch
    taste_share: float = 0.08  # most steps of all trials together, as a share of a full search from scratch
    taste_candidates: int = 3  # most candidates besides scratch and the generalist; 0 for neither
    taste_finalists: int = 1  # candidates that train a few steps against scratch after the zero-step round
    taste_clear: float = 2.0  # standard errors of paired loss by which a source wins before any step
    taste_likely: float = 2.0  # the same, by which it wins in the end
    fine_tune_closing: float = 0.4  # of scratch's error, before any step: the share from which fine-tuning is enough

    # Child network
    derivation: str = "argmax"  # the largest α, or DARTS-PT's selection by trial
    most_skips: int = -1  # argmax only: skip connections in a cell, as P-DARTS limits them to 2; -1 for any number
    derivation_steps: int = 0  # perturbation only: weight steps of fine-tuning after every decision
    child_epochs: int = 20  # 0 for no child network
    child_holds_out: bool = False  # whether the validation split stays out of its training, to judge it by
    child_channels: int = 0  # width of its first cell; 0 for the supernet's own, which alone can inherit weights
    child_learning_rate: float = 0.01  # first step's; it inherits weights, so this is fine-tuning
    child_head_scale: float = 0.1  # of the prototype head that it starts with
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
        VARIANTS.check(self.variant)
        DERIVATIONS.check(self.derivation)
        if self.curvature not in ("difference", "exact"):
            raise InvalidArgument(
                f"Unknown curvature {self.curvature!r}.", remedy="Use difference or exact.", field="curvature"
            )
        if not all(0.0 <= share <= 1.0 for share in self.drop_shares):
            raise InvalidArgument(
                f"drop_shares={self.drop_shares} are not all between 0 and 1.",
                remedy="Give shares of the search, such as 0.3 and 0.6.",
                field="drop_shares",
            )
        if self.optimizer not in ("sgd", "adamw"):
            raise InvalidArgument(
                f"Unknown optimiser {self.optimizer!r}.", remedy="Use sgd or adamw.", field="optimizer"
            )
        if not all(0.0 <= beta < 1.0 for beta in self.alpha_betas):
            raise InvalidArgument(
                f"alpha_betas={self.alpha_betas} are not between 0 and 1.",
                remedy="Give two numbers of at least 0 and less than 1.",
                field="alpha_betas",
            )
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InvalidArgument(
                    f"{name}={value} is not between {low} and {high}.",
                    remedy="Choose a value in that range.",
                    field=name,
                )

    def check_space(self, space: SearchSpace, *, field: str = "variant") -> None:
        """Raise `InvalidArgument` if the variant cannot search this space."""
        needs = VARIANTS.check(self.variant).needs
        if needs is not None and not needs.met_by(space):
            raise InvalidArgument(f"{self.variant} needs {needs.what}.", remedy=needs.remedy, field=field)


_STEPS = (0, 1_000_000)
_EPOCHS = (1, 10_000)
_SHARE = (0.0, 1.0)
_RATE = (0.0, 10.0)
_RANGES: dict[str, tuple[float, float]] = {
    "epochs": _EPOCHS,
    "warm_epochs": _EPOCHS,
    "patience": _EPOCHS,
    "batch_size": (2, 65_536),
    "least_epoch_steps": (1, 10_000),
    "learning_rate": _RATE,
    "learning_rate_min": _RATE,
    "warm_learning_rate": _RATE,
    "warmup_steps": _STEPS,
    "momentum": _SHARE,
    "weight_decay": (0.0, 100.0),
    "most_decay": (0.0, 1e3),
    "clip_norm": (0.0, 1e6),
    "label_smoothing": _SHARE,
    "rollback_factor": _SHARE,
    "alpha_learning_rate": _RATE,
    "alpha_weight_decay": _RATE,
    "alpha_every": (1, 1_000),
    "alpha_scale": (0.0, 10.0),
    "alpha_prior": (0.0, 100.0),
    "perturbation": _SHARE,
    "perturbation_steps": (1, 1_000),
    "alpha_rest": _SHARE,
    "dirichlet_anchor": (0.0, 1e3),
    "crop_padding": (0, 64),
    "max_rotation_degrees": (0.0, 180.0),
    "max_zoom": (0.0, 0.9),
    "head_scale": _SHARE,
    "head_steps": _STEPS,
    "entropy_floor": _SHARE,
    "taste_share": _SHARE,
    "taste_candidates": (0, 64),
    "taste_finalists": (1, 64),
    "taste_clear": (0.0, 1e9),
    "taste_likely": (0.0, 1e9),
    "fine_tune_closing": (-1e9, 1e9),  # beyond [0, 1]: always, never
    "most_skips": (-1, 1_000),
    "derivation_steps": (0, 10_000),
    "child_epochs": (0, 10_000),
    "child_channels": (0, 1_024),
    "child_learning_rate": _RATE,
    "child_head_scale": _SHARE,
    "child_label_smoothing": _SHARE,
    "child_weight_decay": (0.0, 100.0),
    "calibration_images": (2, 10_000_000),
    "eval_batch_size": (1, 65_536),
}
"""Least and greatest values of every field that is one number."""

_SMALL = Recipe(
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
)
"""For a few hundred small images on a CPU."""

_RECIPES = {
    "compact": replace(
        _SMALL,
        weight_decay=4.0,  # AdamW multiplies it by the rate: 1e-2 takes 0.3 % off a weight in a hundred steps at 5e-3
        child_weight_decay=1.0,  # ... and 3 % in the thousand steps of a child network
        most_decay=3.0,
        child_epochs=120,
        least_epoch_steps=8,
        head_scale=0.3,
        fine_tune_closing=0.2,
        alpha_prior=2.0,
    ),
    "nas-bench-201": _SMALL,
    "darts": Recipe(),
}
