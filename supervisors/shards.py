"""The shards of a workflow: what they are called, and which of them a task belongs to. Pure.

A workflow has one shard, or several side by side, each with a supervisor and hosts of its own. The first is called like
the workflow, the others "<workflow>~1" and so on; that of a nested Hierarchy is "<shard>.<tier>".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b


def shards_of(workflow: str, count: int) -> list[str]:
    return [workflow, *(f"{workflow}~{n}" for n in range(1, count))]


def tier_shard(shard: str, tier: str) -> str:
    """The shard of a nested Hierarchy of the workflow, or of the Hierarchy, that has `shard`."""
    return f"{shard}.{tier}"


def top_shard(shard: str) -> str:
    """The shard of the workflow's own supervisor to which this one belongs, perhaps as a tier's."""
    return shard.partition(".")[0]


def workflow_of(shard: str) -> str:
    return top_shard(shard).partition("~")[0]


def is_tier(shard: str) -> bool:
    return "." in shard


def is_within(shard: str, parent: str) -> bool:
    """Whether `shard` is `parent` or that of one of its tiers."""
    return shard == parent or shard.startswith(parent + ".")


def spread(senders: Iterable[tuple[str, str | None]], count: int, first: int) -> list[Sequence[int]]:
    """For each of `count` shards the tasks that go there, by index, of some that are submitted together.

    The same key of the same user always goes to the same shard, which then knows what it belongs to; this rule may
    never change. Tasks without a key take turns, beginning with shard `first`.

    Args:
        senders: user and key of each task.
    """
    places: list[list[int]] = [[] for _ in range(count)]
    for index, (user, key) in enumerate(senders):
        place = first + index if key is None else _number(f"{user}\0{key}")
        places[place % count].append(index)
    return list(places)


def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
