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
# Here is Chelsea. Ask a classifier what is in her photograph and it says "cat", which is right, and says
# nothing about *where*. Now put your finger on any of the photograph's 135,300 pixels: is that one cat?
# You can say it at once nearly everywhere; at the whiskers, you may begin to doubt.

# %% tags=["setup", "hide-input"]
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from tinyfcn.data import IGNORE, VOC_CLASSES, Shapes, VOCSegmentation, normalise, palette, write_voc
from tinyfcn.data.loader import make_batch
from tinyfcn.inference import predict
from tinyfcn.lesson import BLUE, CAT, attempt, photograph, photograph_label, plt
from tinyfcn.metrics import ConfusionMatrix
from tinyfcn.models import FCN8s
from tinyfcn.optim import Adam, poly
from tinyfcn.run import Config
from tinyfcn.training import train_step

# %% tags=["hide-input"] alt="Chelsea the cat as a classifier sees her, with one word; with a label for each pixel, she orange; and some of these pixels, enlarged"
cat, cat_label = photograph(), photograph_label()
figure, axes = plt.subplots(1, 3, figsize=(9, 2.3))
colours = np.zeros((256, 3))
colours[CAT], colours[IGNORE] = (213, 94, 0), (224, 224, 192)
assert round((cat_label == CAT).sum() / (cat_label != IGNORE).sum(), 2) == 0.75
mixed = (0.45 * cat + 0.55 * colours[cat_label]).astype(np.uint8)
close = np.s_[205:255, 285:360]
pictures = cat, mixed, cat[close]
titles = 'a classifier: "cat"', "a label for each pixel", "a few of these pixels"
for axis, picture, title in zip(axes, pictures, titles, strict=True):
    axis.imshow(picture)
    axis.set_title(title)
    axis.axis("off")
plt.show()

# %% [markdown]
# To answer at every pixel is called *dense prediction*, and where the answers are classes, *semantic
# segmentation*. The picture in the middle is such an answer, drawn by hand: what is orange is cat, what
# is dark is background, and the pale seam between them is where we would rather not say. On the right, you
# see why.
#
# How would you mark somebody else's answer? Counting the pixels that are right seems fair. But 75% of
# those that count are cat, so that a program which answers "cat" everywhere, without looking at the
# picture at all, gets three quarters of them right. By the end of this notebook you will have trained a
# network that labels every pixel, and you will know how to tell it from a program that does not look.
#
# The network is that of [Long, Shelhamer and Darrell, *Fully Convolutional Networks for Semantic
# Segmentation*, 2015](https://arxiv.org/abs/1411.4038): an FCN, from "the paper", as all these notebooks
# call it. Its main data set is PASCAL VOC, or VOC: photographs in which 20 classes of things are labelled.
# Chelsea will come along through the notebooks.
#
# Takes about 35 minutes. You need nothing but Python and a little NumPy.
#
# ## A label for every pixel
#
# To learn from photographs takes thousands of them, and hours. So you begin with pictures that the
# package draws itself: shapes on a wild background, six kinds of them. Each item is a pair, an image of
# bytes (H, W, 3) and a label (H, W) with the number of a class at every pixel. (The number 255 is no
# class. It marks outlines, like the pale seam above; *What is 255?* below says why.)

# %%
training, held_out = Shapes("train"), Shapes("val", length=24)
image, label = training[1]
print(image.shape, image.dtype, " ", label.shape, label.dtype)
print(dict(enumerate(training.classes)))
print("classes in this label:", np.unique(label))

# %% tags=["hide-input"] alt="Two images of coloured shapes, each beside its label: every pixel of a ring, disc or star in the colour of its class, contours white"
figure, axes = plt.subplots(1, 4, figsize=(9, 2.6))
for left, right, number in zip(axes[::2], axes[1::2], (1, 5), strict=True):
    picture, truth = training[number]
    left.imshow(picture)
    right.imshow(palette()[truth])
    left.set_title("image")
    names = [training.classes[k] for k in np.unique(truth) if 0 < k < IGNORE]
    right.set_title("label: " + ", ".join(names))
for axis in axes:
    axis.axis("off")
plt.show()

# %% [markdown]
# If you had to *classify* the second image, would you answer "disc", "ring" or "star"? To segment it, you
# need not choose: each pixel has its own answer, and where each class is, and how large, follows from that.
#
# ## A network that does it
#
# An FCN takes an image and returns a score for each class at each pixel; the class with the largest score
# is its prediction. Here is a narrow one, with an eighth of the paper's channels, and still fewer in its last
# layers. It has learned nothing yet, but it already returns as many scores as there are pixels, whatever the
# image's size, Chelsea's too:

