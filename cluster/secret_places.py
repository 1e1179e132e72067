"""The places of secrets on this machine: variables of the environment, and files."""

from __future__ import annotations

import os
from pathlib import Path


def read_secret(source: str) -> str:
    """Return the text at `env:VARIABLE` or `file:/path`, without its last newline. Raises OSError or LookupError."""
    kind, _, place = source.partition(":")
    return os.environ[place] if kind == "env" else Path(place).read_text().removesuffix("\n")
