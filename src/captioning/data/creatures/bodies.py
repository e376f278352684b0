"""The bodies of the drawn creatures: for each kind a plan of shapes around one head, which all kinds share."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from captioning.data.creatures.shapes import INK, Ball, Limb, Oval, Piece, Rgb, Shape, both, curve, limb, mark_on, mix

# Every creature's head lies here, so that a small model has to learn horns, ears and eyes only once.
HEAD: Ball = (0.0, -0.2, 0.44)
GOLD: Rgb = (247, 178, 62)
RED: Rgb = (225, 60, 86)


@dataclass(frozen=True)
class Dye:
    """The shades that one creature is painted with."""

    main: Rgb
    second: Rgb  # the main one where there is no second color
    belly: Rgb


@dataclass(frozen=True)
class Plan:
    """The shapes of one body."""

    body: tuple[Shape, ...]  # of the main color, within one outline
    belly: tuple[Shape, ...] = ()  # as much of it as lies on the body
    behind: tuple[Piece, ...] = ()
    front: tuple[Piece, ...] = ()
    rump: tuple[float, float] = (0.0, 0.5)  # where a tail begins
    has_mouth: bool = True


def at_head(angle: float, distance: float, radius: float) -> Ball:
    """A ball at this distance from the head's centre; angle 0 is upward, and grows clockwise."""
    return HEAD[0] + distance * math.sin(angle), HEAD[1] - distance * math.cos(angle), radius


def _two_legged(dye: Dye, rng: Random) -> Plan:
    width, waist = rng.uniform(0.3, 0.42), rng.uniform(0.22, 0.34)
    shoulder, hand = width - 0.06, width + 0.22
    arms = []
    for side in (-1, 1):  # each arm is lifted on its own
        lift = rng.uniform(-0.32, 0.22)
        elbow = (side * (hand - 0.08), 0.24 + lift / 4, 0.1)
        arms.append(curve((side * shoulder, 0.2, 0.11), elbow, (side * hand, 0.24 + lift, 0.12)))
    feet = both(Oval(0.26, 0.85, 0.2, 0.11))
    return Plan(
        body=(limb(HEAD, (0, waist, width)), *both(limb((0.19, 0.5, 0.15), (0.21, 0.76, 0.14))), *feet, *arms),
        belly=(Oval(0, 0.36, width * 0.78, 0.27), *feet),
        rump=(-0.2, 0.5),
    )


def _four_legged(dye: Dye, rng: Random) -> Plan:
    back, girth = rng.uniform(-0.77, -0.67), rng.uniform(0.23, 0.29)
    trunk = curve((back, 0.33, girth), (-0.35, 0.36, girth - 0.01), (0.02, 0.28, 0.3))
    near = (limb((x, 0.45, 0.14), (x, 0.82, 0.13)) for x in (back - 0.08, 0.1))
    far = (limb((x, 0.45, 0.13), (x, 0.77, 0.12)) for x in (back + 0.22, -0.18))
    return Plan(
        body=(trunk, *near, limb(HEAD)),
        belly=(curve((back - 0.12, 0.84, 0.36), (-0.35, 0.64, 0.22), (0.14, 0.76, 0.36)),),
        behind=(Piece(mix(dye.main, INK, 0.25), tuple(far)),),
        rump=(back - 0.13, 0.2),
    )


def _turtle(dye: Dye, rng: Random) -> Plan:
    height, arc = rng.uniform(0.7, 0.8), (i * math.pi / 16 for i in range(17))
    shell = Limb(tuple((-0.52 + 0.58 * math.cos(t), 0.64 - height * math.sin(t), 0.05) for t in arc), closed=True)
    plates = (Oval(x, y, 0.12, 0.1) for x, y in ((-0.56, 0.12), (-0.84, 0.36), (-0.54, 0.44), (-0.3, 0.24)))
    trunk = limb((-0.96, 0.72, 0.09), (0.0, 0.7, 0.12))
    neck = limb((0.04, 0.58, 0.22), (0.04, 0.1, 0.26))
    legs = (limb((x, 0.6, 0.15), (x, 0.83, 0.14)) for x in (-0.82, 0.02))
    tail = curve((-0.95, 0.72, 0.08), (-1.12, 0.72, 0.06), (-1.24, 0.78, 0.02))
    return Plan(
        body=(trunk, neck, *legs, limb(HEAD)),
        behind=(
            Piece(dye.main, (tail,)),
            Piece(dye.second, (shell,), is_round=True),
            Piece(mark_on(dye.second, 0.2), tuple(plates), line=0),
        ),
    )


