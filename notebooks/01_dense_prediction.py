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
# # 1. What is dense prediction?
#
# A classifier gives an image one label. A network for *dense prediction* gives one to every pixel. This
# notebook shows the task, trains a small fully convolutional network (FCN) to do it, and says how one
# keeps score.
#
# You will be able to
#
# - say what goes into an FCN and what comes out;
# - read and write label images, with VOC's palette and its label for "do not count this";
# - compute the four scores of the paper by hand, and say what each of them hides;
# - put photographs of your own into the layout that the package reads.
#
# Takes about 35 minutes. It needs nothing but Python and some NumPy.

# %% tags=["setup"]
import tempfile
from pathlib import Path

import numpy as np
from lesson import BLUE, attempt, plt

from tinyfcn.data import IGNORE, VOC_CLASSES, Shapes, VOCSegmentation, normalise, palette, write_voc
from tinyfcn.metrics import ConfusionMatrix
from tinyfcn.models import FCN8s
from tinyfcn.optim import Adam, poly
from tinyfcn.trainer import Config, make_batch, predict, train_step

# %% [markdown]
# ## A label for every pixel
#
# The package can draw a set of labelled pictures: shapes on a wild background, six kinds of them. Each
# item is a pair, an image of bytes (H, W, 3) and a label (H, W) with the number of a class at every
# pixel.

# %%
training, held_out = Shapes("train"), Shapes("val", length=24)
image, label = training[1]
print(image.shape, image.dtype, " ", label.shape, label.dtype)
print(dict(enumerate(training.classes)))
print("classes in this label:", np.unique(label))

# %% tags=["hide-input"]
figure, axes = plt.subplots(1, 4, figsize=(9, 2.6))
for left, right, number in zip(axes[::2], axes[1::2], (1, 5), strict=True):
    picture, truth = training[number]
    left.imshow(picture)
    right.imshow(palette()[truth])
    left.set_title("image")
    right.set_title("label, in VOC's colours")
for axis in axes:
    axis.axis("off")
plt.show()

# %% [markdown]
# To classify such an image one would answer "square" or "star", and there may be both. To segment it,
# one answers the question at each pixel: *which class does this pixel belong to?* Where, how large and
# how many follow from that.
#
# ## A network that does it
#
# An FCN takes an image and returns a score for each class at each pixel. The class with the largest
# score is the prediction. An untrained one has learned nothing yet, but the shapes are right, for any
# size:

# %%
net = FCN8s(num_classes=training.num_classes, width=1 / 8, padding="same", dropout=0)
x = normalise(image[None], net.preprocessing)  # (1, 3, H, W), around 0
scores = net.forward(x)
print("in:", x.shape, " out:", scores.shape)
assert scores.shape == (1, training.num_classes, *label.shape)

# %% [markdown]
# Training it is a loop: take a few pictures, compute the scores, measure how wrong they are, go backward
# to find out how each weight should change, change it. Notebooks 2 to 7 take this apart; here we just
# run it, for about half a minute.

# %%
STEPS = 800
config = Config(seed=0)  # batches of four crops of 96x96 pixels
optimiser, losses = Adam(2e-3), []
for step in range(STEPS):
    pictures, truths = make_batch(training, config, step)
    inputs = normalise(pictures, net.preprocessing)
    losses.append(float(train_step(net, optimiser, inputs, truths, factor=poly(step / STEPS))))

# %% tags=["hide-input"]
figure, axis = plt.subplots(figsize=(8, 2.6))
axis.plot(losses, color=BLUE, alpha=0.25, linewidth=0.8)
axis.plot(np.convolve(losses, np.ones(25) / 25, "valid"), color=BLUE, label="mean of 25 steps")
axis.set(xlabel="step", ylabel="loss", ylim=(0, 3), title="The loss falls")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# **Predict.** The net now meets pictures that it has never seen. Which mistakes do you expect: wrong
# classes, missed shapes, or wrong borders?

# %%
guesses = [predict(net, picture) for picture, _ in held_out]

# %% tags=["hide-input"]
figure, axes = plt.subplots(3, 4, figsize=(9, 6.6))
for column, number in enumerate((0, 7, 12, 20)):
    picture, truth = held_out[number]
    for axis, shown in zip(axes[:, column], (picture, palette()[guesses[number]], palette()[truth]), strict=True):
        axis.imshow(shown)
        axis.set(xticks=[], yticks=[])
