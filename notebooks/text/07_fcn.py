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
# Below are the cat, whom you know by now, and three more photographs, and under each what three networks say about it.
# All three have the same layers up to fc7, have practised on these four photographs and on nothing else, and know them by heart:
# none takes a cup for a cat. And yet the first one draws the saucer as a cross. The second makes a lozenge of
# it, and only the third draws a saucer.
#
# What separates the second from the first, and the third from the second, is one small layer each: at this width they have
# 132 and 68 numbers, beside half a million in the rest. Where does the roundness come from?

# %% tags=["setup", "hide-input"]
import base64
import io
from tempfile import TemporaryDirectory

import numpy as np
from IPython.display import HTML, display
from PIL import Image

from tinyfcn import ops
from tinyfcn.data import normalise
from tinyfcn.gradcheck import check_gradient
from tinyfcn.lesson import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PINK,
    RED,
    SQUARES,
    WORDS,
    attempt,
    expect,
    labelled,
    labelled_squares,
    paint,
    plt,
    show_source,
)
from tinyfcn.metrics import ConfusionMatrix
from tinyfcn.models import FCN8s, FCN8sAtOnce, FCN16s, FCN32s, FCN32sAlexNet, FCN32sCaffeNet
from tinyfcn.models.alignment import Grid
from tinyfcn.models.vgg import VGG
from tinyfcn.optim import SGD, Adam, poly

rng = np.random.default_rng(0)

# %% tags=["setup"]
images, labels = labelled_squares()
inputs = normalise(images, "torchvision")
counted = labels != 255


def make(kind, **options):
    """A net with a sixteenth of the paper's channels."""
    return kind(len(WORDS), width=1 / 16, padding="same", dropout=0, **options)


def fit(net, optimiser, steps):
    """Train on the four photographs; the losses."""
    losses = []
    for step in range(steps):
        loss, cache = ops.softmax_cross_entropy_forward(net.forward(inputs, training=True), labels)
        net.backward(ops.softmax_cross_entropy_backward(1.0, cache))
        trained = {name: net.params[name] for name in net.grads}
        optimiser.step(trained, net.grads, poly(step / steps))
        losses.append(float(loss))
    return np.array(losses)


def begin(kind, parent):
    """A net of this kind that begins with the weights of its parent, as far as there are any."""
    child = make(kind)
    with TemporaryDirectory() as folder:
        parent.save(f"{folder}/parent.safetensors")
        report = child.load(f"{folder}/parent.safetensors", partial=True)
    print(f"{kind.__name__} from {type(parent).__name__}; new:", ", ".join(report.kept))
    return child

# %%
net32 = make(FCN32s)
losses = [fit(net32, Adam(1e-3), 90)]
net16 = begin(FCN16s, net32)
losses.append(fit(net16, Adam(5e-4), 60))
net = begin(FCN8s, net16)
losses.append(fit(net, Adam(5e-4), 100))

# %% tags=["hide-input"] alt="Four photographs, their labels by hand, and what FCN-32s, 16s and 8s paint: a coarse cross becomes a round saucer"
answers = {"by hand": labels}
rates = []
for stage, name in (net32, "FCN-32s"), (net16, "FCN-16s"), (net, "FCN-8s"):
    answer = stage.predict(inputs)
    rates.append((answer == labels)[counted].mean())
    answers[f"{name}: {rates[-1]:.1%}"] = answer
figure, axes = plt.subplots(4, 5, figsize=(8, 6.6))
for row, name in enumerate(SQUARES):
    axes[row, 0].imshow(images[row])
    for axis, (title, answer) in zip(axes[row, 1:], answers.items()):
        axis.imshow(paint(answer[row]))
        axis.set_title(title if row == 0 else "", fontsize=10)
for axis in axes.ravel():
    axis.set_axis_off()
figure.suptitle("Percentages: pixels that are right, in all four photographs", fontsize=11)
plt.show()
assert rates[0] < rates[1] < rates[2]

# %% [markdown]
# (Learning four photographs by heart is no achievement. It is done here so that you can watch what flows where. Besides, the
# third network has trained longest; in [Training](09_training.ipynb) networks meet pictures that they have not seen, and all of
# them train for the same number of steps.)
#
# In this notebook you take such a network apart, run it forward and backward by hand, and in the last exercise write all of
# it yourself, until its gradients and its loss curve are the package's. Takes about 60 minutes, the last exercise not
# counted. It builds on [Upsampling](05_upsampling.ipynb) for the crops, and on [A loss at every pixel](06_loss.ipynb) for
# where the gradient comes from.
#
# ## What and where
#
# conv7, the output of fc7, knows best *what* is in the picture, as each of its units has seen several hundred pixels around.
# But its scores lie 32 pixels apart, and between two of them the upsampled ones run straight from one to the next, so that an
# outline can hardly turn in between: hence the cross. pool4's units lie 16 pixels apart and pool3's 8. They know less about
# what, and more about *where*. The paper (section 4.2) asks all three and adds their answers, in seven steps:
#
# 1. score conv7 with a 1x1 convolution (the authors call it `score_fr`), and upsample by 2;
# 2. score pool4 with a 1x1 convolution;
# 3. add;
# 4. upsample by 2;
# 5. score pool3 with a 1x1 convolution;
# 6. add;
# 7. upsample by 8, to the image.

# %% tags=["hide-input"] alt="FCN-8s as a graph: features go down from image to conv7, scores come up in seven steps, with two skips from pool4 and pool3"
figure, axis = plt.subplots(figsize=(8, 3.9))
heights = {1: 3, 8: 2, 16: 1, 32: 0}  # of the lanes, by the distance between units
grey, feature, score = "#eeeeee", "#cfe8f5", "#fde3b0"
boxes = {"image": (0, 1, grey), "pool3": (0, 8, feature)}
boxes |= {"pool4": (0, 16, feature), "conv7": (0, 32, feature), "score_pool3": (2.6, 8, score)}
boxes |= {"score_pool4": (2.6, 16, score), "score_fr": (2.6, 32, score)}
boxes |= {"sum 16": (5, 16, score), "sum 8": (6.8, 8, score), "scores": (8.6, 1, score)}
drawn = {}
for name, (across, lane, colour) in boxes.items():
    style = {"boxstyle": "round,pad=0.35", "fc": colour, "ec": BLACK}
    place = {"x": across, "y": heights[lane], "ha": "center", "va": "center", "fontsize": 9}
    drawn[name] = axis.text(s=name.split(" ")[0], bbox=style, **place)
