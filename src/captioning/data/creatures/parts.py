"""What a drawn creature may have: horns, ears, wings and tails, and the eyes and mouth of its face."""

import math
from collections.abc import Callable
from random import Random

from captioning.data.creatures.bodies import GOLD, HEAD, Dye, Plan, at_head
from captioning.data.creatures.shapes import (
    INK,
    PAPER,
    Ball,
    Limb,
    Oval,
    Piece,
    both,
    curve,
    is_dark,
    limb,
    mark_on,
    mix,
)

_, Y, R = HEAD  # its x is 0
CREAM, SLATE, LEAF = (240, 232, 214), (84, 72, 100), (118, 190, 72)
MOUTH, TONGUE, BLUSH = (120, 30, 48), (240, 118, 130), (238, 110, 120)

Part = Callable[[Plan, Dye, Random], list[Piece]]

# ------------------------------------------------------------ on the head


def _one_horn(plan: Plan, dye: Dye, rng: Random) -> list[Piece]:
    horn = limb(at_head(0, R, 0.16), at_head(0, R + 0.5, 0.02))
    rings = (limb((-x, y, 0.016), (x, y - 0.07, 0.016)) for x, y in ((0.115, -0.7), (0.085, -0.82), (0.05, -0.94)))
    return [Piece(GOLD, (horn,)), Piece(mix(GOLD, INK, 0.35), tuple(rings), line=0)]


def _two_horns(plan: Plan, dye: Dye, rng: Random) -> list[Piece]:
    tip = at_head(rng.uniform(0.55, 0.8), R + 0.48, 0.015)
    return [Piece(SLATE, both(curve(at_head(0.75, R * 0.8, 0.15), at_head(0.9, R + 0.2, 0.11), tip)))]


def _ears(*balls: Ball) -> Part:
    """A pair of ears of this outline, lined with the second color."""

    def draw(plan: Plan, dye: Dye, rng: Random) -> list[Piece]:
        lining = dye.second if dye.second != dye.main else mark_on(dye.main, 0.25)
        inside = limb(*((x, y, r * 0.55) for x, y, r in balls))
        return [Piece(dye.main, both(limb(*balls))), Piece(lining, both(inside), line=0)]

    return draw


def _antennae(plan: Plan, dye: Dye, rng: Random) -> list[Piece]:
    x, y, _ = at_head(0.5, R + 0.46, 0)
    stem = curve(at_head(0.25, R * 0.8, 0.035), at_head(0.25, R + 0.28, 0.035), (x, y, 0.035))
    knobs = (Piece(dye.second, (knob,), is_round=True) for knob in both(limb((x, y, 0.12))))
    return [Piece(SLATE, both(stem), line=0.02), *knobs]


def _leaf(plan: Plan, dye: Dye, rng: Random) -> list[Piece]:
    y = Y - R - 0.12
    stem = limb((0, Y - R * 0.8, 0.04), (0, y, 0.04))
    leaves = both(curve((0, y, 0.02), (0.18, y - 0.14, 0.13), (0.44, y - 0.2, 0.015)))
    veins = both(curve((0.06, y - 0.05, 0.01), (0.2, y - 0.14, 0.012), (0.34, y - 0.17, 0.008)))
    return [Piece(LEAF, (stem,)), Piece(LEAF, leaves), Piece(mix(LEAF, INK, 0.3), veins, line=0)]


# ------------------------------------------------------------ on the back


def _wings(plan: Plan, dye: Dye, rng: Random) -> list[Piece]:
    return rng.choice((_feathered_wings, _leathery_wings, _insect_wings))(dye)


def _feathered_wings(dye: Dye) -> list[Piece]:
    feathers = []
    for i in range(4):
        reach = 1.0 - 0.13 * i
        x, y = reach * math.sin(0.55 + 0.36 * i), -reach * math.cos(0.55 + 0.36 * i)
        middle, tip = (0.25 + 0.6 * x, 0.15 + 0.6 * y, 0.14), (0.25 + x, 0.15 + y, 0.06)
        feathers.append(curve((0.25, 0.15, 0.1), middle, tip))
    return [Piece(dye.second, both(*feathers))]


def _leathery_wings(dye: Dye) -> list[Piece]:
    shoulder, tip, claw, hem, hip = (0.2, 0.1), (0.95, -0.75), (1.05, -0.12), (0.78, 0.26), (0.2, 0.3)
    rim: list[Ball] = []
    for start, bow, end in (
        (shoulder, (0.42, -0.5), tip),
        (tip, (0.9, -0.45), claw),
        (claw, (0.8, -0.04), hem),
        (hem, (0.55, 0.14), hip),
    ):
        rim += curve((*start, 0.025), (*bow, 0.025), (*end, 0.025)).balls
    skin = both(Limb(tuple(rim), closed=True))
    bones = both(*(limb((0.3, 0.1, 0.02), (x, y, 0.01)) for x, y in (tip, claw, hem)))
    return [Piece(dye.second, skin), Piece(mark_on(dye.second, 0.25), bones, line=0)]


def _insect_wings(dye: Dye) -> list[Piece]:
    pieces = []
    for x, y, rx, ry, turn in ((0.62, 0.2, 0.34, 0.2, 0.25), (0.66, -0.3, 0.42, 0.26, -0.75)):
        pieces.append(Piece(dye.second, both(Oval(x, y, rx, ry, turn))))
        pieces.append(Piece(mix(dye.second, PAPER, 0.25), both(Oval(x, y, rx * 0.6, ry * 0.6, turn)), line=0))
    return pieces


