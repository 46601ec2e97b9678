"""The loop over a batch: giants first, then groups of small requests on the workers, each shard as it fills.

Goes on from manifests and parts; ends with errors.parquet, the card, seconds.parquet and _SUCCESS, in this order.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.datasets.card import write_card
from cluster.datasets.columns import ERRORS
from cluster.datasets.counting import DRAWN, RequestCounts, ShardPart, part_at, read_part
from cluster.datasets.drawing import BatchWorker
from cluster.datasets.extras import Extras
from cluster.datasets.giants import draw_giant, give_up
from cluster.datasets.names import (
    CARD,
    DRAW,
    ERROR_TABLE,
    FAILED,
    FILTERED,
    GIANT,
    SECONDS,
    SUCCESS,
    TIMINGS,
    WRITE,
)
from cluster.datasets.packing import RequestGroup, groups_of
from cluster.datasets.plan import Batch
from cluster.datasets.seconds import write_seconds
from cluster.datasets.shards import Manifest, is_finished, manifest_path, part_path, read_manifest
from cluster.datasets.singly import TRIES, draw_singly
from cluster.datasets.tasks import ASSEMBLE
from cluster.datasets.work import BatchWork
from cluster.datasets.written import tell
from cluster.engine import executors
from cluster.engine.driver import ATTEMPTS, Interrupted
from cluster.engine.executors.contract import Executor, Workload
from cluster.engine.outcomes import Outcome
from cluster.engine.queueing import Line
from cluster.engine.recovery import DamagedInputs
from cluster.engine.supervision import Named, Supervisor, TaskFailed
from cluster.following.events import (
    Event,
    JobFailed,
    JobFinished,
    JobInterrupted,
    JobStarted,
    OnEvent,
    StageTotal,
    TaskDone,
)
from cluster.jobs.report import guessed_evaluation
from cluster.jobs.stages import Task
from cluster.patience import LIMITS
from storage.damage import DamagedData
from storage.files import replace_by, replace_file

log = logging.getLogger(__name__)

MakeExecutor = Callable[[Workload], Executor]
Done = Callable[[Outcome, str], None]
"""Told of each task that is done, and of its kind."""


@dataclass(frozen=True)
class Summary:
    """What became of the requests."""

    requests: int
    drawn: int
    filtered: int
    failed: int
    shards: int


def run(batch: Batch, extras: Extras, on_event: OnEvent, make: MakeExecutor = executors.make) -> Summary:
    """Do what is left of a claimed batch. Raises Interrupted, or what a task raised that is no request's own fault."""
    began = time.perf_counter()
    try:
        with _ray_held(batch):
            _draw_until_whole(batch, on_event, make)
        summary = _finish(batch, extras)
    except (KeyboardInterrupt, Interrupted):
        on_event(JobInterrupted())
        raise Interrupted from None
    except Exception as error:
        on_event(JobFailed(f"{type(error).__name__}: {error}"))
        raise
    on_event(JobFinished(time.perf_counter() - began))
    return summary


@contextmanager
def _ray_held(batch: Batch) -> Iterator[None]:
    """One Ray for the giants and the rest."""
    if batch.spec.executor != "ray":
        yield
        return
    import ray

    from cluster.engine.executors.ray_actors import connect

    owns = connect((batch.spec.workers or 1) * batch.spec.threads)
    try:
        yield
    finally:
        if owns:
            ray.shutdown()


# --- what is left ----------------------------------------------------------------------------------------------------


@dataclass
class LeftOfBatch:
    """Tasks that are not done. waiting: groups of each shard without a part; counts: requests that are done.

    group_seconds: how long the longest group should take. damage: what a shard could not be put together for, last.
    """

    giants: list[tuple[Task, RequestGroup]]
    draws: deque[Task]
    waiting: Counter[int]
    done: dict[str, int]
    counts: RequestCounts
    group_seconds: float = 0.0
    damage: DamagedInputs | None = None

    @property
    def ready(self) -> Iterator[Task]:
        """Shards whose parts are all there, whose manifest is not."""
        return ((shard, ASSEMBLE) for shard, groups in self.waiting.items() if groups == 0)


