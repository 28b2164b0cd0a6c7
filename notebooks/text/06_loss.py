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
# Imagine a network that knows no more of Chelsea's photograph than this: what share of each block of 32x32 pixels is cat.
# Upsampled, that makes the answer in the middle, and hardly a pixel of it is wrong. On the right is the bill, what each pixel
# costs this network. Most cost next to nothing. Some, along her outline, cost a hundred times more, and between them runs a
# black line where it costs exactly nothing, wherever the network puts the border.

# %% tags=["setup", "hide-input"]
import numpy as np

from tinyfcn import ops
from tinyfcn.data import IGNORE, Shapes, normalise, training_batch
from tinyfcn.gradcheck import GradientError, check_gradient
from tinyfcn.lesson import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    RED,
    attempt,
    expect,
    labelled,
    paint,
    plt,
    show_source,
)
from tinyfcn.models import FCN32s
from tinyfcn.optim import SGD, Adam

rng = np.random.default_rng(0)

# %% tags=["hide-input"]
image, label = (array[:288, :448] for array in labelled("chelsea"))
in_blocks = np.eye(256)[label][..., :2].reshape(9, 32, 14, 32, 2).sum(axis=(1, 3))
shares = (in_blocks + 1) / (in_blocks + 1).sum(axis=-1, keepdims=True)  # of background and cat
coarse = np.log(shares).transpose(2, 0, 1)[None]
window = slice(16, 304), slice(16, 464)
cat_scores, _ = ops.upsample_bilinear_forward(coarse, 64, 32, window)
cat_losses, cat_cache = ops.softmax_cross_entropy_forward(cat_scores, label[None], reduction="none")
cat_answer = cat_scores[0].argmax(axis=0)
right = (cat_answer == label)[label != IGNORE].mean()

# %% tags=["hide-input"] alt="Chelsea, an almost perfect answer, and what each pixel costs: a bright band along her outline, dark elsewhere"
figure, axes = plt.subplots(1, 3, figsize=(9, 2.6))
for axis, picture, title in (
    (axes[0], image, "Chelsea"),
    (axes[1], (0.4 * image + 0.6 * paint(cat_answer)) / 255, f"an answer: {right:.1%} right"),
):
    axis.imshow(picture)
    axis.set_title(title, fontsize=10)
close = np.s_[50:220, 250:440]
axes[0].add_patch(plt.Rectangle((250, 50), 190, 170, fill=False, color="white"))
bill = axes[2].imshow(cat_losses[0][close], cmap="magma", norm=plt.matplotlib.colors.PowerNorm(0.5))
figure.colorbar(bill, ax=axes[2], shrink=0.8, ticks=[0, 1])
axes[2].set_title("what each pixel costs, in the frame", fontsize=10)
for axis in axes:
    axis.set_axis_off()
plt.show()

# %% [markdown]
# A network learns from this bill and from nothing else, and every backward pass begins with it. Who makes it out? Why does a
# pixel that is nearly right cost nearly nothing, why can a wrong one not cost *too* much, and what is the black line? In this
# notebook you derive the loss and its gradient, write both so that no score makes them overflow, and find out why the authors
# of FCN trained with a learning rate of 0.0000000001, which looks like a mistake.
#
# Takes about 50 minutes. It builds on [Upsampling](05_upsampling.ipynb), which gave every pixel its scores.
#
# ## From scores to a loss
#
# At one pixel there are $C$ scores $s_0 \ldots s_{C-1}$, any numbers. Softmax turns them into probabilities, which are
# positive, sum to 1, and are in the scores' order.
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

# %% tags=["hide-output"]
labels = rng.integers(0, 21, (1, 8, 8))
loss, _ = ops.softmax_cross_entropy_forward(np.zeros((1, 21, 8, 8)), labels)
print(f"{loss:.4f}")
assert np.isclose(loss, np.log(21))

# %% [markdown]
# <details><summary>Answer</summary>
#
# All classes get $p = 1/21$, so each pixel costs $-\log(1/21) = \log 21 = 3.04$, whatever its label.
#
# </details>
#
# It is a number to remember: a first loss far from $\log C$ says that something is wrong before anything was learned.
#
# How does the loss depend on the score of the true class, when the others stay at 0?

# %% tags=["hide-input"] alt="Loss over the score of the true class, a falling bend, for 2 and 21 classes; its slope rises from -1 to 0"
s = np.linspace(-8, 8, 200)
figure, (left, right) = plt.subplots(1, 2)
for classes, colour in (2, BLUE), (21, ORANGE):
    p_true = np.exp(s) / (np.exp(s) + classes - 1)
    left.plot(s, -np.log(p_true), color=colour, label=f"{classes} classes")
    right.plot(s, p_true - 1, color=colour, label=f"{classes} classes")
    left.plot(0, np.log(classes), "o", color=colour)
left.set(title="The loss", ylabel="loss")
right.set(title="Its slope lies between -1 and 0", ylabel="slope of the loss")
for axis in left, right:
    axis.set_xlabel("score of the true class, others 0")
    axis.legend(frameon=False)
plt.show()

# %% [markdown]
# Dots mark the start, $\log C$. On the left of each curve the loss is a straight line: a score that is lower by 1 costs 1 more,
# and the slope stays at -1, however wrong the pixel is. So no single pixel, not even one with a wrong label, can outvote all
# others. On the right of each curve the loss fades to nothing.
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
# a wrong formula? A popular one stops half way: it takes the derivative of $-\log p_t$ by $p_t$, which is $-1 / p_t$, puts it at
# the label, and forgets that $p_t$ depends on all scores.

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
# **Predict.** What is the sum of the gradient over the classes? How large is the entry of the true class, compared with all
# others together?

