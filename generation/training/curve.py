"""Draws what a run's history says as a small picture. Knows Pillow and the history; knows no model.

    loss |\\
         | \\__    .  . held out
         |    \\_________
         +--------------- step
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

SIZE = (640, 400)
LEFT, TOP, RIGHT, BOTTOM = 64, 20, 620, 360
LINE, DOTS = "#2f6fb0", ("#c0392b", "#2f8f4e", "#8e44ad")
Points = list[tuple[float, float]]


def points_of(history: Sequence[dict[str, float]], key: str) -> Points:
    """(step, value) wherever the history has the key."""
    return [(entry["step"], entry[key]) for entry in history if key in entry]


def write_curve(history: Sequence[dict[str, float]], path: Path) -> None:
    """The loss as a line, figures on held-out data as dots, both on one scale from zero."""
    held_out = sorted({key for entry in history for key in entry if key.startswith("held_out")})
    colours = {"loss": LINE} | dict(zip(held_out, DOTS, strict=False))
    series = {key: points_of(history, key) for key in colours}
    widest = max((x for points in series.values() for x, _ in points), default=1.0)
    highest = 1.05 * max((y for points in series.values() for _, y in points), default=1.0) or 1.0
    picture = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(picture)
    draw_axes(draw, widest, highest)
    for row, (key, points) in enumerate(series.items()):
        placed = [place(x / widest, y / highest) for x, y in points]
        if key == "loss" and len(placed) > 1:
            draw.line(placed, fill=colours[key], width=2)
        elif placed:
            for x, y in placed:
                draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colours[key])
        if placed:
            draw.text(
                (RIGHT - 150, TOP + 14 * row), f"{key.replace('_', ' ')} {points[-1][1]:.4f}", colours[key]
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def place(across: float, up: float) -> tuple[float, float]:
    """Shares of the two axes -> a pixel."""
    return LEFT + across * (RIGHT - LEFT), BOTTOM - up * (BOTTOM - TOP)


def draw_axes(draw: ImageDraw.ImageDraw, widest: float, highest: float) -> None:
    """A frame with five marks on either axis."""
    draw.rectangle((LEFT, TOP, RIGHT, BOTTOM), outline="#888888")
    for index in range(6):
        share = index / 5
        x, y = place(share, share)
        draw.line((LEFT, y, RIGHT, y), fill="#e6e6e6")
        draw.text((LEFT - 52, y - 6), f"{highest * share:.3g}", "#444444")
        draw.text((x - 12, BOTTOM + 8), f"{widest * share:.0f}", "#444444")
