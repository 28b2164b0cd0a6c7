"""The free photographs in data/photographs, labelled by a trained network: `python docs/label_photographs.py RUN OUT.png`.

Each photograph stands above itself tinted with its labels; a legend names the classes that were found.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tinyfcn.backend import to_host
from tinyfcn.data import palette, read_image
from tinyfcn.plot import overlay
from tinyfcn.trainer import load_network, predict

PHOTOGRAPHS = Path(__file__).parents[1] / "data" / "photographs"
SMALLEST = 0.005  # share of a photograph from which on the legend names a class


def draw(rows: list[tuple[np.ndarray, np.ndarray]], classes: list[str], path: Path) -> None:
    """A column for each (photograph, labels), as wide as the photograph is at a common height."""
    widths = [image.shape[1] / image.shape[0] for image, _ in rows]
    background = classes.index("background") if "background" in classes else None
    figure = Figure(figsize=(12, 24 / sum(widths) + 0.5), layout="constrained")
    axes = figure.subplots(2, len(rows), width_ratios=widths, squeeze=False)
    found: set[int] = set()
    for (above, below), (image, label) in zip(axes.T, rows, strict=True):
        above.imshow(image)
        below.imshow(overlay(image, label, background, opacity=0.7))
        shares = np.bincount(label.ravel(), minlength=len(classes)) / label.size
        found |= {k for k, share in enumerate(shares) if share > SMALLEST and k != background}
    for axis in axes.ravel():
        axis.set_axis_off()
    colours = palette() / 255
    handles = [Patch(facecolor=colours[k], label=classes[k]) for k in sorted(found)]
    figure.legend(handles=handles, loc="outside lower center", ncols=max(1, len(handles)), frameon=False, fontsize=13)
    figure.savefig(path, dpi=75)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or a file of weights")
    parse.add_argument("out", type=Path, metavar="OUT.png")
    parse.add_argument("--zoom", type=float, help="let the network see the photographs so many times as large")
    options = parse.parse_args()
    net, description = load_network(options.run)
    zoom = options.zoom or description.get("zoom", 1.0)
    photographs = [read_image(path) for path in sorted(PHOTOGRAPHS.glob("*.jpg"))]
    rows = [(image, to_host(predict(net, image, zoom))) for image in photographs]
    draw(rows, description["classes"], options.out)


if __name__ == "__main__":
    main()
