"""The keywords of `connect`, so that editors complete them and type checkers know them.

Each field of `Settings` but `sources` has one, of the same type. None counts as not given.
`tests/house/test_options.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any, Literal, TypedDict


class ConnectOptions(TypedDict, total=False):
    """The keywords of `connect`. docs/settings.md describes each."""

    data: str | PathLike[str] | None
    database: str | None
    database_schema: str | None
    database_timeout_s: float | None
    database_lease_s: float | None
    cluster: Literal["ray", "inprocess"] | None
    address: str | None
    placement: str | None
    num_cpus: int | None
    object_store_mb: int | None
    working_dir: str | PathLike[str] | None
    runtime_env_timeout_s: float | None
    user: str | None
    limits: Mapping[str, int | str] | None
    weights: Mapping[str, float] | None
    max_open_tasks: int | None
    max_open_per_user: int | None
    max_memory: float | None
    max_cpu: float | None
    max_slots: float | None
    throttle: bool | None
    throttle_high: float | None
    throttle_low: float | None
    throttle_floor: float | None
    throttle_step: float | None
    throttle_samples: int | None
    throttle_full_lag_s: float | None
    alerts: Mapping[str, str] | None
    on_alert: str | None
    alert_every_s: float | None
    source: Literal["driver", "cli", "mcp"] | None
    rates: Mapping[str, str] | None
    max_value_bytes: int | None
    blobs: str | None
    inline_bytes: int | None
    max_blob_bytes: int | None
    blob_cache_mb: float | None
    blob_grace_s: float | None
    blobs_timeout_s: float | None
    max_losses: int | None
    retry_reserve: float | None
    grace_s: float | None
    lookahead_s: float | None
    lease_s: float | None
    rest_after_s: float | None
    host_idle_s: float | None
    keep_finished_s: float | None
    keep_finished_tasks: int | None
    max_kept_answers: int | None
    max_waiting_in_memory: int | None
    age_s: float | None
    restart_intensity: int | None
    top_restart_intensity: int | None
    restart_period_s: float | None
    max_emitted_bytes: int | None
    max_unsaved_mb: float | None
    log_mb: float | None
    log_files: int | None
    mcp_page_chars: int | None
    config: Mapping[str, Any] | None
    secrets: Mapping[str, str] | None
    reconnect_s: float | None
