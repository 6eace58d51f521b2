"""Recipe fields as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import get_type_hints

import pytest

from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.recipe.fields import setting
from supernet_registry.search.recipe.settings import apply_settings, describe_settings, settings_text
from supernet_registry.search.spaces import make_space


@pytest.mark.parametrize("family", ["compact", "nas-bench-201", "darts"])
def test_a_whole_recipe_survives_as_text(family: str) -> None:
    recipe = replace(Recipe.for_space(make_space(family)), drop_shares=(0.25, 0.5), horizontal_flip=True)
    assert apply_settings(Recipe(), settings_text(asdict(recipe))) == recipe


def test_zeros_are_taken_at_their_word() -> None:
    recipe = Recipe.for_space(make_space())
    zeros = {"alpha_prior": "0", "max_zoom": "0.0", "child_holds_out": "FALSE", "drop_shares": ""}
    changed = apply_settings(recipe, zeros)
    assert changed == replace(recipe, alpha_prior=0, max_zoom=0)
    assert apply_settings(recipe, {}) == recipe


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("learning_rat", "0.1", "no field 'learning_rat'.*learning_rate,"),
        ("learning_rate", "fast", "a number"),
        ("learning_rate", "nan", "between 0.0 and 10.0"),
        ("learning_rate", "-1", "between 0.0 and 10.0"),
        ("child_channels", "16.5", "a whole number"),
        ("child_channels", "9" * 5000, "a whole number"),
        ("child_channels", "9999", "between 0 and 1024"),
        ("horizontal_flip", "1", "true or false"),
        ("optimizer", "adam", "one of sgd, adamw"),
        ("alpha_betas", "0.9", "2 numbers"),
        ("alpha_betas", "0.9,1", "less than 1"),
        ("drop_shares", "0.5,x", "numbers with commas"),
        ("drop_shares", "0.5,1.5", "between 0 and 1"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name_and_what_is_right(name: str, text: str, wanted: str) -> None:
    with pytest.raises(InvalidArgument, match=wanted) as caught:
        apply_settings(Recipe(), {"patience": "3", name: text}, field="spec.recipe")
    assert caught.value.field == f"spec.recipe.{name}"
    assert len(str(caught.value)) < 2_000


def test_every_number_of_a_recipe_has_bounds() -> None:
    """Whoever may set it from afar must not be able to set it to anything."""
    kinds = get_type_hints(Recipe)
    for name in (f.name for f in fields(Recipe) if kinds[f.name] in (int, float)):
        for text in ("-1e10", "1e10") if kinds[name] is float else ("-1000000000000", "1000000000000"):
            with pytest.raises(InvalidArgument, match="is not between"):
                apply_settings(Recipe(), {name: text})


def test_fewer_epochs_shorten_a_warm_search_unless_its_own_are_given() -> None:
    recipe = Recipe(warm_epochs=20)
    assert apply_settings(recipe, {"epochs": "7"}).warm_epochs == 7
    assert apply_settings(recipe, {"epochs": "30"}).warm_epochs == 20
    assert apply_settings(recipe, {"epochs": "7", "warm_epochs": "9"}).warm_epochs == 9
    with pytest.raises(InvalidArgument) as caught:
        apply_settings(recipe, {"epochs": "0"})
    assert caught.value.field == "recipe.epochs"


@pytest.mark.parametrize("family", ["compact", "nas-bench-201", "darts"])
def test_every_setting_says_what_it_means_and_is_read_back_from_its_default(family: str) -> None:
    space = make_space(family)
    described = describe_settings(Recipe.for_space(space))
    assert [one.name for one in described] == [field.name for field in fields(Recipe)]
    for one in described:
        assert one.meaning
        assert "\n" not in one.meaning
        assert bool(one.choices) == (one.kind == "a word")
    defaults = {one.name: one.default for one in described}
    assert apply_settings(Recipe(), defaults) == Recipe.for_space(space)


def test_a_setting_tells_bounds_choices_and_who_reads_it() -> None:
    described = {one.name: one for one in describe_settings(Recipe.for_family("compact"))}
    assert described["child_channels"].bounds == "between 0 and 1024"
    assert described["alpha_betas"].bounds == "at least 0 and less than 1"
    assert described["optimizer"].choices == ("sgd", "adamw")
    assert "drnas" in described["variant"].choices
    assert described["perturbation"].read_by == ("smooth-darts-rs", "smooth-darts-adv")
    assert described["epochs"].read_by == ()


@dataclass(frozen=True, slots=True, kw_only=True)
class More(Recipe):
    """A recipe with one line more."""

    sparkle: float = setting(0.25, "how much it sparkles", low=0.0, high=2.0)


def test_a_new_setting_is_one_line() -> None:
    """It is described, read from text and checked without being named anywhere else."""
    space = make_space("compact")
    last = describe_settings(More.for_space(space))[-1]
    assert (last.name, last.kind, last.default, last.bounds) == ("sparkle", "a number", "0.25", "between 0.0 and 2.0")
    assert last.meaning == "how much it sparkles"
    recipe = apply_settings(More.for_space(space), {"sparkle": "1.5"})
    assert (recipe.sparkle, recipe.epochs) == (1.5, Recipe.for_space(space).epochs)
    with pytest.raises(InvalidArgument, match=r"sparkle=3.0 is not between 0.0 and 2.0"):
        apply_settings(recipe, {"sparkle": "3"})
