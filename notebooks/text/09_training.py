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
# # 9. Training
#
# Somebody shows a network six hundred pictures and says one word about each: "zebra", "tiger", "dalmatian",
# "leopard". Never a word about *where* the animal is. Then she asks it to paint every pixel of a picture with three
# animals in it. How much of that can it know already, and what has to be added so that it paints along the outlines?
#
# That question is the whole paper. ImageNet says one word about each of a million photographs, VGG16 learns to say
# it, and an FCN turns what VGG16 has learned into a label at every pixel. Here you do the same from beginning to end,
# in two minutes instead of two weeks: you train the classifier, make it convolutional, and see with your own numbers
# what fine-tuning is worth and what each skip is worth. Then you break the training in four ways, so that you will
# recognise each of them later.
#
# Takes about 65 minutes. It builds on [The network](07_fcn.ipynb) and [VGG16's weights](08_weights.ipynb).

# %% tags=["setup", "hide-input"]
import os

os.environ["TQDM_DISABLE"] = "1"  # no progress bars on these pages

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from tinyfcn import ops
from tinyfcn.data import IGNORE, Shapes, VOCSegmentation, normalise, shapes, write_voc
from tinyfcn.data.loader import make_batch
from tinyfcn.errors import InputError
from tinyfcn.inference import evaluate, predict
from tinyfcn.lesson import (
    COLOURS,
    WORDS,
    attempt,
    fastest,
    labelled_squares,
    paint,
    recorded,
    see,
    show_source,
    vgg16,
)
from tinyfcn.metrics import SCORES, ConfusionMatrix
from tinyfcn.models import Classifier, FCN8s, FCN16s, FCN32s
from tinyfcn.models.vgg import VGG
from tinyfcn.optim import SCHEDULES, SGD, Adam, poly
from tinyfcn.run import Config
from tinyfcn.training import build_optimiser, train_step

BLUE, ORANGE, GREEN, PINK, SKY, RED, _, BLACK = COLOURS
TEMPORARY = TemporaryDirectory()  # where this notebook writes
FOLDER = Path(TEMPORARY.name)

# %% tags=["setup", "hide-input"]
WHITE, TAN = (0.9, 0.9, 0.9), (0.95, 0.6, 0.15)
ANIMALS = {
    "zebra": (shapes.stripes, WHITE),
    "tiger": (shapes.stripes, TAN),
    "dalmatian": (shapes.dots, WHITE),
    "leopard": (shapes.dots, TAN),
}
CLASSES = ("background", *ANIMALS)
PALETTE = np.zeros((256, 3))
PALETTE[0] = 0.92, 0.92, 0.92  # background
PALETTE[1:5] = [plt.matplotlib.colors.to_rgb(colour) for colour in COLOURS[:4]]
PALETTE[IGNORE] = 1, 1, 1  # contours, which do not count


def draw(rng, animals, side=96, radii=(14, 38)):
    """A picture of so many animals, the class of every pixel, and the last animal's number."""
    y, x = np.mgrid[:side, :side].astype(np.float32) + 0.5
    meadow, light = shapes.random_colour(rng), shapes.random_colour(rng) - 0.5
    meadow = meadow.mean() + 0.6 * (meadow - meadow.mean())
    canvas = meadow + 0.2 * shapes.clouds(rng, x, y)[..., None] * light
    label = np.zeros((side, side), np.uint8)
    for _ in range(animals):
        number = int(rng.integers(len(ANIMALS)))
        skin, fur = list(ANIMALS.values())[number]
        radius = float(np.exp(rng.uniform(*np.log(radii))))
        across, down = rng.uniform(0.8 * radius, side - 0.8 * radius, 2)
        outline, turn = int(rng.integers(1, 7)), rng.uniform(0, 2 * np.pi)
        distance = shapes.Thing(outline, (across, down), radius, turn).distance(x, y)
        light_fur = (np.array(fur) + rng.uniform(-0.1, 0.1, 3)).astype(np.float32)
        dark_fur = rng.uniform(0, 0.25, 3).astype(np.float32)
        pattern = 0.5 + 0.5 * skin(rng, 1.5 * x, 1.5 * y)[..., None]
        shapes.blend(canvas, light_fur + pattern * (dark_fur - light_fur), distance)
        label[distance < 1.5] = IGNORE  # a contour of three pixels, as VOC has it
        label[distance < -1.5] = 1 + number
    canvas += 0.06 * (rng.random(canvas.shape, np.float32) - 0.5)
    return (255 * np.clip(canvas, 0, 1)).round().astype(np.uint8), label, number


