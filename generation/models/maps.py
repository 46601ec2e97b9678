"""Map models: a UNet2DModel that invents a class for every cell of a map. Every class is a plane of the latents.

    folder/  map.json  model_index.json  scheduler/  unet/ (UNet2DModel)

A map is one-hot planes, centred: x_0 = onehot - 1/K (Chen et al. 2022, "Analog Bits"). The network adds what the rest
of the map and the wish say to what a cell's own noisy planes say (Bayes' rule), and the scheduler hears

    E[x_0 | x_t, wish] = softmax(alpha_t / sigma_t^2 x_t + network(x_t, 0, wish, t) / T_t) - 1/K    (type "sample")

The wish is a share for each class and the scale of the map, log2(blocks per cell) - 1. A temperature T below one, where
noise is weak, calms coasts; it rises to one in strong noise, where the layout is settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from generation.models.contracts import Conditioning, Model, ModelInfo, Request
from generation.models.errors import ModelError
from generation.models.mixes import parse_mix
from generation.models.wishes import Wish
from storage.geometry import Box

if TYPE_CHECKING:
    import torch

    from generation.models.sources import Source

FORMAT_VERSION = 1
CORE = 128


@dataclass(frozen=True)
class Legend:
    """What the planes of a map mean. votes: of 9, that a class needs round a cell to keep it; 0 keeps all."""

    names: tuple[str, ...]
    colours: tuple[str, ...]
    votes: int

    @classmethod
    def of(cls, info: ModelInfo) -> Legend:
        """The legend of a map model."""
        return cls(info.notes["names"], info.notes["colours"], info.notes["votes"])

    def ids(self, planes: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(K, h, w) -> (h, w) class ids; right where all neighbours are given."""
        ids = planes.argmax(axis=0).astype(np.uint8)
        return smoothed(ids, self.votes) if self.votes else ids

    def palette(self) -> NDArray[np.float32]:
        """(K, 3) sRGB in [0, 1]."""
        values = [[int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] for colour in self.colours]
        return np.array(values, np.float32)


def smoothed(ids: NDArray[np.uint8], votes: int) -> NDArray[np.uint8]:
    """A cell whose class fewer than `votes` of its 3 x 3 neighbourhood share takes its neighbours' commonest class."""
    padded = np.pad(ids, 1, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    counts = np.stack([(windows == index).sum(axis=(2, 3)) for index in range(int(ids.max()) + 1)])
    own = np.take_along_axis(counts, ids[None].astype(np.intp), axis=0)[0]
    return np.where(own < votes, counts.argmax(axis=0), ids).astype(np.uint8)


def describe(source: Source) -> ModelInfo:
    """Facts from map.json and the configurations."""
    unet, table = source.config("unet"), source.read("map.json")
    if table.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"map.json has format_version {table.get('format_version')!r}; {FORMAT_VERSION} is understood"
        )
    names = tuple(row["name"] for row in table["classes"])
    if (unet["in_channels"], unet["out_channels"]) != (2 * len(names) + 2, len(names)):
        raise ModelError(
            f"model {source.name!r}: unet has {unet['in_channels']} channels in and {unet['out_channels']} out, "
            f"where {len(names)} classes need {2 * len(names) + 2} and {len(names)}"
        )
    scheduler = source.read("scheduler/scheduler_config.json")
    return ModelInfo(
        family="map",
        latent_channels=len(names),
        scale=1,
        patch=int(table["patch"]),
        multiple=2 ** (len(unet["down_block_types"]) - 1),
        tile=CORE + 2,
        tile_margin=1,
        local_codec=True,
        guidance_scale=float(table["guidance_scale"]),
        num_inference_steps=int(table["num_inference_steps"]),
        scheduler=scheduler["_class_name"],
        scheduler_config=scheduler,
        notes={
            "names": names,
            "colours": tuple(row["colour"] for row in table["classes"]),
            "votes": int(table["filter"]["votes"]),
            "method": table["method"],
            "overlap": float(table["overlap"]),
            "scale": float(table["scale"]["default"]),
            "calm": Calm(**table["temperature"]),
        },
    )


