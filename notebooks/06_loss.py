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
# # 6. A loss at every pixel
#
# A network ends in scores: one number for each class, at each pixel. The loss says how wrong they are, and its gradient is
# where every backward pass begins.
#
# You will be able to
#
# - derive softmax cross-entropy and its gradient $p - \text{onehot}$, and say why that sums to zero over the classes;
# - write both so that no score makes them overflow;
# - say which pixels count, and by how much: ignored ones, class weights, sum and mean;
# - explain the learning rate $10^{-10}$ and the momentum 0.99 of FCN's authors, and carry them over to a mean, or to a larger
#   batch;
# - read the first steps of a training curve.
#
# Takes about 50 minutes. It builds on [Upsampling](05_upsampling.ipynb), which gave every pixel its scores.

# %% tags=["setup"]
import numpy as np
from lesson import BLACK, BLUE, GREEN, ORANGE, RED, attempt, plt, show_source

from tinyfcn import ops
from tinyfcn.data import IGNORE, Shapes, normalise, palette, training_batch
from tinyfcn.gradcheck import GradientError, check_gradient
from tinyfcn.models import FCN32s
from tinyfcn.optim import SGD, Adam

rng = np.random.default_rng(0)

# %% [markdown]
# ## From scores to a loss
#
# At one pixel there are $C$ scores $s_0 \ldots s_{C-1}$, any numbers. Softmax turns them into probabilities: positive, with sum
# 1, in the scores' order.
#
# $$p_k = \frac{e^{s_k}}{\sum_j e^{s_j}}$$
#
# With $t$ the true class, the loss is what the truth costs: $L = -\log p_t$.

# %%
scores = np.array([2.0, 0.5, -1.0])  # of three classes, at one pixel
p = np.exp(scores) / np.exp(scores).sum()
print("p:   ", p.round(3), " sum", p.sum().round(12))
print("loss:", (-np.log(p)).round(3), " if the truth is class 0, 1, 2")

# %% [markdown]
# **Predict.** A network's score layers start at zero, so at first all scores are 0. What is the loss with 21 classes? Does it
# matter what the labels are?

# %%
labels = rng.integers(0, 21, (1, 8, 8))
loss, _ = ops.softmax_cross_entropy_forward(np.zeros((1, 21, 8, 8)), labels)
print(f"{loss:.4f}")
assert np.isclose(loss, np.log(21))

# %% [markdown]
# All classes get $p = 1/21$, so each pixel costs $-\log(1/21) = \log 21 = 3.04$, whatever its label. A first loss far from
# $\log C$ says that something is wrong before anything was learned.
#
# How does the loss depend on the score of the true class, when the others stay at 0?

# %%
s = np.linspace(-8, 8, 200)
figure, (left, right) = plt.subplots(1, 2)
for classes, colour in (2, BLUE), (21, ORANGE):
    p_true = np.exp(s) / (np.exp(s) + classes - 1)
    left.plot(s, -np.log(p_true), color=colour, label=f"{classes} classes")
    right.plot(s, p_true - 1, color=colour, label=f"{classes} classes")
    left.plot(0, np.log(classes), "o", color=colour)
left.set(title="A wrong pixel costs what its score lacks;\na right one nearly nothing", ylabel="loss")
right.set(title="Its slope lies between -1 and 0:\nno pixel can shout", ylabel="slope of the loss")
for axis in left, right:
    axis.set_xlabel("score of the true class, others 0")
    axis.legend(frameon=False)
plt.show()

# %% [markdown]
# Dots mark the start, $\log C$. On the left of each curve the loss is a straight line: a score that is
# lower by 1 costs 1 more. On the right it fades to nothing.
#
# ## The gradient
#
# Write the loss without the fraction:
#
# $$L = -\log p_t = \log \sum_j e^{s_j} - s_t$$
#
# Now differentiate with respect to score $s_k$. The first term:
#
# $$\frac{\partial}{\partial s_k} \log \sum_j e^{s_j} = \frac{e^{s_k}}{\sum_j e^{s_j}} = p_k$$
#
# The second is $-1$ where $k = t$, else 0. Together:
#
# $$\frac{\partial L}{\partial s_k} = p_k - [k = t]$$
#
# That is all. The gradient is the probability that was given, minus the one that would have been right.

# %%
def one_pixel_forward(scores, label):
    p = np.exp(scores) / np.exp(scores).sum()
    return -np.log(p[label]), (p, label)


def one_pixel_backward(dloss, cache):
    p, label = cache
    onehot = np.arange(len(p)) == label
    return dloss * (p - onehot)


print(check_gradient(one_pixel_forward, one_pixel_backward, scores, 1))

# %% [markdown]
# `check_gradient` compares with differences of the loss itself ([Convolution](02_convolution.ipynb) shows how). Does it notice
# a wrong formula? A popular one stops half way: the derivative of $-\log p_t$ by $p_t$ is $-1 / p_t$, so it puts that at the
# label, and forgets that $p_t$ depends on all scores.

# %%
def wrong_backward(dloss, cache):
    p, label = cache
    return -dloss / p * (np.arange(len(p)) == label)


try:
    check_gradient(one_pixel_forward, wrong_backward, scores, 1)
except GradientError as error:
    print(error)
else:
    raise AssertionError("the wrong formula was accepted")

# %% [markdown]
# **Predict.** What is the sum of the gradient over the classes? How large is the entry of the true
# class, beside all others together?

