"""tinyfcn.options: what is not given follows from a recipe, a file of weights, or the defaults."""

import numpy as np
import published
import pytest

from tinyfcn.convert.identify import identify
from tinyfcn.initial import sizes_of
from tinyfcn.models import VGG16
from tinyfcn.options import configure, risk
from tinyfcn.recipes import RECIPES


@pytest.mark.parametrize("model, rate", [("fcn32s", 1e-10), ("fcn16s", 1e-12), ("fcn8s", 1e-14)])
def test_a_recipe_fills_in_what_is_not_given(model, rate):
    config = configure({}, {"recipe": "paper", "model": model, "width": 0.03125}, {})
    assert (config.lr, config.momentum, config.loss, config.batch_size, config.size) == (rate, 0.99, "sum", 1, None)
    assert config.width == 0.03125 and config.padding == "paper"
    assert configure({}, {"recipe": "paper", "model": model, "lr": 1e-9}, {}).lr == 1e-9


def test_a_wide_file_is_fine_tuned_and_a_rate_that_destroys_it_is_warned_of(tmp_path):
    tensors = {name: p for name, p in published.draw(VGG16, 5, 0.5).items() if name.startswith("conv")}
    names = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
    np.savez(tmp_path / "wide.npz", **published.named(tensors, names))
    sizes = sizes_of(identify(tmp_path / "wide.npz"))
    config = configure({}, {"init": str(tmp_path / "wide.npz")}, sizes)
    assert config.recipe == "finetune" and config.width == 0.5 and config.lr == RECIPES["finetune"]["lr"]
    assert risk(config) is None
    config = configure({}, {"init": str(tmp_path / "wide.npz"), "recipe": "scratch"}, sizes)
    assert config.lr == 2e-3 and "known to destroy" in risk(config)
    assert risk(configure({}, {}, {})) is None
