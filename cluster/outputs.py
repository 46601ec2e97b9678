"""What a job writes for people: the formats of its picture, the labels of its classes, its page. All from one pass.

Reductions read what decoding stored without loss, so the OME-Zarr image is always written, and with it the labels;
where it was not asked for, both go when the picture is finished.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import job_file
from cluster.legend import legend_of
from cluster.paths import model_in_public
from cluster.spec import JobSpec
from storage.exports import metadata
from storage.formats.atomic import replace_file
from storage.formats.class_layer import write_class_layer
from storage.formats.contract import FORMATS, PyramidFormat
from storage.formats.deep_zoom import INDEX
from storage.formats.labels import Labels
from storage.formats.ome_zarr import OmeZarr, image_root
from storage.formats.page import Page, write_page
from storage.formats.panorama import write_panorama

if TYPE_CHECKING:
    from cluster.job import Job

EXACT_IN_JAVASCRIPT = 2**53
FLATTEST = 8
"""Width of a ring for each of its height; flatter ones are little to look around in."""
PROVENANCE = "provenance.xmp"
"""Beside the finished picture: that a model made it, and how. No name by which a folder that was exported is known."""


@dataclass(frozen=True)
class Outputs:
    """Built from a job wherever it is needed.

    labels: None where the model knows no classes and the picture has no regions. grain: pixels of a latent's side, on
    which a class is constant. facts: of the spec and this program, as exports tell them.
    """

    folder: Path
    master: OmeZarr
    formats: tuple[PyramidFormat, ...]
    labels: Labels | None
    grain: int
    page: Page
    keeps_master: bool
    facts: Mapping[str, Any]

    def create(self) -> None:
        """What all writers share, and the page, which fills as tiles come."""
        for output in self.formats:
            output.create()
        if self.labels is not None:
            self.labels.create()
        write_page(self.folder, self.page)

    def finish(self) -> None:
        """Raises MissingPixels, naming what is missing, where the picture is not complete."""
        if not self._is_closed():
            self._close()
        replace_file(self.folder / PROVENANCE, metadata.xmp(self.facts))
        if not self.keeps_master:
            shutil.rmtree(image_root(self.folder))

    def _close(self) -> None:
        """All that is read from the master and its labels first, the other formats last."""
        self.master.finish()
        if self.labels is not None:
            self.labels.finish()
            write_class_layer(self.folder, self.labels, self.grain)
        if self.page.panorama:
            write_panorama(self.folder, self.page.layout, self.master.read_level)
        for output in self.formats[1:]:
            output.finish()

    def _is_closed(self) -> bool:
        """Whether a run closed all, and ended before the last of a master that goes was gone: the index comes last."""
        return not self.keeps_master and (self.folder / INDEX).is_file()


def outputs_for(job: Job) -> Outputs:
    """The outputs that a job's spec asks for."""
    spec, layout = job.spec, job.plan.layout
    legend = legend_of(job.info) if job.regions is None else job.regions.legend()
    folder = Path(spec.out)
    master = OmeZarr(folder, layout)
    others = [FORMATS[name](folder, layout, spec.tile_format) for name in spec.outputs if name != "ome-zarr"]
    page = Page(
        title=spec.prompt,
        layout=layout,
        wraps_x=spec.topology != "plane",
        deep_zoom="deep-zoom" in spec.outputs,
        encoding=spec.tile_format,
        about=about(spec, job.fingerprint),
        classes=legend,
        panorama=is_panorama(spec),
    )
    return Outputs(
        folder=folder,
        master=master,
        formats=(master, *others),
        labels=Labels(folder, layout, legend) if legend else None,
        grain=job.info.scale,
        page=page,
        keeps_master="ome-zarr" in spec.outputs,
        facts=spec.model_dump(mode="json") | {"version": job_file.versions()["hypermosaic"]},
    )


def is_panorama(spec: JobSpec) -> bool:
    """Whether a picture is one to look around in: equirectangular, 360 degrees wide and 180 to 45 high."""
    return spec.topology == "ring" and 2 * spec.height <= spec.width <= FLATTEST * spec.height


def about(spec: JobSpec, fingerprint: str) -> dict[str, str | int | float]:
    """What made a picture, for its page: settings of a resolved spec. No path of the machine that made it is told."""
    facts: dict[str, str | int | float | None] = {
        "prompt": spec.prompt,
        "negativePrompt": spec.negative_prompt or None,
        "seed": spec.seed if spec.seed <= EXACT_IN_JAVASCRIPT else str(spec.seed),
        "model": model_in_public(spec.model),
        "scheduler": spec.scheduler,
        "steps": spec.num_inference_steps,
        "guidanceScale": "unconditional" if spec.cond_scale == 0 else spec.guidance_scale,
        "method": spec.method,
        "topology": spec.topology,
        "fingerprint": fingerprint,
        "version": job_file.versions()["hypermosaic"],
    }
    return {name: value for name, value in facts.items() if value is not None}