# %%
_, cache = one_pixel_forward(scores, 1)
gradient = one_pixel_backward(1.0, cache)
figure, axes = plt.subplots(1, 3, figsize=(8, 2.6))
names = ("s", "p", "p - onehot")
for axis, values, name in zip(axes, (scores, cache[0], gradient), names):
    axis.bar(range(3), values, color=[BLUE, ORANGE, BLUE])
    axis.axhline(0, color=BLACK, linewidth=0.8)
    axis.set(title=f"{name},  sum {values.sum() + 0:.2f}", xlabel="class", xticks=range(3), ylim=(-1.2, 2.2))
axes[0].set_ylabel("value at the pixel")
figure.suptitle("The truth is class 1 (orange). A step against the gradient raises it, and lowers the others")
plt.show()
assert np.isclose(gradient.sum(), 0) and np.isclose(abs(gradient).max(), abs(gradient).sum() / 2)

# %% [markdown]
# ## Why does it sum to zero?
#
# By algebra: $p$ sums to 1, and so does the one-hot vector. The entry of the true class is the only one
# below zero, so it is as large as all others together.
#
# By meaning: add the same number to all scores, and $e^{s_k}$ and the sum grow by the same factor. $p$ stays, and so does the
# loss. Along the direction $(1, 1, \ldots, 1)$ the loss is flat, so its slope there, which is the sum of the gradient, is zero.

# %%
for shift in (0.0, 5.0, -30.0):
    print(f"all scores {shift:+.0f}: loss {one_pixel_forward(scores + shift, 1)[0]:.12f}")
assert np.isclose(one_pixel_forward(scores + 5, 1)[0], one_pixel_forward(scores, 1)[0], rtol=1e-13)

# %% [markdown]
# The sum is a cheap test of somebody's loss. And the flat direction is the key to the numerical trouble below.
#
# ## At every pixel
#
# A picture's loss is that of its pixels. Let us look at one before we add them up. To have scores that mean something without
# training a network, we make some: the shares of the classes in blocks of 16x16 pixels of the *truth*,
# as log-probabilities, upsampled 16 times. That is about what a coarse network can know.

# %%
image, label = Shapes("train")[37]
image, label = image[:112], label[:112]
blocks = np.eye(256)[label][..., :7].reshape(7, 16, 10, 16, 7).sum(axis=(1, 3))  # pixels of each class in each block
coarse = np.log((blocks + 1) / (blocks + 1).sum(-1, keepdims=True)).transpose(2, 0, 1)[None]
scores, _ = ops.upsample_bilinear_forward(coarse, 32, 16, (slice(8, 120), slice(8, 168)))
print("blocks", coarse.shape, "-> pixels", scores.shape)

# %%
loss_map, cache = ops.softmax_cross_entropy_forward(scores, label[None], reduction="none")
dscores = ops.softmax_cross_entropy_backward(np.ones_like(loss_map), cache)

# %% [markdown]
# `reduction="none"` keeps the loss of each pixel.
#
# **Predict.** Where in the picture is it large? Where is it exactly 0?

# %%
present = [int(k) for k in np.unique(label) if k not in (0, IGNORE)]
figure, axes = plt.subplots(2, 3, figsize=(8, 4.6))
colours = palette()
titles = ("image", "truth (pale: 255)", "answer: the largest score")
for axis, picture, title in zip(axes[0], (image, colours[label], colours[scores[0].argmax(0)]), titles):
    axis.imshow(picture)
    axis.set_title(title, fontsize=10)
both_signs = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1}
for axis, picture, title, how in (
    (axes[1, 0], loss_map[0], "loss", {"cmap": "magma"}),
    (axes[1, 1], -dscores[0, 0], "- gradient, background's score", both_signs),
    (axes[1, 2], -dscores[0, present[0]], f"- gradient, {Shapes.classes[present[0]]}'s score", both_signs),
):
    figure.colorbar(axis.imshow(picture, **how), ax=axis, location="bottom", shrink=0.8)
    axis.set_title(title, fontsize=10)
for axis in axes.ravel():
    axis.set_axis_off()
figure.suptitle("The loss is at the outlines. Red: this score is to rise; blue: to fall")
plt.show()

# %% [markdown]
# Inside a shape, and far from all, the coarse scores are right and sure: hardly any loss, hardly any
# gradient. Nearly all there is to learn is at the outlines, and there the gradient has a side: it raises
# the background's score outside the shape, and the shape's inside. (At the picture's border the
# upsampled scores fade towards 0, so they are less sure.)
#
# Exactly 0 is the contour, which the labels mark 255.
#
# ## What is 255?
#
# PASCAL VOC draws a line of 255 around every object: there, nobody can say which class it is, so nobody is to be punished.
# Batches use it too, for what lies beyond a picture's edge. An ignored pixel has no loss, no gradient, and does not count in
# the mean.

# %%
void = label[None] == IGNORE
assert not loss_map[void].any() and not dscores.transpose(0, 2, 3, 1)[void].any()

mean, _ = ops.softmax_cross_entropy_forward(scores, label[None])
assert np.isclose(mean, loss_map.sum() / (~void).sum())  # over the pixels that count

changed = np.where(void[:, None], 1000.0, scores)  # any nonsense, where it is ignored
assert ops.softmax_cross_entropy_forward(changed, label[None])[0] == mean
print(f"{void.mean():.1%} of the pixels are ignored; mean over the others {mean:.4f}, over all {loss_map.mean():.4f}")

# %% [markdown]
# 255 is not a class. A network that has no score 255 cannot be asked for it, and one that is trained with the contour as a
# class 21 of its own learns to draw contours. With the contour as class 0 it does not: it learns to cut objects off at their
# inner side ([measured here](09_training.ipynb#Forgetting-to-ignore-255)). What any other label outside the classes means is
# anybody's guess, so it is an error:

