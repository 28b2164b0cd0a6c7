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
# You will be able to
#
# - check a new network in a minute: its first loss, and one batch learned by heart,
# - train FCN-32s, 16s and 8s stage by stage, and say what each skip gains,
# - read four scores beside the score of an answer without any network,
# - recognise a rate that is too high, a crop that is off, contours that count and a set that is too small, by
#   their curves, pictures or scores,
# - start a run on photographs of your own, and know beforehand how long it takes.
#
# Takes about 60 minutes. Builds on [The network](07_fcn.ipynb) and [VGG16's weights](08_weights.ipynb).
#
# The paper starts from VGG16 and trains on VOC for days. Here everything runs in two minutes, on a network with one sixteenth of
# the channels and on a generated set. What happens is the same in kind; where it is not, the text says so.

# %% tags=["setup"]
import os

os.environ["TQDM_DISABLE"] = "1"  # no progress bars on these pages

import json
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
from lesson import BLACK, BLUE, COLOURS, GREEN, ORANGE, PINK, RED, SKY, attempt, seconds, show_source

from tinyfcn import ops
from tinyfcn.backend import describe_device
from tinyfcn.data import IGNORE, Shapes, VOCSegmentation, normalise, write_voc
from tinyfcn.data.loader import make_batch
from tinyfcn.errors import InputError
from tinyfcn.inference import evaluate, predict
from tinyfcn.metrics import SCORES, ConfusionMatrix
from tinyfcn.models import FCNS, FCN8s, FCN16s, FCN32s
from tinyfcn.optim import SCHEDULES, SGD
from tinyfcn.run import Config
from tinyfcn.training import build_optimiser, train_step

WIDTH = 1 / 16
TRAIN, VAL = Shapes("train"), Shapes("val")
TEMPORARY = TemporaryDirectory()  # where this notebook writes
FOLDER = Path(TEMPORARY.name)

# %% tags=["setup"]
PALETTE = np.zeros((256, 3))
PALETTE[0] = 0.92, 0.92, 0.92  # background
PALETTE[1:7] = [plt.matplotlib.colors.to_rgb(colour) for colour in COLOURS[:6]]
PALETTE[IGNORE] = 1, 1, 1  # contours, which do not count


def new_net(config, start=None):
    """A network as configured, started from the weights in a file as far as they fit."""
    kind = FCNS[config.model]
    net = kind(TRAIN.num_classes, config.width, config.padding, dropout=config.dropout, freeze_trunk=config.freeze_trunk)
    if start is not None:
        net.load(start, partial=True)
    return net


def train(config, start=None, dataset=TRAIN, watch=None, every=50):
    """The loop of `tinyfcn/training.py` without its files: returns the network and the loss of each step."""
    net, optimiser, losses = new_net(config, start), build_optimiser(config), []
    for step in range(config.steps):
        pixels, labels = make_batch(dataset, config, step)
        factor = SCHEDULES[config.schedule](step / config.steps)
        losses.append(train_step(net, optimiser, normalise(pixels, net.preprocessing), labels, config.loss, factor))
        if watch is not None and (step + 1) % every == 0:
            watch(step + 1, net)
    return net, np.array(losses)


def smooth(losses, over=20):
    """Means of so many steps, with the step in their middle."""
    count = len(losses) // over
    return (np.arange(count) + 0.5) * over, np.reshape(losses[: count * over], (count, over)).mean(axis=1)


def show(axis, picture, title=""):
    """An image, or a label in this page's colours."""
    axis.imshow(PALETTE[picture] if picture.ndim == 2 else picture)
    axis.set_title(title, size=10)
    axis.set_axis_off()


# %%
print(describe_device(np))
started = time.perf_counter()

# %% [markdown]
# ## One step
#
# Everything on this page is a repetition of one function of the package:

# %%
show_source(train_step)

# %% [markdown]
# Scores, loss, the gradient at the scores, the backward pass. The optimiser is in it as `update`: it gets each gradient the
# moment it is final, so that all gradients never exist together. A batch is a few random crops, half of them mirrored:

# %%
config = Config(model="fcn8s", width=WIDTH, size=(96, 96), batch_size=4)
pixels, labels = make_batch(TRAIN, config, step=0)
print(pixels.shape, pixels.dtype, labels.shape, labels.dtype)

figure, axes = plt.subplots(2, 4, figsize=(8, 4))
for column, (image, label) in enumerate(zip(pixels, labels, strict=True)):
    show(axes[0, column], image)
    show(axes[1, column], label)
figure.suptitle("One batch: crops and their labels. White, along the contours, counts for nothing", size=11);

# %% [markdown]
# Which crops a step takes depends on the seed and the step's number alone. So a run that is interrupted goes on with the
# batches that it would have had.

# %%
again, _ = make_batch(TRAIN, config, step=0)
other, _ = make_batch(TRAIN, config, step=1)
assert np.array_equal(pixels, again) and not np.array_equal(pixels, other)

# %% [markdown]
# ## Why is score zero-initialised?
#
# **Predict.** There are seven classes, and the score layers begin at zero. What is the loss of the first step, before anything
# is learned?

# %%
net = new_net(config)
first = train_step(net, build_optimiser(config), normalise(pixels, net.preprocessing), labels)
print(f"{first:.6f}, and log 7 = {np.log(7):.6f}")
assert np.isclose(first, np.log(7), rtol=1e-5)

# %% [markdown]
# All scores are 0, so each class has probability 1/7, and $-\log \frac17 = \log 7$. With random scores the first loss would be
# larger: the net would have to unlearn opinions that nobody taught it. The paper zero-initialises the scores as
# well, and finds random ones neither better nor faster (Long et al. 2015, section 4.3). With new score layers, a
# first loss other than $\log C$ is the first sign of a fault, and costs one step to see.
#
# ## Can it learn one batch by heart?
#
# The second check takes seconds. One batch, always the same: a net that is put together rightly must bring its loss down to
# nearly nothing. If it cannot, then no amount of data will help; some gradient does not arrive.
#
# **Predict.** Which pixels will be right last?

