"""What a run starts from: a file of weights, or the best checkpoint of another run."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

from tinyfcn import weights
from tinyfcn.convert.identify import Source, settle_preprocessing
from tinyfcn.errors import InputError
from tinyfcn.models import FCN, FCN_CLASSES
from tinyfcn.models.network import layer_of


def sizes_of(source: Source) -> dict[str, Any]:
    """The options that a file settles: its width and, where it has them, the channels of fc6 and fc7."""
    sizes = {"width": source.description.width}
    if "fc7.bias" in source.tensors:
        sizes["hidden"] = prod(source.tensors["fc7.bias"].shape)
    return sizes


def scales_of(source: Source, net: FCN) -> dict[str, float]:
    """The constants that a file's skips are scaled by, for those of the network's skips whose scores it holds."""
    kind = FCN_CLASSES.get(source.model)
    if kind is None:
        return {}
    theirs = source.description.scales
    scales = kind.published_scales if theirs is None else theirs
    fitting = [skip for skip in net.skips if skip in kind.skips and _fits(source, net, f"{skip}.weight")]
    return {skip: scales.get(skip, 1.0) for skip in fitting}


def _fits(source: Source, net: FCN, name: str) -> bool:
    return name in source.tensors and source.tensors[name].shape == net.params[name].shape


def initialise(
    net: FCN, path: Path | str, source: Source, preprocessing: str | None = None, measured: bool = False
) -> tuple[set[str], str]:
    """Take over the weights of a file, in which `source` was found, as far as they fit; returns the layers that come trained from
    it, and an account.

    Score layers of other classes stay as they are. `preprocessing` is what a user says where the file cannot tell, or where the
    user knows better than a foreign file's names. Where scales of skips are to be `measured`, those that come with scores from
    the file are taken over; else they must be the network's. Raises InputError where the file cannot be used.
    """
    for option, value in sizes_of(source).items():
        own = getattr(net, option)
        if value != own:
            raise InputError(f"{path}: its {option} is {value:g}, the network's is {own:g}: add --{option} {value:g}")
    theirs = scales_of(source, net)
    if measured:
        net.skip_scales = theirs
    elif any(scale != net.skip_scales.get(skip, 1.0) for skip, scale in theirs.items()):
        raise InputError(f"{path} holds an {source.model}, whose skips have other scales than those of this network")
    net.preprocessing = settle_preprocessing(path, source, preprocessing)
    tensors = {name: tensor.read() for name, tensor in source.tensors.items()}
    report = net.assign(tensors, None, source=path, partial=True)
    trained = {layer for name in report.loaded if (layer := layer_of(name)) not in net.class_layers}
    return trained, f"{path}: {source.title}; {account(net, report)}"


def account(net: FCN, report: weights.LoadReport) -> str:
    """What was loaded, what was not, and what share of the parameters starts from random numbers."""
    random = {
        name: net.params[name].size for name in report.kept if layer_of(name) not in net.class_layers and name.endswith(".weight")
    }
    if not random:
        return str(report)
    share = sum(random.values()) / sum(p.size for p in net.params.values())
    told = f"{report}; {_listed({layer_of(name) for name in random})} start from random numbers, {share:.0%} of all parameters"
    return told + (" (a smaller --hidden makes it less)" if share > 0.5 else "")


def refuse_frozen_noise(net: FCN, trained: set[str]) -> None:
    """Raise InputError where layers would be frozen that nothing has trained yet."""
    needed = [conv.name for conv in net.backbone.convs] + ["fc6", "fc7"]
    random = [layer for layer in needed if layer not in trained]
    if net.freeze_trunk and random:
        remedy = "; --trunk-rate 0 freezes what is trained" if trained else ": start with --init or --from"
        raise InputError(f"--freeze-trunk: {_listed(random)} would stay the random numbers that they are{remedy}")


def _listed(names: Iterable[str]) -> str:
    return " and ".join(sorted(names)) if len(set(names)) < 4 else ", ".join(sorted(names)[:3]) + ", ..."
