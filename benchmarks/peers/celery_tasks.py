"""The Celery application: its broker and results in a Redis at `REDIS_URL`."""

from __future__ import annotations

import os
import time

import work
from celery import Celery

app = Celery("celery_tasks", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)
app.conf.broker_transport_options = {"visibility_timeout": 10}
"""Seconds until Redis gives what a dead worker had to another one; an hour if unset."""


@app.task
def add(input: dict) -> dict:
    return work.add(input)


@app.task
def slow(input: dict, task: int, step: str) -> dict:
    return work.slow(task, step, input)


@app.task
def part(number: int, sleep_s: float) -> int:
    if sleep_s:
        time.sleep(sleep_s)
    return number


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)
