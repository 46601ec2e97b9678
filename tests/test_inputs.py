"""Files of the user that a job reads: copied by content when it begins, or compared by whoever opens them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_class_models
import zarr
from batches import errors_in, table_in
from engine import files_of, run_here
from PIL import Image
from test_labels import labels_in

from cluster import api, batch, generate
from cluster.engine.driver import Interrupted
from cluster.engine.executors.contract import TaskRunner
from cluster.engine.executors.in_process import InProcess
from cluster.engine.outcomes import StartedTask
from cluster.engine.work import JobWork
from cluster.following.events import TaskDone
from cluster.jobs import inputs
from cluster.jobs.inputs import kept
from cluster.jobs.job import Job, prepare
from cluster.jobs.stages import Task
from cluster.spec import job_file
from cluster.spec.fields import JobSpec, SpecError
from cluster.spec.identity import inputs_of
from storage.fingerprint import file_hash, tree_hash


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_class_models.build_class_map(tmp_path_factory.mktemp("inputs") / "model")


def painted(path: Path, value: int, shape: tuple[int, int] = (24, 32)) -> Path:
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)
    return path


def spec_of(model: Path, out: Path, **more: Any) -> JobSpec:
    given = {"prompt": "mine", "width": 128, "height": 96, "num_inference_steps": 1, "tile": 64, "block": 16}
    return JobSpec(model=str(model), out=out, device="cpu", executor="in-process", **{**given, **more})


def stop(event: Any) -> None:
    if isinstance(event, TaskDone):
        raise KeyboardInterrupt


def begun(spec: JobSpec) -> None:
    with pytest.raises(Interrupted):
        generate(spec, on_event=stop)


Change = Callable[[Path], object]
CHANGES: dict[str, Change] = {
    "painted anew": lambda path: painted(path, 2),
    "gone": lambda path: path.unlink(),
    "damaged": lambda path: path.write_bytes(b"no image"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_job_goes_on_with_the_map_that_it_began_with(change: Change, model: Path, tmp_path: Path) -> None:
    """In another process's stead: from the folder alone, which has been moved meanwhile."""
    labels = tmp_path / "labels.yaml"
    labels.write_text("0: wood\n2: sand\n")
    begun(spec_of(model, tmp_path / "job", classes=painted(tmp_path / "a.png", 0), class_labels=labels))
    change(tmp_path / "a.png")
    labels.write_text("0: sea")
    moved = (tmp_path / "job").rename(tmp_path / "moved")
    api.resume(moved)
    assert (labels_in(moved)[0] == 3).all()


def test_a_map_that_changes_while_a_job_is_planned_is_refused(model: Path, tmp_path: Path) -> None:
    job = prepare(spec_of(model, tmp_path / "job", classes=painted(tmp_path / "a.png", 0)))
    painted(tmp_path / "a.png", 2)
    with pytest.raises(SpecError, match=r"a\.png was written to while the job began"):
        api.run(job, resume=False, on_event=lambda event: None)
    painted(tmp_path / "a.png", 0)
    api.run(job, resume=False, on_event=lambda event: None)  # nothing is left that would be in the way


def test_copies_are_named_by_content_and_told_relative_to_the_job(model: Path, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "map.zarr", shape=(24, 32), chunks=(7, 9), dtype="uint8")[:] = 1
    labels = tmp_path / "labels.yaml"
    labels.write_text("1: wood")
    generate(spec_of(model, tmp_path / "job", classes=tmp_path / "map.zarr", class_labels=labels))
    names = {f"{tree_hash(tmp_path / 'map.zarr')}.zarr", f"{file_hash(labels)}.yaml"}
    assert {path.name for path in (tmp_path / "job" / "inputs").iterdir()} == names
    text = (tmp_path / "job" / job_file.NAME).read_text()
    assert all(f": inputs/{name}\n" in text for name in names)
    spec = job_file.load(tmp_path / "job").spec
    assert tree_hash(spec.classes) == tree_hash(tmp_path / "map.zarr")
    fields = job_file.read_fields(tmp_path / "job" / job_file.NAME)  # as a spec of another job
    assert JobSpec(**fields, out=tmp_path / "b").classes == spec.classes


def test_a_damaged_copy_is_made_again(model: Path, tmp_path: Path) -> None:
    spec = spec_of(model, tmp_path / "job", classes=painted(tmp_path / "a.png", 1))
    begun(spec)
    (copy,) = (tmp_path / "job" / "inputs").iterdir()
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-9])
    generate(spec, resume=True)
    assert copy.read_bytes() == whole
    shutil.rmtree(copy.parent)
    api.resume(tmp_path / "job")
    assert copy.read_bytes() == whole


# --- large files stay where they are ---------------------------------------------------------------------------------


def large(job: Job) -> Job:
    """The job as it is where nothing is small enough to be copied."""
    return job.reading(kept(job.spec, job.inputs, job.spec.out, limit=10))


def test_a_large_map_is_compared_when_a_worker_opens_it(model: Path, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "map.zarr", shape=(24, 32), chunks=(7, 9), dtype="uint8")[:] = 1
    for path in (painted(tmp_path / "a.png", 0), tmp_path / "map.zarr"):
        job = large(prepare(spec_of(model, tmp_path / "job", classes=path)))
        assert job.spec.classes == path and not (tmp_path / "job" / "inputs").exists()
        JobWork(job).worker()
        if path.is_dir():
            zarr.open_array(path, mode="r+")[3, 3] = 2
        else:
            painted(path, 2)
        with pytest.raises(SpecError, match=f"class map {path} has changed since it was first read") as said:
            JobWork(job).worker()
        assert "\n" not in str(said.value)


