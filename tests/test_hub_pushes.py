"""A job loads what it began with from the hub, whatever is pushed there while it runs or before it goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from pushed_hub import Hub
from retrained import retrain, retrained
from typer.testing import CliRunner

from cluster import api, generate
from cluster.commands.app import app
from cluster.datasets.entry import make_batch
from cluster.datasets.requests import rows_at_hand
from cluster.engine.driver import Interrupted
from cluster.engine.executors import make
from cluster.engine.work import JobWork
from cluster.following.events import TaskDone
from cluster.jobs.job import Job, prepare
from cluster.jobs.models import described, loaded
from cluster.spec import job_file
from cluster.spec.fields import JobSpec
from generation.models.errors import ModelError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LORA = "pytorch_lora_weights.safetensors"
SMALL = {
    "width": 192, "height": 128, "num_inference_steps": 2, "device": "cpu", "executor": "in-process", "tile": 64,
    "outputs": ("ome-zarr",), "block": 16, "preview_every": 0,
}  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "cache")
    made.install(monkeypatch)
    return made


@pytest.fixture
def newer(folders: dict[str, Path], tmp_path: Path) -> Path:
    return retrained(folders["sd1"], tmp_path / "newer")


def lora(folders: dict[str, Path], folder: Path, seed: int) -> Path:
    file = tiny_models.build_lora(folders["sd1"], folder, "unet", seed=seed)
    return file.rename(folder / LORA).parent


def fields(out: Path, **more: Any) -> dict[str, Any]:
    return {"prompt": "a meadow", "model": "tiny/sd1", "out": out, **SMALL, **more}


def picture(out: Path) -> dict[str, bytes]:
    root = out / "image.zarr"
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def stops_after(tasks: int) -> Callable[[Any], None]:
    left = iter(range(tasks - 1))

    def heard(event: Any) -> None:
        if isinstance(event, TaskDone) and next(left, None) is None:
            raise KeyboardInterrupt

    return heard


def test_a_push_changes_nothing_in_a_job_that_has_begun(
    hub: Hub, folders: dict[str, Path], newer: Path, tmp_path: Path
) -> None:
    """Model and LoRA, each pushed between planning and loading, during the job, and before it goes on."""
    hub.push("tiny/sd1", folders["sd1"])
    hub.push("tiny/lora", lora(folders, tmp_path / "first", 1))
    with_lora = {"loras": ("tiny/lora:0.5",)}
    generate(**fields(tmp_path / "straight", **with_lora))
    wanted = picture(tmp_path / "straight")
    job = prepare(JobSpec(**fields(tmp_path / "pushed", **with_lora)))
    hub.push("tiny/sd1", newer)
    hub.push("tiny/lora", lora(folders, tmp_path / "second", 2))
    with pytest.raises(Interrupted):
        api.run(job, resume=False, on_event=stops_after(5))
    api.resume(tmp_path / "pushed")
    assert picture(tmp_path / "pushed") == wanted
    generate(**fields(tmp_path / "again", **with_lora))
    assert picture(tmp_path / "again") != wanted


def test_the_commits_are_saved_and_kept(
    hub: Hub, folders: dict[str, Path], newer: Path, tmp_path: Path
) -> None:
    commit = hub.push("tiny/sd1", folders["sd1"])
    with pytest.raises(Interrupted):
        generate(**fields(tmp_path / "job"), on_event=stops_after(3))
    hub.push("tiny/sd1", newer)
    saved = job_file.load(tmp_path / "job").spec
    assert saved.model == "tiny/sd1" and saved.commits == {"tiny/sd1": commit}
    again = generate(**fields(tmp_path / "job"), resume=True)  # by the settings, which name no commit
    assert job_file.load(again.folder).spec.commits == {"tiny/sd1": commit}
    as_before = job_file.read_fields(tmp_path / "job" / job_file.NAME)
    assert prepare(JobSpec(**as_before, out=tmp_path / "b")).info.notes["commit"] == commit


def test_a_worker_that_finds_another_model_says_so(
    hub: Hub, folders: dict[str, Path], newer: Path, tmp_path: Path
) -> None:
    first, second = hub.push("tiny/sd1", folders["sd1"]), hub.push("tiny/sd1", newer)
    spec = JobSpec(**fields(tmp_path / "job"), commits={"tiny/sd1": first})
    other = spec.model_copy(update={"commits": {"tiny/sd1": second}})
    loaded(spec, described(spec))
    with pytest.raises(
        ModelError, match=f"tiny/sd1 was loaded at commit {second}, and this job began with {first}"
    ):
        loaded(other, described(spec))


def test_a_single_file_keeps_the_configuration_that_it_began_with(
    hub: Hub, folders: dict[str, Path], newer: Path, tmp_path: Path
) -> None:
    from generation.models.loading import describe

    file = tiny_models.build_single_file(folders["sd1"], tmp_path / "tiny.safetensors")
    commit = hub.push("tiny/sd1", folders["sd1"])
    began = describe(str(file), config="tiny/sd1").notes["commits"]
    hub.push("tiny/sd1", newer)
    assert began == {"tiny/sd1": commit}
    assert describe(str(file), config="tiny/sd1", commits=began).notes["commit"] == commit
    assert describe(str(file), config="tiny/sd1").notes["commit"] != commit


def test_a_batch_goes_on_with_the_commit_that_it_began_with(
    hub: Hub, folders: dict[str, Path], newer: Path, tmp_path: Path
) -> None:
    rows = [
        {"id": f"{seed}", "prompt": "a lake", "seed": seed, "width": 128, "height": 128} for seed in (1, 2)
    ]
    settings = {
        name: value for name, value in SMALL.items() if name in ("num_inference_steps", "device", "executor")
    }
    settings |= {"model": "tiny/sd1", "out": tmp_path / "set"}
    hub.push("tiny/sd1", folders["sd1"])
    make_batch(rows_at_hand(rows), dict(settings))
    table = next((tmp_path / "set" / "data").iterdir())
    wanted = table.read_bytes()
    hub.push("tiny/sd1", newer)
    table.unlink()
    make_batch(rows_at_hand(rows), dict(settings), resume=True)
    assert table.read_bytes() == wanted


# --- models on disks -------------------------------------------------------------------------------------------------


def local(model: Path, out: Path) -> JobSpec:
    return JobSpec(**fields(out, model=str(model)))


def test_a_model_that_is_trained_further_is_another_model(
    folders: dict[str, Path], newer: Path, tmp_path: Path
) -> None:
    """In the same process, under the same name, with files of the same sizes."""
    before = prepare(local(newer, tmp_path / "a")).fingerprint
    assert before != prepare(local(folders["sd1"], tmp_path / "a")).fingerprint
    retrain(newer, factor=0.9)
    assert prepare(local(newer, tmp_path / "a")).fingerprint != before


def test_a_worker_compares_the_files_that_it_loaded(newer: Path, tmp_path: Path) -> None:
    job: Job = prepare(local(newer, tmp_path / "job"))
    retrain(newer, factor=0.9)
    with pytest.raises(ModelError, match=r"is not what it was .*unet/\S+\.safetensors has changed") as said:
        make(JobWork(job))
    assert "\n" not in str(said.value)


def test_what_changed_is_named_when_a_job_goes_on(newer: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        generate(local(newer, tmp_path / "job"), on_event=stops_after(3))
    retrain(newer, factor=0.9)
    done = CliRunner().invoke(app, ["resume", str(tmp_path / "job")])
    assert done.exit_code == 2 and len(done.stderr.strip().splitlines()) == 1
    assert f"{newer / 'unet' / 'diffusion_pytorch_model.safetensors'} changed since" in done.stderr


def test_a_batch_stops_where_a_worker_finds_another_model(newer: Path, tmp_path: Path) -> None:
    """It is no request's fault, so none fails for it."""
    rows = [{"id": "a", "prompt": "a lake", "seed": 1, "width": 128, "height": 128}]
    settings = {"model": str(newer), "out": tmp_path / "set", "device": "cpu", "executor": "in-process"}
    with pytest.raises(ModelError, match="is not what it was"):
        make_batch(rows_at_hand(rows), settings, on_planned=lambda need: retrain(newer, factor=0.9))
    assert not (tmp_path / "set" / "errors.parquet").exists()
