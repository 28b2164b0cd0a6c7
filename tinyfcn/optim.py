r"""Optimisers and learning-rate schedules.

Both optimisers treat biases as the authors' published networks do: twice the learning rate, and no weight decay. `rates` lets
single parameters, by name, learn at a multiple of the learning rate, such as a tenth of it where they are trained already.

Which loss does a rate belong to? The authors' published settings take the loss *summed* over a batch of one image, whose
gradient is as many times larger as pixels count: their 1e-10 on the sum over 500 x 375 pixels is 1.9e-5 on the mean.
Exactly: with P counted pixels, steps on the sum with (lr, weight_decay) are steps on the mean with (lr P, weight_decay / P).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tinyfcn.backend import Array, array_module, hwnc, match_layout
from tinyfcn.ops import kernels
from tinyfcn.parallel import in_pieces

Update = Callable[[str, Array], None]

BIAS_RATE = 2.0  # times the learning rate of weights


class Optimiser:
    """What both share: rates, and the moments that are kept from step to step."""

    suffixes: tuple[str, ...]  # of the names of the moments: arrays of a parameter's size that are kept

    def __init__(self, lr: float, weight_decay: float, rates: Mapping[str, float] | None) -> None:
        self.lr, self.weight_decay, self.rates = lr, weight_decay, dict(rates or {})
        self.steps = 0  # done so far
        self.state: dict[str, Array] = {}  # the moments by name

    def step(self, params: dict[str, Array], grads: dict[str, Array], lr_factor: float = 1.0) -> None:
        """Update, in place, each parameter that has a gradient, at `lr_factor` times the learning rate."""
        update = self.begin({name: params[name] for name in grads}, lr_factor)
        for name, gradient in grads.items():
            update(name, gradient)

    def begin(self, params: dict[str, Array], lr_factor: float = 1.0) -> Update:
        """Begin a step: returns a function that updates the parameter `name`, one of `params`, in place, given its gradient."""
        raise NotImplementedError

    def restore(self, state: Mapping[str, Array], steps: int) -> None:
        """Go on after `steps` steps with the moments that were kept, which are taken over and not copied."""
        self.state, self.steps = dict(state), steps

    def _lr_and_decay(self, name: str, lr_factor: float) -> tuple[float, float]:
        lr = self.lr * lr_factor * self.rates.get(name, 1.0)
        return (lr * BIAS_RATE, 0.0) if name.endswith(".bias") else (lr, self.weight_decay)

    def _moment(self, name: str, like: Array) -> Array:
        """The moment `name`, which is 0 at first, in the order in memory of the parameter `like`."""
        kept = self.state.get(name)
        if kept is None:
            self.state[name] = array_module(like).zeros_like(like)
        elif kept.strides != like.strides:  # it was read from a file
            self.state[name] = match_layout(like, kept)
        return self.state[name]


class SGD(Optimiser):
    """Stochastic gradient descent with momentum, as in Caffe:

        v <- momentum v - lr (g + weight_decay w),    w <- w + v

    The authors' published settings: momentum 0.99 and lr 1e-10 on the summed loss of one image ("heavy" learning).
    The paper's: momentum 0.9 with batches of 20 (Long et al. 2015, section 4.3).
    """

    suffixes = ("",)  # v

    def __init__(
        self, lr: float, momentum: float = 0.9, weight_decay: float = 5e-4, rates: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(lr, weight_decay, rates)
        self.momentum = momentum

    def begin(self, params: dict[str, Array], lr_factor: float = 1.0) -> Update:
        self.steps += 1
        moments = {name: self._moment(name, p) for name, p in params.items()}

        def update(name: str, gradient: Array) -> None:
            lr, decay = self._lr_and_decay(name, lr_factor)
            on_gpu = not isinstance(gradient, np.ndarray)

            def chunk(w: Array, g: Array, v: Array) -> None:
                if on_gpu:
                    return kernels.sgd(w, g, v, self.momentum, lr, lr * decay)
                v *= self.momentum
                v -= lr * g
                if decay:
                    v -= (lr * decay) * w
                w += v

            _in_chunks(chunk, params[name], gradient, moments[name])

        return update


class Adam(Optimiser):
    """Adam (Kingma and Ba, 2015), with weight decay apart from the gradient (Loshchilov and Hutter, 2019):

        m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) g^2
        w <- w - lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + weight_decay w)

    The choice for training from scratch, where layers' gradients differ by orders of magnitude.
    """

    suffixes = (".m", ".v")

    def __init__(
        self,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, rates)
        self.betas, self.eps = betas, eps

    def begin(self, params: dict[str, Array], lr_factor: float = 1.0) -> Update:
        self.steps += 1
        moments = {name: [self._moment(name + suffix, p) for suffix in self.suffixes] for name, p in params.items()}
        b1, b2 = self.betas
        rest1, rest2 = 1 - b1**self.steps, 1 - b2**self.steps
        root = rest2**0.5  # m / (sqrt(v / rest2) + eps) = root m / (sqrt(v) + root eps), which has a division less

        def update(name: str, gradient: Array) -> None:
            lr, decay = self._lr_and_decay(name, lr_factor)
            on_gpu = not isinstance(gradient, np.ndarray)

            def chunk(w: Array, g: Array, m: Array, v: Array) -> None:
                if on_gpu:
                    return kernels.adam(w, g, m, v, (1 - b1, 1 - b2), lr / rest1, rest2, 1 - lr * decay, self.eps)
                change = g - m
                change *= 1 - b1
                m += change
                np.multiply(g, g, out=change)
                change -= v
                change *= 1 - b2
                v += change
                if decay:
                    w *= 1 - lr * decay
                np.sqrt(v, out=change)
                change += self.eps * root
                np.divide(m, change, out=change)
                change *= lr * root / rest1
                w -= change

            _in_chunks(chunk, params[name], gradient, *moments[name])

        return update


def constant(progress: float) -> float:
    """The learning rate stays as it is."""
    return 1.0


def poly(progress: float) -> float:
    """The learning rate falls to 0 as (1 - progress)^0.9, where progress goes from 0 to 1 (Chen et al., 2015)."""
    return float((1 - progress) ** 0.9)


SCHEDULES = {"poly": poly, "constant": constant}


def _in_chunks(change: Callable[..., None], param: Array, gradient: Array, *moments: Array) -> None:
    """Call `change` with pieces of the arrays; parameter and moments are updated through them.

    Raises ValueError for a parameter that is not contiguous, neither as it is nor pixel by pixel.
    """
    if not (param.flags.c_contiguous or (param.ndim == 4 and hwnc(param).flags.c_contiguous)):
        raise ValueError(f"a parameter of shape {param.shape} is not contiguous: it cannot be updated in place")
    in_pieces(lambda w, g, *kept: change(w, match_layout(w, g), *kept), param, gradient, *moments)