for axis, name in zip(axes[:, 0], ("image", "prediction", "truth"), strict=True):
    axis.set_ylabel(name, fontsize=11)
figure.suptitle("Held-out pictures after half a minute of training")
plt.show()

# %% [markdown]
# It finds shapes where they are and gives most of them the right class. Borders are soft and thin parts
# are missing. How good is that? "Looks fine" is no number.
#
# ## How good is it?
#
# The simplest score is *pixel accuracy*: the share of pixels with the right class. **Predict.** What
# pixel accuracy has a net that answers "background" everywhere?

# %%
matrix = ConfusionMatrix(net.num_classes)
for guess, (_, truth) in zip(guesses, held_out, strict=True):
    matrix.update(truth, guess)
lazy = matrix.constant_baseline()  # the most frequent class everywhere
print(f"pixel accuracy: this net {matrix.pixel_accuracy:.3f}, background everywhere {lazy.pixel_accuracy:.3f}")
print(f"mean IU:        this net {matrix.mean_iou:.3f}, background everywhere {lazy.mean_iou:.3f}")
assert lazy.pixel_accuracy > 0.7 and lazy.mean_iou < 0.15
assert matrix.mean_iou > 2 * lazy.mean_iou

# %% [markdown]
# Most pixels are background, so that a net that has understood nothing gets most of them right. Always
# look at this baseline beside a score. The second score, mean IU, is not fooled. To see why, compute it
# by hand.
#
# ### A confusion matrix of 36 pixels
#
# Two classes, 0 and 1, and some pixels that do not count:

# %% tags=["setup"]
TRUTH = np.array(
    [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 255, 0],
        [0, 1, 1, 1, 255, 0],
        [0, 1, 1, 1, 255, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ],
    np.uint8,
)
GUESS = np.array(
    [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ],
    np.uint8,
)

# %% tags=["hide-input"]
figure, axes = plt.subplots(1, 2, figsize=(7, 3))
for axis, values, title in zip(axes, (TRUTH, GUESS), ("truth (grey: does not count)", "prediction"), strict=True):
    shade = np.where(values == IGNORE, 0.5, np.where(values == 1, 0.75, 0.1))
    axis.imshow(shade, cmap="Greys", vmin=0, vmax=1.4)
    for (r, c), value in np.ndenumerate(values):
        axis.text(c, r, value, ha="center", va="center", fontsize=9)
    axis.set(title=title, xticks=[], yticks=[])
plt.show()

# %% [markdown]
# Let $n_{ij}$ be the number of pixels of class $i$ that were predicted as class $j$. Count:

# %%
counts = np.zeros((2, 2), int)
for truth, guess in zip(TRUTH.ravel(), GUESS.ravel(), strict=True):
    if truth != IGNORE:
        counts[truth, guess] += 1
print(counts)
assert counts.sum() == 33  # 36 pixels, of which 3 do not count

# %% [markdown]
# From these four numbers follow all scores of the paper (Long et al. 2015, section 5). With $t_i =
# \sum_j n_{ij}$ the pixels of class $i$, and $C$ classes:
#
# $$\text{pixel accuracy} = \frac{\sum_i n_{ii}}{\sum_i t_i} \qquad \text{mean accuracy} = \frac{1}{C} \sum_i \frac{n_{ii}}{t_i}$$
#
# $$\text{mean IU} = \frac{1}{C} \sum_i \frac{n_{ii}}{t_i + \sum_j n_{ji} - n_{ii}} \qquad
# \text{f.w. IU} = \frac{1}{\sum_k t_k} \sum_i t_i\, \text{IU}_i$$
#
# IU is *intersection over union*: of all pixels that are class $i$ in the truth, or in the prediction,
# or in both, the share that is in both.

# %%
right, truths, guessed = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
iou = right / (truths + guessed - right)
by_hand = {
    "pixel_accuracy": right.sum() / truths.sum(),
    "mean_accuracy": (right / truths).mean(),
    "mean_iou": iou.mean(),
    "frequency_weighted_iou": (truths * iou).sum() / truths.sum(),
}
small = ConfusionMatrix(2)
small.update(TRUTH, GUESS)
for name, value in by_hand.items():
    print(f"{name:24}{value:.3f}")
    assert np.isclose(value, small.scores()[name])

