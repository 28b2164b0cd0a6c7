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
# # 7. FCN-32s, 16s, 8s
#
# All layers are there. This notebook puts them together: VGG16's trunk, three layers of scores, three upsamplings, two
# additions. Forward is down the page, backward is up the page.
#
# You will be able to
#
# - draw the skip architecture, and run its seven steps by hand;
# - run its backward pass by hand, and say where the gradient splits;
# - check the gradient of a whole network, every tensor of weights and the image;
# - say why a stage begins near where the last one ended, how near, and what goes wrong without stages;
# - say where the 134 million parameters are, and where the memory goes.
#
# Takes about 60 minutes. It builds on [Upsampling](05_upsampling.ipynb) (crops) and [A loss at every pixel](06_loss.ipynb)
# (where the gradient comes from).

# %% tags=["setup"]
from tempfile import TemporaryDirectory

import numpy as np
from lesson import BLACK, BLUE, GREEN, ORANGE, PINK, RED, attempt, plt, seconds, show_source

from tinyfcn import ops
from tinyfcn.backend import describe_device
from tinyfcn.data import Shapes, normalise, palette, training_batch
from tinyfcn.gradcheck import check_gradient
from tinyfcn.models import FCN8s, FCN8sAtOnce, FCN16s, FCN32s, FCN32sAlexNet, FCN32sCaffeNet
from tinyfcn.models.alignment import Grid
from tinyfcn.models.vgg import VGG
from tinyfcn.optim import SGD, Adam, poly

rng = np.random.default_rng(0)

# %% [markdown]
# ## What and where
#
# conv7, the output of fc7, knows best *what* is in the picture: each of its units has seen several
# hundred pixels around. But its scores lie 32 pixels apart, so *where* is known to 32 pixels. pool4's
# units lie 16 pixels apart, pool3's 8, and know less about what. The paper (section 4.2) asks all three,
# and adds their answers:
#
# 1. score conv7 with a 1x1 convolution (the authors call it `score_fr`), and upsample by 2;
# 2. score pool4 with a 1x1 convolution;
# 3. add;
# 4. upsample by 2;
# 5. score pool3 with a 1x1 convolution;
# 6. add;
# 7. upsample by 8, to the image.

# %% tags=["hide-input"]
figure, axis = plt.subplots(figsize=(8, 3.9))
heights = {1: 3, 8: 2, 16: 1, 32: 0}  # of the lanes, by the distance between units
grey, feature, score = "#eeeeee", "#cfe8f5", "#fde3b0"
boxes = {"image": (0, 1, grey), "pool3": (0, 8, feature), "pool4": (0, 16, feature), "conv7": (0, 32, feature)}
boxes |= {"score_pool3": (2.6, 8, score), "score_pool4": (2.6, 16, score), "score_fr": (2.6, 32, score)}
boxes |= {"sum 16": (5, 16, score), "sum 8": (6.8, 8, score), "scores": (8.6, 1, score)}
drawn = {}
for name, (across, lane, colour) in boxes.items():
    style = {"boxstyle": "round,pad=0.35", "fc": colour, "ec": BLACK}
    drawn[name] = axis.text(across, heights[lane], name.split(" ")[0], ha="center", va="center", fontsize=9, bbox=style)
for start, end, text in (
    ("image", "pool3", ""), ("pool3", "pool4", ""), ("pool4", "conv7", ""),
    ("conv7", "score_fr", "(1) 1x1"), ("score_fr", "sum 16", "(1) x2"),
    ("pool4", "score_pool4", "(2) 1x1"), ("score_pool4", "sum 16", "(3) add"), ("sum 16", "sum 8", "(4) x2"),
    ("pool3", "score_pool3", "(5) 1x1"), ("score_pool3", "sum 8", "(6) add"), ("sum 8", "scores", "(7) x8"),
):
    (x0, y0), (x1, y1) = drawn[start].get_position(), drawn[end].get_position()
    ends = {"patchA": drawn[start].get_bbox_patch(), "patchB": drawn[end].get_bbox_patch(), "shrinkA": 2, "shrinkB": 2}
    axis.annotate("", (x1, y1), (x0, y0), arrowprops={"arrowstyle": "->", "lw": 1.2, **ends})
    level = y0 == y1
    shift = (0, 0.07) if level else (0.15, -0.16)
    axis.text((x0 + x1) / 2 + shift[0], (y0 + y1) / 2 + shift[1], text, fontsize=9, ha="center" if level else "left")
axis.set(xlim=(-0.7, 9.3), ylim=(-0.4, 3.4), xticks=[], ylabel="distance between units")
axis.set_yticks(list(heights.values()), [f"{k} px" for k in heights])
axis.set_title("FCN-8s: features (blue) go down the left side, scores (yellow) come up on the right", fontsize=11)
axis.spines[["left", "bottom"]].set_visible(False)
plt.show()

# %% [markdown]
# FCN-32s goes from `score_fr` to the image at once, by 32. FCN-16s goes from the first sum, by 16.
#
# ## A network to look at
#
# To see the maps we need a trained network. This one is a sixteenth as wide as the paper's, and learns four pictures by heart:
# enough to see what flows where, and nothing else. ([Training](09_training.ipynb) trains in earnest.) It is trained in the
# paper's three stages: FCN-32s, then a 16s that begins with its weights, then an 8s that begins with those.

# %% tags=["setup"]
pairs = [training_batch([Shapes("val")[i]], (128, 128), np.random.default_rng(0), mirror=False) for i in (2, 11, 16, 23)]
images, labels = (np.concatenate(arrays) for arrays in zip(*pairs))
inputs = normalise(images, "torchvision")
counted = labels != 255


def fit(net, optimiser, steps):
    """Train on the four pictures; the losses."""
    losses = []
    for step in range(steps):
        loss, cache = ops.softmax_cross_entropy_forward(net.forward(inputs, training=True), labels)
        net.backward(ops.softmax_cross_entropy_backward(1.0, cache))
        optimiser.step({name: net.params[name] for name in net.grads}, net.grads, poly(step / steps))
        losses.append(float(loss))
    return np.array(losses)


def begin(kind, parent):
    """A net of this kind that begins with the weights of its parent, as far as there are any."""
    child = kind(7, width=1 / 16, padding="same", dropout=0)
    with TemporaryDirectory() as folder:
        parent.save(f"{folder}/parent.safetensors")
        report = child.load(f"{folder}/parent.safetensors", partial=True)
    print(f"{kind.__name__} from {type(parent).__name__}; new:", ", ".join(report.kept))
    return child