for start, end, text in (
    ("image", "pool3", ""), ("pool3", "pool4", ""), ("pool4", "conv7", ""),
    ("conv7", "score_fr", "(1) 1x1"), ("score_fr", "sum 16", "(1) x2"),
    ("pool4", "score_pool4", "(2) 1x1"), ("score_pool4", "sum 16", "(3) add"),
    ("sum 16", "sum 8", "(4) x2"), ("pool3", "score_pool3", "(5) 1x1"),
    ("score_pool3", "sum 8", "(6) add"), ("sum 8", "scores", "(7) x8"),
):
    (x0, y0), (x1, y1) = drawn[start].get_position(), drawn[end].get_position()
    arrow = {"arrowstyle": "->", "lw": 1.2, "shrinkA": 2, "shrinkB": 2}
    arrow |= {"patchA": drawn[start].get_bbox_patch(), "patchB": drawn[end].get_bbox_patch()}
    axis.annotate("", (x1, y1), (x0, y0), arrowprops=arrow)
    level = y0 == y1
    shift = (0, 0.07) if level else (0.15, -0.16)
    middle = (x0 + x1) / 2 + shift[0], (y0 + y1) / 2 + shift[1]
    axis.text(*middle, text, fontsize=9, ha="center" if level else "left")
axis.set(xlim=(-0.7, 9.3), ylim=(-0.4, 3.4), xticks=[], ylabel="distance between units")
axis.set_yticks(list(heights.values()), [f"{k} px" for k in heights])
axis.set_title("FCN-8s: features (blue) go down on the left, scores (yellow) come up", fontsize=11)
axis.spines[["left", "bottom"]].set_visible(False)
plt.show()

# %% [markdown]
# FCN-32s goes from `score_fr` to the image at once, by 32. FCN-16s goes there from the first sum, by 16.
#
# The three networks above were made as the paper makes them, one from the other: first FCN-32s, then a 16s that begins with
# its weights, then an 8s that begins with those. Here is how the loss went.

# %% tags=["hide-input"] alt="Loss of three stages, 32s, 16s, 8s: each starts with a jump and ends lower than the one before"
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
# (The new layers are not to blame for the spikes. Adam's first steps move every weight by the whole learning rate, also those
# that were right; the paper lowers the rate a hundred times from stage to stage, section 4.2.)
#
# From here on we look inside the 8s, and at the cat's ear and cheek.

# %%
image, label, x = images[0], labels[0], inputs[:1]
scores = net.forward(x)

# %% [markdown]
# ## Forward: the trunk
#
# The 13 convolutions and 5 poolings of VGG16, with fc6 and fc7 behind them, are called the network's trunk. You need three of
# its maps.

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
# **Predict.** What is the shape of the scores, and what is it after upsampling with a kernel of 4 at stride 2?

# %% tags=["hide-output"]
def score(name, features):
    return ops.conv2d_forward(features, net.params[f"{name}.weight"], net.params[f"{name}.bias"])


coarse, coarse_cache = score("score_fr", conv7)
up2, up2_cache = ops.upsample_bilinear_forward(coarse, 4, 2)
print("score_fr", coarse.shape, "-> upscore2", up2.shape)
assert up2.shape[2] == (coarse.shape[2] - 1) * 2 + 4

# %% [markdown]
# <details><summary>Why 10, and not 8?</summary>
#
# Each of the 4 units spreads over 4 places, so that one hangs over on either side.
#
# </details>
#
# ## Steps 2 and 3: score pool4, add
#
# Two scores may only be added where they speak of the same place of the image. Where they lie you derived in
# [Upsampling](05_upsampling.ipynb): unit $j$ of a map has its centre at $\text{stride} \cdot j + \text{start}$.

# %%
grids = VGG.grids(net.first_padding)  # of pool1 ... pool5
grid7 = grids[4].window(7, padding=net.fc6_padding)
for name, grid in (
    ("score_fr", grid7), ("upscore2", grid7.upsample(4, 2)), ("score_pool4", grids[3]),
):
    print(f"{name:12} unit j at {grid.stride:.0f} j {grid.start:+.1f}")
print("offset of pool4's scores:", grids[3].offset_to(grid7.upsample(4, 2)))

# %% [markdown]
# Unit 1 of the upsampled map lies where unit 0 of pool4's scores does, so the upsampled map is cut by 1 on every side. (With
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
assert final.shape == (1, len(WORDS), 128, 128)
np.testing.assert_allclose(final, scores, rtol=0, atol=1e-4 * abs(scores).max())
print("the same as net.forward, up to", abs(final - scores).max())

