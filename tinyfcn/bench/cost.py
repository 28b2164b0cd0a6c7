r"""What a forward pass or a training step of an FCN-8s should cost on a CPU, counted from its shapes.

    seconds = products / peak + transforms / rate + passes / cache + traffic / memory + fixed

The numbers of the machine are measured, none is fitted: the peak of a large matrix product; the rate of products with Winograd's
6x6 matrices, whose inner dimension is too short for that peak; the bandwidths of a copy inside a block that is as large as the
convolutions' (and strides as they do), in each thread's cache, and of a large copy in memory; and what the smallest network takes
on the smallest image, where there is nothing to compute: the fixed cost of the calls.

**A convolution** of c channels to d on P pixels by a k x k kernel takes 2 k^2 c d P operations, forward, and for each of its two
gradients. Where Winograd's method does it, a tile of 16 pixels takes 2 x 36 c d of them in place of 2 x 144 c d, and each of its
channels the transforms (along columns and then along rows, where neighbours share the first)

    of an input, B^T d B      2 x 6 x 6 x 4 + 2 x 6 x 6 x 6 = 720 operations
    of an output, A^T M A     2 x 4 x 6 x 6 + 2 x 4 x 6 x 4 = 480, and of its gradient, A dY A^T, as many
    of a kernel, G g G^T      2 x 36 x 9, once, and of its gradient

The input gradient is a convolution too, and the weight gradient transforms x and dy.

**Passes** count the numbers that anything but a transform reads or writes inside a block, **traffic** those in memory:

                             passes, for each tile and channel                                          traffic
    cutting tiles            patch written, read and written by columns, 16 + 24 + 24; of outputs,      map read
                             which share no border, 16 + 16 + 16; behind a ReLU, 32 for its gate        gate read
    products                 36 read and 36 written
    writing tiles            16 read and written by ReLU, and read                                      map written
    spectra of kernels                                           9 gathered (3 x), 36 written; in each block of tiles all of them
                                                                 read, packed and read again
    ... of their gradient                                        36 written in each block, and added to the sum; 45 at the end

                             passes                                                                     traffic
    columns                  k^2 c P written, read and packed (where k > 1); bias and ReLU, 4 d P       x, y; weights 3 x
    taps                     each tap's pixels copied; their products written and added                 x, y; weights 3 x
    pooling                  y read and written for each of the four taps; backward, 4 numbers a tap    x, y; backward dx twice
    scores                   ten for the loss, 10 for exp                                                 written and read
    update                   10 for momentum, 25 for Adam                                               3, and 2 for each moment

**Memory** is what the bare process holds, the parameters and their moments, the batch, and at the worst moment

    forward            a layer's input and output, the pooled maps so far, which the skips may want, and scratch
    training           all outputs so far, since gradients are computed from them, the gradients of a layer's input, output and
                       weights, and scratch; or, at the beginning of the backward pass, scores and their gradient

where scratch is Winograd's two buffers of each thread, 48 numbers for each tile of a block and channel, and the spectra; for a
gradient two more, and the spectra's sum and its next term; or a band of columns for each thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from types import ModuleType
from typing import NamedTuple

import numpy as np

from tinyfcn.models import FCN8s
from tinyfcn.models.parts import paddings
from tinyfcn.models.vgg import VGG
from tinyfcn.ops import columns, conv2d, taps, tiles, winograd
from tinyfcn.ops.conv import Geometry

Shape = tuple[int, ...]
Weights = Mapping[str, Shape]

NUMBER = 4  # bytes
SPECTRUM, TILE_INPUT, TILE_OUTPUT, KERNEL = 36, 720, 480, 648  # numbers of a tile, and operations of transforms, for each channel
CUT_INPUT, CUT_OUTPUT, GATE, WRITE, MAP = 64, 48, 32, 48, 16  # numbers in a tile's passes, and in its part of a map
UPDATE_PASSES = {1: 10, 2: 25}  # by moments
LOSS_PASSES = 20


class Cost(NamedTuple):
    """Operations, and numbers that are moved, as the module's docstring counts them."""

    products: float = 0
    transforms: float = 0
    passes: float = 0
    traffic: float = 0

    def plus(self, *others: Cost) -> Cost:
        return Cost(*map(sum, zip(self, *others, strict=True)))


