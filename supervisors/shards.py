"""Names the shards of a workflow and decides to which shard a task belongs. Pure.

A workflow has one shard, or several side by side. Each shard has a supervisor and hosts of its own. The first shard has
the name of the workflow, the others are "<workflow>~1" and so on. The shard of a nested Hierarchy is "<shard>.<tier>".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b


def shards_of(workflow: str, count: int) -> list[str]:
    return [workflow, *(f"{workflow}~{n}" for n in range(1, count))]


def tier_shard(shard: str, tier: str) -> str:
    """Name the shard of the nested Hierarchy `tier` whose parent supervisor owns `shard`."""
    return f"{shard}.{tier}"


def top_shard(shard: str) -> str:
    """Name the shard of the top supervisor of the workflow that `shard` belongs to; `shard` itself if it is the top."""
    return shard.partition(".")[0]


def workflow_of(shard: str) -> str:
    return top_shard(shard).partition("~")[0]


def is_tier(shard: str) -> bool:
    return "." in shard


def is_within(shard: str, parent: str) -> bool:
    """Whether `shard` is `parent` or the shard of a nested supervisor below it."""
    return shard == parent or shard.startswith(parent + ".")


def spread(senders: Iterable[tuple[str, str | None]], count: int, first: int) -> list[Sequence[int]]:
    """Spread tasks that are submitted together over `count` shards.

    The same key of the same user always goes to the same shard, because only that shard knows to which task the key
    belongs. This rule may never change. Tasks without a key take turns, beginning with shard `first`.

    Args:
        senders: user and key of each task.

    Returns:
        For each shard the indexes of its tasks in `senders`.
    """
    places: list[list[int]] = [[] for _ in range(count)]
    for index, (user, key) in enumerate(senders):
        place = first + index if key is None else _number(f"{user}\0{key}")
        places[place % count].append(index)
    return list(places)


def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
