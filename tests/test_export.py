"""Exports: every format holds the picture's pixels, level by level, as readers of others see them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_jobs import LAYOUT, colours, finished_job
from numpy.typing import NDArray
from PIL import Image

from storage.exports import formats
from storage.exports.contract import ExportError, Wishes, appearing
from storage.exports.picture import Picture
from storage.exports.view import View, view_of
from storage.pyramid import PyramidLayout

for module in ("pyvips", "tifffile", "imagecodecs", "piexif"):
    pytest.importorskip(module, reason=f"{module} is missing; pip install 'hypermosaic[export]'")

import pyvips  # noqa: E402
import tifffile  # noqa: E402

FORMATS = sorted(formats.EXPORTS)
LARGE = PyramidLayout(width=1100, height=700, tile=64, superblock=256)  # three levels of TIFF
FLAT_LOSSY = ["jpeg", "webp"]


def silent(done: int, total: int) -> None:
    assert 0 < done <= total


def written(format: str, folder: Path, wishes: Wishes | None = None, **part: Any) -> Path:
    path = folder.with_name(f"exported{formats.EXPORTS[format].ending}")
    formats.write(format, view_of(Picture.open(folder), **part), path, wishes or Wishes(), silent)
    return path


def decibels(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Peak signal to noise."""
    assert one.shape == other.shape
    error = float(np.mean((one.astype(float) - other) ** 2))
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.fixture
def job(tmp_path: Path) -> Path:
    finished_job(tmp_path / "job")
    return tmp_path / "job"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    finished_job(tmp_path / "large", LARGE)
    return tmp_path / "large"


# --- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [{}, {"region": (10, 4, 77, 60)}, {"scale": 0.6}])
def test_png_is_exact(job: Path, part: dict[str, Any]) -> None:
    view = view_of(Picture.open(job), **part)
    path = written("png", job, **part)
    assert (np.asarray(Image.open(path)) == view.read(0, view.layout.whole(0).box)).all()


@pytest.mark.parametrize("format", FLAT_LOSSY)
def test_lossy_pictures_are_close_and_quality_counts(job: Path, format: str) -> None:
    sizes = []
    for quality in (20, 95):
        path = written(format, job, Wishes(quality=quality))
        sizes.append(path.stat().st_size)
    assert sizes[0] < sizes[1]
    assert decibels(np.asarray(Image.open(path)), colours(150, 83)) > 38


@pytest.mark.parametrize("quality", [None, 30, 95])
def test_jpeg_keeps_all_colour(job: Path, quality: int | None) -> None:
    """4:4:4: every component has the sampling factors 1 x 1."""
    with Image.open(written("jpeg", job, Wishes(quality=quality))) as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


@pytest.mark.parametrize("format", ["tiff", "ome-tiff"])
@pytest.mark.parametrize("part", [{}, {"region": (3, 5, 1037, 671)}])
def test_tiff_levels_are_those_of_the_picture(large: Path, format: str, part: dict[str, Any]) -> None:
    view = view_of(Picture.open(large), **part)
    path = written(format, large, **part)
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff and file.is_ome == (format == "ome-tiff")
        assert len(file.series) == 1
        levels = [level.asarray() for level in file.series[0].levels]
    assert len(levels) == 3
    for number, pixels in enumerate(levels):
        assert (pixels == view.read(number, view.layout.whole(number).box)).all()


def test_libvips_reads_the_levels_of_both_tiffs(large: Path) -> None:
    level = Picture.open(large).read(1, LARGE.whole(1).box)
    pages = pyvips.Image.new_from_file(str(written("tiff", large)), page=1)
    below = pyvips.Image.new_from_file(str(written("ome-tiff", large)), subifd=0)
    assert (pages.numpy() == level).all() and (below.numpy() == level).all()


def test_tiff_is_what_slide_viewers_ask_for(large: Path) -> None:
    """OpenSlide's generic TIFF, which QuPath reads: every page tiled, all but the first marked as reduced."""
    with tifffile.TiffFile(written("tiff", large)) as file:
        assert [bool(page.is_reduced) for page in file.pages] == [False, True, True]
        assert all(page.is_tiled and page.samplesperpixel == 3 for page in file.pages)


@pytest.mark.parametrize("format", ["tiff", "ome-tiff"])
def test_tiff_with_a_quality_is_jpeg(large: Path, format: str) -> None:
    path = written(format, large, Wishes(quality=90))
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].compression == tifffile.COMPRESSION.JPEG
        assert file.pages[0].tags["YCbCrSubSampling"].value == (1, 1)
    image = pyvips.Image.new_from_file(str(path))
    assert decibels(image.colourspace("srgb").numpy(), colours(1100, 700)) > 38


def test_ome_xml_tells_size_and_samples(large: Path) -> None:
    with tifffile.TiffFile(written("ome-tiff", large)) as file:
        root = ElementTree.fromstring(file.ome_metadata)
    name = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"
    pixels = root.find(f"{name}Image/{name}Pixels")
    assert pixels is not None
    assert {key: pixels.attrib[key] for key in ("SizeX", "SizeY", "SizeC", "Type")} == {
        "SizeX": "1100", "SizeY": "700", "SizeC": "3", "Type": "uint8",
    }  # fmt: skip
    channel = pixels.find(f"{name}Channel")
    assert channel is not None and channel.attrib["SamplesPerPixel"] == "3"


# --- tiles -----------------------------------------------------------------------------------------------------------


