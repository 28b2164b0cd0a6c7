"""One training step, and the network and the optimiser that a configuration asks for."""

from __future__ import annotations

from tinyfcn import ops
from tinyfcn.backend import Array
from tinyfcn.models import FCN, FCNS
from tinyfcn.optim import SGD, Adam, Optimiser
from tinyfcn.ranks import ALONE, Ranks
from tinyfcn.report import open_device
from tinyfcn.run import Config


def build_network(config: Config, num_classes: int) -> FCN:
    """A new network as configured, with random weights."""
    return FCNS[config.model](
        num_classes,
        config.width,
        config.padding,
        hidden=config.hidden,
        dropout=config.dropout,
        learn_upsampling=config.learn_upsampling,
        freeze_trunk=config.freeze_trunk,
        seed=config.seed,
        xp=open_device(config.device),
    )


def build_optimiser(config: Config) -> Optimiser:
    if config.optimiser == "sgd":
        return SGD(config.lr, config.momentum, config.weight_decay)
    return Adam(config.lr, betas=(config.momentum, 0.999), weight_decay=config.weight_decay)


def train_step(
    net: FCN,
    optimiser: Optimiser,
    x: Array,
    labels: Array,
    reduction: str = "mean",
    lr_factor: float = 1.0,
    class_weight: Array | None = None,
    ranks: Ranks = ALONE,
    part: float = 1.0,
) -> Array:
    """Forward, loss, backward, update; returns the loss, on the network's device.

    Where several ranks make the step, the loss of these images counts for its `part`, and gradients are added up.
    """
    update = optimiser.begin(net.trainable(), lr_factor)
    scores = net.forward(x, training=True)
    loss, cache = ops.softmax_cross_entropy_forward(scores, labels, reduction=reduction, class_weight=class_weight)
    del scores
    dscores = ops.softmax_cross_entropy_backward(part, cache)
    del cache  # as large as dscores
    with ranks.summed(update, net.params) as summed:
        net.backward(dscores, update=summed)
    return loss if part == 1 else part * loss  # on a GPU a product is a launch
