"""Class-map models: a UNet2DModel told, latent by latent, which class lies there; and all families' codec.

    folder/  model_index.json  classes.json  scheduler/  unet/ (UNet2DModel)  vae/ (AutoencoderTiny or -KL)

The network reads the C noisy latents and K one-hot classes as C + K channels; all zeros is the null class.
Any folder of that layout loads; weights/earth ships with the package. Imports torch only to compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from generation.models.contracts import ClassMap, Conditioning, Model, ModelInfo, Request
from generation.models.errors import ModelError
from storage.geometry import Box

if TYPE_CHECKING:
    import torch

    from generation.models.sources import Source

GUIDANCE_SCALE = 1.5
NUM_INFERENCE_STEPS = 20
LOCAL_CORE = 64
REMEMBERED_PATCHES = 4096


def describe(source: Source) -> ModelInfo:
    """Facts from the configuration; classes.json may name settings that suit the model."""
    unet, table = source.config("unet"), source.read("classes.json")
    names, colours = class_table(table)
    codec = codec_facts(source.config("vae"))
    if unet["in_channels"] != codec["latent_channels"] + len(names):
        raise ModelError(
            f"model {source.name!r}: unet reads {unet['in_channels']} channels,"
            f" where latents have {codec['latent_channels']} and there are {len(names)} classes"
        )
    scheduler = source.read("scheduler/scheduler_config.json")
    return ModelInfo(
        family="class_map",
        patch=side(unet["sample_size"]),
        multiple=2 ** (len(unet["down_block_types"]) - 1),
        guidance_scale=float(table.get("guidance_scale", GUIDANCE_SCALE)),
        num_inference_steps=int(table.get("num_inference_steps", NUM_INFERENCE_STEPS)),
        scheduler=scheduler["_class_name"],
        scheduler_config=scheduler,
        class_names=names,
        notes={
            "cell": int(table.get("cell", 1)),
            "colours": colours,
            **{name: table[name] for name in ("method", "overlap") if name in table},
        },
        **codec,
    )


def class_table(table: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and colours of a classes.json: `classes` = [{name, colour}, ...], or `names` and `colours`."""
    if table.get("format_version") != 1:
        raise ModelError(f"classes.json has format_version {table.get('format_version')!r}; 1 is understood")
    if "classes" in table:
        return tuple(row["name"] for row in table["classes"]), tuple(
            row.get("colour", "") for row in table["classes"]
        )
    return tuple(table["names"]), tuple(table.get("colours", ()))


def side(sample_size: int | Sequence[int]) -> int:
    """The side of the native patch where diffusers writes one number or (height, width)."""
    return sample_size if isinstance(sample_size, int) else min(sample_size)


def load(source: Source, info: ModelInfo, dtype: torch.dtype, device: torch.device) -> Model:
    """The two networks; the codec in float32."""
    import diffusers
    import torch

    allowed = {"use_safetensors": None if source.allow_pickle else True, "local_files_only": True}
    networks: list[Any] = []
    for part, precision in (("unet", dtype), ("vae", torch.float32)):
        network = getattr(diffusers, source.config(part)["_class_name"])
        variant = source.variant(part)
        networks.append(
            network.from_pretrained(source.place(part), dtype=precision, variant=variant, **allowed)
        )
    unet, vae = (ready(network, device) for network in networks)

    def conditioner_for(request: Request) -> ClassConditioner:
        if not info.class_names:
            return ClassConditioner(NoClass(), 0, device)
        if request.classes is None:
            raise ModelError(f"model {source.name!r} draws a class map, and the request has none")
        return ClassConditioner(request.classes, len(info.class_names), device)

    return Model(info, ClassMapDenoiser(unet, device, dtype), AutoencoderCodec(vae), conditioner_for)


def ready(network: Any, device: torch.device) -> Any:
    """A network on its device, for inference only: no gradient, no dropout.

    Convolutions run on channels-last weights: 1.3 to 1.5 times as fast on the CPU (docs/log.md).
    """
    import torch

    return network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


@dataclass(frozen=True)
class ClassMapDenoiser:
    """v or epsilon of (latents, one-hot classes).

    device, dtype: the network's, kept because diffusers searches all its modules for them at every question.
    """

    unet: Any
    device: torch.device
    dtype: torch.dtype

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """(N, C, h, w) latents with conditioning "classes" (N, K, h, w) -> (N, C, h, w)."""
        import torch

        told = conditioning["classes"].to(self.device, self.dtype)
        seen = torch.cat([latents.to(self.device, self.dtype), told], dim=1)
        prediction: torch.Tensor = self.unet(seen, timestep.to(self.device), return_dict=False)[0]
        return prediction.to(latents.dtype)


@dataclass(frozen=True)
class NoClass:
    """The map of a model without classes. Satisfies ClassMap."""

    def read(self, box: Box) -> torch.Tensor:
        """(h, w) of no class."""
        import torch

        return torch.full(box.shape, -1, dtype=torch.int64)


