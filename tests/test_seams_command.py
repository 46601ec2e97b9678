"""`evaluate seams`: which borders a job has, whether they show, the table, JSON and picture, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import INFO, tiny_job
from numpy.typing import NDArray
from opened_formats import open_formats
from PIL import Image
from typer.testing import CliRunner, Result

from cluster.commands.app import app
from cluster.following.events import JobFinished, JobInterrupted, JobStarted, StageTotal
from cluster.following.progress import EVENTS, JsonLines
from cluster.jobs.job import Job
from cluster.results import seam_picture
from cluster.results.seams import find_seams
from cluster.spec import job_file
from storage.fingerprint import FormatError
from storage.formats.ome_zarr import OmeZarr, image_root
from storage.geometry import TOPOLOGIES, Canvas
from storage.pyramid_writing import write_superblock

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
Pixels = NDArray[np.uint8]


def called(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def written(job: Job, pixels: Pixels, *, master: bool = True, ended: bool = True) -> Path:
    """The folder of a job whose picture is the pixels given."""
    folder, layout = job.spec.out, job.plan.layout
    image = OmeZarr(folder, layout)
    others = list(open_formats(["deep-zoom"], folder, layout))
    for output in (image, *others):
        output.create()
    for group in range(layout.groups):
        for task in layout.tasks(group):
            start = layout.reads(task)
            whole = layout.whole(0).box
            read = image.read_level(start.level, start.box) if group else pixels[start.box.slices_in(whole)]
            write_superblock([image, *others], layout, task, read)
    for output in (image, *others):
        output.finish()
    if not master:
        image_root(folder).rename(folder / "elsewhere")
    job_file.save(job.spec, job.fingerprint)
    with JsonLines(folder / EVENTS) as log:
        log(JobStarted((StageTotal("denoise 0", 4, 0),), 1))
        log(JobFinished(1.0) if ended else JobInterrupted())
    return folder


def drawn(height: int, width: int, seed: int = 0) -> Pixels:
    """Noise whose strength is different from place to place."""
    random = np.random.default_rng(seed)
    strength = 4 + 20 * np.sin(np.arange(width) / 90) ** 2
    return np.clip(128 + random.normal(size=(height, width, 3)) * strength[:, None], 0, 255).astype(np.uint8)


def lifted(pixels: Pixels, columns: Any, by: int) -> Pixels:
    """Every other stripe between columns is brighter."""
    out = pixels.astype(int)
    for column in columns:
        out[:, column:] += by
        by = -by
    return np.clip(out, 0, 255).astype(np.uint8)


PATCHES_OF_20 = replace(INFO, patch=20)
FIELDS: dict[str, Any] = {"width": 320, "height": 256, "block": 40, "tile": 48, "method": "random-patch"}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Latents of 2 pixels; patches of 40, blocks of 80, decode tiles of 32, superblocks of 192, tiles of 48 pixels."""
    return tiny_job(tmp_path / "job", monkeypatch, PATCHES_OF_20, **FIELDS)


def rows_of(folder: Path) -> dict[str, Any]:
    return {row["name"]: row for row in find_seams(folder).as_json()["borders"]}


# --- what is found ---------------------------------------------------------------------------------------------------


def test_every_kind_of_border_is_there_and_none_is_a_seam(job: Job) -> None:
    rows = rows_of(written(job, drawn(256, 320)))
    assert list(rows) == [
        "patches of step 4", "patches of step 3", "patches of step 2", "patches of all steps", "blocks",
        "decode tiles", "superblocks", "output tiles", "output tiles as jpg", "latents",
    ]  # fmt: skip
    assert {row["verdict"] for name, row in rows.items()} <= {"inside", "unclear"}
    assert rows["blocks"]["vertical"]["pixels"] == 3 * 256
    assert rows["blocks"]["horizontal"]["pixels"] == 3 * 320
    assert rows["superblocks"]["both"]["pixels"] == 256 + 320


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("blocks", [80, 160, 240]),
        ("superblocks", [192]),
        ("output tiles", [48, 96, 144, 192, 240, 288]),
        ("decode tiles", [24, 56, 88, 120, 152, 184, 216, 248, 280]),
    ],
)
def test_the_lattice_of_a_planted_step_is_named(job: Job, name: str, columns: list[int]) -> None:
    if name == "decode tiles":
        columns = decode_columns(job)
    found = find_seams(written(job, lifted(drawn(256, 320), columns, 24)))
    assert found.strongest is not None and found.strongest.name == name
    row = next(row for row in found.rows if row.name == name)
    assert row.verdict == "seam: edge" and row.vertical.ratio > 1.3 > 1.15 > row.horizontal.ratio


