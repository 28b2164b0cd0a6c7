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
# # 4. Fully connected is convolution
#
# Somebody has cut 23 squares out of three photographs, of Chelsea, of an astronaut and of a cup, and added their mirror images.
# With each of the 46 comes one word, "cat", "person", "cup" or "neither", and nothing else. From these a classifier has learned
# to say one of the four words for a square of 224x224 pixels. Nobody has ever told it *where* anything is.
#
# And then it was asked, about the picture below, "where?"

# %% tags=["setup", "hide-input"]
import os
from math import prod
from time import process_time

import numpy as np
from PIL import Image, ImageOps

from tinyfcn import ops
from tinyfcn.backend import describe_device
from tinyfcn.data import normalise
from tinyfcn.gradcheck import check_gradient
from tinyfcn.lesson import (
    BLUE,
    ORANGE,
    RED,
    attempt,
    expect,
    labelled,
    photograph,
    plt,
    show_source,
    vgg16,
)
from tinyfcn.models import VGG16, CaffeNet, FCN32s
from tinyfcn.models.classifier import Classifier
from tinyfcn.models.vgg import VGG
from tinyfcn.optim import SGD, Adam

rng = np.random.default_rng(0)

# %% tags=["hide-input"]
VGG16_FILE = os.environ.get("TINYFCN_VGG16", "vgg16_notop.h5")  # VGG16's weights: see README.md
vgg = vgg16(VGG16_FILE)
CHELSEA, ASTRONAUT, COFFEE = "chelsea", "astronaut", "coffee"
SQUARES = {  # for each word, where it is cut out: photograph, left, top, side
    "cat": [
        (CHELSEA, 40, 0, 300), (CHELSEA, 0, 0, 240), (CHELSEA, 100, 40, 260),
        (CHELSEA, 150, 80, 220), (CHELSEA, 60, 60, 220),
    ],
    "person": [
        (ASTRONAUT, 0, 0, 480), (ASTRONAUT, 60, 0, 300), (ASTRONAUT, 100, 0, 220),
        (ASTRONAUT, 20, 150, 330), (ASTRONAUT, 120, 20, 180),
    ],
    "cup": [
        (COFFEE, 60, 0, 320), (COFFEE, 100, 0, 240), (COFFEE, 120, 0, 200),
        (COFFEE, 60, 80, 240), (COFFEE, 180, 20, 220),
    ],
    "neither": [
        (ASTRONAUT, 320, 0, 160), (ASTRONAUT, 0, 0, 100), (ASTRONAUT, 360, 100, 120),
        (COFFEE, 0, 220, 100), (COFFEE, 380, 0, 100), (COFFEE, 360, 200, 120),
        (CHELSEA, 370, 0, 81), (CHELSEA, 360, 180, 91),
    ],
}
CLASSES = list(SQUARES)


def open_photograph(name):
    return Image.fromarray(photograph(name))


def square(name, left, top, side):
    """A square of a photograph, at 224x224 pixels."""
    box = (left, top, left + side, top + side)
    return np.asarray(open_photograph(name).crop(box).resize((224, 224), Image.Resampling.BILINEAR))


def pool5(images):
    """What VGG16's convolutions make of images (N, H, W, 3) uint8: (N, 512, h, w)."""
    x = normalise(images, vgg.preprocessing)
    vgg.start(x, training=False)
    return VGG.forward(vgg, x, first_padding=1)[-1]


def train(features, labels, steps=60):
    """A fully connected layer, (weight, bias), that tells the words from pool5 (N, 512, 7, 7)."""
    flat = features.reshape(len(features), -1)  # (N, 25088): channel by channel, row by row
    scale = np.sqrt((flat**2).mean())  # so that the learning rate fits any convolutions
    params = {
        "fc.weight": np.zeros((len(CLASSES), flat.shape[1]), np.float32),
        "fc.bias": np.zeros(len(CLASSES), np.float32),
    }
    optimiser = Adam(1e-4)
    for _ in range(steps):
        scores, cache = ops.linear_forward(flat / scale, *params.values())
        _, loss_cache = ops.softmax_cross_entropy_forward(scores, labels)
        dscores = ops.softmax_cross_entropy_backward(1.0, loss_cache)
        _, dweight, dbias = ops.linear_backward(dscores, cache)
        optimiser.step(params, {"fc.weight": dweight, "fc.bias": dbias})
    return params["fc.weight"] / scale, params["fc.bias"]


cut = [(square(*place), number) for number, word in enumerate(CLASSES) for place in SQUARES[word]]
cut += [(np.ascontiguousarray(picture[:, ::-1]), number) for picture, number in cut]  # mirrored
pictures, numbers = (np.array(each) for each in zip(*cut))
features = np.concatenate([pool5(pictures[i : i + 8]) for i in range(0, len(pictures), 8)])
weight, bias = train(features, numbers)
right = (features.reshape(len(features), -1) @ weight.T + bias).argmax(axis=1) == numbers
print(f"{right.sum()} of {len(right)} squares get their word")
assert right.all()

# %% tags=["hide-input"] alt="Four photographs in one picture, and three heat maps over it: cat is bright on the cat, person on both people, cup on the cup"
def fit(name, width):
    image = ImageOps.fit(open_photograph(name), (width, 384), centering=(0.5, 0.2))
    return np.asarray(image)


scene = np.vstack(
    [
        np.hstack([fit(CHELSEA, 576), fit("grace_hopper", 384)]),
        np.hstack([fit(ASTRONAUT, 384), fit(COFFEE, 576)]),
    ]
)
scene_features = pool5(scene[None])
score_map = ops.conv2d_forward(scene_features, weight.reshape(-1, 512, 7, 7), bias)[0][0]


