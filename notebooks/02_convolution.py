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
# You will be able to
#
# - write a convolution as seven loops, and as one product of matrices (im2col),
# - say how large its output is, for any stride, padding and dilation,
# - derive its backward pass from sums and from matrices, and test it by a third way, the adjoint,
# - say why the input gradient of a 3x3 convolution is a convolution with the kernel turned round,
# - say what a backward pass must remember, and what it had better compute again.
#
# Takes about 75 minutes. Builds on [Dense prediction](01_dense_prediction.ipynb), and on school calculus: the chain rule for
# sums and products.

# %% tags=["setup"]
import os
import time
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
from lesson import BLUE, COLOURS, GREEN, ORANGE, RED, SKY, attempt, seconds, show_source

from tinyfcn import ops
from tinyfcn.backend import describe_device
from tinyfcn.gradcheck import GradientError, check_gradient
from tinyfcn.ops import conv

rng = np.random.default_rng(0)
plt.rcParams["figure.constrained_layout.h_pad"] = 0.08  # inches, below a figure's title


def rested(call):
    """The best time of a call, once the threads of the last matrix product, which spin on for a while, are at rest."""
    time.sleep(0.1)
    return min(seconds(call, 1) for _ in range(10))


# %%
print(describe_device(np))

# %% [markdown]
# ## One output
#
# Lay a kernel of weights over a piece of the image, multiply what lies on top of each other, add it all up: that is one
# output. Then shift the kernel by one pixel for the next one. Here is a 5x5 image, dark on the left and bright on the right,
# and a 3x3 kernel.

# %%
image = np.array([[0, 0, 1, 3, 3], [0, 0, 2, 3, 3], [0, 1, 3, 3, 3], [0, 0, 2, 3, 3], [0, 0, 1, 3, 3]], float)
kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], float)


# %% tags=["setup"]
def draw_matrix(axis, matrix, title, *, numbers=True, cmap="viridis", size=10):
    """A matrix as a picture, with its numbers."""
    matrix = np.asarray(matrix)
    low, high = matrix.min(), max(matrix.max(), matrix.min() + 1e-9)
    axis.imshow(matrix, cmap=cmap, vmin=low, vmax=high)
    for (r, c), value in np.ndenumerate(matrix) if numbers else ():
        shade = plt.get_cmap(cmap)((value - low) / (high - low))[:3]
        axis.text(c, r, f"{value:g}", ha="center", va="center", size=size, color="black" if sum(shade) > 1.4 else "white")
    axis.set(title=title, xticks=range(matrix.shape[1]), yticks=range(matrix.shape[0]))
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def frame(axis, row, column, height, width, colour, inset=0.0):
    """A frame around some pixels of a picture."""
    place = (column - 0.5 + inset, row - 0.5 + inset)
    axis.add_patch(plt.Rectangle(place, width - 2 * inset, height - 2 * inset, fill=False, lw=3, ec=colour, clip_on=False))


# %% [markdown]
# **Predict.** Which number does the kernel give where its upper left corner lies on row 1, column 0? On which outputs is it
# largest?

# %%
y = np.zeros((3, 3))
for r in range(3):
    for c in range(3):
        y[r, c] = (kernel * image[r : r + 3, c : c + 3]).sum()

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

# %%
assert y[1, 0] == -1 * 0 + 0 * 0 + 1 * 2 - 2 * 0 + 0 * 1 + 2 * 3 - 1 * 0 + 0 * 0 + 1 * 2 == 10
print(f"largest: {y.max():g}, at (row, column)", *map(tuple, np.argwhere(y == y.max()).tolist()))

# %% [markdown]
# This kernel subtracts what lies to the left from what lies to the right: it answers to edges from dark to bright. In a network
# nobody writes kernels down. They are learned, from the gradient that this notebook derives.
#
# ## Seven loops
#
# A layer has many input channels k and many output channels o, and a batch has many images n. With a padding of $p$ zeros
# around the image, a stride $s$, and rows and columns counted from 0,
#
# $$y_{n,o,r,c} = b_o + \sum_{k,i,j} w_{o,k,i,j} \; x_{n,\,k,\;r s + i - p,\;c s + j - p} .$$
#
# Seven indices, seven loops. Nothing in it is cleverer than it looks.

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
                                y[n, o, r, c] += w[o, k, i, j] * x[n, k, r * stride + i, c * stride + j]
    return y


# %%
x, w, b = rng.normal(size=(2, 3, 7, 6)), rng.normal(size=(4, 3, 3, 3)), rng.normal(size=4)
for stride, padding in (1, 0), (1, 1), (2, 1), (3, 2):
    expected, _ = ops.conv2d_forward(x, w, b, stride=stride, padding=padding)
    assert np.allclose(conv_loops(x, w, b, stride, padding), expected, rtol=0, atol=1e-12)

# %% [markdown]
# **Predict.** conv1_2 of FCN takes 64 channels to 64 on a map of 698x698 (an image of 500x500, padded by 100, and less 2 for
# a 3x3 kernel). How many multiplications is that? How long does Python take for each of them?

# %%
multiplications = 64 * 64 * 3 * 3 * 698 * 698
few = [rng.normal(size=(1, 64, 6, 6)), rng.normal(size=(2, 64, 3, 3)), np.zeros(2)]
each = seconds(lambda: conv_loops(*few), 1) / (2 * 4 * 4 * 64 * 9)
print(f"{multiplications / 1e9:.1f} billion multiplications, {1e9 * each:.0f} ns each: {multiplications * each / 3600:.1f} hours")

