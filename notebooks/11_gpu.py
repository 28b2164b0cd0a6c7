# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11. A GPU on paper
#
# Lowering memory and raising speed on a GPU can be designed before there is one: from the bytes that the
# operations move, and the arithmetic that they do.
#
# You will be able to
#
# - say for any operation whether a GPU's arithmetic, its memory or the launching of kernels will limit
#   it,
# - predict how long FCN-8s takes on a GPU, and how much memory,
# - say which changes to the code would pay there, and which would not,
# - check all of it with one command on a real one.
#
# Takes about 45 minutes. Builds on [Speed](10_speed.ipynb): you should have met im2col, bands, and
# Winograd's convolution with its tiles and spectra. Neither a GPU nor CUDA is needed.
#
# On a GPU the package runs on CuPy, which has NumPy's functions for arrays in a GPU's memory. Nearly
# every call of such a function starts one program there, or several.
#
# **Nothing here has been measured on a GPU.** All times are predictions, computed from data sheets and
# from the package's own source. Section 7 is a table to hold the first real run against.

# %% tags=["setup"]
import os
from collections import defaultdict
from math import ceil, prod
from typing import NamedTuple
from unittest import mock

import ghosts
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display
from lesson import BLUE, GREEN, ORANGE, PINK, RED, SKY, attempt, show_source

from tinyfcn import ops, parallel
from tinyfcn.backend import empty_hwnc
from tinyfcn.bench.contenders import CLASSES, arithmetic, map_sizes
from tinyfcn.models import FCN8s
from tinyfcn.ops import winograd
from tinyfcn.optim import SGD
from tinyfcn.training import train_step

MS, GB = 1e-3, 1e9


