"""Arrays: what is written is what is read, and what is missing, torn or rotten is an error and never a picture."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from storage.arrays import FILL, ArraySpec, ArrayStore, as_os_error, box_index
from storage.damage import DamagedData
from storage.files import naming
from storage.fingerprint import file_hash, fingerprint
from storage.geometry import RING, Box, Canvas

SPEC = ArraySpec("a.zarr", (3, 20, 30), (3, 8, 8), "float32", ("c", "y", "x"))


@pytest.fixture
def filled(tmp_path: Path) -> tuple[ArrayStore, np.ndarray]:
    store = ArrayStore(tmp_path)
    store.create(SPEC)
    values = np.random.default_rng(0).standard_normal(SPEC.shape).astype(np.float32)
    store.begin_write(SPEC.name, (slice(None),) * 3, values)()
    return store, values


def test_an_error_of_reading_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=rf"Input/output error: '{tmp_path}'"), naming(tmp_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    with pytest.raises(FileNotFoundError, match="/none'"), naming(tmp_path):
        (tmp_path / "none").read_bytes()


def test_boxes_are_read_back_wrapped(filled) -> None:
    store, values = filled
    canvas = Canvas(20, 30, RING)
    assert np.array_equal(store.read_box(SPEC.name, slice(1, 3), Box(3, 17, -4, 33), canvas),
                          np.roll(np.tile(values, 2), 4, 2)[1:3, 3:17, :37])  # fmt: skip
    assert np.array_equal(store.read(SPEC.name, box_index(slice(0, 1), Box(5, 7, 0, 4))), values[:1, 5:7, :4])


def test_an_array_that_is_not_there_is_named_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"a\.zarr: NOT_FOUND.*does not exist$"):
        ArrayStore(tmp_path).read(SPEC.name, (slice(None),) * 3)


def test_zarr_python_reads_the_same(filled, tmp_path: Path) -> None:
    _, values = filled
    array = zarr.open_array(tmp_path / SPEC.name, mode="r")
    assert np.array_equal(np.asarray(array), values)
    assert array.metadata.dimension_names == ("c", "y", "x") and array.metadata.zarr_format == 3


SHARDED = ArraySpec("b.zarr", (3, 20, 30), (3, 8, 8), "float32", ("c", "y", "x"), (3, 4, 4))


@pytest.mark.parametrize("damage", ["rotten part", "rotten index", "torn", "missing"])
def test_a_damaged_shard_is_an_error_and_its_neighbours_are_not(damage: str, tmp_path: Path) -> None:
    store = ArrayStore(tmp_path)
    store.create(SHARDED)
    values = np.random.default_rng(0).standard_normal(SHARDED.shape).astype(np.float32)
    store.begin_write(SHARDED.name, (slice(None),) * 3, values)()
    assert np.array_equal(np.asarray(zarr.open_array(tmp_path / SHARDED.name, mode="r")), values)
    shard = tmp_path / SHARDED.name / "c.0.1.1"
    content = bytearray(shard.read_bytes())
    if damage in ("torn", "missing"):
        content = content[: len(content) // 2]
    else:
        content[17 if damage == "rotten part" else -9] ^= 1
    shard.write_bytes(bytes(content))
    if damage == "missing":
        shard.unlink()
    fresh = ArrayStore(tmp_path)
    assert np.array_equal(fresh.read(SHARDED.name, box_index(slice(0, 3), Box(0, 8, 0, 30))), values[:, :8])
    with pytest.raises(DamagedData, match=r"b\.zarr"):
        fresh.read(SHARDED.name, box_index(slice(0, 3), Box(8, 16, 8, 16)))


def test_a_damaged_chunk_is_an_error_and_never_a_picture(filled, tmp_path: Path) -> None:
    chunk = tmp_path / SPEC.name / "c.0.1.1"
    content = bytearray(chunk.read_bytes())
    content[17] ^= 1
    chunk.write_bytes(bytes(content))
    with pytest.raises(DamagedData, match=r"a\.zarr.*Digest mismatch"):
        ArrayStore(tmp_path).read(SPEC.name, (slice(None),) * 3)


@pytest.mark.parametrize("dtype", sorted(FILL))
def test_what_was_never_written_is_an_error_whatever_was(dtype: str, tmp_path: Path) -> None:
    """Zeros, NaN and the extremes are values like any other; only the filling is none."""
    spec = ArraySpec("c.zarr", (1, 4, 8), (1, 4, 4), dtype, ("c", "y", "x"), (1, 2, 2))
    store = ArrayStore(tmp_path)
    store.create(spec)
    values = np.zeros((1, 4, 4), dtype)
    values[0, 0, :2] = (np.nan, -np.inf) if dtype == "float32" else (2**31 - 1, -(2**31) + 1)
    store.begin_write(spec.name, box_index(slice(0, 1), Box(0, 4, 0, 4)), values)()
    assert np.array_equal(
        store.read(spec.name, box_index(slice(0, 1), Box(0, 4, 0, 4))), values, equal_nan=True
    )
    assert store.bytes_of(spec, (0, 0, 0)) and store.bytes_of(spec, (0, 0, 1)) is None
    with pytest.raises(DamagedData, match=r"c\.zarr: a chunk is missing"):
        store.read(spec.name, box_index(slice(0, 1), Box(0, 4, 3, 5)))


def test_a_damaged_chunk_is_written_over(filled, tmp_path: Path) -> None:
    """The last one of a row reaches out of the array, and TensorStore reads such a chunk before it writes it."""
    store, values = filled
    (tmp_path / SPEC.name / "c.0.1.3").write_bytes(b"rotten")
    store.begin_write(SPEC.name, box_index(slice(0, 3), Box(8, 16, 24, 30)), values[:, 8:16, 24:])()
    assert np.array_equal(store.read(SPEC.name, (slice(None),) * 3), values)


@pytest.mark.parametrize("content", [b"", b"{", b'{"zarr_format": 3}'])
def test_damaged_metadata_is_written_anew_and_the_chunks_stay(content: bytes, filled, tmp_path: Path) -> None:
    _, values = filled
    (tmp_path / SPEC.name / "zarr.json").write_bytes(content)
    fresh = ArrayStore(tmp_path)
    with pytest.raises(DamagedData, match=r"a\.zarr"):
        fresh.read(SPEC.name, (slice(None),) * 3)
    fresh.create(SPEC)
    assert np.array_equal(fresh.read(SPEC.name, (slice(None),) * 3), values)


def test_an_array_is_set_aside_at_once_and_removed_later(filled, tmp_path: Path) -> None:
    store, values = filled
    remove = store.set_aside(SPEC.name)
    store.create(SPEC)
    store.begin_write(SPEC.name, (slice(None),) * 3, values + 1)()
    remove()
    assert np.array_equal(store.read(SPEC.name, (slice(None),) * 3), values + 1)
    assert [path.name for path in tmp_path.iterdir()] == [SPEC.name]


def test_arrays_are_created_twice_and_deleted_twice(filled, tmp_path: Path) -> None:
    store, values = filled
    ArrayStore(tmp_path).create(SPEC)
    assert np.array_equal(store.read(SPEC.name, (slice(None),) * 3), values)
    store.delete(SPEC.name)
    store.delete(SPEC.name)
    assert not (tmp_path / SPEC.name).exists()
    with pytest.raises(OSError, match="a.zarr"):
        store.read(SPEC.name, (slice(None),) * 3)


def test_a_url_is_a_root_too(tmp_path: Path) -> None:
    store = ArrayStore(f"file://{tmp_path}/deep")
    store.create(SPEC)
    store.begin_write(SPEC.name, (slice(None),) * 3, np.ones(SPEC.shape, np.float32))()
    assert ArrayStore(tmp_path / "deep").read(SPEC.name, (0, 0, slice(0, 3))).tolist() == [1, 1, 1]
    store.delete(SPEC.name)
    with pytest.raises(OSError, match=r"a\.zarr"):
        ArrayStore(tmp_path / "deep").read(SPEC.name, (0, 0, slice(0, 3)))


def test_a_full_disk_is_told_as_one() -> None:
    said = ValueError("RESOURCE_EXHAUSTED: Error writing \"x\": No space left on device [os_error_code='28']")
    assert as_os_error(said, "x").errno == errno.ENOSPC


def test_fingerprints(tmp_path: Path) -> None:
    assert (
        fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) != fingerprint({"a": 1, "b": [3]})
    )
    (tmp_path / "x").write_bytes(b"abc")
    assert file_hash(tmp_path / "x").startswith("ba7816bf")
