"""`import hypermosaic`: what it offers, what it costs, and what its calls give back."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hypermosaic as hm
from cluster.api import Result
from cluster.commands.app import COMMANDS
from storage.exports.picture import Picture

ROOT = Path(__file__).parents[1]
SMALL: Any = {"num_inference_steps": 1, "executor": "in-process", "device": "cpu", "preview_every": 0}
SLOW = ("torch", "diffusers", "transformers", "ray", "zarr", "numpy", "pydantic", "PIL", "typer", "rich")


def ran(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, which finds the packages, as installed ones are found: last."""
    paths = f"import sys; sys.path.append({str(ROOT)!r}); "
    if arguments[0] == "-c":
        arguments = ("-c", paths + arguments[1], *arguments[2:])
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env={**env, **variables}, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> hm.Mosaic:
    """80 x 48 pixels of forest."""
    out = tmp_path_factory.mktemp("made") / "forest"
    return hm.generate("forest", width=80, height=48, out=out, **SMALL)


# --- the package -----------------------------------------------------------------------------------------------------


def test_it_lists_exactly_what_it_offers() -> None:
    assert dir(hm) == sorted(hm.__all__)
    assert all(getattr(hm, name) is not None for name in hm.__all__)
    misspelt = "genrate"
    with pytest.raises(AttributeError, match="no attribute 'genrate'"):
        getattr(hm, misspelt)


def test_every_command_about_pictures_is_a_function() -> None:
    assert set(COMMANDS) - {"doctor", "train", "evaluate"} <= set(hm.__all__)


def test_all_errors_of_its_docstrings_are_there() -> None:
    named = {
        name for call in hm.__all__ for name in re.findall(r"\b[A-Z]\w+Error\b", getattr(hm, call).__doc__)
    }
    builtin = {"OSError", "FileNotFoundError", "BlockingIOError"}
    assert named - builtin <= set(hm.__all__)


def test_importing_it_imports_nothing_else() -> None:
    found = ran("-c", "import hypermosaic, sys; dir(hypermosaic); print(*sorted(sys.modules))").stdout.split()
    assert "hypermosaic" in found
    assert [
        name for name in found if name.partition(".")[0] in (*SLOW, "cluster", "generation", "storage")
    ] == []


def test_its_calls_are_imported_without_torch_and_ray() -> None:
    found = ran(
        "-c", "import hypermosaic, sys; hypermosaic.generate; print(*sorted(sys.modules))"
    ).stdout.split()
    assert {"torch", "diffusers", "transformers", "ray", "zarr", "typer"} & set(found) == set()


def test_it_is_the_command_line_too() -> None:
    told = ran("-m", "hypermosaic", "--help")
    assert told.returncode == 0 and "generate" in told.stdout


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_prompt_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = hm.generate("Forest", width=64, height=64, **SMALL)
    assert made.folder == tmp_path / "out" / "forest" and made.page.is_file()
    report = hm.plan("rainforest coast")
    assert (report.width, report.height, report.measured) == (2048, 2048, False)
    assert report.seconds_range[0] < report.seconds < report.seconds_range[1]


def test_a_seed_may_be_drawn(tmp_path: Path) -> None:
    drawn: Any = "random"
    seeds = {hm.plan("forest", seed=drawn, out=tmp_path).fingerprint for _ in range(3)}
    assert len(seeds) == 3


def test_a_spec_may_come_first_and_fields_override_it(tmp_path: Path) -> None:
    spec = hm.JobSpec(prompt="desert", width=64, height=128, out=tmp_path)
    report = hm.plan(spec, width=256)
    assert (report.width, report.height) == (256, 128)
    assert hm.plan(prompt="desert", width=256, height=128, out=tmp_path).width == 256
    with pytest.raises(hm.SpecError, match="two prompts"):
        hm.plan("forest", prompt="desert")
    with pytest.raises(hm.SpecError, match="prompt is missing"):
        hm.plan(width=64, height=64)


def test_what_is_made_has_page_image_array_and_settings(picture: hm.Mosaic) -> None:
    assert picture.page == picture.folder / "index.html" and picture.page.is_file()
    assert (picture.width, picture.height, picture.spec.prompt, picture.before) == (80, 48, "forest", False)
    assert picture.array.shape == (3, 48, 80) and picture.array.dtype == np.uint8
    pixels = np.moveaxis(picture.array[:], 0, -1)
    np.testing.assert_array_equal(np.asarray(picture.image), pixels)


