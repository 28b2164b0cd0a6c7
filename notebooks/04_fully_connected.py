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
# A classifier gives one answer for an image of one size. A fully convolutional network gives a map of answers for an image of
# any size. The step from one to the other changes no weight: it only reads a matrix as a set of kernels.
#
# You will be able to
#
# - turn a fully connected layer into a convolution, and say why the order of the row matters;
# - say what a 1x1 convolution is, and write its backward pass;
# - run a classifier on an image of any size, and say which crop each score belongs to, and why the borders differ;
# - count what sharing the work between crops saves, and check the count with a clock;
# - say why a score layer starts at zero.
#
# Takes about 50 minutes. It builds on [Convolution](02_convolution.ipynb) and [Pooling](03_pooling.ipynb).

# %% tags=["setup"]
from math import prod

import numpy as np
from lesson import BLACK, BLUE, ORANGE, RED, attempt, plt, seconds, show_source

from tinyfcn import ops
from tinyfcn.backend import describe_device
from tinyfcn.data import Shapes, normalise, shapes
from tinyfcn.gradcheck import check_gradient
from tinyfcn.models import VGG16, CaffeNet, FCN32s
from tinyfcn.models.backbone import Backbone, Block, Conv
from tinyfcn.models.classifier import Classifier
from tinyfcn.optim import SGD, Adam

rng = np.random.default_rng(0)

# %% [markdown]
# ## One unit
#
# The last map of VGG16, pool5, is 512 channels of 7x7 for an image of 224x224. The classifier flattens it to 25088 numbers,
# channel by channel, each channel row by row, and fc6 multiplies them by a matrix of 4096 x 25088.
#
# Let us look at one unit of a small fc6, for a map of 2 channels of 3x3. Its row of the matrix has 18 weights.

# %%
x = rng.standard_normal((1, 2, 3, 3))  # (N, C, H, W)
row = rng.standard_normal(18)
y = row @ x.reshape(18)
print(f"{y:.4f}")

# %% [markdown]
# **Predict.** We give the 18 weights the map's shape, (2, 3, 3). What is the sum of the products, entry by entry?

# %%
kernel = row.reshape(2, 3, 3)
assert np.isclose((kernel * x[0]).sum(), y)

# %% tags=["hide-input"]
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
figure.suptitle("Cut after each channel, then after each row: the row is a kernel as large as the map", fontsize=11)
plt.show()

# %% [markdown]
# A dot product adds products, and does not ask in which shape the numbers stand. All that matters is that each weight still
# meets its own input. Both are flattened in the same order, channel, row, column, so `reshape` puts them on the same places.
#
# The sum of products of a window and a kernel is what a convolution computes at one place
# ([Convolution](02_convolution.ipynb)). So this unit *is* a convolution, with a kernel that covers the whole map: it fits in
# one place only, and gives a map of 1x1.
#
# ## All units
#
# A fully connected layer is a matrix with a row for each unit; a convolution's weight has a kernel for each output channel. For
# VGG16 that is (4096, 25088) and (4096, 512, 7, 7): the same 102,760,448 numbers. `Network.load` does nothing more than this
# `reshape` when an FCN takes over a classifier's weights. Here it is with fewer channels.

# %%
weight, bias = rng.standard_normal((32, 16 * 7 * 7)), rng.standard_normal(32)
pool5 = rng.standard_normal((2, 16, 7, 7))

connected, _ = ops.linear_forward(pool5.reshape(2, -1), weight, bias)
convolved, _ = ops.conv2d_forward(pool5, weight.reshape(32, 16, 7, 7), bias)

print(connected.shape, convolved.shape)
assert np.allclose(convolved[:, :, 0, 0], connected, rtol=0, atol=1e-10)
assert 4096 * 25088 == 4096 * 512 * 7 * 7 == 102_760_448

# %% [markdown]
# **Predict.** Some libraries keep channels last: they flatten (7, 7, 16), row, column, channel. What happens to their weights
# under the `reshape` above? Is there an error?

# %%
their_pool5 = pool5.transpose(0, 2, 3, 1)  # (N, H, W, C)
their_weight = weight.reshape(32, 16, 7, 7).transpose(0, 2, 3, 1).reshape(32, -1)
their_answer, _ = ops.linear_forward(their_pool5.reshape(2, -1), their_weight, bias)
assert np.allclose(their_answer, connected)  # the same layer, written down in another order

wrong, _ = ops.conv2d_forward(pool5, their_weight.reshape(32, 16, 7, 7), bias)
print("correlation with the right answer:", np.corrcoef(wrong[:, :, 0, 0].ravel(), connected.ravel())[0, 1].round(2))

