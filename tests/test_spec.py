"""The spec: its limits and messages, what a model and a machine fill in, which facts make a picture, job.yaml."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine import INFO

from cluster import machine
from cluster.spec import choices, job_file
from cluster.spec.choices import BLOCK, resolve
from cluster.spec.fields import JobSpec, SpecError
from cluster.spec.identity import picture_facts
from storage.fingerprint import FormatError, fingerprint

GOOD: dict[str, Any] = {"prompt": "islands", "width": 96, "height": 64, "out": Path("out/x")}


def spec(**fields: Any) -> JobSpec:
    return JobSpec(**{**GOOD, **fields})


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("prompt", "  ", ["prompt is empty"]),
        ("width", 0, ["width 0", "greater than or equal to 1", "--size"]),
        ("height", -3, ["height -3", "--size"]),
        ("width", "wide", ["width 'wide'", "integer"]),
        ("width", 10**12, ["width", "10000000"]),
        ("overlap", 1.0, ["overlap 1.0", "less than 1"]),
        ("overlap", -0.1, ["overlap -0.1"]),
        ("overlap", float("nan"), ["overlap nan", "finite"]),
        (
            "method",
            "median",
            ["unknown method 'median'", "hann, uniform, gaussian, shifted, random-patch or random-grid"],
        ),
        ("topology", "sphere", ["unknown topology 'sphere'", "plane, ring or torus"]),
        ("dtype", "int8", ["unknown dtype 'int8'"]),
        ("device", "tpu", ["unknown device 'tpu'", "cpu or cuda"]),
        ("outputs", "tiff", ["unknown output 'tiff'", "ome-zarr or deep-zoom"]),
        ("outputs", "", ["outputs is empty; name one or both of ome-zarr, deep-zoom"]),
        ("num_inference_steps", 0, ["num_inference_steps 0 is", "; leave it out for the model's own 12"]),
        ("guidance_scale", float("inf"), ["guidance_scale inf"]),
        ("seed", -1, ["seed -1"]),
        ("seed", 2**64, ["seed", "less than 18446744073709551616"]),
        ("workers", 0, ["workers 0"]),
        ("lens", "wide", ["unknown setting lens; hypermosaic generate --help"]),
        ("schduler", "ddim", ["unknown setting schduler", "did you mean scheduler"]),
    ],
)
def test_a_wrong_setting_is_one_line_with_value_and_limit(field: str, value: Any, words: list[str]) -> None:
    with pytest.raises(SpecError) as raised:
        spec(**{field: value})
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_the_steps_that_are_usual_are_the_model_s() -> None:
    with pytest.raises(SpecError, match="num_inference_steps 0 is .*the model's own 4$"):
        spec(num_inference_steps="0", model="embedded/fast")
    with pytest.raises(SpecError, match="num_inference_steps 0 is .*the model's own number$"):
        spec(num_inference_steps=0, model="org/of-the-hub")


def test_what_is_missing_is_named() -> None:
    with pytest.raises(SpecError, match="width is missing"):
        JobSpec(prompt="x", height=3, out=Path("o"))


def test_specs_are_frozen_and_travel() -> None:
    whole = spec(outputs="deep-zoom, ome-zarr", loras="a:0.5,b")
    assert whole.outputs == ("ome-zarr", "deep-zoom")
    assert whole.loras == ("a:0.5", "b")
    assert pickle.loads(pickle.dumps(whole)) == whole
    with pytest.raises(ValueError, match="frozen"):
        whole.width = 3


# --- resolve ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "local_machine", lambda: machine.Machine(cores=2, gpus=0, ray_address=""))


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "local_machine", lambda: machine.Machine(cores=16, gpus=3, ray_address=""))


@pytest.mark.usefixtures("two_cores")
def test_on_a_cpu_the_model_and_the_machine_fill_in() -> None:
    whole = resolve(spec(), INFO)
    assert (whole.scheduler, whole.num_inference_steps, whole.guidance_scale) == ("ddim", 4, 1.0)
    assert (whole.device, whole.dtype, whole.batch_size, whole.workers) == ("cpu", "float32", 4, 2)
    assert resolve(spec(threads=2), INFO).workers == 1
    assert resolve(spec(executor="in-process", workers=5), INFO).workers == 1
    assert resolve(whole, INFO) == whole


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize(
    ("fields", "blended"),
    [
        ({}, 1), ({"num_inference_steps": 12}, 3), ({"num_inference_steps": 13}, 4), ({"blend_last": 0}, 0),
        ({"blend_last": 9}, 4), ({"method": "random-grid"}, 1), ({"method": "random-patch"}, 0),
        ({"method": "random-patch", "blend_last": 2}, 2), ({"method": "hann"}, 0),
        ({"method": "hann", "blend_last": 2}, 0),
    ],
)  # fmt: skip
def test_the_last_quarter_of_the_steps_blends(fields: dict[str, Any], blended: int) -> None:
    assert resolve(spec(**fields), INFO).blend_last == blended


@pytest.mark.usefixtures("three_gpus")
def test_on_gpus_there_is_a_worker_for_each() -> None:
    whole = resolve(spec(), INFO)
    assert (whole.device, whole.dtype, whole.batch_size, whole.workers) == ("cuda", "float16", 16, 3)
    assert resolve(spec(device="cpu"), INFO).dtype == "float32"


@pytest.mark.usefixtures("three_gpus")
def test_models_may_have_a_precision_of_their_own_for_gpus() -> None:
    flow = replace(INFO, notes={"half": "bfloat16"})
    assert resolve(spec(), flow).dtype == "bfloat16"
    assert resolve(spec(dtype="float16"), flow).dtype == "float16"
    assert resolve(spec(device="cpu"), flow).dtype == "float32"


@pytest.mark.usefixtures("two_cores")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(SpecError, match="--device cpu"):
        resolve(spec(device="cuda"), INFO)


@pytest.mark.usefixtures("two_cores")
def test_blocks_fill_a_batch_and_stay_on_the_canvas() -> None:
    wide = {"width": 10_000, "height": 10_000}
    assert resolve(spec(**wide), INFO).block == BLOCK
    assert resolve(spec(**wide), replace(INFO, patch=100)).block == 200  # 2 x 2 patches are a batch of 4
    assert resolve(spec(**wide, block=50), INFO).block == 64  # the next that is made of such squares
    assert resolve(spec(**wide, block=50, batch_size=9), INFO).block == 96
    assert resolve(spec(**wide, block=50, method="hann"), INFO).block == 64
    assert resolve(spec(), INFO).block == 48  # 96 pixels at 2 a latent
    assert resolve(spec(width=4, height=4), INFO).block == INFO.patch
    with pytest.raises(SpecError, match="block 15 is smaller .* 16 latents"):
        resolve(spec(block=15), INFO)


@pytest.mark.usefixtures("two_cores")
def test_an_unknown_scheduler_is_refused() -> None:
    with pytest.raises(SpecError, match="unknown scheduler 'eulr'"):
        resolve(spec(scheduler="eulr"), INFO)


# --- identity --------------------------------------------------------------------------------------------------------

SAME_PICTURE = {
    "block": 64,
    "executor": "in-process",
    "workers": 7,
    "out": Path("elsewhere"),
    "allow_pickle": True,
    "preview_every": 3,
    "commits": {"org/name": "c0ffee"},
}
OTHER_PICTURE: dict[str, Any] = {
    "prompt": "desert", "negative_prompt": "blur", "width": 98, "height": 66, "loras": ("a",), "method": "hann",
    "scheduler": "euler", "num_inference_steps": 9, "guidance_scale": 3.0, "cond_scale": 0.0, "eta": 0.5, "seed": 7,
    "decode": "four-shift", "topology": "ring", "dtype": "bfloat16", "device": "cuda", "batch_size": 3, "threads": 2,
    "outputs": ("ome-zarr",), "tile": 256, "tile_format": "png", "clean_map": 4,
    "region_box": ["0,0,9,9=a barn"], "blend_last": 1, "prediction_type": "v_prediction",
    "rescale_zero_snr": False, "timestep_spacing": "trailing",
}  # fmt: skip


def identity(**fields: Any) -> str:
    return fingerprint(picture_facts(spec(**fields)))


@pytest.mark.parametrize("field", SAME_PICTURE)
def test_what_does_not_change_a_pixel_is_not_identity(field: str) -> None:
    assert identity(**{field: SAME_PICTURE[field]}) == identity()


@pytest.mark.parametrize("field", OTHER_PICTURE)
def test_what_changes_pixels_is_identity(field: str) -> None:
    assert identity(**{field: OTHER_PICTURE[field]}) != identity()


def test_every_field_is_identity_or_is_not() -> None:
    apart = {
        "model",
        "config_from",
        "vae",
        "overlap",
        "classes",
        "class_labels",
    }  # the job adds the model's files; the others below
    apart |= {"regions", "region", "region_feather"}  # test_regions_input.py
    assert set(SAME_PICTURE) | set(OTHER_PICTURE) | apart == set(JobSpec.model_fields)


def test_overlap_counts_where_it_is_read() -> None:
    assert identity(overlap=0.25) == identity()
    assert identity(overlap=0.25, method="hann") != identity(method="hann")


def test_a_class_map_counts_by_content(tmp_path: Path) -> None:
    here, there = tmp_path / "a.png", tmp_path / "b.png"
    here.write_bytes(b"one")
    there.write_bytes(b"one")
    assert identity(classes=here) == identity(classes=there) != identity()
    with pytest.raises(SpecError, match=r"class map .*none\.png does not exist"):
        identity(classes=tmp_path / "none.png")


# --- files -----------------------------------------------------------------------------------------------------------


def test_job_yaml_comes_back(tmp_path: Path) -> None:
    whole = spec(out=tmp_path / "job", classes="map.png", prompt='Ærø: "islands"\nand # more', eta=0.5)
    job_file.save(whole, "f00d")
    moved = (tmp_path / "job").rename(tmp_path / "moved")
    saved = job_file.load(moved)
    assert saved.spec == whole.model_copy(update={"out": moved})
    assert saved.fingerprint == "f00d"
    assert saved.versions["torch"].startswith("2.")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("format_version: 99\n", "99; this program reads 1"),
        ("format_version: 1\nspec: {}\n", "damaged"),
        ("format_version: 1\nspec: x\n", "damaged"),
        ("format_version: 1\nspec: {classes: 5}\n", "damaged"),
    ],
)
def test_a_job_yaml_that_is_not_ours_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / job_file.NAME).write_text(content)
    with pytest.raises(FormatError, match=message):
        job_file.load(tmp_path)


def test_a_folder_without_a_job_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no job.yaml"):
        job_file.load(tmp_path)


def test_people_write_sizes_and_hyphens(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("prompt: islands\nsize: 400x300\nnum-inference-steps: 5\n")
    assert job_file.read_fields(path) == {
        "prompt": "islands", "width": 400, "height": 300, "num_inference_steps": 5,
    }  # fmt: skip


def test_a_job_yaml_is_a_spec_too(tmp_path: Path) -> None:
    path = job_file.save(spec(out=tmp_path), "f00d")
    fields = job_file.read_fields(path)
    assert "out" not in fields
    assert JobSpec(**fields, out=tmp_path) == spec(out=tmp_path)


@pytest.mark.parametrize(("content", "message"), [("a: [", "not YAML"), ("- a\n", "not `name: value`")])
def test_a_damaged_spec_file_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(content)
    with pytest.raises(SpecError, match=message) as raised:
        job_file.read_fields(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("size", ["x", "axb", "10x", "1.5x2", ""])
def test_sizes_are_width_x_height(size: str) -> None:
    with pytest.raises(SpecError, match="WIDTHxHEIGHT"):
        job_file.sides(size)
    assert job_file.sides("40x30") == {"width": 40, "height": 30}
    assert job_file.sides("40") == job_file.sides(40) == {"width": 40, "height": 40}


def test_a_backslash_in_the_folder_of_a_job_is_refused() -> None:
    """Arrays would be written to a folder of another name."""
    with pytest.raises(SpecError, match=r"has a backslash.*; leave it out"):
        JobSpec(**{**GOOD, "out": Path("a\\b")})