def probabilities(scores):
    e = np.exp(scores - scores.max(axis=0))
    return e / e.sum(axis=0)


def show_heat(axis, heat, picture):
    """A heat map over a picture, each score on the pixels around the middle of its crop."""
    h, w = heat.shape
    axis.imshow(picture)
    extent = (95.5, 95.5 + 32 * w, 95.5 + 32 * h, 95.5)
    seen = axis.imshow(heat, extent=extent, alpha=0.6, vmin=0, vmax=1, cmap="magma")
    axis.set(xlim=(0, picture.shape[1]), ylim=(picture.shape[0], 0), xticks=[], yticks=[])
    return seen


figure, axes = plt.subplots(2, 2, figsize=(8, 6.4))
axes[0, 0].imshow(scene)
axes[0, 0].set(xticks=[], yticks=[], title="the picture")
for axis, word, heat in zip(axes.ravel()[1:], CLASSES, probabilities(score_map)):
    seen = show_heat(axis, heat, scene)
    axis.set_title(word)
figure.colorbar(seen, ax=axes, label="probability", shrink=0.6)
plt.show()

# %% [markdown]
# It points at the cat's face, at the cup, at the astronaut, and, with less conviction, at the face of Grace Hopper, whom it
# has never seen before: "person" it had to learn from an astronaut alone. No weight was changed for this, and no new one was
# added. All of it took one pass over the picture. How does a layer that multiplies 25,088 numbers by a matrix come to answer
# in a map?
#
# (What it is, in all honesty: VGG16's published convolutions, which learned from a million photographs, with one layer on top
# that knows three photographs by heart. Recognising them again is no feat. *Pointing* at what is in them is what this notebook
# is about, and Grace Hopper is the only test of anything more.)
#
# Takes about 50 minutes. It builds on [Convolution](02_convolution.ipynb) and [Pooling](03_pooling.ipynb).
#
# ## One unit
#
# The last map of VGG16, pool5, is 512 channels of 7x7 for an image of 224x224. A classifier flattens it to 25088 numbers,
# channel by channel and each channel row by row, and multiplies them by a matrix: ours by one of 4 x 25088, VGG16's own fc6 by
# one of 4096 x 25088.
#
# Look at one unit of a small layer of this kind, for a map of 2 channels of 3x3. Its row of the matrix has 18 weights.

# %%
x = rng.standard_normal((1, 2, 3, 3))  # (N, C, H, W)
row = rng.standard_normal(18)
y = row @ x.reshape(18)
print(f"{y:.4f}")

# %% [markdown]
# **Predict.** You give the 18 weights the map's shape, (2, 3, 3). What is the sum of the products, entry by entry?

# %% tags=["hide-output"]
kernel = row.reshape(2, 3, 3)
print(f"{(kernel * x[0]).sum():.4f}")
assert np.isclose((kernel * x[0]).sum(), y)

# %% tags=["hide-input"] alt="A unit's row of 18 weights, cut after each channel and after each row: two 3x3 kernels"
figure, axes = plt.subplots(1, 3, figsize=(8, 1.9), width_ratios=[9, 2, 2])
limit = 1.8 * abs(row).max()
for axis, values, title in (
    (axes[0], row[None], "the unit's row: 18 weights"),
    (axes[1], kernel[0], "channel 0"),
    (axes[2], kernel[1], "channel 1"),
):
    axis.imshow(values, cmap="PuOr", vmin=-limit, vmax=limit)
    for (r, c), _ in np.ndenumerate(values):
        order = c if len(values) == 1 else 9 * (axis is axes[2]) + 3 * r + c
        axis.text(c, r, order, ha="center", va="center", fontsize=9)
    axis.set_title(title, fontsize=10)
    axis.set_xticks([])
    axis.set_yticks([])
axes[0].set_xlabel("colour: the weight; number: its place in the row")
axes[1].set_xlabel("the kernel")
axes[2].set_xlabel("the kernel")
figure.suptitle("Cut after each channel, then after each row: a kernel", fontsize=11)
plt.show()

# %% [markdown]
# A dot product adds products, and does not ask in which shape the numbers stand. All that matters is that each weight still
# meets its own input. Both are flattened in the same order, channel, row, column, so `reshape` puts them in the same places.
#
# And the sum of products of a window and a kernel is what a convolution computes at one place
# ([Convolution](02_convolution.ipynb)). So this unit *is* a convolution, with a kernel that covers the whole map: it fits in
# one place only, and gives a map of 1x1.
#
# ## All units
#
# A fully connected layer is a matrix with a row for each unit; a convolution's weight has a kernel for each output channel. For
# fc6 that is (4096, 25088) and (4096, 512, 7, 7), the same 102,760,448 numbers, and `Network.load` does nothing more than this
# `reshape` when an FCN takes over a classifier's weights. Ours has 4 rows:

# %%
connected, _ = ops.linear_forward(features.reshape(len(features), -1), weight, bias)
convolved, _ = ops.conv2d_forward(features, weight.reshape(4, 512, 7, 7), bias)

print(connected.shape, convolved.shape)
assert np.allclose(convolved[:, :, 0, 0], connected, rtol=0, atol=1e-3 * abs(connected).max())
assert 4096 * 25088 == 4096 * 512 * 7 * 7 == 102_760_448

# %% [markdown]
# **Predict.** Some libraries keep channels last: they flatten (7, 7, 512), row, column, channel. What happens to their weights
# under the `reshape` above? Is there an error?

