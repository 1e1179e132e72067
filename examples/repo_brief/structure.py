"""How the tree is laid out: large ones per folder, small ones file by file. A rule of the workflow chooses."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import podium

from .inventory import Inventory, read_text, source_files


@podium.protocol
def size_up(facts: dict[str, Any]) -> Inventory:
    """Hand on what the choice depends on."""
    return Inventory(**facts["inventory"])


@podium.protocol
def by_folder(inventory: Inventory) -> dict[str, Any]:
    """Files and bytes per folder, two levels deep."""
    root = Path(inventory.root)
    files: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    suffixes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for file in source_files(root):
        folder = "/".join(file.relative_to(root).parts[:-1][:2]) or "."
        files[folder] += 1
        sizes[folder] += file.stat().st_size
        suffixes[folder][file.suffix or file.name] += 1
    rows = [
        {"place": f"{name}/", "files": count, "bytes": sizes[name], "note": _mostly(suffixes[name])}
        for name, count in files.most_common(200)
    ]
    return {"kind": "folders", "rows": rows}


def _mostly(suffixes: Counter[str]) -> str:
    return "mostly " + ", ".join(name for name, _ in suffixes.most_common(2))


@podium.protocol
def in_detail(inventory: Inventory) -> dict[str, Any]:
    """Every file with its size and its first line of prose."""
    root = Path(inventory.root)
    rows = []
    for file in source_files(root):
        size = file.stat().st_size
        rows.append({"place": str(file.relative_to(root)), "files": 1, "bytes": size, "note": _first_words(file)})
    return {"kind": "files", "rows": rows}


def _first_words(file: Path) -> str:
    text = read_text(file) or ""
    for line in text.splitlines()[:20]:
        words = line.strip().strip("#/*\"'<!-> ").strip()
        if len(words) > 12 and " " in words and not line.lstrip().startswith(("import ", "from ", "#!")):
            return words[:90]
    return ""
