"""The last checkpoint of a run: its network's weights, its optimiser's moments, and how far it has come, in one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinyfcn import weights
from tinyfcn.backend import to_device, to_host
from tinyfcn.description import Description
from tinyfcn.errors import InputError
from tinyfcn.models import FCN
from tinyfcn.optim import Optimiser
from tinyfcn.run import Config

MOMENT = "optimiser."  # before the names of the optimiser's moments


def write(path: Path, net: FCN, optimiser: Optimiser, about: Description) -> None:
    moments = {MOMENT + name: to_host(moment) for name, moment in optimiser.state.items()}
    weights.write(path, net.tensors() | moments, about)


def read(path: Path, net: FCN, config: Config) -> tuple[Description, dict[str, np.ndarray]]:
    """Let the network have the weights of a checkpoint; returns what the file says of itself, and all that it holds.

    Raises InputError where it is none of this network's, or has come further than `config` wants to go.
    """
    tensors, about = weights.read(path)
    if about is None or about.step is None or about.best is None:
        raise InputError(f"{path} is no checkpoint to go on from: it has no step, or no best score so far")
    if about.step > config.steps:
        raise InputError(f"{path}: {about.step} steps are done already; give no fewer as --steps, here {config.steps}")
    own = net.description()
    for name in ("model", "num_classes", "width", "hidden", "padding", "learn_upsampling"):
        theirs, ours = getattr(about, name), getattr(own, name)
        if theirs != ours:
            raise InputError(f"{path}: its {name} is {theirs}; by config.json and the data it must be {ours}")
    net.assign(tensors, about, source=path)
    if about.scales is not None:
        net.skip_scales = about.scales
    return about, tensors


def restore(path: Path, tensors: dict[str, np.ndarray], net: FCN, optimiser: Optimiser, step: int) -> list[str]:
    """Let the optimiser go on after `step` steps with the moments in a checkpoint; returns the names of those that are missing.

    Raises InputError for moments that are not this optimiser's.
    """
    params = {name + suffix: p for name, p in net.trainable().items() for suffix in optimiser.suffixes}
    found = {name.removeprefix(MOMENT): moment for name, moment in tensors.items() if name.startswith(MOMENT)}
    for name, moment in found.items():
        wrong = None
        if name not in params:
            wrong = f"it is none of {type(optimiser).__name__}'s moments of what is learned"
        elif (moment.shape, moment.dtype) != (params[name].shape, params[name].dtype):
            wrong = f"{moment.dtype} {moment.shape}, must be {params[name].dtype} {params[name].shape}"
        elif not np.isfinite(moment).all() or (name.endswith(".v") and (moment < 0).any()):
            wrong = "it holds numbers that no moment can have"
        if wrong:
            raise InputError(f"{path}: {MOMENT}{name}: {wrong}")
    optimiser.restore({name: to_device(moment, net.xp) for name, moment in found.items()}, step)
    return [name for name in params if name not in found]
