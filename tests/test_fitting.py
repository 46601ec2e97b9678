"""What a job is refused for before anything is written, what it is told of, and what it takes of memory and disk."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine import run_here, tiny_job
from safetensors import safe_open
from typer.testing import CliRunner

from cluster import machine
from cluster.commands.app import app
from cluster.jobs import fitting
from cluster.jobs.fitting import DoesNotFit, bytes_by_output, disk_peak_bytes, worker_bytes
from cluster.jobs.job import Job, Note, prepare, unnoted
from cluster.jobs.report import report_on
from cluster.spec import choices
from cluster.spec.fields import JobSpec, SpecError
from generation.models.loading import describe

GB = 10**9


def embedded(out: Path, note: Note = unnoted, **fields: Any) -> Job:
    spec = {"prompt": "desert", "width": 512, "height": 512, "device": "cpu", "out": out} | fields
    return prepare(JobSpec(**spec), note=note)


def on_machine(monkeypatch: pytest.MonkeyPatch, memory: int, cores: int = 4, address: str = "") -> None:
    here = machine.Machine(cores=cores, gpus=0, ray_address=address)
    monkeypatch.setattr(choices, "local_machine", lambda: here)
    monkeypatch.setattr(fitting, "available_memory", lambda: memory)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    else:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_a_hundred_workers_need_the_memory_of_a_hundred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused is what the report says, not the arrays of the tasks alone, which would fit."""
    on_machine(monkeypatch, 22 * GB)
    with pytest.raises(
        DoesNotFit, match=r"100 workers need \d+.* GB of memory or more, 22 GB are free"
    ) as caught:
        embedded(tmp_path / "a", workers=100)
    assert "\n" not in str(caught.value)
    most = int(str(caught.value).split("--workers ")[1].split()[0])
    report = report_on(embedded(tmp_path / "a", workers=most))
    assert report.job_peak_bytes <= 0.9 * 22 * GB < report.job_peak_bytes * (most + 1) / most
    assert report.task_peak_bytes * 100 < 0.9 * 22 * GB
    with pytest.raises(DoesNotFit):
        embedded(tmp_path / "a", workers=most + 1)


def test_one_worker_that_does_not_fit_is_told_what_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch, 10**8)
    large = {"width": 2048, "height": 2048}
    with pytest.raises(DoesNotFit, match=r"a worker needs .*; use a smaller --block than 128$"):
        embedded(tmp_path, workers=1, **large)
    with pytest.raises(
        DoesNotFit, match=r"2 workers need .*; use fewer --workers or a smaller --block than 128$"
    ):
        embedded(tmp_path, workers=2, **large)
    with pytest.raises(DoesNotFit, match=r"a worker needs .*; free some memory"):
        embedded(tmp_path, workers=1, block=describe("embedded").patch, **large)


def test_of_workers_that_nobody_asked_for_so_many_start_as_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch, 5 * GB, cores=64)
    lines: list[str] = []
    job = embedded(tmp_path, note=lines.append)
    assert 1 < (job.spec.workers or 0) < 10
    assert report_on(job).job_peak_bytes <= 0.9 * 5 * GB
    assert lines == [f"memory is free for {job.spec.workers} of 64 workers; --workers asks for more"]
    on_machine(monkeypatch, 500 * GB, cores=64)
    assert embedded(tmp_path, note=lines.append).spec.workers == 64
    assert len(lines) == 1


def test_the_workers_of_a_cluster_are_not_charged_to_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch, 2 * GB, address="10.0.0.1:6379")
    assert embedded(tmp_path, workers=1000).spec.workers == 1000
    on_machine(monkeypatch, 2 * GB, address="")
    with pytest.raises(DoesNotFit):
        embedded(tmp_path, workers=1000)
    on_machine(monkeypatch, 10**8, address="10.0.0.1:6379")
    with pytest.raises(DoesNotFit, match="a worker needs"):
        embedded(tmp_path, workers=1000)


def numbers_in(file: Path) -> int:
    """Of a safetensors file, read by another reader than ours."""
    with safe_open(file, "np") as opened:
        return sum(opened.get_tensor(name).size for name in opened.keys())  # noqa: SIM118  # no mapping


