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
# # 10. Speed
#
# Four programs were asked what VGG16's second layer, conv1_2, makes of Chelsea. They do the same five billion
# multiplications, and their answers are the same, up to rounding. The pictures show how far each of them had come at the
# moment when the quickest was done. What is grey had still to be computed.

# %% tags=["setup", "hide-input"]
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from unittest import mock

import numpy as np

from tinyfcn import ops, parallel
from tinyfcn.backend import describe_device, hwnc, thread_count
from tinyfcn.lesson import (
    BLUE,
    COLOURS,
    GREEN,
    ORANGE,
    RED,
    SKY,
    attempt,
    expect,
    fastest,
    photograph,
    plt,
    recorded,
    seconds,
    see,
    show_source,
    switched,
    vgg16,
)
from tinyfcn.models import FCN8s
from tinyfcn.models.backbone import Backbone
from tinyfcn.models.border import borders
from tinyfcn.models.vgg import VGG
from tinyfcn.ops import columns, taps
from tinyfcn.optim import SGD

rng = np.random.default_rng(0)
plt.rcParams["figure.constrained_layout.h_pad"] = 0.08  # inches, below a figure's title


def normal(*shape):
    return rng.standard_normal(shape, np.float32)


def peak_bytes(call):
    """The most memory that arrays took at a time during a call, on top of what was there."""
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


# %% tags=["setup", "hide-input"]
def im2col(x, kh, kw, padding=0):
    """All columns (C_in kh kw, N H_out W_out) at stride 1, as in notebook 2."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height, width = x.shape[2] - kh + 1, x.shape[3] - kw + 1
    columns = np.empty((x.shape[1], kh, kw, len(x), height, width), x.dtype)
    for i, j in np.ndindex(kh, kw):
        columns[:, i, j] = x[:, :, i : i + height, j : j + width].swapaxes(0, 1)
    return columns.reshape(x.shape[1] * kh * kw, -1)


def whole(x, w, b):
    """One matrix of columns, one product."""
    y = w.reshape(len(w), -1) @ im2col(x, 3, 3, padding=1) + b[:, None]
    return y.reshape(len(w), len(x), *x.shape[2:]).swapaxes(0, 1)


def package(x, w, b):
    return ops.conv2d_forward(x, w, b, padding=1)[0]


def loops(x, w, b, outputs):
    """The first few outputs by the definition, in Python."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    found = []
    for c in range(outputs):
        total = b[0]
        for k, i, j in np.ndindex(w.shape[1:]):
            total += w[0, k, i, j] * padded[0, k, i, c + j]
        found.append(total)
    return found


# %% tags=["hide-input"] alt="One layer's output after the same time, in four ways: loops have nothing, all columns at once and bands on one thread a part, and bands on all cores the whole cat"
VGG16_FILE = os.environ.get("TINYFCN_VGG16", "vgg16_notop.h5")  # VGG16's weights: see README.md
vgg = vgg16(VGG16_FILE)
seen = see(vgg, photograph(), last="conv1_1")["conv1_1"][None]
weight, bias = (vgg.params[f"conv1_2.{kind}"] for kind in ("weight", "bias"))


def in_bands(threads):
    def call():
        with switched(TINYFCN_CONV="columns", TINYFCN_THREADS=threads):
            return package(seen, weight, bias)

    return call


many = thread_count()
each = seconds(lambda: loops(seen[:, :, :3], weight, bias, 20), 3) / 20
answer = in_bands(many)()
took = {"loops, as in notebook 2": each * answer.size}
took |= fastest(
    {
        "all columns at once": lambda: whole(seen, weight, bias),
        "columns in bands, one thread": in_bands(1),
        "columns in bands, all cores": in_bands(many),
    },
    rounds=8,
)
end = min(took.values())
SHOWN = 29

figure, axes = plt.subplots(2, 2, figsize=(8, 5.9))
for axis, (name, t) in zip(axes.flat, took.items()):
    picture = np.maximum(answer[0, SHOWN], 0)
    done = round(min(end / t, 1) * picture.shape[0])
    axis.imshow(picture, cmap="gray", vmax=np.percentile(picture, 99.5))
    axis.axhspan(done - 0.5, picture.shape[0] - 0.5, color="0.75")
    share = f"{1e3 * t:.0f} ms" if t < 10 else f"{t / 60:.0f} minutes"
    axis.set_title(f"{name}: {share}", fontsize=10)
    axis.axis("off")
figure.suptitle(f"One layer, stopped after {1e3 * end:.0f} milliseconds")
plt.show()
loops_done = end / took["loops, as in notebook 2"] * answer.size
print(f"By then the loops have {loops_done:.0f} of {answer.size / 1e6:.1f} million numbers.")
assert np.allclose(answer, whole(seen, weight, bias), atol=1e-3 * answer.max())
assert took["loops, as in notebook 2"] > 1000 * end

# %% [markdown]
# The first program's picture is not quite empty, but what it has would not fill a row. It is the seven loops of
# [Convolution](02_convolution.ipynb), and the time above it is given in minutes. The second builds the matrix of columns
# that you know from there. The third and the fourth never have more than a few rows of it at a time.
#
# None of them saves a single multiplication. So what is it that takes more than half an hour in one of them and a tenth of a
# second in another, if it is not the arithmetic? And how do you find out, for a layer or for a whole training step, what takes the
# time, before you try to make it faster?
#
# Takes about 55 minutes. It builds on [Convolution](02_convolution.ipynb), and towards the end on [FCN](07_fcn.ipynb) and
# [Training](09_training.ipynb).
#
# ## How fast can it be at all?
#
# Before you make anything faster, ask for the limit. Two numbers describe a processor well enough: how many
# floating-point operations per second it does in the best case, a product of large matrices, and how many bytes per
# second it moves from and to memory.

# %%
a, b = normal(1536, 1536), normal(1536, 1536)
source, target = np.ones(1 << 25, np.float32), np.empty(1 << 25, np.float32)
taken = fastest({"product": lambda: a @ b, "copy": lambda: np.copyto(target, source)})
peak = 2 * 1536**3 / taken["product"]  # each entry: 1536 multiplications and as many additions
bandwidth = 2 * source.nbytes / taken["copy"]  # read and written
print(describe_device(np))
print(f"arithmetic {peak / 1e9:.0f} GFLOP/s, memory {bandwidth / 1e9:.1f} GB/s:", end=" ")
print(f"{peak / bandwidth:.0f} operations for each byte")