# %% [markdown]
# No error: the shapes fit. But every weight meets another input, and the answer has nothing to do with the right one. This is
# why a file from Keras needs its fc6 put in order before it is used (`python -m tinyfcn.convert` does). You write it in
# exercise 2.
#
# ## A larger map
#
# A matrix of 32 x 784 takes 784 numbers and no others. A kernel of 7x7 goes over any map that is at least 7x7.
#
# **Predict.** The map is now 9x12. What shape has the answer? And what is its entry at row 2, column 4?

# %%
larger = rng.standard_normal((1, 16, 9, 12))
heat, _ = ops.conv2d_forward(larger, weight.reshape(32, 16, 7, 7), bias)
print(heat.shape)
for r, c in np.ndindex(3, 6):
    window = larger[:, :, r : r + 7, c : c + 7]
    assert np.allclose(ops.linear_forward(window.reshape(1, -1), weight, bias)[0], heat[:, :, r, c])

# %% [markdown]
# Each of the 18 places holds the fully connected layer's answer for its own window of 7x7.
#
# ## What is a 1x1 convolution?
#
# fc7 sees the 4096 outputs of fc6 at *one* place. As a convolution its kernel is 1x1. There is no neighbourhood in it: at every
# place, the vector of channels is multiplied by the same matrix.
#
# $$y[n, o, r, c] = b[o] + \sum_k w[o, k]\, x[n, k, r, c]$$
#
# It is a fully connected layer, and every place of every image is one example to it.

# %%
x = rng.standard_normal((2, 5, 3, 4))
weight, bias = rng.standard_normal((6, 5)), rng.standard_normal(6)

places = x.transpose(0, 2, 3, 1).reshape(-1, 5)  # (N H W, C): a row for each place of each image
rows, _ = ops.linear_forward(places, weight, bias)
y, cache = ops.conv2d_forward(x, weight[:, :, None, None], bias)
assert np.allclose(rows.reshape(2, 3, 4, 6).transpose(0, 3, 1, 2), y)

# %% [markdown]
# **Predict.** A fully connected layer has dW = dy^T x, summed over the examples of a batch. What is summed over here?

# %%
dy = rng.standard_normal(y.shape)
dx, dweight, dbias = ops.conv2d_backward(dy, cache)

dy_rows = dy.transpose(0, 2, 3, 1).reshape(-1, 6)
assert np.allclose(dweight[:, :, 0, 0], dy_rows.T @ places)
assert np.allclose(dbias, dy_rows.sum(axis=0))
assert np.allclose(dx, (dy_rows @ weight).reshape(2, 3, 4, 5).transpose(0, 3, 1, 2))

# %% [markdown]
# Over images and places. An image with 16x16 scores is a batch of 256 examples for fc7 and for the score layer. This is why the
# paper's batches can be small: its 20 images (section 4.3) are thousands of examples for these layers, and the authors later
# trained with one image a step.
#
# ## A classifier on an image of any size
#
# Here is the whole step in the package. First the classifier, then the same weights as convolutions:

# %%
show_source(Classifier.forward, Classifier.score_map)

# %% [markdown]
# We run VGG16 at a thirty-second of its width, with random weights: for shapes and equalities that is enough.

# %%
vgg = VGG16(num_classes=10, width=1 / 32, dtype=np.float64)
image = rng.standard_normal((1, 3, 224, 224))

assert np.allclose(vgg.score_map(image)[:, :, 0, 0], vgg.forward(image))

try:
    vgg.forward(rng.standard_normal((1, 3, 320, 416)))
except ValueError as error:
    print(error)

# %% [markdown]
# **Predict.** VGG16 halves the map five times, and fc6 takes 7 units of what is left. How many scores has an image of 320x416?

# %%
print(vgg.score_map(rng.standard_normal((1, 3, 320, 416))).shape)
print(VGG16.backbone.map_sizes(first_padding=1, fc6_padding=0, side=416))

# %% [markdown]
# 320 / 32 = 10 units, and a window of 7 has 4 places among them; 416 / 32 = 13, and 7 places. One score every 32 pixels, and
# each of them the verdict on a crop of 224x224.
#
# ## The heat map keeps position
#
# Random weights recognise nothing. So we train a classifier: five blocks like VGG's but with one
# convolution each, for images of 96x96. Five poolings leave 3x3 units for fc6.

# %%
class Small(Classifier):
    """Five blocks of one convolution each: images (N, 3, 96, 96) to scores (N, 3)."""

    backbone = Backbone(
        tuple(Block((Conv(f"conv{k}", channels),)) for k, channels in enumerate((16, 32, 32, 64, 64), 1)),
        fc6=3,
        image_size=96,
        hidden=64,
    )


