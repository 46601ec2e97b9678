"""What a program finds after it has called this library: its process as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.machine import OF_RAY, variables_set

LOOK = """
import gc, json, logging, os, random, signal, sys, threading, warnings
import numpy, torch

def look():
    return {
        "variables": dict(os.environ),
        "folder": os.getcwd(),
        "path": list(sys.path),
        "garbage": [gc.get_threshold(), gc.isenabled(), gc.get_freeze_count() > 0],
        "signals": {number: repr(signal.getsignal(number)) for number in signal.valid_signals()},
        "warnings": [repr(one) for one in warnings.filters],
        "logging": [logging.root.level, repr(logging.root.handlers), logging.root.manager.disable],
        "threads": torch.get_num_threads(),
        "cudnn": [torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark],
        "dtype": str(torch.get_default_dtype()),
        "gradients": torch.is_grad_enabled(),
        "draws": [torch.get_rng_state().tolist(), repr(random.getstate()), repr(numpy.random.get_state())],
        "hooks": [repr(sys.excepthook), repr(sys.stdout), repr(sys.stderr), repr(threading.excepthook)],
        "limit": sys.getrecursionlimit(),
    }

import diffusers, requests, rich.style, torch.optim.lr_scheduler, transformers
diffusers.UNet2DModel, diffusers.AutoencoderDC, diffusers.UniPCMultistepScheduler
# libraries that set a variable, add filters or draw a number as they are imported
torch.set_num_threads(2)
torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
gc.freeze()
before, frozen = look(), gc.get_freeze_count()
"""
TOLD = """
after = look()
from cluster.machine import map_large_buffers
if gc.get_freeze_count() > frozen:
    after["garbage"].append("more is set aside")
print(json.dumps({
    "changed": {name: [str(before[name]), str(after[name])] for name in before if before[name] != after[name]},
    "heap": map_large_buffers.cache_info().currsize,
}))
"""
SMALL = "width=64, height=64, num_inference_steps=1, executor='in-process', device='cpu', preview_every=0"


def changed_by(program: str, folder: Path) -> dict[str, object]:
    """What a program's calls leave otherwise than they found it."""
    found = subprocess.run(
        [sys.executable, "-c", LOOK + program + TOLD], cwd=folder, capture_output=True, text=True
    )
    told: dict[str, object] = json.loads(found.stdout.splitlines()[-1])
    return told


UNTOUCHED = {"changed": {}, "heap": 0}


def test_a_picture_drawn_in_it(tmp_path: Path) -> None:
    program = (
        f"import cluster\n"
        f"cluster.generate('forest', {SMALL}, out='one')\n"
        f"cluster.plan('forest', {SMALL}, out='two', calibrate=True)\n"
        f"cluster.status('one'), cluster.verify('one'), cluster.resume('one')\n"
        f"cluster.export('one', 'png')\n"
    )
    assert changed_by(program, tmp_path) == UNTOUCHED
    assert (tmp_path / "one.png").is_file()


def test_a_picture_that_cannot_be_drawn(tmp_path: Path) -> None:
    program = (
        "import cluster\n"
        f"try: cluster.generate('forest', {SMALL}, out='one', model='embedded', on_event=lambda event: 1 / 0)\n"
        "except ZeroDivisionError: pass\n"
        f"try: cluster.generate('no such class', {SMALL}, out='two')\n"
        "except ValueError: pass\n"
    )
    assert changed_by(program, tmp_path) == UNTOUCHED


def test_a_batch_drawn_in_it(tmp_path: Path) -> None:
    program = f"import cluster\ncluster.batch(n_images=2, prompt='forest', {SMALL}, out='set')\n"
    assert changed_by(program, tmp_path) == UNTOUCHED


@pytest.mark.ray
def test_a_picture_that_rays_workers_draw(tmp_path: Path) -> None:
    small = SMALL.replace("in-process", "ray")
    program = (
        "import cluster, ray\nbefore = look()\n"
        f"for name in ('one', 'two'): cluster.generate('forest', {small}, out=name, workers=1)\n"
        "before['draws'] = look()['draws']\n"  # Ray draws names
    )
    assert changed_by(program, tmp_path) == UNTOUCHED


def test_variables_are_set_for_a_while_where_nobody_has_set_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    mine, *others = OF_RAY
    monkeypatch.setenv(mine, "mine")
    for name in others:
        monkeypatch.delenv(name, raising=False)
    with variables_set(OF_RAY):
        assert {name: os.environ[name] for name in OF_RAY} == {**OF_RAY, mine: "mine"}
    assert [os.environ.get(name) for name in OF_RAY] == ["mine", *[None] * len(others)]
