"""Formats the log lines of the engine: the actor, the event, and its facts as `name=value`.

All actors of a cluster write to one file of the data directory, `logs/podium.engine.log`, and to the logger `podium`
of their process. No protocol's name has a dot, so the log of a protocol never has the same file name.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping

from ..supervisors.ports.world import Level

LOG = logging.getLogger("podium")
NAME = "podium.engine"
LEVELS: Mapping[Level, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_PLAIN = re.compile(r"[^\s\"=]+")


def line_of(address: str, epoch: int, event: str, fields: Mapping[str, object]) -> str:
    """Return one log line. Texts with spaces, quotes or `=` are quoted as in JSON."""
    who = f"{address}@{epoch}" if epoch else address
    return f"{who} {event} {facts_of(fields)}".rstrip()


def facts_of(fields: Mapping[str, object]) -> str:
    return " ".join(f"{name}={_shown(value)}" for name, value in fields.items() if value is not None)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
