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
# In each of four photographs, 25 little squares of 7x7 pixels have been labelled by hand (in the first row, drawn larger than
# they are). On these, less than one percent of all pixels, two networks have learned to tell cat, person, cup and background
# apart. They are built alike, and both learned from the same squares, for the same ninety steps, and only in their score
# layers; all that lies below stayed as it was.
#
# Then both labelled every pixel.

# %% tags=["setup", "hide-input"]
import os

os.environ["TQDM_DISABLE"] = "1"  # no progress bars on these pages

import json
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import safetensors.numpy

from tinyfcn import ops, weights
from tinyfcn.convert import convert, schemes
from tinyfcn.convert.identify import identify
from tinyfcn.data import IGNORE, PREPROCESSING, normalise
from tinyfcn.errors import InputError
from tinyfcn.formats import open_weights, unpickle
from tinyfcn.inference import load_network, predict
from tinyfcn.lesson import (
    BLUE,
    GREEN,
    RED,
    WORDS,
    attempt,
    expect,
    labelled,
    paint,
    photograph,
    plt,
    show_source,
    vgg16,
)
from tinyfcn.metrics import ConfusionMatrix
from tinyfcn.models import VGG16, FCN8s, FCN32s
from tinyfcn.models.vgg import VGG
from tinyfcn.optim import Adam, poly

TEMPORARY = TemporaryDirectory()  # where this notebook writes
FOLDER = Path(TEMPORARY.name)

# %% tags=["hide-input"]
VGG16_FILE = os.environ.get("TINYFCN_VGG16", "vgg16_notop.h5")  # VGG16's weights: see README.md
vgg = vgg16(VGG16_FILE)
REAL = os.path.exists(VGG16_FILE)
untrained = VGG16(num_classes=1, hidden=1)  # the same convolutions, with random weights
untrained.preprocessing = vgg.preprocessing
NAMES = ("chelsea", "grace_hopper", "astronaut", "coffee")
PHOTOS = {name: labelled(name) for name in NAMES}


def pools(net, x):
    """pool3, pool4 and pool5 of a prepared image x (1, 3, H, W)."""
    net.start(x, training=False)
    return VGG.forward(net, x, first_padding=1)[2:]


def forward(params, maps, size):
    """Notebook 7's seven steps, with pool5 in conv7's place: scores of an image of this size."""
    caches = {}

    def score(k, features):
        y, caches[k] = ops.conv2d_forward(features, params[f"{k}.weight"], params[f"{k}.bias"])
        return y

    total = score("pool5", maps[2])
    for k, features in ("pool4", maps[1]), ("pool3", maps[0]):
        skip = score(k, features)
        window = slice(1, 1 + skip.shape[2]), slice(1, 1 + skip.shape[3])
        up, caches[f"up to {k}"] = ops.upsample_bilinear_forward(total, 4, 2, window)
        total = skip + up
    window = slice(4, 4 + size[0]), slice(4, 4 + size[1])
    scores, caches["last"] = ops.upsample_bilinear_forward(total, 16, 8, window)
    return scores, caches


def backward(dscores, caches):
    """The gradients of the score layers, by name."""
    grads = {}
    d = ops.upsample_bilinear_backward(dscores, caches["last"])
    for k in "pool3", "pool4", "pool5":
        _, dweight, dbias = ops.conv2d_backward(d, caches[k], need_dx=False)
        grads |= {f"{k}.weight": dweight, f"{k}.bias": dbias}
        if k != "pool5":
            d = ops.upsample_bilinear_backward(d, caches[f"up to {k}"])
    return grads


def learn(examples, steps=90):
    """Score layers learned from (maps, label) pairs. The maps' sizes end up in the weights."""
    channels = {"pool3": 256, "pool4": 512, "pool5": 512}
    sizes = [np.sqrt(np.mean([(maps[k] ** 2).mean() for maps, _ in examples])) for k in range(3)]
    params = {}
    for k, c in channels.items():
        params[f"{k}.weight"] = np.zeros((len(WORDS), c, 1, 1), np.float32)
        params[f"{k}.bias"] = np.zeros(len(WORDS), np.float32)
    optimiser = Adam(1e-3)
    for step in range(steps):
        maps, label = examples[step % len(examples)]
        alike = [m / np.float32(size) for m, size in zip(maps, sizes)]
        scores, caches = forward(params, alike, label.shape)
        _, cache = ops.softmax_cross_entropy_forward(scores, label[None])
        dscores = ops.softmax_cross_entropy_backward(1.0, cache)
        optimiser.step(params, backward(dscores, caches), poly(step / steps))
    for k, size in zip(channels, sizes):
        params[f"{k}.weight"] /= np.float32(size)
    return params


