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
# # 11. Winograd's convolution
#
# Two programs were asked what VGG16's second layer, conv1_2, makes of Chelsea. One works as you know it: nine multiplications
# for each pixel and each pair of channels. The picture on the left shows how far it had come when the other one, in the
# middle, was done. What is grey had still to be computed. On the right is what the two answers differ by in the end,
# enlarged a million times.

# %% tags=["setup", "hide-input"]
import os
from fractions import Fraction

import numpy as np
from threadpoolctl import threadpool_limits

from tinyfcn import ops
from tinyfcn.backend import empty_hwnc, hwnc
from tinyfcn.gradcheck import check_gradient
from tinyfcn.lesson import (
    BLUE,
    GREEN,
    ORANGE,
    PINK,
    RED,
    SKY,
    attempt,
    expect,
    fastest,
    photograph,
    plt,
    see,
    show_source,
    switched,
    vgg16,
)
from tinyfcn.ops import columns, conv, conv2d, tiles, winograd

rng = np.random.default_rng(0)
plt.rcParams["figure.constrained_layout.h_pad"] = 0.08  # inches, below a figure's title


def normal(*shape):
    return rng.standard_normal(shape, np.float32)


def package(x, w, b):
    """The package's choice, which is Winograd's method for most 3x3 convolutions."""
    return ops.conv2d_forward(x, w, b, padding=1)[0]


def im2col(x, w, b):
    """All columns in one matrix, and one product."""
    with switched(TINYFCN_CONV="plain"):
        return package(x, w, b)


def in_bands(x, w, b):
    """The same columns, a few rows at a time."""
    with switched(TINYFCN_CONV="columns"):
        return package(x, w, b)


def inverse(matrix):
    """By Gauss and Jordan, in exact fractions."""
    n = len(matrix)
    rows = [
        [Fraction(v) for v in row] + [Fraction(i == j) for j in range(n)]
        for i, row in enumerate(matrix)
    ]
    for c in range(n):
        pivot = next(r for r in range(c, n) if rows[r][c])
        rows[c], rows[pivot] = rows[pivot], rows[c]
        rows[c] = [v / rows[c][c] for v in rows[c]]
        for r in range(n):
            if r != c:
                rows[r] = [v - rows[r][c] * u for v, u in zip(rows[r], rows[c])]
    return np.array([row[n:] for row in rows])


def table(matrix):
    return "\n".join(" ".join(f"{v!s:>5}" for v in row) for row in matrix)


class Letters(dict):
    """A sum of products of letters: d0 g0 - d2 g0 is {("d0", "g0"): 1, ("d2", "g0"): -1}."""

    def __add__(self, other):
        return Letters({k: v for k in {**self, **other} if (v := self.get(k, 0) + other.get(k, 0))})

    def __rmul__(self, factor):
        return Letters({k: factor * v for k, v in self.items()})

    def __sub__(self, other):
        return self + -1 * other

    def __matmul__(self, other):
        return Letters({k + m: v * u for k, v in self.items() for m, u in other.items()})

    def __str__(self):
        return " ".join(
            f"{'+' if v > 0 else '-'} {'' if abs(v) == 1 else abs(v)}{' '.join(k)}"
            for k, v in sorted(self.items())
        )


# %% tags=["hide-input"] alt="One layer's output: in bands a strip is done, by Winograd's method the whole cat; their difference, a million times enlarged, is faint"
VGG16_FILE = os.environ.get("TINYFCN_VGG16", "vgg16_notop.h5")  # VGG16's weights: see README.md
vgg = vgg16(VGG16_FILE)
seen = see(vgg, photograph(), last="conv1_1")["conv1_1"][None]
weight, bias = (vgg.params[f"conv1_2.{kind}"] for kind in ("weight", "bias"))
SHOWN = 29  # one of the 64 channels

took = fastest({f.__name__: lambda f=f: f(seen, weight, bias) for f in (in_bands, package)})
one, other = (f(seen, weight, bias)[0, SHOWN] for f in (in_bands, package))
done = round(took["package"] / took["in_bands"] * len(one))
figure, axes = plt.subplots(1, 3, figsize=(9, 2.4))
for axis, picture in (axes[0], one), (axes[1], other):
    axis.imshow(np.maximum(picture, 0), cmap="gray", vmax=np.percentile(picture, 99.5))
