"""What, besides its parameters, it takes to build a network again and to use it: travels with saved weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tinyfcn import values
from tinyfcn.errors import InputError
from tinyfcn.values import (
    COLOURS,
    HIDDEN,
    NAMES,
    SECONDS,
    SIDE,
    STEP,
    TEXT,
    WIDTH,
    ZOOM,
    Kind,
    field,
    number,
    one_of,
    optional,
    table,
    whole,
)

MOST_CLASSES = 255  # of an FCN: labels are bytes, and 255 marks pixels that count for nothing
PADDINGS = ("paper", "same")
LEARN_UPSAMPLING = ("none", "skip", "all")
LOSSES = Kind("a sum and a whole number", lambda value: values.pair(number(0, 1e300)).allows(value) and STEP.allows(value[1]))


class Preprocessing(NamedTuple):
    """What a set of weights expects of its input: (pixel * scale - mean) / std, per channel, in this order."""

    channels: str
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# "caffe" is what the authors of FCN feed to Caffe's VGG16 and their own networks, "vgg" VGG's own mean, which Keras has kept.
PREPROCESSING = {
    "caffe": Preprocessing("BGR", 1.0, (104.00699, 116.66877, 122.67892), (1.0, 1.0, 1.0)),
    "torchvision": Preprocessing("RGB", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "vgg": Preprocessing("BGR", 1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
}


@dataclass(frozen=True)
class Description:
    """A network, what it was made for and, in the checkpoints of a run, how far that had come. Raises InputError for a field that
    cannot be."""

    # The network
    model: str = field(TEXT)  # the name of its class
    num_classes: int = field(whole(1, 100_000))
    width: float = field(WIDTH)
    hidden: int | None = field(optional(HIDDEN), None)
    preprocessing: str | None = field(optional(one_of(PREPROCESSING)), None)  # None where a file cannot tell
    padding: str | None = field(optional(one_of(PADDINGS)), None)  # this and the next two: of FCNs alone
    learn_upsampling: str | None = field(optional(one_of(LEARN_UPSAMPLING)), None)
    scales: dict[str, float] | None = field(optional(table(number(0, 1e9, above=True))), None)  # None: the model's own

    # Its use
    classes: tuple[str, ...] | None = field(optional(NAMES), None)
    colours: tuple[Any, ...] | None = field(optional(COLOURS), None)  # (red, green, blue) by class; None: VOC's
    zoom: float = field(ZOOM, 1.0)
    max_side: int | None = field(optional(SIDE), None)

    # The run
    step: int | None = field(optional(STEP), None)
    trained: tuple[str, ...] = field(NAMES, ())  # layers that came trained from the file that the first stage started from
    best: float | None = field(optional(number(-1, 1)), None)  # mean IU of the best evaluation so far; -1: there was none
    seconds: float = field(SECONDS, 0.0)
    losses: tuple[float, int] = field(LOSSES, (0.0, 0))  # sum and number of those that are not reported yet
    data: dict[str, str] | None = field(optional(table(TEXT)), None)  # see `tinyfcn.data.loader.fingerprint`

    def __post_init__(self) -> None:
        values.check(self)
        if (self.padding is None) != (self.learn_upsampling is None):
            raise InputError("padding and learn_upsampling belong together: give both, as for an FCN, or neither")
        if self.padding is not None and self.num_classes > MOST_CLASSES:
            raise InputError(f"num_classes must be at most {MOST_CLASSES} where pixels are labelled, got {self.num_classes}")
        for name, what in (("classes", "names"), ("colours", "colours")):
            of_each = getattr(self, name)
            if of_each is not None and len(of_each) != self.num_classes:
                raise InputError(f"{name} must be num_classes, {self.num_classes}, {what}, got {len(of_each)}")

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any], source: Path | str) -> Description:
        """What a file of weights says of itself; raises InputError, with the source, where it cannot be."""
        return values.from_json(cls, metadata, source)

    def to_metadata(self) -> dict[str, Any]:
        return values.to_json(self)
