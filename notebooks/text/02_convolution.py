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
# # 2. Convolution
#
# Each of the three pictures below was computed from Chelsea's photograph by the same few lines of code. Only
# 28 numbers differ between them. With the first 28 the fur's lines begin to glow, with the second her
# whiskers do, and the third set leaves everything dark but her eyes. Nobody chose these numbers.

# %% tags=["setup", "hide-input"]
import os
import time
from unittest import mock

import numpy as np

from tinyfcn import ops
from tinyfcn.backend import describe_device
from tinyfcn.data import normalise
from tinyfcn.gradcheck import GradientError, check_gradient
from tinyfcn.lesson import (
    BLUE,
    COLOURS,
    GREEN,
    ORANGE,
    RED,
    SKY,
    attempt,
    expect,
    photograph,
    plt,
    seconds,
    see,
    show_source,
    slider,
    tiles,
    vgg16,
)
from tinyfcn.models.vgg import VGG
from tinyfcn.ops import conv

rng = np.random.default_rng(0)
plt.rcParams["figure.constrained_layout.h_pad"] = 0.08  # inches, below a figure's title


def rested(call):
    """The best time of a call, once the threads of the last product, which spin on, are at rest."""
    time.sleep(0.1)
    return min(seconds(call, 1) for _ in range(10))


# %% tags=["hide-input"] alt="Chelsea the cat, and three maps made of her: in the first fur and outlines glow, in the second whiskers, in the third her eyes alone"
VGG16_FILE = os.environ.get("TINYFCN_VGG16", "vgg16_notop.h5")  # VGG16's weights: see README.md
vgg = vgg16(VGG16_FILE)
cat = photograph()
conv1_1 = see(vgg, cat, last="conv1_1")["conv1_1"]  # 64 pictures of the cat
SHOWN = 51, 10, 36

figure, axes = plt.subplots(1, 4, figsize=(9, 1.9))
for axis, picture in zip(axes, [cat, *conv1_1[list(SHOWN)]]):
    axis.imshow(picture, cmap="gray", vmax=np.percentile(picture, 99.5))
    axis.axis("off")
plt.show()

# %% [markdown]
# They are three of the 64 that VGG16's first layer, conv1_1, makes of any photograph, and its numbers were
# learned from a million of them. What is this code, which turns 28 numbers into something that finds eyes?
# And how could the numbers be *learned*? That takes a gradient, of which there is one for every number, and
# this notebook derives it in three ways: the first needs no idea, the second gives fast code, and the third
# gives a test that catches what you got wrong in the other two.
#
# Takes about 75 minutes. It builds on [Dense prediction](01_dense_prediction.ipynb), and on school calculus: the
# chain rule for sums and products.
#
# ## One output
#
# Lay a kernel of weights over a piece of the image, multiply what lies on top of each other, and add it all
# up: that is one output. Then shift the kernel by one pixel for the next one. Here is a 5x5 image, dark on
# the left and bright on the right, and a 3x3 kernel.

# %%
image = np.array(
    [[0, 0, 1, 3, 3], [0, 0, 2, 3, 3], [0, 1, 3, 3, 3], [0, 0, 2, 3, 3], [0, 0, 1, 3, 3]], float
)
kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], float)

y = np.zeros((3, 3))
for r in range(3):
    for c in range(3):
        y[r, c] = (kernel * image[r : r + 3, c : c + 3]).sum()


# %% tags=["setup", "hide-input"]
def draw_matrix(axis, matrix, title, *, numbers=True, cmap="viridis", size=10):
    """A matrix as a picture, with its numbers."""
    matrix = np.asarray(matrix)
    low, high = matrix.min(), max(matrix.max(), matrix.min() + 1e-9)
    axis.imshow(matrix, cmap=cmap, vmin=low, vmax=high)
    for (r, c), value in np.ndenumerate(matrix) if numbers else ():
        shade = plt.get_cmap(cmap)((value - low) / (high - low))[:3]
        axis.text(
            c,
            r,
            f"{value:g}",
            ha="center",
            va="center",
            size=size,
            color="black" if sum(shade) > 1.4 else "white",
        )
    axis.set(title=title, xticks=range(matrix.shape[1]), yticks=range(matrix.shape[0]))
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def frame(axis, row, column, height, width, colour, inset=0.0):
    """A frame around some pixels of a picture."""
    place = (column - 0.5 + inset, row - 0.5 + inset)
    axis.add_patch(
        plt.Rectangle(
            place, width - 2 * inset, height - 2 * inset, fill=False, lw=3, ec=colour, clip_on=False
        )
    )


# %% [markdown]
# **Predict.** Which number does the kernel give where its upper left corner lies on row 1, column 0? On which
# outputs is it largest?

# %% tags=["hide-input", "hide-output"] alt="A 5x5 input, a 3x3 kernel and the 3x3 output, as numbers: the nine framed inputs make the framed output"
figure, axes = plt.subplots(1, 3, figsize=(8, 3))
draw_matrix(axes[0], image, "input x")
draw_matrix(axes[1], kernel, "kernel w")
draw_matrix(axes[2], y, "output y")
frame(axes[0], 1, 0, 3, 3, RED)
frame(axes[2], 1, 0, 1, 1, RED)
for axis in axes:
    axis.set(xlabel="column", ylabel="row")
figure.suptitle("The framed nine inputs, times the kernel, make the framed output")
plt.show()
assert y[1, 0] == -1 * 0 + 0 * 0 + 1 * 2 - 2 * 0 + 0 * 1 + 2 * 3 - 1 * 0 + 0 * 0 + 1 * 2 == 10
print(f"largest: {y.max():g}, at (row, column)", *map(tuple, np.argwhere(y == y.max()).tolist()))

# %% [markdown]
# This kernel subtracts what lies to the left from what lies to the right, and so it answers to edges from
# dark to bright. You could have written it yourself. In a network nobody does.
#
# ## Seven loops
#
# A layer has many input channels k and many output channels o, and a batch has many images n. With a padding of
# $p$ zeros around the image, a stride $s$, and rows and columns counted from 0,
#
# $$y_{n,o,r,c} = b_o + \sum_{k,i,j} w_{o,k,i,j} \; x_{n,\,k,\;r s + i - p,\;c s + j - p} .$$
#
# Seven indices make seven loops, and nothing in them is cleverer than it looks.