CLASSES = ("nothing", "disc", "star")

# %% [markdown]
# The pictures are drawn with the pieces of `tinyfcn.data.shapes`: a cluttered background and at most one object. The class is
# the object's if it is near the middle of the crop; a picture of background, or of an object at the crop's edge, is "nothing".

# %%
NUMBER = {"disc": 1, "star": 6}  # in tinyfcn.data.shapes


def draw(rng, height, width, *things):
    """A picture (H, W, 3) uint8 of objects (name, x, y, radius) on a background."""
    y, x = np.mgrid[:height, :width].astype(np.float32) + 0.5
    canvas = shapes.draw_background(rng, x, y)
    for name, *centre, radius in things:
        shapes.draw_object(rng, canvas, shapes.Thing(NUMBER[name], tuple(centre), radius, 0.0), x, y)
    return (255 * np.clip(canvas, 0, 1)).astype(np.uint8)


def example(rng):
    """A picture of 96x96 and its class."""
    label, radius = int(rng.choice([0, 0, 1, 2])), rng.uniform(22, 30)
    if label:
        return draw(rng, 96, 96, (CLASSES[label], *(48 + rng.uniform(-16, 16, 2)), radius)), label
    if rng.random() < 0.3:
        return draw(rng, 96, 96), 0
    angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(36, 70)
    name = CLASSES[int(rng.integers(1, 3))]
    return draw(rng, 96, 96, (name, 48 + away * np.cos(angle), 48 + away * np.sin(angle), radius)), 0


# %%
draws = np.random.default_rng(1)
pictures, labels = zip(*(example(draws) for _ in range(1600)))
figure, axes = plt.subplots(1, 8, figsize=(8, 1.5))
for axis, picture, label in zip(axes, pictures, labels):
    axis.imshow(picture)
    axis.set_title(CLASSES[label], fontsize=9)
    axis.set_axis_off()
plt.show()

# %% [markdown]
# Training is a plain loop: forward, loss, backward, step. (The loss and its gradient are the subject of [notebook
# 6](06_loss.ipynb); the loop is that of [notebook 9](09_training.ipynb).)

# %%
x_train, x_test = np.split(normalise(np.stack(pictures), "torchvision"), [1500])
y_train, y_test = np.split(np.array(labels, np.uint8), [1500])

small, optimiser, steps = Small(3, dropout=0.0), Adam(2e-3), 300
for step in range(steps):
    pick = draws.integers(len(x_train), size=32)
    x = x_train[pick] if step % 2 else x_train[pick][..., ::-1]  # half of them mirrored
    scores = small.forward(np.ascontiguousarray(x), training=True)[:, :, None, None]  # (N, classes, 1, 1)
    loss, cache = ops.softmax_cross_entropy_forward(scores, y_train[pick, None, None])
    small.backward(ops.softmax_cross_entropy_backward(1.0, cache)[:, :, 0, 0])
    optimiser.step(small.params, small.grads, lr_factor=1 - step / steps)

accuracy = (small.forward(x_test).argmax(axis=1) == y_test).mean()
print(f"accuracy on 100 other crops: {accuracy:.0%}")
assert accuracy > 0.9

# %% [markdown]
# The classifier has only ever seen crops of 96x96 with one object at most. Now it gets a scene of 224x448 with three.
#
# **Predict.** How many scores will there be? Where will "star" be high?

# %%
def probabilities(net, picture):
    """Of each class at each place: (classes, h, w)."""
    scores = net.score_map(normalise(picture[None], "torchvision"))[0]
    e = np.exp(scores - scores.max(axis=0))
    return e / e.sum(axis=0)


def show_heat(axis, heat, grid, picture, vmax=1.0):
    """A heat map over a picture, each place on the pixels around its centre."""
    (h, w), half = heat.shape, grid.stride / 2
    axis.imshow(picture)
    extent = (grid.start - half, grid.start + (w - 0.5) * 32, grid.start + (h - 0.5) * 32, grid.start - half)
    seen = axis.imshow(heat, extent=extent, alpha=0.65, vmin=0, vmax=vmax, cmap="magma")
    axis.set(xlim=(0, picture.shape[1]), ylim=(picture.shape[0], 0))
    return seen


# %%
scene = draw(np.random.default_rng(5), 224, 448, ("star", 80, 112, 28), ("disc", 240, 80, 28), ("star", 370, 144, 28))
grid = small.backbone.grids(first_padding=1)[-1].window(3)  # where the scores lie, see notebooks 3 and 5
print(f"score (r, c) is that of the crop around pixel ({grid.stride} r + {grid.start}, {grid.stride} c + {grid.start})")
found = probabilities(small, scene)