def left_of(batch: Batch) -> LeftOfBatch:
    """By manifests, then by parts; requests are read a shard at a time and forgotten, but for giants."""
    left = LeftOfBatch([], deque(), Counter(), {DRAW: 0, GIANT: 0, WRITE: 0}, RequestCounts())
    for shard in range(batch.shards):
        groups = groups_of(batch.shard(shard), batch.budget)
        finished = is_finished(batch, shard)
        left.done[WRITE] += finished
        if finished:
            left.counts.add_shard(read_manifest(batch, shard))
        else:
            manifest_path(batch, shard).unlink(missing_ok=True)
            left.waiting[shard] = 0
        for number, group in enumerate(groups):
            task, name = (shard, number), GIANT if group.giant else DRAW
            part = None if finished else part_at(part_path(batch, *task))
            if finished or part is not None:
                left.done[name] += 1
                left.counts.kinds += Counter() if part is None else part.kinds
                continue
            left.waiting[shard] += 1
            if group.giant:
                left.giants.append((task, group))
            else:
                left.draws.append(task)
                left.group_seconds = max(left.group_seconds, _seconds(batch, group))
    return left


def _seconds(batch: Batch, group: RequestGroup) -> float:
    """How long a group of small requests should take."""
    evaluations = sum(2 * row.patches * row.steps for row in group.rows)
    return evaluations * guessed_evaluation(batch.info, batch.spec.device or "cpu")


def is_whole(batch: Batch) -> bool:
    """Whether every shard is there as its manifest tells."""
    return all(is_finished(batch, shard) for shard in range(batch.shards))


def _draw_until_whole(batch: Batch, on_event: OnEvent, make: MakeExecutor) -> None:
    """Draw, and draw again what was found damaged when shards were put together."""
    for _ in range(ATTEMPTS):
        damage = _draw_all(batch, on_event, make)
        if damage is None:
            return
        log.warning("%s; its requests are drawn again", damage)
    raise DamagedData(f"{damage}, {ATTEMPTS} times; is the disk in order?")


def _draw_all(batch: Batch, on_event: OnEvent, make: MakeExecutor) -> DamagedInputs | None:
    """Everything that is left; what was found damaged meanwhile, and is left now."""
    (batch.out / SUCCESS).unlink(missing_ok=True)
    left = left_of(batch)
    if not left.waiting:
        return None
    wanted = _with_workers_for(batch, left)
    on_event(_started(left, wanted.spec.workers or 1))
    on_event(left.counts.event())
    with (batch.out / TIMINGS).open("a", encoding="utf-8") as timings:

        def done(outcome: Outcome, name: str) -> None:
            part = _counted(left.counts, batch, outcome)
            timings.write(json.dumps(_timing(outcome, name, part)) + "\n")
            timings.flush()
            group = outcome.task[1]
            on_event(
                TaskDone(0, name, group, outcome.seconds, outcome.evaluations, outcome.worker, outcome.seats)
            )
            on_event(left.counts.event())

        with closing(make(BatchWork(wanted))) as executor:
            here, tasks = BatchWorker(batch), BatchTasks(left.group_seconds)
            supervisor = Supervisor(executor, tasks, on_event, LIMITS)
            alone = Supervisor(executor, tasks, on_event, replace(LIMITS, attempts=TRIES))
            deadly: list[tuple[Task, RequestGroup, TaskFailed]] = []
            for task, group in left.giants:
                try:
                    done(draw_giant(batch, task, group, executor, here.row_of, on_event), GIANT)
                    left.waiting[task[0]] -= 1
                except TaskFailed as error:
                    deadly.append((task, group, error))
            for task in _loop(left, left.draws, supervisor, done):
                done(draw_singly(batch, alone, task, left.counts.kinds[DRAWN] > 0), DRAW)
                left.waiting[task[0]] -= 1
            for task, group, lost in deadly:
                if not left.counts.kinds[DRAWN]:  # where nothing can be drawn, it is no request's fault
                    raise lost
                done(give_up(batch, task, group, lost), GIANT)
                left.waiting[task[0]] -= 1
            if left.damage is None:  # otherwise it would be found once more
                _loop(left, (), supervisor, done)
    return left.damage


def _with_workers_for(batch: Batch, left: LeftOfBatch) -> Batch:
    """The batch with no more workers than have something to do; large requests keep them all busy."""
    if batch.spec.workers is None or left.giants:
        return batch
    workers = min(batch.spec.workers, max(1, len(left.draws), len(left.waiting)))
    return replace(batch, spec=batch.spec.model_copy(update={"workers": workers}))