# %%
def conv_loops(x, w, b, stride=1, padding=0):
    """Convolution by its definition; the inputs outside x count as zero."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    batch, c_in, height, width = x.shape
    c_out, _, kh, kw = w.shape
    y = np.zeros((batch, c_out, (height - kh) // stride + 1, (width - kw) // stride + 1))
    for n in range(batch):
        for o in range(c_out):
            for r in range(y.shape[2]):
                for c in range(y.shape[3]):
                    y[n, o, r, c] = b[o]
                    for k in range(c_in):
                        for i in range(kh):
                            for j in range(kw):
                                y[n, o, r, c] += (
                                    w[o, k, i, j] * x[n, k, r * stride + i, c * stride + j]
                                )
    return y


# %%
x, w, b = rng.normal(size=(2, 3, 7, 6)), rng.normal(size=(4, 3, 3, 3)), rng.normal(size=4)
for stride, padding in (1, 0), (1, 1), (2, 1), (3, 2):
    expected, _ = ops.conv2d_forward(x, w, b, stride=stride, padding=padding)
    assert np.allclose(conv_loops(x, w, b, stride, padding), expected, rtol=0, atol=1e-12)

# %% [markdown]
# **Predict.** conv1_2 of FCN takes 64 channels to 64 on a map of 698x698 (an image of 500x500, padded by 100,
# and less 2 for a 3x3 kernel). How many multiplications is that? How long does Python take for each of them?

# %% tags=["hide-output"]
multiplications = 64 * 64 * 3 * 3 * 698 * 698
few = [rng.normal(size=(1, 64, 6, 6)), rng.normal(size=(2, 64, 3, 3)), np.zeros(2)]
each = seconds(lambda: conv_loops(*few), 1) / (2 * 4 * 4 * 64 * 9)
hours = multiplications * each / 3600
print(f"{multiplications / 1e9:.1f} billion, {1e9 * each:.0f} ns each: {hours:.1f} hours")

# %% [markdown]
# The loops are right, and too slow for more than a toy. They remain what everything else is compared with,
# in this notebook as in the package's tests.
#
# ## Convolution or cross-correlation?
#
# What deep learning calls convolution is, in the words of signal processing, a **cross-correlation**. A
# convolution reads the kernel backwards:
#
# $$\text{correlation: } \sum_i w_i \, x_{r+i} \qquad\qquad \text{convolution: } \sum_i w_i \, x_{r-i}$$
#
# **Predict.** The input is one bright pixel. What does each of the two make of it?

# %% tags=["hide-input", "hide-output"] alt="A kernel and an input with one bright pixel: cross-correlation shows the kernel turned by 180 degrees, convolution shows it as it is"
letter = np.array([[3, 2, 2], [3, 1, 0], [3, 0, 0]], float)  # a kernel like the letter F
dot = np.zeros((1, 1, 5, 5))
dot[0, 0, 2, 2] = 1
correlation, _ = ops.conv2d_forward(dot, letter[None, None], padding=1)
convolution, _ = ops.conv2d_forward(dot, letter[None, None, ::-1, ::-1], padding=1)

figure, axes = plt.subplots(1, 4, figsize=(8, 2.5))
pictures = {
    "kernel": letter,
    "input": dot[0, 0],
    "cross-correlation": correlation[0, 0],
    "convolution": convolution[0, 0],
}
for axis, (title, picture) in zip(axes, pictures.items()):
    draw_matrix(axis, picture, title)
    axis.set(xticks=[], yticks=[])
figure.suptitle("One bright pixel: correlation turns the kernel round, convolution copies it")
plt.show()

# %%
line, taps = rng.normal(size=9), rng.normal(size=3)
y, _ = ops.conv2d_forward(line[None, None, None], taps[None, None, None])
assert np.allclose(y[0, 0, 0], np.correlate(line, taps, "valid"))
assert np.allclose(y[0, 0, 0], np.convolve(line, taps[::-1], "valid"))

# %% [markdown]
# <details><summary>Answer</summary>
#
# With correlation, the bright pixel is met by the *last* tap first, so it leaves the kernel turned by 180 degrees.
#
# </details>
#
# For a learned kernel the difference is a matter of naming: learning would find the turned kernel instead. It
# matters in two places. Filters from another source may have to be turned. And, as we shall see, the *gradient*
# of a correlation is a convolution in the strict sense.
#
# ## How large is the output?
#
# One more word: **dilation** $d$ puts the taps $d$ pixels apart. With $k$ now the number of taps along
# an axis, the kernel spans $d(k-1)+1$ pixels. On an axis of $H$ pixels, padded to $H+2p$, it can start
# at $0, s, 2s, \ldots$ as long as it ends inside:
#
# $$H_{out} = \left\lfloor \frac{H + 2p - d(k-1) - 1}{s} \right\rfloor + 1$$

# %%
show_source(conv.Geometry)


# %% tags=["hide-input"] alt="Six rows of input pixels, and below each the windows that kernel size, stride, padding and dilation give, one colour for each output"
def draw_windows(axis, size, k, s, p, d):
    """Every window of a kernel along one axis, one below the other."""
    for place in range(-p, size + p):
        look = {"fc": "0.55"} if 0 <= place < size else {"fc": "white", "hatch": "///"}
        axis.add_patch(plt.Rectangle((place, 0.1), 0.9, 0.9, ec="0.55", **look))
    windows = conv.Geometry((1, k), (1, s), (0, p), (1, d)).output_size((1, size))[1]
    for r in range(windows):
        for tap in range(k):
            axis.add_patch(
                plt.Rectangle((r * s + tap * d - p, -0.6 * (r + 1)), 0.9, 0.45, fc=COLOURS[r])
            )
    axis.set(
        xlim=(-3.3, 10.3),
        ylim=(-0.6 * 7.4, 1.2),
        yticks=[],
        xticks=[],
        title=f"k={k} s={s} p={p} d={d}: {windows} outputs",
    )
    axis.title.set_size(11)
    axis.spines[:].set_visible(False)


figure, axes = plt.subplots(2, 3, figsize=(8, 4.6))
for axis, geometry in zip(
    axes.flat, [(3, 1, 0, 1), (3, 1, 1, 1), (3, 2, 1, 1), (3, 2, 0, 1), (3, 1, 0, 2), (7, 1, 3, 1)]
):
    draw_windows(axis, 7 if geometry != (3, 2, 0, 1) else 8, *geometry)
figure.suptitle("Windows over 7 pixels (lower left: 8); hatched: padding; a colour for each output")
plt.show()

# %% [markdown]
# Lower left, 8 pixels at stride 2: the last pixel is seen by nobody. This is what the floor in the formula means.
#
# **Predict.** What is the gradient of the loss at such a pixel?

# %% tags=["hide-output"]
y, cache = ops.conv2d_forward(
    rng.normal(size=(1, 1, 8, 8)), rng.normal(size=(1, 1, 3, 3)), stride=2
)
dx, _, _ = ops.conv2d_backward(np.ones_like(y), cache)
assert y.shape == (1, 1, 3, 3) and (dx[..., -1] == 0).all() and (dx[..., -1, :] == 0).all()
dx[0, 0].round(1)

# %% [markdown]
# <details><summary>Answer</summary>
#
# It is zero, as no output depends on it.
#
# </details>
#
# The formula itself can be checked by counting, for every small case there is.

# %%
for size in range(1, 12):
    for k, s, p, d in np.ndindex(4, 3, 4, 3):
        k, s, d = k + 1, s + 1, d + 1  # from 1 up; p from 0
        starts = [start for start in range(-p, size + p, s) if start + d * (k - 1) < size + p]
        formula = conv.Geometry((k, k), (s, s), (p, p), (d, d)).output_size((size, size))[0]
        assert max(formula, 0) == len(starts), (size, k, s, p, d)

# %% [markdown]
# Two cases to know by heart. A 3x3 kernel with $p=1$, or any odd kernel with $p=(k-1)/2$ at stride 1,
# keeps the size; all of VGG's do. And fc6, VGG's first fully connected layer, is a 7x7 kernel without
# padding: it makes a map smaller by 6. Of the 7x7 map of a 224x224 image it leaves a single output,
# which is the classifier (Long et al. 2015, section 3.1).
#
# ## im2col: the whole layer as one product of matrices
#
# Processors are at their best when they multiply large matrices. So we ask: is a convolution a product of
# matrices? Every output is an inner product of nine weights with nine inputs. Put the inputs of one output into
# one **column**, and do so for all outputs. Here the pixels of a 5x5 image are numbered, and a 3x3 kernel has
# nine places to be.

# %%
x5 = np.arange(25.0).reshape(5, 5)
X = np.zeros((9, 9))
for r in range(3):
    for c in range(3):
        X[:, 3 * r + c] = x5[r : r + 3, c : c + 3].ravel()


# %% tags=["hide-input"]
def filling(step):
    """SVG: the image with one window, and the columns that are filled by then."""
    r, c = divmod(step, 3)
    seen = np.full((5, 5), "#e8e8e8", object)
    seen[r : r + 3, c : c + 3] = "#f2b84b"
    filled = np.where(np.arange(9) <= step, X, np.nan)
    columns = np.full((9, 9), "#f4f4f4", object)
    columns[:, : step + 1] = "#cfe3f2"
    columns[:, step] = "#f2b84b"
    words = (
        '<text x="10" y="20" font-size="14">x</text><text x="250" y="20" font-size="14">X</text>'
    )
    return words + tiles(x5, 10, 30, 40, seen) + tiles(filled, 250, 30, 30, columns)


captions = [f"Window ({k // 3}, {k % 3}) becomes column {k} of X." for k in range(9)]
slider([filling(k) for k in range(9)], captions, width=530, height=335)

# %% [markdown]
# Move the slider (the arrow keys do it too): each window of the image becomes a column. A kernel, as a row of
# nine numbers, times this matrix gives the nine outputs at once.

# %%
by_matrix = kernel.ravel() @ X
by_loops = conv_loops(x5[None, None], kernel[None, None], [0])
assert np.array_equal(by_matrix.reshape(3, 3), by_loops[0, 0])
by_matrix.reshape(3, 3)

# %% [markdown]
# Now look at the same matrix row by row.
#
# **Predict.** Row 5 of X holds what tap (1, 2) meets, at each of the nine outputs. Where do these nine numbers
# lie in the image?

# %% tags=["hide-input", "hide-output"] alt="The 5x5 image and the matrix X of its windows: one row of X, framed, holds the piece of the image framed in the same colour"
figure, axes = plt.subplots(1, 2, figsize=(8, 4.4))
draw_matrix(axes[0], x5, "x")
draw_matrix(axes[1], X, "X, its rows")
for (i, j), colour in {(0, 0): RED, (1, 2): ORANGE}.items():
    frame(axes[0], i, j, 3, 3, colour, inset=0.02 + 0.05 * i)
    frame(axes[1], 3 * i + j, 0, 1, 9, colour)
    assert np.array_equal(X[3 * i + j], x5[i : i + 3, j : j + 3].ravel())
axes[0].set(xlabel="column of the image", ylabel="row of the image")
axes[1].set(xlabel="output (r, c), as 3 r + c", ylabel="tap (i, j), as 3 i + j")
figure.suptitle("Each row is a piece of the image too: the image, shifted by the tap")
plt.show()

# %% [markdown]
# So the matrix need not be filled output by output. A loop over the *taps* does it, nine copies of whole
# pieces, however large the image is. With channels, the rows of all channels stand below each other; with a
# stride, the pieces are taken in steps; with several images, there are more columns.


# %%
def im2col(x, kh, kw, stride=1, padding=0):
    """(C_in kh kw, N H_out W_out): the inputs of each output, as a column."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    h, w = (x.shape[2] - kh) // stride + 1, (x.shape[3] - kw) // stride + 1
    columns = np.empty((x.shape[1], kh, kw, len(x), h, w), x.dtype)
    for i in range(kh):
        for j in range(kw):
            seen = x[
                :, :, i : i + stride * h : stride, j : j + stride * w : stride
            ]  # (N, C_in, h, w)
            columns[:, i, j] = seen.swapaxes(0, 1)
    return columns.reshape(x.shape[1] * kh * kw, -1), (h, w)


