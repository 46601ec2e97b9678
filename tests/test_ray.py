"""Ray gives the bytes that the in-process executor gives, with any number of workers, and when a worker dies."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from engine import files_of, run
from PIL import Image
from tiny_class_models import build_class_map

from cluster.engine.executors.in_process import InProcess
from cluster.engine.executors.ray_actors import RayActors, connect
from cluster.engine.work import JobWork
from cluster.jobs.job import Job, prepare
from cluster.spec.fields import JobSpec
from generation.models.errors import ModelError

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    connect(4)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    ids = np.random.default_rng(0).integers(0, 3, (9, 11)).astype(np.uint8)
    Image.fromarray(ids, "L").save(folder / "map.png")
    return build_class_map(folder)


def job_of(model: Path, out: Path, **fields: Any) -> Job:
    defaults: dict[str, Any] = {
        "prompt": "a map", "classes": model / "map.png", "model": str(model), "width": 4 * 75, "height": 4 * 50,
        "block": 32, "tile": 64, "num_inference_steps": 4, "method": "hann", "scheduler": "euler_a", "topology": "ring",
        "device": "cpu", "batch_size": 3,
    }  # fmt: skip
    return prepare(JobSpec(**{**defaults, **fields}, out=out))


@pytest.fixture(scope="module")
def reference(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    job = job_of(model, tmp_path_factory.mktemp("in-process"), executor="in-process")
    run(job, InProcess.of(JobWork(job)), lambda event: None)
    return files_of(job.spec.out)


def on_ray(job: Job, on_event: Any = lambda event, executor: None) -> dict[str, bytes]:
    executor = RayActors(JobWork(job))
    try:
        run(job, executor, lambda event: on_event(event, executor))
    finally:
        executor.close()
    return files_of(job.spec.out)


@pytest.mark.usefixtures("cluster")
def test_workers_that_stand_in_another_folder_find_what_relative_paths_name(
    model: Path, reference: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's stand where Ray was started."""
    monkeypatch.chdir(tmp_path)
    near = Path(os.path.relpath(model))
    job = job_of(near, Path("out"), executor="ray", workers=1)
    assert not near.is_absolute() and on_ray(job) == reference


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_same_bytes(
    workers, cluster, model, reference, tmp_path: Path
) -> None:
    assert any(name.startswith("image.zarr/labels/classes/0/c/") for name in reference)
    assert on_ray(job_of(model, tmp_path, workers=workers)) == reference
    assert len(reference) > 20


def test_a_killed_worker_changes_nothing(cluster, model, reference, tmp_path: Path) -> None:
    seen: list[str] = []
    killed: list[Any] = []

    def kill_one(event: Any, executor: RayActors) -> None:
        seen.append(type(event).__name__)
        if len(seen) >= 12 and not killed and executor._running:
            killed.append(next(member.handle for member, _ in executor._running.values()))
            ray.kill(killed[0])

    assert on_ray(job_of(model, tmp_path, workers=2), kill_one) == reference
    assert "TaskRetried" in seen


def test_an_error_in_a_worker_arrives_as_itself(cluster, model, tmp_path: Path) -> None:
    """The weights go bad after the driver looked at them, so that the worker alone meets them."""
    bad = Path(shutil.copytree(model, tmp_path / "model"))
    job = job_of(bad, tmp_path / "job", workers=1)
    weights = bad / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=f"{weights} is not a whole safetensors file"):
        on_ray(job)
    assert len((tmp_path / "job" / "ledger.jsonl").read_text().splitlines()) == 1  # no task is done


@pytest.mark.skipif(
    not Path("/proc/thread-self/children").exists(), reason="no /proc/.../children here, to find processes by"
)
def test_no_process_stands_by(cluster) -> None:
    names = names_below(os.getpid())
    assert {"raylet", "gcs_server"} <= set(names)
    assert "ray::IDLE" not in names


def names_below(process: int) -> list[str]:
    """Of the processes that this one started, and that those did; one that ends meanwhile is left out."""
    names: list[str] = []
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                names += [*name_of(child), *names_below(child)]
    return names


def name_of(process: int) -> list[str]:
    """Its name, or none where it has ended."""
    try:
        return [Path(f"/proc/{process}/comm").read_text().strip()]
    except OSError:
        return []