# %%
net = FCN8s(training.num_classes, width=1 / 8, padding="same", hidden=64, dropout=0)
for image in (training[1][0], training[5][0], photograph()):
    x = normalise(image[None], net.preprocessing)  # (1, 3, H, W), around 0
    scores = net.forward(x)
    print("in:", x.shape, " out:", scores.shape)
    assert scores.shape == (1, training.num_classes, *image.shape[:2])

# %% [markdown]
# Training is a loop. Take a few pictures, compute the scores, measure how wrong they are, go backward to
# find out how each weight should change, and change it. "How wrong" is the cross-entropy, as in a
# classifier, averaged over pixels. Notebooks 2 to 7 take all of this apart; for now we just run it, which
# takes half a minute.

# %%
STEPS = 600
config = Config(seed=0)  # batches of four crops of 96x96 pixels
optimiser, losses = Adam(5e-3), []
for step in range(STEPS):
    pictures, truths = make_batch(training, config, step)
    inputs = normalise(pictures, net.preprocessing)
    rate = poly(step / STEPS)  # the learning rate falls to 0
    losses.append(float(train_step(net, optimiser, inputs, truths, lr_factor=rate)))

# %% tags=["hide-input"] alt="Loss over 600 steps: single steps scatter, and their mean falls fast at first, then slowly"
figure, axis = plt.subplots(figsize=(8, 2.6))
axis.plot(losses, color=BLUE, alpha=0.3, linewidth=0.8, label="one step")
smooth = np.convolve(losses, np.ones(25) / 25, "valid")
axis.plot(np.arange(12, STEPS - 12), smooth, color=BLUE, label="mean of the 25 steps around it")
axis.set(xlabel="step", ylabel="loss", ylim=(0, 3), title="The loss falls")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# **Predict.** The net is about to meet pictures that it has never seen. Which mistakes do you expect: wrong
# classes, missed shapes, or wrong borders?

# %% tags=["hide-input", "hide-output"] alt="Four unseen images, what the net predicts, and the truth: places and outlines are roughly right, the classes of the first are mixed up"
guesses = [predict(net, picture) for picture, _ in held_out]

figure, axes = plt.subplots(3, 4, figsize=(9, 6.6))
for column, number in enumerate((0, 7, 12, 20)):
    picture, truth = held_out[number]
    rows = picture, palette()[guesses[number]], palette()[truth]
    for axis, shown in zip(axes[:, column], rows, strict=True):
        axis.imshow(shown)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
for axis, name in zip(axes[:, 0], ("image", "prediction", "truth"), strict=True):
    axis.set_ylabel(name, fontsize=11)
for colour, name in zip(palette(), training.classes, strict=False):
    axes[0, 0].plot([], [], "s", color=colour / 255, markersize=9, label=name)
figure.legend(loc="outside lower center", ncols=training.num_classes, frameon=False)
figure.suptitle(f"Pictures that the net has not seen, after {STEPS} steps")
plt.show()

# %% [markdown]
# <details><summary>What it gets right, and what wrong</summary>
#
# The net finds most shapes, and many of them get the right class. But as each pixel has its own answer,
# one shape may fall into several classes. Borders are rounded, and thin points are lost. In the first
# picture it even sees shapes in the pattern of the background. (It never answers 255: it has no score for
# that.)
#
# </details>
#
# ## How good is it?
#
# The simplest score is *pixel accuracy*, the share of pixels with the right class. Another is *mean IU*,
# which you will compute by hand in a moment. Both come from counts that a `ConfusionMatrix` collects.
#
# **Predict.** What pixel accuracy does a net reach that answers "background" everywhere? Look at how much of
# the labels above is black.

# %% tags=["hide-output"]
matrix = ConfusionMatrix(net.num_classes)
for guess, (_, truth) in zip(guesses, held_out, strict=True):
    matrix.update(truth, guess)
lazy = matrix.constant_baseline()  # the most frequent class everywhere
for name, score in (("this net", matrix), ("background everywhere", lazy)):
    print(f"{name:23}pixel accuracy {score.pixel_accuracy:.3f}   mean IU {score.mean_iou:.3f}")
assert lazy.pixel_accuracy > 0.7 and lazy.mean_iou < 0.15
assert matrix.mean_iou > 2 * lazy.mean_iou