def conv_im2col(x, w, b, stride=1, padding=0):
    X, (height, width) = im2col(x, *w.shape[2:], stride, padding)
    W = w.reshape(len(w), -1)  # (C_out, C_in kh kw)
    y = W @ X + b[:, None]
    return y.reshape(len(w), len(x), height, width).swapaxes(0, 1), (x, w, X, stride, padding)


# %%
for stride, padding in (1, 0), (1, 1), (2, 1), (3, 2):
    y, _ = conv_im2col(x, w, b, stride, padding)
    assert np.allclose(y, conv_loops(x, w, b, stride, padding), rtol=0, atol=1e-12)

# %% [markdown]
# This is all that conv1_1 does. Give your `conv_im2col` the photograph and the numbers in VGG16's file, and
# set to 0 what is negative (this is a ReLU: exercise 3 has its backward pass):

# %%
w1, b1 = (vgg.params[f"conv1_1.{kind}"] for kind in ("weight", "bias"))
print("weights:", w1.shape, " that is", w1[0].size, "and one bias for each of", len(w1), "pictures")
seen, _ = conv_im2col(normalise(cat[None], vgg.preprocessing), w1, b1, padding=1)
assert np.allclose(np.maximum(seen[0], 0), conv1_1, atol=1e-2)

# %% [markdown]
# **Predict.** The 28 numbers of the first picture weight the left of each pixel positively and the right
# negatively. What of the other two? A kernel is 3x3 pixels with three colours, so that you can look at it as a
# tiny picture. What would you expect for "whiskers", and what for "eyes"?

# %% tags=["hide-input", "hide-output"] alt="Three 3x3 kernels in their colours, and the maps of the cat that they make: fur, whiskers, eyes"
figure, axes = plt.subplots(2, 3, figsize=(9, 4.1), height_ratios=[1, 1.6])
for (above, below), number in zip(axes.T, SHOWN):
    colours = w1[number, ::-1].transpose(1, 2, 0)  # VGG16 reads blue, green, red
    above.imshow(0.5 + colours / (2 * abs(colours).max()))
    above.set_title(f"kernel {number}")
    below.imshow(conv1_1[number], cmap="gray", vmax=np.percentile(conv1_1[number], 99.5))
    above.axis("off")
    below.axis("off")
figure.suptitle("Kernels of VGG16's first layer (grey is 0), and what they make of the cat")
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# Kernel 51 is bright on its left and dark on its right, and finds where the fur goes from light to dark. Kernel
# 10 is bright above and dark below: it answers to the lower rim of whatever is bright and lies across, as
# whiskers do. Kernel 36 has nearly the same weights everywhere, but not for all colours: it is positive for
# blue and green and negative for red. In a photograph of a ginger cat hardly anything is more green and blue
# than red: her eyes are, and the wet of her nose.
#
# </details>
#
# What does im2col cost? X repeats the inputs: pixel (2, 2) of the 5x5 image lies in all nine windows, a corner in one.
#
# **Predict.** How often does each of the 25 pixels occur in X?

# %% tags=["hide-input", "hide-output"] alt="How often each of 25 pixels stands in X: once at the corners, nine times in the middle"
times = np.bincount(X.ravel().astype(int), minlength=25).reshape(5, 5)
figure, axis = plt.subplots(figsize=(8, 2.9))
draw_matrix(axis, times, "How often each pixel stands in X")
axis.set(xlabel="column of the image", ylabel="row of the image")
assert np.array_equal(times, np.outer([1, 2, 3, 2, 1], [1, 2, 3, 2, 1]))
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# Up to $k_h k_w = 9$ times, and in a large image nearly all pixels do, as the border is a small part of it.
#
# </details>
#
# So the price of im2col is up to nine times the memory. Keep this picture in mind: it comes back in the backward pass.
#
# ## How much faster?
#
# **Predict.** The loops, im2col, and the package: by which factors do they differ, on 64 channels to 64 at 128x128?
# (The loops are timed on 32 outputs, and their time is multiplied. The package can do it in two ways: by im2col, a few
# rows of outputs, or *band*, at a time, and by Winograd's method, which needs fewer multiplications.)

# %% tags=["hide-output"]
layer = [rng.normal(size=s).astype(np.float32) for s in ((1, 64, 128, 128), (64, 64, 3, 3), (64,))]
outputs = 64 * 128 * 128
taken = {"seven loops": each * outputs * 64 * 9}


def three_loops(x, w, b, rows):
    """The sums over k, i and j, and the loop over o, left to NumPy."""
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    y = np.zeros((len(x), len(w), rows, x.shape[3] - 2), x.dtype)
    for n in range(len(x)):
        for r in range(rows):
            for c in range(y.shape[3]):
                y[n, :, r, c] = b + (w * x[n, :, r : r + 3, c : c + 3]).sum((1, 2, 3))
    return y


