"""Questions of steps as plain data, and the answers that they get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .asking import Answer, Ask
from .tree import Wait
from .values import Value


def plain_question(ask: Ask) -> dict[str, Any]:
    """Return a question as data: {"wait", "show", "resume"}. Raises InvalidDefinition if a setting does not fit."""
    settings: dict[str, Any] = {
        "schema": ask.schema, "who": tuple(ask.who), "not_starter": ask.not_starter, "need": ask.need,
        "refusal": ask.refusal, "on_refusal": ask.on_refusal, "timeout_s": ask.timeout_s,
    }  # fmt: skip
    node = Wait(ask.name, mailbox="each", signed=True, **settings)
    plain = node.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return {"wait": plain, "show": ask.show, "resume": ask.resume}


def wait_of(question: Mapping[str, Any]) -> Wait:
    """Return the wait for the answer to a question."""
    return Wait.model_validate(question["wait"])


def answers_of(told: Value) -> tuple[Answer, ...]:
    """Return the answers in the output of such a wait: one, or a list of several."""
    rows = told if isinstance(told, list) else [told]
    return tuple(Answer(row["value"], row["by"], row["at"], row["via"]) for row in rows)
