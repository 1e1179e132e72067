"""The sections as one Markdown report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import podium


@podium.protocol
def assemble(parts: dict[str, Any]) -> str:
    """Title and sections, in the order in which one would read them."""
    order = ("overview", "structure", "dependencies", "hot_spots", "open_ends", "long_functions")
    sections = [parts["sections"][name] for name in order]
    title = f"# Briefing on {Path(parts['inventory']['root']).name}"
    return "\n\n".join([title, *(f"## {part['title']}\n\n{part['markdown']}" for part in sections)]) + "\n"