axes[0].axhspan(done - 0.5, len(one) - 0.5, color="0.75")
axes[2].imshow(1e6 * abs(one - other), cmap="gray", vmax=np.percentile(one, 99.5))
titles = [f"columns, in bands: {1e3 * took['in_bands']:.0f} ms"]
titles += [f"Winograd: {1e3 * took['package']:.0f} ms", "a million times their difference"]
for axis, title in zip(axes, titles):
    axis.set_title(title, fontsize=10)
    axis.axis("off")
plt.show()
assert took["package"] < took["in_bands"] and np.allclose(one, other, atol=1e-4 * abs(one).max())

# %% [markdown]
# The second program does without three of every four multiplications, and nothing is missing from its picture: the two
# differ by rounding alone. How can that be? And if three of four are missing, why is it
# not four times as fast? You will derive the answer to the first question with pencil and paper, and measure the answer to the
# second.
#
# Takes about 45 minutes. It builds on [Convolution](02_convolution.ipynb), and on [Speed](10_speed.ipynb), for bands and
# the roofline.
#
# ## Six products become four
#
# Two outputs of a convolution with three taps, in one dimension:
#
# $$y_0 = d_0 g_0 + d_1 g_1 + d_2 g_2 \qquad y_1 = d_1 g_0 + d_2 g_1 + d_3 g_2$$
#
# That is six multiplications. Both outputs use $d_1$ and $d_2$, and there is something to gain from that. Take
#
# $$m_1 = (d_0 - d_2)\, g_0 \quad m_2 = (d_1 + d_2)\tfrac{g_0 + g_1 + g_2}{2} \quad m_3 = (d_2 - d_1)\tfrac{g_0 - g_1 +
# g_2}{2} \quad m_4 = (d_1 - d_3)\, g_2 .$$
#
# Claim: $y_0 = m_1 + m_2 + m_3$ and $y_1 = m_2 - m_3 - m_4$.
#
# **Predict.** Multiply out $m_1 + m_2 + m_3$. What becomes of $d_2 g_0$? Of $d_1 g_0$?

# %% tags=["hide-output"]
d0, d1, d2, d3, g0, g1, g2 = (
    Letters({(name,): Fraction(1)}) for name in ["d0", "d1", "d2", "d3", "g0", "g1", "g2"]
)
half = Fraction(1, 2)
m1, m2 = (d0 - d2) @ g0, (d1 + d2) @ (half * (g0 + g1 + g2))
m3, m4 = (d2 - d1) @ (half * (g0 - g1 + g2)), (d1 - d3) @ g2
print("m1 + m2 + m3 =", m1 + m2 + m3)
print("m2 - m3 - m4 =", m2 - m3 - m4)
assert m1 + m2 + m3 == d0 @ g0 + d1 @ g1 + d2 @ g2 and m2 - m3 - m4 == d1 @ g0 + d2 @ g1 + d3 @ g2

# %% [markdown]
# So there are **four multiplications in place of six**: this is F(2, 3), two outputs with three taps (Winograd 1980; Lavin
# and Gray 2015). The sums of g's are made once for the whole image, and the additions of d's are shared by all filters. But where
# does one get such a thing from?
#
# ## Where do the four products come from?
#
# They come from multiplying polynomials. Let $g(t) = g_0 + g_1 t + g_2 t^2$ and $a(t) = a_0 + a_1 t$. The coefficients of
# their product are the sums $\sum_j g_j a_{i-j}$, for which school multiplication takes 3 x 2 = 6 products. But $g\,a$
# has degree 3, so its values at **four points** determine it, and a value is found with **one** product: $(g\,a)(p) =
# g(p)\, a(p)$. Evaluate, multiply, interpolate: this is the method of Toom and Cook. Take as points 0, 1, -1, for which
# powers cost nothing, and "infinity", which stands for the leading coefficient.

# %% tags=["hide-input"] alt="Two polynomials of degree 2 and 1 and their product, a cubic, with its values at three points"
fine = np.linspace(-1.4, 1.6)
figure, axis = plt.subplots(figsize=(8, 3))
g_line, a_line = np.polynomial.Polynomial([1, 0.5, -1]), np.polynomial.Polynomial([0.6, -0.8])
axis.plot(fine, g_line(fine), color=SKY, label="g, degree 2")
axis.plot(fine, a_line(fine), color=ORANGE, label="a, degree 1")
axis.plot(fine, (g_line * a_line)(fine), color=BLUE, lw=2.5, label="g a, degree 3")
for point in 0, 1, -1:
    axis.plot(
        [point] * 3,
        [g_line(point), a_line(point), g_line(point) * a_line(point)],
        "o",
        color="0.2",
        zorder=3,
    )
    axis.axvline(point, color="0.8", zorder=0)
