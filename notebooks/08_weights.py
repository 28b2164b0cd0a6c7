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
# # 8. VGG16's weights
#
# You will be able to
#
# - read a `.safetensors` file with six lines of your own, and say why a `.pth` file must not be
#   unpickled,
# - turn fully connected layers into convolutions, and Keras's order of axes into PyTorch's, every bit
#   kept,
# - convert a published VGG16 and start an FCN from it, knowing which of its parameters are new,
# - say what wrong preprocessing does to a score, how it looks, and how a file can rule it out.
#
# Takes about 45 minutes. Builds on [Fully connected layers](04_fully_connected.ipynb) and
# [The network](07_fcn.ipynb).
#
# If you have a VGG16, such as torchvision's `vgg16-397923af.pth`, put its path here and run all cells
# again. Without one, the notebook makes a small VGG16 of random numbers that is named and shaped like a
# published one; every cell works for both.

# %% tags=["setup"]
PATH = None  # the path of a VGG16: .pth, .safetensors, .npz, .h5 or .caffemodel

# %% tags=["setup"]
import os

os.environ["TQDM_DISABLE"] = "1"  # no progress bars on these pages

import json
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import safetensors.numpy
from lesson import BLACK, BLUE, COLOURS, GREEN, ORANGE, RED, attempt, show_source

from tinyfcn import ops, weights
from tinyfcn.convert import convert, schemes
from tinyfcn.convert.identify import identify
from tinyfcn.data import IGNORE, PREPROCESSING, Shapes, normalise
from tinyfcn.data.loader import make_batch
from tinyfcn.errors import InputError
from tinyfcn.formats import open_weights, unpickle
from tinyfcn.inference import evaluate, load_network, predict
from tinyfcn.models import VGG16, FCN8s, FCN32s
from tinyfcn.run import Config
from tinyfcn.training import build_optimiser, train_step

TEMPORARY = TemporaryDirectory()  # where this notebook writes
FOLDER = Path(TEMPORARY.name)

# %% tags=["setup"]
def message(call):
    """Print the error that a call ends in."""
    try:
        call()
    except InputError as error:
        print(str(error).replace(f"{FOLDER}{os.sep}", ""), end="\n\n")
    else:
        raise AssertionError("this should have been refused")


# %% [markdown]
# ## A stand-in
#
# torchvision numbers VGG16's layers as they follow each other, ReLUs and poolings included: the second
# convolution is `features.2`. The three fully connected layers, fc6, fc7 and fc8, are `classifier.0`,
# `.3` and `.6`. The first three biases of the first layer are those of the real file: we come to that.

# %%
PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
NAMES = [*(f"features.{k}" for k in PLACES), "classifier.0", "classifier.3", "classifier.6"]


def stand_in(width=1 / 8, classes=10):
    """A VGG16 of random numbers under torchvision's names, its fully connected weights flat."""
    rng, tensors = np.random.default_rng(0), {}
    shapes = VGG16.shapes(classes, width)
    layers = [name.removesuffix(".weight") for name in shapes if name.endswith(".weight")]
    for layer, name in zip(layers, NAMES, strict=True):
        shape = shapes[f"{layer}.weight"]
        weight = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        tensors[f"{name}.weight"] = weight.reshape(len(weight), -1) if layer.startswith("fc") else weight
        tensors[f"{name}.bias"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)
    tensors["features.0.bias"][:3] = 0.4034, 0.3778, 0.4644
    return tensors