# %%
def learn_by_heart(steps, **options):
    config = Config(model="fcn8s", width=1 / 8, size=(64, 64), batch_size=2, lr=2e-3, **options)
    pixels, labels = make_batch(TRAIN, config, step=0)
    net, optimiser = new_net(config), build_optimiser(config)
    x = normalise(pixels, net.preprocessing)
    pictures, losses = {}, []
    for step in range(steps):
        if step in (15, 40, 80):
            pictures[step] = net.predict(x)
        losses.append(train_step(net, optimiser, x, labels))
    return pixels, labels, pictures | {steps: net.predict(x)}, losses


pixels, labels, pictures, losses = learn_by_heart(160)
_, _, _, frozen = learn_by_heart(160, freeze_trunk=True)
print(f"loss {losses[0]:.3f} at first, {losses[-1]:.4f} in the end")
assert losses[-1] < 0.02

# %%
figure, axes = plt.subplot_mosaic(
    [["loss", "loss", "image", "truth"], ["loss", "loss", 15, 40], ["loss", "loss", 80, 160]], figsize=(8, 4.2)
)
axes["loss"].semilogy(losses, label="all layers learn")
axes["loss"].semilogy(frozen, label="trunk frozen at random")
axes["loss"].axhline(np.log(7), color=BLACK, lw=1, ls=":", label="log 7")
axes["loss"].set(xlabel="step", ylabel="loss", title="One batch, again and again")
axes["loss"].legend(frameon=False, loc="lower left")
show(axes["image"], pixels[0], "image")
show(axes["truth"], labels[0], "truth")
for step, prediction in pictures.items():
    show(axes[step], prediction[0], f"after {step} steps")

# %% [markdown]
# Corners and thin parts, as the ring, come last: they are not much coarser than the grid of 8 pixels on which the
# scores lie. What still looks wrong after 160 steps lies on contours, which do not count. With the trunk frozen, only
# the score layers get a gradient, and the curve falls slowly and stays far above: this is what it looks like when a
# gradient stops half way.
# (The bump at the start is Adam's: its first steps have full length in all weights at once.)
#
# This check finds gradients that stop. A single layer that does not learn can escape it, as others make up for it; a
# gradient check finds that. Labels that belong to another picture, or images prepared wrongly, escape it too:
# nonsense can be learned by heart. For those, look at the batch, as above.
#
# ## What does a net without eyes score?
#
# Before any training, know what no training is worth. Of a hundred pixels 77 are background.
#
# **Predict.** Whoever answers "background" everywhere gets which pixel accuracy, and which mean IU over seven classes?

# %%
labels_alone = ConfusionMatrix(TRAIN.num_classes)
for _, label in VAL:
    labels_alone.update(label, np.where(label == IGNORE, 0, label))
BASELINE = labels_alone.constant_baseline().scores()
print(BASELINE)
assert BASELINE["pixel_accuracy"] > 0.7 and np.isclose(BASELINE["mean_iou"], BASELINE["pixel_accuracy"] / 7)

# %% [markdown]
# A pixel accuracy of 0.77 with the eyes shut. Mean IU is harder to please: the background's IU is its share of the pixels, the
# six others' are 0, and the mean divides by seven. Every score below stands beside this one.
#
# ## Our own ImageNet
#
# The paper's nets do not begin at random weights: VGG16 has seen a million photographs. Our little trunk has seen
# nothing, and an FCN-32s that starts from nothing is still on the baseline after 400 steps (try it: `start` may be
# left out below). So we first train an FCN-8s on *other* pictures (another seed of the generator), throw its score
# layers away, and keep the trunk in a file. That file is this page's VGG16.

# %%
options = {"width": WIDTH, "lr": 3e-3, "size": (96, 96), "batch_size": 4}
others, config = Shapes("train", seed=1), Config(model="fcn8s", width=WIDTH, size=(80, 80), steps=900, lr=3e-3)
teacher, losses = train(config, dataset=others)
for name in [name for name in teacher.params if name.startswith("score")]:
    del teacher.params[name]
trunk = FOLDER / "trunk.safetensors"
teacher.save(trunk)
print(new_net(Config(model="fcn32s", width=WIDTH)).load(trunk, partial=True))

# %% [markdown]
# What does a net lose that knows nothing but how frequent the classes are? At every pixel it gives each class its share
# $p_c$ of the pixels, and its mean loss is $-\sum_c p_c \log p_c$. This is the baseline of the loss:

# %%
def loss_of_shares(dataset, config, batches=10):
    """The loss of answering with the classes' shares at every pixel of such batches."""
    labels = np.concatenate([make_batch(dataset, config, step)[1] for step in range(batches)])
    shares = np.bincount(labels[labels != IGNORE], minlength=TRAIN.num_classes) / np.count_nonzero(labels != IGNORE)
    return -(shares * np.log(shares)).sum()


figure, axis = plt.subplots()
axis.plot(*smooth(losses))
axis.axhline(np.log(7), color=BLACK, lw=1, ls=":", label="log 7: knows nothing")
axis.axhline(loss_of_shares(others, config), color=BLACK, lw=1, ls="--", label="knows the classes' shares alone")
figure.legend(loc="outside lower center", ncols=2, frameon=False)
axis.set(xlabel="step", ylabel="loss", title="The trunk learns: a plateau at the shares, then it begins to see");

# %% [markdown]
# ## 32s, then 16s, then 8s
#
# As in the paper (section 4.2): FCN-32s from the trunk; FCN-16s from that, with a new `score_pool4`; FCN-8s from that, with a new
# `score_pool3`. Each stage is saved, and the next one loads it. New score layers begin at zero.
#
# **Predict.** What does the FCN-16s score before its first step: as FCN-32s did, or as a new network?