# %% tags=["hide-input", "hide-output"] alt="Scores, probabilities and gradient of three classes at a pixel: the gradient is negative at the true class and positive at the others"
_, cache = one_pixel_forward(scores, 1)
gradient = one_pixel_backward(1.0, cache)
figure, axes = plt.subplots(1, 3, figsize=(8, 2.6))
names = ("s", "p", "p - onehot")
for axis, values, name in zip(axes, (scores, cache[0], gradient), names):
    axis.bar(range(3), values, color=[BLUE, ORANGE, BLUE])
    axis.axhline(0, color=BLACK, linewidth=0.8)
    axis.set(xlabel="class", xticks=range(3), ylim=(-1.2, 2.2))
    axis.set_title(f"{name},  sum {values.sum() + 0:.2f}")
axes[0].set_ylabel("value at the pixel")
figure.suptitle("The truth is class 1 (orange): a step against the gradient raises its score")
plt.show()
assert np.isclose(gradient.sum(), 0) and np.isclose(abs(gradient).max(), abs(gradient).sum() / 2)

# %% [markdown]
# <details><summary>Answer</summary>
#
# It is zero: $p$ sums to 1, and so does the one-hot vector. And as the entry of the true class is the only one below zero, it
# is as large as all others together.
#
# </details>
#
# ## A flat direction
#
# That is algebra. It also has a meaning: add the same number to all scores, and $e^{s_k}$ and the sum grow by the same factor.
# $p$ stays, and so does the loss. Along the direction $(1, 1, \ldots, 1)$ the loss is flat, so its slope there, which is the
# sum of the gradient, is zero.

# %%
for shift in (0.0, 5.0, -30.0):
    print(f"all scores {shift:+.0f}: loss {one_pixel_forward(scores + shift, 1)[0]:.12f}")
assert np.isclose(one_pixel_forward(scores + 5, 1)[0], one_pixel_forward(scores, 1)[0], rtol=1e-13)

# %% [markdown]
# Whenever you meet somebody's loss, this sum is a cheap test of it. And the flat direction is the key to the numerical trouble
# below.
#
# ## At every pixel
#
# A picture's loss is made of those of its pixels. This is how the bill for Chelsea came about: the shares of cat and background
# in each block, as log-probabilities, were taken for scores and upsampled 32 times, which is as much as a network of stride 32
# could know. (That way we have scores that mean something and need not train a network first.) `reduction="none"` keeps the
# loss of each pixel.

# %%
print("blocks", coarse.shape, "-> pixels", cat_scores.shape)
losses, cache = ops.softmax_cross_entropy_forward(cat_scores, label[None], reduction="none")
dscores = ops.softmax_cross_entropy_backward(np.ones_like(losses), cache)
counted = label != IGNORE
dear = losses[0] > 0.3
of_pixels, of_loss = dear.sum() / counted.sum(), losses[0][dear].sum() / losses.sum()
print(f"{of_pixels:.1%} of the pixels make {of_loss:.0%} of the loss")

# %% [markdown]
# **Predict.** The gradient at each pixel tells which of its two scores is to rise. Which one will it be just inside of
# Chelsea's outline, and which just outside? And on the outline itself?

# %% tags=["hide-input", "hide-output"] alt="The cat's cheek and ear, and the gradient at two scores: opposite signs along the outline, none elsewhere"
figure, axes = plt.subplots(1, 3, figsize=(9, 2.9))
axes[0].imshow(image[close])
axes[0].set_title("cheek, eye and ear", fontsize=10)
both_signs = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1}
for axis, k, word in (axes[1], 1, "cat"), (axes[2], 0, "background"):
    shown = axis.imshow(-dscores[0, k][close], **both_signs)
    axis.set_title(f"- gradient at the score of {word}", fontsize=10)
figure.colorbar(shown, ax=axes, shrink=0.8)
for axis in axes:
    axis.set_axis_off()
figure.suptitle("Red: this score is to rise; blue: to fall", fontsize=11)
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# Just inside, the cat's score is to rise, and just outside, the background's: upsampled scores change slowly from one block to
# the next, and the truth wants a step. Deep inside the cat, and far from her, scores are right and sure, and there is hardly any
# gradient. Nearly all there is to learn is at the outline. The two maps are each other's negative, as they must be
# with two classes: the gradient sums to zero. On the outline itself, which the label marks 255, it is exactly 0.
#
# </details>
#
# ## What is 255?
#
# PASCAL VOC draws a line of 255 around every object, and so does Chelsea's label. Nobody can say to the pixel where fur ends,
# so nobody is to be punished there: that is the black line. Batches use 255 too, for what lies beyond a picture's edge. An
# ignored pixel has no loss, no gradient, and does not count in the mean.

# %%
void = label[None] == IGNORE
assert not losses[void].any() and not dscores.transpose(0, 2, 3, 1)[void].any()

mean, _ = ops.softmax_cross_entropy_forward(cat_scores, label[None])
assert np.isclose(mean, losses.sum() / (~void).sum())  # over the pixels that count

changed = np.where(void[:, None], 1000.0, cat_scores)  # any nonsense, where it is ignored
assert ops.softmax_cross_entropy_forward(changed, label[None])[0] == mean
print(f"{void.mean():.1%} of the pixels are ignored")
print(f"mean over the others {mean:.4f}, over all {losses.mean():.4f}")

# %% [markdown]
# 255 is not a class. A network that has no score 255 cannot be asked for it, and one that is trained with the contour as a
# class of its own, 21, learns to draw contours. With the contour as class 0 it learns to cut objects off at their inner side,
# as [Training](09_training.ipynb) measures. What any other label outside the classes means is anybody's guess, so it is an
# error:

# %%
try:
    ops.softmax_cross_entropy_forward(cat_scores, np.where(label == IGNORE, 21, label)[None])
except ValueError as error:
    print(error)

# %% [markdown]
# ## Where exp goes wrong
#
# The formulas above are exact, and floating-point numbers are not. float32 ends at $3.4 \cdot 10^{38}$.
#
# **Predict.** From which score on is $e^s$ infinite in float32? What does $p$ become then? And what becomes of the loss where
# $p_t$ is too small for float32?

# %% tags=["hide-output"]
largest = np.finfo(np.float32).max
print(f"largest float32: {largest:.3g}, its logarithm: {np.log(largest):.2f}")
with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
    for score in np.float32([80, 88, 89]):
        exps = np.exp(np.float32([0, score]))
        print(f"s = (0, {score:.0f}): exp {exps},  p {exps / exps.sum()}")
    print("-log of p for s = -110 against 0:", -np.log(np.exp(np.float32(-110))))

# %% [markdown]
# <details><summary>Answer</summary>
#
# At 89 the exponential is infinite, and $p = \infty / \infty$ is not a number: a single such pixel makes the whole loss NaN, and
# one step later all weights. Below -104 the exponential is 0, and its logarithm is infinite, where the true loss is 110.
#
# </details>
#
# Such scores do occur: the [next notebook](07_fcn.ipynb#Why-does-8s-not-train-from-VGG-directly?) shows a learning rate that
# sends them into the millions.
#
# ## The cure
#
# The loss does not change if all scores are lowered alike. So lower them by the largest, $m = \max_j s_j$:
#
# $$L = \log \sum_j e^{s_j - m} - (s_t - m)$$
#
# - Every exponent is at most 0, so nothing overflows.
# - One of them is exactly 0, so the sum is at least 1, and its logarithm is finite.
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


# %% tags=["hide-input"] alt="Three ways to compute a loss over a wrong class's score: as written and with the largest subtracted, it ends in numbers not finite; log-sum-exp goes on"
difference = np.linspace(-130, 130, 521, dtype=np.float32)
s = np.stack([np.zeros_like(difference), difference])
figure, axes = plt.subplots(1, 3, sharex=True, sharey=True, figsize=(8, 2.9))
with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
    for axis, way, title in (
        (axes[0], naive, "as it is written"),
        (axes[1], shifted, "largest subtracted"),
        (axes[2], log_sum_exp, "log-sum-exp"),
    ):
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
exact = log_sum_exp(s.astype(np.float64), 0)
np.testing.assert_allclose(log_sum_exp(s, 0), exact, rtol=1e-6, atol=1e-7)

# %% [markdown]
# Half a cure helps only up to 104; only the last is right everywhere. This is why softmax and loss are *one* operation, with
# one backward pass: taken apart, the first throws away what the second needs.
#
# ## Sums over many pixels
#
# A photograph of VOC has 500 x 375 = 187,500 pixels. A running sum in float32 rounds at every addition, to the precision of the
# *sum*.
#
# **Predict.** At the start every pixel costs 3.04. By what fraction is a running sum off at the end: a ten-millionth, a
# thousandth, a tenth?

# %% tags=["hide-output"]
each = np.full(187_500, np.log(21), np.float32)
exact = each.astype(np.float64).sum()
running = np.cumsum(each)[-1]  # one after the other
pairwise = each.sum()  # NumPy's: halves, and halves of halves
for name, value in ("exact", exact), ("running float32", running), ("pairwise float32", pairwise):
    print(f"{name:17} {value:12.3f}   relative error {abs(value / exact - 1):.1e}")
assert abs(pairwise / exact - 1) < 1e-6 < abs(running / exact - 1)

# %% [markdown]
# NumPy adds halves of halves, so that errors do not pile up. Still, a float32 near 570,000 has steps of 1/16, and a summed loss
# in a log file shows no change smaller than that. The gradient has none of this, since it is computed pixel by pixel and never
# from the sum.
#
# ## The code
#
# All of the above is in 15 lines of the package's operation. The rest is errors, weights and threads.

# %% tags=["hide-input"]
show_source(ops.softmax_cross_entropy_forward)

# %% [markdown]
# Read `work` (`xp` is NumPy, or CuPy on a GPU). First `s - max s`; then the label's score is kept, before exp overwrites the
# array, because $s_t - m$ needs it. `g *= w / total` makes $w p$ out of the exponentials, and `g[place] -= w` subtracts the
# one-hot. So the gradient is done already, and the backward pass is a multiplication by `dloss`:

# %% tags=["hide-input"]
show_source(ops.softmax_cross_entropy_backward)

# %%
small = rng.normal(size=(2, 4, 5, 6))
truth = rng.choice([0, 1, 2, 3, 255], size=(2, 5, 6))
for reduction in ("sum", "mean", "none"):
    for class_weight in (None, np.array([0.5, 1.0, 2.0, 0.0])):
        options = {"reduction": reduction, "class_weight": class_weight}
        result = check_gradient(
            lambda s: ops.softmax_cross_entropy_forward(s, truth, **options),
            ops.softmax_cross_entropy_backward,
            small,
        )
    print(f"{reduction:5}", result)

