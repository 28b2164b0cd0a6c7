r"""What a forward pass or a training step of an FCN-8s should cost on a CPU, counted from its shapes.

    seconds = products / peak + transforms / rate + passes / cache + traffic / memory + fixed

The numbers of the machine are measured (`tinyfcn.bench.scaling`): operations a second in a large product of matrices, and in
products with Winograd's 6x6 ones, which are too narrow for that peak; bytes a second that a copy moves in a thread's cache, in
pieces as large and strides as wide as the convolutions', and in memory; and what a net takes that is too small to compute
anything. The counts follow from the code, and no number is fitted to times. But they were not made blindly: where a time was far
off, the code was read again, and what the count had missed was added.

**Products.** A convolution of c channels to d on P pixels by a k x k kernel takes 2 k^2 c d P operations, and so does each of its
two gradients. Taps leave out those with the padding; Winograd's method takes 2 x 36 c d for a tile of 16 pixels. Bilinear
upsampling of a map from h x w to H x W takes 2 (h W b + H W b'), where a band of outputs meets b columns, or b' rows.

**Transforms**, for each tile and channel: along columns, then along rows, where neighbours share the first

    of a 6x6 patch, B^T d B     2 x 6 x 6 x 4 + 2 x 6 x 6 x 6 = 720 operations; forward of x, backward of dy
    of a 4x4 patch, A d A^T     2 x 6 x 4 x 4 + 2 x 6 x 4 x 6 = 480; backward of x
    of outputs, A^T m A         2 x 4 x 6 x 6 + 2 x 4 x 6 x 4 = 480; y, and dx
    of a kernel, G g G^T        2 x 36 x 9 = 648, once, and of its gradient

Where there are few tiles, threads share the channels, and each of them transforms the 6x6 patches anew.

**Passes** are the numbers that anything but a transform reads or writes in the cache, **traffic** those in memory.

                                passes                                                   traffic
    a patch                     16 written                                               16 of the map
    product of a tile           36 of each factor but the kernels, 36 of the result
    outputs                     16 read; 32 for ReLU                                     16 of the map
    a kernel                                                                             9 gathered (3), 36; in each block of
                                                                                         tiles 36 read, packed and read
    its gradient                                                                         36 for the first block, 4 x 36 for
                                                                                         another; 45 for the way back
    columns                     k^2 c P written, read, packed if k > 1; of dx 4, added
    taps                        where one meets a pixel: forward 2 c copied, 4 d added;
                                backward 2 c and 2 d copied, 4 c added
    columns and taps            bias 2 d P, ReLU 2 d P                                   x, y, weights 3 times
    gate, gradient of biases    1.5 for each entry of y; without a ReLU 1                dy; y, and the gated dy
    pooling                     2 for each output and tap; backward 4                    x, y; backward dx, dy too
    loss                        10, of which exp takes six                               in upsampling's: scores written and read,
                                                                                         and their gradient
    update                      10 for momentum, 24 for Adam                             3, and 2 for each moment

**Memory** is what the bare process holds, the parameters and their moments, the batch, and what is most of: forward, a layer's
input and output beside the pooled maps so far, which the skips want, or the scores; in training, where all outputs are kept for
the backward pass, scores and their gradient, or beside that gradient a layer's dy, gated dy, dx and dw, and all outputs up to its
own. And scratch: Winograd's two buffers of each thread, 36 numbers for each tile and channel, and spectra of kernels; columns of
a band; or taps' copies and sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from types import ModuleType
from typing import NamedTuple

import numpy as np

from tinyfcn.backend import Array, empty_hwnc
from tinyfcn.models import FCN8s
from tinyfcn.models.parts import paddings
from tinyfcn.models.vgg import VGG
from tinyfcn.ops import columns, conv2d, taps, tiles, upsample, winograd
from tinyfcn.ops.conv import Geometry

Shape = tuple[int, ...]
Weights = Mapping[str, Shape]
Cost = Array  # how many of these four

PRODUCTS, TRANSFORMS, PASSES, TRAFFIC = np.eye(4)
NUMBER = 4  # bytes
BY_TAPS = "fc6"  # whose weights lie in memory tap by tap, see `tinyfcn.models.parts.FCN`

# Winograd's, for each tile and channel; for each pair of channels and tile, block or kernel
PATCH_6 = 720 * TRANSFORMS + (16 + 36) * PASSES + 16 * TRAFFIC
PATCH_4 = 480 * TRANSFORMS + (16 + 36) * PASSES + 16 * TRAFFIC
OUTPUT = 480 * TRANSFORMS + (36 + 16) * PASSES + 16 * TRAFFIC
TILE, BLOCK, KERNEL = 2 * 36 * PRODUCTS, 3 * 36 * TRAFFIC, 648 * TRANSFORMS + (3 * 9 + 36) * TRAFFIC

LOSS = 10 * PASSES
UPDATES = {1: 10 * PASSES + 5 * TRAFFIC, 2: 24 * PASSES + 7 * TRAFFIC}  # by moments


class Machine(NamedTuple):
    """What a machine was measured to do with a number of threads."""

    peak: float  # operations a second
    rate: float  # ... of transforms
    cache: float  # bytes a second
    memory: float  # ... of large arrays

    def seconds(self, cost: Cost) -> float:
        return float(cost @ (1 / self.peak, 1 / self.rate, NUMBER / self.cache, NUMBER / self.memory))


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


class Layer(NamedTuple):
    """A convolution with the shapes (N, C, H, W) of its maps; with a kernel of 0, a pooling."""

    name: str
    inputs: Shape
    outputs: Shape
    kernel: int = 0
    padding: int = 0
    relu: bool = False

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Channels in and out, and numbers of x and of y."""
        return self.inputs[1], self.outputs[1], prod(self.inputs), prod(self.outputs)

    @property
    def weights(self) -> Shape:
        return self.outputs[1], self.inputs[1], self.kernel, self.kernel

    @property
    def geometry(self) -> Geometry:
        return Geometry((self.kernel, self.kernel), (1, 1), (self.padding, self.padding), (1, 1))

    @property
    def way(self) -> ModuleType:
        """The module of `tinyfcn.ops` that computes it."""
        weight = empty_hwnc(np, self.weights, np.float32) if self.name == BY_TAPS else np.empty(self.weights, np.float32)
        return conv2d.choose(_stand_in(self.inputs), weight, self.geometry, (self.outputs[2], self.outputs[3]))