def answer(params, maps, name):
    """The network's label of a photograph."""
    return forward(params, maps, PHOTOS[name][1].shape)[0][0].argmax(axis=0)


def mean_iou(answers):
    """Over all photographs that there are answers for."""
    matrix = ConfusionMatrix(len(WORDS))
    for name, labels in answers.items():
        matrix.update(PHOTOS[name][1], labels)
    return matrix.mean_iou


def squares(label, count=25):
    """All of a label is 255, but for a few squares of 7x7 pixels."""
    rng, kept = np.random.default_rng(1), np.full_like(label, IGNORE)
    for r, c in zip(*(rng.integers(3, side - 3, count) for side in label.shape)):
        window = np.s_[r - 3 : r + 4, c - 3 : c + 4]
        kept[window] = label[window]
    return kept


few = {name: squares(label) for name, (_, label) in PHOTOS.items()}
seen, learned, answers = {}, {}, {}
for what, net in ("VGG16's convolutions", vgg), ("random convolutions", untrained):
    prepared = {name: normalise(PHOTOS[name][0][None], net.preprocessing) for name in NAMES}
    seen[what] = {name: pools(net, x) for name, x in prepared.items()}
    learned[what] = learn([(seen[what][name], few[name]) for name in NAMES])
    answers[what] = {name: answer(learned[what], seen[what][name], name) for name in NAMES}
share = np.mean(np.concatenate([label.ravel() != IGNORE for label in few.values()]))
assert share < 0.01
found = [mean_iou(each) for each in answers.values()]
assert not REAL or found[0] > 0.2 + found[1]

# %% tags=["hide-input"] alt="Four photographs with a few labelled pixels, and what VGG16's convolutions and random ones make of them: nearly right, and wrong"
def overlay(image, labels):
    """Labels in colours over a grey image."""
    grey = image.mean(axis=2, keepdims=True)
    return (0.45 * grey + 0.55 * paint(labels)).astype(np.uint8)


figure, axes = plt.subplots(3, 4, figsize=(7, 5.7))
for column, (name, (image, label)) in zip(axes.T, PHOTOS.items()):
    column[0].imshow(image)
    rng = np.random.default_rng(1)
    rows, columns = (rng.integers(3, side - 3, 25) for side in label.shape)
    colours = paint(label)[rows, columns] / 255
    column[0].scatter(columns, rows, s=16, marker="s", c=colours, ec="white", lw=0.6)
    for axis, (what, labels) in zip(column[1:], answers.items()):
        axis.imshow(overlay(image, labels[name]))
for axis in axes.ravel():
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
titles = ["what was labelled"]
titles += [f"{what}\nmean IU {mean_iou(each):.2f}" for what, each in answers.items()]
for axis, title in zip(axes[:, 0], titles):
    axis.set_ylabel(title, fontsize=9)
figure.suptitle("Orange: cat. Blue: person. Green: cup. Dark: background", fontsize=11)
plt.show()

# %% [markdown]
# What separates the second row from the third is a file: 14,714,688 numbers that the Visual Geometry Group at Oxford trained
# on a million photographs, with one word for each. Among them there was neither Chelsea, nor a square with a label.
#
# So everything depends on getting those numbers from the file into the right places of the network, and on showing it
# pictures that are prepared as it expects. Nearly everything that can go wrong on the way raises no error. In this notebook
# you read such a file byte by byte, learn why one kind of it must not simply be opened, put the numbers where they belong,
# and see what becomes of Chelsea when you do not.
#
# Takes about 45 minutes. It builds on [Fully connected layers](04_fully_connected.ipynb) and [The network](07_fcn.ipynb).

# %% tags=["setup", "hide-input"]
def message(call):
    """Print the error that a call ends in."""
    try:
        call()
    except InputError as error:
        print(str(error).replace(f"{FOLDER}{os.sep}", ""), end="\n\n")
    else:
        raise AssertionError("this should have been refused")


PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
LAYERS = [*(f"features.{k}" for k in PLACES), "classifier.0", "classifier.3", "classifier.6"]


def stand_in(width=1 / 8, classes=10):
    """A VGG16 of random numbers under torchvision's names, its fully connected weights flat."""
    rng, tensors = np.random.default_rng(0), {}
    shapes = VGG16.shapes(classes, width)
    layers = [name.removesuffix(".weight") for name in shapes if name.endswith(".weight")]
    for layer, name in zip(layers, LAYERS, strict=True):
        shape = shapes[f"{layer}.weight"]
        weight = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        flat = layer.startswith("fc")
        tensors[f"{name}.weight"] = weight.reshape(len(weight), -1) if flat else weight
        tensors[f"{name}.bias"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)
    tensors["features.0.bias"][:3] = 0.4034, 0.3778, 0.4644  # those of the real file
    return tensors


