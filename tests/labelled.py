"""Small jobs of a model that knows classes, and what they leave behind. Not a test itself."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from engine import INFO, run_here, tiny_job, tiny_model
from PIL import Image

from cluster.engine.executors.in_process import InProcess
from cluster.engine.outputs import outputs_for
from cluster.engine.tasks import Worker
from cluster.engine.worker import build_sampler
from cluster.jobs.job import Job
from cluster.spec.fields import JobSpec
from storage.geometry import Box

NAMES, COLOURS = ("sea", "sand", "wood"), ("#102030", "#ffeedd", "#008000")
CLASS_INFO = replace(INFO, class_names=NAMES, notes={"colours": COLOURS})
LEGEND = tuple(zip(NAMES, COLOURS, strict=True))


@dataclass(frozen=True)
class Patchwork:
    """Three classes and none, in a pattern that no two neighbouring tasks share. Satisfies ClassMap."""

    height: int
    width: int

    def read(self, box: Box) -> torch.Tensor:
        y, x = torch.arange(box.y0, box.y1) % self.height, torch.arange(box.x0, box.x1) % self.width
        return (y[:, None] // 3 * 7 + x[None, :] // 5 * 11) % 4 - 1


def labelled_job(out: Path, monkeypatch: Any, **fields: Any) -> Job:
    return tiny_job(out, monkeypatch, CLASS_INFO, **{"prompt": "sea", **fields})


def patchwork_of(job: Job) -> Patchwork:
    return Patchwork(job.plan.canvas.height, job.plan.canvas.width)


def worker_of(job: Job) -> Worker:
    model, classes = tiny_model(info=job.info), patchwork_of(job)
    return Worker(job, build_sampler(job, model, classes), model.codec, outputs_for(job), classes)


def drawn(job: Job, kind: type[InProcess] = InProcess) -> Job:
    run_here(job, executor=kind(worker_of(job)))
    return job


def layer_in(folder: Path) -> Image.Image:
    """The picture inside viewer/classes.js."""
    script = (folder / "viewer" / "classes.js").read_text()
    found = re.fullmatch(r"window\.hypermosaicClasses = (\{.*\});\n", script)
    assert found is not None
    layer = json.loads(found[1])
    head, encoded = layer["png"].split(",")
    assert head == "data:image/png;base64"
    image = Image.open(BytesIO(base64.b64decode(encoded)))
    assert image.mode == "P" and image.size == (layer["width"], layer["height"])
    return image


def description_in(folder: Path) -> dict[str, Any]:
    page = (folder / "index.html").read_text()
    found = re.search(r'id="description"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert found is not None
    described: dict[str, Any] = json.loads(found[1])
    return described


def spec_of(model: Path, out: Path, **fields: Any) -> JobSpec:
    given = {"prompt": "sea", "width": 298, "height": 214, "num_inference_steps": 1, "tile": 64}
    return JobSpec(model=str(model), out=out, device="cpu", executor="in-process", **{**given, **fields})
