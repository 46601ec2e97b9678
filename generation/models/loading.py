"""Where models are and which family each belongs to: names -> sources -> ModelInfo or Model. Knows no tensor.

    "embedded"          the folder that ships with the package; "embedded/fast", a model inside it
    a folder            diffusers' layout: model_index.json, unet/ or transformer/, vae/, scheduler/, ...
    a .safetensors file the original layout; single_file.py finds its configuration
    org/name[@revision] the hub; HF_HOME, HF_HUB_OFFLINE and the token are huggingface_hub's business

`describe` reads configuration and safetensors headers; of a hub model it downloads configuration only. It
imports no torch, unless there are LoRAs, which are compared with the model's layers.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, cast

from generation.models.completeness import check_complete
from generation.models.contracts import Model, ModelInfo
from generation.models.errors import ModelError, UnknownModel, first_line
from generation.models.files import read_header
from generation.models.hub import HUB_ID, UNPINNED, download, from_hub, unknown
from generation.models.single_file import single_file_source
from generation.models.sources import (
    CLASS_MAP,
    CONFIGURATION,
    MAP,
    PICKLES,
    TABLES,
    Source,
    borrows,
    folder_source,
)
from generation.models.turns import LOADING

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
    vae: str | None = None,
    loras: Sequence[str] = (),
    allow_pickle: bool = False,
    commits: Mapping[str, str] = UNPINNED,
) -> ModelInfo:
    """The facts about a model, without its weights; raises ModelError.

    config: where the configuration of a single file is. vae: the autoencoder to use in place of the model's own.
    commits: name on the hub, of the model or a LoRA as it is given here -> the commit to take it at, as
    notes["commits"] of an earlier description has them; other names are taken as they are on the hub now.
    """
    source = _resolve(model, revision, config, vae, loras, allow_pickle, commits)
    info = _describe(source)
    with _malformed(source):
        return replace(info, notes={**info.notes, **_unused_note(source)})


def load(
    model: str,
    *,
    revision: str | None = None,
    config: str | None = None,
    vae: str | None = None,
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
    source = _resolve(model, revision, config, vae, loras, allow_pickle, commits)
    info = _describe(source)
    if source.commit:
        wanted = [path for part in source.stored for path in source.weights(part)]
        download(replace(source, name=source.repository or source.name), wanted)
        _check_weights(source)
    return _load(source, info, name, device)


def _unused_note(source: Source) -> dict[str, tuple[str, ...]]:
    """What of LoRAs has no place in the model, in notes["unused"]: found on networks that are built without weights."""
    if not source.loras:
        return {}
    from generation.models.lora_fusing import unused_by
    from generation.models.pipelines import networks_without_weights

    networks = networks_without_weights(source)
    lines = tuple(line for lora in source.loras if (line := unused_by(networks, source.kind, lora)))
    return {"unused": lines} if lines else {}


def _load(source: Source, info: ModelInfo, dtype: str, device: str | torch.device) -> Model:
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False  # same bytes every time
    try:
        with LOADING.alone():
            return _family(source).load(source, info, getattr(torch, dtype), torch.device(device))
    except ModelError:
        raise
    except (
        OSError, RuntimeError, ImportError, SafetensorError, StrictDataclassError, *MALFORMED,
    ) as error:  # fmt: skip
        raise ModelError(f"model {source.name!r} could not be loaded: {first_line(error)}") from error


def _describe(source: Source) -> ModelInfo:
    """Facts of the family, and what all families share: files, sizes, notes on origin."""
    with _malformed(source):
        family = _family(source)
        _check_additions(source)
        _check_weights(source)
        info = family.describe(source)
    _check_facts(source, info)
    notes: dict[str, Any] = dict(info.notes)
    if source.commit:
        notes["commit"] = source.commit
    if commits := dict(source.commits):
        notes["commits"] = commits
    if source.loras:
        from generation.models.lora import fused_as

        notes["loras"] = tuple((str(lora.path), lora.weight) for lora in source.loras)
        notes["loras_fused"] = fused_as(source.loras)
    return replace(
        info,
        files=_files(source),
        parameters_bytes=_parameters_bytes(source),
        loaded_bytes={dtype: _loaded_bytes(source, size) for dtype, size in DTYPE_BYTES.items()},
        notes=notes,
    )


@contextmanager
def _malformed(source: Source) -> Iterator[None]:
    """Say of configuration of another shape than expected whose it is. Raises ModelError."""
    try:
        yield
    except ModelError:
        raise
    except KeyError as error:
        raise ModelError(f"the configuration of model {source.name!r} lacks {error}") from error
    except MALFORMED as error:
        raise ModelError(
            f"the configuration of model {source.name!r} cannot be used: {first_line(error)}"
        ) from error


def _check_additions(source: Source) -> None:
    """A class-map model is whole as it is."""
    added = {"LoRA": bool(source.loras), "VAE": source.vae is not None}
    for name, given in added.items():
        if given and source.kind in TABLES:
            raise ModelError(
                f"model {source.name!r} is a {source.kind} model, which takes no {name}: leave it out"
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
    if not source.commit:
        paths += [path for part in source.stored for path in source.weights(part)]
    files = [
        *_apart(source),
        *(source.place(path) for path in sorted(set(paths))),
        *(source.vae.config_files if source.vae is not None else ()),
        *(lora.path for lora in source.loras),
    ]
    return tuple(str(file) for file in files)


def _apart(source: Source) -> list[Path]:
    """Weights that are not in the folder: a single file, an autoencoder that was brought."""
    single = [] if source.single is None else [source.single]
    return [*single, *(source.vae.weight_files if source.vae is not None else ())]


def _parameters_bytes(source: Source) -> int:
    parts = [part for part in source.stored if part in ("unet", "transformer", "vae")]
    inside = sum(source.listing[path] for part in parts for path in source.weights(part))
    return inside + sum(path.stat().st_size for path in _apart(source))


def _loaded_bytes(source: Source, size: int) -> int:
    """Bytes of all weights in memory, with `size` bytes a number; the codec's are float32."""
    files = [
        (source.place(path), source.listing[path], part)
        for part in source.stored
        for path in source.weights(part)
    ]
    files += [(path, path.stat().st_size, "") for path in _apart(source)]
    brought = source.vae.weight_files if source.vae is not None else ()
    return sum(
        _in_memory(path, on_disk, DTYPE_BYTES["float32"] if part == "vae" or path in brought else size)
        for path, on_disk, part in files
    )


