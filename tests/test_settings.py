"""One description of a setting: what follows from it, and that identities are what they were before it was one."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import pyarrow as pa
import pytest
from pydantic import BaseModel

from cluster.commands import making
from cluster.commands.batching import batch
from cluster.commands.flags import SpecFlags
from cluster.datasets.checking import identity_of
from cluster.datasets.columns import SCALARS
from cluster.datasets.plan import CheckedRequest
from cluster.spec import facts
from cluster.spec.fields import ALIASES, SETTINGS, JobSpec
from cluster.spec.identity import picture_facts
from cluster.spec.keywords import SpecFields
from cluster.spec.settings import GROUPS, Setting, flags_of, settings_of
from storage.fingerprint import fingerprint

ROOT = Path(__file__).parents[1]
GOOD: dict[str, Any] = {"prompt": "islands", "width": 96, "height": 64, "out": "o"}

# --- one description -------------------------------------------------------------------------------------------------


def test_every_setting_is_described_once() -> None:
    assert list(SETTINGS) == list(JobSpec.model_fields)
    with pytest.raises(TypeError, match="Bare.grain has 0 Settings"):
        settings_of(type("Bare", (BaseModel,), {"__annotations__": {"grain": float}}))
    twice = Annotated[float, Setting("One."), Setting("Two.")]
    with pytest.raises(TypeError, match="Twice.grain has 2 Settings"):
        settings_of(type("Twice", (BaseModel,), {"__annotations__": {"grain": twice}}))


@pytest.mark.parametrize("name", SETTINGS)
def test_descriptions_are_sentences_that_fit(name: str) -> None:
    setting = SETTINGS[name]
    assert setting.help.endswith((".", ").")) and "\n" not in setting.help
    assert setting.group in (*GROUPS, None)
    assert not setting.column or pa.type_for_alias(setting.column)
    assert (setting.input is None) == (
        Path not in getattr(JobSpec.model_fields[name].annotation, "__args__", ())
    )


def test_help_of_the_class_tells_all_fields() -> None:
    lines = (JobSpec.__doc__ or "").splitlines()
    assert "    tile: Side of a tile in pixels (default: 512)." in lines
    assert {line.strip().partition(":")[0] for line in lines} > set(SETTINGS)


def test_groups_stand_together() -> None:
    """So that --help shows them in one order, whatever the command."""
    groups = [setting.group for setting in SETTINGS.values() if setting.group is not None]
    assert groups == sorted(groups, key=GROUPS.index)


def test_no_name_means_two_settings() -> None:
    flags = [flag for name, setting in SETTINGS.items() for flag in flags_of(name, setting)]
    assert len(flags) == len(set(flags))
    assert not set(ALIASES) & set(SETTINGS)


def test_flags_are_the_fields() -> None:
    shown = set(inspect.signature(making.plan).parameters)
    assert shown - {"context", "size", "config", "as_json", "calibrate", "debug"} == set(SETTINGS) - {
        "commits"
    }
    of_batch = set(inspect.signature(batch).parameters)
    absent = {"commits", "classes", "block", "preview_every", "outputs", "tile", "tile_format"}
    assert set(SETTINGS) - of_batch == absent


def test_names_of_flags_are_names_in_files(tmp_path: Path) -> None:
    config = tmp_path / "spec.yaml"
    config.write_text("label: ice\nlora: a\noutput: deep-zoom\nimage-size: 64\nsampling-steps: 3\n")
    spec = SpecFlags({"config": config}).spec()
    assert (spec.prompt, spec.loras, spec.outputs, spec.width, spec.num_inference_steps) == (
        "ice", ("a",), ("deep-zoom",), 64, 3,
    )  # fmt: skip


def test_keyword_arguments_are_the_fields_with_their_types() -> None:
    """mypy reads no program that would make SpecFields, so it is written out."""
    fields, keywords = get_type_hints(JobSpec), get_type_hints(SpecFields)
    fields = {name: fields[name] for name in JobSpec.model_fields}
    assert list(keywords) == list(fields)
    others = {name for name, kind in keywords.items() if kind != fields[name]}
    assert others == {"classes", "class_labels", "regions", "out", "region", "region_box"}
    assert all(keywords[name] == fields[name] | str for name in others - {"region", "region_box"})


# --- identity --------------------------------------------------------------------------------------------------------

AS_EVER: list[tuple[dict[str, Any], str]] = [
    ({}, "e63173022578ab6c"),
    ({"prompt": "desert", "negative_prompt": "blur", "seed": 18446744073709551615}, "54a0435e54f0ae54"),
    (
        {"width": 4096, "height": 2048, "topology": "ring", "method": "hann", "overlap": 0.25},
        "0ac962fa930a0f42",
    ),
    ({"overlap": 0.25}, "e63173022578ab6c"),
    ({"method": "random-patch", "blend_last": 0, "decode": "four-shift"}, "2bcb21b54ff84b9f"),
    ({"method": "gaussian", "overlap": 0, "blend_last": 3}, "6b42d1c46bf1bb11"),
    ({"scheduler": "euler", "num_inference_steps": 30, "guidance_scale": 7, "eta": 0.5}, "c28d476af6e8c0a6"),
    ({"cond_scale": 0, "guidance_scale": 1}, "ea818ca28f430626"),
    ({"cond_scale": 3}, "e63173022578ab6c"),
    (
        {
            "loras": ("a/one.safetensors", "two:0.5"),
            "allow_pickle": True,
            "model": "org/name",
            "vae": "other",
        },
        "6db9f8de39c24997",
    ),
    (
        {"prediction_type": "v_prediction", "rescale_zero_snr": False, "timestep_spacing": "trailing"},
        "1ffab3e97f1519b5",
    ),
    ({"rescale_zero_snr": True}, "fc389860e9dd120a"),
    ({"classes": "map", "clean_map": 6}, "b4d84ad327669cc6"),
    ({"classes": "map", "class_labels": "labels"}, "e05f076cc74eadb5"),
    (
        {
            "regions": "map",
            "region": {3: "pines", "#ff0000": {"prompt": "sea", "weight": 0.5}},
            "region_feather": 64,
        },
        "47e22286ab5b3fea",
    ),
    (
        {
            "region_box": [
                "10%,20%,30%,40%=a barn",
                {"box": "1,2,3,4", "prompt": "x", "negative_prompt": "y", "feather": 2},
            ]
        },
        "89328df672941f16",
    ),
    ({"region": ["3=pines"]}, "e63173022578ab6c"),
    ({"region_feather": 8}, "e63173022578ab6c"),
    ({"dtype": "bfloat16", "device": "cuda", "batch_size": 16, "threads": 3}, "f8e2ae209a0e7285"),
    ({"outputs": "deep-zoom", "tile": 256, "tile_format": "webp"}, "23a25340abff4341"),
    (
        {
            "block": 256,
            "executor": "in-process",
            "workers": 4,
            "preview_every": 0,
            "commits": {"a": "b"},
            "config_from": "x",
        },
        "e63173022578ab6c",
    ),
    ({"clean_map": 0, "decode": "hann", "negative_prompt": ""}, "e63173022578ab6c"),
]
"""Settings, and the first half of their facts' fingerprint, as picture version 5 has had it."""