# %% tags=["hide-input"]
shown = WORDS.index("cat")
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
    height, width = values.shape[:2]
    ends = [grid.start + (n - 0.5) * grid.stride for n in (0, width, height)]
    axis.imshow(values, extent=(ends[0], ends[1], ends[2], ends[0]), **options)
    axis.set(xlim=(-16, 143), ylim=(143, -16), xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.add_patch(plt.Rectangle((-0.5, -0.5), 128, 128, fill=False, color=BLACK, linewidth=0.8))


# %% [markdown]
# That is the whole network. What do its maps say?
#
# **Predict.** Of the three score maps, those of conv7, pool4 and pool3, which has most to say about *what*? What will the
# skips' own maps look like?

# %% tags=["hide-input", "hide-output"] alt="The cat's score and the best class at each of the seven steps: 4x4 blocks become a smooth map whose edge follows her outline"
figure, axes = plt.subplots(4, 4, figsize=(8, 8.6))
for k, (values, grid, title) in enumerate(stages):
    top = 2 * (k // 4)
    picture = values[0, shown] - values[0].mean(axis=0)
    limit = abs(picture).max()
    on_image(axes[top, k % 4], picture, grid, cmap="PuOr_r", vmin=-limit, vmax=limit)
    on_image(axes[top + 1, k % 4], paint(values[0].argmax(axis=0)), grid)
    axes[top, k % 4].set_title(title, fontsize=10)
for row in range(4):
    axes[row, 0].set_ylabel("best class" if row % 2 else f"score of {WORDS[shown]}")
figure.suptitle("The maps, in the image's frame. Orange: more than the classes' mean; purple: less")
plt.show()

# %% [markdown]
# <details><summary>What the maps say</summary>
#
# (Each map has its own colour scale.) The coarse map says what, and roughly where. The skips' own maps would make poor
# pictures: both answer "cat" beside her, and pool3's answers "background" in the middle of her face. They need not tell the
# classes apart; they only correct what the coarse map gets wrong. The final answer is better than any of its parts.
#
# </details>
#
# ## The same steps on the whole photograph
#
# Chelsea's photograph has 300 rows and 451 columns, and the paper's networks put 100 pixels of zeros around it. Here are the
# seven steps at that size. Follow one line through: where does each crop come from, and what is left over in the end?

# %%
first, fc6_padding = 100, 0
places = VGG.grids(first)
place7 = places[4].window(7, padding=fc6_padding)
kernels, offsets = FCN8s.align("paper")


def sizes(layer):
    """Rows and columns of a layer's map."""
    return tuple(VGG.map_sizes(first, fc6_padding, side)[layer] for side in (300, 451))


def doubled(size):
    return tuple((n - 1) * 2 + 4 for n in size)


up_size, up4_size = doubled(sizes("fc6")), doubled(doubled(sizes("fc6")))
last_size = tuple((n - 1) * 8 + 16 for n in up4_size)
print("(1) score_fr      ", sizes("fc6"), " upsampled", up_size)
print("(2) score_pool4   ", sizes("pool4"), " cut by", offsets["score_pool4"], "to", up_size)
print("(4) sum upsampled ", up4_size)
print("(5) score_pool3   ", sizes("pool3"), " cut by", offsets["score_pool3"], "to", up4_size)
print("(7) sum upsampled ", last_size, " cut by", offsets["score"], "to (300, 451)")
assert offsets == {"score_pool4": 5, "score_pool3": 9, "score": 31}
assert all(last >= 31 + side for last, side in zip(last_size, (300, 451)))

# %% [markdown]
# The last crop begins at 31, which is not the middle: the map is larger than the photograph by a number that depends on the
# photograph's size, and all the surplus is on the right and below. What if somebody cuts at another place? Try it. The line is
# Chelsea's outline as a perfect network would return it, and the number is what the crop alone makes of that network's mean IU.

# %% tags=["hide-input"]
cat, cat_label = labelled("chelsea")
file = io.BytesIO()
Image.fromarray(cat).save(file, "JPEG", quality=80)
picture = base64.b64encode(file.getvalue()).decode()
scored = []
padded = np.pad(cat_label, 31, mode="edge")
for offset in range(63):
    matrix = ConfusionMatrix(2)
    answer = padded[offset : offset + 300, offset : offset + 451]
    seen = (cat_label != 255) & (answer != 255)
    matrix.update(np.where(seen, cat_label, 255), np.where(seen, answer, 0))
    scored.append(f"{matrix.mean_iou:.2f}")
assert scored[31] == "1.00" and float(scored[0]) < 0.9
figure, axis = plt.subplots()
lines = [line for line in axis.contour(cat_label == 1, [0.5]).allsegs[0] if len(line) > 99]
plt.close(figure)
drawn = "".join(
    f'<polyline points="{" ".join(f"{x:.0f},{y:.0f}" for x, y in line[::3])}"/>' for line in lines
)
display(
    HTML(
        f"""<svg viewBox="0 0 451 300" role="img" style="width:100%;max-width:560px;display:block"
aria-label="the cat, and her outline moved by the crop">
<image href="data:image/jpeg;base64,{picture}" width="451" height="300"/>
<g id="crop-outline" fill="none" stroke="white" stroke-width="4">{drawn}</g></svg>
<label style="display:block;max-width:560px">cut at
<output id="crop-offset">31</output>: mean IU <output id="crop-score">1.00</output>
<input type="range" min="0" max="62" value="31" style="width:100%" aria-label="offset of the crop"
oninput="const d=31-this.value, s='{" ".join(scored)}'.split(' ');
document.getElementById('crop-outline').setAttribute('transform','translate('+d+' '+d+')');
document.getElementById('crop-offset').value=this.value;
document.getElementById('crop-score').value=s[this.value]"></label>"""
    )
)

# %% [markdown]
# (Move the slider with the mouse, a finger, or the arrow keys. On a page that runs no scripts you see offset 31.) A crop that
# is off by a few pixels raises no error, and costs little enough to be overlooked: this is how wrong offsets survive in
# published code.
#
# ## The code
#
# Here are the seven steps in the package. `forward` reads down the page.

# %% tags=["hide-input"]
show_source(FCN8s.forward)

# %% [markdown]
# ## Backward: up the page
#
# **Predict.** Write down the backward pass before you look: the same lines in reverse, each turned round. What becomes of
# "add"?

# %% tags=["hide-input", "hide-output"]
show_source(FCN8s.backward)

# %% [markdown]
# Now run it by hand. The loss hands over `dscores`, and step 7 backward is the transpose of the upsampling:

# %%
loss, loss_cache = ops.softmax_cross_entropy_forward(final, label[None])
dscores = ops.softmax_cross_entropy_backward(1.0, loss_cache)
dsum3 = ops.upsample_bilinear_backward(dscores, final_cache)  # (7)
print(dscores.shape, "->", dsum3.shape)

# %% [markdown]
# Step 6 was $y = a + b$. Its derivative with respect to $a$ is 1, and so is that with respect to $b$. So $da = dy$ and $db =
# dy$: the gradient is not divided between the two, but each gets *all* of it. Only the crop is to be undone, and where a unit
# was cut away its gradient is zero.

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
# From here the trunk takes over: `dconv7` goes through fc7, fc6, pool5 and block 5 to pool4, where `dpool4` is waiting. As
# pool4 was used twice, it gets the *sum* of both gradients, and so does pool3. In short: forward, an addition joins two
# maps, and backward it copies the gradient; a map that was used twice forward adds up its gradients backward.
#
# The network's own backward pass must agree with yours.

# %%
net.forward(x, training=True)
net.backward(dscores)
mine_by_name = {"score_fr": (dweight7, dbias7), "score_pool4": (dweight4, dbias4)}
mine_by_name["score_pool3"] = dweight3, dbias3
for name, mine in mine_by_name.items():
    for part, gradient in zip(("weight", "bias"), mine):
        theirs = net.grads[f"{name}.{part}"]
        np.testing.assert_allclose(gradient, theirs, rtol=0, atol=1e-4 * abs(theirs).max())
    print(f"{name:12} weight {mine[0].shape}, bias {mine[1].shape}: as in net.grads")

# %% tags=["hide-input"] alt="The cat's gradient on its way back through the steps: thin along the outline at first, ever coarser blocks, 4x4 at score_fr"
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
figure.suptitle("The way back of the cat's gradient. Red: the score is to rise; blue: to fall")
plt.show()

# %% [markdown]
# The gradient begins as single pixels at the outline, on the rim of the white contour that does not count. Each upsampling,
# turned round, collects it over a window. Where all pixels of the window want the same, the sum grows; where red and blue lie
# side by side, as at an outline that is a pixel off, they cancel. So the coarse layer is not asked for what it could not do,
# and what is too fine for it is left to the skips.
#
# How much can it grow? A bilinear kernel of stride $s$ sums to $s^2$, as that many pixels speak to one unit.
#
# **Predict.** A gradient of 1 at every pixel arrives at a unit of the coarsest map, in the middle of a large picture, as what?

# %% tags=["hide-output"]
arrived = np.ones((1, 1, 192, 192))
for side, kernel, stride, crop in (24, 16, 8, 4), (12, 4, 2, 1), (6, 4, 2, 1):
    window = slice(crop, crop + arrived.shape[2])
    zeros = np.zeros((1, 1, side, side))
    _, cache = ops.upsample_bilinear_forward(zeros, kernel, stride, (window, window))
    arrived = ops.upsample_bilinear_backward(arrived, cache)
    print(f"{side}x{side} units, in the middle:", arrived[0, 0, side // 2, side // 2])
assert np.isclose(arrived[0, 0, 3, 3], 32**2)

# %% [markdown]
# ## Is the whole of it right?
#
# Every operation has been checked. A network of checked operations can still be wrong: a crop on the wrong side, a gradient
# that is overwritten where two should be added. So check it as *one* function, of the image and of all its weights and biases.
# `check_gradient` wants a pair, forward and backward. (Where a step of the difference crosses the kink of a ReLU or of a
# maximum, it proves nothing, and another direction is drawn.)

# %%
def gradient_functions(net, names):
    def forward(x, *params):
        net.params |= dict(zip(names, params))
        return net.forward(x, training=True), None

    def backward(dy, _):
        dx = net.backward(dy, need_dx=True)
        return dx, *(net.grads[name] for name in names)

    return forward, backward, ["x", *names]


options = {"width": 1 / 64, "dropout": 0, "learn_upsampling": "all", "dtype": np.float64}
tiny = FCN8s(3, **options)
for p in tiny.params.values():
    p += 0.1 * rng.standard_normal(p.shape)  # zeros would hide errors
forward, backward, names = gradient_functions(tiny, list(tiny.params))
pixels = rng.standard_normal((1, 3, 17, 38))
how = {"names": names, "directions": 2, "step": 1e-7}
result = check_gradient(forward, backward, pixels, *tiny.params.values(), **how)
print(f"{len(tiny.params)} tensors: {result}")

# %% [markdown]
# A check must also *fail* where it should. Here the additions divide the gradient between their two inputs, as people
# sometimes think they do:

# %%
class Divided(FCN8s):
    def add_backward(self, name, dy):
        dskip, dup = super().add_backward(name, dy)
        return dskip / 2, dup / 2


divided = Divided(3, **options)
divided.params = tiny.params
scores_only = ["score_fr.weight", "score_pool4.weight", "score_pool3.weight"]
forward, backward, names = gradient_functions(divided, scores_only)
arguments = rng.standard_normal((1, 3, 8, 9)), *(tiny.params[name] for name in scores_only)
try:
    check_gradient(forward, backward, *arguments, names=names, directions=1, step=1e-7)
except AssertionError as error:
    print(error)
else:
    raise AssertionError("halved gradients were accepted")

# %% [markdown]
# ## Why does the score layer start at zero?
#
# All other weights start random, score layers at zero, in the paper (section 4.3) and here. [Fully connected is
# convolution](04_fully_connected.ipynb#Why-is-the-score-layer-zero-initialised?) gives the first reason: all classes begin
# equal, at a loss of $\log C$, and from the second step on everything learns. The second reason is the stages.
#
# ## Where does a stage begin?
#
# Each stage adds a skip whose scores are zero, so that the sum is what was there before: "the net starts with unmodified
# predictions" (section 4.2). That is why each stage in the curve above begins near where the last one ended.

# %%
child = begin(FCN16s, net32)
assert not child.params["score_pool4.weight"].any() and not child.params["score_pool4.bias"].any()

# %% [markdown]
# **Predict.** The 16s upsamples by 2, adds zeros, and upsamples by 16. The 32s upsamples by 32. Are the scores the same, to the
# last digit?

# %% tags=["hide-output"]
parent_scores, child_scores = net32.forward(x), child.forward(x)
pools = child.backbone.forward(child, x, child.first_padding)
conv7 = child.conv("fc7", child.conv("fc6", pools[4], padding=3, relu=True), relu=True)
score_fr = net32.params["score_fr.weight"], net32.params["score_fr.bias"]
coarse32, _ = ops.conv2d_forward(conv7, *score_fr)
stride16 = ops.upsample_bilinear_forward(coarse32, 4, 2)[0][:, :, 1:9, 1:9]  # 16 pixels apart
expected, _ = ops.upsample_bilinear_forward(stride16, 32, 16, (slice(8, 136), slice(8, 136)))
assert np.array_equal(child_scores, expected)

difference = abs(child_scores - parent_scores).mean() / abs(parent_scores).mean()
same = (child_scores.argmax(axis=1) == parent_scores.argmax(axis=1)).mean()
print("to the 32s's scores at stride 16, upsampled: equal to the bit")
print(f"to the 32s's scores in the image: {difference:.1%} apart on average")
print(f"{same:.1%} of the pixels get the same label")
assert 0 < difference < 0.3

# %% [markdown]
# <details><summary>Why not?</summary>
#
# At stride 16 they are the parent's scores exactly. In the image they are near, and not equal, as upsampling bilinearly by 2
# and then by 16 is not the same as by 32: a point between two units is interpolated between points that were interpolated
# themselves. The figure shows it along a line. The triangle is lower, wider and has a flat top, so that two steps smooth a
# little more than one. In sum both weigh the same. A stage begins *near* where the last one ended.
#
# </details>

# %% tags=["hide-input", "hide-output"] alt="What one coarse score adds around it: a triangle when upsampled by 32, nearly the same with a flat top by 2 and then 16"
spike = np.zeros((1, 1, 5, 5))
spike[..., 2] = 1  # a column of ones, so that we see one direction alone
one, _ = ops.upsample_bilinear_forward(spike, 64, 32)
half, _ = ops.upsample_bilinear_forward(spike, 4, 2)
two, _ = ops.upsample_bilinear_forward(half, 32, 16)
figure, axis = plt.subplots(figsize=(8, 2.6))
ways = (one, 63.5 + 32, "by 32", BLUE), (two, 15.5 + 16 * 5.5, "by 2, then by 16", ORANGE)
for y, shift, name, colour in ways:
    row = y[0, 0, y.shape[2] // 2]
    assert np.isclose(row.sum(), 32)
    axis.plot(np.arange(len(row)) - shift, row, color=colour, label=name)
axis.set(xlabel="pixels from the unit's centre", ylabel="weight", xlim=(-48, 48))
axis.set_title("What one coarse score contributes to the pixels around it")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Why does 8s not train from VGG directly?
#
# People ask this again and again, about runs that start an FCN-8s from VGG16 and learn little. Look at how far one step moves a
# stream, which is what we call the way from conv7, pool4 or pool3 through its score layer to the sum. A score layer has $y = w
# a$, with $a$ its input. One step of SGD changes $w$ by $-\eta\, dy\, a$, and so its output, for the same input, by
#
# $$\Delta y = -\eta\, |a|^2\, dy$$
#
# The *square* of the activations! Fed with numbers up to 255, VGG16 has much larger ones early than late, which is why the
# authors, when they train all streams at once, multiply pool4 by 0.01 and pool3 by 0.0001, to make the three alike (Shelhamer
# et al., 2017). If these constants make up for the sizes of the features, then without them pool3's scores move $10^8$ times
# as fast as conv7's, at the same learning rate.
#
# Our small network has no such activations. But you can give it some without changing what it computes: multiply one
# convolution's weights and bias by a factor, and divide the next one's weights by it. A ReLU lets positive factors through.

# %%
def streams(net):
    """The inputs of the three score layers, by name."""
    pools = net.backbone.forward(net, x, net.first_padding)
    conv7 = net.conv("fc7", net.conv("fc6", pools[4], padding=3, relu=True), relu=True)
    return {"score_fr": conv7, "score_pool4": pools[3], "score_pool3": pools[2]}


def size(a):
    """The root of the mean square."""
    return float((a**2).mean() ** 0.5)


def like_vgg(kind):
    """A net with the trained trunk, pool4 and pool3 1e2 and 1e4 times conv7, and scores at zero."""
    made = make(kind, freeze_trunk=True)
    trunk = {name: p.copy() for name, p in net.params.items() if not name.startswith("score")}
    made.params |= trunk
    made.predict(x)
    for conv, following, stream, wanted in (
        ("conv3_3", "conv4_1", "score_pool3", 1e4), ("conv4_3", "conv5_1", "score_pool4", 1e2),
    ):
        maps = streams(made)
        factor = np.float32(wanted * size(maps["score_fr"]) / size(maps[stream]))
        made.params[f"{conv}.weight"] *= factor
        made.params[f"{conv}.bias"] *= factor
        made.params[f"{following}.weight"] /= factor
    return made


direct, at_once = like_vgg(FCN8s), like_vgg(FCN8sAtOnce)
net.predict(x)  # no longer in training
for name, each in ("as trained", net), ("like VGG", direct):
    print(f"{name:11}", {stream: round(size(a), 1) for stream, a in streams(each).items()})
print(f"{'at once':11}", at_once.skip_scales)
assert np.isclose(size(streams(direct)["score_fr"]), size(streams(net)["score_fr"]), rtol=1e-3)

# %% [markdown]
# **Predict.** Only the score layers learn now, from zero, which is a problem without local minima. Four runs with SGD: FCN-8s
# with a rate that suits conv7, with rates $10^4$ and $10^8$ times lower, and FCN-8s "at once", with the two constants, at the
# first rate. Which of them learn, and from which stream?

# %% tags=["hide-output"]
runs = (
    (FCN8s, 1e-4, "8s, lr 1e-4", RED),
    (FCN8s, 1e-8, "8s, lr 1e-8", ORANGE),
    (FCN8s, 1e-12, "8s, lr 1e-12", PINK),
    (FCN8sAtOnce, 1e-4, "8s at once, lr 1e-4", BLUE),
)
curves, said = [], []
for kind, lr, _, _ in runs:
    made = like_vgg(kind)
    curves.append(fit(made, SGD(lr, 0.9, 0.0), 60))
    made.predict(x)
    said.append([size(made.score(name, a)) for name, a in streams(made).items()])
ends = [run[-20:].mean() for run in curves]
print("losses at the end:", *(f"{end:.2g}" for end in ends))
assert ends[3] < min(ends[:3]) and said[2][0] < 1e-2 < 1 < said[3][0] and ends[2] < 1.4
assert said[1][0] < 1 < 1e2 < said[1][2]

# %% tags=["hide-input", "hide-output"] alt="Loss of FCN-8s at three rates, none of which works, and of 8s at once, which falls; the sizes of the three streams differ by many powers of ten"
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), width_ratios=(5, 3))
for k, (_, _, name, colour) in enumerate(runs):
    left.plot(curves[k], color=colour)
    left.text(62, curves[k][-1], f"{name}: {ends[k]:.2g}", color=colour, va="center", fontsize=9)
    if k >= 2:
        right.bar(np.arange(3) + 0.4 * (k - 2.5), said[k], 0.4, color=colour)
left.set(yscale="log", xlim=(0, 110), xticks=(0, 20, 40, 60), xlabel="step", ylabel="loss")
left.set_title("No rate suits all streams")
right.set(yscale="log", ylabel="size of its scores", title="What each stream says")
right.set_xticks(range(3), ("conv7", "pool4", "pool3"))
plt.show()

# %% [markdown]
# <details><summary>Which of them learn?</summary>
#
# With conv7's rate, pool3's stream explodes. With pool3's rate, conv7 stands still: what is learned comes from pool3 alone
# (pink), which sees 44 pixels and cannot tell the classes apart. In between (orange), pool3 still explodes, and conv7 has
# learned next to nothing. Whatever rate you choose for one stream is wrong for another. With the constants (blue) all three
# speak.
#
# </details>
#
# There are three remedies:
#
# - **Stages**: each new skip is trained from an otherwise finished network, at a rate 100 times lower than the stage before
#   ($10^{-10}$, $10^{-12}$, $10^{-14}$ for 32s, 16s, 8s), slow enough for the new stream, when the old one has learned already.
# - **At once**: constants in front of the score layers. They act on the rate by their square, so a constant of 0.01 makes a
#   step ten thousand times shorter; you use that in exercise 5.
# - Or an optimiser like Adam, the package's default, which divides each gradient by its own size.
#
# A warning: these constants belong to VGG16's weights. In a network from scratch, whose activations are all near 1, they
# silence the skips, which is why the package can measure constants of your own (`--skip-scales measured`).
#
# ## Dropout or Dropout2d?
#
# The classifier drops each of the 4096 outputs of fc6 and fc7 with probability 0.5 (Krizhevsky, 2012). As convolutions they
# have a map each. Caffe's dropout, and so the authors', draws for every *entry* of these maps, while some later versions draw
# for every *channel* (PyTorch's `Dropout2d`).

# %% tags=["hide-input"] alt="Dropout takes single units at random in each channel; Dropout2d takes one whole channel of five"
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
# **Predict.** A score sums over all channels at one place. How large is its noise in either case, and how large is the noise of
# the map's mean score?

# %% tags=["hide-output"]
w = net.params["score_fr.weight"][0, :, 0, 0]
features = np.tile(conv7[:, :, 1:2, 1:2], (8, 8))  # a map of 8x8 equal units
noise = {}
for name, shape in ("Dropout", features.shape), ("Dropout2d", (*features.shape[:2], 1, 1)):
    kept = (features * (rng.random(shape) >= 0.5) * 2 for _ in range(400))
    draws = np.array([np.einsum("k,nkrc->rc", w, each) for each in kept])
    noise[name] = draws.mean(axis=(1, 2)).std()
    one = draws[:, 0, 0].std()
    print(f"{name:10} deviation of one score {one:.3f}, of the mean of 64 {noise[name]:.3f}")
assert 6 < noise["Dropout2d"] / noise["Dropout"] < 10

# %% [markdown]
# <details><summary>Answer</summary>
#
# At one place they are the same, and so they are for a classifier, whose map is 1x1. Over a map, the noise of entries averages
# out and that of channels does not: it is $\sqrt{64} = 8$ times as large here. So a published rate of 0.5 is a stronger
# intervention with `Dropout2d`, and not what was published.
#
# </details>
#
# ## Bilinear: fixed or learned?
#
# In the paper's text the last upsampling is fixed to bilinear, and those in between are learned from a bilinear start. In the
# authors' published files all of them are fixed (learning rate 0). The package can do both, and a third, and follows the files
# unless you say otherwise.

# %%
for choice in ("none", "skip", "all"):
    made = FCN8s(21, width=1 / 64, learn_upsampling=choice)
    learned = {name: p.size for name, p in made.params.items() if name.startswith("upscore")}
    print(f"{choice:5} {sum(learned.values()):8,} more weights", learned)
assert sum(learned.values()) == 2 * 21**2 * 4**2 + 21**2 * 16**2

# %% [markdown]
# **Predict.** The bilinear weights are zero except on the diagonal, class to class. Does a learned layer stay that way?

# %% tags=["hide-input", "hide-output"] alt="Weights between four classes at the start, on the diagonal alone, and their gradient, which is also beside it"
learning = make(FCN8s, learn_upsampling="all")
learning.params |= {name: p.copy() for name, p in net.params.items()}
_, cache = ops.softmax_cross_entropy_forward(learning.forward(x, training=True), label[None])
learning.backward(ops.softmax_cross_entropy_backward(1.0, cache))
figure, axes = plt.subplots(1, 2, figsize=(8, 3.4))
for axis, values, title in (
    (axes[0], learning.params["upscore2.weight"], "weight at the start"),
    (axes[1], learning.grads["upscore2.weight"], "its gradient"),
):
    drawn = axis.imshow(abs(values).sum(axis=(2, 3)), cmap="Blues")
    axis.set(title=title, xlabel="to class", ylabel="from class", xticks=range(4), yticks=range(4))
    figure.colorbar(drawn, ax=axis, shrink=0.8)
figure.suptitle("upscore2, sum of absolute values over the 4x4 kernel: learned, it mixes classes")
plt.show()
mixing = abs(learning.grads["upscore2.weight"]).sum(axis=(2, 3))[~np.eye(4, dtype=bool)]
assert (mixing > 0).any()

# %% [markdown]
# <details><summary>Answer</summary>
#
# No: its gradient is not zero off the diagonal, so that after one step a class's score leans on the others'. A learned layer
# becomes a small classifier of its own, from scores to scores.
#
# </details>
#
# ## Where are 134 million parameters?

# %%
def counts(kind):
    shapes = kind.shapes(21, 1.0).items()
    return {name: int(np.prod(s)) for name, s in shapes if not name.startswith("upscore")}


for kind in FCN32s, FCN16s, FCN8s:
    print(f"{kind.__name__}: {sum(counts(kind).values()):,}")
assert sum(counts(FCN32s).values()) == 134_346_581

# %% [markdown]
# **Predict.** Which layer has most of them, and which has the largest output, for a photograph of 500x500?

# %% tags=["hide-output"]
layers = {}
for name, count in counts(FCN8s).items():
    layers[name.split(".")[0]] = layers.get(name.split(".")[0], 0) + count
sides = VGG.map_sizes(100, 0, 500)
sides["fc7"] = sides["fc6"]
channels = {conv.name: conv.channels for conv in VGG.convs} | {"fc6": 4096, "fc7": 4096}
channels |= {f"pool{k}": VGG.pool_channels(k, 1.0) for k in range(1, 6)}
memory = {name: 4 * channels[name] * side**2 / 1e6 for name, side in sides.items()}  # MB in float32
conv1 = (memory["conv1_1"] + memory["conv1_2"]) / sum(memory.values())
print(f"fc6 has {layers['fc6'] / sum(layers.values()):.0%} of the parameters")
print(f"conv1 has {conv1:.0%} of the activations' {sum(memory.values()):.0f} MB")
assert layers["fc6"] / sum(layers.values()) > 0.75

# %% tags=["hide-input", "hide-output"] alt="Parameters and activations of each layer: fc6 and fc7 hold nearly all parameters, the first convolutions most of the activations"
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4.6))
left.barh(list(layers), [count / 1e6 for count in layers.values()], color=BLUE)
right.barh(list(memory), list(memory.values()), color=ORANGE)
left.set(xlabel="parameters, millions", title="Parameters are at the end")
right.set(xlabel="MB, float32", title="... and activations at the start")
for axis in left, right:
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=9)
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# fc6's kernel of 7x7 from 512 to 4096 channels is three quarters of the network, applied at 16x16 places. conv1_1 has 1,792
# weights and biases, applied at 698x698 places, with padding by 100 on each side. The skips themselves cost next to nothing:
# 16,170.
#
# </details>
#
# Training needs each layer's input again on the way back, so all these maps are kept, once. A pooling keeps one byte for
# each output, and a ReLU nothing of its own. The gradients of the maps, in contrast, live only while they are passed on,
# as [Speed](10_speed.ipynb) measures.
#
# ## AlexNet instead of VGG16
#
# The paper's other networks have other trunks. AlexNet's fc6 is 6x6, an even kernel, so that its scores lie *on* pixels, and an
# odd upsampling kernel, 63, keeps them there. (The paper's FCN-AlexNet stands on CaffeNet, Caffe's version with two groups;
# `FCN32sAlexNet` stands on the later one with a single tower.)

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
# Write steps 1 to 6: given the scores of conv7, pool4 and pool3, return the sum at stride 8. With padding by 100 the crop
# offsets are 5 at pool4 and 9 at pool3, which means that unit 5 of pool4's scores lies where unit 0 of the upsampled ones does.
# Use `ops.upsample_bilinear_forward(x, 4, 2)[0]`.
#
# <details><summary>Hint 1</summary>
#
# Here the skip's map is the larger one. How many rows and columns of it are wanted, and from which row on?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Upsample the sum so far to `up`, cut `skip[:, :, offset : offset + height, offset : offset + width]` with the height and
# width of `up`, and add. Then the same again for the other skip.
#
# </details>

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
        np.tile(grid.start + grid.stride * np.arange(sides[name]), (1, 1, sides[name], 1))
        for grid, name in ((grid7, "fc6"), (grids[3], "pool4"), (grids[2], "pool3"))
    )
    fused = fuse(at7, at4, at3)
    up = grid7.upsample(4, 2).upsample(4, 2)
    place = up.start + up.stride * np.arange(fused.shape[3])
    inside = slice(6, -6)  # at the edges a bilinear upsampling fades out
    n = ((sides["fc6"] - 1) * 2 + 4 - 1) * 2 + 4
    assert fused.shape == (1, 1, n, n), f"shape {fused.shape}, expected {(1, 1, n, n)}"
    apart = fused[0, 0, inside, inside] - 3 * place[inside]
    assert abs(apart).max() < 1e-6, (
        f"the three do not lie on one another: together they are {apart[0, 0]:+.1f} pixels off."
        " Is a crop in the middle, or at the corner, instead of at its offset?"
    )

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
# The same lines serve both skips. Cutting the larger map in its middle, or from its corner, would give the right shape, too,
# and shift it by pixels.
#
# </details>