# %%
try:
    ops.softmax_cross_entropy_forward(scores, np.where(label == IGNORE, 21, label)[None])
except ValueError as error:
    print(error)

# %% [markdown]
# ## Where exp goes wrong
#
# The formulas above are exact, floating-point numbers are not. float32 ends at $3.4 \cdot 10^{38}$.
#
# **Predict.** From which score on is $e^s$ infinite in float32? What does $p$ become then? And what becomes of the loss where
# $p_t$ is too small for float32?

# %%
print(f"largest float32: {np.finfo(np.float32).max:.3g}, its logarithm: {np.log(np.finfo(np.float32).max):.2f}")
with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
    for score in np.float32([80, 88, 89]):
        exps = np.exp(np.float32([0, score]))
        print(f"s = (0, {score:.0f}): exp {exps},  p {exps / exps.sum()}")
    print("-log of p for s = -110 against 0:", -np.log(np.exp(np.float32(-110))))

# %% [markdown]
# At 89 the exponential is infinite, and $p = \infty / \infty$ is not a number: a single such pixel makes
# the whole loss NaN, and one step later the parameters. Below -104 the exponential is 0, and its
# logarithm is infinite, where the true loss is 110. Such scores do occur: the [next
# notebook](07_fcn.ipynb#Why-does-8s-not-train-from-VGG-directly?) shows a learning rate that sends them
# into the millions.
#
# ## The cure
#
# The loss does not change if all scores are lowered alike. So lower them by the largest, $m = \max_j s_j$:
#
# $$L = \log \sum_j e^{s_j - m} - (s_t - m)$$
#
# - Every exponent is at most 0: nothing overflows.
# - One of them is exactly 0, so the sum is at least 1: its logarithm is finite.
# - $-\log p_t$ is never computed from $p_t$: where that is 0 in float32, $s_t - m$ is still a good number.

# %%
def naive(s, t):
    p = np.exp(s) / np.exp(s).sum(axis=0)
    return -np.log(p[t])


def shifted(s, t):  # the first half of the cure
    return naive(s - s.max(axis=0), t)


def log_sum_exp(s, t):
    s = s - s.max(axis=0)
    return np.log(np.exp(s).sum(axis=0)) - s[t]


difference = np.linspace(-130, 130, 521, dtype=np.float32)
s = np.stack([np.zeros_like(difference), difference])
figure, axes = plt.subplots(1, 3, sharex=True, sharey=True, figsize=(8, 2.9))
with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
    for axis, way, title in zip(axes, (naive, shifted, log_sum_exp), ("as it is written", "largest subtracted", "log-sum-exp")):
        y = way(s, 0)
        axis.plot(difference, y, linewidth=2)
        axis.set(title=title, xlabel="score of the wrong class", ylim=(-8, 138))
        bad = difference[~np.isfinite(y)]
        if len(bad):
            axis.axvspan(bad.min(), bad.max(), color=RED, alpha=0.25)
            axis.text(bad.min() - 4, 100, "not finite", color=RED, ha="right")
axes[0].set_ylabel("loss in float32 (true score 0)")
plt.show()
assert np.isfinite(log_sum_exp(s, 0)).all()
np.testing.assert_allclose(log_sum_exp(s, 0), log_sum_exp(s.astype(np.float64), 0), rtol=1e-6, atol=1e-7)

# %% [markdown]
# Half a cure helps only up to 104. Only the last is right everywhere. This is why softmax and loss are *one* operation, with
# one backward pass: taken apart, the first throws away what the second needs.
#
# Small losses have the mirror image of this trouble. For a pixel that is right by 20, the loss is $\log(1 + e^{-20}) = 2 \cdot
# 10^{-9}$, but $1 + 2 \cdot 10^{-9}$ is 1 in float32, and the loss comes out as 0. This does no harm: the gradient $p - 1$ is
# as small.

# %%
tiny = log_sum_exp(np.float32([0, -20]), 0)
print(f"{tiny:.3g} in float32, {np.log1p(np.exp(-20)):.3g} exactly")
assert tiny == 0

# %% [markdown]
# ## Sums over many pixels
#
# A photograph of VOC has 500 x 375 = 187,500 pixels. A running sum in float32 rounds at every addition,
# to the precision of the *sum*.
#
# **Predict.** At the start every pixel costs 3.04. By what part is a running sum off at the end: a
# ten-millionth, a thousandth, a tenth?

# %%
each = np.full(187_500, np.log(21), np.float32)
exact = each.astype(np.float64).sum()
running = np.cumsum(each)[-1]  # one after the other
pairwise = each.sum()  # NumPy's: halves, and halves of halves
for name, value in ("exact", exact), ("running float32", running), ("pairwise float32", pairwise):
    print(f"{name:17} {value:12.3f}   relative error {abs(value / exact - 1):.1e}")
print("next float32 after the sum:", np.spacing(np.float32(exact)), "more")
assert abs(pairwise / exact - 1) < 1e-6 < abs(running / exact - 1)

# %% [markdown]
# NumPy adds halves of halves, so errors do not pile up. The second trap stays: a float32 near 570,000 has steps of 1/16, so a
# summed loss in a log file shows no change smaller than that. The gradient has none of this: it is computed pixel by pixel, and
# never from the sum.
#
# ## The code
#
# All of the above is in 15 lines of the package's operation. The rest is errors, weights and threads.

# %%
show_source(ops.softmax_cross_entropy_forward)

