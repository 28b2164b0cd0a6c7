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
# # 5. Upsampling
#
# Suppose that a network has looked at Chelsea's photograph and answered as well as it can: for every block of
# 32x32 pixels it knows what share of them is cat. These are 10 by 15 answers, and you want 300 by 451. So you
# enlarge the map, and lay it on the photograph. The two pictures on the right were made in just this way, from
# the same answers and by the same operation. Only one of them can be right, and no line of code complains about
# the other.

# %% tags=["setup", "hide-input"]
import os
from math import prod

import numpy as np

from tinyfcn import ops
from tinyfcn.backend import describe_device
from tinyfcn.data import Shapes
from tinyfcn.gradcheck import check_gradient
from tinyfcn.lesson import (
    BLACK,
    BLUE,
    CAT,
    COLOURS,
    ORANGE,
    RED,
    SKY,
    attempt,
    expect,
    photograph,
    photograph_label,
    plt,
    seconds,
    see,
    show_source,
    slider,
    tiles,
    vgg16,
)
from tinyfcn.metrics import ConfusionMatrix
from tinyfcn.models import FCN8s, FCN16s, FCN32s
from tinyfcn.models.alignment import IMAGE, Grid
from tinyfcn.models.vgg import VGG

rng = np.random.default_rng(0)

# %% tags=["hide-input"] alt="A map of 10 by 15 answers, and its outline on the cat after two ways to enlarge it: one fits her, one is shifted"
cat, cat_label = photograph(), photograph_label()
is_cat = np.pad(cat_label == CAT, ((0, 20), (0, 29)), mode="edge")  # to sides that 32 divides
share = is_cat.reshape(10, 32, 15, 32).mean(axis=(1, 3))
scores = np.stack([1 - share, share])[None]  # (1, 2, 10, 15): of background, and of cat

