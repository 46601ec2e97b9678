"""The student: its targets against a path that is known, its start, its loss, exact resume, what is exported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from cluster.commands.app import app
from generation.models.loading import load
from generation.training import checkpoints, denoiser, distillation, export, loop, networks
from generation.training.classes import EARTH
from generation.training.config import ConfigError, TrainConfig
from generation.training.distillation import DistillationBatch, jump_targets, jumps_of, path

DEVIATION = 0.4
READ = networks.CHANNELS + len(EARTH)
PACE = loop.TrainingPace(6, (2e-3,), warmup_steps=2, average_decay=distillation.AVERAGE_DECAY)


class Said:
    def __init__(self, sample: torch.Tensor) -> None:
        self.sample = sample


class Gaussian(torch.nn.Module):
    """What a perfect network says of latents that are normal with deviation DEVIATION.

    r^2 = (alpha DEVIATION)^2 + sigma^2;   x(phi) = r(phi) noise;   v = dx / d phi
    """

    def forward(self, seen: torch.Tensor, timesteps: torch.Tensor) -> Said:
        kept = networks.build_noise_schedule().alphas_cumprod[timesteps.reshape(-1)].reshape(-1, 1, 1, 1)
        slope = (kept * (1 - kept)).sqrt() * (1 - DEVIATION**2)
        return Said(seen[:, : networks.CHANNELS] * slope / (kept * DEVIATION**2 + 1 - kept))


def small() -> Any:
    return networks.build_unet(in_channels=READ, widths=(32, 32), sample_size=8)


def start_of(number: int = 2, side: int = 8) -> DistillationBatch:
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(number, networks.CHANNELS, side, side, generator=generator)
    return DistillationBatch(noise, torch.zeros(number, len(EARTH), side, side))


def subject_of(teacher: torch.nn.Module) -> distillation.DistillationSubject:
    phase = denoiser.Phase(1.0, 2, 8, 8, halves=0.5)
    return distillation.DistillationSubject(
        synthetic.sets(), synthetic.pca(), phase, small, teacher, solver_steps=4, jumps=2
    )


def taught() -> tuple[checkpoints.TrainingState, distillation.DistillationSubject]:
    """A student that begins at its teacher's weights."""
    torch.manual_seed(2)
    teacher, student = small().eval().requires_grad_(False), small()
    student.load_state_dict(teacher.state_dict())
    return checkpoints.start(student, loop.build_optimiser([student], PACE)), subject_of(teacher)


# --- targets -----------------------------------------------------------------------------------------------------


def test_a_fine_path_is_the_known_one_and_a_few_long_steps_of_the_teacher_are_not() -> None:
    batch = start_of()
    fine = path(Gaussian(), batch, networks.build_solver(), 48)[-1]
    coarse = path(Gaussian(), batch, networks.build_jump_solver(), 4)[-1]
    assert torch.allclose(fine, DEVIATION * batch.noise, rtol=0.01)
    assert float((coarse / batch.noise).mean()) < 0.9 * DEVIATION


@pytest.mark.parametrize("jumps", [1, 2, 3, 4, 6])
def test_targets_are_those_of_the_known_path(jumps: int) -> None:
    batch, course = start_of(), jumps_of(jumps)
    states = path(Gaussian(), batch, networks.build_solver(), 48, 48 // jumps)
    assert states.shape == (jumps + 1, *batch.noise.shape)
    kept = networks.build_noise_schedule().alphas_cumprod[course.timesteps]
    reached = torch.cat([(kept * DEVIATION**2 + 1 - kept).sqrt(), torch.tensor([DEVIATION])])
    slopes = (course.angles.cos() * reached[:-1] - reached[1:]) / course.angles.sin()
    expected = slopes[:, None, None, None, None] * batch.noise
    assert torch.allclose(jump_targets(states, course.angles), expected, rtol=0.02)


@pytest.mark.parametrize("jumps", [1, 2, 3, 4, 6])
def test_who_says_the_targets_reaches_the_teachers_states_in_one_step_each(jumps: int) -> None:
    torch.manual_seed(3)
    batch, course, teacher = start_of(), jumps_of(jumps), small().eval().requires_grad_(False)
    states = path(teacher, batch, networks.build_solver(), 12, 12 // jumps)
    targets = dict(zip(course.timesteps.tolist(), jump_targets(states, course.angles), strict=True))

    class Perfect(torch.nn.Module):
        def forward(self, seen: torch.Tensor, timestep: torch.Tensor) -> Said:
            return Said(targets[int(timestep)])

    reached = path(Perfect(), batch, networks.build_jump_solver(), jumps)
    assert torch.allclose(reached, states, atol=1e-4)


def test_a_path_keeps_every_so_many_steps() -> None:
    batch = start_of()
    whole = path(Gaussian(), batch, networks.build_solver(), 6)
    assert torch.equal(path(Gaussian(), batch, networks.build_solver(), 6, 3), whole[::3])
    assert torch.equal(whole[0], batch.noise)


# --- learning ----------------------------------------------------------------------------------------------------


def test_errors_pair_each_jump_with_its_own_state_timestep_and_map() -> None:
    _, subject = taught()
    batch = subject.draw(0, *loop.generators(3, 0, 1))
    states, course = subject.taught(batch), subject.course
    expected = []
    for index, target in enumerate(jump_targets(states, course.angles)):
        with torch.no_grad():
            seen = torch.cat([states[index], batch.classes], dim=1)
            said = subject.teacher(seen, course.timesteps[index]).sample
        expected.append((said - target).square())
    errors = subject.squared_errors(subject.teacher, batch)
    assert torch.allclose(errors, torch.stack(expected), atol=1e-5)
    assert float(errors.mean()) > 1e-6


def test_draws_are_of_whole_and_half_windows_and_their_maps_are_of_the_crops() -> None:
    _, subject = taught()
    batches = [subject.draw(0, *loop.generators(3, 0, step)) for step in range(12)]
    shapes = {tuple(batch.noise.shape) for batch in batches}
    channels = networks.CHANNELS
    assert shapes == {(2, channels, 8, 8), (4, channels, 4, 8), (4, channels, 8, 4)}
    assert all(batch.classes.shape[2:] == batch.noise.shape[2:] for batch in batches)
    assert any(bool((batch.classes.sum(dim=1) == 1).all()) for batch in batches)


def test_the_loss_falls_and_the_teacher_stays() -> None:
    state, subject = taught()
    before = {name: tensor.clone() for name, tensor in subject.teacher.state_dict().items()}
    batch, pace = subject.draw(0, *loop.generators(0, 0, 0)), loop.TrainingPace(40, (2e-3,), warmup_steps=5)
    losses = [
        loop.take_step(state, subject, batch, pace, loop.TrainingRun(Path("unused"))) for _ in range(40)
    ]
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.teacher.state_dict().items())


def test_a_resumed_student_equals_one_that_never_stopped(tmp_path: Path) -> None:
    run = loop.TrainingRun(tmp_path)

    def go(state: checkpoints.TrainingState, subject: distillation.DistillationSubject, steps: int) -> None:
        drawn = loop.batches(subject, state.step, PACE, run)
        for _ in range(steps):
            loop.take_step(state, subject, next(drawn), PACE, run)

    whole, subject = taught()
    go(whole, subject, 4)
    stopped, subject = taught()
    go(stopped, subject, 2)
    checkpoints.save(stopped, tmp_path / "distilled.pt")
    fresh, subject = taught()
    resumed = checkpoints.restore(fresh, tmp_path / "distilled.pt")
    go(resumed, subject, 2)
    for name, tensor in whole.average.items():
        assert torch.equal(tensor, resumed.average[name]), name


def test_figures_of_one_who_draws_as_the_teacher_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "JUDGED_PATCHES", 8)
    _, subject = taught()
    monkeypatch.setattr(
        distillation.DistillationSubject, "drawn", lambda self, model, batch: self.taught(batch)[-1]
    )
    figures = subject.figures(subject.teacher)
    assert figures["detail"] == pytest.approx(1.0)
    assert figures["held_out"] > 0


