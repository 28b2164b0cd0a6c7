"""Pictures of labels, predictions and training curves, in VOC's colours or the classes' own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tinyfcn.data import IGNORE, palette
from tinyfcn.errors import one_line
from tinyfcn.files import replacing
from tinyfcn.parallel import PIECE, split_evenly
from tinyfcn.report import Row, read_log

LEAST = 1e-12  # loss that a logarithmic axis shows: a batch without a labelled pixel has none
NUMBERED = 21  # classes up to which a confusion matrix has room for numbers
LETTERS = 12  # pixels: the least height of a legend's text

Colours = Sequence[Sequence[int]]

# Matplotlib's figures take as long to import as all the rest together, so they wait until a picture is drawn.


def colour(label: np.ndarray, own: Colours | None = None) -> np.ndarray:
    """Labels (H, W) as colours (H, W, 3) uint8: VOC's, or the classes' own."""
    colours: np.ndarray = palette(own)[label]
    return colours


def overlay(
    image: np.ndarray, label: np.ndarray, background: int | None = None, opacity: float = 0.55, own: Colours | None = None
) -> np.ndarray:
    """The image (H, W, 3) uint8 tinted with its labels' colours; pixels of class `background` stay as they are."""
    result = np.empty_like(image)
    for rows in split_evenly(len(label), -(-label.size // PIECE)):  # in floats a whole photograph would take 40 bytes per pixel
        pixels = image[rows]
        tinted = pixels + opacity * (colour(label[rows], own).astype(np.float32) - pixels)
        clear = (label[rows] == background)[..., None]
        result[rows] = np.where(clear, pixels, tinted).round().astype(np.uint8)
    return result


def with_legend(picture: np.ndarray, names: Mapping[int, str], own: Colours | None = None) -> np.ndarray:
    """A picture (H, W, 3) uint8, and to the right of it the names of classes, each beside its colour.

    The font is Matplotlib's, which has Latin, Greek, Cyrillic, Arabic and Hebrew letters, and others. Each name has its index
    before it, which tells the classes apart where the font cannot.
    """
    from matplotlib import get_data_path

    if not names:
        return picture
    height, width = picture.shape[:2]
    size = max(LETTERS, min(height // 36, int(height / (1.6 * len(names) + 1))))
    font = ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
    texts = {k: one_line(name, 40) for k, name in names.items()}
    gap, line = size // 2, int(1.6 * size)
    index_right = 2 * gap + size + int(font.getlength(str(max(texts))))
    right = index_right + gap + int(max(map(font.getlength, texts.values()))) + 2 * gap
    strip = Image.new("RGB", (right, max(height, line * len(texts) + 2 * gap)), "white")
    pen, colours = ImageDraw.Draw(strip), palette(own)
    for place, (k, text) in enumerate(texts.items()):
        top = gap + place * line
        pen.rectangle((gap, top, gap + size, top + size), tuple(colours[k].tolist()), "grey")
        pen.text((index_right, top + size / 2), str(k), "black", font, "rm")
        pen.text((index_right + gap, top + size / 2), text, "black", font, "lm")
    result = np.full((strip.height, width + strip.width, 3), 255, np.uint8)
    result[:height, :width] = picture
    result[:, width:] = np.asarray(strip)
    return result


def plain(text: str) -> str:
    """Text of others as Matplotlib shows it: a dollar sign would begin a formula."""
    return one_line(text, 40).replace("$", r"\$")


def predictions(
    rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    classes: Sequence[str],
    title: str,
    path: str | Path,
    own: Colours | None = None,
) -> None:
    """A picture with a row per example, (image, truth, prediction), and a legend of the classes that occur."""
    from matplotlib.figure import Figure

    present = np.unique(np.concatenate([np.concatenate([t.ravel(), p.ravel()]) for _, t, p in rows]))
    aspect = np.mean([image.shape[0] / image.shape[1] for image, _, _ in rows])
    figure = Figure(figsize=(9, 0.7 + len(rows) * 3 * aspect + 0.25 * (len(present) // 5 + 1)), layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False)
    for text, axis in zip(("image", "truth", f"prediction, {title}" if title else "prediction"), axes[0], strict=True):
        axis.set_title(text, fontsize="medium")
    for line, (image, truth, prediction) in zip(axes, rows, strict=True):
        for axis, picture in zip(line, (image, colour(truth, own), colour(prediction, own)), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_axis_off()
    add_legend(figure, present.tolist(), classes, own, columns=5)
    save(figure, path)


def confusion(counts: np.ndarray, classes: Sequence[str], path: str | Path) -> None:
    """Where each class's pixels went: `counts` (num_classes, num_classes), a row per true class, as shares of the row."""
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    pixels = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, pixels, out=np.full(counts.shape, np.nan), where=pixels > 0)  # a class without pixels stays grey
    number = len(classes)
    numbered = number <= NUMBERED
    side, size = 2.5 + number * (0.36 if numbered else 0.13), 8 if numbered else 6.5
    figure = Figure(figsize=(side, side), layout="constrained")
    axis = figure.subplots()
    axis.set_facecolor("0.92")
    drawn = axis.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")  # so that small shares show
    names = [plain(name) for name in classes]
    axis.set_xticks(range(number), names, rotation=90, fontsize=size)
    axis.set_yticks(range(number), names, fontsize=size)
    axis.set(xlabel="predicted", ylabel="true")
    axis.set_title(f"{'percent' if numbered else 'share'} of each true class's pixels", fontsize=9)
    if not numbered:
        figure.colorbar(drawn, shrink=0.5)
    for (row, column), value in np.ndenumerate(100 * share):
        if numbered and value >= 0.5:
            ink = "white" if value > 40 else "black"
            axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=ink)
    save(figure, path)


def curves(log: str | Path, path: str | Path) -> None:
    """The losses and the validation scores of a log.csv over the steps."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    rows = read_log(Path(log))
    figure = Figure(figsize=(11, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    for name, style in (("loss", {"linewidth": 1}), ("validation_loss", {"marker": "o", "markersize": 4})):
        steps, losses = _series(rows, name)
        left.plot(steps, np.maximum(losses, LEAST), label="validation" if "validation" in name else "training", **style)
    left.set(xlabel="step", ylabel="loss", yscale="log", xlim=(0, None))
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_minor_formatter(NullFormatter())
    for name, marker in (("pixel_accuracy", "o"), ("mean_accuracy", "^"), ("mean_iou", "s"), ("frequency_weighted_iou", "d")):
        right.plot(*_series(rows, name), marker=marker, markersize=4, label=name.replace("_", " "))
    right.set(xlabel="step", ylabel="score on held-out images", ylim=(0, 1))
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=(1, 2, 2.5, 5, 10)))
        axis.xaxis.set_major_formatter(FuncFormatter(_number))
        axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    left.yaxis.set_major_formatter(FuncFormatter(_number))
    save(figure, path)


def _number(value: float, _: object) -> str:
    """A tick's number in full, without powers of ten."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.6f}".rstrip("0").rstrip(".")


def add_legend(figure: Any, present: Sequence[int], classes: Sequence[str], own: Colours | None, columns: int) -> None:
    """Name the classes that are present in a figure, below it, each beside its colour."""
    from matplotlib.patches import Patch

    names = {k: "ignored" if k == IGNORE else plain(classes[k]) for k in present}
    handles = [Patch(facecolor=palette(own)[k] / 255, edgecolor="0.5", label=name) for k, name in names.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def save(figure: Any, path: str | Path, dpi: int = 100) -> None:
    with warnings.catch_warnings(), replacing(Path(path)) as partial:
        warnings.filterwarnings("ignore", "Glyph")  # letters that the font lacks
        figure.savefig(partial, dpi=dpi, format="png")


def _series(rows: list[Row], name: str) -> tuple[list[int], list[float]]:
    found = [(row["step"], row[name]) for row in rows if row[name] is not None]
    return [step for step, _ in found], [value for _, value in found]