# %% [markdown]
# Work that does fewer operations on each byte than this ratio waits for memory, and work that does more waits for
# arithmetic. This picture of a machine is called its **roofline** (Williams, Waterman and Patterson 2009).
#
# **Predict.** A 3x3 convolution from 64 channels to 64, at 128x128: which side is it on? And ReLU, which does one
# operation on each number that it reads and writes?

# %% tags=["hide-output"]
C, SIDE = 64, 128
x, w, b = normal(1, C, SIDE, SIDE), normal(C, C, 3, 3) / 24, normal(C)
y, cache = ops.conv2d_forward(x, w, b, padding=1)
operations = 2 * 9 * C * C * SIDE * SIDE
moved = x.nbytes + w.nbytes + y.nbytes
print(f"convolution: {operations / moved:.0f} operations a byte, ReLU: {1 / 8}")
print(f"convolution: {1e3 * operations / peak:.1f} ms of arithmetic,", end=" ")
print(f"{1e3 * moved / bandwidth:.1f} ms of memory")

# %% tags=["hide-input", "hide-output"] alt="Operations per second over operations for each byte, below a roof: ReLU and pooling at its slope, convolutions at its flat part"
w1, b1 = normal(21, C, 1, 1), normal(21)
layer_bytes = {
    "ReLU": (y.size, 2 * y.nbytes, lambda: ops.relu_forward(y)),
    "2x2 pooling": (y.size, 1.25 * y.nbytes, lambda: ops.max_pool2d_forward(y, 2)),
    "1x1 scores, 64 to 21": (
        2 * 21 * y.size,
        y.nbytes * 85 / 64,
        lambda: ops.conv2d_forward(y, w1, b1),
    ),
    "3x3, 64 to 64, columns": (operations, moved, lambda: ops.conv2d_forward(x, w, b, padding=1)),
    "3x3, 64 to 64, Winograd": (operations, moved, lambda: ops.conv2d_forward(x, w, b, padding=1)),
}
figure, axis = plt.subplots(figsize=(8, 4))
per_byte = np.geomspace(0.05, 1000, 400)
axis.plot(
    per_byte,
    np.minimum(peak, per_byte * bandwidth) / 1e9,
    color="0.4",
    label="the roof: what memory and arithmetic allow",
)
for (name, (count, size, call)), colour in zip(layer_bytes.items(), COLOURS):
    with switched(TINYFCN_CONV="columns" if "columns" in name else "fast"):
        axis.plot(
            count / size,
            count / fastest({name: call})[name] / 1e9,
            "o",
            ms=9,
            color=colour,
            label=name,
        )
axis.set(
    xscale="log",
    yscale="log",
    xlabel="operations for each byte that must be moved",
    ylabel="GFLOP/s",
)
axis.set_title("What layers reach, and the roof above them")
axis.legend(frameon=False, loc="lower right")
plt.show()

# %% [markdown]
# <details><summary>What the picture says</summary>
#
# Pooling and ReLU live on the slope, where no cleverness in their arithmetic would help, only moving less. That is why
# the convolution applies the ReLU itself, while its output is still in the cache (`relu=True`). (Such a layer may
# also stand above the slope, when its input still lies in the processor's cache from the layer before.)
#
# A 3x3 convolution lives under the flat part. Two ways lead up there: come closer to the roof, or *do fewer operations*.
# They are counted here by the definition of a convolution, so that a method that needs fewer can stand above the roof.
#
# </details>
#
# ## The ladder
#
# Here are six ways to do the same convolution: loops in Python; im2col as a whole; im2col in *bands*, a few rows of outputs at
# a time, on one thread and on all cores; and *Winograd's* method, which needs fewer multiplications and has the [next
# notebook](11_winograd.ipynb) to itself, on one thread and on all cores.

# %%
assert np.allclose(loops(x, w, b, 20), y[0, 0, 0, :20], atol=1e-4)
ladder = {
    "loops (20 outputs, multiplied)": seconds(lambda: loops(x[:, :, :3], w, b, 20), 3) * y.size / 20
}


def way(conv, threads):
    def call():
        with switched(TINYFCN_CONV=conv, TINYFCN_THREADS=threads):
            package(x, w, b)

    return call


calls = {"im2col whole, product on all cores": lambda: whole(x, w, b)}
for name, choice in ("im2col in bands", "columns"), ("Winograd in bands", "fast"):
    for threads in (1, many) if many > 1 else (1,):
        calls[f"{name}, {threads} thread{'s' * (threads > 1)}"] = way(choice, threads)
ladder |= fastest(calls, 30)

# %% [markdown]
# **Predict.** Between which two of them is the largest step?

# %% tags=["hide-input", "hide-output"] alt="Time of one layer on a logarithmic axis: loops far behind, then im2col whole and in bands, and Winograd on one thread and two"
figure, axis = plt.subplots(figsize=(8, 3))
colours = [RED, ORANGE, *[BLUE, BLUE, GREEN, GREEN][:: 1 if many > 1 else 2]]
bars = axis.barh(list(ladder), [1e3 * t for t in ladder.values()], color=colours)
words = [
    f"{t:.0f} s" if t > 1 else f"{1e3 * t:.1f} ms, {operations / t / 1e9:.0f} GFLOP/s"
    for t in ladder.values()
]
axis.bar_label(bars, words, padding=3)
axis.set(
    xscale="log",
    xlabel="milliseconds (logarithmic)",
    title="One layer: 64 to 64 channels, 3x3, 128x128",
)
axis.set_xlim(300 * min(ladder.values()), 1e4 * max(ladder.values()))
axis.invert_yaxis()

# %% tags=["hide-output"]
times = list(ladder.values())
assert times[0] > 500 * times[1] and times[1] > times[-1]
assert np.allclose(package(x, w, b), whole(x, w, b), atol=1e-4)
print(f"from the first to the last: {times[0] / times[-1]:,.0f} times")

