"""Draws a `Creature`: a body of its kind with its parts, coat and face, on a pale background.

Coordinates are in hundredths of about half a creature's height, x to the right, y down, from the middle of the image.
"""

import colorsys
import itertools
import math
from dataclasses import dataclass, field
from random import Random

from PIL import Image, ImageChops, ImageDraw

Ball = tuple[float, float, float]  # x, y, radius
Shape = tuple[Ball, ...]  # balls in a row, and all that lies between neighbors
Pieces = dict[str, tuple[Shape, ...]]  # shapes by their color in a palette, from the back to the front
Rgb = tuple[int, int, int]
Range = tuple[float, float]

OVERSAMPLING = 3  # drawn this much larger, then shrunk: ImageDraw's own edges are jagged
LINE = 3.6  # an outline's width
UNLINED = ("mark", "lining", "vein", "tongue", "blush", "smile", "eye ring", "ink", "gleam")
INK, PAPER = (40, 30, 48), (255, 255, 255)
# Hue, saturation and lightness, 0 to 1: shades of one name vary, shades of two names never meet.
COLORS: dict[str, tuple[Range, Range, Range]] = {
    "red": ((0.985, 1.005), (0.70, 0.82), (0.46, 0.52)),
    "orange": ((0.068, 0.083), (0.90, 1.00), (0.53, 0.58)),
    "yellow": ((0.135, 0.150), (0.90, 1.00), (0.60, 0.66)),
    "green": ((0.290, 0.400), (0.42, 0.58), (0.42, 0.52)),
    "blue": ((0.560, 0.610), (0.65, 0.85), (0.48, 0.58)),
    "purple": ((0.735, 0.780), (0.42, 0.60), (0.50, 0.58)),
    "pink": ((0.920, 0.950), (0.75, 0.90), (0.78, 0.83)),
    "brown": ((0.050, 0.075), (0.36, 0.46), (0.36, 0.42)),
    "black": ((0.600, 0.750), (0.08, 0.16), (0.21, 0.26)),
    "white": ((0.080, 0.600), (0.20, 0.40), (0.95, 0.97)),
}


@dataclass(frozen=True)
class Creature:
    """All that a caption says of an image."""

    kind: str  # of BODIES
    color: str  # of COLORS, as is the second
    second_color: str | None
    coat: str  # "plain", or "spotted" or "striped" in the second color
    parts: tuple[str, ...]  # of PARTS, EYES, and "an open mouth"


def draw_creature(creature: Creature, size: int, rng: Random) -> Image.Image:
    """A square image of the creature; shades, proportions and the background are random."""
    main = shade_of(creature.color, rng)
    second = shade_of(creature.second_color, rng) if creature.second_color else main
    palette = {
        "main": main,
        "second": second,
        "shadow": _mix(main, INK, 0.3),
        "blush": _mix(main, (238, 110, 120), 0.75),
        "belly": second if creature.second_color else _mix(main, PAPER, 0.16),
        "mark": _contrast(second),
        "lining": second if creature.second_color else _contrast(main),
        "white": PAPER,
        "gleam": PAPER,
        "ink": INK,
        "eye ring": PAPER if _is_dark(main) else main,
        "smile": PAPER if _is_dark(main) else INK,
        "gold": (247, 178, 62),
        "slate": (84, 72, 100),
        "leaf": (118, 190, 72),
        "vein": (95, 142, 65),
        "mouth": (120, 30, 48),
        "tongue": (240, 118, 130),
    }
    side = size * OVERSAMPLING
    image = _background(side, rng)
    center = (side * rng.uniform(0.53, 0.55), side * rng.uniform(0.53, 0.55))
    pen = _Pen(image, palette, center, (side * rng.uniform(0.0039, 0.0043), side * rng.uniform(0.0039, 0.0042)))
    body = BODIES[creature.kind]
    for part in reversed(creature.parts):  # the head's parts come first, and lie over wings
        pen.paint(PARTS.get(part, {}))
    pen.paint(body.behind)
    pen.paint({"main": body.shapes})
    mask = pen.mask(body.shapes)
    if creature.coat == "plain":
        pen.paint_within(mask, "belly", body.belly)
    else:
        pen.paint_within(mask, "second", COATS[creature.coat])
        pen.paint_within(mask, "main", (((0, -16, 33),),))  # eyes and mouth are lost on marks
    pen.shade(mask, main)
    pen.paint(body.front | {"blush": _both(_oval(33, -8, 8, 5))})
    eyes = next((part for part in creature.parts if part in EYES), "small eyes")
    pen.paint(EYES[eyes])
    lip = -9 if eyes == "small eyes" else 2
    smile: Pieces = {"smile": (_curve((-10, lip, 1.8), (0, lip + 6.5, 1.8), (10, lip, 1.8)),)}
    if creature.kind != "bird":
        pen.paint(OPEN_MOUTH if "an open mouth" in creature.parts else smile)
    return image.reduce(OVERSAMPLING)  # the mean of each square: to the eye as good as LANCZOS, in a tenth of the time


