"""The tools that come with Podium. They read the request's folder, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..requests.grants import ToolSpec

SHIPPED_FROM = str(Path(__file__).parent.parent)
"""Folder from which the sandboxed process imports the tools, without the rest of Podium."""
_SHIPPED = "library.boxed.builtin_tools"
_TEXT = {"type": "string"}
_ROOT = {"type": "string", "description": "the folder"}


def _tool(name: str, about: str, **arguments: Mapping[str, str]) -> ToolSpec:
    required = ("root", *(each for each in arguments if each != "path" or name == "read_file"))
    return ToolSpec(
        about=about,
        function=f"{_SHIPPED}:{name}",
        arguments={"root": _ROOT, **arguments},
        required=required,
        minimum="landlock" if name == "git_log" else "limits",  # git reads what a stranger may have written
    )


SHIPPED_TOOLS: Mapping[str, ToolSpec] = {
    "grep": _tool(
        "grep",
        "search, find, grep lines in files that match a regular expression or contain a name or text",
        pattern=_TEXT | {"description": "a regular expression of Python"},
    ),
    "list_files": _tool("list_files", "list the files of a folder by name or pattern", path=_TEXT),
    "read_file": _tool("read_file", "read, open, print, show the contents of one file", path=_TEXT),
    "count_lines": _tool("count_lines", "count lines of code and number of files by language or type"),
    "git_log": _tool("git_log", "show recent git commits, history, log, changes of the repository"),
}


def is_shipped(spec: ToolSpec) -> bool:
    return spec.function is not None and spec.function.startswith(f"{_SHIPPED}:")
