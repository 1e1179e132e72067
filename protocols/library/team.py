"""The lead of a team: splits a request into parts, assigns the parts, and sends weak answers back.

It decides by simple rules. The parts are the ones that the request itself separates. An answer is weak if there is
none, if it names no source, or if it has fewer than `SHORT_CHARS` characters. The rules are the same with a model
behind the members and without.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel

from ..context import Context
from ..protocol import protocol
from ..verdicts import accept, assign
from .front import Planned

MEMBERS = 3
LAST_ROUND = 3
"""Round in which the lead accepts all answers as they are."""
SHORT_CHARS = 40
_BETWEEN = re.compile(
    r"(?:^|\n)\s*(?:[-*•]|\d+[.)])\s+|[;?!]\s+|\.\s+(?=[A-ZÄÖÜ])"
    r"|,?\s+(?:and then|then|after that|and also|as well as)\s+",
    re.IGNORECASE,
)


_LEADING = re.compile(r"^(?:(?:and|then|finally|first|also|after that),?\s+)+", re.IGNORECASE)


class Brief(BaseModel):
    """The input of a supervising protocol."""

    input: ForTeam
    round: int
    outcomes: dict[str, Any] = {}


class ForTeam(BaseModel):
    plan: Planned
    context: dict[str, object] | None = None


Brief.model_rebuild()


@protocol(concurrency=64)
async def lead(ctx: Context, brief: Brief) -> dict[str, object]:
    """Assign the parts in the first round; then accept, or send weak answers back with the whole request added."""
    whole = brief.input.plan.request.text
    if not brief.outcomes:
        return assign({f"member_{n}": {"question": part} for n, part in enumerate(parts_of(whole), 1)})
    weak = {name: brief.outcomes[name] for name in brief.outcomes if _is_weak(brief.outcomes[name])}
    if not weak or brief.round >= LAST_ROUND:
        return accept({"parts": [_part(outcome) for outcome in brief.outcomes.values() if outcome.get("output")]})
    parts = parts_of(whole)
    return assign({name: {"question": f"{parts[int(name[-1]) - 1]} ({whole})"} for name in weak})


def parts_of(text: str) -> list[str]:
    """Split a request into its items, sentences or steps: at most one per member, the last has the rest."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    text = "\n".join(line for line in lines if line)  # without runs of white space, on which patterns are slow
    found = [_LEADING.sub("", part.strip(" .,\n")) for part in _BETWEEN.split(text) if part and len(part.strip()) > 3]
    if len(found) > MEMBERS:
        found = [*found[: MEMBERS - 1], "; ".join(found[MEMBERS - 1 :])]
    return found or [text]


def _is_weak(outcome: dict[str, Any]) -> bool:
    output = outcome.get("output")
    return not output or not output.get("sources") or len(output.get("text", "")) < SHORT_CHARS


def _part(outcome: dict[str, Any]) -> dict[str, Any]:
    output = outcome["output"]
    return {"question": output["question"], "text": output["text"], "sources": output["sources"]}
