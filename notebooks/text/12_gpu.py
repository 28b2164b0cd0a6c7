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
# # 12. A GPU, measured
#
# Here are four pieces of work for a GPU. On the left is how much arithmetic each of them is, and on the right how long it
# took.

# %% tags=["setup", "hide-input"]
from math import ceil, prod
from typing import NamedTuple
from unittest import mock

import numpy as np
from IPython.display import Markdown, display

from tinyfcn import ops
from tinyfcn.backend import hwnc
from tinyfcn.bench.contenders import CLASSES
from tinyfcn.bench.cost import arithmetic, map_sizes, traffic
from tinyfcn.lesson import BLUE, GREEN, ORANGE, PINK, RED, SKY, attempt, plt, recorded, show_source
from tinyfcn.models import FCN8s
from tinyfcn.ops import kernels, tiles, winograd

rng = np.random.default_rng(0)


bench, first = recorded("bench-h100"), recorded("bench-h100-first")
cores = recorded("bench-cpu")
profiles = {profile["work"]: profile for profile in recorded("profile-h100")["profiles"]}
FORWARD, TRAINING, FINETUNE, SMALL, DEFAULT = profiles
WORKS = {
    FORWARD: "forward, 500x500",
    TRAINING: "training, 500x500",
    FINETUNE: "fine-tuning, 2 of 224x304",
    SMALL: "training, 8 of 128x128, width 1/4",
}


def measured(work, contender="tinyfcn", results=bench):
    """What the bench says of a piece of work; its median in ms as "ms"."""
    (found,) = [r for r in results["results"] if (r["work"], r["contender"]) == (work, contender)]
    return found | {"ms": 1e3 * found["median_seconds"]}


def spent(work, *names):
    """Milliseconds that the GPU spends a run in kernels whose names begin so."""
    return sum(
        k["milliseconds"] for k in profiles[work]["kernels"] if k["kernel"].startswith(names)
    )