def table(heading, *rows):
    """Show rows of text as a table; the first column is left-aligned."""
    lines = [heading, [":--", *["--:"] * (len(heading) - 1)], *rows]
    display(Markdown("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)))


# %% [markdown]
# ## 1. The roofline
#
# A **kernel** is one program on the GPU. (The kernels of a convolution are called filters here.) It
# moves some bytes between the device's memory and its processors, and does some arithmetic on them. The
# quotient is its **arithmetic intensity**, in floating-point operations (FLOP) a byte:
#
# $$ I = \frac{\text{FLOP}}{\text{bytes}} \qquad\qquad
#    \text{attainable FLOP/s} = \min(\text{peak},\; I \times \text{bandwidth}) $$
#
# That is the roofline model (Williams, Waterman and Patterson 2009). The two limits meet at the
# **ridge**, where $I = \text{peak} / \text{bandwidth}$: left of it the memory limits, right of it the
# arithmetic.
#
# Two devices, one large and one for the lap. FP32 is arithmetic in float32. TF32 is what tensor cores
# do: units for matrix products alone, which round the factors to 10 bits of mantissa first.


# %% tags=["setup"]
class Device(NamedTuple):
    name: str
    fp32: float  # FLOP/s outside the tensor cores
    tf32: float  # FLOP/s in the tensor cores, dense
    bandwidth: float  # bytes/s
    memory: float  # bytes

    @property
    def ridge(self):
        """FLOP a byte from which on float32 arithmetic limits."""
        return self.fp32 / self.bandwidth


H100 = Device("H100 SXM", 67e12, 989.4e12 / 2, 3.35e12, 80e9)
LAPTOP = Device("RTX 4060 Laptop", 2 * 3072 * 2.37e9, 2 * 3072 * 2.37e9, 16e9 * 128 / 8, 8e9)
DEVICES = H100, LAPTOP

table(
    ["", "FP32", "TF32, dense", "memory bandwidth", "memory", "ridge (FP32)"],
    *(
        [
            d.name,
            f"{d.fp32 / 1e12:.1f} TFLOP/s",
            f"{d.tf32 / 1e12:.1f} TFLOP/s",
            f"{d.bandwidth / 1e9:,.0f} GB/s",
            f"{d.memory / 1e9:.0f} GB",
            f"{d.ridge:.0f} FLOP/byte",
        ]
        for d in DEVICES
    ),
)
assert round(H100.ridge) == 20 and round(LAPTOP.ridge) == 57 and LAPTOP.bandwidth == 256e9

# %% [markdown]
# Where the numbers come from:
#
# - H100 SXM: NVIDIA's data sheet, as repeated by
#   [HPCTech](https://archive-lib.hpctech.co.jp/gpuproduct/nvidia-h100.html): 67 TFLOP/s, 989 TFLOP/s in
#   TF32 *with sparsity*, half of it without, 3,350 GB/s, 80 GB. [Lockwood's
#   notes](https://glennklockwood.com/garden/processors/h100), after NVIDIA's whitepaper, have 66.9,
#   494.7 and 989.4. These were not compared with NVIDIA's own pages.
# - RTX 4060 Laptop: 3,072 cores, 2.37 GHz at 115 W, 16 Gbit/s on each of 128 lines, 8 GB, after
#   [data-check.eu](https://data-check.eu/en/nvidia-geforce-rtx-4060-laptop-gpu/). A core does a
#   multiplication and an addition a cycle: 14.6 TFLOP/s. **At the lowest power limit, 1.47 GHz, it is
#   9.0.**
# - That its tensor cores are no faster in TF32 than its other cores in FP32 is how cards of its
#   generation are said to be built. This was **not checked**.
#
# A third limit is not in the roofline: somebody has to start the kernels. CuPy's
# [guide](https://docs.cupy.dev/en/v9.6.0/user_guide/performance.html) times `sqrt(sum(a**2))`, three
# kernels, at 44 µs of the *processor's* time, 15 µs each; [an older
# machine](https://github.com/numba/numba/issues/3003) took 25 µs. And the device itself needs a few µs
# for a kernel, however small.
#
# Nothing reaches its data sheet, either. So here is what we assume, with a range. These numbers are
# **assumptions**, the few µs among them; change them and run the notebook again.


# %%
class Assumptions(NamedTuple):
    arithmetic: float  # share of the peak that matrix products reach
    bandwidth: float  # share of the bandwidth that kernels reach
    host: float  # seconds that the processor takes for a launch
    least: float  # seconds that the device takes for a kernel at least


EXPECTED = Assumptions(arithmetic=0.7, bandwidth=0.8, host=15e-6, least=5e-6)
BEST = Assumptions(arithmetic=1.0, bandwidth=1.0, host=10e-6, least=2e-6)
WORST = Assumptions(arithmetic=0.4, bandwidth=0.6, host=30e-6, least=5e-6)

# %% [markdown]
# ## 2. Which kernels, how many bytes?
#
# We need the list of kernels of a forward pass and of a training step: for each, its bytes and its FLOP.
# Counting by hand goes wrong. So we let the package tell: we run its own source, at full size, on
# **ghosts**: arrays that have a shape, strides and a type, but no numbers. `notebooks/ghosts.py` puts
# such a module in CuPy's place, and notes what CuPy would launch. Its docstring says by which rules; the
# ones for matrix products are those of CuPy's source. A whole training step takes less than a second,
# whatever its size.
#
# What is counted is this package's algorithm as it is written, with every scratch array, and without
# dropout.


# %%
class Case(NamedTuple):
    title: str
    shape: tuple[int, ...]
    width: float
    padding: str


class Run(NamedTuple):
    forward: list  # of kernels
    step: list  # likewise
    held: int  # bytes of parameters
    kept: int  # bytes that the forward pass in training leaves for the backward pass, scores included
    peak: dict  # bytes at the most
    peak_at: str


def ghost_net(xp, case):
    """An FCN-8s whose parameters are ghosts of the right shapes (drawing 134 million random numbers would take longer)."""
    net = FCN8s(CLASSES, 1 / 64, case.padding, dropout=0.0, xp=xp)
    shapes = FCN8s.shapes(CLASSES, case.width)
    for name, old in net.params.items():
        by_pixels = not old.flags.c_contiguous  # a padded fc6 lies tap by tap
        net.params[name] = empty_hwnc(xp, shapes[name], np.float32) if by_pixels else xp.empty(shapes[name], np.float32)
    return net


def run(case, training=True, threads=1):
    with mock.patch.dict(os.environ, TINYFCN_THREADS=str(threads)), ghosts.trace() as trace:
        net, optimiser = ghost_net(trace.xp, case), SGD(1e-6)
        n, _, h, w = case.shape
        x, labels = trace.xp.empty(case.shape, np.float32), trace.xp.empty((n, h, w), np.uint8)
        held = sum(p.nbytes for p in net.params.values())
        optimiser.begin(net.params)  # the momentum, all zeros at first
        winograd.matrices(trace.xp, np.dtype(np.float32))  # three small constants, which go to the device once
        trace.kernels, trace.peak, before = [], 0, trace.live
        scores = net.forward(x)
        assert scores.shape == (n, CLASSES, h, w)
        forward, peak = list(trace.kernels), {"forward": trace.peak}
        del scores
        if not training:
            return Run(forward, [], held, 0, peak, "")
        scores = net.forward(x, training=True)
        kept = trace.live - before
        del scores
        net.start(x, False)  # forget it
        trace.kernels, trace.peak = [], 0
        train_step(net, optimiser, x, labels)
        return Run(forward, trace.kernels, held, kept, peak | {"step": trace.peak}, trace.peak_at)


PAPER = Case("1 image of 500x500, width 1, padding 100", (1, 3, 500, 500), 1.0, "paper")
SMALL = Case("8 images of 128x128, width 1/4, padding same", (8, 3, 128, 128), 0.25, "same")
CASES = PAPER, SMALL
RUNS = {case: run(case) for case in CASES}

table(
    ["", "kernels, forward", "GB moved", "GFLOP done", "kernels, training step", "GB moved", "GFLOP done"],
    *(
        [case.title]
        + [
            f"{value:,.{digits}f}"
            for kernels in RUNS[case][:2]
            for value, digits in (
                (len(kernels), 0),
                (sum(k.bytes for k in kernels) / GB, 1),
                (sum(k.flops for k in kernels) / 1e9, 0),
            )
        ]
        for case in CASES
    ),
)

# %% [markdown]
# By layer, and by what is done: bytes in MB, arithmetic in GFLOP. Backward passes that have no weights
# (pooling, upsampling) stand under "input gradient".

# %% tags=["hide-input"]
COLUMNS = {"forward": "forward", "weight gradient": "weight gradient", "update": "SGD"}


def by_layer(case):
    sums = defaultdict(lambda: np.zeros(2))
    for kernel in RUNS[case].step:
        layer, phase = kernel.layer.split(".")[0], COLUMNS.get(kernel.phase, "input gradient")
        sums[layer, phase] += kernel.bytes / 1e6, kernel.flops / 1e9
    phases = "forward", "input gradient", "weight gradient", "SGD"
    table(
        [case.title, *(f"{phase}: {unit}" for phase in phases for unit in ("MB", "GFLOP"))],
        *(
            [layer, *(f"{value:,.2f}" if value else "" for phase in phases for value in sums.get((layer, phase), (0, 0)))]
            for layer in dict.fromkeys(layer for layer, _ in sums)
        ),
    )


for case in CASES:
    by_layer(case)

# %% tags=["hide-input"]
NAMES = {
    "_cut_tiles": "Winograd: cut tiles",
    "_along_first_axis": "Winograd: transform, axis 1",
    "spectra": "Winograd: transform, axis 2",
    "kernel_spectra": "Winograd: filters",
    "correlate": "Winograd: products, inverse",
    "write": "Winograd: products, inverse",
    "gradient_of_filters": "Winograd: products of dW",
    "im2col": "im2col",
    "_patch": "im2col",
    "col2im": "col2im",
    "forward": "products of fc6, fc7, scores, conv1_1",
    "max_pool2d_forward": "pooling",
    "max_pool2d_backward": "pooling, backward",
    "softmax_cross_entropy_forward": "loss and its gradient",
}


def part_of(kernel):
    """What a kernel belongs to, by the function that launched it."""
    if kernel.phase == "update":
        return "SGD"
    if kernel.what == "maximum" and kernel.function in ("write", "forward"):
        return "ReLU"
    if kernel.what in ("greater", "multiply") and kernel.function in ("_cut_tiles", "gated", "_gated"):
        return "ReLU's gate, backward"
    if kernel.layer.startswith("upscore"):
        return "upsampling"
    part = NAMES.get(kernel.function, "everything else")
    if part.startswith("Winograd") and (kernel.layer == "conv1_1" or not kernel.layer.startswith("conv")):
        return "products of fc6, fc7, scores, conv1_1"
    return "products of fc6, fc7, scores, conv1_1" if part == "everything else" and kernel.product else part


def by_part(case):
    sums = defaultdict(lambda: np.zeros(3))
    for kernel in RUNS[case].step:
        sums[part_of(kernel)] += 1, kernel.bytes / 1e6, kernel.flops / 1e9
    table(
        [f"training step, {case.title}", "kernels", "MB", "GFLOP", "FLOP a byte"],
        *(
            [part, f"{count:,.0f}", f"{moved:,.1f}", f"{done:,.2f}", f"{1e3 * done / moved:.2f}"]
            for part, (count, moved, done) in sorted(sums.items(), key=lambda item: -item[1][1])
        ),
    )


for case in CASES:
    by_part(case)

# %% [markdown]
# ### Is the count right?
#
# Three checks that do not use the ghosts' rules.
#
# **A formula.** Winograd's F(4x4, 3x3) turns a tile of 4x4 outputs into 36 numbers a channel. So its 36
# products read and write $36\,T\,(C_{in} + C_{out})$ numbers for $T$ tiles, and read the filters'
# $36\,C_{in}\,C_{out}$ once a band, the part of a map that is worked on at a time.

# %%
shapes = FCN8s.shapes(CLASSES, PAPER.width)


def winograd_products(kernels, layer, phase="forward"):
    return [k for k in kernels if (k.layer, k.phase, k.batch) == (layer, phase, 36)]


for layer in ("conv4_2", "conv5_1"):
    found = winograd_products(RUNS[PAPER].forward, layer)
    h, w = map_sizes("paper", PAPER.shape[2:])[layer]
    c_out, c_in = shapes[f"{layer}.weight"][:2]
    tiles = ceil(h / 4) * ceil(w / 4)
    assert sum(k.bytes for k in found) == 4 * 36 * (tiles * (c_in + c_out) + len(found) * c_in * c_out)
    assert sum(k.flops for k in found) == 2 * 36 * tiles * c_in * c_out
    print(f"{layer}: {tiles} tiles, {sum(k.bytes for k in found) / 1e6:.1f} MB in {len(found)} x 36 products. As computed.")

# %% [markdown]
# **Real numbers.** The same operations on NumPy, on arrays that add up the sizes of what they are given.


# %%
class Counted(np.ndarray):
    """A NumPy array that counts the bytes that go in and out of its operations."""

    moved = 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **how):
        plain = [np.asarray(a) if isinstance(a, Counted) else a for a in inputs]
        result = getattr(ufunc, method)(*plain, out=tuple(map(np.asarray, out)) if out else None, **how)
        Counted.moved += sum(a.nbytes for a in plain if isinstance(a, np.ndarray)) + result.nbytes
        return out[0] if out else result.view(Counted)


def counted(work, *shapes):
    """Bytes that `work` moves, given arrays of these shapes: of numbers, and of ghosts."""
    rng = np.random.default_rng(0)
    Counted.moved = 0
    work(*(rng.standard_normal(shape, np.float32).view(Counted) for shape in shapes))
    with ghosts.trace() as trace:
        work(*(trace.xp.empty(shape, np.float32) for shape in shapes))
    return Counted.moved, sum(k.bytes for k in trace.kernels if k.what != "fill")  # NumPy's counter sees no zeros written


shape = (64, 32, 3, 3)
relu = counted(ops.relu_backward, shape, shape)
sgd = counted(lambda w, g: SGD(0.1).step({"conv.weight": w}, {"conv.weight": g}), shape, shape)
print(f"gradient of ReLU: {relu[0]:,} bytes on NumPy, {relu[1]:,} on ghosts, {relu[1] / prod(shape):g} for each number")
print(f"SGD:              {sgd[0]:,} bytes on NumPy, {sgd[1]:,} on ghosts, {sgd[1] / prod(shape):g} for each parameter")
assert relu[0] == relu[1] and sgd[0] == sgd[1]
assert relu[1] == (4 + 1 + 4 + 1 + 4) * prod(shape)  # y > 0: read y, write a byte; times: read dy and that byte, write dx
assert sgd[1] == 15 * 4 * prod(shape)

# %% [markdown]
# SGD reads and writes 15 numbers a parameter, where five would do (read $w$, $g$, $v$; write $v$, $w$).
# Each line of `chunk` is a kernel, or two with a temporary array between them:

# %%
show_source(SGD.begin)

# %% [markdown]
# **By definition.** A convolution done directly needs four times Winograd's multiplications. But fc6 and
# fc7 do no Winograd, so all of FCN-8s must lie between one and four:

# %%
direct = arithmetic(shapes, PAPER.padding, PAPER.shape)
ours = sum(k.flops for k in RUNS[PAPER].forward if k.product)
print(f"FCN-8s, {PAPER.title}: {direct / 1e9:.0f} GFLOP by definition, {ours / 1e9:.0f} in this package's products")
assert 2 < direct / ours < 4  # "about a third of the arithmetic", below

# %% [markdown]
# ## 3. Where does each layer lie under the roof?
#
# **Predict.** Divide GFLOP by GB in the table by layer: which layers lie right of the H100's ridge,
# which right of the laptop's? What limits the others?
#
# A device's time for a kernel is the longest of the three: arithmetic, traffic, and the least time. The
# processor launches the next one meanwhile, and if the device is faster than the processor, the device
# waits. `timeline` plays that through, for steps that follow one another, and says of each kernel's time
# what it was spent on. Waiting and the least time count as "launches".

# %%
WHY = "arithmetic", "memory", "launches"


def timeline(kernels, device, how=EXPECTED, peak=None, host=None):
    """Seconds of each kernel of a steady run, as an array (kernels, 3): spent on arithmetic, on memory, on launches."""
    peak = peak or (lambda kernel: device.fp32)
    host = how.host if host is None else host
    spent = np.zeros((len(kernels), 3))
    for k, kernel in enumerate(kernels):
        limits = kernel.flops / (how.arithmetic * peak(kernel)), kernel.bytes / (how.bandwidth * device.bandwidth), how.least
        spent[k, np.argmax(limits)] = max(limits)
    busy = spent.sum(1)
    launched = done = 0.0
    waits = np.zeros(len(kernels))
    for _ in range(3):  # the processor runs ahead, or the device waits: after a few steps it is always the same
        for k, seconds in enumerate(busy):
            launched += host
            waits[k] = max(launched - done, 0.0)
            done = max(launched, done) + seconds
    spent[:, 2] += waits
    return spent


def predict(kernels, device, how=EXPECTED, **options):
    """Seconds of a step."""
    return timeline(kernels, device, how, **options).sum()


table(
    ["predicted, expected (best to worst)", *(f"{d.name}: {what}" for d in DEVICES for what in ("forward", "training step"))],
    *(
        [case.title]
        + [
            f"{predict(kernels, d) / MS:.1f} ms ({predict(kernels, d, BEST) / MS:.1f} to {predict(kernels, d, WORST) / MS:.1f})"
            for d in DEVICES
            for kernels in RUNS[case][:2]
        ]
        for case in CASES
    ),
)

# %% tags=["hide-input"]
KINDS = {  # colour, marker, and which layers
    "3x3 convolutions (Winograd)": (BLUE, "o", lambda k: k.layer.startswith("conv") and k.layer != "conv1_1"),
    "conv1_1 (im2col)": (SKY, "s", lambda k: k.layer == "conv1_1"),
    "fc6, fc7, scores": (ORANGE, "^", lambda k: k.layer.startswith(("fc", "score"))),
    "pooling": (GREEN, "v", lambda k: k.layer.startswith("pool") and "." not in k.layer),
    "upsampling, loss": (PINK, "D", lambda k: k.layer.startswith("upscore") or k.layer == "loss"),
    "SGD": (RED, "X", lambda k: k.phase == "update"),
}
LABELS = {  # and by how many points its name lies off
    ("conv1_2", "forward"): (-40, -36),
    ("conv5_3", "forward"): (8, -34),
    ("fc6", "forward"): (-4, 30),
    ("pool1", "forward"): (-29, -20),
    ("loss", "forward"): (16, -26),
    ("upscore8", "forward"): (26, -14),
    ("SGD", "update"): (24, -8),
}


def kind_of(kernel):
    if kernel.phase == "update":
        return "SGD"
    return next((name for name, (_, _, chosen) in KINDS.items() if chosen(kernel)), None)


def points(kernels, device):
    """For each layer and phase: its kind, intensity, and predicted FLOP/s."""
    sums = defaultdict(lambda: np.zeros(3))
    kinds = {}
    for kernel, seconds in zip(kernels, timeline(kernels, device).sum(1), strict=True):
        key = ("SGD" if kernel.phase == "update" else kernel.layer), kernel.phase
        sums[key] += kernel.flops, kernel.bytes, seconds
        kinds[key] = kind_of(kernel)
    return [(key, kinds[key], f / b, f / s) for key, (f, b, s) in sums.items() if f and kinds[key]]


def draw_roof(axis, device):
    x = np.geomspace(0.02, 2000, 200)
    axis.plot(x, np.minimum(device.fp32, x * device.bandwidth) / 1e12, color="black", linewidth=1.8)
    axis.plot(x, np.minimum(device.tf32, x * device.bandwidth) / 1e12, ":", color="0.45", linewidth=1.2)
    axis.axvline(device.ridge, color="0.8", linewidth=1, zorder=0)
    axis.set(xscale="log", yscale="log", xlim=(0.02, 2000))
    axis.grid(alpha=0.25)


for case in CASES:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.8), sharey=True)
    for axis, device in zip(axes, DEVICES, strict=True):
        draw_roof(axis, device)
        for key, kind, x, y in points(RUNS[case].step, device):
            colour, marker, _ = KINDS[kind]
            filled = {"color": colour} if key[1] == "forward" or kind == "SGD" else {"edgecolor": colour, "facecolor": "none"}
            axis.scatter(x, y / 1e12, s=34, marker=marker, linewidth=1.2, zorder=3, **filled)
            if key in LABELS:
                line = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.7}
                axis.annotate(key[0], (x, y / 1e12), LABELS[key], textcoords="offset points", fontsize=9, arrowprops=line)
        axis.set(title=device.name, xlabel="FLOP a byte", ylim=(1e-4, 1e3))
        axis.text(0.45, 0.7 * device.bandwidth / 1e12, "bandwidth", rotation=36, fontsize=9, ha="center")
        for peak, what in {device.tf32: "TF32", device.fp32: "FP32"}.items():
            axis.text(1900, peak * 1.15 / 1e12, what, ha="right", fontsize=9)
    axes[0].set(ylabel="TFLOP/s, predicted")
    handles = [plt.Line2D([], [], color=c, marker=m, linestyle="", label=name) for name, (c, m, _) in KINDS.items()]
    handles.append(plt.Line2D([], [], color="black", marker="o", fillstyle="none", linestyle="", label="hollow: backward"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(f"Training step, {case.title}", fontsize=10)
    plt.show()

for device in DEVICES:
    beyond = {key[0] for key, _, x, _ in points(RUNS[PAPER].step, device) if x > device.ridge}
    print(f"{device.name}, {PAPER.title}: right of the ridge {', '.join(sorted(beyond))}")
    assert {"fc6", "fc7"} <= beyond <= {"fc6", "fc7", "upscore8"}

# %% [markdown]
# The black line is the roof, the dotted one the tensor cores' in TF32, the grey one the ridge. Nothing
# but fc6, fc7 and at most the last upsampling lies right of it.
#
# On the laptop the large case lies along the roof's slope: memory limits it. On the H100, and for the
# small case on both, many points lie **far below the roof**: not memory, and not arithmetic, but
# launches. The bars say it by layer ("constant border" repeats what [100 zeros make
# constant](10_speed.ipynb#What-100-zeros-make-constant)):


# %% tags=["hide-input"]
def group_of(kernel):
    """The row of the bar chart that a kernel belongs to."""
    if kernel.phase == "update":
        return "SGD"
    for start, name in (("score", "scores"), ("upscore", "upsampling"), ("pool", "pooling")):
        if kernel.layer.startswith(start):
            return "constant border" if "stretch" in kernel.layer else name
    return "scores" if kernel.layer == "skips" else kernel.layer


COLOURS = dict(zip(WHY, (ORANGE, BLUE, "0.75"), strict=True))

for case in CASES:
    kernels = RUNS[case].step
    names = list(dict.fromkeys(map(group_of, kernels)))
    figure, axes = plt.subplots(1, 2, figsize=(10, 5), sharey=True)
    for axis, device in zip(axes, DEVICES, strict=True):
        sums = {name: np.zeros(3) for name in names}
        for kernel, spent in zip(kernels, timeline(kernels, device), strict=True):
            sums[group_of(kernel)] += spent / MS
        left = np.zeros(len(names))
        for k, why in enumerate(WHY):
            values = np.array([sums[name][k] for name in names])
            axis.barh(names, values, left=left, color=COLOURS[why], label=why)
            left += values
        axis.set(title=f"{device.name}: {left.sum():.0f} ms", xlabel="ms a training step, predicted")
        axis.grid(alpha=0.25, axis="x")
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), title="spent on", loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"Training step, {case.title}", fontsize=10)
    plt.show()