# %% [markdown]
# ### Exercise 2: addition, backward
#
# The forward pass was `y = skip[:, :, o : o + h, o : o + w] + up`, with `up` (N, C, h, w). Write its backward pass.
#
# <details><summary>Hint 1</summary>
#
# What does dy mean for a unit of `skip` that was cut away?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `dup` is dy. For `dskip`, begin with zeros of the skip's shape, and put dy where the crop was.
#
# </details>

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
    whole = np.zeros_like(skip)
    whole[:, :, 2:6, 2:7] = up
    expect(dup, up, "dup", **{"the number of inputs": 2})
    expect(dskip, whole, "dskip", **{"the number of inputs": 2})
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
# For the next exercise, here is the forward pass of an FCN-16s's head, from the scores of conv7 and pool4 to the image.

# %% tags=["setup"]
def head_forward(coarse, skip):
    """Scores of an image of 20x24 from those of conv7 (N, C, 7, 7) and pool4 (N, C, 26, 26)."""
    up, up_cache = ops.upsample_bilinear_forward(coarse, 4, 2)
    height, width = up.shape[2:]
    total = up + skip[:, :, 5 : 5 + height, 5 : 5 + width]  # padding by 100: crops 5 and 27
    window = slice(27, 47), slice(27, 51)
    y, last_cache = ops.upsample_bilinear_forward(total, 32, 16, window)
    return y, (up_cache, last_cache, skip.shape)

