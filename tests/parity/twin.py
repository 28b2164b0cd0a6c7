"""Train tinyfcn and its PyTorch twin side by side: the same initial weights, batches, optimiser (Adam) and schedule.

  python tests/parity/twin.py --data ../data/camvid --dtype float64
  python tests/parity/twin.py --data ../data/camvid --steps 300 --finish --seeds 0 1 2

It prints both losses step by step. In float64 they agree to many digits. In float32 rounding differs, training amplifies
that as it amplifies any small difference, and the two part after some tens of steps. With --finish both are evaluated on the
validation list at the end: what the two differ by there should be no more than what seeds differ by.
"""

import argparse
import time

import numpy as np
from torch_fcn import TorchFCN, Trainer, optimiser_of, with_params

from tinyfcn.data import normalise
from tinyfcn.data.loader import make_batch, open_dataset
from tinyfcn.inference import evaluate
from tinyfcn.metrics import ConfusionMatrix
from tinyfcn.models import FCNS
from tinyfcn.optim import SCHEDULES
from tinyfcn.run import Config
from tinyfcn.step import build_optimiser, train_step


def size(text):
    height, width = (int(side) for side in text.split("x"))
    return height, width


def arguments():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--data", metavar="DIR", default="shapes", help='VOC layout; default "shapes", the generated set')
    parse.add_argument("--model", choices=FCNS, default="fcn8s")
    parse.add_argument("--width", type=float, default=0.25)
    parse.add_argument("--padding", choices=("paper", "same"), default="same")
    shape = parse.add_mutually_exclusive_group()
    shape.add_argument("--size", type=size, metavar="HxW", default=(224, 304), help="of crops (default 224x304)")
    shape.add_argument("--full", dest="size", action="store_const", const=None, help="whole images instead of crops")
    parse.add_argument("--batch-size", type=int, default=4)
    parse.add_argument("--steps", type=int, default=20)
    parse.add_argument("--lr", type=float, default=1e-3)
    parse.add_argument("--weight-decay", type=float, default=0.0)
    seeds = parse.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, default=0)
    seeds.add_argument("--seeds", type=int, nargs="+", help="do it for each of these, and compare them at the end")
    parse.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parse.add_argument("--finish", action="store_true", help="evaluate both at the end")
    return parse.parse_args()


def side_by_side(config, dtype):
    """Train both as configured; returns (tinyfcn's network, its twin, their losses (steps, 2), their seconds (steps, 2))."""
    dataset = open_dataset(config.data, config.split)
    classes, width, padding = dataset.num_classes, config.width, config.padding
    net = FCNS[config.model](classes, width, padding, dropout=0.0, seed=config.seed, dtype=dtype)
    optimiser = build_optimiser(config)
    module = with_params(TorchFCN(config.model, classes, width, padding), net.params)
    twin = Trainer(module, optimiser_of(module, config.optimiser, config.lr, config.momentum, config.weight_decay))

    losses, seconds = np.zeros((config.steps, 2)), np.zeros((config.steps, 2))
    print(f"{'step':>6}{'tinyfcn':>18}{'PyTorch':>18}{'difference':>12}")
    for step in range(config.steps):
        pixels, labels = make_batch(dataset, config, step)
        x = normalise(pixels, net.preprocessing).astype(dtype)
        factor = SCHEDULES[config.schedule](step / config.steps)
        started = time.perf_counter()
        mine = float(train_step(net, optimiser, x, labels, config.loss, factor))
        between = time.perf_counter()
        theirs = twin.step(x, labels, config.loss, factor)
        losses[step], seconds[step] = (mine, theirs), (between - started, time.perf_counter() - between)
        print(f"{step:6}{mine:18.12f}{theirs:18.12f}{abs(mine - theirs) / theirs:12.1e}", flush=True)
    return net, twin, losses, seconds


def scores_of_both(net, twin, dataset):
    """[[pixel accuracy, mean IU] of tinyfcn, ... of PyTorch] on every image of the dataset, at its own size."""
    matrix = ConfusionMatrix(dataset.num_classes)
    for image, label in dataset:
        x = normalise(image[None], net.preprocessing).astype(net.dtype)
        matrix.update(label[None], twin.predict(x))
    return [[m.pixel_accuracy, m.mean_iou] for m in (evaluate(net, dataset), matrix)]


def main():
    options = arguments()
    scores = []
    for seed in options.seeds or [options.seed]:
        names = ("data", "model", "width", "padding", "size", "batch_size", "steps", "lr", "weight_decay")
        config = Config(seed=seed, device="cpu", **{name: getattr(options, name) for name in names})
        print(f"seed {seed}: {config.model}, width {config.width:g}, padding {config.padding}, {options.dtype}")
        net, twin, losses, seconds = side_by_side(config, np.dtype(options.dtype))
        difference = abs(losses[:, 0] - losses[:, 1]) / losses[:, 1]
        print(f"largest relative difference of losses: {difference.max():.1e} at step {difference.argmax()}")
        print("median seconds a step: tinyfcn {:.3f}, PyTorch {:.3f}".format(*np.median(seconds, axis=0)))
        if options.finish:
            scores.append(scores_of_both(net, twin, open_dataset(config.data, config.val_split)))
            for name, (accuracy, iu) in zip(("tinyfcn", "PyTorch"), scores[-1], strict=True):
                print(f"{name}: pixel accuracy {accuracy:.4f}, mean IU {iu:.4f}")
    if len(scores) > 1:
        scores = np.array(scores)  # (seeds, 2 implementations, 2 scores)
        for k, name in enumerate(("pixel accuracy", "mean IU")):
            two, seeds = abs(scores[:, 0, k] - scores[:, 1, k]).max(), np.ptp(scores[:, :, k], axis=0).max()
            print(f"{name}: the two differ by {two:.4f} at most for one seed, seeds by {seeds:.4f}")


if __name__ == "__main__":
    main()