# %%
net32 = FCN32s(7, width=1 / 16, padding="same", dropout=0)
losses = [fit(net32, Adam(1e-3), 150)]
net16 = begin(FCN16s, net32)
losses.append(fit(net16, Adam(5e-4), 120))
net = begin(FCN8s, net16)
losses.append(fit(net, Adam(5e-4), 200))

# %% tags=["hide-input"]
figure, axis = plt.subplots(figsize=(8, 2.8))
start = 0
for run, name, colour in zip(losses, ("32s", "16s from it", "8s from that"), (BLUE, ORANGE, GREEN)):
    axis.plot(np.arange(start, start + len(run)), run, color=colour, label=name)
    start += len(run)
axis.set(yscale="log", xlabel="step", ylabel="loss")
axis.set_title("Three stages: each begins near where the last one ended, and ends lower")
axis.legend(frameon=False)
plt.show()
assert losses[0][-1] > losses[1][-1] > losses[2][-1] and losses[1][0] < 1.2 * losses[0][-1]

# %% [markdown]
# (The spikes are not the new layers' doing, but the optimiser's: Adam's first steps move every weight by
# the whole learning rate, also those that were right. The paper lowers the rate 100 times for a stage,
# section 4.2.)
#
# **Predict.** What will the 32s get wrong, even by heart?

# %%
colours = palette()
figure, axes = plt.subplots(1, 5, figsize=(8, 2.1))
axes[0].imshow(images[0])
axes[1].imshow(colours[labels[0]])
axes[0].set_title("image", fontsize=10)
axes[1].set_title("truth", fontsize=10)
rates = []
for axis, stage, name in zip(axes[2:], (net32, net16, net), ("32s", "16s", "8s")):
    answer = stage.predict(inputs)
    rates.append((answer == labels)[counted].mean())
    axis.imshow(colours[answer[0]])
    axis.set_title(f"{name}: {rates[-1]:.1%}", fontsize=10)
for axis in axes:
    axis.set_axis_off()
figure.suptitle("Pixels that are right, in all four pictures: each skip adds detail", fontsize=11)
plt.show()
assert rates[0] < rates[1] < rates[2]

# %% [markdown]
# Between scores that lie 32 pixels apart, the upsampled ones run straight from one to the next, and an
# outline can hardly turn in between. What is finer, such as the points of the star, has to come from the
# skips.
#
# From here on we look inside the 8s, at the first picture.

# %%
image, label, x = images[0], labels[0], inputs[:1]
scores = net.forward(x)

# %% [markdown]
# ## Forward: the trunk
#
# `net.backbone.forward` runs the 13 convolutions and 5 poolings; fc6 and fc7 follow. We want five of its maps.

# %%
pools = net.backbone.forward(net, x, net.first_padding)  # pool1 ... pool5
conv6 = net.conv("fc6", pools[4], padding=net.fc6_padding, relu=True)
conv7 = net.conv("fc7", conv6, relu=True)
pool3, pool4 = pools[2], pools[3]
for name, features in ("image", x), ("pool3", pool3), ("pool4", pool4), ("conv7", conv7):
    print(f"{name:6} {features.shape}")

# %% [markdown]
# The picture has 128x128 pixels, so with padding "same" the maps have 16, 8 and 4 units a side.
#
# ## Step 1: score conv7, upsample by 2
#
# **Predict.** What is the shape of the scores? And after the upsampling with a kernel of 4 at stride 2?

# %%
def score(name, features):
    return ops.conv2d_forward(features, net.params[f"{name}.weight"], net.params[f"{name}.bias"])


coarse, coarse_cache = score("score_fr", conv7)
up2, up2_cache = ops.upsample_bilinear_forward(coarse, 4, 2)
print("score_fr", coarse.shape, "-> upscore2", up2.shape)
assert up2.shape[2] == (coarse.shape[2] - 1) * 2 + 4

# %% [markdown]
# 10, not 8: each of the 4 units spreads over 4, so a unit hangs over on either side.
#
# ## Steps 2 and 3: score pool4, add
#
# What is added must lie at the same place of the image. Where it lies, [Upsampling](05_upsampling.ipynb) derived: unit $j$ of a
# map has its centre at $\text{stride} \cdot j + \text{start}$.

# %%
grids = VGG.grids(net.first_padding)  # of pool1 ... pool5
grid7 = grids[4].window(7, padding=net.fc6_padding)
for name, grid in ("score_fr", grid7), ("upscore2", grid7.upsample(4, 2)), ("score_pool4", grids[3]):
    print(f"{name:12} unit j at {grid.stride:.0f} j {grid.start:+.1f}")
print("offset of pool4's scores:", grids[3].offset_to(grid7.upsample(4, 2)))

# %% [markdown]
# Unit 1 of the upsampled map lies where unit 0 of pool4's scores does. So the upsampled map is cut by 1 on every side. (With
# the paper's padding by 100 it is the other way round: pool4's map is the larger one, and is cut by 5.)

# %%
skip4, skip4_cache = score("score_pool4", pool4)
sum4 = skip4 + up2[:, :, 1:9, 1:9]

# %% [markdown]
# ## Steps 4, 5 and 6: the same again, with pool3

# %%
up4, up4_cache = ops.upsample_bilinear_forward(sum4, 4, 2)
skip3, skip3_cache = score("score_pool3", pool3)
sum3 = skip3 + up4[:, :, 1:17, 1:17]
print("upscore_pool4", up4.shape, "+ score_pool3", skip3.shape)

# %% [markdown]
# ## Step 7: upsample by 8, cut to the image
#
# The same rule says where to cut: the sum's units lie at $8 j + 3.5$, and a kernel of 16 begins 7.5 pixels
# before the first, at -4.

# %%
crop = grids[2].upsample(16, 8).offset_to(Grid(1, 0))  # the image: pixel i at i
assert crop == 4
window = slice(crop, crop + 128)
final, final_cache = ops.upsample_bilinear_forward(sum3, 16, 8, (window, window))
assert final.shape == (1, 7, 128, 128)
np.testing.assert_allclose(final, scores, rtol=0, atol=1e-4 * abs(scores).max())
print("the same as net.forward, up to", abs(final - scores).max())

