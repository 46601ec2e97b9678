"""Class maps of users in whole jobs: identity, labels, cleaning, batches, the command line, exports."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import tiny_class_models
import zarr
from PIL import Image
from test_labels import labels_in
from typer.testing import CliRunner

from cluster import generate
from cluster.commands.app import app
from cluster.engine.worker import class_map
from cluster.jobs.job import prepare
from cluster.spec.fields import JobSpec, SpecError
from cluster.spec.identity import picture_facts
from cluster.words.class_maps import image_map
from generation.places.cleaning import cleaned
from storage.fingerprint import file_hash, fingerprint
from storage.geometry import Box, Canvas

RANDOM = np.random.default_rng(9)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_class_models.build_class_map(tmp_path_factory.mktemp("maps") / "model")
    tiny_class_models.build_map(folder / "map")
    return folder


def png(path: Path, values: Any, mode: str | None = None) -> Path:
    Image.fromarray(np.asarray(values), mode).save(path)
    return path


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def spec_of(model: Path, out: Path, **fields: Any) -> JobSpec:
    given = {"prompt": "mine", "width": 128, "height": 96, "num_inference_steps": 1, "tile": 64}
    return JobSpec(model=str(model), out=out, device="cpu", executor="in-process", **{**given, **fields})


def test_the_identity_of_a_map_is_its_content(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    spec = spec_of(tmp_path, tmp_path / "out", classes=path)
    assert picture_facts(spec)["classes"] == file_hash(path)
    assert not {"class_labels", "clean_map"} & set(picture_facts(spec))
    told = written(tmp_path / "a.yaml", "0: wood")
    with_labels = picture_facts(spec.model_copy(update={"class_labels": told}))
    assert with_labels == picture_facts(spec) | {"class_labels": file_hash(told)}
    assert picture_facts(spec.model_copy(update={"clean_map": 4})) == picture_facts(spec) | {"clean_map": 4}


def test_the_identity_of_a_folder_changes_with_any_chunk(tmp_path: Path) -> None:
    def identity(folder: Path) -> str:
        return fingerprint(picture_facts(spec_of(tmp_path, tmp_path / "out", classes=folder)))

    for name in ("a", "b"):
        zarr.create_array(tmp_path / name, shape=(9, 9), chunks=(3, 3), dtype="uint8")[:] = 1
    before = identity(tmp_path / "a")
    assert before == identity(tmp_path / "b")
    zarr.open_array(tmp_path / "a", mode="r+")[8, 8] = 2
    assert identity(tmp_path / "a") != before


def test_the_mapped_classes_are_what_is_labelled(model: Path, tmp_path: Path) -> None:
    values = RANDOM.choice([10, 20, 30, 99], (24, 32)).repeat(1, 0).astype(np.uint16)
    zarr.create_array(tmp_path / "map.zarr", shape=values.shape, chunks=(7, 9), dtype="uint16")[:] = values
    told = written(tmp_path / "a.yaml", "10: wood\n20: sea\n30: sand\ndefault: none\n")
    spec = spec_of(model, tmp_path / "out", classes=tmp_path / "map.zarr", class_labels=told)
    generate(spec)
    wanted = np.select([values == 10, values == 20, values == 30], [3, 1, 2], 0)
    levels = labels_in(tmp_path / "out")
    np.testing.assert_array_equal(levels[0], wanted.repeat(4, 0).repeat(4, 1))
    for level, found in enumerate(levels):
        np.testing.assert_array_equal(found, levels[0][:: 2**level, :: 2**level])
    # and they can be given back, for they tell their names
    back = spec_of(model, tmp_path / "b", classes=tmp_path / "out" / "image.zarr" / "labels")
    job = prepare(back, check_fit=False)
    np.testing.assert_array_equal(class_map(job).read(job.plan.canvas.box).numpy(), wanted - 1)


def test_blocks_and_cleaning_of_painted_and_invented_maps(model: Path, tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", RANDOM.integers(0, 3, (30, 40)).astype(np.uint8).repeat(3, 0).repeat(3, 1))
    for name, fields in {
        "painted": {"classes": path},
        "invented": {"prompt": "60% sea, wood", "topology": "ring", "width": 320, "height": 256},
    }.items():
        outs = []
        for block in (24, 80):
            spec = spec_of(model, tmp_path / f"{name}{block}", block=block, clean_map=5, **fields)
            generate(spec)
            outs.append(labels_in(spec.out)[0])
        np.testing.assert_array_equal(outs[0], outs[1])
        job = prepare(spec, check_fit=False)
        plain = class_map(prepare(spec.model_copy(update={"clean_map": 0}), check_fit=False))
        there = class_map(job)
        canvas = job.plan.canvas
        ids = there.read(canvas.box).numpy()
        assert (ids != plain.read(canvas.box).numpy()).any()
        np.testing.assert_array_equal(
            outs[0], (ids + 1).repeat(4, 0).repeat(4, 1)[: spec.height, : spec.width]
        )


def test_an_invented_map_is_cleaned_cell_by_cell_round_the_ring(model: Path, tmp_path: Path) -> None:
    spec = spec_of(
        model, tmp_path / "a", prompt="60% sea, wood", topology="ring", width=320, height=256, clean_map=4
    )
    generate(spec)
    plain = class_map(prepare(spec.model_copy(update={"clean_map": 0}), check_fit=False))
    job = prepare(spec, check_fit=False)
    cells = plain.read(job.plan.canvas.box).numpy()[::4, ::4]
    wanted = cleaned(cells, 4, wraps_x=True).repeat(4, 0).repeat(4, 1)
    np.testing.assert_array_equal(class_map(job).read(job.plan.canvas.box).numpy(), wanted)


def test_a_worker_reads_each_chunk_once(model: Path, tmp_path: Path, monkeypatch) -> None:
    from storage.label_files.tiff import TiffChunks

    tifffile.imwrite(tmp_path / "a.tif", np.zeros((400, 400), np.uint8), tile=(64, 64), compression="deflate")
    spec = spec_of(model, tmp_path / "out", classes=tmp_path / "a.tif", width=400, height=400)
    job = prepare(spec, check_fit=False)
    read, real = [], TiffChunks.read_chunk
    monkeypatch.setattr(TiffChunks, "read_chunk", lambda self, *at: (read.append(at), real(self, *at))[1])
    there = image_map(job.spec, job.info, job.plan.canvas)
    for y in [*range(0, 84, 7), *range(3, 84, 5)]:
        for x in range(0, 84, 7):
            there.read(Box(y, y + 16, x, x + 16))
    assert len(read) == len(set(read)) == 49


# --- bad input at the command line -----------------------------------------------------------------------------------


def refused(*arguments: str) -> str:
    """The one line that a command says."""
    done = CliRunner().invoke(app, ["plan", "mine", "--size", "64x64", "--out", "/nonexistent/x", *arguments])
    assert done.exit_code == 2, done.output
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


def test_one_line_and_exit_code_2(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((4, 4), np.float32))
    tifffile.imwrite(tmp_path / "rgb.tif", np.full((4, 4, 3), 200, np.uint8), photometric="rgb")
    cut = tmp_path / "cut.tif"
    tifffile.imwrite(cut, RANDOM.integers(0, 3, (200, 200), np.uint8), tile=(64, 64), compression="deflate")
    cut.write_bytes(cut.read_bytes()[:-900])
    half = png(tmp_path / "half.png", RANDOM.integers(0, 3, (200, 200), np.uint8))
    half.write_bytes(half.read_bytes()[:-900])
    zarr.create_array(tmp_path / "a.zarr", shape=(40, 40), chunks=(20, 20), dtype="uint8")[:] = 1
    chunk = tmp_path / "a.zarr" / "c" / "1" / "1"
    chunk.write_bytes(chunk.read_bytes()[:5])
    good = str(png(tmp_path / "good.png", np.zeros((4, 4), np.uint8)))
    here = ["--model", str(model)]
    for name, said in {
        "none.tif": "none.tif does not exist",
        "text.png": "is not an image of labels",
        "float.tif": "holds float32 values",
        "rgb.tif": "holds the colour #c8c8c8 (first at x 0, y 0)",
        "cut.tif": "is cut off",
        "half.png": "is cut off after",
        "a.zarr": "is damaged",
        ".": "is a folder without a Zarr array",
    }.items():
        assert said in refused(*here, "--classes", str(tmp_path / name)), name
    empty = str(written(tmp_path / "empty.yaml", ""))
    assert "empty.yaml is empty" in refused(*here, "--classes", good, "--class-labels", empty)
    wrong = str(written(tmp_path / "wrong.yaml", "0: wod"))
    assert "did you mean 'wood'" in refused(*here, "--classes", good, "--class-labels", wrong)
    other = str(written(tmp_path / "other.yaml", "7: wood"))
    assert "holds label 0 (first at x 0, y 0), which" in refused(
        *here, "--classes", good, "--class-labels", other
    )
    assert "give the map with --classes" in refused("--model", str(model), "--class-labels", other)
    assert "clean_map 65 is out of range" in refused(*here, "--classes", good, "--clean-map", "65")
    assert "clean_map 'x' cannot be used" in refused(*here, "--classes", good, "--clean-map", "x")


@pytest.mark.parametrize("pixels", [(1, 1), (2, 90), (300, 200)])
def test_maps_smaller_and_larger_than_the_canvas(
    pixels: tuple[int, int], model: Path, tmp_path: Path
) -> None:
    path = png(tmp_path / "a.png", np.full(pixels, 2, np.uint8))
    spec = spec_of(model, tmp_path / "out", classes=path, width=64, height=64)
    generate(spec)
    assert (labels_in(tmp_path / "out")[0] == 3).all()


def test_models_without_classes_have_no_map_to_clean(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--clean-map needs a class-map model"):
        prepare(spec_of(folders["sd1"], tmp_path / "out", clean_map=4), check_fit=False)


def test_a_class_that_fills_the_picture_has_no_map_to_clean(model: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="painted or invented, and 'sea' is neither"):
        prepare(spec_of(model, tmp_path / "out", prompt="sea", clean_map=4), check_fit=False)


def test_a_job_goes_on_from_another_folder(model: Path, tmp_path: Path, monkeypatch) -> None:
    png(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    written(tmp_path / "a.yaml", "0: wood")
    monkeypatch.chdir(tmp_path)
    job = prepare(spec_of(model, tmp_path / "out", classes="a.png", class_labels="a.yaml"), check_fit=False)
    monkeypatch.chdir("/")
    assert (class_map(job).read(Box(0, 4, 0, 4)) == 2).all()


def test_batches_know_what_labels_mean(model: Path, tmp_path: Path) -> None:
    from cluster.datasets.entry import make_batch
    from cluster.datasets.requests import rows_at_hand

    told = written(tmp_path / "a.yaml", "10: wood\n20: sea\n")
    values = RANDOM.choice([10, 20], (16, 16)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, compression="deflate")
    common = {"prompt": "sea", "seed": 3, "width": 64, "height": 64}
    rows = [
        {"id": "path", **common, "classes": str(tmp_path / "a.tif")},
        {"id": "bytes", **common, "classes": (tmp_path / "a.tif").read_bytes()},
        {"id": "plain", **common, "classes": None},
    ]
    fields = {
        "model": str(model), "device": "cpu", "executor": "in-process", "num_inference_steps": 1,
        "out": tmp_path / "set", "class_labels": told,
    }  # fmt: skip
    made = make_batch(rows_at_hand(rows), fields)
    import pyarrow.parquet as pq

    found = {
        row["id"]: row for path in sorted(Path(made.folder).rglob("train-*.parquet")) if "work" not in path.parts
        for row in pq.read_table(path).to_pylist()
    }  # fmt: skip
    assert (
        found["path"]["image"]["bytes"]
        == found["bytes"]["image"]["bytes"]
        != found["plain"]["image"]["bytes"]
    )
    from io import BytesIO

    mask = np.asarray(Image.open(BytesIO(found["path"]["mask"]["bytes"])))
    np.testing.assert_array_equal(mask, np.where(values == 10, 2, 0).repeat(4, 0).repeat(4, 1))


def test_the_legend_of_a_model_gives_names_and_colours(model: Path, tmp_path: Path) -> None:
    info = SimpleNamespace(class_names=("a", "b"), notes={"colours": ("#000001", "#000002")})
    path = png(tmp_path / "a.png", np.array([[(0, 0, 2), (0, 0, 1)]], np.uint8))
    spec = spec_of(model, tmp_path / "out", classes=path)
    there = image_map(spec, info, Canvas(1, 2))
    assert there.read(Box(0, 1, 0, 2)).tolist() == [[1, 0]]


def test_the_class_map_of_a_finished_job_is_exported_and_is_a_class_map(model: Path, tmp_path: Path) -> None:
    values = RANDOM.choice([0, 1, 2, 7], (24, 32)).astype(np.uint8)
    told = written(tmp_path / "a.yaml", "0: sea\n1: sand\n2: none\n7: wood\n")
    spec = spec_of(model, tmp_path / "out", classes=png(tmp_path / "a.png", values), class_labels=told)
    generate(spec)
    done = CliRunner().invoke(app, ["export", str(tmp_path / "out"), "--labels"])
    assert done.exit_code == 0, done.output
    path = Path(done.stdout.strip())
    assert path == tmp_path / "out.classes.tif"
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        found, colours = page.asarray(), page.colormap
    wanted = np.select([values == 0, values == 1, values == 7], [0, 1, 2], 255).repeat(4, 0).repeat(4, 1)
    np.testing.assert_array_equal(found, wanted)
    assert (colours[:, 1] // 257).tolist() == [0, 0, 1]
    again = prepare(spec_of(model, tmp_path / "b", classes=path), check_fit=False)
    np.testing.assert_array_equal(
        class_map(again).read(again.plan.canvas.box).numpy(), np.where(wanted == 255, -1, wanted)[::4, ::4]
    )
    for arguments, said in {
        (): "exists; add --yes",
        ("--format", "png"): "it takes --out and --yes only",
        ("--out", str(tmp_path / "a.png")): "does not end in .tif",
    }.items():
        done = CliRunner().invoke(app, ["export", str(tmp_path / "out"), "--labels", *arguments])
        assert done.exit_code == 2 and said in done.stderr
