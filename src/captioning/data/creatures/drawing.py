"""Draws a `Creature`: a body of its kind with its parts, coat and face, on a pale background."""

from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

from captioning.data.creatures.bodies import PLANS, Dye, Plan
from captioning.data.creatures.parts import FACE, FACES, PARTS, face
from captioning.data.creatures.shapes import INK, PAPER, Pen, Piece, Rgb, Shape, curve, limb, mix, rgb, shade_of

OVERSAMPLING = 3  # drawn this much larger, then shrunk: ImageDraw's own edges are jagged


@dataclass(frozen=True)
class Creature:
    """All that a caption says of an image."""

    kind: str  # of PLANS
    color: str  # of COLORS, as is the second
    second_colour: str | None
    coat: str  # "plain", or "spotted" or "striped" in the second color
    parts: tuple[str, ...]  # of PARTS and FACES


def draw_creature(creature: Creature, size: int, rng: Random) -> Image.Image:
    """A square image of the creature; all that the creature leaves open is left to chance."""
    main = shade_of(creature.color, rng)
    second = shade_of(creature.second_colour, rng) if creature.second_colour else main
    dye = Dye(main, second, belly=second if creature.second_colour else mix(main, PAPER, 0.16))
    plan = PLANS[creature.kind](dye, rng)
    side = size * OVERSAMPLING
    image = _background(side, rng)
    centre = (side * rng.uniform(0.53, 0.55), side * rng.uniform(0.53, 0.55))
    pen = Pen(image, scale=side * rng.uniform(0.4, 0.42), turn=rng.uniform(-0.05, 0.05), centre=centre)
    for part in reversed(creature.parts):  # the head's parts come first, and lie over wings
        for piece in () if part in FACES else PARTS[part](plan, dye, rng):
            pen.paint(piece)
    for piece in (*plan.behind, Piece(main, plan.body)):
        pen.paint(piece)
    body = pen.mask(plan.body)
    _paint_coat(pen, body, creature.coat, plan, dye)
    pen.shade(body, main)
    for piece in (*plan.front, *face(plan, dye, creature.parts, rng)):
        pen.paint(piece)
    return image.reduce(OVERSAMPLING)  # the mean of each square: to the eye as good as LANCZOS, in a tenth of the time


def _paint_coat(pen: Pen, body: Image.Image, coat: str, plan: Plan, dye: Dye) -> None:
    if coat == "plain":
        pen.paint_within(body, plan.belly, dye.belly)
        return
    marks = _stripes() if coat == "striped" else _spots()
    pen.paint_within(body, marks, dye.second)
    pen.paint_within(body, [limb(FACE)], dye.main)  # eyes and mouth are lost on marks


def _stripes() -> list[Shape]:
    places = (i * 0.28 for i in range(-4, 3))
    return [curve((x - 0.1, -1.2, 0.075), (x, 0, 0.085), (x - 0.1, 1.2, 0.075)) for x in places]


def _spots() -> list[Shape]:
    rows = ((-0.56 + row * 0.26, row % 2 * 0.18) for row in range(6))
    return [limb((column * 0.36 + shift, y, 0.11)) for y, shift in rows for column in range(-3, 3)]


# ------------------------------------------------------------ background


def _background(side: int, rng: Random) -> Image.Image:
    hue = rng.random()
    top = rgb(hue, rng.uniform(0.4, 0.8), rng.uniform(0.87, 0.92))
    low = rgb(hue + rng.uniform(-0.12, 0.12), 0.6, rng.uniform(0.9, 0.95))
    image = Image.new("RGB", (1, 2), top)
    image.putpixel((0, 1), low)
    image = image.resize((1, side), Image.Resampling.BILINEAR).resize((side, side), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    scenery = rng.choice((None, _draw_bubbles, _draw_hills, _draw_rays, _draw_dots))
    if scenery:
        scenery(draw, side, low, rng)
    draw.ellipse((0.2 * side, 0.885 * side, 0.82 * side, 0.955 * side), fill=mix(low, INK, 0.13))  # the ground
    return image


def _draw_bubbles(draw: ImageDraw.ImageDraw, side: int, tone: Rgb, rng: Random) -> None:
    for _ in range(9):
        x, y, r = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(0.03, 0.15) * side
        draw.ellipse((x - r, y - r, x + r, y + r), fill=mix(tone, PAPER, rng.uniform(0.3, 0.6)))


def _draw_hills(draw: ImageDraw.ImageDraw, side: int, tone: Rgb, rng: Random) -> None:
    for height, strength in ((0.7, 0.1), (0.78, 0.2)):
        x, y = rng.uniform(0.2, 0.8) * side, (height + rng.uniform(-0.04, 0.04)) * side
        draw.ellipse((x - side, y, x + side, y + side), fill=mix(tone, rgb(rng.random(), 0.5, 0.6), strength))


def _draw_rays(draw: ImageDraw.ImageDraw, side: int, tone: Rgb, rng: Random) -> None:
    start = rng.uniform(0, 36)
    for i in range(10):
        box = (-side / 2, -side / 2, 1.5 * side, 1.5 * side)
        draw.pieslice(box, start + 36 * i, start + 36 * i + 18, fill=mix(tone, PAPER, 0.5))


def _draw_dots(draw: ImageDraw.ImageDraw, side: int, tone: Rgb, rng: Random) -> None:
    step, r = side / 7, side * 0.022
    for row in range(8):
        for column in range(8):
            x, y = (column + row % 2 / 2) * step, row * step
            draw.ellipse((x - r, y - r, x + r, y + r), fill=mix(tone, PAPER, 0.6))