# %% [markdown]
# That is the whole network. What do the maps say? Take one class that is in the picture, and the class with the largest score
# at each place.
#
# **Predict.** Which of the three score maps has most to say about *what*? What will the skips' own maps look like?

# %%
shown = 2  # square
stages = [
    (coarse, grid7, "(1) score_fr"),
    (up2, grid7.upsample(4, 2), "(1) upsampled"),
    (skip4, grids[3], "(2) score_pool4"),
    (sum4, grids[3], "(3) sum"),
    (up4, grids[3].upsample(4, 2), "(4) upsampled"),
    (skip3, grids[2], "(5) score_pool3"),
    (sum3, grids[2], "(6) sum"),
    (final, Grid(1, 0), "(7) final"),
]


def on_image(axis, values, grid, **options):
    """Draw a map where its units lie in the image."""
    ends = [grid.start - grid.stride / 2 + n * grid.stride for n in (0, values.shape[1], values.shape[0])]
    axis.imshow(values, extent=(ends[0], ends[1], ends[2], ends[0]), **options)
    axis.set(xlim=(-16, 143), ylim=(143, -16), xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.add_patch(plt.Rectangle((-0.5, -0.5), 128, 128, fill=False, color=BLACK, linewidth=0.8))

# %% tags=["hide-input"]
figure, axes = plt.subplots(4, 4, figsize=(8, 8.6))
for k, (values, grid, title) in enumerate(stages):
    top = 2 * (k // 4)
    picture = values[0, shown] - values[0].mean(axis=0)
    limit = abs(picture).max()
    on_image(axes[top, k % 4], picture, grid, cmap="PuOr_r", vmin=-limit, vmax=limit)
    on_image(axes[top + 1, k % 4], colours[values[0].argmax(axis=0)], grid)
    axes[top, k % 4].set_title(title, fontsize=10)
for row in range(4):
    axes[row, 0].set_ylabel(f"score of {Shapes.classes[shown]}" if row % 2 == 0 else "best class")
figure.suptitle("Each map where it lies in the image (black frame). Orange: more than the classes' mean; purple: less")
plt.show()

# %% [markdown]
# (Each map has its own colour scale.) The coarse map says what and roughly where. The skips' own maps
# would make poor pictures: they need not tell the classes apart, only correct what the coarse map gets
# wrong. What pool3 adds is mostly at outlines. The final answer is better than any of its parts.
#
# ## The code
#
# Here are the seven steps in the package. `forward` reads down the page.

# %%
show_source(FCN8s.forward)

# %% [markdown]
# ## Backward: up the page
#
# **Predict.** Write down the backward pass before you look: the same lines in reverse, each turned round. What becomes of
# "add"?

# %%
show_source(FCN8s.backward)

# %% [markdown]
# Let us run it by hand. The loss hands over `dscores`. Step 7 backward is the transpose of the upsampling:

# %%
loss, loss_cache = ops.softmax_cross_entropy_forward(final, label[None])
dscores = ops.softmax_cross_entropy_backward(1.0, loss_cache)
dsum3 = ops.upsample_bilinear_backward(dscores, final_cache)  # (7)
print(dscores.shape, "->", dsum3.shape)

# %% [markdown]
# Step 6 was $y = a + b$. Its derivative with respect to $a$ is 1, and with respect to $b$ is 1. So $da = dy$ and $db = dy$: the
# gradient is not divided among the two, each gets *all* of it. Only the crop is to be undone: where a unit was cut away its
# gradient is zero.

# %%
dskip3 = dsum3  # (6)
dup4 = np.zeros_like(up4)
dup4[:, :, 1:17, 1:17] = dsum3
dpool3, dweight3, dbias3 = ops.conv2d_backward(dskip3, skip3_cache)  # (5)
dsum4 = ops.upsample_bilinear_backward(dup4, up4_cache)  # (4)

dskip4 = dsum4  # (3)
dup2 = np.zeros_like(up2)
dup2[:, :, 1:9, 1:9] = dsum4
dpool4, dweight4, dbias4 = ops.conv2d_backward(dskip4, skip4_cache)  # (2)
dcoarse = ops.upsample_bilinear_backward(dup2, up2_cache)  # (1)
dconv7, dweight7, dbias7 = ops.conv2d_backward(dcoarse, coarse_cache)

# %% [markdown]
# From here the trunk takes over: `dconv7` goes through fc7, fc6, pool5 and block 5 to pool4. There `dpool4` is waiting: pool4
# was used twice, and what is used twice gets the *sum* of both gradients. The same at pool3. So additions copy, and copies add.
#
# The network's own backward pass must agree.

# %%
net.forward(x, training=True)
net.backward(dscores)
mine_by_name = {"score_fr": (dweight7, dbias7), "score_pool4": (dweight4, dbias4), "score_pool3": (dweight3, dbias3)}
for name, mine in mine_by_name.items():
    for part, gradient in zip(("weight", "bias"), mine):
        theirs = net.grads[f"{name}.{part}"]
        np.testing.assert_allclose(gradient, theirs, rtol=0, atol=1e-4 * abs(theirs).max())
    print(f"{name:12} weight {mine[0].shape}, bias {mine[1].shape}: as in net.grads")

# %% tags=["hide-input"]
figure, axes = plt.subplots(2, 4, figsize=(8, 4.6))
backward = [
    (dscores, Grid(1, 0), "dscores"),
    (dsum3, grids[2], "(7) dsum, 8 px"),
    (dskip3, grids[2], "(6) to score_pool3"),
    (dup4, grids[3].upsample(4, 2), "(6) to upscore_pool4"),
    (dsum4, grids[3], "(4) dsum, 16 px"),
    (dskip4, grids[3], "(3) to score_pool4"),
    (dup2, grid7.upsample(4, 2), "(3) to upscore2"),
    (dcoarse, grid7, "(1) dscore_fr"),
]
for axis, (values, grid, title) in zip(axes.ravel(), backward):
    picture = -values[0, shown]
    limit = np.quantile(abs(picture[picture != 0]), 0.98)
    on_image(axis, picture, grid, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axis.set_title(f"{title}\nlargest {abs(picture).max():.1e}", fontsize=9)
figure.suptitle(f"The way back of the {Shapes.classes[shown]}'s gradient. Red: the score is to rise; blue: to fall")
plt.show()

# %% [markdown]
# The gradient begins as single pixels at outlines. Each upsampling, turned round, collects it over a window. Where all pixels
# of the window want the same, the sum grows. Where red and blue lie side by side, as at an outline that is a pixel off, they
# cancel: the coarse layer is asked for nothing that it could not do. What is too fine for it is left to the skips.
#
# How much can it grow? A bilinear kernel of stride $s$ sums to $s^2$: that many pixels speak to one unit.
#
# **Predict.** A gradient of 1 at every pixel arrives at a unit of the coarsest map, in the middle of a large picture, as what?

# %%
ones = np.ones((1, 1, 192, 192))
_, cache8 = ops.upsample_bilinear_forward(np.zeros((1, 1, 24, 24)), 16, 8, (slice(4, 196), slice(4, 196)))
_, cache2 = ops.upsample_bilinear_forward(np.zeros((1, 1, 12, 12)), 4, 2, (slice(1, 25), slice(1, 25)))
_, cache2b = ops.upsample_bilinear_forward(np.zeros((1, 1, 6, 6)), 4, 2, (slice(1, 13), slice(1, 13)))
arrived = ones
for cache in cache8, cache2, cache2b:
    arrived = ops.upsample_bilinear_backward(arrived, cache)
    print(arrived.shape[2:], "middle:", arrived[0, 0, arrived.shape[2] // 2, arrived.shape[3] // 2])
assert np.isclose(arrived[0, 0, 3, 3], 32**2)

# %% [markdown]
# ## Is the whole of it right?
#
# Every operation has been checked. A network can still be wrong: a crop on the wrong side, a gradient
# that is overwritten where two should be added. So check it as *one* function, of the image and of all
# parameters. `check_gradient` wants a pair forward, backward. (Where a step of the difference crosses
# the kink of a ReLU or of a maximum, it proves nothing, and another direction is drawn.)

# %%
def gradient_functions(net, names):
    def forward(x, *params):
        net.params |= dict(zip(names, params))
        return net.forward(x, training=True), None

    def backward(dy, _):
        dx = net.backward(dy, need_dx=True)
        return dx, *(net.grads[name] for name in names)

    return forward, backward, ["x", *names]


tiny = FCN8s(3, width=1 / 64, dropout=0, learn_upsampling="all", dtype=np.float64)
for p in tiny.params.values():
    p += 0.1 * rng.standard_normal(p.shape)  # zeros would hide errors
forward, backward, names = gradient_functions(tiny, list(tiny.params))
pixels = rng.standard_normal((1, 3, 17, 38))
result = check_gradient(forward, backward, pixels, *tiny.params.values(), names=names, directions=2, step=1e-7)
print(f"{len(tiny.params)} tensors: {result}")

# %% [markdown]
# It also has to *fail* where it should. Here the additions divide the gradient between their two inputs, as people sometimes
# think they do:

# %%
class Divided(FCN8s):
    def add_backward(self, name, dy):
        dskip, dup = super().add_backward(name, dy)
        return dskip / 2, dup / 2


divided = Divided(3, width=1 / 64, dropout=0, learn_upsampling="all", dtype=np.float64)
divided.params = tiny.params
scores_only = ["score_fr.weight", "score_pool4.weight", "score_pool3.weight"]
forward, backward, names = gradient_functions(divided, scores_only)
small = rng.standard_normal((1, 3, 8, 9))
try:
    check_gradient(forward, backward, small, *(tiny.params[name] for name in scores_only), names=names, directions=1, step=1e-7)
except AssertionError as error:
    print(error)
else:
    raise AssertionError("halved gradients were accepted")

# %% [markdown]
# ## Why does the score layer start at zero?
#
# All other weights start random. Score layers start at zero, in the paper (section 4.3) and here. [Fully connected is
# convolution](04_fully_connected.ipynb) shows the first reason: all classes begin equal, and the loss at $\log C$. Two
# objections come up.
#
# *Does a layer of zeros ever learn?* Its own gradient is `dscore` times its input, and neither is zero. But nothing gets
# through it yet: the gradient at its input is its weights times `dscore`, zero. **Predict.** Which layers of a new network have
# a gradient in the first step? In the second?

# %%
new = FCN8s(7, width=1 / 16, padding="same", dropout=0)
for step in 1, 2:
    loss, cache = ops.softmax_cross_entropy_forward(new.forward(x, training=True), label[None])
    new.backward(ops.softmax_cross_entropy_backward(1.0, cache))
    moving = [name for name, gradient in new.grads.items() if gradient.any()]
    print(f"step {step}: loss {loss:.4f}, a gradient in {len(moving)} of {len(new.params)} tensors")
    if step == 1:
        assert all(name.startswith("score") for name in moving) and np.isclose(loss, np.log(7))
    SGD(0.01, 0.9, 0.0).step(new.params, new.grads)
assert len(moving) == len(new.params)

# %% [markdown]
# *Do equal weights not stay equal?* Two hidden units do, if their weights are equal on both sides, in
# and out. Here each output is a class of its own, with its own labels: their gradients differ from the
# first step on.
#
# The second reason is the stages.
#
# ## A stage begins where the last one ended
#
# Each stage adds a skip whose scores are zero, so the sum is what was there before: "the net starts with unmodified
# predictions" (section 4.2). In the curve above that is why each stage begins near where the last one ended.

# %%
child = begin(FCN16s, net32)
assert not child.params["score_pool4.weight"].any() and not child.params["score_pool4.bias"].any()

# %% [markdown]
# **Predict.** The 16s upsamples by 2, adds zeros, and upsamples by 16. The 32s upsamples by 32. Are the scores the same, to the
# last digit?

# %%
parent_scores, child_scores = net32.forward(x), child.forward(x)
pools = child.backbone.forward(child, x, child.first_padding)
conv7 = child.conv("fc7", child.conv("fc6", pools[4], padding=3, relu=True), relu=True)
coarse32, _ = ops.conv2d_forward(conv7, net32.params["score_fr.weight"], net32.params["score_fr.bias"])
stride16 = ops.upsample_bilinear_forward(coarse32, 4, 2)[0][:, :, 1:9, 1:9]  # the 32s's scores, 16 pixels apart
expected, _ = ops.upsample_bilinear_forward(stride16, 32, 16, (slice(8, 136), slice(8, 136)))
assert np.array_equal(child_scores, expected)

difference = abs(child_scores - parent_scores).mean() / abs(parent_scores).mean()
same = (child_scores.argmax(axis=1) == parent_scores.argmax(axis=1)).mean()
assert 0 < difference < 0.15 and 0.9 < same < 1  # near, and not equal
print("to the 32s's scores at stride 16, upsampled: equal to the bit")
print(f"to the 32s's scores in the image: {difference:.1%} apart on average; {same:.1%} of the pixels get the same label")

# %% [markdown]
# At stride 16 they are the parent's scores exactly. In the image they differ a little: upsampling bilinearly by 2 and then by
# 16 is not the same as by 32. A point between two units is interpolated between points that were interpolated themselves. Along
# a line:

# %%
spike = np.zeros((1, 1, 5, 5))
spike[..., 2] = 1  # a column of ones, so that we see one direction alone
one, _ = ops.upsample_bilinear_forward(spike, 64, 32)
half, _ = ops.upsample_bilinear_forward(spike, 4, 2)
two, _ = ops.upsample_bilinear_forward(half, 32, 16)
figure, axis = plt.subplots(figsize=(8, 2.6))
for y, shift, name, colour in (one, 63.5 + 32, "by 32", BLUE), (two, 15.5 + 16 * 5.5, "by 2, then by 16", ORANGE):
    row = y[0, 0, y.shape[2] // 2]
    assert np.isclose(row.sum(), 32)
    axis.plot(np.arange(len(row)) - shift, row, color=colour, label=name)
axis.set(xlabel="pixels from the unit's centre", ylabel="weight", xlim=(-48, 48))
axis.set_title("What one coarse score contributes to the pixels around it")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# The triangle is lower, wider and has a flat top: upsampling in two steps is a little smoother. Both weigh the same in sum.
#
# ## Why does 8s not train from VGG directly?
#
# A question that is asked again and again, about runs that start an FCN-8s from VGG16 and learn little. Look at how far a step
# moves a stream. A score layer has $y = w a$, with $a$ its input. One step of SGD changes $w$ by $-\eta\, dy\, a$ and so its
# output, for the same input, by
#
# $$\Delta y = -\eta\, |a|^2\, dy$$
#
# The *square* of the activations. Fed with numbers up to 255, VGG16 has much larger ones early than
# late: where the authors train all streams at once, they multiply pool4 by 0.01 and pool3 by 0.0001, to
# make the three alike (Shelhamer et al., 2017). If these make up for the sizes of the features, then
# without them pool3's scores move $10^8$ times as fast as conv7's, at the same learning rate.
#
# Our small network has no such activations. But we can give it some without changing what it computes: multiply one
# convolution's weights and bias by a factor, and divide the next one's weights by it. A ReLU lets positive factors through.

# %%
def feature_sizes(net):
    """Root mean square of the inputs of the three score layers."""
    pools = net.backbone.forward(net, x, net.first_padding)
    conv7 = net.conv("fc7", net.conv("fc6", pools[4], padding=3, relu=True), relu=True)
    return {name: float((a**2).mean() ** 0.5) for name, a in (("conv7", conv7), ("pool4", pools[3]), ("pool3", pools[2]))}


def like_vgg(kind):
    """A net with the trained trunk, whose pool4 and pool3 are 1e2 and 1e4 times as large as conv7; scores at zero."""
    made = kind(7, width=1 / 16, padding="same", dropout=0, freeze_trunk=True)
    made.params |= {name: p.copy() for name, p in net.params.items() if not name.startswith("score")}
    made.predict(x)
    for conv, following, pool, wanted in (("conv3_3", "conv4_1", "pool3", 1e4), ("conv4_3", "conv5_1", "pool4", 1e2)):
        sizes = feature_sizes(made)
        factor = np.float32(wanted * sizes["conv7"] / sizes[pool])
        made.params[f"{conv}.weight"] *= factor
        made.params[f"{conv}.bias"] *= factor
        made.params[f"{following}.weight"] /= factor
    return made


direct, at_once = like_vgg(FCN8s), like_vgg(FCN8sAtOnce)
net.predict(x)  # no longer in training
for name, each in ("as trained", net), ("like VGG", direct):
    print(f"{name:11}", {feature: round(size, 1) for feature, size in feature_sizes(each).items()})
print(f"{'at once':11}", at_once.skip_scales)
assert np.isclose(feature_sizes(direct)["conv7"], feature_sizes(net)["conv7"], rtol=1e-3)  # the trunk computes what it did

# %% [markdown]
# **Predict.** Only the score layers learn now, from zero: a problem without local minima. Four runs with
# SGD: FCN-8s with a rate that suits conv7, with rates $10^4$ and $10^7$ times lower, and FCN-8s "at
# once", with the two constants, at the first rate. Which of them learn? From which stream?

# %%
def stream_scores(net):
    """Root mean square, over the places, of what each stream says."""
    net.predict(x)
    pools = net.backbone.forward(net, x, net.first_padding)
    conv7 = net.conv("fc7", net.conv("fc6", pools[4], padding=3, relu=True), relu=True)
    said = (net.score(name, a) for name, a in (("score_fr", conv7), ("score_pool4", pools[3]), ("score_pool3", pools[2])))
    return [float((s**2).mean() ** 0.5) for s in said]


runs = (
    (FCN8s, 1e-4, "8s, lr 1e-4", RED),
    (FCN8s, 1e-8, "8s, lr 1e-8", ORANGE),
    (FCN8s, 1e-11, "8s, lr 1e-11", PINK),
    (FCN8sAtOnce, 1e-4, "8s at once, lr 1e-4", BLUE),
)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), width_ratios=(5, 3))
ends, said = [], []
for k, (kind, lr, name, colour) in enumerate(runs):
    made = like_vgg(kind)
    run = fit(made, SGD(lr, 0.9, 0.0), 120)
    ends.append(run[-20:].mean())
    said.append(stream_scores(made))
    left.plot(run, color=colour)
    left.text(122, run[-1], f"{name}: {ends[-1]:.2g}", color=colour, va="center", fontsize=9)
    if k >= 2:
        right.bar(np.arange(3) + 0.4 * (k - 2.5), said[-1], 0.4, color=colour)
left.set(yscale="log", xlim=(0, 220), xticks=(0, 40, 80, 120), xlabel="step", ylabel="loss", title="No rate suits all streams")
right.set(yscale="log", ylabel="size of its scores", title="What each stream says")
right.set_xticks(range(3), ("conv7", "pool4", "pool3"))
plt.show()
assert ends[3] < min(ends[:3]) and said[2][0] < 1e-3 < 1 < said[3][0]
assert said[1][0] < 1 < 1e3 < said[1][2]

# %% [markdown]
# With conv7's rate, pool3's stream explodes. With pool3's rate, conv7 stands still: what is learned
# comes from pool3 alone (pink), which sees 44 pixels and cannot tell classes. In between (orange), pool3
# still explodes, and conv7 has learned next to nothing. What one stream needs kills the other. With the
# constants (blue) all three speak.
#
# The remedies:
#
# - **Stages**: each new skip is trained from an otherwise finished network, at a rate 100 times lower than the stage before
#   ($10^{-10}$, $10^{-12}$, $10^{-14}$ for 32s, 16s, 8s): slow enough for the new stream, and the old one has learned already.
# - **At once**: constants in front of the score layers.
# - Or an optimiser like Adam, the package's default, which divides each gradient by its own size.
#
# The constants act on the rate by their square:

# %%
dy, a = rng.standard_normal((1, 7, 4, 4)), rng.standard_normal((1, 16, 4, 4))
moves = {}
for scale in (1.0, 0.01):
    w = np.zeros((7, 16, 1, 1))
    y, cache = ops.conv2d_forward(scale * a, w)
    _, dw, _ = ops.conv2d_backward(dy, cache)
    moved, _ = ops.conv2d_forward(scale * a, w - 0.1 * dw)
    moves[scale] = abs(moved - y).max()
    print(f"scale {scale}: a step of lr 0.1 moves the scores by {moves[scale]:.3g}")
assert np.isclose(moves[0.01], 0.01**2 * moves[1.0])

# %% [markdown]
# A warning: these constants belong to VGG16's weights. A network from scratch, whose activations are all near 1, is silenced by
# them: [Training](09_training.ipynb) measures both.
#
# ## Dropout or Dropout2d?
#
# The classifier drops each of the 4096 outputs of fc6 and fc7 with probability 0.5 (Krizhevsky, 2012). As convolutions they
# have a map each. Caffe's dropout, and so the authors', draws for every *entry* of the maps. Some later versions draw for every
# *channel* (PyTorch's `Dropout2d`).

# %%
maps = np.ones((1, 5, 12, 16))
entry, _ = ops.dropout_forward(maps, 0.5, np.random.default_rng(4))
channel = maps * (np.random.default_rng(4).random((1, 5, 1, 1)) >= 0.5) * 2
figure, axes = plt.subplots(2, 5, figsize=(8, 3))
for row, (values, name) in enumerate(((entry, "Dropout"), (channel, "Dropout2d"))):
    for k in range(5):
        axes[row, k].imshow(values[0, k], cmap="Blues", vmin=0, vmax=2.6)
        axes[row, k].set(xticks=[], yticks=[], title=f"channel {k}" if row == 0 else "")
    axes[row, 0].set_ylabel(name)
figure.suptitle("Dark: kept, and doubled. White: dropped")
plt.show()

# %% [markdown]
# **Predict.** A score sums over all channels at one place. How large is its noise in either way? And how large is the noise of
# the map's mean score?

# %%
w = net.params["score_fr.weight"][0, :, 0, 0]
features = np.repeat(np.repeat(conv7[:, :, 1:2, 1:2], 8, axis=2), 8, axis=3)  # a map of 8x8 equal units
noise = {}
for name, shape in ("Dropout", features.shape), ("Dropout2d", (*features.shape[:2], 1, 1)):
    draws = np.array([np.einsum("k,nkrc->rc", w, features * (rng.random(shape) >= 0.5) * 2) for _ in range(400)])
    noise[name] = draws.mean(axis=(1, 2)).std()
    print(f"{name:10} one score: standard deviation {draws[:, 0, 0].std():.3f}; the mean of 64: {noise[name]:.3f}")
assert 6 < noise["Dropout2d"] / noise["Dropout"] < 10

# %% [markdown]
# At one place they are the same, and so they are for a classifier, whose map is 1x1. Over a map, entries' noise averages out,
# and channels' does not: it is $\sqrt{64} = 8$ times as large here. So a published rate of 0.5 is a stronger intervention with
# `Dropout2d`, and not what was published.
#
# ## Bilinear: fixed or learned?
#
# The paper's text: the last upsampling is fixed to bilinear, those in between are learned from a bilinear start. The authors'
# published files: all are fixed (learning rate 0). The package has all three choices, and the default is that of the files.

# %%
for choice in ("none", "skip", "all"):
    made = FCN8s(21, width=1 / 64, learn_upsampling=choice)
    learned = {name: p.size for name, p in made.params.items() if name.startswith("upscore")}
    print(f"{choice:5} {sum(learned.values()):8,} parameters more", learned)
assert sum(learned.values()) == 2 * 21**2 * 4**2 + 21**2 * 16**2

# %% [markdown]
# **Predict.** The bilinear weights are zero except on the diagonal, class to class. Does a learned layer stay that way?

# %%
learning = FCN8s(7, width=1 / 16, padding="same", dropout=0, learn_upsampling="all")
learning.params |= {name: p.copy() for name, p in net.params.items()}
_, cache = ops.softmax_cross_entropy_forward(learning.forward(x, training=True), label[None])
learning.backward(ops.softmax_cross_entropy_backward(1.0, cache))
figure, axes = plt.subplots(1, 2, figsize=(8, 3.4))
for axis, values, title in (
    (axes[0], learning.params["upscore2.weight"], "weight at the start"),
    (axes[1], learning.grads["upscore2.weight"], "its gradient"),
):
    drawn = axis.imshow(abs(values).sum(axis=(2, 3)), cmap="Blues")
    axis.set(title=title, xlabel="to class", ylabel="from class", xticks=range(7), yticks=range(7))
    figure.colorbar(drawn, ax=axis, shrink=0.8)
figure.suptitle("upscore2, sum of absolute values over the 4x4 kernel: learned, it mixes classes")
plt.show()
off_diagonal = abs(learning.grads["upscore2.weight"]).sum(axis=(2, 3))[~np.eye(7, dtype=bool)]
assert (off_diagonal > 0).any()

# %% [markdown]
# No. A learned layer becomes a small classifier of its own, from scores to scores. What does it cost?

# %%
sums = rng.standard_normal((1, 21, 63, 63), np.float32)
weight = ops.bilinear_weight(21, 16)
fixed = seconds(lambda: ops.upsample_bilinear_forward(sums, 16, 8))
general = seconds(lambda: ops.conv_transpose2d_forward(sums, weight, stride=8))
print(f"upscore8 to 512x512, 21 classes: fixed {1e3 * fixed:.0f} ms, learned {1e3 * general:.0f} ms ({describe_device(np)})")
assert fixed < general

# %% [markdown]
# A fixed one knows that its kernel is a product of two triangles and leaves classes apart; a learned one is a full product over
# 21 x 21 classes and 16 x 16 taps.
#
# ## Where are 134 million parameters?

# %%
def sizes(kind):
    return {name: int(np.prod(shape)) for name, shape in kind.shapes(21, 1.0).items() if not name.startswith("upscore")}


for kind in FCN32s, FCN16s, FCN8s:
    print(f"{kind.__name__}: {sum(sizes(kind).values()):,}")
assert sum(sizes(FCN32s).values()) == 134_346_581

# %% [markdown]
# **Predict.** Which layer has most of them? And which has the largest output, for a photograph of 500x500?

# %%
layers = {}
for name, size in sizes(FCN8s).items():
    layers[name.split(".")[0]] = layers.get(name.split(".")[0], 0) + size
sides = VGG.map_sizes(100, 0, 500)
sides["fc7"] = sides["fc6"]
channels = {conv.name: conv.channels for conv in VGG.convs} | {"fc6": 4096, "fc7": 4096}
channels |= {f"pool{k}": VGG.pool_channels(k, 1.0) for k in range(1, 6)}
memory = {name: 4 * channels[name] * side**2 / 1e6 for name, side in sides.items()}  # MB in float32

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4.6))
left.barh(list(layers), [size / 1e6 for size in layers.values()], color=BLUE)
right.barh(list(memory), list(memory.values()), color=ORANGE)
left.set(xlabel="parameters, millions", title="Parameters are at the end")
right.set(xlabel="MB, float32", title="... and activations at the start")
for axis in left, right:
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=9)
plt.show()
conv1 = (memory["conv1_1"] + memory["conv1_2"]) / sum(memory.values())
print(f"fc6 has {layers['fc6'] / sum(layers.values()):.0%} of the parameters")
print(f"conv1_1 and conv1_2 have {conv1:.0%} of the activations' {sum(memory.values()):.0f} MB")
assert layers["fc6"] / sum(layers.values()) > 0.75

# %% [markdown]
# fc6's kernel of 7x7 from 512 to 4096 channels is three quarters of the network, applied at 16x16 places. conv1_1 has 1,792
# parameters, applied at 698x698 places, with padding by 100 on each side. The skips themselves cost next to nothing: 16,170
# parameters.
#
# Training needs each layer's input again on the way back, so all these maps stay, once; a pooling keeps one byte an output,
# ReLU nothing of its own. The gradients of the maps, in contrast, live only while they are passed on. [Speed](10_speed.ipynb)
# measures it.
#
# ## AlexNet instead of VGG16
#
# The paper's other networks have other trunks. With AlexNet, fc6 is 6x6, an even kernel: its scores lie
# *on* pixels, and an odd upsampling kernel, 63, keeps them there. (The paper's FCN-AlexNet stands on
# CaffeNet, Caffe's version with two groups; `FCN32sAlexNet` on the later one with a single tower.)

# %%
for kind in FCN32s, FCN32sAlexNet, FCN32sCaffeNet:
    kernels, offsets = kind.align("paper")
    print(f"{kind.__name__:15} kernel {kernels['upscore']}, crop {offsets['score']}")
assert FCN32sCaffeNet.align("paper") == ({"upscore": 63}, {"score": 18})

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: the skips, with the paper's padding
#
# Steps 1 to 6: given the scores of conv7, pool4 and pool3, return the sum at stride 8. With padding by 100 the crop offsets are
# 5 at pool4 and 9 at pool3: unit 5 of pool4's scores lies where unit 0 of the upsampled ones does. Use
# `ops.upsample_bilinear_forward(x, 4, 2)[0]`.

# %% tags=["exercise"]
def fuse(coarse, skip4, skip3):
    """The sum (N, C, h, w), 8 pixels apart, of scores 32, 16 and 8 pixels apart."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    grids = VGG.grids(100)
    grid7 = grids[4].window(7)
    sides = VGG.map_sizes(100, 0, 300)
    # Scores that are their own place in the image: where they meet, they must agree.
    at7, at4, at3 = (
        np.broadcast_to(grid.start + grid.stride * np.arange(n), (1, 1, n, n)).copy()
        for grid, n in ((grid7, sides["fc6"]), (grids[3], sides["pool4"]), (grids[2], sides["pool3"]))
    )
    fused = fuse(at7, at4, at3)
    up = grid7.upsample(4, 2).upsample(4, 2)
    place = up.start + up.stride * np.arange(fused.shape[3])
    inside = slice(6, -6)  # at the edges a bilinear upsampling fades out
    n = ((sides["fc6"] - 1) * 2 + 4 - 1) * 2 + 4
    assert fused.shape == (1, 1, n, n), f"the sum has shape {fused.shape}, expected {(1, 1, n, n)}"
    got, expected = fused[0, 0, inside, inside], np.broadcast_to(3 * place, fused.shape[2:])[inside, inside]
    assert np.allclose(got, expected), f"the three are apart: their places sum to {got[0, 0]:.1f}, expected {expected[0, 0]:.1f}"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def fuse(coarse, skip4, skip3):
#     total = coarse
#     for skip, offset in ((skip4, 5), (skip3, 9)):
#         up, _ = ops.upsample_bilinear_forward(total, 4, 2)
#         height, width = up.shape[2:]
#         total = up + skip[:, :, offset : offset + height, offset : offset + width]
#     return total
# ```
#
# The same two lines for both skips. Cutting the larger map in its middle, or from its corner, would give the right shape, too,
# and shift it by pixels.
#
# </details>

# %% [markdown]
# ### Exercise 2: addition, backward
#
# The forward pass was `y = skip[:, :, o : o + h, o : o + w] + up`, with `up` (N, C, h, w). Write its backward pass.

# %% tags=["exercise"]
def add_backward(dy, skip_shape, offset):
    """(dskip, dup) for dy (N, C, h, w); dskip has shape skip_shape."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    generator = np.random.default_rng(1)
    skip, up = generator.normal(size=(2, 3, 9, 8)), generator.normal(size=(2, 3, 4, 5))

    def add_forward(skip, up):
        return skip[:, :, 2:6, 2:7] + up, None

    dskip, dup = add_backward(up, skip.shape, 2)
    assert dskip.shape == skip.shape, f"dskip has shape {dskip.shape}, expected {skip.shape}"
    assert dup.shape == up.shape, f"dup has shape {dup.shape}, expected {up.shape}"
    check_gradient(add_forward, lambda dy, _: add_backward(dy, skip.shape, 2), skip, up)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def add_backward(dy, skip_shape, offset):
#     dskip = np.zeros(skip_shape, dy.dtype)
#     dskip[:, :, offset : offset + dy.shape[2], offset : offset + dy.shape[3]] = dy
#     return dskip, dy
# ```
#
# Both get all of dy. What was cut away had no part in y, so its gradient is zero.
#
# </details>

# %% [markdown]
# For the next exercise, here is the forward pass of an FCN-16s's head: from the scores of conv7 and pool4 to the image.

# %% tags=["setup"]
def head_forward(coarse, skip):
    """Scores of an image of 20x24 from those of conv7 (N, C, 7, 7) and pool4 (N, C, 26, 26); padding 100: crops 5 and 27."""
    up, up_cache = ops.upsample_bilinear_forward(coarse, 4, 2)
    height, width = up.shape[2:]
    total = up + skip[:, :, 5 : 5 + height, 5 : 5 + width]
    y, last_cache = ops.upsample_bilinear_forward(total, 32, 16, (slice(27, 47), slice(27, 51)))
    return y, (up_cache, last_cache, skip.shape)

# %% [markdown]
# ### Exercise 3: the head of an FCN-16s, backward
#
# Write `head_backward(dy, cache)`, the backward pass of `head_forward`, which returns `(dcoarse, dskip)`.

# %% tags=["exercise"]
def head_backward(dy, cache):
    """(dcoarse, dskip) for dy (N, C, 20, 24)."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    generator = np.random.default_rng(2)
    coarse, skip = generator.normal(size=(1, 2, 7, 7)), generator.normal(size=(1, 2, 26, 26))
    y, cache = head_forward(coarse, skip)
    dcoarse, dskip = head_backward(generator.normal(size=y.shape), cache)
    assert dcoarse.shape == coarse.shape, f"dcoarse has shape {dcoarse.shape}, expected {coarse.shape}"
    assert dskip.shape == skip.shape, f"dskip has shape {dskip.shape}, expected {skip.shape}"
    check_gradient(head_forward, head_backward, coarse, skip)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def head_backward(dy, cache):
#     up_cache, last_cache, skip_shape = cache
#     dtotal = ops.upsample_bilinear_backward(dy, last_cache)
#     dskip = np.zeros(skip_shape, dy.dtype)
#     dskip[:, :, 5 : 5 + dtotal.shape[2], 5 : 5 + dtotal.shape[3]] = dtotal
#     return ops.upsample_bilinear_backward(dtotal, up_cache), dskip
# ```
#
# The lines of the forward pass from the last to the first, each turned round.
#
# </details>

# %% [markdown]
# ### Exercise 4: count
#
# How many parameters has FCN-8s at full width, for any number of classes? Upsampling layers are fixed,
# and count for nothing. The 13 convolutions are 3x3, and their channels are 64, 64, 128, 128, 256 (3
# times), 512 (6 times). fc6 sees 7x7 units of 512 channels, fc7 one of 4096. A 1x1 convolution scores
# each of conv7, pool4 and pool3. All layers have biases.

# %% tags=["exercise"]
def count_parameters(classes):
    """The number of weights and biases of FCN-8s."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    for classes in (1, 2, 21, 150):
        shapes = FCN8s.shapes(classes, 1.0)
        expected = sum(int(np.prod(shape)) for name, shape in shapes.items() if not name.startswith("upscore"))
        got = count_parameters(classes)
        assert got == expected, f"{got:,} for {classes} classes, {got - expected:+,} from the right number"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def count_parameters(classes):
#     channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
#     total = sum(9 * a * b + b for a, b in zip(channels, channels[1:]))
#     total += 49 * 512 * 4096 + 4096 + 4096 * 4096 + 4096
#     return total + sum(a * classes + classes for a in (4096, 512, 256))
# ```
#
# Three score layers, on conv7, pool4 and pool3. For 21 classes that is 134,362,751.
#
# </details>

# %% [markdown]
# ### Exercise 5: constants for at-once training
#
# Given the root mean square of the features of conv7, pool4 and pool3, which constants make the scores of all three streams
# move alike in a step of SGD? Keep conv7's at 1.

# %% tags=["exercise"]
def balancing_scales(conv7, pool4, pool3):
    """(1.0, scale of pool4, scale of pool3), to multiply the features with before they are scored."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    generator = np.random.default_rng(3)
    sizes_rms = (2.0, 150.0, 7000.0)
    dy, moved = np.ones((1, 1, 1, 1)), []
    for size, scale in zip(sizes_rms, balancing_scales(*sizes_rms)):
        a = generator.normal(size=(1, 64, 1, 1))
        a *= scale * size / (a**2).mean() ** 0.5
        _, cache = ops.conv2d_forward(a, np.zeros((1, 64, 1, 1)))
        _, dw, _ = ops.conv2d_backward(dy, cache)
        moved.append(abs(ops.conv2d_forward(a, -dw)[0]).item())
    moved = np.round(moved, 4)
    assert np.allclose(moved, 256), f"a step moves the scores of conv7, pool4, pool3 by {moved}, expected 256 each"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def balancing_scales(conv7, pool4, pool3):
#     return 1.0, conv7 / pool4, conv7 / pool3
# ```
#
# A step moves scores by the square of the features' size, and the constant enters squared, too: it is enough to make the sizes
# equal.
#
# </details>

# %% [markdown]
# Next: [VGG16's weights](08_weights.ipynb) fills this network with what ImageNet has taught.