figure, axes = plt.subplots(2, 2, figsize=(8, 5))
axes[0, 0].imshow(scene)
axes[0, 0].set_title("the scene")
for axis, name, heat in zip(axes.flat[1:], CLASSES, found):
    seen = show_heat(axis, heat, grid, scene)
    axis.set_title(f"{name}: {heat.shape[0]}x{heat.shape[1]} scores")
for axis in axes.flat:
    axis.set(xlabel="pixel", ylabel="pixel")
figure.colorbar(seen, ax=axes, label="probability", shrink=0.6)
figure.suptitle("Trained on single crops, used on a whole scene: high at each object, and not only there")
plt.show()
for name, row, column in ("star", 2, 1), ("disc", 1, 6), ("star", 3, 10):  # the places nearest to the objects
    chances = ", ".join(f"{name} {chance:.2f}" for name, chance in zip(CLASSES, found[:, row, column]))
    print(f"at the {name}, score ({row}, {column}): {chances}")
    assert found[0, row, column] < 0.5
print(f"disc, at its best place elsewhere: {np.delete(found[1].ravel(), 1 * 12 + 6).max():.2f}")

# %% [markdown]
# No one has told the classifier where anything is. Position comes for free: the same kernel is at work at every place, so its
# answer for an object appears wherever the object is. The maps are not clean, though: around each object is a rim of doubt,
# where the disc's neighbour may say "star", and a star's neighbour "disc". Crops with the object well off their middle, but not
# at the edge, did not occur in training, for what should their class be?
#
# **Predict.** We take a wider scene, and cut a second picture out of it, 32 columns further to the right
# than the first. What becomes of the heat map? And with 16 columns?

# %%
wide = draw(np.random.default_rng(6), 320, 512, ("star", 300, 150, 28))
before, after32, after16 = (
    small.score_map(normalise(wide[None, :, left : left + 448], "torchvision"))[0] for left in (0, 32, 16)
)
inner = np.s_[:, 2:-2, 2:-2]  # away from the borders
change32 = abs(after32[:, :, :-1] - before[:, :, 1:])[inner].max()
change16 = abs(after16[:, :, :-1] - before[:, :, 1:])[inner].max()
print(f"scores reach {abs(before).max():.1f}; they differ by {change32:.1e} after 32 columns, {change16:.1f} after 16")
assert change32 < 1e-4 < change16

# %% [markdown]
# 32 pixels are exactly one place, and the scores are the same numbers, one place further to the left. 16 pixels
# are half a place: each score now belongs to a crop that the first map did not have, and is another
# number. A network of stride 32 follows its image exactly only in steps of 32.
#
# In between it follows roughly. Let the star glide from left to right, and find the middle of the places that say "star".

# %%
positions = np.arange(80, 336, 8)
middles = []
for at in positions:
    heat = probabilities(small, draw(np.random.default_rng(7), 224, 416, ("star", at, 112, 28)))[2]
    heat = heat * (heat > 0.5)  # where a star is what the classifier sees
    columns = grid.stride * np.arange(heat.shape[1]) + grid.start
    middles.append((heat.sum(axis=0) * columns).sum() / heat.sum())

error = np.array(middles) - positions
figure, axis = plt.subplots()
axis.plot(positions, positions, color=BLACK, linewidth=1, label="the star itself")
axis.plot(positions, middles, "o-", markersize=4, color=BLUE, label="middle of the places that say star")
axis.set(xlabel="column of the star's centre (pixels)", ylabel="column (pixels)")
axis.set_title(f"The heat map follows the object, to {abs(error).mean():.0f} pixels on average, though its places lie 32 apart")
axis.legend(frameon=False)
plt.show()
assert abs(error).mean() < 10

# %% [markdown]
# ## One place, and its crop
#
# So score (r, c) is the classifier's answer for the crop that begins at (32 r, 32 c). Is it, exactly?
#
# **Predict.** We cut all crops out of the scene, and give each to the classifier. Are these the numbers of the map?

# %%
x = normalise(scene[None], "torchvision")
score_map = small.score_map(x)[0]  # (classes, h, w)
h, w = score_map.shape[1:]
crops = np.stack([x[0, :, 32 * r : 32 * r + 96, 32 * c : 32 * c + 96] for r in range(h) for c in range(w)])
one_by_one = small.forward(crops).T.reshape(-1, h, w)

difference = abs(score_map - one_by_one)
same_class = (score_map.argmax(axis=0) == one_by_one.argmax(axis=0)).mean()
print(f"mean difference {difference.mean():.2f}, where scores have {abs(score_map).mean():.2f}; same class: {same_class:.0%}")
assert difference.min() > 0 and same_class > 0.7