# %% [markdown]
# ### Exercise 3: the head of an FCN-16s, backward
#
# Write `head_backward(dy, cache)`, the backward pass of `head_forward`, which returns `(dcoarse, dskip)`.
#
# <details><summary>Hint 1</summary>
#
# Read `head_forward` from its last line to its first. Which of its lines needs which part of the cache?
#
# </details>
# <details><summary>Hint 2</summary>
#
# First `ops.upsample_bilinear_backward(dy, last_cache)`. What comes out goes two ways: into zeros of the skip's shape, from 5
# on, and through the other upsampling.
#
# </details>

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
    assert dcoarse.shape == coarse.shape, f"dcoarse: {dcoarse.shape}, expected {coarse.shape}"
    assert dskip.shape == skip.shape, f"dskip: {dskip.shape}, expected {skip.shape}"
    assert not dskip[:, :, :5].any(), (
        "dskip has a gradient in rows that were cut away: where does the crop begin?"
    )
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
# How many weights and biases does FCN-8s have at full width, for any number of classes? Upsampling layers are fixed and count
# for nothing. The 13 convolutions are 3x3, with 64, 64, 128, 128, 256 (3 times) and 512 (6 times) channels. fc6 sees 7x7
# units of 512 channels, fc7 one of 4096, and a 1x1 convolution scores each of conv7, pool4 and pool3. All layers have biases.
#
# <details><summary>Hint 1</summary>
#
# A convolution from $a$ to $b$ channels has $k^2 a b$ weights and $b$ biases. What is $a$ for the first one?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Put a 3 in front of the list of channels and walk over its pairs of neighbours; then add fc6, fc7, and for each of 4096, 512
# and 256 channels a score layer.
#
# </details>

