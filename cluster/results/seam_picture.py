"""A picture of where seams show: the borders' lines over the dimmed picture, and a plot of the ratios under it.

A piece of a line has the colour of the ratio about it, as far as it can be told from 1; grey says that it cannot.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from generation.seams.lattices import HORIZONTAL, VERTICAL
from generation.seams.ratios import BLOCK, GATE, Parts, Tally, verdict
from storage.exports.picture import Picture
from storage.files import replace_file
from storage.geometry import Box, Canvas

if TYPE_CHECKING:
    from cluster.results.seams import BorderKind, SeamReport, SeamRow
    from generation.seams.ratios import Seam

Floats = NDArray[np.float64]
Colour = tuple[int, int, int]

LONGEST, SHORTEST = 2048, 1024
"""Pixels of the map's longer side, at most and at least."""
ALONG = 5
"""Parts of the canvas along a line whose sums are put together for its colour."""
NOISE, CERTAIN = 2.5, 4.0
"""Errors from 1 up to which a colour stays grey, and from which on it is the ratio's."""
TINY = 1e-9
FULL = 1.5
"""The ratio, or one over it, of the strongest colours."""
CLOSEST = 24
"""Pixels of the map between two lines of a lattice, at least; closer ones are left out."""
NIGHT, INK, FAINT, GREY = (17, 19, 24), (232, 234, 238), (138, 144, 156), (176, 182, 192)
EDGES = np.array([GREY, (255, 205, 90), (255, 128, 48), (255, 40, 60)], np.float64)
BLURS = np.array([GREY, (120, 205, 255), (50, 140, 255), (90, 70, 255)], np.float64)
VERDICTS: dict[str, Colour] = {"inside": (110, 205, 140), "unclear": (226, 196, 110)}


def write_picture(found: SeamReport, path: Path) -> None:
    """Write the PNG. Raises OSError."""
    encoded = io.BytesIO()
    picture_of(found).save(encoded, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, encoded.getvalue())