def _stand_in(shape: Shape) -> np.ndarray:
    """An array of this shape that takes no memory."""
    return np.broadcast_to(np.float32(0), shape)


def layers(weights: Weights, shape: Shape) -> Iterator[Layer]:
    """The layers of an FCN-8s with padding "same" up to its scores, in order, for images of this shape."""
    first, fc6_padding = paddings(VGG, "same")
    here, pools = shape, {}

    def conv(name: str, kernel: int, padding: int) -> Layer:
        h, w = (side + 2 * padding - kernel + 1 for side in here[2:])
        outputs = here[0], weights[f"{name}.weight"][0], h, w
        return Layer(name, here, outputs, kernel, padding, relu=name not in ("score_fr", *FCN8s.skips))

    for number, _, convs in VGG.padded(first):
        for c in convs:
            yield (layer := conv(c.name, c.kernel, c.padding))
            here = layer.outputs
        yield (layer := Layer(f"pool{number}", here, (*here[:2], -(-here[2] // 2), -(-here[3] // 2))))
        here = pools[number] = layer.outputs
    for name, kernel, padding in ("fc6", VGG.fc6, fc6_padding), ("fc7", 1, 0), ("score_fr", 1, 0):
        yield (layer := conv(name, kernel, padding))
        here = layer.outputs
    for name, pool in FCN8s.skips.items():
        here = pools[pool]
        yield conv(name, 1, 0)


def forward(layer: Layer, threads: int) -> Cost:
    c, d, x, y = layer.sizes
    if not layer.kernel:
        return (x + y) * TRAFFIC + 8 * y * PASSES
    if layer.way is winograd:
        count = _tiles(layer.outputs)
        apart = threads if winograd.share_filters(count, d) else 1  # who transforms the same patches
        blocks = len(_blocks(layer, layer.outputs, threads // apart))
        every_tile = apart * c * PATCH_6 + c * d * TILE + d * (OUTPUT + 32 * layer.relu * PASSES)
        return count * every_tile + c * d * (KERNEL + blocks * BLOCK)
    cost = (x + y + 3 * prod(layer.weights)) * TRAFFIC + 2 * (1 + layer.relu) * y * PASSES
    if layer.way is taps:
        return cost + _met(layer) * (2 * c * d * PRODUCTS + (2 * c + 4 * d) * PASSES)
    return cost + _columns(layer) * (2 * d * PRODUCTS + 3 * (layer.kernel > 1) * PASSES)


def backward(layer: Layer, threads: int, need_dx: bool = True) -> Cost:
    c, d, x, y = layer.sizes
    if not layer.kernel:
        return 2 * (x + y) * TRAFFIC + 16 * y * PASSES
    gate = y * (TRAFFIC + PASSES + layer.relu * (2 * TRAFFIC + 0.5 * PASSES))
    if layer.way is winograd:
        count = _tiles(layer.inputs)
        apart = threads if winograd.share_channels(count, c, d) else 1
        blocks = len(_blocks(layer, layer.inputs, threads // apart))
        dw = count * (apart * d * PATCH_6 + c * PATCH_4 + c * d * TILE)
        dw += c * d * (648 * TRANSFORMS + (36 + 4 * 36 * (blocks - 1) + 45) * TRAFFIC)
        dx = count * (36 * d * PASSES + c * d * TILE + c * OUTPUT) + c * d * (KERNEL + blocks * BLOCK)
        return gate + dw + need_dx * dx
    both = (x + y + 3 * prod(layer.weights)) * TRAFFIC
    if layer.way is taps:
        dw = both + _met(layer) * (2 * c * d * PRODUCTS + 2 * (c + d) * PASSES)
        dx = both + _met(layer) * (2 * c * d * PRODUCTS + 4 * c * PASSES)
    else:
        dw = both + _columns(layer) * (2 * d * PRODUCTS + 3 * (layer.kernel > 1) * PASSES)
        dx = both + _columns(layer) * (2 * d * PRODUCTS + 4 * PASSES)
    return gate + dw + need_dx * dx


def _tiles(shape: Shape) -> int:
    n, _, *size = shape
    return tiles.count(n, (size[0], size[1]))


def _blocks(layer: Layer, shape: Shape, threads: int) -> list[tiles.Block]:
    return tiles.blocks(_stand_in(shape), max(layer.sizes[:2]), threads)


def _met(layer: Layer) -> int:
    """How often a tap meets a pixel of the map."""
    met = taps.meetings(_stand_in(layer.inputs), layer.weights, layer.geometry, _stand_in(layer.outputs))
    return layer.inputs[0] * sum(_area(inputs) for *_, inputs in met)


def _area(window: tuple[slice, slice]) -> int:
    return prod(axis.stop - axis.start for axis in window)


def _columns(layer: Layer) -> int:
    """Entries of the columns."""
    c_in, c_out, _, y = layer.sizes
    return layer.kernel**2 * c_in * y // c_out


def upsampling(low: Shape, high: Shape) -> Cost:
    """From scores (N, C, h, w) to those of the image, (N, C, H, W), or, as many, backward."""
    (n, classes, h, w), (*_, height, width) = low, high
    down, across = (min(side / -(-side // upsample.BAND) + 2, side) for side in (h, w))  # pixels that a band meets
    return n * classes * (2 * (h * width * across + height * width * down) * PRODUCTS + 2 * height * width * TRAFFIC)


def network(weights: Weights, shape: Shape, threads: int, moments: int | None = None) -> Cost:
    """A forward pass of images (N, 3, H, W) on so many threads, or a step with an optimiser that keeps so many moments."""
    first, *_, last = every = list(layers(weights, shape))
    scores = *last.outputs[:2], *shape[2:]
    cost = upsampling(last.outputs, scores) + sum(forward(layer, threads) for layer in every)
    if moments is None:
        return cost
    gradients = upsampling(last.outputs, scores) + sum(backward(layer, threads, layer is not first) for layer in every)
    return cost + prod(scores) * LOSS + gradients + sum(map(prod, weights.values())) * UPDATES[moments]


def memory(weights: Weights, shape: Shape, threads: int, moments: int | None = None) -> int:
    """The peak, in bytes, beside what the bare process holds; see `network`."""
    first, *_, last = every = list(layers(weights, shape))
    scores, pixels, training = shape[0] * last.outputs[1] * prod(shape[2:]), shape[0] * prod(shape[2:]), moments is not None
    held, most = scores * training, 0
    for layer in every:
        *_, x, y = layer.sizes
        here = y + (0 if layer is first else x) + _scratch(layer, threads, training)  # the image is there in any case
        if training:
            held += y
            here += layer.relu * y + prod(layer.weights)
        most = max(most, held + here)
        if not training and not layer.kernel:
            held += y
    parameters = sum(map(prod, weights.values())) * (1 + (moments or 0))
    return int(NUMBER * (parameters + max(most, held + scores) + 3 * pixels) + pixels)


def _scratch(layer: Layer, threads: int, training: bool) -> int:
    """Numbers that a layer holds beside its maps and their gradients, at most."""
    c, d, x, y = layer.sizes
    if not layer.kernel:
        return 0
    if layer.way is winograd:
        blocks = _blocks(layer, layer.outputs, threads)
        busy, tiles_in_block = min(threads, len(blocks)), layer.inputs[0] * max(map(_area, blocks))
        buffers = 2 * 36 * tiles_in_block * (c + d if training else max(c, d))
        return busy * buffers + 36 * c * d * (1 + 2 * busy * training)
    if layer.way is taps:
        copied = 0 if layer.name == BY_TAPS else prod(layer.weights)
        return copied + (threads * (3 * x + y) if training else threads * x + 2 * y)
    band = max(columns.BAND_BYTES // NUMBER, columns.BAND_COLUMNS * prod(layer.weights) // d)
    return min(threads * band, _columns(layer)) * (layer.kernel > 1)