# %% [markdown]
# ## What is in a file of weights?
#
# Names, shapes, and a great many numbers. In `.safetensors` it is hardly more than that: eight bytes say how long the header
# is, the header is JSON, and behind it the numbers lie one after the other. `data_offsets` count from the header's end.
#
# The whole VGG16 takes 553 MB. So here you read a small one of random numbers, an eighth as wide and for ten classes, under the
# names that torchvision gives: layers are numbered as they follow each other, ReLUs and poolings included, so that the second
# convolution is `features.2`, and fc6, fc7 and fc8 are `classifier.0`, `.3` and `.6`.

# %%
small = FOLDER / "small.safetensors"
safetensors.numpy.save_file(stand_in(), small)

with small.open("rb") as file:
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    begin, end = header["features.0.bias"]["data_offsets"]
    file.seek(8 + length + begin)
    bias = np.frombuffer(file.read(end - begin), "<f4")

print(json.dumps(header["features.0.weight"]), bias)
assert np.array_equal(bias, safetensors.numpy.load_file(small)["features.0.bias"])

# %% [markdown]
# Six lines, and no special library. There is nothing in the file that could be executed. `open_weights` lists the tensors of
# any kind of file that it knows, and reads one only when it is asked for. Here is the file that taught the network above:

# %%
source = Path(VGG16_FILE) if REAL else small
content = open_weights(source)
print(f"{len(content.tensors)} tensors, in a file of the kind {content.container}; the first ones:")
for name, tensor in list(content.tensors.items())[:4]:
    print(f"  {name:24} {tensor.dtype} {tensor.shape}")

# %% [markdown]
# It is Keras's: its kernels are written (height, width, in, out), where ours are (out, in, height, width). And it is called
# "notop": it has VGG16's convolutions and leaves out fc6, fc7 and fc8, which are nine tenths of the numbers. For an FCN it is
# enough to begin with.
#
# ## Why must a .pth file not be unpickled?
#
# PyTorch's files are a zip archive (before PyTorch 1.6, the same parts one behind the other). In it are the numbers, a file
# for each tensor, and `data.pkl`, a *pickle*, which says how to put them together. A pickle is not a table but a program:
# instructions for a small stack machine, one of which is "call this function". A class says in `__reduce__` how its objects are
# to be made again, by a function and its arguments.
#
# **Predict.** What does Python print when it loads the bytes below?

# %% tags=["hide-output"]
class Innocent:
    def __reduce__(self):
        return print, ("This ran while the file was being read.",)


data = pickle.dumps({"features.0.weight": Innocent()}, protocol=2)
pickle.loads(data);

# %% [markdown]
# <details><summary>Answer</summary>
#
# "This ran while the file was being read." The function was `print`; it could as well have been `os.system`, as whoever writes
# the file chooses.
#
# </details>
#
# Here is the program. `GLOBAL` names the function (`__builtin__` is what Python 2 called `builtins`), and `REDUCE` calls it:

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
# The refusal is all that was printed, so nothing ran. The reader walks through the instructions itself, and knows only those
# that a dict of tensors needs. To it, a name is a name and nothing more. Only these can be "called", and what runs then is not
# PyTorch's or NumPy's function but a few lines of the reader's own, which write down what is wanted:

# %%
print(*unpickle.CALLS, sep="\n")
dangerous = "builtins", "__builtin__", "os", "posix", "subprocess"
assert not any(name.startswith(dangerous) for name in unpickle.CALLS)

# %% [markdown]
# A real file has nothing else in it. Here is one tensor of it, written by hand, instruction by instruction, for which you need
# no PyTorch either:
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
kind = text("storage") + b"ctorch\nFloatStorage\n"
storage = b"(" + kind + text("0") + text("cpu") + whole(6) + b"tQ"
shape, strides = b"(" + whole(2) + whole(3) + b"t", b"(" + whole(3) + whole(1) + b"t"
hooks = b"ccollections\nOrderedDict\n)R"  # OrderedDict(): none; `)` is the empty tuple
# _rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)
rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
tensor = rebuild + b"(" + storage + whole(0) + shape + strides + b"\x89" + hooks + b"tR"
program = b"\x80\x02" + b"}" + text("some.weight") + tensor + b"s."  # protocol 2, a dict

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
# A file's name says nothing, so `identify` goes by what is inside. For each publisher the package has a table of what its
# layers are called. (Keras has had two ways of naming them. Where you read `None`, the names leave open how images are to be
# prepared; more of that below.)

