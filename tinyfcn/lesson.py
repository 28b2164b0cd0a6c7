"""What the notebooks share: a look, the photographs, the network that sees them, and the checks of exercises.

Nothing else in the package imports it. It takes IPython, which the extra `notebooks` brings. From the command line,
`python -m tinyfcn.lesson [FOLDER ...]` prints which exercises have been solved, as the notebooks saved there show.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from IPython.display import HTML, Code, display
from PIL import Image, ImageDraw

from tinyfcn.convert.identify import identify
from tinyfcn.data import IGNORE, VOC_CLASSES, normalise, read_image, resize
from tinyfcn.models import VGG16
from tinyfcn.models.vgg import VGG

PACKAGE = Path(__file__).resolve().parent
for beside in Path.cwd().parents:  # a notebook runs in its own folder
    if (beside / "tinyfcn" / "__init__.py").is_file() and not PACKAGE.samefile(beside / "tinyfcn"):
        raise ImportError(
            f"these notebooks belong to {beside / 'tinyfcn'}, but Python finds {PACKAGE}: "
            f'run pip install -e ".[notebooks]" in {beside}, and restart the kernel'
        )

# The wheel has the photographs and the results of runs within the package, the repository has them beside it.
DATA = PACKAGE / "data" if (PACKAGE / "data" / "photographs").is_dir() else PACKAGE.parent / "data"
CAT = VOC_CLASSES.index("cat")
# The cat's outlines in the photograph, left and right of it, drawn by hand: columns, and rows.
LEFT = (-4, 22, 34, 32, 30, 38), (127, 117, 101, 75, 42, -4)
RIGHT = (399, 388, 370, 354, 358, 363, 357, 345, 330, 319, 311, 318), (-4, 27, 50, 76, 100, 128, 156, 180, 203, 244, 268, 304)

# Okabe and Ito's colours, which people with any kind of colour vision tell apart.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]
BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, BLACK = COLOURS

plt.rcParams.update(
    {
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.use": True,
        "figure.dpi": 100,
        "figure.figsize": (8, 3.2),
        "image.cmap": "viridis",
        "image.interpolation": "nearest",
    }
)


def show_source(*things: Any) -> None:
    """Display the source of functions of the package, as it is."""
    for thing in things:
        display(Code(inspect.getsource(thing), language="python"))


def seconds(call: Callable[[], Any], repeats: int = 5) -> float:
    """The median time of a call, after one that does not count."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return sorted(times)[repeats // 2]