# %% [markdown]
# The loops are right, and of no use for more than a toy. They remain what everything else is compared with: the package's
# tests do it too.
#
# ## Convolution or cross-correlation?
#
# What deep learning calls convolution is, in the words of signal processing, a **cross-correlation**. A convolution reads the
# kernel backwards:
#
# $$\text{correlation: } \sum_i w_i \, x_{r+i} \qquad\qquad \text{convolution: } \sum_i w_i \, x_{r-i}$$
#
# **Predict.** The input is one bright pixel. What does each of the two make of it?

# %%
letter = np.array([[3, 2, 2], [3, 1, 0], [3, 0, 0]], float)  # a kernel like the letter F
dot = np.zeros((1, 1, 5, 5))
dot[0, 0, 2, 2] = 1
correlation, _ = ops.conv2d_forward(dot, letter[None, None], padding=1)
convolution, _ = ops.conv2d_forward(dot, letter[None, None, ::-1, ::-1], padding=1)

figure, axes = plt.subplots(1, 4, figsize=(8, 2.5))
pictures = {"kernel": letter, "input": dot[0, 0], "cross-correlation": correlation[0, 0], "convolution": convolution[0, 0]}
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
# With correlation, the bright pixel is met by the *last* tap first, so it leaves the kernel turned by 180 degrees. For a
# learned kernel the difference is a matter of naming: learning would find the turned kernel instead. It matters in two
# places. Filters from another source may have to be turned. And, as we shall see, the *gradient* of a correlation is a
# convolution in the strict sense.
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


# %%
def draw_windows(axis, size, k, s, p, d):
    """Every window of a kernel along one axis, one below the other."""
    for place in range(-p, size + p):
        look = {"fc": "0.55"} if 0 <= place < size else {"fc": "white", "hatch": "///"}
        axis.add_patch(plt.Rectangle((place, 0.1), 0.9, 0.9, ec="0.55", **look))
    windows = conv.Geometry((1, k), (1, s), (0, p), (1, d)).output_size((1, size))[1]
    for r in range(windows):
        for tap in range(k):
            axis.add_patch(plt.Rectangle((r * s + tap * d - p, -0.6 * (r + 1)), 0.9, 0.45, fc=COLOURS[r]))
    axis.set(xlim=(-3.3, 10.3), ylim=(-0.6 * 7.4, 1.2), yticks=[], xticks=[], title=f"k={k} s={s} p={p} d={d}: {windows} outputs")
    axis.title.set_size(11)
    axis.spines[:].set_visible(False)


figure, axes = plt.subplots(2, 3, figsize=(8, 4.6))
for axis, geometry in zip(axes.flat, [(3, 1, 0, 1), (3, 1, 1, 1), (3, 2, 1, 1), (3, 2, 0, 1), (3, 1, 0, 2), (7, 1, 3, 1)]):
    draw_windows(axis, 7 if geometry != (3, 2, 0, 1) else 8, *geometry)
figure.suptitle("Windows over 7 pixels (lower left: 8); hatched: padding; a colour for each output")
plt.show()

# %% [markdown]
# Lower left, 8 pixels at stride 2: the last pixel is seen by nobody. This is what the floor in the formula does.
#
# **Predict.** What is the gradient of the loss at such a pixel?

# %%
y, cache = ops.conv2d_forward(rng.normal(size=(1, 1, 8, 8)), rng.normal(size=(1, 1, 3, 3)), stride=2)
dx, _, _ = ops.conv2d_backward(np.ones_like(y), cache)
assert y.shape == (1, 1, 3, 3) and (dx[..., -1] == 0).all() and (dx[..., -1, :] == 0).all()
dx[0, 0].round(1)

# %% [markdown]
# Zero: no output depends on it. The formula itself can be checked by counting, for every small case there is.

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
# padding: it makes a map smaller by 6. For a 7x7 map of a 224x224 image a single output is left: the
# classifier (Long et al. 2015, section 3.1).
#
# ## im2col: the whole layer as one product of matrices
#
# Processors are at their best when they multiply large matrices. So we ask: is a convolution a product of matrices? Every
# output is an inner product of nine weights with nine inputs. Put the inputs of one output into one **column**, and do so for
# all outputs. Here the pixels of a 5x5 image are numbered, and a 3x3 kernel has nine places to be.

# %%
x5 = np.arange(25.0).reshape(5, 5)
X = np.zeros((9, 9))
for r in range(3):
    for c in range(3):
        X[:, 3 * r + c] = x5[r : r + 3, c : c + 3].ravel()

figure, axes = plt.subplots(1, 2, figsize=(8, 4.4))
draw_matrix(axes[0], x5, "x")
draw_matrix(axes[1], X, "X, the columns")
for (r, c), colour in {(0, 0): RED, (1, 1): ORANGE, (2, 2): SKY}.items():
    frame(axes[0], r, c, 3, 3, colour, inset=0.02 + 0.05 * r)
    frame(axes[1], 0, 3 * r + c, 9, 1, colour)
axes[0].set(xlabel="column of the image", ylabel="row of the image")
axes[1].set(xlabel="output (r, c), as 3 r + c", ylabel="tap (i, j), as 3 i + j")
figure.suptitle("Each window of the image becomes a column")
plt.show()

