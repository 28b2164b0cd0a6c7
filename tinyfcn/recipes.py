"""Recipes: options of a training run that belong together, by name. What is given by hand on the command line wins.

scratch     a narrow network from random weights, on a laptop: the defaults of `Config`
finetune    from VGG16's real weights, with Adam: some hundred steps already give a usable network. What comes trained learns at
            a tenth of the rate of what starts random, and the skips' features are brought to a scale of 1
paper       the solver settings that the authors published with their networks: batches of one whole image, the summed loss,
            "heavy" momentum, and a rate that falls a hundredfold from stage to stage
paper-2015  the settings of the paper's section 4.3: 20 images a batch, momentum 0.9, a fixed rate on the mean loss, and
            upsampling layers that are learned but for the last

A rate that depends on the stage is a table by model.
"""

from __future__ import annotations

from typing import Any

from tinyfcn.errors import InputError

STAGES = ("fcn32s", "fcn16s", "fcn8s")
PUBLISHED_RATES = dict(zip(STAGES, (1e-10, 1e-12, 1e-14), strict=True)) | {"fcn8s-atonce": 1e-10}
PAPER_RATES = dict(zip(STAGES, (1e-4, 1e-6, 1e-8), strict=True)) | {"fcn8s-atonce": 1e-4}
PAPER_RATES |= {"fcn32s-alexnet": 1e-3, "fcn32s-caffenet": 1e-3}

RECIPES: dict[str, dict[str, Any]] = {
    "scratch": {},
    "finetune": {
        "width": 1.0,
        "dropout": 0.5,
        "size": (224, 224),
        "batch_size": 2,
        "steps": 2000,
        "lr": 3e-4,
        "trunk_rate": 0.1,
        "skip_scales": "measured",
    },
    "paper": {
        "width": 1.0,
        "padding": "paper",
        "dropout": 0.5,
        "size": None,
        "batch_size": 1,
        "steps": 100_000,
        "optimiser": "sgd",
        "schedule": "constant",
        "loss": "sum",
        "lr": PUBLISHED_RATES,
        "momentum": 0.99,
        "weight_decay": 5e-4,
    },
    "paper-2015": {
        "width": 1.0,
        "padding": "paper",
        "dropout": 0.5,
        "learn_upsampling": "skip",
        "size": None,
        "batch_size": 20,
        "steps": 10_000,  # some 175 epochs of the 1,112 photographs of VOC 2011's training list
        "optimiser": "sgd",
        "schedule": "constant",
        "lr": PAPER_RATES,
        "momentum": 0.9,
        "weight_decay": 5e-4,
    },
}


def options_of(recipe: str, model: str) -> dict[str, Any]:
    """The options of a recipe for a model: rates that depend on the stage are settled.

    Raises InputError for a model that the recipe is not for.
    """
    options = dict(RECIPES[recipe])
    if isinstance(options.get("lr"), dict):
        if model not in options["lr"]:
            raise InputError(f"recipe {recipe} has no learning rate for {model}: it is for {', '.join(options['lr'])}")
        options["lr"] = options["lr"][model]
    return options