def picture_of(found: SeamReport) -> Image.Image:
    """The map, and under it the plot."""
    drawn = map_of(found)
    plot = plot_of(found, max(SHORTEST, drawn.width))
    whole = Image.new("RGB", (plot.width, drawn.height + plot.height), NIGHT)
    whole.paste(drawn, ((plot.width - drawn.width) // 2, 0))
    whole.paste(plot, (0, drawn.height))
    return whole


# --- the map ---------------------------------------------------------------------------------------------------------


def map_of(found: SeamReport) -> Image.Image:
    """The picture, dimmed, and its lines; of the strongest seam's in any case, if they are not too close."""
    ground = reduced(Picture.open(found.folder))
    scale = ground.width / found.width
    told = np.zeros((ground.height, ground.width))
    lines = np.zeros(told.shape, bool)
    strongest = found.strongest
    for kind in found.kinds:
        wanted = kind.shown or (strongest is not None and kind.name == strongest.name)
        if wanted and gap(found, kind) * scale >= CLOSEST:
            _draw_lines(found, kind, scale, told, lines)
    pixels = dimmed(ground)
    thin, thick = lines & (told == 0), widened(told, max(1, ground.width // SHORTEST))
    pixels[thin] = 0.6 * pixels[thin] + 0.4 * np.array(GREY)
    strong = thick != 0
    pixels[strong] = colours_of(thick[strong])
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def reduced(picture: Picture) -> Image.Image:
    """The largest level that fits; enlarged where it is small."""
    level = 0
    while max(picture.layout.size(level)) > LONGEST:
        level += 1
    image = Image.fromarray(picture.read(level, picture.layout.whole(level).box))
    larger = -(-SHORTEST // max(image.size))
    return image.resize((image.width * larger, image.height * larger), Image.Resampling.NEAREST)


def dimmed(image: Image.Image) -> Floats:
    """Darker, and nearly without colour, so that the lines' colours are the only ones."""
    pixels = np.asarray(image, np.float64)
    grey = pixels.mean(axis=2, keepdims=True)
    return np.asarray(0.45 * (0.75 * grey + 0.25 * pixels) + 0.1 * np.array(NIGHT))


def gap(found: SeamReport, kind: BorderKind) -> float:
    """The mean distance of a kind's lines, in pixels."""
    longest = max(float(found.tallies[kind.name].length[way].sum()) for way in (HORIZONTAL, VERTICAL))
    return found.width * found.height / max(1.0, longest)


def _draw_lines(
    found: SeamReport, kind: BorderKind, scale: float, told: Floats, lines: NDArray[np.bool_]
) -> None:
    """Mark the lines of a kind, and the strength of each piece; where kinds share a line the strongest counts."""
    canvas, cell = Canvas(found.height, found.width), found.cell
    part, strengths = Parts(canvas).side, strength_of(found.tallies[kind.name])
    block = BLOCK // cell * cell
    for top in range(0, canvas.height, block):
        for left in range(0, canvas.width, block):
            box = Box(top, top + block, left, left + block).intersection(canvas.box)
            assert box is not None
            around = canvas.clip(box.expanded(cell))
            for way in (HORIZONTAL, VERTICAL):
                for lattice in kind.lattices:
                    seen = lattice.lines(way, around, cell)
                    line, along = seen.present.nonzero()
                    across, first = seen.at[line], (around.x0, around.y0)[way] + along * cell
                    y, x = (across, first) if way == HORIZONTAL else (first, across)
                    kept = (y >= box.y0) & (y < box.y1) & (x >= box.x0) & (x < box.x1)
                    y, x = y[kept], x[kept]
                    value = strengths[way][y // part, x // part]
                    _mark(told, lines, way, y * scale, x * scale, cell * scale, value)


def _mark(
    told: Floats,
    lines: NDArray[np.bool_],
    way: int,
    y: NDArray[Any],
    x: NDArray[Any],
    length: float,
    value: Floats,
) -> None:
    """Pieces of lines that begin at (y, x) and run along their way."""
    for step in range(max(1, int(np.ceil(length)))):
        rows = np.minimum((y + step * (way == VERTICAL)).astype(int), told.shape[0] - 1)
        columns = np.minimum((x + step * (way == HORIZONTAL)).astype(int), told.shape[1] - 1)
        lines[rows, columns] = True
        stronger = abs(value) > abs(told[rows, columns])
        told[rows[stronger], columns[stronger]] = value[stronger]


def strength_of(tally: Tally) -> Floats:
    """(2, rows, columns) in [-1, 1] of each part's lines: the ratio's logarithm, FULL being 1; 0 where it is noise."""
    strengths = np.zeros(tally.on.shape)
    for way in (HORIZONTAL, VERTICAL):
        held = tally.beside[way] > 0
        if held.sum() < ALONG:
            continue
        on, beside, squares = (
            _along(sums, 1 - way) for sums in (tally.on[way], tally.beside[way], tally.beside[way] ** 2)
        )
        ratio = np.maximum(on, TINY) / np.maximum(beside, TINY)
        rest = (tally.on[way] - ratio * tally.beside[way])[held]
        spread = np.sqrt((rest**2).sum() / (tally.beside[way][held] ** 2).sum() * ALONG / (ALONG - 1))
        errors = np.abs(on - beside) / np.maximum(spread * np.sqrt(squares), TINY)
        sure = np.clip((errors - NOISE) / (CERTAIN - NOISE), 0, 1)
        strengths[way] = np.where(held, sure * np.clip(np.log(ratio) / np.log(FULL), -1, 1), 0)
    return strengths


def _along(sums: Floats, axis: int) -> Floats:
    """Moving sums."""
    padded = np.pad(sums, [(ALONG // 2, ALONG // 2) if way == axis else (0, 0) for way in (0, 1)])
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, ALONG, axis).sum(axis=-1))


def widened(told: Floats, by: int) -> Floats:
    """Lines that can be told, thicker on both sides; the stronger counts."""
    wide = told
    for axis in (0, 1):
        for shift in range(-by, by + 1):
            moved = np.roll(told, shift, axis)
            wide = np.where(abs(moved) > abs(wide), moved, wide)
    return wide


def colours_of(strengths: Floats) -> Floats:
    """(n, 3) of (n,) in [-1, 1]: from grey to red for edges, to blue for blurs."""
    places = np.linspace(0, 1, len(EDGES))
    channels = [
        np.where(
            strengths >= 0,
            np.interp(strengths, places, EDGES[:, n]),
            np.interp(-strengths, places, BLURS[:, n]),
        )
        for n in range(3)
    ]
    return np.stack(channels, axis=-1)


# --- the plot --------------------------------------------------------------------------------------------------------


class Plot:
    """Ratios by kind of border: a dot and its error for all lines, strokes for those of one direction.

    +-----------------------------------------------------------------+
    | title                                              colour scale  |
    | name          |      .    | --+-- |   .       | 1.02 +- 0.01  verdict
    """

    def __init__(self, found: SeamReport, width: int) -> None:
        self.unit = width / SHORTEST
        self.row = round(30 * self.unit)
        self.reach = max([0.12, *(min(abs(row.worst.ratio - 1) * 1.25, 0.6) for row in found.rows)])
        height = round(96 * self.unit) + self.row * len(found.rows) + round(58 * self.unit)
        self.image = Image.new("RGB", (width, height), NIGHT)
        self.draw = ImageDraw.Draw(self.image)
        self.left, self.right = 0.235 * width, 0.665 * width

    def x(self, ratio: float) -> float:
        """Where a ratio lies; those beyond the plot at its border."""
        share = np.clip((ratio - 1) / self.reach, -1, 1)
        return float((self.left + self.right) / 2 + share * (self.right - self.left) / 2)

    def text(
        self, x: float, y: float, words: str, size: float = 15, ink: Colour = INK, anchor: str = "lm"
    ) -> None:
        font = ImageFont.load_default(size * self.unit)
        self.draw.text((x, y), words, fill=ink, font=font, anchor=anchor)

    def line(self, x0: float, y0: float, x1: float, y1: float, ink: Colour, width: float = 1.5) -> None:
        self.draw.line((x0, y0, x1, y1), fill=ink, width=max(1, round(width * self.unit)))


def plot_of(found: SeamReport, width: int) -> Image.Image:
    """Title, colour scale, a row for each kind, the axis."""
    plot = Plot(found, width)
    margin, strongest = 20 * plot.unit, found.strongest
    title = f"Strongest seam: {strongest.name}" if strongest else "No seam found"
    plot.text(margin, 34 * plot.unit, title, 22)
    told = (
        f"differences across borders over those beside them, {found.width} x {found.height}, {found.source}"
    )
    plot.text(margin, 62 * plot.unit, told, 13, FAINT)
    _scale(plot, width - margin)
    top = round(96 * plot.unit)
    bottom = top + plot.row * len(found.rows)
    plot.draw.rectangle((plot.x(1 - GATE), top, plot.x(1 + GATE), bottom), fill=(32, 42, 44))
    plot.line(plot.x(1), top, plot.x(1), bottom, (70, 80, 88))
    for index, row in enumerate(found.rows):
        _row(plot, row, top + (index + 0.5) * plot.row)
    gate = (1 - GATE, 1 + GATE) if plot.x(1 + GATE) - plot.x(1) > 36 * plot.unit else ()
    for ratio in (1 - plot.reach, *gate, 1, 1 + plot.reach):
        plot.text(plot.x(ratio), bottom + 14 * plot.unit, f"{ratio:.2f}", 12, FAINT, "mm")
    note = "dot: all lines, with its standard error; strokes: horizontal and vertical ones; band: no seam"
    plot.text(margin, bottom + 40 * plot.unit, note, 12, FAINT)
    return plot.image


def _scale(plot: Plot, right: float) -> None:
    """What the colours of the map mean."""
    width, height, y = round(220 * plot.unit), round(12 * plot.unit), round(28 * plot.unit)
    strip = np.repeat(colours_of(np.linspace(-1, 1, width))[None], height, axis=0)
    left = round(right - width)
    plot.image.paste(Image.fromarray(np.rint(strip).astype(np.uint8)), (left, y))
    for place, words in ((0.0, f"{1 / FULL:.2f} blur"), (0.5, "1"), (1.0, f"edge {FULL:.2f}")):
        plot.text(
            left + place * width, y + 2.0 * height, words, 12, FAINT, ("lm", "mm", "rm")[round(2 * place)]
        )


def _row(plot: Plot, row: SeamRow, y: float) -> None:
    ink = VERDICTS.get(row.verdict, colour_of(row.worst))
    plot.text(20 * plot.unit, y, row.name)
    tick = 6 * plot.unit
    for one, dx, dy in ((row.horizontal, tick, 0.0), (row.vertical, 0.0, tick)):
        if one.pixels and abs(one.ratio - 1) < plot.reach:
            x, shade = plot.x(one.ratio), colour_of(one) if verdict(one).startswith("seam") else FAINT
            plot.line(x - dx, y - dy, x + dx, y + dy, shade, 2)
    x, both = plot.x(row.both.ratio), row.both
    if np.isfinite(both.error) and abs(both.ratio - 1) < plot.reach:
        plot.line(plot.x(both.ratio - both.error), y, plot.x(both.ratio + both.error), y, ink, 2.5)
    dot = 5 * plot.unit
    if abs(both.ratio - 1) < plot.reach:
        plot.draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=ink)
    else:  # beyond the plot
        tip = x + np.copysign(dot, both.ratio - 1)
        plot.draw.polygon(((tip, y), (2 * x - tip, y - dot), (2 * x - tip, y + dot)), fill=ink)
    error = f" ± {both.error:.3f}" if np.isfinite(both.error) else ""
    plot.text(0.69 * plot.image.width, y, f"{both.ratio:.3f}{error}")
    left = 0.855 * plot.image.width
    plot.text(left, y, row.verdict, 15, ink)
    if row.worst != row.both:
        way = "horizontal" if row.worst == row.horizontal else "vertical"
        plot.text(left + 82 * plot.unit, y, way, 11, FAINT)


def colour_of(seam: Seam) -> Colour:
    """The map's colour of a ratio that is a seam; strong enough to be read."""
    strength = float(np.clip(np.log(max(seam.ratio, 1e-9)) / np.log(FULL), -1, 1))
    shown = np.copysign(max(abs(strength), 0.6), strength)
    red, green, blue = (round(float(channel)) for channel in colours_of(np.array([shown]))[0])
    return red, green, blue