taken["three loops, the rest NumPy"] = seconds(lambda: three_loops(*layer, rows=2), 1) * 128 / 2
taken["im2col, one product"] = rested(lambda: conv_im2col(*layer, padding=1))
with mock.patch.dict(os.environ, TINYFCN_CONV="columns"):  # and not Winograd's, see notebook 11
    taken["tinyfcn: im2col in bands"] = rested(lambda: ops.conv2d_forward(*layer, padding=1))
taken["tinyfcn: Winograd in bands"] = rested(lambda: ops.conv2d_forward(*layer, padding=1))
print(describe_device(np))

# %% tags=["hide-input", "hide-output"] alt="Time of a convolution on a logarithmic axis: seven loops take longest by far, then three loops, im2col, and Winograd in bands"
figure, axis = plt.subplots(figsize=(8, 2.8))
bars = axis.barh(
    list(taken), [1000 * t for t in taken.values()], color=[RED, ORANGE, BLUE, BLUE, GREEN]
)
axis.bar_label(
    bars, [f"{t:,.1f} s" if t > 1 else f"{1000 * t:.1f} ms" for t in taken.values()], padding=3
)
axis.set(
    xscale="log",
    xlabel="milliseconds (a logarithmic axis)",
    title="64 to 64 channels, 128x128, forward",
)
axis.invert_yaxis()
axis.set_xlim(1000 * min(taken.values()) / 5, 10 * 1000 * max(taken.values()))
plt.show()

# %% tags=["hide-output"]
assert (
    taken["im2col, one product"]
    < taken["three loops, the rest NumPy"] / 5
    < taken["seven loops"] / 50
)
factor = taken["seven loops"] / taken["im2col, one product"]
print(f"im2col: {factor:,.0f} times faster than the loops")

# %% [markdown]
# <details><summary>Answer</summary>
#
# The same sums come out thousands of times faster, by no more than putting numbers where the matrix product wants them.
#
# </details>
#
# Bands save memory above all ([Speed](10_speed.ipynb)), and [Winograd's method](11_winograd.ipynb) saves time.
#
# ## Backward: what is asked for
#
# Some loss $L$ depends on $y$, and from the layers above we are handed $dy$, an array of y's shape with
# $dy_{n,o,r,c} = \partial L / \partial y_{n,o,r,c}$. We owe three arrays: $dx$ and $dw$ and $db$, the
# derivatives of the same $L$ by each entry of x, w and b.
#
# ## First way: index sums
#
# One product in the seven loops is $y_{n,o,r,c} \mathrel{+}= w_{o,k,i,j} \cdot x_{n,k,u,v}$ with $u = r s + i -
# p$ and $v = c s + j - p$. Its derivative by the weight is the input, and by the input it is the weight. The
# chain rule multiplies by $dy$ and adds up over everything that the entry has a part in:
#
# $$dw_{o,k,i,j} = \sum_{n,r,c} dy_{n,o,r,c} \; x_{n,k,u,v} \qquad dx_{n,k,u,v} = \sum_{\substack{o,r,c,i,j\\ r s + i - p
# \,=\, u \\ c s + j - p \,=\, v}} dy_{n,o,r,c} \; w_{o,k,i,j} \qquad db_o = \sum_{n,r,c} dy_{n,o,r,c}$$
#
# The condition below the middle sum looks unpleasant: which outputs (r, c) and taps (i, j) meet pixel (u, v)?
# There is no need to solve it. Walk through the same seven loops, meet each product once more, and let it *add*
# its share to both.


# %%
def backward_loops(dy, cache):
    """The seven loops again: each product is met once more, and read in two directions."""
    x, w, stride, p = cache
    xp = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
    dxp, dw, db = np.zeros_like(xp), np.zeros_like(w), np.zeros(len(w))
    for n, o, r, c in np.ndindex(dy.shape):
        db[o] += dy[n, o, r, c]
        for k, i, j in np.ndindex(w.shape[1:]):
            u, v = r * stride + i, c * stride + j
            dw[o, k, i, j] += dy[n, o, r, c] * xp[n, k, u, v]
            dxp[n, k, u, v] += dy[n, o, r, c] * w[o, k, i, j]
    return dxp[:, :, p : p + x.shape[2], p : p + x.shape[3]], dw, db


def forward_loops(x, w, b, stride=1, padding=0):
    return conv_loops(x, w, b, stride, padding), (x, w, stride, padding)


# %% [markdown]
# Is it right? `check_gradient` draws dy at random, takes $L = \langle dy, y \rangle$ (the sum of all
# $dy \cdot y$), moves x, w and b together along a random direction $v$, and compares the change of $L$
# with what the backward pass says it should be. A few directions test every entry. (One more moves each
# array alone: hence 6 for `directions=3`.)
#
# **Predict.** To how many digits will they agree, in 64-bit numbers?

# %% tags=["hide-output"]
small = rng.normal(size=(1, 2, 5, 4)), rng.normal(size=(2, 2, 3, 3)), rng.normal(size=2)
for stride, padding in (1, 0), (1, 1), (2, 1):
    print(
        stride,
        padding,
        check_gradient(
            forward_loops, backward_loops, *small, directions=3, stride=stride, padding=padding
        ),
    )

# %% [markdown]
# <details><summary>Answer</summary>
#
# As many as a difference quotient has: ten or so. (Along a line L is a polynomial of degree two, for which
# $\frac{L(t+hv)-L(t-hv)}{2h}$ is exact. What remains is rounding, divided by $h$.)
#
# </details>
#
# Note the `+=`. A weight has a part in every output of its channel, an input in up to nine of each.
# Derivatives of a sum add: whatever is *used several times* in the forward pass *collects several
# gradients* in the backward pass. If you write one mistake in a backward pass of your own, it will be an `=` here.
#
# ## Second way: transpose the matrices
#
# In the form $Y = W X$ (bias aside), take small changes of both factors: $\delta L = \langle dY, \delta W\, X +
# W\, \delta X \rangle$, where $\langle A, B \rangle = \sum_{ij} A_{ij} B_{ij}$ is the inner product of
# matrices. A factor can move to the other side as its transpose, because $\langle A, B C \rangle = \sum_{ijk}
# A_{ij} B_{ik} C_{kj} = \langle A C^T, B \rangle = \langle B^T A, C \rangle$. So
#
# $$\delta L = \langle dY\, X^T, \delta W \rangle + \langle W^T dY, \delta X \rangle
# \qquad\Longrightarrow\qquad dW = dY\, X^T, \qquad dX = W^T dY .$$
#
# Two matrix products, of the forward pass's own two factors. (Shapes remember it for you: $dW$ must be
# $C_{out} \times C_{in} k_h k_w$, and there is one way to get that from $dY$ and $X$.)
#
# One step is left. $dX$ is the gradient at the *columns*, and we owe the gradient at the image. Each entry of X
# is a copy of a pixel: X is linear in x, by a matrix S of zeros and ones with a single one in each row. Its
# transpose takes each entry back to the pixel that it was copied from, and *adds* where several come back.

# %%
S = np.zeros((81, 25))
S[np.arange(81), X.ravel().astype(int)] = 1  # entry e of X is pixel number X[e]
assert np.array_equal(S @ x5.ravel(), X.ravel())

# %% tags=["hide-input"] alt="The matrix S transposed, with a single 1 in each column, and what it makes of ones: 1 at the corners of the image, 9 in its middle"
figure, axes = plt.subplots(2, 1, figsize=(8, 5.2))
axes[0].imshow(S.T, cmap="Greys")
axes[0].set(
    xlabel="entry of X, row by row",
    ylabel="pixel of x",
    title="$S^T$: one 1 in each column, and up to nine in a row",
)
draw_matrix(
    axes[1],
    (S.T @ np.ones(81)).reshape(5, 5),
    "$S^T$ applied to ones: how many copies come back to each pixel",
)
axes[1].set(xlabel="column of the image", ylabel="row of the image")
axes[0].spines[:].set_visible(True)
plt.show()

