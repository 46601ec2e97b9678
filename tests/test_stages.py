"""Stages that say what they read and write: what waits for what, wavefronts, lifetimes; and the job's own stages."""

from itertools import pairwise
from pathlib import Path

import pytest
from engine import tiny_job

from cluster.engine.queueing import Queue
from cluster.jobs.plan import LEVELS, Plan
from cluster.jobs.stages import Grown, Listed, Margin, Read, Stage, StageGraph, Task
from storage.geometry import TOPOLOGIES, Box, Canvas, Grid
from storage.task_set import TaskSet


class Planned:
    """A graph whose tasks all take as long."""

    def __init__(self, graph: StageGraph) -> None:
        self.graph = graph

    def batches(self, task: Task) -> int:
        return 1


def waves(graph: StageGraph) -> list[list[Task]]:
    """The tasks that are ready at once, one set after another."""
    queue, found = Queue(Planned(graph), TaskSet()), []
    while queue:
        found.append([task for task in (queue.pop() for _ in range(len(queue))) if task is not None])
        for task in found[-1]:
            queue.done.add(task)
            queue.release_after(task)
    return found


def stage(name: str, grid: Grid, *reads: Read, writes: str) -> Stage:
    return Stage(name, name, 0, grid, reads, (writes,))


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=str)
def test_a_task_waits_for_the_blocks_that_its_grown_block_meets(topology) -> None:
    grid = Grid(Canvas(100, 140, topology), 32)
    graph = StageGraph(
        (
            stage("noise", grid, writes="a"),
            stage("blur", grid, Read("a", Grown(grid, Margin.around(16))), writes="b"),
        )
    )
    for block in range(len(grid)):
        expected = [(0, other) for other in grid.overlapping(grid.box(block).expanded(16))]
        assert graph.dependencies((1, block)) == expected
        assert graph.dependents((0, block)) == [(1, other) for _, other in expected]
    assert sum(map(len, waves(graph))) == 2 * len(grid)


def test_what_is_read_on_one_side_is_waited_for_on_the_other() -> None:
    grid = Grid(Canvas(64, 64), 16)
    graph = StageGraph(
        (stage("a", grid, writes="a"), stage("b", grid, Read("a", Grown(grid, Margin(top=1))), writes="b"))
    )
    assert graph.dependencies((1, 5)) == [(0, 1), (0, 5)]
    assert graph.dependents((0, 5)) == [(1, 5), (1, 9)]


def test_a_stage_that_reads_what_it_writes_runs_as_a_wavefront() -> None:
    grid = Grid(Canvas(5 * 32, 7 * 32), 32)
    graph = StageGraph((stage("paint", grid, Read("p", Grown(grid, Margin(top=1, left=1))), writes="p"),))
    found = waves(graph)
    assert len(found) == 5 + 7 - 1 and max(map(len, found)) == 5
    assert [sum(divmod(block, 7)) for (_, block), *_ in found] == list(range(11))


def test_functions_may_say_what_is_read() -> None:
    """Grids of several sizes, as of a picture's pixels and its latents."""
    fine, coarse = Grid(Canvas(64, 64), 16), Grid(Canvas(2, 2), 1)

    def quarter(block: int) -> list[Box]:
        row, column = divmod(block, 2)
        return [Box(32 * row, 32 * row + 32, 32 * column, 32 * column + 32)]

    graph = StageGraph(
        (stage("a", fine, writes="a"), stage("b", coarse, Read("a", Listed(quarter)), writes="b"))
    )
    assert graph.dependencies((1, 3)) == [(0, 10), (0, 11), (0, 14), (0, 15)]
    assert graph.dependents((0, 11)) == [(1, 3)]


def test_arrays_live_from_their_maker_to_their_last_reader() -> None:
    grid = Grid(Canvas(64, 64), 32)
    whole = Grown(grid, Margin())
    graph = StageGraph(
        (
            stage("a", grid, writes="a"),
            stage("b", grid, Read("a", whole), writes="b"),
            stage("c", grid, Read("b", whole), Read("a", whole), writes="c"),
            stage("d", grid, Read("c", whole), writes="d"),
        )
    )
    assert [graph.freed_by(index) for index in range(4)] == [[], [], ["a", "b"], ["c"]]
    assert graph.alive_during(1) == ["a", "b", "c"] and graph.alive_during(3) == ["c", "d"]
    assert (graph.before(2), graph.after(0)) == ({0, 1}, {1, 2})