# %% [markdown]
# Read `work` (`xp` is NumPy, or CuPy on a GPU). `s - max s`, then the label's score is kept,
# before exp overwrites the array: it is needed for $s_t - m$. `g *= w / total` makes $w p$ out of the
# exponentials; `g[place] -= w` subtracts the one-hot. So the gradient is done already, and the backward
# pass is a multiplication by `dloss`:

# %%
show_source(ops.softmax_cross_entropy_backward)

# %%
small = rng.normal(size=(2, 4, 5, 6))
truth = rng.choice([0, 1, 2, 3, 255], size=(2, 5, 6))
for reduction in ("sum", "mean", "none"):
    for weights in (None, np.array([0.5, 1.0, 2.0, 0.0])):
        result = check_gradient(
            lambda s: ops.softmax_cross_entropy_forward(s, truth, reduction=reduction, class_weight=weights),
            ops.softmax_cross_entropy_backward,
            small,
        )
    print(f"{reduction:5}", result)

# %% [markdown]
# ## Sum or mean?
#
# The loss of a picture is the sum over its $P$ counted pixels, or the mean, which is the sum divided by $P$. The gradient is
# $P$ times as large, or not. That is no difference of principle: SGD moves by learning rate times gradient.
#
# There is a second number, though. Weight decay $\lambda$ pulls each weight towards 0 by adding $\lambda w$ to the gradient. It
# does not know $P$. With momentum $\mu$, a step on the *sum*, whose gradient is $P g$, is
#
# $$v \leftarrow \mu v - \eta\,(P g + \lambda w) = \mu v - (\eta P)\left(g + \tfrac{\lambda}{P} w\right)$$
#
# So steps on the sum with $(\eta, \lambda)$ are steps on the mean with $(\eta P, \lambda / P)$: not
# roughly, but exactly.
#
# Let us see it. The smallest network there is has one convolution: it tells objects from background in crops of 32x32, from
# windows of 5x5 pixels, by their colours and the squares of these (objects are vivid).

# %% tags=["setup"]
train = Shapes("train", length=40)


def crops(first, count, seed=0):
    """Colours and their squares (N, 6, 32, 32), and labels (N, 32, 32): 0 background, 1 object, 255 contour."""
    pairs = [train[i % len(train)] for i in range(first, first + count)]
    images, labels = training_batch(pairs, (32, 32), np.random.default_rng([seed, first]))
    colours = normalise(images, "torchvision").astype(np.float64)
    return np.concatenate([colours, colours**2], axis=1), np.where(labels == IGNORE, IGNORE, labels > 0)


def new_params():
    return {"conv.weight": np.zeros((2, 6, 5, 5)), "conv.bias": np.zeros(2)}


def step_gradients(params, x, labels, reduction="mean"):
    """Loss, and its gradients, of one convolution followed by softmax cross-entropy."""
    scores, conv_cache = ops.conv2d_forward(x, params["conv.weight"], params["conv.bias"], padding=2)
    loss, cache = ops.softmax_cross_entropy_forward(scores, labels, reduction=reduction)
    _, dweight, dbias = ops.conv2d_backward(ops.softmax_cross_entropy_backward(1.0, cache), conv_cache, need_dx=False)
    return loss, {"conv.weight": dweight, "conv.bias": dbias}

# %%
x, labels = crops(0, 4)
P = int((labels != IGNORE).sum())
lr, decay, momentum = 1e-6, 5.0, 0.9  # on the sum
on_sum, on_mean = new_params(), new_params()
sgd_sum, sgd_mean = SGD(lr, momentum, decay), SGD(lr * P, momentum, decay / P)
for _ in range(100):
    sgd_sum.step(on_sum, step_gradients(on_sum, x, labels, "sum")[1])
    sgd_mean.step(on_mean, step_gradients(on_mean, x, labels, "mean")[1])
gap = max(abs(on_sum[name] - on_mean[name]).max() for name in on_sum)
largest = abs(on_sum["conv.weight"]).max()
print(f"P = {P}; after 100 steps the weights differ by at most {gap:.1e}, their largest is {largest:.3f}")
assert gap < 1e-12

# %% [markdown]
# The two differ once $P$ is not the same in each step. On the sum every *pixel* has the same weight, on the mean every *step*
# has. With one image a step, a picture of 100x100 then moves the network as far as one of 500x500, and so each of its pixels
# moves it 25 times as far. The same holds for a picture that is nearly all 255: on the mean, the few pixels that count share
# the whole step.

# %%
sizes = ["500x500", "500x375", "300x200", "100x100"]
counted = np.array([250_000, 187_500, 60_000, 10_000])
figure, (left, right) = plt.subplots(1, 2)
places = np.arange(len(sizes))
for axis, values, title in (
    (left, (counted / counted.sum(), np.full(4, 0.25)), "A picture's share of the steps"),
    (right, (np.ones(4), counted.max() / counted), "Weight of one of its pixels"),
):
    for shift, value, name, colour in zip((-0.2, 0.2), values, ("sum", "mean"), (BLUE, ORANGE)):
        axis.bar(places + shift, value, 0.4, label=name, color=colour)
    axis.set(xticks=places, xticklabels=sizes, xlabel="picture, in pixels that count", ylabel="share")
    axis.set_title(title, fontsize=11)
right.set_ylabel("weight")
left.legend(frameon=False)
figure.suptitle("The sum treats pixels alike, the mean pictures (batches of one)")
plt.show()