# %% tags=["hide-output"]
theirs = weight.reshape(4, 512, 7, 7).transpose(0, 2, 3, 1).reshape(4, -1)
flat = features.transpose(0, 2, 3, 1).reshape(len(features), -1)  # (N, H W C)
their_answer, _ = ops.linear_forward(flat, theirs, bias)
assert np.allclose(their_answer, connected, rtol=0, atol=1e-3 * abs(connected).max())

wrong, _ = ops.conv2d_forward(features, theirs.reshape(4, 512, 7, 7), bias)
right = (wrong[:, :, 0, 0].argmax(axis=1) == numbers).mean()
print(f"{right:.0%} of the squares get their word, of the 100% before")

# %% [markdown]
# <details><summary>What happens?</summary>
#
# There is no error, as the shapes fit. But every weight meets another input, and the answers have little to do with the right
# ones. This is why a file from Keras needs its fc6 put in order before it is used (`python -m tinyfcn.convert` does). You will
# write that in exercise 4.
#
# </details>
#
# ## A larger map
#
# A matrix of 4 x 25088 takes 25,088 numbers and no others. A kernel of 7x7 goes over any map that is at least 7x7.
#
# **Predict.** The picture at the top has 768x960 pixels, which leaves a map of 24x30 on pool5. What shape does the answer
# have, and what is its entry at row 2, column 4?

# %% tags=["hide-output"]
kernels = weight.reshape(4, 512, 7, 7)
heat, _ = ops.conv2d_forward(scene_features, kernels, bias)
print(heat.shape)
for r, c in (0, 0), (2, 4), (17, 23):
    window = scene_features[:, :, r : r + 7, c : c + 7]
    one, _ = ops.linear_forward(window.reshape(1, -1), weight, bias)
    assert np.allclose(one[0], heat[0, :, r, c], rtol=0, atol=1e-3 * abs(heat).max())

# %% [markdown]
# <details><summary>Answer</summary>
#
# (1, 4, 18, 24): each of the 18 x 24 places holds the fully connected layer's answer for its own window of 7x7 units. The entry
# at row 2, column 4 is that for the window which begins there.
#
# </details>
#
# That was the whole trick, and the heat maps above are these numbers, with a softmax over the four words at each place.
#
# ## What is a 1x1 convolution?
#
# VGG16 has two more such layers. fc7 sees the 4096 outputs of fc6 at *one* place, so that as a convolution its kernel is 1x1.
# There is no neighbourhood in it: at every place, the vector of channels is multiplied by the same matrix.
#
# $$y[n, o, r, c] = b[o] + \sum_k w[o, k]\, x[n, k, r, c]$$
#
# It is a fully connected layer, and every place of every image is one example to it.

# %%
x = rng.standard_normal((2, 5, 3, 4))
w, b = rng.standard_normal((6, 5)), rng.standard_normal(6)

places = x.transpose(0, 2, 3, 1).reshape(-1, 5)  # (N H W, C): a row for each place of each image
rows, _ = ops.linear_forward(places, w, b)
y, cache = ops.conv2d_forward(x, w[:, :, None, None], b)
assert np.allclose(rows.reshape(2, 3, 4, 6).transpose(0, 3, 1, 2), y)

# %% [markdown]
# **Predict.** A fully connected layer has $dW = dy^T x$, summed over the examples of a batch. What is summed over here?

# %% tags=["hide-output"]
dy = rng.standard_normal(y.shape)
dx, dweight, dbias = ops.conv2d_backward(dy, cache)

dy_rows = dy.transpose(0, 2, 3, 1).reshape(-1, 6)
assert np.allclose(dweight[:, :, 0, 0], dy_rows.T @ places)
assert np.allclose(dbias, dy_rows.sum(axis=0))
assert np.allclose(dx, (dy_rows @ w).reshape(2, 3, 4, 5).transpose(0, 3, 1, 2))
print("dweight sums over", len(dy_rows), "examples")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Over images *and places*: here 2 x 3 x 4. An image with 16x16 scores is a batch of 256 examples for fc7 and for the score
# layer, which is why an FCN makes do with few images a step: the paper takes 20, and its authors later took one.
#
# </details>
#
# ## A classifier on an image of any size
#
# Here is the whole step in the package, first the classifier, then the same weights as convolutions:

# %% tags=["hide-input"]
show_source(Classifier.forward, Classifier.score_map)

# %% [markdown]
# For shapes and equalities a VGG16 at a thirty-second of its width will do, with random weights.

# %%
thin = VGG16(num_classes=10, width=1 / 32, dtype=np.float64)
image = rng.standard_normal((1, 3, 224, 224))

assert np.allclose(thin.score_map(image)[:, :, 0, 0], thin.forward(image))

try:
    thin.forward(rng.standard_normal((1, 3, 320, 416)))
except ValueError as error:
    print(error)

# %% [markdown]
# **Predict.** VGG16 halves the map five times, and fc6 takes 7 units of what is left. How many scores does an image of 320x416
# get?

# %% tags=["hide-output"]
print(thin.score_map(rng.standard_normal((1, 3, 320, 416))).shape)
print(VGG16.backbone.map_sizes(first_padding=1, fc6_padding=0, side=416))

# %% [markdown]
# <details><summary>Answer</summary>
#
# 320 / 32 = 10 units, and a window of 7 has 4 places among them; 416 / 32 = 13, and 7 places. That is one score every 32
# pixels, and each of them the verdict on a crop of 224x224.
#
# </details>
#
# ## The heat map keeps position
#
# Back to the photographs. Here is how the classifier was trained: the squares went through VGG16's convolutions once, and on
# what came out a single fully connected layer learned, by a plain loop of forward, loss, backward, step. (The loss and its
# gradient are the subject of [notebook 6](06_loss.ipynb), and the loop is that of [notebook 9](09_training.ipynb).)

