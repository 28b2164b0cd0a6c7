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
# - read a `.safetensors` file with five lines of your own, and say why a `.pth` file must not be unpickled,
# - turn fully connected layers into convolutions, and Keras's order of axes into PyTorch's, without an error in the last digit,
# - convert a published VGG16 and start an FCN from it, knowing which of its parameters are new,
# - say what wrong preprocessing does to a score, how it looks, and how a file can rule it out.
#
# Takes about 45 minutes. Builds on [Fully connected layers](04_fully_connected.ipynb) and [The network](07_fcn.ipynb).
#
# If you have a VGG16, such as torchvision's `vgg16-397923af.pth`, put its path here and run all cells again. Without one, the
# notebook makes a small VGG16 of random numbers that is named and shaped like a published one; every cell works for both.

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

from tinyfcn import ops, sources, weights
from tinyfcn.convert import convert
from tinyfcn.data import IGNORE, PREPROCESSING, Shapes, normalise
from tinyfcn.errors import InputError
from tinyfcn.formats import open_weights, unpickle
from tinyfcn.models import VGG16, FCN8s, FCN32s
from tinyfcn.trainer import Config, build_optimiser, evaluate, load_network, make_batch, predict, train_step

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
# torchvision numbers VGG16's layers as they follow each other, ReLUs and poolings included: the second convolution is
# `features.2`. The three fully connected layers are `classifier.0`, `.3` and `.6`. Biases of the first layer are those of the
# real file: we come to that.

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
# Names, shapes, and a great many numbers. In `.safetensors` it is hardly more than that: eight bytes say how long the header
# is, the header is JSON, and behind it the numbers lie one after the other.

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
# Five lines, and no library. There is nothing in it that could be executed. `open_weights` lists any of the known kinds
# that way, and reads a tensor only when it is asked for:

# %%
content = open_weights(source)
print(f"a {content.container} file of {len(content.tensors)} tensors")
for name, tensor in list(content.tensors.items())[:4] + list(content.tensors.items())[-6:]:
    print(f"  {name:20} {tensor.dtype} {tensor.shape}")

# %% [markdown]
# **Predict.** Thirteen convolutions, three fully connected layers. Where are most of the numbers?

# %%
found = sources.recognise(source)
sizes = {
    name.removesuffix(".weight"): np.prod(tensor.shape) for name, tensor in found.tensors.items() if name.endswith(".weight")
}
figure, axis = plt.subplots()
axis.bar(sizes.keys(), np.array(list(sizes.values())) / 1e6, color=[ORANGE if name.startswith("fc") else BLUE for name in sizes])
axis.set(ylabel="million weights", title="Three quarters of the weights are in fc6, one layer of sixteen")
axis.tick_params(axis="x", rotation=60);

# %% [markdown]
# (In the stand-in, all channels are an eighth of VGG16's, and there are ten classes instead of a thousand.)
#
# ## Why must a .pth file not be unpickled?
#
# PyTorch's files are a zip archive. In it are the numbers, a file for each tensor, and `data.pkl`, a *pickle*, which says how
# to put them together. A pickle is not a table, it is a program: instructions for a small stack machine, one of which is "call
# this function".
#
# **Predict.** What does Python print when it loads these bytes?

# %%
class Innocent:
    def __reduce__(self):
        return print, ("This ran while the file was being read.",)


data = pickle.dumps({"features.0.weight": Innocent()}, protocol=2)
pickle.loads(data);

# %% [markdown]
# The function was `print`. It could have been `os.system`. Whoever writes the file chooses. Here is the program; `GLOBAL` names
# the function and `REDUCE` calls it:

# %%
pickletools.dis(pickletools.optimize(data))

# %% [markdown]
# The same bytes as a `.pth` file, in front of this package's reader:

# %%
hostile = FOLDER / "hostile.pth"
with zipfile.ZipFile(hostile, "w") as archive:
    archive.writestr("model/data.pkl", data)
message(lambda: open_weights(hostile))