# %%
found = identify(small)
print(identify(source).title, found.title, found.description.to_metadata(), sep="\n", end="\n\n")
print(f"{'publisher':12} {'conv1_1':14} {'conv1_2':14} {'fc6':16} images prepared as for")
for scheme in schemes.SCHEMES:
    if scheme.model == "VGG16":
        first, second, *_ = scheme.convs
        fc6, *_ = scheme.fully_connected
        print(f"{scheme.publisher:12} {first:14} {second:14} {fc6:16} {scheme.preprocessing}")

# %% [markdown]
# All 13 convolutions must be there, in their order, and every shape must fit. Their names may be longer, as in
# `module.features.0`, and another head is left out, and listed. How wide the network is, and how many classes it has, follows
# from the biases. `convert` then writes the file anew, in this package's names (compare fc6 with `classifier.0` above):

# %%
converted = FOLDER / "vgg16.safetensors"
convert(small, converted)
for name, tensor in open_weights(converted).tensors.items():
    if name.startswith(("conv1", "fc")):
        print(f"{name:16} {tensor.dtype} {tensor.shape}")

# %% [markdown]
# ## Are fully connected layers really convolutions?
#
# fc6's weight changed its shape, and nothing else: row $o$ of $(4096,\ 25088)$ is the kernel of output channel $o$, $(512, 7,
# 7)$. On a map of 7x7 units the kernel fits in one place, and the convolution there is the same dot product, so that nothing is
# approximated ([notebook 4](04_fully_connected.ipynb) has the whole story).
#
# **Predict.** How much do the classifier's scores and those of its convolutions differ, and why not by exactly 0?

# %% tags=["hide-output"]
tensors, description = weights.read(converted)
classifier = VGG16(description.num_classes, description.width)
print(classifier.load(converted))
x = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
flat, convolved = classifier.forward(x)[0], classifier.score_map(x)[0, :, 0, 0]
print(f"scores up to {abs(flat).max():.2f}, difference {abs(flat - convolved).max():.1e}")
assert np.allclose(flat, convolved, rtol=1e-4, atol=1e-5 * abs(flat).max())
same = found.tensors["fc6.weight"].read()  # as it stood in the file, the same bits
assert np.array_equal(classifier.params["fc6.weight"].ravel(), same.ravel())

# %% [markdown]
# <details><summary>Why not by 0?</summary>
#
# The same numbers are added in another order, and rounding depends on the order.
#
# </details>
#
# ## And from Keras?
#
# Keras keeps kernels as $(k_h, k_w, C_{in}, C_{out})$, so a transpose of axes brings them into our order, and not a single bit
# changes. Fully connected layers are where people stumble. Keras flattens a map pixel by pixel, all channels of a pixel
# together: unit $(h, w, c)$ comes at place $(7h + w)\,C + c$, where PyTorch has it at $49c + 7h + w$. Whoever transposes fc6
# and does no more gets a file in which every shape is right.
#
# **Predict.** Below, fc6 is turned into Keras's order and back, in the right way and in the wrong one. Both are shown eight maps
# of random numbers. Are the outputs of the wrong one the right ones scaled, the right ones shifted, or have they nothing to do
# with them?

# %% tags=["hide-output"]
weight = tensors["fc6.weight"][:64].reshape(64, -1, 7, 7)  # the first 64 units
keras = weight.transpose(2, 3, 1, 0).reshape(-1, 64)  # as Keras would keep it: (49 C_in, C_out)
right = keras.reshape(7, 7, -1, 64).transpose(3, 2, 0, 1)
wrong = keras.T.reshape(weight.shape)
assert np.array_equal(right, weight)
assert wrong.shape == weight.shape and not np.allclose(wrong, weight)

# eight maps, flattened; negative numbers become 0, as after a ReLU
maps = np.maximum(np.random.default_rng(0).normal(size=(8, weight[0].size)), 0)
outputs, others = (maps @ kernel.reshape(64, -1).T for kernel in (weight, wrong))
correlation = np.corrcoef(outputs.ravel(), others.ravel())[0, 1]
print(f"correlation of the wrong ones with the right ones: {correlation:.2f}")
assert correlation < 0.5

# %% [markdown]
# <details><summary>Answer</summary>
#
# They have almost nothing to do with them, as each weight meets a unit that it was not made for. What relation is left comes
# from this: units are never negative, so that each output also follows the sum of its row's weights, which is the same in both.
#
# </details>
#
# ## What did it learn?
#
# The first layer's filters are the only ones that you can look at as pictures, since their three input channels are blue, green
# and red.