# %%
def watch_scores(found):
    """Note the mean IU on a third of the held-out pictures."""
    few = Shapes("val", length=32)
    return lambda step, net: found.append((step, evaluate(net, few).mean_iou))


STEPS = {"fcn32s": 400, "fcn16s": 250, "fcn8s": 300}
nets, curves, watched, start = {}, {}, {}, trunk
for model, steps in STEPS.items():
    watched[model] = []
    config = Config(model=model, steps=steps, **options)
    if model == "fcn16s":
        untrained = evaluate(new_net(config, start), VAL).mean_iou
    nets[model], curves[model] = train(config, start, watch=watch_scores(watched[model]))
    start = FOLDER / f"{model}.safetensors"
    nets[model].save(start)

# %%
MATRICES = {model: evaluate(net, VAL) for model, net in nets.items()}
print(f"FCN-32s {MATRICES['fcn32s'].mean_iou:.3f}; the FCN-16s that starts from it, before its first step, {untrained:.3f}")
assert abs(untrained - MATRICES["fcn32s"].mean_iou) < 0.03

# %% [markdown]
# `score_pool4` is zero and adds nothing, so the 16s begins where the 32s ended. (Not to the last digit: it upsamples by 2 and
# then by 16 instead of once by 32.)

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
first_step = 0
for colour, (model, losses) in zip((BLUE, ORANGE, GREEN), curves.items(), strict=True):
    steps, means = smooth(losses)
    left.plot(first_step + steps, means, color=colour)
    steps, scores = np.transpose(watched[model])
    right.plot(first_step + steps, scores, color=colour, marker="o", ms=4, label=model.replace("fcn", "FCN-"))
    for axis in (left, right):
        axis.axvline(first_step, color="0.8", lw=1, zorder=0)
    first_step += len(losses)
right.axhline(BASELINE["mean_iou"], color=BLACK, lw=1, ls=":", label="background everywhere")
left.set(xlabel="step", ylabel="loss", title="Training loss", ylim=(0, None))
right.set(xlabel="step", ylabel="mean IU", title="Score on held-out pictures", ylim=(0, 1))
right.legend(frameon=False, loc="upper left")
figure.suptitle("Each stage starts from the last one and ends higher");

# %% [markdown]
# A stage may dip first, as the 8s does: it begins at the full rate, where the one before had ended at
# zero (*The rate's schedule* below says why). Then the new stream pays. The trunk's finer maps were
# there all along, learned in the FCN-8s above; now they are asked.
#
# ## The paper's Table 2, at our scale
#
# "32s-fixed" learns the score layer alone, on a frozen trunk; "one class" is background everywhere.

# %%
fixed, _ = train(Config(model="fcn32s", steps=200, freeze_trunk=True, **options | {"lr": 1e-2}), trunk)
ROWS = {"one class": BASELINE, "32s-fixed": evaluate(fixed, VAL).scores()}
ROWS |= {model.replace("fcn", ""): matrix.scores() for model, matrix in MATRICES.items()}
PAPER = {"32s-fixed": (83.0, 59.7, 45.4, 72.0), "32s": (89.1, 73.3, 59.4, 81.4), "16s": (90.0, 75.7, 62.4, 83.0)}
PAPER["8s"] = 90.3, 75.9, 62.7, 83.2
print(f"{'':12}", *(f"{name.replace('_', ' '):>24}" for name in SCORES))
for name, scores in ROWS.items():
    print(f"{name:12}", *(f"{scores[score]:24.3f}" for score in SCORES))

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True)
titles = ("shapes, width 1/16", "VOC, VGG16: the paper's Table 2")
published = {name: dict(zip(SCORES, np.array(values) / 100, strict=True)) for name, values in PAPER.items()}
for axis, rows, title in zip((left, right), (ROWS, published), titles, strict=True):
    for k, score in enumerate(SCORES):
        places = np.arange(len(rows)) + 0.2 * (k - 1.5)
        axis.bar(places, [row[score] for row in rows.values()], 0.2, color=COLOURS[k], label=score.replace("_", " "))
    axis.set_xticks(range(len(rows)), rows, size=9)
    axis.set_title(title, size=10)
left.set(ylabel="score", ylim=(0, 1.05))
figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
figure.suptitle("Every skip raises every score; the two means over classes show it most")
for score in SCORES:
    rising = [ROWS[name][score] for name in ("one class", "32s", "16s", "8s")]
    assert rising == sorted(rising), score

# %% [markdown]
# On VOC, VGG16 gives 32s most of the score and the skips add three points. Here the skips do most of the work, for two
# reasons. Our trunk is weak in its deepest layers: it comes from an FCN-8s, which could lean on its skips. And our
# objects are small: the smallest radius, 18 pixels, is about half the 32 pixels from one score of the 32s to the next.
# "32s-fixed" shows the first: on frozen features of conv7 our score layer learns next to nothing; VGG16's reaches 45.4.