# %% [markdown]
# The lower picture is the one from before: so often does each pixel stand in X. $S^T$ is called **col2im**.
# Nobody multiplies by it: it is im2col read backwards, with each copy turned into an addition.


# %%
def col2im(columns, x_shape, kh, kw, stride=1, padding=0):
    """The transpose of im2col: compare line by line."""
    n, c, height, width = x_shape
    dx = np.zeros((n, c, height + 2 * padding, width + 2 * padding), columns.dtype)
    h, w = (dx.shape[2] - kh) // stride + 1, (dx.shape[3] - kw) // stride + 1
    columns = columns.reshape(c, kh, kw, n, h, w)
    for i in range(kh):
        for j in range(kw):
            dx[:, :, i : i + stride * h : stride, j : j + stride * w : stride] += columns[
                :, i, j
            ].swapaxes(0, 1)
    return dx[:, :, padding : padding + height, padding : padding + width]


def backward_im2col(dy, cache):
    x, w, X, stride, padding = cache
    dY = dy.swapaxes(0, 1).reshape(len(w), -1)  # (C_out, N H_out W_out), as Y
    dX = w.reshape(len(w), -1).T @ dY
    return (
        col2im(dX, x.shape, *w.shape[2:], stride, padding),
        (dY @ X.T).reshape(w.shape),
        dY.sum(1),
    )


# %%
assert np.array_equal(col2im(X, (1, 1, 5, 5), 3, 3).ravel(), S.T @ X.ravel())
for stride, padding in (1, 0), (1, 1), (2, 1), (3, 2):
    print(
        stride,
        padding,
        check_gradient(conv_im2col, backward_im2col, x, w, b, stride=stride, padding=padding),
    )

# %% [markdown]
# **Is the += in col2im safe?** Within one tap (i, j) the pixels are all different, so each is added to once.
# Between taps they overlap, but those come one after the other. (A single `dx[rows, columns] += values` over
# *all* taps at once would be wrong: with repeated indices, NumPy keeps only the last value.)

# %%
wrong, right = np.zeros(3), np.zeros(3)
wrong[[0, 1, 1]] += [1, 1, 1]
np.add.at(right, [0, 1, 1], [1, 1, 1])
wrong, right

# %% [markdown]
# ## Third way: the adjoint
#
# Now forget the formulas. For a fixed w, and b = 0, the map from x to y is linear; call it J, so that a change
# $v$ of x changes y by $J v$. The backward pass is the one linear map $J^T$ for which
#
# $$\langle dy, \; J v \rangle = \langle J^T dy, \; v \rangle \qquad \text{for all } dy \text{ and } v,$$
#
# since both sides are the change of L. This is the *definition* of the gradient, without an index in sight, and
# it is a **test**: draw $dy$ and $v$ at random, and two numbers must be equal. There is no step size and no
# rounding of differences, so they agree to (nearly) all digits.
#
# The map from w to y is linear, too, and has the same test. A backward pass of one operation is a pair of adjoint maps.


# %%
def adjoint_test(backward, stride, padding):
    """<dy, J v> and <J^T dy, v>, for the linear maps x -> y and w -> y."""
    zero = np.zeros(4)
    y, cache = conv_im2col(x, w, zero, stride, padding)
    dy, v_x, v_w = (rng.normal(size=a.shape) for a in (y, x, w))
    dx, dw, _ = backward(dy, cache)
    in_x = (dy * conv_im2col(v_x, w, zero, stride, padding)[0]).sum(), (dx * v_x).sum()
    in_w = (dy * conv_im2col(x, v_w, zero, stride, padding)[0]).sum(), (dw * v_w).sum()
    return np.array([in_x, in_w])


for stride, padding in (1, 0), (1, 1), (2, 1), (3, 2):
    found = adjoint_test(backward_im2col, stride, padding)
    print(f"stride {stride}, padding {padding}: in x {found[0]}, in w {found[1]}")
    assert np.allclose(found[:, 0], found[:, 1], rtol=1e-12)


# %%
def without_adding(dy, cache):
    x, w, X, stride, p = cache
    dx, dw, db = backward_im2col(dy, cache)
    dxp = np.zeros((*x.shape[:2], x.shape[2] + 2 * p, x.shape[3] + 2 * p))
    for i, j in np.ndindex(3, 3):
        dxp[:, :, i : i + dy.shape[2], j : j + dy.shape[3]] = np.tensordot(
            dy, w[:, :, i, j], (1, 0)
        ).transpose(0, 3, 1, 2)
    return dxp[:, :, p : p + x.shape[2], p : p + x.shape[3]], dw, db


def transposed_kernel(dy, cache):
    dx, dw, db = backward_im2col(dy, cache)
    return dx, np.ascontiguousarray(dw.swapaxes(2, 3)), db


# %% [markdown]
# **Predict.** Two wrong backward passes. One forgets to add where windows overlap (`=` for `+=`); the other
# transposes the kernel's rows and columns in $dw$. Which of the four equations fail?

# %% tags=["hide-output"]
for wrong in without_adding, transposed_kernel:
    (x1, x2), (w1, w2) = adjoint_test(wrong, 1, 1)
    print(f"{wrong.__name__:17} in x {x1:8.3f} {x2:8.3f}    in w {w1:8.3f} {w2:8.3f}")
    assert np.isclose(x1, x2) == (wrong is transposed_kernel) and np.isclose(w1, w2) == (
        wrong is without_adding
    )

# %% [markdown]
# `check_gradient` makes this test for any operation, linear or not: it takes $J v$ from a difference quotient.
# And where the two sides differ it looks for the entry that is most wrong.

# %%
try:
    check_gradient(conv_im2col, transposed_kernel, x, w, b)
except GradientError as error:
    print(error)

# %% [markdown]
# The loops, the matrices and the package, on the same random case:

# %%
y, cache = ops.conv2d_forward(*small, stride=2, padding=1)
dy = rng.normal(size=y.shape)
package = ops.conv2d_backward(dy, cache)
by_sums = backward_loops(dy, forward_loops(*small, stride=2, padding=1)[1])
by_matrices = backward_im2col(dy, conv_im2col(*small, stride=2, padding=1)[1])
for name, *three in zip(("dx", "dw", "db"), by_sums, by_matrices, package):
    spread = max(abs(one - three[0]).max() for one in three)
    print(f"{name}: the three differ by at most {spread:.0e}")
    assert spread < 1e-13

# %% [markdown]
# ## The package's pair
#
# `tinyfcn/ops/conv.py` can be read in one sitting: the definition, the two matrices, the products. `im2col` and
# `col2im` are written as mirror images, and should be read side by side: same patch, same taps, copies in the
# one and additions in the other. (They do some rows of outputs at a time. `_patch` cuts out the rows of x, with
# their padding, that these outputs see, and `_taps` says which of its pixels each tap meets. `hwnc` sees x as
# (H, W, N, C).)

# %%
show_source(conv.im2col, conv.col2im)

# %% [markdown]
# **Predict.** $\langle \text{im2col}(x), C \rangle$ and $\langle x, \text{col2im}(C) \rangle$ for random x and C?