# %% [markdown]
# A kernel, as a row of nine numbers, times this matrix gives the nine outputs at once.

# %%
by_matrix = kernel.ravel() @ X
by_loops = conv_loops(x5[None, None], kernel[None, None], [0])
assert np.array_equal(by_matrix.reshape(3, 3), by_loops[0, 0])
by_matrix.reshape(3, 3)

# %% [markdown]
# Now look at the same matrix row by row.
#
# **Predict.** Row 5 of X holds what tap (1, 2) meets, at each of the nine outputs. Where do these nine numbers lie in the
# image?

# %%
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
# So the matrix need not be filled output by output. A loop over the *taps* does it, nine copies of whole pieces, however
# large the image is. With channels, the rows of all channels stand below each other; with a stride, the pieces are taken in
# steps; with several images, there are more columns.

# %%
def im2col(x, kh, kw, stride=1, padding=0):
    """(C_in kh kw, N H_out W_out): the inputs of each output, as a column."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    h, w = (x.shape[2] - kh) // stride + 1, (x.shape[3] - kw) // stride + 1
    columns = np.empty((x.shape[1], kh, kw, len(x), h, w), x.dtype)
    for i in range(kh):
        for j in range(kw):
            seen = x[:, :, i : i + stride * h : stride, j : j + stride * w : stride]  # (N, C_in, h, w)
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
# What does it cost? X repeats the inputs: pixel (2, 2) of the 5x5 image lies in all nine windows, a corner in one.
#
# **Predict.** How often does each of the 25 pixels occur in X?

# %%
times = np.bincount(X.ravel().astype(int), minlength=25).reshape(5, 5)
figure, axis = plt.subplots(figsize=(8, 2.9))
draw_matrix(axis, times, "How often each pixel stands in X")
axis.set(xlabel="column of the image", ylabel="row of the image")
assert np.array_equal(times, np.outer([1, 2, 3, 2, 1], [1, 2, 3, 2, 1]))

# %% [markdown]
# Up to $k_h k_w = 9$ times, and in a large image nearly all pixels do, as the border is a small part of it. That is
# the price of im2col: nine times the memory. Keep this picture in mind, it comes back in the backward pass.
#
# ## How much faster?
#
# **Predict.** The loops, im2col, and the package: by which factors do they differ, on 64 channels to 64 at 128x128?
# (The loops are timed on 32 outputs, and their time is multiplied. The package can do it in two ways: by im2col, a few
# rows of outputs, or *band*, at a time, and by Winograd's method, which needs fewer multiplications.)

# %%
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
with mock.patch.dict(os.environ, TINYFCN_CONV="columns"):  # and not Winograd's, see notebook 10
    taken["tinyfcn: im2col in bands"] = rested(lambda: ops.conv2d_forward(*layer, padding=1))
taken["tinyfcn: Winograd in bands"] = rested(lambda: ops.conv2d_forward(*layer, padding=1))

# %%
figure, axis = plt.subplots(figsize=(8, 2.8))
bars = axis.barh(list(taken), [1000 * t for t in taken.values()], color=[RED, ORANGE, BLUE, BLUE, GREEN])
axis.bar_label(bars, [f"{t:,.1f} s" if t > 1 else f"{1000 * t:.1f} ms" for t in taken.values()], padding=3)
axis.set(xscale="log", xlabel="milliseconds (a logarithmic axis)", title="64 to 64 channels, 128x128, forward")
axis.invert_yaxis()
axis.set_xlim(1000 * min(taken.values()) / 5, 10 * 1000 * max(taken.values()))
plt.show()

# %%
assert taken["im2col, one product"] < taken["three loops, the rest NumPy"] / 5 < taken["seven loops"] / 50
print(f"im2col: {taken['seven loops'] / taken['im2col, one product']:,.0f} times faster than the loops")

# %% [markdown]
# The same sums, thousands of times faster, by no more than putting numbers where the matrix product wants them.
# [Speed](10_speed.ipynb) is about the last two bars: bands save memory above all, Winograd's method saves time.
#
# ## Backward: what is asked for
#
# Some loss $L$ depends on $y$, and from the layers above we are handed $dy$, an array of y's shape with
# $dy_{n,o,r,c} = \partial L / \partial y_{n,o,r,c}$. We owe three arrays: $dx$ and $dw$ and $db$, the derivatives of the same
# $L$ by each entry of x, w and b.
#
# There are three ways to them, and each is worth knowing: the first needs no idea, the second gives fast
# code, the third gives a test.
#
# ## First way: index sums
#
# One product in the seven loops is $y_{n,o,r,c} \mathrel{+}= w_{o,k,i,j} \cdot x_{n,k,u,v}$ with $u = r s + i - p$ and
# $v = c s + j - p$. Its derivative by the weight is the input, and by the input it is the weight. The chain rule multiplies
# by $dy$ and adds up over everything that the entry has a part in:
#
# $$dw_{o,k,i,j} = \sum_{n,r,c} dy_{n,o,r,c} \; x_{n,k,u,v} \qquad dx_{n,k,u,v} = \sum_{\substack{o,r,c,i,j\\ r s + i - p
# \,=\, u \\ c s + j - p \,=\, v}} dy_{n,o,r,c} \; w_{o,k,i,j} \qquad db_o = \sum_{n,r,c} dy_{n,o,r,c}$$
#
# The condition below the middle sum looks unpleasant: which outputs (r, c) and taps (i, j) meet pixel (u, v)? There is no
# need to solve it. Walk through the same seven loops, meet each product once more, and let it *add* its share to both.

# %%
def backward_loops(dy, cache):
    """The seven loops again: each product of the forward pass is met once, and read in two directions."""
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

# %%
small = rng.normal(size=(1, 2, 5, 4)), rng.normal(size=(2, 2, 3, 3)), rng.normal(size=2)
for stride, padding in (1, 0), (1, 1), (2, 1):
    print(stride, padding, check_gradient(forward_loops, backward_loops, *small, directions=3, stride=stride, padding=padding))

# %% [markdown]
# As many as a difference quotient has: ten or so. (Along a line L is a polynomial of degree two, for which
# $\frac{L(t+hv)-L(t-hv)}{2h}$ is exact. What remains is rounding, divided by $h$.)
#
# Note the `+=`. A weight has a part in every output of its channel, an input in up to nine of each.
# Derivatives of a sum add: whatever is *used several times* in the forward pass *collects several
# gradients* in the backward pass. A frequent mistake in a backward pass of one's own is an `=` here.
#
# ## Second way: transpose the matrices
#
# In the form $Y = W X$ (bias aside), take small changes of both factors:
# $\delta L = \langle dY, \delta W\, X + W\, \delta X \rangle$, where
# $\langle A, B \rangle = \sum_{ij} A_{ij} B_{ij}$ is the inner product of matrices. A factor can move to
# the other side as its transpose, because
# $\langle A, B C \rangle = \sum_{ijk} A_{ij} B_{ik} C_{kj} = \langle A C^T, B \rangle = \langle B^T A, C \rangle$.
# So
#
# $$\delta L = \langle dY\, X^T, \delta W \rangle + \langle W^T dY, \delta X \rangle
# \qquad\Longrightarrow\qquad dW = dY\, X^T, \qquad dX = W^T dY .$$
#
# Two matrix products, of the forward pass's own two factors. (Shapes remember it for you: $dW$ must be
# $C_{out} \times C_{in} k_h k_w$, and there is one way to get that from $dY$ and $X$.)
#
# One step is left. $dX$ is the gradient at the *columns*, and we owe the gradient at the image. Each entry of X is a copy of
# a pixel: X is linear in x, by a matrix S of zeros and ones with a single one in each row. Its transpose takes each entry
# back to the pixel that it was copied from, and *adds* where several come back.

# %%
S = np.zeros((81, 25))
S[np.arange(81), X.ravel().astype(int)] = 1  # entry e of X is pixel number X[e]
assert np.array_equal(S @ x5.ravel(), X.ravel())

figure, axes = plt.subplots(2, 1, figsize=(8, 5.2))
axes[0].imshow(S.T, cmap="Greys")
axes[0].set(xlabel="entry of X, row by row", ylabel="pixel of x", title="$S^T$: one 1 in each column, and up to nine in a row")
draw_matrix(axes[1], (S.T @ np.ones(81)).reshape(5, 5), "$S^T$ applied to ones: how many copies come back to each pixel")
axes[1].set(xlabel="column of the image", ylabel="row of the image")
axes[0].spines[:].set_visible(True)


# %% [markdown]
# It is the picture from before. $S^T$ is called **col2im**. Nobody multiplies by it: it is im2col read backwards, with each
# copy turned into an addition.

# %%
def col2im(columns, x_shape, kh, kw, stride=1, padding=0):
    """The transpose of im2col: compare line by line."""
    n, c, height, width = x_shape
    dx = np.zeros((n, c, height + 2 * padding, width + 2 * padding), columns.dtype)
    h, w = (dx.shape[2] - kh) // stride + 1, (dx.shape[3] - kw) // stride + 1
    columns = columns.reshape(c, kh, kw, n, h, w)
    for i in range(kh):
        for j in range(kw):
            dx[:, :, i : i + stride * h : stride, j : j + stride * w : stride] += columns[:, i, j].swapaxes(0, 1)
    return dx[:, :, padding : padding + height, padding : padding + width]


def backward_im2col(dy, cache):
    x, w, X, stride, padding = cache
    dY = dy.swapaxes(0, 1).reshape(len(w), -1)  # (C_out, N H_out W_out), as Y
    dX = w.reshape(len(w), -1).T @ dY
    return col2im(dX, x.shape, *w.shape[2:], stride, padding), (dY @ X.T).reshape(w.shape), dY.sum(1)


# %%
assert np.array_equal(col2im(X, (1, 1, 5, 5), 3, 3).ravel(), S.T @ X.ravel())
for stride, padding in (1, 0), (1, 1), (2, 1), (3, 2):
    print(stride, padding, check_gradient(conv_im2col, backward_im2col, x, w, b, stride=stride, padding=padding))

# %% [markdown]
# **Is the += in col2im safe?** Within one tap (i, j) the pixels are all different, so each is added to once. Between taps
# they overlap, but those come one after the other. (A single `dx[rows, columns] += values` over *all* taps at once would be
# wrong: with repeated indices, NumPy keeps only the last value.)

# %%
wrong, right = np.zeros(3), np.zeros(3)
wrong[[0, 1, 1]] += [1, 1, 1]
np.add.at(right, [0, 1, 1], [1, 1, 1])
wrong, right

# %% [markdown]
# ## Third way: the adjoint
#
# Forget formulas. For a fixed w, and b = 0, the map from x to y is linear; call it J, so that a change
# $v$ of x changes y by $J v$. The backward pass is the one linear map $J^T$ for which
#
# $$\langle dy, \; J v \rangle = \langle J^T dy, \; v \rangle \qquad \text{for all } dy \text{ and } v,$$
#
# since both sides are the change of L. This is the *definition* of the gradient, without an index in sight, and it is a
# **test**: draw $dy$ and $v$ at random; two numbers must be equal. There is no step size and no rounding of differences, so
# they agree to (nearly) all digits.
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


# %% [markdown]
# **Predict.** Two wrong backward passes. One forgets to add where windows overlap (`=` for `+=`); the other transposes the
# kernel's rows and columns in $dw$. Which of the four equations fail?

# %%
def without_adding(dy, cache):
    x, w, X, stride, p = cache
    dx, dw, db = backward_im2col(dy, cache)
    dxp = np.zeros((*x.shape[:2], x.shape[2] + 2 * p, x.shape[3] + 2 * p))
    for i, j in np.ndindex(3, 3):
        dxp[:, :, i : i + dy.shape[2], j : j + dy.shape[3]] = np.tensordot(dy, w[:, :, i, j], (1, 0)).transpose(0, 3, 1, 2)
    return dxp[:, :, p : p + x.shape[2], p : p + x.shape[3]], dw, db


def transposed_kernel(dy, cache):
    dx, dw, db = backward_im2col(dy, cache)
    return dx, np.ascontiguousarray(dw.swapaxes(2, 3)), db


for wrong in without_adding, transposed_kernel:
    (x1, x2), (w1, w2) = adjoint_test(wrong, 1, 1)
    print(f"{wrong.__name__:17} in x {x1:8.3f} {x2:8.3f}    in w {w1:8.3f} {w2:8.3f}")
    assert np.isclose(x1, x2) == (wrong is transposed_kernel) and np.isclose(w1, w2) == (wrong is without_adding)

# %% [markdown]
# `check_gradient` makes this test for any operation, linear or not: it takes $J v$ from a difference quotient. And where the
# two sides differ it looks for the entry that is most wrong.

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
# `tinyfcn/ops/conv.py` is one sitting: the definition, the two matrices, the products. `im2col` and `col2im` are written as mirror
# images, and should be read side by side: same patch, same taps, copies in the one and additions in the other. (They do some rows
# of outputs at a time. `_patch` cuts out the rows of x, with their padding, that these outputs see, and `_taps` says which of its
# pixels each tap meets. `hwnc` sees x as (H, W, N, C).)

# %%
show_source(conv.im2col, conv.col2im)

# %% [markdown]
# **Predict.** $\langle \text{im2col}(x), C \rangle$ and $\langle x, \text{col2im}(C) \rangle$ for random x and C?

# %%
geometry = conv.Geometry(kernel=(3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
height, width = geometry.output_size(x.shape[2:])
gathered = conv.im2col(x, geometry, slice(0, height), width)
C, scattered = rng.normal(size=gathered.shape), np.zeros_like(x)
conv.col2im(C, scattered, geometry, slice(0, height), width)
print((gathered * C).sum(), (x * scattered).sum())
assert np.isclose((gathered * C).sum(), (x * scattered).sum(), rtol=1e-12)

# %% [markdown]
# One for the price of the other: a pair of adjoint maps, whose test is a single line. The whole backward pass is then this
# (`as_matrix` sees dy as a matrix, with a row for each pixel of each image):

# %%
show_source(conv.input_gradient, conv.weight_gradient)

# %%
print(check_gradient(ops.conv2d_forward, ops.conv2d_backward, x, w, b, stride=(2, 1), padding=(1, 2), dilation=(1, 2)))

# %% [markdown]
# **Predict.** Backward computes two large gradients, each with as many products as forward. By which
# factor should it take longer? Does that hold for the loops, too? (They are timed on 32 entries of dy,
# and their time is multiplied.)

# %%
y64, cache64 = ops.conv2d_forward(*layer, padding=1)
dy64 = rng.normal(size=y64.shape).astype(np.float32)
few_cache = forward_loops(*few)[1]
back = {"seven loops": seconds(lambda: backward_loops(rng.normal(size=(1, 2, 4, 4)), few_cache), 1) * outputs / 32}
own_cache = conv_im2col(*layer, padding=1)[1]
back["im2col and col2im"] = rested(lambda: backward_im2col(dy64, own_cache))
with mock.patch.dict(os.environ, TINYFCN_CONV="columns"):
    back["tinyfcn: columns in bands"] = rested(lambda: ops.conv2d_backward(dy64, cache64))
back["tinyfcn: Winograd in bands"] = rested(lambda: ops.conv2d_backward(dy64, cache64))

figure, axis = plt.subplots(figsize=(8, 2.4))
bars = axis.barh(list(back), [1000 * t for t in back.values()], color=[RED, BLUE, BLUE, GREEN])
axis.bar_label(bars, [f"{t:,.0f} s" if t > 1 else f"{1000 * t:.1f} ms" for t in back.values()], padding=3)
axis.set(xscale="log", xlabel="milliseconds (a logarithmic axis)", title="64 to 64 channels, 128x128, backward: dx, dw and db")
axis.invert_yaxis()
axis.set_xlim(1000 * min(back.values()) / 5, 10 * 1000 * max(back.values()))
plt.show()

# %%
for (name, forward), backward in zip([pair for pair in taken.items() if "three" not in pair[0]], back.values()):
    print(f"{name:26} backward / forward: {backward / forward:.1f}")

# %% [markdown]
# Two, for the products alone. But numbers are moved about as well, differently in each direction: col2im
# adds where im2col copies, our cache saves im2col a second time, and the package gathers its columns once
# more. (Times of a few milliseconds also waver with whatever else the machine does.)
#
# Large convolutions go other ways, which compute the same faster: in bands (`tinyfcn/ops/columns.py`), and for some shapes by
# Winograd's method or tap by tap ([Speed](10_speed.ipynb)). Each is a module with the same three functions, `forward`,
# `input_gradient` and `weight_gradient`, and Winograd's `input_gradient` begins with this line:
#
# ```python
# turned = weight[:, :, ::-1, ::-1].swapaxes(0, 1)
# ```
#
# ## Why is the input gradient a convolution with the kernel turned round?
#
# Take stride 1, and ask which outputs see pixel (u, v). In $u = r + i - p$ fix $u$: tap $i = 0$ sees it from output
# $r = u + p$, tap 2 from $r = u + p - 2$. The further down the tap, the further up the output. The outputs around (u, v)
# therefore hold the weights *in reverse order*:

# %%
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
        axis.add_patch(plt.Rectangle((start + c - 0.5, start + r - 0.5), 1, 1, fc=colour, ec="white"))
        axis.text(start + c, start + r, word if word == "x" else f"$w_{{{word}}}$", ha="center", va="center", size=12)
    axis.set(title=title, xticks=range(size), yticks=range(size), xlabel="column", ylabel="row")
    axis.spines[:].set_visible(True)
figure.suptitle("The outputs that saw one pixel (3x3, padding 1) hold the kernel turned by 180 degrees")
plt.show()

# %% [markdown]
# In formulas: solve $u = r + i - p$ for $r$, and count the taps from the other end, $i' = 2 - i$ (likewise $j'$):
#
# $$dx_{n,k,u,v} = \sum_{o,i,j} w_{o,k,i,j} \; dy_{n,o,\,u - i + p,\,v - j + p} = \sum_{o,i',j'} w_{o,k,\,2-i',\,2-j'} \;
# dy_{n,o,\,u + i' - (2 - p),\,v + j' - (2 - p)}$$
#
# Compare with the definition: this *is* a convolution of dy, with padding $2 - p$ (in general $k - 1 - p$), the kernel turned
# by 180 degrees, and the roles of input and output channels swapped. For $p = 0$ the padding is 2, "full": every pixel of x
# gets an answer from each output that touched it. The gradient of a correlation is a true convolution, the one with the
# kernel reversed.
#
# **Predict.** For which $p$ do both passes have the same padding? And which one does backward have for $p = 2$?

# %%
for padding in 0, 1, 2:
    y, cache = ops.conv2d_forward(x, w, b, padding=padding)
    dy = rng.normal(size=y.shape)
    dx, _, _ = ops.conv2d_backward(dy, cache)
    turned = w[:, :, ::-1, ::-1].swapaxes(0, 1)  # (C_in, C_out, 3, 3)
    as_convolution, _ = ops.conv2d_forward(dy, turned, padding=2 - padding)
    assert np.allclose(dx, as_convolution, rtol=0, atol=1e-13)
    print(f"padding {padding} forward, {2 - padding} backward: {dy.shape} -> {as_convolution.shape}")

# %% [markdown]
# This is worth a lot: any fast way to convolve is a fast way to compute its input gradient. With a *stride* of 2, zeros come
# between the entries of dy first: each output then spreads the kernel over the image, two pixels apart. Run as a forward pass
# it is called transposed convolution, and FCN uses it to grow its scores back to the size of the image:
# [Upsampling](05_upsampling.ipynb).
#
# ## What is remembered, and why not the columns?
#
# `conv_im2col` above kept X for its backward pass, which needs it for $dW = dY X^T$. The package keeps x and w, by reference,
# and nothing else. X is gathered anew.

# %%
x64, w64, b64 = layer
y, cache = ops.conv2d_forward(x64, w64, b64, padding=1)
assert cache[0] is x64 and cache[1] is w64
own = conv_im2col(x64, w64, b64, padding=1)[1]
print(f"x: {x64.nbytes / 1e6:.1f} MB, the columns: {own[2].nbytes / 1e6:.1f} MB")

# %% [markdown]
# **Predict.** How many gigabytes of columns would a training step of FCN on a 500x500 image keep? And which share of the
# backward pass's time does gathering take?

# %%
from tinyfcn.models.vgg import VGG

sizes, c_in, inputs, columns = VGG.map_sizes(100, 0, 500), 3, {}, {}
for name, (c_out, c_in, kh, kw) in ((n, s) for n, s in VGG.shapes(1.0).items() if n.endswith(".weight")):
    layer_name = name.removesuffix(".weight")
    side = sizes.get(layer_name, sizes["fc6"])
    columns[layer_name] = 4e-9 * c_in * kh * kw * side**2 if kh > 1 else 0  # a 1x1 convolution's columns are x itself
    inputs[layer_name] = 4e-9 * c_in * (side + kh - 1 - 2 * (kh == 3)) ** 2

figure, axis = plt.subplots(figsize=(8, 3.2))
place = np.arange(len(columns))
axis.bar(place - 0.2, inputs.values(), 0.4, label=f"x: {sum(inputs.values()):.1f} GB in all", color=BLUE)
axis.bar(place + 0.2, columns.values(), 0.4, label=f"its columns: {sum(columns.values()):.1f} GB in all", color=ORANGE)
axis.set_xticks(place, columns, rotation=45, ha="right")
axis.set(ylabel="GB in float32", title="What each layer of FCN would keep, for one image of 500x500 padded by 100")
axis.legend(frameon=False)
assert columns["conv1_2"] > 1.1 and sum(columns.values()) > 7 * sum(inputs.values())

# %%
whole = back["tinyfcn: columns in bands"]
geometry = conv.Geometry((3, 3), (1, 1), (1, 1), (1, 1))
bands = [slice(row, row + 8) for row in range(0, 128, 8)]
again = seconds(lambda: [conv.im2col(x64, geometry, rows, 128) for rows in bands])
print(f"backward pass {1000 * whole:.1f} ms; gathering all columns, on one thread, {1000 * again:.1f} ms")

# %% [markdown]
# Gathering again costs a small part of the backward pass; keeping the columns would cost gigabytes for a single image.
# Nor would it be free: a gigabyte has to be written to memory, and read back.
#
# The general rule of this package: **keep references to what exists anyway; compute again what is cheap; never keep a copy.**
# x exists anyway, since it is the output of the layer below.
#
# ## Exercises

# %% [markdown]
# ### Exercise 1: the way back
#
# The output-size formula has a floor, so several input sizes give the same output size. Return the smallest and the largest
# one. (This is what makes a transposed convolution ambiguous, and why it has an `output_padding`.)

# %% tags=["exercise"]
def input_sizes(outputs, kernel, stride=1, padding=0, dilation=1):
    """(smallest, largest) size of an axis that a convolution takes to `outputs` windows."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    assert input_sizes(3, 3) == (5, 5), "three 3-tap windows side by side need 5 pixels"
    for outputs, k, s, p, d in [(3, 3, 2, 0, 1), (4, 3, 2, 1, 1), (5, 2, 3, 0, 2), (6, 4, 4, 2, 3), (16, 7, 1, 3, 1)]:
        smallest, largest = input_sizes(outputs, k, s, p, d)
        shapes = [
            ops.conv2d_forward(np.zeros((1, 1, size, 30)), np.zeros((1, 1, k, k)), stride=s, padding=p, dilation=d)[0].shape[2]
            for size in range(smallest - 1, largest + 2)
        ]
        expected = [outputs - 1] + [outputs] * s + [outputs + 1]
        case = f"k={k} s={s} p={p} d={d}: sizes {smallest - 1} to {largest + 1}"
        assert shapes == expected, f"{case} give {shapes}, expected {expected}"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def input_sizes(outputs, kernel, stride=1, padding=0, dilation=1):
