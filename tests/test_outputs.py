"""What a finished folder says of its picture: the facts of the page, the count of its files, the guide."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_class_models
import zarr
from engine import INFO, tiny_job
from labelled import CLASS_INFO, description_in, drawn, labelled_job, spec_of
from PIL import Image

from cluster import generate, resume
from cluster.engine.outputs import about
from cluster.jobs.job import prepare
from cluster.jobs.report import count_files
from cluster.results import exporting
from cluster.spec.fields import JobSpec, SpecError
from cluster.spec.paths import model_in_public
from cluster.words.legend import legend_of
from generation.models.errors import ModelError
from storage.exports import metadata
from storage.exports.picture import Picture

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
GUIDE = Path(__file__).parents[1] / "docs" / "outputs.md"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_class_models.build_class_map(tmp_path_factory.mktemp("secret-place") / "model")
    tiny_class_models.build_map(folder / "map")
    return folder


def test_the_page_tells_what_made_the_picture_and_no_path(model: Path, tmp_path: Path) -> None:
    spec = spec_of(model, tmp_path / "out", seed=7, negative_prompt="<i>fog</i>", width=64, height=64)
    generate(spec)
    described = description_in(tmp_path / "out")
    job = prepare(spec, check_fit=False)
    assert described["about"] == {
        "prompt": "sea", "negativePrompt": "<i>fog</i>", "seed": 7, "model": "model", "scheduler": job.spec.scheduler,
        "steps": 1, "guidanceScale": 1.5, "method": "shifted", "topology": "plane", "fingerprint": job.fingerprint,
        "version": described["about"]["version"],
    }  # fmt: skip
    assert described["classes"] == {
        "script": "viewer/classes.js",
        "names": list(tiny_class_models.CLASSES),
        "colours": ["#000000", "#000001", "#000002"],
    }
    assert described["panorama"] is False
    for path in (tmp_path / "out").rglob("*"):
        if path.suffix in (".html", ".js", ".json", ".dzi", ".xmp"):
            assert "secret-place" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("outputs", [("ome-zarr", "deep-zoom"), ("deep-zoom",), ("ome-zarr",)])
def test_a_finished_picture_says_that_a_model_made_it_and_how(
    outputs: tuple[str, ...], model: Path, tmp_path: Path
) -> None:
    """In the words of its exports, which read job.yaml; as well after a run that closed all and ended before this."""
    spec = spec_of(model, tmp_path / "out", outputs=outputs, seed=7, negative_prompt="fog & <rain>", width=64)
    generate(spec)
    sidecar = spec.out / "provenance.xmp"
    told = sidecar.read_bytes()
    assert told == metadata.xmp(Picture.open(spec.out).facts)
    said = "".join(ElementTree.fromstring(told).itertext())
    assert metadata.SOURCE_TYPE in said
    assert (
        "sea\nNegative prompt: fog & <rain>\nSteps: 1, " in said
        and "Seed: 7, Size: 64x214, Model: model" in said
    )
    sidecar.unlink()
    events = (spec.out / "events.jsonl").read_text().splitlines(keepends=True)
    (spec.out / "events.jsonl").write_text("".join(events[:-1]))
    if "ome-zarr" not in outputs:
        (spec.out / "image.zarr").mkdir()
    resume(spec.out)
    assert sidecar.read_bytes() == told


def test_a_job_folder_is_no_earlier_export(model: Path, tmp_path: Path) -> None:
    """So that none is ever replaced by one, not even that of another job."""
    for name in ("one", "other"):
        generate(spec_of(model, tmp_path / name, width=64, height=64))
    for format in ("deep-zoom", "iiif"):
        with pytest.raises(SpecError, match="holds other files"):
            exporting.export(tmp_path / "one", format, tmp_path / "other", overwrite=True)


def test_rings_from_twice_to_eight_times_as_wide_as_high_are_panoramas(tmp_path: Path, monkeypatch) -> None:
    wanted = {
        "round": (128, 64, "ring"), "round low": (128, 62, "ring"), "round flattest": (128, 16, "ring"),
        "flat": (128, 64, "plane"), "high": (128, 66, "ring"), "too low": (128, 14, "ring"),
    }  # fmt: skip
    for name, (width, height, topology) in wanted.items():
        job = labelled_job(tmp_path / name, monkeypatch, width=width, height=height, topology=topology)
        drawn(job)
        assert description_in(tmp_path / name)["panorama"] is ("round" in name)
        assert (tmp_path / name / "viewer" / "panorama.js").exists() is ("round" in name)


def test_seeds_that_javascript_cannot_count_are_words(tmp_path: Path) -> None:
    spec = JobSpec(prompt="sea", width=8, height=8, out=tmp_path, seed=2**63 + 1, model="org/name@main")
    facts = about(spec, "abc")
    assert (facts["seed"], facts["model"]) == ("9223372036854775809", "org/name@main")
    assert "negativePrompt" not in facts and "guidanceScale" not in facts


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"prompt": "60% sea, wood"},
        {"outputs": ("deep-zoom",), "width": 64, "height": 64},
        {"outputs": ("ome-zarr",)},
        {"topology": "ring", "width": 256, "height": 128},
    ],
)
def test_the_plan_counts_the_files_that_there_will_be(
    fields: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    spec = spec_of(model, tmp_path / "out", **fields)
    generate(spec)
    there = sum(path.is_file() for path in (tmp_path / "out").rglob("*"))
    assert there == count_files(prepare(spec, check_fit=False))


def test_copies_of_what_was_given_are_counted(model: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.yaml"
    labels.write_text("1: wood")
    zarr.create_array(tmp_path / "map.zarr", shape=(16, 16), chunks=(8, 8), dtype="uint8")[:] = 1
    given = {"classes": tmp_path / "map.zarr", "class_labels": labels}
    test_the_plan_counts_the_files_that_there_will_be(given, model, tmp_path)


def test_a_job_killed_while_its_master_went_is_finished_by_resume(model: Path, tmp_path: Path) -> None:
    spec = spec_of(model, tmp_path / "out", outputs=("deep-zoom",), width=64, height=64)
    generate(spec)
    events = (spec.out / "events.jsonl").read_text().splitlines(keepends=True)
    assert "JobFinished" in events[-1]
    (spec.out / "events.jsonl").write_text("".join(events[:-1]))
    tiles = {path: path.read_bytes() for path in (spec.out / "image_files").rglob("*.jpg")}
    (spec.out / "image.zarr" / "0").mkdir(parents=True)
    resume(spec.out)
    assert not (spec.out / "image.zarr").exists()
    assert tiles and all(path.read_bytes() == content for path, content in tiles.items())


@pytest.mark.parametrize(
    ("model_name", "told"),
    [
        ("embedded", "embedded"),
        ("embedded/map", "embedded/map"),
        ("org/name@v1", "org/name@v1"),
        ("private/weights", "weights"),
        ("private/weights/", "weights"),
        ("./private/weights/../weights", "weights"),
        ("/nowhere/secret/file.safetensors", "file.safetensors"),
    ],
)
def test_of_a_local_model_only_the_last_name_is_told(
    model_name: str, told: str, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "private" / "weights").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert model_in_public(model_name) == told


def test_classes_without_a_colour_of_their_own_are_given_one() -> None:
    info = replace(INFO, class_names=tuple("abcde"), notes={"colours": ("#FF0000", "", "#ff0000")})
    colours = [colour for _, colour in legend_of(info)]
    assert colours[0] == "#ff0000" and len(set(colours)) == 5
    many = replace(INFO, class_names=tuple(f"class {index}" for index in range(254)))
    assert len({colour for _, colour in legend_of(many)}) == 254
    assert legend_of(INFO) == ()


def test_classes_that_cannot_be_saved_are_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch
) -> None:
    crowd = replace(INFO, class_names=tuple(f"class {index}" for index in range(255)))
    with pytest.raises(ModelError, match="knows 255 classes; at most 254"):
        tiny_job(tmp_path, monkeypatch, crowd, prompt="class 1")
    odd = replace(CLASS_INFO, notes={"colours": ("#102030", "sandy", "#008000")})
    with pytest.raises(ModelError, match="class 'sand' has the colour 'sandy'; write it as #rrggbb"):
        tiny_job(tmp_path, monkeypatch, odd, prompt="sea")
    assert not any(tmp_path.iterdir())


def test_the_lines_of_the_guide_work(model: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    painted = np.random.default_rng(3).integers(0, 3, (23, 31), np.uint8)
    Image.fromarray(painted).save(tmp_path / "map.png")
    out = tmp_path / "out" / "islands"
    generate(spec_of(model, out, classes=tmp_path / "map.png", width=600, height=400))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), {})
    assert "(3, 400, 600)" in capsys.readouterr().out
