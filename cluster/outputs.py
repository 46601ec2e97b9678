"""The formats that a job's picture is written in, all from the same pass over the pixels.

Reductions read what decoding stored without loss, so the OME-Zarr image is always written; where it was not asked
for, it goes when the picture is finished.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from cluster.spec import JobSpec
from storage.formats.contract import FORMATS, PyramidFormat
from storage.formats.ome_zarr import OmeZarr, image_root
from storage.formats.page import Page, write_page
from storage.pyramid import PyramidLayout


@dataclass(frozen=True)
class Outputs:
    """Built from a folder and a layout wherever it is needed."""

    folder: Path
    master: OmeZarr
    formats: tuple[PyramidFormat, ...]
    page: Page
    keeps_master: bool

    def create(self) -> None:
        """What all writers share, and the page, which fills as tiles come."""
        for output in self.formats:
            output.create()
        write_page(self.folder, self.page)

    def finish(self) -> None:
        """Raises FileNotFoundError, naming what is missing, where the picture is not complete."""
        for output in self.formats:
            output.finish()
        if not self.keeps_master:
            shutil.rmtree(image_root(self.folder))


def outputs_for(spec: JobSpec, layout: PyramidLayout) -> Outputs:
    """The outputs that a spec asks for."""
    folder = Path(spec.out)
    master = OmeZarr(folder, layout)
    others = [FORMATS[name](folder, layout, spec.tile_format) for name in spec.outputs if name != "ome-zarr"]
    page = Page(
        title=spec.prompt,
        layout=layout,
        wraps_x=spec.topology != "plane",
        deep_zoom="deep-zoom" in spec.outputs,
        encoding=spec.tile_format,
    )
    return Outputs(folder, master, (master, *others), page, "ome-zarr" in spec.outputs)
