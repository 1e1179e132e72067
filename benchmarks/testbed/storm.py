"""A whole storm: load, kills, rest, end, and what was found wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from . import checks, witness
from .bed import Bed, Hang
from .kills import Campaign, Kill, Order, settle

REST_S = 120.0
"""Everything that is open when the kills have ended is to finish within this."""


@dataclass(slots=True)
class Findings:
    """What a storm came to."""

    kills: list[Kill] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    tasks: int = 0
    runs: int = 0
    """Attempts that were witnessed to start."""
    repeated: int = 0
    """Runs that were repeated because their outcome was unknown."""
    most_in_use: int = 0
    """Most permits of the quota that were in use at once."""
    probe_s: float = 0.0
    ended_by_ray: int = 0
    """Drivers that Ray ended: see `Campaign`."""


def storm(
    folder: Path,
    seed: int,
    orders: Iterable[Order],
    lanes: int = 8,
    tell: Callable[[str], None] = print,
    pause_s: float = 2.0,
) -> Findings:
    """Run one in `folder`; whatever happens, nothing of it runs on afterwards."""
    bed = Bed(folder.resolve(), seed, lanes)
    campaign = Campaign(bed, Random(seed), tell, pause_s)
    found = Findings(kills=campaign.kills, problems=campaign.problems)
    try:
        bed.start()
        found.probe_s = campaign.warm_up()
        for order in orders:
            campaign.carry_out(order)
        status = settle(bed, REST_S)
        bed.close()
        found.problems += bed.left_over()
    except Hang as hang:
        found.problems.append(f"I10: {hang}")
        status = {"quotas": {}}
        bed.dump_stacks()
    finally:
        bed.abandon()
    found.problems += bed.errors
    found.ended_by_ray = campaign.ended_by_ray
    _look(bed, campaign, status, found)
    return found


def _look(bed: Bed, campaign: Campaign, status: dict[str, Any], found: Findings) -> None:
    tasks, lines = checks.stored_tasks(bed.data), witness.read(bed.folder)
    recorded = checks.recorded_at(tasks)
    found.tasks = len(tasks)
    found.runs = sum(line.what == "start" for line in lines)
    found.most_in_use = max((line.in_use for line in lines), default=0)
    found.repeated, unexplained = checks.repetitions(lines, [(kill.order.kind, kill.at) for kill in campaign.kills])
    found.problems += [
        *checks.acknowledged_tasks(bed.folder, tasks),
        *checks.keys(bed.folder, tasks),
        *checks.starts_after_finish(lines, recorded),
        *unexplained,
        *checks.known_work(lines, recorded, tasks),
        *checks.limits(lines),
        *checks.at_rest(status),
        *checks.epochs(bed.data),
        *checks.folds(tasks),
    ]
    for then in campaign.snapshots:
        found.problems += checks.starts_after_snapshot(witness.read(bed.folder, then.offset), then)


def keep(folder: Path, where: Path) -> None:
    """Keep what a storm with findings left: journal, account, the driver's log."""
    shutil.copytree(folder, where, dirs_exist_ok=True, ignore=shutil.ignore_patterns("permits"))
