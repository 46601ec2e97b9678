"""Where models come from, LoRAs, single files, the hub; and every way a model can be wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models
import torch
from families import (
    assert_near,
    noise,
    predict,
)
from safetensors.torch import load_file, save_file

from generation.models import text_flow, text_unet
from generation.models.contracts import Model
from generation.models.errors import ModelError
from generation.models.loading import describe, load

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
"""diffusers' Euler schedulers hand tensors to np.array, at which NumPy 2 grumbles."""


# --- single files -------------------------------------------------------------------------------------------


def test_single_file_equals_its_folder(
    folders: dict[str, Path], models: dict[str, Model], tmp_path: Path
) -> None:
    """Unaided, diffusers would take any file for the full size: the configuration is given, in both ways."""
    file = tiny_models.build_single_file(folders["sd1"], tmp_path / "tiny.safetensors")
    model = load(str(file), config=str(folders["sd1"]))
    assert model.info == describe(str(file), config=str(folders["sd1"])) and str(file) in model.info.files
    assert_near(predict(model), predict(models["sd1"]))
    latents = noise(model.info, 1)
    assert_near(model.codec.decode(latents), models["sd1"].codec.decode(latents))
    shutil.copytree(folders["sd1"], tmp_path / "tiny", ignore=shutil.ignore_patterns("*.safetensors"))
    beside = load(str(file))
    assert str(tmp_path / "tiny" / "model_index.json") in beside.info.files
    assert_near(predict(beside), predict(models["sd1"]))


def test_single_files_are_told_apart_by_their_tensors() -> None:
    sd1 = {"input_blocks.0.0.weight": [320, 4, 3, 3]}
    attention = "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
    flux = {"double_blocks.0.img_attn.norm.key_norm.scale": [128]}
    sd3 = {"joint_blocks.0.context_block.adaLN_modulation.1.bias": [9216], "pos_embed": [1, 36864, 1536]}
    xl = {"conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": [1280]}
    unets = {"v1-5": sd1, "2-1": {**sd1, attention: [320, 1024]}, "xl-base-1.0": {**sd1, **xl}}
    for end, shapes in unets.items():
        assert str(text_unet.original_repository(shapes)).endswith(end)
    flows = {"schnell": flux, "dev": {**flux, "guidance_in.in_layer.bias": [3072]}, "3-medium-diffusers": sd3}
    for end, shapes in flows.items():
        assert str(text_flow.original_repository(shapes)).endswith(end)
    assert text_unet.original_repository({"input_blocks.0.0.weight": [320, 9, 3, 3]}) is None


# --- the hub ------------------------------------------------------------------------------------------------


