"""Paths with `..`, `~` and from other folders: in flags, in YAML, in job.yaml, on workers that stand elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_class_models
from elsewhere import Elsewhere
from engine import files_of
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner, Result

from cluster import api, generate, viewing
from cluster.commands.app import app
from cluster.engine.driver import Interrupted
from cluster.following.events import TaskDone
from cluster.jobs.job import prepare
from cluster.spec import job_file
from cluster.spec.fields import JobSpec, SpecError
from cluster.spec.paths import absolute, absolute_lora, absolute_model

QUICK = ["--size", "128x96", "--num-inference-steps", "1", "--executor", "in-process", "--device", "cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a map and one finished job."""
    folder = tmp_path_factory.mktemp("paths")
    tiny_class_models.build_class_map(folder / "model")
    Image.fromarray(np.full((24, 32), 2, np.uint8)).save(folder / "map.png")
    generate(spec_of(folder / "model", folder / "done"))
    return folder


def spec_of(model: Path | str, out: Path | str, **more: Any) -> JobSpec:
    given = {"prompt": "wood", "width": 128, "height": 96, "num_inference_steps": 1, "tile": 64}
    return JobSpec(model=str(model), out=out, device="cpu", executor="in-process", **{**given, **more})


@pytest.fixture
def inside(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where one stands: two folders down, beside a copy of that place."""
    for path in place.iterdir():
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, tmp_path / path.name)
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def done(*arguments: str) -> Result:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result


# --- what a path becomes ---------------------------------------------------------------------------------------------


def test_paths_become_absolute_and_normal(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(inside / "a"))
    assert absolute("../../x") == absolute("~/../x") == absolute(inside / "a" / ".." / "x") == inside / "x"
    (inside / "link").symlink_to(inside / "done")
    assert absolute("../../link") == inside / "link"
    assert absolute("~nobody-of-that-name") == inside / "a" / "b" / "~nobody-of-that-name"


def test_names_of_models_are_paths_where_there_is_something(inside: Path) -> None:
    assert absolute_model("../../model") == absolute_model("../../model/") == str(inside / "model")
    for name in ("embedded", "embedded/fast", "org/name", "org/name@v1", "../../nowhere", "x\0y", "m" * 5000):
        assert absolute_model(name) == name
    (inside / "a" / "b" / "embedded").mkdir()
    assert absolute_model("embedded") == "embedded"
    assert absolute_model("./embedded") == str(inside / "a" / "b" / "embedded")
    assert absolute_model("embedded/../../../model") == str(inside / "model")


def test_weights_of_loras_stay_behind_their_paths(inside: Path) -> None:
    file = inside / "l.safetensors"
    file.write_bytes(b"")
    assert absolute_lora("../../l.safetensors") == str(file)
    assert absolute_lora("../../l.safetensors:0.5") == f"{file}:0.5"
    file.rename(inside / "l:0.5")
    assert absolute_lora("../../l:0.5") == str(inside / "l:0.5")
    for name in ("org/name:0.5", "nowhere.safetensors:0.5", ":0.5", ""):
        assert absolute_lora(name) == name


def test_a_spec_holds_no_other_paths(inside: Path) -> None:
    spec = spec_of("../../model", "../../out", loras=["../../map.png:2"], classes="../../map.png",
                   class_labels=Path("../x.yaml"), regions="../y/../z.tif")  # fmt: skip
    assert (spec.model, spec.out, spec.loras) == (f"{inside}/model", inside / "out", (f"{inside}/map.png:2",))
    assert (spec.classes, spec.class_labels, spec.regions) == (
        inside / "map.png", inside / "a" / "x.yaml", inside / "a" / "z.tif",
    )  # fmt: skip


@pytest.mark.parametrize("field", ["out", "classes", "class_labels", "regions"])
def test_addresses_are_no_paths(field: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"^{field} s3://bucket/a is an address.* mount that storage"):
        JobSpec(**{"prompt": "x", "width": 9, "height": 9, "out": tmp_path, field: "s3://bucket/a"})


def test_where_things_lie_is_no_identity(inside: Path) -> None:
    shutil.copytree(inside / "model", inside / "other")
    shutil.copy(inside / "map.png", inside / "a" / "other.png")
    one = prepare(spec_of("../../model", "../x", classes="../../map.png"))
    two = prepare(spec_of(inside / "other", inside / "y", classes=inside / "a" / "other.png"))
    assert one.fingerprint == two.fingerprint


# --- commands --------------------------------------------------------------------------------------------------------


def test_commands_take_paths_that_go_up(inside: Path) -> None:
    up = "../../b/.."
    (inside / "b").mkdir()
    (inside / "spec.yaml").write_text(f"model: {up}/model\ntile: 64\n")
    made = done(
        "generate",
        "mine",
        *QUICK,
        "--config",
        f"{up}/spec.yaml",
        "--classes",
        f"{up}/map.png",
        "--out",
        f"{up}/new",
    )
    assert made.stdout.strip() == str(inside / "new" / "index.html")
    done("resume", f"{up}/new")
    done("status", f"{up}/new")
    done("status", f"{up}/new", "--times", f"{up}/times.png")
    done("evaluate", "seams", f"{up}/new", "--out", f"{up}/seams.png")
    for ending in ("png", "szi", "ome.tif"):
        done("export", f"{up}/new", "--out", f"{up}/new.{ending}")
        assert (inside / f"new.{ending}").is_file()
    done("export", f"{up}/new", "--format", "tiff")
    done("export", f"{up}/new", "--labels", "--out", f"{up}/labels.tif")
    assert (inside / "new.tif").is_file()
    table = inside / "rows.csv"
    table.write_text("id,label,seed,width,height,classes\na,sea,1,64,64,\nb,sea,1,96,72,b/../map.png\n")
    done("batch", f"{up}/rows.csv", *QUICK[2:], "--model", f"{up}/model", "--out", f"{up}/set")
    assert (inside / "set" / "_SUCCESS").is_file()


def test_a_zarr_map_is_found_from_below(inside: Path) -> None:
    labels = "../../done/image.zarr/../image.zarr/labels"
    done("generate", "mine", *QUICK, "--model", "../../model", "--classes", labels, "--out", "../../new")


def test_the_page_is_served_of_a_folder_that_is_named_from_below(inside: Path) -> None:
    for folder in ("../../done", "../.."):
        with TestClient(viewing.viewer_of(Path(folder)), base_url="http://127.0.0.1:8000") as client:
            assert client.get("/").status_code == 200
    with TestClient(viewing.viewer_of(Path("../../done")), base_url="http://127.0.0.1:8000") as client:
        told = client.get("/api/status.json").json()
        assert told["folder"] == str(inside / "done")


def test_an_unknown_model_is_told_as_it_was_written(inside: Path) -> None:
    told = call("plan", "x", *QUICK, "--model", "../../modell", "--out", "../new")
    assert told.exit_code == 2 and "unknown model '../../modell'" in told.stderr


# --- from another folder ---------------------------------------------------------------------------------------------


def test_a_job_goes_on_from_any_folder_and_after_it_was_moved(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(event: Any) -> None:
        if isinstance(event, TaskDone):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        generate(spec_of("../../model", "../../new", classes="../../map.png", prompt="mine"), on_event=stop)
    (inside / "map.png").unlink()
    (inside / "new").rename(inside / "a" / "moved")
    monkeypatch.chdir("/")
    api.resume(inside / "a" / "moved")
    saved = job_file.load(inside / "a" / "moved").spec
    assert saved.model == str(inside / "model")
    assert saved.classes is not None and saved.classes.parent == inside / "a" / "moved" / "inputs"


def test_a_worker_that_stands_elsewhere_finds_everything(inside: Path) -> None:
    job = prepare(spec_of("../../model", "../../new", classes="../../map.png", prompt="mine"))
    api.run(job, resume=False, on_event=lambda event: None, make=Elsewhere)
    generate(spec_of("../../model", "../../here", classes="../../map.png", prompt="mine"))
    assert files_of(inside / "new") == files_of(inside / "here")