# %% tags=["hide-input"]
show_source(train)

# %% [markdown]
# In this loop there are crops and words, and no coordinate anywhere. Position comes for free: the same kernel is at work at
# every place, so its answer for an object appears wherever the object is.
#
# **Predict.** You take the upper left of the picture, 544x640 pixels, and then the same window 32 columns further to the right.
# What becomes of the heat map? And with 16 columns?

# %% tags=["hide-output"]
maps = {
    left: ops.conv2d_forward(pool5(scene[None, :544, left : left + 640]), kernels, bias)[0][0]
    for left in (0, 32, 16)
}
inner = np.s_[:, 3:-3, 3:-3]  # away from the borders
change32, change16 = (abs(maps[k][:, :, :-1] - maps[0][:, :, 1:])[inner].max() for k in (32, 16))
largest = abs(maps[0]).max()
print(f"scores reach {largest:.1f}")
print(f"they differ by {change32:.1e} after 32 columns, by {change16:.1f} after 16")
assert change32 < 1e-3 * largest < change16

# %% [markdown]
# <details><summary>Answer</summary>
#
# 32 pixels are exactly one place, and the scores are the same numbers, one place further to the left. 16 pixels are half a
# place: each score now belongs to a crop that the first map did not have, and is another number. A network of stride 32 follows
# its image exactly only in steps of 32, and in between roughly.
#
# </details>
#
# ## One place, and its crop
#
# So score (r, c) is the classifier's answer for the crop that begins at pixel (32 r, 32 c). Is it, exactly?
#
# **Predict.** You cut crops out of the picture, along a line through the cat's eyes, and give each to the classifier alone. Are
# these the numbers of the map?

# %% tags=["hide-output"]
r, columns = 2, np.arange(0, 24, 2)
crops = np.stack([scene[32 * r : 32 * r + 224, 32 * c : 32 * c + 224] for c in columns])
one_by_one = (pool5(crops).reshape(len(crops), -1) @ weight.T + bias).T  # (words, crops)
one_pass = score_map[:, r, columns]
difference = abs(one_pass - one_by_one)
same = (one_pass.argmax(axis=0) == one_by_one.argmax(axis=0)).mean()
print(f"mean difference {difference.mean():.2f}, where scores have {abs(one_pass).mean():.2f}")
print(f"the same word wins in {same:.0%} of the places")
assert difference.min() > 0

# %% tags=["hide-input", "hide-output"] alt="The score of cat along the picture, in one pass and for each crop alone: two curves of the same shape, some distance apart"
figure, axis = plt.subplots(figsize=(8, 2.8))
axis.plot(32 * columns + 111.5, one_pass[0], "o-", color=BLUE, label="one pass over the picture")
axis.plot(32 * columns + 111.5, one_by_one[0], "s--", color=ORANGE, label="each crop alone")
axis.set(xlabel="column of the crop's middle (pixels)", ylabel='score of "cat"')
axis.set_title("Alike, and not equal")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# Nearly, but not exactly. The reason stands in every convolution: `padding=1`. At the crop's border the classifier sees zeros.
# In the picture, at the same place, there is more picture.
#
# You can check that this is the only reason. If it is, then
#
# 1. kernels that look at nothing but their middle pixel leave no difference at all;
# 2. a crop with enough of its surroundings gives the map's number exactly.

# %%
blind = VGG16(num_classes=3, width=1 / 32, dtype=np.float64)
for name, values in blind.params.items():
    if name.startswith("conv") and name.endswith("weight"):
        middle = abs(values[:, :, 1, 1])  # no negative weights, so that not all ReLUs say 0
        values[...] = 0
        values[:, :, 1, 1] = middle
x = normalise(scene[None, :320, :416], "torchvision").astype(np.float64)
alone = blind.forward(np.ascontiguousarray(x[:, :, 64:288, 96:320]))[0]
assert np.allclose(blind.score_map(x)[0, :, 2, 3], alone)  # (1)

# %% [markdown]
# For (2) you need to know how far the zeros reach. Count the receptive field as in [notebook 3](03_pooling.ipynb): a kernel of
# $k$ adds $k - 1$ steps of as many pixels as the stride so far.

# %%
field, stride = 1, 1
for convolutions in (2, 2, 3, 3, 3):
    field += 2 * stride * convolutions + stride  # 3x3 convolutions, and a pooling of 2x2
    stride *= 2
field += 6 * 32  # the kernel of 7x7
print(f"a score sees {field} pixels: {(field - 224) / 2:.0f} more on each side than its crop")
assert field == 404

r, c, margin = 3, 4, 96
window = np.s_[32 * r - margin : 32 * r + 224 + margin, 32 * c - margin : 32 * c + 224 + margin]
in_context, _ = ops.conv2d_forward(pool5(scene[window][None]), kernels, bias)
print("in the picture:  ", score_map[:, r, c].round(3))
print("with a margin:   ", in_context[0, :, 3, 3].round(3))  # which begins 3 places earlier
assert np.allclose(in_context[0, :, 3, 3], score_map[:, r, c], atol=1e-3 * abs(score_map).max())