def _background(side: int, rng: Random) -> Image.Image:
    hue = rng.random()
    low = _rgb(hue + rng.uniform(-0.12, 0.12), 0.6, rng.uniform(0.9, 0.95))
    image = Image.new("RGB", (1, 2), _rgb(hue, rng.uniform(0.4, 0.8), rng.uniform(0.87, 0.92)))
    image.putpixel((0, 1), low)
    image = image.resize((1, side), Image.Resampling.BILINEAR).resize((side, side), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    scenery, start = rng.choice(("nothing", "bubbles", "rays")), rng.uniform(0, 36)
    for i in range(10):
        if scenery == "bubbles":
            x, y, r = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(0.03, 0.15) * side
            draw.ellipse((x - r, y - r, x + r, y + r), fill=_mix(low, PAPER, rng.uniform(0.3, 0.6)))
        elif scenery == "rays":
            box = (-side / 2, -side / 2, 1.5 * side, 1.5 * side)
            draw.pieslice(box, start + 36 * i, start + 36 * i + 18, fill=_mix(low, PAPER, 0.5))
    draw.ellipse((0.2 * side, 0.885 * side, 0.82 * side, 0.955 * side), fill=_mix(low, INK, 0.13))  # the ground
    return image


def _rgb(hue: float, saturation: float, lightness: float) -> Rgb:
    red, green, blue = colorsys.hls_to_rgb(hue % 1, lightness, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def shade_of(name: str, rng: Random) -> Rgb:
    """A random shade of a color name."""
    return _rgb(*(rng.uniform(*bounds) for bounds in COLORS[name]))


def _mix(one: Rgb, other: Rgb, share: float) -> Rgb:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _is_dark(color: Rgb) -> bool:
    return sum(color) < 225  # ink would be lost on it


def _contrast(color: Rgb) -> Rgb:
    return _mix(color, PAPER if _is_dark(color) else INK, 0.3)


class _Pen:
    """Draws pieces onto an image; ``scale`` is in pixels per unit of width and of height."""

    def __init__(self, image: Image.Image, palette: dict[str, Rgb], center: Range, scale: Range) -> None:
        self.image, self.palette, self.center, self.scale = image, palette, center, scale

    def paint(self, pieces: Pieces) -> None:
        """Outline and fill."""
        for color, shapes in pieces.items():
            fill = self.palette[color]
            if color not in UNLINED:
                # A dark fill has no darker shade to be outlined in.
                self._cover(self.image, shapes, (16, 13, 22) if _is_dark(fill) else _mix(fill, INK, 0.7), LINE)
            self._cover(self.image, shapes, fill)

    def mask(self, shapes: tuple[Shape, ...]) -> Image.Image:
        """White where the shapes are, black elsewhere."""
        mask = Image.new("L", self.image.size)
        self._cover(mask, shapes, 255)
        return mask

    def paint_within(self, mask: Image.Image, color: str, shapes: tuple[Shape, ...]) -> None:
        """What of the shapes lies on the mask."""
        self.image.paste(self.palette[color], mask=ImageChops.multiply(mask, self.mask(shapes)))

    def shade(self, mask: Image.Image, fill: Rgb) -> None:
        """Light from the upper left, shadow at the lower right."""
        # The gradient is 0 at its center, 128, 128; this part of it puts the light a third of the way down.
        glow = Image.radial_gradient("L").resize(mask.size, Image.Resampling.NEAREST, box=(72, 78, 242, 248))
        for color, sign in ((INK, 1), (PAPER, -1)):
            light = glow.point([max(0, sign * (level - 90)) for level in range(256)])
            self.image.paste(_mix(fill, color, 0.55), mask=ImageChops.multiply(mask, light))

    def _cover(self, image: Image.Image, shapes: tuple[Shape, ...], fill: Rgb | int, grow: float = 0.0) -> None:
        draw, (cx, cy), (across, down) = ImageDraw.Draw(image), self.center, self.scale
        for shape in shapes:
            balls = [(cx + x * across, cy + y * down, (r + grow) * (across + down) / 2) for x, y, r in shape]
            for x, y, r in balls:
                draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
            for (ax, ay, ar), (bx, by, br) in itertools.pairwise(balls):
                length = math.hypot(bx - ax, by - ay) or 1
                dx, dy = (ay - by) / length, (bx - ax) / length
                corners = [(ax, ay, ar), (bx, by, br), (bx, by, -br), (ax, ay, -ar)]
                draw.polygon([(x + dx * r, y + dy * r) for x, y, r in corners], fill=fill)


def _oval(x: float, y: float, rx: float, ry: float) -> Shape:
    r, dx, dy = min(rx, ry), max(rx - ry, 0), max(ry - rx, 0)
    return (x - dx, y - dy, r), (x + dx, y + dy, r)


def _curve(*balls: Ball, steps: int = 5) -> Shape:
    """A shape that bends smoothly through the balls (a Catmull-Rom spline)."""
    smooth: list[Ball] = []
    for four in zip((balls[0], *balls), balls, balls[1:], (*balls[2:], balls[-1]), strict=False):
        for t in (step / steps for step in range(steps)):
            x, y, r = (
                b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
                for a, b, c, d in zip(*four, strict=True)
            )
            smooth.append((x, y, max(r, 0.5)))
    return (*smooth, balls[-1])


def _spiral(x: float, y: float, size: float, turns: float, radius: float) -> Shape:
    """Inwards, from the left."""
    steps = ((size * (1 - i / 40), math.pi + math.tau * turns * i / 36) for i in range(37))
    return tuple((x + reach * math.cos(angle), y + reach * math.sin(angle), radius) for reach, angle in steps)


def _both(*shapes: Shape) -> tuple[Shape, ...]:
    """The shapes, and again on the other side of x = 0."""
    return (*shapes, *(tuple((-x, y, r) for x, y, r in shape) for shape in shapes))


# ------------------------------------------------------------ the drawings


@dataclass(frozen=True)
class Body:
    """The shapes of one kind of creature."""

    shapes: tuple[Shape, ...]  # of the main color, within one outline
    belly: tuple[Shape, ...] = ()  # as much of it as lies on the body
    behind: Pieces = field(default_factory=dict)
    front: Pieces = field(default_factory=dict)


# Every creature's head lies here, so that a small model has to learn horns, ears and eyes only once.
HEAD: Ball = (0, -20, 44)
_FEET = _both(_oval(26, 85, 20, 11))
_NECK = (4, 58, 22), (4, 10, 26)
_SNAKE = ((2, 24, 18), (-20, 42, 17), (-62, 38, 17), (-98, 56, 16), (-78, 82, 15), (-30, 82, 15), (25, 86, 13))
_TENTACLES = (
    _curve((28, 10, 15), (62, 34, 13), (90, 40, 10), (100, 18, 6), (88, 8, 4)),
    _curve((22, 20, 15), (44, 62, 13), (70, 76, 10), (86, 62, 6), (78, 50, 4)),
    _curve((10, 20, 15), (13, 66, 13), (26, 88, 10), (44, 86, 6), (46, 74, 4)),
)

BODIES = {
    "creature on two legs": Body(
        (
            *((HEAD, (0, 28, 36)), *_FEET),
            *_both(((19, 50, 15), (21, 76, 14)), _curve((30, 20, 11), (50, 24, 10), (60, 14, 12))),
        ),
        belly=(_oval(0, 36, 28, 27), *_FEET),
    ),
    "creature on four legs": Body(
        ((HEAD,), ((-72, 33, 26), (2, 28, 30)), *(((x, 45, 14), (x, 82, 13)) for x in (-80, 10))),
        belly=(_curve((-84, 84, 36), (-35, 64, 22), (14, 76, 36)),),
        behind={"shadow": tuple(((x, 45, 13), (x, 77, 12)) for x in (-50, -18))},
    ),
    "turtle": Body(
        ((HEAD,), _NECK, ((-96, 72, 9), (0, 70, 12)), *(((x, 60, 15), (x, 83, 14)) for x in (-82, 2))),
        behind={
            "main": (_curve((-95, 72, 8), (-112, 72, 6), (-124, 78, 2)),),
            "second": (((-86, 50, 20), (-54, 36, 46), (-22, 50, 20)),),
            "mark": (_oval(-56, 10, 12, 10), _oval(-84, 34, 12, 10), _oval(-54, 42, 12, 10)),
        },
    ),
    "bird": Body(
        ((HEAD, (0, 22, 45)),),
        belly=(_oval(0, 40, 33, 36),),
        behind={"gold": _both(((17, 60, 4), (17, 90, 4)), ((7, 92, 4.5), (27, 92, 4.5)))},
        front={"second": _both(_curve((40, 8, 12), (53, 30, 15), (57, 58, 4))), "gold": (((0, -10, 9), (0, 6, 2)),)},
    ),
    "fish": Body(
        (_oval(-16, 10, 66, 52), (HEAD,)),
        belly=(_oval(-10, 60, 62, 32),),
        behind={
            "second": (
                *(_curve((-70, 15, 10), (-95, y, 15), (-110, 2 * y, 7)) for y in (-8, 26)),
                *(_curve((-10, 50, 14), (x + 10, 70, 9), (x, 84, 4)) for x in (-16, -40)),
                _curve((-35, -20, 12), (-50, -44, 10), (-70, -54, 5)),
            )
        },
        front={"second": (_curve((-36, 28, 7), (-50, 34, 12), (-66, 42, 5)),)},
    ),
    "snake": Body(
        (_curve((0, 0, 20), *_SNAKE, (68, 76, 8), (92, 52, 2)), _oval(0, -20, 47, 42)),
        belly=(_curve(*((x, y + 10, r * 0.7) for x, y, r in _SNAKE)), _oval(0, 16, 30, 16)),
        front={"mouth": _both(_curve((0, 10, 2), (0, 26, 2), (8, 36, 1)))},
    ),
    "snail": Body(
        ((HEAD,), _NECK, _curve((-116, 88, 4), (-70, 82, 12), (-10, 82, 14), (32, 83, 11))),
        behind={"second": (((-58, 30, 49),),), "mark": (_spiral(-58, 30, 43, 1.9, 2.7),)},
    ),
    "octopus": Body((((0, -22, 46), (0, 6, 40)),), behind={"second": _both(*_TENTACLES)}),
    "crab": Body(
        (_oval(0, 30, 66, 40), (HEAD,)),
        belly=(_oval(0, 60, 50, 28),),
        behind={
            "main": _both(
                *(_curve((40, y, 8), (80, y, 7), (98, y + 30, 2)) for y in (28, 42, 56)),
                _curve((50, 10, 10), (76, 6, 9), (82, -14, 9)),
            ),
            "second": _both(((82, -22, 15), (69, -52, 5)), ((82, -22, 15), (97, -52, 5))),
        },
    ),
    "caterpillar": Body(
        ((HEAD,),),
        behind={
            "shadow": tuple(_oval(x, 88, 8, 10) for x in (-110, -92, -74, -52, -34, -12, 10)),
            "main": (((-74, 52, 29),), ((2, 42, 34),)),
            "second": (((-102, 64, 23),), ((-36, 48, 34),)),
        },
    ),
}


def _ears(*balls: Ball) -> Pieces:
    return {"main": _both(balls), "lining": _both(tuple((x, y, r * 0.55) for x, y, r in balls))}


_FEATHERS = ((77, -70), (94, -38), (96, -6), (86, 19))  # their tips
PARTS: dict[str, Pieces] = {
    "one horn": {"gold": (((0, -64, 16), (0, -114, 2)),), "mark": (((-10, -75, 1.6), (10, -82, 1.6)),)},
    "two horns": {"slate": _both(_curve((24, -46, 15), (50, -60, 11), (56, -92, 1.5)))},
    "pointed ears": _ears((25, -51, 20), (54, -87, 3)),
    "round ears": _ears((41, -56, 22)),
    "long ears": _ears((12, -53, 9), (25, -90, 14), (32, -108, 10)),
    "antennae": {
        "slate": _both(_curve((9, -54, 3.5), (18, -90, 3.5), (43, -99, 3.5))),
        "second": _both(((43, -99, 12),)),
    },
    "a leaf on its head": {
        "leaf": (((0, -55, 4), (0, -76, 4)), *_both(_curve((0, -76, 2), (18, -90, 13), (44, -96, 1.5)))),
        "vein": _both(((6, -81, 1), (34, -93, 0.8))),
    },
    "wings": {"second": _both(*(((25, 15, 10), (x * 0.6 + 10, y * 0.6 + 6, 14), (x, y, 6)) for x, y in _FEATHERS))},
    "a long tail": {
        "main": (_curve((-20, 50, 12), (-75, 42, 11), (-104, 15, 10), (-98, -20, 9)),),
        "second": (_curve((-98, -16, 10), (-98, -36, 17), (-90, -66, 2)),),
    },
    "a curly tail": {"main": (((-20, 50, 10), (-64, 42, 9), *_spiral(-84, -2, -30, 1.5, 7)),)},
}


def _big_eyes(x: float, y: float, r: float) -> Pieces:
    pupil, gleam = _oval(x, y + r * 0.06, r * 0.6, r * 0.66), ((x - r * 0.2, y - r * 0.2, r * 0.26),)
    return {"white": _both(_oval(x, y, r, r * 1.08)), "ink": _both(pupil), "gleam": _both(gleam)}


EYES: dict[str, Pieces] = {
    "big eyes": _big_eyes(20, -26, 18),
    "one big eye": _big_eyes(0, -28, 24),
    "small eyes": {
        "eye ring": _both(_oval(20, -26, 10, 12)),
        "ink": _both(_oval(20, -26, 7.2, 9.5)),
        "gleam": _both(((18, -29.5, 3),)),
    },
}
OPEN_MOUTH: Pieces = {
    "mouth": (_oval(0, 1, 20, 14),),
    "tongue": (_oval(0, 8, 11, 6),),
    "gleam": (((-10, -9, 2.5), (10, -9, 2.5)),),
}
COATS = {
    "striped": tuple(_curve((x - 10, -120, 7.5), (x, 0, 8.5), (x - 10, 120, 7.5)) for x in range(-112, 57, 28)),
    "spotted": tuple(((x + y // 26 % 2 * 18, y, 11),) for y in range(-56, 75, 26) for x in range(-108, 73, 36)),
}