# %% tags=["hide-output"]
geometry = conv.Geometry(kernel=(3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
height, width = geometry.output_size(x.shape[2:])
gathered = conv.im2col(x, geometry, slice(0, height), width)
C, scattered = rng.normal(size=gathered.shape), np.zeros_like(x)
conv.col2im(C, scattered, geometry, slice(0, height), width)
print((gathered * C).sum(), (x * scattered).sum())
assert np.isclose((gathered * C).sum(), (x * scattered).sum(), rtol=1e-12)

# %% [markdown]
# <details><summary>Answer</summary>
#
# They are equal, as for any pair of adjoint maps.
#
# </details>
#
# The whole backward pass is then this (`as_matrix` sees dy as a matrix, with a row for each pixel of each image):

# %%
show_source(conv.input_gradient, conv.weight_gradient)

# %%
print(
    check_gradient(
        ops.conv2d_forward,
        ops.conv2d_backward,
        x,
        w,
        b,
        stride=(2, 1),
        padding=(1, 2),
        dilation=(1, 2),
    )
)

# %% [markdown]
# **Predict.** Backward computes two large gradients, each with as many products as forward. By which
# factor should it take longer? Does that hold for the loops, too? (They are timed on 32 entries of dy,
# and their time is multiplied.)

# %% tags=["hide-input", "hide-output"] alt="Time of the backward pass on a logarithmic axis: seven loops, im2col and col2im, columns in bands, Winograd in bands, each faster"
y64, cache64 = ops.conv2d_forward(*layer, padding=1)
dy64 = rng.normal(size=y64.shape).astype(np.float32)
few_cache = forward_loops(*few)[1]
back = {
    "seven loops": seconds(lambda: backward_loops(rng.normal(size=(1, 2, 4, 4)), few_cache), 1)
    * outputs
    / 32
}
own_cache = conv_im2col(*layer, padding=1)[1]
back["im2col and col2im"] = rested(lambda: backward_im2col(dy64, own_cache))
with mock.patch.dict(os.environ, TINYFCN_CONV="columns"):
    back["tinyfcn: columns in bands"] = rested(lambda: ops.conv2d_backward(dy64, cache64))
back["tinyfcn: Winograd in bands"] = rested(lambda: ops.conv2d_backward(dy64, cache64))

figure, axis = plt.subplots(figsize=(8, 2.4))
bars = axis.barh(list(back), [1000 * t for t in back.values()], color=[RED, BLUE, BLUE, GREEN])
axis.bar_label(
    bars, [f"{t:,.0f} s" if t > 1 else f"{1000 * t:.1f} ms" for t in back.values()], padding=3
)
axis.set(
    xscale="log",
    xlabel="milliseconds (a logarithmic axis)",
    title="64 to 64 channels, 128x128, backward: dx, dw and db",
)
axis.invert_yaxis()
axis.set_xlim(1000 * min(back.values()) / 5, 10 * 1000 * max(back.values()))
plt.show()

# %% tags=["hide-output"]
for (name, forward), backward in zip(
    [pair for pair in taken.items() if "three" not in pair[0]], back.values()
):
    print(f"{name:26} backward / forward: {backward / forward:.1f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Two, for the products alone. But numbers are moved about as well, differently in each direction: col2im
# adds where im2col copies, our cache saves im2col a second time, and the package gathers its columns once
# more. (Times of a few milliseconds also waver with whatever else the machine does.)
#
# </details>
#
# Large convolutions go other ways, which compute the same faster: in bands (`tinyfcn/ops/columns.py`), and
# for some shapes by [Winograd's method](11_winograd.ipynb) or tap by tap ([Speed](10_speed.ipynb)). Each is a
# module with the same two functions, `forward` and `backward`, and Winograd's `backward` begins by turning the
# kernels round:
#
# ```python
# turned = weight[:, :, ::-1, ::-1].swapaxes(0, 1)
# ```
#
# ## Why is the input gradient a convolution with the kernel turned round?
#
# Take stride 1, and ask which outputs see pixel (u, v). In $u = r + i - p$ fix $u$: tap $i = 0$ sees it from
# output $r = u + p$, tap 2 from $r = u + p - 2$. The further down the tap, the further up the output. The
# outputs around (u, v) therefore hold the weights *in reverse order*:

# %% tags=["hide-input"] alt="The kernel's nine taps, one input pixel, and the outputs that saw it, named by their taps: the kernel, turned by 180 degrees"
figure, axes = plt.subplots(1, 3, figsize=(8, 3.1))
names = np.array([[f"{i}{j}" for j in range(3)] for i in range(3)])
for axis, title, size, start, words in [
    (axes[0], "the kernel's taps", 3, 0, names),
    (axes[1], "input: pixel (2, 2)", 5, 2, np.array([["x"]])),
    (axes[2], "outputs, by their tap on x", 5, 1, names[::-1, ::-1]),
]:
    axis.imshow(np.zeros((size, size)), cmap="Greys", vmin=0, vmax=1)
    for (r, c), word in np.ndenumerate(words):
        colour = RED if word in ("00", "x") else SKY
        axis.add_patch(
            plt.Rectangle((start + c - 0.5, start + r - 0.5), 1, 1, fc=colour, ec="white")
        )
        axis.text(
            start + c,
            start + r,
            word if word == "x" else f"$w_{{{word}}}$",
            ha="center",
            va="center",
            size=12,
        )
    axis.set(title=title, xticks=range(size), yticks=range(size), xlabel="column", ylabel="row")
    axis.spines[:].set_visible(True)
figure.suptitle(
    "The outputs that saw one pixel (3x3, padding 1) hold the kernel turned by 180 degrees"
)
plt.show()

# %% [markdown]
# In formulas: solve $u = r + i - p$ for $r$, and count the taps from the other end, $i' = 2 - i$ (likewise $j'$):
#
# $$dx_{n,k,u,v} = \sum_{o,i,j} w_{o,k,i,j} \; dy_{n,o,\,u - i + p,\,v - j + p} = \sum_{o,i',j'} w_{o,k,\,2-i',\,2-j'} \;
# dy_{n,o,\,u + i' - (2 - p),\,v + j' - (2 - p)}$$
#
# Compare with the definition: this *is* a convolution of dy, with padding $2 - p$ (in general $k - 1 - p$), the
# kernel turned by 180 degrees, and the roles of input and output channels swapped. For $p = 0$ the padding is
# 2, "full": every pixel of x gets an answer from each output that touched it. The gradient of a correlation is
# a true convolution, the one with the kernel reversed.
#
# **Predict.** For which $p$ do both passes have the same padding? And which one does backward have for $p = 2$?

# %% tags=["hide-output"]
for padding in 0, 1, 2:
    y, cache = ops.conv2d_forward(x, w, b, padding=padding)
    dy = rng.normal(size=y.shape)
    dx, _, _ = ops.conv2d_backward(dy, cache)
    turned = w[:, :, ::-1, ::-1].swapaxes(0, 1)  # (C_in, C_out, 3, 3)
    as_convolution, _ = ops.conv2d_forward(dy, turned, padding=2 - padding)
    assert np.allclose(dx, as_convolution, rtol=0, atol=1e-13)
    print(
        f"padding {padding} forward, {2 - padding} backward: {dy.shape} -> {as_convolution.shape}"
    )

# %% [markdown]
# This is worth a lot: any fast way to convolve is a fast way to compute its input gradient. With a *stride* of
# 2, zeros come between the entries of dy first: each output then spreads the kernel over the image, two pixels
# apart. Run as a forward pass it is called transposed convolution, and FCN uses it to grow its scores back to
# the size of the image: [Upsampling](05_upsampling.ipynb).
#
# ## What is remembered, and why not the columns?
#
# `conv_im2col` above kept X for its backward pass, which needs it for $dW = dY X^T$. The package keeps x and w,
# by reference, and nothing else. X is gathered anew.

# %%
x64, w64, b64 = layer
y, cache = ops.conv2d_forward(x64, w64, b64, padding=1)
assert cache[0] is x64 and cache[1] is w64
own = conv_im2col(x64, w64, b64, padding=1)[1]
print(f"x: {x64.nbytes / 1e6:.1f} MB, the columns: {own[2].nbytes / 1e6:.1f} MB")

# %% [markdown]
# **Predict.** How many gigabytes of columns would a training step of FCN on a 500x500 image keep? And which
# share of the backward pass's time does gathering take?

# %% tags=["hide-input", "hide-output"] alt="Memory of each layer's input and of its columns in gigabytes: the columns of conv1_2 are the largest, nine times its input"
sizes, c_in, inputs, columns = VGG.map_sizes(100, 0, 500), 3, {}, {}
for name, (c_out, c_in, kh, kw) in (
    (n, s) for n, s in VGG.shapes(1.0).items() if n.endswith(".weight")
):
    layer_name = name.removesuffix(".weight")
    side = sizes.get(layer_name, sizes["fc6"])
    columns[layer_name] = (
        4e-9 * c_in * kh * kw * side**2 if kh > 1 else 0
    )  # a 1x1 convolution's columns are x itself
    inputs[layer_name] = 4e-9 * c_in * (side + kh - 1 - 2 * (kh == 3)) ** 2

figure, axis = plt.subplots(figsize=(8, 3.2))
place = np.arange(len(columns))
axis.bar(
    place - 0.2, inputs.values(), 0.4, label=f"x: {sum(inputs.values()):.1f} GB in all", color=BLUE
)
axis.bar(
    place + 0.2,
    columns.values(),
    0.4,
    label=f"its columns: {sum(columns.values()):.1f} GB in all",
    color=ORANGE,
)
axis.set_xticks(place, columns, rotation=45, ha="right")
axis.set(
    ylabel="GB in float32",
    title="What each layer of FCN would keep, for one image of 500x500 padded by 100",
)
axis.legend(frameon=False)
assert columns["conv1_2"] > 1.1 and sum(columns.values()) > 7 * sum(inputs.values())
plt.show()

# %% tags=["hide-output"]
whole = back["tinyfcn: columns in bands"]
geometry = conv.Geometry((3, 3), (1, 1), (1, 1), (1, 1))
bands = [slice(row, row + 8) for row in range(0, 128, 8)]
again = seconds(lambda: [conv.im2col(x64, geometry, rows, 128) for rows in bands])
print(f"backward pass {1000 * whole:.1f} ms; gathering, on one thread, {1000 * again:.1f} ms")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Gathering again costs a small part of the backward pass; keeping the columns would cost gigabytes for a single image.
# Nor would it be free: a gigabyte has to be written to memory, and read back.
#
# </details>
#
# The general rule of this package: **keep references to what exists anyway; compute again what is cheap; never
# keep a copy.** x exists anyway, since it is the output of the layer below.
#
# ## Exercises

# %% [markdown]
# ### Exercise 1: a convolution, tap by tap
#
# You have seen seven loops, and a product with columns that are nine times as large as the image. There is a way
# between them: loop over the *taps* alone, and let each add its share to all outputs at once. Write the whole
# convolution so, with a stride and a padding, for any number of images and channels and any kernel.
#
# <details><summary>Hint 1</summary>
#
# Pad x once. What tap (i, j) meets, at all outputs, is a piece of the padded x: the one that `im2col` calls `seen`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `w[:, :, i, j]` is a matrix (C_out, C_in), which takes the channels of that piece to the channels of y. `np.einsum`
# with "ok,nkrc->norc" multiplies so.
#
# </details>


# %% tags=["exercise"]
def conv_taps(x, w, b, stride=1, padding=0):
    """y (N, C_out, H_out, W_out) of x (N, C_in, H, W), w (C_out, C_in, kh, kw) and b (C_out,)."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng_1 = np.random.default_rng(1)
    for (kh, kw), s, p in [((3, 3), 1, 0), ((3, 3), 1, 1), ((3, 2), 2, 0), ((2, 4), 3, 2)]:
        a, weight = rng_1.normal(size=(2, 3, 8, 7)), rng_1.normal(size=(4, 3, kh, kw))
        bias = rng_1.normal(size=4)
        found = conv_taps(a, weight, bias, s, p)
        right = ops.conv2d_forward(a, weight, bias, stride=s, padding=p)[0]
        case = f"y (kernel {kh}x{kw}, stride {s}, padding {p})"
        backwards = weight[:, :, ::-1, ::-1]
        turned = ops.conv2d_forward(a, backwards, bias, stride=s, padding=p)[0]
        same = np.shape(found) == right.shape
        assert not (same and np.allclose(found, turned)), (
            f"{case}: the kernel lies the wrong way round"
        )
        bare = same and np.allclose(found + bias[:, None, None], right)
        assert not bare, f"{case}: where is the bias?"
        expect(found, right, case)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def conv_taps(x, w, b, stride=1, padding=0):
#     x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
#     kh, kw = w.shape[2:]
#     h, k = (x.shape[2] - kh) // stride + 1, (x.shape[3] - kw) // stride + 1
#     y = np.zeros((len(x), len(w), h, k)) + b[:, None, None]
#     for i in range(kh):
#         for j in range(kw):
#             seen = x[:, :, i : i + stride * h : stride, j : j + stride * k : stride]
#             y += np.einsum("ok,nkrc->norc", w[:, :, i, j], seen)
#     return y
# ```
#
# Nothing is copied nine times. For wide layers and small maps, the package does it this way too.
#
# </details>

# %% [markdown]
# ### Exercise 2: its backward pass
#
# Now the other direction, for the same stride and padding: dx, dw and db. The cache is what you would have
# kept, x, w, the stride and the padding. Where the stride leaves rows over at the end, they have a gradient, too.
#
# <details><summary>Hint 1</summary>
#
# Each tap's share was a product of two things, $w$ and the piece that it met. So for each tap, dw gets dy times
# the piece, and the piece gets dy times w: *add* it to the same piece of a padded dx.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Begin with zeros of the *padded* x's shape, so that the slices are those of the forward pass, and cut the padding
# away in the end. dw sums over images, rows and columns: "norc,nkrc->ok".
#
# </details>


# %% tags=["exercise"]
def conv_taps_backward(dy, cache):
    """(dx, dw, db) for dy (N, C_out, H_out, W_out)."""
    x, w, stride, padding = cache
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng_2 = np.random.default_rng(2)
    for (kh, kw), s, p in [((3, 3), 1, 0), ((3, 3), 1, 1), ((3, 2), 2, 0), ((2, 4), 3, 2)]:
        a, weight = rng_2.normal(size=(2, 3, 8, 7)), rng_2.normal(size=(4, 3, kh, kw))
        y_2, cache_2 = ops.conv2d_forward(a, weight, np.zeros(4), stride=s, padding=p)
        dy_2 = rng_2.normal(size=y_2.shape)
        answer = conv_taps_backward(dy_2, (a, weight, s, p))
        assert isinstance(answer, tuple) and len(answer) == 3, "return dx, dw and db"
        for name, found, right in zip(
            ("dx", "dw", "db"), answer, ops.conv2d_backward(dy_2, cache_2)
        ):
            case = f"{name} (kernel {kh}x{kw}, stride {s}, padding {p})"
            expect(found, right, case, N=2, outputs=y_2[0, 0].size)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def conv_taps_backward(dy, cache):
#     x, w, stride, padding = cache
#     xp = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
#     dxp, dw = np.zeros_like(xp), np.zeros_like(w)
#     h, k = dy.shape[2:]
#     for i in range(w.shape[2]):
#         for j in range(w.shape[3]):
#             piece = np.s_[:, :, i : i + stride * h : stride, j : j + stride * k : stride]
#             dw[:, :, i, j] = np.einsum("norc,nkrc->ok", dy, xp[piece])
#             dxp[piece] += np.einsum("norc,ok->nkrc", dy, w[:, :, i, j])
#     dx = dxp[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]]
#     return dx, dw, dy.sum(axis=(0, 2, 3))
# ```
#
# Pieces of different taps overlap, hence `+=`; each weight has one place in dw, where `=` is enough. The rows that
# are left over stay 0, since no piece reaches them. (`padding : -padding` would be empty for a padding of 0.)
#
# </details>


# %% tags=["setup"]
def two_layers(x, w1, b1, w2, b2):
    """A small network: a convolution, a ReLU, a convolution, both padded by 1."""
    z, cache1 = ops.conv2d_forward(x, w1, b1, padding=1)
    y, cache2 = ops.conv2d_forward(np.maximum(z, 0), w2, b2, padding=1)
    return y, (z, cache1, cache2)


# %% [markdown]
# ### Exercise 3: two layers, and a ReLU in between
#
# A ReLU hands on what is positive and makes 0 of the rest: $a = \max(z, 0)$. Without one, two convolutions would be no
# more than one larger convolution. Write the backward pass of the whole network `two_layers` above. For the
# convolutions, call `ops.conv2d_backward(dy, cache)`, which returns dx, dw and db.
#
# <details><summary>Hint 1</summary>
#
# Go through the three operations in the opposite order. Each takes the gradient at its output and gives the one at its
# input.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Where z was negative, a stays 0 if z changes a little. Where it was positive, a changes as z does. So what is the
# derivative of a by z, in both cases?
#
# </details>


# %% tags=["exercise"]
def two_layers_backward(dy, cache):
    """(dx, dw1, db1, dw2, db2) for dy, the gradient at the network's output."""
    z, cache1, cache2 = cache
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng_3 = np.random.default_rng(3)
    shapes = (2, 3, 6, 5), (4, 3, 3, 3), (4,), (2, 4, 3, 3), (2,)
    arrays = [rng_3.normal(size=shape) for shape in shapes]
    y_3, cache_3 = two_layers(*arrays)
    answer = two_layers_backward(np.ones_like(y_3), cache_3)
    assert isinstance(answer, tuple) and len(answer) == 5, "return dx, dw1, db1, dw2 and db2"
    for name, found, array in zip(("dx", "dw1", "db1", "dw2", "db2"), answer, arrays):
        assert found.shape == array.shape, f"{name} has shape {found.shape}, expected {array.shape}"
    try:
        check_gradient(two_layers, two_layers_backward, *arrays)
    except GradientError as error:
        hint = "does nothing flow where z was negative, and all elsewhere?"
        raise AssertionError(f"{error} ({hint})") from None

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def two_layers_backward(dy, cache):
#     z, cache1, cache2 = cache
#     da, dw2, db2 = ops.conv2d_backward(dy, cache2)
#     dz = da * (z > 0)
#     dx, dw1, db1 = ops.conv2d_backward(dz, cache1)
#     return dx, dw1, db1, dw2, db2
# ```
#
# The ReLU lets the gradient through where it let the value through. So its output a serves as well as z to say where
# (a > 0 where z > 0), and the package, which needs a anyway for the next layer, forgets z.
#
# </details>

# %% [markdown]
# ### Exercise 4: the input gradient by a forward pass
#
# You saw for stride 1 that dx is a convolution of dy. Now with a stride: compute dx with a single call of
# `ops.conv2d_forward`, for any kernel (not always square) and a padding smaller than the kernel. `shape` is that of x;
# more than one height leads to the same number of outputs, so dy alone does not say which.
#
# <details><summary>Hint 1</summary>
#
# With stride 2, every other output is left out, compared with stride 1. What gradient would the outputs that
# were left out have?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Spread dy into an array of zeros, s apart, as large as the output *at stride 1*: H + 2 p - kh + 1 rows. From there
# on all is as above, with padding k - 1 - p.
#
# </details>


# %% tags=["exercise"]
def input_gradient(dy, w, shape, stride, padding):
    """dx of this shape, for w (C_out, C_in, kh, kw) and `padding` (vertical, horizontal)."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng_4 = np.random.default_rng(4)
    cases = [((3, 3), 1, (1, 1)), ((3, 3), 1, (0, 0)), ((5, 2), 1, (2, 1)), ((3, 3), 2, (1, 1))]
    for (kh, kw), s, p in [*cases, ((3, 2), 2, (0, 1)), ((4, 3), 3, (2, 0))]:
        a, weight = rng_4.normal(size=(2, 3, 8, 7)), rng_4.normal(size=(4, 3, kh, kw))
        y_4, cache_4 = ops.conv2d_forward(a, weight, stride=s, padding=p)
        dy_4 = rng_4.normal(size=y_4.shape)
        found, right = (
            input_gradient(dy_4, weight, a.shape, s, p),
            ops.conv2d_backward(dy_4, cache_4)[0],
        )
        expect(found, right, f"dx (kernel {kh}x{kw}, stride {s}, padding {p})")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def input_gradient(dy, w, shape, stride, padding):
#     kh, kw = w.shape[2:]
#     height, width = (size + 2 * p - k + 1 for size, p, k in zip(shape[2:], padding, (kh, kw)))
#     apart = np.zeros((*dy.shape[:2], height, width))
#     apart[:, :, ::stride, ::stride] = dy
#     turned = w[:, :, ::-1, ::-1].swapaxes(0, 1)
#     dx, _ = ops.conv2d_forward(apart, turned, padding=(kh - 1 - padding[0], kw - 1 - padding[1]))
#     return dx
# ```
#
# An output that does not exist has no influence on the loss, so its gradient is 0. Rows of zeros at the end stand for
# inputs that no window saw. This is a transposed convolution, and you will meet it again in notebook 5.
#
# </details>

# %% [markdown]
# ### Exercise 5: the weight gradient by a forward pass
#
# $dw_{o,k,i,j} = \sum_{n,r,c} dy_{n,o,r,c}\, x_{n,k,r s + i,c s + j}$ is a convolution as well: dy is the
# kernel that slides over x. Use one call of `ops.conv2d_forward` (no padding), and mind inputs whose last rows
# no window sees.
#
# <details><summary>Hint 1</summary>
#
# The sum runs over the images n. In a convolution, the sum runs over input channels: so the images must take
# their place.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Neighbouring entries of dy meet inputs that lie s apart. Which of the operation's options puts a kernel's taps apart?
#
# </details>


# %% tags=["exercise"]
def weight_gradient(dy, x, kh, kw, stride):
    """dw (C_out, C_in, kh, kw) of a convolution of x at this stride, without padding."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng_5 = np.random.default_rng(5)
    for size_5, (kh, kw), s in [
        ((6, 7), (3, 3), 1),
        ((7, 9), (3, 3), 2),
        ((8, 8), (3, 2), 2),
        ((11, 9), (2, 3), 3),
    ]:
        a, weight = rng_5.normal(size=(2, 3, *size_5)), rng_5.normal(size=(4, 3, kh, kw))
        y_5, cache_5 = ops.conv2d_forward(a, weight, stride=s)
        dy_5 = rng_5.normal(size=y_5.shape)
        found, right = weight_gradient(dy_5, a, kh, kw, s), ops.conv2d_backward(dy_5, cache_5)[1]
        expect(found, right, f"dw (kernel {kh}x{kw}, stride {s})", N=2)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def weight_gradient(dy, x, kh, kw, stride):
#     dw, _ = ops.conv2d_forward(x.swapaxes(0, 1), dy.swapaxes(0, 1), dilation=stride)
#     return dw.swapaxes(0, 1)[:, :, :kh, :kw]
# ```
#
# The sum runs over the images n, so they take the place of the input channels; k becomes the batch.
# Neighbouring entries of dy meet inputs that lie s apart: the stride becomes a *dilation*. Where rows are left
# over, the long kernel fits in more often than there are taps, and the rest is cut off.
#
# </details>

# %% [markdown]
# ---
# You can now differentiate what finds Chelsea's eyes. In [Pooling and receptive fields](03_pooling.ipynb) her photograph shrinks
# to 15 by 10, and backward passes decide where a gradient may go at all.