figure, axes = plt.subplots(1, 3, figsize=(9, 2.3))
axes[0].imshow(share, extent=(0, 480, 320, 0))
large, _ = ops.upsample_bilinear_forward(scores, 64, 32)
for axis, crop in (axes[1], 0), (axes[2], 16):
    found = large[0, :, crop:, crop:][:, :300, :451].argmax(axis=0)
    axis.imshow(np.where(found[..., None], cat, cat // 4))
    axis.contour(found, levels=[0.5], colors="white", linewidths=2)
for axis, title in zip(axes, ("10 by 15 answers", "enlarged", "enlarged, too")):
    axis.set_title(title, fontsize=11)
    axis.set(xlim=(0, 450), ylim=(299, 0))
    axis.axis("off")
plt.show()

# %% [markdown]
# There are two questions in this. *How* does one enlarge a map, so that a network can do it, and be trained
# through it? FCN's answer is the transposed convolution, a convolution run backwards. And *where* does the
# enlarged map belong? That has to be known to the half pixel. The numbers 100, 19, 5, 27, 9 and 31 in the
# authors' files answer it; they look like magic, and by the end of this notebook you can compute each of them
# by hand.
#
# Takes about 75 minutes. It builds on [Convolution](02_convolution.ipynb) and [Fully connected is
# convolution](04_fully_connected.ipynb).
#
# ## Spreading instead of collecting
#
# At stride 2, a convolution moves its window by two inputs, collects what it sees, and writes one output. A
# transposed convolution does it the other way round: each input *spreads* the kernel, weighted by its value,
# and where the copies overlap, they add up. Let us begin with one dimension.
#
# **Predict.** x = (1, 3, 2), the kernel is (1, 3, 3, 1), the stride 2. How long is the answer? What is its
# third number?


# %% tags=["hide-output"]
def spread(x, w, stride):
    """Transposed convolution of x (n,) with w (k,): y ((n - 1) stride + k,)."""
    y = np.zeros((len(x) - 1) * stride + len(w))
    for r, value in enumerate(x):
        y[r * stride : r * stride + len(w)] += value * w
    return y


x, w = np.array([1.0, 3.0, 2.0]), np.array([1.0, 3.0, 3.0, 1.0])
y = spread(x, w, stride=2)
print(y)

# %% tags=["hide-input", "hide-output"] alt="Eight outputs as stacked bars: each of three inputs adds its copy of the kernel, two outputs further than the last"
figure, axis = plt.subplots()
bottom = np.zeros(len(y))
for r, value in enumerate(x):
    places = np.arange(2 * r, 2 * r + 4)
    axis.bar(
        places,
        value * w,
        bottom=bottom[places],
        color=COLOURS[r],
        label=f"x[{r}] = {value:.0f}, times the kernel",
    )
    bottom[places] += value * w
axis.plot(range(len(y)), y, "o", color=BLACK, label="y")
axis.set(xlabel="output", ylabel="value")
axis.set_title(
    "Stride 2, kernel (1, 3, 3, 1): each input adds its copy, two outputs further than the last"
)
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# The package's operation is the same in two dimensions, with channels: `weight` is (C_in, C_out, k_h, k_w), and
# padding p *removes* p rows and columns at each border. The size is that of a convolution's input: $(H - 1) s -
# 2 p + k$.
#
# **Predict.** x is 1x3 here, the kernel 1x4. What shape does the answer have at stride (1, 2)? And with a
# padding of (0, 1)?

# %% tags=["hide-output"]
same, _ = ops.conv_transpose2d_forward(x.reshape(1, 1, 1, 3), w.reshape(1, 1, 1, 4), stride=(1, 2))
padded, _ = ops.conv_transpose2d_forward(
    x.reshape(1, 1, 1, 3), w.reshape(1, 1, 1, 4), stride=(1, 2), padding=(0, 1)
)
assert np.array_equal(same[0, 0, 0], y)
assert np.array_equal(padded[0, 0, 0], y[1:-1])
print(same.shape, padded.shape)

# %% tags=["hide-input"]
small, spreader = np.array([[1, 0, 2], [0, 3, 1], [2, 1, 0]]), np.outer([1, 2, 1], [1, 2, 1])


def spreading(step):
    """SVG: the inputs, and the sum of the copies that have been spread by then."""
    y, new = np.zeros((7, 7)), np.full((7, 7), "#e8e8e8", object)
    for number in range(step + 1):
        r, c = divmod(number, 3)
        y[2 * r : 2 * r + 3, 2 * c : 2 * c + 3] += small[r, c] * spreader
    new[2 * r : 2 * r + 3, 2 * c : 2 * c + 3] = "#f2b84b"
    inputs = np.full((3, 3), "#cfe3f2", object)
    inputs[r, c] = "#f2b84b"
    words = [(10, 20, "x"), (10, 175, "kernel"), (190, 20, "y")]
    text = "".join(f'<text x="{a}" y="{b}" font-size="14">{word}</text>' for a, b, word in words)
    drawn = tiles(small, 10, 30, 40, inputs) + tiles(spreader, 10, 185, 40)
    return text + drawn + tiles(y, 190, 30, 40, new)


captions = [
    f"Input ({k // 3}, {k % 3}) is {small.flat[k]}, and adds {small.flat[k]} times the kernel."
    for k in range(9)
]
slider([spreading(k) for k in range(9)], captions, 480, 350)

# %% [markdown]
# Move the slider, and watch at stride 2 how each input adds its copy, and where copies overlap.
#
# ## First view: the backward pass of a convolution
#
# You have met this before, in the convolution's input gradient: each output hands its gradient back to the
# inputs of its window, weighted by the kernel ([Convolution](02_convolution.ipynb)), and that is spreading. The
# paper calls the operation "backwards convolution" (section 3.3): swap the two passes of a convolution.

# %%
image = rng.standard_normal((1, 3, 11, 13))
weight = rng.standard_normal((4, 3, 5, 3))
small, cache = ops.conv2d_forward(
    image, weight, stride=2, padding=1
)  # 3 channels to 4, and smaller

scores = rng.standard_normal(small.shape)
dx, _, _ = ops.conv2d_backward(scores, cache)  # the input gradient, with scores as dy
spread_out, _ = ops.conv_transpose2d_forward(
    scores, weight, stride=2, padding=1
)  # 4 channels to 3, and larger
assert spread_out.shape == image.shape and np.allclose(spread_out, dx)

# %% [markdown]
# The weight is the same array: (4, 3, 5, 3) is (C_out, C_in, ...) of the convolution, and (C_in, C_out, ...) of
# its transpose.
#
# ## Second view: a transposed matrix
#
# A convolution is linear in x, so there is a matrix A with y = A x. Its columns are what the convolution makes
# of unit vectors. We feed it the rows of an identity matrix, as a batch.


# %%
def matrix_of_convolution(weight, size, stride):
    """A of (outputs, inputs), for a convolution of one channel on inputs (height, width)."""
    units = np.eye(prod(size)).reshape(-1, 1, *size)
    return ops.conv2d_forward(units, weight, stride=stride)[0].reshape(len(units), -1).T


kernel_1d = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
A = matrix_of_convolution(kernel_1d, (1, 8), stride=(1, 2))
print(A.astype(int))

# %% [markdown]
# **Predict.** Each row is the kernel, moved by the stride. What is in a column? And in a row of the transpose?

# %% tags=["hide-input", "hide-output"] alt="The matrix of a convolution, its transpose, and a transpose in two dimensions: bands of equal weights between zeros"
x = rng.standard_normal(3)
assert np.allclose(A.T @ x, spread(x, kernel_1d.ravel(), 2))

kernel_2d = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
A_2d = matrix_of_convolution(kernel_2d, (7, 7), stride=2)
maps = rng.standard_normal((1, 1, 3, 3))
assert np.allclose(
    A_2d.T @ maps.ravel(), ops.conv_transpose2d_forward(maps, kernel_2d, stride=2)[0].ravel()
)

figure, axes = plt.subplots(1, 3, figsize=(8, 4), width_ratios=[5, 2, 4])
for axis, matrix, title in (
    (axes[0], A, "A, one dimension:\n8 inputs to 3 outputs"),
    (axes[1], A.T, "its transpose:\n3 to 8"),
    (axes[2], A_2d.T, "transpose in two\ndimensions: 3x3 to 7x7"),
):
    axis.imshow(
        np.where(matrix == 0, np.nan, matrix), aspect="auto" if matrix.size > 24 else "equal"
    )
    axis.set_title(title, fontsize=10)
    axis.set(xlabel="from", ylabel="to")
figure.suptitle(
    "Most entries are zero (white); equal colours are one and the same weight", fontsize=11
)
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# A column of A lists the outputs that one input reaches; transposed, it is a row: the inputs that one output
# collects from.
#
# </details>
#
# Hence the name *transposed* convolution. "Deconvolution", as the paper and Caffe call it, promises more than
# it keeps: an inverse would give x back.

# %%
x = rng.standard_normal(8)
assert not np.allclose(A.T @ (A @ x), x)

# %% [markdown]
# ## Third view: zeros in between, then a convolution
#
# Put s - 1 zeros between the inputs. Spreading the kernel at stride s is now spreading it at stride 1, as zeros
# spread nothing. And spreading at stride 1 is an ordinary convolution, with the kernel turned round.


# %%
def by_insertion(x, weight, stride):
    """Transposed convolution of x (N, C_in, H, W) with weight (C_in, C_out, k, k)."""
    n, channels, height, width = x.shape
    apart = np.zeros((n, channels, (height - 1) * stride + 1, (width - 1) * stride + 1))
    apart[:, :, ::stride, ::stride] = x
    turned = weight.swapaxes(0, 1)[:, :, ::-1, ::-1]
    return ops.conv2d_forward(apart, turned, padding=weight.shape[2] - 1)[0]


x, weight = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((3, 6, 4, 4))
assert np.allclose(by_insertion(x, weight, 2), ops.conv_transpose2d_forward(x, weight, stride=2)[0])

# %% [markdown]
# **Predict.** Why must the kernel be turned round?

# %% [markdown]
# <details><summary>Answer</summary>
#
# Spread: weight w[i] of input r goes to output r + i. Collect: output q takes input r = q - i with weight w[i].
# As i goes up, the input goes down, where a convolution reads both upwards: so the kernel is reversed.
#
# </details>
#
# This view is good for understanding (it says "a filter over a sparse image") and bad for computing: with s =
# 32, all but one of 1024 inputs are zeros, and they are multiplied all the same.
#
# ## The backward pass
#
# **Predict.** What is the backward pass of a "backwards convolution"?

# %% [markdown]
# <details><summary>Answer</summary>
#
# With $y = A^T x$ the chain rule gives $dx = A\, dy$: a convolution of dy with the same kernel, at the same stride. The
# backward pass of a backwards convolution is the convolution.
#
# </details>
#
# And dw? Again in one dimension: in the convolution, weight i joins input $rs + i$ to output r, so its
# gradient is the sum of $dy[r]\, x[rs + i]$ over r. Here the two have changed places: it is the sum of
# $x[r]\, dy[rs + i]$. The package calls the same function with its arguments exchanged:

# %%
show_source(ops.conv_transpose2d_backward)

# %%
x, weight, bias = (
    rng.standard_normal((2, 3, 4, 5)),
    rng.standard_normal((3, 2, 4, 4)),
    rng.standard_normal(2),
)
print(
    check_gradient(
        ops.conv_transpose2d_forward,
        ops.conv_transpose2d_backward,
        x,
        weight,
        bias,
        stride=2,
        padding=1,
    )
)

y, cache = ops.conv_transpose2d_forward(x, weight, stride=2, padding=1)
dy = rng.standard_normal(y.shape)
dx, dweight, _ = ops.conv_transpose2d_backward(dy, cache)
assert np.allclose(dx, ops.conv2d_forward(dy, weight, stride=2, padding=1)[0])

# %% [markdown]
# ## The bilinear kernel
#
# Which kernel should an upsampling layer start from? The paper takes the one that interpolates linearly. Let us
# derive it, in one dimension.
#
# Kernel k, stride s: we say that input r lies at the centre of its copy, at output $r s + (k - 1) / 2$.
# So output i lies at the input coordinate
#
# $$t = \frac{i - (k - 1) / 2}{s}$$
#
# Linear interpolation at t weights input r by $\max(0,\, 1 - |t - r|)$: 1 at the input itself, 0 at its
# neighbours. And the weight of input r in output i is, by definition, tap $i - r s$ of the kernel. For r = 0:
#
# $$f[i] = 1 - \frac{|i - (k - 1) / 2|}{s}$$
#
# A triangle. It is positive within s of the centre, which makes 2 s taps if the centre lies between two
# outputs, and 2 s - 1 if it lies on one.

# %%
show_source(ops.bilinear_filter)
print(ops.bilinear_filter(4), ops.bilinear_filter(3))

# %% tags=["hide-input"] alt="Copies of the bilinear kernel as triangles, for an even and an odd size; their sum is 1 except at the borders"
figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), sharey=True)
for axis, k in zip(axes, (8, 7)):
    for r in range(3):
        places = 4 * r + np.arange(k)
        axis.plot(
            places,
            ops.bilinear_filter(k),
            "o-",
            color=COLOURS[r],
            markersize=5,
            label=f"copy of input {r}",
        )
        axis.axvline(4 * r + (k - 1) / 2, color=COLOURS[r], linestyle=":", linewidth=1)
    axis.plot(spread(np.ones(3), ops.bilinear_filter(k), 4), color=BLACK, linewidth=1, label="sum")
    axis.set(
        xlabel="output",
        title=f"stride 4, kernel {k}: centres {'between' if k % 2 == 0 else 'on'} outputs",
    )
    axis.set_xticks(range(0, 17, 4))