# %%
shares = {(case, device): timeline(RUNS[case].step, device).sum(0) for case in CASES for device in DEVICES}
to_launch = {case: EXPECTED.host * len(RUNS[case].step) for case in CASES}
alone = {(case, device): predict(RUNS[case].step, device, host=0.0) for case, device in shares}
table(
    ["a training step", "ms", "launching alone", "device alone", *(f"spent on {why}" for why in WHY)],
    *(
        [f"{device.name}: {case.title}"]
        + [f"{value / MS:.1f}" for value in (spent.sum(), to_launch[case], alone[case, device])]
        + [f"{part:.0%}" for part in spent / spent.sum()]
        for (case, device), spent in shares.items()
    ),
)
for key in (PAPER, H100), (SMALL, H100), (SMALL, LAPTOP):
    assert alone[key] < to_launch[key[0]] and np.isclose(shares[key].sum(), to_launch[key[0]], rtol=0.02)
assert alone[PAPER, LAPTOP] > 3 * to_launch[PAPER]
assert shares[PAPER, LAPTOP][WHY.index("memory")] > 0.7 * shares[PAPER, LAPTOP].sum()
assert max(spent[WHY.index("arithmetic")] / spent.sum() for spent in shares.values()) < 0.25

# %% [markdown]
# - On the **H100** both cases wait for the processor, which cannot launch kernels as fast as the device
#   finishes them: a step takes as long as launching its kernels, 15 µs each. The device alone would be
#   done earlier, in a third of the time for the small case.
# - The **small case** takes as long on one device as on the other: the time is the processor's.
# - On the **laptop** the large case is limited by memory: nearly everything lies left of the ridge,
#   Winograd's transforms first of all.
# - Arithmetic, for which people buy a GPU, is less than a quarter everywhere.
#
# ## 4. Where do the launches come from?
#
# **Predict.** FCN-8s has 18 convolutions. How many kernels would you guess for one 3x3 convolution,
# forward?