def test_arrays_without_a_maker_or_with_two_are_refused() -> None:
    grid = Grid(Canvas(64, 64), 32)
    whole = Grown(grid, Margin())
    first, reading = stage("a", grid, writes="a"), stage("b", grid, Read("a", whole), writes="b")
    with pytest.raises(ValueError, match="a is written by b and a"):
        StageGraph((first, stage("b", grid, writes="a")))
    with pytest.raises(ValueError, match="b reads a, which no stage up to it writes"):
        StageGraph((reading, first))


# --- the stages of a job ---------------------------------------------------------------------------------------------


def neighbours(plan: Plan, block: int) -> list[int]:
    """Blocks whose own patches may reach into a block's frame: all within two halos, however the canvas wraps."""
    near, box = plan.grid.box(block).expanded(2 * plan.halo), plan.canvas.box
    shifts = [(dy, dx) for dy in (-box.height, 0, box.height) for dx in (-box.width, 0, box.width)]
    wraps = plan.canvas.topology
    shifts = [(dy, dx) for dy, dx in shifts if (wraps.wraps_y or not dy) and (wraps.wraps_x or not dx)]
    return [
        other
        for other in range(plan.blocks)
        if any(plan.grid.box(other).shifted(*shift).intersection(near) for shift in shifts)
    ]


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_steps_wait_for_neighbours_and_pixels_for_latents(topology: str, tmp_path: Path, monkeypatch) -> None:
    plan = tiny_job(tmp_path, monkeypatch, topology=topology, width=2 * 96, height=2 * 80).plan
    for k in range(1, plan.steps + 1):
        for block in range(plan.blocks):
            assert plan.dependencies((k, block)) == [(k - 1, other) for other in neighbours(plan, block)]
    (decode,) = plan.stages_of("decode")
    for superblock in range(plan.stages[decode].tasks):
        sources = [tile.source for tile in plan.tiling.tiles_over(plan.decode_box(superblock))]
        met = sorted({block for source in sources for block in plan.grid.overlapping(source)})
        assert plan.dependencies((decode, superblock)) == [(plan.steps, block) for block in met]
    for before, after in pairwise([decode, *plan.stages_of("reduce")]):
        group = plan.stages[after].number
        columns = plan.layout.cells(group - 1)[1]
        for block in range(plan.stages[after].tasks):
            cells = plan.layout.dependencies(plan.layout.task(group, block))
            assert plan.dependencies((after, block)) == [
                (before, cell.row * columns + cell.column) for cell in cells
            ]


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_dependents_are_the_other_way_round(topology: str, tmp_path: Path, monkeypatch) -> None:
    plan = tiny_job(tmp_path, monkeypatch, topology=topology, width=2 * 96, height=2 * 80).plan
    edges = {
        (before, (index, block))
        for index, each in enumerate(plan.stages)
        for block in range(each.tasks)
        for before in plan.dependencies((index, block))
    }
    for index, each in enumerate(plan.stages):
        for block in range(each.tasks):
            expected = sorted(after for before, after in edges if before == (index, block))
            assert plan.dependents((index, block)) == expected


def test_two_steps_of_arrays_live_and_a_third_is_being_written(tmp_path: Path, monkeypatch) -> None:
    plan = tiny_job(tmp_path, monkeypatch, scheduler="euler").plan
    freed = [plan.arrays_freed_by(stage) for stage in range(len(plan.stages))]
    names = [[array.name for array in plan.arrays_of(stage)] for stage in range(len(plan.stages))]
    assert freed[1 : plan.steps + 1] == names[: plan.steps] and not any(freed[plan.steps + 1 :])
    assert plan.work_bytes == 3 * sum(array.nbytes for array in plan.arrays_of(1))
    assert plan.kept_stages == list(range(plan.steps, len(plan.stages)))
    assert plan.stages[-1].writes == (LEVELS.format(plan.layout.groups - 1),)