axes[0].set_ylabel("weight")
figure.legend(
    *axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4
)
figure.suptitle(
    "The copies sum to 1, but for the border, where only one input reaches", fontsize=11
)
plt.show()

# %% [markdown]
# **Predict.** NumPy has a linear interpolation, `np.interp`. Where will the two agree, and where not?

# %% tags=["hide-output"]
for stride, k in ((2, 4), (2, 3), (8, 16), (32, 63), (32, 64)):
    values = rng.standard_normal(6)
    up = spread(values, ops.bilinear_filter(k), stride)
    t = (np.arange(len(up)) - (k - 1) / 2) / stride
    inside = (t >= 0) & (t <= 5)
    assert np.allclose(up[inside], np.interp(t, range(6), values)[inside])
    assert np.allclose(up[t < 0], values[0] * (1 + t[t < 0]))  # outside, it fades to 0
    print(f"stride {stride}, kernel {k}: {inside.sum()} of {len(up)} agree")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Between the first and the last input they agree. Outside, `np.interp` repeats the last value, and the
# transposed convolution fades to zero: no neighbour is there to add its part.
#
# </details>
#
# Remember the fading for FCN's borders.
#
# In two dimensions the kernel is the product of a vertical and a horizontal triangle, which is bilinear
# interpolation. For classes it must not mix: class a's scores make class a's scores. So the weight (C, C, k, k)
# has kernels on the diagonal and zeros elsewhere.

# %% tags=["hide-input"] alt="Nine 8x8 kernels, three classes by three: bright pyramids on the diagonal, zero everywhere else"
weight = ops.bilinear_weight(3, 8)
assert np.allclose(weight[1, 1], np.outer(ops.bilinear_filter(8), ops.bilinear_filter(8)))