axis.set(xlabel="t", ylabel="value", xticks=[-1, 0, 1])
axis.set_title("One product at each point; three points and the leading coefficient fix the cubic")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# Let $V_n$ have a row $(1, p, p^2, \ldots, p^{n-1})$ for each point p, and $(0, \ldots, 0, 1)$ for infinity. Then
#
# $$\text{coefficients of } g\,a = V_4^{-1} \left[ (V_3\, g) \odot (V_2\, a) \right] .$$
#
# This multiplies polynomials, and we want a convolution $y_i = \sum_j g_j d_{i+j}$. One more idea: for a fixed g, the map
# from a to the product is a matrix, with $g_j$ in row $i + j$ of column $i$. Our y is that matrix **transposed**, applied to
# d. A product of matrices is transposed by reading it backwards:
#
# $$y = V_2^T \left[ (V_3\, g) \odot (V_4^{-T} d) \right] = A^T \left[ (G g) \odot (B^T d) \right], \qquad A = V_2,\quad G =
# V_3,\quad B^T = V_4^{-T} .$$
#
# It is the same idea as in [Convolution](02_convolution.ipynb): the transposed map costs as much as the map. Finally the
# fractions are moved from the rows of $B^T$, which meets the image, to those of $G$, which meets the weights. Here it is
# in exact fractions, for m outputs and r taps:


# %% tags=["setup"]
def powers(points, n):
    """V_n: a row (1, p, ..., p^(n-1)) for each point, and one for infinity."""
    return np.array(
        [[p**k for k in range(n)] for p in points] + [[Fraction(k == n - 1) for k in range(n)]]
    )


def toom_cook(points, m, r):
    """A^T (m, n), G (n, r), B^T (n, n): m outputs, r taps, n - 1 = m + r - 2 finite points."""
    points = [Fraction(p) for p in points]
    f = np.array([np.prod([p - q for q in points if q != p]) for p in points] + [Fraction(1)])[
        :, None
    ]
    return powers(points, m).T, powers(points, r) / f, inverse(powers(points, m + r - 1)).T * f


# %%
A_T, G, B_T = toom_cook([0, 1, -1], m=2, r=3)
print("A^T", table(A_T), "", "G", table(G), "", "B^T", table(B_T), sep="\n")

# %% [markdown]
# These are the four products from above, up to signs. The recipe gives any size.
#
# **Predict.** F(4, 3) needs $4 + 3 - 1 = 6$ points, and replaces 12 multiplications by 6. Two more points beside 0, 1, -1 and
# infinity: which would you take?

# %% tags=["hide-output"]
A_T, G, B_T = toom_cook([0, 1, -1, 2, -2], m=4, r=3)
assert (A_T == winograd.A_T).all() and (B_T == winograd.B_T).all()
assert (G.astype(float) == winograd.G).all()
print("A^T", table(A_T), "", "G", table(G), "", "B^T", table(B_T), sep="\n")

# %% [markdown]
# These are the package's three matrices, derived to the last digit. With the points 2 and -2 only small whole numbers stand
# in $A^T$ and $B^T$.

# %%
g, d = [Fraction(v) for v in (3, -1, 2)], [Fraction(v) for v in (1, 4, -2, 5, 3, -6)]
y_fast = A_T @ ((G @ g) * (B_T @ d))
assert list(y_fast) == [sum(g[j] * d[i + j] for j in range(3)) for i in range(4)]
print(*y_fast)

# %% [markdown]
# ## Two dimensions: tiles
#
# In two dimensions you do it along the columns and then along the rows. A tile d of 6x6 inputs gives a tile Y of 4x4 outputs:
#
# $$Y = A^T \left[ U \odot V \right] A, \qquad U = G\, g\, G^T, \qquad V = B^T d\, B$$
#
# (Lavin and Gray 2015, section 4.1). U and V are called the *spectra* of the kernel and of the tile.
#
# So 36 multiplications replace $16 \cdot 9 = 144$, **four times fewer**, and nothing is missing, since each product serves
# several outputs at once.

# %%
g, d = rng.normal(size=(3, 3)), rng.normal(size=(6, 6))
Y = (
    winograd.A_T
    @ ((winograd.G @ g @ winograd.G.T) * (winograd.B_T @ d @ winograd.B_T.T))
    @ winograd.A_T.T
)
assert np.allclose(Y, ops.conv2d_forward(d[None, None], g[None, None])[0][0, 0])

