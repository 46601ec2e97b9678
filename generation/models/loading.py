"""Where models are and which family each belongs to: names -> sources -> ModelInfo or Model. Knows no tensor.

    "embedded"          the folder that ships with the package; "embedded/fast", a model inside it
    a folder            diffusers' layout: model_index.json, unet/ or transformer/, vae/, scheduler/, ...
    a .safetensors file the original layout; its configuration comes from `config`, from a folder of that name
                        beside it, or from the hub repository that diffusers reads for that kind of file
    org/name[@revision] the hub; HF_HOME, HF_HUB_OFFLINE and the token are huggingface_hub's business

`describe` reads configuration and safetensors headers; of a hub model it downloads configuration only. It
imports no torch.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, cast

from generation.models.contracts import Model, ModelInfo
from generation.models.errors import ModelError, first_line
from generation.models.files import read_header
from generation.models.hub import CONFIGURATION, HUB_ID, UNPINNED, download, from_hub, unknown
from generation.models.sources import CLASS_MAP, MAP, PICKLES, TABLES, Source, borrows, folder_source
from generation.models.turns import TURNS

if TYPE_CHECKING:
    import torch

EMBEDDED = Path(__file__).parent / "weights" / "earth"
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}

FAMILIES = {
    CLASS_MAP: "generation.models.embedded",
    MAP: "generation.models.maps",
    "StableDiffusionPipeline": "generation.models.text_unet",
    "LatentConsistencyModelPipeline": "generation.models.text_unet",
    "StableDiffusionXLPipeline": "generation.models.text_unet",
    "StableDiffusion3Pipeline": "generation.models.text_flow",
    "FluxPipeline": "generation.models.text_flow",
}
"""Pipeline class of model_index.json -> module; a folder with a classes.json is a class-map model anyway, one
with a map.json a map model."""

MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError)
"""What reading configuration of another shape than expected raises."""
COUNTS = ("latent_channels", "scale", "patch", "multiple", "tile", "num_inference_steps")
"""Facts of a ModelInfo that are whole numbers from one on."""

LDM = "model.diffusion_model."


class FamilyModule(Protocol):
    """What each module of FAMILIES defines."""

    def describe(self, source: Source) -> ModelInfo:
        """The facts, from the configuration alone."""

    def load(self, source: Source, info: ModelInfo, dtype: torch.dtype, device: torch.device) -> Model:
        """The networks, with the source's LoRAs fused in."""


def describe(
    model: str,
    *,
    revision: str | None = None,
    config: str | None = None,
    loras: Sequence[str] = (),
    allow_pickle: bool = False,
    commits: Mapping[str, str] = UNPINNED,
) -> ModelInfo:
    """The facts about a model, without its weights; raises ModelError.

    commits: name on the hub, of the model or a LoRA as it is given here -> the commit to take it at, as
    notes["commits"] of an earlier description has them; other names are taken as they are on the hub now.
    """
    source = _resolve(model, revision, config, loras, allow_pickle, commits)
    return _describe(source)


def load(
    model: str,
    *,
    revision: str | None = None,
    config: str | None = None,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    loras: Sequence[str] = (),
    allow_pickle: bool = False,
    commits: Mapping[str, str] = UNPINNED,
) -> Model:
    """A model ready to evaluate: the network in `dtype`, the codec in float32; raises ModelError. commits: as above."""
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPE_BYTES:
        raise ModelError(f"dtype {name!r} is not supported; use one of {', '.join(DTYPE_BYTES)}")
    source = _resolve(model, revision, config, loras, allow_pickle, commits)
    info = _describe(source)
    if source.single is None and source.commit:
        download(source, [path for part in source.parts for path in source.weights(part)])
        _check_weights(source)
    return _load(source, info, name, device)


def _load(source: Source, info: ModelInfo, dtype: str, device: str | torch.device) -> Model:
    import torch
    from safetensors import SafetensorError

    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False  # same bytes every time
    try:
        with TURNS.alone():
            return _family(source).load(source, info, getattr(torch, dtype), torch.device(device))
    except ModelError:
        raise
    except (OSError, RuntimeError, ImportError, SafetensorError, *MALFORMED) as error:
        raise ModelError(f"model {source.name!r} could not be loaded: {first_line(error)}") from error