# %% [markdown]
# Nothing was printed: nothing ran. The reader walks through the instructions itself and knows only those that a dict of tensors
# needs. A name stays a name. Only these can be called, and each makes a plain description:

# %%
print(*unpickle.CALLS, sep="\n")
assert not any(name.startswith(("builtins", "os", "posix", "subprocess")) for name in unpickle.CALLS)

# %% [markdown]
# A real file has nothing else in it. One tensor of it, written by hand, instruction by instruction (no PyTorch needed for that
# either):

# %%
def text(s):
    return b"X" + struct.pack("<I", len(s)) + s.encode()


def whole(n):
    return b"J" + struct.pack("<i", n)


storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + whole(6) + b"tQ"
rebuild = (
    b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + whole(0) + b"(" + whole(2) + whole(3) + b"t(" + whole(3) + whole(1) + b"t"
)
rebuild += b"\x89ccollections\nOrderedDict\n)RtR"
program = b"\x80\x02}" + text("some.weight") + rebuild + b"s."

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
# File names say nothing: `recognise` goes by what is inside. For each publisher the package has a table of what its layers are
# called.

# %%
print(found.title, found.description, sep="\n")
for scheme in sources.SCHEMES:
    if scheme.model == "VGG16":
        first, second, *_ = scheme.convs
        print(f"{scheme.publisher:12} {first:15} {second:15} {scheme.fully_connected[0]:18} {scheme.preprocessing}")

# %% [markdown]
# All names must be there, no others, and every shape must fit. How wide the network is and how many classes it has follows from
# the biases. `convert` then writes the file anew, in this package's names:

# %%
converted = FOLDER / "vgg16.safetensors"
convert(source, converted, preprocess=None if "preprocessing" in found.description else "torchvision")
scheme = next(scheme for scheme in sources.SCHEMES if scheme.model == found.model and found.title.endswith(scheme.publisher))
ours = [name for name in open_weights(converted).tensors if name.endswith("weight")]
for name, theirs in list(zip(ours, [*scheme.convs, *scheme.fully_connected], strict=False))[::3]:
    there = next(
        tensor
        for key, tensor in content.tensors.items()
        if key.startswith((f"{theirs}.", f"{theirs}/")) and len(tensor.shape) > 1
    )
    print(f"{theirs:15} {there.shape!s:18} becomes {name:15} {found.tensors[name].shape}")

# %% [markdown]
# ## Are fully connected layers really convolutions?
#
# fc6's weight changed its shape, and nothing else: row $o$ of $(4096,\ 25088)$ is the kernel of output channel $o$,
# $(512, 7, 7)$. On a map of 7x7 units the kernel fits in one place, and a convolution there is the dot product of two lists of
# the same 25088 numbers. So it is not an approximation.
#
# **Predict.** How much do the classifier's scores and those of its convolutions differ, and why not by exactly 0?

# %%
tensors, description = weights.read(converted)
classifier = VGG16(description["num_classes"], description["width"])
print(classifier.load(converted))
x = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
flat, convolved = classifier.forward(x)[0], classifier.score_map(x)[0, :, 0, 0]
print(f"scores up to {abs(flat).max():.2f}, difference {abs(flat - convolved).max():.1e}")
assert np.allclose(flat, convolved, rtol=1e-4, atol=1e-5 * abs(flat).max())
assert np.array_equal(classifier.params["fc6.weight"].ravel(), tensors["fc6.weight"].ravel())  # the same bits in the same order

# %% [markdown]
# The same numbers are added in another order, and rounding depends on the order. What is gained: the convolution also runs on
# larger images, and gives a map of scores (section 3.1 of the paper).

# %%
print(classifier.score_map(np.zeros((1, 3, 288, 352), np.float32)).shape)