@pytest.mark.parametrize(("fields", "known"), AS_EVER)
def test_identities_are_what_they_were(fields: dict[str, Any], known: str, tmp_path: Path) -> None:
    (tmp_path / "map").write_bytes(b"a map")
    (tmp_path / "labels").write_bytes(b"its labels")
    files = {"classes", "class_labels", "regions"} & set(fields)
    spec = JobSpec(**{**GOOD, **fields, **{name: tmp_path / fields[name] for name in files}})
    assert fingerprint(picture_facts(spec))[:16] == known


def test_identities_of_rows_are_what_they_were() -> None:
    row = {
        "index": 3, "id": "c", "prompt": "ice", "negative_prompt": "", "seed": 2**64 - 1, "width": 64, "height": 32,
        "guidance_scale": 1.5, "num_inference_steps": 4, "classes": "/maps/a.png", "classes_hash": "c0ffee",
        "giant": False, "patches": 2,
    }  # fmt: skip
    known = {name: value for name, value in row.items() if name != "classes_hash"} | {"classes": "c0ffee"}
    assert identity_of(CheckedRequest.of(row)) == known
    assert CheckedRequest.of(row).row() == row


def test_columns_of_shards_stand_as_they_stood() -> None:
    assert list(SCALARS) == [
        "prompt", "negative_prompt", "seed", "width", "height", "num_inference_steps", "guidance_scale", "fingerprint",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if setting.fact is facts.never])
