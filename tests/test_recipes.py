"""Recipes: the page that documents them says what they are, and each can be configured."""

import re
from pathlib import Path

import pytest

from tinyfcn.errors import InputError
from tinyfcn.models import FCNS
from tinyfcn.options import size_of
from tinyfcn.recipes import RECIPES, options_of
from tinyfcn.run import Config

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
MODELS = {"FCN-32s": "fcn32s", "FCN-16s": "fcn16s", "FCN-8s": "fcn8s", "FCN-8s at once": "fcn8s-atonce"}


def page():
    """{(option, model or None): {recipe: cell}} of the page's table."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    found = {}
    for first, *cells in rows:
        option, model = re.fullmatch(r"`--([a-z-]+)`(?:, (.+))?", first).groups()
        found[option.replace("-", "_"), MODELS.get(model)] = dict(zip(header[1:], cells, strict=True))
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_page_says_what_a_recipe_is(recipe):
    shown = page()
    for (option, model), cells in shown.items():
        value = getattr(Config(**options_of(recipe, model or "fcn8s")), option)
        cell = cells[recipe]
        assert (size_of(cell) if option == "size" else type(value)(cell)) == value, (option, model)
    assert {option for option, _ in shown} >= set(RECIPES[recipe])


@pytest.mark.parametrize("model", FCNS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_has_a_rate_for_each_model_or_says_whom_it_is_for(recipe, model):
    if recipe == "paper" and model in ("fcn32s-alexnet", "fcn32s-caffenet"):
        with pytest.raises(InputError, match="recipe paper has no learning rate for fcn32s-"):
            options_of(recipe, model)
    else:
        assert 0 < Config(**options_of(recipe, model)).lr < 0.1