# %% [markdown]
# <details><summary>Answer</summary>
#
# The first step is by far the largest, and it is not cleverness: it hands the inner loop to compiled code. All the
# others together are a factor of a few, and each took more thought than the one before. (Where two threads gain nothing
# over one, something else keeps the cores busy.) On maps as large as FCN's they matter more: the same table for 698x698
# stands in the docstring of `tinyfcn/ops/winograd.py`.
#
# </details>
#
# ## Bands: why not build all columns at once?
#
# The columns of this layer are nine times its input. They are written to memory and read back, which the roofline
# charges for. A **band** is a few rows of outputs: its columns are gathered, multiplied while they lie in the cache, and
# forgotten.

# %%
show_source(columns.forward)

# %% [markdown]
# Gather, multiply, add the bias, and ReLU, for one band after the other. `as_matrix` sees a band of the outputs as a
# matrix that the product can write to, which costs nothing, since outputs lie in memory pixel by pixel, as (H, W, N, C).
# `map_queue` deals the bands out to threads, of which more below.
#
# `BAND_BYTES` says how many bytes of columns a band has, 4 MB in the package. You can try other sizes.

# %%
budgets = [1 << k for k in range(18, 27)]


def banded(budget):
    def call():
        with (
            mock.patch.object(columns, "BAND_BYTES", budget),
            mock.patch.object(columns, "BAND_COLUMNS", 1),
        ):
            package(x, w, b)

    return call


with switched(TINYFCN_CONV="columns", TINYFCN_THREADS=1):
    taken = list(fastest({budget: banded(budget) for budget in budgets}).values())
    most = [peak_bytes(banded(budget)) - y.nbytes for budget in budgets]
most_of_whole = peak_bytes(lambda: whole(x, w, b)) - y.nbytes

# %% [markdown]
# **Predict.** What happens to time and memory with much smaller bands, and with much larger ones?

# %% tags=["hide-input", "hide-output"] alt="Time and memory over the size of a band: time has a shallow minimum, memory grows with the band"
figure, axes = plt.subplots(1, 2, figsize=(8, 3))
megabytes = [budget / 2**20 for budget in budgets]
axes[0].plot(megabytes, [1e3 * t for t in taken], "o-", color=BLUE)
axes[0].set(
    ylabel="milliseconds, one thread", title="Time: a shallow minimum", ylim=(0, 1.2e3 * max(taken))
)
axes[1].plot(megabytes, [m / 2**20 for m in most], "o-", color=BLUE, label="in bands")
axes[1].axhline(most_of_whole / 2**20, color=ORANGE, label="im2col whole")
axes[1].set(ylabel="MiB besides x and y", title="Memory: that of two bands", yscale="log")
axes[1].legend(frameon=False)
for axis in axes:
    axis.axvline(columns.BAND_BYTES / 2**20, color="0.6", ls=":")
    axis.set(xscale="log", xlabel="MiB of columns in a band")
figure.suptitle("The size of a band (dotted: the package's choice)")
plt.show()

# %% tags=["hide-output"]
chosen = most[megabytes.index(4)]
print(f"besides x and y: whole {most_of_whole / 2**20:.0f} MiB, in bands {chosen / 2**20:.1f} MiB")
assert chosen < most_of_whole / 3

# %% [markdown]
# <details><summary>Answer</summary>
#
# In time there is a shallow minimum. Small bands need more calls, and the columns of large ones have left the cache
# before they are read; the exact number hardly matters. Memory is that of two bands, as the next one is gathered before
# the last one is let go, and so it is *bounded*.
#
# </details>
#
# The columns of conv1_2 of FCN at 500x500 would take 1.1 GB as a whole. In bands they take a few megabytes for each
# thread, however large the image is.
#
# ## Why does freed memory stay with the process?
#
# **Predict.** Writing ones into an array takes a while. Does it matter whether the array was just allocated?

# %% tags=["hide-output"]
code = """
import time
import numpy as np
from tinyfcn import parallel

{policy}
spent = []
for _ in range(9):
    start = time.perf_counter()
    np.empty(1 << 23, np.float32).fill(1)
    spent.append(time.perf_counter() - start)
print(1e3 * sorted(spent)[4])
"""
for title, policy in ("as it comes", ""), ("freed memory is kept", "parallel.prepare()"):
    fresh = subprocess.run(
        [sys.executable, "-c", code.format(policy=policy)],
        capture_output=True,
        text=True,
        check=True,
    )
    print(f"{title:20}: {float(fresh.stdout):5.1f} ms to fill a new array of 32 MiB")

# %% [markdown]
# <details><summary>Answer</summary>
#
# It does. On Linux, freed blocks of this size go back to the system, and the next array consists of fresh pages, each
# of which is cleared at its first touch. For a layer's output this can take as long as computing it.
#
# </details>
#
# So the package asks the C library to keep what was freed (`parallel.prepare`; other systems have other policies, and
# there the two times may be alike). Within bands, scratch arrays are allocated once and used for all bands.
#
# ## Threads
#
# Bands do not depend on each other, so they can run on several cores. Python's interpreter lock is no obstacle, since
# NumPy lets go of it inside its functions, where nearly all of the time goes. The matrix product has threads of its own,
# which are held to one meanwhile, so that they do not compete.

# %%
show_source(parallel.map_shares, parallel.map_queue, parallel.run_shares)

# %% [markdown]
# There are two ways here to share out work. `map_shares` cuts the list into equal shares. `map_queue` gives all threads
# *the same iterator*, so that whoever is free takes the next piece.
#
# **Predict.** One of the bands takes five times as long as the others. How do the two ways cope?


# %% tags=["hide-input", "hide-output"] alt="Work of two threads as bars in time: with equal shares one waits for the other, with a queue both end nearly together"
def run_bands(deal, lengths):
    """Work off bands of these lengths, in ms; returns who did which, from when to when."""
    spans, begin = [], time.perf_counter()

    def work(todo):
        for band in todo:
            start = time.perf_counter() - begin
            time.sleep(1e-3 * lengths[band])  # as NumPy does, it lets go of the interpreter
            spans.append((threading.get_ident(), band, start, time.perf_counter() - begin))

    deal(np, work, range(len(lengths)))
    return spans