# %% tags=["hide-input"] alt="Tiles of the input, 6x6, which overlap by two rows or columns, and tiles of the output, 4x4, which do not"
figure, axes = plt.subplots(1, 2, figsize=(8, 3.7))
for axis, size, edge, title in (
    (axes[0], 14, 6, "input: tiles of 6x6, 4 apart"),
    (axes[1], 12, 4, "output: tiles of 4x4"),
):
    axis.set(
        xlim=(-0.6, size - 0.4),
        ylim=(size - 0.4, -0.6),
        aspect="equal",
        title=title,
        xlabel="column",
        ylabel="row",
    )
    axis.set(xticks=range(0, size, 2), yticks=range(0, size, 2))
    for r, c in np.ndindex(size, size):
        axis.plot(c, r, ".", color="0.7", ms=3)
    for r, c in np.ndindex(3, 3):
        colour, inset = [BLUE, ORANGE, GREEN, RED][2 * (r % 2) + c % 2], 0.06 * (r + c) - 0.4
        corner = (4 * c + inset, 4 * r + inset)
        axis.add_patch(
            plt.Rectangle(
                corner,
                edge - 1 - 2 * inset,
                edge - 1 - 2 * inset,
                fc=colour,
                ec=colour,
                alpha=0.18,
                lw=0,
            )
        )
        axis.add_patch(
            plt.Rectangle(
                corner, edge - 1 - 2 * inset, edge - 1 - 2 * inset, fill=False, ec=colour, lw=1.5
            )
        )
figure.suptitle(
    "Neighbouring tiles of the input share two rows or columns; those of the output share none"
)
plt.show()

# %% [markdown]
# And the channels? The sum over input channels can be taken *before* the last transform, which is linear. So each of the 36
# places k in a tile gets a matrix product of its own, over all tiles at once: $M_k = V_k U_k$ with $V_k$ (tiles, $C_{in}$) and
# $U_k$ ($C_{in}, C_{out}$). The whole method, for maps whose sides divide by 4:


# %%
C, SIDE = 64, 128
x, w, b = normal(1, C, SIDE, SIDE), normal(C, C, 3, 3) / 24, normal(C)


