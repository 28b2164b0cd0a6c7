"""What the tests of all networks share."""

import json

import numpy as np
from safetensors.numpy import save_file

from tinyfcn.formats import DESCRIPTION


def describe(path, tensors, description):
    """Write a .safetensors file with any description, as one that was edited may have."""
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, path, {DESCRIPTION: json.dumps(description)})


def spread(net, seed=0):
    """Give every parameter, also biases and scores, random values."""
    rng = np.random.default_rng(seed)
    for p in net.params.values():
        p += (0.1 * rng.standard_normal(p.shape)).astype(p.dtype)
    return net


def gradient_functions(net):
    """A network as (forward, backward, names) for `check_gradient`: a function of the images and of every parameter."""
    names = list(net.params)

    def forward(x, *params):
        net.params = dict(zip(names, params, strict=True))
        return net.forward(x, training=True), None

    def backward(dy, _):
        dx = net.backward(dy, need_dx=True)
        return dx, *(net.grads[name] for name in names)

    return forward, backward, ["x", *names]