# %% tags=["exercise"]
def count_parameters(classes):
    """The number of weights and biases of FCN-8s."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    for classes in (1, 2, 21, 150):
        shapes = FCN8s.shapes(classes, 1.0).items()
        right = {name: int(np.prod(s)) for name, s in shapes if not name.startswith("upscore")}
        biases = sum(n for name, n in right.items() if name.endswith("bias"))
        more = count_parameters(classes) - sum(right.values())
        cause = ": where are the biases?" if more == -biases else ""
        assert more == 0, f"for {classes} classes you are {more:+,} off{cause}"

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
#
# <details><summary>Hint 1</summary>
#
# $\Delta y = -\eta\, |a|^2\, dy$, and with a constant $c$ in front of the score layer its input is $c\,a$.
#
# </details>
# <details><summary>Hint 2</summary>
#
# All three moves are equal if $(c\,a)^2$ is the same for all three. The square is on both sides.
#
# </details>

# %% tags=["exercise"]
def balancing_scales(conv7, pool4, pool3):
    """(1.0, scale of pool4, scale of pool3), to multiply the features with before the scores."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    generator = np.random.default_rng(3)
    rms, moved = np.array([2.0, 150.0, 7000.0]), []
    scales = np.array(balancing_scales(*rms))
    for factor in scales * rms:
        a = generator.normal(size=(1, 64, 1, 1))
        a *= factor / (a**2).mean() ** 0.5
        _, cache = ops.conv2d_forward(a, np.zeros((1, 64, 1, 1)))
        _, dw, _ = ops.conv2d_backward(np.ones((1, 1, 1, 1)), cache)
        moved.append(abs(ops.conv2d_forward(a, -dw)[0]).item())
    factors = np.array(moved) / 256
    twice = np.allclose(np.sqrt(scales) * rms, 2)
    assert np.allclose(factors, 1), (
        f"a step moves the scores of conv7, pool4, pool3 by {factors} times what it should"
        + (": squared twice?" if twice else "")
    )

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
# ### Exercise 6: your own FCN-8s
#
# This is what the seven notebooks were for. Write an FCN-8s with padding "same" from your own operations, in NumPy alone: one
# function that takes all weights and biases by name, images, and labels, and returns the mean loss and all gradients by name.
# You have written most of it by now: the convolution in notebook 2, pooling in 3, upsampling as $U x U^T$ in 5, the loss in 6.
#
# The check compares the loss, then each gradient with the package's, beginning at the loss and going down, so that its first
# complaint is nearest to your mistake. Then it trains both for ten steps, and the two curves must be one. If you would rather
# go step by step, use operations of `ops` at first, and replace them one at a time. Give yourself an afternoon.
#
# <details><summary>Hint 1</summary>
#
# Let each of your operations return its output and a function that goes the way back: `y, back = conv(x, weight, bias, pad)`,
# and `dx, dweight, dbias = back(dy)`. Keep these functions as you go forward, call them in the opposite order, and remember
# that pool4 and pool3 are used twice.
#
# </details>
# <details><summary>Hint 2</summary>
#
# conv1_1 to conv5_3 have padding 1, fc6 has 3, all others 0; ReLU follows all but the score layers. Pooling is 2x2 in ceil
# mode: fill up a row or column of $-\infty$ where a side is odd. The upsampled maps are cut by 1, 1 and 4, which with $U x U^T$
# means: leave rows of $U$ away. A bilinear $U$ of stride $s$ has $1 - |t - s + 0.5| / s$ in column $j$, row $s j + t$, for
# $t$ from 0 to $2 s - 1$. The loss is the mean over pixels whose label is not 255.
#
# </details>

