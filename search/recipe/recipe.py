"""How a search is run: every number that is not part of the search space. Imports no torch.

`Recipe.for_space` gives the defaults of a space: the reference's optimiser settings for `darts`
(quark0/darts, `cnn/train_search.py`), and for `compact` and `nas-bench-201` one that leaves chance within a few
epochs on a few hundred small images on a CPU.

A new setting is one line here; whatever reads, checks, lists or explains settings asks the fields.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.recipe.fields import check_values, rules_of, setting
from supernet_registry.search.strategies import DERIVATIONS, OBJECTIVES, VARIANTS

if TYPE_CHECKING:  # a command's help reads the fields, and must not load numpy for it
    from supernet_registry.search.spaces import SearchSpace

__all__ = ["Recipe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All settings of taste, search and child training. "Steps" are weight steps; learning rates decay by a cosine."""

    # Search and child
    objective: str = setting("cross-entropy", "what the steps of search and child descend", axis=OBJECTIVES)

    # Search: length
    epochs: int = setting(50, "most epochs of a search from scratch", low=1, high=10_000)
    warm_epochs: int = setting(
        20, "most epochs of a search from a source, whose backbone need only be fine-tuned", low=1, high=10_000
    )
    patience: int = setting(
        10,
        "epochs without better validation accuracy or loss after which the search (not the child) stops",
        low=1,
        high=10_000,
    )
    batch_size: int = setting(64, "images a weight step and an α step", low=2, high=65_536)
    least_epoch_steps: int = setting(
        1,
        "fewest weight steps an epoch: search and child pass over a tiny training set several times in one epoch",
        low=1,
        high=10_000,
    )

    # Search: weights (train split)
    optimizer: str = setting("sgd", "optimiser of the weights", words=("sgd", "adamw"))
    learning_rate: float = setting(0.025, "learning rate of the weights at the first step", low=0.0, high=10.0)
    learning_rate_min: float = setting(0.001, "learning rate at the last step, of search and child", low=0.0, high=10.0)
    warm_learning_rate: float = setting(
        0.01, "learning rate at the first step, when weights come from a source", low=0.0, high=10.0
    )
    warmup_steps: int = setting(
        0,
        "steps over which the learning rate rises from 0: Adam's first steps are blind and long",
        low=0,
        high=1_000_000,
    )
    momentum: float = setting(0.9, "momentum of the weights; sgd only", low=0.0, high=1.0)
    weight_decay: float = setting(3e-4, "weight decay of the supernet", low=0.0, high=100.0)
    most_decay: float = setting(
        0.0,
        "most decay of weights over a whole schedule, Σ rate · decay; longer ones decay less. 0 for no limit",
        low=0.0,
        high=1e3,
    )
    clip_norm: float = setting(5.0, "largest norm of the weights' gradient; 0 for no clipping", low=0.0, high=1e6)
    label_smoothing: float = setting(0.0, "label smoothing of the search", low=0.0, high=1.0)
    rollback_factor: float = setting(
        0.5, "factor of the learning rate after a divergence, once; 0 fails at the first", low=0.0, high=1.0
    )

    # Search: α (validation split, as the held-out half in DARTS)
    alpha_learning_rate: float = setting(3e-4, "learning rate of α", low=0.0, high=10.0)
    alpha_betas: tuple[float, float] = setting(
        (0.5, 0.999), "Adam's two averages, of α's gradient and of its square", low=0, below=1
    )
    alpha_weight_decay: float = setting(1e-3, "weight decay of α", low=0.0, high=10.0)
    alpha_every: int = setting(1, "weight steps per α step", low=1, high=1_000)
    alpha_scale: float = setting(1e-3, "standard deviation of a fresh α", low=0.0, high=10.0)
    alpha_prior: float = setting(
        0.0, "how far a fresh α leans towards the family's prior architecture, where it has one", low=0.0, high=100.0
    )

    # Search: variant of DARTS, and what only some of them read, as `search.strategies` says (defaults of their papers)
    variant: str = setting("darts", "how α and the weights learn: a variant of DARTS", axis=VARIANTS)
    curvature: str = setting(
        "difference",
        "how the second term is computed: by a difference as in the paper, or exactly",
        words=("difference", "exact"),
    )
    perturbation: float = setting(
        0.03, "largest change of a mixture weight, reached at the end of the search", low=0.0, high=1.0
    )
    perturbation_steps: int = setting(7, "steps of gradient ascent", low=1, high=1_000)
    alpha_rest: float = setting(0.3, "share of the search in which α rests (15 of 50 epochs)", low=0.0, high=1.0)
    dirichlet_anchor: float = setting(
        1e-3, "weight of the divergence from the uniform Dirichlet distribution", low=0.0, high=1e3
    )

    # Search: dropping
    drop_shares: tuple[float, ...] = setting(
        (), "shares of the search at which every edge loses its weakest operation", low=0, high=1
    )

    # Augmentation of training batches: light, and none that changes what a glyph means
    crop_padding: int = setting(2, "shift training images by up to so many pixels, edges repeated", low=0, high=64)
    horizontal_flip: bool = setting(
        default=False, meaning="mirror training images; off, since a mirrored letter is another letter"
    )
    max_rotation_degrees: float = setting(
        0.0, "rotate training images by up to so much either way", low=0.0, high=180.0
    )
    max_zoom: float = setting(0.0, "enlarge or shrink training images by up to this share", low=0.0, high=0.9)

    # Start and transfer
    head_scale: float = setting(
        1.0, "factor of the prototype head that a search starts with, once it has been judged", low=0.0, high=1.0
    )
    head_steps: int = setting(
        0, "first steps of a search from a source's weights, in which only the head learns", low=0, high=1_000_000
    )
    entropy_floor: float = setting(
        0.5, "α below this mean entropy (1 is uniform) is tempered up to it: peaked α learns nothing", low=0.0, high=1.0
    )

    # Taste: short trials of candidates and scratch
    taste_share: float = setting(
        0.08, "most steps of all trials together, as a share of a full search from scratch", low=0.0, high=1.0
    )
    taste_candidates: int = setting(
        3, "most candidates besides scratch and the generalist; 0 for neither", low=0, high=64
    )
    taste_finalists: int = setting(
        1, "candidates that train a few steps against scratch after the zero-step round", low=1, high=64
    )
    taste_clear: float = setting(
        2.0, "standard errors of paired loss by which a source wins before any step", low=0.0, high=1e9
    )
    taste_likely: float = setting(
        2.0, "standard errors of paired loss by which a source wins in the end", low=0.0, high=1e9
    )
    fine_tune_closing: float = setting(
        0.4,
        "share of scratch's error that a source must close before any step for fine-tuning to be enough",
        low=-1e9,
        high=1e9,
    )

    # Child network
    derivation: str = setting("argmax", "how a searched supernet becomes an architecture", axis=DERIVATIONS)
    most_skips: int = setting(
        -1, "most skip connections in a cell, as P-DARTS limits them to 2; -1 for any number", low=-1, high=1_000
    )
    derivation_steps: int = setting(0, "weight steps of fine-tuning after every decision", low=0, high=10_000)
    child_epochs: int = setting(
        20, "epochs of the child network's training; 0 for no child network", low=0, high=10_000
    )
    child_holds_out: bool = setting(
        default=False, meaning="whether the child is judged by the validation split, and not trained on it"
    )
    child_channels: int = setting(
        0,
        "width of the child's first cell; 0 for the supernet's own, which alone can inherit weights",
        low=0,
        high=1_024,
    )
    child_learning_rate: float = setting(
        0.01,
        "learning rate of the child at the first step; it inherits weights, so this is fine-tuning",
        low=0.0,
        high=10.0,
    )
    child_head_scale: float = setting(0.1, "factor of the prototype head that the child starts with", low=0.0, high=1.0)
    child_label_smoothing: float = setting(0.1, "label smoothing of the child's training", low=0.0, high=1.0)
    child_weight_decay: float = setting(3e-4, "weight decay of the child", low=0.0, high=100.0)

    # Evaluation
    calibration_images: int = setting(
        256, "most clean training images over which BatchNorm statistics are taken", low=2, high=10_000_000
    )
    eval_batch_size: int = setting(256, "images of a batch that is judged, not trained on", low=1, high=65_536)

    @classmethod
    def for_space(cls, space: SearchSpace) -> Self:
        """The default recipe of a space's family."""
        return cls.for_family(space.family)

    @classmethod
    def for_family(cls, family: str) -> Self:
        """The default recipe of a family of search spaces."""
        return cls(**_FAMILIES.get(family, {}))

    def override(self, **values: Any) -> Self:
        """This recipe with some fields replaced; fewer `epochs` shorten a warm search, unless `warm_epochs` are given.

        Raises:
            InvalidArgument: a field is unknown or its value out of range.
        """
        known = {f.name for f in fields(self)}
        for name in values:
            if name not in known:
                raise InvalidArgument(f"A recipe has no field {name!r}.", remedy="Correct the name.", field=name)
        if "epochs" in values:
            values.setdefault("warm_epochs", min(self.warm_epochs, values["epochs"]))
        recipe = replace(self, **values)
        recipe.check()
        return recipe

    def check(self) -> None:
        """Raise `InvalidArgument` if a value is out of range."""
        check_values(self)

    def check_space(self, space: SearchSpace, *, field: str = "") -> None:
        """Raise `InvalidArgument` if one of its strategies cannot be used in this space.

        Args:
            space: to be searched.
            field: where the strategy came from, to be named in the error; the recipe's own field if empty.
        """
        for name, rule in rules_of(type(self)):
            strategy = None if rule.axis is None else rule.axis.check(getattr(self, name))
            needs = None if strategy is None else strategy.needs
            if strategy is not None and needs is not None and not needs.met_by(space):
                raise InvalidArgument(f"{strategy.name} needs {needs.what}.", remedy=needs.remedy, field=field or name)


