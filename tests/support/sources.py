"""The sources of Podium, read once, for tests of what they look like."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

from tests.support import ROOT

ROOMS = ("protocols", "supervisors", "actors", "cluster")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())