class Machine(NamedTuple):
    """What a machine was measured to do with a number of threads."""

    peak: float  # operations a second
    rate: float  # ... of transforms
    cache: float  # bytes a second
    memory: float  # ... of large arrays

    def seconds(self, cost: Cost) -> float:
        moved = cost.passes / self.cache + cost.traffic / self.memory
        return cost.products / self.peak + cost.transforms / self.rate + NUMBER * moved


class Layer(NamedTuple):
    """A convolution, a pooling, or a map that is widened (`tinyfcn.models.border`), with its shapes (C, H, W)."""

    kind: str  # "conv", "pool" or "stretch"
    name: str
    inputs: Shape
    outputs: Shape
    kernel: int = 1
    padding: int = 0


# How much there is to do by definition


def map_sizes(padding: str, size: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Height and width of the map that each convolution of an FCN-8s computes from an image of `size`."""
    h, w = (VGG.map_sizes(*paddings(VGG, padding), side) for side in size)
    sizes = {name: (h[name], w[name]) for name in h}
    skips = {skip: sizes[f"pool{pool}"] for skip, pool in FCN8s.skips.items()}
    convs = {name: size for name, size in sizes.items() if not name.startswith("pool")}
    return convs | skips | dict.fromkeys(("fc7", "score_fr"), sizes["fc6"])


def arithmetic(weights: Weights, padding: str, shape: Sequence[int]) -> int:
    """Floating-point operations of a forward pass of images `shape` through an FCN-8s, by the definition of convolution.

    A multiplication and an addition for each weight and place, on all of the padded image. Pooling, ReLU and bilinear
    upsampling, well under a hundredth of it, are not counted. A training step has three times as many: forward, and
    as many again for each of the two gradients.
    """
    sizes = map_sizes(padding, (shape[2], shape[3]))
    return 2 * shape[0] * sum(prod(weights[f"{name}.weight"]) * h * w for name, (h, w) in sizes.items())


def traffic(weights: Weights, padding: str, shape: Sequence[int]) -> int:
    """Bytes that the convolutions of such a forward pass must move at least: each weight, input and output once, in float32.

    An input counts as one of its output's size, which it nearly has.
    """
    sizes = map_sizes(padding, (shape[2], shape[3]))
    shapes = {name: weights[f"{name}.weight"] for name in sizes}
    return NUMBER * sum(prod(shapes[name]) + shape[0] * sum(shapes[name][:2]) * h * w for name, (h, w) in sizes.items())


# How much tinyfcn does


def layers(weights: Weights, padding: str, size: tuple[int, int]) -> Iterator[Layer]:
    """The layers of an FCN-8s up to its scores, in order, as wide as they are computed, with their shapes for one image."""
    first, fc6_padding = paddings(VGG, padding)
    borders, stretches = VGG.borders(first)
    here: Shape = (3, *size)
    pools = {}

    def conv(name: str, kernel: int, padding: int) -> Layer:
        h, w = (side + 2 * padding - kernel + 1 for side in here[1:])
        return Layer("conv", name, here, (weights[f"{name}.weight"][0], h, w), kernel, padding)

    for number, _, convs in VGG.padded(borders[0]):
        for c in convs:
            yield (layer := conv(c.name, c.kernel, c.padding))
            here = layer.outputs
        yield (layer := Layer("pool", f"pool{number}", here, (here[0], -(-here[1] // 2), -(-here[2] // 2))))
        here = layer.outputs
        if how := stretches[number - 1]:
            c_out, h, w = here
            yield (layer := Layer("stretch", f"pool{number}.stretch", here, (c_out, h + 2 * how.copies, w + 2 * how.copies)))
            here = layer.outputs
        pools[number] = here
    for name, kernel, padding_here in ("fc6", VGG.fc6, fc6_padding), ("fc7", 1, 0), ("score_fr", 1, 0):
        yield (layer := conv(name, kernel, padding_here))
        here = layer.outputs
    for name, pool in FCN8s.skips.items():
        here = pools[pool]
        yield conv(name, 1, 0)


def way_of(layer: Layer, images: int) -> ModuleType:
    """The module of `tinyfcn.ops` that computes a convolution."""
    side = (layer.kernel, layer.kernel)
    geometry = Geometry(side, (1, 1), (layer.padding, layer.padding), (1, 1))
    x, weight = (_stand_in(shape) for shape in ((images, *layer.inputs), (layer.outputs[0], layer.inputs[0], *side)))
    h, w = layer.outputs[1:]
    return conv2d.choose(x, weight, geometry, (h, w))


def _stand_in(shape: Shape) -> np.ndarray:
    """An array of this shape that takes no memory."""
    return np.broadcast_to(np.float32(0), shape)


def forward(layer: Layer, images: int) -> Cost:
    x, y = (images * prod(shape) for shape in (layer.inputs, layer.outputs))
    if layer.kind == "pool":
        return Cost(passes=8 * y, traffic=x + y)
    if layer.kind == "stretch":
        return Cost(traffic=2 * (x + y))
    return _correlation(layer, images) if way_of(layer, images) is winograd else _product(layer, images)


def backward(layer: Layer, images: int, need_dx: bool = True) -> Cost:
    x, y = (images * prod(shape) for shape in (layer.inputs, layer.outputs))
    if layer.kind == "pool":
        return Cost(passes=16 * y, traffic=3 * x + 2 * y)
    if layer.kind == "stretch":
        return Cost(traffic=2 * (x + y))
    if way_of(layer, images) is not winograd:
        product = _product(layer, images)
        return product.plus(product) if need_dx else product
    c_in, c_out, pairs = layer.inputs[0], layer.outputs[0], layer.inputs[0] * layer.outputs[0]
    tiles, blocks = _tiles(layer, images)
    dweight = Cost(
        2 * SPECTRUM * tiles * pairs,
        tiles * (TILE_INPUT * c_in + TILE_OUTPUT * c_out) + KERNEL * pairs,
        tiles * ((CUT_INPUT + SPECTRUM) * c_in + (CUT_OUTPUT + GATE + SPECTRUM) * c_out),
        tiles * MAP * (c_in + 2 * c_out) + (SPECTRUM * (4 * blocks - 3) + 45) * pairs,
    )
    if not need_dx:
        return dweight
    turned = layer._replace(inputs=layer.outputs, outputs=layer.inputs)
    gate = Cost(passes=GATE * tiles * c_out, traffic=MAP * tiles * c_out)
    return dweight.plus(_correlation(turned, images), gate)


def _correlation(layer: Layer, images: int) -> Cost:
    """Winograd's method, forward."""
    c_in, c_out, pairs = layer.inputs[0], layer.outputs[0], layer.inputs[0] * layer.outputs[0]
    tiles, blocks = _tiles(layer, images)
    return Cost(
        2 * SPECTRUM * tiles * pairs,
        tiles * (TILE_INPUT * c_in + TILE_OUTPUT * c_out) + KERNEL * pairs,
        tiles * ((CUT_INPUT + SPECTRUM) * c_in + (WRITE + SPECTRUM) * c_out),
        tiles * MAP * (c_in + c_out) + (SPECTRUM * (1 + 3 * blocks) + 27) * pairs,
    )


def _product(layer: Layer, images: int) -> Cost:
    """A convolution, or one of its gradients, by columns or taps."""
    (c_in, *size), (c_out, h, w) = layer.inputs, layer.outputs
    pixels, area = images * h * w, layer.kernel**2
    traffic = images * prod(layer.inputs) + pixels * c_out + 3 * area * c_in * c_out
    if way_of(layer, images) is taps:
        met = images * prod(_met(layer, a, b) for a, b in zip(size, (h, w), strict=True))
        return Cost(2 * c_in * c_out * met, 0, met * (2 * c_in + 4 * c_out), traffic)
    return Cost(2 * area * c_in * c_out * pixels, 0, 3 * (area > 1) * area * c_in * pixels + 4 * c_out * pixels, traffic)


def _met(layer: Layer, size_in: int, size_out: int) -> int:
    """How often a tap of a row or column of the kernel meets the map and not its padding."""
    places = (j + i - layer.padding for i in range(layer.kernel) for j in range(size_out))
    return sum(0 <= place < size_in for place in places)


def _cut(layer: Layer, images: int) -> list[tiles.Block]:
    """Winograd's blocks of a convolution's output."""
    return tiles.blocks(_stand_in((images, *layer.outputs)), max(layer.inputs[0], layer.outputs[0]))


def _tiles(layer: Layer, images: int) -> tuple[int, int]:
    """How many tiles, and how many blocks of them."""
    blocks = _cut(layer, images)
    return images * tiles.count(blocks), len(blocks)


def network(weights: Weights, padding: str, shape: Shape, moments: int | None = None) -> Cost:
    """A forward pass of images (N, 3, H, W), or a training step with an optimiser that keeps so many moments."""
    images, _, height, width = shape
    every = list(layers(weights, padding, (height, width)))
    classes, h, w = every[-1].outputs
    scores = images * classes * height * width
    upsampling = Cost(products=2 * images * classes * (h * w * width + height * h * width), traffic=2 * scores)
    total = upsampling.plus(*(forward(layer, images) for layer in every))
    if moments is None:
        return total
    parameters = sum(map(prod, weights.values()))
    update = Cost(passes=UPDATE_PASSES[moments] * parameters, traffic=(3 + 2 * moments) * parameters)
    gradients = (backward(layer, images, need_dx=number > 0) for number, layer in enumerate(every))
    return total.plus(*gradients, upsampling, Cost(passes=LOSS_PASSES * scores), update)


def memory(weights: Weights, padding: str, shape: Shape, threads: int, moments: int | None = None) -> int:
    """The peak, in bytes, beside what the bare process holds; see `network`."""
    images, _, height, width = shape
    every = list(layers(weights, padding, (height, width)))
    scores = images * every[-1].outputs[0] * height * width
    parameters = sum(map(prod, weights.values()))
    held, worst = 0, 2 * scores
    for number, layer in enumerate(every):
        x, y = (images * prod(a) for a in (layer.inputs, layer.outputs))
        here = y + (x if number else 0)  # the image is there in any case
        if moments is None:
            worst = max(worst, held + here + _scratch(layer, images, threads, 1))
            held += y if layer.kind == "pool" else 0
        else:
            held += y
            weight = prod(weights[f"{layer.name}.weight"]) if layer.kind == "conv" else 0
            worst = max(worst, held + here + weight + _scratch(layer, images, threads, 2))
    if moments is not None:
        worst = max(worst, held + 2 * scores)
    batch = images * height * width * (3 + 1 / NUMBER)
    return int(NUMBER * (parameters * (1 + (moments or 0)) + batch + worst))


def _scratch(layer: Layer, images: int, threads: int, times: int) -> int:
    """Numbers that a convolution holds beside the maps; `times` 2 for its gradients by Winograd's method."""
    if layer.kind != "conv":
        return 0
    (c_in, *_), (c_out, h, w) = layer.inputs, layer.outputs
    way = way_of(layer, images)
    if way is winograd:
        blocks = _cut(layer, images)
        largest = max(prod(axis.stop - axis.start for axis in block) for block in blocks)
        buffers = 2 * min(threads, len(blocks)) * 48 * largest * images * max(c_in, c_out)
        return int(times * (buffers + SPECTRUM * c_in * c_out))
    if way is taps or layer.kernel == 1:
        return 0
    return min(threads * columns.BAND_BYTES // NUMBER, layer.kernel**2 * c_in * images * h * w)