# %% [markdown]
# ## Sum or mean?
#
# The loss of a picture is the sum over its $P$ counted pixels, or the mean, which is the sum divided by $P$. The gradient is
# $P$ times as large, or not. That is no difference of principle, as SGD moves by learning rate times gradient.
#
# But there is a second number. Weight decay $\lambda$ pulls each weight towards 0 by adding $\lambda w$ to the gradient, and it
# does not know $P$. With momentum $\mu$, a step on the *sum*, whose gradient is $P g$, is
#
# $$v \leftarrow \mu v - \eta\,(P g + \lambda w) = \mu v - (\eta P)\left(g + \tfrac{\lambda}{P} w\right)$$
#
# So steps on the sum with $(\eta, \lambda)$ are steps on the mean with $(\eta P, \lambda / P)$, not roughly but exactly.
#
# Try it on the smallest network there is, one convolution that tells objects from background in crops of 32x32, from windows
# of 5x5 pixels, by their colours and the squares of these. (The crops are of the package's drawn shapes, which are vivid.)

# %% tags=["setup"]
train = Shapes("train", length=40)


def crops(first, count, seed=0):
    """Colours and their squares (N, 6, 32, 32), and labels: 0 background, 1 object, 255 contour."""
    pairs = [train[i % len(train)] for i in range(first, first + count)]
    images, labels = training_batch(pairs, (32, 32), np.random.default_rng([seed, first]))
    colours = normalise(images, "torchvision").astype(np.float64)
    objects = np.where(labels == IGNORE, IGNORE, labels > 0)
    return np.concatenate([colours, colours**2], axis=1), objects


def new_params():
    return {"conv.weight": np.zeros((2, 6, 5, 5)), "conv.bias": np.zeros(2)}


def step_gradients(params, x, labels, reduction="mean"):
    """Loss, and its gradients, of one convolution followed by softmax cross-entropy."""
    conv = params["conv.weight"], params["conv.bias"]
    scores, conv_cache = ops.conv2d_forward(x, *conv, padding=2)
    loss, cache = ops.softmax_cross_entropy_forward(scores, labels, reduction=reduction)
    dscores = ops.softmax_cross_entropy_backward(1.0, cache)
    _, dweight, dbias = ops.conv2d_backward(dscores, conv_cache, need_dx=False)
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
print(f"P = {P}; after 100 steps the weights reach {largest:.3f} and differ by at most {gap:.1e}")
assert gap < 1e-12

# %% [markdown]
# The two differ once $P$ is not the same in each step. On the sum every *pixel* has the same weight, on the mean every *step*
# has. With one image a step, a picture of 100x100 then moves the network as far as one of 500x500, so that each of its pixels
# moves it 25 times as far; and in a picture that is nearly all 255, a few pixels share the whole step.
#
# Which is better? VOC's pictures are nearly all about 500x375 or 375x500, so it hardly matters there. The mean has a practical
# advantage, since its learning rate means the same for crops of 96x96 and for whole photographs. It is the package's default;
# `--loss sum` belongs to the solvers that the authors published with their networks.
#
# ## Why was the learning rate 1e-10?
#
# It is not in the paper of 2015, which says $10^{-4}$, momentum 0.9 and 20 images a step (section 4.3). It stands in the solver
# that the authors published with FCN-32s later, beside momentum 0.99, weight decay 0.0005 and one image a step, and the reason
# is a line in another file: the loss layer says `normalize: false`. The rate belongs to the sum.

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

# %% tags=["hide-input", "hide-output"] alt="How far a constant gradient moves a weight over the steps: ten times lr g at momentum 0.9, a hundred times at 0.99"
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
axis.set(xlabel="step", ylabel="move / (lr g)")
axis.set_title("A constant gradient moves a weight by 1 / (1 - momentum) times lr g")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# $v = \mu v - \eta g$ comes to rest at $v = -\eta g / (1 - \mu)$, which is 10 times the learning rate for 0.9, and 100 times for
# 0.99. It takes about $3 / (1 - \mu)$ steps to come within 5% of that, 30 and 300.
#
# </details>
#
# So the published recipe moves weights at $100 \cdot 1.9 \cdot 10^{-5} = 1.9 \cdot 10^{-3}$, on the mean. Nothing about that is
# small.
#
# What goes wrong if the number is taken over without its loss? Here is the little network with a good rate on the sum, with the
# same rate on the mean, and with the mean's rate on the sum.

# %%
runs = [
    ("sum, lr 1e-6", "sum", 1e-6, BLUE),
    ("mean, lr 1e-6", "mean", 1e-6, ORANGE),
    ("sum, lr 1e-2", "sum", 1e-2, RED),
]
x, labels = crops(0, 16)
P = (labels != IGNORE).sum()
curves = []
for _, reduction, lr, _ in runs:
    params, sgd = new_params(), SGD(lr, 0.9, 0.0)
    curves.append([])
    for _ in range(150):
        loss, grads = step_gradients(params, x, labels, reduction)
        curves[-1].append(loss / P if reduction == "sum" else loss)
        sgd.step(params, grads)
final = [curve[-1] for curve in curves]
assert final[0] < 0.3 and abs(final[1] - np.log(2)) < 0.02 and final[2] > 1

# %% tags=["hide-input"] alt="Loss over the steps for three choices: a sum at a low rate falls, a mean at the same rate stands still, a sum at the mean's rate explodes"
figure, axis = plt.subplots()
for curve, (name, _, _, colour) in zip(curves, runs):
    axis.plot(curve, color=colour, label=name)
axis.set(yscale="log", xlabel="step", ylabel="loss, mean of a pixel")
axis.set_title("One learning rate, two losses")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# On the mean, the sum's rate trains nothing: the curve is flat, at $\log C$, and no error says so. A rate of $10^{-10}$ on the
# mean does the same. The other mistake you cannot overlook.
#
# ## A batch larger than 1?
#
# The paper of 2015 trains with 20 images a step and momentum 0.9 (section 4.3). Two years later the authors prefer one image a
# step and momentum 0.99, which they call "heavy" (Shelhamer, Long and Darrell, 2017). Here is their argument. Unroll the
# momentum, and count the images back from the latest, $j = 0, 1, 2, \ldots$ With $k$ images a step, image $j$ is in the current
# move with the coefficient
#
# $$\mu^{\lfloor j / k \rfloor}$$
#
# Leave the rounding out, and it is $(\mu^{1/k})^j$, as if there were one image a step, with momentum $\mu^{1/k}$.

