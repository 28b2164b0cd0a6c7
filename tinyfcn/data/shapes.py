"""A generated segmentation set in the spirit of VOC, for when there is no other: no download, no files.

Each picture holds one to five objects of six classes on a cluttered background. Only an object's shape tells its
class: colours and textures are drawn from one source for all classes. Objects are vivid and backgrounds muted, so that
a small network finds the objects soon and spends its time on telling them apart. Objects lean a little, hide parts of
earlier ones, and a narrow 255 contour runs around each as it does in VOC.

A shape is a *signed distance function*: negative inside, positive outside, its size the distance to the outline.
That one number per pixel gives the label (d < 0), the void contour (|d| small), the antialiased edge and the shadow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tinyfcn.data.names import IGNORE
from tinyfcn.data.voc import Pair
from tinyfcn.errors import InputError

LENGTHS = {"train": 480, "val": 96}
SIDES = (96, 160)  # a picture's height and width, each drawn on its own
MAX_OBJECTS = 5
MIN_RADIUS = 18.0  # pixels: an FCN-8s sees steps of 8, and thin parts are 0.44 of this, 8 pixels
MAX_RADIUS = 0.4  # of the picture's shorter side
BORDER = 1.5  # pixels of contour on either side of an outline
MIN_VISIBLE = 0.7  # the part of each object that must stay in sight, so that it can be told from others
MAX_LEAN = 20  # degrees that an object is turned, either way
MIN_VIVID = 0.5  # distance between the largest and the smallest of an object's RGB, in 0..1
MUTED = 0.35  # how much of its colours a background keeps; of its contrast it keeps twice as much
TEXTURE = 0.2  # how far a texture may lead away from its colour, RGB in 0..1

Array = Any  # numpy.ndarray, whose operations a type checker knows only as Any
Rng = np.random.Generator


# Shapes: signed distance at (x, y), in units of the object's radius, y downwards


def disc(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 0.9


def ring(x: Array, y: Array) -> Array:
    return np.abs(np.hypot(x, y) - 0.75) - 0.22


def square(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - 0.78


def cross(x: Array, y: Array) -> Array:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 1.0, np.minimum(x, y) - 0.26)


def triangle(x: Array, y: Array) -> Array:
    """Three half-planes at 120 degrees; corners at 1.1, pointing up."""
    return np.maximum(np.sqrt(0.75) * np.abs(x) - 0.5 * y, y) - 0.55


def star(x: Array, y: Array) -> Array:
    """Five points: folded into one tenth of a turn, the outline is the line from a tip to the next notch."""
    tenth = np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + tenth) % (2 * tenth) - tenth)
    radius = np.hypot(x, y)
    tip, notch = 1.15 + 0j, 0.5 * np.exp(1j * tenth)
    normal = (notch - tip) / abs(notch - tip) * -1j
    return radius * (np.cos(angle) * normal.real + np.sin(angle) * normal.imag) - tip.real * normal.real


SHAPES: tuple[Callable[[Array, Array], Array], ...] = (disc, square, triangle, ring, cross, star)


# Textures: fields in [-1, 1] over the picture, x and y in pixels


def flat(rng: Rng, x: Array, y: Array) -> Array:
    return np.zeros_like(x)


def gradient(rng: Rng, x: Array, y: Array) -> Array:
    return np.clip(_along(rng, x, y) / 60, -1, 1)


def stripes(rng: Rng, x: Array, y: Array) -> Array:
    return np.clip(3 * np.sin(_along(rng, x, y) * _frequency(rng)), -1, 1)


def checks(rng: Rng, x: Array, y: Array) -> Array:
    u, v = _turned(rng, x, y)
    frequency = _frequency(rng)
    return np.clip(6 * np.sin(u * frequency) * np.sin(v * frequency), -1, 1)


def dots(rng: Rng, x: Array, y: Array) -> Array:
    u, v = _turned(rng, x, y)
    frequency = _frequency(rng)
    return np.clip(3 * (np.sin(u * frequency) + np.sin(v * frequency) - 0.8), -1, 1)


def clouds(rng: Rng, x: Array, y: Array) -> Array:
    """A few waves in random directions, which add up to soft blobs."""
    waves = [np.sin(_along(rng, x, y) * (0.5 * _frequency(rng))) for _ in range(4)]
    return np.clip(sum(waves, np.zeros_like(x)) / 2, -1, 1)


def grain(rng: Rng, x: Array, y: Array) -> Array:
    return 2 * rng.random(x.shape, np.float32) - 1


TEXTURES: tuple[Callable[[Rng, Array, Array], Array], ...] = (flat, gradient, stripes, checks, dots, clouds, grain)


class Shapes:
    """The generated set: `image, label = dataset[i]`, image (H, W, 3) uint8 RGB, label (H, W) uint8, 255 = ignore.

    Item i depends on `seed`, `split` and i alone, so a shorter or longer set has the same pictures, and
    any `length` is possible. An item is drawn when it is first asked for, in a few milliseconds, and kept.

    Raises `InputError` for an unknown split and a length below 1.
    """

    classes = ("background", *(shape.__name__ for shape in SHAPES))
    num_classes = len(classes)

    def __init__(self, split: str = "train", length: int | None = None, seed: int = 0) -> None:
        if split not in LENGTHS:
            raise InputError(f"Shapes has no split {split!r}; give one of {', '.join(LENGTHS)}")
        length = LENGTHS[split] if length is None else length
        if length < 1:
            raise InputError(f"Shapes of length {length} is not possible; give 1 or more")
        self.seed = seed
        self._drawn: dict[int, Pair] = {}
        self.split_number = list(LENGTHS).index(split)
        self.ids = tuple(f"shapes_{split}_{index:05d}" for index in range(length))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Pair:
        item = range(len(self))[index]
        if item not in self._drawn:
            self._drawn[item] = draw_picture(np.random.default_rng([self.seed, self.split_number, item]))
            for array in self._drawn[item]:
                array.flags.writeable = False  # the next epoch gets the same arrays
        return self._drawn[item]

    def __iter__(self) -> Iterator[Pair]:
        return (self[index] for index in range(len(self)))


# Drawing: canvases are (H, W, 3) float32 in 0..1, painted in place


def draw_picture(rng: Rng) -> Pair:
    """One image and its label."""
    height, width = (int(side) for side in rng.integers(SIDES[0], SIDES[1], size=2, endpoint=True))
    y, x = np.mgrid[:height, :width].astype(np.float32) + 0.5
    canvas = draw_background(rng, x, y)
    placed = place_objects(rng, x, y)
    for thing in placed.things:
        draw_object(rng, canvas, thing, x, y)
    canvas *= 1 + 0.15 * gradient(rng, x - width / 2, y - height / 2)[..., None]  # uneven light
    canvas += 0.06 * (rng.random(canvas.shape, np.float32) - 0.5)  # the sensor's noise
    image = (255 * np.clip(canvas, 0, 1)).round().astype(np.uint8)
    return image, placed.label


class Thing(NamedTuple):
    """An object before it has a colour: a shape turned by `angle` around `centre` (x, y), scaled to `radius`."""

    class_index: int
    centre: tuple[float, float]
    radius: float
    angle: float

    def distance(self, x: Array, y: Array) -> Array:
        """Signed distance in pixels from each (x, y) to the outline."""
        dx, dy = (x - self.centre[0]) / self.radius, (y - self.centre[1]) / self.radius
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return self.radius * SHAPES[self.class_index - 1](cos * dx + sin * dy, cos * dy - sin * dx)


class Placement(NamedTuple):
    things: list[Thing]
    label: Array


def place_objects(rng: Rng, x: Array, y: Array) -> Placement:
    """Objects, from the farthest to the nearest, and the label they make.

    A candidate that would hide too much of an earlier object is dropped; the first always stays.
    """
    owner = np.zeros(x.shape, np.uint8)  # 0: background, k: the k-th object, IGNORE: contour
    things: list[Thing] = []
    areas: list[int] = []  # each object's pixels when nothing hid it
    wanted = int(rng.integers(1, MAX_OBJECTS, endpoint=True))
    for _ in range(3 * wanted):
        candidate = random_thing(rng, x.shape)
        distance = candidate.distance(x, y)
        new_owner = owner.copy()
        new_owner[distance < BORDER] = IGNORE
        new_owner[distance < -BORDER] = len(things) + 1
        visible = np.bincount(new_owner.ravel(), minlength=IGNORE)[1 : len(things) + 2]
        if all(seen >= MIN_VISIBLE * area for seen, area in zip(visible, areas, strict=False)):
            owner = new_owner
            things.append(candidate)
            areas.append(visible[-1])
        if len(things) == wanted:
            break
    class_of_owner = np.zeros(256, np.uint8)
    class_of_owner[1 : len(things) + 1] = [thing.class_index for thing in things]
    class_of_owner[IGNORE] = IGNORE
    return Placement(things, class_of_owner[owner])


def random_thing(rng: Rng, shape: tuple[int, ...]) -> Thing:
    """Any class, small sizes as likely as large ones, at most a little of it outside the picture."""
    height, width = shape
    radius = float(np.exp(rng.uniform(np.log(MIN_RADIUS), np.log(MAX_RADIUS * min(shape)))))
    margin = 0.8 * radius
    centre = float(rng.uniform(margin, width - margin)), float(rng.uniform(margin, height - margin))
    angle = float(np.radians(rng.uniform(-MAX_LEAN, MAX_LEAN)))
    return Thing(int(rng.integers(1, len(SHAPES), endpoint=True)), centre, radius, angle)


def draw_background(rng: Rng, x: Array, y: Array) -> Array:
    """Two textured regions with an irregular boundary, strewn with lines and specks that are no objects."""
    canvas = textured(rng, random_colour(rng), x, y)
    winding = 30 * clouds(rng, x, y) + _along(rng, x - x.mean(), y - y.mean())
    blend(canvas, textured(rng, random_colour(rng), x, y), winding)
    for _ in range(rng.integers(2, 7)):
        blend(canvas, random_colour(rng), _random_line(rng, x, y))
    specks = dots(rng, x, y) if rng.random() < 0.3 else -np.ones_like(x)
    blend(canvas, random_colour(rng), -4 * specks)
    grey = canvas.mean(axis=2, keepdims=True)
    muted = grey + MUTED * (canvas - grey)
    return muted.mean() + 2 * MUTED * (muted - muted.mean())


def draw_object(rng: Rng, canvas: Array, thing: Thing, x: Array, y: Array) -> None:
    """Paint an object in a vivid colour, with a soft shadow beside it."""
    distance = thing.distance(x, y)
    colour = random_colour(rng)
    while np.ptp(colour) < MIN_VIVID:
        colour = random_colour(rng)
    fill = textured(rng, colour, x, y)
    shadow = np.clip(1 - (thing.distance(x - 2, y - 3) + 2) / 6, 0, 1)
    canvas *= 1 - 0.35 * shadow[..., None]
    blend(canvas, fill, distance)


def blend(canvas: Array, paint: Array, distance: Array) -> None:
    """Paint where the distance is negative; a pixel that the outline cuts takes about its share."""
    canvas += np.clip(0.5 - distance, 0, 1)[..., None] * (paint - canvas)


def textured(rng: Rng, colour: Array, x: Array, y: Array) -> Array:
    """A random texture that varies about a colour."""
    texture = TEXTURES[rng.integers(len(TEXTURES))](rng, x, y)
    other = np.clip(colour + rng.uniform(-TEXTURE, TEXTURE, 3), 0, 1).astype(np.float32)
    return colour + (0.5 + 0.5 * texture)[..., None] * (other - colour)


def random_colour(rng: Rng) -> Array:
    return rng.random(3, np.float32)


def _random_line(rng: Rng, x: Array, y: Array) -> Array:
    """Distance to a gently waving line across the picture, 1 to 3 pixels thick."""
    u, v = _turned(rng, x - rng.uniform(0, x.max()), y - rng.uniform(0, y.max()))
    return np.abs(v + rng.uniform(0, 8) * np.sin(u * _frequency(rng) / 4)) - rng.uniform(0.5, 1.5)


def _turned(rng: Rng, x: Array, y: Array) -> tuple[Array, Array]:
    """The coordinates in a frame turned by a random angle."""
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * x + sin * y, cos * y - sin * x


def _along(rng: Rng, x: Array, y: Array) -> Array:
    """The coordinate along a random direction."""
    return _turned(rng, x, y)[0]


def _frequency(rng: Rng) -> float:
    """Radians per pixel, for wavelengths of 6 to 24 pixels."""
    return float(2 * np.pi / rng.uniform(6, 24))
