"""Invented class maps: the words that ask for one, the map as a job of its own, the picture that is drawn on it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_class_models
import torch
from engine import files_of
from PIL import Image

from cluster import generate, resume, verify
from cluster.engine.worker import class_map
from cluster.following.events import Event, JobStarted, TaskDone
from cluster.jobs.job import prepare
from cluster.spec.fields import JobSpec, SpecError
from cluster.spec.job_file import LATENTS
from cluster.words.class_maps import InventedMap
from generation.models.errors import ModelError
from generation.models.loading import describe, load
from generation.models.maps import Legend, smoothed
from generation.models.mixes import parse_mix
from generation.models.wishes import Wish
from generation.places.scenes import CLASSES, Mix, parse
from storage.arrays import ArrayStore
from storage.geometry import Box

NAMES = ("sea", "sand", "wood")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_class_models.build_class_map(tmp_path_factory.mktemp("with-map") / "model")
    tiny_class_models.build_map(folder / "map")
    return folder


def job_spec(model: Path, out: Path, **fields) -> JobSpec:
    given = {"prompt": "60% sea, wood", "width": 300, "height": 280, "num_inference_steps": 2, "tile": 64}
    return JobSpec(model=str(model), out=out, device="cpu", executor="in-process", **{**given, **fields})


def test_a_map_is_drawn_with_the_precision_that_is_asked_for(model: Path, tmp_path: Path) -> None:
    maps = {
        dtype: prepare(job_spec(model, tmp_path, dtype=dtype)).map for dtype in (None, "float32", "bfloat16")
    }
    assert [job.spec.dtype for job in maps.values() if job] == ["float32", "float32", "bfloat16"]
    assert maps[None] and maps["float32"] and maps[None].fingerprint == maps["float32"].fingerprint


@pytest.mark.parametrize(
    ("words", "shares"),
    [
        ("sea, sand and wood", {"sea": 1 / 3, "sand": 1 / 3, "wood": 1 / 3}),
        ("60% sea, wood", {"sea": 0.6, "wood": 0.4}),
        ("50 % of sea + 25% sand & 25% wood", {"sea": 0.5, "sand": 0.25, "wood": 0.25}),
        ("20% sea, 20% wood", {"sea": 0.5, "wood": 0.5}),
        ("sea with sea", {"sea": 1.0}),
        ("world", {}),
    ],
)
def test_words_become_shares(words: str, shares: dict[str, float]) -> None:
    assert parse_mix(words, NAMES) == pytest.approx(shares)


def test_words_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="110 %"):
        parse_mix("90% sea, 20% wood", NAMES)
    with pytest.raises(ValueError, match="did you mean 'wood'.*60% sea, wood"):
        parse("sea and woood", NAMES)
    assert parse("wood", NAMES) == "wood"
    assert parse("sea, wood", NAMES) == Mix("sea, wood", {"sea": 0.5, "wood": 0.5})
    with pytest.raises(ValueError, match="does not know 'archipelago'"):
        parse("archipelago", NAMES)


def test_votes_remove_specks_and_keep_coasts() -> None:
    ids = np.zeros((9, 9), np.uint8)
    ids[:, 5:] = 1
    speckled = ids.copy()
    speckled[4, 2] = 2
    assert np.array_equal(smoothed(speckled, 3), ids)


def test_the_network_is_told_the_wish_and_answers_with_shares(model: Path) -> None:
    loaded = load(str(model / "map"))
    from generation.models.contracts import Request

    conditioner = loaded.conditioner_for(Request("60% sea, wood", "", 16, 16))
    boxes = [Box(0, 16, 0, 16), Box(8, 24, 0, 16)]
    wish = conditioner.conditional(boxes)["wish"]
    assert wish.shape == (2, 4, 16, 16)
    shares = wish[0, :, 3, 3].tolist()
    assert shares[1] == shares[3] == 0.0 and sum(shares) == pytest.approx(1.0)
    said = loaded.denoiser.predict(torch.randn(2, 3, 16, 16), torch.tensor(500), {"wish": wish})
    assert torch.allclose((said + 1 / 3).sum(dim=1), torch.ones(2, 16, 16), atol=1e-5)


def wish_of(shares: dict[str, float], height: int = 200, width: int = 320, seed: int = 1) -> Wish:
    return Wish(shares, NAMES, height, width, seed)


def test_wishes_drift_and_their_mean_is_the_mix() -> None:
    shares = {"sea": 0.6, "wood": 0.4}
    planes = np.mean([wish_of(shares, seed=seed).read(Box(0, 200, 0, 320)) for seed in range(12)], axis=0)
    assert planes.mean(axis=(1, 2)) == pytest.approx([0.6, 0.0, 0.4], abs=0.08)
    one = wish_of(shares).read(Box(0, 200, 0, 320))
    assert one.sum(axis=0) == pytest.approx(np.ones((200, 320)), abs=1e-5)
    assert one[0].min() < 0.45 and one[0].max() > 0.75


def test_the_wish_of_a_box_is_the_crop_of_the_canvas_and_wraps() -> None:
    wish = wish_of({"sea": 0.6, "wood": 0.4})
    whole = wish.read(Box(0, 200, 0, 320))
    assert np.allclose(wish.read(Box(31, 77, 50, 191)), whole[:, 31:77, 50:191])
    over = wish.read(Box(-10, 10, 300, 340))
    assert np.allclose(over, np.roll(whole, (10, -300), (1, 2))[:, :20, :40], atol=1e-5)


def test_the_world_has_climates_where_their_classes_are_known() -> None:
    assert not wish_of({}).read(Box(0, 8, 0, 8)).any()
    planes = Wish({}, CLASSES, 400, 400, 2).read(Box(0, 400, 0, 400))
    assert planes.sum(axis=0) == pytest.approx(np.ones((400, 400)), abs=1e-5)
    assert planes[CLASSES.index("deep ocean")].max() > 0.8
    assert planes[CLASSES.index("desert")].max() > 0.4


def test_the_temperature_rises_with_the_noise(model: Path) -> None:
    temperatures = (
        describe(str(model / "map")).notes["calm"].temperatures(torch.tensor([0, 300, 550, 800, 999]))
    )
    assert temperatures.tolist() == pytest.approx([0.5, 0.5, 0.75, 1.0, 1.0])


def test_a_cell_that_is_certain_stays_what_it_is(model: Path) -> None:
    loaded = load(str(model / "map"))
    ids = torch.randint(3, (1, 16, 16), generator=torch.Generator().manual_seed(0))
    planes = torch.nn.functional.one_hot(ids, 3).movedim(-1, 1).float() - 1 / 3
    wish = torch.zeros(1, 4, 16, 16)
    assert torch.equal(loaded.denoiser.predict(planes, torch.tensor(0), {"wish": wish}).argmax(dim=1), ids)


def test_colours_and_back(model: Path) -> None:
    codec = load(str(model / "map")).codec
    planes = np.full((1, 3, 8, 8), -1 / 3, np.float32)
    planes[0, 1, :, :4] = planes[0, 2, :, 4:] = 2 / 3
    there = codec.decode(torch.from_numpy(planes))
    assert torch.allclose(codec.encode(there), torch.from_numpy(planes), atol=1e-6)


def test_the_picture_is_drawn_on_the_map_and_both_are_kept(model: Path, tmp_path: Path) -> None:
    heard: list[Event] = []
    generate(job_spec(model, tmp_path / "out"), on_event=heard.append)
    job = prepare(job_spec(model, tmp_path / "out"), check_fit=False)
    assert job.map is not None
    assert (tmp_path / "out" / "map" / "index.html").exists()
    assert [event.stages[0].name for event in heard if isinstance(event, JobStarted)] == [
        "map denoise 0",
        "denoise 0",
    ]
    assert any(isinstance(event, TaskDone) and event.stage_name.startswith("map ") for event in heard)
    planes = ArrayStore(tmp_path / "out" / "map").read(
        LATENTS,
        (slice(0, 3), slice(0, job.map.plan.canvas.height), slice(0, job.map.plan.canvas.width)),
    )
    ids = Legend.of(job.map.info).ids(planes).repeat(4, 0).repeat(4, 1)
    canvas = job.plan.canvas
    drawn = class_map(job)
    assert isinstance(drawn, InventedMap)
    assert np.array_equal(drawn.read(canvas.box).numpy(), ids[: canvas.height, : canvas.width])
    box = Box(13, 50, 7, 41)
    assert np.array_equal(drawn.read(box).numpy(), ids[13:50, 7:41])


def test_a_users_map_of_the_same_classes_gives_the_same_picture(model: Path, tmp_path: Path) -> None:
    generate(job_spec(model, tmp_path / "invented"))
    job = prepare(job_spec(model, tmp_path / "invented"), check_fit=False)
    ids = class_map(job).read(job.plan.canvas.box).numpy().astype(np.uint8)
    Image.fromarray(ids).save(tmp_path / "map.png")
    generate(job_spec(model, tmp_path / "painted", classes=tmp_path / "map.png"))
    first, second = (
        ArrayStore(tmp_path / name).read(LATENTS, (slice(None),) * 3) for name in ("invented", "painted")
    )
    assert np.array_equal(first, second)


def test_blocks_do_not_change_map_or_picture(model: Path, tmp_path: Path) -> None:
    for block in (24, 128):
        generate(job_spec(model, tmp_path / str(block), block=block, topology="torus", width=320, height=256))
    for name in (LATENTS, f"map/{LATENTS}"):
        first, second = (
            ArrayStore(tmp_path / str(block)).read(name, (slice(None),) * 3) for block in (24, 128)
        )
        assert np.array_equal(first, second)


def test_maps_wrap_as_the_picture_does(model: Path, tmp_path: Path) -> None:
    spec = job_spec(model, tmp_path / "ring", topology="ring", width=320)
    generate(spec)
    job = prepare(spec, check_fit=False)
    drawn, width = class_map(job), job.plan.canvas.width
    over = drawn.read(Box(0, 40, width - 10, width + 20)).numpy()
    assert np.array_equal(over[:, 10:], drawn.read(Box(0, 40, 0, 20)).numpy())
    assert np.array_equal(over[:, :10], drawn.read(Box(0, 40, width - 10, width)).numpy())


def test_a_map_that_was_begun_is_gone_on_with(model: Path, tmp_path: Path) -> None:
    spec = job_spec(model, tmp_path / "out")

    def stop(event: Event) -> None:
        if isinstance(event, TaskDone) and event.stage_name == "map denoise 1":
            raise KeyboardInterrupt

    from cluster.engine.driver import Interrupted

    with pytest.raises(Interrupted):
        generate(spec, on_event=stop)
    generate(spec, resume=True)
    generate(job_spec(model, tmp_path / "whole"))
    first, second = (
        ArrayStore(tmp_path / name).read(LATENTS, (slice(None),) * 3) for name in ("out", "whole")
    )
    assert np.array_equal(first, second)


def test_a_map_that_is_gone_is_told_and_made_again(model: Path, tmp_path: Path) -> None:
    out = generate(job_spec(model, tmp_path / "out")).folder
    before = files_of(out)
    shutil.rmtree(out / "map")
    assert verify(out).damaged == ("map",) and not (out / "map").exists()
    resume(out, thorough=True)
    assert files_of(out) == before and verify(out).is_whole


def test_what_cannot_be_is_refused(model: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="has no map model"):
        prepare(job_spec(folders["class-map"], tmp_path / "a"))
    with pytest.raises(SpecError, match=r"too small to wrap.*at least 256 pixels"):
        prepare(job_spec(model, tmp_path / "b", topology="torus", width=128, height=128))
    with pytest.raises(SpecError, match="unknown class 'ocean'"):
        prepare(job_spec(model / "map", tmp_path / "c", prompt="ocean"))
    broken = tmp_path / "broken"
    shutil.copytree(model / "map", broken)
    table = json.loads((broken / "map.json").read_text())
    (broken / "map.json").write_text(json.dumps(table | {"format_version": 9}))
    with pytest.raises(ModelError, match="format_version 9"):
        describe(str(broken))