# %% [markdown]
# The object of 9 pixels was found with 4, and 2 were added beside it: IU $4 / (9 + 6 - 4) = 0.36$. Pixel
# accuracy says 0.79, since the large background carries it. Each score answers another question:
#
# | score | asks | hides |
# |---|---|---|
# | pixel accuracy | how many pixels are right? | small classes |
# | mean accuracy | ... of each class, on average? | objects painted too large |
# | mean IU | how well do the areas match, class by class? | how much of the image is right |
# | frequency-weighted IU | ... with large classes counting more? | small classes, less than the first |
#
# Mean IU is what papers report. Two rules belong to it: there is *one* matrix for the whole set of
# images, not a mean over images; and classes that no label has are left out of the mean.
#
# ## What is 255?
#
# VOC's labels have a thin border of 255 around each object. There, people who drew the labels could not
# agree on the class; the pixels count for nothing, neither in scores nor in the loss. To learn them
# would be to learn noise, and to score them would punish borders twice.
#
# VOC's palette gives 255 a cream colour, and each class its own. Label images are PNGs whose pixels
# *are* class numbers, with that palette beside them:

# %% tags=["hide-input"]
figure, axis = plt.subplots(figsize=(9, 1.5))
strip = palette()[[*range(21), IGNORE]][None]
axis.imshow(strip, aspect="auto")
axis.set_xticks(range(22), [*VOC_CLASSES, "255"], rotation=60, fontsize=9, ha="right", rotation_mode="anchor")
axis.set(yticks=[], title="VOC's 21 classes and the label that does not count")
plt.show()

# %% [markdown]
# **Predict.** A tool that resizes pictures smoothly resizes a label image, too: between a pixel of class
# 2 and one of class 12 it puts the mean. Which class is that?
#
# It is class 7: where a bicycle meets a dog, there is now a car. Labels may only be resized by their
# nearest neighbour.

# %%
assert VOC_CLASSES[2] == "bicycle" and VOC_CLASSES[12] == "dog" and VOC_CLASSES[(2 + 12) // 2] == "car"

# %% [markdown]
# ## My own data set
#
# The package reads any folder in VOC's layout. Here is one, made from ten of the drawn pictures and read
# back:

# %%
class Ten:
    """The first ten pictures of a set."""

    classes, num_classes = training.classes, training.num_classes
    ids = tuple(f"picture_{k}" for k in range(10))

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, k):
        return training[range(10)[k]]  # raises IndexError at the end

    def __iter__(self):
        return (self[k] for k in range(10))


with tempfile.TemporaryDirectory() as folder:
    write_voc(Ten(), folder, "train")
    files = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
    again = VOCSegmentation(folder, "train")
    print(*files[:3], "...", *[file for file in files if "_" not in file], sep="\n")
    assert again.classes == training.classes and all(np.array_equal(again[3][k], training[3][k]) for k in (0, 1))

# %% [markdown]
# Photographs in `JPEGImages`, labels in `SegmentationClass`, a list of names for each split, and the
# names of the classes. With such a folder, `python -m tinyfcn.train --data FOLDER` trains on it;
# [Training](09_training.ipynb) says what to expect from 200 images.
#
# ## Why not a classifier at every pixel?
#
# One could cut out a patch around each pixel, classify the patch, and so label the pixel. That was done
# before FCN. **Predict.** How many patches are that for one photograph of VOC, and how much of its work
# does one patch share with its neighbour?

# %%
pixels = 500 * 375
overlap = 1 - 1 / 224  # two patches of 224 pixels, one pixel apart
print(f"{pixels:,} patches; neighbours share {overlap:.1%} of their pixels")

