"""Recipe fields as text."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import get_type_hints

import pytest

from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.recipe.settings import apply_settings, settings_text
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
