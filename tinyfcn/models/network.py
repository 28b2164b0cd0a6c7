"""What every network shares: parameters, the layers that carry them, and reading and writing them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tinyfcn import ops, weights
from tinyfcn.backend import Array, match_layout, random_generator, to_device, to_host
from tinyfcn.description import Description
from tinyfcn.optim import Update


class Network:
    """Parameters by name, and layers that remember in the forward pass what the backward pass needs.

    `params` and `grads` map names such as `conv1_1.weight` to arrays. A layer `name` uses `name.weight` and `name.bias`.
    A subclass writes `forward` down the page with the layers below, and `backward` up the page with their
    `_backward` twins, each of which frees what its layer has kept.
    """

    params: dict[str, Array]
    grads: dict[str, Array]
    _keep: Update  # where the backward pass puts the gradient of a parameter
    upsamplings: dict[str, int] = {}  # name -> stride of the upsampling layers, in order, which FCNs have
    score_layers: Collection[str] = ()  # layers that score classes: they begin with zeros
    class_layers: Collection[str] = ()  # those, and others that in a file may belong to other classes
    preprocessing: str = "torchvision"  # what the parameters expect of an image, see tinyfcn.description

    def __init__(self, shapes: dict[str, tuple[int, ...]], *, seed: int, dtype: Any, xp: ModuleType) -> None:
        """Make the parameters: He initialisation, but zeros for biases and for score layers (He et al., 2015).

        Each weight is drawn from N(0, 2 / fan_in), which keeps the scale of activations through layers of ReLUs.
        """
        self.xp = xp
        self.dtype = np.dtype(dtype)
        self.rng = random_generator(xp, seed)  # for dropout
        self.grads = {}
        self.training = False
        self._caches: dict[str, Any] | None = None  # None: nothing is kept for a backward pass
        rng = np.random.default_rng(seed)
        self.params = {}
        for name, shape in shapes.items():
            if name.endswith(".bias") or layer_of(name) in self.score_layers:
                value = np.zeros(shape, self.dtype)
            else:
                value = rng.standard_normal(shape, np.float32)
                value *= np.float32((2 / np.prod(shape[1:])) ** 0.5)
            self.params[name] = to_device(value.astype(self.dtype, copy=False), xp)

    def trainable(self) -> dict[str, Array]:
        """The parameters that get a gradient."""
        return self.params

    # Layers

    def start(self, x: Array, training: bool) -> None:
        """Begin a forward pass on images x (N, 3, H, W), forgetting what the last one kept."""
        if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < 1:
            raise ValueError(f"{type(self).__name__}: x must be images (N, 3, H, W), got shape {x.shape}")
        if x.dtype != self.dtype:
            raise TypeError(f"{type(self).__name__}: x is {x.dtype}, the parameters are {self.dtype}")
        self.grads = {}
        self.training = training
        self._caches = {} if training else None

    def start_backward(self, update: Update | None) -> None:
        if not self._caches:
            raise RuntimeError("backward needs a forward pass with training=True before it (and only one of each)")
        self._keep = self.grads.__setitem__ if update is None else update

    def apply(self, name: str, forward: Callable[..., tuple[Array, Any]], *arguments: Any, **options: Any) -> Array:
        """Run an operation's forward pass, and keep what its backward pass will `take`."""
        y, cache = forward(*arguments, **options)
        if self._caches is not None:
            self._caches[name] = cache
        return y

    def has(self, name: str) -> bool:
        """Whether the forward pass kept something under this name."""
        return self._caches is not None and name in self._caches

    def take(self, name: str) -> Any:
        """What a layer kept; it is then forgotten."""
        assert self._caches is not None
        return self._caches.pop(name)

    def conv(self, name: str, x: Array, **options: Any) -> Array:
        """A convolution; for the options, such as padding and relu, see `conv2d_forward`."""
        return self.apply(name, ops.conv2d_forward, x, self.params[f"{name}.weight"], self.params[f"{name}.bias"], **options)

    def conv_backward(self, name: str, dy: Array, need_dx: bool = True) -> Array:
        dx, dweight, dbias = ops.conv2d_backward(dy, self.take(name), need_dx=need_dx)
        self._keep(f"{name}.weight", dweight)
        self._keep(f"{name}.bias", dbias)
        return dx

    def linear(self, name: str, x: Array) -> Array:
        return self.apply(name, ops.linear_forward, x, self.params[f"{name}.weight"], self.params[f"{name}.bias"])

    def linear_backward(self, name: str, dy: Array) -> Array:
        dx, dweight, dbias = ops.linear_backward(dy, self.take(name))
        self._keep(f"{name}.weight", dweight)
        self._keep(f"{name}.bias", dbias)
        return dx

    def relu(self, name: str, x: Array) -> Array:
        return self.apply(name, ops.relu_forward, x)

    def relu_backward(self, name: str, dy: Array) -> Array:
        return ops.relu_backward(dy, self.take(name))

    def dropout(self, name: str, x: Array, rate: float) -> Array:
        """Dropout while training, nothing otherwise."""
        return self.apply(name, ops.dropout_forward, x, rate, self.rng) if self.training and rate > 0 else x

    def dropout_backward(self, name: str, dy: Array) -> Array:
        return ops.dropout_backward(dy, self.take(name)) if self.has(name) else dy

    def pool(self, name: str, x: Array, kernel: int = 2) -> Array:
        """Max pooling at stride 2, in ceil mode: no pixel is left out, and with 2x2 every size from 1x1 up has an output."""
        return self.apply(name, ops.max_pool2d_forward, x, kernel, stride=2, ceil_mode=True)

    def pool_backward(self, name: str, dy: Array) -> Array:
        return ops.max_pool2d_backward(dy, self.take(name))

    # Files

    def description(self) -> Description:
        """What, besides the parameters, it takes to build this network again; travels with saved weights."""
        raise NotImplementedError

    def tensors(self) -> dict[str, np.ndarray]:
        """What is saved: the parameters, on the host, under their published names."""
        return {name: to_host(p) for name, p in self.params.items()}

    def save(self, path: str | Path, **extra: Any) -> None:
        """Write the parameters and `description()`, in which fields may be `extra`, to a .safetensors or .npz file."""
        weights.write(path, self.tensors(), replace(self.description(), **extra))

    def load(self, path: str | Path, *, partial: bool = False) -> weights.LoadReport:
        """Read parameters from a .safetensors or .npz file by name; returns which were loaded and which were not.

        Fully connected weights (4096, 25088) become convolutions (4096, 512, 7, 7), row for row: unit o of fc6 is the
        dot product of its row with the flattened map, which is what the convolution computes at one place.

        Every parameter must be there, unless `partial`: then those that are missing stay as they are, and so do
        score and upsampling layers of another number of classes. Where the file says which preprocessing its parameters
        expect, the network takes that over. Raises InputError where a shape does not fit.
        """
        return self.assign(*weights.read(path), source=path, partial=partial)

    def assign(
        self, tensors: dict[str, np.ndarray], description: Description | None, *, source: str | Path, partial: bool = False
    ) -> weights.LoadReport:
        """Take over tensors that have been read already, from a file called `source` in messages; see `load`.

        They are not copied where they fit as they are: training then changes them.
        """
        shapes = {name: p.shape for name, p in self.params.items()}
        replaceable = [name for name in shapes if layer_of(name) in self.class_layers]
        report = weights.fit(tensors, shapes, partial=partial, replaceable=replaceable, source=source)
        for name in report.loaded:
            with np.errstate(over="ignore"):
                value = tensors[name].reshape(self.params[name].shape).astype(self.dtype, copy=False)
            weights.check_finite(value, name, source)
            self.params[name] = match_layout(self.params[name], to_device(value, self.xp))
        self.preprocessing = (description and description.preprocessing) or self.preprocessing
        return report


def layer_of(parameter: str) -> str:
    """The layer that a parameter belongs to: "conv1_1" for "conv1_1.weight"."""
    return parameter.partition(".")[0]