# %% tags=["exercise"]
def own_fcn8s(params, x, labels):
    """(mean loss, gradients by name) of an FCN-8s with padding "same", for x (N, 3, H, W)."""
    raise NotImplementedError

# %% tags=["check"]
with attempt():
    generator = np.random.default_rng(4)
    twin = FCN8s(3, width=1 / 64, padding="same", dropout=0, dtype=np.float64)
    for p in twin.params.values():
        p += 0.1 * generator.standard_normal(p.shape)
    mine = {name: p.copy() for name, p in twin.params.items()}
    x, t = generator.normal(size=(2, 3, 40, 52)), generator.choice([0, 1, 2, 255], (2, 40, 52))

    def package(x, t):
        loss, cache = ops.softmax_cross_entropy_forward(twin.forward(x, training=True), t)
        twin.backward(ops.softmax_cross_entropy_backward(1.0, cache))
        return loss, twin.grads

    loss, grads = own_fcn8s(mine, x, t)
    right_loss, right = package(x, t)
    causes = {"the share of pixels that count": (t != 255).mean(), "the batch's size": 2}
    expect(loss, right_loss, "the loss", **causes)
    missing = [name for name in right if name not in grads]
    assert not missing, f"no gradient of {', '.join(missing[:3])}"
    for name in reversed(twin.params):  # from the loss down
        twice = {"conv4_3": " (pool4 is used twice)", "conv3_3": " (pool3 is used twice)"}
        what = f"the gradient of {name}{twice.get(name.split('.')[0], '')}"
        expect(grads[name], right[name], what, **causes)
    curves = [], []
    for _ in range(10):
        steps = own_fcn8s(mine, x, t), package(x, t)
        for curve, weights, (loss, grads) in zip(curves, (mine, twin.params), steps):
            curve.append(loss)
            for name, gradient in grads.items():
                weights[name] -= 0.02 * gradient
    assert np.allclose(*curves, rtol=1e-9), f"the curves part: {curves[0]} and {curves[1]}"
    print(f"all {len(right)} gradients agree, and ten losses, from {loss:.3f} on")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# from numpy.lib.stride_tricks import sliding_window_view
