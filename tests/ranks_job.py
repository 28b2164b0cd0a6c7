"""Runs on each rank under mpiexec, for tests/test_ranks.py: steps on shares of batches, beside those on whole batches."""

import sys

import numpy as np

from tinyfcn.models import FCN8s
from tinyfcn.optim import SGD
from tinyfcn.ranks import ALONE, together
from tinyfcn.step import train_step

BATCH = 5


def network():
    net = FCN8s(4, 1 / 64, dropout=0.0, dtype=np.float64, seed=1)
    rng = np.random.default_rng(2)
    for name in net.params:
        # Zero at first: little would learn, and in the border of zeros a ReLU would see nothing but its own rounding.
        if name.startswith("score") or name.endswith(".bias"):
            net.params[name][...] = 0.1 * rng.standard_normal(net.params[name].shape)
    return net


def batch(step):
    """Images, and labels of which the first image's are nearly all ignored."""
    rng = np.random.default_rng([3, step])
    labels = rng.integers(0, 4, (BATCH, 33, 40), np.uint8)
    labels[rng.random(labels.shape) < 0.2] = 255
    labels[0, 1:] = 255
    return rng.standard_normal((BATCH, 3, 33, 40)), labels


def main(reduction):
    class_weight = np.array([1.0, 0.5, 2.0, 1.5])
    with together() as ranks:
        shared, whole = network(), network()
        updates, alone = SGD(1e-4), SGD(1e-4)  # Adam would divide by moments that are nothing but rounding
        mine = ranks.share(BATCH)
        for step in range(4):
            x, labels = batch(step)
            weights = [(class_weight[some[some != 255]]).sum() for some in (labels[mine], labels)]
            part = weights[0] / weights[1] if reduction == "mean" else 1.0
            loss = train_step(shared, updates, x[mine], labels[mine], reduction, 1.0, class_weight, ranks, part)
            expected = train_step(whole, alone, x, labels, reduction, 1.0, class_weight, ALONE)
            np.testing.assert_allclose(ranks.total(loss), expected, rtol=1e-10)
            for name, p in whole.params.items():
                np.testing.assert_allclose(shared.params[name], p, rtol=1e-7, atol=1e-10, err_msg=name)
        for name, p in shared.params.items():
            assert p.tobytes() == ranks.first(p).tobytes(), f"{name} differs between ranks"
        print(f"rank {ranks.rank} of {ranks.size} agrees")


if __name__ == "__main__":
    main(sys.argv[1])