# %% [markdown]
# Nearly all of the work is done again and again. A network that is nothing but convolutions computes it
# once, for all places, since a convolution does the same everywhere. That is the idea of the paper in
# one sentence, and the rest is how:
#
# | notebook | question |
# |---|---|
# | [2. Convolution](02_convolution.ipynb) | how is it computed, and differentiated? |
# | [3. Pooling and receptive fields](03_pooling.ipynb) | how much does a unit see? |
# | [4. Fully connected is convolution](04_fully_connected.ipynb) | how does a classifier take any size? |
# | [5. Upsampling](05_upsampling.ipynb) | how do coarse scores become a label for each pixel? |
# | [6. A loss at every pixel](06_loss.ipynb) | what is it that training lowers? |
# | [7. FCN-32s, 16s, 8s](07_fcn.ipynb) | how do fine layers help coarse ones? |
# | [8. VGG16's weights](08_weights.ipynb) | how does one start from a trained classifier? |
# | [9. Training](09_training.ipynb) | what goes right, what goes wrong, and how it looks |
# | [10. Speed](10_speed.ipynb) | from seconds to milliseconds |
# | [11. A GPU on paper](11_gpu.ipynb) | what a GPU would do |
#
# ## Exercises

# %% [markdown]
# ### Exercise 1: count
#
# Write the confusion matrix without a loop over pixels. Hint: `np.bincount` counts numbers, and $i C +
# j$ is one number for a pair.

# %% tags=["exercise"]
def confusion(truth, guess, num_classes):
    """counts (num_classes, num_classes) of two label arrays of one shape; 255 in the truth does not count."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    check_rng = np.random.default_rng(1)
    a, b = check_rng.integers(0, 5, (2, 30, 40)).astype(np.uint8)
    a[check_rng.random(a.shape) < 0.2] = 255
    b[b == 4] = 0  # a class that is never predicted
    expected = ConfusionMatrix(5)
    expected.update(a, b)
    found = confusion(a, b, 5)
    assert found.shape == (5, 5), f"shape {found.shape}, expected (5, 5)"
    assert found.sum() == (a != 255).sum(), "every pixel that counts is counted once, and no other"
    assert np.array_equal(found, expected.counts), "rows are the truth, columns the prediction"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def confusion(truth, guess, num_classes):
#     counted = truth != 255
#     pairs = truth[counted].astype(int) * num_classes + guess[counted]
#     return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
# ```
#
# `astype(int)` matters: in uint8, 20 times 21 is 164. And without `minlength`, a class that does not
# occur would be missing.
#
# </details>

# %% [markdown]
# ### Exercise 2: mean IU
#
# From a confusion matrix, in which some classes may have no pixel in the truth. Those are left out, even
# if they were predicted.

# %% tags=["exercise"]
def mean_iu(counts):
    """Mean intersection over union of the classes that the truth has."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    assert np.isclose(mean_iu(np.array([[8, 2], [1, 9]])), (8 / 11 + 9 / 12) / 2), "two classes: 8/11 and 9/12"
    absent = np.array([[8, 2, 0], [1, 8, 1], [0, 0, 0]])
    assert np.isclose(mean_iu(absent), (8 / 11 + 8 / 12) / 2), "class 2 is not in the truth: it is not in the mean"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def mean_iu(counts):
#     right, truth, guessed = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
#     present = truth > 0
#     return (right[present] / (truth + guessed - right)[present]).mean()
# ```
#
# The wrong prediction of class 2 still costs: it makes class 1's intersection smaller.
#
# </details>

# %% [markdown]
# ### Exercise 3: from colours to classes
#
# A colleague sends labels as pictures in VOC's colours, not as class numbers. Turn them back.

# %% tags=["exercise"]
def decode(picture):
    """Class numbers (H, W) uint8 of a picture (H, W, 3) uint8 in the colours of `palette()`."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    classes = np.random.default_rng(2).permutation([*range(21), 255, 0, 5]).astype(np.uint8).reshape(4, 6)
    found = decode(palette()[classes])
    assert found.shape == (4, 6), f"shape {found.shape}, expected (4, 6)"
    wrong = [int(k) for k in classes[found != classes]]
    assert not wrong, f"wrong at pixels of class {wrong[0]}, whose colour is {palette()[wrong[0]]}"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def decode(picture):
#     same = (picture[:, :, None] == palette()).all(axis=-1)  # (H, W, 256)
#     return same.argmax(axis=-1).astype(np.uint8)
# ```
#
# All three channels must agree: many classes share one or two of them.
#
# </details>

# %% [markdown]
# Next: [Convolution](02_convolution.ipynb), of which everything else is made.