#     smallest = (outputs - 1) * stride + dilation * (kernel - 1) + 1 - 2 * padding
#     return smallest, smallest + stride - 1
# ```
#
# The last window begins at (outputs - 1) s and spans d (k - 1) + 1 pixels: so many are needed, less the padding. Up to s - 1
# more are too few for another step.
#
# </details>

# %% [markdown]
# ### Exercise 2: columns with gaps
#
# im2col for stride 1, no padding, and a dilation: the taps of the kernel are `dilation` pixels apart. Return the columns
# (C_in kh kw, N H_out W_out), in the order that `im2col` above has.

# %% tags=["exercise"]
def dilated_columns(x, kh, kw, dilation):
    """The columns of a dilated convolution of x (N, C_in, H, W) at stride 1, without padding."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng_2 = np.random.default_rng(2)
    for d, shape, (kh, kw) in [(1, (2, 3, 6, 5), (3, 3)), (2, (2, 3, 8, 9), (3, 3)), (3, (1, 2, 9, 8), (2, 3))]:
        a, weight = rng_2.normal(size=shape), rng_2.normal(size=(4, shape[1], kh, kw))
        y_2, _ = ops.conv2d_forward(a, weight, dilation=d)
        found = dilated_columns(a, kh, kw, d)
        expected = (shape[1] * kh * kw, y_2[:, 0].size)
        assert found.shape == expected, f"dilation {d}: the columns have shape {found.shape}, expected {expected}"
        product = (weight.reshape(4, -1) @ found).reshape(4, len(a), *y_2.shape[2:]).swapaxes(0, 1)
        assert np.allclose(product, y_2), f"dilation {d}: W X is not the convolution, off by {abs(product - y_2).max():.3g}"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def dilated_columns(x, kh, kw, dilation):
#     n, c, height, width = x.shape
#     h, w = height - dilation * (kh - 1), width - dilation * (kw - 1)
#     columns = np.empty((c, kh, kw, n, h, w), x.dtype)
#     for i in range(kh):
#         for j in range(kw):
#             down, across = i * dilation, j * dilation
#             columns[:, i, j] = x[:, :, down : down + h, across : across + w].swapaxes(0, 1)
#     return columns.reshape(c * kh * kw, -1)
# ```
#
# Row (i, j) is the image shifted by the tap, and tap i lies d i pixels further down.
#
# </details>

# %% tags=["setup"]
def conv1d_forward(x, w, stride=1):
    """y (R,) for x (H,) and w (k,); the cache is what the backward pass gets."""
    outputs = (len(x) - len(w)) // stride + 1
    y = np.array([w @ x[r * stride : r * stride + len(w)] for r in range(outputs)])
    return y, (x, w, stride)


# %% [markdown]
# ### Exercise 3: a backward pass of your own
#
# One dimension, one channel, a stride: $y_r = \sum_i w_i\, x_{r s + i}$. Write the backward pass.

# %% tags=["exercise"]
def conv1d_backward(dy, cache):
    """Return (dx, dw) for dy (R,)."""
    x, w, stride = cache
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng_3 = np.random.default_rng(3)
    for size, k, s in [(7, 3, 1), (8, 3, 2), (9, 3, 3), (11, 4, 2), (9, 2, 4)]:
        check_gradient(conv1d_forward, conv1d_backward, rng_3.normal(size=size), rng_3.normal(size=k), stride=s)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def conv1d_backward(dy, cache):
#     x, w, stride = cache
#     dx, dw = np.zeros_like(x), np.zeros_like(w)
#     for r, upstream in enumerate(dy):
#         window = slice(r * stride, r * stride + len(w))
#         dx[window] += upstream * w
#         dw += upstream * x[window]
#     return dx, dw
# ```
#
# Output r is the inner product of w with one window of x: its derivative by the one is the other. Windows overlap, hence `+=`.
#
# </details>

# %% [markdown]
# ### Exercise 4: the input gradient by a forward pass
#
# For stride 1, any kernel (not always square, not always 3x3) and a padding smaller than the kernel, compute dx with a
# single call of `ops.conv2d_forward`.

# %% tags=["exercise"]
def input_gradient(dy, w, padding):
    """dx of a convolution with w (C_out, C_in, kh, kw) at stride 1 and `padding` (vertical, horizontal)."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng_4 = np.random.default_rng(4)
    for c_4, (kh, kw), padding_4 in [(3, (3, 3), (1, 1)), (2, (3, 3), (0, 0)), (3, (5, 2), (2, 1)), (4, (1, 4), (0, 3))]:
        a, weight = rng_4.normal(size=(2, 3, 8, 7)), rng_4.normal(size=(c_4, 3, kh, kw))
        y_4, cache_4 = ops.conv2d_forward(a, weight, padding=padding_4)
        dy_4 = rng_4.normal(size=y_4.shape)
        found = input_gradient(dy_4, weight, padding_4)
        assert found.shape == a.shape, f"kernel {kh}x{kw}, padding {padding_4}: dx has shape {found.shape}, expected {a.shape}"
        expected, _, _ = ops.conv2d_backward(dy_4, cache_4)
        off = abs(found - expected).max()
        assert off < 1e-9, f"kernel {kh}x{kw}, padding {padding_4}: off by up to {off:.3g}"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def input_gradient(dy, w, padding):