def _long_tail(plan: Plan, dye: Dye, rng: Random) -> list[Piece]:
    x, y = plan.rump
    tail = curve((x, y, 0.12), (min(x - 0.12, -0.75), 0.42, 0.11), (-1.04, 0.15, 0.1), (-0.98, -0.2, 0.09))
    tuft = curve((-0.98, -0.16, 0.1), (-0.98, -0.36, 0.17), (-0.9, -0.66, 0.02))
    return [Piece(dye.main, (tail,)), Piece(dye.second, (tuft,))]


def _curly_tail(plan: Plan, dye: Dye, rng: Random) -> list[Piece]:
    x, y = plan.rump
    balls = [(x, y, 0.1), (min(x - 0.05, -0.6), 0.35, 0.09)]
    for t in (i / 24 for i in range(25)):
        angle, reach = 1.4 + 8.5 * t, 0.3 * (1 - 0.85 * t)
        balls.append((-0.86 + reach * math.cos(angle), -0.1 + reach * math.sin(angle), 0.09 - 0.035 * t))
    return [Piece(dye.main, (Limb(tuple(balls)),))]


PARTS: dict[str, Part] = {
    "one horn": _one_horn,
    "two horns": _two_horns,
    "pointed ears": _ears(at_head(0.68, R * 0.9, 0.2), at_head(0.68, R + 0.42, 0.03)),
    "round ears": _ears(at_head(0.85, R + 0.1, 0.22)),
    "long ears": _ears(at_head(0.35, R * 0.8, 0.09), at_head(0.35, R + 0.3, 0.14), at_head(0.35, R + 0.5, 0.1)),
    "antennae": _antennae,
    "a leaf on its head": _leaf,
    "wings": _wings,
    "a long tail": _long_tail,
    "a curly tail": _curly_tail,
}

# ------------------------------------------------------------ face

FACES = ("big eyes", "one big eye", "an open mouth")
FACE: Ball = (0.0, Y + 0.04, 0.33)  # what eyes and mouth take of the head


def face(plan: Plan, dye: Dye, parts: tuple[str, ...], rng: Random) -> list[Piece]:
    """Eyes, cheeks and, unless the body has a beak, a mouth."""
    pieces = [Piece(BLUSH, both(Oval(0.31, Y + 0.13, 0.075, 0.045)), line=0)]
    lip = Y + 0.22
    if "one big eye" in parts:
        pieces += _big_eye(0, Y - 0.08, 0.24)
    elif "big eyes" in parts:
        pieces += [*_big_eye(-0.2, Y - 0.06, 0.18), *_big_eye(0.2, Y - 0.06, 0.18)]
    else:
        pieces += [*_small_eye(-0.2, Y - 0.06, dye), *_small_eye(0.2, Y - 0.06, dye)]
        lip = Y + 0.11
    if not plan.has_mouth:
        return pieces
    if "an open mouth" in parts:
        return pieces + _open_mouth()
    mouth = rng.choice(((Limb(_bow(0, lip, 0.1, 0.065)),), both(Limb(_bow(0.065, lip, 0.065, 0.055)))))
    return [*pieces, Piece(CREAM if is_dark(dye.main) else INK, mouth, line=0)]


def _small_eye(x: float, y: float, dye: Dye) -> list[Piece]:
    if is_dark(dye.main):
        white, pupil = Oval(x, y, 0.085, 0.1), Oval(x + 0.01, y + 0.02, 0.045, 0.055)
        return [Piece(CREAM, (white,), line=0), Piece(INK, (pupil,), line=0)]
    pupil, gleam = Oval(x, y, 0.072, 0.095), Oval(x - 0.02, y - 0.035, 0.03, 0.03)
    return [Piece(INK, (pupil,), line=0), Piece(PAPER, (gleam,), line=0)]


def _big_eye(x: float, y: float, r: float) -> list[Piece]:
    return [
        Piece(PAPER, (Oval(x, y, r, r * 1.08),), line=0.03),
        Piece(INK, (Oval(x + r * 0.05, y + r * 0.08, r * 0.6, r * 0.66),), line=0),
        Piece(PAPER, (Oval(x - r * 0.18, y - r * 0.22, r * 0.26, r * 0.26),), line=0),
        Piece(PAPER, (Oval(x + r * 0.28, y + r * 0.38, r * 0.13, r * 0.13),), line=0),
    ]


def _open_mouth() -> list[Piece]:
    jaw = Limb(_bow(0, Y + 0.08, 0.2, 0.27), closed=True)
    tongue, teeth = Oval(0, Y + 0.27, 0.11, 0.07), limb((-0.11, Y + 0.095, 0.025), (0.11, Y + 0.095, 0.025))
    return [Piece(MOUTH, (jaw,)), Piece(TONGUE, (tongue,), line=0), Piece(PAPER, (teeth,), line=0)]


def _bow(x: float, y: float, rx: float, ry: float) -> tuple[Ball, ...]:
    """The lower half of an ellipse, as a thin row of balls."""
    angles = (i * math.pi / 10 for i in range(11))
    return tuple((x + rx * math.cos(angle), y + ry * math.sin(angle), 0.018) for angle in angles)
