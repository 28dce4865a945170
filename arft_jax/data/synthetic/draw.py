"""Draws the cards and emblems of the self-made tasks with Pillow's own font.

A card (84x84 px) shows a coloured figure above a printed two-digit number and a line under the number: the
order figure, number, line tells which way is up. A sheet (168x168 px) is four cards, two by two.
"""

import dataclasses
import functools
import math

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

CARD_PX = 84
COLOURS = {"Red": (208, 32, 38), "Green": (22, 138, 52), "Blue": (34, 62, 205), "Yellow": (226, 172, 0)}
FIGURES = ("Circle", "Square", "Triangle", "Star")
_SCALE = 3  # drawn larger, then reduced: smooth edges


@dataclasses.dataclass(frozen=True)
class Card:
    """What one card shows."""

    colour: str
    figure: str
    number: int


def random_card(rng: np.random.Generator) -> Card:
    """Draws colour, figure and a number of 10..99, each uniformly."""
    colour, figure = rng.choice(list(COLOURS)), rng.choice(FIGURES)
    return Card(str(colour), str(figure), int(rng.integers(10, 100)))


@functools.cache
def _font(size_px: int) -> PIL.ImageFont.FreeTypeFont:
    return PIL.ImageFont.load_default(size=size_px)


def _polygon(n: int, centre: tuple[float, float], radii: tuple[float, ...]) -> list[tuple[float, float]]:
    """``n`` corners, the first straight up, radii taken in turn."""
    angles = [2 * math.pi * i / n - math.pi / 2 for i in range(n)]
    return [
        (centre[0] + radii[i % len(radii)] * math.cos(a), centre[1] + radii[i % len(radii)] * math.sin(a))
        for i, a in enumerate(angles)
    ]


def _draw_figure(
    canvas: PIL.ImageDraw.ImageDraw, figure: str, centre: tuple[float, float], radius: float, fill: tuple
) -> None:
    x, y = centre
    if figure == "Circle":
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif figure == "Square":
        side = 0.86 * radius
        canvas.rectangle((x - side, y - side, x + side, y + side), fill=fill)
    elif figure == "Triangle":
        canvas.polygon(_polygon(3, (x, y + 0.2 * radius), (1.2 * radius,)), fill=fill)
    elif figure == "Star":
        canvas.polygon(_polygon(10, (x, y + 0.05 * radius), (1.2 * radius, 0.5 * radius)), fill=fill)
    else:
        raise ValueError(f"figure must be one of {FIGURES}: got {figure!r}")


def _tint(rng: np.random.Generator) -> tuple[int, int, int]:
    return tuple(int(v) for v in rng.integers(222, 253, size=3))


def _reduce(image: PIL.Image.Image) -> np.ndarray:
    return np.asarray(image.reduce(_SCALE))


def draw_card(card: Card, rng: np.random.Generator) -> np.ndarray:
    """uint8[84, 84, 3]: the card with a random tint and a jitter of up to two pixels."""
    image = PIL.Image.new("RGB", (CARD_PX * _SCALE,) * 2, _tint(rng))
    canvas = PIL.ImageDraw.Draw(image)
    dx, dy = (int(v) * _SCALE for v in rng.integers(-2, 3, size=2))
    middle = CARD_PX * _SCALE // 2 + dx
    _draw_figure(canvas, card.figure, (middle, 20 * _SCALE + dy), 13 * _SCALE, COLOURS[card.colour])
    for digit, offset_px in zip(str(card.number), (-13, 13), strict=True):  # a fixed place for each digit
        place = (middle + offset_px * _SCALE, 70 * _SCALE + dy)
        canvas.text(place, digit, font=_font(42 * _SCALE), fill=(0, 0, 0), anchor="ms", stroke_width=_SCALE)
    line_y = 77 * _SCALE + dy
    canvas.rectangle((middle - 26 * _SCALE, line_y, middle + 26 * _SCALE, line_y + 2 * _SCALE), fill=(40, 40, 40))
    return _reduce(image)


def draw_sheet(cards: tuple[Card, Card, Card, Card], rng: np.random.Generator) -> np.ndarray:
    """uint8[168, 168, 3]: four cards, row by row."""
    cells = [draw_card(card, rng) for card in cards]
    return np.concatenate([np.concatenate(cells[:2], axis=1), np.concatenate(cells[2:], axis=1)], axis=0)


def draw_emblem(colour: str, figure: str, rng: np.random.Generator) -> np.ndarray:
    """uint8[84, 84, 3]: a large figure on a pale shield or banner, without text."""
    image = PIL.Image.new("RGB", (CARD_PX * _SCALE,) * 2, _tint(rng))
    canvas = PIL.ImageDraw.Draw(image)
    dx, dy = (int(v) * _SCALE for v in rng.integers(-2, 3, size=2))
    field, edge = _tint(rng), (90, 90, 90)
    left, right, top = 9 * _SCALE + dx, 75 * _SCALE + dx, 6 * _SCALE + dy
    shoulder, foot = (50 if rng.integers(2) else 62) * _SCALE + dy, 80 * _SCALE + dy
    outline = [(left, top), (right, top), (right, shoulder), ((left + right) / 2, foot), (left, shoulder)]
    canvas.polygon(outline, fill=field, outline=edge, width=2 * _SCALE)
    radius = float(rng.uniform(20, 23)) * _SCALE
    _draw_figure(canvas, figure, ((left + right) / 2, 35 * _SCALE + dy), radius, COLOURS[colour])
    return _reduce(image)
