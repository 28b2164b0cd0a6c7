"""Small networks as their publishers write them: the same parameters under everybody's names, in everybody's order of axes."""

import numpy as np

FC = ("fc6", "fc7", "fc8")
VGG_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
ALEXNET_PLACES = (0, 3, 6, 8, 10)


def draw(kind, classes, width, seed=0):
    """Random parameters of a network, convolutions (C_out, C_in, k, k) and biases, large enough to be told apart."""
    rng = np.random.default_rng(seed)
    shapes = kind.shapes(classes, width)
    scale = {name: (2 / np.prod(shape[1:])) ** 0.5 if len(shape) == 4 else 0.1 for name, shape in shapes.items()}
    return {name: (scale[name] * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def layers(params):
    """(name, weight, bias) of each layer; bias None where it has none."""
    names = [name.removesuffix(".weight") for name in params if name.endswith(".weight")]
    return [(name, params[f"{name}.weight"], params.get(f"{name}.bias")) for name in names]


def flat(weight):
    return weight.reshape(len(weight), -1)


def named(params, names, flattened=FC):
    """A state dict under other names, its fully connected layers flat."""
    found = {}
    for (layer, weight, bias), name in zip(layers(params), names, strict=True):
        found[f"{name}.weight"] = flat(weight) if layer in flattened else weight
        if bias is not None:
            found[f"{name}.bias"] = bias
    return found


def torchvision_vgg16(params):
    return named(params, [*(f"features.{k}" for k in VGG_PLACES), "classifier.0", "classifier.3", "classifier.6"])


def torchvision_alexnet(params):
    return named(params, [*(f"features.{k}" for k in ALEXNET_PLACES), "classifier.1", "classifier.4", "classifier.6"])


def timm_vgg16(params):
    names = [*(f"features.{k}" for k in VGG_PLACES), "pre_logits.fc1", "pre_logits.fc2", "head.fc"]
    return named(params, names, flattened=("fc8",))


def keras_vgg16(params):
    """(layer, kernel, bias): kernels (k, k, C_in, C_out), and dense ones (C_in, C_out) that see maps in the order H, W, C."""
    found = []
    for name, weight, bias in layers(params):
        kernel = weight.transpose(2, 3, 1, 0)
        if name in FC:
            kernel = kernel.reshape(-1, len(weight))
        there = {"fc6": "fc1", "fc7": "fc2", "fc8": "predictions"}.get(name, name.replace("conv", "block").replace("_", "_conv"))
        found.append((there, kernel, bias))
    return found


# .caffemodel, written from caffe.proto


def varint(n):
    n %= 1 << 64
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def field(number, value):
    """A field of a message: bytes and text with their length, numbers as varints."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def blob(array, *, legacy=False, packed=True):
    if legacy:
        shape = b"".join(field(1 + i, n) for i, n in enumerate((1,) * (4 - array.ndim) + array.shape))
    elif packed:
        shape = field(7, field(1, b"".join(varint(n) for n in array.shape)))
    else:
        shape = field(7, b"".join(field(1, n) for n in array.shape))
    return shape + field(8 if array.dtype == np.float64 else 5, array.tobytes())


def layer(name, kind, *blobs):
    return field(100, field(1, name) + field(2, kind) + field(3, "bottom") + b"".join(field(7, b) for b in blobs) + field(10, 1))


def v1_layer(name, kind, *blobs):
    return field(2, field(3, "top") + field(4, name) + field(5, kind) + b"".join(field(6, b) for b in blobs))


def caffemodel(params, name, *, legacy=False, flattened=FC, more=b""):
    """A whole .caffemodel; `legacy` as Caffe wrote it in 2014, with four axes for everything."""
    data = field(1, name)
    for there, weight, bias in layers(params):
        arrays = [flat(weight) if there in flattened else weight] + ([] if bias is None else [bias])
        blobs = [blob(array, legacy=legacy) for array in arrays]
        data += v1_layer(there, 4, *blobs) if legacy else layer(there, "Convolution", *blobs)
    return data + more