@dataclass(frozen=True)
class ClassConditioner:
    """One-hot classes of each patch's box; no class anywhere for the unconditional end."""

    classes: ClassMap
    count: int
    device: torch.device

    def conditional(self, boxes: Sequence[Box]) -> Conditioning:
        """{"classes": (N, K, h, w) float32 of zeros and ones}."""
        import torch

        ids = torch.stack([self._remembered(box) for box in boxes])
        numbers = torch.arange(self.count, dtype=ids.dtype)[:, None, None]
        return {"classes": (ids[:, None] == numbers).float().to(self.device)}

    @cached_property
    def _remembered(self) -> Callable[[Box], torch.Tensor]:
        """The map's reader, which keeps what it read: a worker meets the same patches at every step."""
        return lru_cache(maxsize=REMEMBERED_PATCHES)(self._ids)

    def unconditional(self, boxes: Sequence[Box]) -> Conditioning:
        """{"classes": (N, K, h, w) zeros}."""
        import torch

        return {"classes": torch.zeros(len(boxes), self.count, *boxes[0].shape, device=self.device)}

    def _ids(self, box: Box) -> torch.Tensor:
        """(h, w) int16 ids of a box; a negative id is the null class."""
        ids = self.classes.read(box)
        if int(ids.max()) >= self.count:
            raise ModelError(f"class id {int(ids.max())} is not among the model's {self.count} classes")
        return ids.short()


# --- the codec of every family ------------------------------------------------------------------------------


@dataclass(frozen=True)
class AutoencoderCodec:
    """diffusers' autoencoders between pixels and the diffusion space:

    latents = (encoding - shift) * scaling, or (encoding - mean) * scaling / std where these are known.

    reads: which of "shift_factor" and "latents_mean" (with latents_std) count; a family's pipeline leaves out others.
    """

    vae: Any
    reads: tuple[str, ...] = ("shift_factor", "latents_mean")

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) -> (N, 3, h * scale, w * scale) float32."""
        shift, spread = self._statistics()
        encoding = latents.to(self.vae.device, self.vae.dtype) * spread + shift
        pixels: torch.Tensor = self.vae.decode(encoding, return_dict=False)[0]
        return pixels.float()

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, C, H / scale, W / scale) float32; of a distribution the mode."""
        shift, spread = self._statistics()
        encoded = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype))
        encoding: torch.Tensor = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded[0]
        latents: torch.Tensor = (encoding - shift) / spread
        return latents.float()

    def _statistics(self) -> tuple[Any, Any]:
        """Numbers or (1, C, 1, 1) tensors with encoding = latents * spread + shift."""
        import torch

        config = self.vae.config
        mean, deviation = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if "latents_mean" not in self.reads or mean is None or deviation is None:
            moved = getattr(config, "shift_factor", None) if "shift_factor" in self.reads else None
            return moved or 0.0, 1.0 / config.scaling_factor
        place = dict(device=self.vae.device, dtype=self.vae.dtype)
        shift, spread = (torch.tensor(values, **place).view(1, -1, 1, 1) for values in (mean, deviation))
        return shift, spread / config.scaling_factor


def codec_facts(vae: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ModelInfo that follow from an autoencoder's configuration.

    AutoencoderKL normalises over the whole tile and attends over it, so tiles are blended (margin 16 of 96).
    AutoencoderTiny is convolutions only: with its receptive field as margin a tile's core is exact. Cores of 64
    divide a superblock's latents, so that no tile is decoded for two of them.
    """
    name, channels = vae["_class_name"], vae["latent_channels"]
    if name == "AutoencoderKL":
        scale = 2 ** (len(vae["block_out_channels"]) - 1)
        return dict(latent_channels=channels, scale=scale, tile=96, tile_margin=16, local_codec=False)
    if name in ("AutoencoderTiny", "AutoencoderDC"):
        if name == "AutoencoderTiny":
            scale = vae["upsampling_scaling_factor"] ** (len(vae["num_decoder_blocks"]) - 1)
            margin = _receptive_margin(vae, scale)
        else:
            scale = 2 ** (len(vae["decoder_layers_per_block"]) - 1)
            margin = _subpixel_margin(vae["decoder_layers_per_block"], scale)
        return dict(
            latent_channels=channels,
            scale=scale,
            tile=LOCAL_CORE + 2 * margin,
            tile_margin=margin,
            local_codec=True,
        )
    raise ModelError(f"autoencoder class {name!r} is not supported: AutoencoderKL, -Tiny and -DC are")


def _subpixel_margin(layers: Sequence[int], scale: int) -> int:
    """The margin of an AutoencoderDC of ResBlocks, whose RMS norms are over the channels of one pixel.

    A convolution before each pixel shuffle, two in each layer, one at either end.
    """
    first, last = 0, scale - 1
    for stage, count in enumerate(layers):
        first, last = first - 2 * count, last + 2 * count
        if stage == 0 and count > 0:
            first, last = first - 1, last + 1
        if stage < len(layers) - 1:
            first, last = first // 2 - 1, last // 2 + 1
    return max(1 - first, last + 1)


def _receptive_margin(vae: Mapping[str, Any], scale: int) -> int:
    """How many latents beyond its own one latent's pixels depend on: follow them back to the input."""
    first, last, blocks = 0, scale - 1, list(vae["num_decoder_blocks"])
    blur = 0 if vae.get("upsample_fn", "nearest") == "nearest" else 2
    for stage, count in reversed(list(enumerate(blocks))):
        first, last = first - 1, last + 1
        if stage < len(blocks) - 1:
            first = first // vae["upsampling_scaling_factor"] - blur
            last = last // vae["upsampling_scaling_factor"] + blur
        first, last = first - 3 * count, last + 3 * count
    return max(1 - first, last + 1)
