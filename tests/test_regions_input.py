"""Regions as people write them: flags, YAML, GeoJSON; and what is refused, in one line each."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from batches import array_of, table_in
from labelled import description_in
from PIL import Image
from regional import label_map, quarters
from test_cli import call, one_line

from cluster import api, batch, generate
from cluster.commands.flags import SpecFlags
from cluster.engine import continuing
from cluster.engine.driver import Interrupted
from cluster.jobs.job import Job, prepare
from cluster.spec.fields import JobSpec, SpecError
from cluster.spec.identity import picture_facts
from cluster.spec.job_file import LATENTS
from cluster.spec.region_fields import MOST_FEATHER
from storage.arrays import ArrayStore
from storage.geometry import Box

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
SIZE = {"width": 96, "height": 64}
SMALL = ["--size", "96x64", "--num-inference-steps", "1", "--executor", "in-process", "--device", "cpu"]


@pytest.fixture
def inputs(tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, which is the current one, with the files that the cases name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(folders["sd1"])
    quarters(tmp_path / "map.png")
    label_map(tmp_path / "full.png", np.full((4, 4), 5))
    (tmp_path / "notes.png").write_text("not a picture")
    (tmp_path / "broken.geojson").write_text('{"type": "FeatureCollection", ')
    square = [[[10, 10], [50, 10], [50, 50], [10, 50], [10, 10]]]
    shapes(tmp_path / "shapes.geojson", ({"prompt": "a barn"}, square))
    shapes(tmp_path / "mute.geojson", ({"name": "barn"}, square))
    shapes(tmp_path / "far.geojson", ({"prompt": "a barn"}, [[[900, 9], [950, 9], [950, 50]]]))
    shapes(tmp_path / "flat.geojson", ({"prompt": "a barn"}, [[[10, 10], [50, 10]]]))
    shapes(tmp_path / "heavy.geojson", ({"prompt": "a barn", "weight": 3}, square))
    shapes(tmp_path / "odd.geojson", ({"prompt": "a barn"}, [[[10, "x"], [50, 10], [1, 2]]]))
    point = {
        "type": "Feature",
        "properties": {"prompt": "a barn"},
        "geometry": {"type": "Point", "coordinates": [1, 2]},
    }
    (tmp_path / "point.geojson").write_text(json.dumps(point))
    (tmp_path / "list.geojson").write_text("[]")
    (tmp_path / "none.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    return tmp_path


def shapes(path: Path, *features: tuple[dict[str, Any], Any]) -> Path:
    """A file of polygons with properties."""
    rows = [
        {"type": "Feature", "properties": told, "geometry": {"type": "Polygon", "coordinates": rings}}
        for told, rings in features
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": rows}))
    return path


def job_of(folder: Path, **fields: Any) -> Job:
    spec = {
        "prompt": "a meadow",
        "model": "model",
        "device": "cpu",
        "executor": "in-process",
        **SIZE,
        **fields,
    }
    return prepare(JobSpec(**spec, out=folder / "out"), check_fit=False)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--region", "3=a wood"], "region 3 needs a map of labels; give one with --regions"),
        (["--regions", "map.png"], "has no region with a prompt"),
        (["--regions", "map.png", "--region", "a wood"], 'region \'a wood\' is not LABEL=PROMPT; write it like 3='),
        (["--regions", "map.png", "--region", "=a wood"], "is not LABEL=PROMPT"),
        (["--regions", "map.png", "--region", "3="], "region 3 has no prompt; say in words"),
        (["--regions", "map.png", "--region", "3=  "], "region 3 has no prompt"),
        (["--regions", "map.png", "--region", "3=a", "--region", "3=b"], "region 3 is given 2 times"),
        (["--regions", "map.png", "--region", "7=a"], "no pixel of"),
        (["--regions", "map.png", "--region", "7=a"], "it has 0, 3, 4, 9"),
        (["--regions", "map.png", "--region", "lake=a"], "region 'lake' is no label of"),
        (["--regions", "map.png", "--region", "#ff0000=a"], "region #ff0000 is a colour"),
        (["--regions", "absent.png", "--region", "3=a"], "absent.png does not exist"),
        (["--regions", "notes.png", "--region", "3=a"], "notes.png"),
        (["--regions", "broken.geojson"], "broken.geojson is not JSON (line 1, column"),
        (["--regions", "mute.geojson"], 'mute.geojson: feature 1 has no prompt; give it the property "prompt"'),
        (["--regions", "far.geojson"], "feature 1 lies outside the picture: it reaches from x 900 to 950"),
        (["--regions", "flat.geojson"], "feature 1 has a ring of 2 points; a ring needs at least 3"),
        (["--regions", "heavy.geojson"], "feature 1 has the weight 3; give a number from 0 to 1"),
        (["--regions", "odd.geojson"], "feature 1 has the point [10, 'x']"),
        (["--regions", "point.geojson"], "feature 1 is a Point; give a Polygon or a MultiPolygon"),
        (["--regions", "list.geojson"], "list.geojson is not GeoJSON"),
        (["--regions", "none.geojson"], "none.geojson has no features"),
        (["--regions", "absent.geojson"], "absent.geojson does not exist"),
        (["--regions", "shapes.geojson", "--region", "3=a"], "has shapes; a shape's prompt is its property"),
        (["--region-box", "a barn"], "is not X,Y,W,H=PROMPT"),
        (["--region-box", "1,2,3=a barn"], "region-box 1,2,3 is not X,Y,W,H: four numbers"),
        (["--region-box", "1,2,x,4=a barn"], "is not X,Y,W,H: four numbers"),
        (["--region-box", "1,2,0,4=a barn"], "region-box 1,2,0,4 is empty"),
        (["--region-box", "1,2,9,-4=a barn"], "is empty"),
        (["--region-box", "1,2,9,4="], "region-box 1,2,9,4 has no prompt"),
        (["--region-box", "90,0,20,10=a barn"], "lies outside the picture: it reaches from x 90 to 110"),
        (["--region-box", "-5,0,20,10=a barn"], "lies outside the picture: it reaches from x -5"),
        (["--region-box", "0,50%,50%,60%=a barn"], "lies outside the picture: it reaches from y 32 to 70.4"),
        (["--region-feather", "9"], "region-feather needs regions"),
        (["--region-box", "0,0,9,9=a", "--region-feather", "-3"], "region_feather -3 is out of range"),
        (["--region-box", "0,0,9,9=a", "--region-feather", "soft"], "region_feather 'soft' cannot be used"),
        (["--region-box", "0,0,9,9=a", "--region-feather", "99999"], str(MOST_FEATHER)),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line_and_exit_code_2(flags: list[str], words: str, inputs: Path) -> None:
    before = sorted(inputs.iterdir())
    result = call("generate", "a meadow", "--model", "model", *SMALL, *flags, "--out", "job")
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in one_line(result)
    assert sorted(inputs.iterdir()) == before


@pytest.mark.parametrize(
    "flags", [["--region-box", "0,0,9,9=a"], ["--regions", "map.png", "--region", "3=sand"]]
)
def test_class_map_models_take_no_regions(flags: list[str], inputs: Path) -> None:
    result = call("generate", "desert", *SMALL, *flags, "--out", "job")
    assert result.exit_code == 2
    assert "paint a map of its classes and give it with --classes" in one_line(result)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"region": 5}, "region '5' is neither a list nor a mapping"),
        ({"region": {3: 5}}, "region 3 has the prompt 5; it must be words"),
        ({"region": {3: {"prompt": "a", "strength": 1}}}, "region 3 has an unknown setting strength"),
        ({"region": [{"prompt": "a"}, {"x": 1, "y": 2}]}, "is not LABEL=PROMPT"),
        ({"region_box": [{"box": "0,0,9,9", "prompt": "a", "weight": 0}]}, "has the weight 0 and would not show"),
        ({"region_box": [{"box": "0,0,9,9", "prompt": "a", "feather": -1}]}, "has the feather -1; give a number"),
        ({"region_box": [{"box": "0,0,9,9", "prompt": "a", "weight": "much"}]}, "has the weight much"),
    ],
)  # fmt: skip
def test_what_yaml_gets_wrong(fields: dict[str, Any], words: str, inputs: Path) -> None:
    with pytest.raises(SpecError, match="^[^\n]+$") as refused:
        job_of(inputs, **{"regions": "map.png", **fields})
    assert words in str(refused.value)


def test_more_regions_than_labels_can_tell_are_refused(inputs: Path) -> None:
    boxes = [f"0,0,9,9=number {number}" for number in range(254)]
    assert job_of(inputs, region_box=boxes[:-1]).regions is not None
    with pytest.raises(SpecError, match="254 regions with different prompts or settings; at most 253"):
        job_of(inputs, region_box=boxes)


# --- ways to say the same --------------------------------------------------------------------------------------------


def test_flags_yaml_and_the_saved_job_are_one(inputs: Path) -> None:
    given = {
        "prompt": "a meadow", "size": "96x64", "model": "model", "regions": Path("map.png"),
        "region": ["3=dense pine forest", " 4 = a lake = deep "], "region_box": ["10%, 20%, 30%,40%=a red barn"],
        "region_feather": "24", "out": Path("job"),
    }  # fmt: skip
    flags = SpecFlags(given).spec()
    written = {
        "prompt": "a meadow", "size": "96x64", "model": "model", "regions": "map.png",
        "region": {3: "dense pine forest", 4: {"prompt": "a lake = deep"}},
        "region_box": [{"10%,20%,30%,40%": "a red barn"}], "region-feather": 24, "out": "job",
    }  # fmt: skip
    (inputs / "spec.yaml").write_text(yaml.safe_dump(written))
    assert SpecFlags({"config": Path("spec.yaml")}).spec() == flags
    assert JobSpec(**json.loads(flags.model_dump_json())) == flags
    assert [(region.label, region.prompt) for region in flags.region] == [
        ("3", "dense pine forest"),
        ("4", "a lake = deep"),
    ]


def test_names_and_colours_are_labels_too(inputs: Path) -> None:
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[:, 4:] = (255, 0, 16)
    Image.fromarray(colours).save("colours.png")
    job = job_of(inputs, regions="colours.png", region={"#FF0010": "a wood"})
    assert job.regions is not None
    assert job.regions.map.read(Box(0, 1, 0, 48))[0].tolist() == [0] * 24 + [1] * 24
    with pytest.raises(
        SpecError, match="region #00ff00: no pixel of .* has that label; it has #000000, #ff0010"
    ):
        job_of(inputs, regions="colours.png", region={"#00ff00": "a wood"})


def test_maps_in_any_file_lie_alike(inputs: Path) -> None:
    labels = np.asarray(Image.open("map.png"))
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite("map.tif", labels.astype(np.uint16) + 1000, tile=(16, 16))
    zarr.create_array("map.zarr", data=labels.astype(np.int32), chunks=(16, 32))
    whole = Box(0, 32, 0, 48)
    fields: dict[str, dict[str, Any]] = {
        "png": {"regions": "map.png", "region": {3: "a wood", 9: "a tower"}},
        "tiff": {"regions": "map.tif", "region": {1003: "a wood", 1009: "a tower"}},
        "zarr": {"regions": "map.zarr", "region": {3: "a wood", 9: "a tower"}},
    }
    jobs = [job_of(inputs, **given) for given in fields.values()]
    ids = [job.regions.map.read(whole) for job in jobs if job.regions is not None]
    assert len(np.unique(ids[0])) == 3
    assert np.array_equal(ids[0], ids[1]) and np.array_equal(ids[0], ids[2])
    assert len({job.fingerprint for job in jobs}) == 3


def test_a_damaged_map_is_one_line(inputs: Path) -> None:
    content = Path("map.png").read_bytes()
    Path("map.png").write_bytes(content[: len(content) - 30])
    result = call(
        "generate",
        "a",
        "--model",
        "model",
        *SMALL,
        "--regions",
        "map.png",
        "--region",
        "3=a wood",
        "--out",
        "job",
    )
    assert result.exit_code == 2
    assert "map.png" in one_line(result)


def test_a_job_is_sent_without_what_it_read(inputs: Path) -> None:
    label_map(inputs / "large.png", np.random.default_rng(0).integers(0, 5, (500, 500)))
    job = job_of(inputs, regions="large.png", region={3: "a wood"})
    assert job.regions is not None
    before = job.regions.map.read(Box(0, 32, 0, 48))
    sent = pickle.dumps(job)
    assert len(sent) < 10_000
    there = pickle.loads(sent).regions
    assert there == job.regions and np.array_equal(there.map.read(Box(0, 32, 0, 48)), before)


def test_the_fingerprint_knows_all_that_shows_and_no_path(inputs: Path) -> None:
    plain = job_of(inputs)
    first = job_of(inputs, regions="map.png", region={3: "a wood"})
    shutil.copy("map.png", "copy.png")
    assert job_of(inputs, regions="copy.png", region=["3=a wood"]).fingerprint == first.fingerprint
    label_map(Path("copy.png"), np.full((4, 4), 3))
    others = [
        plain,
        first,
        job_of(inputs, regions="copy.png", region={3: "a wood"}),
        job_of(inputs, regions="map.png", region={3: "a lake"}),
        job_of(inputs, regions="map.png", region={4: "a wood"}),
        job_of(inputs, regions="map.png", region={3: {"prompt": "a wood", "weight": 0.5}}),
        job_of(inputs, regions="map.png", region={3: "a wood"}, region_feather=8),
        job_of(inputs, regions="map.png", region={3: "a wood"}, region_box=["0,0,9,9=a barn"]),
        job_of(inputs, region_box=["0,0,9,9=a barn"]),
        job_of(inputs, region_box=["0,0,9,8=a barn"]),
        job_of(inputs, regions="shapes.geojson"),
    ]
    assert len({job.fingerprint for job in others}) == len(others)
    assert not {name for name in picture_facts(plain.spec) if "region" in name}


def test_shapes_with_holes_and_settings_of_their_own(inputs: Path) -> None:
    outer, hole = [[8, 8], [88, 8], [88, 56], [8, 56]], [[32, 24], [64, 24], [64, 40], [32, 40]]
    shapes(
        inputs / "two.geojson",
        ({"prompt": "a lake", "feather": 8, "id": 3}, [outer, hole]),
        ({"prompt": "an isle", "weight": 0.5, "negative_prompt": "fog"}, [[[80, 40], [95, 40], [95, 63]]]),
    )
    job = job_of(inputs, regions="two.geojson", region_feather=4)
    assert job.regions is not None
    ids = job.regions.map.read(job.plan.canvas.box)
    assert (ids[5, 20], ids[16, 24], ids[1, 1], ids[22, 45]) == (1, 0, 0, 2)
    regions = job.regions.regions.regions
    assert [(region.blend, region.strength, region.null) for region in regions] == [
        (2, 1.0, 0),
        (3, 1.0, 0),
        (2, 0.5, 2),
    ]


# --- whole jobs ------------------------------------------------------------------------------------------------------


def latents_in(folder: Path) -> Any:
    return ArrayStore(folder).read(LATENTS, (slice(None),) * 3)


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", "flux-schnell"])
def test_every_text_model_takes_regions(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """One region over all is the plain prompt; half a region, hard, is each prompt's own picture in its half."""
    common: dict[str, Any] = {
        "model": str(folders[name]), "num_inference_steps": 1, "device": "cpu", "executor": "in-process",
        "width": 96, "height": 64, "batch_size": 3, "tile": 64, "outputs": ("deep-zoom",), "preview_every": 0,
        "scheduler": None if name in ("sd3", "flux-schnell") else "ddim",
    }  # fmt: skip
    asked: dict[str, dict[str, Any]] = {
        "plain": {"prompt": "a red brick wall"},
        "whole": {"prompt": "a lake", "region_box": {"0,0,100%,100%": "a red brick wall"}},
        "half": {"prompt": "a lake", "region_box": {"50%,0,50%,100%": "a red brick wall"}},
        "lake": {"prompt": "a lake"},
    }
    for place, fields in asked.items():
        generate(out=tmp_path / place, **fields, **common)
    plain, whole, half, lake = (latents_in(tmp_path / place)[:, :32, :48] for place in asked)
    assert np.array_equal(plain, whole)
    assert not np.array_equal(lake[:, :, 24:], plain[:, :, 24:])
    assert np.array_equal(half[:, :, :24], lake[:, :, :24])
    assert np.array_equal(half[:, :, 24:], plain[:, :, 24:])


