"""The end of a job: is all that its tasks wrote whole, and what is written only then. Knows outputs and the ledger.

A finished job has a line `closed` in its ledger, with the small files that it ends with; what each task wrote is in the
task's own line. So a finished folder can be checked at a glance, by sizes, or whole, by reading.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.engine.recovery import to_be_read
from cluster.engine.written import TaskOutputs, bytes_of_file, digest_of, written_file
from cluster.following.status import LEDGER
from cluster.jobs.plan import WORK
from cluster.jobs.stages import Task
from cluster.rereading import REREADING, Rereading
from cluster.spec.job_file import LATENTS
from storage.arrays import METADATA
from storage.damage import DamagedData
from storage.files import sync_file_system
from storage.ledger import Done, Ledger, LedgerRecord, Written, is_readable, set_aside
from storage.task_set import TaskSet

if TYPE_CHECKING:
    from cluster.jobs.job import Job

log = logging.getLogger(__name__)

NAMED = 3
"""Damaged things that are named in a line; of more, how many there are."""


def open_ledger(job: Job, reading: Rereading = REREADING) -> Ledger:
    """The ledger of a job whose folder this process has claimed. One that cannot be read is begun anew."""
    path = job.spec.out / LEDGER
    if not reading.is_whole(lambda: is_readable(path)):
        set_aside(path)
    return Ledger(path, job.fingerprint, [stage.tasks for stage in job.plan.stages])


def read_ledger(job: Job) -> LedgerRecord:
    """What the ledger of a job tells; nothing is changed."""
    return LedgerRecord(job.spec.out / LEDGER, job.fingerprint, [stage.tasks for stage in job.plan.stages])


@dataclass(frozen=True)
class LeftToDo:
    """Whether something is left to do, and the names of what is damaged among it."""

    work: bool
    damaged: tuple[str, ...] = ()


def left_to_do(job: Job, ledger: Ledger, *, thorough: bool) -> LeftToDo:
    """What is missing or damaged is forgotten, so that it is to be done again. Says so in a line.

    thorough: by reading all that should be there. Otherwise by the sizes of a finished job; the tasks of one that is
    under way find what is damaged.
    """
    closing = Closing(job, ledger)
    finished = closing.is_finished()
    if not (finished or thorough):
        return LeftToDo(work=True)
    tasks, files = closing.changed(thorough=thorough)
    damaged = tuple(closing.named(tasks, files))
    if damaged:
        log.warning("%s: missing or not as written, to be made again", listed(damaged))
        ledger.forget(tasks)
    elif finished:
        closing.remove_leftovers()
    return LeftToDo(not finished or bool(damaged), damaged)


class Closing:
    """Checks what a job has written, and closes its outputs. reading: how patiently."""

    def __init__(self, job: Job, ledger: LedgerRecord, reading: Rereading = REREADING) -> None:
        self._folder = job.spec.out
        self._ledger = ledger
        self._reading = reading
        self._kept = job.plan.kept_stages
        self.outputs = TaskOutputs.of(job)

    def begin(self) -> None:
        """Make, or mend, what all writers share."""
        self.outputs.outputs.create()

    def damaged(self) -> Iterator[Task]:
        """Tasks whose output is not as they wrote it, by reading all that a finished job keeps of it.

        And those whose part of the master is gone, where files that are derived from it are to be made.
        """
        derive = self._must_derive()
        return self._not_as_written(self._kept, serving=derive)

    def _not_as_written(
        self, stages: Collection[int], *, tasks: TaskSet | None = None, serving: bool = False
    ) -> Iterator[Task]:
        """Tasks of these stages whose output is not as it was written.

        tasks: only of these, None of all. serving: what does not serve later tasks as well.
        """
        entries = (entry for entry in self._ledger.written(stages) if tasks is None or entry.task in tasks)
        for entry, whole in self._reading.whole(entries, self._is_whole):
            if not whole or (serving and not self.outputs.serves(entry.task)):
                yield entry.task

    def end(self, ledger: Ledger) -> None:
        """Write the last files, and into the ledger that all is there; remove what is not kept."""
        self.outputs.outputs.close(derive=self._must_derive())
        latents = self._folder / LATENTS
        files = [*self.outputs.outputs.own_files(), latents / METADATA, latents.parent / METADATA]
        sync_file_system(self._folder)  # tiles are not synced one by one
        ledger.close_job({self.name_of(path): self._written_file(path) for path in files})
        self.remove_leftovers()

    def _written_file(self, path: Path) -> Written:
        """Raises DamagedData for one that cannot be read, although it was just written."""
        read: list[Written] = []

        def look() -> bool:
            read.append(written_file(path))
            return True

        if not self._reading.is_whole(look):
            raise DamagedData(f"{path} was just written and cannot be read; is the disk in order?")
        return read[0]

    # --- a finished job

    def is_finished(self) -> bool:
        """Whether every task is done and the outputs are closed, as far as the ledger tells."""
        plan = self.outputs.plan
        done = all(self._ledger.done.count(index) == stage.tasks for index, stage in enumerate(plan.stages))
        return done and self._ledger.closed is not None

    def changed(self, *, thorough: bool) -> tuple[list[Task], list[Path]]:
        """Tasks, and files of a finished job's end, whose output is missing or not as it was written.

        thorough: by reading all that should be there, of a job under way, too; otherwise by the sizes of what is kept.
        """
        told = self._ledger.closed.files if self._ledger.closed else {}
        files = [(self._folder / name, written) for name, written in told.items()]
        if thorough:
            standing = [task for stage, tasks in self._standing() for task in self._damaged_of(stage, tasks)]
            return standing, [
                path for (path, _), whole in self._reading.whole(files, _is_file_as) if not whole
            ]
        tasks = [
            entry.task
            for entry in self._ledger.written(self._kept)
            if entry.written is not None and self.outputs.bytes_of(entry.task) != entry.written.bytes
        ]
        return tasks, [path for path, written in files if bytes_of_file(path) != written.bytes]

    def _standing(self) -> Iterator[tuple[int, TaskSet]]:
        """Stage by stage, tasks whose output should be there: all that is kept, else what a later task will read."""
        plan, done = self.outputs.plan, self._ledger.done
        for stage in range(len(plan.stages)):
            yield stage, done if stage in self._kept else TaskSet(to_be_read(plan, done, stage))

    def _damaged_of(self, stage: int, tasks: TaskSet) -> Iterator[Task]:
        if tasks.count(stage):
            yield from self._not_as_written(range(stage, stage + 1), tasks=tasks)

    def named(self, tasks: Sequence[Task], files: Sequence[Path]) -> list[str]:
        """Tasks and files as people read them."""
        return [self.outputs.name(task) for task in tasks] + [self.name_of(path) for path in files]

    def standing_tasks(self) -> int:
        """How many tasks have output that should be there."""
        return sum(tasks.count(stage) for stage, tasks in self._standing())

    def remove_leftovers(self) -> None:
        """What is not kept: an earlier run may have ended before it was all gone."""
        self.outputs.outputs.drop_master()
        self.outputs.store.delete(WORK)

    def _must_derive(self) -> bool:
        """Whether files that are derived from the master are to be made: unless it goes, and they are as they were."""
        derived = self.outputs.outputs.derived_files()
        if self.outputs.outputs.keeps_master or self._ledger.last_closed is None:
            return bool(derived)
        told = self._ledger.last_closed.files
        known = [(path, told[self.name_of(path)]) for path in derived if self.name_of(path) in told]
        whole = [whole for _, whole in self._reading.whole(known, _is_file_as)]
        return not (all(whole) and len(known) == len(derived))

    def _is_whole(self, entry: Done) -> bool:
        return entry.written is not None and self.outputs.is_as(entry.task, entry.written)

    def name_of(self, path: Path) -> str:
        """A file by its path in the job's folder."""
        return path.relative_to(self._folder).as_posix()


def listed(names: Sequence[str]) -> str:
    """The first few of several names, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _is_file_as(told: tuple[Path, Written]) -> bool:
    path, written = told
    return path.is_file() and digest_of([path]) == written.digest
