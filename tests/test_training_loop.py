"""The training loop: exact resume, precision, rates, teams, what a run writes and when it stops."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import synthetic
import torch
from PIL import Image
from synthetic import OneConvolution
from torch import nn

from generation.training import autoencoder, checkpoints, crops, curve, denoiser, latents, loop


@pytest.fixture(name="sets")
def the_sets() -> crops.CropSets:
    return synthetic.sets()


@pytest.fixture(name="pca")
def the_pca() -> latents.BlockPca:
    return synthetic.pca()


PHASES = (denoiser.Phase(0.5, 3, 8, 8), denoiser.Phase(1.0, 2, 8, 16))
PACE = loop.TrainingPace(6, (1e-3,), warmup_steps=2)
HABITS = loop.Habits(1e9, 1e9)


def denoiser_of(sets: crops.CropSets, pca: latents.BlockPca) -> denoiser.DenoiserSubject:
    return denoiser.DenoiserSubject(sets, pca, PACE.steps, PHASES, OneConvolution)


def fresh_denoiser(autocast: torch.dtype = torch.float32) -> checkpoints.TrainingState:
    torch.manual_seed(5)
    model = OneConvolution()
    return checkpoints.start(model, loop.build_optimiser([model], PACE), autocast)


def steps_of(
    state: checkpoints.TrainingState,
    subject: loop.TrainingSubject[loop.Batch],
    number: int,
    run: loop.TrainingRun,
) -> list[float]:
    drawn = loop.batches(subject, state.step, PACE, run)
    return [loop.take_step(state, subject, next(drawn), PACE, run) for _ in range(number)]


def assert_equal_states(one: checkpoints.TrainingState, other: checkpoints.TrainingState) -> None:
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name
        assert torch.equal(one.average[name], other.average[name]), name


def test_a_resumed_denoiser_equals_one_that_never_stopped(
    sets: crops.CropSets, pca: latents.BlockPca, tmp_path: Path
) -> None:
    subject, run = denoiser_of(sets, pca), loop.TrainingRun(tmp_path)
    whole, stopped = fresh_denoiser(), fresh_denoiser()
    losses = steps_of(whole, subject, 6, run)
    first = steps_of(stopped, subject, 2, run)
    checkpoints.save(stopped, tmp_path / "denoiser.pt")
    resumed = checkpoints.restore(fresh_denoiser(), tmp_path / "denoiser.pt")
    assert first + steps_of(resumed, subject, 4, run) == losses
    assert_equal_states(whole, resumed)
    assert not list(tmp_path.glob("*.part"))


DECODER_PACE = loop.TrainingPace(4, (1e-3, 3e-4), warmup_steps=1, average_decay=0.998)


def fresh_decoder() -> checkpoints.TrainingState:
    torch.manual_seed(5)
    modules = autoencoder.half_of_codec("decoder", "subpixel")
    return checkpoints.start(modules, loop.build_optimiser(list(modules.values()), DECODER_PACE, 0.0))


def test_a_resumed_decoder_with_critic_equals_one_that_never_stopped(
    sets: crops.CropSets, pca: latents.BlockPca, tmp_path: Path
) -> None:
    run = loop.TrainingRun(tmp_path)
    subject = autoencoder.DecoderSubject(sets, pca, "subpixel", steps=4, batch=1, side=4)

    def go(state: checkpoints.TrainingState, number: int) -> None:
        drawn = loop.batches(subject, state.step, DECODER_PACE, run)
        for _ in range(number):
            loop.take_step(state, subject, next(drawn), DECODER_PACE, run)

    whole, stopped = fresh_decoder(), fresh_decoder()
    go(whole, 4)
    go(stopped, 3)
    checkpoints.save(stopped, tmp_path / "decoder.pt")
    resumed = checkpoints.restore(fresh_decoder(), tmp_path / "decoder.pt")
    go(resumed, 1)
    assert_equal_states(whole, resumed)


def test_a_missing_checkpoint_leaves_the_state_fresh(tmp_path: Path) -> None:
    assert checkpoints.restore(fresh_denoiser(), tmp_path / "none.pt").step == 0


def test_checkpoints_that_hold_generators_are_read(tmp_path: Path) -> None:
    state = fresh_denoiser()
    state.step = 3
    checkpoints.save(state, tmp_path / "new.pt")
    fields = checkpoints.read(tmp_path / "new.pt")
    del fields["scaler"]
    generator = torch.Generator().manual_seed(0)
    fields |= {"random": np.random.default_rng(0).bit_generator.state, "torch_random": generator.get_state()}
    torch.save(fields, tmp_path / "old.pt")
    assert checkpoints.restore(fresh_denoiser(), tmp_path / "old.pt").step == 3


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    checkpoints.save(fresh_denoiser(), tmp_path / "denoiser.pt")
    other = nn.Conv2d(2, 2, 1)
    with pytest.raises(ValueError, match="another network"):
        checkpoints.restore(
            checkpoints.start(other, torch.optim.SGD(other.parameters(), lr=0.1)), tmp_path / "denoiser.pt"
        )


def test_a_run_writes_its_checkpoint_figures_and_curve(
    sets: crops.CropSets, pca: latents.BlockPca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denoiser, "write_sheet", lambda *given, **named: None)
    monkeypatch.setattr(denoiser, "HELD_OUT_CROPS", 8)
    state = loop.train(
        "denoiser", fresh_denoiser(), denoiser_of(sets, pca), PACE, loop.TrainingRun(tmp_path, habits=HABITS)
    )
    assert (state.step, [entry["step"] for entry in state.history]) == (6, [1, 2, 3, 4, 5, 6, 6])
    assert 0.1 < state.history[-1]["held_out"] < 10
    assert checkpoints.read(tmp_path / "denoiser.pt")["step"] == 6
    with Image.open(tmp_path / "denoiser-loss.png") as picture:
        assert picture.size == curve.SIZE


def test_a_run_that_is_asked_to_stop_writes_a_checkpoint_first(
    sets: crops.CropSets, pca: latents.BlockPca, tmp_path: Path
) -> None:
    answers = iter([False, True])
    run = loop.TrainingRun(tmp_path, habits=HABITS, stop=lambda: next(answers))
    with pytest.raises(KeyboardInterrupt):
        loop.train("denoiser", fresh_denoiser(), denoiser_of(sets, pca), PACE, run)
    assert checkpoints.read(tmp_path / "denoiser.pt")["step"] == 2


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    with pytest.raises(loop.Diverged, match="nan after step 7: lower learning_rate"):
        loop.checked(float("nan"), 7)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_lower_precision_changes_the_losses_a_little(
    sets: crops.CropSets, pca: latents.BlockPca, tmp_path: Path, precision: torch.dtype
) -> None:
    subject = denoiser_of(sets, pca)
    exact = steps_of(fresh_denoiser(), subject, 3, loop.TrainingRun(tmp_path))
    state = fresh_denoiser(precision)
    rough = steps_of(state, subject, 3, loop.TrainingRun(tmp_path, autocast=precision))
    assert rough != exact
    np.testing.assert_allclose(rough, exact, rtol=0.05)
    assert state.scaler.is_enabled() == (precision == torch.float16)


def test_each_worker_draws_its_own_crops(sets: crops.CropSets, pca: latents.BlockPca) -> None:
    subject = denoiser_of(sets, pca)
    first, again, other = (subject.draw(0, *loop.generators(7, rank, 0)) for rank in (0, 0, 1))
    assert torch.equal(first.latents, again.latents)
    assert not torch.equal(first.latents, other.latents)


WORKER = """
import sys, torch
from torch import distributed
from generation.training.team import ProcessGroup
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
team = ProcessGroup(rank, 2, torch.device("cpu"))
gradients = [torch.full((2, 3), float(rank)), torch.tensor([10.0 * rank])]
team.average(gradients)
print(gradients[0].unique().tolist(), gradients[1].tolist(), team.agree((rank == 0, rank == 1)))
"""


def test_two_processes_average_their_gradients_and_do_as_the_first_decides(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", WORKER, str(rank), str(tmp_path / "meet")] for rank in range(2)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    outputs = [worker.communicate(timeout=60)[0].strip() for worker in workers]
    assert outputs == ["[0.5] [5.0] (True, False)"] * 2


def test_phases_and_learning_rate_follow_the_plan() -> None:
    assert [denoiser.phase_at(step, 6, PHASES).batch for step in range(6)] == [3, 3, 3, 2, 2, 2]
    shares = [loop.learning_rate_at(step, PACE) for step in range(6)]
    assert shares[0] == pytest.approx(0.5)
    assert shares[1] == shares[2] == pytest.approx(1.0)
    assert shares[2:] == sorted(shares[2:], reverse=True)
    steps = loop.stratified_steps(4, torch.Generator().manual_seed(0))
    assert (steps // 250).tolist() == [0, 1, 2, 3]


def test_a_fifth_of_the_later_steps_use_half_windows() -> None:
    _, whole = denoiser.phases_for(8, 32)
    drawn = [denoiser.halved(whole, np.random.default_rng(seed)) for seed in range(1000)]
    shapes = {(phase.batch, phase.height, phase.width) for phase in drawn}
    assert shapes == {(8, 32, 32), (16, 32, 16), (16, 16, 32)}
    assert 0.15 < sum(phase.batch == 16 for phase in drawn) / 1000 < 0.25


def test_a_curve_of_nothing_is_an_empty_frame(tmp_path: Path) -> None:
    curve.write_curve([], tmp_path / "curve.png")
    assert (tmp_path / "curve.png").is_file()
