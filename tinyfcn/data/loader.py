"""From a configuration to batches: the dataset, what each step takes from it, and the next batch ahead of time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tinyfcn.data.batch import mirror, stack, training_batch, zoomed
from tinyfcn.data.names import Colour, colours_by_class
from tinyfcn.data.shapes import Shapes
from tinyfcn.data.voc import Dataset, Pair, VOCSegmentation
from tinyfcn.errors import InputError
from tinyfcn.run import Config, paths

READING = ("images", "labels", "label_suffix", "ignore", "mask", "val_share")  # options of `VOCSegmentation`


def open_dataset(data: str, split: str, subset: int | None = None, subset_seed: int | None = None, **reading: Any) -> Dataset:
    """The generated set for "shapes", else the folder in VOC layout; `reading` is by `READING`."""
    if subset_seed is not None and (subset is None or data == "shapes"):
        raise InputError("--subset-seed chooses the images of a --subset of --data DIR; give both")
    if data != "shapes":
        return VOCSegmentation(data, split, subset, subset_seed, **reading)
    for name in READING:
        if reading.get(name) not in (None, False):
            raise InputError(f"--{name.replace('_', '-')} says how a folder is read; give --data DIR")
    return Shapes(split, length=subset)


def reading_of(config: Config) -> dict[str, Any]:
    """How a run reads its data: what `open_dataset` takes besides the list."""
    return {name: getattr(config, name) for name in (*READING, "seed")}


def open_sets(config: Config, folder: Path) -> tuple[Dataset, Dataset]:
    """What a run learns from, and what it is evaluated on; by the lists in its folder where --val-share has made them."""
    train, val, reading = config.split, config.val_split, reading_of(config)
    if config.val_share is not None and paths(folder).train_list.exists():
        train, val, reading["val_share"] = str(paths(folder).train_list), str(paths(folder).val_list), None
    train_set = open_dataset(config.data, train, config.subset, config.subset_seed, **reading)
    val_set = open_dataset(config.data, val, **reading)
    if train_set.classes != val_set.classes:
        raise InputError(f"{config.split} and {config.val_split} have different classes")
    return train_set, val_set


def fingerprint(train: Dataset, val: Dataset) -> dict[str, str]:
    """Hashes of what a run learns from and is evaluated on: names, lists, and the sizes of files, which a copied folder keeps."""
    sizes = [
        path.stat().st_size
        for dataset in (train, val)
        if isinstance(dataset, VOCSegmentation)
        for index in range(len(dataset))
        for path in dataset.paths(index)
    ]
    parts = {
        "names of classes": train.classes,
        "images to train on": train.ids,
        "images to evaluate on": val.ids,
        "sizes of files": sizes,
    }
    return {what: hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16] for what, value in parts.items()}


def class_colours(dataset: Dataset) -> tuple[Colour, ...] | None:
    """The colour of each class, where a set has a label map with one for all of them."""
    return colours_by_class(dataset.colours, dataset.num_classes) if isinstance(dataset, VOCSegmentation) else None


def batch_indices(length: int, batch_size: int, step: int, seed: int) -> list[int]:
    """The items of a step's batch: epoch after epoch, each a new permutation, cut into batches.

    It depends on (seed, step) alone, so a run that is resumed takes the batches that it would have taken.
    """
    places = range(step * batch_size, (step + 1) * batch_size)
    epochs = {place // length for place in places}
    order = {epoch: np.random.default_rng([seed, 1, epoch]).permutation(length) for epoch in epochs}
    return [int(order[place // length][place % length]) for place in places]


def make_batch(dataset: Dataset, config: Config, step: int) -> Pair:
    """Images (N, H, W, 3) and labels (N, H, W) of a step: random crops, or whole images, half of them mirrored."""
    indices = batch_indices(len(dataset), config.batch_size, step, config.seed)
    pairs = [zoomed(*dataset[i], config.zoom, config.max_side) for i in indices]
    rng = np.random.default_rng([config.seed, 2, step])
    if config.size is None:
        return stack([mirror(*pair) if config.mirror and rng.random() < 0.5 else pair for pair in pairs])
    return training_batch(pairs, config.size, rng, config.scale, config.mirror)


def prefetch(make: Callable[[int], Any], steps: range) -> Generator[Any, None, None]:
    """make(step) for each step, the next one always under way on another thread.

    Close it (`contextlib.closing`): one that is left in the middle, and only collected while another starts its thread, can stop
    both for ever.
    """
    with ThreadPoolExecutor(1) as pool:
        pending = [pool.submit(make, step) for step in steps[:1]]
        for step in steps:
            result = pending.pop().result()
            if step + steps.step in steps:
                pending.append(pool.submit(make, step + steps.step))
            yield result