# %% [markdown]
# With 96 pixels of its surroundings the crop gives the map's numbers, up to rounding. So the map is not an approximation of the
# classifier on crops: it is the classifier where every place sees its true neighbours.
#
# The picture's own border remains, where the map sees zeros, too. This will matter for FCN's padding of 100, in the [next
# notebook](05_upsampling.ipynb#Why-pad-by-100?).
#
# ## How much does it save?
#
# The paper (section 3.1) gives an example: AlexNet takes 1.2 ms for a crop (of a batch), and the fully convolutional net 22 ms
# for a grid of 10x10 scores of an image of 500x500, which is more than five times faster than 100 crops.
#
# CaffeNet is this AlexNet with its two groups, and the package has it. Time it at its full width, with random weights.

# %%
caffe = CaffeNet(1000)
big = rng.standard_normal((1, 3, 500, 500), np.float32)
batch = rng.standard_normal((20, 3, 227, 227), np.float32)
assert caffe.score_map(big).shape == (1, 1000, 10, 10)



def work(call, repeats=4):
    """Seconds of the processors' time, whatever else they have to do: the least of some calls."""
    times = []
    for _ in range(repeats):
        started = process_time()
        call()
        times.append(process_time() - started)
    return min(times)


t_map, t_crop = work(lambda: caffe.score_map(big)), work(lambda: caffe.forward(batch)) / 20
saved = 100 * t_crop / t_map
print(describe_device(np))
print(f"10x10 scores at once take {t_map:.2f} s, 100 crops {100 * t_crop:.2f} s:", end=" ")
print(f"{saved:.1f} times as much; in the paper, on a GPU, {100 * 1.2 / 22:.1f} times")
caffe = None  # its 61 million weights are not needed any more

# %% [markdown]
# Where does it come from? Neighbouring crops overlap: at 32 pixels from one to the next, a crop of 224 shares 192 columns with
# its neighbour. A pixel in the middle of the image lies in $7 \times 7 = 49$ crops, and the classifier computes its features 49
# times. The map computes them once.

# %% tags=["hide-input"] alt="How many of 10x10 crops contain each pixel: few at the border, more than forty in the middle; one crop is framed"
count = np.zeros((224 + 32 * 9,) * 2, int)
for r, c in np.ndindex(10, 10):
    count[32 * r : 32 * r + 224, 32 * c : 32 * c + 224] += 1
assert count.max() == 49
figure, axis = plt.subplots(figsize=(5, 3.6))
figure.colorbar(axis.imshow(count), label="crops that contain the pixel")
axis.add_patch(plt.Rectangle((96, 128), 224, 224, fill=False, edgecolor=RED, linewidth=2))
axis.set(xlabel="pixel", ylabel="pixel")
axis.set_title(f"10x10 crops of 224x224 (one in red):\na pixel is in {count.mean():.0f} on average")
plt.show()

# %% [markdown]
# You can count instead of measuring. A convolution multiplies each weight once for each place of its output. fc6, fc7 and fc8
# are different: each crop has its own 7x7 window and its own answer, so there is nothing to share.

# %%
def multiplications(kind, side):
    """Of one score map of an image of side x side: (convolutions, fully connected layers)."""
    weights, backbone = kind.shapes(1000, 1.0), kind.backbone
    sizes = backbone.map_sizes(backbone.convs[0].padding, 0, side)
    convs = sum(prod(weights[f"{c.name}.weight"]) * sizes[c.name] ** 2 for c in backbone.convs)
    return convs, sum(prod(weights[f"fc{k}.weight"]) for k in (6, 7, 8)) * sizes["fc6"] ** 2


for kind, side in (CaffeNet, 227), (VGG16, 224):
    convs, fc = multiplications(kind, side)
    ratio = 100 * (convs + fc) / sum(multiplications(kind, side + 9 * 32))
    print(f"{kind.__name__}: a crop takes {convs / 1e6:.0f} + {fc / 1e6:.0f} million,", end=" ")
    print(f"100 crops {ratio:.1f} times one map")

# %% [markdown]
# VGG16's fully connected layers multiply twice as much as CaffeNet's, its convolutions 23 times as much, and the convolutions
# are where the saving is.
#
# **Predict.** How does the ratio go on as the grid grows? Is there a limit?

# %% tags=["hide-input", "hide-output"] alt="What one pass saves over the number of scores: it rises to a limit, for VGG16 about 35 and for CaffeNet about 10, measurements beside it"
figure, axis = plt.subplots(figsize=(8, 3.6))
ns = np.arange(1, 41)
for kind, side, colour in (VGG16, 224, BLUE), (CaffeNet, 227, ORANGE):
    one = sum(multiplications(kind, side))
    maps = [sum(multiplications(kind, side + 32 * (n - 1))) for n in map(int, ns)]
    axis.plot(ns, ns**2 * one / maps, color=colour, label=f"{kind.__name__}: multiplications")
    convs, fc = multiplications(kind, side)
    limit = (convs + fc) / (convs * (32 / side) ** 2 + fc)
    axis.axhline(limit, color=colour, linestyle=":", linewidth=1)
axis.plot([10], [saved], "o", color=ORANGE, label="CaffeNet: time, measured here")
axis.plot([10], [120 / 22], "D", color=RED, label="AlexNet: time, from the paper")
axis.set(xlabel="scores vertically and horizontally", ylabel="all crops / one map")
axis.set(xlim=(0, 40), ylim=(0, 56), title="The larger the grid, the more one pass saves")
axis.legend(frameon=False, loc="upper left", ncols=2)
plt.show()