def load(source: Source, info: ModelInfo, dtype: torch.dtype, device: torch.device) -> Model:
    """The network; the codec paints classes in their colours."""
    import diffusers
    import torch

    from generation.models.embedded import ready

    if source.loras:
        raise ModelError(f"model {source.name!r} is a map model, which takes no LoRA")
    network: Any = diffusers.UNet2DModel
    unet = ready(
        network.from_pretrained(
            source.folder / "unet", dtype=dtype, use_safetensors=True, local_files_only=True
        ),
        device,
    )
    scheduler: Any = getattr(diffusers, info.scheduler)
    kept = scheduler.from_config(dict(info.scheduler_config)).alphas_cumprod.to(device, torch.float32)
    calm, steps = info.notes["calm"], torch.arange(len(kept), device=device)
    denoiser = MapDenoiser(unet, device, dtype, kept.sqrt() / (1 - kept), calm.temperatures(steps))
    names, scale = info.notes["names"], info.notes["scale"]

    def conditioner_for(request: Request) -> WishConditioner:
        shares = parse_mix(request.prompt, names)
        wish = Wish(shares, names, request.height, request.width, request.seed)
        return WishConditioner(wish, scale, device)

    return Model(info, denoiser, MapCodec(Legend.of(info)), conditioner_for)


@dataclass(frozen=True)
class Calm:
    """T_t: `value` up to timestep `until`, one from timestep `one_from` on, linear between."""

    value: float
    until: float
    one_from: float

    def temperatures(self, steps: torch.Tensor) -> torch.Tensor:
        """T_t of timesteps."""
        risen = ((steps - self.until) / (self.one_from - self.until)).clamp(0.0, 1.0)
        return self.value + (1.0 - self.value) * risen


@dataclass(frozen=True)
class MapDenoiser:
    """E[x_0] of noisy maps. evidence, temperatures: alpha_t / sigma_t^2 and T_t of every timestep.

    device, dtype: the network's.
    """

    unet: Any
    device: torch.device
    dtype: torch.dtype
    evidence: torch.Tensor
    temperatures: torch.Tensor

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """(N, K, h, w) with conditioning "wish" (N, K + 1, h, w) -> (N, K, h, w)."""
        import torch

        hidden = torch.zeros_like(latents[:, :1])
        parts = (latents, hidden, conditioning["wish"])
        seen = torch.cat([part.to(self.device, self.dtype) for part in parts], dim=1)
        step = timestep.to(self.device).long()
        said = self.unet(seen, step, return_dict=False)[0].float()
        logits = said / self.temperatures[step] + self.evidence[step] * latents.to(self.device, torch.float32)
        expected: torch.Tensor = torch.softmax(logits, dim=1) - 1 / logits.shape[1]
        return expected.to(latents.dtype)


class AskedShares(Protocol):
    """What is asked for, place by place. Wish is one."""

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, in the order of their planes."""

    def read(self, box: Box) -> NDArray[np.float32]:
        """(K, h, w) shares of the classes."""


@dataclass(frozen=True)
class WishConditioner:
    """Each patch's part of the wish; no shares, but the same scale, for the guidance's other end."""

    wish: AskedShares
    scale: float
    device: torch.device

    def conditional(self, boxes: Sequence[Box]) -> Conditioning:
        """{"wish": (N, K + 1, h, w)}."""
        return self._planes(np.stack([self.wish.read(box) for box in boxes]))

    def unconditional(self, boxes: Sequence[Box]) -> Conditioning:
        """What patches are told without shares."""
        return self._planes(np.zeros((len(boxes), len(self.wish.names), *boxes[0].shape), np.float32))

    def _planes(self, shares: NDArray[np.float32]) -> Conditioning:
        import torch

        scale = np.full((len(shares), 1, *shares.shape[2:]), scale_feature(self.scale), np.float32)
        return {"wish": torch.from_numpy(np.concatenate([shares, scale], axis=1)).to(self.device)}


def scale_feature(scale: float) -> float:
    """Blocks per cell: -1 for one, +1 for four."""
    return float(np.log2(scale)) - 1.0


@dataclass(frozen=True)
class MapCodec:
    """Planes -> colours of the likeliest class."""

    legend: Legend

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(N, K, h, w) -> (N, 3, h, w) in [-1, 1]."""
        import torch

        painted = [self.legend.palette()[self.legend.ids(planes)] for planes in latents.float().cpu().numpy()]
        return torch.from_numpy(np.stack(painted)).movedim(-1, 1) * 2 - 1

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, h, w) in [-1, 1] -> (N, K, h, w): x_0 of the class with the nearest colour."""
        import torch

        palette = torch.from_numpy(self.legend.palette()).to(pixels.device) * 2 - 1
        distances = (pixels[:, None] - palette[:, :, None, None]).square().sum(dim=2)
        nearest = torch.nn.functional.one_hot(distances.argmin(dim=1), len(palette))
        return nearest.movedim(-1, 1).float() - 1 / len(palette)
