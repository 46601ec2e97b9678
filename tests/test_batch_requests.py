"""Tables of requests: what is read, and one clear line for what is wrong, before anything is drawn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batches import ROWS, made, settings, table_in
from engine import hash_of
from PIL import Image
from tiny_class_models import build_class_map
from typer.testing import CliRunner, Result

from cluster.commands.app import app
from cluster.datasets.checking import planned
from cluster.datasets.names import PARTS
from cluster.datasets.plan import Sizes
from cluster.datasets.requests import Table, rows_at_hand, table_at
from cluster.spec.fields import JobSpec, SpecError
from generation.models.loading import describe
from storage.claim import Claim

GIVEN = ("prompt", "seed", "width", "height")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_class_map(tmp_path_factory.mktemp("model"))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["batch", *(str(argument) for argument in arguments)])


def line_of(result: Result) -> str:
    """The one line that a refusal says."""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert result.exit_code == 2
    return lines[0]


# --- what is read ----------------------------------------------------------------------------------------------------

CSV = 'id,label,seed,width,height,guidance_scale\na,"sea, wood",1,64,48,\nb,sand,2,80,40,2.5\n'


def write_csv(folder: Path) -> Path:
    (folder / "r.csv").write_text(CSV)
    return folder / "r.csv"


def write_json(folder: Path) -> Path:
    rows = [
        {"id": "a", "prompt": "sea, wood", "seed": 1, "width": 64, "height": 48},
        {"id": "b", "prompt": "sand", "seed": 2, "width": 80, "height": 40, "guidance_scale": 2.5},
    ]
    (folder / "r.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows))
    return folder / "r.jsonl"


def write_parquet(folder: Path) -> Path:
    columns = {
        "id": ["a", "b"], "label": ["sea, wood", "sand"], "seed": [1.0, 2.0], "width": [64, 80], "height": [48, 40],
        "guidance_scale": [None, 2.5],
    }  # fmt: skip
    pq.write_table(pa.table(columns), folder / "r.parquet")
    return folder / "r.parquet"


@pytest.mark.parametrize("write", [write_csv, write_json, write_parquet])
def test_three_formats_say_the_same(write: Callable[[Path], Path], tmp_path: Path) -> None:
    first, second = (row.values for row in table_at(write(tmp_path)).read(()))
    assert first == {"id": "a", "prompt": "sea, wood", "seed": 1, "width": 64, "height": 48}
    assert second | {"guidance_scale": float(second["guidance_scale"])} == {
        "id": "b", "prompt": "sand", "seed": 2, "width": 80, "height": 40, "guidance_scale": 2.5,
    }  # fmt: skip


def test_rows_at_hand_may_be_a_table_or_a_frame() -> None:
    pandas = pytest.importorskip("pandas")
    rows = [{"id": "a", "prompt": "sea", "seed": 1, "width": 64, "height": 64}]
    for source in (rows, iter(rows), pa.Table.from_pylist(rows), pandas.DataFrame(rows)):
        assert [placed.values for placed in rows_at_hand(source).read(())] == rows


def plan(model: Path, out: Path, table: Table, given: set[str] | None = None, **fields: Any) -> Any:
    spec = JobSpec(**{"prompt": "sea", "width": 64, "height": 48, **settings(model, **fields)}, out=out)
    info = describe(str(model))
    known = {"prompt", "seed", "width", "height"} if given is None else given
    batch = planned(spec, info, table, known, None, Sizes())
    (batch.work / ".requests.parquet").rename(batch.work / "requests.parquet")
    return batch


def test_flags_fill_what_rows_leave_out(model: Path, tmp_path: Path) -> None:
    rows = [
        {"id": "a"},
        {"id": "b", "seed": 9, "prompt": "wood", "num_inference_steps": 2},
        {"id": "c", "seed": None},
    ]
    asked = plan(model, tmp_path, rows_at_hand(rows), seed=100, guidance_scale=2.0).shard(0)
    assert [(row.told["prompt"], row.told["seed"], row.steps) for row in asked] == [
        ("sea", 100, 3), ("wood", 9, 2), ("sea", 102, 3),
    ]  # fmt: skip
    assert {(row.width, row.height, row.told["guidance_scale"]) for row in asked} == {(64, 48, 2.0)}


def test_paths_of_class_maps_start_at_the_table(model: Path, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(tmp_path / "maps" / "a.png")
    (tmp_path / "r.csv").write_text("id,classes\na,maps/a.png\n")
    (row,) = plan(model, tmp_path / "out", table_at(tmp_path / "r.csv")).shard(0)
    assert row.told["classes"] == str(tmp_path / "maps" / "a.png")


def test_the_order_and_the_sizes_make_the_shards(model: Path, tmp_path: Path) -> None:
    batch = plan(model, tmp_path, rows_at_hand({"id": str(n)} for n in range(20_000)))
    assert batch.shards == 3
    assert [len(batch.shard(shard)) for shard in range(3)] == [8192, 8192, 3616]


# --- what is refused -------------------------------------------------------------------------------------------------

GOOD = "id,label,seed,width,height\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no requests"),
        (GOOD, "holds no requests"),
        ("label,seed,width,height\nsea,1,64,64\n", "has no column id; add it"),
        ("id,seed,width,height\na,1,64,64\n", "has no column prompt; add it, or give --label"),
        ("id,label,seed\na,sea,1\n", "has no column width; add it, or give --image-size"),
        ("id,label,sed,width,height\na,sea,1,64,64\n", "has an unknown column 'sed'; did you mean seed?"),
        ("id,label,prompt,seed,width,height\na,sea,sea,1,64,64\n", "both prompt and label"),
        (GOOD + "a,sea,1,64,64\nb,sea,-1,64,64\n", "line 3: seed -1 is out of range"),
        (GOOD + "a,sea,1.5,64,64\n", "line 2: seed '1.5' cannot be used"),
        (GOOD + "a,sea,1,0,64\n", "line 2: width 0 is out of range"),
        (GOOD + "a,sea,1,,64\n", "line 2: the width is empty; give one, or --image-size for all"),
        (GOOD + ",sea,1,64,64\n", "line 2: the id is empty"),
        (GOOD + "a,see,1,64,64\n", "line 2: the model does not know 'see' (did you mean 'sea'?)"),
        (GOOD + "a,sea,1,64,64\nb,sea,1,64,64\na,sea,2,64,64\n", "line 4: the id 'a' was used in line 2"),
        (GOOD + "a,sea,1,64\n", "line 2: fewer values than columns"),
        (GOOD + "a,sea,1,64,64,5\n", "line 2: more values than columns"),
        (GOOD + "a,sea,1,30000,30000\n", "do not fit in a shard of 500 MB"),
        (GOOD + "a,sea,1_0,64,64\n", "line 2: seed '1_0' cannot be used: write a whole number"),
        ("id,label,seed,width,height,seed\na,sea,1,64,64,2\n", "has 2 columns 'seed'; leave all but one out"),
    ],
)
def test_a_bad_table_is_one_line_and_nothing_else(
    text: str, message: str, model: Path, tmp_path: Path
) -> None:
    table, out = tmp_path / "r.csv", tmp_path / "out"
    table.write_text(text)
    line = line_of(call(table, "--model", model, "--executor", "in-process", "--out", out))
    assert message in line and "r.csv" in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is not JSON"),
        ("[1]", "line 1 is no object"),
        ('{"id": "a", "size": 3}', "unknown column 'size'"),
        ('{"id": "a", "seed": 1, "seed": 2}', "line 1 has 2 columns 'seed'"),
        ('{"id": "a", "seed": true}', "line 1: seed True cannot be used: write a whole number"),
        (
            '{"id": "a", "guidance_scale": false}',
            "line 1: guidance_scale False cannot be used: write a number",
        ),
    ],
)
def test_bad_json_lines(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(line + "\n")
    with pytest.raises(SpecError, match=message):
        list(table_at(tmp_path / "r.jsonl").read(GIVEN))


def test_a_column_that_a_table_has_twice_is_refused(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array([1]), pa.array([2])], ["id", "seed", "seed"])
    pq.write_table(table, tmp_path / "r.parquet")
    with pytest.raises(SpecError, match=r"r\.parquet has 2 columns 'seed'"):
        list(table_at(tmp_path / "r.parquet").read(GIVEN))
    for rows in (table, pandas.DataFrame([["a", 1, 2]], columns=["id", "seed", "seed"])):
        with pytest.raises(SpecError, match="requests has 2 columns 'seed'"):
            rows_at_hand(rows)


def test_a_damaged_page_is_told_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    rows = {"id": [f"request {n}" for n in range(5000)], "seed": list(range(5000))}
    pq.write_table(pa.table(rows), path, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(SpecError, match=r"^r\.parquet is not Parquet, or damaged: "):
        list(table_at(path).read(GIVEN))


def test_a_lossy_mask_is_refused(model: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "ids.jpg")
    with pytest.raises(SpecError, match=r"row 1: class map .*ids\.jpg is a JPEG, which blurs labels"):
        made(model, tmp_path / "out", [{**ROWS[0], "classes": str(tmp_path / "ids.jpg")}])


def test_meanings_of_labels_are_found_from_any_folder(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.yaml").write_text("7: wood\n")
    Image.fromarray(np.full((16, 16), 7, np.uint8)).save(tmp_path / "ids.png")
    rows = [{**ROWS[0], "classes": str(tmp_path / "ids.png")}]
    batch = plan(model, tmp_path / "out", rows_at_hand(rows), class_labels=Path("labels.yaml"))
    assert batch.spec.class_labels is not None and batch.spec.class_labels.is_absolute()
    assert batch.spec.class_labels.read_text() == "7: wood\n"


def test_other_files_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "r.parquet").write_bytes(b"PK\x03\x04 not at all")
    with pytest.raises(SpecError, match="is not Parquet"):
        list(table_at(tmp_path / "r.parquet").read(GIVEN))
    with pytest.raises(SpecError, match=r"did you mean .*r\.parquet"):
        table_at(tmp_path / "s.parquet")
    with pytest.raises(SpecError, match="ends in .csv"):
        table_at(tmp_path / "r.xlsx")


def masks() -> Iterator[tuple[np.ndarray, str]]:
    yield np.full((16, 16), 3, np.uint8), "holds label 3 "
    yield np.zeros((16, 20), np.uint8), "of 20x16 does not match the picture of 64x64"
    yield np.full((16, 16, 3), 9, np.uint8), "holds the colour #090909"


@pytest.mark.parametrize(("ids", "message"), list(masks()), ids=["class", "shape", "colours"])
def test_a_mask_that_does_not_match(ids: np.ndarray, message: str, model: Path, tmp_path: Path) -> None:
    Image.fromarray(ids).save(tmp_path / "ids.png")
    rows = [{**ROWS[0], "classes": str(tmp_path / "ids.png")}]
    with pytest.raises(SpecError, match=f"row 1: class map .*{message}"):
        made(model, tmp_path / "out", rows)
    assert not (tmp_path / "out").exists()


def test_a_missing_mask_and_a_mask_for_words(model: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"row 1: class map .*no\.png does not exist"):
        made(model, tmp_path / "out", [{**ROWS[0], "classes": "no.png"}])
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "ids.png")
    with pytest.raises(SpecError, match="row 1: --classes needs a class-map model"):
        made(folders["sd1"], tmp_path / "out", [{**ROWS[0], "classes": tmp_path / "ids.png"}])


def test_other_files_in_the_folder_are_left_alone(model: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SpecError, match=r"holds other files \(notes.txt\)"):
        made(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_two_at_once_in_a_folder_are_refused(model: Path, tmp_path: Path) -> None:
    """And the second changes nothing, of a batch that is under way least of all."""
    with Claim(tmp_path / "out"):
        parts = tmp_path / "out" / "work" / PARTS
        parts.mkdir(parents=True)
        (parts / "0.parquet").write_bytes(b"drawn")
        before = hash_of(tmp_path)
        with pytest.raises(BlockingIOError, match="belongs to another process"):
            made(model, tmp_path / "out")
        assert hash_of(tmp_path) == before


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_makes_a_dataset(model: Path, tmp_path: Path) -> None:
    flags = ["--n-images", 3, "--label", "wood", "--image-size", 64, "--cond-scale", 2, "--sampling-steps", 2]
    flags += ["--batch-size", 2, "--model", model, "--executor", "in-process", "--device", "cpu"]
    result = call(*flags, "--out", tmp_path / "set")
    assert (result.exit_code, result.stdout.strip()) == (0, str(tmp_path / "set")), result.stderr
    rows = table_in(tmp_path / "set")
    assert [(row["id"], row["seed"]) for row in rows] == [("00000000", 0), ("00000001", 1), ("00000002", 2)]
    assert {
        (row["prompt"], row["width"], row["guidance_scale"], row["num_inference_steps"]) for row in rows
    } == {("wood", 64, 3.0, 2)}
    again = call(*flags, "--out", tmp_path / "set")
    assert "add --resume" in line_of(again)
    assert call(*flags, "--out", tmp_path / "set", "--resume").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no requests given"),
        (("r.csv", "--n-images", 2), "both a table of requests and n-images"),
        (("--n-images", 0, "--label", "sea", "--image-size", 64), "n-images 0 is out of range"),
        (("--n-images", 2, "--image-size", 64), "no column prompt; add it, or give --label"),
        (("--n-images", 2, "--label", "sea"), "no column width; add it, or give --image-size"),
        (("--n-images", 2, "--label", "sea", "--image-size", "big"), "size 'big' is neither"),
        (("--n-images", 2, "--label", "sea", "--image-size", "-4"), "width -4 is out of range"),
        (("--n-images", 2, "--label", "sea", "--image-size", 64, "--cond-scale", "x"), "cond_scale 'x'"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: tuple[object, ...], message: str, model: Path, tmp_path: Path
) -> None:
    assert message in line_of(call(*arguments, "--model", model, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_memory_does_not_grow_with_the_requests(model: Path, tmp_path: Path) -> None:
    """Fewer than a hundred thousand, that the suite stays short; benchmarks/batch.py has them all."""
    script = Path(__file__).with_name("batch_memory.py")
    command = [sys.executable, str(script), str(model), str(tmp_path), "500", "3000"]
    told = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert int(told.stdout) < 400_000  # 264,000 as measured: of each id a digest is kept