def _bird(dye: Dye, rng: Random) -> Plan:
    plump, spread = rng.uniform(0.42, 0.49), rng.uniform(0.48, 0.66)
    wings = both(curve((0.4, 0.08, 0.12), (0.34 + spread / 3, 0.3, 0.15), (spread, 0.58, 0.04)))
    legs = both(limb((0.17, 0.6, 0.04), (0.17, 0.9, 0.04)), limb((0.07, 0.92, 0.045), (0.27, 0.92, 0.045)))
    beak = Limb(((-0.11, -0.1, 0.02), (0, -0.15, 0.02), (0.11, -0.1, 0.02), (0, 0.08, 0.02)), closed=True)
    return Plan(
        body=(limb(HEAD, (0, 0.22, plump)),),
        belly=(Oval(0, 0.4, 0.33, 0.36),),
        behind=(Piece(GOLD, legs),),
        front=(*(Piece(dye.second, (wing,)) for wing in wings), Piece(GOLD, (beak,))),
        has_mouth=False,
    )


def _fish(dye: Dye, rng: Random) -> Plan:
    height, fan = rng.uniform(0.48, 0.56), rng.uniform(0.36, 0.44)
    tail = tuple(
        curve((-0.7, 0.15, 0.1), (-0.95, 0.15 + side * fan / 2, 0.15), (-1.1, 0.15 + side * fan, 0.07))
        for side in (-1, 1)
    )
    upper = curve((-0.35, -0.2, 0.12), (-0.5, -0.44, 0.1), (-0.7, -0.54, 0.05))
    middle = curve((-0.51, -0.2, 0.12), (-0.66, -0.28, 0.1), (-0.86, -0.38, 0.05))
    below = (curve((-0.1, 0.5, 0.14), (x + 0.1, 0.7, 0.09), (x, 0.84, 0.04)) for x in (-0.16, -0.4))
    flipper = curve((-0.36, 0.28, 0.07), (-0.5, 0.34, 0.12), (-0.66, 0.42, 0.05))
    return Plan(
        body=(Oval(-0.16, 0.1, 0.66, height), limb(HEAD)),
        belly=(Oval(-0.1, 0.6, 0.62, 0.32),),
        behind=(Piece(dye.second, tail), Piece(dye.second, (upper, middle, *below))),
        front=(Piece(dye.second, (flipper,)),),
    )


def _snake(dye: Dye, rng: Random) -> Plan:
    wave = rng.uniform(-0.04, 0.04)
    neck = ((0.0, 0.0, 0.2), (0.02, 0.24, 0.18), (-0.2, 0.42, 0.17))
    bend = ((-0.62, 0.38 + wave, 0.17), (-0.98, 0.56, 0.16), (-0.78, 0.82, 0.15), (-0.3, 0.82 - wave, 0.15))
    tail = ((0.25, 0.86, 0.13), (0.68, 0.76 + wave, 0.08), (0.92, 0.52 + wave, 0.02))
    trunk = curve(*neck, *bend, *tail)
    underside = Limb(tuple((x, y + 0.1, r * 0.7) for x, y, r in trunk.balls[3:-4]))
    tongue = both(curve((0, 0.1, 0.028), (0, 0.26, 0.028), (0.08, 0.36, 0.02)))
    return Plan(
        body=(trunk, Oval(0, -0.2, 0.47, 0.42)),
        belly=(underside, Oval(0, 0.16, 0.3, 0.16)),
        front=(Piece(RED, tongue, line=0.02),),
    )