_SMALL: dict[str, Any] = {
    "epochs": 14,
    "warm_epochs": 10,
    "patience": 4,
    "batch_size": 32,
    "optimizer": "adamw",
    "learning_rate": 5e-3,
    "learning_rate_min": 2e-5,
    "warm_learning_rate": 2e-3,
    "weight_decay": 1e-2,
    "alpha_learning_rate": 3e-2,  # a hundred α steps must suffice; at 3e-3 α stays uniform and the genotype is noise
    "alpha_every": 2,
    "child_epochs": 20,
    "child_learning_rate": 5e-3,
    "max_rotation_degrees": 8.0,
    "max_zoom": 0.1,
    "child_weight_decay": 1e-2,
    "calibration_images": 128,
}
"""For a few hundred small images on a CPU."""

_FAMILIES: dict[str, dict[str, Any]] = {
    "compact": {
        **_SMALL,
        "weight_decay": 4.0,  # AdamW multiplies it by the rate: 1e-2 takes 0.3 % off a weight in 100 steps at 5e-3
        "child_weight_decay": 1.0,  # ... and 3 % in the thousand steps of a child network
        "most_decay": 3.0,
        "child_epochs": 120,
        "least_epoch_steps": 8,
        "head_scale": 0.3,
        "fine_tune_closing": 0.2,
        "alpha_prior": 2.0,
    },
    "nas-bench-201": _SMALL,
    "darts": {},
}
"""Defaults of a family's recipe, where they differ from a field's own."""
