"""What happens before and after people have decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import podium


@podium.protocol
def draft(input: dict[str, Any]) -> dict[str, str]:
    """Write the article. A model would do that here."""
    title = str(input["title"])
    return {"title": title, "text": f"All that is to be said about {title}."}


@podium.protocol
def publish(input: dict[str, Any]) -> str:
    """Append the article to a file of the working directory."""
    names = " and ".join(answer["by"] for answer in input["answers"])
    with Path(input["file"]).open("a", encoding="utf-8") as file:
        file.write(f"# {input['title']}\n\n{input['text']}\n\nApproved by {names}.\n")
    return f"published in {input['file']}, approved by {names}"


@podium.protocol
def withdraw(input: dict[str, Any]) -> str:
    """Say that nothing is published."""
    return f"'{input['title']}' is withdrawn: {input['why']}"