lengths = [50, *[10] * 9]
figure, axes = plt.subplots(2, 1, figsize=(8, 3), sharex=True)
ends = {}
with switched(TINYFCN_THREADS=2):
    ways = {
        "map_shares: equal shares": parallel.map_shares,
        "map_queue: the next piece": parallel.map_queue,
    }
    for axis, (name, deal) in zip(axes, ways.items()):
        tries = [run_bands(deal, lengths) for _ in range(3)]  # the least disturbed one counts
        spans = min(tries, key=lambda spans: max(span[3] for span in spans))
        names = list(
            dict.fromkeys(thread for thread, *_ in sorted(spans, key=lambda span: span[2]))
        )
        for thread, band, start, end in spans:
            axis.barh(
                names.index(thread),
                1e3 * (end - start),
                left=1e3 * start,
                color=COLOURS[band % 6],
                ec="white",
            )
            axis.text(
                500 * (start + end),
                names.index(thread),
                band,
                ha="center",
                va="center",
                color="white",
                size=9,
            )
        axis.set_yticks(range(len(names)), [f"thread {k + 1}" for k in range(len(names))])
        axis.set_title(name)
        axis.invert_yaxis()
        ends[name] = max(span[3] for span in spans)
axes[1].set(xlabel="milliseconds")
plt.show()

# %% tags=["hide-output"]
share, free = ends.values()
print(f"equal shares {1e3 * share:.0f} ms, the next piece {1e3 * free:.0f} ms")
assert free < 0.9 * share

# %% [markdown]
# <details><summary>Answer</summary>
#
# With equal shares one thread is done early and has nothing to do. With `map_queue` it takes what is left, and it copes
# with a core that is busy with something else in the same way.
#
# </details>
#
# But *who did what* then depends on chance. Where the order of additions matters, as it does for the sums of dw in
# floating point, the package uses `map_shares`: results are then the same to the bit in every run with the same number
# of threads.

# %%
dy = normal(*y.shape)
first, second = (
    ops.conv2d_backward(dy, ops.conv2d_forward(x, w, b, padding=1)[1]) for _ in range(2)
)
assert all(np.array_equal(one, other) for one, other in zip(first, second))

# %% [markdown]
# ## Why is a padded fc6 cheaper tap by tap?
#
# With `padding="same"`, fc6 has a 7x7 kernel and a padding of 3. A training crop of 128x128 arrives there as a map of
# **4x4**, so that most of the kernel hangs over the border.
#
# **Predict.** How many of a window's 49 taps lie on the map? Does it matter which of the 16 outputs it belongs to?

# %% tags=["hide-output"]
met = np.zeros((4, 4), int)
for r, c, i, j in np.ndindex(4, 4, 7, 7):
    met[r, c] += 0 <= r + i - 3 < 4 and 0 <= c + j - 3 < 4
print(met)
print(f"{met.mean():g} of 49: {met.mean() / 49:.3f} = (16 / 28)^2 = {(16 / 28) ** 2:.3f}")
assert (met == 16).all()

# %% [markdown]
# <details><summary>Answer</summary>
#
# Every output sees the whole map, and 33 zeros. (Along one axis, 4 outputs with 7 taps each are 28 pairs, of which 16 meet
# the map. In two dimensions the share is the square of that.)
#
# </details>

# %% tags=["hide-input"] alt="Windows of two outputs over a 4x4 map, and for how many of 16 outputs each of 7x7 taps lies on it: 1 at the corners, 16 in the middle"
by_tap = np.zeros((7, 7), int)
for i, j in np.ndindex(7, 7):
    by_tap[i, j] = sum(0 <= r + i - 3 < 4 and 0 <= c + j - 3 < 4 for r, c in np.ndindex(4, 4))
figure, axes = plt.subplots(1, 2, figsize=(8, 3.5))
axis = axes[0]
axis.add_patch(plt.Rectangle((-0.5, -0.5), 4, 4, fc=SKY, ec="none"))
for corner, colour in ((-3, -3), RED), ((0, -2), ORANGE):
    axis.add_patch(
        plt.Rectangle((corner[0] - 0.5, corner[1] - 0.5), 7, 7, fill=False, ec=colour, lw=2.5)
    )
axis.set(xlim=(-4, 7), ylim=(7, -4), aspect="equal", xlabel="column", ylabel="row")
axis.set(xticks=range(-4, 7, 2), yticks=range(-4, 7, 2))
axis.set_title("The 4x4 map, and the windows of\ntwo of its outputs")
axes[1].imshow(by_tap)
for (i, j), count in np.ndenumerate(by_tap):
    axes[1].text(j, i, count, ha="center", va="center", color="white" if count < 10 else "black")
axes[1].set(
    title="For how many of the 16 outputs\neach tap lies on the map", xlabel="tap j", ylabel="tap i"
)
plt.show()

# %% [markdown]
# im2col gathers all 49 taps, and so it multiplies zeros two times out of three. Put the sum over the taps *outside*
# instead, and each tap is a matrix product over those outputs for which it lies on the map. This is fastest where the
# weights of a tap are one matrix in memory, which is why such a layer's weights are kept in the order
# (kh, kw, C_out, C_in).

# %%
show_source(taps.forward, taps.meetings)

# %% tags=["hide-input"] alt="Time of fc6 forward and backward, by columns and tap by tap: tap by tap is faster in both"
x6, w6, b6 = normal(8, 128, 4, 4), normal(1024, 128, 7, 7) / 80, normal(1024)
tap_by_tap = hwnc(np.ascontiguousarray(hwnc(w6)))  # the same numbers in another order


def both_ways(weight, choice):
    """Calls of the forward and the backward pass."""
    with switched(TINYFCN_CONV=choice):
        y6, cache6 = ops.conv2d_forward(x6, weight, b6, padding=3)
    dy6 = np.ones_like(y6)

    def forward():
        with switched(TINYFCN_CONV=choice):
            ops.conv2d_forward(x6, weight, b6, padding=3)

    def backward():
        with switched(TINYFCN_CONV=choice):
            ops.conv2d_backward(dy6, cache6)

    return forward, backward


calls = {}
for name, weight, choice in ("columns", w6, "columns"), ("tap by tap", tap_by_tap, "fast"):
    for way_name, call in zip(("forward", "backward"), both_ways(weight, choice)):
        calls[name, way_name] = call
took = fastest(calls)
fc6 = {n: [took[n, d] for d in ("forward", "backward")] for n in ("columns", "tap by tap")}
with switched(TINYFCN_CONV="columns"):
    one, _ = ops.conv2d_forward(x6, w6, b6, padding=3)