# %% [markdown]
# ## And from Keras?
#
# Keras keeps kernels as $(k_h, k_w, C_{in}, C_{out})$, and flattens a map pixel by pixel, all channels of a pixel together:
# unit $(h, w, c)$ comes at place $(7h + w)\,C + c$, and not at $49c + 7h + w$. Whoever only transposes fc6 gets a file in which
# every shape is right.

# %%
weight = tensors["fc6.weight"][:64].reshape(64, -1, 7, 7)  # the first 64 units
keras = weight.transpose(2, 3, 1, 0).reshape(-1, 64)  # as Keras would keep it: (49 C_in, C_out)
right = keras.reshape(7, 7, -1, 64).transpose(3, 2, 0, 1)
wrong = keras.T.reshape(weight.shape)
assert np.array_equal(right, weight) and wrong.shape == weight.shape and not np.allclose(wrong, weight)

figure, axes = plt.subplots(1, 2, figsize=(8, 2.9))
pools = [np.maximum(np.random.default_rng(k).normal(size=weight.shape[1:]), 0).ravel() for k in range(8)]
outputs = np.array(pools) @ weight.reshape(64, -1).T
for axis, kernel, title in zip(
    axes, (right, wrong), ("reshaped, then transposed", "only transposed: the shapes fit"), strict=True
):
    axis.plot(outputs.ravel(), (np.array(pools) @ kernel.reshape(64, -1).T).ravel(), ".", ms=4)
    axis.set(xlabel="fc6 as it should be", title=title)
axes[0].set_ylabel("fc6 from Keras's file");

# %% [markdown]
# ## What did it learn?
#
# The first layer's filters are the only ones that can be looked at: three input channels, red, green and blue.