def _describe(source: Source) -> ModelInfo:
    """Facts of the family, and what all families share: files, sizes, notes on origin."""
    try:
        _check_weights(source)
        info = _family(source).describe(source)
    except ModelError:
        raise
    except KeyError as error:
        raise ModelError(f"the configuration of model {source.name!r} lacks {error}") from error
    except MALFORMED as error:
        raise ModelError(
            f"the configuration of model {source.name!r} cannot be used: {first_line(error)}"
        ) from error
    _check_facts(source, info)
    notes: dict[str, Any] = dict(info.notes)
    if source.commit:
        notes["commit"] = source.commit
    if commits := dict(source.commits):
        notes["commits"] = commits
    if source.loras:
        notes["loras"] = tuple((str(lora.path), lora.weight) for lora in source.loras)
    return replace(
        info,
        files=_files(source),
        parameters_bytes=_parameters_bytes(source),
        loaded_bytes={dtype: _loaded_bytes(source, size) for dtype, size in DTYPE_BYTES.items()},
        notes=notes,
    )


def _check_facts(source: Source, info: ModelInfo) -> None:
    """Refuse facts of the wrong kind here: a plan computes with them, and would fail far from their cause."""
    counts = {name: getattr(info, name) for name in COUNTS}
    words = {"_class_name": info.scheduler}
    words |= {f"class {index}": name for index, name in enumerate(info.class_names)}
    words |= {f"colour {index}": name for index, name in enumerate(info.notes.get("colours", ()))}
    wrong = [(name, value, "a positive number") for name, value in counts.items() if not _is_count(value)]
    wrong += [(name, value, "a word") for name, value in words.items() if not isinstance(value, str)]
    for name, value, needed in wrong:
        raise ModelError(
            f"the configuration of model {source.name!r} has {value!r} as its {name}, where {needed} is needed"
        )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _family(source: Source) -> FamilyModule:
    module = FAMILIES.get(source.kind)
    if module is None:
        supported = ", ".join(FAMILIES)
        raise ModelError(
            f"pipeline class {source.kind!r} of model {source.name!r} is not supported: {supported} are"
        )
    return cast(FamilyModule, importlib.import_module(module))


# --- what a source consists of ------------------------------------------------------------------------------


def _files(source: Source) -> tuple[str, ...]:
    """Local files that fix what the model computes: configuration, weights (but for the hub's), LoRAs."""
    paths = ["model_index.json", *([TABLES[source.kind]] if source.kind in TABLES else [])]
    for part in source.parts:
        paths += [
            path for path in source.listing if path.startswith(f"{part}/") and path.endswith(CONFIGURATION)
        ]
        paths += source.weights(part) if source.single is None and not source.commit else ()
    apart = [] if source.single is None else [source.single]
    files = [
        *apart,
        *(source.place(path) for path in sorted(set(paths))),
        *(lora.path for lora in source.loras),
    ]
    return tuple(str(file) for file in files)


def _parameters_bytes(source: Source) -> int:
    if source.single is not None:
        return source.single.stat().st_size
    parts = [part for part in source.parts if part in ("unet", "transformer", "vae")]
    return sum(source.listing[path] for part in parts for path in source.weights(part))


def _loaded_bytes(source: Source, size: int) -> int:
    """Of all weights in memory, with `size` bytes a number; the codec's are float32."""
    if source.single is not None:
        return _in_memory(source.single, source.single.stat().st_size, size)
    return sum(
        _in_memory(
            source.place(path), source.listing[path], DTYPE_BYTES["float32"] if part == "vae" else size
        )
        for part in source.parts
        for path in source.weights(part)
    )


def _in_memory(file: Path, on_disk: int, size: int) -> int:
    """Bytes of a file's numbers at `size` each; as many as on disk where its header cannot be asked for them."""
    if file.suffix != ".safetensors" or not file.exists():
        return on_disk
    tensors = (entry for name, entry in read_header(file).items() if name != "__metadata__")
    numbers: int = sum(math.prod(entry["shape"]) for entry in tensors)
    return size * numbers