# %%
# Pictures with background, contours and at least two classes
several = [k for k, (_, label) in enumerate(VAL) if len(np.unique(label[:96, :96])) >= 4]
EXAMPLES = several[:: len(several) // 5][:5]
figure, axes = plt.subplots(5, 5, figsize=(8, 7.2))
for row, index in zip(axes, EXAMPLES, strict=True):
    image, label = VAL[index]
    pictures = [image, *(predict(net, image) for net in nets.values()), label]
    for axis, picture, title in zip(row, pictures, ("image", "32s", "16s", "8s", "truth"), strict=True):
        show(axis, picture[:96, :96], title if index == EXAMPLES[0] else "")
figure.suptitle("As in the paper's Figure 4, at our scale (96x96 pixels of held-out pictures)", size=11);

# %% [markdown]
# ## Are the skips better, or is it just more training?
#
# The 8s above has 950 steps behind it, the 32s only 400. Fair is fair: an 8s straight from the trunk, with the 32s's 400 steps.
#
# **Predict.** Does it still beat the 32s? And does it end above or below the 8s that went through the stages?

# %%
watched_straight = []
config = Config(model="fcn8s", steps=STEPS["fcn32s"], **options)
straight, _ = train(config, trunk, watch=watch_scores(watched_straight))
equal = evaluate(straight, VAL).mean_iou
print(f"400 steps: FCN-32s {MATRICES['fcn32s'].mean_iou:.3f}, FCN-8s {equal:.3f}")
print(f"950 steps in stages: FCN-8s {MATRICES['fcn8s'].mean_iou:.3f}")
assert equal > MATRICES["fcn32s"].mean_iou + 0.2 and abs(equal - MATRICES["fcn8s"].mean_iou) < 0.1

# %%
figure, axis = plt.subplots()
first_step = 0
for colour, (model, steps) in zip((BLUE, ORANGE, GREEN), STEPS.items(), strict=True):
    found = np.transpose(watched[model])
    axis.plot(first_step + found[0], found[1], color=colour, marker="o", ms=4, label=f"FCN-{model[3:]}, in stages")
    first_step += steps
axis.plot(*np.transpose(watched_straight), color=RED, marker="s", ms=4, ls="--", label="FCN-8s, straight from the trunk")
axis.axhline(BASELINE["mean_iou"], color=BLACK, lw=1, ls=":", label="background everywhere")
axis.set(xlabel="step", ylabel="mean IU, held out", ylim=(0, 1), title="The skips matter; at this scale, the stages do not")
figure.legend(loc="outside lower center", ncols=3, frameon=False);

# %% [markdown]
# After equally many steps the 32s is far below: it was not the longer training. (How far below, is also
# a matter of our trunk, whose finer maps an FCN-8s has taught.) And the 8s that had all streams from the
# start is in 400 steps about where the stages are after 950. Here, with Adam, going step by step is a
# waste: pool4's stream waits 400 steps, pool3's 650.
#
# ## Why does 8s not train from VGG directly?
#
# Ours did, with Adam. With VGG16's weights it is another matter, for its activations grow to hundreds,
# in some layers more than in others. Look at the step of a score layer, $w \leftarrow w - \eta\, dW$:
# the gradient $dW$ is a sum of products of upstream gradients and activations $a$, and what the step
# changes in the scores is $-\eta\, dW\, a$. Activations enter twice: a stream whose activations are 100
# times larger learns $100^2$ times faster.
#
# We can give our trunk such activations without changing what it computes. ReLU and pooling let a positive factor through. So
# multiply one layer's weight and bias by 100, divide the next one's weight by 100: conv7 stays the same, and the pool between
# them is 100 times larger.

# %%
tensors = {name: value.copy() for name, value in teacher.params.items()}
for last, following in ("conv3_3", "conv4_1"), ("conv4_3", "conv5_1"):
    tensors[f"{last}.weight"] *= 100
    tensors[f"{last}.bias"] *= 100
    tensors[f"{following}.weight"] /= 100
loud = FOLDER / "loud.safetensors"
teacher.params = tensors
teacher.save(loud)

x = normalise(pixels, "torchvision")
for path in (trunk, loud):
    pools, conv7 = new_net(Config(model="fcn8s", width=WIDTH), path).trunk(x, training=False)
    print(f"{path.name:20} pool3 {pools[2].std():8.2f}   pool4 {pools[3].std():8.2f}   conv7 {conv7.std():.4f}")

# %% [markdown]
# **Predict.** SGD, score layers only, the same rate for all. There is a third net beside 32s and 8s: the authors' 8s
# "at once", which multiplies pool4 by 0.01 and pool3 by 0.0001 before they are scored. Which of the three can still be
# trained on the loud trunk?

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True)
ends = {}
for axis, path, title in zip(axes, (trunk, loud), ("our trunk", "the same function, pools 100 times larger"), strict=True):
    for model, colour in ("fcn32s", BLUE), ("fcn8s", GREEN), ("fcn8s-atonce", PINK):
        config = Config(model=model, steps=80, optimiser="sgd", freeze_trunk=True, **options | {"lr": 3e-3})
        _, losses = train(config, path)
        ends[path.stem, model] = losses[-20:].mean()
        axis.semilogy(losses, color=colour, label=model.replace("fcn", "FCN-"))
    axis.axhline(np.log(7), color=BLACK, lw=1, ls=":")
    axis.set(xlabel="step", title=title)
axes[0].set_ylabel("loss")
axes[1].legend(frameon=False)
assert ends["trunk", "fcn8s"] < np.log(7) < 10 * np.log(7) < ends["loud", "fcn8s"]
assert ends["loud", "fcn8s-atonce"] < ends["trunk", "fcn32s"] and np.isclose(
    ends["loud", "fcn32s"], ends["trunk", "fcn32s"], rtol=1e-3
)

# %% [markdown]
# The 32s does not notice: its stream was not touched. The 8s explodes, though its features are the same but for a
# factor. There are three remedies:
#
# - **Stages**, with a rate 100 times lower at each: $10^{-10}$, $10^{-12}$, $10^{-14}$ for the authors' 32s, 16s, 8s.
# - **Constants**, as in "at once". The authors' later paper says that with fixed scales all streams can be trained
#   together, with nearly the same scores in less time, and that without them training diverges easily (Shelhamer, Long
#   and Darrell 2017). On the quiet trunk to the left, the same constants silence the skips.
# - **Adam**, which divides each gradient by its own size, so that activations enter once and not twice. It is this package's
#   default.
#
# ## What goes wrong, and how it looks
#
# ### A rate ten times too high

