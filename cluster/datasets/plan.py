"""A batch made definite: its settings, its numbered requests, its shards and its folder. Draws nothing.

    work/requests.parquet     the checked requests; row group s holds those of shard s
    work/masks/SHA256.png     class maps that came as bytes
    batch.json                the settings and the fingerprint of all of it

Which shard a request is in depends on the order of the requests and their sizes alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cluster.datasets.names import NAME, REQUESTS, WORK
from cluster.datasets.requests import OF_ROWS
from cluster.jobs.job import Job, prepare_described
from cluster.spec.fields import INPUTS, SETTINGS, JobSpec, SpecError
from cluster.spec.identity import PICTURE_VERSION, check_inputs, model_facts, picture_facts
from cluster.spec.paths import model_in_public
from cluster.spec.prediction import correction_facts
from cluster.words.legend import legend_of
from cluster.words.regions import JobRegions, has_regions
from storage.claim import NAME as LOCK
from storage.documents import DocumentError, parse_json
from storage.files import is_leftover, replace_file
from storage.fingerprint import FormatError
from storage.formats.labels import Legend
from storage.geometry import Canvas

if TYPE_CHECKING:
    from generation.models.contracts import ModelInfo

FORMAT_VERSION = 1
UNCLAIMED = ".requests.parquet"
SHARD_BYTES, GROUP_BYTES = 500 * 10**6, 100 * 10**6
"""The most that a shard, and a row group of it, take."""
MOST_ROWS = 8192
"""Of a shard: what is drawn again, at most, when its parts are lost."""
ROW_BYTES = 4096
"""Allowed for everything of a row but its pictures."""
FULL_BATCHES, LEAST_GROUPS = 16, 8
"""Batches of patches that a group of requests is packed to at each step; fewer where there would be few groups."""

OWN = {"index": pa.int64(), "id": pa.string()}
FOUND = {"classes_hash": pa.string(), "giant": pa.bool_(), "patches": pa.int32()}
TOLD = {name: pa.type_for_alias(SETTINGS[name].column) for name in OF_ROWS}
SCHEMA = pa.schema(list({**OWN, **TOLD, **FOUND}.items()))


@dataclass(frozen=True)
class CheckedRequest:
    """One checked request. patches: of one step, at most. giant: of more than one block, a job of its own.

    told: what rows may say, by field of JobSpec, made definite; files as text. classes_hash: the SHA-256 of what was in
    its class map when it was checked.
    """

    index: int
    id: str
    told: Mapping[str, Any]
    classes_hash: str | None
    giant: bool
    patches: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> CheckedRequest:
        """The request of a row of SCHEMA."""
        own = {name: row[name] for name in (*OWN, *FOUND)}
        return cls(**own, told={name: row[name] for name in TOLD})

    def row(self) -> dict[str, Any]:
        """The request as a row of SCHEMA."""
        return {**{name: getattr(self, name) for name in (*OWN, *FOUND)}, **self.told}

    @property
    def width(self) -> int:
        """Width of the picture, in pixels."""
        return int(self.told["width"])

    @property
    def height(self) -> int:
        """Height of the picture, in pixels."""
        return int(self.told["height"])

    @property
    def steps(self) -> int:
        """Denoising steps."""
        return int(self.told["num_inference_steps"])

    def spec(self, settings: JobSpec) -> JobSpec:
        """The job that `generate` would do with the same settings."""
        own = {
            name: Path(value) if name in INPUTS and value is not None else value
            for name, value in self.told.items()
        }
        labels = None if own["classes"] is None else settings.class_labels
        return settings.model_copy(update={**own, "class_labels": labels})

    def job(self, batch: Batch, **update: Any) -> Job:
        """The job of this request, of the batch's model; `update` changes its spec.

        Raises SpecError where it cannot be drawn, or where its class map is no longer the one that was checked.
        """
        spec = self.spec(batch.spec).model_copy(update=update)
        check_inputs(spec, {**batch.inputs, "classes": self.classes_hash or ""})
        return prepare_described(spec, batch.info, check_fit=False, map_info=batch.map_info)


@dataclass(frozen=True)
class Sizes:
    """Limits of the files, in bytes; smaller ones make more files."""

    shard_bytes: int = SHARD_BYTES
    group_bytes: int = GROUP_BYTES


@dataclass(frozen=True)
class Extent:
    """Pixels of all requests, of the largest shard, and of the largest request of more than one block."""

    pixels: int = 0
    largest_shard: int = 0
    largest_giant: int = 0

    def with_shard(self, rows: list[CheckedRequest]) -> Extent:
        """The extent with the requests of one more shard."""
        shard = sum(row.width * row.height for row in rows)
        giants = [row.width * row.height for row in rows if row.giant]
        return Extent(
            self.pixels + shard, max(self.largest_shard, shard), max(self.largest_giant, *giants, 0)
        )


@dataclass(frozen=True)
class Batch:
    """What workers and driver need to know: small, whatever the number of requests. Satisfies Workload.

    spec: the settings of the flags, its device and batch size made definite, its prompt and size perhaps not those
    of any request. budget: patches of a step that a group is packed to. filter: "module:function" or None;
    filter_folder: where modules are looked for too. judge: the filter itself, where it was given as a function.
    map_info: of the map model that prompts may ask for. inputs: contents of the files that the settings name, by field.
    """

    spec: JobSpec
    info: ModelInfo
    map_info: ModelInfo | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    requests: int = 0
    shards: int = 0
    budget: int = 1
    fingerprint: str = ""
    filter: str | None = None
    filter_folder: str = ""
    judge: Callable[[Image.Image], Any] | None = None
    sizes: Sizes = field(default_factory=Sizes)
    extent: Extent = field(default_factory=Extent)

    @property
    def out(self) -> Path:
        return self.spec.out

    @property
    def work(self) -> Path:
        return self.spec.out / WORK

    def shard(self, number: int) -> list[CheckedRequest]:
        """The requests of one shard, in order."""
        with pq.ParquetFile(self.work / REQUESTS) as file:
            return [CheckedRequest.of(row) for row in file.read_row_group(number).to_pylist()]

    def shard_name(self, number: int) -> str:
        return f"train-{number:05d}-of-{self.shards:05d}"

    @property
    def masked(self) -> bool:
        """Whether pictures have a mask: of classes, or of regions."""
        return bool(self.info.class_names) or has_regions(self.spec)


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but a batch, before a file is written there."""
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"{folder} is a file; name a folder with --out")
    if folder.is_dir() and not (folder / NAME).is_file():
        names = [path.name for path in folder.iterdir()]
        others = [name for name in names if name not in (WORK, LOCK) and not is_leftover(name)]
        if others:
            raise SpecError(
                f"{folder} holds other files ({others[0]}); name a new or empty folder with --out"
            )