# %%
filters = tensors["conv1_1.weight"]
colour = PREPROCESSING[description["preprocessing"]].channels
picture = (filters if colour == "RGB" else filters[:, ::-1]).transpose(0, 2, 3, 1)
limit = abs(picture).max(axis=(1, 2, 3), keepdims=True)
columns = 8 if len(picture) <= 8 else 16
figure, axes = plt.subplots(
    -(-len(picture) // columns), columns, figsize=(8, 0.55 * (-(-len(picture) // columns)) * 16 / columns + 0.5), squeeze=False
)
for axis, kernel in zip(axes.ravel(), 0.5 + 0.5 * picture / limit, strict=False):
    axis.imshow(kernel)
for axis in axes.ravel():
    axis.set_axis_off()
figure.suptitle(f"conv1_1's {len(picture)} filters" + ("" if PATH else ": random here, edges and opponent colours in VGG16"));

# %% [markdown]
# In a real file you see edges in all directions, spots, and pairs of opponent colours; in the stand-in, noise. If filters of a
# file that should be trained look like noise, it was not trained, or its axes are in another order.
#
# ## What if it is another network?
#
# A file that does not fit must not half fit. Each of these is the stand-in with one thing changed:

# %%
CHANGES = {
    "one tensor missing": lambda t: t.pop("features.17.weight"),
    "a bias missing": lambda t: t.pop("features.17.bias"),
    "VGG19": lambda t: t.update({"features.30.weight": np.zeros((64, 64, 3, 3), np.float32)}),
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
# One line each, with the tensor that does not fit. (A file that lacks a convolution's weight has no VGG16's names any more, and
# is not recognised at all.) And no half-written file is left behind.
#
# ## Which parameters of an FCN are new?
#
# A network loads strictly: every parameter must be in the file. An FCN has one that no classifier has, so it says no,

# %%
net = FCN32s(num_classes=21, width=description["width"])
message(lambda: net.load(converted))

# %% [markdown]
# and with `partial=True` it says what it did:

# %%
report = net.load(converted, partial=True)
print(report)
assert report.kept == ["score_fr.weight", "score_fr.bias"] and report.unexpected == ["fc8.weight", "fc8.bias"]
new = sum(net.params[name].size for name in report.kept)
print(f"{new:,} of {sum(p.size for p in net.params.values()):,} parameters are new")
assert not net.params["score_fr.weight"].any() and not net.params["score_fr.bias"].any()

# %% [markdown]
# `score_fr` takes the place of fc8. It begins at zero (as in section 4.3 of the paper); everything else is VGG16's. With 21
# classes and the full width, 86,037 of 134 million parameters are new.
#
# Partial loading still checks shapes. A file of another width is refused:

# %%
message(lambda: FCN32s(21, description["width"] / 2).load(converted, partial=True))

# %% [markdown]
# ## RGB or BGR, 0 to 1 or 0 to 255?
#
# Weights are made for images that were prepared in one way. There are three ways in use, and the files do not show which.

# %%
show_source(normalise)
for name, (channels, scale, mean, std) in PREPROCESSING.items():
    print(f"{name:12} {channels}, pixel * {scale:.4g}, minus {mean}, over {std}")

# %%
image, label = Shapes("val")[14]
figure, axes = plt.subplots(1, 4, figsize=(8, 2.7), width_ratios=[1, 1.4, 1.4, 1.4])
axes[0].imshow(image)
axes[0].set_axis_off()
for axis, (name, how) in zip(axes[1:], PREPROCESSING.items(), strict=True):
    for channel, letter in enumerate(how.channels):
        values = normalise(image[None], name)[0, channel].ravel()
        axis.hist(
            values,
            30,
            histtype="step",
            lw=1.5,
            color={"R": RED, "G": GREEN, "B": BLUE}[letter],
            label=f"channel {channel}: {letter}",
        )
    axis.set(title=name, yticks=[], xlabel="value")
    axis.legend(frameon=False, fontsize=9, loc="upper right", handlelength=1)
    axis.set_ylim(0, 1.7 * axis.get_ylim()[1])
figure.suptitle("The same picture as three networks want it: other values, other order of channels");

# %% [markdown]
# ## What does wrong preprocessing do?
#
# We train a small FCN-8s on the generated shapes, its images prepared as torchvision does. The shapes' colours are random;
# photographs are not like that (grass is green), so each class gets a tint of its own. Then we show the net held-out pictures
# that are wrongly prepared. No error is raised: it is an array of the right shape every time.
#
# **Predict.** Which costs most: the wrong order of channels, 0-255 instead of 0-1, or a forgotten mean?

# %%
TINTS = np.array([(0, 0, 0), (255, 0, 0), (0, 160, 0), (0, 0, 255), (255, 200, 0), (0, 200, 255), (200, 0, 200)], np.float32)


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
        return np.where(((label > 0) & (label < IGNORE))[..., None], mixed, image).astype(np.uint8), label


dataset, held_out = Tinted(Shapes("train")), Tinted(Shapes("val", length=32))
config = Config(model="fcn8s", width=1 / 16, size=(72, 72), steps=1400, lr=3e-3)
trained, optimiser = FCN8s(7, config.width, "same", dropout=0.0), build_optimiser(config)
for step in range(config.steps):
    pixels, labels = make_batch(dataset, config, step)
    train_step(trained, optimiser, normalise(pixels, "torchvision"), labels, factor=1 - step / config.steps)

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
assert np.array_equal(prepare(image[None], "right").round(4), normalise(image[None], "torchvision").round(4))

# %%
palette = np.array([(0.92, 0.92, 0.92), *(plt.matplotlib.colors.to_rgb(colour) for colour in COLOURS[:6])])
image, label = held_out[14]
figure, axes = plt.subplot_mosaic([["bars"] * 6, ["image", *pictures]], figsize=(8, 4.4), height_ratios=[1.4, 1])
bars = axes["bars"].bar(scores.keys(), scores.values(), color=[BLUE] + [ORANGE] * 4)
axes["bars"].bar_label(bars, fmt="%.2f")
axes["bars"].axhline(baseline, color=BLACK, lw=1, ls=":", label="background everywhere")
axes["bars"].set(ylabel="mean IU", ylim=(0, 1), title="The same weights, the same pictures, prepared in five ways")
axes["bars"].legend(frameon=False)
for name, picture in {"image": image, **{how: palette[prediction] for how, prediction in pictures.items()}}.items():
    axes[name].imshow(picture)
    axes[name].set_title(name, size=9)
    axes[name].set_axis_off()
assert scores["right"] > scores["BGR"] and scores["right"] > scores["0 to 255"] + 0.1

# %% [markdown]
# With another order of channels the outlines stay and the classes change places: red is taken for blue. Other ranges of values
# break everything, and are at least seen at once. On VOC, published reports put a mismatch at about 5 points of mean IU: enough
# to spoil a result, and too little to be noticed. That is the dangerous kind.
#
# ## How can a file rule it out?
#
# By saying what it wants. Files of this package carry a description, and a network that is loaded takes over the preprocessing
# with the parameters. Training, evaluation and prediction all ask the network, and nobody else:

# %%
own = FOLDER / "shapes.safetensors"
trained.preprocessing = "torchvision"
trained.save(own, classes=list(Shapes.classes))
print(weights.read_description(own))
loaded, _ = load_network(own, "cpu")
assert loaded.preprocessing == "torchvision" and np.array_equal(predict(loaded, image), pictures["right"])
show_source(predict)

# %% [markdown]
# For files of others, there are three cases. Some names belong to one publisher only (Keras, Caffe, timm), and that settles it.
# Two publishers use torchvision's names: torchvision, and copies of Caffe's weights for PyTorch. The first biases tell them
# apart, because they are known:

# %%
print(sources.FINGERPRINTS)
print("our stand-in's first biases:", stand_in()["features.0.bias"][:3])

# %% [markdown]
# And somebody's own VGG16 under the same names could be either. Then `convert` asks, rather than guess:

# %%
anybody = stand_in()
anybody["features.0.bias"][:] = 0
path = FOLDER / "anybody.safetensors"
safetensors.numpy.save_file(anybody, path)
message(lambda: convert(path, FOLDER / "out.safetensors"))
print(convert(path, FOLDER / "out.safetensors", preprocess="caffe").description)

# %% [markdown]
# What was settled once cannot be changed in passing:

# %%
message(lambda: convert(own, FOLDER / "other.safetensors", preprocess="caffe"))

# %% [markdown]
# And `predict`, `evaluate` and `train` take no file that does not say:

# %%
message(lambda: load_network(small, "cpu"))
tensors, about = weights.read(own)
weights.write(FOLDER / "mute.safetensors", tensors, {name: value for name, value in about.items() if name != "preprocessing"})
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
# Where the files come from, and which scores their owners give for them, is in the README under "Published weights". What this
# package saves opens elsewhere: the names are the published ones.

# %%
state = safetensors.numpy.load_file(own)
print(*[f"{name} {value.shape}" for name, value in state.items() if name.startswith(("fc", "score", "upscore"))], sep="\n")

# %%
TEMPORARY.cleanup()

# %% [markdown]
# ### Exercise 1: read a header
#
# Read the header of a `.safetensors` file and return a dict: name -> (dtype, shape, place), where place is the position in the
# *file* at which the tensor's first byte lies. The entry `__metadata__`, where there is one, is no tensor.

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
    assert listed.keys() == values.keys(), f"tensors {set(listed)}, expected {set(values)}"
    for name, array in values.items():
        dtype, shape, place = listed[name]
        assert dtype == "F32" and tuple(shape) == array.shape, f"{name}: {dtype} {shape}, expected F32 {array.shape}"
        there = np.fromfile(path, "<f4", array.size, offset=place)
        assert np.array_equal(there, array.ravel()), f"{name}: at byte {place} lie {there}, expected {array.ravel()}"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def list_tensors(path):
#     with open(path, "rb") as file:
#         length = int.from_bytes(file.read(8), "little")
#         header = json.loads(file.read(length))
#     header.pop("__metadata__", None)
#     return {name: (e["dtype"], tuple(e["shape"]), 8 + length + e["data_offsets"][0]) for name, e in header.items()}
# ```
#
# Offsets count from the end of the header, which is at 8 + its length.
#
# </details>

# %% [markdown]
# ### Exercise 2: Keras's fc6
#
# Turn Keras's dense kernel, (side side C_in, C_out), into a convolution's weight, (C_out, C_in, side, side).

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
    assert np.allclose(y.ravel(), expected), f"your convolution gives {y.ravel().round(3)}, Keras {expected.round(3)}"

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def from_keras(kernel, side):
#     return kernel.reshape(side, side, -1, kernel.shape[1]).transpose(3, 2, 0, 1)
# ```
#
# First give the rows back their three axes, in the order in which they were flattened; then move the axes.
#
# </details>

# %% [markdown]
# ### Exercise 3: two preprocessings, one network
#
# conv1_1 was trained on images prepared as for `caffe`. Give it a weight and bias for images prepared as for `torchvision`,
# such that the outputs are the same. (Padding aside: Caffe's zeros are the mean colour, and so are torchvision's, up to two
# grey levels.)

# %% tags=["exercise"]
def caffe_to_torchvision(weight, bias):
    """(weight, bias) of conv1_1, (C_out, 3, 3, 3) and (C_out,), for images that are prepared as for torchvision."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1, 6, 7, 3)).astype(np.uint8)
    weight, bias = rng.normal(size=(4, 3, 3, 3)), rng.normal(size=4)
    expected, _ = ops.conv2d_forward(normalise(pixels, "caffe").astype(float), weight, bias)
    new_weight, new_bias = caffe_to_torchvision(weight, bias)
    assert new_weight.shape == weight.shape and new_bias.shape == bias.shape, f"shapes {new_weight.shape} and {new_bias.shape}"
    y, _ = ops.conv2d_forward(normalise(pixels, "torchvision").astype(float), np.ascontiguousarray(new_weight), new_bias)
    difference = y - expected
    assert np.ptp(difference, axis=(2, 3)).max() < 0.1, (
        f"outputs differ, by up to {abs(difference).max():.3g}, and not by a constant: the weight"
    )
    assert abs(difference).max() < 0.1, f"outputs differ by constants, up to {abs(difference).max():.3g}: the bias"

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
# Both are affine maps of the same pixel, and a convolution of an affine map is a convolution with another weight and bias: the
# scale goes into the weight, the shift, seen by all 27 weights, into the bias.
#
# </details>

# %% [markdown]
# ### Exercise 4: which parameters are new?
#
# Given the shapes in a file and in a network, by name, sort the network's parameters into those to load and those that stay as
# they are. A parameter that the file has in another shape is an error (`ValueError`), except score layers: they were made for
# other classes, and stay.

# %% tags=["exercise"]
def sort_out(file, network):
    """(names to load, names that stay); `file` and `network` are dicts of name -> shape."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    network = {"conv1_1.weight": (64, 3, 3, 3), "conv1_1.bias": (64,), "score_fr.weight": (5, 64, 1, 1), "score_pool4.bias": (5,)}
    file = {"conv1_1.weight": (64, 3, 3, 3), "conv1_1.bias": (64,), "score_fr.weight": (21, 64, 1, 1), "fc8.bias": (1000,)}
    loaded, kept = sort_out(file, network)
    assert sorted(loaded) == ["conv1_1.bias", "conv1_1.weight"], f"to load: {loaded}"
    assert sorted(kept) == ["score_fr.weight", "score_pool4.bias"], f"to keep: {kept}"
    try:
        sort_out(file | {"conv1_1.weight": (32, 3, 3, 3)}, network)
    except ValueError:
        pass
    else:
        raise AssertionError("a conv1_1.weight of another width must be an error: else the net would start without it, silently")

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
# "Load what fits" without the error is how nets come to train from random weights while everybody believes that they started
# from VGG16.
#
# </details>

# %% [markdown]
# Next: [Training](09_training.ipynb), from one batch learned by heart to the finished run.