other, _ = ops.conv2d_forward(x6, tap_by_tap, b6, padding=3)
assert np.allclose(one, other, atol=1e-4)

figure, axis = plt.subplots(figsize=(8, 2.4))
for k, (name, pair) in enumerate(fc6.items()):
    bars = axis.barh(
        np.arange(2) + 0.38 * k - 0.19,
        [1e3 * t for t in pair],
        0.36,
        color=[ORANGE, GREEN][k],
        label=name,
    )
    axis.bar_label(bars, fmt="%.1f", padding=3)
axis.set_yticks([0, 1], ["forward", "backward"])
axis.set(xlabel="milliseconds", title="fc6 at a quarter of the width, 8 maps of 4x4")
axis.invert_yaxis()
axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# There are three times fewer multiplications. Less is won in time, some 1.3 times forward and 2.3 times backward on two idle
# cores, since all 26 MB of weights must be read either way.
#
# ## What 100 zeros make constant
#
# The paper's networks pad the image by 100 ([why](05_upsampling.ipynb#Why-pad-by-100?)). Far from the image, a feature
# map sees nothing but zeros, so that all of its rows are the same there, and so are its columns. Here is one channel of
# pool2 of a small FCN, on an image of noise.

# %% tags=["hide-input"] alt="A channel of pool2, bright in its middle; where it is constant; and where it equals the next row or column: all of the border"
net = FCN8s(num_classes=5, width=0.125, padding="paper", dropout=0)
for name, p in net.params.items():
    # They are zeros at the start, and then nothing would be there to see.
    if name.endswith("bias") or name.startswith("score"):
        p[...] = 0.1 * normal(*p.shape)
image = normal(1, 3, 128, 128)


def full_borders(self, padding):
    """Without the trick: every block with all of its border."""
    return [padding] * len(self.blocks), [None] * len(self.blocks)


maps = {}
with mock.patch.object(Backbone, "borders", full_borders):
    pool = FCN8s.pool
    with mock.patch.object(
        FCN8s, "pool", lambda self, name, *rest: maps.setdefault(name, pool(self, name, *rest))
    ):
        plain_scores = net.forward(image)
    without = fastest({"full": lambda: net.forward(image)})["full"]

narrow, stretches = borders([2, 2, 3, 3, 3], 100)
pool2 = maps["pool2"][0]
before, _ = stretches[1].places(128)  # the row, and the column, that will be repeated
constant = pool2[:, before, before]  # what stands where nothing but zeros is seen
same_row = abs(np.diff(pool2, axis=1)).max(axis=(0, 2)) < 1e-5
same_column = abs(np.diff(pool2, axis=2)).max(axis=(0, 1)) < 1e-5
figure, axes = plt.subplots(1, 3, figsize=(8, 3.1))
axes[0].imshow(pool2[pool2.var(axis=(1, 2)).argmax()])
axes[0].set_title("One channel of pool2")
axes[1].imshow(abs(pool2 - constant[:, None, None]).max(axis=0) < 1e-5, cmap="Greys", vmax=2)
axes[1].set_title("Grey: a constant")
axes[2].imshow(same_row[:, None].astype(float) + same_column, cmap="Greens", vmin=0, vmax=3)
axes[2].set_title("Green: same as the next\nrow; or column; or both")
for axis in axes:
    axis.set(xlabel="column", ylabel="row")
assert same_row[before] and same_column[before]
plt.show()

# %% [markdown]
# (The outermost pixels differ, as all layers but the first pad with zeros what is no longer zero.)
#
# So the first blocks need not compute them again and again. They run with a narrower border, and then one constant row, and
# one column, are repeated until the map is as wide as it should be. How narrow the border may be follows from receptive
# fields, in `tinyfcn/models/border.py`.
#
# **Predict.** How much of the first block's work does this save for an image of 500x500, whose map has 698x698 pixels?

# %% tags=["hide-output"]
print("borders of the five blocks:", narrow)
for size in 128, 500:
    sides = [
        [VGG.map_sizes(border, 0, size)[f"conv{block}_1"] for border in (narrow[block - 1], 100)]
        for block in (1, 2, 3)
    ]
    left = [(few / all_) ** 2 for few, all_ in sides]
    print(
        f"{size}x{size}: saves",
        ", ".join(f"{1 - share:.0%}" for share in left),
        "of blocks 1, 2 and 3",
    )

# %%
scores = net.forward(image)
with_it = fastest({"narrow": lambda: net.forward(image)})["narrow"]
assert (
    np.allclose(scores, plain_scores, rtol=0, atol=1e-4 * abs(scores).max())
    and abs(scores).max() > 0
)
print(f"a forward pass on 128x128: {1e3 * without:.0f} ms without, {1e3 * with_it:.0f} ms with it")
assert narrow[0] < 10 and narrow[-1] == 100

# %% [markdown]
# The scores are the same, and the package's tests compare the gradient of every parameter, too. The fastest work is the
# work that is not done.
#
# ## Where does the time of a training step go?
#
# To measure it, wrap the methods of `Network` that run a layer, and note the time. The case is one for a laptop: a
# quarter of the width, and 8 crops of 128x128.

# %% tags=["hide-input"]
METHODS = ["conv", "pool", "dropout", "upsample", "upsample_to_image", "add"]


class Watched(FCN8s):
    """FCN8s with a stopwatch around each layer: spent[layer] = [forward, backward]."""


def watch(method, way):
    def timed(self, name, *rest, **options):
        started = time.perf_counter()
        try:
            return method(self, name, *rest, **options)
        finally:
            self.spent.setdefault(name, [0.0, 0.0])[way] += time.perf_counter() - started

    return timed


for name in METHODS:
    setattr(Watched, name, watch(getattr(FCN8s, name), 0))
    setattr(Watched, f"{name}_backward", watch(getattr(FCN8s, f"{name}_backward"), 1))

# %%
images, labels = normal(8, 3, 128, 128), rng.integers(0, 21, (8, 128, 128))
net, optimiser = Watched(width=0.25, padding="same", dropout=0.5), SGD(1e-3)


