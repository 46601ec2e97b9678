"""Arrays and ledger: what is written is what is read, damage is an error, and a torn line costs one task."""

import errno
from pathlib import Path

import numpy as np
import pytest
import zarr

from storage.arrays import ArraySpec, ArrayStore, as_os_error, box_index
from storage.fingerprint import FormatError, file_hash, fingerprint
from storage.geometry import RING, Box, Canvas
from storage.ledger import Ledger, read

SPEC = ArraySpec("a.zarr", (3, 20, 30), (3, 8, 8), "float32", ("c", "y", "x"))


@pytest.fixture
def filled(tmp_path: Path) -> tuple[ArrayStore, np.ndarray]:
    store = ArrayStore(tmp_path)
    store.create(SPEC)
    values = np.random.default_rng(0).standard_normal(SPEC.shape).astype(np.float32)
    store.begin_write(SPEC.name, (slice(None),) * 3, values)()
    return store, values


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


@pytest.mark.parametrize("damage", ["rotten part", "rotten index", "torn"])
def test_a_damaged_shard_is_an_error_and_its_neighbours_are_not(damage: str, tmp_path: Path) -> None:
    store = ArrayStore(tmp_path)
    store.create(SHARDED)
    values = np.random.default_rng(0).standard_normal(SHARDED.shape).astype(np.float32)
    store.begin_write(SHARDED.name, (slice(None),) * 3, values)()
    assert np.array_equal(np.asarray(zarr.open_array(tmp_path / SHARDED.name, mode="r")), values)
    shard = tmp_path / SHARDED.name / "c.0.1.1"
    content = bytearray(shard.read_bytes())
    if damage == "torn":
        content = content[: len(content) // 2]
    else:
        content[17 if damage == "rotten part" else -9] ^= 1
    shard.write_bytes(bytes(content))
    fresh = ArrayStore(tmp_path)
    assert np.array_equal(fresh.read(SHARDED.name, box_index(slice(0, 3), Box(0, 8, 0, 30))), values[:, :8])
    with pytest.raises(OSError, match=r"b\.zarr"):
        fresh.read(SHARDED.name, box_index(slice(0, 3), Box(8, 16, 8, 16)))


def test_a_damaged_chunk_is_an_error_and_never_a_picture(filled, tmp_path: Path) -> None:
    chunk = tmp_path / SPEC.name / "c.0.1.1"
    content = bytearray(chunk.read_bytes())
    content[17] ^= 1
    chunk.write_bytes(bytes(content))
    with pytest.raises(OSError, match=r"a\.zarr.*Digest mismatch"):
        ArrayStore(tmp_path).read(SPEC.name, (slice(None),) * 3)


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


def test_a_ledger_remembers_and_drops_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, "abc") as ledger:
        ledger.record(0, 7)
        ledger.record(1, 11)
    with path.open("a") as file:
        file.write('{"stage": 2, "blo')
    with Ledger(path, "abc") as ledger:
        assert ledger.done == {(0, 7), (1, 11)}
        ledger.record(2, 13)
    assert read(path)[1] == {(0, 7), (1, 11), (2, 13)}


def test_a_ledger_of_another_job_or_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path, "abc").close()
    with pytest.raises(FormatError, match="belongs to another job"):
        Ledger(path, "abd")
    path.write_text('{"format": "hypermosaic-ledger", "version": 4, "fingerprint": "abc"}\n')
    with pytest.raises(FormatError, match="version 4 of its format; this program reads 3"):
        Ledger(path, "abc")


def test_two_drivers_cannot_run_one_job(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, "abc"), pytest.raises(BlockingIOError, match="another process is running the job"):
        Ledger(path, "abc")
    Ledger(path, "abc").close()


def test_fingerprints(tmp_path: Path) -> None:
    assert (
        fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) != fingerprint({"a": 1, "b": [3]})
    )
    (tmp_path / "x").write_bytes(b"abc")
    assert file_hash(tmp_path / "x").startswith("ba7816bf")
