"""What exported files say of themselves: prompt and settings, that a model made them, colours, resolution."""

from __future__ import annotations

import json
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from finished_jobs import LAYOUT, PROMPT, finished_job
from PIL import Image, ImageCms
from starlette.testclient import TestClient

from storage.exports import formats, metadata
from storage.exports.contract import ExportError, Wishes
from storage.exports.picture import Picture
from storage.exports.view import view_of
from viewer.server import build_app

for module in ("pyvips", "tifffile", "piexif"):
    pytest.importorskip(module, reason=f"{module} is missing; pip install 'hypermosaic[export]'")

import piexif  # noqa: E402
import piexif.helper  # noqa: E402
import tifffile  # noqa: E402

EXPECTED = (
    f"{PROMPT}\nNegative prompt: fog, rain\nSteps: 12, Sampler: UniPC, CFG scale: 1.5, Seed: 7, Size: 150x83, "
    "Model: embedded, Version: hypermosaic 0.1.0"
)
FILES = ["png", "jpeg", "webp", "tiff", "ome-tiff"]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    finished_job(tmp_path / "job", LAYOUT)
    return tmp_path / "job"


def written(format: str, job: Path, wishes: Wishes | None = None) -> Path:
    path = job.with_name(f"exported{formats.EXPORTS[format].ending}")
    formats.write(format, view_of(Picture.open(job)), path, wishes or Wishes(), lambda done, total: None)
    return path


def served(job: Path) -> TestClient:
    """What the page of a folder asks."""
    (job / "index.html").touch()
    return TestClient(build_app(job), base_url="http://127.0.0.1:8000")


