"""What is to be done again when stored data is missing or damaged. Knows a plan and which outputs serve; runs nothing.

Damage is found where it is read, or by a look at what is there. Its makers run again, and before them the makers of
what those would read and what is gone since: back along the plan to arrays that are whole, or to the start.

    stage k-1   [ ][x][x][x][ ]      x  done again: the array of stage k-1 was freed when stage k was done
    stage k     [ ][ ][X][ ][ ]      X  the task whose output is damaged
    stage k+1   [ ][ ][?][ ][ ]      ?  the task that found it so
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cluster.jobs.plan import Plan
from cluster.jobs.stages import Task
from storage.damage import DamagedData, is_damage, is_unreadable
from storage.task_set import TaskSet

Serves = Callable[[Task], bool]
"""Whether all that later tasks read of a done task is there."""


class DamagedInputs(DamagedData):
    """A task read something that is missing or damaged. tasks: who wrote it; none where only metadata was damaged.

    errno: where it could not be read at all, which may pass; the task is tried again before its makers are.
    """

    def __init__(self, message: str, tasks: tuple[Task, ...], errno: int | None = None) -> None:
        super().__init__(message)
        self.tasks = tasks
        self.errno = errno

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.tasks, self.errno)


def damaged_inputs(plan: Plan, task: Task, error: OSError, check: Callable[[Task], None]) -> OSError:
    """The error of a task that could not read its inputs, with those of them that `check` finds damaged.

    The same error where something could not be read and all inputs can: it was something else, or has passed.
    """

    def is_damaged(before: Task) -> bool:
        try:
            check(before)
        except OSError as found:
            if is_damage(found):
                return True
            raise
        return False

    damaged = tuple(filter(is_damaged, plan.dependencies(task)))
    if is_unreadable(error) and not damaged:
        return error
    return DamagedInputs(str(error), damaged, error.errno)


def missing(plan: Plan, done: TaskSet, serves: Serves) -> Iterator[Task]:
    """Done tasks that some undone task will read and that do not serve: what was deleted while no one ran the job."""
    for stage in range(len(plan.stages)):
        yield from (task for task in to_be_read(plan, done, stage) if not serves(task))


def to_be_read(plan: Plan, done: TaskSet, stage: int) -> Iterator[Task]:
    """Done tasks of a stage that some undone task will read."""
    readers = plan.graph.after(stage)
    if done.count(stage) == 0 or all(done.count(reader) == plan.stages[reader].tasks for reader in readers):
        return
    for block in done.blocks(stage).tolist():
        if any(after not in done for after in plan.dependents((stage, block))):
            yield stage, block


def to_redo(plan: Plan, done: TaskSet, damaged: Iterable[Task], serves: Serves) -> set[Task]:
    """The damaged tasks among those done, and back along the plan the done ones that they would read in vain."""
    redo: set[Task] = set()
    waiting = [task for task in damaged if task in done]
    while waiting:
        task = waiting.pop()
        if task not in redo:
            redo.add(task)
            waiting += [before for before in plan.dependencies(task) if before in done and not serves(before)]
    return redo