# %% [markdown]
# <details><summary>Answer</summary>
#
# Nearly four fifths. Most pixels are background, so that a net which has understood nothing gets most of
# them right, as the program did that says "cat" to every pixel of Chelsea's.
#
# </details>
#
# Always look at this baseline beside a score of pixel accuracy. Mean IU is not fooled by it, and the best
# way to see why is to compute it by hand.
#
# ### A confusion matrix of 36 pixels
#
# Two classes, 0 and 1, and some pixels that do not count, labelled 255:

# %% tags=["setup", "hide-input"]
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
        [0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ],
    np.uint8,
)

# %% tags=["hide-input"] alt="Two grids of 6 by 6 numbers: the truth, an object of nine 1s with 255 on its right, and the prediction, nine 1s, shifted"
figure, axes = plt.subplots(1, 2, figsize=(7, 3))
titles = "truth (255: does not count)", "prediction"
for axis, values, title in zip(axes, (TRUTH, GUESS), titles, strict=True):
    shade = np.where(values == IGNORE, 0.35, np.where(values == 1, 0.65, 0.1))
    axis.pcolormesh(shade[::-1], cmap="Greys", vmin=0, vmax=1.4, edgecolors="white", linewidth=1.5)
    for (r, c), value in np.ndenumerate(values):
        axis.text(c + 0.5, 5.5 - r, value, ha="center", va="center", fontsize=9)
    axis.set(title=title, aspect="equal")
    axis.axis("off")
plt.show()

# %% [markdown]
# Let $n_{ij}$ be the number of pixels of class $i$ that were predicted as class $j$.
#
# **Predict.** Count the four numbers in the figure.

# %% tags=["hide-output"]
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
# $$\text{pixel accuracy} = \frac{\sum_i n_{ii}}{\sum_i t_i} \qquad
# \text{mean accuracy} = \frac{1}{C} \sum_i \frac{n_{ii}}{t_i}$$
#
# $$\text{mean IU} = \frac{1}{C} \sum_i \frac{n_{ii}}{t_i + \sum_j n_{ji} - n_{ii}} \qquad
# \text{frequency-weighted IU} = \frac{1}{\sum_k t_k} \sum_i t_i\, \text{IU}_i$$
#
# The fraction in the third is $\text{IU}_i$, *intersection over union*: of all pixels that are class $i$
# in the truth, or in the prediction, or in both, the share that is in both.

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
# Of the object's 9 pixels 4 were found, and 3 wrong ones were added, so its IU is $4 / (9 + 7 - 4) = 0.33$.
# Pixel accuracy says 0.76, because the large background carries it.
#
# And the net that answers "background" everywhere? For this class the union is the whole image, so that its
# IU equals the pixel accuracy; the IU of every other class is 0, and the mean divides by their number:

# %%
assert np.isclose(lazy.mean_iou, lazy.pixel_accuracy / net.num_classes)

# %% [markdown]
# ### What does each score hide?
#
# An object of 10x10 pixels in an image of 100x100, and three predictions: nothing; a square twice as
# wide around the object; and exactly the object.
#
# **Predict.** Which of the four scores stay above 0.95 when the object is missed? Which do when it is
# painted twice as wide?

# %% tags=["hide-output"]
truth = np.zeros((100, 100), np.uint8)
truth[45:55, 45:55] = 1
print(" " * 14, "pixel acc.  mean acc.    mean IU    f.w. IU")
for name, reach in (("missed", 0), ("twice as wide", 10), ("exact", 5)):
    guess = np.zeros_like(truth)
    guess[50 - reach : 50 + reach, 50 - reach : 50 + reach] = 1
    one = ConfusionMatrix(2)
    one.update(truth, guess)
    print(f"{name:14}", *(f"{value:10.3f}" for value in one.scores().values()))

# %% [markdown]
# <details><summary>Answer</summary>
#
# Missed: pixel accuracy and frequency-weighted IU stay above 0.95. Painted twice as wide: pixel accuracy,
# mean accuracy and frequency-weighted IU do. Only mean IU is low in both cases.
#
# </details>
#
# Each score answers another question:
#
# | score | asks | hides |
# |---|---|---|
# | pixel accuracy | how many pixels are right? | small classes |
# | mean accuracy | ... of each class, on average? | small objects painted too large |
# | mean IU | how well do the areas match, class by class? | how much of the image is right |
# | frequency-weighted IU | ... with large classes counting more? | small classes, a little less |
#
# Mean IU is what papers report. Two rules belong to it. There is *one* matrix for the whole set of images, not
# a mean over images: most images lack most classes. And it has to be said what becomes of a class that no label
# has. If it was never predicted either, its IU is 0/0, and everybody leaves it out. If it was predicted, its IU
# is 0, and there are two conventions: the usual script (`np.nanmean` over all IUs) counts that 0, while this
# package leaves the class out, as the truth says nothing about it. On a validation list that has all classes
# the two agree; on a few pictures they may be far apart:

# %%
counts = np.array([[8, 2, 0], [1, 8, 1], [0, 0, 0]])  # class 2: predicted once, never labelled
right, union = np.diag(counts), counts.sum(axis=1) + counts.sum(axis=0) - np.diag(counts)
iou = right / union
usual, ours = np.nanmean(iou), iou[counts.sum(axis=1) > 0].mean()
print(f"mean IU {usual:.3f} by the usual script, {ours:.3f} over the classes that the truth has")
assert np.isclose(usual, 0.465, atol=5e-4) and np.isclose(ours, 0.697, atol=5e-4)

# %% [markdown]
# So say by which convention a mean IU was computed, above all where it is one of few pictures.
#
# ## What is 255?
#
# VOC's labels have a thin border of 255 around each object, as Chelsea's has. No two people would draw an
# outline alike, to the pixel, and where does a whisker end? So these pixels count for nothing, neither in
# scores nor in the loss: to learn them would be to learn noise, and to score them would be to score by it.
#
# Label images are PNGs whose pixels *are* class numbers. A palette beside them says in which colour a
# viewer shows each number; VOC's has cream for 255:

# %% tags=["hide-input"] alt="A bar of VOC's 21 class colours, from black for background 0 to blue for tvmonitor 20, and beige for 255"
figure, axis = plt.subplots(figsize=(9, 1.7))
names = [*(f"{name} {k}" for k, name in enumerate(VOC_CLASSES)), "255"]
strip = palette()[[*range(21), IGNORE]][None]
axis.imshow(strip, aspect="auto")
axis.set_xticks(range(22), names, rotation=60, fontsize=9, ha="right", rotation_mode="anchor")
axis.spines[:].set_visible(False)
axis.set(yticks=[], title="VOC's 21 classes and the label that does not count")
plt.show()

# %% [markdown]
# **Predict.** You resize a photograph to half its size, and its label image with the same tool, which
# averages neighbouring pixels. Between a pixel of class 2 and one of class 12 it puts their mean. Which class
# is that?

# %% tags=["hide-output"]
two = Image.fromarray(np.array([[2, 12]], np.uint8))
for how in (Image.Resampling.BILINEAR, Image.Resampling.NEAREST):
    row = np.asarray(two.resize((3, 1), how))[0]
    print(f"{how.name:10}{row}", *(VOC_CLASSES[k] for k in row))
    assert (7 in row) == (how.name == "BILINEAR") and VOC_CLASSES[7] == "car"

# %% [markdown]
# <details><summary>Answer</summary>
#
# It is class 7: where a bicycle meets a dog, there is now a car.
#
# </details>
#
# The mean of two class numbers means nothing, so labels may only be resized by the nearest neighbour.
#
# ## My own data set
#
# The package reads any folder in VOC's layout. Here is one, made from three of the drawn
# pictures and read back:

# %%
with tempfile.TemporaryDirectory() as folder:
    write_voc(Shapes("train", length=2), folder, "train")
    write_voc(Shapes("val", length=1), folder, "val")
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    print(*sorted(path.relative_to(folder).as_posix() for path in files), sep="\n")
    read = VOCSegmentation(folder, "train")
    assert read.classes == training.classes
    assert all(np.array_equal(*pair) for pair in zip(read[1], training[1], strict=True))

# %% [markdown]
# Photographs in `JPEGImages` (PNGs, too, in spite of its name), labels of the same names in
# `SegmentationClass`, a list of names for each split, and the names of the classes. With such a folder, `python
# -m tinyfcn.train --data FOLDER --out runs/mine` trains on it; [Training](09_training.ipynb#My-own-data-set)
# says what to expect of a few hundred pictures.
#
# ## Why not a classifier at every pixel?
#
# You could also cut out a patch around each of Chelsea's pixels, let a classifier look at the patch, and so
# label the pixel in its middle. That is how it was done before FCN (by Ciresan et al. 2012, for instance).
# A classifier like VGG16 takes patches of 224x224.
#
# **Predict.** How many patches are that for her photograph, and what share of its pixels does a patch have
# in common with its neighbour?

