"""The free photographs in data/photographs, labelled by trained networks: `python docs/label_photographs.py OUT RUN...`.

The first row has the photographs; below, a row for each run has them tinted with their labels, as the paper's figure 4 compares
its stages. A legend names the classes that were found.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tinyfcn.data import palette, read_image
from tinyfcn.inference import load
from tinyfcn.plot import overlay

PHOTOGRAPHS = Path(__file__).parents[1] / "data" / "photographs"
SMALLEST = 0.005  # share of a photograph from which on the legend names a class


def label(run: Path, photographs: list[np.ndarray]) -> tuple[list[np.ndarray], list[str]]:
    """Labels of photographs by a run's network, and the names of its classes."""
    trained = load(run)
    return [trained.predict(image) for image in photographs], trained.classes


def draw(photographs: list[np.ndarray], rows: list[list[np.ndarray]], classes: list[str], path: Path) -> None:
    """A column for each photograph, as wide as it is at a common height; a row for each net's labels."""
    widths = [image.shape[1] / image.shape[0] for image in photographs]
    background = classes.index("background") if "background" in classes else None
    height = 12 / sum(widths)  # of a row, in inches
    figure = Figure(figsize=(12, height * (1 + len(rows)) + 0.5), layout="constrained")
    axes = figure.subplots(1 + len(rows), len(photographs), width_ratios=widths, squeeze=False)
    found: set[int] = set()
    for column, image in enumerate(photographs):
        axes[0, column].imshow(image)
        for axis, labels in zip(axes[1:, column], rows, strict=True):
            axis.imshow(overlay(image, labels[column], background, opacity=0.7))
            shares = np.bincount(labels[column].ravel(), minlength=len(classes)) / labels[column].size
            found |= {k for k, share in enumerate(shares) if share > SMALLEST and k != background}
    for axis in axes.ravel():
        axis.set_axis_off()
    colours = palette() / 255
    handles = [Patch(facecolor=colours[k], label=classes[k]) for k in sorted(found)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(max(len(handles), 1), 8), frameon=False)
    figure.savefig(path, dpi=75)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("out", type=Path, metavar="OUT", help="a .png or .jpg file")
    parse.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run, or a file of weights")
    options = parse.parse_args()
    photographs = [read_image(path) for path in sorted(PHOTOGRAPHS.glob("*.jpg"))]
    labelled = [label(run, photographs) for run in options.runs]
    draw(photographs, [labels for labels, _ in labelled], labelled[0][1], options.out)


if __name__ == "__main__":
    main()
