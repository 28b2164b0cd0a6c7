r"""Optimisers and learning-rate schedules.

Both optimisers treat biases as the authors' published networks do: twice the learning rate, and no weight decay.

Which loss does a rate belong to? The paper trains on the loss *summed* over a batch of one image, whose gradient is as many
times larger as pixels count: its 1e-10 on the sum over 500 x 375 pixels is 1.9e-5 on their mean. Exactly: with P
counted pixels, steps on the sum with (lr, weight_decay) are steps on the mean with (lr P, weight_decay / P).
"""

from __future__ import annotations

from tinyfcn.backend import Array, array_module

BIAS_RATE = 2.0


class SGD:
    """Stochastic gradient descent with momentum, as in Caffe:

        v <- momentum v - lr (g + weight_decay w),    w <- w + v

    The paper's: momentum 0.99 and lr 1e-10 on the summed loss ("heavy" learning), or 0.9 with batches.
    """

    def __init__(self, lr: float, momentum: float = 0.9, weight_decay: float = 5e-4) -> None:
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.state: dict[str, Array] = {}  # name -> v

    def step(self, params: dict[str, Array], grads: dict[str, Array], factor: float = 1.0) -> None:
        """Update, in place, each parameter that has a gradient, at `factor` times the learning rate."""
        for name, g in grads.items():
            w, v = params[name], _moment(self.state, name, g)
            lr, decay = _rates(name, self.lr * factor, self.weight_decay)
            v *= self.momentum
            v -= lr * g
            if decay:
                v -= (lr * decay) * w
            w += v


class Adam:
    """Adam (Kingma and Ba, 2015), with weight decay apart from the gradient (Loshchilov and Hutter, 2019):

        m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) g^2
        w <- w - lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + weight_decay w)

    The choice for training from scratch, where layers' gradients differ by orders of magnitude.
    """

    def __init__(self, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0):
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.steps = 0
        self.state: dict[str, Array] = {}  # name.m, name.v

    def step(self, params: dict[str, Array], grads: dict[str, Array], factor: float = 1.0) -> None:
        """Update, in place, each parameter that has a gradient, at `factor` times the learning rate."""
        self.steps += 1
        b1, b2 = self.betas
        for name, g in grads.items():
            xp = array_module(g)
            w, m, v = params[name], _moment(self.state, f"{name}.m", g), _moment(self.state, f"{name}.v", g)
            lr, decay = _rates(name, self.lr * factor, self.weight_decay)
            m += (1 - b1) * (g - m)
            v += (1 - b2) * (g * g - v)
            if decay:
                w *= 1 - lr * decay
            denominator = xp.sqrt(v)
            denominator /= (1 - b2**self.steps) ** 0.5
            denominator += self.eps
            xp.divide(m, denominator, out=denominator)
            denominator *= lr / (1 - b1**self.steps)
            w -= denominator


def constant(progress: float) -> float:
    """The learning rate stays as it is."""
    return 1.0


def poly(progress: float) -> float:
    """The learning rate falls to 0 as (1 - progress)^0.9, where progress goes from 0 to 1 (Chen et al., 2015)."""
    return (1 - progress) ** 0.9


SCHEDULES = {"poly": poly, "constant": constant}


def _rates(name: str, lr: float, weight_decay: float) -> tuple[float, float]:
    return (lr * BIAS_RATE, 0.0) if name.endswith(".bias") else (lr, weight_decay)


def _moment(state: dict[str, Array], name: str, like: Array) -> Array:
    if name not in state:
        state[name] = array_module(like).zeros_like(like)
    return state[name]