@pytest.mark.parametrize("name", ["sd1", "sd3", "flux-dev"])
def test_text_encoders_and_the_dtype_count(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    info = describe(str(folders[name]))
    counts = {file.parent.name: numbers_in(file) for file in folders[name].rglob("*.safetensors")}
    codec = counts.pop("vae")
    assert any(part.startswith("text_encoder") for part in counts)
    for dtype, size in (("float32", 4), ("float16", 2), ("bfloat16", 2)):
        assert info.loaded_bytes[dtype] == size * sum(counts.values()) + 4 * codec
    spec = JobSpec(prompt="x", model=str(folders[name]), width=64, height=64, device="cpu", out=tmp_path)
    plans = [prepare(spec.model_copy(update={"dtype": dtype})).plan for dtype in ("float32", "float16")]
    assert [plan.parameters_bytes for plan in plans] == [
        info.loaded_bytes[dtype] for dtype in ("float32", "float16")
    ]


def test_weights_stored_in_half_take_twice_as_much_in_float32() -> None:
    info = describe("embedded")
    assert info.loaded_bytes["float32"] > 1.9 * info.parameters_bytes


# --- disk ------------------------------------------------------------------------------------------------------------


def test_the_image_that_reductions_read_counts_though_nobody_asked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = tiny_job(tmp_path / "both", monkeypatch, width=4000, height=4000, num_inference_steps=1, block=512)
    alone = tiny_job(
        tmp_path / "alone",
        monkeypatch,
        width=4000,
        height=4000,
        num_inference_steps=1,
        block=512,
        outputs="deep-zoom",
    )
    flat = replace(alone.plan, fields=(0, 0), channels=0)
    assert set(bytes_by_output(flat, alone.spec)) == {"deep-zoom", "latents"}
    assert disk_peak_bytes(flat, alone.spec) == disk_peak_bytes(flat, both.spec) > 4000 * 4000 * (2.6 + 2.2)


def test_it_is_there_when_all_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.engine.outputs import Outputs

    def here() -> int:
        return sum(
            path.stat().st_size for path in (tmp_path / "image.zarr").rglob("c/**/*") if path.is_file()
        )

    held: list[int] = []
    drop = Outputs.drop_master
    monkeypatch.setattr(Outputs, "drop_master", lambda self: (held.append(here()), drop(self))[1])
    run_here(tiny_job(tmp_path, monkeypatch, outputs="deep-zoom"))
    assert held[0] > 0
    assert not (tmp_path / "image.zarr").exists()


def test_encodings_of_tiles_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {}
    for encoding in ("jpg", "png", "webp"):
        job = tiny_job(tmp_path / encoding, monkeypatch, width=2000, height=1000, tile_format=encoding)
        sizes[encoding] = bytes_by_output(job.plan, job.spec)["deep-zoom"]
        assert report_on(job).bytes_by_output["deep-zoom"] == sizes[encoding]
    assert sizes["png"] > 2 * sizes["jpg"] > 2 * sizes["webp"]


def test_a_full_disk_is_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = embedded(tmp_path / "a", outputs="deep-zoom")
    needed = disk_peak_bytes(job.plan, job.spec)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    with pytest.raises(DoesNotFit, match="of disk"):
        embedded(tmp_path / "a", outputs="deep-zoom")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    assert worker_bytes(embedded(tmp_path / "a", outputs="deep-zoom").plan) > fitting.WORKER_BYTES


# --- out -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["s3://bucket/job", "file:///tmp/job", "gs://b", "https://host/a/b"])
def test_an_address_is_no_folder(out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["generate", "desert", "--size", "64x64"],
        ["plan", "desert", "--size", "64x64"],
        ["batch", "--n-images", "2", "--label", "desert", "--image-size", "64"],
    ):
        result = CliRunner().invoke(app, [*arguments, "--out", out])
        assert result.exit_code == 2, result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
        assert out.split("://")[0] + "://" in result.stderr
        assert "mount" in result.stderr
    with pytest.raises(SpecError, match="is an address"):
        embedded(Path(out))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["a:b/c", "./x:", "C:/pictures"])
def test_folders_with_colons_are_folders(out: str, tmp_path: Path) -> None:
    if out != "./x:":
        assert embedded(Path(out)).spec.out == Path(out).absolute()
    assert embedded(tmp_path / out).spec.out == tmp_path / out


# --- settings without effect -----------------------------------------------------------------------------------------


def notes_of(tmp_path: Path, **fields: Any) -> list[str]:
    lines: list[str] = []
    embedded(tmp_path, lines.append, **fields)
    assert not any("\n" in line for line in lines)
    return lines


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"negative_prompt": "zzz qqq"}, "negative_prompt changes nothing"),
        ({"method": "shifted", "overlap": 0.9}, "overlap 0.9 changes nothing"),
        ({"method": "random-grid", "overlap": 0.25}, "overlap 0.25 changes nothing"),
        ({"method": "hann", "blend_last": 3}, "blend_last 3 changes nothing"),
        ({"scheduler": "euler", "eta": 0.5}, "eta 0.5 changes nothing: scheduler euler"),
        ({"executor": "in-process", "workers": 3}, "workers 3 changes nothing: executor in-process"),
    ],
)
def test_what_changes_nothing_is_said_in_a_line(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    (line,) = notes_of(tmp_path, **fields)
    assert words in line


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"method": "shifted", "overlap": 0.5}, {"method": "hann", "overlap": 0.25},
        {"eta": 0.5, "scheduler": "ddim"},
        {"blend_last": 2, "method": "shifted"}, {"negative_prompt": ""},
        {"executor": "in-process", "workers": 1}, {"executor": "ray", "workers": 2},
        {"prompt": "world", "workers": 2}, {"prompt": "60% desert, forest", "workers": 2},
    ],
)  # fmt: skip
def test_what_is_read_or_usual_is_not(fields: dict[str, Any], tmp_path: Path) -> None:
    assert notes_of(tmp_path, **fields) == []


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("sd1", {}, False), ("sd1", {"guidance_scale": 1.0}, True), ("sd1", {"cond_scale": 0.0}, False),
        ("flux-dev", {}, True), ("flux-schnell", {}, True),
    ],
)  # fmt: skip
def test_negative_prompts_need_guidance(
    name: str, fields: dict[str, Any], said: bool, folders: dict[str, Path], tmp_path: Path
) -> None:
    lines = notes_of(tmp_path, model=str(folders[name]), negative_prompt="blurry", **fields)
    assert [line for line in lines if "negative_prompt changes nothing" in line] == lines
    assert bool(lines) == said


def test_the_command_line_shows_it_and_goes_on() -> None:
    flags = ["--size", "512x512", "--no-calibrate", "--overlap", "0.9", "--method", "shifted"]
    program = [sys.executable, "-m", "cluster.cli", "plan", "desert", *flags]
    result = subprocess.run(program, capture_output=True, text=True, check=True)
    planned, line = result.stderr.strip().splitlines()
    assert planned == "planning 'desert', 512 x 512 pixels"
    assert line.startswith("overlap 0.9 changes nothing")
    assert "megapixels" in result.stdout
