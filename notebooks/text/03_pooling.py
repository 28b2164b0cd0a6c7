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
# # 3. Pooling and receptive fields
#
# Of every 2x2 pixels of Chelsea's photograph keep the largest values, and do it five times: of 300 by 451
# pixels, 10 by 15 are left, and nobody would find a cat in them. VGG16 halves its maps five times in just
# this way, and it ends with 10 by 15 places, too. Yet one of its maps glows at her eyes there, and hardly
# anywhere else.

# %% tags=["setup", "hide-input"]
import os

import numpy as np

from tinyfcn import ops
from tinyfcn.data import normalise
from tinyfcn.gradcheck import check_gradient
from tinyfcn.lesson import (
    BLUE,
    COLOURS,
    GREEN,
    ORANGE,
    RED,
    attempt,
    expect,
    image_tile,
    photograph,
    plt,
    see,
    show_source,
    slider,
    vgg16,
)
from tinyfcn.models import FCN32s
from tinyfcn.models.vgg import VGG
from tinyfcn.ops.pool import pool_output_size

rng = np.random.default_rng(0)

# %% tags=["hide-input"] alt="The photograph of the cat, what five poolings leave of it, a few blocks of colour, and one of VGG16's maps on top of it, bright at the eyes"
VGG16_FILE = os.environ.get("TINYFCN_VGG16", "vgg16_notop.h5")  # VGG16's weights: see README.md
vgg = vgg16(VGG16_FILE)
cat = photograph()
maps = see(vgg, cat)
EYES = 201  # a channel of conv5_3 and pool5

pooled = cat.transpose(2, 0, 1)[None].astype(np.float32)
for _ in range(5):
    pooled, _ = ops.max_pool2d_forward(pooled, 2, ceil_mode=True)

figure, axes = plt.subplots(1, 3, figsize=(9, 2.3))
axes[0].imshow(cat)
axes[1].imshow(pooled[0].transpose(1, 2, 0).astype(np.uint8), extent=(0, 480, 320, 0))
axes[2].imshow(cat.mean(axis=2), cmap="gray")
axes[2].imshow(maps["pool5"][EYES], cmap="inferno", alpha=0.65, extent=(0, 480, 320, 0))
titles = "the photograph", "pooled five times", "one of VGG16's maps, on top of it"
for axis, title in zip(axes, titles):
    axis.set_title(title, fontsize=11)
    axis.set(xlim=(0, 451), ylim=(300, 0))
    axis.axis("off")
plt.show()

# %% [markdown]
# Where has the network kept what the pixels lost? Two things make the difference. What it pools is no longer
# colours but the answers of convolutions, so that a place may forget its pixels and remember "an eye". And
# each unit sees more of the photograph than the four values that it was pooled from. This notebook is about
# both: what pooling does, forward and backward, and how much of the image a unit sees.
#
# Takes about 45 minutes. It builds on [Convolution](02_convolution.ipynb).
#
# ## The largest of each window
#
# Max pooling with a 2x2 window at stride 2 takes, for every output $(r, c)$,
#
# $$y_{r,c} = \max_{i,j \in \{0, 1\}} x_{2r+i,\, 2c+j}$$
#
# in each image and channel by itself. Written as loops:


# %%
def pool_loops(x):
    n, c, h, w = x.shape
    y = np.empty((n, c, h // 2, w // 2))
    for r in range(h // 2):
        for k in range(w // 2):
            y[:, :, r, k] = x[:, :, 2 * r : 2 * r + 2, 2 * k : 2 * k + 2].max(axis=(2, 3))
    return y


x = rng.permutation(36).reshape(1, 1, 6, 6).astype(float)
y, cache = ops.max_pool2d_forward(x, 2)
assert np.array_equal(y, pool_loops(x))

# %% [markdown]
# **Predict.** Only one of four inputs becomes an output. If one of the other three grows a little, what
# happens to $y$? What, then, is the gradient there?


# %% tags=["hide-input", "hide-output"] alt="A 6x6 map with the winners of its 2x2 windows in blue, the winners alone, their gradient, and the gradient sent back to the winners' places"
def grid_of_numbers(axis, values, colours, title):
    axis.imshow(colours, cmap="Blues", vmin=0, vmax=1.6)
    for (r, c), value in np.ndenumerate(values):
        axis.text(c, r, f"{value:g}", ha="center", va="center", fontsize=10)
    for edge in range(0, len(values) + 1, 2 if len(values) > 3 else 1):
        axis.axhline(edge - 0.5, color="black", linewidth=1)
        axis.axvline(edge - 0.5, color="black", linewidth=1)
    axis.set(title=title, xticks=[], yticks=[])


dy = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
dx = ops.max_pool2d_backward(dy, cache)
figure, axes = plt.subplots(1, 4, figsize=(8, 2.4))
grid_of_numbers(axes[0], x[0, 0], dx[0, 0] != 0, "x: winners in blue")
grid_of_numbers(axes[1], y[0, 0], np.ones((3, 3)), "y: the winners")
grid_of_numbers(axes[2], dy[0, 0], np.ones((3, 3)), "dy: its gradient")
grid_of_numbers(axes[3], dx[0, 0], dx[0, 0] != 0, "dx: to winners only")
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# Nothing happens to $y$, for the largest stays the largest. So the gradient of the other three is 0, and the
# winner, which $y$ copies, has slope 1.
#
# </details>
#
# The backward pass *routes*: each entry of $dy$ goes to the input that won its window.
#
# That is all there is to prove, except at a tie, where the maximum has a kink and no gradient. Random
# numbers have no ties, so the check may be strict:

# %%
random = rng.standard_normal((2, 3, 6, 4))
print(check_gradient(ops.max_pool2d_forward, ops.max_pool2d_backward, random, 2))

# %% [markdown]
# ### Why the largest, and not the mean?
#
# Take the map of conv1_1 that found Chelsea's eyes in the last notebook, and halve it five times.
#
# **Predict.** Where will you still see her eyes in the end: if you keep the largest of each four values, or
# if you keep their mean?

# %% tags=["hide-input", "hide-output"] alt="A map that is bright at the cat's eyes, pooled from 144x224 to 9x14: the largest keeps the eyes, the mean lets them fade"
figure, axes = plt.subplots(2, 5, figsize=(9, 2.9))
rows = {"largest": np.max, "mean": np.mean}
for line, (name, keep) in zip(axes, rows.items()):
    kept = maps["conv1_1"][36][:288, :448]  # sides that 32 divides
    for axis in line:
        kept = keep(kept.reshape(len(kept) // 2, 2, -1, 2), axis=(1, 3))
        axis.imshow(kept, vmin=0, vmax=maps["conv1_1"][36].max())
        axis.set(xticks=[], yticks=[])
        axis.set_xlabel("x".join(map(str, kept.shape)), fontsize=9)
    line[0].set_ylabel(name)
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# The largest value stays as bright as it was, wherever in its window it lies: the eyes survive all five halvings. The
# mean thins them out, each time a little more, until little is left. So the maximum asks "is there one,
# anywhere in this window?", and the mean asks "how much of it is there?".
#
# </details>
#
# ### Which input wins a tie?
#
# After a ReLU ties are common: whole windows are 0.
#
# **Predict.** A window of four zeros gets the gradient 1. Should each zero get 1, or a quarter, or one
# of them all of it?

# %% tags=["hide-output"]
flat = np.zeros((1, 1, 2, 2))
y, cache = ops.max_pool2d_forward(flat, 2)
routed = ops.max_pool2d_backward(np.ones_like(y), cache)
print(routed[0, 0])
assert routed.sum() == 1 and routed[0, 0, 0, 0] == 1

# %% [markdown]
# <details><summary>Answer</summary>
#
# Giving 1 to each zero would count the same gradient four times. The two other choices are both
# defensible. The package gives all of it to the first in reading order, as PyTorch does.
#
# </details>
#
# Where the zeros come from a ReLU, the choice does not matter. ReLU's own backward pass lets a gradient
# through where its output is above 0, and sends 0 back elsewhere:

# %%
after_relu = np.maximum(rng.standard_normal((4, 8, 32, 32)) - 1, 0)
y, cache = ops.max_pool2d_forward(after_relu, 2)
routed = ops.max_pool2d_backward(np.ones_like(y), cache)
print(f"windows of four zeros: {(y == 0).mean():.0%}")
through_relu = routed * (after_relu > 0)
assert through_relu.sum() == (y > 0).sum()  # 1 from every other window, and nothing from these

# %% [markdown]
# ### Windows that overlap
#
# AlexNet (Krizhevsky et al. 2012) pools 3x3 windows at stride 2. An input may then win several windows,
# and collects a gradient from each: contributions *add up*, as they did for columns in the backward pass
# of convolution.
#
# **Predict.** The map below is a hill of 7x7 with its summit at row 2, column 4. How many of the 3x3
# windows does the summit win?

# %% tags=["hide-output"]
hill = -((np.arange(7) - 2.0) ** 2)[:, None] - (np.arange(7) - 4.0) ** 2
y, cache = ops.max_pool2d_forward(hill[None, None], 3, stride=2)
routed = ops.max_pool2d_backward(np.ones_like(y), cache)
print(routed[0, 0])
assert routed[0, 0, 2, 4] == 4 and routed.sum() == y.size
overlapping = rng.standard_normal((2, 3, 7, 5))
print(check_gradient(ops.max_pool2d_forward, ops.max_pool2d_backward, overlapping, 3, stride=2))

# %% [markdown]
# <details><summary>Answer</summary>
#
# Four: row 2 belongs to two rows of windows, column 4 to two columns of them.
#
# </details>
#
# Here is the package's backward pass. Note what the cache holds: x and y, which a network has anyway,
# and no table of winners. A winner is found again as the first input of its window that equals y.
#
# To read it: `_taps` goes through the places in a window, in reading order, and gives for each the
# outputs and the inputs that meet there, as slices. `a > b` of two truth values means "a and not b".
# `hwnc` puts the axes in the order H, W, N, C, and `_bands` and `map_queue` share rows among threads.

# %%
show_source(ops.max_pool2d_backward)

# %% [markdown]
# ## Ceil or floor?
#
# Look at how Chelsea's maps shrink:

# %%
for name in ("conv1_2", "pool1", "pool2", "pool3", "pool4", "pool5"):
    print(f"{name:8}", *maps[name].shape)

# %% [markdown]
# 75 rows become 38: the last row has no partner, and yet it is not lost. Floor mode would drop it, and leave
# 37. Ceil mode lets the last window hang over the border. For windows of 2 at stride 2, $H$ rows become
#
# $$\left\lfloor \frac{H - 2}{2} \right\rfloor + 1 \quad\text{or}\quad
# \left\lceil \frac{H - 2}{2} \right\rceil + 1$$

# %%
for height in 6, 7, 349:
    floor, ceil = (pool_output_size(height, 2, 2, 0, mode) for mode in (False, True))
    print(f"{height:4} rows -> floor {floor:4}, ceil {ceil:4}")

# %% [markdown]
# Does a row more or less matter? In FCN-32s the first convolution, 3x3, pads the image by 100 on
# each side: $H$ rows become $H + 198$. Five poolings follow, and fc6, 7x7 without padding, takes 6 off.
# A transposed convolution (kernel 64, stride 32) makes $32 (h - 1) + 64$ rows of the $h$ that are left.
# Of these, 19 are skipped and the next $H$ cut out ([Upsampling](05_upsampling.ipynb) derives the 19).
#
# **Predict.** For an image of 500 rows, are there enough left with floor? With ceil?


# %% tags=["hide-output"]
def upscored(height, ceil_mode):
    rows = height + 2 * 100 - 2  # conv1_1; the other convolutions keep the size
    for _ in range(5):
        rows = pool_output_size(rows, 2, 2, 0, ceil_mode)
    return 32 * (rows - 6 - 1) + 64


print("floor:", upscored(500, False), " ceil:", upscored(500, True), " needed:", 19 + 500)
assert upscored(500, False) == 512 and upscored(500, True) == 544

# %% tags=["hide-input", "hide-output"] alt="Rows to spare over the image's height: with ceil always above zero, with floor below zero for many heights, 500 among them"
heights = np.arange(33, 601)
spare = {mode: np.array([upscored(h, mode) - h - 19 for h in heights]) for mode in (False, True)}
figure, axis = plt.subplots()
axis.plot(heights, spare[True], ".", color=BLUE, markersize=4, label="ceil")
axis.plot(heights, spare[False], ".", color=ORANGE, markersize=4, label="floor")
axis.plot(500, spare[False][heights == 500], "o", color=RED, label="500 rows, floor")
axis.axhline(0, color="black", linewidth=1)
axis.fill_between(heights, -35, 0, color="0.92")
axis.text(310, -20, "not enough rows to cut out", ha="center", fontsize=10)
axis.set(xlabel="rows of the image", ylabel="rows to spare", ylim=(-35, 72))
axis.set_title("With floor, many sizes end up short; with ceil, none")
axis.legend(frameon=False, ncols=3, loc="upper right")
plt.show()

short = (spare[False] < 0).mean()
print(f"sizes that floor mode breaks: {short:.0%}")
assert (spare[True] >= 0).all() and short > 0.3

# %% [markdown]
# <details><summary>Answer</summary>
#
# With floor there are 512 rows where 519 are needed: it cannot label an image of 500 rows, which is the longer
# side of most photographs in VOC. With ceil there are 544.
#
# </details>
#
# Caffe, for which the authors wrote FCN, pools in ceil mode; a port to a library
# that pools in floor mode by default must ask for the other.
#
# Halving five times and rounding up each time is the same as dividing by 32 and rounding up once. So
# ceil mode leaves $h = \lceil (H + 198) / 32 \rceil - 6$, and a transposed convolution makes
#
# $$32 (h - 1) + 64 \ge (H + 198) - 32 \cdot 7 + 64 = H + 38$$
#
# rows of it: at least 19 to spare at any size. Rounding down takes up to 31 from this, which is too much
# for 12 of every 32 sizes. The package's networks pool in ceil mode, and take every size:

# %%
net = FCN32s(2, width=1 / 64)
for size in (1, 1), (31, 64), (500, 375):
    assert net.forward(np.zeros((1, 3, *size), np.float32)).shape == (1, 2, *size)

# %% [markdown]
# ## How much does a unit see?
#
# The *receptive field* of a unit is the part of the image that it depends on. It grows layer by layer.
# Let $R$ be its size in pixels, and $s$ (the stride, or jump) the distance of neighbouring units in the
# image. A layer with a $k$-wide window at stride $t$ looks at $k$ units of the layer below. Each sees
# $R$ pixels, and the outermost of them are $(k - 1) s$ apart:
#
# $$R \leftarrow R + (k - 1)\, s, \qquad s \leftarrow s\, t$$
#
# starting with $R = s = 1$ for a pixel.
#
# **Predict.** Two 3x3 convolutions, then a 2x2 pooling at stride 2: how many pixels does a unit see?
# VGG16 goes on with blocks of 2, 3, 3 and 3 such convolutions, each with its pooling, and with fc6,
# which is 7x7. Guess: how many does a unit of fc6 see?

# %% tags=["hide-output"]
names, windows = [], []
for number, block in enumerate(VGG.blocks, 1):
    for conv in block.convs:
        names.append(conv.name)
        windows.append((conv.kernel, 1))
    names.append(f"pool{number}")
    windows.append((block.pool, 2))
names.append("fc6")
windows.append((VGG.fc6, 1))

fields = []
field, jump = 1, 1
for kernel, stride in windows:
    field += (kernel - 1) * jump
    jump *= stride
    fields.append(field)
sees = dict(zip(names, fields, strict=True))
print(
    {name: sees[name] for name in ("conv1_2", "pool1", "pool2", "pool3", "pool4", "pool5", "fc6")}
)
assert sees["pool1"] == 6 and sees["pool5"] == 212 and sees["fc6"] == 404

# %% tags=["hide-input", "hide-output"]
unit = np.array(np.unravel_index(maps["pool5"][EYES].argmax(), maps["pool5"][EYES].shape))
row, column = 32 * unit + 15.5  # where it lies in the photograph: see "Where does it look?"


def framed(side):
    """SVG: a frame of this side around the unit's place."""
    left, top = max(column - side / 2, 2), max(row - side / 2, 2)
    right, bottom = min(column + side / 2, 449), min(row + side / 2, 298)
    corner = f'x="{left:g}" y="{top:g}" width="{right - left:g}" height="{bottom - top:g}"'
    return f'<rect {corner} fill="none" stroke="#F0E442" stroke-width="3"/>'


captions = [f"A unit of {name} sees {side} by {side} pixels." for name, side in sees.items()]
pictures = [framed(side) for side in fields]
slider(pictures, captions, 451, 325, image_tile(cat, 0, 0, 451, 300))

# %% [markdown]
# The second output has a slider. With it you can watch the field grow, layer by layer, around the place where
# the map of the opening is brightest, until it is cut off by the edge of the photograph.

# %% tags=["hide-input", "hide-output"] alt="Receptive fields of VGG16's layers as bars, from 3 pixels at conv1_1 to 404 at fc6, with larger steps after each pooling"
figure, axis = plt.subplots(figsize=(8, 3.4))
colours = [
    ORANGE if name.startswith("pool") else GREEN if name == "fc6" else BLUE for name in names
]
axis.bar_label(axis.bar(names, fields, color=colours), fontsize=9)
axis.set(xlabel="layer", ylabel="pixels across", ylim=(0, 450))
axis.set_title("Receptive fields in VGG16: poolings (orange) make every later step larger")
axis.tick_params(axis="x", rotation=60)
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# After two convolutions and a pooling, 6. In the first block a convolution adds 2 pixels, in the fifth 32,
# and fc6 with its 7x7 window 192: 404 in all.
#
# </details>
#
# The convolutions are all 3x3; it is the poolings that make the steps grow. A unit of fc6 sees more than the
# height of Chelsea's photograph, and its neighbour looks 32 pixels further on. So its scores are good at
# *what* and coarse at *where*, the tension of which the paper speaks (Long et al. 2015, section 1).
#
# ### Measured
#
# A formula is easily off by one. The gradient knows better: a pixel lies in the receptive field of a unit if
# the unit's gradient with respect to it can be other than 0. We run the first blocks of VGG, with random
# weights and an eighth of the channels, on random images. Then we set the gradient of one unit (all its
# channels) to 1 and everything else to 0, and go backward to the image.


# %% tags=["hide-input"]
def random_weights(blocks, width=1 / 8, seed=0):
    draw = np.random.default_rng(seed)
    weights, channels = [], 3
    for block in blocks:
        for conv in block.convs:
            filters = VGG.scaled(conv.channels, width)
            scale = (2 / (9 * channels)) ** 0.5  # maps neither fade nor grow from layer to layer
            draws = draw.standard_normal((filters, channels, 3, 3)).astype(np.float32)
            weights.append((scale * draws, np.zeros(filters, np.float32)))
            channels = filters
    return weights


# %%
def forward(x, depth, weights):
    """The map after `depth` blocks, and what their backward passes need."""
    weights, caches = iter(weights), []
    for block in VGG.blocks[:depth]:
        for _ in block.convs:
            x, cache = ops.conv2d_forward(x, *next(weights), padding=1, relu=True)
            caches.append((ops.conv2d_backward, cache))
        x, cache = ops.max_pool2d_forward(x, 2, ceil_mode=True)
        caches.append((ops.max_pool2d_backward, cache))
    return x, caches


def backward(dx, caches):
    for step, cache in reversed(caches):
        dx = step(dx, cache)
        dx = dx[0] if isinstance(dx, tuple) else dx  # a convolution gives dx, dw and db
    return dx


def gradient_of_the_middle(x, depth, seed=0):
    """The gradient at x of the middle unit of the map after `depth` blocks, and its place."""
    y, caches = forward(x, depth, random_weights(VGG.blocks[:depth], seed=seed))
    middle = y.shape[2] // 2
    dy = np.zeros_like(y)
    dy[:, :, middle, middle] = 1
    return backward(dy, caches), middle


def rows_reached(dx):
    size = np.abs(dx).sum(axis=(0, 1, 3))
    return np.flatnonzero(size > 1e-5 * size.max())  # rounding may leave 1e-8 where 0 belongs


for depth in 1, 2, 3:
    images = np.random.default_rng(depth).standard_normal((8, 3, 96, 96)).astype(np.float32)
    dx, middle = gradient_of_the_middle(images, depth)
    rows = rows_reached(dx)
    print(f"pool{depth}: unit {middle} sees rows {rows[0]} to {rows[-1]}: {len(rows)} of them")
    assert len(rows) == rows[-1] - rows[0] + 1 == sees[f"pool{depth}"]

# %% [markdown]
# 6, 16 and 44, as computed. We take several images because a single one may leave holes: pooling routes
# to a single input, and ReLU stops what is not positive.
#
# ## Where does it look?
#
# The size of a field is one half of what you want to know about it, and its place is the other. Units of a
# map look at places that are $s$ pixels apart; where is the first, unit 0? Let $a$ be the centre of what it
# sees, in pixels. With padding $p$ the first window begins at unit $-p$ of the layer below, so its centre
# lies at unit $(k - 1)/2 - p$ of it:
#
# $$a \leftarrow a + \left(\frac{k - 1}{2} - p\right) s$$
#
# with the $s$ of the layer below, and $a = 0$ for a pixel. A 3x3 convolution with padding 1 moves
# nothing, a 2x2 pooling half a step. The package follows both through the layers, $s$ as `stride` and
# $a$ as `start`:

# %%
grids = VGG.grids(1)  # with padding 1 at the first layer, as in VGG; FCN pads by 100 there
for number, grid in enumerate(grids, 1):
    print(f"pool{number}: unit j lies at pixel {grid.stride} j + {grid.start}")

# %% [markdown]
# **Predict.** Unit 6 of pool3 lies at pixel $8 \cdot 6 + 3.5 = 51.5$. Its receptive field has 44 rows.
# Which rows are they? Compare with what was measured above.

# %% tags=["hide-output"]
# rows and middle are those of pool3, the last that we measured
print(f"unit {middle}: rows {rows[0]} to {rows[-1]}, centre {(rows[0] + rows[-1]) / 2}")
assert (rows[0] + rows[-1]) / 2 == grids[2].stride * middle + grids[2].start

# %% tags=["hide-input"] alt="Where the units of pool1 to pool5 lie above a row of 64 pixels: twice as far apart with each pooling"
figure, axis = plt.subplots(figsize=(8, 2.4))
axis.plot(np.arange(64), np.zeros(64), "|", color="0.5", markersize=8)
for number, grid in enumerate(grids, 1):
    places = np.arange(0, (64 - grid.start) / grid.stride) * grid.stride + grid.start
    axis.plot(places, np.full(len(places), number), "o", color=COLOURS[number % 8], markersize=5)
axis.set(xlabel="pixel", yticks=range(6), ylim=(-0.7, 5.7))
axis.set_yticklabels(["image", *(f"pool{n}" for n in range(1, 6))])
axis.set_title("Where units lie: further apart with each pooling, and half a step further in")
plt.show()

# %% [markdown]
# A step is one of the map below, so the moves double: 0.5, 1, 2, 4, 8. The starts are the reason for
# every crop in FCN: to put scores back where they belong, one must know where they were taken. With
# padding 100 each start is 99 less, and nothing else changes. [Upsampling](05_upsampling.ipynb) goes
# back the same way.
#
# ## What does it mostly see?
#
# **Predict.** A unit of pool4 can see 100x100 pixels. Does each of them count alike? Think of the number of
# paths that lead from a pixel to the unit.

# %% tags=["hide-output"]
total = np.zeros((144, 144))
for seed in range(4):
    images = np.random.default_rng(10 + seed).standard_normal((8, 3, 144, 144)).astype(np.float32)
    dx, middle = gradient_of_the_middle(images, 4, seed)
    total += np.abs(dx).sum(axis=(0, 1))
total /= total.sum()

profile = total.sum(axis=1)
place = grids[3].stride * middle + grids[3].start
low = int(place - (sees["pool4"] - 1) / 2)
high = low + sees["pool4"]
centre = (low + high) // 2
half = slice(centre - sees["pool4"] // 4, centre + sees["pool4"] // 4)
print(f"share of the gradient among the rows that it can see: {profile[low:high].sum():.3%}")
print(f"share of the gradient in the middle quarter of them: {total[half, half].sum():.0%}")

# %% tags=["hide-input", "hide-output"] alt="The mean size of the gradient at each pixel of a receptive field, and its profile by rows: a bell in the middle, almost nothing at the rim"
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
shown = left.imshow(total / total.max())
left.plot([low, high, high, low, low], [low, low, high, high, low], color="white", linewidth=1)
left.set(title="Mean size of the gradient,\nand the receptive field (white)")
left.set(xlabel="column", ylabel="row")
figure.colorbar(shown, ax=left, label="of the largest")
right.plot(profile, color=BLUE)
right.axvspan(low, high, color="0.92")
right.set(
    xlabel="row",
    ylabel="share of the gradient",
    title="By rows: a bell in\nthe receptive field (grey)",
)
plt.show()
assert total[half, half].sum() > 0.5 and profile[low:high].sum() > 0.9999

# %% [markdown]
# <details><summary>Answer</summary>
#
# No, it is a bell: from pixels in the middle many paths lead through the layers to the unit, from a corner
# just one. If all counted alike, the middle quarter of the area would hold 25% of the gradient; it holds
# most of it.
#
# </details>
#
# Luo et al. (2016, "Understanding the effective receptive field") show that the bell tends to a Gaussian
# and covers a small part of the receptive field. They also found that training widens it. So a receptive field
# of 404 pixels does not mean that 404 pixels are used.
#
# Now ask the unit that glowed at Chelsea's eye. It is one of 150 in its map, and has a receptive field of 212 pixels.
# Set its gradient to 1, and go back through all thirteen convolutions to the photograph.
#
# **Predict.** Where will the gradient be?

# %% tags=["hide-input", "hide-output"] alt="The cat with a frame around all that a unit can see, and her darkened but for where its gradient is: one eye and its surroundings"
kinds = "weight", "bias"
weights = [[vgg.params[f"{conv.name}.{kind}"] for kind in kinds] for conv in VGG.convs]
y, caches = forward(normalise(cat[None], vgg.preprocessing), 5, weights)
dy = np.zeros_like(y)
dy[0, EYES, unit[0], unit[1]] = 1
looked = np.abs(backward(dy, caches)).sum(axis=(0, 1))

figure, axes = plt.subplots(1, 2, figsize=(9, 3.1))
axes[0].imshow(cat)
strength = np.minimum(looked / np.percentile(looked, 99.5), 1)[..., None]
axes[1].imshow((0.25 + 0.75 * strength) * cat / 255)
axes[1].set_title("bright: where the gradient is")
axes[0].set_title("what the unit can see (frame)")
for axis in axes:
    corner = column - 106, row - 106
    axis.add_patch(plt.Rectangle(corner, 212, 212, fill=False, ec="white", lw=1.5))
    axis.set(xlim=(0, 450), ylim=(299, 0))
    axis.axis("off")
plt.show()
inside = looked[
    max(int(row) - 106, 0) : int(row) + 107, max(int(column) - 106, 0) : int(column) + 107
]
print(f"in the receptive field: {inside.sum() / looked.sum():.1%}")
near = looked[int(row) - 32 : int(row) + 33, int(column) - 32 : int(column) + 33]
print(f"in the 65x65 pixels in its middle, which is 9% of it: {near.sum() / looked.sum():.0%}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Most of it lies in the middle of the field: on the eye, and on the fur between the eye and the nose. So the
# unit depends on what it names, at the place that it stands for. The network was never asked *where* anything
# is, and it kept the answer all the same, only coarser.
#
# </details>
#
# ## Exercises
#
# ### Exercise 1: the backward pass of pooling
#
# For windows of k x k at stride s, in ceil mode, which may overlap, and of which the last may hang over the
# border: send each entry of dy to the first input in reading order that equals its window's maximum. Loops are
# fine.
#
# <details><summary>Hint 1</summary>
#
# Window (r, c) is `x[..., r * s : r * s + k, c * s : c * s + k]`. Where it hangs over the border, NumPy cuts the slice
# off by itself, and the winner is the largest of what is left.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `argmax` gives the first of equal values, counted in reading order, and `np.unravel_index` makes (row, column) of it,
# if you tell it the shape of *this* window. How many windows may one input win?
#
# </details>


# %% tags=["exercise"]
def route(dy, x, k, s):
    """dx, of x's shape (N, C, H, W), for dy (N, C, H_out, W_out)."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    for k, s, size in [(2, 2, (6, 4)), (3, 2, (7, 5)), (2, 2, (5, 7)), (3, 2, (6, 6))]:
        draws = np.random.default_rng(k).integers(-2, 3, (2, 3, *size))
        tied = np.maximum(draws, 0).astype(float)  # with many ties
        y_1, kept = ops.max_pool2d_forward(tied, k, stride=s, ceil_mode=True)
        dy_1 = np.random.default_rng(2).standard_normal(y_1.shape)
        answer, case = route(dy_1, tied, k, s), f"dx (k {k}, s {s}, x {size[0]}x{size[1]})"
        assert answer.shape == tied.shape, f"{case} has shape {answer.shape}, expected {tied.shape}"
        twice = "is it more than once where there are ties, or not at all where windows overlap?"
        assert np.isclose(answer.sum(), dy_1.sum()), f"{case}: each entry arrives once: {twice}"
        expect(answer, ops.max_pool2d_backward(dy_1, kept), f"{case}, first of equals")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def route(dy, x, k, s):
#     dx = np.zeros_like(x)
#     for n, channel, r, c in np.ndindex(dy.shape):
#         window = x[n, channel, r * s : r * s + k, c * s : c * s + k]
#         i, j = np.unravel_index(window.argmax(), window.shape)
#         dx[n, channel, r * s + i, c * s + j] += dy[n, channel, r, c]
#     return dx
# ```
#
# `+=`, since an input may win several windows. Windows at the border are smaller, so the shape of each must be
# looked up.
#
# </details>

# %% [markdown]
# ### Exercise 2: how many windows?
#
# Write the number of windows of size k at stride s with padding p (on both sides), in floor or ceil
# mode. One rule is easily forgotten: in ceil mode, a last window that would begin after the input's last
# row sees no input at all, and does not exist. The first window begins at row $-p$.
#
# <details><summary>Hint 1</summary>
#
# The first window begins at $-p$ and the last must end by $H + p$: so it can move by $H + 2 p - k$ in steps of s.
#
# </details>
# <details><summary>Hint 2</summary>
#
# In ceil mode round the number of steps up, then ask where the last window begins. `-(-a // b)` rounds up.
#
# </details>


# %% tags=["exercise"]
def windows_along(size, k, s, p, ceil_mode):
    """How many windows pooling takes along an axis of this size."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    cases = [
        (7, 2, 2, 0),
        (6, 2, 2, 0),
        (5, 3, 2, 0),
        (6, 3, 2, 1),
        (7, 2, 3, 1),
        (1, 2, 2, 1),
        (9, 3, 4, 1),
    ]
    for case in cases:
        for mode in False, True:
            found, right = windows_along(*case, mode), pool_output_size(*case, mode)
            words = f"(size, k, s, p) = {case}, {'ceil' if mode else 'floor'} mode"
            assert found == right, f"{words}: {found}, expected {right}"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def windows_along(size, k, s, p, ceil_mode):
#     room = size + 2 * p - k
#     count = (-(-room // s) if ceil_mode else room // s) + 1
#     if ceil_mode and (count - 1) * s >= size + p:
#         count -= 1
#     return count
# ```
#
# Only a stride larger than the kernel, or a padding, makes the last line necessary.
#
# </details>

# %% [markdown]
# ### Exercise 3: what a unit sees, and where
#
# A kernel with dilation d has its taps d units apart. Extend both recursions to it, and say for a stack of layers what
# unit 0 sees: how many pixels across, and where their centre lies, along with the distance of units in pixels.
#
# <details><summary>Hint 1</summary>
#
# How many units of the layer below does the kernel span from its first tap to its last? Without dilation, it was k - 1.
#
# </details>
# <details><summary>Hint 2</summary>
#
# The centre lies half of this span further than the first tap, and the first tap lies on unit $-p$. Which stride turns
# both into pixels: the one before the layer, or the one after it?
#
# </details>


# %% tags=["exercise"]
def receptive_field(layers):
    """(pixels across, stride, centre) after layers of (kernel, stride, padding, dilation)."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    vgg_layers = []
    for block in VGG.blocks:
        vgg_layers += [(3, 1, 1, 1)] * len(block.convs) + [(2, 2, 0, 1)]
    for name, layers, right in [
        ("no layer: a pixel", [], (1, 1, 0)),
        ("two 3x3 convolutions and a pooling", vgg_layers[:3], (6, 2, 0.5)),
        ("VGG16 and fc6", [*vgg_layers, (7, 1, 0, 1)], (404, 32, 111.5)),
        ("with dilation", [(3, 2, 1, 1), (3, 1, 2, 2), (5, 2, 0, 3)], (35, 4, 12)),
    ]:
        found = receptive_field(layers)
        for what, one, other in zip(("pixels across", "stride", "centre"), found, right):
            assert one == other, f"{name}: {what} {one}, expected {other}"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def receptive_field(layers):
#     field, jump, start = 1, 1, 0
#     for kernel, stride, padding, dilation in layers:
#         span = (kernel - 1) * dilation
#         field += span * jump
#         start += (span / 2 - padding) * jump
#         jump *= stride
#     return field, jump, start
# ```
#
# Dilation widens a layer's reach without a new weight and without losing resolution: it is the other way to a large
# receptive field, without pooling (Yu and Koltun, 2016).
#
# </details>

# %% [markdown]
# ### Exercise 4: average pooling
#
# The mean of each window in place of its maximum, for k x k windows at stride s, which may overlap or leave
# gaps. Write the backward pass. The windows all lie within x, and rows at its end may belong to none.
#
# <details><summary>Hint 1</summary>
#
# $y = \frac{1}{k^2} \sum x$ over a window: by how much does y grow if one of the inputs grows by 1?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Each entry of dy gives that share to all inputs of its window. You can loop over the windows, or over the
# $k^2$ places in a window, as im2col does, and add to all windows at once.
#
# </details>


# %% tags=["exercise"]
def average_backward(dy, shape, k, s):
    """dx of this shape (N, C, H, W) for dy, the gradient at the windows' means."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng_4 = np.random.default_rng(4)
    for k, s, size in [(3, 3, (6, 9)), (2, 2, (5, 6)), (3, 2, (7, 8)), (2, 3, (8, 7))]:
        dy_4 = rng_4.standard_normal((2, 2, (size[0] - k) // s + 1, (size[1] - k) // s + 1))
        mean = np.zeros((2, 2, k, k))  # the same as a convolution of each channel by itself
        mean[[0, 1], [0, 1]] = 1 / k**2
        right = ops.conv2d_backward(
            dy_4, ops.conv2d_forward(np.zeros((2, 2, *size)), mean, stride=s)[1]
        )
        case = f"dx (k {k}, s {s}, x {size[0]}x{size[1]})"
        found = average_backward(dy_4, (2, 2, *size), k, s)
        expect(found, right[0], case, **{"k": k, "k squared": k**2})

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def average_backward(dy, shape, k, s):
#     dx = np.zeros(shape)
#     h, w = dy.shape[2:]
#     for i in range(k):
#         for j in range(k):
#             dx[:, :, i : i + s * h : s, j : j + s * w : s] += dy / k**2
#     return dx
# ```
#
# It is col2im with equal weights. Average pooling is a convolution, with a kernel that nobody needs to learn.
#
# </details>

# %% [markdown]
# Ten rows and fifteen columns are left of the photograph, and a classifier wants a single answer. Why that
# difference is only one of notation, you see in [Fully connected is convolution](04_fully_connected.ipynb).
