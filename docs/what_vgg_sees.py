"""What VGG16 sees, and where: makes the pictures and the numbers of what_vgg_sees.md.

    python docs/what_vgg_sees.py --weights VGG16_FILE --boxes FOLDER

VGG16_FILE is any file of VGG16's weights that `python -m tinyfcn.convert` takes; for FOLDER, see boxes.py.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from boxes import Box, cut, enlarge, inside, read_boxes
from drawing import PHOTOGRAPHS, collage, draw
from numpy.lib.stride_tricks import sliding_window_view

from tinyfcn import command, ops
from tinyfcn.bench.__main__ import machine
from tinyfcn.convert.identify import identify
from tinyfcn.data import normalise, read_image
from tinyfcn.errors import InputError
from tinyfcn.models import VGG16
from tinyfcn.models.vgg import VGG
from tinyfcn.optim import Adam, poly

HERE = Path(__file__).resolve().parent
PICTURES = HERE / "pictures"
CLASSES = ("bus", "car", "cat", "person", "train")
COLLAGE = [[("chelsea", 288), ("grace_hopper", 192)], [("astronaut", 192), ("coffee", 288)]]  # 480 x 384 pixels
UNITS = 7  # a crop is so many units of conv5_3 wide, as pool5 is for an image of 224 pixels
GRID = VGG.grids(first_padding=1)[3]  # pool4's units; conv5's kernels of 3x3 with padding 1 leave them where they are
STRIDE = int(GRID.stride)
SIDE = UNITS * STRIDE  # of a crop, in pixels
Params = dict[str, np.ndarray]


def load_trunk(path: Path) -> VGG16:
    """VGG16 with the convolutions of a file; its fully connected layers are not used, and are as small as they can be."""
    source = identify(path)
    convs = {f"{conv.name}.{kind}" for conv in VGG.convs for kind in ("weight", "bias")}
    if not convs <= source.tensors.keys() or source.description.preprocessing is None:
        raise InputError(f"{path}: {source.title}; give a VGG16 that says how its images are prepared, see tinyfcn.convert")
    net = VGG16(num_classes=1, hidden=1, width=source.description.width)
    net.assign({name: source.tensors[name].read() for name in convs}, source.description, source=path, partial=True)
    return net


def conv5_3(net: VGG16, images: np.ndarray) -> np.ndarray:
    """What the last convolution makes of images (N, H, W, 3) uint8: maps (N, 512, H / 16, W / 16)."""
    first_four = VGG._replace(blocks=VGG.blocks[:4])
    x = first_four.forward(net, normalise(images, net.preprocessing), first_padding=1)[-1]
    for conv in VGG.blocks[4].convs:
        x = net.conv(conv.name, x, padding=conv.padding, relu=True)
    return x


def features(net: VGG16, crops: Iterable[np.ndarray], batch: int = 16) -> np.ndarray:
    """conv5_3 averaged over each crop, (N, 512): how much there is of each channel, but no longer where."""
    crops, found = iter(crops), []
    while images := list(islice(crops, batch)):
        found.append(conv5_3(net, np.stack(images)).mean(axis=(2, 3)))
    return np.concatenate(found)


def train_head(x: np.ndarray, labels: np.ndarray, steps: int = 100, batch: int = 256) -> Params:
    """A linear layer that tells the classes from features x (N, C), learned from labels (N,) by softmax cross-entropy.

    Features are divided by their root mean square, so that the learning rate fits any trunk; in the end, the weights are instead.
    """
    rng, optimiser, scale = np.random.default_rng(0), Adam(lr=2e-3), np.sqrt((x**2).mean())
    head = {"fc.weight": np.zeros((len(CLASSES), x.shape[1]), x.dtype), "fc.bias": np.zeros(len(CLASSES), x.dtype)}
    for step in range(steps):
        drawn = rng.integers(len(x), size=batch)
        scores, cache = ops.linear_forward(x[drawn] / scale, *head.values())
        _, loss_cache = ops.softmax_cross_entropy_forward(scores, labels[drawn])
        _, *gradients = ops.linear_backward(ops.softmax_cross_entropy_backward(1, loss_cache), cache)
        optimiser.step(head, dict(zip(head, gradients, strict=True)), lr_factor=poly(step / steps))
    return head | {"fc.weight": head["fc.weight"] / scale}


def classify(head: Params, x: np.ndarray) -> np.ndarray:
    """Scores (N, classes) of features (N, C): a fully connected layer."""
    return ops.linear_forward(x, head["fc.weight"], head["fc.bias"])[0]


def class_maps(head: Params, maps: np.ndarray) -> np.ndarray:
    """Scores (N, classes, h, w) of maps (N, C, h, w): the same weights, as a convolution with kernels of 1x1."""
    return ops.conv2d_forward(maps, head["fc.weight"][:, :, None, None], head["fc.bias"])[0]


def highest(scores: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    """The pixel, (row, column), of an image of this size at the centre of the unit with the highest score in a map (h, w)."""
    unit = np.unravel_index(scores.argmax(), scores.shape)
    row, column = (min(int(GRID.stride * k + GRID.start), side - 1) for k, side in zip(unit, size, strict=True))
    return row, column


def point(net: VGG16, head: Params, image: np.ndarray, boxes: Sequence[Box], zoom: int = 2) -> list[tuple]:
    """For each class that has boxes in the image, which is enlarged first: (label, whether the highest place of its map lies in
    one of its boxes, whether the image's middle does, the share of the image that the boxes cover)."""
    image = enlarge(image, zoom)
    size, maps = image.shape[:2], class_maps(head, conv5_3(net, image[None]))[0]
    found = []
    for label in sorted({box.label for box in boxes}):
        mask = inside([box for box in boxes if box.label == label], size, zoom)
        found.append((label, mask[highest(maps[label], size)], mask[size[0] // 2, size[1] // 2], mask.mean()))
    return found


def race(net: VGG16, head: Params, image: np.ndarray) -> dict[str, float]:
    """The classifier on each of the crops that begin at every 16th pixel, against one pass of the convolution, in CPU seconds."""
    crops = sliding_window_view(image, (SIDE, SIDE, 3))[::STRIDE, ::STRIDE].reshape(-1, SIDE, SIDE, 3)
    times = [time.process_time()]
    one_by_one = classify(head, features(net, crops))
    times.append(time.process_time())
    maps = class_maps(head, conv5_3(net, image[None]))[0]
    times.append(time.process_time())
    means = sliding_window_view(maps, (UNITS, UNITS), axis=(1, 2)).mean(axis=(3, 4))  # over the units of each crop
    correlation = np.corrcoef(means.reshape(len(maps), -1).T.ravel(), one_by_one.ravel())[0, 1]
    return dict(
        zip(("crops", "crops' time", "pass's time", "correlation"), (len(crops), *np.diff(times), correlation), strict=True)
    )


def see(net: VGG16) -> None:
    """Draw the strongest channels of each free photograph."""
    rows = []
    for name in ("chelsea", "grace_hopper", "astronaut", "coffee"):
        image = read_image(PHOTOGRAPHS / f"{name}.jpg")
        maps = conv5_3(net, image[None])[0]
        rows.append((image, maps[np.argsort(-maps.mean(axis=(1, 2)))[:3]]))
    draw(PICTURES / "channels.jpg", ["photograph", "strongest channel", "second", "third"], rows, GRID)


def learn(net: VGG16, folder: Path, boxes: list[Box], held_out: list[str]) -> tuple[Params, dict[str, Any]]:
    """The head, learned from the crops of all photographs but those held out, and how well it does on each kind."""
    x = features(net, (cut(read_image(folder / "JPEGImages" / box.file), box, SIDE) for box in boxes))
    labels, test = np.array([box.label for box in boxes]), np.isin([box.file for box in boxes], held_out)
    head = train_head(x[~test], labels[~test])
    right = classify(head, x).argmax(axis=1) == labels
    results = {
        name: {"crops": some.sum(), "accuracy": right[some].mean()} for name, some in (("training", ~test), ("held out", test))
    }
    return head, results | {"most frequent class": (labels[test] == np.bincount(labels[~test]).argmax()).mean()}


def locate(net: VGG16, head: Params, image: np.ndarray) -> dict[str, Any]:
    """Draw where the cat and the persons of an image are; the classifier's scores, which the maps' means must be."""
    maps = conv5_3(net, image[None])
    scores, places = classify(head, maps.mean(axis=(2, 3)))[0], class_maps(head, maps)[0]
    difference = np.abs(places.mean(axis=(1, 2)) - scores).max()
    assert difference < 1e-3, f"the mean of a class's map must be the class's score, and is off by {difference}"
    shown = [CLASSES.index("cat"), CLASSES.index("person")]
    draw(PICTURES / "classes.jpg", ["one picture", "cat", "person"], [(image, places[shown])], GRID)
    return {"scores": dict(zip(CLASSES, scores, strict=True)), "mean of map minus score": difference}


def tally(pointed: list[tuple]) -> dict[str, dict[str, float]]:
    """How often `point` hits, for all, for objects that cover less than a quarter of their photograph, and for each class."""
    table = np.array(pointed, float)
    groups = {"all": table, "less than a quarter": table[table[:, 3] < 0.25]}
    groups |= {name: table[table[:, 0] == label] for label, name in enumerate(CLASSES)}
    columns = ("pairs", "highest place", "middle", "share")
    return {name: dict(zip(columns, (len(t), *t[:, 1:].mean(axis=0)), strict=True)) for name, t in groups.items() if len(t)}


def main() -> None:
    parse = command.Parser(prog="python docs/what_vgg_sees.py", description="Make the pictures and numbers of what_vgg_sees.md.")
    parse.add_argument("--weights", type=Path, required=True, metavar="VGG16_FILE", help="VGG16's weights, of any publisher")
    parse.add_argument("--boxes", type=Path, required=True, metavar="FOLDER", help="has JPEGImages/ and boxes.tsv")
    options = parse.parse_args()
    started = time.perf_counter(), time.process_time()
    net, boxes, image = load_trunk(options.weights), read_boxes(options.boxes, CLASSES), collage(COLLAGE, height=192)
    held_out = list(dict.fromkeys(box.file for box in boxes))[3::5]  # on [0::5], the settings were chosen
    see(net)
    head, learned = learn(net, options.boxes, boxes, held_out)
    located = locate(net, head, image)
    pointed = []
    for file in held_out[::2]:
        photograph = read_image(options.boxes / "JPEGImages" / file)
        pointed += point(net, head, photograph, [box for box in boxes if box.file == file])
    results = {"command": "python docs/what_vgg_sees.py --weights VGG16_FILE --boxes FOLDER"}
    results |= {key: machine(np)[key] for key in ("cpu", "device", "python")}
    results |= learned | located | {"pointing": tally(pointed), "race": race(net, head, image)}
    results |= {"seconds": time.perf_counter() - started[0], "CPU seconds": time.process_time() - started[1]}
    text = json.dumps(results, indent=1, default=lambda number: number.item())
    (HERE / "what_vgg_sees.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    sys.exit(command.run(main))