# %% tags=["hide-output"]
height, width, _ = photograph().shape
overlap = 1 - 1 / 224  # two patches of 224 pixels, one pixel apart
print(f"{height * width:,} patches; neighbours share {overlap:.1%} of their pixels")

# %% [markdown]
# Nearly the same would be computed again and again. A network that is nothing but convolutions computes it
# once, for all places, because a convolution does the same everywhere. That is the idea of the paper in one
# sentence. The rest is how, and each step has a notebook:
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
# | [11. Winograd's convolution](11_winograd.ipynb) | three of four multiplications left out |
# | [12. A GPU, measured](12_gpu.ipynb) | what a GPU does, and what it waits for |
#
# ## Exercises

# %% [markdown]
# ### Exercise 1: count
#
# Write the confusion matrix without a loop over pixels.
#
# <details><summary>Hint 1</summary>
#
# Give each pair of classes (truth, prediction) a number of its own, so that there is one number at each pixel.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $i C + j$ is such a number, if it fits into the array's type, and `np.bincount` counts how often each occurs.
#
# </details>


# %% tags=["exercise"]
def confusion(truth, guess, num_classes):
    """Counts (num_classes, num_classes) of two uint8 arrays; 255 in truth does not count."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    check_rng = np.random.default_rng(1)
    a, b = check_rng.integers(0, 21, (2, 60, 80)).astype(np.uint8)
    a[check_rng.random(a.shape) < 0.2] = 255
    b[b == 20] = 0  # a class that is never predicted
    matrix = ConfusionMatrix(21)
    matrix.update(a, b)
    found, expected = confusion(a, b, 21), matrix.counts
    assert found.shape == (21, 21), (
        f"shape {found.shape}, expected (21, 21): did you ask for minlength?"
    )
    assert not np.array_equal(found, expected.T), "rows are the truth, columns the prediction"
    lost = int(found.sum()) - int((a != 255).sum())
    assert lost == 0, f"{lost:+} pixels: does 255 count in it, or is something else left out?"
    wrong = np.argwhere(found != expected)
    assert not len(wrong), (
        f"wrong at row, column {wrong[0]}: do all your numbers fit into {a.dtype}?"
    )

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
# Compute mean IU from a confusion matrix in which some classes may have no pixel in the truth. By this
# package's convention those are left out of the mean, even if they were predicted.
#
# <details><summary>Hint 1</summary>
#
# For each class you need three numbers: the intersection is on the diagonal, and the sums of a row and of a
# column are how often the class is in the truth and in the prediction.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Row plus column counts the intersection twice. Choose the classes before you divide, or you divide by 0.
#
# </details>


# %% tags=["exercise"]
def mean_iu(counts):
    """Mean intersection over union of the classes that the truth has."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    found = mean_iu(np.array([[8, 2], [1, 9]]))
    assert np.isclose(found, (8 / 11 + 9 / 12) / 2), (
        f"{found:.3f}, expected the mean of 8/11 and 9/12"
    )
    found = mean_iu(np.array([[8, 2, 0], [1, 8, 1], [0, 0, 0]]))
    expected = "class 2 is not in the truth: expected the mean of 8/11 and 8/12"
    assert np.isclose(found, (8 / 11 + 8 / 12) / 2), f"{found:.3f}, but {expected}"

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
#
# <details><summary>Hint 1</summary>
#
# `palette()` is an array (256, 3): the colour of each number. You look for the row that equals the pixel.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Compare all pixels with all colours at once, by giving the picture an axis more. A pixel and a colour agree
# where all three channels do.
#
# </details>


# %% tags=["exercise"]
def decode(picture):
    """Class numbers (H, W) uint8 of a picture (H, W, 3) uint8 in the colours of `palette()`."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    classes = np.random.default_rng(2).permutation([*range(21), 255, 0, 5])
    classes = classes.astype(np.uint8).reshape(4, 6)
    found = decode(palette()[classes])
    assert found.shape == (4, 6), f"shape {found.shape}, expected (4, 6)"
    assert found.dtype == np.uint8, f"dtype {found.dtype}, expected uint8"
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
# All three channels must agree, since many classes share one or two of them. If you look for the nearest
# colour instead, leave uint8 before you square a difference: in uint8, the square of 64 is 0.
#
# </details>

# %% [markdown]
# Next: Chelsea meets the operation of which everything else is made, [Convolution](02_convolution.ipynb).