# %%
figure, axis = plt.subplots()
with warnings.catch_warnings(action="ignore"):  # of numbers that are too large
    for lr, colour in (2e-4, SKY), (2e-3, BLUE), (2e-2, ORANGE), (2e-1, RED):
        config = Config(model="fcn8s", width=WIDTH, size=(96, 96), steps=60, lr=lr, schedule="constant")
        _, losses = train(config, FOLDER / "fcn8s.safetensors")
        axis.semilogy(losses, color=colour, label=f"lr {lr:g}")
axis.axhline(np.log(7), color=BLACK, lw=1, ls=":", label="log 7: knows nothing")
axis.axhline(loss_of_shares(TRAIN, config), color=BLACK, lw=1, ls="--", label="knows the classes' shares alone")
axis.set(xlabel="step", ylabel="loss", ylim=(0.03, 1e6), title="A trained FCN-8s goes on at four rates (Adam; cut off above)")
figure.legend(loc="outside lower center", ncols=3, frameon=False);

# %% [markdown]
# Ten times too low does no harm here, for this net has learned most of it already; at the start it is merely slow. Ten
# times too high forgets in a few steps what the net knew: the loss jumps up and settles near the dashed line. Shares are
# all that it knows. ReLUs that are pushed below zero everywhere get no gradient to come back. A hundred times too high,
# the loss leaves the picture first, and where Adam brings it back, it is no lower. Plain SGD does not bring it back:

# %%
with warnings.catch_warnings(action="ignore"):
    config = Config(model="fcn8s", width=WIDTH, steps=12, lr=10.0, optimiser="sgd", schedule="constant")
    _, losses = train(config, FOLDER / "fcn8s.safetensors")
print(*(f"{loss:.3g}" for loss in losses))
assert not np.isfinite(losses[-1])

# %% [markdown]
# NaN never heals: it is in every weight by the next step. `python -m tinyfcn.train` stops there and says
# `training diverged; lower --lr`.
#
# ### A crop that is off
#
# The same weights run with the paper's padding, where the final crop is 31
# ([derived here](05_upsampling.ipynb#Why-crop-19?)). `net.offsets` lets us crop elsewhere.
#
# **Predict.** How much does an error of 4, 8 or 16 pixels cost?

# %%
best = FOLDER / "best.safetensors"
straight.save(best)
net = FCN8s(TRAIN.num_classes, WIDTH, padding="paper")
net.load(best)
assert net.offsets["score"] == 31
scores, some = {}, Shapes("val", length=12)
for offset in (15, 23, 27, 29, 30, 31, 32, 33, 35, 39):
    net.offsets["score"] = offset
    scores[offset] = evaluate(net, some).mean_iou

# %%
image, label = VAL[14]
figure, axes = plt.subplot_mosaic([["scores", "scores", "scores", 31, 15]], figsize=(8, 3))
axes["scores"].plot(list(scores), list(scores.values()), marker="o")
axes["scores"].set(xlabel="final crop in pixels", ylabel="mean IU", title="31 is right; every pixel off costs more", ylim=(0, 1))
for offset in (31, 15):
    net.offsets["score"] = offset
    show(axes[offset], predict(net, image), f"crop {offset}")
    axes[offset].contour(label, [0.5], colors=[BLACK], linewidths=1)
figure.suptitle("Sixteen pixels off, as much is recognised, and nothing is where it belongs (line: truth)", size=11)
assert max(scores, key=scores.get) in (30, 31, 32) and scores[15] < scores[31] - 0.15

# %% [markdown]
# Four pixels cost about a sixth of the score, eight a third and more, sixteen more than half; one pixel is hardly seen.
# Such a mistake hides well: the pictures look reasonable, and the score is merely "not so good". Made in *training*,
# too, it hides even better, for the net can learn around it as far as receptive fields reach. Hence crops are computed
# in this package, not typed in.
#
# ### Forgetting to ignore 255
#
# Contours carry 255. A loss that does not know it fails; this one says so.

# %%
pixels, labels = make_batch(TRAIN, Config(size=(96, 96)), step=0)
try:
    ops.softmax_cross_entropy_forward(np.zeros((4, 7, 96, 96), np.float32), labels, ignore_index=-1)
except ValueError as error:
    print(error)

# %% [markdown]
# People then turn 255 into 0, background, and the error is gone. Training does not complain again. What does the net learn?

# %%
class ContoursCount:
    """The training set with its contours labelled background."""

    def __len__(self):
        return len(TRAIN)

    def __getitem__(self, index):
        image, label = TRAIN[index]
        return image, np.where(label == IGNORE, 0, label).astype(np.uint8)


config = Config(model="fcn8s", steps=100, **options)
forgetful, _ = train(config, best, dataset=ContoursCount())
careful, _ = train(config, best)
for name, net in ("255 ignored", careful), ("255 is background", forgetful):
    contours = np.concatenate([predict(net, image)[label == IGNORE] for image, label in some])
    share = np.mean(contours == 0)
    print(f"{name:18} mean IU {evaluate(net, VAL).mean_iou:.3f}, {share:.0%} of the contours' pixels called background")

# %% [markdown]
# Objects shrink: the net learns to cut them off at the contour's inner side. (About half of a contour
# lies outside of its object, so about half is right.) The score, which ignores contours as well, falls
# by little: another seed may change it as much (below). Where 255 means "unlabelled" and covers half of
# a photograph, the same slip teaches that half of the world is background.
#
# ### Sum or mean loss, and why lr 1e-10?
#
# The authors' published settings sum the loss over an image's pixels. Then the gradient is as many times larger as there
# are pixels that count. So the rate must be smaller by the same factor, and the weight decay, which the rate
# multiplies too, larger. Over 500x375 pixels, $10^{-10}$ on the sum is $1.9 \cdot 10^{-5}$ on the mean:

