"""What every network shares: parameters, the layers that carry them, and reading and writing them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tinyfcn import ops, weights
from tinyfcn.backend import Array, in_order_of, to_device, to_host
from tinyfcn.models.border import Stretch, stretch, stretch_backward
from tinyfcn.optim import Update

RESPONSE: dict[str, Any] = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1.0}  # of local response normalisation, in CaffeNet


class Network:
    """Parameters by name, and layers that remember in the forward pass what the backward pass needs.

    `params` and `grads` map names such as `conv1_1.weight` to arrays. A layer `name` uses `name.weight` and `name.bias`.
    A subclass writes `forward` down the page with the layers below, and `backward` up the page with their
    `_backward` twins, each of which frees what its layer has kept.
    """

    params: dict[str, Array]
    grads: dict[str, Array]
    _keep: Update  # where the backward pass puts the gradient of a parameter
    published: dict[str, str] = {}  # parameters that have another name in published files
    preprocessing: str = "torchvision"  # what the parameters expect of an image, see tinyfcn.data.PREPROCESSING

    def __init__(self, shapes: dict[str, tuple[int, ...]], *, seed: int, dtype: Any, xp: ModuleType) -> None:
        """Make the parameters: He initialisation, but zeros for biases and for score layers (He et al., 2015).

        Each weight is drawn from N(0, 2 / fan_in), which keeps the scale of activations through layers of ReLUs.
        """
        self.xp = xp
        self.dtype = np.dtype(dtype)
        self.rng = xp.random.default_rng(seed)  # for dropout
        self.grads = {}
        self.training = False
        self._caches: dict[str, Any] | None = None  # None: nothing is kept for a backward pass
        rng = np.random.default_rng(seed)
        self.params = {}
        for name, shape in shapes.items():
            if name.endswith(".bias") or name.startswith("score"):
                value = np.zeros(shape, self.dtype)
            else:
                value = rng.standard_normal(shape, np.float32)
                value *= np.float32((2 / np.prod(shape[1:])) ** 0.5)
            self.params[name] = to_device(value.astype(self.dtype, copy=False), xp)

    def learned(self) -> dict[str, Array]:
        """The parameters that get a gradient."""
        return self.params

    # Layers

    def _start(self, x: Array, training: bool) -> None:
        """Begin a forward pass on images x (N, 3, H, W), forgetting what the last one kept."""
        if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < 1:
            raise ValueError(f"{type(self).__name__}: x must be images (N, 3, H, W), got shape {x.shape}")
        if x.dtype != self.dtype:
            raise TypeError(f"{type(self).__name__}: x is {x.dtype}, the parameters are {self.dtype}")
        self.grads = {}
        self.training = training
        self._caches = {} if training else None

    def _start_backward(self, update: Update | None) -> None:
        if not self._caches:
            raise RuntimeError("backward needs a forward pass with training=True before it (and only one of each)")
        self._keep = self.grads.__setitem__ if update is None else update

    def _apply(self, name: str, forward: Callable, *arguments: Any, **options: Any) -> Array:
        y, cache = forward(*arguments, **options)
        if self._caches is not None:
            self._caches[name] = cache
        return y

    def _cache(self, name: str) -> Any:
        assert self._caches is not None
        return self._caches.pop(name)

    def conv(self, name: str, x: Array, **options: Any) -> Array:
        """A convolution; for the options, such as padding and relu, see `conv2d_forward`."""
        return self._apply(name, ops.conv2d_forward, x, self.params[f"{name}.weight"], self.params[f"{name}.bias"], **options)

    def conv_backward(self, name: str, dy: Array, need_dx: bool = True) -> Array:
        dx, dweight, dbias = ops.conv2d_backward(dy, self._cache(name), need_dx=need_dx)
        self._keep(f"{name}.weight", dweight)
        self._keep(f"{name}.bias", dbias)
        return dx

    def linear(self, name: str, x: Array) -> Array:
        return self._apply(name, ops.linear_forward, x, self.params[f"{name}.weight"], self.params[f"{name}.bias"])

    def linear_backward(self, name: str, dy: Array) -> Array:
        dx, dweight, dbias = ops.linear_backward(dy, self._cache(name))
        self._keep(f"{name}.weight", dweight)
        self._keep(f"{name}.bias", dbias)
        return dx

    def relu(self, name: str, x: Array) -> Array:
        return self._apply(name, ops.relu_forward, x)

    def relu_backward(self, name: str, dy: Array) -> Array:
        return ops.relu_backward(dy, self._cache(name))

    def dropout(self, name: str, x: Array, rate: float) -> Array:
        """Dropout while training, nothing otherwise."""
        return self._apply(name, ops.dropout_forward, x, rate, self.rng) if self.training and rate > 0 else x

    def dropout_backward(self, name: str, dy: Array) -> Array:
        assert self._caches is not None
        return ops.dropout_backward(dy, self._cache(name)) if name in self._caches else dy

    def pool(self, name: str, x: Array, kernel: int = 2) -> Array:
        """Max pooling at stride 2, in ceil mode: no pixel is left out, and with 2x2 every size from 1x1 up has an output."""
        return self._apply(name, ops.max_pool2d_forward, x, kernel, stride=2, ceil_mode=True)

    def pool_backward(self, name: str, dy: Array) -> Array:
        return ops.max_pool2d_backward(dy, self._cache(name))

    def normalise(self, name: str, x: Array) -> Array:
        """Local response normalisation with CaffeNet's constants."""
        return self._apply(name, ops.local_response_norm_forward, x, **RESPONSE)

    def normalise_backward(self, name: str, dy: Array) -> Array:
        return ops.local_response_norm_backward(dy, self._cache(name))

    def stretch(self, name: str, x: Array, image_size: tuple[int, int], how: Stretch) -> Array:
        return self._apply(name, stretch, x, image_size, how)

    def stretch_backward(self, name: str, dy: Array) -> Array:
        """The gradient of `stretch`, where the forward pass had one."""
        assert self._caches is not None
        return stretch_backward(dy, self._cache(name)) if name in self._caches else dy

    # Files

    def description(self) -> dict[str, Any]:
        """What, besides the parameters, it takes to build this network again; travels with saved weights."""
        return {"model": type(self).__name__, "preprocessing": self.preprocessing}

    def tensors(self) -> dict[str, np.ndarray]:
        """What is saved: the parameters, on the host, under their published names."""
        return {self.published.get(name, name): to_host(p) for name, p in self.params.items()}

    def save(self, path: str | Path, **extra: Any) -> None:
        """Write the parameters, `description()` and `extra` to a .safetensors or .npz file."""
        weights.write(path, self.tensors(), self.description() | extra)

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
        self, tensors: dict[str, np.ndarray], description: dict[str, Any], *, source: str | Path, partial: bool = False
    ) -> weights.LoadReport:
        """Take over tensors that have been read already, from a file called `source` in messages; see `load`.

        They are not copied where they fit as they are: training then changes them.
        """
        own = {there: here for here, there in self.published.items()}
        tensors = {own.get(name, name): tensor for name, tensor in tensors.items()}
        report = weights.fit(tensors, {name: p.shape for name, p in self.params.items()}, partial=partial, source=source)
        for name in report.loaded:
            value = tensors[name].reshape(self.params[name].shape).astype(self.dtype, copy=False)
            self.params[name] = in_order_of(self.params[name], to_device(value, self.xp))
        self.preprocessing = description.get("preprocessing", self.preprocessing)
        return report