def decode_columns(job: Job) -> list[int]:
    from generation.seams.lattices import decode_borders

    spec = job.spec
    lines = decode_borders(job.plan.tiling, Canvas(spec.height, spec.width, TOPOLOGIES[spec.topology]))
    return list(lines.columns.tolist())


def test_tiles_that_do_not_fit_are_a_seam_of_the_tiles_alone(job: Job) -> None:
    """Every other tile is darker in the JPEG files; the OME-Zarr image is as it was."""
    folder = written(job, drawn(256, 320))
    finest = max((folder / "image_files").iterdir(), key=lambda level: int(level.name))
    for path in (path for path in finest.iterdir() if sum(map(int, path.stem.split("_"))) % 2):
        with Image.open(path) as tile:
            darker = tile.point(lambda value: max(0, value - 40))
        darker.save(path, quality=95)
    rows = rows_of(folder)
    assert rows["output tiles as jpg"]["verdict"] == "seam: edge"
    assert "seam" not in rows["output tiles"]["verdict"]


def test_without_the_master_the_tiles_are_read(tmp_path: Path, job: Job) -> None:
    folder = written(job, lifted(drawn(256, 320), [80, 160, 240], 24), master=False)
    found = find_seams(folder)
    assert found.source == "image_files (jpg)"
    assert "output tiles as jpg" not in {row.name for row in found.rows}
    assert found.strongest is not None and found.strongest.name == "blocks"


@pytest.mark.parametrize("topology", ["ring", "torus"])
def test_sides_that_do_not_join_are_a_seam_of_a_ring(topology: str, tmp_path: Path, monkeypatch) -> None:
    job = tiny_job(tmp_path / "job", monkeypatch, PATCHES_OF_20, **{**FIELDS, "topology": topology})
    ramp = (np.arange(320) // 4).astype(int)[None, :, None]
    pixels = np.clip(drawn(256, 320).astype(int) // 4 + 60 + ramp, 0, 255).astype(np.uint8)
    rows = rows_of(written(job, pixels))
    assert rows["joined sides"]["vertical"]["ratio"] > 3
    assert rows["joined sides"]["about"] == f"of the {topology}"
    assert (rows["joined sides"]["horizontal"] is None) == (topology == "ring")


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "shifted"},
        {"method": "shifted", "blend_last": 0},
        {"method": "hann", "overlap": 0.25},
        {"decode": "four-shift"},
    ],
)
def test_each_method_has_its_borders(fields: dict[str, Any], tmp_path: Path, monkeypatch) -> None:
    job = tiny_job(tmp_path / "job", monkeypatch, PATCHES_OF_20, **{**FIELDS, **fields})
    rows = rows_of(written(job, drawn(256, 320)))
    assert ("patches" in rows) == (fields.get("method") == "hann") != ("patches of step 3" in rows)
    blends = fields.get("method") == "shifted" and "blend_last" not in fields
    assert ("patches of the last step" in rows) == blends
    assert ("patches of step 4" in rows) == (not blends and fields.get("method") != "hann")
    assert ("decode tiles, moved" in rows) == ("decode" in fields)


def test_odd_sizes_are_measured(tmp_path: Path, monkeypatch) -> None:
    job = tiny_job(tmp_path / "job", monkeypatch, PATCHES_OF_20, **{**FIELDS, "width": 203, "height": 157})
    found = find_seams(written(job, drawn(157, 203)))
    assert (found.width, found.height, found.absent) == (203, 157, ())


def test_a_job_made_on_a_gpu_or_of_a_map_that_is_gone_can_be_judged(job: Job) -> None:
    folder = written(job, drawn(256, 320))
    spec = job.spec.model_copy(update={"device": "cuda", "dtype": "float16", "classes": Path("gone.png")})
    job_file.save(spec, job.fingerprint)
    assert find_seams(folder).rows