# %%
assert np.isclose(1e-10 * 500 * 375, 1.9e-5, rtol=0.02)
counted = int((labels != IGNORE).sum())
ends = []
for loss, lr, decay in ("mean", 1e-3, 1e-4), ("sum", 1e-3 / counted, 1e-4 * counted):
    net = new_net(Config(model="fcn8s", width=WIDTH), best)
    train_step(net, SGD(lr, weight_decay=decay), normalise(pixels, net.preprocessing), labels, loss)
    ends.append(net.params)
assert all(np.allclose(ends[0][name], ends[1][name], rtol=1e-4, atol=1e-6) for name in ends[0])
print(f"{counted:,} of {labels.size:,} pixels count: the same step, by sum and by mean")

# %% [markdown]
# With a sum, a picture twice as large takes steps twice as long, and a padded batch takes shorter ones. With a mean, the rate
# does not depend on the size of pictures, and that is why it is the default here.
#
# ### Momentum
#
# SGD keeps a velocity, $v \leftarrow m v - \eta g$, $w \leftarrow w + v$. Under a constant gradient the velocities add up to
# $\eta g (1 + m + m^2 + \dots) = \eta g / (1 - m)$: momentum 0.99 makes steps a hundred times longer, 0.9 ten times.
#
# **Predict.** A valley, forty times steeper across than along. Which momentum, 0, 0.9 or 0.99, is down
# first, and which overshoots?

# %%
steep = np.array([40.0, 1.0])
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
grid = np.meshgrid(np.linspace(-1.6, 1.6, 80), np.linspace(-9.5, 10.5, 80))
left.contour(*grid, (steep[0] * grid[0] ** 2 + steep[1] * grid[1] ** 2) / 2, levels=12, colors="0.85")
for momentum, colour in (0.0, SKY), (0.9, BLUE), (0.99, RED):
    params, optimiser, path = {"w": np.array([1.0, 10.0])}, SGD(0.02, momentum, weight_decay=0.0), []
    for _ in range(150):
        path.append(params["w"].copy())
        optimiser.step(params, {"w": steep * params["w"]})
    path = np.array(path)
    left.plot(*path[:60].T, color=colour, lw=1.5, marker=".", ms=3)
    right.semilogy((steep * path**2).sum(axis=1) / 2, color=colour, label=f"momentum {momentum:g}")
left.set(xlabel="$w_0$, steep", ylabel="$w_1$, flat", title="The first 60 steps")
right.set(xlabel="step", ylabel="loss", title="Too little creeps, too much rolls past")
right.legend(frameon=False);

# %% [markdown]
# 0.9 is down first, after some swings. Without momentum the flat direction takes long; 0.99 overshoots again and again,
# and has lost little of its swing after 150 steps. And the factor $1 / (1 - m)$, under a constant gradient:

# %%
params, optimiser = {"w": np.zeros(1)}, SGD(1e-3, momentum=0.99, weight_decay=0.0)
for _ in range(2000):
    before = params["w"].copy()
    optimiser.step(params, {"w": np.ones(1)})
assert np.isclose(before - params["w"], 1e-3 / (1 - 0.99), rtol=1e-6)

# %% [markdown]
# The 0.99 of the authors' published settings goes with a batch of one image: one image's gradient says little, and a
# velocity that remembers a hundred steps averages over a hundred images. With batches, 0.9 is the usual choice, as in
# the paper, which takes 20 images (Long et al. 2015, section 4.3).
#
# ### The rate's schedule
#
# A high rate finds the region, a low rate settles in it. `poly`, the default, lets the rate fall to zero at the last step.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
ends, lowest = {}, {}
for schedule, colour in ("constant", ORANGE), ("poly", BLUE):
    config = Config(model="fcn8s", steps=200, schedule=schedule, **options | {"lr": 3e-3})
    net, losses = train(config, FOLDER / "fcn8s.safetensors")
    ends[schedule], lowest[schedule] = evaluate(net, VAL).mean_iou, losses[-60:].mean()
    left.plot([SCHEDULES[schedule](step / 200) for step in range(200)], color=colour)
    right.plot(*smooth(losses), color=colour, label=f"{schedule}: mean IU {ends[schedule]:.3f}")
left.set(xlabel="step", ylabel="rate, as a part of lr", title="Two schedules", ylim=(0, 1.1))
right.set(xlabel="step", ylabel="loss", title="The falling rate ends lower", ylim=(0, None))
right.legend(frameon=False)
assert lowest["poly"] < lowest["constant"]

# %% [markdown]
# Both runs saw the same batches, so their losses can be compared. A difference as small as that of the scores, from one
# run each, proves little, as we shall see below.
#
# ### Too few pictures
#
# **Predict.** Eight pictures, 200 steps. What happens to the score on these eight, and to the one on others?

# %%
eight, seen = Shapes("train", length=8), []
few = Shapes("val", length=32)


def watch_both(step, net):
    seen.append((step, evaluate(net, eight).mean_iou, evaluate(net, few).mean_iou))


train(Config(model="fcn8s", steps=200, **options), trunk, dataset=eight, watch=watch_both)
steps, learned, held_out = np.transpose(seen)
assert learned[-1] > held_out[-1] + 0.25

# %%
figure, axis = plt.subplots()
axis.plot(steps, learned, marker="o", ms=4, label="the eight pictures that it trains on")
axis.plot(steps, held_out, marker="o", ms=4, label="held-out pictures")
axis.plot(*np.transpose(watched_straight[:4]), color=GREEN, ls="--", label="held out, 480 to train on")
axis.set(xlabel="step", ylabel="mean IU", ylim=(0, 1), title="Learned by heart: the gap is the sign")
figure.legend(loc="outside lower center", ncols=3, frameon=False);