@dataclass
class Meddled:
    """A worker, and somebody who paints the map anew when it begins its third task. Satisfies TaskRunner."""

    worker: TaskRunner
    path: Path
    begun: int = 0
    name: str = "here"

    def begin(self, task: Task) -> StartedTask:
        self.begun += 1
        if self.begun == 3:
            painted(self.path, 2)
        return self.worker.begin(task)


def test_a_large_map_that_is_written_to_while_a_job_runs_stops_it(model: Path, tmp_path: Path) -> None:
    """Its tasks are not taken for done; when it is what it was, the job goes on to the same bytes."""
    path, out = painted(tmp_path / "a.png", 0), tmp_path / "job"
    generate(spec_of(model, tmp_path / "straight", classes=path))
    whole, job = path.read_bytes(), large(prepare(spec_of(model, out, classes=path)))
    with pytest.raises(SpecError, match=f"class map {path} has changed"):
        run_here(job, executor=InProcess(Meddled(JobWork(job).worker(), path)))
    path.write_bytes(whole)
    done = [
        event for event in run_here(job, executor=InProcess.of(JobWork(job))) if isinstance(event, TaskDone)
    ]
    assert len(done) >= sum(stage.tasks for stage in job.plan.stages) - 2
    assert files_of(out) == files_of(tmp_path / "straight")


def test_regions_are_read_from_their_copy(folders: dict[str, Path], tmp_path: Path) -> None:
    path = painted(tmp_path / "map.png", 3)
    spec = spec_of(folders["sd1"], tmp_path / "job", regions=path, region={3: "a wood"})
    job = prepare(spec)
    copied = job.reading(kept(job.spec, job.inputs, tmp_path / "job"))
    painted(path, 4)
    assert copied.plan.regions is copied.regions and copied.regions is not None
    assert copied.spec.regions == tmp_path / "job" / inputs.FOLDER / f"{job.inputs['regions']}.png"
    assert (copied.regions.map.read(copied.plan.canvas.box) == 1).all()
    assert inputs_of(copied.spec) == job.inputs


# --- batches ---------------------------------------------------------------------------------------------------------


def settings(model: Path, out: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": str(model), "device": "cpu", "executor": "in-process", "num_inference_steps": 1, "block": 16,
        "out": out, **more,
    }  # fmt: skip


@pytest.mark.parametrize("side", [64, 128])
def test_a_request_whose_map_changes_fails_and_the_others_are_drawn(
    side: int, model: Path, tmp_path: Path
) -> None:
    """Small ones and those that are jobs of their own."""
    good, other = painted(tmp_path / "a.png", 0, (16, 16)), painted(tmp_path / "b.png", 0, (16, 16))
    common = {"prompt": "sea", "seed": 3, "width": side, "height": side}
    rows = [{"id": "good", **common, "classes": str(good)}, {"id": "bad", **common, "classes": str(other)}]
    from cluster.datasets.entry import make_batch
    from cluster.datasets.requests import rows_at_hand

    make_batch(
        rows_at_hand(rows),
        settings(model, tmp_path / "set"),
        on_planned=lambda need: painted(other, 2, (16, 16)),
    )
    assert [row["id"] for row in table_in(tmp_path / "set")] == ["good"]
    (failed,) = errors_in(tmp_path / "set")
    assert failed["id"] == "bad" and "b.png has changed since it was first read" in failed["error"]


def test_what_all_requests_of_a_batch_read_is_copied(model: Path, tmp_path: Path) -> None:
    from cluster.datasets.entry import make_batch
    from cluster.datasets.requests import rows_at_hand

    labels = tmp_path / "labels.yaml"
    labels.write_text("0: wood")
    mask = str(painted(tmp_path / "a.png", 0, (16, 16)))
    rows = [{"id": "a", "prompt": "sea", "seed": 3, "width": 64, "height": 64, "classes": mask}]
    batch(rows, **settings(model, tmp_path / "straight", class_labels=labels))
    make_batch(
        rows_at_hand(rows), settings(model, tmp_path / "set", class_labels=labels),
        on_planned=lambda need: labels.write_text("0: sea"),
    )  # fmt: skip
    assert table_in(tmp_path / "set") == table_in(tmp_path / "straight")


def test_the_hash_of_a_row_counts_in_place_of_its_path(model: Path, tmp_path: Path) -> None:
    from cluster.datasets.entry import plan_batch
    from cluster.datasets.requests import rows_at_hand

    row = {"id": "a", "prompt": "sea", "seed": 3, "width": 64, "height": 64}
    (tmp_path / "there").mkdir()
    plans = [
        plan_batch(rows_at_hand([row | {"classes": str(path)}]), settings(model, tmp_path / "set"))[0]
        for path in (
            painted(tmp_path / "a.png", 0, (16, 16)), painted(tmp_path / "there" / "b.png", 0, (16, 16)),
            painted(tmp_path / "c.png", 1, (16, 16)),
        )
    ]  # fmt: skip
    assert plans[0].fingerprint == plans[1].fingerprint != plans[2].fingerprint