# %%
kernels = RUNS[PAPER].step
parts = sorted(set(map(part_of, kernels)), key=lambda part: sum(part_of(k) == part for k in kernels))
figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), sharey=True)
for axis, amount in zip(axes, (lambda k: 1, lambda k: k.bytes / GB), strict=True):
    left = np.zeros(len(parts))
    for hidden, colour, label in (
        (False, BLUE, "written in the package"),
        (True, ORANGE, "copies and tables that CuPy makes for cuBLAS"),
    ):
        values = np.array([sum(amount(k) for k in kernels if part_of(k) == part and k.hidden == hidden) for part in parts])
        axis.barh(parts, values, left=left, color=colour, label=label)
        left += values
    axis.grid(alpha=0.25, axis="x")
axes[0].set(xlabel="kernels")
axes[1].set(xlabel="GB read and written")
figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
figure.suptitle(
    f"Training step, {PAPER.title}: {len(kernels):,} kernels, {sum(k.bytes for k in kernels) / GB:.0f} GB", fontsize=10
)
plt.show()

one = [k for k in RUNS[PAPER].forward if k.layer == "conv5_1"]
hidden = [k for k in kernels if k.hidden]
print(f"conv5_1 forward, in one band: {len(one)} kernels, {sum(k.hidden for k in one)} of them hidden")
hidden_bytes = sum(k.bytes for k in hidden) / sum(k.bytes for k in kernels)
print(f"hidden in a step: {len(hidden) / len(kernels):.0%} of the kernels, {hidden_bytes:.0%} of the bytes")
assert len(one) > 20 and 0.2 < len(hidden) / len(kernels) < 0.35