def test_deep_zoom_copies_the_tiles_that_are_there(job: Path) -> None:
    path = written("deep-zoom", job)
    before = {file.relative_to(job): file.read_bytes() for file in (job / "image_files").rglob("*.jpg")}
    after = {file.relative_to(path): file.read_bytes() for file in (path / "image_files").rglob("*.jpg")}
    assert before == after and len(before) > 10
    assert (path / "image.dzi").read_bytes() == (job / "image.dzi").read_bytes()


@pytest.mark.parametrize("part", [{"quality": 50}, {"region": (5, 5, 100, 70)}, {"scale": 0.5}])
def test_deep_zoom_of_a_part_is_a_pyramid_again(job: Path, part: dict[str, Any]) -> None:
    wishes = Wishes(quality=part.get("quality"))
    where = {name: value for name, value in part.items() if name != "quality"}
    view = view_of(Picture.open(job), **where)
    again = Picture.open(written("deep-zoom", job, wishes, **where))
    assert (again.width, again.height) == (view.width, view.height)
    whole = view.layout.whole(0).box
    assert decibels(again.read(0, whole), view.read(0, whole)) > 30


def test_szi_is_a_zip_of_stored_tiles(job: Path) -> None:
    path = written("szi", job)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        names = set(archive.namelist())
        tiles = {name for name in names if name.endswith(".jpg")}
        assert {"exported/exported.dzi", "exported/scan-properties.xml"} < names
        assert len(tiles) == len(list((job / "image_files").rglob("*.jpg")))
        full = LAYOUT.deep_levels - 1
        tile = archive.read(f"exported/exported_files/{full}/9_5.jpg")
        properties = ElementTree.fromstring(archive.read("exported/scan-properties.xml"))
    assert Image.open(BytesIO(tile)).size == (150 - 9 * 16, 83 - 5 * 16)
    assert [value.text for value in properties.iter("{http://www.pathozoom.com/szi}value")] == ["150", "83"]


def test_iiif_answers_every_request_that_libvips_own_would(job: Path, tmp_path: Path) -> None:
    """dzsave is another implementation of the same naming; ours has all its tiles, of the same sizes, and full/max."""
    path = written("iiif", job, Wishes(iiif_id="https://pictures.test/islands/"))
    image = pyvips.Image.new_from_array(colours(150, 83))
    image.dzsave(str(tmp_path / "theirs"), layout="iiif3", tile_size=16)
    theirs = {str(file.relative_to(tmp_path / "theirs")) for file in (tmp_path / "theirs").rglob("*.jpg")}
    ours = {str(file.relative_to(path)) for file in path.rglob("*.jpg")}
    assert theirs <= ours
    for name in theirs:
        assert size_of(path / name) == size_of(tmp_path / "theirs" / name)
    info = json.loads((path / "info.json").read_text())
    assert info["id"] == "https://pictures.test/islands"
    assert (info["width"], info["height"], info["profile"]) == (150, 83, "level0")
    largest = info["sizes"][-1]
    assert size_of(path / "full/max/0/default.jpg") == (largest["width"], largest["height"])


def test_iiif_never_claims_an_address_that_nobody_gave(job: Path) -> None:
    assert json.loads((written("iiif", job) / "info.json").read_text())["id"] == "exported-iiif"


# --- limits, accidents -----------------------------------------------------------------------------------------------


def view_of_size(width: int, height: int) -> View:
    """Of a picture that has no pixels: limits are known before any is read."""
    layout = PyramidLayout(width, height)
    picture = Picture(
        Path("nowhere"), layout, {}, None, True, lambda level, box: np.empty((0, 0, 3), np.uint8)
    )
    return view_of(picture)


@pytest.mark.parametrize(
    ("format", "size", "limit"),
    [
        ("jpeg", (65_501, 10), "65,500 x 65,500"),
        ("jpeg", (10, 65_501), "65,500 x 65,500"),
        ("webp", (16_384, 16), "16,383 x 16,383"),
        ("webp", (8000, 4001), "32 megapixels"),
        ("png", (100_001, 1), "100,000 pixels a row"),
    ],
)
def test_limits_are_told_before_any_work_with_a_scale_that_fits(
    format: str, size: tuple[int, int], limit: str
) -> None:
    view = view_of_size(*size)
    with pytest.raises(ExportError, match=limit) as told:
        formats.check(format, view, Wishes())
    scale = float(str(told.value).split("--scale ")[1].split(",")[0])
    formats.check(format, view_of(view.picture, None, scale), Wishes())


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_is_left_of_an_export_that_fails(job: Path, format: str) -> None:
    """A master whose last rows are damaged, and an earlier export of the same name."""
    path = written(format, job)
    before = path.stat().st_ino
    view = view_of(Picture.open(job), (0, 0, 150, 82))  # not the tiles that are there
    for shard in (job / "image.zarr").glob("[01]/c/0/*/*"):
        shard.write_bytes(b"torn" * 20)
    with pytest.raises(OSError, match=r"image\.zarr"):
        formats.write(format, view, path, Wishes(), silent)
    assert path.stat().st_ino == before
    assert sorted(child.name for child in path.parent.iterdir()) == sorted([path.name, "job"])


@pytest.mark.parametrize("format", ["png", "tiff", "szi"])
def test_a_full_disk_is_an_error_of_the_disk(job: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full refuses every byte."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    path = job.with_name("exported.bin")

    def to_full(name: str) -> None:
        view = view_of(Picture.open(job))
        formats.EXPORTS[name].write(view, Path("/dev/full"), "x", Wishes(), silent)

    with pytest.raises(OSError, match="No space left"):
        to_full(format)
    assert not path.exists()


def test_an_unfinished_name_never_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")

    def interrupted() -> None:
        with appearing(path) as unfinished:
            unfinished.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [child.name for child in tmp_path.iterdir()] == ["file"] and path.read_text() == "before"