# %% [markdown]
# Which is better? VOC's pictures are nearly all about 500x375 or 375x500, so it hardly matters there. The mean has a practical
# advantage: its learning rate means the same for crops of 96x96 and for whole photographs. It is the package's default; `--loss
# sum` belongs to the solvers that the authors published with their networks.
#
# ## Why was the learning rate 1e-10?
#
# It is not in the paper of 2015, which says $10^{-4}$ for VGG16, momentum 0.9 and 20 images a step (section 4.3). $10^{-10}$
# stands in the solver that the authors published with FCN-32s later, together with momentum 0.99, weight decay 0.0005 and one
# image a step, and the reason is one line in the network's file: its loss layer says `normalize: false`. The rate belongs to
# the sum.

# %%
P = 500 * 375
assert P == 187_500
print(f"on the mean: learning rate {1e-10 * P:.2e}, weight decay {5e-4 / P:.1e}")
assert np.isclose(1e-10 * P, 1.875e-5)

# %% [markdown]
# $1.9 \cdot 10^{-5}$ looks less strange. It is still small, and there the momentum comes in.
#
# **Predict.** The gradient is $g = 1$ in every step. By how much does a weight move in a step, in the end, for momentum 0.9 and
# for 0.99? After how many steps?

# %%
figure, axis = plt.subplots()
steps = np.arange(1, 501)
for momentum, colour in (0.9, BLUE), (0.99, ORANGE):
    params, sgd, moved = {"w": np.zeros(1)}, SGD(1.0, momentum, 0.0), []
    for _ in steps:
        before = params["w"].copy()
        sgd.step(params, {"w": np.ones(1)})
        moved.append((before - params["w"]).item())
    axis.plot(steps, moved, color=colour, label=f"momentum {momentum}")
    assert np.isclose(moved[-1], 1 / (1 - momentum), rtol=0.01)
    assert np.isclose(moved[round(3 / (1 - momentum)) - 1], 0.95 / (1 - momentum), rtol=0.01)
axis.set(xlabel="step", ylabel="move / (lr g)", title="A constant gradient moves a weight by 1 / (1 - momentum) times lr g")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# $v = \mu v - \eta g$ comes to rest at $v = -\eta g / (1 - \mu)$: 10 times the learning rate for 0.9,
# 100 times for 0.99. It takes about $3 / (1 - \mu)$ steps to come within 5% of that, 30 and 300. So the
# published recipe moves weights at $100 \cdot 1.9 \cdot 10^{-5} = 1.9 \cdot 10^{-3}$, on the mean.
# Nothing about that is small.
#
# What goes wrong if the number is taken over without its loss? Here is the little network: a good rate on the sum, the same
# rate on the mean, and the mean's rate on the sum.

# %%
runs = [("sum, lr 1e-6", "sum", 1e-6, BLUE), ("mean, lr 1e-6", "mean", 1e-6, ORANGE), ("sum, lr 1e-2", "sum", 1e-2, RED)]
x, labels = crops(0, 16)
P = (labels != IGNORE).sum()
figure, axis = plt.subplots()
final = []
for name, reduction, lr, colour in runs:
    params, sgd, losses = new_params(), SGD(lr, 0.9, 0.0), []
    for _ in range(150):
        loss, grads = step_gradients(params, x, labels, reduction)
        losses.append(loss / P if reduction == "sum" else loss)
        sgd.step(params, grads)
    final.append(losses[-1])
    axis.plot(losses, color=colour, label=name)
axis.set(yscale="log", xlabel="step", ylabel="loss, mean of a pixel", title="One learning rate, two losses")
axis.legend(frameon=False)
plt.show()
assert final[0] < 0.3 and abs(final[1] - np.log(2)) < 0.02 and final[2] > 1

# %% [markdown]
# On the mean, the sum's rate trains nothing: the curve is flat, at $\log C$, and no error says so. A
# rate of $10^{-10}$ on the mean does the same. The other mistake makes itself heard.
#
# ## A batch larger than 1?
#
# The paper of 2015 trains with 20 images a step and momentum 0.9 (section 4.3). Two years later the
# authors prefer one image a step and momentum 0.99, which they call "heavy" (Shelhamer, Long and
# Darrell, 2017). Their argument: unroll the momentum, and count the images back from the latest, $j = 0,
# 1, 2, \ldots$ With $k$ images a step, image $j$ is in the current move with the coefficient
#
# $$\mu^{\lfloor j / k \rfloor}$$
#
# Leave the rounding out, and it is $(\mu^{1/k})^j$: as if there were one image a step, with momentum $\mu^{1/k}$.

