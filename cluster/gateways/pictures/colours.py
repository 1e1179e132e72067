"""The colours of states, the same in every picture. Each state has a mark beside it: nobody needs to see colours."""

from __future__ import annotations

from .blocks import State

GROUND = "#fbfcfd"
"""The surface of a block with others in it, whatever its state."""
COLOURS: dict[State, tuple[str, str]] = {
    "": ("#ffffff", "#57606a"),
    "completed": ("#dcf5e3", "#1a7f37"),
    "failed": ("#ffdfdc", "#cf222e"),
    "open": ("#dcedff", "#0969da"),
    "retrying": ("#fff4c8", "#9a6700"),
    "waiting": ("#f3e8ff", "#8250df"),
    "parked": ("#fff4c8", "#9a6700"),
    "cancelled": ("#e6e8eb", "#57606a"),
}
"""The colours of the surface and of the edge, by state."""