# %% [markdown]
# (The green line is the first half of a run of 400 steps.) The gap between the two scores is what to
# look at; the training loss alone shows the better half of the story. Remedies, in this order: more
# pictures; weights that have seen many (VGG16's); `--freeze-trunk`, so that only the scores are learned;
# `--scale 0.7 1.4`; fewer steps.
#
# ### Does a second run give the same?

# %%
def five_steps(seed):
    config = Config(model="fcn8s", width=WIDTH, steps=5, seed=seed)
    net, _ = train(config, best)
    return net.params


first, second, other = five_steps(0), five_steps(0), five_steps(1)
assert all(np.array_equal(first[name], second[name]) for name in first)
print(f"equal to the last bit; another seed differs by up to {max(abs(first[name] - other[name]).max() for name in first):.2g}")

# %% [markdown]
# The same seed, number of threads, libraries and kind of processor give the same bits. Another seed
# gives another order of pictures, and a score that differs: in the README's comparison on CamVid, by
# 0.044 in mean IU. A gain smaller than that, from one run each, is no gain.
#
# ## My own data set
#
# Pictures, labels whose pixels are class indices, two lists, and the classes' names: VOC's layout. `write_voc` makes an example
# of it.

# %%
mine = FOLDER / "mine"
write_voc(Shapes("train", length=3), mine, "train")
write_voc(Shapes("val", length=2), mine, "val")
print(*sorted(str(path.relative_to(mine)) for path in mine.rglob("*") if path.is_file()), sep="\n")
image, label = VOCSegmentation(mine, "train")[0]
assert np.array_equal(image, TRAIN[0][0]) and np.array_equal(label, TRAIN[0][1])

# %% [markdown]
# The usual mistakes end in one line that says what to do:

# %%
def complaint(make):
    try:
        print(len(make()), "pictures")
    except InputError as error:
        print(str(error).replace(str(FOLDER), "..."), end="\n\n")


label_path = sorted((mine / "SegmentationClass").iterdir())[0]
plt.imsave(label_path, PALETTE[label])  # a picture of the label, in colours
complaint(lambda: VOCSegmentation(mine, "train")[0])
label_path.unlink()
complaint(lambda: VOCSegmentation(mine, "train"))
complaint(lambda: VOCSegmentation(mine, "test"))

# %% [markdown]
# ```sh
# python -m tinyfcn.train --data mine --out runs/32s --model fcn32s --size 224 --batch-size 4 --epochs 30
# python -m tinyfcn.train --model fcn16s --from runs/32s --out runs/16s
# python -m tinyfcn.train --model fcn8s  --from runs/16s --out runs/8s
# python -m tinyfcn.evaluate runs/8s
# python -m tinyfcn.predict runs/8s photo.jpg --out labelled
# python -m tinyfcn.train --resume runs/8s          # after an interruption, to the same result
# ```
#
# - **How many pictures?** From scratch, 49 photographs of VOC teach nothing that holds elsewhere: mean IU 0.07 held out against
#   a baseline of 0.04, and 367 street scenes of CamVid reach 0.52 on eleven classes that look alike everywhere (both measured
#   in the README). The curves above are the test: while a gap is open, more pictures help.
# - **With VGG16's weights** (`--init vgg16.safetensors --width 1`) fewer will do, since most is learned already: the
#   paper's 32s-fixed, 45.4 mean IU, learns nothing but 21 scores on top of them.
# - **Which preprocessing?** The weights' own. It is in the file, and nobody has to choose ([VGG16's weights](08_weights.ipynb)).
# - **`--freeze-trunk`** first, when pictures are few: a step is much cheaper (measured below), and there is little to overfit.
#
# ## How long does it take on VOC with VGG16 on a CPU?
#
# `docs/speed.md` has the time of one step at 500x500 pixels, batch 1, on two cores. The authors' published settings train up to
# 100,000 such steps a stage.

# %%
measured = json.loads(Path("../data/results/bench-cpu.json").read_text(encoding="utf-8"))["results"]
title = "FCN-8s training, 1x3x500x500, width 1"
step = {r["contender"]: r["median_seconds"] for r in measured if r["work"] == title}
ours, theirs = step["tinyfcn"], step["PyTorch"]
print(f"one step: {ours:.2f} s; with PyTorch, on the same two cores, {theirs:.2f} s")
for what, steps in (
    ("an epoch of VOC 2012's 1,464 training pictures", 1464),
    ("ten epochs", 14640),
    ("a stage of 100,000 steps", 100_000),
):
    print(f"{what:48} {steps * ours / 3600:6.1f} hours; with PyTorch {steps * theirs / 3600:6.1f}")

# %% [markdown]
# A weekend a stage, or an evening for ten epochs. Padding "same" (`--padding same`) computes on 500x500 pixels instead of
# 698x698, about half as many. And with a frozen trunk nothing needs to go back through it:

# %%
times = {}
for freeze in (False, True):
    config = Config(model="fcn8s", width=1 / 8, freeze_trunk=freeze)
    net, optimiser = new_net(config), build_optimiser(config)
    pixels, labels = make_batch(TRAIN, config, step=0)
    x = normalise(pixels, net.preprocessing)
    times[freeze] = seconds(lambda net=net, optimiser=optimiser: train_step(net, optimiser, x, labels))
print(f"a step of FCN-8s, width 1/8: {1e3 * times[False]:.0f} ms; with a frozen trunk {1e3 * times[True]:.0f} ms")
assert times[True] < 0.7 * times[False]

# %% [markdown]
# ## And on a GPU?
#
# In 2015, three days for the 32s and about one day for each of the others, on one GPU (Long et al. 2015, section 4.3). What
# this package's step costs on a GPU, and how to measure it on yours, is the subject of [A GPU, measured](11_gpu.ipynb).