def info_of(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        image.load()
        return dict(image.info) | dict(getattr(image, "text", {}))


def test_png_has_the_text_that_image_browsers_read(job: Path) -> None:
    assert info_of(written("png", job))["parameters"] == EXPECTED


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_jpeg_and_webp_have_it_as_the_users_comment(job: Path, format: str) -> None:
    block = piexif.load(info_of(written(format, job))["exif"])
    assert piexif.helper.UserComment.load(block["Exif"][piexif.ExifIFD.UserComment]) == EXPECTED


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_exif_says_that_colours_are_srgb_and_begins_as_the_format_wants(job: Path, format: str) -> None:
    """Only in JPEG it has a name before it; WebP's chunks follow each other, as long as they say."""
    path = written(format, job)
    content = path.read_bytes()
    assert piexif.load(info_of(path)["exif"])["Exif"][piexif.ExifIFD.ColorSpace] == 1
    assert content.count(b"Exif\0\0") == (1 if format == "jpeg" else 0)
    if format == "webp":
        chunks, at = {}, 12
        while at < len(content):
            size = int.from_bytes(content[at + 4 : at + 8], "little")
            chunks[content[at : at + 4]] = content[at + 8 : at + 8 + size]
            at += 8 + size + size % 2
        assert at == len(content) == 8 + int.from_bytes(content[4:8], "little")
        assert [*chunks] == [b"VP8X", b"ICCP", b"VP8 ", b"EXIF", b"XMP "]
        assert chunks[b"EXIF"].startswith((b"MM\0*", b"II*\0"))
        assert chunks[b"XMP "] == metadata.xmp(Picture.open(job).facts)


@pytest.mark.parametrize("format", ["tiff", "ome-tiff"])
def test_lossless_tiff_is_deflated_under_the_tag_that_all_know(job: Path, format: str) -> None:
    with tifffile.TiffFile(written(format, job)) as file:
        assert {page.tags["Compression"].value for page in file.pages} == {8}


def test_tiff_has_it_as_description(job: Path) -> None:
    with tifffile.TiffFile(written("tiff", job)) as file:
        assert file.pages[0].tags["ImageDescription"].value == EXPECTED


@pytest.mark.parametrize("format", FILES)
def test_every_file_says_that_a_model_made_it_and_that_it_is_srgb(job: Path, format: str) -> None:
    path = written(format, job)
    if "tiff" in format:
        with tifffile.TiffFile(path) as file:
            tags = file.pages[0].tags
            packet, profile = bytes(tags["XMP"].value), bytes(tags["InterColorProfile"].value)
    else:
        info = info_of(path)
        packet, profile = info.get("xmp", info.get("XML:com.adobe.xmp")), info["icc_profile"]
        packet = packet.encode() if isinstance(packet, str) else packet
    assert metadata.SOURCE_TYPE.encode() in packet and "Zürich 山".encode() in packet
    assert "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(profile)))


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_what_the_page_saves_says_the_same(job: Path, kind: str) -> None:
    client = served(job)
    answers = [client.get(f"/region.{kind}?x=10&y=20&w=40&h=30") for _ in range(2)]
    assert answers[0].status_code == 200 and answers[0].content == answers[1].content
    path = job.with_name(f"saved.{kind}")
    path.write_bytes(answers[0].content)
    info = info_of(path)
    packet = info["xmp"] if kind == "jpg" else info["XML:com.adobe.xmp"].encode()
    assert packet.strip() == metadata.xmp(Picture.open(job).facts).strip()
    assert "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(info["icc_profile"])))
    assert info.get("parameters") == (EXPECTED if kind == "png" else None)


def test_what_the_page_saves_tells_nothing_that_lies_elsewhere(job: Path) -> None:
    """A job.yaml that is a link out of the folder."""
    (job / "job.yaml").rename(job.parent / "elsewhere.yaml")
    (job / "job.yaml").symlink_to(job.parent / "elsewhere.yaml")
    answer = served(job).get("/region.png?x=1&y=2&w=4&h=3")
    assert answer.status_code == 200 and metadata.SOURCE_TYPE.encode() in answer.content
    assert b"Seed" not in answer.content


@pytest.mark.parametrize("format", ["deep-zoom", "iiif"])
def test_a_folder_has_one_sidecar(job: Path, format: str) -> None:
    path = written(format, job)
    assert [file.name for file in path.rglob("*.xmp")] == ["image.xmp"]
    assert metadata.SOURCE_TYPE in (path / "image.xmp").read_text(encoding="utf-8")


def test_an_archive_has_one_too(job: Path) -> None:
    with zipfile.ZipFile(written("szi", job)) as archive:
        assert metadata.SOURCE_TYPE.encode() in archive.read("exported/image.xmp")


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_dpi_is_what_was_asked_for(job: Path, format: str) -> None:
    across, down = info_of(written(format, job, Wishes(dpi=240)))["dpi"]
    assert across == down == pytest.approx(240, rel=1e-3)


@pytest.mark.parametrize("format", ["tiff", "ome-tiff"])
def test_dpi_of_tiff_is_that_of_each_level(job: Path, format: str) -> None:
    with tifffile.TiffFile(written(format, job, Wishes(dpi=240))) as file:
        assert file.pages[0].get_resolution("INCH") == (240, 240)


@pytest.mark.parametrize("dpi", [0, -1, float("nan"), 1e9])
def test_dpi_out_of_range_is_refused(dpi: float) -> None:
    with pytest.raises(ExportError, match="out of range"):
        Wishes(dpi=dpi)


@pytest.mark.skipif(
    shutil.which("exiftool") is None, reason="no exiftool; apt-get install libimage-exiftool-perl"
)
@pytest.mark.parametrize("format", FILES)
def test_exiftool_reads_the_same(job: Path, format: str) -> None:
    told = subprocess.run(
        ["exiftool", "-json", "-charset", "utf8", str(written(format, job))], capture_output=True, check=True
    )
    found = json.loads(told.stdout)[0]
    assert found["DigitalSourceType"] == metadata.SOURCE_TYPE
    assert found["Description"].replace("\r", "") == EXPECTED
    assert found["ProfileDescription"] == "sRGB"
    assert "Warning" not in found


def test_parameters_quote_what_would_break_the_line() -> None:
    facts = {
        "prompt": "a",
        "model": "/models/big, new.safetensors",
        "scheduler": "SASolverScheduler",
        "version": "1",
    }
    assert metadata.parameters(facts).splitlines()[-1] == (
        'Sampler: SASolver, Size: NonexNone, Model: "big, new", Version: hypermosaic 1'
    )
    assert metadata.parameters({}) == "Version: hypermosaic"


def test_a_prompt_longer_than_a_jpeg_segment_is_cut(job: Path) -> None:
    settings = (job / "job.yaml").read_text().replace(PROMPT, "山 " * 40_000)
    (job / "job.yaml").write_text(settings)
    for format in ("jpeg", "webp", "png"):
        assert len(str(info_of(written(format, job)).get("parameters", ""))) < 9_000
    block = piexif.load(info_of(written("jpeg", job))["exif"])
    comment = piexif.helper.UserComment.load(block["Exif"][piexif.ExifIFD.UserComment])
    assert comment.startswith("山 山") and "\N{HORIZONTAL ELLIPSIS}\nNegative prompt: fog" in comment


def test_control_characters_do_not_break_the_packet() -> None:
    packet = metadata.xmp({"prompt": "a\x00b\x1b<&>\nc\ud800"})
    ElementTree.fromstring(packet)
