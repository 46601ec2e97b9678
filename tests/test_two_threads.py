"""Two jobs in two threads of a process: each as if it were alone; nothing that the process shares is theirs."""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from engine import files_of, run_here, tiny_job

from cluster.machine import compute_with
from generation.models.turns import LOADING, Turns
from generation.sampling.schedules.building import build_schedule
from generation.sampling.schedules.solvers import build

SAMPLERS = ("euler_a", "ddpm", "dpmpp_2m_sde", "lcm")
WAIT_SECONDS = 30


def side_by_side(*works: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result(WAIT_SECONDS) for future in [pool.submit(work) for work in works]]


def elsewhere(work: Callable[[], Any]) -> Any:
    """What it returns in a thread of its own."""
    return side_by_side(work)[0]


def own_step(name: str) -> torch.Tensor:
    """A step as a user of diffusers takes it, with a generator."""
    scheduler = build(name, {})
    scheduler.set_timesteps(4)
    x = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    stepped: torch.Tensor = scheduler.step(
        x, scheduler.timesteps[0], x, return_dict=False, generator=torch.Generator().manual_seed(3)
    )[0]
    return stepped


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_step_under_way_changes_nothing_for_another_thread(name: str) -> None:
    expected, seen, begun = own_step(name), [], threading.Event()

    def draw(index: int) -> torch.Tensor:
        if not begun.is_set():
            begun.set()
            seen.append(elsewhere(lambda: own_step(name)))
        return torch.full((1, 8, 8), 0.25)

    x = torch.ones(1, 8, 8)
    build_schedule(name, {}, 4).step(0, x, [x] * build_schedule(name, {}, 4).fields(0), x * 0.1, draw)
    assert seen and all(torch.equal(each, expected) for each in seen)


def test_steps_that_overlap_in_two_threads_draw_their_own_noise() -> None:
    """Threads take turns so often that the steps of each are cut by those of the other."""
    schedule, x = build_schedule("euler_a", {}, 4), torch.ones(1, 8, 8)

    def stepped(value: float) -> list[float]:
        noise = torch.full((1, 8, 8), value)
        steps = [schedule.step(0, x, [], x * 0.1, lambda index: noise)[0] for _ in range(200)]
        return sorted({float(each.mean()) for each in steps})

    alone, before = [stepped(0.25), stepped(-0.5)], sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        assert side_by_side(lambda: stepped(0.25), lambda: stepped(-0.5)) == alone
    finally:
        sys.setswitchinterval(before)


def test_two_jobs_in_two_threads_draw_what_each_draws_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(folder: str, seed: int) -> dict[str, bytes]:
        job = tiny_job(tmp_path / folder, monkeypatch, scheduler="euler_a", seed=seed, num_inference_steps=6)
        run_here(job)
        return files_of(job.spec.out)

    alone = [drawn(f"alone-{seed}", seed) for seed in (1, 2)]
    together = side_by_side(*(lambda seed=seed: drawn(f"together-{seed}", seed) for seed in (1, 2)))
    assert together == alone and alone[0] != alone[1]


def test_each_thread_computes_with_its_own_number_of_threads() -> None:
    """The sums of some operations depend on it, and so do the bytes of a picture."""
    barrier = threading.Barrier(2, timeout=WAIT_SECONDS)

    def counted(threads: int) -> int:
        barrier.wait()
        compute_with(threads)
        barrier.wait()
        torch.ones(64, 64) @ torch.ones(64, 64)
        return torch.get_num_threads()

    before = torch.get_num_threads()
    try:
        assert side_by_side(lambda: counted(1), lambda: counted(3)) == [1, 3]
    finally:
        torch.set_num_threads(before)


# --- loading ---------------------------------------------------------------------------------------------------------


def test_steps_wait_while_a_library_that_loads_changes_what_the_process_shares() -> None:
    """diffusers builds a network of half precision under another default dtype, which LCM's factors would take."""
    schedule, x = build_schedule("lcm", {}, 4), torch.linspace(-1, 1, 64).reshape(1, 8, 8)

    def step() -> torch.Tensor:
        return schedule.step(2, x, [], x * 0.1, lambda index: x)[0]

    expected, inside, began = step(), threading.Event(), threading.Event()

    def load() -> None:
        with LOADING.alone():
            torch.set_default_dtype(torch.float16)
            try:
                inside.set()
                began.wait(WAIT_SECONDS)
                began.clear()
                began.wait(0.2)  # longer than a step takes
            finally:
                torch.set_default_dtype(torch.float32)

    def compute() -> torch.Tensor:
        inside.wait(WAIT_SECONDS)
        began.set()
        return step()

    _, stepped = side_by_side(load, compute)
    assert torch.equal(stepped, expected)


def test_those_who_compute_do_so_together_and_one_who_loads_alone() -> None:
    turns, log = Turns(), list[str]()
    both = threading.Barrier(2, timeout=WAIT_SECONDS)

    def compute() -> None:
        with turns.together():
            both.wait()  # would not pass, were one kept out
            with turns.together():
                log.append("computed")
            both.wait()

    def load() -> None:
        with turns.alone(), turns.alone(), turns.together():
            log.append("begun")
            log.append("loaded")

    side_by_side(compute, compute)
    side_by_side(load, load, load)
    assert log == ["computed"] * 2 + ["begun", "loaded"] * 3


def test_one_who_computes_may_not_begin_to_load() -> None:
    turns = Turns()
    with turns.together(), pytest.raises(RuntimeError, match="while it computes"), turns.alone():
        pass