# %%
TEMPORARY.cleanup()
print(f"this notebook: {time.perf_counter() - started:.0f} s")

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: the baseline
#
# Given how many pixels each class has in the labels, what does the most frequent class everywhere score? Return (pixel
# accuracy, mean IU). Classes that no label has leave the mean.

# %% tags=["exercise"]
def constant_scores(pixels):
    """(pixel accuracy, mean IU) of predicting the most frequent class at every pixel; `pixels` (C,) are pixels a class."""
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
        assert np.isclose(iou, matrix.mean_iou), f"{counts}: mean IU {iou}, expected {matrix.mean_iou}"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def constant_scores(pixels):
#     share = pixels.max() / pixels.sum()
#     return share, share / np.count_nonzero(pixels)
# ```
#
# All pixels of the most frequent class are right, so its IU is its share of all pixels; every other class that occurs has IU 0.
#
# </details>

# %% [markdown]
# ### Exercise 2: a step of SGD
#
# Write the update of one weight array as in Caffe: $v \leftarrow m v - \eta (g + \lambda w)$, $w \leftarrow w + v$. Return the
# new (w, v).

# %% tags=["exercise"]
def sgd_step(w, v, g, lr, momentum, weight_decay):
    """The weights and the velocity after one step; w, v and g stay as they are."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(3, 4))
    v, params, optimiser = np.zeros_like(w), {"layer.weight": w.copy()}, SGD(0.1, momentum=0.9, weight_decay=0.01)
    for step in range(4):
        g = rng.normal(size=w.shape)
        optimiser.step(params, {"layer.weight": g})
        before = w.copy(), v.copy(), g.copy()
        new_w, new_v = sgd_step(w, v, g, 0.1, 0.9, 0.01)
        for name, array, old in zip("wvg", (w, v, g), before, strict=True):
            assert np.array_equal(array, old), f"{name} was changed in place: make new arrays"
        w, v = new_w, new_v
        assert np.allclose(w, params["layer.weight"]), f"step {step}: w is off by {abs(w - params['layer.weight']).max():.3g}"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def sgd_step(w, v, g, lr, momentum, weight_decay):
#     v = momentum * v - lr * (g + weight_decay * w)
#     return w + v, v
# ```
#
# There is no factor $1 - m$ on the gradient: with it, steps would be ten times shorter at momentum 0.9, and published rates
# would mean something else.
#
# </details>

# %% [markdown]
# ### Exercise 3: from the mean to the sum
#
# A rate works well with the mean loss. Which one takes the same step with the summed loss, on a batch
# with these labels? (Without weight decay.)

# %% tags=["exercise"]
def rate_for_sum(lr, labels):
    """The learning rate on the summed loss that equals `lr` on the mean loss, for labels (N, H, W) with 255 = ignore."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    _, some_labels = make_batch(TRAIN, Config(size=(48, 48), batch_size=2), step=0)
    scores = np.random.default_rng(0).normal(size=(2, 7, 48, 48))
    steps = []
    for reduction, rate in ("mean", 0.5), ("sum", rate_for_sum(0.5, some_labels)):
        _, cache = ops.softmax_cross_entropy_forward(scores, some_labels, reduction=reduction)
        steps.append(rate * ops.softmax_cross_entropy_backward(1.0, cache))
    ratio = abs(steps[1]).max() / abs(steps[0]).max()
    assert np.allclose(*steps, rtol=1e-6, atol=0), f"your step on the sum is {ratio:.4f} times the one on the mean"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def rate_for_sum(lr, labels):
#     return lr / np.count_nonzero(labels != 255)
# ```
#
# The mean divides by the pixels that count, so ignored ones must not be among them.
#
# </details>

# %% [markdown]
# ### Exercise 4: start a stage
#
# Given the parameters of a trained FCN-32s, return those with which an FCN-16s begins: it must still
# compute the 32s's scores, but for the way of upsampling. `shapes` are the names and shapes of the
# FCN-16s's parameters.

# %% tags=["exercise"]
def next_stage(params, shapes):
    """The next stage's parameters, a dict of new float32 arrays: name -> array of shape shapes[name]."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng = np.random.default_rng(0)
    coarse, fine = FCN32s(7, WIDTH, "same"), FCN16s(7, WIDTH, "same", seed=1)
    coarse.params["score_fr.weight"][:] = rng.normal(size=coarse.params["score_fr.weight"].shape)
    started_from = next_stage(coarse.params, {name: p.shape for name, p in fine.params.items()})
    assert started_from.keys() == fine.params.keys(), f"parameters: {started_from.keys() ^ fine.params.keys()} differ"
    for name, p in started_from.items():
        wanted = fine.params[name].shape
        assert (p.shape, p.dtype) == (wanted, np.float32), f"{name} is {p.dtype} {p.shape}, expected float32 {wanted}"
    fine.params = started_from
    images = rng.normal(size=(1, 3, 96, 96)).astype(np.float32)
    score = coarse.conv("score_fr", coarse.trunk(images, False)[1])
    once, _ = ops.upsample_bilinear_forward(score, 4, 2)
    expected, _ = ops.upsample_bilinear_forward(once[:, :, 1:-1, 1:-1], 32, 16)
    result = fine.forward(images)
    error = abs(result - expected[:, :, 8:104, 8:104]).max()
    assert error < 1e-4, f"its scores differ from the 32s's, upsampled by 2 and by 16, by up to {error:.3g}"
    shared = [name for name, p in coarse.params.items() if np.shares_memory(p, started_from[name])]
    assert not shared, f"training the 16s would change the 32s's {shared[0]}: copy"

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
# What is new is `score_pool4`, and a zero score layer adds zero. Its gradient is not zero, for that is made of pool4's
# activations: it learns from the first step on.
#
# </details>

# %% [markdown]
# Next: [Speed](10_speed.ipynb), or how NumPy alone gets this fast.