def _loop(left: LeftOfBatch, draws: Iterable[Task], supervisor: Supervisor, done: Done) -> list[Task]:
    """Groups shard by shard; a shard is put together as soon as its last group is drawn.

    Returns the groups whose worker died each time.
    """
    queue = Line([*left.ready, *draws])
    deadly: list[Task] = []
    for outcome in supervisor.outcomes(queue):
        shard, number = outcome.task
        if outcome.lost and number != ASSEMBLE:
            deadly.append(outcome.task)
        elif isinstance(outcome.error, DamagedInputs):
            left.damage = outcome.error
        elif outcome.error is not None:
            raise supervisor.failure(outcome)
        elif number == ASSEMBLE:
            done(outcome, WRITE)
            del left.waiting[shard]
        else:
            done(outcome, DRAW)
            left.waiting[shard] -= 1
            if left.waiting[shard] == 0:
                queue.push_first((shard, ASSEMBLE))
    return deadly


@dataclass(frozen=True)
class BatchTasks:
    """What the tasks of a batch are called, and how long they should take. group_seconds: of the longest group."""

    group_seconds: float

    def named(self, task: Task) -> Named:
        shard, number = task
        if number == ASSEMBLE:
            return Named(0, WRITE, shard, f"{WRITE}, shard {shard}")
        return Named(0, DRAW, number, f"{DRAW}, shard {shard}, group {number}")

    def expected_seconds(self, task: Task) -> float:
        return 0.0 if task[1] == ASSEMBLE else self.group_seconds


def _started(left: LeftOfBatch, workers: int) -> Event:
    totals = {
        GIANT: len(left.giants) + left.done[GIANT],
        DRAW: len(left.draws) + left.done[DRAW],
        WRITE: len(left.waiting) + left.done[WRITE],
    }
    stages = tuple(StageTotal(name, total, left.done[name]) for name, total in totals.items() if total)
    return JobStarted(stages, workers)


def _counted(counts: RequestCounts, batch: Batch, outcome: Outcome) -> ShardPart | None:
    """Count what a task did; the part that it wrote, where it drew."""
    if outcome.task[1] == ASSEMBLE:
        counts.shards += 1
        return None
    part = read_part(part_path(batch, *outcome.task))
    counts.kinds += part.kinds
    return part


def _timing(outcome: Outcome, name: str, part: ShardPart | None) -> dict[str, object]:
    shard, number = outcome.task
    return {
        "task": name,
        "shard": shard,
        "group": None if number == ASSEMBLE else number,
        "rows": None if part is None else part.rows,
        "seconds": round(outcome.seconds, 4),
        "evaluations": outcome.evaluations,
        "seats": outcome.seats,
        "worker": outcome.worker,
    }


# --- the end ---------------------------------------------------------------------------------------------------------


def _finish(batch: Batch, extras: Extras) -> Summary:
    complete(batch, extras, anew=(ERROR_TABLE, CARD, SECONDS))
    summary = _summary(batch, [read_manifest(batch, shard) for shard in range(batch.shards)])
    replace_file(batch.out / SUCCESS, (json.dumps(asdict(summary)) + "\n").encode())
    return summary


def complete(batch: Batch, extras: Extras, anew: Sequence[str] = ()) -> None:
    """Write what a batch whose shards are whole lacks beside them, and what is due anew; and tell of all of it."""
    manifests = [read_manifest(batch, shard) for shard in range(batch.shards)]
    writers: dict[str, Callable[[], None]] = {
        ERROR_TABLE: lambda: _write_errors(batch, manifests),
        CARD: lambda: write_card(batch, manifests),
        SECONDS: lambda: write_seconds(batch),
    }
    for name, write in writers.items():
        if name in anew or not (batch.out / name).is_file():
            write()
    extras.write(batch)
    tell(batch.out, anew)


def _write_errors(batch: Batch, manifests: Sequence[Manifest]) -> None:
    missing = [request for manifest in manifests for request in manifest.missing]
    table = pa.Table.from_pylist([{name: row[name] for name in ERRORS.names} for row in missing], ERRORS)
    replace_by(batch.out / ERROR_TABLE, lambda path: pq.write_table(table, path))


def _summary(batch: Batch, manifests: list[Manifest]) -> Summary:
    kinds = Counter(request["kind"] for manifest in manifests for request in manifest.missing)
    drawn = sum(manifest.rows for manifest in manifests)
    return Summary(batch.requests, drawn, kinds[FILTERED], kinds[FAILED], batch.shards)


def read_success(folder: Path) -> Summary | None:
    """The summary of a finished batch; None where there is none, or none that can be read, for it can be found anew."""
    try:
        return Summary(**json.loads((folder / SUCCESS).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