def test_hub_models_come_from_the_cache_when_offline(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--tiny--sd1"
    shutil.copytree(folders["sd1"], cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    info = describe("tiny/sd1")
    assert info.notes["commit"] == commit and not any(file.endswith(".safetensors") for file in info.files)
    assert load("tiny/sd1").info == info and info.notes["commits"] == {"tiny/sd1": commit}
    assert describe(f"tiny/sd1@{commit}").files == info.files
    with pytest.raises(ModelError, match=r"unknown model 'tiny/sd1@v2'.*HF_HUB_OFFLINE is set"):
        describe("tiny/sd1@v2")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", Unreachable)
    assert describe("tiny/sd1") == info
    with pytest.raises(ModelError, match=r"not in the hub cache; no route"):
        describe("tiny/other")


class Unreachable:
    """A hub behind a cut cable, whose error is of no class that we know."""

    def model_info(self, repository: str, revision: str | None, files_metadata: bool) -> Any:
        """Never answers."""
        raise LookupError("no route")


class FakeHub:
    """A hub of one repository in a folder, which notes what is fetched from it."""

    def __init__(self, files: Path, cache: Path) -> None:
        self.files, self.cache, self.fetched = files, cache, list[str]()

    def model_info(self, repository: str, revision: str | None, files_metadata: bool) -> Any:
        """The listing, with sizes."""
        paths = sorted(path for path in self.files.rglob("*") if path.is_file())
        names = [path.relative_to(self.files).as_posix() for path in paths]
        files = [
            SimpleNamespace(rfilename=n, size=p.stat().st_size) for n, p in zip(names, paths, strict=True)
        ]
        return SimpleNamespace(sha="c0ffee", siblings=files)

    def snapshot_download(self, repository: str, revision: str, allow_patterns: list[str]) -> str:
        """Some files at once."""
        for name in allow_patterns:
            self.hf_hub_download(repository, name, revision)
        return str(self.cache)

    def hf_hub_download(self, repository: str, name: str, revision: str) -> None:
        """One file."""
        assert (repository, revision) == ("tiny/sd1", "c0ffee")
        (self.cache / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.files / name, self.cache / name)
        self.fetched.append(name)


def test_only_needed_files_are_downloaded(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    files = copied(folders["sd1"], tmp_path / "remote")
    weights = files / "unet" / "diffusion_pytorch_model.safetensors"
    for name in ("fp16.safetensors", "non_ema.safetensors", "bin"):
        shutil.copy(weights, weights.with_name(f"diffusion_pytorch_model.{name}"))
    shutil.copy(weights, files / "v1-5-pruned.safetensors")
    hub = FakeHub(files, tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.hf_hub_download)
    info = describe("tiny/sd1@v2")
    assert info.notes["commit"] == "c0ffee" and all(name.endswith((".json", ".txt")) for name in hub.fetched)
    hub.fetched.clear()
    assert load("tiny/sd1@v2").info == info
    parts = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
    assert {name for name in hub.fetched if "safetensors" in name} == {
        f"{part}/{name}.safetensors" for part, name in parts.items()
    }
    assert not any(name.endswith(".bin") for name in hub.fetched)


@pytest.fixture
def hub(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The tiny Stable Diffusion 1 on a hub."""
    import huggingface_hub
    from huggingface_hub import constants

    hub = FakeHub(folders["sd1"], tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.hf_hub_download)
    return hub


def test_a_repository_supplies_what_a_file_lacks(
    hub: FakeHub, folders: dict[str, Path], models: dict[str, Model], tmp_path: Path
) -> None:
    """Its configuration when the file is described, the missing weights when it is loaded, and no others."""
    file = tiny_models.build_single_file(folders["sd1"], tmp_path / "tiny.safetensors")
    tensors = load_file(file)
    save_file({name: value for name, value in tensors.items() if not name.startswith("cond_")}, file)
    info = describe(str(file), config="tiny/sd1@v2")
    assert info.notes["commit"] == "c0ffee" and not any("safetensors" in name for name in hub.fetched)
    model = load(str(file), config="tiny/sd1@v2")
    assert [name for name in hub.fetched if "safetensors" in name] == ["text_encoder/model.safetensors"]
    assert_near(predict(model), predict(models["sd1"]))


def test_an_autoencoder_comes_from_a_repository(hub: FakeHub, folders: dict[str, Path]) -> None:
    """It is fetched when it is found: what it holds belongs to the identity of a job."""
    info = describe(str(folders["sd1"]), vae="tiny/sd1@v2")
    weights = "vae/diffusion_pytorch_model.safetensors"
    assert [name for name in hub.fetched if "safetensors" in name] == [weights]
    assert {str(hub.cache / weights), str(hub.cache / "vae" / "config.json")} <= set(info.files)


# --- what is refused ----------------------------------------------------------------------------------------


def copied(folder: Path, target: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folder, target))


def test_unknown_models_get_a_suggestion(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="unknown model 'embeded'.*did you mean 'embedded'"):
        describe("embeded")
    with pytest.raises(ModelError, match=f"did you mean '{folders['sdxl']}'"):
        describe(f"{folders['sdxl']}x")
    with pytest.raises(ModelError, match="hub id org/name"):
        load("nothing here")
    with pytest.raises(ModelError, match="dtype 'int8'.*float32, float16, bfloat16"):
        load(str(folders["sd1"]), dtype="int8")


def test_only_what_could_be_a_model_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "paper.txt").touch()
    with pytest.raises(ModelError, match=r"@revision\]$"):
        describe(str(tmp_path / "paper"))
    (tmp_path / "paper.safetensors").touch()
    with pytest.raises(ModelError, match="did you mean '.*paper.safetensors'"):
        describe(str(tmp_path / "paper.safetensor"))


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-100], lambda raw: raw[:20], lambda raw: b"", lambda raw: b"x" * 99]
)
def test_damaged_weights_are_named(
    damage: Callable[[bytes], bytes], folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["sd3"], tmp_path / "damaged")
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    for act in (describe, load):
        with pytest.raises(ModelError, match=f"{file} is not a whole safetensors file") as caught:
            act(str(folder))
        assert "\n" not in str(caught.value)


def test_damaged_configuration_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["sd1"], tmp_path / "damaged")
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"unet/config.json is not JSON \(line 1"):
        describe(str(folder))
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"vae holds no weights"):
        describe(str(folder))
    (folder / "model_index.json").unlink()
    with pytest.raises(ModelError) as caught:
        describe(str(folder))
    index = folder / "model_index.json"
    assert str(caught.value) == f"{index} is missing: the folder is not a model in diffusers' layout"
    index.mkdir()
    with pytest.raises(ModelError) as caught:
        describe(str(folder))
    assert str(caught.value) == f"{index} is a folder"


def test_pickles_need_permission(folders: dict[str, Path], models: dict[str, Model], tmp_path: Path) -> None:
    folder = copied(folders["sd1"], tmp_path / "pickled")
    safe = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(safe), safe.with_suffix(".bin"))
    safe.unlink()
    for act in (describe, load):
        with pytest.raises(ModelError, match=r"diffusion_pytorch_model.bin is pickled"):
            act(str(folder))
    assert torch.equal(predict(load(str(folder), allow_pickle=True)), predict(models["sd1"]))
    (tmp_path / "old.ckpt").write_bytes(b"x")
    with pytest.raises(ModelError, match="is pickled"):
        describe(str(tmp_path / "old.ckpt"), config=str(folders["sd1"]))


def test_other_pipelines_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["sd1"], tmp_path / "other")
    index = folder / "model_index.json"
    parts = json.loads(index.read_text()) | {"image_processor": ["transformers", "CLIPImageProcessor"]}
    index.write_text(json.dumps({**parts, "_class_name": "KandinskyPipeline"}))
    with pytest.raises(ModelError, match=r"'KandinskyPipeline' .* StableDiffusionXLPipeline.*FluxPipeline"):
        describe(str(folder))
    shutil.copy(folders["sd1"] / "model_index.json", index)
    unet = folder / "unet" / "config.json"
    unet.write_text(json.dumps({**json.loads(unet.read_text()), "in_channels": 9}))
    with pytest.raises(ModelError, match="not a text-to-image model: its unet reads 9 channels"):
        describe(str(folder))


def test_convolutions_on_gpus_are_asked_to_repeat_themselves(folders: dict[str, Path], monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    load(str(folders["sd1"]))
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