def step():
    """One step; returns the seconds of its four parts, and those of the layers."""
    net.spent = {}
    marks = [time.perf_counter()]
    scores = net.forward(images, training=True)
    marks.append(time.perf_counter())
    _, cache = ops.softmax_cross_entropy_forward(scores, labels)
    dscores = ops.softmax_cross_entropy_backward(1.0, cache)
    marks.append(time.perf_counter())
    net.backward(dscores)
    marks.append(time.perf_counter())
    optimiser.step(net.params, net.grads)
    marks.append(time.perf_counter())
    return np.diff(marks), net.spent


rounds = [step() for _ in range(12)]
forward, loss, backward, update = np.min([parts for parts, _ in rounds], axis=0)  # the best of each
spent = {name: np.min([layers[name] for _, layers in rounds], axis=0) for name in net.spent}

# %% [markdown]
# **Predict.** conv1_2 works on 128x128 maps of 16 channels, conv5_3 on 8x8 maps of 128. fc6 has 6.4 million weights. Which
# of them takes longest? And how much is spent on everything that is no convolution?

# %% tags=["hide-input", "hide-output"] alt="Time of each layer in a training step, forward and backward: conv1_2 and fc6 take most"
total = forward + loss + backward + update
print(f"a step: {1e3 * total:.0f} ms, of which", end=" ")
print(f"forward {1e3 * forward:.0f}, loss {1e3 * loss:.0f},", end=" ")
print(f"backward {1e3 * backward:.0f}, update {1e3 * update:.0f}")

kinds = {
    "3x3 convolutions": [n for n in spent if n.startswith("conv")],
    "fc6 and fc7": ["fc6", "fc7"],
}
kinds["pooling"] = [n for n in spent if n.startswith("pool")]
kinds["scores and upsampling"] = [n for n in spent if n.startswith(("score", "upscore"))]
kinds["dropout"] = [n for n in spent if n.startswith("drop")]
rows = list(spent)
figure, axis = plt.subplots(figsize=(8, 6.2))
axis.barh(rows, [1e3 * spent[n][0] for n in rows], color=BLUE, label="forward")
axis.barh(
    rows,
    [1e3 * spent[n][1] for n in rows],
    left=[1e3 * spent[n][0] for n in rows],
    color=ORANGE,
    label="backward",
)
axis.barh(["loss", "SGD"], [1e3 * loss, 1e3 * update], color="0.6", label="outside the network")
axis.set(
    xlabel="milliseconds of a step",
    title="Where a training step's time goes: FCN-8s, width 1/4, 8x3x128x128",
)
axis.tick_params(axis="y", labelsize=9)
axis.invert_yaxis()
axis.legend(frameon=False)
plt.show()

# %% tags=["hide-output"]
sums = {kind: sum(spent[n].sum() for n in layers) for kind, layers in kinds.items()} | {
    "loss": loss,
    "SGD": update,
}
for kind, value in sums.items():
    print(f"{kind:22} {value / sum(sums.values()):4.0%}")
assert sums["3x3 convolutions"] == max(sums.values())
forward_3x3, backward_3x3 = sum(spent[n] for n in kinds["3x3 convolutions"])
assert backward_3x3 > forward_3x3

# %% [markdown]
# <details><summary>Answer</summary>
#
# The 3x3 convolutions take the largest part. conv1_2 stands out: its map is the largest of all, and with 16 channels
# Winograd's method saves little (the next notebook shows why). fc6 comes next, with more weights than all others together.
# Backward takes longer than forward, since it owes *two* gradients, each as much work as the forward pass. The rest is spread
# thinly over everything else, and there each further gain would be a small one.
#
# </details>
#
# **Measure before you change.** Most ideas for speed fail here: they make something faster that takes two percent.
#
# ## Memory: what is alive at the worst moment?
#
# In training, each layer keeps a reference to its input, which is needed in the backward pass and let go right after.
# Gradients of weights can be let go, too: `backward(dscores, update=...)` hands each gradient to the optimiser as soon
# as it is final, so that they never exist all at once. Here is a step written both ways.

# %%
net = FCN8s(width=0.25, padding="same", dropout=0.5)
optimiser = SGD(1e-3)


def step_keeping():
    scores = net.forward(images[:2], training=True)
    _, cache = ops.softmax_cross_entropy_forward(scores, labels[:2])
    net.backward(ops.softmax_cross_entropy_backward(1.0, cache))
    optimiser.step(net.params, net.grads)


def step_at_once():
    net.grads = {}
    scores = net.forward(images[:2], training=True)
    _, cache = ops.softmax_cross_entropy_forward(scores, labels[:2])
    net.backward(
        ops.softmax_cross_entropy_backward(1.0, cache), update=optimiser.begin(net.trainable())
    )


# %% [markdown]
# **Predict.** fc6 of this network has 26 MB of weights. What is the peak of a step, with and without `update`?

# %% tags=["hide-input", "hide-output"] alt="Memory of a forward pass, of a step with updates on the way, and of a step that keeps all gradients: each more than the last"
step_keeping()  # the optimiser's own state is there from now on
net.grads = {}
peaks = {"forward only": peak_bytes(lambda: net.forward(images[:2]))}
peaks |= {
    "step, update= given": peak_bytes(step_at_once),
    "step, all gradients kept": peak_bytes(step_keeping),
}
weights = sum(p.nbytes for p in net.params.values())

figure, axis = plt.subplots(figsize=(8, 2))
bars = axis.barh(list(peaks), [v / 1e6 for v in peaks.values()], color=[SKY, GREEN, ORANGE])
axis.bar_label(bars, fmt="%.0f MB", padding=3)
axis.set_xlabel("MB at the worst moment, besides weights and the optimiser's state")
axis.set_xlim(0, max(peaks.values()) / 8e5)
axis.set_title(f"Two crops of 128x128 (the weights: {weights / 1e6:.0f} MB)")
axis.invert_yaxis()
plt.show()
assert peaks["forward only"] < peaks["step, update= given"] < peaks["step, all gradients kept"]

# %%
full = sum(
    4 * np.prod(shape)
    for name, shape in FCN8s.shapes(21, 1.0).items()
    if not name.startswith("upscore")
)
print(f"all gradients of the full network: {full / 1e6:.0f} MB")
assert round(full / 1e6) == 537

# %% [markdown]
# That is what the full network would have to keep beside its weights. With `update`, what is left is the largest single gradient,
# fc6's, and what the layers keep. The results are the same, as each parameter is changed once, by the same gradient.

