"""Ids of tasks."""

from __future__ import annotations

import secrets
from types import SimpleNamespace

from podium.cluster.client.task_ids import new_task_id


def test_ids_rise_with_the_time_and_differ_within_a_millisecond():
    clock = SimpleNamespace(now=lambda: clock.at, secret_bytes=secrets.token_bytes, at=0.0)
    ids = []
    for clock.at in (0.0, 0.031, 0.032, 1.0, 1.7e9, 1.7e9 + 0.001, 4e9):
        ids += sorted({new_task_id(clock) for _ in range(100)})
    assert ids == sorted(set(ids)) and len(ids) == 700
    assert {len(id) for id in ids} == {len("t-") + 10 + 16}
    assert set("".join(ids)) == set("t-0123456789abcdefghjkmnpqrstvwxyz")