def _check_weights(source: Source) -> None:
    """Refuse pickles unless they are allowed, parts without weights, and damaged safetensors files."""
    if source.single is not None:
        paths = [source.single]
    else:
        weighted = [part for part in source.parts if f"{part}/config.json" in source.listing]
        for part in weighted:
            _check_part(source, part)
        paths = [source.place(path) for part in weighted for path in source.weights(part)]
    for path in paths:
        if path.suffix in PICKLES and not source.allow_pickle:
            raise ModelError(
                f"{path} is pickled, and unpickling can run code: convert it to safetensors, or add --allow-pickle"
            )
        if path.suffix == ".safetensors" and path.exists():
            read_header(path)


def _check_part(source: Source, part: str) -> None:
    if source.weights(part) or "Tokenizer" in str(source.read("model_index.json")[part]):
        return
    raise ModelError(
        f"{source.place(part)} holds no weights; a diffusion_pytorch_model or model .safetensors is needed"
    )


# --- where models are ---------------------------------------------------------------------------------------


def _resolve(
    model: str,
    revision: str | None,
    config: str | None,
    loras: Sequence[str],
    allow_pickle: bool,
    commits: Mapping[str, str],
) -> Source:
    from generation.models.text_unet import find_lora

    source = find(model, revision, config, commits)
    found = tuple(find_lora(text, commits) for text in loras)
    settled = dict(source.commits)
    for lora in found:
        settled |= lora.commits
    return replace(source, loras=found, allow_pickle=allow_pickle, commits=settled)


def find(
    model: str, revision: str | None, config: str | None, commits: Mapping[str, str] = UNPINNED
) -> Source:
    """A name in any of the forms above; folders and files before hub ids."""
    path = _embedded(model) or Path(model).expanduser()
    hub = HUB_ID.fullmatch(model)
    if path.is_dir():
        return folder_source(model, path)
    if path.is_file():
        return _single_file(model, path, config, commits)
    if hub is None or path.suffix in (".safetensors", *PICKLES):
        raise ModelError(unknown(model))
    return from_hub(model, hub["id"], revision or hub["revision"], commits)


def _embedded(model: str) -> Path | None:
    """The shipped model's folder, or a model inside it ("embedded/map")."""
    first, *inside = PurePosixPath(model).parts
    return EMBEDDED.joinpath(*inside) if first == "embedded" and ".." not in inside else None


def map_model(model: str) -> str | None:
    """The name of the map model that lies in a model's folder, or in the one whose parts it borrows, if one does."""
    folder = _embedded(model) or Path(model).expanduser()
    if (folder / "map" / TABLES[MAP]).is_file():
        return f"{model}/map"
    return map_model(str(Path(model).parent)) if borrows(folder) else None


def _single_file(name: str, path: Path, config: str | None, commits: Mapping[str, str]) -> Source:
    """A file in the original layout, with the configuration that `config`, a neighbour or the hub gives."""
    if path.suffix not in (".safetensors", *PICKLES):
        raise ModelError(f"model file {name!r} is neither .safetensors nor one of {', '.join(PICKLES)}")
    beside = path.with_suffix("")
    if config is None and (beside / "model_index.json").exists():
        config = str(beside)
    if config is None and path.suffix != ".safetensors":
        raise ModelError(
            f"a pickled file does not say what it is: put the configuration of {name!r}, a folder in diffusers' "
            f"layout with a model_index.json, at {beside}, or convert the file to .safetensors"
        )
    found = find(config or _original_repository(path), None, None, commits)
    return replace(found, name=name, single=path)


def _original_repository(path: Path) -> str:
    """The hub repository whose configuration fits a single file, by the tensors that diffusers looks for."""
    from generation.models import text_flow, text_unet

    header = read_header(path)
    shapes = {
        name.removeprefix(LDM): entry["shape"] for name, entry in header.items() if name != "__metadata__"
    }
    found = text_flow.original_repository(shapes) or text_unet.original_repository(shapes)
    if found is None:
        raise ModelError(f"{path} is no text-to-image checkpoint of Stable Diffusion 1, 2, XL, 3 or Flux")
    return found