def table(heading, *rows):
    """Show rows of text as a table; the first column is left-aligned."""
    lines = [heading, [":--", *["--:"] * (len(heading) - 1)], *rows]
    display(Markdown("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)))


UPDATES = "tinyfcn_sgd", "tinyfcn_adam", "tinyfcn_kernel_spectra"  # of weights, whatever the images


def launch(body, size):
    """Call body(i) for each i, in an order that nobody should rely on."""
    for i in np.random.default_rng(1).permutation(size):
        body(int(i))


CUBLAS = "gemm", "gemv", "cutlass", "splitK", "dot_kernel", "reduce_1Block"  # in its kernels' names
LABELS = {
    "tinyfcn_tile_spectra": "Winograd: cut and transform tiles",
    "tinyfcn_write_tiles": "Winograd: transform back",
    "tinyfcn_kernel_spectra": "Winograd: filters",
    "tinyfcn_sgd": "SGD",
    "tinyfcn_max_pool": "pooling and its gradient",
    "tinyfcn_im2col": "columns, and back",
    "tinyfcn_col2im": "columns, and back",
    "tinyfcn": "other kernels of ours",
    "cupy_copy": "copies (CuPy)",
    "cupy_sum": "sums (CuPy)",
}


def label(kernel):
    """What a kernel of the profile does."""
    if any(part in kernel for part in CUBLAS):
        return "matrix products (cuBLAS)"
    known = (text for start, text in LABELS.items() if kernel.startswith(start))
    return next(known, "other kernels of CuPy")


def by_label(work):
    """{what: (ms, launches)}, the largest first."""
    sums = {}
    for k in profiles[work]["kernels"]:
        ms, launches = sums.get(label(k["kernel"]), (0, 0))
        sums[label(k["kernel"])] = ms + k["milliseconds"], launches + k["launches"]
    return dict(sorted(sums.items(), key=lambda item: -item[1][0]))


# %% tags=["hide-input"] alt="Billions of operations and milliseconds of four workloads on an H100: times differ far less than operations"
amounts = {title: measured(work) for work, title in WORKS.items()}
operations = {t: found["gflops"] * found["median_seconds"] for t, found in amounts.items()}
figure, axes = plt.subplots(1, 2, figsize=(9, 2.2), sharey=True)
bars = axes[0].barh(list(WORKS.values()), operations.values(), color=BLUE)
axes[0].bar_label(bars, fmt="%.0f", padding=3)
axes[0].set(xlabel="billion operations (GFLOP)", xlim=(0, 1300))
bars = axes[1].barh(list(WORKS.values()), [found["ms"] for found in amounts.values()], color=ORANGE)
axes[1].bar_label(bars, fmt="%.1f", padding=3)
axes[1].set(xlabel="milliseconds, median of five", xlim=(0, 26))
axes[0].invert_yaxis()
figure.suptitle("FCN-8s on an NVIDIA H100", fontsize=11)
plt.show()
assert operations[WORKS[TRAINING]] > 50 * operations[WORKS[SMALL]]
assert measured(TRAINING)["ms"] < measured(SMALL)["ms"]

# %% [markdown]
# The second is fifty times as much arithmetic as the last, and takes no longer. What is the GPU doing all that time?
#
# And here is another riddle, which turns out to be the same one. This package runs on a GPU from the same source as on a
# processor. Its first version needed 108 ms for the second piece of work, and now it needs 19, with the same algorithms.

# %%
ms, before = measured(TRAINING)["ms"], measured(TRAINING, results=first)["ms"]
print(bench["machine"]["device"])
print(f"a training step at 500x500: {before:.0f} ms at first, {ms:.1f} ms now")
print(f"forward: {measured(FORWARD, results=first)['ms']:.0f} ms, and", end=" ")
print(f"{measured(FORWARD)['ms']:.1f} ms")
assert round(before) == 108 and round(ms) == 19

# %% [markdown]
# In this notebook you find out where the time had gone, with a model of one line. Then you read a kernel, test it without a
# GPU, and lose a gradient to two threads that write to one place. In the end you can decide whether a GPU is worth it
# for what you want to train.
#
# Takes about 45 minutes. It builds on [Speed](10_speed.ipynb), for bands and the roofline, and on [Winograd's
# convolution](11_winograd.ipynb), for its tiles and spectra. You need neither a GPU nor CUDA, as all times of the GPU are
# read from files in `data/results`, measured on an NVIDIA H100.
#
# ## Where is the roof?
#
# A **kernel** is one program on the GPU, run by thousands of threads at once. (The kernels of a convolution are called
# filters here.) It moves bytes between the device's memory and its processors, and does floating-point operations
# (FLOP) on them. Whichever takes longer sets its time:
#
# $$ \text{seconds} \ge \max\left( \frac{\text{FLOP}}{\text{peak}},
#    \frac{\text{bytes}}{\text{bandwidth}} \right) $$
#
# That is the roofline that you know from [Speed](10_speed.ipynb#How-fast-can-it-be-at-all?). The two are equal at the
# **ridge**, peak / bandwidth operations for each byte. Here are three machines, two of them measured by `tinyfcn.bench`
# with a large matrix product and a large copy.


# %%
class Machine(NamedTuple):
    name: str
    peak: float  # FLOP/s in float32
    bandwidth: float  # bytes/s


def machine(name, results):
    found = results["machine"]
    return Machine(name, 1e9 * found["peak_gflops"], 1e9 * found["bandwidth_gbytes_per_s"])


H100, CORES = machine("H100", bench), machine("two cores", cores)
LAPTOP = Machine(
    "RTX 4060 Laptop", 2 * 3072 * 2.37e9, 16e9 * 128 / 8
)  # from data sheets, see below
MACHINES = H100, LAPTOP, CORES

# %%
table(
    ["", "float32, TFLOP/s", "memory, GB/s", "ridge, FLOP a byte"],
    *(
        [m.name, f"{m.peak / 1e12:.2f}", f"{m.bandwidth / 1e9:,.0f}", f"{m.peak / m.bandwidth:.0f}"]
        for m in MACHINES
    ),
)
print(f"H100: {H100.peak / CORES.peak:.0f} times the cores' arithmetic,", end=" ")
print(f"{H100.bandwidth / CORES.bandwidth:.0f} times their memory's bandwidth")

# %% [markdown]
# (The laptop's numbers are those of data sheets, which nothing reaches: 3,072 processors that multiply and add once a
# cycle at 2.37 GHz, and 128 lines of 16 Gbit/s each.)
#
# The H100 has two hundred times the arithmetic of two cores *and* more than a hundred times the memory's bandwidth: the
# proportions are not so different from a processor's. So what limited a layer in [Speed](10_speed.ipynb#How-fast-can-it-be-at-all?) should
# limit it here, too.
#
# **Predict.** An FCN-8s at 500x500 does 362 GFLOP. Which layers are limited by the H100's memory?

# %% tags=["hide-output"]
shapes, size = FCN8s.shapes(CLASSES, 1.0), (500, 500)
flops, moved = {}, {}  # operations; bytes of weights, input and output, once each, in float32
for name, (h, w) in map_sizes("paper", size).items():
    c_out, c_in, *_ = shape = shapes[f"{name}.weight"]
    flops[name] = 2 * prod(shape) * h * w
    moved[name] = 4 * (prod(shape) + (c_in + c_out) * h * w)

definition = sum(flops.values())
assert definition == arithmetic(shapes, "paper", (1, 3, *size))
assert sum(moved.values()) == traffic(shapes, "paper", (1, 3, *size))
floor = {}
for m in MACHINES:
    low = [name for name in flops if flops[name] / moved[name] < m.peak / m.bandwidth]
    floor[m] = 1e3 * sum(max(flops[name] / m.peak, moved[name] / m.bandwidth) for name in flops)
    print(f"{m.name}: memory limits {', '.join(low)}; all layers take at least {floor[m]:.1f} ms")

# %% [markdown]
# Here are those layers and some measurements, in one picture.

# %% tags=["hide-input"] alt="Three roofs, of an H100, a laptop's GPU and two cores, and measurements below the highest: SGD at the slope, products at the flat part"
parameters = sum(prod(s) for name, s in shapes.items() if not name.startswith("upscore"))
sgd_ms = spent(TRAINING, "tinyfcn_sgd")
singles = [k for k in profiles[FORWARD]["kernels"] if "gemm" in k["kernel"] and k["launches"] == 1]
fc6_ms = max(k["milliseconds"] for k in singles)  # by far the largest product that is launched once
per_byte = definition / sum(moved.values())
dots = {  # FLOP a byte, FLOP, ms
    "SGD's update": (6 / 20, 6 * parameters, sgd_ms, GREEN),
    "fc6, one product": (flops["fc6"] / moved["fc6"], flops["fc6"], fc6_ms, ORANGE),
}
for name, colour in {"tinyfcn": BLUE, "tinyfcn columns": SKY, "PyTorch": PINK}.items():
    title = f"whole net: {name.replace('columns', 'without Winograd')}"
    dots[title] = per_byte, definition, measured(FORWARD, name)["ms"], colour
figure, axis = plt.subplots(figsize=(8, 4.2))
x = np.geomspace(0.08, 1500, 300)
for m, line in zip(MACHINES, ("-", "--", ":")):
    axis.plot(x, np.minimum(m.peak, x * m.bandwidth) / 1e12, line, color="0.35", zorder=1)
    axis.text(1700, m.peak / 1e12, m.name, va="center", fontsize=9)
for name in flops:
    intensity = flops[name] / moved[name]
    roof = min(H100.peak, intensity * H100.bandwidth) / 1e12
    axis.plot(intensity, roof, "|", ms=11, color="0.35")
    if place := {"score_fr": (-30, 12), "conv1_1": (-4, 22), "conv4_2": (0, 12)}.get(name):
        axis.annotate(name, (intensity, roof), place, textcoords="offset points", fontsize=9)
for name, (intensity, done, took, colour) in dots.items():
    axis.plot(intensity, done / took / 1e9, "o", ms=8, color=colour, label=name, zorder=3)
axis.set(xscale="log", yscale="log", xlim=(0.08, 1500), ylim=(0.01, 250))
axis.set(xlabel="FLOP for each byte that must be moved", ylabel="TFLOP/s, by definition")
axis.set_title(
    "Three roofs; on the H100's, convolutions (ticks) and measurements (dots)", fontsize=10
)
axis.legend(frameon=False, loc="lower right", fontsize=9)
plt.show()

# %%
whole, fc6_rate = measured(FORWARD), 1e3 * flops["fc6"] / fc6_ms
sgd_rate = 1e3 * 20 * parameters / sgd_ms  # five numbers for each parameter, see below
print(
    f"FCN-8s forward: at least {floor[H100]:.1f} ms under the roof, measured {whole['ms']:.1f} ms"
)
print(
    f"SGD moves {sgd_rate / 1e9:,.0f} GB/s, {sgd_rate / H100.bandwidth:.0%} of a copy's bandwidth"
)
print(f"fc6 reaches {fc6_rate / 1e12:.1f} TFLOP/s, {fc6_rate / H100.peak:.0%} of the peak")
assert (
    whole["ms"] < floor[H100] and whole["of_peak"] > 1.1 and 0.9 * H100.peak < fc6_rate < H100.peak
)

# %% [markdown]
# Nearly all convolutions stand under the flat part, where arithmetic limits. And the two simplest kernels come very close to
# their roofs, fc6's matrix product to that of arithmetic and SGD to memory's. (SGD reads $w$, $g$ and $v$ and writes $v$
# and $w$, five numbers for each parameter. With NumPy's functions, one a line, it would be fifteen.)
#
# The whole net is *above* the roof. No law is broken: operations are counted by the definition of a convolution, and
# Winograd's method needs a quarter of the multiplications. Without it, the net stands where it should, below. (A part
# of the padded border is left out as well, in both.)
#
# So the roof says what is possible. It does not explain the 108 ms, nor the small net.
#
# ## Who starts the work?
#
# A GPU does nothing by itself. Python calls a function of CuPy, which checks its arguments, looks up a kernel, and puts
# it into the device's queue: a **launch**. The smallest call takes some 10 microseconds of the host's time, and one with
# twenty arguments, in a layer that has its own checks to do, 50 or more. The host does not wait for the result, so that it
# can prepare the next launch while the device works.
#
# **Predict.** A step of the first version made 2,430 launches, most of them small. How long does it take at least,
# however fast the device is?

# %% tags=["hide-output"]
for work in FORWARD, TRAINING:
    old, new = measured(work, results=first), profiles[work]
    per_launch = 1e3 * old["ms"] / old["launches"]
    print(f"{WORKS[work]}: {old['launches']:,} launches at first,", end=" ")
    print(f"{per_launch:.0f} µs each;", end=" ")
    print(
        f"now {new['launches']}, which keep the device busy for {new['busy_milliseconds']:.1f} ms"
    )
slower = measured(TRAINING, "PyTorch", first)["ms"] / measured(TRAINING, "PyTorch")["ms"]
print(f"PyTorch's step took {slower:.2f} times as long when the first version was measured")

# %% [markdown]
# <details><summary>Answer</summary>
#
# 2,430 launches at 10 to 50 microseconds make 24 to 122 ms, and it was 108.
#
# </details>
#
# That is the story of the first version. It was written the way that is good on a processor, as many short calls on
# bands that fit into its cache, and a GPU was not given enough to do between two calls. (Tests ran beside it when it was
# measured, and slowed PyTorch down, too. So the factor between the versions is a little smaller than it looks.)
#
# What a launch costs depends on what is launched. Many of the first version's were simple calls, such as copies; a
# kernel of today has up to twenty arguments, and does the work of many. Still, a model with one line goes far:
#
# $$ \text{seconds} = \max(\text{launches} \times \text{host time for each},\; \text{device time}) $$
#
# The **device time** is the sum of all kernels' times in a profile. For the host time you can take one measurement, that of
# the small net, whose device is hardly ever busy, and predict the others.

# %%
host_ms = measured(SMALL)["ms"] / profiles[SMALL]["launches"]  # of a launch
print(f"{1e3 * host_ms:.0f} µs a launch")
rows = []
for work in FORWARD, TRAINING, FINETUNE, SMALL:
    profile, found = profiles[work], measured(work)
    host, device = host_ms * profile["launches"], profile["busy_milliseconds"]
    row = [WORKS[work], profile["launches"], *(f"{ms:.1f}" for ms in (host, device))]
    row += [f"**{max(host, device):.1f}**", f"**{found['ms']:.1f}**"]
    row += [f"{1e3 * min(found['seconds']):.1f} to {1e3 * max(found['seconds']):.1f}"]
    rows.append([*row, f"{profile['milliseconds']:.1f}", f"{device / found['ms']:.0%}"])
    assert 0.8 < max(host, device) / found["ms"] < 1.25
heads = "ms", "launches", "host", "device", "model", "measured"
table([*heads, "five runs", "once more", "device busy"], *rows)

# %% [markdown]
# One number comes from one net, and the model is within a fifth of all measured medians. It is no better than that, since
# the host's time is not: look at the range of five runs of the small net, and at "once more", a single measurement in
# another process.
#
# The large nets are just at the point where both take equally long. The small one is far from it, and its GPU waits for
# nearly nine tenths of the time, until Python has prepared the next launch.
#
# **Predict.** What happens to the time of a step if a batch has twice as many images?

# %% tags=["hide-input", "hide-output"] alt="Time of a step over the batch, of host and device: the host's is constant and longer for small batches, the device's grows and overtakes it"
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
for axis, work, most in zip(axes, (FINETUNE, SMALL), (16, 128)):
    profile, found = profiles[work], measured(work)
    n, _, h, w = found["shape"]
    images = np.linspace(0, most, 100)
    fixed, busy = spent(work, *UPDATES), profile["busy_milliseconds"]
    device = fixed + (busy - fixed) * images / n
    host = np.full_like(images, host_ms * profile["launches"])
    axis.plot(
        images, np.maximum(host, device), color="0.85", lw=8, label="model: whichever is longer"
    )
    axis.plot(images, host, color=ORANGE, label="host")
    axis.plot(images, device, color=BLUE, label="device")
    axis.plot(n, found["ms"], "o", color=ORANGE, label="measured")
    axis.plot(n, busy, "o", color=BLUE)
    axis.set(
        xlabel=f"images of {h}x{w} in a batch", ylabel="ms a step", ylim=(0, 60), xlim=(0, most)
    )
    axis.set_title(
        "fine-tuning, full width" if work == FINETUNE else "training, width 1/4", fontsize=10
    )
axes[0].legend(frameon=False, fontsize=9, loc="upper left")
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# Nothing, at first. Up to the crossing, more images are *free*, since the device does them while it would have waited.
# Beyond it, time grows with the pixels. (The blue line is drawn from one profile, as if a device's time grew in
# proportion. It rises a little less, as larger products come closer to the peak.)
#
# </details>
#
# Exercise 1 asks for the crossing. Left of it, only one thing helps: fewer launches.
#
# ## One kernel in place of many
#
# Winograd's method turns a tile of 6x6 inputs (they overlap, it moves on by 4) into 36 numbers, $B^T d B$. On the
# processor, `tiles.spectra` does so in three passes over a block: copy a patch with its border, transform along the
# one axis, transform along the other. Each pass writes an array that the next one reads.
#
# **Predict.** How many times the bytes of the input and the spectra is that?

# %% tags=["hide-output"]
shape = (1, 512, 88, 88)
x = hwnc(rng.standard_normal((*shape[2:], *shape[:2]), np.float32))  # in memory pixel by pixel
scratch = []


def noted():
    """As `tiles.buffers`, but each array is new, and noted."""
    while True:
        yield lambda *shape: scratch.append(np.empty(shape, np.float32)) or scratch[-1]


_, B_T, _ = winograd.matrices(np, np.dtype(np.float32))
whole_map = slice(0, ceil(shape[2] / 4)), slice(0, ceil(shape[3] / 4))
spectra = tiles.spectra(B_T, x, whole_map, (1, 1), noted())
once = x.nbytes + spectra.nbytes
passes = once + 2 * sum(
    a.nbytes for a in scratch[:-1]
)  # written and read; the last one is the result
print(f"{shape[1]} channels of {shape[2]}x{shape[3]}:")
for name, total in ("input read once, spectra written once", once), ("in three passes", passes):
    print(f"  {name}: {total / 1e6:.0f} MB,", end=" ")
    print(f"at least {1e6 * total / H100.bandwidth:.0f} µs on an H100")
print(f"  {passes / once:.1f} times as many bytes")
assert passes > 2 * once

# %% [markdown]
# A processor hardly notices, because blocks are small, and what lies between two passes stays in the cache. On a GPU, where a
# call needs millions of numbers to be worth its launch, it goes to memory and back.
#
# A kernel of our own keeps it in registers. Here it is, in CUDA C++ within Python. Read the string: it is the body of a
# loop over `i`, and `cupy.ElementwiseKernel` runs it for all `i` at once, each in a thread.

# %%
show_source(kernels.tile_spectra)

# %% [markdown]
# Four things are worth seeing.
#
# - **Who am I?** The first line makes three numbers of `i`: channel, tile column `s`, tile row `r`. The channel comes
#   first, so neighbouring threads read and write neighbouring places, which a GPU does at once for 32 of them.
# - **36 loads.** `inside` puts zeros outside of the map, so nobody has to write a border of zeros. Tiles overlap, so
#   many pixels are loaded by several threads; all but the first mostly find them in the cache.
# - **Arithmetic in between**, on `d` and `half`, which live in registers. The matrix is part of the code, as constants.
# - **36 stores**, each thread to places of its own.
#
# You can test such a kernel without a GPU, if you run its body as what it claims to be, a loop. Threads have no order, so
# `launch(body, size)` calls the body for each i in an order that nobody should rely on.

# %%
n, channels, height, width = small = (1, 3, 9, 10)
x = hwnc(rng.standard_normal((height, width, n, channels)))
memory = hwnc(x).reshape(-1)  # as it lies there
depth, high, wide, top, left = n * channels, ceil(height / 4), ceil(width / 4), -1, -1  # padding 1
threads = high * wide * depth
result = np.full((36, threads), np.nan)


def tile_spectra(i):
    channel, s, r = i % depth, i // depth % wide, i // depth // wide
    d = np.zeros((6, 6))
    for a, b in np.ndindex(6, 6):
        row, column = top + 4 * r + a, left + 4 * s + b
        if 0 <= row < height and 0 <= column < width:
            d[a, b] = memory[(row * width + column) * depth + channel]
    result[:, i] = (winograd.B_T @ d @ winograd.B_T.T).T.reshape(
        36
    )  # columns first, as in the package


launch(tile_spectra, threads)
blocks = [(slice(0, high), slice(0, wide))]
buffers = tiles.buffers(np, x.dtype, blocks, depth)
twin = tiles.spectra(winograd.B_T.astype(float), x, blocks[0], (1, 1), buffers)
apart = abs(result - twin.reshape(36, -1)).max()
print(f"{threads} threads, apart from NumPy's three passes by {apart:.0e}")
assert apart < 1e-12

# %% [markdown]
# This is the mathematics of the kernel against that of its twin, and no GPU had to be there. `write_tiles` goes the
# other way: 36 loads, 16 stores. How good are the two? Count the bytes of all 3x3 layers, and compare with the
# profile. A run of the net here tells how large its maps really are: [the border's constant
# part](10_speed.ipynb#What-100-zeros-make-constant) is left out. (A quarter of the channels will do for that.)

# %%
maps = []


def watched(x, weight, geometry, y, *rest):
    maps.append(y.shape[2:])
    way(x, weight, geometry, y, *rest)


way = winograd.forward
with mock.patch.object(winograd, "forward", watched):
    FCN8s(CLASSES, 0.25, "paper", dropout=0.0).forward(np.zeros((1, 3, *size), np.float32))

names = [name for name in flops if name.startswith("conv")][
    1:
]  # conv1_1 has too few channels for it
loads = stores = products = 0
for name, (h, w) in zip(names, maps, strict=True):
    c_out, c_in, *_ = shapes[f"{name}.weight"]
    tiles_of_layer = ceil(h / 4) * ceil(w / 4)
    loads += (
        4 * (16 + 36) * tiles_of_layer * c_in
    )  # 16 new pixels of a tile read, 36 numbers written
    stores += 4 * (36 + 16) * tiles_of_layer * c_out
    products += 2 * 36 * tiles_of_layer * c_in * c_out

rows = []
for kernel, total in ("tinyfcn_tile_spectra_6", loads), ("tinyfcn_write_tiles", stores):
    ideal, took = 1e3 * total / H100.bandwidth, spent(FORWARD, kernel)
    row = f"`{kernel}`", f"{total / 1e6:.0f}", f"{ideal:.2f}", f"{took:.2f}", f"{ideal / took:.0%}"
    rows.append(row)
    assert 0.7 < ideal / took < 1.1
table(["FCN-8s forward, 500x500", "MB", "ms at a copy's bandwidth", "ms measured", "share"], *rows)

# %% [markdown]
# They are as good as a plain copy, or nearly. Neither can be made much faster as it stands. (One is at 100 %: a part of what it
# reads still lies in the device's cache, where the matrix product left it.)
#
# ### Why must no two threads write to one place?
#
# Max pooling's gradient goes to the input that won its window. The obvious kernel has a thread for each *window*: find
# the winner, and add the window's gradient to its place. If windows overlap, an input can win several times.
#
# Adding is three things: load, add, store. We let a body say `yield` where others may get in between, as they do on a
# GPU.


# %%
def at_once(body, size):
    """All threads load, then all of them store."""
    running = [body(i) for i in range(size)]
    for thread in running:
        next(thread)
    for thread in running:
        next(thread, None)


x_line = np.array([1.0, 5, 9, 2, 3, 8, 4])  # windows of three, two apart: (1 5 9), (9 2 3), (3 8 4)
dy_line, dx_line = np.ones(3), np.zeros(7)


def scatter(i):
    place = 2 * i + np.argmax(x_line[2 * i : 2 * i + 3])
    old = dx_line[place]
    yield
    dx_line[place] = old + dy_line[i]


at_once(scatter, 3)
_, cache = ops.max_pool2d_forward(x_line.reshape(1, 1, 1, 7), (1, 3), stride=(1, 2))
right = ops.max_pool2d_backward(dy_line.reshape(1, 1, 1, 3), cache)
print("scattered:", dx_line)
print("right:    ", right.reshape(-1))
assert dx_line.sum() < dy_line.sum() == right.sum()

# %% [markdown]
# The 9 won two windows and was paid for one, since both threads loaded 0 and both stored 1. On a real GPU this happens
# now and then, and differently each time, which is the worst kind of fault.
#
# The cure is to turn the question round. A thread for each *input* asks which windows it won, adds up their gradients,
# and writes to a place that is its own: **gather**, not scatter. It reads more, but reading together is no problem, and
# no array must be filled with zeros before. (FCN's own windows, 2x2 at stride 2, do not overlap, but the function takes
# any.)

# %%
show_source(kernels.max_pool_backward)

# %% [markdown]
# The innermost loops are for ties: of equal inputs the first one wins, so a thread must look whether an earlier one in
# the window is as large. `col2im`, which adds up overlapping columns, is turned round in the same way. (There are
# atomic additions, which cannot be interrupted. They wait for one another, and their order changes from run to run, and
# with it the rounding. Here the same run gives the same bits.)
#
# ## Where does the time go now?
#
# A **profile** lists each kernel's time on the device. Names that begin with `tinyfcn` are kernels of this package,
# `cupy` are CuPy's, and the matrix products come from cuBLAS, NVIDIA's library, which picks one of many kernels by the
# matrices' shapes.
#
# **Predict.** What takes longest in a training step: the products, the tiles' transforms, or the update of 134 million
# parameters?

# %% tags=["hide-output"]
parts, busy = by_label(TRAINING), profiles[TRAINING]["busy_milliseconds"]
table(
    [WORKS[TRAINING], "launches", "ms", "of the device's time"],
    *(
        [name, f"{calls:.0f}", f"{ms:.2f}", f"{ms / busy:.0%}"]
        for name, (ms, calls) in parts.items()
    ),
)

# %% tags=["hide-input", "hide-output"] alt="The device's time by kernels for three workloads: matrix products take most in all of them"
figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True)
for axis, work in zip(axes, (FORWARD, TRAINING, SMALL)):
    found = by_label(work)
    values = [found.get(name, (0, 0))[0] for name in parts]
    colours = [ORANGE if "cuBLAS" in name else GREEN if "CuPy" in name else BLUE for name in parts]
    bars = axis.barh(list(parts), values, color=colours)
    axis.bar_label(bars, [f"{v:.2f}" if v else "" for v in values], padding=3, fontsize=9)
    idle = measured(work)["ms"] - profiles[work]["busy_milliseconds"]
    axis.set(xlim=(0, 1.22 * max(values)), xlabel="ms")
    axis.set_title(f"{WORKS[work]}:\n{sum(values):.1f} ms busy, {idle:.1f} ms idle", fontsize=10)
axes[0].invert_yaxis()
figure.suptitle(
    "The device's time: cuBLAS's kernels (orange), ours (blue), CuPy's (green)", fontsize=10
)
plt.show()

# %% tags=["hide-output"]
conv1_1 = 2 * prod(shapes["conv1_1.weight"]) * prod(maps[0])  # its map is as large as conv1_2's
done = products + conv1_1 + sum(flops[name] for name in flops if not name.startswith("conv"))
product_ms = by_label(FORWARD)["matrix products (cuBLAS)"][0]
reached = 1e3 * done / product_ms
print(f"forward: {definition / 1e9:.0f} GFLOP by definition,", end=" ")
print(f"{done / 1e9:.0f} in the products there are")
print(f"they take {product_ms:.2f} ms: {reached / 1e12:.1f} TFLOP/s,", end=" ")
print(f"{reached / H100.peak:.0%} of peak")
share = product_ms / profiles[FORWARD]["busy_milliseconds"]
least = 1e3 * done / H100.peak + (loads + stores) / H100.bandwidth * 1e3
print(f"{share:.0%} of the device's time; with perfect products and transforms: {least:.1f} ms")
assert 0.7 < reached / H100.peak < 0.8 and 0.65 < share < 0.75
assert parts["columns, and back"][0] < 0.025 * busy
assert 0.08 < (parts["copies (CuPy)"][0] + parts["sums (CuPy)"][0]) / busy < 0.13

# %% [markdown]
# What is left to gain?
#
# - **Products** are seven tenths of the forward pass, at three quarters of the peak. Float32 has little more to give.
#   Tensor cores would, in TF32: they are units for matrix products that round the factors to 10 bits of mantissa first.
#   That costs precision, and Winograd's large numbers, which cancel, need it.
# - **Copies**: among them are those of matrices that lie in an order which CuPy does not hand to cuBLAS as it is. They, and
#   the sums for the biases' gradients and the repeated border, are what more kernels of our own could remove from a
#   training step, a tenth of it.
# - **The small net** has nothing to gain on the device at all. It is idle for most of the time.
#
# Measure before you change, once more: a wonderful kernel for im2col would win two per cent here.
#
# ## And beside PyTorch?
#
# PyTorch calls cuDNN, NVIDIA's library of convolutions: in float32, as this package computes, and in TF32, which is
# PyTorch's own default for convolutions where the device has it.
#
# **Predict.** Which of the three is the fastest for which of four pieces of work?

# %% tags=["hide-input", "hide-output"] alt="Milliseconds of tinyfcn, PyTorch, and PyTorch with TF32 for four workloads: first or close to it in three, last in the smallest"
CONTENDERS = {"tinyfcn": BLUE, "PyTorch": PINK, "PyTorch TF32": RED}
figure, axes = plt.subplots(1, 4, figsize=(10, 3))
for axis, (work, title) in zip(axes, WORKS.items()):
    values = [measured(work, name)["ms"] for name in CONTENDERS]
    bars = axis.bar(["tinyfcn", "PyTorch", "PyTorch\nTF32"], values, color=CONTENDERS.values())
    axis.bar_label(bars, fmt="%.1f", padding=2)
    axis.set(ylim=(0, 1.15 * max(values)))
    axis.set_title(title.replace(", ", ",\n", 1), fontsize=10)
    axis.tick_params(axis="x", labelsize=8)
axes[0].set_ylabel("ms, median of five")
plt.show()

# %% tags=["hide-output"]
ratio = {work: measured(work)["time_ratio"] for work in WORKS}
table(
    ["", "time / PyTorch", "/ PyTorch TF32", *(f"{name}: GB" for name in CONTENDERS)],
    *(
        [WORKS[work], *(f"{ratio[work][name]:.2f}" for name in ("PyTorch", "PyTorch TF32"))]
        + [f"{measured(work, name)['peak_memory'] / 1e9:.2f}" for name in CONTENDERS]
        for work in WORKS
    ),
)
assert (
    max(ratio[w]["PyTorch"] for w in (FORWARD, TRAINING)) < 0.5 and ratio[FINETUNE]["PyTorch"] < 1
)
assert all(0.9 < ratio[w]["PyTorch TF32"] < 1.1 for w in (FORWARD, TRAINING))
assert ratio[FINETUNE]["PyTorch TF32"] > 3 and ratio[SMALL]["PyTorch"] > 3

# %% [markdown]
# <details><summary>What the bars say</summary>
#
# - **Large images in float32**: less than half of PyTorch's time, and as fast as PyTorch in TF32, which rounds. Two
#   things help here: Winograd's method, which cuDNN has too (below), and the border, whose constant part is left out. The
#   second is a special case: PyTorch is asked to compute all of the 698x698 pixels.
# - **Fine-tuning with small crops**: a little faster than PyTorch in float32, but three times as slow as in TF32. The
#   device is busy for a third of the time only.
# - **The small net**: more than three times as slow as PyTorch. It launches from C++, where a call costs a fraction of
#   what it costs in Python.
#
# </details>
#
# Has cuDNN no Winograd? It has, in several variants, next to direct methods and Fourier's. It chooses for each layer by its own
# rules, and which it chose here was not looked up, so nothing on this page says that PyTorch computes without it. In float32
# PyTorch stays below half of the peak, if operations are counted by the definition of a convolution; if Winograd is behind some
# of them, fewer were computed than are counted. And for fine-tuning in float32 it held more than ten times as much memory as in
# TF32, as methods with large workspaces would, such as those with transforms.
#
# ## When is a GPU worth it?
#
# **Predict.** The default run, `python -m tinyfcn.train`, trains a net of an eighth of the channels on drawn shapes,
# four images of 96x96 a step. How much faster is it with two hundred times the
# arithmetic?

# %% tags=["hide-output"]
alone = [measured(FINETUNE, results=results)["median_seconds"] for results in (cores, bench)]
rows = {"a step of fine-tuning, alone": alone}
for title, name in (
    ("CamVid, all of training", "camvid-8s"),
    ("the default run, all of it", "shapes-8s"),
):
    rows[title] = [recorded(name)["seconds"], recorded(f"h100-{name}")["seconds"]]
table(
    ["seconds", "two cores", "H100", "times as fast"],
    *(
        [title, f"{slow:,.4g}", f"{fast:.2g}" if fast < 1 else f"{fast:.0f}", f"{slow / fast:.1f}"]
        for title, (slow, fast) in rows.items()
    ),
)

default, camvid = profiles[DEFAULT], recorded("h100-camvid-8s")
waiting = 1 - default["busy_milliseconds"] / default["milliseconds"]
print(
    f"default step: {default['milliseconds']:.1f} ms, of which the device waits for {waiting:.0%}"
)
a_step = 1e3 * camvid["seconds"] / camvid["options"]["steps"]
print(f"CamVid: {a_step:.0f} ms a step, reading and evaluating included")
here, there = (recorded(name)["options"] for name in ("shapes-8s", "h100-shapes-8s"))
assert waiting > 0.9 and there.items() <= here.items()  # later versions have more options

# %% [markdown]
# <details><summary>What the table says</summary>
#
# - **Full width**: an hour and three quarters become two and a half minutes. That is worth a GPU.
# - **A net for learning**, such as the default run: the GPU waits for most of the time, and wins a small factor over
#   two cores. A larger one would not make it faster, since the time is the host's. A processor is all you need.
# - **In between**: larger batches or crops, up to the crossing, cost nothing. Use the GPU that you have fully before
#   you look for a faster one.
#
# </details>
#
# (Complete runs shared their machines with other work, and include reading and evaluating. Only the first row was
# measured alone.)
#
# ### On your own
#
# ```sh
# pip install -e ".[gpu]" && python -m tinyfcn.bench --device gpu --full --json gpu.json
# ```
#
# writes a file like the one that this lesson reads. Another GPU has another ridge, another host another crossing.

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: the crossing
#
# A step of `pixels` pixels keeps the device busy for `busy` ms, of which `fixed` ms go to the weights and do not depend
# on the images. The rest grows with the pixels. The host takes `host` ms, whatever the size. From how many pixels on is
# the device the slower one?
#
# <details><summary>Hint 1</summary>
#
# Which part of `busy` grows with the pixels, and what is it for each pixel?
#
# </details>
# <details><summary>Hint 2</summary>
#
# At the crossing, `fixed` and the grown part together make `host`. Write this as an equation, and solve it for the pixels.
#
# </details>


# %% tags=["exercise"]
def crossing(pixels, busy, fixed, host):
    """Pixels at which device and host take equally long."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    found_1 = crossing(100, 3, 1, 5)
    causes_1 = {
        100 * 5 / 3: "the weights' ms do not grow",
        250: "the weights take ms of the 5, too",
    }
    close_1 = [cause for value, cause in causes_1.items() if np.isclose(found_1, value)]
    assert np.isclose(found_1, 200), (
        f"100 pixels take 2 of 3 ms, so 5 ms are for 200, not {found_1:.4g}"
        + (f" ({close_1[0]})" if close_1 else "")
    )
    for work_1 in FINETUNE, SMALL:
        n_1, _, h_1, w_1 = measured(work_1)["shape"]
        host_1, busy_1 = measured(work_1)["ms"], profiles[work_1]["busy_milliseconds"]
        fixed_1 = spent(work_1, *UPDATES)
        pixels_1 = crossing(n_1 * h_1 * w_1, busy_1, fixed_1, host_1)
        grown_1 = fixed_1 + (busy_1 - fixed_1) * pixels_1 / (n_1 * h_1 * w_1)
        assert np.isclose(grown_1, host_1), (
            f"there the device takes {grown_1:.1f} ms, not {host_1:.1f}"
        )
        print(
            f"{WORKS[work_1]}: a batch of {pixels_1 / (h_1 * w_1):.1f}, or one square image,",
            end=" ",
        )
        print(f"{pixels_1**0.5:.0f} pixels wide")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def crossing(pixels, busy, fixed, host):
#     return pixels * (host - fixed) / (busy - fixed)
# ```
#
# Six or seven crops instead of two, for fine-tuning at full width. The net with a quarter of the channels could take
# nine times its batch in the same time.
#
# </details>

# %% [markdown]
# ### Exercise 2: the body of a kernel
#
# 2x2 max pooling with stride 2, in ceil mode: a last window may hang over the border. Thread `i` writes output `i` and
# nothing else. The input `x` is flat: pixel by pixel, row by row, `depth` channels each. So is the output, whose maps
# are `width_out` wide. Loops and plain numbers, no NumPy: that is how CUDA would have it.
#
# <details><summary>Hint 1</summary>
#
# Which channel, column and row is output `i`? Take them off one after the other, with `%` and `//`, as in the first line of the
# kernel above: the channel runs fastest.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Input (row, col) of this channel stands at `x[(row * width + col) * depth + channel]`. The window's rows are 2 r and 2 r + 1, as
# far as they are smaller than `height`. Begin with the first of them or with minus infinity, since inputs may be negative.
#
# </details>


# %% tags=["exercise"]
def pool_thread(i, x, y, height, width, depth, width_out):
    """Write y[i], the largest input of its window."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    for depth_2, height_2, width_2 in (1, 4, 4), (3, 4, 6), (3, 5, 4), (2, 4, 7), (4, 5, 5):
        x_2 = np.random.default_rng(2).standard_normal((height_2, width_2, 1, depth_2)) - 3
        expected_2 = hwnc(ops.max_pool2d_forward(hwnc(x_2), 2, ceil_mode=True)[0])
        sizes_2 = height_2, width_2, depth_2, expected_2.shape[1]
        x_2, expected_2 = x_2.reshape(-1), expected_2.reshape(-1)
        y_2 = np.full_like(expected_2, np.nan)
        launch(lambda i: pool_thread(i, x_2, y_2, *sizes_2), y_2.size)
        for i_2 in np.flatnonzero(y_2 != expected_2)[:1]:
            where_2 = f"{height_2}x{width_2} pixels, {depth_2} channels: y[{i_2}]"
            if np.isnan(y_2[i_2]):
                cause_2 = "nobody wrote it"
            elif y_2[i_2] == 0:
                cause_2 = "all inputs are negative here: where does the 0 come from?"
            elif height_2 % 2 or width_2 % 2:
                cause_2 = "does its window hang over the border?"
            else:
                cause_2 = "which channel, column and row is output i?"
            raise AssertionError(
                f"{where_2} is {y_2[i_2]:.3f}, not {expected_2[i_2]:.3f} ({cause_2})"
            )

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def pool_thread(i, x, y, height, width, depth, width_out):
#     channel, c, r = i % depth, i // depth % width_out, i // depth // width_out
#     best = -float("inf")
#     for row in range(2 * r, min(2 * r + 2, height)):
#         for col in range(2 * c, min(2 * c + 2, width)):
#             best = max(best, x[(row * width + col) * depth + channel])
#     y[i] = best
# ```
#
# Compare it with `kernels.max_pool`, line by line. That one takes any window, and lets a NaN through, which `max` here
# would lose.
#
# </details>

# %% [markdown]
# ### Exercise 3: gather
#
# One row, one channel, windows of three inputs, two apart: window `r` holds `x[2r]`, `x[2r + 1]` and `x[2r + 2]`, and
# `y[r]` is the largest of them. What does input `i` get of the gradients `dy`? Of equal inputs the first one in a
# window wins.
#
# <details><summary>Hint 1</summary>
#
# Which windows hold input `i`? An even one lies in two, unless it is at an end, and an odd one in one.
#
# </details>
# <details><summary>Hint 2</summary>
#
# It won window r if `x[i] == y[r]` and none of `x[2 * r : i]`, the inputs before it in this window, is equal to `y[r]` as well.
#
# </details>


# %% tags=["exercise"]
def collected(i, x, y, dy):
    """dx[i]: the sum of dy over the windows that input i won."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    for seed_3 in range(5):
        rng_3 = np.random.default_rng(seed_3)
        x_3 = rng_3.integers(4, size=13).astype(float)  # with many ties
        y_3, cache_3 = ops.max_pool2d_forward(x_3.reshape(1, 1, 1, -1), (1, 3), stride=(1, 2))
        dy_3 = rng_3.standard_normal(y_3.shape)
        expected_3 = ops.max_pool2d_backward(dy_3, cache_3).reshape(-1)
        y_3, dy_3 = y_3.reshape(-1), dy_3.reshape(-1)
        found_3 = [collected(i, x_3, y_3, dy_3) for i in range(13)]
        assert None not in found_3, "dx[i] is None: is a `return` missing?"
        for i_3 in np.flatnonzero(~np.isclose(found_3, expected_3))[:1]:
            windows_3 = [r for r in range(len(y_3)) if 2 * r <= i_3 <= 2 * r + 2]
            ties_3 = sum(dy_3[r] for r in windows_3 if x_3[i_3] == y_3[r])
            if np.isclose(found_3[i_3], ties_3):
                cause_3 = "of equal inputs only the first one in a window wins"
            else:
                cause_3 = f"input {i_3} lies in the windows {windows_3}: which of them did it win?"
            wrong_3 = f"dx[{i_3}] is {found_3[i_3]:.3f}, not {expected_3[i_3]:.3f}"
            raise AssertionError(f"{x_3}: {wrong_3} ({cause_3})")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def collected(i, x, y, dy):
#     total = 0.0
#     for r in range(len(y)):
#         earlier = x[2 * r : i] if 2 * r <= i <= 2 * r + 2 else None
#         if earlier is not None and x[i] == y[r] and all(value != y[r] for value in earlier):
#             total += dy[r]
#     return total
# ```
#
# A kernel would not try all windows: only `r = (i - 1) // 2` and `i // 2` can hold input `i`.
#
# </details>

# %% [markdown]
# ## Sources
#
# - S. Williams, A. Waterman, D. Patterson: *Roofline: an insightful visual performance model for multicore
#   architectures*. Communications of the ACM 52(4), 65-76, 2009.
# - A. Lavin, S. Gray: *Fast algorithms for convolutional neural networks*, 2015, arXiv:1509.09308: Winograd's method,
#   and its transforms fused on a GPU.
# - CuPy: [user-defined kernels](https://docs.cupy.dev/en/stable/user_guide/kernel.html), and
#   [performance](https://docs.cupy.dev/en/stable/user_guide/performance.html).
# - The RTX 4060 Laptop's data after [data-check.eu](https://data-check.eu/en/nvidia-geforce-rtx-4060-laptop-gpu/).
#
# ---
# This is the last notebook. Every operation that ran on that GPU stands in `tinyfcn/ops`, and if you have done the exercises,
# you have written the backward passes of most of them yourself.