small = FOLDER / "stand_in.safetensors"
safetensors.numpy.save_file(stand_in(), small)
source = Path(PATH) if PATH else small
print(f"{source.name}: {source.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# ## What is in a file of weights?
#
# Names, shapes, and a great many numbers. In `.safetensors` it is hardly more than that: eight bytes say
# how long the header is, the header is JSON, and behind it the numbers lie one after the other.
# `data_offsets` count from the header's end.

# %%
with small.open("rb") as file:
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    begin, end = header["features.0.bias"]["data_offsets"]
    file.seek(8 + length + begin)
    bias = np.frombuffer(file.read(end - begin), "<f4")

print(json.dumps(header["features.0.weight"]), bias)
assert np.array_equal(bias, safetensors.numpy.load_file(small)["features.0.bias"])

# %% [markdown]
# Six lines, and no special library. There is nothing in the file that could be executed. `open_weights`
# lists the tensors of any kind of file that it knows, and reads one only when it is asked for:

# %%
content = open_weights(source)
print(f"a {content.container} file of {len(content.tensors)} tensors")
for name, tensor in list(content.tensors.items())[:4] + list(content.tensors.items())[-6:]:
    print(f"  {name:20} {tensor.dtype} {tensor.shape}")

# %% [markdown]
# **Predict.** Thirteen convolutions, three fully connected layers. Where are most of the numbers?

# %%
found = identify(source)
sizes = {
    name.removesuffix(".weight"): np.prod(tensor.shape)
    for name, tensor in found.tensors.items()
    if name.endswith(".weight")
}
figure, axis = plt.subplots()
colours = [ORANGE if name.startswith("fc") else BLUE for name in sizes]
axis.bar(sizes.keys(), np.array(list(sizes.values())) / 1e6, color=colours)
axis.set(ylabel="million weights", title="Three quarters of the weights are in fc6, one of 16 layers")
axis.tick_params(axis="x", rotation=60)
assert 0.7 < sizes["fc6"] / sum(sizes.values()) < 0.8

# %% [markdown]
# fc6 has a weight for every unit of pool5 and every one of its own: $512 \cdot 7 \cdot 7 \cdot 4096$,
# 103 of VGG16's 138 million. (In the stand-in, all channels are an eighth of VGG16's, and there are ten
# classes instead of a thousand.)
#
# ## Why must a .pth file not be unpickled?
#
# PyTorch's files are a zip archive (before PyTorch 1.6: the same parts one behind the other). In it are
# the numbers, a file for each tensor, and `data.pkl`, a *pickle*, which says how to put them together. A
# pickle is not a table, it is a program: instructions for a small stack machine, one of which is "call
# this function".
#
# A class says in `__reduce__` how its objects are to be made again: a function, and its arguments.
#
# **Predict.** What does Python print when it loads these bytes?

# %%
class Innocent:
    def __reduce__(self):
        return print, ("This ran while the file was being read.",)


data = pickle.dumps({"features.0.weight": Innocent()}, protocol=2)
pickle.loads(data);

# %% [markdown]
# The function was `print`. It could have been `os.system`. Whoever writes the file chooses. Here is the
# program; `GLOBAL` names the function (`__builtin__` is what Python 2 called `builtins`) and `REDUCE`
# calls it:

# %%
pickletools.dis(pickletools.optimize(data))  # without the instructions that nothing needs

# %% [markdown]
# The same bytes as a `.pth` file, in front of this package's reader:

# %%
hostile = FOLDER / "hostile.pth"
with zipfile.ZipFile(hostile, "w") as archive:
    archive.writestr("model/data.pkl", data)
message(lambda: open_weights(hostile))

# %% [markdown]
# The refusal is all that was printed: nothing ran. The reader walks through the instructions itself and
# knows only those that a dict of tensors needs. A name stays a name. Only these can be "called", and
# what runs then is not PyTorch's or NumPy's function but a few lines of the reader's own, which write
# down what is wanted:

# %%
print(*unpickle.CALLS, sep="\n")
dangerous = "builtins", "__builtin__", "os", "posix", "subprocess"
assert not any(name.startswith(dangerous) for name in unpickle.CALLS)

# %% [markdown]
# A real file has nothing else in it. One tensor of it, written by hand, instruction by instruction (no
# PyTorch needed for that either):
#
# | instruction | what it does |
# |---|---|
# | `X`, `J`, `\x89` | push a text, a whole number, `False` |
# | `(` ... `t` | make a tuple of what was pushed in between |
# | `}`, `s` | push an empty dict; put a name and a value into it |
# | `c` | push a function, by its name |
# | `R` | call a function with a tuple of arguments |
# | `Q` | look up something outside of the pickle: here, the file `0` of the archive |
# | `.` | stop |

# %%
def text(s):
    return b"X" + struct.pack("<I", len(s)) + s.encode()


def whole(n):
    return b"J" + struct.pack("<i", n)


# the file "0" holds 6 float32
storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + whole(6) + b"tQ"
shape, strides = b"(" + whole(2) + whole(3) + b"t", b"(" + whole(3) + whole(1) + b"t"
hooks = b"ccollections\nOrderedDict\n)R"  # OrderedDict(): none; `)` is the empty tuple
# _rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)
rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
tensor = rebuild + b"(" + storage + whole(0) + shape + strides + b"\x89" + hooks + b"tR"
program = b"\x80\x02" + b"}" + text("some.weight") + tensor + b"s."  # protocol 2: a dict of one tensor

by_hand = FOLDER / "by_hand.pth"
with zipfile.ZipFile(by_hand, "w") as archive:
    archive.writestr("model/data.pkl", program)
    archive.writestr("model/data/0", np.arange(6, dtype="<f4").tobytes())
tensors = open_weights(by_hand).tensors
print(tensors["some.weight"].read())
assert np.array_equal(tensors["some.weight"].read(), [[0, 1, 2], [3, 4, 5]])

# %% [markdown]
# ## Whose network is it?
#
# File names say nothing: `identify` goes by what is inside. For each publisher the package has a table
# of what its layers are called. (Keras has had two ways of naming them; `None`: these names leave open
# how images are to be prepared, and we come to that.)

# %%
print(found.title, found.description.to_metadata(), sep="\n", end="\n\n")
print(f"{'publisher':12} {'conv1_1':14} {'conv1_2':14} {'fc6':16} images prepared as for")
for scheme in schemes.SCHEMES:
    if scheme.model == "VGG16":
        first, second, *_ = scheme.convs
        fc6, *_ = scheme.fully_connected
        print(f"{scheme.publisher:12} {first:14} {second:14} {fc6:16} {scheme.preprocessing}")

# %% [markdown]
# All 13 convolutions must be there, in their order, and every shape must fit. Their names may be longer,
# as in `module.features.0`; another head is left out, and listed. How wide the network is and how many
# classes it has follows from the biases. `convert` then writes the file anew, in this package's names
# (compare fc6 with `classifier.0` above):

# %%
converted = FOLDER / "vgg16.safetensors"
convert(source, converted, preprocessing=None if found.description.preprocessing else "torchvision")
for name, tensor in open_weights(converted).tensors.items():
    if name.startswith(("conv1", "fc")):
        print(f"{name:16} {tensor.dtype} {tensor.shape}")

# %% [markdown]
# ## Are fully connected layers really convolutions?
#
# fc6's weight changed its shape, and nothing else: row $o$ of $(4096,\ 25088)$ is the kernel of output
# channel $o$, $(512, 7, 7)$. On a map of 7x7 units the kernel fits in one place, and the convolution
# there is the same dot product of 25088 weights and 25088 units. So it is not an approximation.
#
# **Predict.** How much do the classifier's scores and those of its convolutions differ, and why not by
# exactly 0?

# %%
tensors, description = weights.read(converted)
classifier = VGG16(description.num_classes, description.width)
print(classifier.load(converted))
x = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
flat, convolved = classifier.forward(x)[0], classifier.score_map(x)[0, :, 0, 0]
print(f"scores up to {abs(flat).max():.2f}, difference {abs(flat - convolved).max():.1e}")
assert np.allclose(flat, convolved, rtol=1e-4, atol=1e-5 * abs(flat).max())
same = found.tensors["fc6.weight"].read()  # as it stood in the file: the same bits, in the same order
assert np.array_equal(classifier.params["fc6.weight"].ravel(), same.ravel())

# %% [markdown]
# The same numbers are added in another order, and rounding depends on the order. What is gained: the
# convolution also runs on larger images, and gives a map of scores (section 3.1 of the paper).
#
# **Predict.** How large is the map for an image of 288x352 pixels? (Five poolings, then a kernel of
# 7x7.)

# %%
print(classifier.score_map(np.zeros((1, 3, 288, 352), np.float32)).shape)

# %% [markdown]
# pool5 has 9x11 units there, and a kernel of 7x7 fits on them in 3x5 places.
#
# ## And from Keras?
#
# Keras keeps kernels as $(k_h, k_w, C_{in}, C_{out})$, and flattens a map pixel by pixel, all channels
# of a pixel together: unit $(h, w, c)$ comes at place $(7h + w)\,C + c$, where PyTorch has it at
# $49c + 7h + w$. Whoever only transposes fc6 gets a file in which every shape is right.
#
# Below, fc6 is turned into Keras's order and back, the right way and the wrong one, and both see eight
# maps of random numbers.
#
# **Predict.** How do the outputs of the wrong one lie to the right ones: scaled, shifted, or without
# relation?

# %%
weight = tensors["fc6.weight"][:64].reshape(64, -1, 7, 7)  # the first 64 units
keras = weight.transpose(2, 3, 1, 0).reshape(-1, 64)  # as Keras would keep it: (49 C_in, C_out)
right = keras.reshape(7, 7, -1, 64).transpose(3, 2, 0, 1)
wrong = keras.T.reshape(weight.shape)
assert np.array_equal(right, weight) and wrong.shape == weight.shape and not np.allclose(wrong, weight)

# eight maps, flattened; negative numbers become 0, as after a ReLU
pools = np.maximum(np.random.default_rng(0).normal(size=(8, weight[0].size)), 0)
outputs = pools @ weight.reshape(64, -1).T
figure, axes = plt.subplots(1, 2, figsize=(8, 2.9), sharey=True)
titles = "reshaped, then transposed", "only transposed"
for axis, kernel, title in zip(axes, (right, wrong), titles, strict=True):
    axis.plot(outputs.ravel(), (pools @ kernel.reshape(64, -1).T).ravel(), ".", ms=4)
    axis.set(xlabel="fc6 as it should be", title=title)
axes[0].set_ylabel("fc6 from Keras's file")
correlation = np.corrcoef(outputs.ravel(), (pools @ wrong.reshape(64, -1).T).ravel())[0, 1]
print(f"correlation of the wrong ones with the right ones: {correlation:.2f}")
assert correlation < 0.5

# %% [markdown]
# Almost without relation: each weight meets a unit that it was not made for. What is left of a relation:
# units are never negative, so that each output also follows the sum of its row's weights, the same in both.
#
# ## What did it learn?
#
# The first layer's filters are the only ones that can be shown as pictures: their three input channels
# are red, green and blue.

# %%
if PATH:
    filters = tensors["conv1_1.weight"]
    rgb = PREPROCESSING[description.preprocessing].channels == "RGB"
    picture = (filters if rgb else filters[:, ::-1]).transpose(0, 2, 3, 1)
    limit = abs(picture).max(axis=(1, 2, 3), keepdims=True)
    figure, axes = plt.subplots(4, 16, figsize=(8, 2.7))
    for axis, kernel in zip(axes.ravel(), 0.5 + 0.5 * picture / limit, strict=True):
        axis.imshow(kernel)
        axis.set_axis_off()
    figure.suptitle("conv1_1's 64 filters, 3x3 pixels each")

# %% [markdown]
# With a trained file in `PATH` you see edges, spots, and pairs of opponent colours. The stand-in has nothing to show but noise,
# and so this page shows nothing. If all filters of a file that should be trained look like noise, it was not trained, or its
# axes are in another order.
#
# ## What if it is another network?
#
# A file that does not fit must not half fit. Each of these is the stand-in with one thing changed:

# %%
CHANGES = {
    "one tensor missing": lambda t: t.pop("features.17.weight"),
    "a bias missing": lambda t: t.pop("features.17.bias"),
    "one more convolution in each of three blocks": lambda t: t.update(
        {f"features.{k}b.weight": t[f"features.{k}.weight"] for k in (14, 21, 28)}
    ),
    "batch normalisation": lambda t: t.update({"features.1.running_mean": np.zeros(8, np.float32)}),
    "one layer of another width": lambda t: t.update({"features.2.weight": np.zeros((9, 8, 3, 3), np.float32)}),
    "whole numbers": lambda t: t.update({"features.2.weight": t["features.2.weight"].astype(np.int32)}),
    "not a number": lambda t: t.update({"classifier.0.weight": t["classifier.0.weight"] * np.nan}),
}
for what, change in CHANGES.items():
    changed = stand_in()
    change(changed)
    path = FOLDER / "changed.safetensors"
    safetensors.numpy.save_file(changed, path)
    print(what.upper())
    message(lambda: convert(path, FOLDER / "out.safetensors"))
assert not (FOLDER / "out.safetensors").exists()

# %% [markdown]
# One line each, with the network that it is, or the tensor that does not fit. (A file that lacks a
# convolution's weight has no row of 13 any more, and is not recognised at all.) And no half-written file
# is left behind.
#
# ## Which parameters of an FCN are new?
#
# A network loads strictly: every one of its tensors must be in the file. FCN-32s has a layer that no classifier
# has, so it says no,

# %%
net = FCN32s(num_classes=21, width=description.width)
message(lambda: net.load(converted))

# %% [markdown]
# and with `partial=True` it says what it did:

# %%
report = net.load(converted, partial=True)
print(report)
assert report.kept == ["score_fr.weight", "score_fr.bias"]
assert report.unexpected == ["fc8.weight", "fc8.bias"]
new = sum(net.params[name].size for name in report.kept)
print(f"{new:,} of {sum(p.size for p in net.params.values()):,} parameters are new")
assert not net.params["score_fr.weight"].any() and not net.params["score_fr.bias"].any()

# %% [markdown]
# `score_fr` takes the place of fc8. It begins at zero (as in section 4.3 of the paper); everything else
# is VGG16's. With 21 classes and the full width, $21 \cdot 4096 + 21 = 86{,}037$ of 134 million
# parameters are new.
#
# Partial loading still checks shapes, of all layers but the score layers, which were made for other
# classes. A file of another width is refused:

# %%
message(lambda: FCN32s(21, description.width / 2).load(converted, partial=True))

# %% [markdown]
# ## RGB or BGR, 0 to 1 or 0 to 255?
#
# Weights are made for images that were prepared in one way. For VGG16 three ways are in use, and the
# numbers in a file do not show which.

# %%
show_source(normalise)
for name, (channels, scale, mean, std) in PREPROCESSING.items():
    print(f"{name:12} {channels}, pixel * {scale:.4g}, minus {mean}, over {std}")

# %%
image, label = Shapes("val")[14]
figure, axes = plt.subplots(1, 4, figsize=(8, 2.9), width_ratios=[1, 1.4, 1.4, 1.4])
axes[0].imshow(image)
axes[0].set_axis_off()
for axis, (name, how) in zip(axes[1:], PREPROCESSING.items(), strict=True):
    for channel, letter in enumerate(how.channels):
        values = normalise(image[None], name)[0, channel].ravel()
        colour = {"R": RED, "G": GREEN, "B": BLUE}[letter]
        axis.hist(values, 30, histtype="step", color=colour, label=f"channel {channel}: {letter}")
    axis.set(title=name, yticks=[], xlabel="value")
    axis.legend(frameon=False, fontsize=9, loc="upper right", handlelength=1)
    axis.set_ylim(0, 1.7 * axis.get_ylim()[1])
axes[1].set_ylabel("number of pixels")
figure.suptitle("The same picture as three networks want it: other values, other order of channels")
means = np.array([PREPROCESSING[name].mean for name in ("caffe", "vgg")])
assert abs(means[0] - means[1]).max() < 1.01

# %% [markdown]
# Look at the values: about -2 to 2.6 for torchvision, about -120 to 150 for the others. `caffe` and
# `vgg` are the same up to one grey level.
#
# ## What does wrong preprocessing do?
#
# We train a small FCN-8s on the generated shapes, its images prepared as torchvision does. The shapes'
# colours are random; photographs are not like that (grass is green), so each class gets a tint of its
# own. Then we show the net held-out pictures that are wrongly prepared. No error is raised: it is an
# array of the right shape every time.
#
# **Predict.** Which costs most: the wrong order of channels, 0-255 instead of 0-1, or forgotten mean and
# std?

# %%
TINTS = np.array(  # of background, disc, square, triangle, ring, cross, star
    [(0, 0, 0), (255, 0, 0), (0, 160, 0), (0, 0, 255), (255, 200, 0), (0, 200, 255), (200, 0, 200)], np.float32
)


class Tinted:
    """Pictures whose objects lean towards their class's colour."""

    def __init__(self, shapes):
        self.shapes = shapes

    def __len__(self):
        return len(self.shapes)

    def __getitem__(self, index):
        image, label = self.shapes[index]
        tint = TINTS[np.where(label == IGNORE, 0, label)]
        mixed = 0.4 * image + 0.6 * tint
        inside = ((label > 0) & (label < IGNORE))[..., None]
        return np.where(inside, mixed, image).astype(np.uint8), label


dataset, held_out = Tinted(Shapes("train")), Tinted(Shapes("val", length=32))
config = Config(model="fcn8s", width=1 / 16, size=(72, 72), steps=1400, lr=3e-3)
trained, optimiser = FCN8s(7, config.width, "same", dropout=0.0), build_optimiser(config)
for step in range(config.steps):
    pixels, labels = make_batch(dataset, config, step)
    x = normalise(pixels, "torchvision")
    train_step(trained, optimiser, x, labels, lr_factor=1 - step / config.steps)

# %%
mean, std = (np.array(values, np.float32)[:, None, None] for values in PREPROCESSING["torchvision"][2:])


def prepare(pixels, how):
    """Images (N, H, W, 3) uint8 as the network wants them, or with one mistake."""
    rgb = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    match how:
        case "right":
            return (rgb / 255 - mean) / std
        case "BGR":
            return (rgb[:, ::-1] / 255 - mean) / std
        case "no mean, no std":
            return rgb / 255
        case "as for caffe":
            return normalise(pixels, "caffe")
        case "0 to 255":
            return (rgb - mean) / std


scores, pictures = {}, {}
for how in ("right", "BGR", "no mean, no std", "as for caffe", "0 to 255"):
    matrix = evaluate(trained, [])
    for k in range(len(held_out)):
        image, label = held_out[k]
        prediction = trained.predict(prepare(image[None], how))
        matrix.update(label[None], prediction)
        if k == 14:
            pictures[how] = prediction[0]
    scores[how] = matrix.mean_iou
baseline = matrix.constant_baseline().mean_iou
assert np.allclose(prepare(image[None], "right"), normalise(image[None], "torchvision"), atol=1e-5)

# %%
palette = plt.matplotlib.colors.to_rgba_array(["0.92", *COLOURS[:6]])
image, label = held_out[14]
rows = [["bars"] * 6, ["image", *pictures]]
figure, axes = plt.subplot_mosaic(rows, figsize=(8, 4.4), height_ratios=[1.4, 1])
bars = axes["bars"].bar(scores.keys(), scores.values(), color=[BLUE] + [ORANGE] * 4)
axes["bars"].bar_label(bars, fmt="%.2f")
axes["bars"].axhline(baseline, color=BLACK, lw=1, ls=":", label="background everywhere")
title = "The same weights, the same pictures, prepared in five ways (colours below: classes)"
axes["bars"].set(ylabel="mean IU", ylim=(0, 1), title=title)
axes["bars"].legend(frameon=False)
axes["image"].imshow(image)
for how, prediction in pictures.items():
    axes[how].imshow(palette[prediction])
for name in rows[1]:
    axes[name].set_title(name, size=9)
    axes[name].set_axis_off()
blue = (label == 3) & (pictures["right"] == 3)  # the triangle's pixels, in class 3
print(f"of the triangle's pixels, {np.mean(pictures['BGR'][blue] == 1):.0%} become a disc in BGR")
assert scores["right"] > scores["BGR"] and scores["right"] > scores["0 to 255"] + 0.1

# %% [markdown]
# With another order of channels the outlines stay and the classes change places: the triangle, whose
# tint is blue, is taken for a disc, whose tint is red. Without mean and std all values lie between 0 and
# 1: to this net a bright picture with a quarter of the contrast, on which it sees background alone. On 0
# to 255 the contrast is 255 times too high, and what comes out is spots; for Caffe it is 58 times, and
# BGR as well.
#
# Those are seen at once. Less than that is the dangerous kind: users of an object detector whose VGG16
# came from PyTorch and whose pictures were prepared otherwise report about five points less mean average
# precision on VOC ([one](https://github.com/jwyang/faster-rcnn.pytorch/issues/2),
# [another](https://github.com/jwyang/faster-rcnn.pytorch/issues/636)). That spoils a result and is not
# noticed.
#
# ## How can a file rule it out?
#
# By saying what it wants. Files of this package carry a description, and a network that is loaded takes
# over the preprocessing with the parameters. Training, evaluation and prediction all ask the network,
# and nobody else:

# %%
own = FOLDER / "shapes.safetensors"
trained.preprocessing = "torchvision"
trained.save(own, classes=Shapes.classes)
print(weights.read_description(own).to_metadata())
loaded, _ = load_network(own, "cpu")
assert loaded.preprocessing == "torchvision" and np.array_equal(predict(loaded, image), pictures["right"])
show_source(predict)

# %% [markdown]
# For files of others, there are three cases. Some names belong to one publisher only (Keras, Caffe,
# timm), and that settles it. torchvision's names are also those of copies of Caffe's weights for
# PyTorch. The first biases tell the two apart, because they are known:

# %%
print(schemes.FINGERPRINTS)
print("our stand-in's first biases:", stand_in()["features.0.bias"][:3])

# %% [markdown]
# And somebody's own VGG16 under the same names could be either. Then `convert` asks, rather than guess:

# %%
anybody = stand_in()
anybody["features.0.bias"][:] = 0
path = FOLDER / "anybody.safetensors"
safetensors.numpy.save_file(anybody, path)
message(lambda: convert(path, FOLDER / "out.safetensors"))
print(convert(path, FOLDER / "out.safetensors", preprocessing="caffe").description.to_metadata())

# %% [markdown]
# What was settled once cannot be changed in passing:

# %%
message(lambda: convert(own, FOLDER / "other.safetensors", preprocessing="caffe"))

# %% [markdown]
# And `predict`, `evaluate` and `train` take no file that does not say:

# %%
message(lambda: load_network(small, "cpu"))
loaded.save(FOLDER / "mute.safetensors", preprocessing=None)
message(lambda: load_network(FOLDER / "mute.safetensors", "cpu"))

# %% [markdown]
# ## From the file to the first training step
#
# On the command line, all of this page is two lines:
#
# ```sh
# python -m tinyfcn.convert vgg16-397923af.pth vgg16.safetensors
# python -m tinyfcn.train --init vgg16.safetensors --width 1 --padding paper --model fcn32s --data VOCdevkit/VOC2012
# ```
#
# and for a finished network, which needs no training at all:
#
# ```sh
# python -m tinyfcn.convert fcn8s_from_caffe.pth fcn8s.safetensors
# python -m tinyfcn.predict fcn8s.safetensors photo.jpg --out labelled
# ```
#
# Where the files come from, and which scores their owners give for them, is in the section "Published
# weights" of the README. What this package saves opens elsewhere: the names are the published ones.

# %%
state = safetensors.numpy.load_file(own)
for name, value in state.items():
    if name.startswith(("fc", "score", "upscore")):
        print(name, value.shape)

# %%
TEMPORARY.cleanup()

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: read a header
#
# Read the header of a `.safetensors` file and return a dict: name -> (dtype, shape, place), where place
# is the position in the *file* at which the tensor's first byte lies. The entry `__metadata__`, where
# there is one, is no tensor.

# %% tags=["exercise"]
def list_tensors(path):
    """name -> (dtype, shape, place of the first byte in the file)."""
    raise NotImplementedError


# %% tags=["check"]
with attempt(), TemporaryDirectory() as folder:
    path = Path(folder, "a.safetensors")
    values = {"one": np.arange(6, dtype=np.float32).reshape(2, 3), "two": np.full(5, 7.0, np.float32)}
    safetensors.numpy.save_file(values, path, {"made by": "a check"})
    listed = list_tensors(path)
    assert "__metadata__" not in listed, "__metadata__ is no tensor"
    assert listed.keys() == values.keys(), f"tensors {set(listed)}, expected {set(values)}"
    for name, array in values.items():
        dtype, shape, place = listed[name]
        good = dtype == "F32" and tuple(shape) == array.shape
        assert good, f"{name}: {dtype} {shape}, expected F32 {array.shape}"
        there = np.fromfile(path, "<f4", array.size, offset=place)
        assert np.array_equal(there, array.ravel()), f"{name}: other numbers lie at byte {place}"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def list_tensors(path):
#     with open(path, "rb") as file:
#         length = int.from_bytes(file.read(8), "little")
#         header = json.loads(file.read(length))
#     header.pop("__metadata__", None)
#     begin = 8 + length
#     return {name: (e["dtype"], e["shape"], begin + e["data_offsets"][0]) for name, e in header.items()}
# ```
#
# Offsets count from the end of the header, which is at 8 + its length.
#
# </details>

# %% [markdown]
# ### Exercise 2: Keras's fc6
#
# Turn Keras's dense kernel, of shape $(side \cdot side \cdot C_{in},\ C_{out})$, into a convolution's
# weight, $(C_{out}, C_{in}, side, side)$. Its rows are in the order in which Keras flattens a map.

# %% tags=["exercise"]
def from_keras(kernel, side):
    """The weight (C_out, C_in, side, side) of the convolution that a dense kernel of Keras's is."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng = np.random.default_rng(0)
    pool = rng.normal(size=(3, 2, 2))  # (C_in, side, side), as here; Keras sees (side, side, C_in)
    kernel = rng.normal(size=(12, 5))
    weight = from_keras(kernel, 2)
    assert weight.shape == (5, 3, 2, 2), f"shape {weight.shape}, expected (5, 3, 2, 2)"
    expected = pool.transpose(1, 2, 0).ravel() @ kernel
    y, _ = ops.conv2d_forward(pool[None], weight)
    got = y.ravel()
    assert np.allclose(got, expected), f"you get {got.round(3)}, Keras {expected.round(3)}"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def from_keras(kernel, side):
#     return kernel.reshape(side, side, -1, kernel.shape[1]).transpose(3, 2, 0, 1)
# ```
#
# First give the rows back their three axes, in the order in which they were flattened; then move the
# axes.
#
# </details>

# %% [markdown]
# ### Exercise 3: two preprocessings, one network
#
# conv1_1 was trained on images prepared as for `caffe`. Give it a weight and bias for images prepared as
# for `torchvision`, such that the outputs are the same. `PREPROCESSING["caffe"].mean` and the like have
# the numbers, each in the order of its own channels. (There is no padding in the check. With padding,
# the zeros stand for the mean colour, and the two means differ by up to one grey level.)

# %% tags=["exercise"]
def caffe_to_torchvision(weight, bias):
    """conv1_1's (weight, bias) for images that are prepared as for torchvision."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1, 6, 7, 3)).astype(np.uint8)
    weight, bias = rng.normal(size=(4, 3, 3, 3)), rng.normal(size=4)
    expected, _ = ops.conv2d_forward(normalise(pixels, "caffe").astype(float), weight, bias)
    new_weight, new_bias = caffe_to_torchvision(weight, bias)
    shapes = new_weight.shape, new_bias.shape
    assert shapes == ((4, 3, 3, 3), (4,)), f"shapes {shapes}, expected (4, 3, 3, 3) and (4,)"
    x = normalise(pixels, "torchvision").astype(float)
    difference = ops.conv2d_forward(x, np.ascontiguousarray(new_weight), new_bias)[0] - expected
    assert np.ptp(difference, axis=(2, 3)).max() < 0.1, (
        f"outputs differ, by up to {abs(difference).max():.3g}, and not by a constant: is it the weight?"
    )
    assert abs(difference).max() < 0.1, (
        f"outputs differ by constants, up to {abs(difference).max():.3g}: is it the bias?"
    )

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def caffe_to_torchvision(weight, bias):
#     caffe, torchvision = PREPROCESSING["caffe"], PREPROCESSING["torchvision"]
#     mean, std = 255 * np.array(torchvision.mean), 255 * np.array(torchvision.std)
#     shift = mean - np.array(caffe.mean)[::-1]  # pixel - caffe's mean = std x + shift, in the order RGB
#     rgb = weight[:, ::-1]
#     return rgb * std[:, None, None], bias + (rgb * shift[:, None, None]).sum(axis=(1, 2, 3))
# ```
#
# From a torchvision value $t$ the pixel is $255\,(\sigma t + \mu)$, so Caffe's value is $255\,\sigma\,t
# + (255\,\mu - m)$: the scale goes into the weight, and the shift, seen by all 27 weights, into the
# bias.
#
# </details>

# %% [markdown]
# ### Exercise 4: which tensors are new?
#
# Given the shapes in a file and in a network, by name, sort the network's tensors into those to load
# and those that stay as they are. What the file lacks stays. A tensor that the file has in another
# shape is an error (`ValueError`), except in layers whose name begins with `score`: they were made for
# other classes, and stay.

# %% tags=["exercise"]
def sort_out(file, network):
    """(names to load, names that stay); `file` and `network` are dicts of name -> shape."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    trunk = {"conv1_1.weight": (64, 3, 3, 3), "conv1_1.bias": (64,)}
    network = trunk | {"score_fr.weight": (5, 64, 1, 1), "score_pool4.bias": (5,), "fc7.bias": (64,)}
    loaded, kept = sort_out(trunk | {"score_fr.weight": (21, 64, 1, 1), "fc8.bias": (1000,)}, network)
    assert sorted(loaded) == ["conv1_1.bias", "conv1_1.weight"], f"to load: {loaded}, expected conv1_1's"
    stay = ["fc7.bias", "score_fr.weight", "score_pool4.bias"]
    assert sorted(kept) == stay, f"those that stay: {kept}, expected {stay}"
    loaded, kept = sort_out(network, network)
    assert sorted(loaded) == sorted(network) and not kept, f"all shapes are the same, and {kept} stay"
    try:
        sort_out(network | {"conv1_1.weight": (32, 3, 3, 3)}, network)
    except ValueError:
        pass
    else:
        raise AssertionError("another shape of conv1_1.weight must be an error, or it stays random")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def sort_out(file, network):
#     loaded = [name for name, shape in network.items() if file.get(name) == shape]
#     kept = [name for name in network if name not in loaded]
#     for name in kept:
#         if name in file and not name.startswith("score"):
#             raise ValueError(f"{name} has shape {file[name]}, the network's is {network[name]}")
#     return loaded, kept
# ```
#
# Without the error, a net trains from random weights while everybody believes that it started from
# VGG16.
#
# </details>

# %% [markdown]
# Next: [Training](09_training.ipynb), from one batch learned by heart to the finished run.