def test_the_sheet_shows_teacher_hasty_teacher_and_student(tmp_path: Path) -> None:
    _, subject = taught()
    subject.write_sheet(small().eval(), tmp_path / "sheet.png", seed=4)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (distillation.SHEET_ROWS * 64, 3 * 64, 3)
    teacher, hasty, student = (sheet[:, at : at + 64] for at in (0, 64, 128))
    assert not np.array_equal(teacher, hasty)
    assert not np.array_equal(hasty, student)


# --- the command -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("solver_steps", "jumps"), [(12, 5), (4, 4), (2, 3)])
def test_steps_that_are_no_multiple_are_refused(solver_steps: int, jumps: int) -> None:
    with pytest.raises(ConfigError, match=rf"solver_steps {solver_steps} .*jumps {jumps}; try {3 * jumps}"):
        TrainConfig(out="x", distilled={"solver_steps": solver_steps, "jumps": jumps})


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_commands_from_pictures_to_a_model_of_few_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("generation.training.latents.FIT_CROPS", 20)
    monkeypatch.setattr(denoiser, "HELD_OUT_CROPS", 8)
    monkeypatch.setattr(distillation, "JUDGED_PATCHES", 8)
    for index in range(4):
        pixels = synthetic.smooth_noise(np.random.default_rng(index), 80 + index, 96)
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{index}.png")
    out, config = tmp_path / "run", tmp_path / "c.yaml"
    settings = {
        "data": {"folder": str(tmp_path / "pictures")},
        "out": str(out),
        "denoiser": {"steps": 2, "batch": 1, "crop": 64, "widths": [32, 32]},
        "autoencoder": {"steps": 1, "encoder_steps": 1, "batch": 1, "crop": 64, "codec": "tiny"},
        "distilled": {"steps": 2, "batch": 1, "jumps": 2, "solver_steps": 4},
    }
    config.write_text(yaml.safe_dump(settings))

    def call(*words: object) -> Any:
        return CliRunner().invoke(app, ["train", *map(str, words)])

    early = call("distilled", "--config", config)
    assert early.exit_code == 2
    assert f"first: hypermosaic train denoiser --out {out}" in early.stderr
    for model in ("autoencoder", "denoiser"):
        assert call(model, "--config", config).exit_code == 0
    assert not (out / "model" / "fast").exists()

    done = call("distilled", "--config", config)
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} >= {"distilled-000002.png", "distilled-loss.png"}
    info = load(str(out / "model" / "fast")).info
    assert (info.num_inference_steps, info.scheduler) == (2, "DPMSolverMultistepScheduler")
    assert (info.notes["method"], info.notes["overlap"]) == ("hann", 0.25)
    assert info.scheduler_config["solver_order"] == 1
    assert load(str(out / "model")).info.num_inference_steps == export.NUM_INFERENCE_STEPS
    index = json.loads((out / "model" / "fast" / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DPMSolverMultistepScheduler"]

    settings["distilled"] = {"steps": 2, "batch": 1, "jumps": 1, "solver_steps": 4}
    config.write_text(yaml.safe_dump(settings))
    other = call("distilled", "--config", config)
    assert other.exit_code == 2
    assert "begun with another distilled.jumps" in other.stderr