def enter(batch: Batch, resume: bool) -> None:
    """Claim the folder for this batch. Raises SpecError or FormatError where it is another's."""
    _claim(batch, resume)
    (batch.work / UNCLAIMED).replace(batch.work / REQUESTS)


def commits_in(folder: Path) -> dict[str, str]:
    """Commits of what the batch of a folder takes from the hub; none where it holds no batch."""
    return dict(saved_in(folder).get("commits", {})) if (folder / NAME).is_file() else {}


def saved_in(folder: Path) -> dict[str, Any]:
    """What batch.json of a folder says. Raises FormatError where it is damaged, OSError where there is none."""
    path = folder / NAME
    try:
        saved = parse_json(path.read_bytes())
    except DocumentError as error:
        raise FormatError(f"{path} is damaged: it {error}; start the batch again in another folder") from None
    if not isinstance(saved, dict):
        raise FormatError(f"{path} is damaged: it holds {str(saved)[:40]}")
    return saved


def _claim(batch: Batch, resume: bool) -> None:
    path = batch.out / NAME
    if path.is_file():
        saved = saved_in(batch.out)
        if saved.get("allow_pickle") and not batch.spec.allow_pickle:
            raise SpecError(
                f"{batch.out} was begun with --allow-pickle, and unpickling can run code: add it again to go on"
            )
        if saved.get("format_version") != FORMAT_VERSION or saved.get("fingerprint") != batch.fingerprint:
            raise FormatError(
                f"{batch.out} holds another batch (other requests, settings, model or version{_seeds(batch)}); "
                "choose another --out"
            )
        if not resume:
            raise SpecError(
                f"{batch.out} already holds this batch; add --resume to go on with it, or choose another --out"
            )
        return
    document = {"format_version": FORMAT_VERSION, "fingerprint": batch.fingerprint, **facts_of(batch)}
    document |= {
        "requests": batch.requests,
        "shards": batch.shards,
        "model": model_in_public(batch.spec.model),
        "allow_pickle": batch.spec.allow_pickle,
        "commits": dict(batch.spec.commits),
    }
    document |= {"legend": _legend(batch)}
    replace_file(path, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())


def _seeds(batch: Batch) -> str:
    """What tells apart a batch that was begun with a drawn seed from one that draws another."""
    began, now = (_first_seed(batch.work / name) for name in (REQUESTS, UNCLAIMED))
    if began is None or began == now:
        return ""
    return f"; its first request has the seed {began}, not {now}: was it begun with --seed {began}?"


def _first_seed(path: Path) -> int | None:
    """The seed of the request in row 0; None where requests are not kept any more, or are half there."""
    try:
        with pq.ParquetFile(path) as file:
            return int(file.read_row_group(0, columns=["seed"])[0][0].as_py())
    except (OSError, pa.ArrowException):
        return None


def _legend(batch: Batch) -> Legend:
    """Names and colours of the masks' values.

    Region 0 is where there is none, which every request calls by its own prompt.
    """
    if not has_regions(batch.spec):
        return legend_of(batch.info)
    (_, colour), *regions = JobRegions(batch.spec, Canvas(1, 1), batch.info.scale, guided=False).legend()
    return (("elsewhere", colour), *regions)


def facts_of(batch: Batch) -> dict[str, Any]:
    """What determines the files of a batch, but for its requests."""
    settings = picture_facts(batch.spec, batch.inputs, [name for name in SETTINGS if name not in OF_ROWS])
    maps = () if batch.map_info is None else (batch.map_info,)
    sizes = [batch.sizes.shard_bytes, batch.sizes.group_bytes]
    return {
        "version": PICTURE_VERSION,
        "settings": settings,
        **model_facts(batch.info, *maps),
        **correction_facts(batch.info),
        "filter": batch.filter,
        "sizes": sizes,
    }


def worst_bytes(width: int, height: int, masked: bool) -> int:
    """The most that a request's row takes: PNG of noise is a little larger than the pixels."""
    return int((4 if masked else 3) * width * height * 1.01) + 2 * height + ROW_BYTES
