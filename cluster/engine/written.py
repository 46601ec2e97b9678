"""What each task of a job wrote: where it lies, how large it is, whether it is whole. Knows a plan and files.

denoise k, block     its chunk of x[k] and, but for the last step, its sums: values with checksums of their own
decode, pyramid      its files of every output, of which the ledger keeps a digest
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.engine.outputs import Outputs, outputs_for
from cluster.jobs.plan import Plan
from cluster.jobs.stages import Task
from storage.arrays import ArraySpec, ArrayStore
from storage.damage import DamagedData
from storage.files import naming
from storage.ledger import Written
from storage.pyramid import PyramidTask

if TYPE_CHECKING:
    from cluster.jobs.job import Job

DIGEST_BYTES = 8
READ_BYTES = 2**20


@dataclass(frozen=True)
class TaskOutputs:
    """Looks at the outputs of a job's tasks, wherever it is needed."""

    plan: Plan
    store: ArrayStore
    outputs: Outputs

    @classmethod
    def of(cls, job: Job) -> TaskOutputs:
        return cls(job.plan, ArrayStore(job.spec.out), outputs_for(job))

    def written(self, task: Task) -> Written:
        """What a task has written, as the ledger keeps it. Raises DamagedData where something of it is missing."""
        size = self.bytes_of(task)
        if size is None:
            raise DamagedData(f"{self.name(task)} did not write all of its output")
        return Written(size, "" if self._has_arrays(task) else digest_of(self._kept(task)))

    def bytes_of(self, task: Task) -> int | None:
        """Bytes of what a finished job keeps of a task, or of its arrays; None where something is missing."""
        if self._has_arrays(task):
            return _sum(self.store.bytes_of(array, chunk) for array, chunk in self._chunks(task))
        return _sum(map(bytes_of_file, self._kept(task)))

    def serves(self, task: Task) -> bool:
        """Whether all that later tasks read of a task is there. A look at names; what it holds is not read."""
        if self._has_arrays(task):
            return self.bytes_of(task) is not None
        return all(file.is_file() for file in self.outputs.master_files(self._pyramid_task(task)))

    def check(self, task: Task) -> None:
        """Read all that later tasks read of a task. Raises DamagedData where it is not whole."""
        if self._has_arrays(task):
            for array, chunk in self._chunks(task):
                self.store.read_chunk(array, chunk)
        else:
            self.outputs.read_master(self._pyramid_task(task))

    def is_as(self, task: Task, told: Written) -> bool:
        """Whether a task's output is as it was written, by reading all of what a finished job keeps of it."""
        try:
            if self.bytes_of(task) != told.bytes:
                return False
            if self._has_arrays(task):
                self.check(task)
                return True
            return digest_of(self._kept(task)) == told.digest
        except DamagedData:
            return False

    def name(self, task: Task) -> str:
        """A task for people."""
        stage, block = task
        return f"{self.plan.stages[stage].name}, block {block}"

    def _has_arrays(self, task: Task) -> bool:
        """Whether it writes latents, not pixels."""
        return bool(self.plan.arrays_of(task[0]))

    def _pyramid_task(self, task: Task) -> PyramidTask:
        return self.plan.layout.task(self.plan.stages[task[0]].number, task[1])

    def _kept(self, task: Task) -> list[Path]:
        return self.outputs.kept_files(self._pyramid_task(task))

    def _chunks(self, task: Task) -> Iterator[tuple[ArraySpec, tuple[int, ...]]]:
        """The arrays that a denoising task writes, and its chunk of each."""
        stage, block = task
        for array in self.plan.arrays_of(stage):
            yield array, self.plan.chunk_of(array, block)


def digest_of(files: Iterable[Path]) -> str:
    """BLAKE2b, of 8 bytes, in hexadecimal: of names and contents. Raises DamagedData where a file is missing."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for path in files:
        size = 0
        try:
            with naming(path), path.open("rb") as file:
                while content := file.read(READ_BYTES):
                    digest.update(content)
                    size += len(content)
        except FileNotFoundError:
            raise DamagedData(f"{path} is missing") from None
        digest.update(f"\0{path.name}\0{size}\n".encode())
    return digest.hexdigest()


def written_file(path: Path) -> Written:
    """What there is to know of one file. Raises DamagedData where it is missing."""
    size = bytes_of_file(path)
    if size is None:
        raise DamagedData(f"{path} is missing")
    return Written(size, digest_of([path]))


def bytes_of_file(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _sum(sizes: Iterable[int | None]) -> int | None:
    total = 0
    for size in sizes:
        if size is None:
            return None
        total += size
    return total