# %% tags=["hide-input"] alt="The 64 filters of conv1_1 as tiny colour pictures: edges of all directions, and patches of one colour"
filters = vgg.params["conv1_1.weight"]
bgr = PREPROCESSING[vgg.preprocessing].channels == "BGR"
picture = (filters[:, ::-1] if bgr else filters).transpose(0, 2, 3, 1)
limit = abs(picture).max(axis=(1, 2, 3), keepdims=True)
figure, axes = plt.subplots(4, 16, figsize=(8, 2.6))
for axis, kernel in zip(axes.ravel(), 0.5 + 0.5 * picture / limit):
    axis.imshow(kernel)
    axis.set_axis_off()
figure.suptitle("conv1_1's 64 filters, 3x3 pixels each; grey is 0")
plt.show()

# %% [markdown]
# Edges in several directions, spots, and pairs of opponent colours, such as blue beside orange. It is worth a look: if all
# filters of a file that should be trained look like coloured noise, it was not trained, or its axes are in another order.
#
# ## What if it is another network?
#
# Suppose a file fits nearly. Each of these is the small file with one thing changed:

# %%
CHANGES = {
    "one tensor missing": lambda t: t.pop("features.17.weight"),
    "a bias missing": lambda t: t.pop("features.17.bias"),
    "one more convolution in each of three blocks": lambda t: t.update(
        {f"features.{k}b.weight": t[f"features.{k}.weight"] for k in (14, 21, 28)}
    ),
    "batch normalisation": lambda t: t.update(
        {"features.1.running_mean": np.zeros(8, np.float32)}
    ),
    "one layer of another width": lambda t: t.update(
        {"features.2.weight": np.zeros((9, 8, 3, 3), np.float32)}
    ),
    "whole numbers": lambda t: t.update(
        {"features.2.weight": t["features.2.weight"].astype(np.int32)}
    ),
    "not a number": lambda t: t.update(
        {"classifier.0.weight": t["classifier.0.weight"] * np.nan}
    ),
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
# Each is refused in one line, which names the network that it is, or the tensor that does not fit. (A file that lacks a
# convolution's weight has no row of 13 any more, and is not recognised at all.) And no half-written file is left behind.
#
# ## Which parameters of an FCN are new?
#
# A network loads strictly: every tensor must be in the file. FCN-32s has a layer that no classifier has, so it says no,

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
print(f"{new:,} of {sum(p.size for p in net.params.values()):,} numbers are new")
assert not net.params["score_fr.weight"].any() and not net.params["score_fr.bias"].any()

# %% [markdown]
# `score_fr` takes the place of fc8. It begins at zero (as in section 4.3 of the paper), and everything else is VGG16's. With 21
# classes and the full width, $21 \cdot 4096 + 21 = 86{,}037$ of 134 million parameters are new. With a "notop" file fc6 and fc7
# are new as well, and start from random numbers.
#
# Partial loading still checks the shapes of all layers but the score layers, which were made for other classes. A file of
# another width is refused:

# %%
message(lambda: FCN32s(21, description.width / 2).load(converted, partial=True))

# %% [markdown]
# ## RGB or BGR, 0 to 1 or 0 to 255?
#
# Weights are made for images that were prepared in one way. For VGG16 three ways are in use, and the numbers in a file do not
# show which.

# %% tags=["hide-input"]
show_source(normalise)
for name, (channels, scale, mean, std) in PREPROCESSING.items():
    print(f"{name:12} {channels}, pixel * {scale:.4g}, minus {mean}, over {std}")

# %% tags=["hide-input"] alt="Chelsea, and histograms of her three channels as caffe, torchvision and vgg want them: other ranges, other orders"
figure, axes = plt.subplots(1, 4, figsize=(8, 2.6))
axes[0].imshow(photograph())
axes[0].set_axis_off()
for axis, (name, how) in zip(axes[1:], PREPROCESSING.items(), strict=True):
    for channel, letter in enumerate(how.channels):
        values = normalise(photograph()[None], name)[0, channel].ravel()
        colour = {"R": RED, "G": GREEN, "B": BLUE}[letter]
        label = f"channel {channel}: {letter}"
        axis.hist(values, 30, histtype="step", color=colour, label=label)
    axis.set(title=name, yticks=[], xlabel="value")
    axis.legend(frameon=False, fontsize=8, loc="upper right", handlelength=1)
    axis.set_ylim(0, 1.7 * axis.get_ylim()[1])
axes[1].set_ylabel("number of pixels")
figure.suptitle("Chelsea as three networks want her: other values, other order of channels")
plt.show()
means = np.array([PREPROCESSING[name].mean for name in ("caffe", "vgg")])
assert abs(means[0] - means[1]).max() < 1.01

# %% [markdown]
# Look at the values: about -2 to 2.6 for torchvision, about -120 to 150 for the others. `caffe` and `vgg` are the same up to
# one grey level.
#
# ## What does wrong preprocessing do?
#
# Now show two of the photographs, prepared in wrong ways, to the network with VGG16's convolutions. No error is raised, as it
# is an array of the right shape every time.
#
# **Predict.** Which costs most: channels in the wrong order, values from 0 to 1 instead of 0 to 255, or a mean that nobody has
# subtracted?

# %% tags=["hide-output"]
def prepare(image, how):
    """An image (H, W, 3) uint8 as the network wants it, or with one mistake."""
    right = normalise(image[None], vgg.preprocessing)
    _, scale, mean, std = PREPROCESSING[vgg.preprocessing]
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (mean, std))
    pixels = right * std + mean
    match how:
        case "right":
            return right
        case "channels\nreversed":
            return (pixels[:, ::-1] - mean) / std
        case "mean not\nsubtracted":
            return pixels / std
        case "0 to 1":
            return (pixels / 255 - mean) / std
        case "as for\ntorchvision":
            return normalise(image[None], "torchvision")


