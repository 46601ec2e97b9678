"""The tasks of a batch, for executors that pass them on untouched. Knows numbers; draws nothing.

(shard, group)             draw the small requests of a group
(shard, ASSEMBLE)          put a shard together
RowTask (shard, group)     draw one request of a group, the one at `place`, alone
GiantTask (stage, block)   a task of the job of a large request, that of group `giant`; or of the map before it
"""

from __future__ import annotations

from cluster.jobs.stages import Task

ASSEMBLE = -1


class RowTask(tuple[int, int]):
    """A group's task, and which of its requests it is about."""

    place: int

    @classmethod
    def of(cls, group: Task, place: int) -> RowTask:
        task = cls(group)
        task.place = place
        return task


class GiantTask(tuple[int, int]):
    """A job's task, and which request's job that is. giant: (shard, group) of the request; of_map: its map's job."""

    giant: Task
    of_map: bool

    @classmethod
    def of(cls, task: Task, giant: Task, of_map: bool) -> GiantTask:
        made = cls(task)
        made.giant, made.of_map = giant, of_map
        return made
