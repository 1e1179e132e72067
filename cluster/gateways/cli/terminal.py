"""Writes to the terminal, for all commands. Texts from data are shown, and never obeyed.

Results go to standard output, everything else to standard error. Texts are not markup: styles need a `Text`. Control
characters in texts are written as escapes; only those of rich get through. `-o json` gives every character, in JSON's
escapes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from ....protocols.json_forms import to_json as any_as_json
from ....protocols.printable import json_safe, printable


class Terminal(Console):
    """A console of rich whose texts hold no control characters and no markup."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape a text before rich measures it, so that columns keep their widths."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape all that is written: every output comes through here."""
        for segment in super().render(renderable, options):
            shown = segment.text if segment.control else printable(segment.text)
            yield segment if shown == segment.text else Segment(shown, segment.style)


def error_console() -> Terminal:
    return Terminal(stderr=True, soft_wrap=True)


def styled(*parts: str | tuple[str, str]) -> Text:
    """Return a text of parts, each with a style or without."""
    shown = [printable(part) if isinstance(part, str) else (printable(part[0]), part[1]) for part in parts]
    return Text.assemble(*shown)


def say(text: str, end: str = "\n") -> None:
    """Print a line, or a part of one, on standard output."""
    print(printable(text), end=end, flush=not end)


def to_json(value: object, indent: int | None = 2) -> str:
    return json_safe(any_as_json(value, indent))