# %% [markdown]
# One call of `conv2d_forward` launches more than twenty kernels: the filters' spectra, zeros around the
# map, cut tiles, two transforms, the 36 products in one kernel, two transforms back, four columns of the
# tiles put in place.
#
# The orange part, "hidden", is nowhere in this package's source. NumPy multiplies matrices wherever they
# lie; CuPy hands cuBLAS, NVIDIA's library of matrix products, what is contiguous, and copies the rest
# before, and the result after. Winograd's transforms multiply along an axis in the middle, so they pay
# for it.
#
# ## 5. What would a change win?
#
# **Predict.** Order these by what they win on the H100, and again on the laptop: (a) larger bands, (b)
# SGD in one kernel, (c) hand-written im2col and pooling, (d) Winograd's transforms in one kernel each,
# (e) TF32, (f) cuDNN in place of it all.
#
# **(a) Larger bands.** Work is cut into bands for a processor's cache. On a GPU they are
# `parallel.GPU_TIMES` times as large, and there are not more of them where the processor has more
# threads. We count again with other factors:


# %%
def with_bands(case, times):
    with mock.patch.object(parallel, "GPU_TIMES", times):
        return run(case)


FACTORS = 1, 4, 16, 64, 256, 1024
banded = {(case, times): with_bands(case, times) for case in CASES for times in FACTORS}
larger = {case: banded[case, 4 * parallel.GPU_TIMES] for case in CASES}
assert run(PAPER, threads=16).step == RUNS[PAPER].step

figure, axes = plt.subplots(1, 3, figsize=(10, 3.4))
for case, marker in zip(CASES, "os", strict=True):
    short = "paper" if case is PAPER else "small"
    found = [banded[case, times] for times in FACTORS]
    axes[0].plot(FACTORS, [len(f.step) for f in found], marker=marker, label=short)
    for device, line in zip(DEVICES, ("-", "--"), strict=True):
        values = [predict(f.step, device) / MS for f in found]
        colour, label = BLUE if case is PAPER else ORANGE, f"{short}, {device.name}"
        axes[1].plot(FACTORS, values, line, marker=marker, color=colour, label=label)
    axes[2].plot(FACTORS, [f.peak["step"] / GB for f in found], marker=marker)
for axis, label in zip(axes, ("kernels a step", "ms a step, predicted", "GB at the most"), strict=True):
    axis.set(xscale="log", yscale="log" if axis is not axes[2] else "linear", xlabel="GPU_TIMES", ylabel=label)
    axis.set_xticks(FACTORS, map(str, FACTORS))
    axis.axvline(parallel.GPU_TIMES, color="0.8", linewidth=1, zorder=0)
    axis.grid(alpha=0.25)
    axis.minorticks_off()
for axis, ticks in zip(axes, ((2e3, 5e3, 1e4, 2e4, 5e4), (30, 50, 100, 200, 500)), strict=False):
    axis.set_yticks(ticks, [f"{tick:,.0f}" for tick in ticks])
axes[2].set_ylim(0, None)
figure.legend(
    *axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9, handlelength=4
)
plt.show()

steps = {times: predict(banded[PAPER, times].step, H100) for times in FACTORS}
assert parallel.GPU_TIMES == 64 and steps[1] > 10 * steps[64]
assert 0.05 < 1 - steps[256] / steps[64] < 0.15 and steps[1024] > 0.97 * steps[256]
assert 1.1 < larger[PAPER].peak["step"] / RUNS[PAPER].peak["step"] < 1.35

# %% [markdown]
# At 64 (the grey line) nearly all that bands cost is gone. Four times as much would win another tenth
# for the large case on the H100, but takes a quarter more memory; beyond that there is nothing left to
# win. (The small case's two lines lie on top of each other: its time is the processor's.)
#
# What this model does not see is the device's own cache: 50 MB on an H100. What a small band leaves
# there is read again without the memory, which speaks for smaller ones.
#
# **(b), (c), (d): fewer, fatter kernels.** Such kernels read each input once and write each output once.
# We replace the ones in the list:


# %%
def replaced(kernels, chosen, new):
    """The list with new(those of a layer and phase that are chosen) in the place of the first of each."""
    groups, places = defaultdict(list), []
    for kernel in kernels:
        if chosen(kernel):
            key = kernel.layer, kernel.phase
            if key not in groups:
                places.append(key)
            groups[key].append(kernel)
        else:
            places.append(kernel)
    return [k for place in places for k in (new(groups[place]) if place in groups else [place])]


def one_kernel(like, read, written, flops=0):
    return like._replace(what="fused", read=int(read), written=int(written), flops=flops, product=False, batch=0, hidden=False)


def fused_sgd(kernels, shapes):
    """w, g and v read, w and v written, in one kernel for each parameter."""

    def new(old):
        sizes = [prod(shapes[f"{old[0].layer}.{name}"]) for name in ("weight", "bias")]
        return [one_kernel(old[0], 12 * size, 8 * size, 7 * size) for size in sizes]

    return replaced(kernels, lambda k: k.phase == "update", new)