# %%
print(f"20 images, momentum 0.9  ~  1 image, momentum {0.9 ** (1 / 20):.4f}")
print(f"1 image, momentum 0.99  ~  20 images, momentum {0.99 ** 20:.3f}")
j = np.arange(120)
figure, axis = plt.subplots()
axis.step(j, 0.9 ** (j // 20), where="post", label="20 images, 0.9", color=BLUE)
axis.plot(j, 0.9 ** (j / 20), label="1 image, 0.9947", color=ORANGE)
axis.plot(j, 0.99**j, label="1 image, 0.99", color=GREEN)
axis.set(xlabel="images back", ylabel="coefficient", ylim=(0, 1.05))
axis.set_title("How much of an earlier image's gradient is in the present move")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# The memory is the same. But there is a difference that the figure does not show.
#
# **Predict.** With the same learning rate on the summed loss, in which run does one image move the
# network farther, in all the steps that remember it?

# %%
for k, momentum in (20, 0.9), (1, 0.9 ** (1 / 20)):
    print(f"images a step: {k:2}; each image moves the weights by {1 / (1 - momentum):5.1f} lr g in the end")
ratio = (1 - 0.9) / (1 - 0.9 ** (1 / 20))
print(f"ratio {ratio:.1f}")

# %% [markdown]
# In a batch of 20, an image is in one move with the coefficient 1, in the next with 0.9, and so on. With
# one image a step there are 20 moves for each of these, and the image is in all of them. So at the same
# learning rate the same images move the network 19 times as far. To move no farther than with the batch,
# divide the learning rate by 19. Let us measure all three on the little network.

# %%
def run(batch, momentum, lr, images=2400):
    """Mean losses of a fixed set of 40 crops, over the images seen."""
    params, sgd, seen, losses = new_params(), SGD(lr, momentum, 0.0), [], []
    for first in range(0, images, batch):
        if first % 60 == 0:
            seen.append(first)
            losses.append(step_gradients(params, *held_out)[0])
        x, labels = data[0][first : first + batch], data[1][first : first + batch]
        sgd.step(params, step_gradients(params, x, labels, "sum")[1])
    return np.array(seen), np.array(losses)


held_out, data = crops(0, 40, seed=1), crops(0, 2400)
online = 0.9 ** (1 / 20)
figure, axis = plt.subplots()
ends = []
for name, colour, style, arguments in (
    ("20 images, 0.9, lr", BLUE, "-", (20, 0.9, 3e-8)),
    ("1 image, 0.9947, lr", ORANGE, "-", (1, online, 3e-8)),
    ("1 image, 0.9947, lr / 19", GREEN, "--", (1, online, 3e-8 / ratio)),
):
    seen, losses = run(*arguments)
    axis.plot(seen, losses, style, color=colour, label=name)
    ends.append(losses[-1])
    print(f"{name:26} loss at the end {losses[-1]:.4f}")
axis.set(xlabel="images seen", ylabel="loss on other crops")
axis.set_title("One image a step: farther at the same rate, as far at a rate 19 times lower")
axis.legend(frameon=False)
plt.show()
assert np.isclose(ends[0], ends[2], rtol=0.02) and ends[1] < 0.8 * ends[0]

# %% [markdown]
# Blue and green lie on each other: momentum by $\mu^{1/k}$ and learning rate by $(1 - \mu^{1/k}) / (1 - \mu)$ is one recipe,
# cut up differently. Orange is a faster one, and a rougher: it jumps where single images disagree.
#
# So, to go from the authors' batch of 1 to $k$ images: momentum $0.99^k$, and on the sum the learning
# rate times $(1 - 0.99^k) / (1 - 0.99)$, which is nearly $k$. On the mean, which divides by $k$ times as
# many pixels, multiply it by $k$ once more.
#
# What a larger batch gains is speed, on hardware that wants large arrays. What must not be forgotten is
# the size: pictures of a batch are padded to a common one with 255, and those pixels do not count.

# %%
for k in 4, 20:
    grow = (1 - 0.99**k) / (1 - 0.99)
    print(f"batch of {k:2}: momentum {0.99**k:.3f}; rate on the sum x {grow:.2f}, on the mean x {k * grow:.1f}")

# %% [markdown]
# ## When most pixels are background
#
# In VOC about three quarters of the pixels are background (section 4.3 of the paper). In the generated set:

# %%
share = np.bincount(np.concatenate([train[i][1].ravel() for i in range(40)]), minlength=256)[:7]
share = share / share.sum()
print(dict(zip(Shapes.classes, share.round(3).tolist())))
assert 0.6 < share[0] < 0.85

# %% [markdown]
# What do the first steps do? At the start $p = 1/C$ everywhere. A score layer's bias is added at every pixel, so its gradient
# is the sum of $p - \text{onehot}$ over the pixels: on the mean, for class $k$, the share it was given minus the share it has.
#
# **Predict.** Which biases rise in the first step? Which fall, and do they fall alike?

# %%
labels = np.concatenate([train[i][1].ravel() for i in range(40)])[None]
_, cache = ops.softmax_cross_entropy_forward(np.zeros((1, 7, labels.size)), labels)
dbias = ops.softmax_cross_entropy_backward(1.0, cache).sum(axis=(0, 2))
assert np.allclose(dbias, 1 / 7 - share)

figure, axis = plt.subplots()
axis.bar(range(7), -dbias, color=[BLUE] + [ORANGE] * 6)
axis.axhline(0, color=BLACK, linewidth=0.8)
axis.set(xticks=range(7), xticklabels=Shapes.classes, ylabel="- gradient of the bias")
axis.set_title("The first step raises the background's score, and lowers all others")
plt.show()

# %% [markdown]
# So a network goes through an age in which it answers "background". How far does that take it? With
# biases alone the best that can be is $p_k$ = the share of class $k$ (then all gradients of the biases
# are zero), at a loss of
#
# $$H = -\sum_k f_k \log f_k$$
#
# the entropy of the shares $f$. Let us train a small FCN-32s on sixteen crops, always the same, and watch.

# %%
images, labels = training_batch([train[i] for i in range(16)], (64, 64), np.random.default_rng(0))
x = normalise(images, "torchvision")
share16 = np.bincount(labels.ravel(), minlength=256)[:7] / (labels != IGNORE).sum()
entropy = -(share16 * np.log(share16)).sum()

net = FCN32s(7, width=1 / 16, padding="same", dropout=0)
adam, losses, answers = Adam(3e-4), [], []
for _ in range(120):
    scores = net.forward(x, training=True)
    loss, cache = ops.softmax_cross_entropy_forward(scores, labels)
    net.backward(ops.softmax_cross_entropy_backward(1.0, cache))
    adam.step(net.params, net.grads)
    losses.append(loss)
    answers.append((scores.argmax(axis=1) == 0).mean())
assert np.isclose(losses[0], np.log(7), rtol=1e-6)

# %%
figure, (left, right) = plt.subplots(1, 2)
left.plot(losses, color=BLUE)
for level, name, colour in (np.log(7), "log 7: the start", BLACK), (entropy, "entropy of the shares", RED):
    left.axhline(level, color=colour, linestyle="--", linewidth=1)
    left.text(120, level + 0.03, f"{name}, {level:.2f}", ha="right", color=colour)
left.set(xlabel="step", ylabel="loss (mean)", ylim=(0, 2.2), title="From log 7 to the entropy, and past it")
right.plot(answers, color=BLUE)
right.axhline(share16[0], color=BLACK, linestyle="--", linewidth=1)
right.text(120, share16[0] - 0.14, "the truth's share", ha="right")
right.set(xlabel="step", ylabel="share", ylim=(0, 1.05), title="Pixels that it calls background")
plt.show()
assert min(losses[:20]) > entropy and np.mean(answers[:20]) > 0.9

# %% [markdown]
# Two lines belong in every training curve: $\log C$, where it begins, and the entropy of the class
# shares, where a network stands that knows how frequent the classes are, and nothing about the picture.
# Here it answers "background" nearly everywhere until the loss is close to the second line. Then it
# begins to look. With sixteen crops to learn by heart this is over soon; with a real data set it may
# take much longer, and a loss that stays at the line is the loss of a network that does not look.
#
# ## Should classes be weighted?
#
# `class_weight` multiplies the loss of each pixel by a weight for its true class, and the mean divides by the sum of the
# weights:
#
# $$L = \frac{\sum_i w_{t_i} (-\log p_{i, t_i})}{\sum_i w_{t_i}}$$
#
# **Predict.** With weights $w_k = 1 / f_k$, what is the first gradient of the biases?

# %%
labels = np.concatenate([train[i][1].ravel() for i in range(40)])[None]
_, cache = ops.softmax_cross_entropy_forward(np.zeros((1, 7, labels.size)), labels, class_weight=1 / share)
dbias = ops.softmax_cross_entropy_backward(1.0, cache).sum(axis=(0, 2))
print(dbias.round(15))
assert np.allclose(dbias, 0, atol=1e-12)

# %% [markdown]
# Zero: weighted like this, all classes are equally frequent, and the age of the background is skipped. What is the price? In
# the end a network tells probabilities, and with weights it tells those of a world with other shares. At a pixel where the
# truth is background with probability 0.8 and a disc with 0.2:

# %%
names, truth, weight = ["background", "disc"], np.array([0.8, 0.2]), 1 / share[:2]
learned = truth * weight / (truth * weight).sum()
candidates = np.linspace(0.001, 0.999, 9999)  # for p of the background
expected_loss = -weight[0] * truth[0] * np.log(candidates) - weight[1] * truth[1] * np.log(1 - candidates)
assert np.isclose(candidates[expected_loss.argmin()], learned[0], atol=1e-3)
print(f"truth {truth}, learned with weights {learned.round(2)}")

# %% [markdown]
# The network says "disc" where it is four times more often background: more discs are found, at the cost
# of background that was right. Mean accuracy, which counts all classes alike, tends to rise, pixel
# accuracy to fall, and mean IU may do either. The paper found class balancing unnecessary (section 4.3),
# so the package offers the weights in its operation, and trains without them.
#
# ## Exercises
#
# ### Exercise 1: a softmax that does not overflow
#
# Write the logarithm of softmax over axis 1, $\log p_k = s_k - \log \sum_j e^{s_j}$, for scores (N, C, H, W) of any size.

# %% tags=["exercise"]
def log_softmax(scores):
    """log p (N, C, H, W) of scores (N, C, H, W), of the same dtype, finite for large scores, too."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    s = np.random.default_rng(1).normal(size=(2, 5, 3, 4))
    before = s.copy()
    with np.errstate(all="ignore"):
        got = log_softmax(s)
        large = log_softmax(np.float32([[500, 0], [0, 0], [-500, 0]]).reshape(1, 3, 1, 2))[0, :, 0]
    assert got.shape == s.shape, f"log p has shape {got.shape}, expected {s.shape}"
    assert (s == before).all(), "scores were changed"
    assert np.allclose(np.exp(got).sum(axis=1), 1), "the probabilities of a pixel do not sum to 1"
    assert np.allclose(got - s, (got - s)[:, :1]), "log p and s differ by more than one number per pixel"
    assert large.dtype == np.float32, f"float32 scores gave {large.dtype}"
    first, second = large.T  # of two pixels
    assert np.array_equal(first, [0, -500, -1000]), f"scores 500, 0, -500 gave {first}, expected 0, -500, -1000"
    assert np.allclose(second, -np.log(3)), f"beside that pixel, scores 0, 0, 0 gave {second}, expected -log 3 each"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def log_softmax(scores):
#     lowered = scores - scores.max(axis=1, keepdims=True)
#     return lowered - np.log(np.exp(lowered).sum(axis=1, keepdims=True))
# ```
#
# The largest score *of each pixel* is subtracted, so the sum lies between 1 and C; and the logarithm is
# never taken of a probability, which may be 0.
#
# </details>

# %% [markdown]
# ### Exercise 2: the gradient of the mean
#
# Given the probabilities (N, C, H, W) and labels (N, H, W), where 255 does not count, return the gradient of the *mean* loss at
# the scores.

# %% tags=["exercise"]
def mean_gradient(p, labels):
    """dscores (N, C, H, W) of the mean loss over the pixels whose label is not 255."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    generator = np.random.default_rng(2)
    s, t = generator.normal(size=(2, 3, 4, 5)), generator.choice([0, 1, 2, 255], (2, 4, 5))

    def mean_forward(scores):
        exps = np.exp(scores - scores.max(axis=1, keepdims=True))
        loss = ops.softmax_cross_entropy_forward(scores, t)[0]
        return loss, exps / exps.sum(axis=1, keepdims=True)

    got = mean_gradient(mean_forward(s)[1], t)
    assert got.shape == s.shape, f"dscores has shape {got.shape}, expected {s.shape}"
    assert np.allclose(got.sum(axis=1), 0), "the gradient of a pixel does not sum to 0 over the classes"
    assert not got.transpose(0, 2, 3, 1)[t == 255].any(), "an ignored pixel has a gradient"
    check_gradient(mean_forward, lambda dloss, p: dloss * mean_gradient(p, t), s)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def mean_gradient(p, labels):
#     classes = np.arange(p.shape[1])[:, None, None]
#     onehot = labels[:, None] == classes
#     counted = labels[:, None] != 255
#     return (p - onehot) * counted / counted.sum()
# ```
#
# $p - \text{onehot}$ where a pixel counts, divided by the number of pixels that do.
#
# </details>

# %% [markdown]
# ### Exercise 3: from the sum to the mean
#
# Somebody trained on the sum over `pixels` pixels, with SGD's `lr` and `weight_decay`. Which two numbers give the same steps on
# the mean?

# %% tags=["exercise"]
def on_the_mean(lr, weight_decay, pixels):
    """(lr, weight_decay) for the mean loss."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    x, t = crops(0, 2)
    count = int((t != 255).sum())
    a, b = new_params(), new_params()
    a["conv.weight"] += 0.1
    b["conv.weight"] += 0.1
    one, other = SGD(1e-5, 0.9, 50.0), SGD(on_the_mean(1e-5, 50.0, count)[0], 0.9, on_the_mean(1e-5, 50.0, count)[1])
    for _ in range(5):
        one.step(a, step_gradients(a, x, t, "sum")[1])
        other.step(b, step_gradients(b, x, t, "mean")[1])
    gap = max(abs(a[name] - b[name]).max() for name in a)
    assert gap < 1e-12, f"after 5 steps the weights differ by {gap:.1e}"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def on_the_mean(lr, weight_decay, pixels):
#     return lr * pixels, weight_decay / pixels
# ```
#
# The gradient is smaller by the number of pixels, so the rate must be larger by as much. But the rate also multiplies the
# weight decay, which was not divided by anything, and so has to be now.
#
# </details>

# %% [markdown]
# ### Exercise 4: the same memory for another batch
#
# A run had `batch` images a step. Which momentum forgets old images as fast, with `new_batch` images a step?

# %% tags=["exercise"]
def same_memory(momentum, batch, new_batch):
    """The momentum for `new_batch` images a step."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    for arguments, expected in (((0.9, 20, 1), 0.99475), ((0.99, 1, 20), 0.81791), ((0.99, 1, 4), 0.96060), ((0.9, 8, 8), 0.9)):
        got = same_memory(*arguments)
        assert 0 < got < 1, f"same_memory{arguments} is {got}, which is no momentum"
        assert abs(got - expected) < 1e-4, f"same_memory{arguments} is {got:.5f}, expected {expected:.5f}"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def same_memory(momentum, batch, new_batch):
#     return momentum ** (new_batch / batch)
# ```
#
# One image's share of the forgetting is `momentum ** (1 / batch)`, and a step of `new_batch` images forgets that many times.
#
# </details>

# %% [markdown]
# ### Exercise 5: two classes, one score
#
# A network for two classes needs one score $s$ only: softmax of the pair $(0, s)$ gives $p_1 = 1 / (1 + e^{-s})$. Write the
# loss and its gradient for each pixel, with labels $t$ 0 and 1, for scores of any size: $L = \log(1 + e^s) - t s$.

# %% tags=["exercise"]
def binary_loss(s, t):
    """(loss, dloss/ds) of each pixel, for scores s and labels t (0 or 1) of one shape."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    s = np.concatenate([np.random.default_rng(3).normal(size=20), [0, 90, -90, 1000, -1000]])
    for t in (np.zeros(25, int), np.ones(25, int)):
        pair = np.stack([0 * s, s])[None]  # (N, C, P)
        expected, cache = ops.softmax_cross_entropy_forward(pair, t[None], reduction="none")
        expected_ds = ops.softmax_cross_entropy_backward(np.ones_like(expected), cache)[0, 1]
        with np.errstate(all="ignore"):
            loss, ds = binary_loss(s, t)
        assert np.isfinite(loss).all(), f"loss is {loss[~np.isfinite(loss)][0]} for s = {s[~np.isfinite(loss)][0]:.0f}"
        assert np.allclose(loss, expected[0], atol=1e-12), "loss differs from that of the scores (0, s)"
        assert np.isfinite(ds).all(), f"the gradient is not finite for s = {s[~np.isfinite(ds)][0]:.0f}"
        assert np.allclose(ds, expected_ds, atol=1e-12), "gradient differs from that of the scores (0, s)"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def binary_loss(s, t):
#     small = np.exp(-abs(s))  # at most 1
#     p = np.where(s > 0, 1, small) / (1 + small)
#     return np.maximum(s, 0) + np.log1p(small) - t * s, p - t
# ```
#
# $\log(1 + e^s)$ is $\log(e^0 + e^s)$, a log-sum-exp: the larger of 0 and $s$ comes out in front. The gradient is again the
# probability minus the truth.
#
# </details>

# %% [markdown]
# Next: [FCN-32s, 16s, 8s](07_fcn.ipynb) puts all layers together, and sends this gradient up through them.
