r"""Checking a hand-written backward pass against numerical derivatives.

A forward pass f takes several arrays; together they are one long vector t. Pick a random gradient dy at its output: the
scalar L(t) = <dy, f(t)> then has exactly the gradient that the backward pass returns for dy. For a random unit
direction v,

    (L(t + h v) - L(t - h v)) / 2 h  =  <gradient, v> + O(h^2)

so two evaluations test all entries of all arguments at once: an error in any one of them shows unless v happens to be
orthogonal to it. (Testing entry by entry instead would take two evaluations for each entry.)

Where f has a kink between t - h v and t + h v, as max(x, 0) has at 0, the formula is wrong and so is no proof of
anything. The second difference S(h) = L(t + h v) - 2 L(t) + L(t - h v) tells: halving h divides it by 4 where f is smooth, but
not where it has a kink, since S then measures the jump of the slope. Such a direction is drawn anew, and shorter.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyfcn.backend import Array, array_module

STREAM = int.from_bytes(b"gradcheck")  # of random numbers: apart from default_rng(seed), which may have made the arguments
ENTRIES = 500  # the most entries of an argument that a failing check looks at one by one

Forward = Callable[..., tuple[Array, Any]]
Backward = Callable[[Array, Any], Any]


class GradientError(AssertionError):
    """A backward pass does not agree with the numerical derivative."""


class GradientCheck(NamedTuple):
    """What a passed check saw."""

    directions: int  # directions that agreed
    kinks: int  # directions that were drawn anew because of a kink
    worst: float  # largest error, relative to the size of the derivative
    zero: tuple[str, ...] = ()  # arguments whose gradient is 0 at this point, as the derivative is

    def __str__(self) -> str:
        kinks = f", {self.kinks} drawn anew because of a kink" if self.kinks else ""
        zero = f"; that of {', '.join(self.zero)} is 0 here" if self.zero else ""
        return f"gradient agrees in {self.directions} directions to {self.worst:.1e} relative{kinks}{zero}"


def check_gradient(
    forward: Forward,
    backward: Backward,
    *arguments: Any,
    names: Sequence[str] | None = None,
    directions: int = 8,
    step: float = 1e-5,
    tolerance: float = 1e-6,
    seed: int = 0,
    **options: Any,
) -> GradientCheck:
    """Check that `backward` is the derivative of `forward` at `arguments`, and return what was seen.

    `forward(*arguments, **options)` returns (y, cache), and `backward(dy, cache)` returns the gradient of each floating-point
    argument, in their order (None entries are passed over): the convention of all operations in `tinyfcn.ops`. For
    example `check_gradient(ops.conv2d_forward, ops.conv2d_backward, x, weight, bias, stride=2)`.

    Floating-point arguments are copied to float64 first; others (labels, None) are passed on as they are. `names` are the
    arguments' names in messages, by default those of forward's parameters. `step` is the root-mean-square change of
    an entry, either way, in units of the entries' own standard deviation (at least 1); `tolerance` bounds
    the error, relative to the derivative that a random direction has on average.

    `directions` random directions move all arguments together, and one more moves each argument alone.

    Raises GradientError, which names the argument and its worst entry with both values, where they disagree; also where
    a gradient has the wrong shape or is not finite, where a pass changes its arguments or is random, where every
    direction meets a kink (then the arguments lie on one), and where rounding hides the derivative. Raises ValueError where there
    is nothing to compare, since the arguments or the result have no entries.
    """
    if directions < 1:
        raise ValueError(f"check_gradient: directions must be at least 1, got {directions}")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(STREAM,)))
    values = [_as_float64(a) if _is_float(a) else a for a in arguments]
    options = {name: _as_float64(a) if _is_float(a) else a for name, a in options.items()}
    slots = [k for k, a in enumerate(values) if _is_float(a)]
    if not slots:
        raise ValueError("check_gradient: expected at least one floating-point array among the arguments")
    labels = _names(forward, arguments, names)
    xp = array_module(values[slots[0]])
    for k in slots:
        if not xp.isfinite(values[k]).all():
            raise ValueError(f"check_gradient: {labels[k]} is not finite")

    dy, centre, rounding, gradients = _one_pass(forward, backward, values, options, slots, labels, rng)

    def loss(changes: dict[int, Array]) -> float:
        moved = [a + changes[k] if k in changes else a for k, a in enumerate(values)]
        return float((dy * forward(*moved, **options)[0]).sum())

    if abs(loss({}) - centre) > 1e6 * rounding:
        raise GradientError("the forward pass gives another result each time: let it seed its random numbers itself")

    def compare(direction: dict[int, Array], analytic: float, h: float, typical: float) -> tuple[float, float, str]:
        """(error, numerical derivative, verdict: "agrees", "differs", or "kink" where that proves nothing)."""
        plus, minus = (loss({k: f * h * v for k, v in direction.items()}) for f in (1.0, -1.0))
        numeric = (plus - minus) / (2 * h)
        error = abs(numeric - analytic)
        limit = tolerance * (typical + abs(numeric)) + rounding / h
        if error <= limit < np.inf:
            return error, numeric, "agrees"
        half_plus, half_minus = (loss({k: f * h * v for k, v in direction.items()}) for f in (0.5, -0.5))
        second, second_half = plus - 2 * centre + minus, half_plus - 2 * centre + half_minus
        return error, numeric, "kink" if abs(second - 4 * second_half) > h * limit else "differs"

    def typical_of(trial: list[int]) -> float:
        """The root mean square of <gradient, v> over all directions v."""
        return math.sqrt(sum(float((gradients[k] ** 2).sum()) for k in trial) / sum(values[k].size for k in trial))

    slots = [k for k in slots if values[k].size]
    if not slots or not dy.size:
        raise ValueError("check_gradient: there is nothing to compare: the arguments or the result have no entries")
    # All arguments together, then each alone, where an argument of larger gradients cannot hide its error.
    trials = [slots] * directions + [[k] for k in slots if len(slots) > 1]
    usual = typical_of(slots) or 1.0  # dy's, where all gradients are 0
    kinks, worst, shrink = 0, 0.0, 1.0
    for trial in trials:
        size = sum(values[k].size for k in trial)
        scale = max(1.0, (sum(values[k].size * float(values[k].var()) for k in trial) / size) ** 0.5)
        typical = typical_of(trial)
        visible = 0.1 * typical if typical > 1e-12 * usual else 1e-6 * usual  # a 0, up to rounding, needs proof as well
        verdict = "kink"
        while verdict == "kink":
            h = step * shrink * scale * size**0.5
            direction = _unit_direction(rng, {k: values[k] for k in trial})
            analytic = sum(float((gradients[k] * v).sum()) for k, v in direction.items())
            error, numeric, verdict = compare(direction, analytic, h, typical)
            if verdict != "differs" and rounding / h > visible:
                raise GradientError(
                    "rounding errors of the forward pass hide the derivative "
                    f"of {', '.join(labels[k] for k in trial)}: bring arguments and result nearer to 1"
                )
            if verdict == "kink":
                kinks += 1
                if rounding / h < 1e-4 * typical:
                    shrink /= 2  # a shorter way meets fewer kinks
                if kinks > 4 * len(trials):
                    raise GradientError(
                        f"every direction meets a kink ({kinks} tried): the function has no derivative at these "
                        "arguments, or they lie closer to a kink than the step; move them away from ties and zeros"
                    )
        if verdict == "differs":
            suspects = {k: gradients[k] for k in trial}
            found = _worst_entry(compare, suspects, labels, h / size**0.5, typical, rng)
            raise GradientError(
                f"backward disagrees with the numerical derivative: {found} "
                f"(along a random direction: {analytic:.9g}, {numeric:.9g})"
            )
        worst = max(worst, error / max(typical + abs(numeric), 1e-300))
    zero = tuple(labels[k] for k in slots if not gradients[k].any())
    return GradientCheck(len(trials), kinks, worst, zero)


def _one_pass(
    forward: Forward,
    backward: Backward,
    values: list[Any],
    options: dict[str, Any],
    slots: list[int],
    labels: list[str],
    rng: np.random.Generator,
) -> tuple[Array, float, float, dict[int, Array]]:
    """Run both passes once; returns dy, the loss <dy, y>, what rounding alone can do to it, and the gradients by slot.

    Raises GradientError where a pass changes one of its arguments, or returns what cannot be a result.
    """
    xp = array_module(values[slots[0]])
    before = [(labels[k], a, a.copy()) for k, a in enumerate(values) if hasattr(a, "dtype")]
    y, cache = forward(*values, **options)
    if not xp.isfinite(y).all():
        raise GradientError("the forward pass returned values that are not finite")
    dy = xp.asarray(rng.standard_normal(y.shape))
    before.append(("dy", dy, dy.copy()))
    terms = dy * y
    centre = float(terms.sum())
    returned = _gradients(backward(dy, cache), [values[k] for k in slots], [labels[k] for k in slots])
    for name, array, copy in before:
        if not (array == copy).all():
            raise GradientError(f"the passes changed their argument {name}")
    return dy, centre, 1e-14 * (abs(centre) + float(abs(terms).sum())), dict(zip(slots, returned, strict=True))


def _unit_direction(rng: np.random.Generator, like: dict[int, Array]) -> dict[int, Array]:
    """A random direction of length 1 through all these arrays together."""
    direction = {k: array_module(a).asarray(rng.standard_normal(a.shape)) for k, a in like.items()}
    norm = sum(float((v**2).sum()) for v in direction.values()) ** 0.5
    return {k: v / norm for k, v in direction.items()}


def _worst_entry(
    compare: Callable[[dict[int, Array], float, float, float], tuple[float, float, str]],
    gradients: dict[int, Array],
    labels: list[str],
    h: float,
    typical: float,
    rng: np.random.Generator,
) -> str:
    """Look at single entries for the one that is most wrong, and describe it."""
    worst = (0.0, "no single entry stands out among those looked at")
    for k, gradient in gradients.items():
        entries = np.arange(gradient.size)
        if gradient.size > ENTRIES:
            entries = rng.choice(entries, ENTRIES, replace=False)
        for entry in entries:
            place = tuple(int(i) for i in np.unravel_index(entry, gradient.shape))
            direction = array_module(gradient).zeros_like(gradient)
            direction[place] = 1
            error, difference, verdict = compare({k: direction}, float(gradient[place]), h, typical)
            if error > worst[0] and verdict == "differs":
                looked = f" (of {ENTRIES} entries looked at)" if gradient.size > ENTRIES else ""
                worst = (
                    error,
                    (
                        f"worst entry: {labels[k]}[{', '.join(map(str, place))}]{looked}, "
                        f"backward {float(gradient[place]):.9g}, numerical {difference:.9g}"
                    ),
                )
    return worst[1]


def _is_float(argument: Any) -> bool:
    return hasattr(argument, "dtype") and argument.dtype.kind == "f"


def _as_float64(array: Array) -> Array:
    return array.astype(np.float64)


def _names(forward: Forward, arguments: Sequence[Any], names: Sequence[str] | None) -> list[str]:
    if names is not None:
        if len(names) != len(arguments):
            raise ValueError(f"check_gradient: {len(names)} names for {len(arguments)} arguments")
        return list(names)
    parameters = list(inspect.signature(forward).parameters.values())
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [named[k] if k < len(named) else f"argument {k}" for k in range(len(arguments))]


def _gradients(returned: Any, arguments: list[Array], names: list[str]) -> list[Array]:
    """The gradients that a backward pass returned, checked for number, shape and finiteness."""
    found = [g for g in (returned if isinstance(returned, (tuple, list)) else (returned,)) if g is not None]
    if len(found) != len(arguments):
        raise GradientError(f"backward returned {len(found)} gradients for {len(arguments)} arguments ({', '.join(names)})")
    for name, gradient, argument in zip(names, found, arguments, strict=True):
        if gradient.shape != argument.shape:
            raise GradientError(f"gradient of {name} has shape {gradient.shape}, {name} has {argument.shape}")
        if gradient.dtype != argument.dtype:
            raise GradientError(f"gradient of {name} is {gradient.dtype}, {name} is {argument.dtype}")
        if not array_module(gradient).isfinite(gradient).all():
            raise GradientError(f"gradient of {name} is not finite")
    return found