# %%
kept, at_once = (FCN8s(num_classes=21, width=0.125, padding="same", dropout=0) for _ in range(2))
for net, update_now in (kept, False), (at_once, True):
    optimiser = SGD(1e-3)
    (step_at_once if update_now else step_keeping)()
assert all(np.array_equal(kept.params[name], at_once.params[name]) for name in kept.params)
assert kept.grads and not at_once.grads

# %% [markdown]
# ## Switching it all off
#
# When a result looks wrong, you may wonder whether a clever method is to blame. Every fast way can be turned off, with
# two environment variables:
#
# - `TINYFCN_CONV=plain` computes every convolution as in `tinyfcn/ops/conv.py`, the way that is easiest to read, with all
#   of its columns at once; `TINYFCN_CONV=columns` does so in bands,
# - `TINYFCN_THREADS=1` uses one thread.
#
# **Predict.** Do all combinations give the same gradients? To the bit?


# %% tags=["hide-output"]
def gradients(net, count):
    """Scores, and the gradient of every parameter, on some of the images."""
    scores = net.forward(images[:count].astype(net.dtype), training=True)
    _, cache = ops.softmax_cross_entropy_forward(scores, labels[:count])
    net.backward(ops.softmax_cross_entropy_backward(1.0, cache))
    return {"scores": scores, **net.grads}


def apart(found, others):
    return max(abs(found[n] - others[n]).max() / abs(others[n]).max() for n in found)


nets = {
    dtype: FCN8s(width=0.25, padding="same", dropout=0, dtype=dtype)
    for dtype in (np.float32, np.float64)
}
for net in nets.values():
    net.params["score_fr.weight"][...] = 0.01 * np.random.default_rng(1).normal(
        size=net.params["score_fr.weight"].shape
    )
first_single = None
for choice in "plain", "columns", "fast":
    for threads in (1, many) if many > 1 else (1,):
        with switched(TINYFCN_CONV=choice, TINYFCN_THREADS=threads):
            single, double = gradients(nets[np.float32], 4), gradients(nets[np.float64], 1)
            again = gradients(nets[np.float32], 4)
            assert apart(again, single) == 0  # the same run twice: the same bits
            took = seconds(lambda: gradients(nets[np.float32], 4), 3)
        if first_single is None:
            first_single, first_double = single, double
        scores = apart({"scores": single["scores"]}, first_single)
        print(f"{choice:7}, threads: {threads}, {1e3 * took:4.0f} ms.", end=" ")
        print(f"Apart from the first: scores {scores:.0e} (float32),")
        print(f"    gradients {apart(single, first_single):.0e} (float32),", end=" ")
        print(f"{apart(double, first_double):.0e} (float64)")
        assert scores < 1e-4 and apart(double, first_double) < 1e-12

# %% [markdown]
# <details><summary>Answer</summary>
#
# They are the same to the bit from run to run, and the same up to rounding between the ways, to 14 digits in float64.
#
# </details>
#
# Why do gradients in float32 differ by so much more than the scores? Scores are continuous, and gradients are not. Among
# millions of activations a few lie so close to a kink, a ReLU at zero or a tie in a pooling window, that rounding decides
# which side they are on, and there the gradient jumps. Either side is right. In float64 rounding is too small to move
# any of them across.
#
# ## Is it faster than PyTorch?
#
# `python -m tinyfcn.bench` runs every contender in a process of its own. What it wrote on two cores lies in
# `data/results`, and the page `docs/speed.md` has it as a table. Here is the whole net:

# %%
results = recorded("bench-cpu")["results"]
for mode in "forward", "training":
    work = f"FCN-8s {mode}, 1x3x500x500, width 1"
    took = {r["contender"]: r["median_seconds"] for r in results if r["work"] == work}
    others = [
        f"{took['tinyfcn'] / took[name]:.2f} of {name}'s"
        for name in ("PyTorch", "ONNX Runtime")
        if name in took
    ]
    print(f"{work}: {took['tinyfcn']:.2f} s, which is {' and '.join(others)} time")

# %% [markdown]
# Plain NumPy can compete because the matrix product inside it is as good as anyone's, and all that is left is to call it
# on the right numbers, few of them, while they are in the cache. Where maps are small, calls cost more than arithmetic,
# and less of the advantage is left: see the picture on that page.

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: a convolution in bands
#
# Convolve x (N, C_in, H, W) with w (C_out, C_in, k, k) at stride 1 without padding, gathering the columns of only `rows` rows
# of outputs at a time. `im2col(x, kh, kw)` is there to be used. The check watches the memory.
#
# <details><summary>Hint 1</summary>
#
# A band of outputs, rows `top` to `bottom`, sees a few more rows of x than it has rows itself. How many more, for a kernel of
# k?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `w.reshape(len(w), -1) @ columns` is the band, with one row for each output channel. Its columns run over images, rows and
# columns, in this order, so reshape it to (C_out, N, bottom - top, W_out), and swap the first two axes. The last band may
# be shorter.
#
# </details>


