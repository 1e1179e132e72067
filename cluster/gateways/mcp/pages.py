"""Cuts results that are too large for one answer into pages.

Clients of models cut or refuse long results. So a result of more than `mcp_page_chars` characters comes in pages: the
text of its JSON (or the result itself if it is a text), cut by characters. All pages joined are the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....protocols.errors import InvalidInput
from ....protocols.json_forms import to_json
from ....protocols.values import Value


@dataclass(frozen=True, slots=True)
class Page:
    text: str
    number: int
    """The number of the page, from 1."""
    pages: int
    chars: int
    """The length of the whole text, in characters."""

    @property
    def facts(self) -> dict[str, object]:
        return {"page": self.number, "pages": self.pages, "chars": self.chars}

    def note(self, task_id: str) -> str:
        """Return a note for the reader: where the result goes on."""
        more = f" Call get_task with task_id {task_id} and page {self.number + 1} for the next."
        return f"Page {self.number} of {self.pages} of the result.{more if self.number < self.pages else ''}"


def page_of(result: Value, page_chars: int, number: int = 1) -> Page:
    """Return one page of a result. Raises InvalidInput if the result has no such page.

    Args:
        page_chars: characters of a page; 0 makes the whole one page.
    """
    whole = result if isinstance(result, str) else to_json(result)
    pages = -(-len(whole) // page_chars) if page_chars and whole else 1
    if not 1 <= number <= pages:
        raise InvalidInput(problem=f"the result has {pages} pages", path="page")
    start = (number - 1) * page_chars
    return Page(whole[start : start + page_chars] if pages > 1 else whole, number, pages, len(whole))