def test_a_job_with_regions_is_planned_made_resumed_and_shown(inputs: Path) -> None:
    regions = ["--regions", "map.png", "--region", "3=dense pine <forest>", "--region", "4=a lake"]
    regions += ["--region-box", "10%,20%,30%,40%=a red barn", "--region-feather", "16"]
    arguments = ["a meadow", "--model", "model", *SMALL, *regions, "--out", "job"]
    plan = json.loads(call("plan", *arguments, "--no-calibrate", "--json").stdout)
    assert plan["evaluations"] > 2 * plan["patches"] and plan["evaluations_exact"]
    assert (
        "about"
        not in call("plan", *arguments, "--no-calibrate").stdout.split("evaluations")[1].split("\n")[0]
    )
    made = call("generate", *arguments)
    assert made.exit_code == 0, made.stderr
    assert list(description_in(inputs / "job")["classes"]["names"]) == [
        "a meadow", "dense pine <forest>", "a lake", "a red barn",
    ]  # fmt: skip
    assert str(inputs) not in (inputs / "job" / "index.html").read_text()
    again = call("generate", *arguments, "--resume")
    assert again.exit_code == 0, again.stderr
    other = call("generate", *arguments, "--resume", "--region-feather", "0")
    assert other.exit_code == 2 and "other region_feather" in one_line(other)
    (inputs / "elsewhere").mkdir()
    assert continuing.continued(inputs / "job", None, None).regions is not None
    label_map(inputs / "map.png", np.array([[3, 4], [4, 3]]))
    assert call("resume", "job").exit_code == 0  # the job has a copy
    changed = call("generate", *arguments, "--resume")
    assert changed.exit_code == 2 and "other regions)" in one_line(changed)
    (copy,) = (inputs / "job" / "inputs").iterdir()
    label_map(copy, np.array([[3, 4], [4, 3]]))
    changed = call("resume", "job")
    assert changed.exit_code == 2 and f"regions {copy} is missing or damaged" in one_line(changed)