def fastest(calls: dict[Any, Callable[[], Any]], rounds: int = 20) -> dict[Any, float]:
    """The best time of each call, in seconds: whatever else the machine does can only add to it.

    They take turns, so that a busy moment meets them all.
    """
    taken = dict.fromkeys(calls, np.inf)
    for _ in range(4):
        for name, call in calls.items():
            time.sleep(0.05)  # let the threads of the last product, which spin on, come to rest
            call()  # does not count
            for _ in range(max(rounds // 4, 2)):
                started = time.perf_counter()
                call()
                taken[name] = min(taken[name], time.perf_counter() - started)
    return taken


@contextmanager
def switched(**options: object) -> Iterator[None]:
    """Environment variables, such as TINYFCN_CONV, for a while."""
    with mock.patch.dict(os.environ, {name: str(value) for name, value in options.items()}):
        yield


def photograph(name: str = "chelsea") -> np.ndarray:
    """A free photograph, (H, W, 3) uint8: Chelsea the cat, whom all notebooks look at, grace_hopper, astronaut or coffee."""
    return read_image(DATA / "photographs" / f"{name}.jpg")


def recorded(name: str) -> Any:
    """What a run or a bench on some machine has measured: `data/results/NAME.json`."""
    return json.loads((DATA / "results" / f"{name}.json").read_text(encoding="utf-8"))


def photograph_label() -> np.ndarray:
    """The photograph's label, (300, 451) uint8, as VOC's are: 0 is background, 8 is cat, and 255 the outline."""
    height, width, _ = photograph().shape
    label = Image.new("L", (width, height))
    draw = ImageDraw.Draw(label)
    outlines = [list(zip(*outline, strict=True)) for outline in (LEFT, RIGHT)]
    draw.polygon([*outlines[0], *outlines[1], (-4, height + 4)], fill=CAT)
    for outline in outlines:
        draw.line(outline, fill=IGNORE, width=5, joint="curve")
    return np.array(label)


WORDS = ("background", "cat", "person", "cup")  # the classes in the four free photographs
THINGS = {"grace_hopper": "person", "astronaut": "person", "coffee": "cup"}
# Their outlines: columns and rows, in turns, some of them beyond the picture's edge.
OUTLINES = {
    "grace_hopper": (
        *(18, 489, 20, 400, 28, 325, 60, 302, 120, 275, 155, 252, 150, 235, 133, 215, 125, 180, 123, 145, 127, 130, 120, 120),
        *(122, 85, 145, 65, 150, 45, 180, 22, 205, 15, 235, 22, 262, 45, 280, 68, 298, 80, 298, 115, 288, 130, 300, 150),
        *(293, 185, 280, 240, 262, 250, 300, 272, 375, 302, 400, 322, 419, 345, 419, 489),
    ),
    "astronaut": (
        *(28, 489, 32, 420, 22, 370, 30, 310, 40, 265, 70, 230, 105, 205, 108, 170, 125, 150, 160, 140, 172, 138, 165, 115),
        *(148, 100, 145, 65, 165, 35, 205, 17, 240, 17, 270, 40, 284, 75, 280, 110, 262, 125, 250, 140, 250, 162, 275, 180),
        *(292, 215, 300, 238, 330, 258, 344, 290, 350, 322, 400, 330, 440, 360, 462, 410, 468, 440, 489, 455, 489, 489),
    ),
    "coffee": (
        *(62, 168, 76, 120, 105, 88, 137, 72, 150, 45, 185, 22, 230, 14, 275, 22, 312, 45, 328, 78, 333, 56, 340, 58, 336, 84),
        *(362, 112, 380, 150, 383, 190, 368, 230, 335, 268, 290, 295, 235, 307, 170, 303, 115, 283, 78, 245, 63, 205),
    ),
}


def labelled(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A free photograph, (H, W, 3) uint8, and its label (H, W) uint8: places in WORDS, and 255 along the outline."""
    if name == "chelsea":
        label = photograph_label()
        return photograph(), np.where(label == CAT, WORDS.index("cat"), label).astype(np.uint8)
    image, outline = photograph(name), OUTLINES[name]
    drawn = Image.new("L", (image.shape[1], image.shape[0]))
    draw = ImageDraw.Draw(drawn)
    draw.polygon(outline, fill=WORDS.index(THINGS[name]))
    draw.line([*outline, *outline[:2]], fill=IGNORE, width=5, joint="curve")
    return image, np.array(drawn)


SQUARES = {  # of each free photograph, around its thing: top, left, side
    "chelsea": (0, 151, 300),
    "grace_hopper": (0, 0, 410),
    "astronaut": (0, 0, 480),
    "coffee": (0, 50, 320),
}


def labelled_squares() -> tuple[np.ndarray, np.ndarray]:
    """A square of each free photograph, (4, 128, 128, 3) uint8, and of its label, (4, 128, 128) uint8; see `labelled`."""
    pairs = []
    for name, (top, left, side) in SQUARES.items():
        image, label = (np.ascontiguousarray(a[top : top + side, left : left + side]) for a in labelled(name))
        pairs.append(resize(image, label, (128, 128)))
    images, labels = zip(*pairs, strict=True)
    return np.stack(images), np.stack(labels)


def paint(labels: np.ndarray) -> np.ndarray:
    """Labels (..., H, W) in colours (..., H, W, 3): background dark, cat orange, person blue, cup green, 255 white."""
    colours = np.full((256, 3), 255, np.uint8)
    colours[: len(WORDS)] = (40, 40, 40), (230, 159, 0), (0, 114, 178), (0, 158, 115)
    return np.asarray(colours[labels])


def vgg16(file: str) -> VGG16:
    """VGG16 with the thirteen convolutions of a file of its weights, or, where there is no such file, with random ones."""
    net = VGG16(num_classes=1, hidden=1)  # its fully connected layers are not used, and are as small as they can be
    if not Path(file).is_file():
        print(f"There is no file {file}: random convolutions stand in for VGG16's, and what they see means nothing.")
        return net
    source = identify(file)
    names = [f"{conv.name}.{kind}" for conv in VGG.convs for kind in ("weight", "bias")]
    net.assign({name: source.tensors[name].read() for name in names}, source.description, source=file, partial=True)
    return net


def see(net: VGG16, image: np.ndarray, last: str = "pool5") -> dict[str, np.ndarray]:
    """What each convolution, after its ReLU, and each pooling makes of an image (H, W, 3) uint8, up to the layer `last`.

    Maps (C, h, w) by the name of the layer: conv1_1, conv1_2, pool1, ..., pool5.
    """
    x, maps = normalise(image[None], net.preprocessing), {}
    net.start(x, training=False)
    for number, block in enumerate(VGG.blocks, start=1):
        for name in [*(conv.name for conv in block.convs), f"pool{number}"]:
            x = net.pool(name, x) if name.startswith("pool") else net.conv(name, x, padding=1, relu=True)
            maps[name] = x[0]
            if name == last:
                return maps
    raise ValueError(f"VGG16 has no layer {last!r}")


def tiles(values: np.ndarray, left: float, top: float, side: float, colours: Any = "#eeeeee") -> str:
    """SVG of a matrix: a square with a number for each entry, none where it is nan, in one colour or an array of colours."""
    drawn = []
    for (r, c), colour in np.ndenumerate(np.broadcast_to(np.asarray(colours, object), values.shape)):
        x, y = left + c * side, top + r * side
        drawn.append(f'<rect x="{x:g}" y="{y:g}" width="{side - 1:g}" height="{side - 1:g}" fill="{colour}"/>')
        if not np.isnan(values[r, c]):
            middle = f'x="{x + side / 2:g}" y="{y + 0.66 * side:g}" font-size="{0.42 * side:g}" text-anchor="middle"'
            drawn.append(f"<text {middle}>{values[r, c]:g}</text>")
    return "".join(drawn)


def image_tile(image: np.ndarray, left: float, top: float, width: float, height: float) -> str:
    """SVG of an image (H, W, 3) uint8, as a JPEG within it."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=80)
    place = f'x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}"'
    return f'<image {place} href="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"/>'


def slider(pictures: list[str], captions: list[str], width: int, height: int, below: str = "") -> HTML:
    """SVG pictures, one at a time, on what lies `below` them all, with a slider for mouse, arrow keys and fingers.

    Without scripts, the last is shown.
    """
    last = len(pictures) - 1
    frames = "".join(
        f'<g style="display:{"inline" if k == last else "none"}">{picture}<text x="4" y="{height - 8}" font-size="14">'
        f"{caption}</text></g>"
        for k, (picture, caption) in enumerate(zip(pictures, captions, strict=True))
    )
    name = "slider" + hashlib.sha256(frames.encode()).hexdigest()[:8]  # the same on every run
    show = f"document.querySelectorAll('#{name} g').forEach((g,k)=>g.style.display=k==this.value?'inline':'none')"
    return HTML(
        f'<svg id="{name}" viewBox="0 0 {width} {height}" role="img" font-family="sans-serif" '
        f'style="width:100%;max-width:{width}px;background:white;display:block">{below}{frames}</svg>'
        f'<input type="range" min="0" max="{last}" value="{last}" aria-label="step" oninput="{show}" '
        f'style="width:100%;max-width:{width}px">'
    )


def expect(found: Any, expected: np.ndarray, what: str, **factors: float) -> None:
    """Raise an AssertionError that suggests a cause, unless `found` is, up to rounding, what was expected.

    `factors` names numbers by which one goes wrong easily: expect(dx, right, "dx", N=4) may ask for N.
    """
    assert isinstance(found, np.ndarray | np.generic | float), f"{what} is a {type(found).__name__}: is a `return` missing?"
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    axes = "; are two axes swapped?" if sorted(found.shape) == sorted(expected.shape) else ""
    assert found.shape == expected.shape, f"{what} has shape {found.shape}, expected {expected.shape}{axes}"
    assert np.isfinite(found).all(), f"{what} has entries that are not finite: divided by 0, or np.empty not filled?"
    tolerance = 1e-6 * max(abs(expected).max(initial=0), 1e-6)

    def equal(one: np.ndarray, other: np.ndarray) -> bool:
        return one.shape == other.shape and bool((abs(one - other) <= tolerance).all())

    if equal(found, expected):
        return
    ratio = float((found * expected).sum() / max((expected**2).sum(), 1e-300))
    if not found.any():
        cause = "all of it is 0"
    elif equal(found, ratio * expected):
        named = [name for name, value in factors.items() if np.isclose([value, 1 / value], abs(ratio)).any()]
        cause = f"off by a factor of {ratio:.4g}"
        cause += f", which is {named[0]} or 1 / {named[0]}: averaged twice, or not at all?" if named else ""
        cause += " (a sign?)" if ratio < 0 else ""
    elif found.ndim > 1 and equal(found.swapaxes(-1, -2), expected):
        cause = "it is transposed"
    elif equal(found[..., ::-1], expected) or (found.ndim > 1 and equal(found[..., ::-1, ::-1], expected)):
        cause = "it is turned round"
    else:
        wrong = abs(found - expected) > tolerance
        place = tuple(int(k) for k in np.argwhere(wrong)[0])
        cause = f"{wrong.mean():.0%} of it is wrong; first at {place}: {found[place]:.4g}, expected {expected[place]:.4g}"
        if (abs(found[wrong]) < abs(expected[wrong])).all():
            cause += "; too small wherever it is wrong: is something overwritten that should be added to?"
    raise AssertionError(f"{what}: {cause}")


@contextmanager
def attempt() -> Iterator[None]:
    """Around the check of an exercise: says how it went, and goes on; nbgrader needs an error to see a failure."""
    passed = False
    try:
        yield
    except NotImplementedError:
        print("Not solved yet.")
    except AssertionError as error:
        print(f"Not right yet: {error}")
    except Exception as error:
        print(f"Not right yet: {type(error).__name__}: {error}")
    else:
        passed = True
        print("Right!")
    if "NBGRADER_EXECUTION" in os.environ and not passed:
        raise AssertionError("this exercise is not solved yet")


STATES = {"Right!": "right", "Not right yet": "not right yet", "Not solved yet": "not solved yet"}


def exercises(notebook: Path) -> list[tuple[str, str]]:
    """Title and state of each exercise of a notebook: what its check printed when the notebook was last saved."""
    found, title = [], ""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if heading := re.search(r"^### Exercise \d+: (.*)$", source, flags=re.MULTILINE):
            title = heading[1]
        if "check" in cell["metadata"].get("tags", []):
            printed = "".join("".join(output.get("text", [])) for output in cell["outputs"])
            found.append((title, next((state for words, state in STATES.items() if words in printed), "not run")))
    return found


def progress(folder: str | Path = ".") -> None:
    """Print a table of all exercises of the notebooks in a folder."""
    solved = total = 0
    for notebook in sorted(Path(folder).glob("[0-9][0-9]_*.ipynb")):
        found = exercises(notebook)
        right = sum(state == "right" for _, state in found)
        solved, total = solved + right, total + len(found)
        print(f"{notebook.stem}: {right} of {len(found)}")
        for title, state in found:
            print(f"  {'[x]' if state == 'right' else '[ ]'} {title:50} {state}")
    print(f"{solved} of {total} exercises are solved")


if __name__ == "__main__":
    for folder in sys.argv[1:] or ["."]:
        if len(sys.argv) > 2:
            print(f"== {folder}")
        progress(folder)