#
#
# def conv(x, weight, bias, pad):
#     k, (height, width) = weight.shape[2], x.shape[2:]
#     x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
#     windows = sliding_window_view(x, (k, k), axis=(2, 3))  # (N, C_in, h, w, k, k)
#     y = np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True) + bias[:, None, None]
#
#     def back(dy):
#         dweight = np.einsum("nohw,nchwij->ocij", dy, windows, optimize=True)
#         wide = np.pad(dy, ((0, 0), (0, 0), (k - 1, k - 1), (k - 1, k - 1)))
#         windows_of_dy = sliding_window_view(wide, (k, k), axis=(2, 3))
#         turned = weight[:, :, ::-1, ::-1]
#         dx = np.einsum("nohwij,ocij->nchw", windows_of_dy, turned, optimize=True)
#         return dx[:, :, pad : pad + height, pad : pad + width], dweight, dy.sum(axis=(0, 2, 3))
#
#     return y, back
#
#
# def pool(x):
#     n, c, height, width = x.shape
#     fill = ((0, 0), (0, 0), (0, height % 2), (0, width % 2))
#     x = np.pad(x, fill, constant_values=-np.inf)
#     h, w = x.shape[2] // 2, x.shape[3] // 2
#     four = x.reshape(n, c, h, 2, w, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h, w, 4)
#     winner = np.arange(4) == four.argmax(axis=-1)[..., None]
#
#     def back(dy):
#         d = (winner * dy[..., None]).reshape(n, c, h, w, 2, 2).transpose(0, 1, 2, 4, 3, 5)
#         return d.reshape(x.shape)[:, :, :height, :width]
#
#     return four.max(axis=-1), back
#
#
# def upsample(x, stride, crop, size):
#     def matrix(inputs, outputs):
#         u, t = np.zeros((stride * (inputs + 1), inputs)), np.arange(2 * stride)
#         for j in range(inputs):
#             u[stride * j + t, j] = 1 - abs(t - stride + 0.5) / stride
#         return u[crop : crop + outputs]
#
#     u, v = (matrix(*sides) for sides in zip(x.shape[2:], size))
#     return u @ x @ v.T, lambda dy: u.T @ dy @ v
#
#
# def cross_entropy(scores, labels):
#     s = scores - scores.max(axis=1, keepdims=True)
#     log_p = s - np.log(np.exp(s).sum(axis=1, keepdims=True))
#     truth = labels[:, None] == np.arange(scores.shape[1])[:, None, None]
#     counted = labels[:, None] != 255
#     return -log_p[truth].sum() / counted.sum(), (np.exp(log_p) - truth) * counted / counted.sum()
#
#
# def own_fcn8s(params, x, labels):
#     grads, image_size = {}, x.shape[2:]
#
#     def layer(name, x, pad=0, relu=True):
#         weight, bias = f"{name}.weight", f"{name}.bias"
#         y, conv_back = conv(x, params[weight], params[bias], pad)
#
#         def back(dy):
#             dx, grads[weight], grads[bias] = conv_back(dy * (y > 0) if relu else dy)
#             return dx
#
#         return (np.maximum(y, 0) if relu else y), back
#
#     ways_back, pools = {}, {}
#     for block, convs in enumerate((2, 2, 3, 3, 3), start=1):
#         ways_back[block] = []
#         for k in range(1, convs + 1):
#             x, back = layer(f"conv{block}_{k}", x, pad=1)
#             ways_back[block].append(back)
#         x, back = pool(x)
#         ways_back[block].append(back)
#         pools[block] = x
#     x, back6 = layer("fc6", x, pad=3)
#     x, back7 = layer("fc7", x)
#     total, back_fr = layer("score_fr", x, relu=False)
#     back_skip, back_up = {}, {}
#     for block in 4, 3:
#         skip, back_skip[block] = layer(f"score_pool{block}", pools[block], relu=False)
#         up, back_up[block] = upsample(total, 2, 1, skip.shape[2:])
#         total = skip + up
#     scores, back_last = upsample(total, 8, 4, image_size)
#     loss, dscores = cross_entropy(scores, labels)
#
#     d, dpools = back_last(dscores), {}
#     for block in 3, 4:
#         dpools[block] = back_skip[block](d)
#         d = back_up[block](d)
#     d = back6(back7(back_fr(d)))
#     for block in 5, 4, 3, 2, 1:
#         d = d + dpools.get(block, 0)
#         for back in reversed(ways_back[block]):
#             d = back(d)
#     return loss, grads
# ```
#
# A hundred lines, and each of them derived in these notebooks. The package's network computes the same; it is longer because it
# is fast, serves several kinds of networks, and tells you what is wrong with what you gave it.
#
# </details>

# %% [markdown]
# Next: [VGG16's weights](08_weights.ipynb) fills this network with what ImageNet has taught it.
