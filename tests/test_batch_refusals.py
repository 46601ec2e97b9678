"""A batch that is refused has changed no byte of the folder, but for the lock."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batches import ROWS, made, settings
from PIL import Image
from tiny_class_models import build_class_map

from cluster.datasets.entry import make_batch, plan_batch
from cluster.datasets.requests import rows_at_hand
from cluster.engine.driver import Interrupted
from cluster.following.events import TaskDone
from cluster.spec.fields import SpecError
from storage.fingerprint import FormatError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_class_map(tmp_path_factory.mktemp("model"))


def rows_with(value: int) -> list[dict[str, Any]]:
    """With class maps that come as bytes, which are kept in the folder."""
    content = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(content, "PNG")
    return [
        {**ROWS[0], "id": f"r{number}", "classes": content.getvalue(), "seed": number} for number in range(4)
    ]


def contents(folder: Path) -> dict[str, bytes]:
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.name != ".lock"}
    return {name: path.read_bytes() if path.is_file() else b"" for name, path in paths.items()}


def labels(folder: Path, text: str) -> Path:
    folder.joinpath("labels.yaml").write_text(text)
    return folder / "labels.yaml"


@pytest.fixture(params=["begun", "finished", "killed at its end"])
def folder(request: pytest.FixtureRequest, model: Path, tmp_path: Path) -> Path:
    """Of a batch, with what a killed run may have left."""
    out, told = tmp_path / "set", labels(tmp_path, "0: wood\n")

    def stop(event: object) -> None:
        if isinstance(event, TaskDone) and request.param == "begun":
            raise KeyboardInterrupt

    fields: dict[str, Any] = {"class_labels": told, "block": 16, "on_event": stop}
    if request.param == "begun":
        with pytest.raises(Interrupted):
            made(model, out, rows_with(0), **fields)
        assert (out / "work/masks").is_dir() and (out / "work/inputs").is_dir()
    else:
        made(model, out, rows_with(0), **fields)
    if request.param == "killed at its end":
        (out / "work").mkdir()
        (out / "work/requests.parquet").write_bytes(b"")
    (out / f".README.md.{'0' * 32}").write_text("torn")
    (out / "events.jsonl").write_text('{"event": "TaskDone"}\n')
    return out


def no(need: object) -> None:
    raise SpecError("no, thank you")


Refused = Callable[[Path, Path], object]
REFUSALS: dict[str, tuple[type[Exception], Refused]] = {
    "other maps": (FormatError, lambda model, out: made(model, out, rows_with(2), resume=True, block=16)),
    "other labels": (
        FormatError,
        lambda model, out: made(
            model, out, rows_with(0), resume=True, block=16, class_labels=labels(out.parent, "0: sea\n")
        ),
    ),
    "no resume": (
        SpecError,
        lambda model, out: made(model, out, rows_with(0), block=16, class_labels=out.parent / "labels.yaml"),
    ),
    "a row that is wrong": (
        SpecError,
        lambda model, out: made(model, out, [*rows_with(1), {"id": "bad", "label": "?"}], resume=True),
    ),
    "who asks says no": (
        SpecError,
        lambda model, out: make_batch(
            rows_at_hand(rows_with(3)), settings(model, out=out), on_planned=no, resume=True
        ),
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_changes_no_byte(refusal: str, folder: Path, model: Path) -> None:
    if (refusal, (folder / "_SUCCESS").is_file()) == ("who asks says no", True):
        refusal = "other maps"  # of a finished batch nobody asks
    error, refused = REFUSALS[refusal]
    before = contents(folder)
    with pytest.raises(error):
        refused(model, folder)
    assert contents(folder) == before


def test_a_plan_changes_none_either(folder: Path, model: Path) -> None:
    before = contents(folder)
    plan_batch(rows_at_hand(rows_with(2)), settings(model, out=folder))
    assert contents(folder) == before
