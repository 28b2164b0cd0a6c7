"""`python -m tinyfcn.predict RUN IMAGE... --out DIR`: label every pixel of photographs."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from tinyfcn import command, plot
from tinyfcn.backend import to_host
from tinyfcn.data import read_image, write_label
from tinyfcn.errors import InputError
from tinyfcn.inference import load_network, predict
from tinyfcn.report import device_line

MAX_SIDE = 1024  # a photograph of 12 megapixels would take gigabytes, and its objects would be larger than any seen


def parser() -> command.Parser:
    parse = command.Parser(
        prog="python -m tinyfcn.predict",
        description="For each IMAGE write NAME.png, the class index of every pixel in VOC's palette, "
        "and NAME_overlay.png, the photograph tinted with its classes. Both have the photograph's size.",
    )
    parse.add_argument("run", type=Path, metavar="RUN", help="folder of a run (its best checkpoint), or a checkpoint file")
    parse.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parse.add_argument("--out", type=Path, required=True, metavar="DIR")
    command.add_zoom(parse)
    parse.add_argument(
        "--max-side",
        type=command.positive(int),
        metavar="N",
        help=f"let the network see no side longer than N pixels (default: as in training, else {MAX_SIDE})",
    )
    command.add_device(parse)
    return parse


def main() -> None:
    options = parser().parse_args()
    _check_targets(options.images, options.out)
    net, description = load_network(options.run, options.device)
    classes = description.get("classes", [])
    background = classes.index("background") if "background" in classes else None
    view = options.zoom or description.get("zoom", 1.0), options.max_side or description.get("max_side") or MAX_SIDE
    options.out.mkdir(parents=True, exist_ok=True)
    seen: Counter[int] = Counter()
    for path in tqdm(options.images, unit="image", disable=len(options.images) == 1):
        image = read_image(path)
        label = to_host(predict(net, image, *view))
        label_path, overlay_path = _targets(path, options.out)
        write_label(label_path, label)
        Image.fromarray(plot.overlay(image, label, background)).save(overlay_path)
        seen.update({k: int(n) for k, n in enumerate(np.bincount(label.ravel())) if n})
    print(device_line(net.xp, options.device))
    print(f"{options.out}: {len(options.images)} label image(s) and overlay(s); share of the pixels:")
    for k, pixels in seen.most_common():
        print(f"  {classes[k] if classes else k:22} {pixels / sum(seen.values()):6.1%}")


def _targets(image: Path, out: Path) -> tuple[Path, Path]:
    """The files for a photograph: its labels and its overlay."""
    return out / f"{image.stem}.png", out / f"{image.stem}_overlay.png"


def _check_targets(images: list[Path], out: Path) -> None:
    """Refuse to write one file twice, or over a photograph."""
    sources = {path.resolve() for path in images}
    for target, count in Counter(target for image in images for target in _targets(image, out)).items():
        if count > 1:
            raise InputError(f"{count} predictions would be written to {target}; use two --out")
        if target.resolve() in sources:
            raise InputError(f"{target} is one of the photographs and would be overwritten; give another --out")


if __name__ == "__main__":
    sys.exit(command.run(main))
