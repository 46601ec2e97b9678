"""`hypermosaic export`: what it writes where, what it refuses in one line, what Ctrl-C leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from finished_jobs import LAYOUT, colours, finished_job, write_picture
from PIL import Image
from typer.testing import CliRunner, Result

import cluster
from cluster.commands.app import app
from cluster.commands.exporting import NAMES
from cluster.results import exporting
from cluster.spec.fields import SpecError
from storage.exports import formats
from storage.pyramid import PyramidLayout

for module in ("pyvips", "tifffile", "piexif"):
    pytest.importorskip(module, reason=f"{module} is missing; pip install 'hypermosaic[export]'")


@pytest.fixture
def job(tmp_path: Path) -> Path:
    finished_job(tmp_path / "islands")
    return tmp_path / "islands"


def export(job: Path, *flags: object) -> Result:
    return CliRunner().invoke(app, ["export", str(job), *map(str, flags)])


def refused(result: Result, code: int = 2) -> str:
    """The one line on standard error."""
    lines = result.stderr.strip().splitlines()
    assert (len(lines), result.exit_code) == (1, code), result.stderr
    return lines[0]


@pytest.mark.parametrize("format", formats.EXPORTS)
def test_each_format_goes_beside_the_job_and_its_path_is_the_output(job: Path, format: str) -> None:
    result = export(job, "--format", format)
    assert result.exit_code == 0, result.stderr
    path = job.with_name(f"islands{formats.EXPORTS[format].ending}")
    assert result.stdout == f"{path}\n" and path.exists()
    assert {child.name for child in job.parent.iterdir()} == {"islands", path.name}


def test_region_and_scale(job: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "part.png"
    assert export(job, "--out", out, "--region", "10,20,40,30", "--scale", "0.5").exit_code == 0
    with Image.open(out) as image:
        assert image.size == (20, 15)


def test_from_python(job: Path, tmp_path: Path) -> None:
    path = cluster.export(job, "png", tmp_path / "a.png", region=(5, 6, 7, 8))
    with Image.open(path) as image:
        assert (np.asarray(image) == colours(150, 83)[6:14, 5:12]).all()


def test_python_is_told_what_the_command_is(job: Path, tmp_path: Path) -> None:
    for settings, told in (
        ({"format": "gif", "quality": 5}, "quality 5 means nothing for gif"),
        ({"format": "png", "out": tmp_path / "a.tif"}, "a.tif has the ending of tiff, and the format is png"),
        ({"format": "png", "folder": tmp_path / "gone"}, "gone is no folder"),
    ):
        with pytest.raises(SpecError, match=told):
            cluster.export(**{"folder": job, **settings})
    assert not list(tmp_path.glob("*.*"))


def test_a_picture_without_its_job_file_can_be_exported(tmp_path: Path) -> None:
    pixels = write_picture(tmp_path / "bare", LAYOUT)
    assert export(tmp_path / "bare", "--format", "png").exit_code == 0
    with Image.open(tmp_path / "bare.png") as image:
        assert (np.asarray(image) == pixels).all()


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.tif", "tiff"), ("a.ome.tif", "ome-tiff"), ("A.JPG", "jpeg"), ("a.jpeg", "jpeg"), ("a.mp4", "mp4")],
)
def test_the_ending_names_the_format(name: str, format: str) -> None:
    assert exporting.format_of(None, Path(name)) == format


def test_help_names_every_format() -> None:
    assert NAMES.replace(" or ", ", ").split(", ") == list(exporting.FORMATS)


def test_an_unfinished_job_is_refused_with_what_to_do(tmp_path: Path) -> None:
    finished_job(tmp_path / "half", ended=False)
    told = refused(export(tmp_path / "half", "--format", "png"))
    assert "half is not finished (interrupted, 0 % done)" in told
    assert f"hypermosaic resume {tmp_path / 'half'}" in told


def test_an_earlier_export_is_only_replaced_with_yes(job: Path) -> None:
    for format in ("png", "deep-zoom"):
        assert export(job, "--format", format).exit_code == 0
        assert "add --yes to replace it" in refused(export(job, "--format", format))
        assert export(job, "--format", format, "--yes").exit_code == 0


def test_nothing_but_an_earlier_export_is_ever_replaced(job: Path, tmp_path: Path) -> None:
    other = tmp_path / "holiday"
    other.mkdir()
    (other / "beach.jpg").write_text("sand")
    assert "holds other files" in refused(export(job, "--format", "deep-zoom", "--out", other, "--yes"))
    assert "is a folder and png makes a file" in refused(
        export(job, "--format", "png", "--out", other, "--yes")
    )
    assert "is a file and iiif makes a folder" in refused(
        export(job, "--format", "iiif", "--out", other / "beach.jpg", "--yes")
    )
    for folder in (job, job.parent):
        assert "holds the job itself" in refused(
            export(job, "--format", "deep-zoom", "--out", folder, "--yes")
        )
    assert (other / "beach.jpg").read_text() == "sand" and (job / "job.yaml").exists()


@pytest.mark.parametrize("format", exporting.FORMATS)
def test_yes_replaces_no_file_of_another_kind(job: Path, format: str) -> None:
    """A thesis, a picture of another format, a file of the job: each stays as it was."""
    image = Image.new("RGB", (8, 8))
    thesis = job.parent / "thesis.docx"
    image.save(job.parent / "small.bmp")
    thesis.write_bytes(b"\xd0\xcf\x11\xe0 chapter 1")
    targets = [thesis, job.parent / "small.bmp", job / "job.yaml", job / "index.png"]
    before = {path: path.read_bytes() for path in targets if path.exists()}
    for target in targets:
        told = refused(export(job, "--format", format, "--out", target, "--yes"))
        assert str(target) in told and "choose an" in told
    assert {path: path.read_bytes() for path in targets if path.exists()} == before


def test_yes_replaces_no_class_map_by_something_else(job: Path) -> None:
    (job.parent / "scan.tif").write_bytes(b"II*\0 a classic TIFF, which is never written")
    told = refused(export(job, "--labels", "--out", job.parent / "scan.tif", "--yes"))
    assert "is no tiff file" in told


@pytest.mark.parametrize("format", ["deep-zoom", "iiif"])
@pytest.mark.parametrize("note", ["notes.txt", "full/notes.txt", "image_files/0/notes.jpg", "drafts/"])
def test_yes_replaces_no_folder_that_somebody_used(job: Path, format: str, note: str) -> None:
    assert export(job, "--format", format).exit_code == 0
    folder = job.with_name(f"islands{formats.EXPORTS[format].ending}")
    path = folder / note
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if note.endswith("/") else path.write_text("mine")
    told = refused(export(job, "--format", format, "--yes"))
    assert f"holds other files, such as {note.rstrip('/')}; choose a new folder" in told
    assert path.exists()


def test_yes_replaces_no_folder_with_a_link_in_it(job: Path) -> None:
    assert export(job, "--format", "deep-zoom").exit_code == 0
    (job.parent / "islands-deep-zoom" / "mine").symlink_to(job)
    assert "such as mine;" in refused(export(job, "--format", "deep-zoom", "--yes"))


@pytest.mark.parametrize("format", formats.EXPORTS)
def test_what_an_export_wrote_is_known_as_one(job: Path, format: str) -> None:
    """Every format, of copied tiles and of new ones, so that --yes works again and again."""
    for _ in range(2):
        for part in ([], ["--scale", "0.7"]):
            assert export(job, "--format", format, "--yes", *part).exit_code == 0
    for other in sorted({*formats.EXPORTS} - {format}):
        out = job.with_name(f"islands{formats.EXPORTS[format].ending}")
        if {format, other} != {"tiff", "ome-tiff"}:
            refused(export(job, "--format", other, "--out", out, "--yes"))


def test_a_link_to_nothing_stays(job: Path) -> None:
    link = job.parent / "later.png"
    link.symlink_to(job.parent / "not yet")
    assert "is no png file" in refused(export(job, "--format", "png", "--out", link, "--yes"))
    assert link.is_symlink()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "which format?"),
        (["--format", "bmp"], "no export is called 'bmp'; choose deep-zoom, szi"),
        (["--format", "png", "--region", "1,2,3"], "is not x,y,width,height"),
        (["--format", "png", "--region", "0,0,151,83"], "not inside the picture of 150x83"),
        (["--format", "png", "--scale", "2"], "scale 2 is out of range"),
        (["--format", "png", "--quality", "5"], "png, which is lossless"),
        (["--format", "jpeg", "--quality", "101"], "quality 101 is out of range: give 1 to 100"),
        (["--format", "png", "--dpi", "0"], "dpi 0 is out of range"),
        (["--format", "tiff", "--iiif-id", "x"], "--iiif-id is for iiif"),
        (["--format", "png", "--fps", "25"], "--fps is not for still pictures such as png"),
        (["--format", "png", "--video-size", "64x64"], "--video-size is not for still pictures"),
        (["--format", "gif", "--scale", "0.5"], "--scale is not for videos such as gif"),
        (["--format", "gif", "--zoom-to", "5"], "is not x,y or x,y,zoom"),
        (["--format", "gif", "--quality", "5"], "quality 5 means nothing for gif"),
        (["--format", "gif", "--path", "none.json"], "none.json does not exist"),
        (["--format", "iiif", "--iiif-id", "not a url"], "iiif-id 'not a url' is no address"),
        (["--format", "png", "--out", "a.tif"], "a.tif has the ending of tiff, and the format is png"),
        (["--format", "tiff", "--out", "a.ome.tif"], "a.ome.tif has the ending of ome-tiff"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line(job: Path, flags: list[str], told: str) -> None:
    assert told in refused(export(job, *flags))
    assert [child.name for child in job.parent.iterdir()] == ["islands"]


def test_a_folder_that_holds_nothing(tmp_path: Path) -> None:
    assert "holds no finished picture" in refused(
        export(tmp_path, "--format", "png", "--out", "x.png"), code=1
    )


def test_a_folder_that_is_not_there_and_one_of_a_batch(tmp_path: Path) -> None:
    assert "gone is no folder" in refused(export(tmp_path / "gone", "--format", "png"))
    (tmp_path / "batch.json").write_text("{}")
    assert "is a batch, whose pictures are in its Parquet files" in refused(export(tmp_path, "--labels"))


def test_an_ome_tiff_may_end_in_tif(job: Path, tmp_path: Path) -> None:
    assert export(job, "--format", "ome-tiff", "--out", tmp_path / "a.tif").exit_code == 0


def test_a_missing_extra_is_named(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    assert "png needs pyvips, which is not installed: pip install 'hypermosaic[export]'" in refused(
        export(job, "--format", "png")
    )


def test_jpeg_in_tiff_needs_one_more_than_lossless_tiff(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "imagecodecs" else object())
    assert "tiff needs imagecodecs" in refused(export(job, "--format", "tiff", "--quality", "90"))
    assert export(job, "--format", "tiff").exit_code == 0


def test_iiif_without_an_address_says_so(job: Path) -> None:
    assert '"id": "islands-iiif"' in export(job, "--format", "iiif").stderr
    assert export(job, "--format", "iiif", "--yes", "--iiif-id", "https://a.test/b").stderr == ""


def test_a_gif_of_a_zoom(job: Path, tmp_path: Path) -> None:
    flags = ["--zoom-to", "70,40,40", "--seconds", "0.4", "--fps", "5", "--video-size", "48x32"]
    result = export(job, "--format", "gif", *flags)
    assert result.exit_code == 0, result.stderr
    with Image.open(tmp_path / "islands.gif") as image:
        assert image.size == (48, 32) and getattr(image, "n_frames", 1) > 1
    assert "leave --zoom-to and --seconds out" in refused(
        export(job, "--format", "gif", "--yes", "--path", tmp_path / "none.json", *flags)
    )


@pytest.mark.parametrize("format", ["png", "ome-tiff", "deep-zoom"])
def test_ctrl_c_leaves_nothing(tmp_path: Path, format: str) -> None:
    """Interrupted at the first sign of progress."""
    script = """
import os, signal, sys, time
from pathlib import Path
from cluster.results import exporting
from cluster.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background inherits that it is ignored
before, sent = exporting.write, []
def write(format, view, path, wishes, on_progress):
    def heard(done, total):
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGINT))
        time.sleep(0.02)
    before(format, view, path, wishes, heard)
exporting.write = write
main()
"""
    write_picture(tmp_path / "job", PyramidLayout(600, 2000, 64, 256))
    command = [sys.executable, "-c", script, "export", str(tmp_path / "job"), "--format", format]
    started = time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert ended.returncode == 130 and ended.stderr.strip() == "interrupted", (ended.stderr, signal.SIGINT)
    assert [child.name for child in tmp_path.iterdir()] == ["job"]
    assert time.monotonic() - started < 30


def test_a_wrong_target_is_refused_before_anything_is_read(job: Path) -> None:
    (job.parent / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(SpecError, match="exists; add --yes"):
        exporting.check_target("png", job.parent / "a.png", job, overwrite=False)