def winograd_whole(x, w, matrices=(winograd.A_T, winograd.G, winograd.B_T)):
    """A 3x3 convolution at stride 1 and padding 1, with all tiles at once."""
    a_t, g, b_t = (np.asarray(matrix, float).astype(x.dtype) for matrix in matrices)
    m, n = a_t.shape
    batch, c_in, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    tiles = np.lib.stride_tricks.sliding_window_view(padded, (n, n), (2, 3))[
        :, :, ::m, ::m
    ]  # (N, C_in, high, wide, n, n)
    U = (g @ w @ g.T).transpose(2, 3, 1, 0)  # (n, n, C_in, C_out)
    V = (b_t @ tiles @ b_t.T).transpose(4, 5, 0, 2, 3, 1)  # (n, n, N, high, wide, C_in)
    M = V.reshape(n, n, -1, c_in) @ U  # n * n products of matrices
    Y = a_t @ M.transpose(2, 3, 0, 1) @ a_t.T  # (tiles, C_out, m, m)
    Y = Y.reshape(batch, height // m, width // m, len(w), m, m)
    return Y.transpose(0, 3, 1, 4, 2, 5).reshape(batch, len(w), height, width)


assert np.allclose(winograd_whole(x, w), im2col(x, w, 0 * b), atol=1e-4)

# %% [markdown]
# **Predict.** These ten lines need a quarter of the multiplications. How long do they take beside im2col, and beside the package?

# %% tags=["hide-output"]
calls = {"im2col": lambda: im2col(x, w, b), "these ten lines": lambda: winograd_whole(x, w)}
calls["the package"] = lambda: package(x, w, b)
for name, took in fastest(calls).items():
    print(f"{name:16} {1e3 * took:5.1f} ms")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Written down like this it is *slower*, in spite of the fewer multiplications. There are thousands of tiny 6x6 products,
# arrays that are permuted in memory, and spectra of tiles, $36 / 16 = 2.25$ times as large as the input, that are
# written out and read back. The theory counts multiplications; the processor charges for moving numbers.
#
# </details>
#
# What does the package do about it?
#
# - The small matrix $B^T$ multiplies *long rows*, all channels of a row of tiles at once, so that each transform is one
#   large product.
# - Numbers lie pixel by pixel, so that no axis has to be permuted.
# - It goes band by band, so that spectra stay in the cache, and on threads.

# %%
show_source(winograd.forward, tiles.spectra)

# %% [markdown]
# ## Where do the transforms' costs go?
#
# Transforms cost as much for each tile and *channel*, products for each tile and *pair of channels*. So with few
# channels the transforms dominate. You can time the parts by running them on the blocks that the package cuts, on one
# thread.


# %% tags=["hide-input"] alt="Winograd's time over that of im2col, in four parts, by the number of channels: nearly everywhere around a third, most of it transforms up to 32 channels and products from 128 on"
def parts(channels, side=64):
    """Seconds for kernels' spectra, tiles' spectra, products, and the rest; and of im2col."""
    x, w = normal(1, channels, side, side), normal(channels, channels, 3, 3)
    x = hwnc(np.ascontiguousarray(hwnc(x)))
    y = empty_hwnc(np, x.shape, x.dtype)
    blocks = tiles.blocks(y, channels, threads=1)
    _, b_t, _ = winograd.matrices(np, x.dtype)
    buffers = tiles.buffers(np, x.dtype, blocks, channels)
    v = tiles.spectra(b_t, x, blocks[0], (1, 1), buffers).copy().reshape(36, -1, channels)
    u, m = winograd.kernel_spectra(w), np.empty_like(v)
    geometry = conv.Geometry((3, 3), (1, 1), (1, 1), (1, 1))
    with threadpool_limits(1):
        calls = {
            "kernels": lambda: winograd.kernel_spectra(w),
            "tiles": lambda: [
                tiles.spectra(b_t, x, block, (1, 1), buffers) for block in blocks
            ],
            "products": lambda: [
                np.matmul(v, u, out=m) for _ in blocks
            ],  # blocks are of equal size, up to a row
            "everything": lambda: winograd.forward(x, w, geometry, y),
        }
        kernels, inputs, products, everything = fastest(calls).values()
    rest = max(everything - kernels - inputs - products, 0)
    plain = fastest({"columns": lambda: in_bands(x, w, None)})["columns"]
    return np.array([kernels, inputs, products, rest]), plain


with switched(TINYFCN_THREADS=1):
    widths = [8, 16, 32, 64, 128, 256]
    measured = [parts(channels) for channels in widths]

figure, axis = plt.subplots(figsize=(8, 3.4))
place, base = np.arange(len(widths)), np.zeros(len(widths))
names = [
    "kernels: $G g G^T$",
    "inputs: gather, $B^T d B$",
    "36 products",
    "outputs: $A^T M A$, write",
]
for k, (name, colour) in enumerate(zip(names, [PINK, SKY, BLUE, ORANGE])):
    heights = np.array([part[k] / plain for part, plain in measured])
    axis.bar(place, heights, bottom=base, color=colour, label=name)
    base += heights
axis.axhline(1, color="0.3", ls="--")
axis.text(len(widths) + 0.3, 0.98, "im2col in bands", ha="right", va="top")
axis.axhline(0.25, color="0.3", ls=":")
axis.text(len(widths) - 0.55, 0.26, "a quarter", ha="left", va="bottom")
axis.set_xticks(place, widths)
axis.set(
    xlabel="channels, in and out", ylabel="time / time of im2col", xlim=(-0.7, 6.3), ylim=(0, 1.7)
)
axis.set_title("Winograd's parts at 64x64, on one thread")
axis.legend(frameon=False, loc="upper right")
plt.show()

# %% [markdown]
# With few channels, gathering and transforming take nearly all of the time, and with many mostly the products remain. The
# theory's quarter is not reached: what is left of im2col's time is nearer to a third (0.30 and 0.32 were measured over whole layers
# of 64 and of 512 channels), and with 16 channels it may be a half. So this is why the second program of the first picture was not
# four times as fast: the transforms take back a part of what the products save.
#
# So the package does not take Winograd's way always: it adds up for each way what products, transforms and a call cost, and takes
# the cheapest (`conv2d.choose`). For conv1_1, with its 3 input channels, that is im2col. The blocks of 16 channels in the training step
# of [the last notebook](10_speed.ipynb#Where-does-the-time-of-a-training-step-go?) go by Winograd's, but win least.

# %%
geometry = conv.Geometry((3, 3), (1, 1), (1, 1), (1, 1))
assert conv2d.choose(normal(1, 3, 128, 128), normal(64, 3, 3, 3), geometry, (128, 128)) is columns
assert conv2d.choose(x, w, geometry, (128, 128)) is winograd

# %% [markdown]
# ## Why stop at four outputs?
#
# F(6, 3) would need 8 points for 6 outputs: 64 multiplications in place of 324, five times fewer, and larger tiles would save
# even more. What they cost is *accuracy*: at a point p, powers up to $p^{n-1}$ are added, and cancel later.

# %%
xs, ws = rng.normal(size=(1, 64, 24, 24)), rng.normal(size=(64, 64, 3, 3))
exact = im2col(xs, ws, np.zeros(64))


def error(found):
    return abs(found - exact).max() / abs(exact).max()


near, far = [0, 1, -1, 2, -2, half, -half, 4, -4], list(range(9))
counts, errors, errors_far = [], [], []
for m in 2, 4, 6, 8:
    x32, w32 = xs.astype(np.float32), ws.astype(np.float32)
    counts.append((m + 2) ** 2 / m**2)
    errors.append(error(winograd_whole(x32, w32, toom_cook(near[: m + 1], m, 3))))
    errors_far.append(error(winograd_whole(x32, w32, toom_cook(far[: m + 1], m, 3))))
plain_error = error(im2col(x32, w32, np.zeros(64, np.float32)))

# %% [markdown]
# **Predict.** How many correct digits are left with F(2, 3), F(4, 3), F(6, 3) and F(8, 3), in 32-bit numbers, which hold
# about 7?

# %% tags=["hide-input", "hide-output"] alt="Multiplications for each output, and the error, over the size of Winograd's tiles: fewer products, and fewer digits that are right"
figure, axes = plt.subplots(1, 2, figsize=(8, 3.5))
labels = [f"F({m},3)" for m in (2, 4, 6, 8)]
axes[0].bar(["im2col", *labels], [9, *counts], color=[ORANGE, *[BLUE] * 4])
axes[0].set(ylabel="multiplications for each output", title="Larger tiles: fewer products")
axes[1].semilogy(labels, errors, "o-", color=BLUE, label="points 0, ±1, ±2, ±1/2, ±4")
axes[1].semilogy(labels, errors_far, "s--", color=RED, label="points 0, 1, 2, 3, ...")
axes[1].axhline(plain_error, color=ORANGE, label="im2col")
axes[1].axhline(1, color="0.5", ls=":")
axes[1].text(0, 0.7, "no digit left", va="top", color="0.4", size=9)
axes[1].set(
    ylabel="largest error / largest output",
    title="... and fewer digits (float32)",
    ylim=(1e-7, 1e3),
)
figure.legend(
    *axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
)
figure.suptitle("Winograd with m outputs a side, F(m,3), on 64 channels")
plt.show()

# %% tags=["hide-output"]
print(f"float32: im2col {plain_error:.0e}, F(4,3) {errors[1]:.0e}, F(8,3) {errors[3]:.0e}")
print(f"float64: F(4,3) {error(winograd_whole(xs, ws)):.0e}")
assert plain_error < errors[1] < 3e-5 and errors[3] > 1e-4 and errors_far[1] > 100 * errors[1]

# %% [markdown]
# <details><summary>Answer</summary>
#
# F(4, 3) loses about one digit against im2col, and a network does not notice. F(8, 3) loses three or more. With points as
# good as these, F(6, 3) is hardly less exact than F(4, 3).
#
# </details>
#
# Why not F(6, 3), then? It saves little, from 2.25 multiplications to 1.78, while the transforms grow, the kernels' spectra
# take $64/9 = 7$ times the memory of the weights instead of 4, and tiles of 6x6 hang further over the edge of small maps. (And
# the points matter as much as their number, as the two curves show.)
#
# ## And backward?
#
# From $Y = A^T M A$, $M_k = V_k U_k$ and $U = G g G^T$, the chain rule transposes each map:
#
# $$dM = A\, dY A^T, \qquad dU_k = \sum_{\text{tiles}} V_k^T\, dM_k, \qquad dg = G^T dU\, G .$$
#
# The input gradient needs nothing new: it is the convolution of dy with the kernel turned round
# ([why](02_convolution.ipynb#Why-is-the-input-gradient-a-convolution-with-the-kernel-turned-round?)).
#
# The package goes one step further. The sum of $dy \cdot \text{conv}(x, g)$ over the outputs is, term by term, the sum of $x \cdot
# \text{conv}(dy, g')$ over the inputs, with $g'$ the kernel turned round. So that second convolution has the same gradient for its
# kernel, only turned, and both of our gradients can be had from *one* set of spectra, those of dy.

# %%
show_source(winograd.backward)

# %%
small_x, small_w, small_b = (
    rng.normal(size=(1, 16, 29, 30)),
    rng.normal(size=(17, 16, 3, 3)),
    rng.normal(size=17),
)
assert conv2d.choose(small_x, small_w, geometry, (29, 30)) is winograd
print(check_gradient(ops.conv2d_forward, ops.conv2d_backward, small_x, small_w, small_b, padding=1))


# %% tags=["setup", "hide-input"]
class Counted:
    """A number that counts how often two of its kind are multiplied; constants are free."""

    products = 0

    def __init__(self, value):
        self.value = Fraction(value)

    def __add__(self, other):
        return Counted(self.value + getattr(other, "value", other))

    def __sub__(self, other):
        return Counted(self.value - getattr(other, "value", other))

    def __neg__(self):
        return Counted(-self.value)

    def __mul__(self, other):
        Counted.products += isinstance(other, Counted)
        return Counted(self.value * Fraction(getattr(other, "value", other)))

    def __truediv__(self, number):
        return Counted(self.value / Fraction(number))

    def __rsub__(self, other):
        return -self + other

    __radd__, __rmul__ = __add__, __mul__


# %% [markdown]
# ## Exercises
#
# ### Exercise 1: F(3, 2) by hand
#
# Three outputs of a kernel with two taps, $y_i = d_i g_0 + d_{i+1} g_1$ for $i = 0, 1, 2$, cost six multiplications. Do it
# with four. Multiplying or dividing by a constant is free.
#
# <details><summary>Hint 1</summary>
#
# $3 + 2 - 1 = 4$ as well, so that the same four points will do. What is left of the factors with g, when there is no $g_2$?
#
# </details>
# <details><summary>Hint 2</summary>
#
# The four products are $(d_0 - d_2)\, g_0$, $(d_1 + d_2)$ and $(d_2 - d_1)$ each times half a sum or difference of the g's, and
# $(d_3 - d_1)\, g_1$. Which of them does each output add up? `toom_cook([0, 1, -1], m=3, r=2)` has the answer.
#
# </details>


# %% tags=["exercise"]
def three_outputs(d, g):
    """(y0, y1, y2) for d = (d0, d1, d2, d3) and g = (g0, g1)."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    for d_1, g_1 in [((1, 2, 3, 4), (1, 1)), ((3, -1, 4, -1), (5, -9)), ((2, 7, -1, 8), (-2, 8))]:
        Counted.products = 0
        found = three_outputs([Counted(v) for v in d_1], [Counted(v) for v in g_1])
        assert isinstance(found, tuple | list) and len(found) == 3, "return y0, y1 and y2"
        values = [v.value for v in found]
        right = [d_1[i] * g_1[0] + d_1[i + 1] * g_1[1] for i in range(3)]
        wrong = [f"y{i}" for i in range(3) if values[i] != right[i]]
        cause = "a sign in the last product?" if wrong == ["y2"] else "multiply out, as above"
        assert not wrong, (
            f"d = {d_1}, g = {g_1}: found {[str(v) for v in values]}, expected {right}; "
            f"wrong: {', '.join(wrong)} ({cause})"
        )
        assert Counted.products <= 4, (
            f"right, but with {Counted.products} multiplications: does each of four products "
            "serve more than one output?"
        )

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def three_outputs(d, g):
#     m0 = (d[0] - d[2]) * g[0]
#     m1 = (d[1] + d[2]) * ((g[0] + g[1]) / 2)
#     m2 = (d[2] - d[1]) * ((g[0] - g[1]) / 2)
#     m3 = (d[3] - d[1]) * g[1]
#     return m0 + m1 + m2, m1 - m2, m1 + m2 + m3
# ```
#
# The points are those of F(2, 3), since $3 + 2 - 1 = 4$ as well: the same $B^T$, with the lengths of A and G exchanged.
#
# </details>

# %% [markdown]
# ### Exercise 2: back to the kernel
#
# For one tile, $Y = A^T [(G g G^T) \odot (B^T d B)] A$. Return $dg$, given dY (4, 4) and d (6, 6).
#
# <details><summary>Hint 1</summary>
#
# Go backwards through $Y = A^T M A$, then $M = U \odot V$, then $U = G g G^T$. What is the gradient at M?
#
# </details>
# <details><summary>Hint 2</summary>
#
# If $Y = P M Q$, then $dM = P^T\, dY\, Q^T$. And since $\odot$ multiplies number by number, $dU = dM \odot V$.
#
# </details>


# %% tags=["exercise"]
def tile_weight_gradient(dY, d, A_T, G, B_T):
    """dg (3, 3)."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    for seed_2 in range(3):
        rng_2 = np.random.default_rng(seed_2)
        dY_2, d_2 = rng_2.normal(size=(4, 4)), rng_2.normal(size=(6, 6))
        found = tile_weight_gradient(dY_2, d_2, winograd.A_T, winograd.G, winograd.B_T)
        windows = np.lib.stride_tricks.sliding_window_view(d_2, (4, 4))
        right = (dY_2 * windows).sum(axis=(2, 3))  # dg by the definition of a convolution
        a, g = np.linalg.pinv(winograd.A_T), np.linalg.pinv(winograd.G)
        inverted = g @ ((a @ dY_2 @ a.T) * (winograd.B_T @ d_2 @ winograd.B_T.T)) @ g.T
        same = np.shape(found) == (3, 3) and np.allclose(found, inverted)
        assert not same, "dg: a gradient goes back by the transpose, not by the inverse"
        expect(found, right, "dg")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def tile_weight_gradient(dY, d, A_T, G, B_T):
#     dM = A_T.T @ dY @ A_T
#     dU = dM * (B_T @ d @ B_T.T)
#     return G.T @ dU @ G
# ```
#
# Every map of the forward pass, transposed, in reverse order. $\odot$ is a product: its derivative by the one factor is the
# other.
#
# </details>

# %% [markdown]
# ### Exercise 3: back to the image
#
# A row of n tiles: $d$ has 6 rows and $4n + 2$ columns, and each tile begins 4 columns after the last one. Given dY (4, 4n) and the
# kernel g (3, 3), return $\partial L / \partial d$.
#
# <details><summary>Hint 1</summary>
#
# For one tile, go backwards as in exercise 2, but at $M = U \odot V$ follow V instead of U, to $V = B^T d\, B$. Then: columns 4 and
# 5 of the strip belong to two tiles. What becomes of two gradients that reach the same number?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `dM = A_T.T @ dY[:, left : left + 4] @ A_T`, and the tile's gradient is `B_T.T @ (dM * U) @ B_T`. It is *added* to columns
# `left` to `left + 5` of an array of zeros.
#
# </details>


# %% tags=["exercise"]
def strip_input_gradient(dY, g, A_T, G, B_T):
    """dd (6, 4 n + 2) for dY (4, 4 n)."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    for n_3 in 1, 2, 5:
        rng_3 = np.random.default_rng(n_3)
        dY_3, g_3 = rng_3.normal(size=(4, 4 * n_3)), rng_3.normal(size=(3, 3))
        right = np.zeros((6, 4 * n_3 + 2))  # by the definition of a convolution
        for i_3, j_3 in np.ndindex(3, 3):
            right[i_3 : i_3 + 4, j_3 : j_3 + 4 * n_3] += g_3[i_3, j_3] * dY_3
        found = strip_input_gradient(dY_3, g_3, winograd.A_T, winograd.G, winograd.B_T)
        expect(found, right, f"dd of {n_3} tile{'s' * (n_3 > 1)}")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def strip_input_gradient(dY, g, A_T, G, B_T):
#     U = G @ g @ G.T
#     dd = np.zeros((6, dY.shape[1] + 2))
#     for left in range(0, dY.shape[1], 4):
#         dM = A_T.T @ dY[:, left : left + 4] @ A_T
#         dd[:, left : left + 6] += B_T.T @ (dM * U) @ B_T
#     return dd
# ```
#
# Where tiles overlap, forward reads a number twice, and backward adds up two gradients: it is col2im once more. With exercise 2
# you now have the whole backward pass of a Winograd convolution. The package takes another way to the same numbers: it
# convolves dy with the kernel turned round, so that no two tiles of the result overlap, and bands can be written by several
# threads at once.
#
# </details>

# %% [markdown]
# ---
# In [A GPU, measured](12_gpu.ipynb) the same source meets a machine with two hundred times the arithmetic, which waits for
# nine tenths of the time that a small net takes.
