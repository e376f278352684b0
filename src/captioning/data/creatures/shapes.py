"""Smooth shapes, their colors, and a pen that outlines and shades them: what ImageDraw lacks for a cartoon."""

import colorsys
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageChops, ImageDraw

Point = tuple[float, float]  # x to the right, y down
Ball = tuple[float, float, float]  # x, y, radius
Rgb = tuple[int, int, int]
Range = tuple[float, float]

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
INK, PAPER = (40, 30, 48), (255, 255, 255)
LINE = 0.036  # an outline's width, where a creature is about 2 high


def rgb(hue: float, saturation: float, lightness: float) -> Rgb:
    """The color of this hue, saturation and lightness, all from 0 to 1; hues go round."""
    red, green, blue = colorsys.hls_to_rgb(hue % 1, lightness, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def shade_of(name: str, rng: Random) -> Rgb:
    """One of the shades that go by this color name."""
    hue, saturation, lightness = (rng.uniform(*bounds) for bounds in COLORS[name])
    return rgb(hue, saturation, lightness)


def mix(one: Rgb, other: Rgb, share: float) -> Rgb:
    """The first color with this share of the other in it."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def is_dark(color: Rgb) -> bool:
    """Whether ink would be lost on it."""
    return sum(color) < 225


def mark_on(fill: Rgb, share: float) -> Rgb:
    """A shade that shows on this fill: darker, or lighter where the fill is dark."""
    return mix(fill, PAPER if is_dark(fill) else INK, share)


@dataclass(frozen=True)
class Limb:
    """Balls in a row and all that lies between neighbours; where closed, also what the row goes around."""

    balls: tuple[Ball, ...]
    closed: bool = False


@dataclass(frozen=True)
class Oval:
    """An ellipse, turned clockwise by so many radians."""

    x: float
    y: float
    rx: float
    ry: float
    turn: float = 0.0


Shape = Limb | Oval


@dataclass(frozen=True)
class Piece:
    """Shapes of one color within one outline; a line of width 0 is none."""

    fill: Rgb
    shapes: tuple[Shape, ...]
    line: float = LINE
    is_round: bool = False  # shaded as a ball is


def limb(*balls: Ball) -> Limb:
    """A limb whose bones are straight."""
    return Limb(balls)


def curve(*balls: Ball, steps: int = 5) -> Limb:
    """A limb that bends smoothly through the given balls (a Catmull-Rom spline)."""
    ends = (balls[0], *balls, balls[-1])
    smooth: list[Ball] = []
    for i in range(len(balls) - 1):
        for t in (step / steps for step in range(steps)):
            x, y, r = (_spline(a, b, c, d, t) for a, b, c, d in zip(*ends[i : i + 4], strict=True))
            smooth.append((x, y, max(r, 0.005)))
    return Limb((*smooth, balls[-1]))


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def both(*shapes: Shape) -> tuple[Shape, ...]:
    """The shapes, and again on the other side of x = 0."""
    return (*shapes, *(_mirrored(shape) for shape in shapes))


def _mirrored(shape: Shape) -> Shape:
    if isinstance(shape, Oval):
        return Oval(-shape.x, shape.y, shape.rx, shape.ry, -shape.turn)
    return Limb(tuple((-x, y, r) for x, y, r in shape.balls), shape.closed)


class Pen:
    """Draws onto an image in a creature's own coordinates, which are scaled, turned and moved to its place.

    Args:
        image: what is drawn on.
        scale: pixels per unit.
        turn: by how many radians the creature leans, clockwise.
        centre: the pixel that the creature's point 0, 0 comes to lie on.
    """

    def __init__(self, image: Image.Image, *, scale: float, turn: float, centre: Point) -> None:
        self.image = image
        self.draw = ImageDraw.Draw(image)
        self.scale, self.turn, self.centre = scale, turn, centre
        self.cos, self.sin = math.cos(turn) * scale, math.sin(turn) * scale

    def paint(self, piece: Piece) -> None:
        """Outline and fill."""
        if piece.line:
            # A dark fill has no darker shade to be outlined in.
            outline = (16, 13, 22) if is_dark(piece.fill) else mix(piece.fill, INK, 0.7)
            self._cover(self.draw, piece.shapes, outline, piece.line)
        self._cover(self.draw, piece.shapes, piece.fill)
        if piece.is_round:
            self.shade(self.mask(piece.shapes), piece.fill)

    def mask(self, shapes: Iterable[Shape]) -> Image.Image:
        """White where the shapes are, black elsewhere."""
        mask = Image.new("L", self.image.size)
        self._cover(ImageDraw.Draw(mask), shapes, 255)
        return mask

    def paint_within(self, mask: Image.Image, shapes: Iterable[Shape], fill: Rgb) -> None:
        """Only what of the shapes lies on the mask."""
        inside = ImageChops.multiply(mask, self.mask(shapes))
        box = inside.getbbox()
        if box:
            self.image.paste(fill, box, inside.crop(box))

    def shade(self, mask: Image.Image, fill: Rgb) -> None:
        """Round the masked area off: light from the upper left, shadow at the lower right."""
        box = mask.getbbox()
        if box is None:
            return
        area = mask.crop(box)
        # The gradient is 0 at its centre, 128, 128; this part of it puts the light a third of the way down.
        falloff = _GLOW.resize(area.size, Image.Resampling.NEAREST, box=(72, 78, 242, 248))
        for color, levels in ((mix(fill, INK, 0.5), _SHADOW), (mix(fill, PAPER, 0.6), _SHINE)):
            self.image.paste(color, box, ImageChops.multiply(area, falloff.point(levels)))

    def _cover(self, draw: ImageDraw.ImageDraw, shapes: Iterable[Shape], fill: Rgb | int, grow: float = 0.0) -> None:
        for shape in shapes:
            if isinstance(shape, Oval):
                draw.polygon(self._ellipse(shape, grow), fill=fill)
            else:
                self._cover_limb(draw, shape, fill, grow)

    def _cover_limb(self, draw: ImageDraw.ImageDraw, limb: Limb, fill: Rgb | int, grow: float) -> None:
        balls = [(*self._pixel(x, y), (r + grow) * self.scale) for x, y, r in limb.balls]
        if limb.closed:
            draw.polygon([(x, y) for x, y, _ in balls], fill=fill)
            balls.append(balls[0])
        for x, y, r in balls:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        for one, other in itertools.pairwise(balls):
            corners = _between(one, other)
            if corners:
                draw.polygon(corners, fill=fill)

    def _pixel(self, x: float, y: float) -> Point:
        return self.centre[0] + x * self.cos - y * self.sin, self.centre[1] + x * self.sin + y * self.cos

    def _ellipse(self, oval: Oval, grow: float) -> list[Point]:
        x, y = self._pixel(oval.x, oval.y)
        rx, ry = (oval.rx + grow) * self.scale, (oval.ry + grow) * self.scale
        cos, sin = math.cos(oval.turn + self.turn), math.sin(oval.turn + self.turn)
        return [(x + rx * u * cos - ry * v * sin, y + rx * u * sin + ry * v * cos) for u, v in _CIRCLE]


def _between(one: Ball, other: Ball) -> list[Point]:
    """The corners of what two balls' common tangents bound; none where one ball holds the other."""
    (ax, ay, ar), (bx, by, br) = one, other
    distance = math.hypot(bx - ax, by - ay)
    if distance <= abs(ar - br):
        return []
    along_x, along_y = (bx - ax) / distance, (by - ay) / distance
    lean = (ar - br) / distance  # the radius to where a tangent touches leans this much along the way
    rise = math.sqrt(1 - lean * lean)
    left = (lean * along_x - rise * along_y, lean * along_y + rise * along_x)
    right = (lean * along_x + rise * along_y, lean * along_y - rise * along_x)
    corners = ((ax, ay, ar, left), (bx, by, br, left), (bx, by, br, right), (ax, ay, ar, right))
    return [(x + r * u, y + r * v) for x, y, r, (u, v) in corners]


_CIRCLE = [(math.cos(i * math.pi / 20), math.sin(i * math.pi / 20)) for i in range(40)]
_GLOW = Image.radial_gradient("L")
_SHADOW = [max(0, level - 90) for level in range(256)]
_SHINE = [max(0, 90 - level) for level in range(256)]