def test_patches_that_do_not_overlap_show_in_a_picture_of_the_embedded_model(tmp_path: Path) -> None:
    """Drawn for real: 3 x 2 patches side by side, at the same places at every step."""
    folder = tmp_path / "job"
    made = CliRunner().invoke(
        app,
        [
            "generate", "archipelago", "--size", "768x512", "--method", "uniform", "--overlap", "0", "--executor",
            "in-process", "--num-inference-steps", "3", "--preview-every", "0", "--seed", "1", "--out", str(folder),
        ],
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    figures = json.loads(called("seams", folder, "--json").stdout)
    rows = {row["name"]: row for row in figures["borders"]}
    assert figures["strongest"] == "patches"
    assert rows["patches"]["both"]["ratio"] > 1.5
    assert rows["patches"]["both"]["pixels"] == 2 * 512 + 768


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_json_and_a_picture(job: Job, tmp_path: Path) -> None:
    folder = written(job, lifted(drawn(256, 320), [80, 160, 240], 24))
    told = called("seams", folder)
    assert told.exit_code == 0, told.output
    assert "Strongest seam: blocks." in told.stdout and "seam: edge" in told.stdout
    assert max(map(len, told.stdout.splitlines())) <= 100
    target = tmp_path / "new" / "where.png"
    values = called("seams", folder, "--json", "--out", target)
    figures = json.loads(values.stdout)
    assert (figures["format_version"], figures["strongest"]) == (1, "blocks")
    assert {"name", "about", "horizontal", "vertical", "both", "verdict"} == set(figures["borders"][0])
    assert set(figures["borders"][0]["both"]) == {"ratio", "error", "pixels"}
    with Image.open(target) as picture:
        assert picture.width == 320 * 4 and picture.height > 256 * 4


def test_the_picture_shows_where(job: Job, tmp_path: Path) -> None:
    """The stepped lines are red from end to end, the other direction's are not."""
    found = find_seams(written(job, lifted(drawn(256, 320), [80, 160, 240], 24)))
    shown = np.asarray(seam_picture.map_of(found)).astype(int)
    red = (shown[..., 0] > 200) & (shown[..., 2] < 120)
    for column in (80, 160, 240):
        assert red[:, 4 * column - 2 : 4 * column + 3].any(axis=1).mean() > 0.8
    for row in (80, 160):
        assert red[4 * row].mean() < 0.1
    assert red.mean() < 0.03


def test_nothing_is_said_where_nothing_shows(job: Job) -> None:
    told = called("seams", written(job, drawn(256, 320)))
    assert "No seam found." in told.stdout


def test_a_picture_smaller_than_a_tile_says_what_it_has_not(tmp_path: Path, monkeypatch) -> None:
    job = tiny_job(tmp_path / "job", monkeypatch, PATCHES_OF_20, **{**FIELDS, "width": 30, "height": 22})
    told = called("seams", written(job, drawn(22, 30)))
    assert told.exit_code == 0
    assert "No line inside the picture: " in told.stdout and "superblocks" in told.stdout


def refused(result: Result, *words: str) -> None:
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in result.stderr


def test_a_picture_without_any_border_is_refused(tmp_path: Path, monkeypatch) -> None:
    job = tiny_job(tmp_path / "job", monkeypatch, PATCHES_OF_20, **{**FIELDS, "width": 2, "height": 2})
    refused(
        called("seams", written(job, drawn(2, 2))),
        "2 x 2 pixels, has no border inside",
        "evaluate a larger one",
    )


def test_folders_that_cannot_be_judged_are_refused_in_a_line(job: Job, tmp_path: Path) -> None:
    refused(called("seams", tmp_path / "none"), "holds no job.yaml")
    folder = written(job, drawn(256, 320), ended=False)
    refused(called("seams", folder), "is not finished (interrupted", "hypermosaic resume")
    text = (folder / "job.yaml").read_text()
    (folder / "job.yaml").write_text(text.replace("format_version: 1", "format_version: 7"))
    refused(called("seams", folder), "format_version 7", "reads 1")
    refused(called("seams", folder, "--out", "x.jpg"), "end it in .png")


def test_a_picture_of_another_job_is_refused(job: Job) -> None:
    folder = written(job, drawn(256, 320))
    job_file.save(job.spec.model_copy(update={"width": 640}), job.fingerprint)
    with pytest.raises(FormatError, match="has 320 x 256 pixels, its job.yaml says 640 x 256"):
        find_seams(folder)


def test_the_word_model_may_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`evaluate MODEL`, `evaluate --quick MODEL` and `evaluate` judge a model as they always did."""
    monkeypatch.chdir(tmp_path)
    for arguments in (["none/here"], ["--quick", "none/here"], ["model", "none/here"], ["model", "seams"]):
        result = called(*arguments)
        assert result.exit_code == 2 and len(result.stderr.strip().splitlines()) == 1
    for arguments, words in ((["--help"], ["model", "seams"]), (["model", "--help"], ["MODEL", "--quick"])):
        assert all(word in called(*arguments).stdout for word in words)
