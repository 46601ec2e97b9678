"""Model folders whose files are whole JSON or safetensors, and say something else than a model's do."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tiny_class_models import build_class_map
from tiny_models import build_lora
from typer.testing import CliRunner

from cluster.commands.app import app
from cluster.jobs.job import prepare
from cluster.spec.fields import JobSpec
from generation.models.errors import ModelError
from generation.models.loading import describe, load

Change = Callable[[Any], Any]
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_class_map(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def change(file: Path, by: Change) -> None:
    file.write_text(json.dumps(by(json.loads(file.read_text()))))


def with_value(**values: Any) -> Change:
    return lambda table: table | values


def line_of(error: ModelError) -> str:
    assert "\n" not in str(error)
    return str(error)


HEADERS = [
    b"[]", b'{"x": 3}', b'{"x": {}}', b'{"x": {"dtype": "F32", "shape": 4, "data_offsets": [0, 4]}}',
    b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": []}}',
]  # fmt: skip


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_that_is_no_table_of_tensors(header: bytes, model: Path) -> None:
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    for act in (describe, load):
        with pytest.raises(ModelError) as caught:
            act(str(model))
        assert f"{file} is not a whole safetensors file" in line_of(caught.value)


@pytest.mark.parametrize("name", ["classes.json", "model_index.json", "unet/config.json", SCHEDULER])
def test_json_that_is_no_object(name: str, model: Path) -> None:
    (model / name).write_text("[]")
    with pytest.raises(ModelError) as caught:
        describe(str(model))
    assert str(model / name) in line_of(caught.value)
    assert "JSON object" in line_of(caught.value)


@pytest.mark.parametrize(
    ("name", "by", "words"),
    [
        ("classes.json", with_value(classes=5), "cannot be used"),
        ("classes.json", with_value(classes=["sea", "sand", "wood"]), "cannot be used"),
        ("classes.json", with_value(guidance_scale=[]), "cannot be used"),
        ("classes.json", with_value(num_inference_steps=0), "0 as its num_inference_steps"),
        ("classes.json", with_value(classes=[{"name": 1}, {"name": 2}, {"name": 3}]), "1 as its class 0"),
        ("classes.json", with_value(classes=None, names=None), "cannot be used"),
        ("unet/config.json", with_value(sample_size=None), "cannot be used"),
        ("unet/config.json", with_value(sample_size="large"), "as its patch"),
        ("unet/config.json", with_value(in_channels="7"), "unet reads 7 channels"),
        ("unet/config.json", with_value(down_block_types=3), "cannot be used"),
        ("vae/config.json", with_value(latent_channels="4"), "cannot be used"),
        ("vae/config.json", with_value(num_decoder_blocks=[[], 1]), "cannot be used"),
        ("vae/config.json", with_value(_class_name=["AutoencoderTiny"]), "not supported"),
        (SCHEDULER, with_value(_class_name=None), "None as its _class_name"),
    ],
)
def test_values_of_another_kind(name: str, by: Change, words: str, model: Path) -> None:
    change(model / name, by)
    with pytest.raises(ModelError) as caught:
        describe(str(model))
    assert words in line_of(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"num_train_timesteps": "many"}, {"beta_start": "low"}, {"beta_schedule": "steep"}, {"beta_end": None},
        {"num_train_timesteps": 0}, {"trained_betas": 5}, {"solver_order": "second"},
    ],
)  # fmt: skip
def test_a_scheduler_that_cannot_be_built(values: dict[str, Any], model: Path, tmp_path: Path) -> None:
    change(model / SCHEDULER, with_value(**values))
    spec = JobSpec(prompt="sea", model=str(model), width=64, height=64, device="cpu", out=tmp_path / "out")
    with pytest.raises(ModelError, match=r"scheduler_config\.json of model") as caught:
        prepare(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["classes.json", SCHEDULER])
def test_on_the_command_line_it_is_wrong_use(name: str, model: Path, tmp_path: Path) -> None:
    change(model / name, lambda table: {**table, "classes": 5, "beta_start": "low"})
    result = CliRunner().invoke(
        app, ["generate", "sea", "--model", str(model), "--out", str(tmp_path / "out"), "--size", "64x64"]
    )
    assert result.exit_code == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_pickled_file_is_told_where_its_configuration_belongs(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """What the refusal says can be done, and does then help."""
    file = tmp_path / "m.ckpt"
    file.write_bytes(b"x")
    with pytest.raises(ModelError, match=f"at {tmp_path / 'm'}, or convert"):
        describe(str(file), allow_pickle=True)
    shutil.copytree(folders["sd1"], tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors"))
    assert describe(str(file), allow_pickle=True).family == "stable_diffusion"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("text_encoder/config.json", {"hidden_size": "large"}),
        ("text_encoder/config.json", {"hidden_act": "steep"}),
        ("unet/config.json", {"block_out_channels": [-32, -64]}),
        ("unet/config.json", {"norm_num_groups": 0}),
        ("model_index.json", {"text_encoder": ["transformers", "Nothing"]}),
        ("model_index.json", {"text_encoder": ["transformers"]}),
    ],
)
def test_networks_that_cannot_be_built(
    name: str, values: dict[str, Any], folders: dict[str, Path], tmp_path: Path
) -> None:
    """They are built when a model is described with LoRAs, and when it is loaded."""
    folder = Path(shutil.copytree(folders["sd1"], tmp_path / "model"))
    lora = build_lora(folders["sd1"], tmp_path, "unet")
    change(folder / name, with_value(**values))
    with pytest.raises(ModelError) as caught:
        describe(str(folder), loras=[str(lora)])
    assert str(folder) in line_of(caught.value)
    with pytest.raises(ModelError) as caught:
        load(str(folder))
    assert str(folder) in line_of(caught.value)


@pytest.mark.parametrize(
    "settings", [[], {"unet.alpha_pattern": {"(": 2}}, {"unet.lora_alpha": "much"}, {"unet.alpha_pattern": 3}]
)
def test_adapters_whose_settings_are_of_another_kind(
    settings: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    lora = build_lora(folders["sd1"], tmp_path, "unet")
    save_file(load_file(lora), lora, metadata={"lora_adapter_metadata": json.dumps(settings)})
    with pytest.raises(ModelError) as caught:
        describe(str(folders["sd1"]), loras=[str(lora)])
    assert line_of(caught.value).startswith(f"{lora} cannot be used as a LoRA: ")