# %% [markdown]
# <details><summary>Is there a limit?</summary>
#
# The ratio grows towards a limit (dotted). With many places, each costs the convolutions of 32x32 new pixels and one run of fc6
# to fc8. So the limit is
#
# $$\frac{C + F}{C \cdot (32 / 224)^2 + F}$$
#
# for $C$ multiplications in a crop's convolutions and $F$ in its fully connected layers (CaffeNet: 227 for 224). It is near
# $(224/32)^2 = 49$ where $F$ is small. (A measured time need not lie on the count: the crops were timed in batches, the image
# alone, and a count of multiplications is not yet a time.)
#
# </details>
#
# For training it is the same: one pass over an image is a batch of all its crops (section 3.4 of the paper).
#
# ## Why is the score layer zero-initialised?
#
# The classifier's last layer, fc8, knows ImageNet's 1000 classes. FCN drops it and puts a 1x1 convolution to its own 21 classes
# in its place, the score layer, with all weights and biases 0. The paper found that random weights did not do better, nor
# converge faster (section 4.3).
#
# Would a layer of zeros not stop learning? All its outputs are equal, and $dx = W^T dy$ is 0. Take an FCN32s, which is VGG16 as
# convolutions, a score layer, and the upsampling of the next notebook (which also explains `padding="same"`).
#
# **Predict.** Which weights of this FCN have a gradient in the first step, and which in the second?

# %% tags=["hide-output"]
image, label = labelled("chelsea")
x, labels = normalise(image[None], "torchvision"), label[None]


def gradients(net):
    """One forward and backward pass: the loss, and the norm of each weight's gradient."""
    loss, cache = ops.softmax_cross_entropy_forward(net.forward(x, training=True), labels)
    net.backward(ops.softmax_cross_entropy_backward(1.0, cache))
    weights = {name: g for name, g in net.grads.items() if name.endswith("weight")}
    return loss, {name: float(np.linalg.norm(g)) for name, g in weights.items()}


net = FCN32s(4, width=1 / 16, padding="same", dropout=0.0)
first_loss, first = gradients(net)
SGD(lr=0.001).step(net.params, net.grads)
second_loss, second = gradients(net)
for name in ("conv1_1.weight", "fc7.weight", "score_fr.weight"):
    print(f"{name:16} first step: {first[name]:.1e}   second step: {second[name]:.1e}")
print(f"loss: {first_loss:.4f} (log 4 = {np.log(4):.4f}), then {second_loss:.4f}")
assert first["score_fr.weight"] > 0 == first["fc7.weight"] == first["conv1_1.weight"]
assert second["conv1_1.weight"] > 0 and np.isclose(first_loss, np.log(4))

# %% [markdown]
# <details><summary>Answer</summary>
#
# In the first step only the score layer has one. Its gradient is $dW = dy\, x^T$, which needs the features and not the weights,
# and differs from class to class because the labels do. So the score layer moves first, and from the second step on everything
# learns.
#
# </details>
#
# What zeros give is a clean start. All classes are equally likely, the loss is exactly $\log C$ for $C$ classes, and no random
# scores send random gradients into the layers below, which have learned ImageNet. It is good for reading, too: a first loss
# that is not $\log C$ points to an error.
#
# **Predict.** And if fc7 were zero as well?

# %% tags=["hide-output"]
dead = FCN32s(4, width=1 / 16, padding="same", dropout=0.0)
dead.params["fc7.weight"][...] = 0
for _ in range(3):
    _, norms = gradients(dead)
    moved = {name for name, g in dead.grads.items() if np.any(g)}
    SGD(lr=0.1).step(dead.params, dead.grads)
print("weights with a gradient after three steps:", sum(norm > 0 for norm in norms.values()))
assert max(norms.values()) == 0 and moved == {"score_fr.bias"}

# %% [markdown]
# <details><summary>Answer</summary>
#
# Now the score layer gets features of zero (fc7's bias starts at 0), so its weights have no gradient, and neither has anything
# below. Only the score layer's bias moves. One layer of zeros is an even start; two in a row never start at all.
#
# </details>
#
# ## Exercises
#
# ### Exercise 1: the linear layer, backward
#
# $y = x W^T + b$ for x (N, D), W (O, D), b (O,). Derive and write its backward pass: given dy (N, O), the gradients at x, W and
# b, without a loop.
#
# <details><summary>Hint 1</summary>
#
# Write $y[n, o] = \sum_d x[n, d]\, W[o, d] + b[o]$. In which entries of $y$ does $W[o, d]$ occur, and with which factor?
#
# </details>
# <details><summary>Hint 2</summary>
#
# $dW[o, d] = \sum_n dy[n, o]\, x[n, d]$, which is a product of two matrices, one of them transposed. $dx$ is a sum over $o$,
# $db$ one over $n$. Check the shapes.
#
# </details>