def fused_pooling(kernels, shapes):
    """Forward: four inputs read, one output written. Backward: x, y and dy read, dx written."""

    def new(old):
        if old[0].function == "max_pool2d_forward":
            outputs = sum(k.written for k in old if k.what == "fill")
            return [one_kernel(old[0], 4 * outputs, outputs)]
        inputs = sum(k.written for k in old if k.what == "multiply")
        return [one_kernel(old[0], (1 + 1 / 4 + 1 / 4) * inputs, inputs)]

    return replaced(kernels, lambda k: k.function.startswith("max_pool2d"), new)


def fused_im2col(kernels, shapes):
    """The input read once and the columns written; for col2im the other way round."""

    def new(old):
        taps = prod(shapes[f"{old[0].layer}.weight"][2:])
        columns = max(sum(k.written for k in old if k.what == what) for what in ("copy", "add"))
        back = any(k.function == "col2im" for k in old)
        return [one_kernel(old[0], *((columns, columns / taps) if back else (columns / taps, columns)))]

    return replaced(kernels, lambda k: k.function in ("im2col", "col2im", "_patch") and k.layer in ("conv1_1", "fc6"), new)


def fused_winograd(kernels, shapes):
    """Each transform in one kernel: 16 pixels of a tile read or written for 36 numbers, 9 of a weight."""

    def new(old):
        c_out, c_in = shapes[f"{old[0].layer}.weight"][:2]
        u = 4 * 36 * c_in * c_out
        if "weight" in old[0].phase:
            found = []
            for product in (k for k in old if k.batch == 36):  # dM^T V, for which x, dy and y (the gate) are read
                of_channel = product.read / (c_in + c_out)
                v, dm = c_in * of_channel, c_out * of_channel
                cut = one_kernel(product, v * 16 / 36, v, 5 * v)
                gated = one_kernel(product, 2 * dm * 16 / 36, dm, 5 * dm)
                found += [cut, gated, product]
            sums = [one_kernel(old[0], 2 * u, u, u / 4)] * (len(found) // 3 - 1)
            dweight = one_kernel(old[0], u, u * 9 / 36, 2 * 9 * u / 4)
            return [*found, *sums, dweight, one_kernel(old[0], dm / 36, 4 * c_out)]
        found = [one_kernel(old[0], u * 9 / 36, u, 2 * 9 * u / 4)]
        gates = 1 + (old[0].phase == "input gradient")
        for product in (k for k in old if k.batch == 36):
            v, m = product.read - u, product.written
            found += [one_kernel(product, gates * v * 16 / 36, v, 5 * v), product, one_kernel(product, m, m * 16 / 36, 5 * m)]
        return found

    def chosen(kernel):
        return kernel.layer.startswith("conv") and kernel.layer != "conv1_1" and kernel.phase != "update"

    return replaced(kernels, chosen, new)


def fused(kernels, shapes):
    for change in fused_sgd, fused_pooling, fused_im2col, fused_winograd:
        kernels = change(kernels, shapes)
    return kernels


shapes_of = {case: FCN8s.shapes(CLASSES, case.width) for case in CASES}
for case in CASES:  # Winograd's 36 products are all still there
    kept = sum(k.flops for k in fused(RUNS[case].step, shapes_of[case]) if k.batch == 36)
    assert kept == sum(k.flops for k in RUNS[case].step if k.batch == 36)
sgd_bytes = sum(k.bytes for k in fused_sgd(RUNS[PAPER].step, shapes_of[PAPER]) if k.phase == "update")
assert sgd_bytes == 5 * RUNS[PAPER].held

# %% [markdown]
# **(e) TF32.** `CUPY_TF32=1` lets cuBLAS round the factors to 10 bits of mantissa and use the tensor
# cores. In CuPy's source it is asked for in products of two matrices; in batches, such as Winograd's 36,
# it is not. We predict both: as it is, and as if batches obeyed too. (Rounding matters more in
# Winograd's method than elsewhere: its large values cancel.)
#
# **(f) cuDNN.** NVIDIA's library for nets, which PyTorch calls: each convolution and each gradient is
# one kernel that reads its two arrays once and writes the third. We count a direct convolution, one
# kernel for bias and ReLU, 10 µs for a launch by PyTorch, all of the padded border (PyTorch does not
# know that it is constant), the fused SGD, and for the rest as much as here with fused pooling.
#
# **(g) Nothing hidden.** The list without the copies and tables that CuPy makes for cuBLAS: the most
# that another order of the arrays could win.
#
# **(h) A CUDA graph.** CuPy can record the kernels of a step once, and launch them all with one call.
# Then the processor is out of the way, and we assume 1 µs a kernel. (Numbers such as the learning rate
# would have to lie in the device's memory.)


# %%
def cudnn(case, kernels, training):
    shapes, n = shapes_of[case], case.shape[0]
    rest = [k for k in fused(kernels, shapes) if not k.layer.startswith(("conv", "fc", "score")) and "stretch" not in k.layer]
    found = [k for k in rest if k.phase != "update"]
    like = kernels[0]
    for layer, (h, w) in map_sizes(case.padding, case.shape[2:]).items():
        weight = shapes[f"{layer}.weight"]
        x, y, size = 4 * n * weight[1] * h * w, 4 * n * weight[0] * h * w, 4 * prod(weight)
        flops = 2 * prod(weight) * n * h * w
        product = like._replace(what="cudnn", layer=layer, product=True, batch=1, flops=flops)
        found += [product._replace(read=x + size, written=y), one_kernel(like, y, y, y // 4)]
        if training:
            found += [
                one_kernel(like, 2 * y, y, y // 4),
                one_kernel(like, y, 0, y // 4),
                product._replace(read=x + y, written=size),
            ]
            if layer != "conv1_1":
                found.append(product._replace(read=y + size, written=x))
    return found + ([k for k in fused_sgd(kernels, shapes) if k.phase == "update"] if training else [])


GRAPH = EXPECTED._replace(least=1e-6)


def changes(case, device, which="step"):
    """Predicted seconds for each change."""
    now, shapes = getattr(RUNS[case], which), shapes_of[case]
    products = {"peak": lambda k: device.tf32 if k.product else device.fp32}
    pairs = {"peak": lambda k: device.tf32 if k.product and k.batch == 1 else device.fp32}
    library = cudnn(case, now, which == "step")
    every = fused(now, shapes)
    return {
        "as it is": predict(now, device),
        "(a) bands four times as large": predict(getattr(larger[case], which), device),
        "(b) SGD in one kernel": predict(fused_sgd(now, shapes), device),
        "(c) im2col and pooling in one kernel": predict(fused_im2col(fused_pooling(now, shapes), shapes), device),
        "(d) Winograd's transforms in one kernel": predict(fused_winograd(now, shapes), device),
        "(e) TF32 as CuPy does it": predict(now, device, **pairs),
        "(e) TF32 in all products": predict(now, device, **products),
        "(g) nothing hidden": predict([k for k in now if not k.hidden], device),
        "(h) CUDA graph": predict(now, device, GRAPH, host=0.0),
        "(b) (c) (d)": predict(every, device),
        "(b) (c) (d) (h)": predict(every, device, GRAPH, host=0.0),
        "(b) (c) (d) (h), TF32 in all products": predict(every, device, GRAPH, host=0.0, **products),
        "(f) cuDNN, float32": predict(library, device, host=10e-6),
        "(f) cuDNN, TF32": predict(library, device, host=10e-6, **products),
    }


CHANGES = {(case, device): changes(case, device) for case in CASES for device in DEVICES}
names = list(next(iter(CHANGES.values())))
figure, axes = plt.subplots(1, 4, figsize=(11, 4.6), sharey=True)
for axis, ((case, device), found) in zip(axes, CHANGES.items(), strict=True):
    values = [found[name] / MS for name in names]
    colours = ["0.4", *[BLUE] * 8, *[GREEN] * 3, *[ORANGE] * 2]
    axis.barh(names, values, color=colours)
    for y, value in enumerate(values):
        axis.text(value, y, f" {value:.3g}", va="center", fontsize=9, zorder=5)
    axis.set(title=f"{device.name},\n{'500x500' if case is PAPER else '8 of 128x128'}", xlabel="ms a step")
    axis.title.set_fontsize(9)
    axis.set_xlim(0, 1.3 * max(values))
axes[0].invert_yaxis()
colours = "Grey: as it is; blue: one change; green: several; orange: another library"
figure.suptitle(f"A training step, predicted. {colours}", fontsize=10)
plt.show()

# %%
table(
    ["training step, predicted ms", *(f"{d.name}, {'500x500' if c is PAPER else '8 of 128x128'}" for c, d in CHANGES)],
    *([name, *(f"{found[name] / MS:.1f}" for found in CHANGES.values())] for name in names),
)

# %% [markdown]
# What pays, then:

# %%
own = [name for name in names if name.count("(") == 1 and name[:3] in ("(a)", "(b)", "(c)", "(d)", "(e)", "(g)")]
for (case, device), found in CHANGES.items():
    best = min(own, key=found.get)
    assert best.startswith("(d)") and found["as it is"] / found[best] > 1.7
    print(f"{device.name}, {case.title}: {best}, {found['as it is'] / found[best]:.1f} times as fast")

winograds = [k for k in RUNS[PAPER].step if part_of(k).startswith("Winograd") and k.batch != 36]
of_kernels = len(winograds) / len(RUNS[PAPER].step)
of_bytes = sum(k.bytes for k in winograds) / sum(k.bytes for k in RUNS[PAPER].step)
print(f"Winograd without its 36 products: {of_kernels:.0%} of the kernels, {of_bytes:.0%} of the bytes, {PAPER.title}")
assert of_kernels > 0.5 and of_bytes > 0.5

h100, laptop, small, small_laptop = (CHANGES[c, d] for c in CASES for d in DEVICES)
assert 0.05 < 1 - h100["(a) bands four times as large"] / h100["as it is"] < 0.15
assert all(f["(a) bands four times as large"] > 0.98 * f["as it is"] for f in (laptop, small, small_laptop))
assert h100["(e) TF32 in all products"] > 0.9 * h100["as it is"]  # the processor's launches hide the arithmetic
assert h100["(b) (c) (d) (h)"] / h100["(b) (c) (d) (h), TF32 in all products"] > 1.5  # until they are out of the way
for found in h100, laptop:
    assert found["(b) (c) (d) (h)"] < 0.8 * found["(f) cuDNN, float32"] < 0.8 * found["as it is"]
assert 0.8 < h100["(b) (c) (d) (h), TF32 in all products"] / h100["(f) cuDNN, TF32"] < 1.25
assert small_laptop["(f) cuDNN, float32"] < small_laptop["(b) (c) (d) (h)"]
assert small["as it is"] / small["(h) CUDA graph"] > 8
assert small["(h) CUDA graph"] < min(map(small.get, own))

# %% [markdown]
# - **Winograd's transforms (d)** win the most among the package's own kernels, a factor of about two on
#   either device: they are more than half of the launches *and* of the bytes.
# - **Larger bands (a)** are nearly used up: another tenth on the H100 for large images, nothing
#   elsewhere, and it costs memory.
# - **SGD in one kernel (b)** moves a third of the bytes. It is three lines with `cupy.fuse` or
#   `cupy.ElementwiseKernel`.
# - **TF32 (e)** wins nothing on the H100 as long as the processor's launches hide the arithmetic. After
#   (b), (c), (d) and (h) it would nearly double the speed.
# - **cuDNN (f)** in float32 would beat the package as it is, but for large images not its algorithm:
#   with fused transforms, Winograd and the constant border need about a third of the arithmetic. In TF32
#   the tensor cores even that out. With a quarter of the channels, in the small case, there is less
#   arithmetic to save, and Winograd's spectra are moved all the same: there cuDNN stays ahead on the
#   laptop.
# - For **small steps** on the H100 nothing else matters than the number of launches: a graph (h) alone
#   makes them ten times as fast, more than any change to a kernel.
#
# ## 6. Memory
#
# **Predict.** The parameters take 0.54 GB. How much does a training step take at its worst moment: 1, 2,
# 4 or 8 GB?

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 2.4), sharey=True)
for axis, case, title in zip(axes, CASES, ("500x500, width 1", "8 of 128x128, width 1/4"), strict=True):
    r = RUNS[case]
    rows = {
        "training step": (r.held, r.held, r.kept, r.peak["step"] - 2 * r.held - r.kept),
        "forward": (r.held, 0, 0, r.peak["forward"] - 2 * r.held),
    }
    left = np.zeros(2)
    kinds = "parameters", "momentum", "kept for the backward pass", "the rest at the worst moment"
    for k, (kind, colour) in enumerate(zip(kinds, (BLUE, SKY, GREEN, ORANGE), strict=True)):
        values = np.array([row[k] / GB for row in rows.values()])
        axis.barh(list(rows), values, left=left, color=colour, label=kind)
        left += values
    axis.set(xlabel="GB", title=f"{title}: {r.peak['step'] / GB:.2f} GB, at {r.peak_at}")
    axis.title.set_fontsize(9)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
plt.show()

assert 1.75e9 < RUNS[PAPER].peak["step"] < 2.5e9 and max(RUNS[PAPER].peak.values()) < LAPTOP.memory / 3

# %% [markdown]
# About 2 GB, a quarter of the laptop's. "The rest" is scratch arrays and the one gradient that is being
# computed: a parameter is updated as soon as its gradient is final, so all gradients together are never
# there. Not counted: CuPy's own context (some hundred MB), and what its pool keeps between uses.
#
# ## 7. The first real run
#
# On a machine with a GPU, this one command measures what is predicted here, between events of the
# device:
#
# ```sh
# pip install '.[gpu]' && python -m tinyfcn.bench --device gpu --full
# ```
#
# **Prediction to compare the first real run with** (TFLOP/s count the convolutions' operations by their
# definition, as the bench does):


# %%
def growth(side):
    return run(Case(f"{side}x{side}", (1, 3, side, side), 1.0, "paper"), training=False)


def by_definition(case):
    return arithmetic(shapes_of[case], case.padding, case.shape)


like = RUNS[PAPER].step[0]._replace(layer="", phase="", function="", hidden=False)
square = 4 * 4096**2  # bytes
product = like._replace(product=True, batch=1, read=2 * square, written=square, flops=2 * 4096**3)
copy = like._replace(product=False, batch=0, read=2**28, written=2**28, flops=0)
BENCH = [  # title, kernels, operations by definition
    ("forward, 1x3x500x500", RUNS[PAPER].forward, by_definition(PAPER)),
    ("training, 1x3x500x500", RUNS[PAPER].step, 3 * by_definition(PAPER)),
    ("training, 8x3x128x128, width 1/4, same", RUNS[SMALL].step, 3 * by_definition(SMALL)),
    *(
        (f"forward, 1x3x{side}x{side}", growth(side).forward, arithmetic(shapes, "paper", (1, 3, side, side)))
        for side in (125, 250, 1000)
    ),
    ("matrix product, 4096^3", [product], product.flops),
    ("copy of 256 MiB", [copy], 0),
]


def text(kernels, flops, device):
    seconds, low, high = (predict(kernels, device, how) for how in (EXPECTED, BEST, WORST))
    return f"**{seconds / MS:.3g}** ({low / MS:.3g} to {high / MS:.3g})" + (f", {flops / seconds / 1e12:.1f}" if flops else "")


table(
    ["work of the bench", "kernels", *(f"{d.name}: ms (best to worst), TFLOP/s" for d in DEVICES), "measured"],
    *([name, f"{len(kernels):,}", *(text(kernels, flops, d) for d in DEVICES), ""] for name, kernels, flops in BENCH),
)

# %% [markdown]
# If the measured time is
#
# - **about 15 µs times the kernels**, the processor limits, as predicted: count launches, record a
#   graph;
# - **longer than the worst case**, something waits for the device, or kernels are missing here: look
#   with `nsys profile`;
# - **shorter than the best case**, the device's cache serves what is counted as memory, or the count is
#   wrong;
# - **right for the product and the copy, wrong for the rest**, the small products of the transforms, six
#   rows high, do not reach their bandwidth.
#
# What could be wrong with this prediction: rules for kernels that come from reading CuPy's source, not
# from a profile; no caches; a kernel's efficiency taken as the same for all; a laptop that throttles.

# %% [markdown]
# ## 8. Exercises
#
# ### Exercise 1: ReLU's intensity
#
# How many FLOP a byte has ReLU's forward pass, $y = \max(x, 0)$, for numbers of `itemsize` bytes? Count
# the maximum as one operation.


# %% tags=["exercise"]
def relu_intensity(itemsize):
    """FLOP a byte of y = max(x, 0)."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    assert relu_intensity(2) == 1 / 4, "each number of 2 bytes is read and written, for one operation"
    with ghosts.trace() as trace:
        ops.relu_forward(trace.xp.empty((1, 64, 100, 100), np.float32))
    (kernel,) = trace.kernels
    assert relu_intensity(4) == kernel.flops / kernel.bytes, "the package's ReLU in float32 has another"

# %% [markdown]
# <details><summary>Solution</summary>
#
# Each number is read once and written once, for one operation.
#
# ```python
# def relu_intensity(itemsize):
#     return 1 / (2 * itemsize)
# ```
#
# In float32 that is 0.125 FLOP a byte, 160 times less than the H100's ridge. ReLU's arithmetic is free,
# its bytes are not: that is why the convolutions here take the maximum themselves.
#
# </details>

# %% [markdown]
# ### Exercise 2: when does arithmetic limit fc6?
#
# fc6 is a product of its weight (`c_out`, `depth`) with `depth` numbers for each pixel of its map. From
# how many pixels, of all images of the batch, on does arithmetic limit it, on a device with this
# `ridge`? Count the bytes of the product alone, in float32: weight, columns and output once.


# %% tags=["exercise"]
def pixels_at_the_ridge(c_out, depth, ridge):
    """The smallest whole number of pixels whose product has at least `ridge` FLOP a byte."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    c_out, *rest = FCN8s.shapes(CLASSES, 1.0)["fc6.weight"]
    depth = prod(rest)
    for device in DEVICES:
        pixels = pixels_at_the_ridge(c_out, depth, device.ridge)
        below, there = (2 * c_out * depth * p / (4 * (c_out * depth + depth * p + c_out * p)) for p in (pixels - 1, pixels))
        assert below < device.ridge <= there, f"{device.name}: {pixels} pixels have {there:.2f} FLOP a byte, one less {below:.2f}"
        print(f"{device.name}: {pixels} pixels")

# %% [markdown]
# <details><summary>Solution</summary>
#
# Solve $2 M K P \ge 4 r (M K + K P + M P)$ for $P$:
#
# ```python
# def pixels_at_the_ridge(c_out, depth, ridge):
#     m, k = c_out, depth
#     return ceil(4 * ridge * m * k / (2 * m * k - 4 * ridge * (m + k)))
# ```
#
# 41 pixels on the H100, 118 on the laptop. fc6's map has 16x16 pixels for an image of 500x500 with
# padding 100, and 4x4 for one of 128x128 with padding "same": there the H100 needs a batch of 3, the
# laptop one of 8.
#
# </details>

# %% [markdown]
# ### Exercise 3: too small to matter
#
# How many float32 numbers must an array have so that copying it keeps a device busy for as long as the
# processor takes to launch the next kernel, `host` seconds?


# %% tags=["exercise"]
def numbers_a_launch(bandwidth, host):
    """Numbers whose copy takes `host` seconds at `bandwidth` bytes a second."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    assert np.isclose(numbers_a_launch(1e12, 1e-6), 125_000), "a copy reads each number and writes it"
    for device in DEVICES:
        print(f"{device.name}: {numbers_a_launch(device.bandwidth, 15e-6) / 1e6:.2f} million numbers")

# %% [markdown]
# <details><summary>Solution</summary>
#
# Each number is read and written, 8 bytes.
#
# ```python
# def numbers_a_launch(bandwidth, host):
#     return host * bandwidth / 8
# ```
#
# 6.3 million on the H100: an array of 25 MB. Whatever is smaller costs a launch, not its size, so on a
# large GPU all small arrays are equally slow.
#
# </details>

# %% [markdown]
# ## Sources
#
# - S. Williams, A. Waterman, D. Patterson: *Roofline: an insightful visual performance model for
#   multicore architectures*. Communications of the ACM 52(4), 65-76, 2009.
# - A. Lavin, S. Gray: *Fast algorithms for convolutional neural networks*, 2015, arXiv:1509.09308:
#   Winograd's method, and its transforms fused on a GPU.
# - CuPy: [performance](https://docs.cupy.dev/en/v9.6.0/user_guide/performance.html), [environment
#   variables](https://docs.cupy.dev/en/latest/reference/environment.html), and the source of its matrix
#   product, `cupy/_core/_routines_linalg.pyx`.