figure, axes = plt.subplots(1, 3, figsize=(8, 2.6))
for axis, values, title in zip(axes, (score_map[2], one_by_one[2], difference[2]), ("one pass", "crop by crop", "difference")):
    low, high = (0, None) if title == "difference" else (-15, 15)
    figure.colorbar(axis.imshow(values, vmin=low, vmax=high), ax=axis, location="bottom", label="score")
    axis.set(title=title, xlabel="column of the map", ylabel="row", xticks=range(0, w, 2), yticks=range(h))
figure.suptitle('The scores of "star": alike, not equal', fontsize=11)
plt.show()

# %% [markdown]
# Nearly, but not exactly. The reason stands in every convolution: `padding=1`. At the crop's border the classifier sees zeros.
# In the scene, at the same place, there is more scene. Each of the five blocks brings its own zeros, on coarser and coarser
# maps.
#
# We can check that this is the only reason. If the reason is right, then
#
# 1. kernels that look at nothing but their middle pixel leave no difference at all;
# 2. a crop with enough of its surroundings gives the map's number exactly.

# %%
blind = Small(3, dtype=np.float64)
for name, weight in blind.params.items():
    if name.startswith("conv") and name.endswith("weight"):
        middle = abs(weight[:, :, 1, 1])  # no negative weights, so that not all ReLUs say 0
        weight[...] = 0
        weight[:, :, 1, 1] = middle
exact = blind.score_map(x.astype(np.float64))[0]
assert exact.std() > 0
assert np.allclose(exact, blind.forward(crops.astype(np.float64)).T.reshape(-1, h, w))  # (1)

# %% [markdown]
# For (2) we need to know how far the zeros reach. We count the receptive field as in
# [notebook 3](03_pooling.ipynb): a kernel of k adds k - 1 steps of as many pixels as the stride so far.

# %%
field, stride = 1, 1
for _ in range(5):
    field += 2 * stride  # a 3x3 convolution
    field += stride  # a 2x2 pooling
    stride *= 2
print(f"pool5 sees {field} pixels, a score {field + 2 * 32}: {(field + 64 - 96) / 2:.0f} more on each side than its crop")

r, c, margin = 2, 6, 32
surroundings = x[:, :, 32 * r - margin : 32 * r + 96 + margin, 32 * c - margin : 32 * c + 96 + margin]
in_context = small.score_map(surroundings)[0, :, 1, 1]  # one place further, as the crop begins 32 pixels further
print("map:         ", score_map[:, r, c].round(3))
print("in context:  ", in_context.round(3))
print("crop alone:  ", one_by_one[:, r, c].round(3))
assert np.allclose(in_context, score_map[:, r, c], atol=1e-4)  # (2)

# %% [markdown]
# With 32 pixels of its surroundings the crop gives the map's numbers, up to rounding. So the map is not an approximation of the
# classifier on crops: it is the classifier where every place sees its true neighbours. For VGG16 a score's field is 404 pixels
# wide, its crop 224.
#
# The image's own border remains: there the map sees zeros, too. This will matter for FCN's padding of 100, in the [next
# notebook](05_upsampling.ipynb#Why-pad-by-100?).

# %%
field, stride = 1, 1
for convolutions in (2, 2, 3, 3, 3):
    field += 2 * stride * convolutions + stride
    stride *= 2
assert field + 6 * 32 == 404

# %% [markdown]
# ## How much does it save?
#
# The paper (section 3.1) gives an example: AlexNet takes 1.2 ms for a crop (of a batch), and the fully convolutional net 22 ms
# for a grid of 10x10 scores of an image of 500x500: more than five times faster than 100 crops.
#
# CaffeNet is this AlexNet with its two groups, and the package has it. We time it at its full width, with random weights.

# %%
caffe = CaffeNet(1000)
big = rng.standard_normal((1, 3, 500, 500), np.float32)
batch = rng.standard_normal((20, 3, 227, 227), np.float32)
assert caffe.score_map(big).shape == (1, 1000, 10, 10)

t_map, t_crop = seconds(lambda: caffe.score_map(big), 3), seconds(lambda: caffe.forward(batch), 3) / 20
print(describe_device(np))
print(f"10x10 scores at once: {1e3 * t_map:.0f} ms; a crop: {1e3 * t_crop:.1f} ms, 100 crops: {100e3 * t_crop:.0f} ms")
print(f"here {100 * t_crop / t_map:.1f} times faster; the paper, on a GPU: {100 * 1.2 / 22:.1f} times")
saved = 100 * t_crop / t_map
caffe = None  # its 61 million weights are not needed any more