def test_what_changes_no_pixel_belongs_to_no_column_and_no_page(name: str) -> None:
    assert not SETTINGS[name].column and not SETTINGS[name].page


# --- a setting that is made up ---------------------------------------------------------------------------------------

GRAIN = """    grain: Annotated[float, Field(ge=0), Setting(
        "Grain of the film (default: {default}).", aliases=("iso",), metavar="X", hint="0 is none", column="double",
        page="grain",
    )] = 0.0
"""
USES = """
import json, sys
from pathlib import Path
from typer.testing import CliRunner
from cluster.commands.app import app
from cluster.commands.flags import SpecFlags
from cluster.datasets.columns import table_schema
from cluster.datasets.entry import plan_batch, table_of
from cluster.engine.outputs import about
from cluster.spec import job_file
from cluster.spec.fields import JobSpec, SpecError
from cluster.spec.identity import picture_facts
from storage.fingerprint import fingerprint

def refused(**fields):
    try:
        JobSpec(prompt="islands", width=96, height=64, out="o", **fields)
    except SpecError as error:
        return str(error)

Path("spec.yaml").write_text("prompt: islands\\nwidth: 96\\nheight: 64\\nout: o\\niso: 2\\n")
of_file, of_flag = (SpecFlags({"config": Path("spec.yaml"), **flags}).spec() for flags in ({}, {"grain": "0"}))
job_file.save(of_file, "f00d")

def planned(**columns):
    rows = [{"id": "a", "prompt": "ice", "width": 64, "height": 64, **columns}]
    return plan_batch(table_of(rows, None), {"out": "b", "device": "cpu", "executor": "in-process"})[0]

print(json.dumps({
    "help": {name: CliRunner().invoke(app, [name, "--help"]).stdout for name in ("generate", "plan", "batch")},
    "of_file": of_file.grain, "of_flag": of_flag.grain, "kept": job_file.load(Path("o")).spec.grain,
    "out_of_range": refused(grain=-1), "unknown": refused(grian=1),
    "facts": picture_facts(of_file), "without": fingerprint(picture_facts(of_flag)),
    "page": about(of_file, "f00d")["grain"],
    "columns": [planned(**columns).fingerprint for columns in ({}, {"grain": 0}, {"iso": "2"}, {"grain": 3.0})],
    "shards": str(table_schema(planned()).field("grain").type),
}))
"""


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a copy of the program says whose JobSpec has one more field, and which is changed nowhere else."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "cluster", folder / "cluster", ignore=shutil.ignore_patterns("__pycache__"))
    fields = folder / "cluster" / "spec" / "fields.py"
    before, seed, after = fields.read_text().partition("    seed: Annotated[")
    fields.write_text(before + GRAIN + seed + after)
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "COLUMNS": "80"}
    command = [sys.executable, "-c", USES]
    told = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


@pytest.mark.parametrize(
    ("command", "group"), [("generate", "Picture"), ("plan", "Picture"), ("batch", "Requests")]
)
def test_it_is_a_flag(made_up: Any, command: str, group: str) -> None:
    section = made_up["help"][command].partition(f"\n{group}:\n")[2].partition("\n\n")[0]
    assert "  --grain, --iso X            Grain of the film (default: 0)." in section.splitlines()


def test_it_is_read_from_flags_and_files(made_up: Any) -> None:
    assert (made_up["of_file"], made_up["of_flag"], made_up["kept"], made_up["page"]) == (2, 0, 2, 2)


def test_it_has_messages(made_up: Any) -> None:
    assert (
        made_up["out_of_range"]
        == "grain -1 is out of range: it should be greater than or equal to 0; 0 is none"
    )
    assert made_up["unknown"] == "unknown setting grian; did you mean grain?"


def test_it_counts_where_it_is_given_and_older_pictures_stay(made_up: Any) -> None:
    assert made_up["facts"]["grain"] == 2
    assert made_up["without"][:16] == AS_EVER[0][1]


def test_rows_of_a_batch_may_say_it(made_up: Any) -> None:
    unsaid, zero, two, three = made_up["columns"]
    assert unsaid == zero and len({zero, two, three}) == 3
    assert made_up["shards"] == "double"
