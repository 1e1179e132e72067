"""Five looks at the same tree; they run at once, each in an actor of its own."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import podium

from .inventory import Inventory, git, read_text, source_files

LANGUAGES = {
    ".py": "Python", ".pyi": "Python", ".rs": "Rust", ".go": "Go", ".js": "JavaScript", ".jsx": "JavaScript",
    ".ts": "TypeScript", ".tsx": "TypeScript", ".java": "Java", ".kt": "Kotlin", ".c": "C", ".h": "C", ".cc": "C++",
    ".cpp": "C++", ".hpp": "C++", ".cs": "C#", ".rb": "Ruby", ".php": "PHP", ".swift": "Swift", ".scala": "Scala",
    ".sh": "Shell", ".sql": "SQL", ".html": "HTML", ".css": "CSS", ".md": "Markdown", ".rst": "reStructuredText",
    ".yaml": "YAML", ".yml": "YAML", ".toml": "TOML", ".json": "JSON", ".ex": "Elixir", ".erl": "Erlang",
}  # fmt: skip
TAGS = re.compile(r"(?:#|//|/\*|<!--|--|;)\s*(TODO|FIXME|XXX|HACK)\b[:\s(]*(.{0,100})")
BRACE_FUNCTION = re.compile(
    r"^\s*(?:pub(?:\([^)]*\))?\s+|export\s+|default\s+|async\s+|static\s+)*(?:fn|func|function)\s+(?:\([^)]*\)\s*)?(\w+)"
)
MOST = 200
"""Rows that one look hands on."""


@podium.protocol
def languages(inventory: Inventory) -> list[dict[str, Any]]:
    """Files, lines and bytes by language, the largest first."""
    files: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for file in source_files(Path(inventory.root)):
        language = LANGUAGES.get(file.suffix.lower())
        text = read_text(file) if language else None
        if language and text is not None:
            files[language] += 1
            lines[language] += text.count("\n") + (not text.endswith("\n") and bool(text))
            sizes[language] += file.stat().st_size
    return [{"language": n, "files": files[n], "lines": c, "bytes": sizes[n]} for n, c in lines.most_common(MOST)]


@podium.protocol
def manifests(inventory: Inventory) -> list[dict[str, Any]]:
    """What the tree depends on, from every dependency manifest in it."""
    root = Path(inventory.root)
    found = []
    for file in source_files(root):
        reader = _READERS.get(file.name) or (_requirements if re.match(r"requirements.*\.txt$", file.name) else None)
        text = read_text(file) if reader else None
        if reader and text is not None:
            place = str(file.relative_to(root))
            try:
                found.append({"file": place, "dependencies": sorted(set(reader(text)))[:MOST], "problem": None})
            except (ValueError, AttributeError, TypeError) as error:
                found.append({"file": place, "dependencies": [], "problem": f"cannot be read: {error}"[:200]})
    return found[:MOST]


def _pyproject(text: str) -> list[str]:
    project = tomllib.loads(text).get("project", {})
    return [re.split(r"[\s<>=!~;\[]", name)[0] for name in project.get("dependencies", [])]


def _requirements(text: str) -> list[str]:
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return [re.split(r"[\s<>=!~;\[]", line)[0] for line in lines if line and not line.startswith("-")]


def _package_json(text: str) -> list[str]:
    package = json.loads(text)
    return [*package.get("dependencies", {}), *package.get("devDependencies", {})]


def _cargo(text: str) -> list[str]:
    return list(tomllib.loads(text).get("dependencies", {}))


def _go_mod(text: str) -> list[str]:
    return re.findall(r"^\s*(?:require\s+)?([\w.-]+\.[\w./-]+)\s+v\S+", text, re.MULTILINE)


_READERS = {
    "pyproject.toml": _pyproject,
    "package.json": _package_json,
    "Cargo.toml": _cargo,
    "go.mod": _go_mod,
}


@podium.protocol
def todos(inventory: Inventory) -> dict[str, Any]:
    """TODO, FIXME, XXX and HACK comments with their places."""
    root = Path(inventory.root)
    counts: Counter[str] = Counter()
    by_file: Counter[str] = Counter()
    places: list[dict[str, Any]] = []
    for file in source_files(root):
        text = read_text(file) if file.suffix.lower() in LANGUAGES else None
        for number, line in enumerate((text or "").splitlines(), 1):
            match = TAGS.search(line)
            if match:
                place = str(file.relative_to(root))
                counts[match[1]] += 1
                by_file[place] += 1
                if len(places) < MOST:
                    places.append({"tag": match[1], "file": place, "line": number, "text": match[2].strip()})
    return {"counts": dict(counts), "files": dict(by_file.most_common(20)), "places": places}


@podium.protocol
def churn(ctx: podium.Context, inventory: Inventory) -> dict[str, Any]:
    """The files that git commits touched most. No history is a finding, not an error."""
    root = Path(inventory.root)
    if not inventory.is_git:
        return {"available": False, "reason": "not a git work tree", "commits": 0, "authors": 0, "files": []}
    since = f"--since={inventory.months} months ago"
    log = git(root, "log", since, "--no-merges", "--numstat", "--relative", "--format=%x01%an")
    if not log:
        return {
            "available": False,
            "reason": "no commits in the period",
            "commits": 0,
            "authors": 0,
            "files": [],
        }
    commits, authors = 0, set()
    touched: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    for line in log.splitlines():
        if line.startswith("\x01"):
            commits += 1
            authors.add(line[1:])
            if commits % 1000 == 0:
                ctx.emit({"commits_read": commits})
        elif line.count("\t") == 2:
            added, removed, name = line.split("\t")
            touched[name] += 1
            changed[name] += sum(int(part) for part in (added, removed) if part.isdigit())
    files = [
        {"file": name, "commits": count, "lines": changed[name]}
        for name, count in touched.most_common(MOST)
        if (root / name).is_file()
    ]
    return {"available": True, "reason": None, "commits": commits, "authors": len(authors), "files": files}


@podium.protocol
def functions(inventory: Inventory) -> list[dict[str, Any]]:
    """The longest functions: Python exactly, languages with braces by counting them."""
    root = Path(inventory.root)
    rows: list[tuple[int, str, int, str]] = []
    for file in source_files(root):
        text = read_text(file) if file.suffix in (".py", ".go", ".rs", ".js", ".ts", ".jsx", ".tsx") else None
        if text is not None:
            spans = _python_spans(text) if file.suffix == ".py" else _brace_spans(text)
            rows += [(size, str(file.relative_to(root)), line, name) for name, line, size in spans]
            rows = sorted(rows, reverse=True)[:MOST]
    return [{"name": name, "file": file, "line": line, "lines": size} for size, file, line, name in rows]


def _python_spans(text: str) -> list[tuple[str, int, int]]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return []
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1) for node in found]


def _brace_spans(text: str) -> list[tuple[str, int, int]]:
    lines = text.splitlines()
    spans = []
    for start, line in enumerate(lines):
        match = BRACE_FUNCTION.match(line)
        if match:
            spans.append((match[1], start + 1, _length(lines[start : start + 5000])))
    return spans


def _length(lines: list[str]) -> int:
    depth, opened = 0, False
    for count, line in enumerate(lines, 1):
        depth += line.count("{") - line.count("}")
        opened = opened or "{" in line
        if opened and depth <= 0:
            return count
    return 1