#     turned = w[:, :, ::-1, ::-1].swapaxes(0, 1)
#     kh, kw = w.shape[2:]
#     dx, _ = ops.conv2d_forward(dy, turned, padding=(kh - 1 - padding[0], kw - 1 - padding[1]))
#     return dx
# ```
#
# As derived above, with k - 1 in the place of 2. The outputs that see a pixel hold the taps in reverse order.
#
# </details>

# %% [markdown]
# ### Exercise 5: the weight gradient by a forward pass
#
# $dw_{o,k,i,j} = \sum_{n,r,c} dy_{n,o,r,c}\, x_{n,k,r s + i,c s + j}$ is a convolution as well: dy is the kernel that slides
# over x. What plays the part of the channels, what of the batch, and what does the stride $s$ become? Use one call of
# `ops.conv2d_forward` (no padding). Mind inputs whose last rows no window sees.

# %% tags=["exercise"]
def weight_gradient(dy, x, kh, kw, stride):
    """dw (C_out, C_in, kh, kw) of a convolution of x at this stride, without padding."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng_5 = np.random.default_rng(5)
    for size_5, (kh, kw), s in [((6, 7), (3, 3), 1), ((7, 9), (3, 3), 2), ((8, 8), (3, 2), 2), ((11, 9), (2, 3), 3)]:
        a, weight = rng_5.normal(size=(2, 3, *size_5)), rng_5.normal(size=(4, 3, kh, kw))
        y_5, cache_5 = ops.conv2d_forward(a, weight, stride=s)
        dy_5 = rng_5.normal(size=y_5.shape)
        found, expected = weight_gradient(dy_5, a, kh, kw, s), ops.conv2d_backward(dy_5, cache_5)[1]
        assert found.shape == weight.shape, f"stride {s}: dw has shape {found.shape}, expected {weight.shape}"
        assert np.allclose(found, expected), f"stride {s}: off by up to {abs(found - expected).max():.3g}"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def weight_gradient(dy, x, kh, kw, stride):
#     dw, _ = ops.conv2d_forward(x.swapaxes(0, 1), dy.swapaxes(0, 1), dilation=stride)
#     return dw.swapaxes(0, 1)[:, :, :kh, :kw]
# ```
#
# The sum runs over the images n, so they take the place of the input channels; k becomes the batch. Neighbouring entries of
# dy meet inputs that lie s apart: the stride becomes a *dilation*. Where rows are left over, the long kernel fits in more
# often than there are taps, and the rest is cut off.
#
# </details>

# %% [markdown]
# ---
# Next: [Pooling and receptive fields](03_pooling.ipynb), whose backward passes decide where a gradient may go at all.