# %% [markdown]
# Where does it come from? Neighbouring crops overlap: at 32 pixels from one to the next, a crop of 224 shares 192 columns with
# its neighbour. A pixel in the middle of the image lies in $7 \times 7 = 49$ crops, and the classifier computes its features 49
# times. The map computes them once.

# %%
def picture_of_overlap(n, side=224, stride=32):
    """In how many of n x n crops each pixel lies."""
    count = np.zeros((side + stride * (n - 1),) * 2, int)
    for r, c in np.ndindex(n, n):
        count[stride * r : stride * r + side, stride * c : stride * c + side] += 1
    return count


count = picture_of_overlap(10)
assert count.max() == 49
figure, axis = plt.subplots(figsize=(5, 3.6))
figure.colorbar(axis.imshow(count), label="crops that contain the pixel")
axis.add_patch(plt.Rectangle((96, 128), 224, 224, fill=False, edgecolor=RED, linewidth=2))
axis.set(xlabel="pixel", ylabel="pixel")
axis.set_title(f"10x10 crops of 224x224 (one in red):\na pixel is seen {count.mean():.0f} times on average")
plt.show()

# %% [markdown]
# We can count instead of measuring. A convolution multiplies each weight once for each place of its output. fc6, fc7 and fc8
# are different: each crop has its own 7x7 window and its own answer, so there is nothing to share.

# %%
def multiplications(kind, side):
    """Of one score map of an image of side x side: (convolutions, fully connected layers)."""
    weights, backbone = kind.shapes(1000, 1.0), kind.backbone
    sizes = backbone.map_sizes(backbone.convs[0].padding, 0, side)
    convs = sum(prod(weights[f"{conv.name}.weight"]) * sizes[conv.name] ** 2 for conv in backbone.convs)
    return convs, sum(prod(weights[f"fc{k}.weight"]) for k in (6, 7, 8)) * sizes["fc6"] ** 2


for kind, side in (CaffeNet, 227), (VGG16, 224):
    convs, fc = multiplications(kind, side)
    at_once = sum(multiplications(kind, side + 9 * 32))
    ratio = 100 * (convs + fc) / at_once
    print(f"{kind.__name__}: a crop {convs / 1e6:.0f} + {fc / 1e6:.0f} million, 100 crops / one map: {ratio:.1f}")

# %% [markdown]
# VGG16's fully connected layers multiply twice as much as CaffeNet's, its convolutions 23 times as much.
# The convolutions are where the saving is.
#
# **Predict.** How does the ratio go on as the grid grows? Is there a limit? (We count up to 40x40
# scores, and run a narrow VGG16 against the clock up to 10x10.)

# %%
narrow = VGG16(1000, width=1 / 8)
grid_sides = (1, 2, 3, 4, 6, 8, 10)
few = rng.standard_normal((8, 3, 224, 224), np.float32)
t_crop = seconds(lambda: narrow.forward(few)) / len(few)
measured = []
for n in grid_sides:
    image = rng.standard_normal((1, 3, 224 + 32 * (n - 1), 224 + 32 * (n - 1)), np.float32)
    measured.append(n * n * t_crop / seconds(lambda: narrow.score_map(image)))

# %%
figure, axis = plt.subplots(figsize=(8, 3.6))
ns = np.arange(1, 41)
for kind, side, colour in (VGG16, 224, BLUE), (CaffeNet, 227, ORANGE):
    one = sum(multiplications(kind, side))
    counted = [n * n * one / sum(multiplications(kind, side + 32 * (n - 1))) for n in map(int, ns)]
    axis.plot(ns, counted, color=colour, label=f"{kind.__name__}: multiplications")
    convs, fc = multiplications(kind, side)
    axis.axhline((convs + fc) / (convs * (32 / side) ** 2 + fc), color=colour, linestyle=":", linewidth=1)
axis.plot(grid_sides, measured, "o", color=BLUE, label="VGG16, an eighth as wide: time, measured here")
axis.plot([10], [saved], "o", color=ORANGE, label="CaffeNet: time, measured here")
axis.plot([10], [120 / 22], "D", color=RED, label="AlexNet: time, from the paper")
axis.set(xlabel="scores vertically and horizontally", ylabel="all crops / one map", xlim=(0, 40), ylim=(0, 52))
axis.set_title("The larger the grid, the more one pass saves")
axis.legend(frameon=False, loc="upper left", ncols=2)
plt.show()