def _in_memory(file: Path, on_disk: int, size: int) -> int:
    """Bytes of a file's numbers at `size` each; as many as on disk where its header cannot be asked for them."""
    if file.suffix != ".safetensors" or not file.exists():
        return on_disk
    tensors = (entry for name, entry in read_header(file).items() if name != "__metadata__")
    numbers: int = sum(math.prod(entry["shape"]) for entry in tensors)
    return size * numbers


def _check_weights(source: Source) -> None:
    """Refuse parts that are missing, pickles unless they are allowed, and damaged safetensors files."""
    check_complete(source)
    single = [] if source.single is None else [source.single]
    for path in [*single, *(source.place(path) for part in source.stored for path in source.weights(part))]:
        if path.suffix in PICKLES and not source.allow_pickle:
            raise ModelError(
                f"{path} is pickled, and unpickling can run code: convert it to safetensors, or add --allow-pickle"
            )
        if path.suffix == ".safetensors" and path.exists():
            read_header(path)


# --- where models are ---------------------------------------------------------------------------------------


def _resolve(
    model: str,
    revision: str | None,
    config: str | None,
    vae: str | None,
    loras: Sequence[str],
    allow_pickle: bool,
    commits: Mapping[str, str],
) -> Source:
    from generation.models.lora import find_lora
    from generation.models.vae import find_vae

    source = find(model, revision, config, commits)
    own = None if vae is None else find_vae(vae, allow_pickle, commits)
    found = tuple(find_lora(text, commits) for text in loras)
    settled = dict(source.commits)
    if own is not None and own.source is not None:
        settled |= own.source.commits
    for lora in found:
        settled |= lora.commits
    return replace(source, vae=own, loras=found, allow_pickle=allow_pickle, commits=settled)


def find(
    model: str, revision: str | None, config: str | None, commits: Mapping[str, str] = UNPINNED
) -> Source:
    """A name in any of the forms above; folders and files before hub ids."""
    path = _embedded(model) or Path(model).expanduser()
    hub = HUB_ID.fullmatch(model)
    if path.is_file():
        return single_file_source(model, path, config, lambda name: find(name, None, None, commits))
    if config is not None:
        raise ModelError(
            f"--config-from gives the configuration of a single file, and {model!r} is none: leave it out"
        )
    if path.is_dir():
        return folder_source(model, path)
    if hub is None or path.suffix in (".safetensors", *PICKLES):
        raise UnknownModel(unknown(model), "no such folder")
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