# %% tags=["exercise"]
def linear_backward(dy, x, weight):
    """(dx, dweight, dbias) of y = x W^T + b."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    check_rng = np.random.default_rng(0)
    shapes = (5, 3), (4, 3), (4,), (5, 4)
    x, weight_, bias_, dy = (check_rng.standard_normal(shape) for shape in shapes)
    _, cache = ops.linear_forward(x, weight_, bias_)
    both = zip(linear_backward(dy, x, weight_), ops.linear_backward(dy, cache))
    for name, (got, right) in zip(("dx", "dweight", "dbias"), both):
        expect(got, right, name, N=5)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def linear_backward(dy, x, weight):
#     return dy @ weight, dy.T @ x, dy.sum(axis=0)
# ```
#
# Each weight is used once for each example, so its gradient is a sum over the examples. It is not a mean: if the loss is one,
# the division by N is in dy already.
#
# </details>

# %% [markdown]
# For the next exercise, here is how VGG16 ends, with two layers instead of three: linear, ReLU, dropout, linear. The rate of
# dropout is the probability of being dropped, and what is kept is divided by 1 - rate, so that the mean stays the same.

# %% tags=["setup"]
def end_forward(x, w6, b6, w7, b7, rate=0.25, seed=0):
    """Scores of features x (N, D), and what the way back needs."""
    hidden = np.maximum(x @ w6.T + b6, 0)
    kept = np.random.default_rng(seed).random(hidden.shape) >= rate
    dropped = hidden * kept / (1 - rate)
    return dropped @ w7.T + b7, (x, w6, hidden, kept, rate, dropped, w7)


# %% [markdown]
# ### Exercise 2: dropout and all, backward
#
# Write the backward pass of `end_forward`.
#
# <details><summary>Hint 1</summary>
#
# Four operations, so four steps, from the last to the first. What does dropout do to *one* entry? It multiplies it by a number
# that does not depend on it.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `dropped` is the input of the last layer, and `x` of the first; both layers are exercise 1. In between, multiply by
# `kept / (1 - rate)`, and then by `hidden > 0`.
#
# </details>

# %% tags=["exercise"]
def end_backward(dy, cache):
    """(dx, dw6, db6, dw7, db7)."""
    x, w6, hidden, kept, rate, dropped, w7 = cache
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    check_rng = np.random.default_rng(1)
    shapes = (6, 5), (8, 5), (8,), (3, 8), (3,)
    arguments = [check_rng.standard_normal(shape) for shape in shapes]
    y, cache = end_forward(*arguments)
    dy = check_rng.standard_normal(y.shape)
    x, w6, hidden, kept, rate, dropped, w7 = cache
    found = end_backward(dy, cache)
    expect(found[3], dy.T @ dropped, "dw7", N=6, **{"1 - rate": 0.75})
    dhidden = (dy @ w7) * np.where(kept, 1 / (1 - rate), 0) * (hidden > 0)
    expect(found[1], dhidden.T @ x, "dw6", N=6, **{"1 - rate": 0.75})
    print(check_gradient(end_forward, end_backward, *arguments))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def end_backward(dy, cache):
#     x, w6, hidden, kept, rate, dropped, w7 = cache
#     dw7, db7 = dy.T @ dropped, dy.sum(axis=0)
#     dhidden = (dy @ w7) * kept / (1 - rate) * (hidden > 0)
#     return dhidden @ w6, dhidden.T @ x, dhidden.sum(axis=0), dw7, db7
# ```
#
# Dropout multiplies by 0 or by 1 / (1 - rate), in both directions. It must be the same draw: this is why the mask is kept.
#
# </details>

# %% [markdown]
# ### Exercise 3: the backward pass of a 1x1 convolution
#
# Write it with matrix products over the places, without loops.
#
# <details><summary>Hint 1</summary>
#
# Each place of each image is an example. Which rows do you multiply, if places are rows?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `x.transpose(0, 2, 3, 1).reshape(-1, C_in)` has a row for each place, and dy likewise. Then it is exercise 1, and dx must be
# brought back into (N, C_in, H, W).
#
# </details>

# %% tags=["exercise"]
def pointwise_backward(dy, cache):
    """(dx, dweight, dbias) for y = W x + b at every place.

    cache holds x (N, C_in, H, W) and weight (C_out, C_in).
    """
    x, weight = cache
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    check_rng = np.random.default_rng(3)

    def pointwise_forward(x, weight, bias):
        return np.einsum("ok,nkrc->norc", weight, x) + bias[:, None, None], (x, weight)

    arguments = [check_rng.standard_normal(shape) for shape in ((2, 3, 4, 5), (6, 3), (6,))]
    y, cache = pointwise_forward(*arguments)
    dy = check_rng.standard_normal(y.shape)
    dx, dweight, dbias = pointwise_backward(dy, cache)
    sizes = {"N": 2, "the number of places": 20, "N times the places": 40}
    expect(dx, np.einsum("ok,norc->nkrc", cache[1], dy), "dx", **sizes)
    expect(dweight, np.einsum("norc,nkrc->ok", dy, cache[0]), "dweight", **sizes)
    print(check_gradient(pointwise_forward, pointwise_backward, *arguments))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def pointwise_backward(dy, cache):
#     x, weight = cache
#     n, channels, height, width = x.shape
#     inputs = x.transpose(0, 2, 3, 1).reshape(-1, channels)
#     outputs = dy.transpose(0, 2, 3, 1).reshape(-1, len(weight))
#     dx = (outputs @ weight).reshape(n, height, width, channels).transpose(0, 3, 1, 2)
#     return dx, outputs.T @ inputs, outputs.sum(axis=0)
# ```
#
# Each place is an example: the three gradients are those of a fully connected layer over N H W examples.
#
# </details>

# %% [markdown]
# ### Exercise 4: a matrix becomes kernels
#
# Turn a fully connected layer into a convolution that sees maps of `channels` channels, `side` units high and wide. There are
# two kinds of files. In PyTorch's and Caffe's, the matrix is (C_out, channels * side * side), and maps are flattened channel,
# row, column. In Keras's, with `channels_last`, it is (side * side * channels, C_out), a *column* for each unit, and maps are
# flattened row, column, channel.
#
# <details><summary>Hint 1</summary>
#
# `reshape` never changes the order of the numbers. So the first `reshape` must name the axes in the order in which the file has
# them; only then may you move axes about.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Keras's numbers are in the order (side, side, channels, C_out). Give them these axes, then `transpose` to (C_out, channels,
# side, side).
#
# </details>

# %% tags=["exercise"]
def to_convolution(matrix, channels, side, channels_last=False):
    """Kernels (C_out, channels, side, side) from a fully connected layer's matrix."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    check_rng = np.random.default_rng(1)
    right = check_rng.standard_normal((5, 3, 4, 4))
    files = {
        "PyTorch's": (right.reshape(5, -1), False),
        "Keras's": (right.transpose(2, 3, 1, 0).reshape(-1, 5), True),
    }
    for name, (matrix, last) in files.items():
        got = np.asarray(to_convolution(matrix, 3, 4, last))
        assert got.shape == right.shape, f"{name}: shape {got.shape}, expected {right.shape}"
        share = (got == right).mean()
        assert share == 1, (
            f"{name}: the shape is right, but only {share:.0%} of the weights meet their inputs:"
            " did you reshape before you transposed, to the axes that the file has?"
        )

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def to_convolution(matrix, channels, side, channels_last=False):
#     if channels_last:
#         return matrix.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)
#     return matrix.reshape(-1, channels, side, side)
# ```
#
# First the axes that the numbers were written in, then the wanted order. A `reshape` straight to the wanted shape keeps the
# numbers in their old order, and no error warns you.
#
# </details>