# %%
print(f"20 images, momentum 0.9  ~  1 image, momentum {0.9 ** (1 / 20):.4f}")
print(f"1 image, momentum 0.99  ~  20 images, momentum {0.99 ** 20:.3f}")

# %% [markdown]
# The two forget old images equally fast. But there is a difference that these numbers do not show.
#
# **Predict.** With the same learning rate on the summed loss, in which run does one image move the network farther, in all the
# steps that remember it?

# %% tags=["hide-output"]
for k, momentum in (20, 0.9), (1, 0.9 ** (1 / 20)):
    print(f"images a step: {k:2}; each image moves the weights by {1 / (1 - momentum):5.1f} lr g")
ratio = (1 - 0.9) / (1 - 0.9 ** (1 / 20))
print(f"ratio {ratio:.1f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# In a batch of 20, an image is in one move with the coefficient 1, in the next with 0.9, and so on. With one image a step there
# are 20 moves for each of these, and the image is in all of them. So at the same learning rate the same images move the network
# 19 times as far. To move no farther than with the batch, divide the learning rate by 19.
#
# </details>
#
# All three, measured on the little network:

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
runs = (
    ("20 images, 0.9, lr", BLUE, "-", (20, 0.9, 3e-8)),
    ("1 image, 0.9947, lr", ORANGE, "-", (1, online, 3e-8)),
    ("1 image, 0.9947, lr / 19", GREEN, "--", (1, online, 3e-8 / ratio)),
)
found = [run(*arguments) for *_, arguments in runs]
ends = [losses[-1] for _, losses in found]
print("losses at the end:", *(f"{end:.4f}" for end in ends))
assert np.isclose(ends[0], ends[2], rtol=0.02) and ends[1] < 0.8 * ends[0]

# %% tags=["hide-input"] alt="Loss over the images seen: batches of 20, and single images at a rate 19 times lower, fall together; single images at the same rate jump"
figure, axis = plt.subplots()
for (name, colour, style, _), (seen, losses) in zip(runs, found):
    axis.plot(seen, losses, style, color=colour, label=name)
axis.set(xlabel="images seen", ylabel="loss on other crops")
axis.set_title("One image a step: farther at the same rate, as far at a rate 19 times lower")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# Blue and green lie on each other: momentum $\mu^{1/k}$ and learning rate times $(1 - \mu^{1/k}) / (1 - \mu)$ is one recipe, cut
# up differently. Orange is a faster one, and a rougher: it jumps where single images disagree.
#
# So, to go from the authors' batch of 1 to $k$ images, take momentum $0.99^k$, and on the sum the learning rate times $(1 -
# 0.99^k) / (1 - 0.99)$, which is nearly $k$. On the mean, which divides by $k$ times as many pixels, multiply it by $k$ once
# more. What a larger batch gains is speed, on hardware that wants large arrays. (Do not forget the sizes: pictures of a batch
# are padded to a common one with 255, and those pixels do not count.)
#
# ## Adam: a step that does not ask for the unit
#
# Sum or mean, 1 or 20 images: all this conversion is needed because SGD moves a weight by $\eta$ times its gradient, and so
# inherits whatever unit the loss is measured in. Can you find a step that does not?
#
# *First wish*: a weight should move by about $\eta$, whatever the unit. So divide the gradient by its own typical size, the root
# of the mean of its squares. If the loss is multiplied by $c$, so are both, and $c$ drops out. *Second wish*: a single gradient
# is noisy, so take an average over the last steps. Both averages, of $g$ and of $g^2$, can be kept up without storing old
# gradients, by letting old ones fade:
#
# $$m \leftarrow \beta_1 m + (1 - \beta_1)\, g \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2$$
#
# Now look at the start. Both begin at 0. With a constant $g$, after $t$ steps
#
# $$m_t = (1 - \beta_1) \sum_{i=1}^{t} \beta_1^{\,t-i}\, g = (1 - \beta_1^t)\, g$$
#
# which is too small by the factor $1 - \beta_1^t$, in the first step by 10 for the usual $\beta_1 = 0.9$; and $v_t$ by $1 -
# \beta_2^t$, in the first step by 1000 for $\beta_2 = 0.999$. Divide both by what they lack, and you have Adam (Kingma and Ba,
# 2015), with a small $\epsilon$ against division by zero:
#
# $$w \leftarrow w - \eta\, \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}$$
#
# In the first step that is $g / |g|$: *every* weight moves by exactly $\eta$, also those that were right. Remember it when you
# see a loss jump at the start of a stage in the next notebook.
#
# **Predict.** The little network again, once on the sum and once on the mean, with Adam, and this time with the same learning
# rate. How far apart are the weights after 100 steps?

# %% tags=["hide-output"]
x, labels = crops(0, 4)
on_sum, on_mean = new_params(), new_params()
adam_sum, adam_mean = Adam(1e-3), Adam(1e-3)
for _ in range(100):
    adam_sum.step(on_sum, step_gradients(on_sum, x, labels, "sum")[1])
    adam_mean.step(on_mean, step_gradients(on_mean, x, labels, "mean")[1])
gap = max(abs(on_sum[name] - on_mean[name]).max() for name in on_sum)
largest = abs(on_sum["conv.weight"]).max()
print(f"the largest weight is {largest:.3f}, the largest difference {gap:.1e}")
assert gap < 1e-3 * largest

# %% [markdown]
# <details><summary>Answer</summary>
#
# They are the same but for $\epsilon$, which does have a unit, and is tiny. This is why Adam is this package's default, and why a
# learning rate for it can be handed on without asking which loss it belongs to.
#
# </details>
#
# ## When most pixels are background
#
# In VOC about three quarters of the pixels are background (section 4.3 of the paper). In the drawn shapes:

# %%
labels = np.concatenate([train[i][1].ravel() for i in range(40)])[None]
share = np.bincount(labels[0], minlength=256)[:7]
share = share / share.sum()
print(dict(zip(Shapes.classes, share.round(3).tolist())))
assert 0.6 < share[0] < 0.85

# %% [markdown]
# What do the first steps do? At the start $p = 1/C$ everywhere. A score layer's bias is added at every pixel, so its gradient
# is the sum of $p - \text{onehot}$ over the pixels: on the mean, for class $k$, the share it was given minus the share it has.
#
# **Predict.** Which biases rise in the first step? Which fall, and do they fall alike?

# %% tags=["hide-input", "hide-output"] alt="The first step's gradient for each class's bias: positive for background, negative for the six shapes"
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
# So a network goes through a phase in which it answers "background". How far does that take it? With biases alone, the best
# it can do is to answer $p_k$ = the share of class $k$ (then all gradients of the biases are zero), at a loss of
#
# $$H = -\sum_k f_k \log f_k$$
#
# the entropy of the shares $f$. Train a small FCN-32s on sixteen crops, always the same, and watch.

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

# %% tags=["hide-input"] alt="Loss from log 7 past the entropy of the classes' shares, and the share of pixels called background, from all of them down to the truth's"
figure, (left, right) = plt.subplots(1, 2)
left.plot(losses, color=BLUE)
levels = (np.log(7), "log 7: the start", BLACK), (entropy, "entropy of the shares", RED)
for level, name, colour in levels:
    left.axhline(level, color=colour, linestyle="--", linewidth=1)
    left.text(120, level + 0.03, f"{name}, {level:.2f}", ha="right", color=colour)
left.set(xlabel="step", ylabel="loss (mean)", ylim=(0, 2.2))
left.set_title("From log 7 to the entropy, and past it")
right.plot(answers, color=BLUE)
right.axhline(share16[0], color=BLACK, linestyle="--", linewidth=1)
right.text(120, share16[0] - 0.14, "the truth's share", ha="right")
right.set(xlabel="step", ylabel="share", ylim=(0, 1.05))
right.set_title("Pixels that it calls background")
plt.show()
assert min(losses[:20]) > entropy and np.mean(answers[:20]) > 0.9

# %% [markdown]
# Draw two lines into every training curve: $\log C$, where it begins, and the entropy of the class shares, which a network
# reaches that knows how frequent the classes are, and nothing about the picture. This one answers "background" nearly
# everywhere until its loss is close to the second line, and only then begins to look. With sixteen crops to learn by heart that
# is soon; with a real data set it may take much longer, and a loss that stays at the line is that of a network that does not
# look.
#
# ## Should classes be weighted?
#
# `class_weight` multiplies the loss of each pixel by a weight for its true class, and the mean divides by the sum of the
# weights:
#
# $$L = \frac{\sum_i w_{t_i} (-\log p_{i, t_i})}{\sum_i w_{t_i}}$$
#
# **Predict.** With weights $w_k = 1 / f_k$, what is the first gradient of the biases?

# %% tags=["hide-output"]
labels = np.concatenate([train[i][1].ravel() for i in range(40)])[None]
zeros = np.zeros((1, 7, labels.size))
_, cache = ops.softmax_cross_entropy_forward(zeros, labels, class_weight=1 / share)
dbias = ops.softmax_cross_entropy_backward(1.0, cache).sum(axis=(0, 2))
print(dbias.round(15))
assert np.allclose(dbias, 0, atol=1e-12)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Zero: weighted like this, all classes are equally frequent, and that phase is skipped.
#
# </details>
#
# What is the price? In the end a network predicts probabilities, and with weights it predicts those of a world with other
# shares. At a pixel where the truth is background with probability 0.8 and a disc with 0.2:

# %%
truth, weight = np.array([0.8, 0.2]), 1 / share[:2]  # of background and disc
learned = truth * weight / (truth * weight).sum()
candidates = np.linspace(0.001, 0.999, 9999)  # for p of the background
cost = weight * truth
expected_loss = -cost[0] * np.log(candidates) - cost[1] * np.log(1 - candidates)
assert np.isclose(candidates[expected_loss.argmin()], learned[0], atol=1e-3)
print(f"truth {truth}, learned with weights {learned.round(2)}")

# %% [markdown]
# The network says "disc" where it is four times more often background: more discs are found, at the cost of background that was
# right. Mean accuracy, which counts all classes alike, tends to rise, pixel accuracy to fall, and mean IU may do either. The
# paper found class balancing unnecessary (section 4.3), so the package trains without weights unless you ask for them.
#
# ## Exercises
#
# ### Exercise 1: a softmax that does not overflow
#
# Write the logarithm of softmax over axis 1, $\log p_k = s_k - \log \sum_j e^{s_j}$, for scores (N, C, H, W) of any size.
#
# <details><summary>Hint 1</summary>
#
# Which number may you subtract from all scores of a pixel without changing the result?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `scores.max(axis=1, keepdims=True)`, the largest *of each pixel*. And take the logarithm of the sum, never of a probability.
#
# </details>

# %% tags=["exercise"]
def log_softmax(scores):
    """log p of scores, both (N, C, H, W) and of one dtype, finite for large scores, too."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    s = np.random.default_rng(1).normal(size=(2, 5, 3, 4))
    before = s.copy()
    pixels = np.float32([[500, 0], [0, 0], [-500, 0]]).reshape(1, 3, 1, 2)  # two of them
    with np.errstate(all="ignore"):
        got = log_softmax(s)
        large = log_softmax(pixels)[0, :, 0]
    assert got.shape == s.shape, f"log p has shape {got.shape}, expected {s.shape}"
    assert (s == before).all(), "scores were changed"
    assert np.allclose(np.exp(got).sum(axis=1), 1), "the probabilities of a pixel do not sum to 1"
    apart = got - s
    assert np.allclose(apart, apart[:, :1]), "log p and s differ by more than one number per pixel"
    assert large.dtype == np.float32, f"float32 scores gave {large.dtype}"
    first, second = large.T
    assert np.array_equal(first, [0, -500, -1000]), (
        f"scores 500, 0, -500 gave {first}, not 0, -500, -1000: is there a log of a probability?"
    )
    assert np.allclose(second, -np.log(3)), (
        f"beside that pixel, scores 0, 0, 0 gave {second}: is the largest of all pixels subtracted?"
    )

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def log_softmax(scores):
#     lowered = scores - scores.max(axis=1, keepdims=True)
#     return lowered - np.log(np.exp(lowered).sum(axis=1, keepdims=True))
# ```
#
# The largest score *of each pixel* is subtracted, so the sum lies between 1 and C; and the logarithm is never taken of a
# probability, which may be 0.
#
# </details>

# %% [markdown]
# ### Exercise 2: the whole loss, forward and backward
#
# Write the weighted mean of this notebook's loss, and its gradient at the scores. Labels of 255 do not count; a pixel of class
# $k$ counts `weights[k]` times, also in what you divide by.
#
# <details><summary>Hint 1</summary>
#
# Begin with one number for each pixel: its weight, which is that of its class, and 0 where the label is 255. What do the
# loss and its gradient look like in these numbers?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `np.where(labels == 255, 0, labels)` makes labels that you can index with; then `weights[...]`, set to 0 where it was 255. The
# gradient is $(p - \text{onehot})$ times the pixel's weight, divided by the sum of all weights.
#
# </details>

# %% tags=["exercise"]
def weighted_loss(scores, labels, weights):
    """(loss, dscores) for scores (N, C, H, W), labels (N, H, W) and class weights (C,)."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    generator = np.random.default_rng(2)
    s, t = generator.normal(size=(2, 3, 4, 5)), generator.choice([0, 1, 2, 255], (2, 4, 5))
    for weights in (np.ones(3), np.array([0.5, 3.0, 1.0])):
        options = {"class_weight": weights}
        right, cache = ops.softmax_cross_entropy_forward(s, t, **options)
        loss, ds = weighted_loss(s, t, weights)
        count = (t != 255).sum()
        total = weights[t[t != 255]].sum()
        factors = {
            "the share of pixels that count": count / t.size,
            "the number of pixels that count": count,
            "the mean weight": total / count,
        }
        expect(loss, right, "the loss", **factors)
        assert not ds.transpose(0, 2, 3, 1)[t == 255].any(), "an ignored pixel has a gradient"
        expect(ds, ops.softmax_cross_entropy_backward(1.0, cache), "dscores", **factors)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def weighted_loss(scores, labels, weights):
#     lowered = scores - scores.max(axis=1, keepdims=True)
#     log_p = lowered - np.log(np.exp(lowered).sum(axis=1, keepdims=True))
#     counted = labels != 255
#     w = (weights[np.where(counted, labels, 0)] * counted)[:, None]  # of each pixel
#     onehot = labels[:, None] == np.arange(scores.shape[1])[:, None, None]
#     return -(w * onehot * log_p).sum() / w.sum(), w * (np.exp(log_p) - onehot) / w.sum()
# ```
#
# A weight of 0 is all that it takes to ignore a pixel: no loss, no gradient, and no part in the divisor.
#
# </details>

# %% [markdown]
# ### Exercise 3: another recipe
#
# Somebody trained with SGD on the *sum*, one image of `pixels` pixels a step, with `lr`, `momentum` and `weight_decay`. You want
# to train on the *mean*, with `batch` images a step. Which three numbers make each image move the weights as far, pull them
# to zero as hard, and be forgotten as fast?
#
# <details><summary>Hint 1</summary>
#
# Go in two steps: first to `batch` images, on the sum, as in the section on batches, then from the sum to the mean, over `batch
# * pixels` pixels. What does each step do to weight decay?
#
# </details>
# <details><summary>Hint 2</summary>
#
# On the sum, momentum becomes $\mu^k$, and the rate is multiplied by $(1 - \mu^k) / (1 - \mu)$, so that each image moves the
# weights as far. But a step of $k$ images pulls only once where there were $k$ pulls, so $\lambda$ must be $k$ times larger.
#
# </details>

# %% tags=["exercise"]
def another_recipe(lr, momentum, weight_decay, pixels, batch):
    """(lr, momentum, weight_decay) for the mean loss of `batch` images a step."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():

    def after(recipe, start, gradient, steps):
        """Where SGD takes a weight in so many steps, and in twice as many."""
        params, sgd, places = {"w": np.array([start])}, SGD(*recipe), []
        for step in range(2 * steps):
            sgd.step(params, {"w": np.array([gradient])})
            if step % steps == steps - 1:
                places.append(params["w"].item())
        return places

    for batch in (1, 4, 10):
        theirs, pixels = (1e-8, 0.9, 20.0), 500
        yours = another_recipe(*theirs, pixels, batch)
        fade = theirs[1] ** batch
        memory = "long" if yours[1] > fade else "short"
        assert np.isclose(yours[1], fade), f"momentum {yours[1]:.4f}: too {memory} a memory"
        images = 400
        moves = [
            np.diff(after((*recipe[:2], 0.0), 0.0, g, images // k)).item()
            for recipe, g, k in ((theirs, float(pixels), 1), (yours, 1.0, batch))
        ]
        far = moves[1] / moves[0]
        assert abs(far - 1) < 0.02, (
            f"in a batch of {batch}, an image moves weights {far:.3g} times as far"
        )
        pulls = [
            np.diff(np.log(after(recipe, 1.0, 0.0, images // k))).item()
            for recipe, k in ((theirs, 1), (yours, batch))
        ]
        hard = pulls[1] / pulls[0]
        assert abs(hard - 1) < 0.02, (
            f"in a batch of {batch}, weights are pulled {hard:.3g} times as hard"
        )

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def another_recipe(lr, momentum, weight_decay, pixels, batch):
#     faded = momentum**batch
#     on_the_sum = lr * (1 - faded) / (1 - momentum)
#     return on_the_sum * batch * pixels, faded, weight_decay / pixels
# ```
#
# The decay on the sum is `batch` times larger, and on the mean it is divided by `batch * pixels`: the batch drops out.
#
# </details>

# %% [markdown]
# ### Exercise 4: two classes, one score
#
# A network for two classes needs one score $s$ only: softmax of the pair $(0, s)$ gives $p_1 = 1 / (1 + e^{-s})$. Write the
# loss and its gradient for each pixel, with labels $t$ 0 and 1, for scores of any size: $L = \log(1 + e^s) - t s$.
#
# <details><summary>Hint 1</summary>
#
# $\log(1 + e^s)$ is $\log(e^0 + e^s)$. What did you do with such a thing above?
#
# </details>
# <details><summary>Hint 2</summary>
#
# $\log(e^0 + e^s) = \max(0, s) + \log(1 + e^{-|s|})$, and $e^{-|s|}$ is at most 1. You can write $p_1$ with it, too, in one way
# where $s > 0$ and in another where it is not.
#
# </details>

# %% tags=["exercise"]
def binary_loss(s, t):
    """(loss, dloss/ds) of each pixel, for scores s and labels t (0 or 1) of one shape."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    s = np.random.default_rng(3).normal(size=20)
    s = np.concatenate([s, [0, 90, -90, 1000, -1000]])
    for t in (np.zeros(25, int), np.ones(25, int)):
        pair = np.stack([0 * s, s])[None]  # (N, C, P)
        right, cache = ops.softmax_cross_entropy_forward(pair, t[None], reduction="none")
        right_ds = ops.softmax_cross_entropy_backward(np.ones_like(right), cache)[0, 1]
        with np.errstate(all="ignore"):
            loss, ds = binary_loss(s, t)
        for name, got in ("loss", loss), ("gradient", ds):
            bad = s[~np.isfinite(got)]
            assert not len(bad), f"the {name} is not finite for s = {bad[0]:.0f}: exp(large)?"
        assert np.allclose(loss, right[0], atol=1e-12), "loss differs from that of scores (0, s)"
        assert np.allclose(ds, right_ds, atol=1e-12), "gradient differs from that of (0, s): p - t?"

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
# The larger of 0 and $s$ comes out in front, as in every log-sum-exp. The gradient is again the probability minus the truth.
#
# </details>

# %% [markdown]
# ### Exercise 5: Adam's step
#
# Write one step of Adam for one array of weights, as derived above. `t` counts steps from 1. Change nothing in place.
#
# <details><summary>Hint 1</summary>
#
# First the two averages, with what the step has brought; then, from them, what to divide and multiply. What must be kept for
# the next step, the averages as they are or the corrected ones?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `m = beta1 * m + (1 - beta1) * g`, and `v` with `g**2`. Return these. Only in the step itself divide them by `1 - beta1**t` and
# `1 - beta2**t`. $\epsilon$ is added after the root.
#
# </details>

# %% tags=["exercise"]
def adam_step(w, g, m, v, t, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    """(w, m, v) after step number t, with the gradient g."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    generator = np.random.default_rng(4)
    w = generator.normal(size=(3, 4))
    params, adam = {"a.weight": w.copy()}, Adam(0.1)
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, 6):
        g = generator.normal(size=w.shape) * 10.0 ** generator.integers(-3, 4, w.shape)
        before = w
        w, m, v = adam_step(w, g, m, v, t, 0.1)
        adam.step(params, {"a.weight": g})
        if t == 1:
            moved = (abs(w - before) / 0.1).mean()
            assert np.isclose(moved, 1, rtol=1e-3), (
                f"in the first step weights move by {moved:.3g} lr, and should by 1:"
                " are m and v divided by what they lack?"
            )
            assert (np.sign(before - w) == np.sign(g)).all(), "weights move uphill: a sign?"
        expect(w, params["a.weight"], f"w after step {t}")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def adam_step(w, g, m, v, t, lr, beta1=0.9, beta2=0.999, eps=1e-8):
#     m = beta1 * m + (1 - beta1) * g
#     v = beta2 * v + (1 - beta2) * g**2
#     return w - lr * m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps), m, v
# ```
#
# The corrections are for the step alone; `m` and `v` are kept without them, or they would be corrected twice.
#
# </details>

# %% [markdown]
# Next: [FCN-32s, 16s, 8s](07_fcn.ipynb) puts all layers together, and sends this gradient up through them.
