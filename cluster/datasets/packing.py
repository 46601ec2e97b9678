"""Which requests of a shard are drawn together: those of as many steps, up to so many patches. Integers only.

What a picture looks like does not depend on its group, so groups may be of any size; they follow from the plan
alone, so that a run that goes on finds the parts of the run before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.datasets.plan import CheckedRequest


@dataclass(frozen=True)
class RequestGroup:
    """Requests of one task, in order. giant: a single one, which is a job of its own."""

    rows: tuple[CheckedRequest, ...]
    giant: bool = False


def groups_of(rows: Sequence[CheckedRequest], budget: int) -> list[RequestGroup]:
    """Every request in one group. budget: patches of a step that a group of small ones holds, or one request."""
    groups: list[RequestGroup] = []
    open_groups: dict[tuple[int, bool], list[CheckedRequest]] = {}
    for row in rows:
        if row.giant:
            groups.append(RequestGroup((row,), giant=True))
            continue
        key = (row.steps, row.told["guidance_scale"] > 1)
        packed = open_groups.setdefault(key, [])
        if packed and sum(other.patches for other in packed) + row.patches > budget:
            groups.append(RequestGroup(tuple(packed)))
            packed = open_groups[key] = []
        packed.append(row)
    return groups + [RequestGroup(tuple(packed)) for packed in open_groups.values()]
