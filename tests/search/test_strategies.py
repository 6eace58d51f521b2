"""The tables of strategies: what is listed exists, what is not is refused with the list, and one more is one line."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest

from supernet_registry.search.errors import InvalidArgument
from supernet_registry.search.recipe import Recipe
from supernet_registry.search.strategies import AXES, DERIVATIONS, ENCODERS, VARIANTS, Axis, Strategy
from tests.tiny_search import tiny_space

AXIS = Axis(
    "colour", "Of what.", [Strategy("red", "warm", "colorsys:rgb_to_hsv"), Strategy("any", "", "os:sep", (), "c")]
)


@pytest.mark.parametrize("axis", AXES.values(), ids=AXES)
def test_every_strategy_can_be_loaded_and_says_what_it_does(axis: Axis) -> None:
    assert axis.help
    for strategy in axis:
        assert callable(strategy.load())
        assert strategy.help
        assert "\n" not in strategy.help


@pytest.mark.parametrize("axis", [axis for axis in AXES.values() if axis is not ENCODERS], ids=lambda axis: axis.name)
def test_options_of_a_recipes_strategies_are_fields_of_the_recipe(axis: Axis) -> None:
    known = {field.name for field in fields(Recipe)}
    assert axis.name in known
    assert {option for strategy in axis for option in strategy.options} <= known


def test_what_does_not_exist_is_refused_with_a_list_of_what_does() -> None:
    for wrong in ("green", "", "red:dark", "red:", "any", "any:"):
        with pytest.raises(InvalidArgument, match="Unknown colour") as caught:
            AXIS.check(wrong, field="spec.colour")
        assert caught.value.field == "spec.colour"
        assert "red, any:<c>" in caught.value.remedy
    with pytest.raises(InvalidArgument) as caught:
        AXIS.check("x" * 10_000)
    assert caught.value.field == "colour"
    assert len(str(caught.value)) < 500


def test_names_keep_their_order_and_may_have_a_parameter() -> None:
    assert AXIS.names == ("red", "any")
    assert AXIS.check("any:thing at all").name == "any"
    assert AXIS.load("red") is __import__("colorsys").rgb_to_hsv


def test_one_more_is_there_for_the_length_of_a_block() -> None:
    with AXIS.added(Strategy("blue", "cold", "colorsys:hsv_to_rgb")):
        assert AXIS.names == ("red", "any", "blue")
        assert AXIS.load("blue") is __import__("colorsys").hsv_to_rgb
    assert AXIS.names == ("red", "any")


def test_a_recipe_checks_its_strategies_and_what_they_need_of_the_space() -> None:
    for axis in (VARIANTS, DERIVATIONS):
        with pytest.raises(InvalidArgument, match=f"Unknown {axis.name} 'none'"):
            Recipe().override(**{axis.name: "none"})
    for strategy in VARIANTS:
        if strategy.needs is not None:
            with pytest.raises(InvalidArgument, match=f"{strategy.name} needs"):
                Recipe(variant=strategy.name).check_space(tiny_space())


def test_the_tables_load_nothing_heavy() -> None:
    modules = "supernet_registry.search.strategies, supernet_registry.search.recipe"
    program = f"import sys, {modules}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
