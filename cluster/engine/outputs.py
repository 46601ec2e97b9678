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

from cluster.spec import job_file
from cluster.spec.fields import SETTINGS, JobSpec, is_panorama
from cluster.spec.paths import model_in_public
from cluster.words.legend import legend_of
from storage.exports import metadata
from storage.files import replace_file
from storage.formats import FORMATS
from storage.formats.contract import PyramidFormat
from storage.formats.labels import LabelPyramid
from storage.formats.ome_zarr import OmeZarr, image_root
from storage.pyramid import PyramidTask
from viewer.class_layer import layer_path, write_class_layer
from viewer.page import Page, page_files, write_page
from viewer.panorama import panorama_path, write_panorama

if TYPE_CHECKING:
    from cluster.jobs.job import Job

EXACT_IN_JAVASCRIPT = 2**53
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
    labels: LabelPyramid | None
    grain: int
    page: Page
    keeps_master: bool
    facts: Mapping[str, Any]

    def create(self) -> None:
        """What all writers share, and the page, which fills as tiles come. Mends what of it is damaged."""
        for output in self.formats:
            output.create()
        if self.labels is not None:
            self.labels.create()
        write_page(self.folder, self.page)

    def kept_files(self, task: PyramidTask) -> list[Path]:
        """The files that a task wrote and that a finished picture keeps, in a fixed order."""
        kept = self.formats if self.keeps_master else self.formats[1:]
        places = self.page.layout.writes(task)
        files = [file for output in kept for place in places for file in output.files(place.level, place.box)]
        return files + (self._label_files(task) if self.keeps_master else [])

    def master_files(self, task: PyramidTask) -> list[Path]:
        """The files that a task wrote and that later tasks, and the end of the job, read."""
        places = self.page.layout.writes(task)
        files = [file for place in places for file in self.master.files(place.level, place.box)]
        return files + self._label_files(task)

    def read_master(self, task: PyramidTask) -> None:
        """Read all that a task wrote into the master and its labels. Raises DamagedData where it is not whole."""
        for place in self.page.layout.writes(task):
            if place.level < self.page.layout.levels:
                self.master.read_level(place.level, place.box)
                if self.labels is not None:
                    self.labels.read_level(place.level, place.box)

    def _label_files(self, task: PyramidTask) -> list[Path]:
        if self.labels is None:
            return []
        places = self.page.layout.writes(task)
        return [file for place in places for file in self.labels.files(place.level, place.box)]

    # --- the end

    def derived_files(self) -> list[Path]:
        """The files that `close` makes from the master, which may be gone when they are to be made again."""
        layer = [layer_path(self.folder)] if self.labels is not None else []
        return layer + ([panorama_path(self.folder)] if self.page.panorama else [])

    def own_files(self) -> list[Path]:
        """The files that a finished picture keeps beside those of its tasks."""
        kept = self.formats if self.keeps_master else self.formats[1:]
        labels = self.labels.own_files() if self.labels is not None and self.keeps_master else []
        files = [file for output in kept for file in output.own_files()] + labels
        return [*page_files(self.folder, self.page), *files, *self.derived_files(), self.folder / PROVENANCE]

    def close(self, *, derive: bool) -> None:
        """Write what can be written only now that all tasks are done. Raises DamagedData for an incomplete picture.

        derive: whether to make the derived files, too, for which the master must be complete.
        """
        if derive:
            self._derive()
        for output in self.formats if self.keeps_master else self.formats[1:]:
            output.finish()
        if self.labels is not None and self.keeps_master:
            self.labels.finish()
        replace_file(self.folder / PROVENANCE, metadata.xmp(self.facts))

    def _derive(self) -> None:
        if self.labels is not None:
            write_class_layer(self.folder, self.labels, self.grain)
        if self.page.panorama:
            write_panorama(self.folder, self.page.layout, self.master.read_level)

    def drop_master(self) -> None:
        """Remove the master of a closed picture that does not keep it; nothing happens where there is none."""
        if not self.keeps_master:
            shutil.rmtree(image_root(self.folder), ignore_errors=True)


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
        labels=LabelPyramid(folder, layout, legend) if legend else None,
        grain=job.info.scale,
        page=page,
        keeps_master="ome-zarr" in spec.outputs,
        facts=spec.model_dump(mode="json") | {"version": job_file.versions()["hypermosaic"]},
    )


def about(spec: JobSpec, fingerprint: str) -> dict[str, str | int | float]:
    """What made a picture, for its page: settings of a resolved spec. No path of the machine that made it is told."""
    facts = {setting.page: getattr(spec, name) for name, setting in SETTINGS.items() if setting.page}
    facts |= {
        "model": model_in_public(spec.model),
        "fingerprint": fingerprint,
        "version": job_file.versions()["hypermosaic"],
    }
    if spec.cond_scale == 0:
        facts["guidanceScale"] = "unconditional"
    return {name: _shown(value) for name, value in facts.items() if value not in (None, "")}


def _shown(value: Any) -> str | int | float:
    """As the page reads it back: whole numbers that JavaScript would round are text."""
    exact = (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= EXACT_IN_JAVASCRIPT
    )
    return value if exact else str(value)
