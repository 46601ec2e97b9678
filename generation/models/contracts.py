"""What a model must offer to the engine. Knows tensors and shapes; knows no model family, no canvas, no file.

A *model* is four things: a denoiser (one network evaluation), a codec (latents <-> pixels), a conditioner
(what each patch is told) and the configuration of the scheduler that it was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from storage.geometry import Box

if TYPE_CHECKING:  # a driver that only describes models never imports torch
    import torch

Conditioning = Mapping[str, "torch.Tensor"]
"""Named tensors whose first axis is the patch: all that a network reads but the latents and the timestep."""


@dataclass(frozen=True)
class ModelInfo:
    """The facts about a model that a plan needs, read from its configuration files without loading weights.

    latent_channels: channels of the latent grid. scale: pixels per latent. patch: side of the square of
    latents that the network was made for. multiple: patch sides must be a multiple of it. tile, tile_margin:
    side of a decode tile in latents, margin included, and that margin. local_codec: the decoder has no
    normalisation over the whole tile, so a tile's core equals the whole picture's decode. guidance_scale,
    num_inference_steps, scheduler: the model's own defaults. scheduler_config: diffusers' configuration, with
    `_class_name`. class_names: of a class-map model; empty for text models. files: the weights and
    configuration that determine what the model computes (fingerprinted); of a hub model the configuration
    alone, its weights being fixed by notes["commit"]. hashes: SHA-256 of the content of each of `files`, where
    somebody has read them; a module that describes a model has not. parameters_bytes: the weight files of network
    and codec, without text encoders. loaded_bytes: by dtype, what all weights take in memory: network and text
    encoders in that dtype, the codec in float32; of files that are not here yet, what they take on disk.

    notes, present only where they apply:
        commit              hub model: the commit that was resolved; part of the fingerprint
        commits             {name on the hub: commit} of everything that comes from there, LoRAs among it
        loras               ((path, weight), ...) fused into the weights; the paths are among `files` as well
        corrections         what of its configuration is used otherwise than its files say (corrections.py)
        unused              what of its LoRAs has no place in it, a line each; known when it is described, not loaded
        eta                 what its pipeline asks of schedulers that take an eta, unless told another
        distilled_guidance  the network takes guidance as an input, or none: evaluate once per patch
        mu                  argument of `set_timesteps` where the scheduler shifts dynamically, for a patch
        linear_sigmas       `set_timesteps` takes sigmas = linspace(1, 1/steps, steps), as Flux does
        cell, colours       class maps: latents that share one class; "#rrggbb" of each class
        half                the precision for GPUs, where it is not float16
        method, overlap     how the model's patches are best joined, in JobSpec's words
    """

    family: str
    latent_channels: int
    scale: int
    patch: int
    multiple: int
    tile: int
    tile_margin: int
    local_codec: bool
    guidance_scale: float
    num_inference_steps: int
    scheduler: str
    scheduler_config: Mapping[str, Any]
    class_names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()
    parameters_bytes: int = 0
    loaded_bytes: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


class Denoiser(Protocol):
    """One evaluation of the network."""

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """(N, C, h, w) scaled latents and a scalar timestep -> (N, C, h, w) raw epsilon, v or velocity.

        Latents may lie on any device and have any precision; the prediction has the latents' precision and
        lies on the network's device.
        """


class Codec(Protocol):
    """Latents <-> pixels, in float32, any spatial size."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) latents of the diffusion space -> (N, 3, h * scale, w * scale) pixels in [-1, 1]."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) pixels in [-1, 1] -> (N, C, H / scale, W / scale) latents: the mode, without noise."""


class Conditioner(Protocol):
    """What the patches at given places are told, with and without the prompt."""

    def conditional(self, boxes: Sequence[Box]) -> Conditioning:
        """The conditioning of the patches that read these latent boxes; first axis len(boxes)."""

    def unconditional(self, boxes: Sequence[Box]) -> Conditioning:
        """What patches are told at the guidance's other end: the negative prompt, or the null class."""


@dataclass(frozen=True)
class Request:
    """What the user asks of a model: the words, and where classes lie on the canvas.

    height, width: of the canvas, in latents. guidance_scale: for networks that take it as an input; None is
    the model's default. seed: for what a conditioner draws.
    """

    prompt: str
    negative_prompt: str
    height: int
    width: int
    classes: ClassMap | None = None
    guidance_scale: float | None = None
    seed: int = 0


class ClassMap(Protocol):
    """Class ids by latent coordinate."""

    def read(self, box: Box) -> torch.Tensor:
        """(h, w) int64 class ids of a latent box, which may wrap or hang over where the topology allows it.

        A negative id means no class (the null class).
        """


@dataclass(frozen=True)
class Model:
    """A loaded model."""

    info: ModelInfo
    denoiser: Denoiser
    codec: Codec
    conditioner_for: ConditionerFactory


class ConditionerFactory(Protocol):
    """Encodes a request once, for every patch of the canvas."""

    def __call__(self, request: Request) -> Conditioner:
        """Raises ValueError where the request cannot be met (an unknown class, say)."""