WAYS = "right", "channels\nreversed", "mean not\nsubtracted", "as for\ntorchvision", "0 to 1"
shown = {}
for how in WAYS:
    shown[how] = {}
    for name in "chelsea", "coffee":
        maps = pools(vgg, np.ascontiguousarray(prepare(PHOTOS[name][0], how), np.float32))
        shown[how][name] = answer(learned["VGG16's convolutions"], maps, name)
costs = {how: mean_iou(each) for how, each in shown.items()}
print({how.replace("\n", " "): round(float(score), 2) for how, score in costs.items()})
assert not REAL or costs["right"] > costs["channels\nreversed"] > costs["0 to 1"]

# %% tags=["hide-input", "hide-output"] alt="Cat and cup, labelled by the same weights after five preparations: right, fairly right with two mistakes, wrong with values scaled too small"
figure, axes = plt.subplots(2, 5, figsize=(8, 2.9))
for column, (how, each) in zip(axes.T, shown.items()):
    for axis, name in zip(column, each):
        axis.imshow(overlay(PHOTOS[name][0], each[name]))
        axis.set_axis_off()
    column[0].set_title(f"{how}\n{costs[how]:.2f}", fontsize=9)
figure.suptitle("The same weights and photographs, prepared in five ways (mean IU)", fontsize=11)
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# The scale costs most. With values from 0 to 1 all contrasts are 255 times too small, Chelsea is one even grey to this network,
# and it sees background alone. Prepared as for torchvision, the contrasts are some 60 times too small, and the channels are
# reversed as well, and yet half of her face survives. Reversing the channels alone costs pieces of the cup's rim and of
# Chelsea's cheek. And the mean that nobody subtracted? It costs one hundredth.
#
# </details>
#
# You notice a network that sees nothing. You do not notice a hundredth, and so the mild mistakes are the dangerous ones: users
# of an object detector whose VGG16 came from PyTorch, and whose pictures were prepared otherwise, report about five points less
# mean average precision on VOC ([one](https://github.com/jwyang/faster-rcnn.pytorch/issues/2),
# [another](https://github.com/jwyang/faster-rcnn.pytorch/issues/636)).
#
# ## How can a file rule it out?
#
# By saying what it wants. Files of this package carry a description, and a network that is loaded takes over the preprocessing
# with the weights. Training, evaluation and prediction all ask the network, and nobody else:

# %%
own = FOLDER / "own.safetensors"
net = FCN8s(len(WORDS), width=1 / 16, padding="same")
net.preprocessing = "torchvision"
net.save(own, classes=WORDS)
print(weights.read_description(own).to_metadata())
loaded, _ = load_network(own, "cpu")
assert loaded.preprocessing == "torchvision"
show_source(predict)

# %% [markdown]
# For files of others, there are three cases. Some names belong to one publisher only (Keras, Caffe, timm), and that settles it.
# torchvision's names are also those of copies of Caffe's weights for PyTorch, and the first biases tell the two apart, because
# they are known:

# %%
print(schemes.FINGERPRINTS)
print("the small file's first biases:", stand_in()["features.0.bias"][:3])

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
# Where the files come from, and which scores their owners give for them, is written in docs/weights.md. What this package saves
# opens elsewhere, as the names are the published ones.
#
# ## What it has not learned
#
# Is the network at the top of this page any good, then? Every photograph that it labelled had its own squares. So let it learn
# once more, this time from *all* pixels of three photographs, and label the fourth, which it has never seen.
#
# **Predict.** It has to find Grace Hopper, and knows one person, an astronaut in orange. Which parts of her will it find?