def test_an_interrupted_job_goes_on_from_another_folder(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(event: Any) -> None:
        if type(event).__name__ == "TaskDone":
            raise KeyboardInterrupt

    fields: dict[str, Any] = {
        "prompt": "a meadow", "model": str((inputs / "model").resolve()), "regions": "map.png", "region": {3: "a wood"},
        "region_feather": 8, "num_inference_steps": 1, "device": "cpu", "executor": "in-process", **SIZE,
    }  # fmt: skip
    with pytest.raises(Interrupted):
        generate(out=inputs / "job", on_event=stop, **fields)
    assert api.status(inputs / "job").state == "interrupted"
    monkeypatch.chdir(inputs.parent)
    api.resume(inputs / "job")
    monkeypatch.chdir(inputs)
    generate(out=inputs / "straight", **fields)
    assert np.array_equal(latents_in(inputs / "job"), latents_in(inputs / "straight"))


def test_pictures_of_a_batch_have_the_regions_of_its_settings(inputs: Path) -> None:
    fields: dict[str, Any] = {
        "model": "model", "num_inference_steps": 1, "executor": "in-process", "device": "cpu", "scheduler": "ddim",
        "regions": "map.png", "region": {3: "a wood"}, "region_box": ["10%,20%,30%,40%=a barn"], "region_feather": 8,
    }  # fmt: skip
    rows = [
        {"id": str(seed), "prompt": "a meadow", "seed": seed, "width": width, "height": 64}
        for seed, width in ((3, 96), (4, 64))
    ]
    made = batch(rows, out=inputs / "set", **fields)
    assert (made.summary.drawn, made.summary.failed) == (2, 0)
    generate(prompt="a meadow", seed=3, width=96, height=64, out=inputs / "one", **fields)
    alone = zarr.open_group(inputs / "one" / "image.zarr", mode="r")["0"][:]
    assert np.array_equal(array_of(table_in(made.folder)[0]["image"]), np.moveaxis(np.asarray(alone), 0, -1))
    with pytest.raises(SpecError, match="row 2.*region-box 70,0,20,20 lies outside the picture"):
        batch(rows, out=inputs / "other", **{**fields, "region_box": ["70,0,20,20=a barn"]})