# %% [markdown]
# The ratio grows towards a limit (dotted). With many places, each costs the convolutions of 32x32 new pixels and one run of fc6
# to fc8. So the limit is
#
# $$\frac{C + F}{C \cdot (32 / 224)^2 + F}$$
#
# for $C$ multiplications in a crop's convolutions and $F$ in its fully connected layers (CaffeNet: 227
# for 224). It is near $(224/32)^2 = 49$ where $F$ is small. For training it is the same: one pass over
# an image is a batch of all its crops (section 3.4 of the paper).
#
# VGG16's measured points need not lie on its count, not even the first, where one crop and a map of one
# place multiply the same. The crops were timed in batches of 8, the image alone, and a batch often makes
# better use of the computer: a count of multiplications is not yet a time.
#
# ## Why is the score layer zero-initialised?
#
# The classifier's last layer, fc8, knows ImageNet's 1000 classes. FCN drops it and puts a 1x1 convolution to its own 21 classes
# in its place, the score layer, with all weights and biases 0. The paper found that random weights did not do better, nor
# converge faster (section 4.3).
#
# Would a layer of zeros not stop learning? All its outputs are equal, and $dx = W^T dy$ is 0.
#
# We take an FCN32s: VGG16 as convolutions, a score layer, and the upsampling of the next notebook (which
# also explains `padding="same"`).
#
# **Predict.** Which weights of this FCN have a gradient in the first step? Which in the second?

# %%
image, label = Shapes("train")[0]
x, labels = normalise(image[None], "torchvision"), label[None]


def gradients(net):
    """One forward and backward pass; returns the loss, and the norm of each weight's gradient."""
    loss, cache = ops.softmax_cross_entropy_forward(net.forward(x, training=True), labels)
    net.backward(ops.softmax_cross_entropy_backward(1.0, cache))
    return loss, {name: float(np.linalg.norm(g)) for name, g in net.grads.items() if name.endswith("weight")}


net = FCN32s(7, width=1 / 16, padding="same", dropout=0.0)
first_loss, first = gradients(net)
SGD(lr=0.001).step(net.params, net.grads)
second_loss, second = gradients(net)
for name in ("conv1_1.weight", "fc7.weight", "score_fr.weight"):
    print(f"{name:16} first step: {first[name]:.1e}   second step: {second[name]:.1e}")
print(f"loss: {first_loss:.4f} (log 7 = {np.log(7):.4f}), then {second_loss:.4f}")
assert first["score_fr.weight"] > 0 and first["fc7.weight"] == first["conv1_1.weight"] == 0 < second["conv1_1.weight"]
assert np.isclose(first_loss, np.log(7))

# %% [markdown]
# The score layer's own gradient is $dW = dy\, x^T$: it needs the features, not the weights, and it differs from class to class
# because the labels do. So the score layer moves first, and from the second step on everything learns.
#
# What zeros give is a clean start. All classes are equally likely, the loss is exactly $\log C$ for C
# classes, and no random scores send random gradients into the layers below, which have learned ImageNet.
# It is good for reading, too: a first loss that is not $\log C$ points to an error.
#
# **Predict.** And if fc7 were zero as well?

# %%
dead = FCN32s(7, width=1 / 16, padding="same", dropout=0.0)
dead.params["fc7.weight"][...] = 0
for _ in range(3):
    _, norms = gradients(dead)
    moved = {name for name, g in dead.grads.items() if np.any(g)}
    SGD(lr=0.1).step(dead.params, dead.grads)
print({name: norm for name, norm in norms.items() if norm > 0} or "no weight has a gradient, not after three steps either")
assert max(norms.values()) == 0 and moved == {"score_fr.bias"}

# %% [markdown]
# Now the score layer gets features of zero (fc7's bias starts at 0), so its weights have no gradient,
# and neither has anything below. Only the score layer's bias moves. One layer of zeros is an even start,
# two in a row are the end. (In FCN-16s the new score layer of pool4 starts at zero for a second reason:
# the net begins exactly where the FCN-32s stopped. That is in [notebook 7](07_fcn.ipynb).)
#
# ## Exercises

# %% [markdown]
# ### Exercise 1: a matrix becomes kernels
#
# Write the function that turns a fully connected layer's weight into that of a convolution. It sees maps of `channels` channels
# that are `side` units high and wide, flattened channel by channel, each row by row.

