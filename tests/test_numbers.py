"""What is no number is refused where it appears, and its place is named: of the network and of the decoder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine import ConvolutionalDenoiser, NearestCodec, run_here, tiny_job, tiny_worker
from tiny_class_models import build_class_map

from cluster.datasets import small
from cluster.engine.executors.in_process import InProcess
from cluster.jobs.job import prepare
from cluster.spec.fields import JobSpec
from generation.decoding.decode import Tiling, decode_box
from generation.models.errors import NumericalError
from storage.geometry import Box, Canvas

PIECES = {"NaN": torch.nan, "infinity": torch.inf}


class BrokenDenoiser(ConvolutionalDenoiser):
    """Returns `value` somewhere, from its 40th patch on."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def predict(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Any) -> torch.Tensor:
        prediction = super().predict(latents, timestep, conditioning)
        if self.evaluated > 40:
            prediction[0, 0, 0, 0] = self.value
        return prediction


class BrokenCodec(NearestCodec):
    """Returns `value` for one pixel of the tile whose latents hold a 7."""

    def __init__(self, value: float) -> None:
        self.value = value

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        pixels = super().decode(latents)
        if bool((latents == 7).any()):
            pixels[0, 0, 0, 0] = self.value
        return pixels


def test_the_network_names_step_patch_and_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tiny_job(tmp_path, monkeypatch)
    place = r"step \d+, patch at latent \(y \d+, x \d+\).*; in block at latent \(y (\d+), x (\d+)\)$"
    with pytest.raises(NumericalError, match=place) as caught:
        run_here(job, BrokenDenoiser(torch.nan))
    assert "\n" not in str(caught.value)
    corner = [int(word.rstrip("),")) for word in str(caught.value).split()[-3::2]]
    assert all(side % job.plan.grid.block == 0 for side in corner)


def test_an_overflow_names_step_and_block_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NumericalError, match=r"step \d+, in block at latent \(y \d+, x \d+\)") as caught:
        run_here(tiny_job(tmp_path, monkeypatch), BrokenDenoiser(1e9))
    assert str(caught.value).count("block at") == 1


@pytest.mark.parametrize("word", PIECES)
def test_the_decoder_names_its_tile(word: str) -> None:
    canvas = Canvas(40, 40)
    tiling = Tiling(canvas, 2, 24, 4, local=True)
    latents = np.zeros((3, 40, 40), np.float32)
    latents[:, 39, 39] = 7

    def read(box: Box) -> np.ndarray:
        return latents[(slice(None), *box.slices_in(canvas.box))]

    cpu = torch.device("cpu")
    assert decode_box(BrokenCodec(PIECES[word]), tiling, Box(0, 12, 0, 12), read, cpu).shape == (24, 24, 3)
    last = tiling.tiles_over(Box(39, 40, 39, 40))[0].source
    with pytest.raises(NumericalError) as caught:
        decode_box(BrokenCodec(PIECES[word]), tiling, canvas.box, read, cpu)
    assert f"returned {word} for the tile at latent (y {last.y0}, x {last.x0})" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_such_pixel_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Always(NearestCodec):
        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            return super().decode(latents) * torch.nan

    job = tiny_job(tmp_path, monkeypatch)
    worker = tiny_worker(job)
    worker.codec = Always()
    with pytest.raises(NumericalError, match="decoder"):
        run_here(job, executor=InProcess(worker))
    assert not list(tmp_path.glob("image.zarr/0/c/**/*"))


def test_of_a_batch_only_the_picture_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second picture's latents are not those of the first; only its decode is broken."""
    model = build_class_map(tmp_path / "model")
    jobs = [
        prepare(
            JobSpec(
                prompt="sea", model=str(model), width=64, height=64, num_inference_steps=1, device="cpu",
                executor="in-process", seed=seed, out=tmp_path / f"{seed}",
            )
        )
        for seed in (1, 2)
    ]  # fmt: skip
    original, seen = small.decode_box, []

    def second_fails(*arguments: Any) -> Any:
        seen.append(arguments)
        if len(seen) == 2:
            raise NumericalError("the decoder returned NaN")
        return original(*arguments)

    monkeypatch.setattr(small, "decode_box", second_fails)
    found, _ = small.SmallPictures(jobs[0]).draw(jobs)
    assert [type(picture) for picture in found] == [small.SmallPicture, NumericalError]
