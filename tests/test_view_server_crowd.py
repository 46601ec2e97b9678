"""More requests than can be answered at once: who waits, who is told to come again, and who is not touched by it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import anyio
import pytest
from asgi_requests import asked
from growing_job import GrowingJob
from PIL import Image
from starlette.exceptions import HTTPException

from cluster.viewing import JobTeller
from viewer.gate import Gate
from viewer.regions import PixelSource, RegionQuery
from viewer.server import build_app


def test_beyond_its_places_the_gate_says_when_to_come_again() -> None:
    began, go_on, most, inside = threading.Event(), threading.Event(), [0], [0]

    def work() -> str:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        began.set()
        assert go_on.wait(10)
        inside[0] -= 1
        return "done"

    async def crowd() -> tuple[list[str], list[HTTPException]]:
        gate, results, refusals = Gate(at_once=2, waiting=3), list[str](), list[HTTPException]()

        async def come() -> None:
            try:
                results.append(await gate.run(work))
            except HTTPException as error:
                refusals.append(error)

        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(come)
            await anyio.to_thread.run_sync(began.wait)
            await anyio.sleep(0.05)
            go_on.set()
        results.append(await gate.run(work))
        return results, refusals

    results, refusals = asyncio.run(crowd())
    assert results == ["done"] * 6
    assert len(refusals) == 7
    assert {(error.status_code, (error.headers or {})["Retry-After"]) for error in refusals} == {(503, "1")}
    assert most[0] <= 2


def test_a_crowd_of_regions_leaves_tiles_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = GrowingJob(tmp_path / "job")
    job.paint(0, 0)
    go_on = threading.Event()

    def cut(source: PixelSource, region: RegionQuery) -> Image.Image:
        assert go_on.wait(10)
        return Image.new("RGB", region.size)

    monkeypatch.setattr("viewer.regions.cut", cut)
    app = build_app(job.folder, JobTeller())
    statuses: list[int] = []

    async def come() -> None:
        statuses.append((await asked(app, "/region.png?x=0&y=0&w=99&h=99")).status)

    async def crowd() -> list[int]:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(come)
            with anyio.fail_after(5):
                while len(statuses) < 15:
                    await anyio.sleep(0.01)
                others = [
                    (await asked(app, target)).status for target in ("/tiles/9/0_0.jpg", "/api/status.json")
                ]
            go_on.set()
        return others

    assert asyncio.run(crowd()) == [200, 200]
    assert statuses == [503] * 15 + [200] * 5
