"""A finished picture as an object: its page, its pixels, its settings. Loads no more than is asked for."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.results.exporting import finished_picture
from cluster.spec import job_file
from cluster.spec.fields import JobSpec, SpecError
from cluster.spec.paths import absolute
from storage.formats.ome_zarr import image_root

if TYPE_CHECKING:
    from PIL.Image import Image

    from storage.exports.picture import Picture

LARGEST_IMAGE = 2048
THUMBNAIL = 512
"""Sides in pixels, at most."""


@dataclass(frozen=True)
class Mosaic:
    """A finished picture and its folder. In a notebook it shows itself, small.

    before: whether the call that gave it found it finished, so that nothing was left to do.
    """

    folder: Path
    before: bool = False

    @classmethod
    def of(cls, folder: Path | str, before: bool = False) -> Mosaic:
        """That of a folder. Raises SpecError where its job is not finished or it is a batch, FileNotFoundError where it
        holds no job, FormatError where it is damaged.
        """
        found = cls(absolute(folder), before)
        _ = found._pixels  # opened here, so that what is wrong with it is said here
        return found

    @property
    def page(self) -> Path:
        """index.html, which shows it to zoom into; copy it with its folder, or `view` it."""
        return self.folder / "index.html"

    @cached_property
    def spec(self) -> JobSpec:
        """The settings that made it. Raises SpecError where the folder keeps none."""
        return job_file.load(self.folder).spec

    @property
    def width(self) -> int:
        """Pixels."""
        return self._pixels.width

    @property
    def height(self) -> int:
        """Pixels."""
        return self._pixels.height

    @cached_property
    def image(self) -> Image:
        """A PIL picture, RGB: the largest level of the pyramid whose sides are at most 2048 pixels; kept.

        For the whole at full size take `array`, or `export`; for a part, `export` with a region.
        """
        return self.scaled(LARGEST_IMAGE)

    def scaled(self, side: int) -> Image:
        """A PIL picture, RGB: the largest level of the pyramid whose sides are at most `side` pixels."""
        from PIL import Image

        if side < 1:
            raise SpecError(f"side {side} is out of range: give at least one pixel")
        layout = self._pixels.layout
        boxes = (layout.whole(level).box for level in range(layout.deep_levels))
        level, box = next((level, box) for level, box in enumerate(boxes) if max(box.shape) <= side)
        return Image.fromarray(self._pixels.read(level, box))

    @property
    def array(self) -> Any:
        """All pixels as a zarr.Array, (3, height, width) uint8 sRGB; read where it is indexed, and not before.

        For names of dimensions, and for dask, open it with xarray (`pip install xarray`; docs/outputs.md):

            xarray.open_zarr(picture.folder / "image.zarr", consolidated=False, chunks=None, drop_variables=[...])["0"]

        Raises SpecError where the job kept no OME-Zarr image.
        """
        import zarr

        if not self._pixels.has_master:
            raise SpecError(
                f"{self.folder} keeps no OME-Zarr image: its outputs are {', '.join(self.spec.outputs)}; take .image, "
                "or an export, or draw it with ome-zarr among the outputs"
            )
        return zarr.open_array(image_root(self.folder) / "0", mode="r")

    @cached_property
    def _pixels(self) -> Picture:
        return finished_picture(self.folder)

    def _repr_html_(self) -> str:
        """For notebooks: a thumbnail, and what it is of."""
        encoded = io.BytesIO()
        self.scaled(THUMBNAIL).save(encoded, "PNG")
        picture = base64.b64encode(encoded.getvalue()).decode()
        words = f"{self._words()}, {self.width:,} x {self.height:,} pixels"
        return (
            f'<figure style="margin:0"><img src="data:image/png;base64,{picture}" alt="{html.escape(words)}">'
            f"<figcaption>{html.escape(words)}<br><code>{html.escape(str(self.page))}</code></figcaption></figure>"
        )

    def _words(self) -> str:
        """The prompt, or the folder's name where it keeps no settings."""
        try:
            return self.spec.prompt
        except SpecError:
            return self.folder.name
