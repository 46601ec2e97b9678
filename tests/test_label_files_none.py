"""What pictures of labels say of themselves: where they have no data, how they are turned, that they are no labels."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image, PngImagePlugin

from cluster.words.class_labels import NO_CLASS, UNKNOWN, meaning_of
from storage.geometry import Box
from storage.label_files import NONE, LabelFile, LabelFileError, open_labels

LABELS = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64) % 5
CORNER = np.zeros((64, 64), bool)
CORNER[50:, 50:] = True
HOLED = np.where(CORNER, NONE, LABELS.astype(int))
"""The lower right 14 x 14 is transparent."""
CLASSES = tuple((f"class {index}", f"#0000{index:02x}") for index in range(12))
COLOURS = np.stack([LABELS * 0, LABELS * 0, LABELS], axis=2)


def whole(found: LabelFile) -> np.ndarray:
    return found.read(Box(0, found.height, 0, found.width)).astype(int)


def classes_of(found: LabelFile) -> np.ndarray:
    """As the model is told, without a file of labels."""
    return meaning_of(found, CLASSES, None).ids(found.read(Box(0, found.height, 0, found.width)))


def palette(path: Path, hidden: bytes | int, labels: np.ndarray = LABELS, **settings: Any) -> None:
    image = Image.fromarray(np.where(CORNER, 7, labels).astype(np.uint8), "P")
    image.putpalette([value for index in range(16) for value in (0, 0, index)])
    image.save(path, settings.pop("format", "PNG"), transparency=hidden, **settings)


def grey(path: Path, dtype: type = np.uint8) -> None:
    Image.fromarray(np.where(CORNER, 7, LABELS).astype(dtype)).save(path, "PNG", transparency=7)


def colours(path: Path) -> None:
    pixels = np.where(CORNER[..., None], np.array([9, 8, 7], np.uint8), COLOURS)
    Image.fromarray(pixels).save(path, "PNG", transparency=(9, 8, 7))


def few_bits(path: Path) -> None:
    """A grey of 4 bits, whose transparent value is as it is stored."""
    packed = np.where(CORNER, 7, LABELS)
    rows = b"".join(b"\0" + bytes(row[::2] << 4 | row[1::2]) for row in packed.astype(np.uint8))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 4, 0, 0, 0, 0)), (b"tRNS", struct.pack(">H", 7))]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )


def interlaced(path: Path) -> None:
    import pyvips

    grey(path)
    pixels = np.stack([LABELS, np.where(CORNER, 0, 255)], axis=2).astype(np.uint8)
    pyvips.Image.new_from_array(pixels, interpretation="b-w").pngsave(str(path), interlace=True)


def gif(path: Path) -> None:
    palette(path, 7, format="GIF")


def masked_tiff(path: Path, **settings: Any) -> None:
    """As GDAL writes it with GDAL_TIFF_INTERNAL_MASK: a second page of one bit, 0 where there is no data."""
    with tifffile.TiffWriter(path) as file:
        file.write(LABELS, metadata=None, **settings)
        file.write(~CORNER, photometric="mask", subfiletype=4, metadata=None, compression="deflate")


def tiled_masked_tiff(path: Path) -> None:
    masked_tiff(path, tile=(32, 16), compression="deflate")


def alpha_tiff(path: Path) -> None:
    pixels = np.concatenate([COLOURS, np.where(CORNER, 0, 255)[..., None].astype(np.uint8)], axis=2)
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"], metadata=None)


HIDING: dict[str, Callable[[Path], None]] = {
    "palette, one index": lambda path: palette(path, 7),
    "palette, alphas of all": lambda path: palette(path, bytes([255] * 7 + [0] + [255] * 8)),
    "grey": grey,
    "grey of 16 bits": lambda path: grey(path, np.uint16),
    "grey of 4 bits": few_bits,
    "colours": colours,
    "interlaced": interlaced,
    "gif": gif,
    "masked tiff": masked_tiff,
    "tiled masked tiff": tiled_masked_tiff,
    "tiff with alpha": alpha_tiff,
}


@pytest.mark.parametrize("name", HIDING)
def test_what_a_file_says_is_transparent_is_none(name: str, tmp_path: Path, monkeypatch) -> None:
    HIDING[name](tmp_path / "mask")
    found = open_labels(tmp_path / "mask")
    np.testing.assert_array_equal(whole(found), HOLED)
    np.testing.assert_array_equal(classes_of(found), np.where(CORNER, NO_CLASS, LABELS.astype(int)))
    assert found.nodata == NONE
    monkeypatch.setattr("storage.label_files.SMALL_BYTES", 100)
    large = open_labels(tmp_path / "mask", tmp_path / "work")
    np.testing.assert_array_equal(whole(large), HOLED)
    assert (large.nodata, large.colours) == (NONE, found.colours)


def test_a_palette_may_hide_several_labels_and_shows_those_it_hides_in_part(tmp_path: Path) -> None:
    palette(tmp_path / "a.png", bytes([255, 0, 128, 255, 1, 255, 255, 0]))
    np.testing.assert_array_equal(
        whole(open_labels(tmp_path / "a.png")), np.where(CORNER | (LABELS == 1), NONE, LABELS.astype(int))
    )


def test_a_copy_that_knew_nothing_of_transparency_is_not_taken(tmp_path: Path, monkeypatch) -> None:
    """Copies of large PNGs stay in the folder for temporary files."""
    monkeypatch.setattr("storage.label_files.SMALL_BYTES", 100)
    palette(tmp_path / "a.png", 7)
    open_labels(tmp_path / "a.png", tmp_path / "work")
    (copy,) = (tmp_path / "work").iterdir()
    old = copy.with_name(copy.name.replace("-none", ""))
    copy.unlink()
    tifffile.imwrite(old, np.zeros((64, 64), np.uint8))
    assert old != copy
    np.testing.assert_array_equal(whole(open_labels(tmp_path / "a.png", tmp_path / "work")), HOLED)


@pytest.mark.parametrize(
    ("dtype", "told", "nodata"),
    [
        ("uint8", "255", 255),
        ("int16", "-9999", -9999),
        ("uint8", "-9999", None),
        ("uint8", "nan", None),
        ("uint8", "7.5", None),
        ("int64", str(2**63 - 1), 2**63 - 1),
        ("int32", "-2147483648.0", -(2**31)),
    ],
)
def test_what_gdal_declares_as_no_data(dtype: str, told: str, nodata: int | None, tmp_path: Path) -> None:
    labels = LABELS.astype(dtype)
    if nodata is not None:
        labels[CORNER] = nodata
    tags = [(42113, 2, len(told) + 1, told, True)]
    tifffile.imwrite(tmp_path / "a.tif", labels, metadata=None, extratags=tags)
    found = open_labels(tmp_path / "a.tif")
    assert found.nodata == nodata
    wanted = LABELS.astype(int) if nodata is None else np.where(CORNER, NO_CLASS, LABELS.astype(int))
    np.testing.assert_array_equal(classes_of(found), wanted)


@pytest.mark.parametrize("bands", [3, 4])
def test_no_data_of_colours_is_what_all_bands_say(bands: int, tmp_path: Path) -> None:
    pixels = np.where(CORNER[..., None], np.uint8(255), COLOURS)
    if bands == 4:
        pixels = np.concatenate([pixels, np.full((64, 64, 1), 255, np.uint8)], axis=2)
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="rgb", metadata=None, extratags=[(42113, 2, 4, "255", True)],
        **({"extrasamples": ["unassalpha"]} if bands == 4 else {}),
    )  # fmt: skip
    np.testing.assert_array_equal(
        classes_of(open_labels(tmp_path / "a.tif")), np.where(CORNER, NO_CLASS, LABELS.astype(int))
    )


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("fill", "attributes", "nodata", "beyond"),
    [
        (0, {}, None, 0),
        (200, {}, 200, NO_CLASS),
        (3, {}, 3, NO_CLASS),
        (0, {"_FillValue": 201}, 201, 0),
        (200, {"missing_value": 0}, 0, UNKNOWN),
        (0, {"missing_value": 0}, 0, NO_CLASS),
        (0, {"scale_factor": 1, "add_offset": 0.0}, None, 0),
    ],
)
def test_what_zarr_says_is_no_data(
    version: int, fill: int, attributes: dict, nodata: int | None, beyond: int, tmp_path: Path
) -> None:
    """Its default, 0, is a label like others: it is what every array has. beyond: the class of what is not stored."""
    array = zarr.create_array(
        tmp_path / "a", shape=(64, 64), chunks=(50, 50), dtype="uint8", fill_value=fill,
        attributes=attributes, zarr_format=version,
    )  # fmt: skip
    array[:50, :50] = 4
    found = open_labels(tmp_path / "a")
    assert found.nodata == nodata and whole(found)[60, 60] == fill
    assert classes_of(found)[10, 10] == 4 and classes_of(found)[60, 60] == beyond


# --- refused ---------------------------------------------------------------------------------------------------------


def exif(orientation: int) -> Image.Exif:
    told = Image.Exif()
    told[274] = orientation
    return told


def saved(path: Path, kind: str, **settings: Any) -> None:
    Image.fromarray(LABELS).save(path, kind, **settings)


def turned_by_text(path: Path) -> None:
    """As ImageMagick writes it, and XMP."""
    hexed = (b"Exif\0\0" + exif(3).tobytes().removeprefix(b"Exif\0\0")).hex()
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(hexed) // 2}\n{hexed}\n", zip=True)
    saved(path, "PNG", pnginfo=info)


def turned_by_xmp(path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>')
    saved(path, "PNG", pnginfo=info)


def turned_tiff(path: Path) -> None:
    tifffile.imwrite(path, LABELS, metadata=None, extratags=[(274, 3, 1, 3, True)])


def frames(kind: str) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(LABELS).save(
        path, kind, save_all=True, append_images=[Image.fromarray(LABELS[::-1].copy())]
    )


def two_pages(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        file.write(LABELS)
        file.write(LABELS)


def tiff_of(shape: tuple[int, ...], **settings: Any) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, np.zeros(shape, np.uint8), metadata=None, **settings)


def small_mask(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        file.write(LABELS, metadata=None)
        file.write(CORNER[:32], photometric="mask", subfiletype=4, metadata=None)


def negative_under_mask(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        file.write(LABELS.astype(np.int16) - 1, metadata=None)
        file.write(~CORNER, photometric="mask", subfiletype=4, metadata=None)


def packed_zarr(path: Path) -> None:
    zarr.create_array(path, shape=(4, 4), dtype="uint8", attributes={"scale_factor": 0.1})


def unclear_zarr(path: Path) -> None:
    zarr.create_array(path, shape=(4, 4), dtype="uint8", attributes={"_FillValue": "AAAAAAAA+H8="})


def damaged_transparency(path: Path) -> None:
    palette(path, 7)
    content = path.read_bytes()
    at = content.index(b"tRNS")
    path.write_bytes(content[: at + 4] + bytes([content[at + 4] ^ 1]) + content[at + 5 :])


def masked_beside(path: Path) -> None:
    """As GDAL writes it where a file has no place for a mask."""
    saved(path, "PNG")
    tifffile.imwrite(f"{path}.msk", ~CORNER, photometric="minisblack")


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "png turned": (lambda path: saved(path, "PNG", exif=exif(6)), r"its orientation is 6.*save it upright"),
    "png turned by text": (turned_by_text, "its orientation is 3"),
    "png turned by xmp": (turned_by_xmp, "its orientation is 8"),
    "webp turned": (lambda path: saved(path, "WEBP", lossless=True, exif=exif(6)), "its orientation is 6"),
    "tiff turned": (turned_tiff, "its orientation is 3"),
    "apng": (frames("PNG"), "holds 2 pictures; save the one with the labels alone"),
    "gif of frames": (frames("GIF"), "holds 2 pictures"),
    "tiff of pages": (two_pages, r"holds several pictures \(page 2 is no smaller copy\)"),
    "lossy webp": (lambda path: saved(path, "WEBP"), "is a WEBP, which blurs labels into others"),
    "jpeg 2000": (lambda path: saved(path, "JPEG2000"), "is a JPEG2000, which blurs"),
    "other": (lambda path: saved(path, "ICO"), "is a ICO, of which labels are not read; save them as a PNG"),
    "pgm": (lambda path: path.write_bytes(b"P5 2 2 15 \1\2\3\4"), "a PPM whose values do not reach to 255"),
    "ppm": (lambda path: path.write_bytes(b"P6 1 1 11 \1\2\3"), "a PPM whose values do not reach to 255"),
    "pbm": (lambda path: path.write_bytes(b"P4 8 1 \1"), "a PPM whose values do not reach to 255"),
    "plain pgm": (lambda path: path.write_bytes(b"P2 2 2 11 0 1 2 11"), "a PPM whose values do not reach to"),
    "plain ppm": (lambda path: path.write_bytes(b"P3 1 1 11 1 2 11"), "a PPM whose values do not reach to"),
    "plain ppm of 16 bits": (
        lambda path: path.write_bytes(b"P3 1 1 65535 1 2 11"),
        "a PPM whose values do not",
    ),
    "plain pbm": (lambda path: path.write_bytes(b"P1 2 1 0 1"), "a PPM whose values do not reach to 255"),
    "white is zero": (tiff_of((8, 8), photometric="miniswhite"), "is MINISWHITE with 1 band; save labels as"),
    "three bands": (
        tiff_of((8, 8, 3), photometric="minisblack", planarconfig="contig"),
        "is MINISBLACK with 3 bands",
    ),
    "inks": (tiff_of((8, 8, 4), photometric="separated"), "is SEPARATED with 4 bands"),
    "unclear fourth band": (
        tiff_of((8, 8, 4), photometric="rgb", extrasamples=["unspecified"]),
        "has a band 4 that is not said to be transparency",
    ),
    "mask beside": (masked_beside, "has its mask in another file, mask.msk, which is not read"),
    "small mask": (small_mask, "has masks that do not fit its picture"),
    "negative label under a mask": (negative_under_mask, "holds the label -1, which stands for transparent"),
    "packed zarr": (packed_zarr, "holds numbers packed with scale_factor"),
    "unclear zarr": (unclear_zarr, "says that no data is 'AAAAAAAA"),
    "damaged transparency": (damaged_transparency, "is a damaged PNG: a sum does not match"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_would_be_misread_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, message = WRONG[name]
    make(tmp_path / "mask")
    with pytest.raises(LabelFileError, match=message) as refused:
        whole(open_labels(tmp_path / "mask"))
    assert str(tmp_path / "mask") in str(refused.value) and "\n" not in str(refused.value)


def test_an_upright_orientation_and_smaller_copies_change_nothing(tmp_path: Path) -> None:
    saved(tmp_path / "a.png", "PNG", exif=exif(1))
    saved(tmp_path / "a.webp", "WEBP", lossless=True)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(LABELS, extratags=[(274, 3, 1, 1, True)])
        file.write(LABELS[::2, ::2], subfiletype=1)
        file.write(CORNER[::2, ::2], photometric="mask", subfiletype=5)
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(whole(open_labels(tmp_path / name)), LABELS)
    np.testing.assert_array_equal(whole(open_labels(tmp_path / "a.webp")), LABELS.astype(int) * 0x010101)


def test_netpbm_of_bytes_is_read_as_it_is_stored(tmp_path: Path) -> None:
    for kind, content in ((2, b"0 1 2 11"), (5, b"\0\1\2\x0b")):
        (tmp_path / "a.pgm").write_bytes(b"P%d 2 2 255 " % kind + content)
        assert whole(open_labels(tmp_path / "a.pgm")).tolist() == [[0, 1], [2, 11]]
    for kind, content in ((3, b"1 2 11"), (6, b"\1\2\x0b")):
        (tmp_path / "a.ppm").write_bytes(b"P%d 1 1 255 " % kind + content)
        assert whole(open_labels(tmp_path / "a.ppm")).tolist() == [[0x01020B]]
