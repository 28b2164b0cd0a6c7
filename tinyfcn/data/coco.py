"""COCO's JSON: one file for many images, with polygons and run lengths, as COCO, CVAT, Roboflow and Label Studio write it."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tinyfcn.data.draw import draw, from_run_lengths
from tinyfcn.data.lists import Tree
from tinyfcn.data.names import plain_name
from tinyfcn.data.source import Picture, Source, check_size, split_of, spot_of
from tinyfcn.errors import InputError

FIELDS = {"images", "annotations", "categories"}  # by which a file is recognised


def read(files: list[tuple[Path, Any]], root: Path) -> Source:
    """The set that COCO's files make: class 0 is the background, then the categories by their numbers.

    What comes later in a file is drawn over what comes before. A category that is only a heading for others is left out.
    """
    trees: dict[Path, Tree] = {}
    pictures: list[Picture] = []
    categories = {
        category["id"]: category for path, content in files for category in _list(path, content, "categories", "id", "name")
    }
    used = {a["category_id"] for path, content in files for a in _list(path, content, "annotations", "category_id", "image_id")}
    headings = [category.get("supercategory") for category in categories.values()]
    order = sorted(categories, key=lambda key: (isinstance(key, str), key))
    kept = [key for key in order if key in used or categories[key]["name"] not in headings]
    names = {key: plain_name(str(categories[key]["name"])) for key in kept}
    classes = tuple(dict.fromkeys(["background", *names.values()]))
    if len(classes) < len(names) + ("background" not in names.values()):
        raise InputError(f"{files[0][0]} has two categories of one name: {', '.join(names.values())}; rename one")
    if strange := used - set(names):
        raise InputError(f"{files[0][0]} has annotations of the category {min(strange, key=str)!r}, which it does not name")
    index = {key: classes.index(name) for key, name in names.items()}
    for path, content in files:
        annotations = defaultdict(list)
        for annotation in content["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        part = path.stem.removeprefix("instances_").removeprefix("person_keypoints_")
        split = split_of(part) or split_of(path.parent.name)
        homes = (path.parent, root / "images" / part, root / "images", root / part, root)
        for image in _list(path, content, "images", "id", "file_name"):
            name = str(image["file_name"]).replace("\\", "/")
            places = (trees.setdefault(home, Tree(home)) for home in homes)
            found = next(((tree, place) for tree in places if (place := tree.find(name) or tree.find_end(name))), None)
            if found is None:
                raise InputError(f"{path} names the image {name!r}, which is not in {root}; put the images beside the file")
            pictures.append(
                Picture(
                    found[1].relative_to(found[0].root).with_suffix("").as_posix(),
                    found[1],
                    partial(_label, path, image, annotations[image["id"]], index),
                    split,
                    path,
                )
            )
    return Source("COCO's JSON", classes, pictures)


def _list(path: Path, content: Any, name: str, *fields: str) -> list[dict[str, Any]]:
    entries = content[name]
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and all(isinstance(entry.get(field), int | str) for field in fields) for entry in entries
    ):
        raise InputError(f"{path}: {name} must be a list of entries with {' and '.join(fields)}; export it again")
    return entries


def _label(
    path: Path, image: dict[str, Any], annotations: list[dict[str, Any]], index: dict[Any, int], size: tuple[int, int]
) -> np.ndarray:
    check_size(path, image.get("file_name"), (image.get("height"), image.get("width")), size)
    label = np.zeros(size, np.uint8)
    for annotation in annotations:
        shape, value = annotation.get("segmentation"), index[annotation["category_id"]]
        try:
            if isinstance(shape, dict):
                if tuple(shape["size"]) != size:
                    raise ValueError(f"run lengths of {shape['size']} rows and columns for an image of {list(size)}")
                label[from_run_lengths(shape["counts"], *size)] = value
            elif not shape:
                raise ValueError("it is a box without an outline")
            else:
                for numbers in shape:
                    draw(
                        label, "polygon", [(float(x), float(y)) for x, y in zip(numbers[::2], numbers[1::2], strict=True)], value
                    )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{path}: annotation {annotation.get('id')} cannot be drawn: {spot_of(error)}") from None
    return label