def show(axis, picture, title=""):
    """An image, or a label in this page's colours."""
    axis.imshow(PALETTE[picture] if picture.ndim == 2 else picture // 8 * 8)  # keeps the page small
    axis.set_title(title, size=10)
    axis.set_axis_off()


def smooth(losses, over=10):
    """Means of so many steps, with the step in their middle."""
    count = len(losses) // over
    means = np.reshape(losses[: count * over], (count, over)).mean(axis=1)
    return (np.arange(count) + 0.5) * over, means


# %% tags=["hide-input"] alt="Eight pictures of patterned shapes with one word each, as zebra or tiger, and the question: a picture with three, and what is where"
HERD = draw(np.random.default_rng(214), 3, side=160, radii=(28, 44))[:2]
top = ["a", "b", "c", "d", "herd", "herd", "ask", "ask"]
low = ["e", "f", "g", "h", "herd", "herd", "ask", "ask"]
figure, axes = plt.subplot_mosaic([top, low], figsize=(8, 2.4))
for index, name in enumerate("abcdefgh"):
    image, _, number = draw(np.random.default_rng([3, index]), 1, radii=(19, 38))
    show(axes[name], image, CLASSES[1 + number])
show(axes["herd"], HERD[0], "What it is asked")
axes["ask"].text(0.5, 0.42, "?", size=80, ha="center", color="0.6")
axes["ask"].set_title("what is where", size=10)
axes["ask"].set_axis_off()
figure.suptitle("What it is told: one word a picture", x=0.25, size=11);

# %% [markdown]
# The animals are made up. What tells one from the others is its skin, stripes or dots, together with its fur, white
# or tan: a zebra is striped and white, a tiger striped and tan, a dalmatian dotted and white, a leopard dotted and
# tan. So neither colour nor pattern is enough alone. The outline says nothing (any animal may be a star), and neither
# does the meadow. The folded cell above draws them, with the brushes of `tinyfcn/data/shapes.py`.
#
# ## First, a classifier
#
# VGG16 is too much for two minutes, so here is a VGG of eight layers: the first convolution of each of VGG16's
# blocks, an eighth of the channels, and an `fc6` that sees a map of 3x3 units, for pictures of 96x96 pixels. In this
# package a trunk is data, so it takes one line to describe, and one line for each network that stands on it.

# %% tags=["setup"]
first_of_each = tuple(block._replace(convs=block.convs[:1]) for block in VGG.blocks)
TRUNK = VGG._replace(blocks=first_of_each, fc6=3, image_size=96)


class SmallVGG(Classifier):
    backbone = TRUNK


class Small32s(FCN32s):
    backbone = TRUNK


class Small16s(FCN16s):
    backbone = TRUNK


class Small8s(FCN8s):
    backbone = TRUNK


NETS = {"fcn32s": Small32s, "fcn16s": Small16s, "fcn8s": Small8s}
WIDTH, HIDDEN = 1 / 8, 128

# %% [markdown]
# Six hundred pictures with one animal each, and one word for each. The loss is the softmax cross-entropy of [notebook
# 6](06_loss.ipynb), on a "picture" of one pixel: a classifier labels the image as if it were a single pixel.

# %%
def one_animal(seed, count):
    drawn = [draw(np.random.default_rng([seed, k]), 1, radii=(19, 38)) for k in range(count)]
    return np.stack([image for image, _, _ in drawn]), np.array([number for *_, number in drawn])


def classifier_step(net, optimiser, images, words, factor):
    update = optimiser.begin(net.trainable(), factor)
    scores = net.forward(normalise(images, net.preprocessing), training=True)  # (N, 4)
    as_pixels = scores[:, :, None, None], words[:, None, None]
    loss, cache = ops.softmax_cross_entropy_forward(*as_pixels)
    dscores = ops.softmax_cross_entropy_backward(1.0, cache)
    net.backward(dscores[:, :, 0, 0], update=update)
    return float(loss)


images, words = one_animal(seed=10, count=600)
others, their_words = one_animal(seed=11, count=100)
classifier = SmallVGG(len(ANIMALS), WIDTH, hidden=HIDDEN, dropout=0.0)
optimiser, losses, rng = Adam(2e-3), [], np.random.default_rng(0)
for step in range(300):
    chosen = rng.integers(0, len(images), 16)
    batch = images[chosen][:, :, :: rng.choice([-1, 1])]  # half of them as in a mirror
    losses.append(classifier_step(classifier, optimiser, batch, words[chosen], poly(step / 300)))

said = classifier.forward(normalise(others, classifier.preprocessing)).argmax(axis=1)
right = np.mean(said == their_words)
print(f"right about {right:.0%} of 100 pictures that it has not seen; by chance it would be 25%")
assert right > 0.85

# %% tags=["hide-input"] alt="Loss of the classifier over 300 steps: it falls from above log 4 nearly to 0"
figure, axis = plt.subplots(figsize=(8, 2.6))
axis.plot(*smooth(losses))
axis.axhline(np.log(4), color=BLACK, lw=1, ls=":", label="log 4: knows nothing")
axis.set(xlabel="step", ylabel="loss", ylim=(0, None))
axis.set_title("Below log 4, it knows something")
axis.legend(frameon=False);

# %% [markdown]
# Keep the file, for it is this page's VGG16. Everything below starts from it.

# %%
trunk = FOLDER / "trunk.safetensors"
classifier.save(trunk)

# %% [markdown]
# ## What does it know about where?
#
# Now slide the classifier over a larger picture. You need not cut crops: `fc6` becomes a convolution by 3x3, `fc7`
# and `fc8` become 1x1 ([notebook 4](04_fully_connected.ipynb)), and the result is an FCN-32s with four classes. Not a
# single weight is new and not a single step of training has been done.

# %%
VAL = [draw(np.random.default_rng([2, k]), 1 + k % 3)[:2] for k in range(64)]

heat = Small32s(len(ANIMALS), WIDTH, "same", hidden=HIDDEN)
renamed = {name.replace("fc8", "score_fr"): p.copy() for name, p in classifier.params.items()}
renamed["score_fr.weight"] = renamed["score_fr.weight"][:, :, None, None]  # (4, 128, 1, 1)
heat.assign(renamed, None, source="the classifier")

# %% [markdown]
# **Predict.** Take the pixels that lie on an animal, in pictures with up to three. For how many of them is this
# network's highest score the right word? With its eyes shut it would be a quarter.

# %% tags=["hide-output"]
hits = [1 + predict(heat, image) == label for image, label in VAL]
on_animals = [(label > 0) & (label != IGNORE) for _, label in VAL]
known = np.concatenate(hits)[np.concatenate(on_animals)].mean()
print(f"{known:.0%} of the pixels on an animal get the right word")
assert known > 0.5

# %% [markdown]
# <details><summary>Answer</summary>
#
# Well over half, though nobody ever told it where anything is. What it was told is enough to *say* "zebra", and the
# only way to say that reliably is to have units that answer to white stripes wherever they are. Those units lie on a
# map. The place was in the network all along, and a classifier only throws it away in its last layers.
#
# </details>

# %% tags=["hide-input"] alt="A picture with three animals and the classifier's heat maps: zebra, tiger and dalmatian are bright where they are, leopard nowhere"
x = normalise(HERD[0][None], heat.preprocessing)
shares = np.exp(heat.forward(x)[0])
shares /= shares.sum(axis=0)
figure, axes = plt.subplots(1, 5, figsize=(8, 2.1))
show(axes[0], HERD[0], "picture")
for axis, name, share in zip(axes[1:], ANIMALS, shares, strict=True):
    axis.imshow(HERD[0].mean(axis=2) // 16 * 16, cmap="gray", vmin=-150, vmax=255)
    axis.imshow(share, cmap="inferno", alpha=0.75, vmin=0, vmax=1)
    axis.set_title(name, size=10)
    axis.set_axis_off()
figure.suptitle("Where the classifier sees each animal (bright: probable)", size=11);

# %% [markdown]
# Two things are missing. It has no word for "nothing here", so that the meadow must be *some* animal. And its scores
# lie 32 pixels apart, so that it can only point roughly. The first is a matter of training, the second of the skips,
# and you can now measure what each is worth.
#
# ## One step
#
# Everything from here on is a repetition of one function of the package:

# %%
show_source(train_step)

# %% [markdown]
# Scores, loss, the gradient at the scores, the backward pass. The optimiser is in it as `update`: it gets each
# gradient the moment it is final, so that all gradients never exist together. (`ranks` are processes that train
# together; here is one.) Around the step stands a loop that you could have written:

# %%
TRAIN = [draw(np.random.default_rng([1, k]), 1 + k % 3)[:2] for k in range(300)]
STEPS = 250


def configure(model, **options):
    return Config(**{"model": model, "hidden": HIDDEN, "steps": STEPS} | options)


def new_net(config, start=None):
    """A network as configured, started from the weights in a file as far as they fit."""
    net = NETS[config.model](
        len(CLASSES), config.width, config.padding,
        hidden=config.hidden, dropout=config.dropout, freeze_trunk=config.freeze_trunk,
    )
    if start is not None:
        net.load(start, partial=True)
    return net


def train(config, start=None, dataset=TRAIN, watch=None, every=50):
    """The loop of `tinyfcn/training.py` without its files: the network, and each step's loss."""
    net, optimiser, losses = new_net(config, start), build_optimiser(config), []
    for step in range(config.steps):
        pixels, labels = make_batch(dataset, config, step)
        x = normalise(pixels, net.preprocessing)
        factor = SCHEDULES[config.schedule](step / config.steps)
        losses.append(train_step(net, optimiser, x, labels, config.loss, factor))
        if watch is not None and (step + 1) % every == 0:
            watch(step + 1, net)
    return net, np.array(losses)


pixels, labels = make_batch(TRAIN, configure("fcn8s"), step=0)
print(pixels.shape, pixels.dtype, labels.shape, labels.dtype)

# %% tags=["hide-input"] alt="Four pictures of a batch, each beside its labels in the colours of the classes, with white contours"
figure, axes = plt.subplots(1, 8, figsize=(8, 1.5))
for k, (image, label) in enumerate(zip(pixels, labels, strict=True)):
    show(axes[2 * k], image)
    show(axes[2 * k + 1], label)
colours = [plt.Rectangle((0, 0), 1, 1, fc=PALETTE[k]) for k in range(len(CLASSES))]
figure.legend(colours, CLASSES, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
figure.suptitle("One batch, each picture beside its labels. White counts for nothing", size=11);

# %% [markdown]
# Which pictures a step takes depends on the seed and the step's number alone, so a run that is interrupted goes on
# with the batches that it would have had.

# %%
again, _ = make_batch(TRAIN, configure("fcn8s"), step=0)
other, _ = make_batch(TRAIN, configure("fcn8s"), step=1)
assert np.array_equal(pixels, again) and not np.array_equal(pixels, other)

# %% [markdown]
# ## Two checks before you train
#
# **Predict.** There are five classes, and the score layers begin at zero. What is the loss of the first step, before
# anything is learned?

# %% tags=["hide-output"]
net = new_net(configure("fcn8s"), trunk)
first = train_step(net, Adam(2e-3), normalise(pixels, net.preprocessing), labels)
print(f"{first:.6f}, and log 5 = {np.log(5):.6f}")
assert np.isclose(first, np.log(5), rtol=1e-5)

# %% [markdown]
# <details><summary>Answer</summary>
#
# All scores are 0, so each class has probability 1/5, and $-\log \frac15 = \log 5$. With random scores the loss would
# be larger, for the net would have to unlearn opinions that nobody taught it. The paper zero-initialises its scores
# as well, and finds random ones neither better nor faster (Long et al. 2015, section 4.3).
#
# </details>
#
# So with new score layers, a first loss other than $\log C$ is the first sign that something is wrong, and it costs
# you one step to see it.
#
# ## Can it learn one batch by heart?
#
# The second check takes seconds. Take one batch, always the same: a network whose parts fit together must bring its
# loss down to nearly nothing. If it cannot, no amount of data will help, because some gradient does not arrive. You start
# from random numbers, once with all layers learning and once with the score layers alone:

# %%
def learn_by_heart(steps, **options):
    config = configure("fcn8s", **options)
    net, optimiser = new_net(config), build_optimiser(config)
    x = normalise(pixels[2:], net.preprocessing)  # two of the pictures above
    pictures, losses = {}, []
    for step in range(steps):
        if step in (15, 40, 80):
            pictures[step] = net.predict(x)
        losses.append(train_step(net, optimiser, x, labels[2:]))
    return pictures | {steps: net.predict(x)}, losses


pictures, losses = learn_by_heart(160)
_, frozen = learn_by_heart(160, freeze_trunk=True)
assert losses[-1] < 0.1 and frozen[-1] > 3 * losses[-1]

# %% [markdown]
# **Predict.** How far does the loss fall if the trunk stays random? And when all layers learn, what of a picture comes first,
# and what last?

# %% tags=["hide-input", "hide-output"] alt="One batch learned by heart: with all layers the loss falls steeply, with a frozen random trunk slowly; the answers approach the truth"
rows = [["loss", "loss", "image", "truth"], ["loss", "loss", 15, 40], ["loss", "loss", 80, 160]]
figure, axes = plt.subplot_mosaic(rows, figsize=(8, 4.2))
axes["loss"].semilogy(losses, label="all layers learn")
axes["loss"].semilogy(frozen, label="trunk frozen at random")
axes["loss"].axhline(np.log(5), color=BLACK, lw=1, ls=":", label="log 5")
axes["loss"].set(xlabel="step", ylabel="loss", title="One batch, again and again")
axes["loss"].legend(frameon=False, loc="lower left")
show(axes["image"], pixels[3], "image")
show(axes["truth"], labels[3], "truth")
for step, prediction in pictures.items():
    show(axes[step], prediction[1], f"after {step} steps")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Some of it, slowly: that is what a curve looks like when a gradient stops half way. With all layers learning, large
# parts come first, and corners and thin parts last, since they are not much coarser than the grid of 8 pixels on
# which the scores lie.
#
# </details>
#
# This check finds gradients that stop. A single layer that does not learn can escape it, because others make up for
# it; that is what a gradient check is for. Labels that belong to another picture escape it as well, since nonsense
# can be learned by heart. For that, look at the batch, as you did above.
#
# ## What does a net without eyes score?
#
# Before you train anything, you should know what no training is worth.
#
# **Predict.** Four fifths of these pixels are meadow. What pixel accuracy, and what mean IU over the five classes,
# do you get by answering "background" everywhere?

# %% tags=["hide-output"]
labels_alone = ConfusionMatrix(len(CLASSES))
for _, label in VAL:
    labels_alone.update(label, np.where(label == IGNORE, 0, label))
BASELINE = labels_alone.constant_baseline().scores()
print(*(f"{name.replace('_', ' ')} {score:.3f}" for name, score in BASELINE.items()), sep="\n")
assert np.isclose(BASELINE["mean_iou"], BASELINE["pixel_accuracy"] / 5)

# %% [markdown]
# <details><summary>Answer</summary>
#
# The pixel accuracy is the background's share of the pixels, which sounds good for an answer that was given with
# shut eyes. Mean IU is harder to please: the background's IU is that same share, the four others are 0, and the
# mean divides by five.
#
# </details>
#
# Every score below stands beside this one. The loss has such a baseline too. If you know nothing but the classes'
# shares $p_c$ of the pixels, and answer with them everywhere, your mean loss is $-\sum_c p_c \log p_c$:

# %%
shares = np.bincount(np.concatenate([label[label != IGNORE] for _, label in TRAIN])) / sum(
    np.count_nonzero(label != IGNORE) for _, label in TRAIN
)
LOSS_OF_SHARES = -(shares * np.log(shares)).sum()
print(f"loss of the shares: {LOSS_OF_SHARES:.3f}; of a net that knows nothing: {np.log(5):.3f}")

# %% [markdown]
# ## From words to places: 32s-fixed, 32s, 16s, 8s
#
# Four networks start from the classifier's file, and each gets the same 250 steps on the same batches:
#
# - **32s-fixed**: the trunk stays as the classifier left it, and only a new score layer learns, 128 numbers a class;
# - **32s**: the same network, and all its layers learn;
# - **16s**: with a second score layer, on pool4;
# - **8s**: with a third, on pool3.
#
# Two more start from random numbers, so that you see what the six hundred words are worth.

# %%
def watch_scores(found, few=VAL[:16]):
    """Note the mean IU on some of the held-out pictures."""
    return lambda step, net: found.append((step, evaluate(net, few).mean_iou))


RUNS = {
    "32s-fixed": (configure("fcn32s", freeze_trunk=True, lr=1e-2), trunk),
    "32s": (configure("fcn32s"), trunk),
    "16s": (configure("fcn16s"), trunk),
    "8s": (configure("fcn8s"), trunk),
    "32s, random": (configure("fcn32s"), None),
    "8s, random": (configure("fcn8s"), None),
}
nets, curves, ROWS = {}, {}, {"one class": BASELINE}
for name, (config, start) in RUNS.items():
    curves[name] = []
    nets[name], _ = train(config, start, watch=watch_scores(curves[name]))
    nets[name].save(FOLDER / f"{name}.safetensors")
    ROWS[name] = evaluate(nets[name], VAL).scores()

# %% [markdown]
# **Predict.** Order the first four, and guess their mean IU: background everywhere has about 0.16. Is the step from
# 32s to 16s larger or smaller than the one from 16s to 8s?

# %% tags=["hide-output"]
print(f"{'':12}", *(f"{name.replace('_', ' '):>24}" for name in SCORES))
for name, scores in ROWS.items():
    print(f"{name:12}", *(f"{scores[score]:24.3f}" for score in SCORES))
IOU = {name: scores["mean_iou"] for name, scores in ROWS.items()}
assert 2 * IOU["one class"] < IOU["32s-fixed"] < IOU["32s"] - 0.05
assert IOU["32s"] < IOU["16s"] - 0.05 and IOU["16s"] < IOU["8s"] - 0.02
assert IOU["32s, random"] < IOU["32s"] - 0.1

# %% [markdown]
# <details><summary>Answer</summary>
#
# Each of them beats the one before. On frozen features, 5 x 128 weights and 5 biases are enough for more than twice
# the baseline, and so the classifier did know where. Letting the trunk learn teaches it what a meadow is. Then
# the skips pay most, the first one more than the second: halving the distance between scores from 32 pixels to 16
# brings back more outlines than halving it again.
#
# </details>

# %% tags=["hide-input"] alt="Mean IU over 250 steps: 32s-fixed is lowest, then 32s, 16s and 8s; without the classifier's weights, 32s and 8s start later"
figure, axis = plt.subplots(figsize=(8, 3.6))
styles = dict(zip(RUNS, (PINK, BLUE, ORANGE, GREEN, SKY, RED), strict=True))
for name, found in curves.items():
    style = {"ls": "--", "marker": "s"} if "random" in name else {"marker": "o"}
    steps, scores = np.transpose([(0, BASELINE["mean_iou"]), *found])
    axis.plot(steps, scores, color=styles[name], ms=4, label=name, **style)
axis.axhline(BASELINE["mean_iou"], color=BLACK, lw=1, ls=":", label="background everywhere")
axis.set(xlabel="step", ylabel="mean IU, held out", ylim=(0, 1), title="Equal steps, equal batches")
figure.legend(loc="outside right center", frameon=False);

# %% [markdown]
# The two dashed curves have no classifier behind them. A 32s from random numbers has to learn everything through one
# score every 32 pixels, and gets nowhere near. An 8s helps itself to pool3, to which the gradient has a short way: it
# is behind for a hundred steps, and in the end it has nearly caught up. For an easy task and three hundred
# labelled pictures that will do. Photographs are not so kind, as you will see below.

# %% tags=["hide-input"] alt="Held-out pictures and the answers of 32s-fixed, 32s, 16s and 8s beside the truth: from blobs to corners and holes"
EXAMPLES = [1, 7, 22, 62]
figure, axes = plt.subplots(4, 6, figsize=(8, 5.7))
for row, index in zip(axes, EXAMPLES, strict=True):
    image, label = VAL[index]
    answers = [predict(nets[name], image) for name in ("32s-fixed", "32s", "16s", "8s")]
    titles = ("image", "32s-fixed", "32s", "16s", "8s", "truth")
    for axis, picture, title in zip(row, [image, *answers, label], titles, strict=True):
        show(axis, picture, title if index == EXAMPLES[0] else "")
figure.suptitle("Held-out pictures, as in the paper's Figure 4", size=11);

# %% [markdown]
# Read a row from left to right. The frozen trunk says *what* and roughly where, in blobs. Fine-tuned, the blobs have
# the right size. The skips give them corners, and the hole of a ring.
#
# ## The same story in photographs
#
# This package's own runs on street scenes (CamVid's validation list, from VGG16's real weights, 400 steps each) lie
# in `data/results`, three seeds for each network; the paper's Table 2 has VOC.

# %%
def of_camvid(stage):
    """The mean scores of a stage's three runs, as their files have them."""
    runs = [recorded(f"h100-{stage}-{seed}") for seed in range(3)]
    assert {run["step"] for run in runs} == {400}
    scores = {score: np.mean([run["scores"][score] for run in runs]) for score in SCORES}
    return scores, runs[0]["baseline"]


STAGES = {"32s-fixed": "fixed", "32s": "32s", "16s": "16s", "8s": "8s"}
CAMVID = {"one class": of_camvid("fixed")[1]}
CAMVID |= {name: of_camvid(stage)[0] for name, stage in STAGES.items()}
PAPER = {"32s-fixed": (83.0, 59.7, 45.4, 72.0), "32s": (89.1, 73.3, 59.4, 81.4)}
PAPER |= {"16s": (90.0, 75.7, 62.4, 83.0), "8s": (90.3, 75.9, 62.7, 83.2)}
VOC = {name: dict(zip(SCORES, np.array(row) / 100, strict=True)) for name, row in PAPER.items()}
print("mean IU     animals   CamVid   VOC (the paper)")
for name in CAMVID:
    voc = f"{VOC[name]['mean_iou']:9.3f}" if name in VOC else ""
    print(f"{name:10} {IOU[name]:8.3f} {CAMVID[name]['mean_iou']:8.3f} {voc}")
for table in CAMVID, VOC:
    rising = [row["mean_iou"] for row in table.values()]
    assert rising == sorted(rising)

# %% tags=["hide-input"] alt="Four scores of each network as bars, for animals, CamVid and VOC: they rise from 32s-fixed to 8s in all three"
figure, axes = plt.subplots(1, 3, figsize=(8, 3.4), sharey=True)
tables = {"animals, 250 steps": ROWS, "CamVid, 400 steps": CAMVID, "VOC: the paper": VOC}
for axis, (title, table) in zip(axes, tables.items(), strict=True):
    rows = [name for name in ("one class", *STAGES) if name in table]
    for k, score in enumerate(SCORES):
        heights = [table[name][score] for name in rows]
        places = np.arange(len(rows)) + 0.2 * (k - 1.5)
        label = score.replace("_", " ").replace("iou", "IU")
        axis.bar(places, heights, 0.2, color=COLOURS[k], label=label)
    ticks = [name.replace("32s-", "").replace("one ", "one\n") for name in rows]
    axis.set_xticks(range(len(rows)), ticks, size=8)
    axis.set_title(title, size=10)
axes[0].set(ylabel="score", ylim=(0, 1))
handles = axes[0].get_legend_handles_labels()
figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False);

# %% [markdown]
# The order is the same in all three, and the distances are not. VGG16's frozen features are worth more than our
# classifier's: a million photographs with a thousand words teach more than six hundred pictures with four. Our skips
# are worth more, since many of our animals are hardly wider than 32 pixels. And from 16s to 8s photographs gain
# little, in CamVid no more than what another seed changes. So a skip is worth what the outlines are worth, and you can
# only find out on your own pictures.
#
# What is the classifier worth in photographs? With random weights in place of VGG16's, the same FCN-8s with the same
# 4,000 steps:

# %%
for name, what in ("h100-camvid-scratch", "from random numbers"), ("h100-camvid-8s", "from VGG16"):
    run = recorded(name)
    iou = run["scores"]["mean_iou"]
    print(f"CamVid, FCN-8s {what}: mean IU {iou:.3f} after {run['step']:,} steps")

# %% [markdown]
# ### And Chelsea?
#
# She has come along all the way, and now VGG16's own convolutions are fine-tuned for her. The pictures are squares of the
# four free photographs, and their labels are cut up like a chessboard: the networks are told every other field, and marked
# on the fields in between.
#
# So that it takes seconds, all layers up to conv5_2 run just once, and the first score layer sits on pool5. (With `--init`,
# the package trains all of VGG16, and fc6 and fc7 as well.) 32s-fixed learns its score layer alone; in the others conv5_3
# learns, too. All get the same 30 steps.

# %% tags=["hide-input"]
VGG16_FILE = os.environ.get("TINYFCN_VGG16", "vgg16_notop.h5")  # VGG16's weights: see README.md
vgg = vgg16(VGG16_FILE)
photos, truths = labelled_squares()
hidden = (np.indices((128, 128)) // 16).sum(axis=0) % 2 == 1
told, untold = np.where(hidden, IGNORE, truths), np.where(hidden, truths, IGNORE)
seen = [see(vgg, photo) for photo in photos]
maps = {name: np.stack([each[name] for each in seen]) for name in seen[0]}
alike = {k: 1 / np.sqrt((maps[k] ** 2).mean()) for k in ("pool3", "pool4", "pool5")}


def fine_tune(skips=(), conv5_3=True, steps=30):
    """What each pixel is called by score layers on pool5 and the skips, learned from `told`."""
    params, trunk = {}, {k: vgg.params[k].copy() for k in ("conv5_3.weight", "conv5_3.bias")}
    for k in ("pool5", *skips):
        params[f"{k}.weight"] = np.zeros((len(WORDS), maps[k].shape[1], 1, 1), np.float32)
        params[f"{k}.bias"] = np.zeros(len(WORDS), np.float32)
    optimiser, slow, caches, grads = Adam(1e-3), Adam(3e-4), {}, {}

    def score(k, features):
        layer = params[f"{k}.weight"], params[f"{k}.bias"]
        y, caches[k] = ops.conv2d_forward(alike[k] * features, *layer)
        return y

    def score_backward(k, dy):
        dx, grads[f"{k}.weight"], grads[f"{k}.bias"] = ops.conv2d_backward(dy, caches[k])
        return alike[k] * dx

    def enlarge(k, x, stride, size):
        window = (slice(stride // 2, stride // 2 + size),) * 2
        y, caches[f"up to {k}"] = ops.upsample_bilinear_forward(x, 2 * stride, stride, window)
        return y

    def forward():
        y, caches["conv"] = ops.conv2d_forward(
            maps["conv5_2"], *trunk.values(), padding=1, relu=True
        )
        y, caches["pool"] = ops.max_pool2d_forward(y, 2, ceil_mode=True)
        total = score("pool5", y)
        for k in skips:
            skip = score(k, maps[k])
            total = skip + enlarge(k, total, 2, skip.shape[2])
        return enlarge("image", total, 128 // total.shape[2], 128)

    for step in range(steps):
        _, cache = ops.softmax_cross_entropy_forward(forward(), told)
        d = ops.softmax_cross_entropy_backward(1.0, cache)
        d = ops.upsample_bilinear_backward(d, caches["up to image"])
        for k in reversed(skips):
            score_backward(k, d)
            d = ops.upsample_bilinear_backward(d, caches[f"up to {k}"])
        d = ops.max_pool2d_backward(score_backward("pool5", d), caches["pool"])
        factor = poly(step / steps)
        optimiser.step(params, grads, factor)
        if conv5_3:
            _, *moves = ops.conv2d_backward(d, caches["conv"], need_dx=False)
            slow.step(trunk, dict(zip(trunk, moves, strict=True)), factor)
    return forward().argmax(axis=1)


answers, marks = {"32s-fixed": fine_tune(conv5_3=False), "32s": fine_tune()}, {}
answers |= {"16s": fine_tune(["pool4"]), "8s": fine_tune(["pool4", "pool3"])}
for name, answer in answers.items():
    matrix = ConfusionMatrix(len(WORDS))
    matrix.update(untold, answer)
    marks[name] = matrix.mean_iou

# %% [markdown]
# **Predict.** Do the four come out in the same order? And where on a photograph will you see what a skip brings?

# %% tags=["hide-input", "hide-output"] alt="Four photographs, the half of their labels that is told, and four answers: from 32s-fixed to 8s the cat, the people and the saucer get outlines"
figure, axes = plt.subplots(4, 6, figsize=(7, 5.2))
columns = {"photograph": photos // 16 * 16, "told": told} | answers  # keeps the page small
for column, (name, pictures) in zip(axes.T, columns.items(), strict=True):
    for axis, picture in zip(column, pictures, strict=True):
        axis.imshow(picture if picture.ndim == 3 else paint(picture))
        axis.set_axis_off()
    mark = f"\n{marks[name]:.3f}" if name in marks else "\n"
    column[0].set_title(f"{name}{mark}", size=10)
figure.suptitle("Mean IU on what they were not told", size=11)
plt.show()
rising = list(marks.values())
assert rising == sorted(rising) or not os.path.exists(VGG16_FILE)

# %% [markdown]
# <details><summary>Answer</summary>
#
# They do. 32s-fixed says where things are, and little more. Once conv5_3 learns, Chelsea's cheek slopes as it should and the
# people have heads. Each skip then rounds off what was cut straight: heads, shoulders, the saucer. (Four photographs, half
# told, say nothing of others. They show what each stage can *draw*.)
#
# </details>

# %% [markdown]
# ## Are the skips better, or is it just more training?
#
# You have seen the answer already, because all four had equal steps: it is not the training. The paper's own table
# cannot show it, because its networks were trained one after the other: the 16s begins with the 32s's weights, the
# 8s with the 16s's, and each new score layer with zeros (section 4.2). What are such stages good for?
#
# **Predict.** What does an FCN-16s score before its first step, if it starts from the trained 32s?

# %% tags=["hide-output"]
untrained = evaluate(new_net(configure("fcn16s"), FOLDER / "32s.safetensors"), VAL).mean_iou
print(f"the 32s {IOU['32s']:.3f}, the 16s that starts from it {untrained:.3f}")
assert abs(untrained - IOU["32s"]) < 0.03

# %% [markdown]
# <details><summary>Answer</summary>
#
# Very nearly what the 32s scores: `score_pool4` is zero and adds nothing. Not to the last digit, since it upsamples
# by 2 and then by 16 instead of once by 32.
#
# </details>

# %%
stage, start = {"32s": curves["32s"]}, FOLDER / "32s.safetensors"
for name in "16s", "8s":
    stage[name] = [(0, evaluate(new_net(configure(f"fcn{name}"), start), VAL[:16]).mean_iou)]
    config = configure(f"fcn{name}", steps=100)
    net, _ = train(config, start, watch=watch_scores(stage[name]), every=25)
    start = FOLDER / f"{name}-in-stages.safetensors"
    net.save(start)
staged = evaluate(net, VAL).mean_iou
print(f"FCN-8s: {staged:.3f} in stages (450 steps), {IOU['8s']:.3f} straight (250 steps)")
assert IOU["32s"] + 0.05 < staged < IOU["8s"] + 0.05

# %% tags=["hide-input"] alt="Mean IU of 32s, 16s and 8s in stages, each beginning near the end of the last, and of an 8s straight from the classifier, which is higher"
figure, axis = plt.subplots(figsize=(8, 3))
first_step = 0
for name, colour in ("32s", BLUE), ("16s", ORANGE), ("8s", GREEN):
    steps, scores = np.transpose(stage[name])
    steps = first_step + steps
    axis.plot(steps, scores, color=colour, marker="o", ms=4, label=f"{name}, in stages")
    first_step = int(steps[-1])
    axis.axvline(first_step, color="0.85", lw=1, zorder=0)
straight = np.transpose(curves["8s"])
axis.plot(*straight, color=RED, marker="s", ms=4, ls="--", label="8s, straight from the classifier")
axis.set(xlabel="step", ylabel="mean IU, held out", ylim=(0, 1))
axis.set_title("Each stage begins near the end of the one before")
axis.legend(frameon=False, loc="lower right");

# %% [markdown]
# Here, with Adam, going step by step is a detour. The 8s that had all streams from the start was there earlier,
# because pool4's stream did not have to wait for 250 steps, nor pool3's for 350. (A stage may dip first, as the 16s
# does: it begins at the full rate, where the one before had ended at zero.)
#
# From VGG16's weights, and with plain SGD, an 8s has no such choice: its streams learn at rates that are far apart, which
# [FCN-32s, 16s, 8s](07_fcn.ipynb#Why-does-8s-not-train-from-VGG-directly?) shows and explains. Stages with falling rates are
# one remedy. Ours is another, Adam.
#
# ## What Adam's steps are like
#
# You derived Adam in [A loss at every pixel](06_loss.ipynb#Adam:-a-step-that-does-not-ask-for-the-unit). It keeps two running
# means for each weight, $m$ of the gradient and $v$ of its square; what each lacks at the start is made up for, and then
#
# $$w \leftarrow w - \eta\, \frac{\hat m}{\sqrt{\hat v} + \epsilon}, \qquad \hat m = \frac{m_t}{1 - \beta_1^t}, \quad
# \hat v = \frac{v_t}{1 - \beta_2^t}.$$
#
# **Predict.** One weight gets a gradient of one millionth at every step, another a million, and a third pure noise.
# How long are their steps, in units of $\eta$?

# %% tags=["hide-output"]
rng = np.random.default_rng(0)
params, optimiser = {"w": np.zeros(3)}, Adam(1.0, eps=0.0)
lengths = []
for _ in range(4000):
    before = params["w"].copy()
    optimiser.step(params, {"w": np.array([1e-6, 1e6, rng.normal()])})
    lengths.append(abs(params["w"] - before))
print("first step", lengths[0].round(6), "  root mean square of the last 2000",
      np.sqrt(np.mean(np.square(lengths[2000:]), axis=0)).round(3))
assert np.allclose(lengths[0], 1) and np.allclose(np.array(lengths)[:, :2], 1)

# %% [markdown]
# <details><summary>Answer</summary>
#
# For a constant gradient $\hat m / \sqrt{\hat v} = g / |g| = \pm 1$: every step is exactly $\eta$ long, whatever the
# gradient's size, and so no stream runs ahead of the others. The *first* step is always $\eta$ long, for any gradient,
# hence the bump with which curves of Adam's often begin. Noise averages out in $\hat m$ and not in $\hat v$: a running mean of
# independent numbers keeps $\sqrt{(1 - \beta_1) / (1 + \beta_1)} = 0.23$ of their size, and so steps that do not
# agree with each other are four times shorter.
#
# </details>
#
# ### Momentum
#
# SGD keeps one running sum, the velocity: $v \leftarrow m v - \eta g$, $w \leftarrow w + v$. Under a constant
# gradient the velocities add up to $\eta g (1 + m + m^2 + \dots) = \eta g / (1 - m)$, so momentum 0.9 makes steps ten
# times longer and 0.99 a hundred times.
#
# **Predict.** A valley, forty times steeper across than along. Which momentum, 0, 0.9 or 0.99, is down first, and
# which overshoots?

# %% tags=["hide-input", "hide-output"] alt="The first 60 steps in a valley for three momentums, and the loss: 0 creeps, 0.9 falls fast, 0.99 rolls past again and again"
steep = np.array([40.0, 1.0])
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
grid = np.meshgrid(np.linspace(-1.6, 1.6, 80), np.linspace(-9.5, 10.5, 80))
valley = (steep[0] * grid[0] ** 2 + steep[1] * grid[1] ** 2) / 2
left.contour(*grid, valley, levels=12, colors="0.85")
for momentum, colour in (0.0, SKY), (0.9, BLUE), (0.99, RED):
    params, path = {"w": np.array([1.0, 10.0])}, []
    optimiser = SGD(0.02, momentum, weight_decay=0.0)
    for _ in range(150):
        path.append(params["w"].copy())
        optimiser.step(params, {"w": steep * params["w"]})
    path = np.array(path)
    left.plot(*path[:60].T, color=colour, lw=1.5, marker=".", ms=3)
    loss = (steep * path**2).sum(axis=1) / 2
    right.semilogy(loss, color=colour, label=f"momentum {momentum:g}")
left.set(xlabel="$w_0$, steep", ylabel="$w_1$, flat", title="The first 60 steps")
right.set(xlabel="step", ylabel="loss", title="Too little creeps, too much rolls past")
right.legend(frameon=False);

# %% [markdown]
# <details><summary>Answer</summary>
#
# 0.9 is down first, after some swings. Without momentum the flat direction takes long; 0.99 overshoots again and
# again, and has lost little of its swing after 150 steps.
#
# </details>

# %%
params, optimiser = {"w": np.zeros(1)}, SGD(1e-3, momentum=0.99, weight_decay=0.0)
for _ in range(2000):
    before = params["w"].copy()
    optimiser.step(params, {"w": np.ones(1)})
assert np.isclose(before - params["w"], 1e-3 / (1 - 0.99), rtol=1e-6)

# %% [markdown]
# The 0.99 of the files that the authors published goes with a batch of one image: one image's gradient says little,
# and a velocity that remembers a hundred steps averages over a hundred images. The 2015 paper itself takes 20 images
# a step and 0.9 (section 4.3), which is the usual choice with batches.
#
# ### The rate's schedule
#
# A high rate finds the region, a low rate settles in it. `poly`, the default, is both: it lets the rate fall to zero at the last
# step. You can see why on the smallest loss there is, $w^2 / 2$, when each gradient comes with noise of size 1, as a batch's
# does: with a constant rate $\eta$, the noise keeps $w$ at $\sqrt{\eta / (2 - \eta)}$ from its goal for ever.
#
# **Predict.** Three runs of 150 steps from $w = 5$: at the rate 0.3, at 0.01, and at 0.3 falling to zero. Which ends closest?

# %% tags=["hide-input", "hide-output"] alt="Three schedules of the rate, and the distance from the goal: the falling rate ends lowest"
rng = np.random.default_rng(0)
ways = ("constant", 0.3, ORANGE), ("constant", 0.01, SKY), ("poly", 0.3, BLUE)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
ends = {}
for schedule, rate, colour in ways:
    rates = [rate * SCHEDULES[schedule](step / 150) for step in range(150)]
    w, away = np.full(500, 5.0), []  # 500 runs at once
    for now in rates:
        w -= now * (w + rng.normal(size=500))
        away.append(np.sqrt(np.mean(w**2)))
    ends[schedule, rate] = away[-1]
    left.plot(rates, color=colour)
    right.semilogy(away, color=colour, label=f"{schedule}, {rate:g}")
left.set(xlabel="step", ylabel="rate", title="Three schedules")
right.set(xlabel="step", ylabel="distance from the goal", title="The falling rate ends lowest")
right.legend(frameon=False)
assert np.isclose(ends["constant", 0.3], np.sqrt(0.3 / 1.7), rtol=0.15)
assert 2 * ends["poly", 0.3] < min(ends["constant", 0.3], ends["constant", 0.01])

# %% [markdown]
# <details><summary>Answer</summary>
#
# The falling one. The high rate is quick and then trembles, the low one is still on its way.
#
# </details>
#
# ### Does a second run give the same?

# %%
best = FOLDER / "8s.safetensors"


def five_steps(seed):
    net, _ = train(configure("fcn8s", steps=5, seed=seed), trunk)
    return net.params


first, second, other = five_steps(0), five_steps(0), five_steps(1)
assert all(np.array_equal(first[name], second[name]) for name in first)
assert any(not np.array_equal(first[name], other[name]) for name in first)

# %% [markdown]
# The same seed, number of threads, libraries and kind of processor give the same bits. Another seed gives other
# batches, and then another score. So is the 8s truly better than the 16s, or was it luck? Train it again with another
# seed, and look at the three seeds of each net on CamVid:

# %%
net, _ = train(configure("fcn8s", seed=1), trunk)
again = evaluate(net, VAL).mean_iou
print(f"animals: 16s {IOU['16s']:.3f}; 8s {IOU['8s']:.3f}, and with another seed {again:.3f}")
for stage in "16s", "8s":
    ious = [recorded(f"h100-{stage}-{seed}")["scores"]["mean_iou"] for seed in range(3)]
    print(f"CamVid:  {stage:3}", *(f"{iou:.3f}" for iou in ious))
assert IOU["16s"] + abs(again - IOU["8s"]) < min(IOU["8s"], again)

# %% [markdown]
# On the animals the two seeds differ by less than the networks do, so it was not luck. On CamVid the seeds of one net
# differ by more than the two nets do: there, one run of each would have proved nothing.
#
# ## What goes wrong, and how it looks
#
# ### A rate ten times too high
#
# **Predict.** A trained FCN-8s goes on with Adam, at a tenth of its rate, at its rate, at ten times and at a hundred
# times that. What does each curve look like?

# %% tags=["hide-input", "hide-output"] alt="Loss of a trained FCN-8s at four rates: two stay low, the third is disturbed, the highest explodes"
figure, axis = plt.subplots()
with warnings.catch_warnings(action="ignore"):  # of numbers that are too large
    for lr, colour in (2e-4, SKY), (2e-3, BLUE), (2e-2, ORANGE), (2e-1, RED):
        config = configure("fcn8s", steps=40, lr=lr, schedule="constant")
        _, losses = train(config, best)
        axis.semilogy(losses, color=colour, label=f"lr {lr:g}")
axis.axhline(np.log(5), color=BLACK, lw=1, ls=":", label="log 5: knows nothing")
axis.axhline(LOSS_OF_SHARES, color=BLACK, lw=1, ls="--", label="knows the classes' shares alone")
axis.set(xlabel="step", ylabel="loss", ylim=(0.03, 1e6))
axis.set_title("A trained FCN-8s goes on at four rates (Adam; cut off above)")
figure.legend(loc="outside lower center", ncols=3, frameon=False);

# %% [markdown]
# <details><summary>Answer</summary>
#
# Ten times too low does no harm here, for this net has learned most of it already; at the start it is merely slow.
# Ten times too high forgets in a step or two what the net knew: the loss jumps above log 5, and after forty steps it is
# still far from where it began. A hundred times too high, the loss leaves the picture, and where Adam brings it back,
# the net knows nothing any more. (ReLUs that are pushed below zero everywhere get no gradient that could bring them
# back.)
#
# </details>
#
# Plain SGD does not bring it back:

# %%
with warnings.catch_warnings(action="ignore"):
    config = configure("fcn8s", steps=12, lr=10.0, optimiser="sgd", schedule="constant")
    _, losses = train(config, best)
print(*(f"{loss:.3g}" for loss in losses))
assert not np.isfinite(losses[-1])

# %% [markdown]
# NaN never heals, since by the next step it is in every weight. `python -m tinyfcn.train` stops there and says
# `training diverged; lower --lr`.
#
# ### A crop that is off
#
# At the very end the scores are cropped to the image, and a wrong number there moves the whole answer to one side. In our 8s it
# is `net.offsets["score"]`, 4; with VGG16 and the paper's padding it is [31](05_upsampling.ipynb#Why-crop-19?). Let us
# move it: predict pictures with a margin, and take the window a few pixels too far up and left.
#
# **Predict.** How much does an error of 4, 8 or 16 pixels cost? And one of a single pixel?

# %% tags=["hide-output"]
net = new_net(configure("fcn8s"), best)
assert net.offsets["score"] == 4
larger = [draw(np.random.default_rng([4, k]), 3, side=144)[:2] for k in range(16)]
answers, inner, iou = [predict(net, image) for image, _ in larger], slice(24, 120), {}
for error in (-16, -8, -4, -1, 0, 1, 4, 8, 16):
    window, matrix = slice(24 + error, 120 + error), ConfusionMatrix(len(CLASSES))
    for (_, label), answer in zip(larger, answers, strict=True):
        matrix.update(label[inner, inner], answer[window, window])
    iou[error] = matrix.mean_iou
    print(f"{error:+4d} pixels off: mean IU {iou[error]:.3f}")
assert max(iou, key=iou.get) in (-1, 0, 1) and max(iou[-16], iou[16]) < 0.7 * iou[0]

# %% tags=["hide-input"] alt="Mean IU over the error of the crop, highest at 0, and two answers: one fits the truth's outline, one lies beside it"
image, label = larger[3]
figure, axes = plt.subplot_mosaic([["scores", "scores", "scores", 0, -16]], figsize=(8, 2.7))
axes["scores"].plot(list(iou), list(iou.values()), marker="o")
axes["scores"].set(xlabel="pixels off", ylabel="mean IU", ylim=(0, 1))
for error in (0, -16):
    window = slice(24 + error, 120 + error)
    show(axes[error], answers[3][window, window], f"{error} pixels off")
    axes[error].contour(label[inner, inner] > 0, [0.5], colors=[BLACK], linewidths=1)
figure.suptitle("As much is recognised, and nothing is where it belongs (line: truth)", size=11);

# %% [markdown]
# <details><summary>Answer</summary>
#
# One pixel is hardly seen, four cost about a seventh of the score, eight a third, and sixteen more than half.
#
# </details>
#
# Such a mistake hides well: the pictures look reasonable, and the score is merely "not so good". Made in *training*
# too it hides even better, because the net learns around it as far as its receptive fields reach. That is why crops
# are computed in this package and not typed in.
#
# ### Forgetting to ignore 255
#
# Contours carry 255. A loss that does not know this fails, and this one says why:

# %%
try:
    outside = np.zeros((4, 5, 96, 96), np.float32)
    ops.softmax_cross_entropy_forward(outside, labels, ignore_index=-1)
except ValueError as error:
    print(error)

# %% [markdown]
# People then turn 255 into 0, background, and the error is gone. Training does not complain again.
#
# **Predict.** A contour is three pixels wide, and half of it lies on the animal. What does a net learn that is told
# that all of it is background?

# %% tags=["hide-output"]
told_wrong = [(image, np.where(label == IGNORE, np.uint8(0), label)) for image, label in TRAIN]
after = {}
for name, dataset in ("255 ignored", TRAIN), ("255 is background", told_wrong):
    net, _ = train(configure("fcn8s", steps=100), best, dataset=dataset)
    contours = np.concatenate([predict(net, image)[label == IGNORE] for image, label in VAL])
    after[name] = np.mean(contours == 0)
    iou = evaluate(net, VAL).mean_iou
    print(f"{name:18} mean IU {iou:.3f}, {after[name]:.0%} of the contours called background")
assert after["255 is background"] > after["255 ignored"] + 0.1

# %% [markdown]
# <details><summary>Answer</summary>
#
# It does not learn to draw contours. They have no class of their own, so it cuts the animals off at their inner side.
# The score, which ignores the contours, falls a little and does not say why: thin parts have lost their inside too.
#
# </details>
#
# Where 255 means "unlabelled" and covers half of a photograph, the same slip teaches that half of the world is
# background.
#
# ### Too few pictures
#
# Let an FCN-8s take its steps on eight pictures, again and again:

# %%
eight, seen, few = TRAIN[:8], [], VAL[:16]


def watch_both(step, net):
    seen.append((step, evaluate(net, eight).mean_iou, evaluate(net, few).mean_iou))


train(configure("fcn8s", steps=150), trunk, dataset=eight, watch=watch_both, every=30)
steps, learned, held_out = np.transpose(seen)
assert learned[-1] > held_out[-1] + 0.2

# %% [markdown]
# **Predict.** What has happened to the score on these eight, and to the one on others?

# %% tags=["hide-input", "hide-output"] alt="Eight pictures learned by heart: their mean IU rises, that of held-out pictures falls, far below training on 300"
figure, axis = plt.subplots()
axis.plot(steps, learned, marker="o", ms=4, label="the eight pictures that it trains on")
axis.plot(steps, held_out, marker="o", ms=4, label="held-out pictures")
axis.plot(*np.transpose(curves["8s"]), color=GREEN, ls="--", label="held out, 300 to train on")
axis.set(xlabel="step", ylabel="mean IU", ylim=(0, 1))
axis.set_title("Learned by heart: the gap is the sign")
figure.legend(loc="outside lower center", ncols=3, frameon=False);

# %% [markdown]
# <details><summary>Answer</summary>
#
# It learns the eight by heart, and on others it becomes worse. The gap between the two scores is what you should
# look at; the training loss alone tells you the better half of the story.
#
# </details>
#
# Remedies, in this order: more pictures; weights that have seen many (VGG16's); `--trunk-rate 0`, so that only what
# is new is learned; `--scale 0.7 1.4`; fewer steps.
#
# ## My own data set
#
# Pictures, labels whose pixels are class indices, two lists, and the classes' names: VOC's layout. `write_voc` makes
# an example of it from this package's generated set.

# %%
mine = FOLDER / "mine"
write_voc(Shapes("train", length=3), mine, "train")
write_voc(Shapes("val", length=2), mine, "val")
files = (path.relative_to(mine) for path in mine.rglob("*") if path.is_file())
print(*sorted(map(str, files)), sep="\n")
image, label = VOCSegmentation(mine, "train")[0]
assert np.array_equal(label, Shapes("train")[0][1])

# %% [markdown]
# The usual mistakes end in one line that says what to do:

# %%
def complaint(make):
    try:
        print(len(make()), "pictures")
    except InputError as error:
        print(str(error).replace(str(FOLDER), "..."), end="\n\n")


label_path = sorted((mine / "SegmentationClass").iterdir())[0]
coloured = (255 * PALETTE[label]).astype(np.uint8)  # a picture of the label
Image.fromarray(coloured).save(label_path)
complaint(lambda: VOCSegmentation(mine, "train")[0])
label_path.unlink()
complaint(lambda: VOCSegmentation(mine, "train"))
complaint(lambda: VOCSegmentation(mine, "test"))

# %% [markdown]
# ```sh
# python -m tinyfcn.train --data mine --init vgg16_notop.h5 --hidden 512 --model fcn32s --out runs/32s
# python -m tinyfcn.train --model fcn16s --from runs/32s --out runs/16s
# python -m tinyfcn.train --model fcn8s  --from runs/16s --out runs/8s
# python -m tinyfcn.evaluate runs/8s
# python -m tinyfcn.predict runs/8s photo.jpg --out labelled
# python -m tinyfcn.train --resume runs/8s          # after an interruption, to the same result
# ```
#
# - **How many pictures?** From scratch, 49 photographs of VOC teach nothing that holds elsewhere: mean IU 0.07 held out against
#   a baseline of 0.04. The curves above are the test: while a gap is open, more pictures help.
# - **With VGG16's weights** fewer will do, since most is learned already. The paper's 32s-fixed, 45.4 mean IU, learns nothing but
#   21 scores on top of them.
# - **Which preprocessing?** The weights' own. It is in the file, and nobody has to choose ([VGG16's weights](08_weights.ipynb)).
# - **Which settings?** The recipe `finetune`, the default with `--init`: Adam, what comes trained at a tenth of the
#   rate, skips measured. `--recipe paper-2015` is the paper's section 4.3 (20 images a step, momentum 0.9, a fixed
#   rate), `--recipe paper` what the authors published later (one image, the summed loss, momentum 0.99).
#
# ## How long does it take on VOC with VGG16 on a CPU?
#
# `docs/speed.md` has the time of one step at 500x500 pixels, batch 1, on two cores. The authors' published settings
# train up to 100,000 such steps a stage.

# %%
measured = recorded("bench-cpu")["results"]
title = "FCN-8s training, 1x3x500x500, width 1"
step = {r["contender"]: r["median_seconds"] for r in measured if r["work"] == title}
ours, theirs = step["tinyfcn"], step["PyTorch"]
print(f"one step: {ours:.2f} s; with PyTorch, on the same two cores, {theirs:.2f} s")
for what, steps in (
    ("an epoch of VOC 2012's 1,464 training pictures", 1464),
    ("ten epochs", 14640),
    ("a stage of 100,000 steps", 100_000),
):
    hours = steps * ours / 3600, steps * theirs / 3600
    print(f"{what:48} {hours[0]:6.1f} hours; with PyTorch {hours[1]:6.1f}")

# %% [markdown]
# That is days for each stage, and most of a day for ten epochs. Padding "same" (`--padding same`) computes on
# 500x500 pixels instead of 698x698, about half as many. And with a frozen trunk nothing needs to go back
# through it:

# %%
def a_step(**options):
    config = configure("fcn8s", **options)
    net, optimiser = new_net(config), build_optimiser(config)
    x = normalise(pixels, net.preprocessing)
    return lambda: train_step(net, optimiser, x, labels)


times = fastest({freeze: a_step(freeze_trunk=freeze) for freeze in (False, True)})
print(f"with a frozen trunk, a step takes {times[True] / times[False]:.2f} of the time")
assert times[True] < 0.9 * times[False]

# %% [markdown]
# ## And on a GPU?
#
# In 2015 it took three days for the 32s and about one day for each of the others, on one GPU (Long et al. 2015,
# section 4.3). What this package's step costs on a GPU, and how to measure it on yours, is the subject of [A
# GPU, measured](12_gpu.ipynb).
#
# ## What you can do now
#
# - turn a classifier into a segmenter, and say what fine-tuning and each skip gain on your own pictures;
# - check a new network in a minute: its first loss, and one batch learned by heart;
# - read a score beside its baseline, and beside what another seed changes;
# - say how long the steps of SGD and Adam are, and choose a momentum and a schedule;
# - recognise four failures: too high a rate, a crop that is off, contours that count, too few pictures.

# %%
TEMPORARY.cleanup()

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: the baseline
#
# Given how many pixels each class has in the labels, what score does the most frequent class get, if it is
# predicted everywhere? Return (pixel accuracy, mean IU). Classes that no label has leave the mean.
#
# <details><summary>Hint 1</summary>
#
# Write down the confusion matrix of such an answer for three classes. Which of its entries are not zero?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Only one class has an intersection. Its union is *all* pixels, since it is predicted everywhere.
#
# </details>

# %% tags=["exercise"]
def constant_scores(pixels):
    """(pixel accuracy, mean IU) of the most frequent class everywhere; `pixels` (C,) by class."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    for counts in ([800, 150, 50], [10, 60, 0, 30], [5, 0, 0]):
        labels_of = np.repeat(np.arange(len(counts)), counts)[None]
        matrix = ConfusionMatrix(len(counts))
        matrix.update(labels_of, np.full_like(labels_of, np.argmax(counts)))
        accuracy, iou = constant_scores(np.array(counts))
        assert np.isclose(accuracy, matrix.pixel_accuracy), (
            f"{counts}: pixel accuracy {accuracy}, expected {matrix.pixel_accuracy}"
        )
        absent = np.isclose(iou, accuracy / len(counts)) and 0 in counts
        why = ": did you divide by classes that no label has?" if absent else ""
        message = f"{counts}: mean IU {iou}, expected {matrix.mean_iou}{why}"
        assert np.isclose(iou, matrix.mean_iou), message

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def constant_scores(pixels):
#     share = pixels.max() / pixels.sum()
#     return share, share / np.count_nonzero(pixels)
# ```
#
# All pixels of the most frequent class are right, so its IU is its share of all pixels; every other class that occurs
# has IU 0.
#
# </details>

# %% [markdown]
# ### Exercise 2: a step of SGD
#
# Write the update of one weight array as in Caffe: $v \leftarrow m v - \eta (g + \lambda w)$, $w \leftarrow w + v$.
# Return the new (w, v).
#
# <details><summary>Hint 1</summary>
#
# The velocity comes first, and the *new* one moves the weight. The decay pulls at the weight as it was before the
# step.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `v *= momentum` changes the caller's array; `v = momentum * v - ...` makes a new one.
#
# </details>

# %% tags=["exercise"]
def sgd_step(w, v, g, lr, momentum, weight_decay):
    """The weights and the velocity after one step; w, v and g stay as they are."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(3, 4))
    v, params = np.zeros_like(w), {"layer.weight": w.copy()}
    optimiser = SGD(0.1, 0.9, weight_decay=0.01)
    for step in range(4):
        g = rng.normal(size=w.shape)
        optimiser.step(params, {"layer.weight": g})
        before = w.copy(), v.copy(), g.copy()
        new_w, new_v = sgd_step(w, v, g, 0.1, 0.9, 0.01)
        for name, array, old in zip("wvg", (w, v, g), before, strict=True):
            assert np.array_equal(array, old), f"{name} was changed in place: make new arrays"
        right, moved = params["layer.weight"], new_w - w
        error = abs(new_w - right).max()
        why = " (ten times too short? there is no factor 1 - m here)" if step == 0 and np.allclose(
            10 * moved, right - w
        ) else ""
        assert error < 1e-9, f"step {step}: w is off by {error:.3g}{why}"
        w, v = new_w, new_v

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def sgd_step(w, v, g, lr, momentum, weight_decay):
#     v = momentum * v - lr * (g + weight_decay * w)
#     return w + v, v
# ```
#
# There is no factor $1 - m$ on the gradient: with it, steps would be ten times shorter at momentum 0.9, and published
# rates would mean something else.
#
# </details>

# %% [markdown]
# ### Exercise 3: a step of Adam
#
# Write this step for one weight array, with the weight decay apart from the gradient (Loshchilov and
# Hutter, 2019): the weight shrinks by $\eta \lambda w$ besides. `t` counts steps from 1. Return the new (w, m, v).
#
# <details><summary>Hint 1</summary>
#
# Keep $m$ and $v$ as they are defined, and return them so. Only the step uses $\hat m$ and $\hat v$.
#
# </details>
# <details><summary>Hint 2</summary>
#
# The order: both means; the two corrections $1 - \beta^t$; the step $\hat m / (\sqrt{\hat v} + \epsilon)$, with
# $\epsilon$ outside of the root; then the decay of the *old* weight.
#
# </details>

# %% tags=["exercise"]
def adam_step(w, m, v, g, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    """The weights and both running means after step t = 1, 2, ...; arguments stay as they are."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(3, 4))
    m, v, params = np.zeros_like(w), np.zeros_like(w), {"layer.weight": w.copy()}
    optimiser = Adam(0.1, eps=0.01, weight_decay=0.5)
    for t in range(1, 6):
        g = rng.normal(size=w.shape)
        optimiser.step(params, {"layer.weight": g})
        before = [array.copy() for array in (w, m, v, g)]
        new = adam_step(w, m, v, g, t, 0.1, eps=0.01, weight_decay=0.5)
        for name, array, old in zip("wmvg", (w, m, v, g), before, strict=True):
            assert np.array_equal(array, old), f"{name} was changed in place: make new arrays"
        (w, m, v), right = new, params["layer.weight"]
        for name, mean in ("m", m), ("v", v):
            kept = optimiser.state[f"layer.weight.{name}"]
            assert np.allclose(mean, kept), f"step {t}: {name} is not the running mean (corrected?)"
        error = abs(w - right).max()
        assert error < 1e-9, (
            f"step {t}: w is off by {error:.3g} (eps outside of the root? decay apart from g?)"
        )

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def adam_step(w, m, v, g, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
#     m = betas[0] * m + (1 - betas[0]) * g
#     v = betas[1] * v + (1 - betas[1]) * g**2
#     step = m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
#     return w - lr * (step + weight_decay * w), m, v
# ```
#
# If the decay went into $g$ it would be divided by $\sqrt{\hat v}$ like everything else, and weights with large
# gradients would hardly decay.
#
# </details>

# %% [markdown]
# ### Exercise 4: start a stage
#
# Given the tensors of a trained FCN-32s by name, return those with which an FCN-16s begins: it must still compute the
# 32s's scores, but for the way of upsampling. `shapes` are the names and shapes of the FCN-16s's tensors.
#
# <details><summary>Hint 1</summary>
#
# Which names are in `shapes` and not in `params`? What must such a layer add to the scores?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Zeros for what is new. Copies of what is not, since training the 16s must leave the 32s alone.
#
# </details>

# %% tags=["exercise"]
def next_stage(params, shapes):
    """The next stage's tensors: name -> a new float32 array of shape shapes[name]."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng = np.random.default_rng(0)
    coarse, fine = FCN32s(7, 1 / 16, "same"), FCN16s(7, 1 / 16, "same", seed=1)
    fr = coarse.params["score_fr.weight"]
    fr[:] = rng.normal(size=fr.shape)
    started_from = next_stage(coarse.params, {name: p.shape for name, p in fine.params.items()})
    differ = started_from.keys() ^ fine.params.keys()
    assert not differ, f"names: {differ} differ"
    for name, p in started_from.items():
        wanted, got = (fine.params[name].shape, np.float32), (p.shape, p.dtype)
        assert got == wanted, f"{name} is {got[1]} {got[0]}, expected float32 {wanted[0]}"
    fine.params = started_from
    images = rng.normal(size=(1, 3, 96, 96)).astype(np.float32)
    score = coarse.conv("score_fr", coarse.trunk(images, False)[1])
    once, _ = ops.upsample_bilinear_forward(score, 4, 2)
    expected, _ = ops.upsample_bilinear_forward(once[:, :, 1:-1, 1:-1], 32, 16)
    error = abs(fine.forward(images) - expected[:, :, 8:104, 8:104]).max()
    message = f"its scores differ from the 32s's by up to {error:.3g}: what does the new layer add?"
    assert error < 1e-4, message
    shared = [name for name, p in coarse.params.items() if np.shares_memory(p, started_from[name])]
    assert not shared, f"training the 16s would change the 32s's {shared[:1]}: copy"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def next_stage(params, shapes):
#     return {
#         name: params[name].copy() if name in params else np.zeros(shape, np.float32)
#         for name, shape in shapes.items()
#     }
# ```
#
# What is new is `score_pool4`, and a zero score layer adds zero. Its gradient is not zero, for that is made of
# pool4's activations: it learns from the first step on.
#
# </details>

# %% [markdown]
# How NumPy alone can be this fast is the subject of [Speed](10_speed.ipynb).