# %% tags=["exercise"]
def conv_in_bands(x, w, rows):
    """y (N, C_out, H - k + 1, W - k + 1)."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng_1 = np.random.default_rng(1)
    cases_1 = [((1, 4, 40, 30), 3, 5), ((2, 3, 41, 20), 5, 4), ((1, 8, 64, 64), 3, 1)]
    for shape_1, k_1, rows_1 in cases_1:
        a, kernels_1 = rng_1.normal(size=shape_1), rng_1.normal(size=(6, shape_1[1], k_1, k_1))
        right = ops.conv2d_forward(a, kernels_1)[0]
        case = f"y (x {shape_1}, kernel {k_1}x{k_1}, {rows_1} rows a band)"
        expect(conv_in_bands(a, kernels_1, rows_1), right, case)
        all_columns = 8 * shape_1[1] * k_1**2 * right[:, 0].size
        most_1 = peak_bytes(lambda: conv_in_bands(a, kernels_1, rows_1)) - right.nbytes
        assert most_1 < all_columns / 2, (
            f"{case} is right, but took {most_1} bytes besides; all columns have {all_columns}: "
            "are they all gathered before they are cut into bands?"
        )

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def conv_in_bands(x, w, rows):
#     k = w.shape[2]
#     height, width = x.shape[2] - k + 1, x.shape[3] - k + 1
#     y = np.empty((len(x), len(w), height, width), x.dtype)
#     for top in range(0, height, rows):
#         bottom = min(top + rows, height)
#         columns = im2col(x[:, :, top : bottom + k - 1], k, k)
#         band = w.reshape(len(w), -1) @ columns
#         y[:, :, top:bottom] = band.reshape(len(w), len(x), bottom - top, width).swapaxes(0, 1)
#     return y
# ```
#
# A band of outputs sees k - 1 more rows of inputs than it has rows. Neighbouring bands read those twice, which is the price.
#
# </details>

# %% [markdown]
# ### Exercise 2: the share of taps that meet the map
#
# A convolution at stride 1 over a map of `size` x `size`, with a `kernel` x `kernel` window and `padding` on each side. Which
# share of im2col's multiplications is with pixels, and not with padding?
#
# <details><summary>Hint 1</summary>
#
# Rows and columns do not depend on each other. Which share of the pairs (output, tap) meets the map along one axis?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Tap i of output r meets row r + i - padding, which is on the map from 0 to size - 1. There are size + 2 padding - kernel + 1
# outputs along an axis.
#
# </details>


# %% tags=["exercise"]
def share_inside(size, kernel, padding):
    """Between 0 and 1."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    cases_2 = [(4, 7, 3), (8, 3, 1), (9, 1, 0), (5, 5, 2), (6, 3, 0), (7, 4, 3), (3, 7, 4)]
    for size_2, k_2, p_2 in cases_2:
        ones, windows = np.ones((1, 1, size_2, size_2)), np.ones((1, 1, k_2, k_2))
        counted = ops.conv2d_forward(ones, windows, padding=p_2)[0].mean() / k_2**2
        found = share_inside(size_2, k_2, p_2)
        causes = {
            (size_2 / (size_2 + 2 * p_2))
            ** 2: "the share of pixels, which are not all met equally often",
            counted**0.5: "the share along one axis, and there are two",
            1 - counted: "the share that meets padding",
        }
        close = [cause for value, cause in causes.items() if np.isclose(found, value)]
        assert np.isclose(found, counted), (
            f"map {size_2}, kernel {k_2}, padding {p_2}: {found:.4f}, but counted are {counted:.4f}"
            + (f": {close[0]}?" if close else "")
        )

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def share_inside(size, kernel, padding):
#     outputs = size + 2 * padding - kernel + 1
#     met = sum(0 <= r + i - padding < size for r in range(outputs) for i in range(kernel))
#     return (met / (outputs * kernel)) ** 2
# ```
#
# Rows and columns do not depend on each other, so the share is a square. (The share of *pixels* that are no padding is
# another number: pixels in the middle are met by more windows.)
#
# </details>

# %% [markdown]
# ### Exercise 3: tap by tap
#
# In notebook 2 you wrote a convolution tap by tap on an x that was padded first. Now write it as fc6 does it: x (N, C_in, H,
# W), w (C_out, C_in, k, k), stride 1, one matrix product for each tap over those outputs for which it lies on the map, and no
# product with the padding. (The check notices: where a tap never meets the map, its weights are not numbers.)
#
# <details><summary>Hint 1</summary>
#
# Tap i looks at row r + i - padding of x for row r of the output. From which r to which r does that lie on the map? There may be
# none.
#
# </details>
# <details><summary>Hint 2</summary>
#
# From `first = max(0, padding - i)` up to, and without, `end = min(height, H + padding - i)`, where `height` is the output's; the
# same for columns. `np.einsum("oc,nchw->nohw", w[:, :, i, j], window)` is then *added* to that part of y.
#
# </details>


# %% tags=["exercise"]
def conv_by_taps(x, w, padding):
    """y (N, C_out, H + 2 padding - k + 1, W + 2 padding - k + 1)."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng_3 = np.random.default_rng(3)
    cases_3 = [((2, 3, 9, 8), 3, 1), ((1, 2, 7, 6), 3, 0), ((2, 3, 4, 5), 7, 3)]
    for shape_3, k_3, p_3 in [*cases_3, ((1, 2, 2, 1), 7, 3)]:
        a, kernels_3 = rng_3.normal(size=shape_3), rng_3.normal(size=(4, shape_3[1], k_3, k_3))
        right = ops.conv2d_forward(a, kernels_3, padding=p_3)[0]
        case = f"y (x {shape_3}, kernel {k_3}x{k_3}, padding {p_3})"
        expect(conv_by_taps(a, kernels_3, p_3), right, case)
        for i_3, j_3 in np.ndindex(k_3, k_3):
            outputs = right.shape[2:]
            meets = [
                any(0 <= r + tap - p_3 < side for r in range(count))
                for tap, side, count in zip((i_3, j_3), shape_3[2:], outputs)
            ]
            if not all(meets):
                kernels_3[:, :, i_3, j_3] = np.nan
        found = conv_by_taps(a, kernels_3, p_3)
        assert np.isfinite(found).all(), (
            f"{case} is right, but a tap that never meets the map was multiplied, with zeros: "
            "is x padded first?"
        )

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def conv_by_taps(x, w, padding):
#     (n, _, H, W), (c_out, _, k, _) = x.shape, w.shape
#     height, width = H + 2 * padding - k + 1, W + 2 * padding - k + 1
#     y = np.zeros((n, c_out, height, width), x.dtype)
#     for i in range(k):
#         top, bottom = max(0, padding - i), min(height, H + padding - i)
#         for j in range(k):
#             left, right = max(0, padding - j), min(width, W + padding - j)
#             if top < bottom and left < right:
#                 shift = i - padding, j - padding
#                 window = x[:, :, top + shift[0] : bottom + shift[0], left + shift[1] : right + shift[1]]
#                 y[:, :, top:bottom, left:right] += np.einsum("oc,nchw->nohw", w[:, :, i, j], window)
#     return y
# ```
#
# Backward, each tap goes the same way: dy of the outputs that it reached, times its weights, is added to the pixels that it saw,
# and their products are its weights' gradient (`tinyfcn/ops/taps.py`).
#
# </details>

# %% [markdown]
# ---
# Everything here did the multiplications that a convolution's definition asks for, only sooner. [Winograd's
# convolution](11_winograd.ipynb) leaves out three of every four.