# %% tags=["exercise"]
def to_convolution(weight, channels, side):
    """Kernels (C_out, channels, side, side) from a matrix (C_out, channels * side * side)."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    check_rng = np.random.default_rng(1)
    fc, features = check_rng.standard_normal((5, 3 * 4 * 4)), check_rng.standard_normal((2, 3, 4, 4))
    kernels = to_convolution(fc, 3, 4)
    assert kernels.shape == (5, 3, 4, 4), f"kernels have shape {kernels.shape}, expected (5, 3, 4, 4)"
    expected = features.reshape(2, -1) @ fc.T
    got = ops.conv2d_forward(features, np.ascontiguousarray(kernels))[0][:, :, 0, 0]
    assert np.allclose(got, expected), "the shape is right, but weights meet the wrong inputs: think of the order of the row"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def to_convolution(weight, channels, side):
#     return weight.reshape(len(weight), channels, side, side)
# ```
#
# `reshape` reads the row in its own order, the last axis fastest: column, row, channel, which is how the map was flattened.
#
# </details>

# %% [markdown]
# ### Exercise 2: from a library with channels last
#
# A Keras file holds fc6 as a matrix (side * side * channels, C_out): a *column* for each unit, and maps flattened as (row,
# column, channel). Turn it into kernels (C_out, channels, side, side).

# %% tags=["exercise"]
def from_channels_last(matrix, channels, side):
    """Kernels (C_out, channels, side, side) from a matrix (side * side * channels, C_out)."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    check_rng = np.random.default_rng(2)
    matrix, features = check_rng.standard_normal((4 * 4 * 3, 5)), check_rng.standard_normal((2, 3, 4, 4))
    kernels = from_channels_last(matrix, 3, 4)
    assert kernels.shape == (5, 3, 4, 4), f"kernels have shape {kernels.shape}, expected (5, 3, 4, 4)"
    expected = features.transpose(0, 2, 3, 1).reshape(2, -1) @ matrix
    got = ops.conv2d_forward(features, np.ascontiguousarray(kernels))[0][:, :, 0, 0]
    assert np.allclose(got, expected), "the shape is right, but weights meet the wrong inputs: reshape first, then transpose"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def from_channels_last(matrix, channels, side):
#     return matrix.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)
# ```
#
# First `reshape` to the axes that the numbers were written in, then bring the axes into the wanted order. A `reshape` straight
# to the wanted shape keeps the numbers in their old order.
#
# </details>

# %% [markdown]
# ### Exercise 3: the backward pass of a 1x1 convolution
#
# Write it with matrix products over the places, without loops.

# %% tags=["exercise"]
def pointwise_backward(dy, cache):
    """(dx, dweight, dbias) for y = W x + b at every place; cache holds x (N, C_in, H, W) and weight (C_out, C_in)."""
    x, weight = cache
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    check_rng = np.random.default_rng(3)

    def pointwise_forward(x, weight, bias):
        return np.einsum("ok,nkrc->norc", weight, x) + bias[:, None, None], (x, weight)

    arguments = [check_rng.standard_normal(shape) for shape in ((2, 3, 4, 5), (6, 3), (6,))]
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
# ### Exercise 4: how many scores?
#
# Give the size of VGG16's score map for an image of any height and width from 193 on. All 3x3 convolutions keep the size; the
# poolings are in ceil mode; fc6 takes 7 units.

# %% tags=["exercise"]
def score_map_size(height, width):
    """(rows, columns) of the score map of an image of height x width pixels."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    for size in (224, 224), (320, 416), (500, 375), (225, 256), (193, 300):
        expected = tuple(VGG16.backbone.map_sizes(1, 0, side)["fc6"] for side in size)
        got = tuple(score_map_size(*size))
        assert got == expected, f"for {size[0]}x{size[1]}: {got}, expected {expected}"
    thin = VGG16(2, width=1 / 64)
    assert thin.score_map(np.zeros((1, 3, 230, 290), np.float32)).shape[2:] == tuple(score_map_size(230, 290))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def score_map_size(height, width):
#     return tuple(-(-side // 32) - 6 for side in (height, width))
# ```
#
# Halving five times, each time rounded up, is dividing by 32, rounded up. So 225 pixels already have two places: the second
# crop hangs over the border.
#
# </details>

# %% [markdown]
# ### Exercise 5: the saving
#
# A crop of `side` pixels costs `convs` multiplications in convolutions and `fc` in fully connected layers. How many times fewer
# multiplications has one map of n x n scores, `stride` pixels apart, than n x n crops? Take the convolutions' work as
# proportional to the area.

# %% tags=["exercise"]
def saving(n, convs, fc, side=224, stride=32):
    """Multiplications of n x n crops over those of one map."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    assert np.isclose(saving(1, 1e9, 1e8), 1), f"one crop is one map, got {saving(1, 1e9, 1e8):.2f}"
    assert np.isclose(saving(10, 1e9, 0), 100 * 224**2 / 512**2), "without fully connected layers it is a ratio of areas"
    assert np.isclose(saving(10, 15346630656, 123633664), 16.72, atol=0.01), (
        f"VGG16, 10x10: {saving(10, 15346630656, 123633664):.2f}, expected 16.72: what do fc6 to fc8 cost in the map?"
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
# lies: [Upsampling](05_upsampling.ipynb).