# %% [markdown]
# ### Exercise 5: which crop is it?
#
# For an image of any height and width from 193 on, list the crops that VGG16's score map belongs to, row by row: for each score
# (top, left, below, beyond), where `below` and `beyond` are the rows and columns of the crop of 224x224 that lie outside the
# image, at its lower end and at its right. All 3x3 convolutions keep the size, the poolings are in ceil mode, and fc6 takes 7
# units.
#
# <details><summary>Hint 1</summary>
#
# Halving five times, each time rounded up, is dividing by 32, rounded up. How often does a window of 7 fit on so many units?
#
# </details>
# <details><summary>Hint 2</summary>
#
# There are $\lceil \text{side} / 32 \rceil - 6$ places along a side, the crop of place $k$ begins at $32 k$ and ends before $32
# k + 224$. What if that is more than the side?
#
# </details>

# %% tags=["exercise"]
def crops_of(height, width):
    """[(top, left, below, beyond), ...], one for each score, row by row."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    for size in (224, 224), (320, 416), (500, 375), (225, 256), (193, 300):
        rows, columns = (VGG.map_sizes(1, 0, side)["fc6"] for side in size)
        found = [tuple(crop) for crop in crops_of(*size)]
        floor = len(found) == prod((side - 224) // 32 + 1 for side in size)
        assert len(found) == rows * columns, (
            f"{size[0]}x{size[1]} pixels give {rows} x {columns} scores, and you list {len(found)}"
            + (": are the poolings in floor mode?" if floor else "")
        )
        for (top, left, below, beyond), place in zip(found, np.ndindex(rows, columns)):
            assert (top, left) == (32 * place[0], 32 * place[1]), f"score {place} begins elsewhere"
            over = max(top + 224 - size[0], 0), max(left + 224 - size[1], 0)
            assert (below, beyond) == over, (
                f"{size[0]}x{size[1]}, score {place}: {(below, beyond)} outside, expected {over}"
            )

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def crops_of(height, width):
#     rows, columns = (-(-side // 32) - 6 for side in (height, width))
#     return [
#         (32 * r, 32 * c, max(32 * r + 224 - height, 0), max(32 * c + 224 - width, 0))
#         for r in range(rows)
#         for c in range(columns)
#     ]
# ```
#
# So 225 pixels already have two places, and the second crop hangs over the border by 31.
#
# </details>

# %% [markdown]
# ### Exercise 6: the saving
#
# A crop of `side` pixels costs `convs` multiplications in convolutions and `fc` in fully connected layers. By what factor do n
# x n crops need more multiplications than one map of n x n scores, `stride` pixels apart? Take the convolutions' work as
# proportional to the area.
#
# <details><summary>Hint 1</summary>
#
# How large is the image that has n x n crops, `stride` pixels apart? Which of the two kinds of work do the crops share?
#
# </details>
# <details><summary>Hint 2</summary>
#
# The image is `side + stride * (n - 1)` pixels wide. The map costs `convs` times a ratio of areas, and `fc` for each of the n x
# n places.
#
# </details>

# %% tags=["exercise"]
def saving(n, convs, fc, side=224, stride=32):
    """Multiplications of n x n crops over those of one map."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    one, areas = saving(1, 1e9, 1e8), saving(10, 1e9, 0)
    vgg_saves = saving(10, 15346630656, 123633664)
    assert np.isclose(one, 1), f"one crop is one map, you have {one:.2f}"
    assert np.isclose(areas, 19.14, atol=0.01), (
        f"without fully connected layers it is 100 crops of 224 over one image of 512: {areas:.2f}"
    )
    assert np.isclose(vgg_saves, 16.72, atol=0.01), (
        f"VGG16, 10x10: {vgg_saves:.2f}, expected 16.72: do fc6 to fc8 share their work?"
    )

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def saving(n, convs, fc, side=224, stride=32):
#     area = ((side + stride * (n - 1)) / side) ** 2
#     return n**2 * (convs + fc) / (convs * area + fc * n**2)
# ```
#
# The convolutions share their work, the fully connected layers do not: each place has its own window.
#
# </details>

# %% [markdown]
# ---
#
# A score every 32 pixels is not yet a label for every pixel. How to get from one to the other, and where exactly each score
# lies, is the subject of [Upsampling](05_upsampling.ipynb).