def test_its_image_is_bounded(picture: hm.Mosaic) -> None:
    assert [picture.scaled(side).size for side in (1000, 80, 79, 20, 1)] == [
        (80, 48), (80, 48), (40, 24), (20, 12), (1, 1),
    ]  # fmt: skip
    with pytest.raises(hm.SpecError, match="side 0"):
        picture.scaled(0)


def test_a_notebook_shows_a_thumbnail(picture: hm.Mosaic) -> None:
    import base64

    shown = picture._repr_html_()
    found = re.search(r'src="data:image/png;base64,([^"]+)"', shown)
    assert found is not None and "forest, 80 x 48 pixels" in shown and len(shown) < 10**6
    assert Image.open(io.BytesIO(base64.b64decode(found[1]))).size == (80, 48)


def test_a_finished_folder_is_opened_as_what_made_it(picture: hm.Mosaic) -> None:
    assert hm.open(picture.folder) == hm.open(str(picture.folder)) == picture
    again = hm.resume(picture.folder)
    assert again.before and again.folder == picture.folder
    assert isinstance(hm.status(picture.folder), object) and hm.status(picture.folder).state == "finished"
    assert hm.verify(picture.folder).is_whole


def test_an_unfinished_folder_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "job"

    def stop(event: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        hm.generate("forest", width=64, height=64, out=out, on_event=stop, **SMALL)
    with pytest.raises(hm.SpecError) as caught:
        hm.open(out)
    assert "is not finished" in str(caught.value)
    assert f"hypermosaic.resume({str(out)!r})" in str(caught.value)
    with pytest.raises(hm.SpecError, match="add resume=True to go on with it, or choose another out$"):
        hm.generate("forest", width=64, height=64, out=out, **SMALL)


def test_a_folder_of_nothing_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no finished picture"):
        hm.open(tmp_path)
    with pytest.raises(hm.SpecError, match="is no folder"):
        hm.open(tmp_path / "none")


def test_without_an_ome_zarr_image_there_is_no_array(tmp_path: Path) -> None:
    made = hm.generate("forest", width=64, height=64, out=tmp_path / "job", outputs=("deep-zoom",), **SMALL)
    assert made.image.size == (64, 64)
    with pytest.raises(hm.SpecError, match="its outputs are deep-zoom"):
        _ = made.array


def test_an_export_and_the_older_way_in(picture: hm.Mosaic, tmp_path: Path) -> None:
    import cluster

    assert hm.export(picture.folder, "png", tmp_path / "a.png").read_bytes()
    found = cluster.resume(picture.folder)
    assert isinstance(found, Result) and Picture.open(found.folder).width == 80


# --- what is shown ---------------------------------------------------------------------------------------------------

DRAW = (
    "import hypermosaic as hm; hm.generate('forest', width=64, height=64, num_inference_steps=1, "
    "executor='in-process', device='cpu', progress={})"
)


@pytest.mark.parametrize(
    ("progress", "forced", "words"),
    [("None", "", ""), ("True", "", "finished in"), ("False", "1", ""), ("None", "1", "denoise")],
)
def test_progress_is_shown_where_it_can_be_unless_told_not_to(
    progress: str, forced: str, words: str, tmp_path: Path
) -> None:
    told = ran(
        "-W", "ignore", "-c", DRAW.format(progress), cwd=tmp_path, FORCE_COLOR=forced, PYTHONPATH=str(ROOT)
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout == ""
    assert (words in told.stderr) if words else told.stderr == ""


def test_its_page_is_served_while_the_program_goes_on(picture: hm.Mosaic) -> None:
    with hm.view(picture.folder, open_browser=False) as serving:
        with urllib.request.urlopen(serving.address) as page:
            assert b"<html" in page.read()
        assert serving.address in serving._repr_html_() and serving.address in repr(serving)
        with pytest.raises(OSError, match="in use"):
            hm.view(picture.folder, port=int(serving.address.split(":")[-1].strip("/")), open_browser=False)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(serving.address)
    serving.close()
    serving.wait()


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(hm.SpecError, match=r"make one with: hypermosaic\.generate\(\.\.\., out='"):
        hm.view(tmp_path, open_browser=False)