# %% tags=["hide-output"]
what = "VGG16's convolutions"
others = [name for name in NAMES if name != "grace_hopper"]
params = learn([(seen[what][name], PHOTOS[name][1]) for name in others])
guess = answer(params, seen[what]["grace_hopper"], "grace_hopper")
image, label = PHOTOS["grace_hopper"]
found_share = {
    part: (guess[rows] == label[rows])[label[rows] == WORDS.index("person")].mean()
    for part, rows in (("head and neck", slice(0, 260)), ("uniform", slice(300, None)))
}
print({part: f"{share:.0%}" for part, share in found_share.items()}, "of the pixels found")
assert not REAL or found_share["head and neck"] > 0.4 > found_share["uniform"]

# %% tags=["hide-input", "hide-output"] alt="Grace Hopper, and her label by the network: her face, a part of her cap and some stars of the flag are found, her coat is not"
figure, axes = plt.subplots(1, 2, figsize=(6, 3.4))
for axis, picture in zip(axes, (image, overlay(image, guess))):
    axis.imshow(picture)
    axis.set_axis_off()
plt.show()

# %% [markdown]
# <details><summary>What it finds</summary>
#
# It finds her face and part of her cap, and leaves the uniform to the background. A face it can tell from one example, because
# VGG16's convolutions have had a million photographs to learn what faces are made of; that people also wear dark jackets, no
# score layer can learn from one woman in a space suit. Good features make few examples go a long way, but not all the way: that
# takes more photographs, and [the next notebook](09_training.ipynb).
#
# </details>

# %% tags=["hide-input"]
TEMPORARY.cleanup()

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: read a header
#
# Read the header of a `.safetensors` file and return a dict: name -> (dtype, shape, place), where place
# is the position in the *file* at which the tensor's first byte lies. The entry `__metadata__`, where
# there is one, is no tensor.
#
# <details><summary>Hint 1</summary>
#
# The header's length is in the first eight bytes, lowest byte first. What do the offsets in the header count from?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Read `int.from_bytes(file.read(8), "little")` bytes more, and give them to `json.loads`. A tensor's first byte is at 8 + this
# length + the first of its `data_offsets`.
#
# </details>

# %% tags=["exercise"]
def list_tensors(path):
    """name -> (dtype, shape, place of the first byte in the file)."""
    raise NotImplementedError


# %% tags=["check"]
with attempt(), TemporaryDirectory() as folder:
    path = Path(folder, "a.safetensors")
    one, two = np.arange(6, dtype=np.float32).reshape(2, 3), np.full(5, 7.0, np.float32)
    values = {"one": one, "two": two}
    safetensors.numpy.save_file(values, path, {"made by": "a check"})
    listed = list_tensors(path)
    assert "__metadata__" not in listed, "__metadata__ is no tensor"
    assert listed.keys() == values.keys(), f"tensors {set(listed)}, expected {set(values)}"
    for name, array in values.items():
        dtype, shape, place = listed[name]
        good = dtype == "F32" and tuple(shape) == array.shape
        assert good, f"{name}: {dtype} {shape}, expected F32 {array.shape}"
        there = np.fromfile(path, "<f4", array.size, offset=place)
        assert np.array_equal(there, array.ravel()), (
            f"{name}: other numbers lie at byte {place}: from where do offsets count?"
        )

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
# ### Exercise 2: a network from Keras
#
# Turn a small classifier of Keras's into ours, all of it. Its tensors are `conv/kernel` (kh, kw, C_in, C_out), `fc6/kernel`
# (side * side * C, D), which sees a map that Keras has flattened, and `fc7/kernel` (D, classes), which sees fc6's outputs; and a
# `bias` for each. Return weights by our names, `conv.weight` and so on, all of them of convolutions: (out, in, height, width).
#
# <details><summary>Hint 1</summary>
#
# Which of the three sees a map, and so has an order of rows, columns and channels in its numbers? What are the height and the
# width of a kernel that sees a single unit?
#
# </details>
# <details><summary>Hint 2</summary>
#
# First make all three four-dimensional in *Keras's* order, (height, width, in, out): fc6 is (side, side, C, D) and fc7 (1, 1, D,
# classes). Then one `transpose(3, 2, 0, 1)` serves all.
#
# </details>