figure, axes = plt.subplots(3, 3, figsize=(4.4, 4.4))
for (a, b), axis in np.ndenumerate(axes):
    axis.imshow(weight[a, b], vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    if b == 0:
        axis.set_ylabel(f"from class {a}", fontsize=9)
    if a == 2:
        axis.set_xlabel(f"to class {b}", fontsize=9)
figure.suptitle("bilinear_weight(3, 8): class to class", fontsize=11)
plt.show()

# %% [markdown]
# ## Two small matrices do the same
#
# With 21 classes, 20 of 21 kernels are zeros. And the kernel that is left is a product of two triangles:
# interpolate down the columns, then along the rows. For one class, a map x becomes
#
# $$y = U_h\, x\, U_w^T$$
#
# where column r of $U_h$ holds the triangle, beginning at row r s.

# %%
show_source(ops.upsample_bilinear_forward)

# %%
x = rng.standard_normal((1, 21, 16, 16), np.float32)
up, (up_h, up_w, _) = ops.upsample_bilinear_forward(x, 64, 32)
dense, _ = ops.conv_transpose2d_forward(x, ops.bilinear_weight(21, 64), stride=32)
assert np.allclose(up, dense, atol=1e-4)
assert np.allclose(up[0, 5], up_h @ x[0, 5] @ up_w.T, atol=1e-5)

# %% [markdown]
# And here it is with real answers: the map of VGG16 that found Chelsea's eyes in notebook 3, 10 by 15 units
# of pool5, goes between the two matrices, and what comes out is laid on the photograph.

# %% tags=["hide-input"] alt="Two banded matrices and the small map between them, and their product on the photograph: the cat's eyes come out of the dark"
VGG16_FILE = os.environ.get("TINYFCN_VGG16", "vgg16_notop.h5")  # VGG16's weights: see README.md
eyes = see(vgg16(VGG16_FILE), cat)["pool5"][201]
large, (up_h, up_w, _) = ops.upsample_bilinear_forward(eyes[None, None], 64, 32)
figure, axes = plt.subplots(1, 4, figsize=(9, 2.2), width_ratios=[1, 2, 3, 3.4])
for axis, values, title in (
    (axes[0], up_h, f"$U_h$: {up_h.shape[0]}x{up_h.shape[1]}"),
    (axes[1], eyes, "x: {}x{}".format(*eyes.shape)),
    (axes[2], up_w.T, f"$U_w^T$: {up_w.shape[1]}x{up_w.shape[0]}"),
):
    axis.imshow(values, aspect="auto", interpolation="antialiased")
    axis.set(title=title, xticks=[], yticks=[])
heat = large[0, 0, 16:316, 16:467]
axes[3].imshow((0.2 + 0.8 * heat / heat.max())[..., None] * cat / 255)
axes[3].set(title="y, on the photograph", xticks=[], yticks=[])
plt.show()

# %% [markdown]
# **Predict.** How much faster? Think of the numbers in the weights: 21 x 21 x 64 x 64 against two matrices of 544x16.

# %% tags=["hide-output"]
rows = []
for name, size, k, s in ("upscore", 16, 64, 32), ("upscore16", 35, 32, 16), ("upscore8", 71, 16, 8):
    x, weight = rng.standard_normal((1, 21, size, size), np.float32), ops.bilinear_weight(21, k)
    slow = seconds(lambda: ops.conv_transpose2d_forward(x, weight, stride=s), 3)
    fast = seconds(lambda: ops.upsample_bilinear_forward(x, k, s), 3)
    rows.append((name, weight.size, 2 * ((size - 1) * s + k) * size, slow, fast))
print(describe_device(np))
for name, dense, small, slow, fast in rows:
    with_weights, with_two = (
        f"{dense:>9,} weights {1e3 * slow:5.1f} ms",
        f"{small:>6,} {1e3 * fast:4.1f} ms",
    )
    print(f"{name}: {with_weights}, {with_two}: {slow / fast:.0f} times")
    assert fast < slow

# %% [markdown]
# Its backward pass transposes the two matrices: $dx = U_h^T\, dy\, U_w$. There is no weight to learn, so no dw.

# %%
show_source(ops.upsample_bilinear_backward)
print(
    check_gradient(
        ops.upsample_bilinear_forward,
        ops.upsample_bilinear_backward,
        rng.standard_normal((2, 3, 4, 5)),
        8,
        4,
    )
)

# %% [markdown]
# ## Is the bilinear kernel fixed or learned?
#
# Both occur. The paper fixes the last upsampling to bilinear, and lets the x2 layers start there and learn
# (section 4.3); the networks that its authors published fix them all. The package's `learn_upsampling` offers
# "none", "skip" and "all".
#
# What is there to learn? Take pictures, shrink them to half, and let a kernel of 4x4 learn to bring them back.

# %%
pictures = [image[:96, :96].mean(axis=2) / 255 - 0.5 for image, _ in Shapes("val", 24)]
target = np.stack(pictures)[:, None]  # (24, 1, 96, 96)
half = target.reshape(24, 1, 48, 2, 48, 2).mean(axis=(3, 5))


def learn(kernel, steps=150, lr=5.0):
    """Gradient descent on the mean squared error; returns the kernel and the errors."""
    kernel, velocity, errors = kernel.copy(), 0, []
    for _ in range(steps):
        y, cache = ops.conv_transpose2d_forward(half, kernel, stride=2, padding=1)
        errors.append(((y - target) ** 2).mean())
        _, dkernel, _ = ops.conv_transpose2d_backward(2 * (y - target) / y.size, cache)
        velocity = 0.9 * velocity - lr * dkernel
        kernel += velocity
    return kernel, errors


bilinear = ops.bilinear_weight(1, 4, np.float64)
from_bilinear, errors_b = learn(bilinear)
from_noise, errors_n = learn(0.1 * rng.standard_normal((1, 1, 4, 4)))

# %% tags=["hide-input"] alt="A bilinear kernel and two learned ones, which have larger middles and resemble each other, and the error over the steps, falling from both starts"
figure, axes = plt.subplots(1, 4, figsize=(8, 2.6), width_ratios=[1, 1, 1, 1.7])
titles = "bilinear", "learned from it", "learned from noise"
for axis, kernel, title in zip(axes, (bilinear, from_bilinear, from_noise), titles):
    axis.imshow(kernel[0, 0], vmin=-0.1, vmax=0.8)
    for (r, c), value in np.ndenumerate(kernel[0, 0]):
        axis.text(
            c,
            r,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if value < 0.4 else "black",
        )
    axis.set_title(title, fontsize=10)
    axis.set(xticks=[], yticks=[])
axes[3].plot(errors_b, label="from bilinear")
axes[3].plot(errors_n, label="from noise")
axes[3].axhline(errors_b[0], color=BLACK, linestyle=":", linewidth=1, label="bilinear")
axes[3].set(xlabel="step", ylabel="squared error", yscale="log")
axes[3].legend(frameon=False, fontsize=9)
plt.show()
change = errors_b[-1] / errors_b[0] - 1
print(f"bilinear {errors_b[0]:.5f}, learned from it {errors_b[-1]:.5f} ({change:+.0%})")
assert errors_b[-1] < errors_b[0]

# %% [markdown]
# Even from noise, descent finds a hill in the middle, much like the bilinear one; learned, it is somewhat
# sharper. Bilinear is a good start and not far from the end, and fixing it costs no parameters: the dense
# weights of FCN-32s's `upscore` alone would be 1.8 million.
#
# ## Checkerboards
#
# **Predict.** A kernel of 3x3 spreads at stride 2. How many inputs reach each output? Is it the same number everywhere?

# %% tags=["hide-input", "hide-output"] alt="How many inputs reach each output: a checkerboard for a kernel of 3 at stride 2, even for 4 at stride 2; below, a random kernel's patterns"
figure, axes = plt.subplots(2, 3, figsize=(8, 5.4))
draws = np.random.default_rng(3)
for (above, below), (k, s) in zip(axes.T, ((3, 2), (4, 2), (5, 3))):
    ones, random = np.ones((1, 1, k, k)), draws.uniform(0, 1, (1, 1, k, k))
    count = ops.conv_transpose2d_forward(np.ones((1, 1, 6, 6)), ones, stride=s)[0][0, 0]
    made = ops.conv_transpose2d_forward(np.ones((1, 1, 6, 6)), random, stride=s)[0][0, 0]
    figure.colorbar(above.imshow(count, vmin=0), ax=above, shrink=0.7)
    figure.colorbar(below.imshow(made, vmin=0), ax=below, shrink=0.7)
    above.set_title(f"kernel {k}, stride {s}:\ninputs that reach each output", fontsize=10)
    below.set_title("a random kernel\non a constant map", fontsize=10)
    for axis in (above, below):
        axis.set(xlabel="column", ylabel="row")
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# Where the stride does not divide the kernel, outputs are reached by different numbers of inputs, in a regular
# pattern: a checkerboard (Odena, Dumoulin and Olah, 2016). Where it divides, as 4 by 2, all are reached by the
# same number.
#
# </details>
#
# But look at the lower row: with a random kernel, 4 by 2 has a pattern as well. What counts is not how many
# weights reach an output but their sum. Outputs $0, s, 2s, ...$ see taps $0, s, 2s, ...$ of the kernel, outputs
# $1, s + 1, ...$ the taps from 1 on: each of the s *phases* has taps of its own. A constant map stays constant
# if all phases have the same sum.
#
# **Predict.** Is the bilinear kernel of 3 at stride 2, with its uneven overlap, free of it?

# %% tags=["hide-output"]
for k, s in (3, 2), (4, 2), (63, 32), (64, 32):
    sums = [ops.bilinear_filter(k)[phase::s].sum() for phase in range(s)]
    assert np.allclose(sums, 1)

weight, x = ops.bilinear_weight(1, 3, np.float64), np.ones((1, 1, 6, 6))
up, _ = ops.conv_transpose2d_forward(x, weight, stride=2, padding=1)
assert np.allclose(up, 1)
print("the sums of the phases:", *(ops.bilinear_filter(3)[phase::2].sum() for phase in range(2)))

# %% [markdown]
# <details><summary>Answer</summary>
#
# It is, for its phases have the sums 1 and 0.5 + 0.5.
#
# </details>
#
# So a kernel that the stride divides makes it *easier* to have no checkerboard, and the bilinear start has
# none. The other direction shows it too: the input gradient of a convolution with stride is a transposed
# convolution, so its gradients come in checkerboards where the stride does not divide the kernel.
#
# ## Where does a score lie?
#
# Now to the second question of the beginning, and to the crops. You have a map of scores and want to know to
# which place of the image each belongs. The centre of a unit's window is an *affine* function of its index: one
# step further is s pixels further. So two numbers are enough, and each layer changes them.
#
# Window j of a layer (kernel k, stride s, padding p) begins at input $j s - p$, and its centre is $(k - 1) / 2$
# further. If unit i of its input lies at `stride * i + start`, then its own unit j lies at
#
# $$\text{stride} \cdot \left(j s - p + \frac{k - 1}{2}\right) + \text{start}$$
#
# By hand, through all of VGG16 with FCN's padding of 100 in its first layer.
#
# **Predict.** Where does unit 0 of conv1_1 lie? And of pool1?


# %% tags=["hide-output"]
def window(stride, start, k, s=1, p=0):
    """The grid after a layer of windows: (stride, start)."""
    return stride * s, start + stride * ((k - 1) / 2 - p)


grid = (1, 0)  # the image: pixel i lies at i
grid = window(*grid, k=3, p=100)  # conv1_1
print("conv1_1", grid)
for block, convolutions in enumerate((1, 2, 3, 3, 3), 1):  # conv1_1 has been
    for _ in range(convolutions):
        grid = window(*grid, k=3, p=1)  # changes nothing
    grid = window(*grid, k=2, s=2)
    print(f"pool{block}  ", grid)
grid = window(*grid, k=7)
print("fc6    ", grid)
assert grid == (32, 12.5)

# %% [markdown]
# Score j of the FCN-32s lies at image coordinate 32 j + 12.5. With the classifier's padding of 1 instead
# of 100, it would be 99 further: score 0 at 111.5, the middle of the first crop of 224, as it should.
# (3x3 convolutions with padding 1 change nothing, a pooling moves by half a unit of its input: between
# two units.)
#
# The package does the same in a few lines. All its crops are computed by them; none is written down in
# its models.

# %%
show_source(Grid)

# %%
assert VGG.grids(first_padding=100)[-1].window(kernel=7) == Grid(32, 12.5)
assert VGG.grids(first_padding=1)[-1].window(kernel=7) == Grid(
    32, 111.5
)  # the classifier: (224 - 1) / 2

# %% [markdown]
# ## Why crop 19?
#
# The upsampling with kernel 64 and stride 32 puts score j at unit $32 j + 31.5$ of the upscored map: the centre
# of its copy of the kernel. The same score lies at $32 j + 12.5$ in the image. So pixel 0 of the image is unit
# $31.5 - 12.5 = 19$ of the upscored map.

# %%
scores = Grid(32, 12.5)
upscored = scores.upsample(kernel=64, stride=32)
print(upscored, "-> unit 19 lies at image coordinate", upscored.stride * 19 + upscored.start)
assert upscored.offset_to(IMAGE) == 19 == FCN32s(2, width=1 / 64).offsets["score"]

# %% tags=["hide-input"] alt="Triangles of four scores on two scales, the upscored map's below and the image's above, which begins at 19 of the map"
figure, axis = plt.subplots(figsize=(8, 3.4))
i = np.arange(32 * 4 + 64)
for j in range(5):
    copy = spread(np.eye(5)[j], ops.bilinear_filter(64), 32)
    axis.plot(i, copy, color=COLOURS[j], linewidth=2)
    axis.annotate(
        f"score {j}\n32 j + 31.5",
        (32 * j + 31.5, 1),
        (32 * j + 31.5, 1.06),
        ha="center",
        fontsize=9,
        color=COLOURS[j],
    )
axis.plot(
    i, spread(np.ones(5), ops.bilinear_filter(64), 32), color=BLACK, linestyle="--", linewidth=1
)
axis.axvline(19, color=BLACK)
axis.axvspan(0, 19, color="0.9")
axis.text(9.5, 0.5, "cropped:\n19", ha="center", fontsize=10)
axis.set(xlabel="unit of the upscored map", ylabel="weight", xlim=(0, 150), ylim=(0, 1.35))
top = axis.secondary_xaxis("top", functions=(lambda u: u - 19, lambda u: u + 19))
top.set_xlabel("pixel of the image (score j at 32 j + 12.5)")
axis.set_title(
    "One score's place on two scales: 31.5 here is 12.5 there, so the image begins at 19",
    fontsize=11,
)
plt.show()

# %% [markdown]
# (The dashed sum shows that the image's first 13 pixels see only one score, which fades towards the
# border. All classes fade alike, so the largest score stays the largest.)
#
# FCN-16s and FCN-8s add scores of earlier maps, pool4 and pool3, to the upsampled ones ([notebook
# 7](07_fcn.ipynb)). There is a crop at each of these *skips*: which unit of pool4 lies where unit 0 of
# the upsampled scores does?
#
# An upsampling by s divides the stride by s. Score 0 comes to lie at unit (k - 1) / 2, so unit 0 lies
# that many new strides earlier. Upsampled by 2 with a kernel of 4, the scores begin at
# $12.5 - 16 \cdot 1.5 = -11.5$.
#
# **Predict.** By hand: pool4 lies at 16 j - 91.5, the upsampled scores at 16 j - 11.5. What is the crop?

# %% tags=["hide-output"]
pool3, pool4 = VGG.grids(first_padding=100)[2:4]
up2 = scores.upsample(4, 2)
print("pool4:", pool4, "  scores x2:", up2)
assert pool4.offset_to(up2) == 5 and up2.upsample(32, 16).offset_to(IMAGE) == 27  # FCN-16s
up4 = up2.upsample(4, 2)
print("pool3:", pool3, "  sum x2:   ", up4)
assert pool3.offset_to(up4) == 9 and up4.upsample(16, 8).offset_to(IMAGE) == 31  # FCN-8s

for kind in FCN32s, FCN16s, FCN8s:
    print(kind.__name__, *kind.align("paper"))

# %% [markdown]
# <details><summary>Answer</summary>
#
# It is 5. Five units of 16 pixels are the 80 pixels by which pool4 begins earlier, and nine of 8 the 72 of pool3.
#
# </details>
#
# And AlexNet? Its fc6 is 6x6, and its scores come to lie on pixels, not between them. A kernel of 64 has
# its centre between two units, and no whole crop would bring the two together: so there it must be 63.

# %%
caffe = IMAGE.window(11, 4, 100).window(3, 2).window(5, 1, 2).window(3, 2)
caffe = caffe.window(3, 1, 1).window(3, 1, 1).window(3, 1, 1).window(3, 2).window(6)
print(caffe)
assert caffe.upsample(63, 32).offset_to(IMAGE) == 18
try:
    caffe.upsample(64, 32).offset_to(IMAGE)
except ValueError as error:
    print(error)

# %% [markdown]
# ### Is it not simply the middle?
#
# A common explanation is that the upscored map is larger than the image, and that one cuts out its middle,
# (upscored size - image size) / 2.
#
# **Predict.** Is that 19 for all sizes? For any?

# %% tags=["hide-input", "hide-output"] alt="Crops from the middle over the image's height: they equal 19 for one height in 32, and are up to 15.5 larger for others"
sizes = np.arange(100, 401)
upscored_sizes = np.array([32 * VGG.map_sizes(100, 0, int(size))["fc6"] + 32 for size in sizes])
middle = (upscored_sizes - sizes) / 2

figure, axis = plt.subplots()
axis.plot(sizes, middle, ".", markersize=3, color=ORANGE, label="half of what is left over")
axis.axhline(19, color=BLUE, label="where the image is: 19")
axis.set(xlabel="height of the image (pixels)", ylabel="crop (pixels)", ylim=(0, 40))
axis.set_title("The middle is right for one size in 32, and up to 15.5 pixels off for the others")
axis.legend(frameon=False)
plt.show()
assert middle.min() == 19 and middle.max() == 34.5 and (middle == 19).mean() < 1 / 30

# %% [markdown]
# <details><summary>Answer</summary>
#
# It is 19 for one size in 32. The poolings in ceil mode add what is missing *at the end*. So everything that is
# left over lies below and to the right, and the beginning never moves. The middle is right only where nothing
# was left over.
#
# </details>
#
# ## What does a wrong crop do?
#
# You can set a network's weights by hand, so that it hands on what it sees: every convolution copies channel 0.
# Its image is a ramp: each pixel's value is its own column. An aligned net must answer 200 at column 200.
#
# There is one snag. The poolings take the larger of two neighbours, half a step too far to the right. A ramp
# that falls has the opposite error, so we take the mean of both.


# %%
def passing_on(net):
    for name, p in net.params.items():
        p[...] = 0
        if name.endswith("weight"):
            p[0, 0, p.shape[2] // 2, p.shape[3] // 2] = 1
    return net


def reads(net, width=400):
    """What a net that passes on reads at each column of a ramp, away from the rows' borders."""
    columns = np.arange(float(width))
    up, down = (
        np.broadcast_to(ramp, (1, 3, 96, width)).copy() for ramp in (columns, width - columns)
    )
    return (net.forward(up)[0, 0, 48] - net.forward(down)[0, 0, 48] + width) / 2


columns = np.arange(400)
inner = slice(110, 290)
right = reads(passing_on(FCN32s(1, width=1 / 64, dtype=np.float64)))
assert np.allclose(right[inner], columns[inner])

# %% [markdown]
# **Predict.** And with a crop of 34, the middle for an image of 124 pixels? With none?

# %% tags=["hide-input", "hide-output"] alt="Which column a pixel sees, minus its own, for three crops: 0 with crop 19, 15 too far with 34, 19 too near with 0"
figure, axis = plt.subplots()
for offset, colour in ((19, BLUE), (34, ORANGE), (0, RED)):
    net = passing_on(FCN32s(1, width=1 / 64, dtype=np.float64))
    net.offsets["score"] = offset
    seen = reads(net)
    axis.plot(
        columns[inner], (seen - columns)[inner], color=colour, linewidth=2, label=f"crop {offset}"
    )
    assert np.allclose((seen - columns)[inner], offset - 19)
axis.set(xlabel="column", ylabel="column that it sees, minus its own")
axis.set_title("A crop that is off by d pixels shows each pixel what lies d pixels further")
axis.legend(frameon=False, loc=(0.8, 0.58))
plt.show()

# %% [markdown]
# There is no error and no warning, only edges that lie beside the objects. How much does that cost? Take scores that
# could hardly be better: each cell of 8x8 (or 32x32) pixels knows what part of it belongs to each class.
# Upsample, crop, take the largest, and compare with the truth.


# %%
def read_off(label, stride, shifts):
    """What perfect scores make of a label, read off too far down and right: {shift: found}."""
    h, w = label.shape
    one_hot = (label == np.arange(7)[:, None, None]).astype(float)
    cells = one_hot.reshape(7, h // stride, stride, w // stride, stride).mean(axis=(2, 4))
    found = ops.upsample_bilinear_forward(cells[None], 2 * stride, stride)[0][0].argmax(axis=0)
    found = np.pad(found, 16)
    first = 16 + stride // 2  # the right crop is stride / 2, as for padding "same" below
    return {shift: found[first + shift :, first + shift :][:h, :w] for shift in shifts}


# %% tags=["hide-input"] alt="Shapes with the outline of the truth, of a right crop, which fits roughly, and of a crop 15 pixels too large, which lies beside them"
image, label = (array[:128, :152] for array in Shapes("val")[2])  # sides that 8 divides
found = read_off(label, 8, (0, 15))
part = np.s_[:96, :128]
figure, axes = plt.subplots(1, 3, figsize=(8, 2.4))
for axis, seen, title in zip(
    axes,
    (label, found[0], found[15]),
    ("truth", "stride 8, right crop", "crop 15 pixels too large"),
):
    axis.imshow(image[part])
    axis.contour(np.isin(seen[part], range(1, 7)), levels=[0.5], colors=["white"], linewidths=2)
    axis.set_title(title, fontsize=10)
    axis.set_axis_off()
figure.suptitle("White: the edge between background and objects", fontsize=11)
plt.show()

# %% tags=["hide-input"] alt="Mean IU over the error of the crop: highest where it is right, and falling to both sides, more steeply for finer scores"
shifts = range(-16, 17)
figure, axis = plt.subplots()
for stride, colour in (8, BLUE), (32, ORANGE):
    matrices = {shift: ConfusionMatrix(7) for shift in shifts}
    for _, label in Shapes("val", 40):
        label = label[: label.shape[0] // 32 * 32, : label.shape[1] // 32 * 32]
        for turned in (label, label[::-1, ::-1]):  # so that no direction is special
            for shift, found in read_off(turned, stride, shifts).items():
                matrices[shift].update(turned[16:-16, 16:-16], found[16:-16, 16:-16])
    reached = [matrix.mean_iou for matrix in matrices.values()]
    axis.plot(
        shifts, reached, "o-", markersize=4, color=colour, label=f"scores {stride} pixels apart"
    )
    assert shifts[int(np.argmax(reached))] == 0
axis.axvline(0, color=BLACK, linewidth=1)
axis.set(xlabel="crop, minus the right one (pixels)", ylabel="mean IU", ylim=(0, 1.05))
axis.set_title("Even perfect scores lose when they are read off beside their place")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# Both are best at 0. A shift of 15 pixels costs more than the step from a stride of 8 to one of 32. (The paper has the
# same upper bounds for VOC: perfect scores 32 pixels apart reach a mean IU of 86.1, 8 pixels apart 96.4, appendix A.)
#
# ## Why pad by 100?
#
# Without it, fc6 eats 6 units of its map, 3 at each side.
#
# **Predict.** An image of 500x500, padding 1. How many scores are there? Which pixels have a score on either
# side? And an image of 150x150?

# %% tags=["hide-output"]
n = VGG.map_sizes(first_padding=1, fc6_padding=0, side=500)["fc6"]
last = 32 * (n - 1) + 111.5
first, rest = 111.5 - 32, 499 - last - 32
print(
    f"{n} scores, 111.5 to {last}: none near the first {first:.0f} pixels, nor the last {rest:.0f}"
)
print("150 pixels:", VGG.map_sizes(1, 0, 150)["fc6"], "scores")

# %% [markdown]
# <details><summary>Answer</summary>
#
# A broad rim of the image has no scores, and small images have none at all.
#
# </details>
#
# The authors' own words: the padding "guarantees that the network output can be aligned to the input for any
# input size in the given datasets" (the FAQ of their repository). But why *100*?
#
# For a padding P, the first score lies at 112.5 - P (12.5 for 100), so the crop is
# $31.5 - (112.5 - P) = P - 81$. A net works for images of H pixels if
#
# 1. there is at least one score;
# 2. the crop is not negative;
# 3. the upscored map reaches to the image's end: 32 n + 32 units are at least H + P - 81.


# %%
def works(padding, size):
    n = VGG.map_sizes(padding, 0, size)["fc6"]
    crop = padding - 81
    return n >= 1 and crop >= 0 and 32 * n + 32 >= size + crop


assert VGG.grids(97)[-1].window(7).upsample(64, 32).offset_to(IMAGE) == 97 - 81
sizes, paddings = range(1, 101), range(60, 116)
table = np.array([[works(padding, size) for size in sizes] for padding in paddings])
always = min(padding for padding in paddings if all(works(padding, size) for size in range(1, 600)))
from_33 = min(
    padding for padding in paddings if all(works(padding, size) for size in range(33, 600))
)
print("smallest padding for every size:", always, "  for sizes from 33 on:", from_33)
assert (always, from_33) == (97, 81)

# %% tags=["hide-input"] alt="Paddings and image heights as an area: all work from a padding of 97, from 81 for images of 33 pixels and more; the paper's 100 is above both"
figure, axis = plt.subplots(figsize=(8, 3.6))
colours = plt.matplotlib.colors.ListedColormap(["0.85", SKY])
axis.imshow(table, origin="lower", extent=(0.5, 100.5, 59.5, 115.5), aspect="auto", cmap=colours)
axis.text(60, 70, "does not work: the crop would be negative", ha="center", fontsize=10)
axis.text(12, 84, "no score", ha="center", fontsize=10)
axis.text(66, 89, "works", ha="center", fontsize=10)
lines = {
    100: (BLACK, "the paper: 100"),
    97: (BLUE, "every size from 1: 97"),
    81: (RED, "every size from 33: 81"),
}
for padding, (colour, text) in lines.items():
    axis.axhline(padding, color=colour, linewidth=2)
    axis.text(99, padding + (-2.8 if padding == 97 else 0.9), text, ha="right", fontsize=9)
axis.set(
    xlabel="height of the image (pixels)",
    ylabel="padding",
    title="Which paddings work for which images",
)
plt.show()

# %% [markdown]
# 97 is the least that works for every size down to a single pixel, and 81 is enough from 33 pixels on. 100 is
# the round number above. We let real nets run to be sure:


# %%
def padded_by(padding):
    net = FCN32s(1, width=1 / 64, dtype=np.float64)
    net.first_padding, net.offsets = padding, {"score": padding - 81}
    return net


for padding, size in (97, 1), (97, 40), (81, 33), (81, 70):
    assert padded_by(padding).forward(np.zeros((1, 3, size, size))).shape == (1, 1, size, size)
assert np.allclose(reads(passing_on(padded_by(81)))[inner], columns[inner])  # and aligned

for padding, size in (96, 1), (81, 32):
    try:
        padded_by(padding).forward(np.zeros((1, 3, size, size)))
    except Exception as error:
        print(f"padding {padding}, {size} pixels: {type(error).__name__}")

# %% [markdown]
# What changes in the other nets? Skips and scores all begin P earlier, so the crops *between* them, 5 and 9, do
# not depend on P; only the last crop does.

# %%
for padding in (81, 97, 100):
    pools = VGG.grids(padding)
    up2 = pools[4].window(7).upsample(4, 2)
    up4 = up2.upsample(4, 2)
    last = [
        g.offset_to(IMAGE)
        for g in (pools[4].window(7).upsample(64, 32), up2.upsample(32, 16), up4.upsample(16, 8))
    ]
    skips = pools[3].offset_to(up2), pools[2].offset_to(up4)
    print(f"padding {padding}: at pool4 and pool3 {skips}, last crops of 32s, 16s, 8s: {last}")

# %% [markdown]
# Condition 3 holds because the poolings round up. Where they round down, 12 of every 32 sizes fail, see
# [Pooling](03_pooling.ipynb#Ceil-or-floor?).


# %%
def scores_in_floor_mode(side, padding=100, fc6_padding=0):
    side += 2 * padding - 2
    for _ in range(5):
        side //= 2
    return side + 2 * fc6_padding - 6


fails = [32 * scores_in_floor_mode(side) + 32 < side + 19 for side in range(96, 608)]
assert np.mean(fails) == 12 / 32 and all(works(100, side) for side in range(1, 600))

# %% [markdown]
# ## Padding "same"
#
# The zeros are only there to feed fc6. One can feed it directly: conv1_1 padded by 1 as in the classifier, and
# fc6 padded by 3, which keeps its map's size. The weights are the same. This is `padding="same"`.
#
# **Predict.** Where do the scores lie now? What is the crop of the 32s?

# %% tags=["hide-output"]
same_scores = VGG.grids(first_padding=1)[-1].window(7, padding=3)
print(same_scores)
assert same_scores.upsample(64, 32).offset_to(IMAGE) == 16
for kind in FCN32s, FCN16s, FCN8s:
    print(kind.__name__, *kind.align("same"))

# %% [markdown]
# <details><summary>Answer</summary>
#
# Score j lies at 32 j + 15.5, in the middle of its own 32x32 pixels, and the crop is 16, half a stride.
#
# </details>
#
# The 10 by 15 answers of the opening lie there, too: each stands for its own 32x32 pixels. So the picture on
# the right, which was cropped by 16, is the one to trust. In the other, the cat lies 16 pixels too far down and
# to the right. A crop of -1 at the skips says: now the upscored map begins first, one unit before pool4, and is
# the one to be cut.
#
# It works for every size, for $n = \lceil H / 32 \rceil$ scores give $32 n + 32 \geq H + 16$ units. In floor
# mode it would fail for sizes whose remainder by 32 is more than 16 (and for all below 32).

# %%
for side in range(1, 300):
    n = VGG.map_sizes(1, 3, side)["fc6"]
    assert n == -(-side // 32) and 32 * n + 32 >= side + 16
    if side >= 32:
        assert (32 * scores_in_floor_mode(side, 1, 3) + 32 < side + 16) == (side % 32 > 16)

tiny = FCN8s(2, width=1 / 64, padding="same", dtype=np.float64)
for side in (1, 2, 31, 33, 49, 64, 95):
    assert tiny.forward(np.zeros((1, 3, side, side + 5))).shape == (1, 2, side, side + 5)

# %% [markdown]
# What does the padding of 100 cost? Count the multiplications by their definition. (In time it costs less, since the
# package does not compute the constant part of the border again and again, see `tinyfcn/models/border.py`.)
#
# **Predict.** How many times more work is it for an image of 64x64?


# %% tags=["hide-output"]
def multiplications(side, padding, fc6_padding):
    weights, sizes = FCN32s.shapes(21, 1.0), VGG.map_sizes(padding, fc6_padding, side)
    places = sizes | dict.fromkeys(("fc7", "score_fr"), sizes["fc6"])
    return sum(
        prod(weights[f"{name}.weight"]) * places[name] ** 2
        for name in places
        if not name.startswith("pool")
    )


sides = range(32, 801, 8)
counted = [multiplications(side, 100, 0) / multiplications(side, 1, 3) for side in sides]

# %% tags=["hide-input", "hide-output"] alt="Multiplications with a padding of 100 over those with same, by the image's size: more than twenty times on small images, near 1.5 at 800 pixels"
figure, axis = plt.subplots()
axis.plot(sides, counted, color=BLUE)
axis.axhline(1, color=BLACK, linewidth=1)
axis.set(
    xlabel="height and width of the image (pixels)", ylabel='padding 100 / "same"', yscale="log"
)
axis.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
axis.set_title("Multiplications: on small images nearly all of them go into the border")
plt.show()
print({side: round(counted[list(sides).index(side)], 1) for side in (64, 128, 256, 512)})

# %% [markdown]
# <details><summary>Answer</summary>
#
# At 64x64 the count is 13 times as large: 262x262 pixels instead of 64x64 would be 17 times, but fc6 to
# the scores see 3x3 places against 2x2.
#
# </details>
#
# Take the paper's padding for the published nets and their scores; and "same" for training on small images.
#
# ## Exercises

# %% [markdown]
# ### Exercise 1: spread
#
# Write the transposed convolution in one dimension, with channels and a padding p, which leaves out the first
# and the last p outputs.
#
# <details><summary>Hint 1</summary>
#
# Forget the padding at first: begin with zeros for all outputs, (n - 1) s + k of them, and cut in the end.
#
# </details>
# <details><summary>Hint 2</summary>
#
# One input r is a vector (C_in,), and what it spreads is `np.tensordot(x[:, r], w, 1)`, an array (C_out, k).
# Where do its k columns go?
#
# </details>


# %% tags=["exercise"]
def conv_transpose1d(x, w, stride, padding):
    """y (C_out, (n - 1) stride + k - 2 padding) of x (C_in, n) and w (C_in, C_out, k)."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng_1 = np.random.default_rng(1)
    for n, k, stride, padding in ((3, 4, 2, 1), (5, 3, 1, 0), (4, 2, 3, 0), (6, 8, 4, 2)):
        a, weight = rng_1.standard_normal((2, n)), rng_1.standard_normal((2, 3, k))
        options = {"stride": (1, stride), "padding": (0, padding)}
        right = ops.conv_transpose2d_forward(a[None, :, None], weight[:, :, None], **options)[0]
        found = conv_transpose1d(a, weight, stride, padding)
        expect(found, right[0, :, 0], f"y (n {n}, k {k}, stride {stride}, padding {padding})")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def conv_transpose1d(x, w, stride, padding):
#     n, k = x.shape[1], w.shape[2]
#     y = np.zeros((w.shape[1], (n - 1) * stride + k))
#     for r in range(n):
#         y[:, r * stride : r * stride + k] += np.tensordot(x[:, r], w, 1)
#     return y[:, padding : y.shape[1] - padding]
# ```
#
# `+=`, because copies overlap. (`y[:, padding:-padding]` would be empty for a padding of 0.)
#
# </details>

# %% [markdown]
# ### Exercise 2: its backward pass
#
# For the same operation, with channels and padding. The cache is (x, w, stride, padding).
#
# <details><summary>Hint 1</summary>
#
# The outputs that were cut away have no gradient: put zeros in their place, and you are back at padding 0.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Input r met every weight, in outputs r s to r s + k - 1. Take this window of dy, (C_out, k): dx at r
# multiplies it by w and sums, and dw adds its product with x at r.
#
# </details>


# %% tags=["exercise"]
def conv_transpose1d_backward(dy, cache):
    """(dx, dw) for dy, the gradient at y (C_out, (n - 1) stride + k - 2 padding)."""
    x, w, stride, padding = cache
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng_2 = np.random.default_rng(2)
    for n, k, stride, padding in ((3, 4, 2, 1), (5, 3, 1, 0), (4, 2, 3, 0), (6, 8, 4, 2)):
        a, weight = rng_2.standard_normal((2, n)), rng_2.standard_normal((2, 3, k))
        options = {"stride": (1, stride), "padding": (0, padding)}
        y_2, kept = ops.conv_transpose2d_forward(a[None, :, None], weight[:, :, None], **options)
        dy_2 = rng_2.standard_normal(y_2.shape)
        right = ops.conv_transpose2d_backward(dy_2, kept)
        answer = conv_transpose1d_backward(dy_2[0, :, 0], (a, weight, stride, padding))
        assert isinstance(answer, tuple) and len(answer) == 2, "return dx and dw"
        case = f"(n {n}, k {k}, stride {stride}, padding {padding})"
        expect(answer[0], right[0][0, :, 0], f"dx {case}")
        expect(answer[1], right[1][:, :, 0], f"dw {case}", n=n)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def conv_transpose1d_backward(dy, cache):
#     x, w, stride, padding = cache
#     dy = np.pad(dy, ((0, 0), (padding, padding)))
#     dx, dw = np.zeros_like(x), np.zeros_like(w)
#     for r in range(x.shape[1]):
#         window = dy[:, r * stride : r * stride + w.shape[2]]  # (C_out, k)
#         dx[:, r] = np.tensordot(w, window, 2)
#         dw += x[:, r, None, None] * window
#     return dx, dw
# ```
#
# dx is the convolution of dy with w, at the same stride. Each weight met every input, so its gradient sums over them.
#
# </details>

# %% [markdown]
# ### Exercise 3: bilinear upsampling, there and back
#
# Write $y = U_h\, x\, U_w^T$ for all images and channels, and its backward pass, for a kernel of any size k,
# even (k = 2 s) or odd (k = 2 s - 1), at the stride s = (k + 1) // 2. The package's functions are for the
# check: build the matrices yourself.
#
# <details><summary>Hint 1</summary>
#
# The triangle has k taps and its centre at (k - 1) / 2, which lies between two taps if k is even. Column r of U,
# (n - 1) s + k rows high, holds it from row r s on.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `U_h @ x @ U_w.T` works for an array (N, C, h, w) as it stands: NumPy multiplies the last two axes. Backward, from
# $\langle dy,\; U_h\, \delta x\, U_w^T \rangle$, move both factors to the other side.
#
# </details>


# %% tags=["exercise"]
def upsample(x, k):
    """(y, cache): x (N, C, h, w) enlarged bilinearly by a kernel of k at stride (k + 1) // 2."""
    raise NotImplementedError


def upsample_backward(dy, cache):
    """dx (N, C, h, w)."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng_3 = np.random.default_rng(3)
    for k in (3, 4, 8, 15):
        a = rng_3.standard_normal((2, 3, 4, 5))
        right, kept = ops.upsample_bilinear_forward(a, k, (k + 1) // 2)
        answer = upsample(a, k)
        assert isinstance(answer, tuple) and len(answer) == 2, "upsample returns y and a cache"
        expect(answer[0], right, f"y (k {k})", **{"the stride": (k + 1) // 2})
        dy_3 = rng_3.standard_normal(right.shape)
        dx_3 = ops.upsample_bilinear_backward(dy_3, kept)
        expect(upsample_backward(dy_3, answer[1]), dx_3, f"dx (k {k})")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def upsample(x, k):
#     stride = (k + 1) // 2
#     triangle = 1 - abs(np.arange(k) - (k - 1) / 2) / stride
#     matrices = []
#     for n in x.shape[2:]:
#         U = np.zeros(((n - 1) * stride + k, n))
#         for r in range(n):
#             U[r * stride : r * stride + k, r] = triangle
#         matrices.append(U)
#     U_h, U_w = matrices
#     return U_h @ x @ U_w.T, (U_h, U_w)
#
#
# def upsample_backward(dy, cache):
#     U_h, U_w = cache
#     return U_h.T @ dy @ U_w
# ```
#
# In a column of U nothing overlaps, so `=` is enough there: the overlap is in its rows, and the product adds it up.
#
# </details>

# %% [markdown]
# ### Exercise 4: zeros in between
#
# Write the transposed convolution in two dimensions with `ops.conv2d_forward`, for any stride, kernel and
# padding p less than k.
#
# <details><summary>Hint 1</summary>
#
# `by_insertion` above does it for padding 0. What it adds around the image is k - 1 zeros at each side.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Padding p removes p rows of the *output*. How many rows of zeros around the input would have made them?
#
# </details>


# %% tags=["exercise"]
def transposed_by_insertion(x, weight, stride, padding):
    """conv_transpose2d of x (N, C_in, H, W) with weight (C_in, C_out, k, k)."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    check_rng = np.random.default_rng(4)
    for stride, padding, k in ((2, 0, 3), (2, 1, 4), (3, 2, 5), (1, 0, 2)):
        x, weight = check_rng.standard_normal((2, 3, 4, 5)), check_rng.standard_normal((3, 6, k, k))
        expected = ops.conv_transpose2d_forward(x, weight, stride=stride, padding=padding)[0]
        got = transposed_by_insertion(x, weight, stride, padding)
        case = f"y (stride {stride}, padding {padding}, k {k}; which weight does each input meet?)"
        expect(got, expected, case)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def transposed_by_insertion(x, weight, stride, padding):
#     n, channels, height, width = x.shape
#     apart = np.zeros((n, channels, (height - 1) * stride + 1, (width - 1) * stride + 1))
#     apart[:, :, ::stride, ::stride] = x
#     turned = weight.swapaxes(0, 1)[:, :, ::-1, ::-1]
#     return ops.conv2d_forward(apart, turned, padding=weight.shape[2] - 1 - padding)[0]
# ```
#
# The kernel is turned round in both directions, its channel axes change places, and what padding takes away is
# not put there in the first place.
#
# </details>

# %% [markdown]
# ### Exercise 5: the last crop
#
# Write the function that gives the last crop of a net on VGG16, for the padding of its first
# convolution, the padding of fc6, and the strides of its upsampling layers, in their order (kernels are
# twice as large). The net has no crops in between that matter: with padding 100, they cut only the
# skips. `VGG.grids` and `Grid` help; or compute it by hand.
#
# <details><summary>Hint 1</summary>
#
# Follow one number through the net: where unit 0 lies. After fc6 it is a function of the two paddings, and each
# upsampling moves it.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A kernel of 2 s at stride s puts unit 0 of the upscored map (2 s - 1) / 2 *new* strides before score 0. What
# is left of the image's pixel 0 is the crop.
#
# </details>


# %% tags=["exercise"]
def last_crop(first_padding, fc6_padding, strides):
    """The unit of the last upscored map that lies on pixel 0 of the image."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    for arguments, expected in (
        ((100, 0, (32,)), 19),
        ((100, 0, (2, 16)), 27),
        ((100, 0, (2, 2, 8)), 31),
        ((81, 0, (32,)), 0),
        ((1, 3, (32,)), 16),
    ):
        got = last_crop(*arguments)
        assert got == expected, f"last_crop{arguments} is {got}, expected {expected}"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def last_crop(first_padding, fc6_padding, strides):
#     grid = VGG.grids(first_padding)[-1].window(7, padding=fc6_padding)
#     for stride in strides:
#         grid = grid.upsample(2 * stride, stride)
#     return grid.offset_to(IMAGE)
# ```
#
# Or by hand: score 0 lies at 112.5 - first_padding - 32 fc6_padding, and each upsampling takes off
# (k - 1) / 2 of its new strides. What is left is minus the crop.
#
# </details>

# %% [markdown]
# ---
#
# Every pixel has its scores now, and they lie where they belong. How good they are, and in which direction to
# change them, is the subject of the next notebook: [The loss](06_loss.ipynb).