def _snail(dye: Dye, rng: Random) -> Plan:
    size, turns = rng.uniform(0.46, 0.52), rng.uniform(1.7, 2.1)
    spiral = []
    for t in (i / 40 for i in range(5, 41)):
        angle, reach = turns * math.tau * t, size * (1 - 0.95 * t)
        spiral.append((-0.58 + reach * math.cos(angle), 0.3 + reach * math.sin(angle), 0.027))
    foot = curve((-1.16, 0.88, 0.04), (-0.7, 0.82, 0.12), (-0.1, 0.82, 0.14), (0.32, 0.83, 0.11))
    neck = limb((0.05, 0.74, 0.2), (0.02, 0.1, 0.26))
    return Plan(
        body=(foot, neck, limb(HEAD)),
        behind=(
            Piece(dye.second, (limb((-0.58, 0.3, size)),), is_round=True),
            Piece(mark_on(dye.second, 0.35), (Limb(tuple(spiral)),), line=0),
        ),
    )


def _octopus(dye: Dye, rng: Random) -> Plan:
    curl = rng.uniform(-0.05, 0.05)
    rows = (  # from the head to the tip
        ((0.28, 0.1), (0.62, 0.34), (0.9, 0.4), (1.0, 0.18 + curl), (0.88, 0.08 + curl)),
        ((0.22, 0.2), (0.44, 0.62), (0.7, 0.76), (0.86, 0.62 + curl), (0.78, 0.5 + curl)),
        ((0.1, 0.2), (0.13, 0.66), (0.26, 0.88), (0.44, 0.86 + curl), (0.46, 0.74 + curl)),
    )
    radii = (0.15, 0.13, 0.1, 0.06, 0.04)
    arms = [curve(*((x, y, r) for (x, y), r in zip(row, radii, strict=True))) for row in rows]
    return Plan(
        body=(limb((0, -0.22, 0.46), (0, 0.06, 0.4)),),
        behind=tuple(Piece(dye.second, (arm,)) for row in arms for arm in both(row)),
    )


def _crab(dye: Dye, rng: Random) -> Plan:
    lift = rng.uniform(-0.12, 0.06)
    legs = (
        curve((0.4, 0.28, 0.08), (0.8, 0.32, 0.07), (0.98, 0.58, 0.02)),
        curve((0.4, 0.44, 0.08), (0.8, 0.48, 0.07), (0.88, 0.74, 0.02)),
        curve((0.4, 0.58, 0.08), (0.8, 0.62, 0.07), (0.74, 0.88, 0.02)),
    )
    arm = curve((0.5, 0.1, 0.1), (0.76, 0.06, 0.09), (0.82, -0.12 + lift, 0.09))
    claw = (limb((0.82, -0.2 + lift, 0.15), (x, -0.5 + lift, 0.05)) for x in (0.69, 0.97))
    return Plan(
        body=(Oval(0, 0.3, 0.66, 0.4), limb(HEAD)),
        belly=(Oval(0, 0.6, 0.5, 0.28),),
        behind=(*(Piece(dye.main, (shape,)) for shape in both(*legs, arm)), Piece(dye.second, both(*claw))),
    )


def _caterpillar(dye: Dye, rng: Random) -> Plan:
    arch = rng.uniform(-0.08, 0.06)
    rings = [(-1.02, 0.64, 0.23), (-0.74, 0.52 + arch, 0.29), (-0.36, 0.48 + arch / 2, 0.34), (0.02, 0.42, 0.34)]
    feet = tuple(Oval(x + shift, y + r + 0.03, 0.08, 0.1) for x, y, r in rings for shift in (-0.1, 0.12))
    fills = (dye.second, dye.main, dye.second, dye.main)
    return Plan(
        body=(limb(HEAD),),
        behind=(
            Piece(mix(dye.main, INK, 0.35), feet),
            *(Piece(fill, (limb(ring),), is_round=True) for fill, ring in zip(fills, rings, strict=True)),
        ),
    )


PLANS: dict[str, Callable[[Dye, Random], Plan]] = {
    "creature on two legs": _two_legged,
    "creature on four legs": _four_legged,
    "bird": _bird,
    "fish": _fish,
    "snake": _snake,
    "snail": _snail,
    "turtle": _turtle,
    "octopus": _octopus,
    "crab": _crab,
    "caterpillar": _caterpillar,
}
