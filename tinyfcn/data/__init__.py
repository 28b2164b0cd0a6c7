"""Labelled pictures: VOC layout on disk, a generated set, and the way from pictures to a network's input.

Every dataset here is a sequence of pairs `image, label = dataset[i]`: the image (H, W, 3) uint8 RGB, the label
(H, W) uint8 holding class indices, where 255 (`IGNORE`) marks pixels that count for nothing.
"""

from tinyfcn.data.batch import crop, mirror, normalise, resize, stack, training_batch, zoomed
from tinyfcn.data.labels import read_label
from tinyfcn.data.names import IGNORE, VOC_CLASSES
from tinyfcn.data.pictures import palette, read_image, write_label
from tinyfcn.data.shapes import Shapes
from tinyfcn.data.voc import Dataset, VOCSegmentation, write_voc
from tinyfcn.description import PREPROCESSING, Preprocessing

__all__ = [
    "IGNORE",
    "PREPROCESSING",
    "VOC_CLASSES",
    "Dataset",
    "Preprocessing",
    "Shapes",
    "VOCSegmentation",
    "crop",
    "mirror",
    "normalise",
    "palette",
    "read_image",
    "read_label",
    "resize",
    "stack",
    "training_batch",
    "write_label",
    "write_voc",
    "zoomed",
]