# %% tags=["exercise"]
def from_keras(tensors, side):
    """Weights and biases by our names; fc6 sees maps of side x side units."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    rng = np.random.default_rng(0)
    kernels = {"conv": (3, 3, 3, 4), "fc6": (2 * 2 * 4, 6), "fc7": (6, 5)}
    theirs = {f"{name}/kernel": rng.normal(size=shape) for name, shape in kernels.items()}
    theirs |= {f"{name}/bias": rng.normal(size=shape[-1]) for name, shape in kernels.items()}
    ours = from_keras(dict(theirs), 2)
    shapes = {"conv": (4, 3, 3, 3), "fc6": (6, 4, 2, 2), "fc7": (5, 6, 1, 1)}
    for name, shape in shapes.items():
        assert f"{name}.weight" in ours and f"{name}.bias" in ours, f"{name} is missing"
        got = ours[f"{name}.weight"].shape
        assert got == shape, f"{name}.weight has shape {got}, expected {shape}"
    x = rng.normal(size=(1, 3, 4, 4))
    y, _ = ops.conv2d_forward(x, np.ascontiguousarray(ours["conv.weight"]), ours["conv.bias"])
    right = ops.conv2d_forward(
        x, np.ascontiguousarray(theirs["conv/kernel"].transpose(3, 2, 0, 1)), theirs["conv/bias"]
    )[0]
    expect(y, right, "the convolution's output")
    flat = right.transpose(0, 2, 3, 1).reshape(1, -1)  # as Keras flattens it
    for name in "fc6", "fc7":
        flat = flat @ theirs[f"{name}/kernel"] + theirs[f"{name}/bias"]
        weight = np.ascontiguousarray(ours[f"{name}.weight"])
        y, _ = ops.conv2d_forward(y, weight, ours[f"{name}.bias"])
        assert np.allclose(y[0, :, 0, 0], flat[0]), (
            f"{name}: the shape is right, and its outputs are not: in which order are its inputs?"
        )

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def from_keras(tensors, side):
#     ours = {}
#     for name in "conv", "fc6", "fc7":
#         kernel = tensors[f"{name}/kernel"]
#         if name != "conv":
#             size = side if name == "fc6" else 1
#             kernel = kernel.reshape(size, size, -1, kernel.shape[1])
#         ours[f"{name}.weight"] = kernel.transpose(3, 2, 0, 1)
#         ours[f"{name}.bias"] = tensors[f"{name}/bias"]
#     return ours
# ```
#
# First give the rows back their three axes, in the order in which they were flattened; then move the axes.
#
# </details>

# %% [markdown]
# ### Exercise 3: two preprocessings, one network
#
# conv1_1 was trained on images prepared as for `caffe`. Give it a weight and bias for images prepared as
# for `torchvision`, such that the outputs are the same. `PREPROCESSING["caffe"].mean` and the like have
# the numbers, each in the order of its own channels. (There is no padding in the check. With padding,
# the zeros stand for the mean colour, and the two means differ by up to one grey level.)
#
# <details><summary>Hint 1</summary>
#
# Write down what a pixel becomes for torchvision, solve for the pixel, and put it into what it becomes for Caffe: $a\,t + b$ for
# each channel. Where in a convolution does a factor in front of the input go, and where an addend?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Caffe's value is $255\,\sigma\,t + (255\,\mu - m)$. The factor goes into the weight; the addend meets all 27 weights of a kernel,
# and goes into the bias. Mind that Caffe's channels and mean are in the order B, G, R: turn the weight round first.
#
# </details>

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
        f"outputs differ by up to {abs(difference).max():.3g}, and not by a constant: the weight?"
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
#
# <details><summary>Hint 1</summary>
#
# For each name of the network there are three cases: the file has it in this shape, the file has it in another, or the file
# does not have it.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Load what has the same shape, score layers too. Of the rest, complain about what is in the file and does not begin with `score`.
#
# </details>

# %% tags=["exercise"]
def sort_out(file, network):
    """(names to load, names that stay); `file` and `network` are dicts of name -> shape."""
    raise NotImplementedError


# %% tags=["check"]
with attempt():
    trunk = {"conv1_1.weight": (64, 3, 3, 3), "conv1_1.bias": (64,)}
    network = trunk | {"score_fr.weight": (5, 64, 1, 1), "score_pool4.bias": (5,)}
    network["fc7.bias"] = (64,)
    file = trunk | {"score_fr.weight": (21, 64, 1, 1), "fc8.bias": (1000,)}
    loaded, kept = sort_out(file, network)
    assert sorted(loaded) == sorted(trunk), f"to load: {loaded}, expected conv1_1's"
    stay = ["fc7.bias", "score_fr.weight", "score_pool4.bias"]
    assert sorted(kept) == stay, f"those that stay: {kept}, expected {stay}"
    loaded, kept = sort_out(network, network)
    assert not kept and sorted(loaded) == sorted(network), (
        f"all shapes are the same, and {kept} stay: are score layers loaded where they fit?"
    )
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
