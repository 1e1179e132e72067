"""Section writers, and the editor who supervises them and sends weak sections back."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

import podium
from podium import verdict

MAX_LINES = 24
"""Longest section that the editor lets through."""


class Assignment(BaseModel):
    """What a writer works from."""

    section: str
    facts: dict[str, Any]
    feedback: dict[str, str] | None = None
    """What the editor said of the last draft, by section."""


class Draft(BaseModel):
    title: str
    markdown: str


class Editor(podium.Protocol):
    """Assigns every section, reads the drafts, and sends back what is too long or says nothing."""

    def run(self, ctx: podium.Context, brief: dict[str, Any]) -> dict[str, Any]:
        if not brief["outcomes"]:
            return verdict.assign({name: {"section": name, "facts": brief["input"]} for name in brief["team"]})
        weak = {name: problem for name, outcome in brief["outcomes"].items() if (problem := review(outcome))}
        if not weak:
            return verdict.accept({name: outcome["output"] for name, outcome in brief["outcomes"].items()})
        for name, problem in weak.items():
            ctx.log.info("round %d: %s goes back: %s", brief["round"], name, problem)
        if brief["round"] >= 3:
            return verdict.escalate("sections stay weak: " + "; ".join(f"{n}: {p}" for n, p in weak.items()))
        return verdict.retry(list(weak), weak)


def review(outcome: dict[str, Any]) -> str | None:
    """What is wrong with a draft, or None."""
    if "error" in outcome:
        return f"failed: {outcome['error']['message']}"
    text = outcome["output"]["markdown"].strip()
    lines = len(text.splitlines())
    if not text:
        return "empty: say what was looked for and not found"
    if lines > MAX_LINES:
        return f"too long: {lines} lines, at most {MAX_LINES}"
    return None


@podium.protocol(concurrency=6)
def write_section(assignment: Assignment) -> Draft:
    """Write one section; a first draft tells everything, a later one what the editor asked for."""
    feedback = (assignment.feedback or {}).get(assignment.section, "")
    rows_at_most = 12 if feedback.startswith("too long") else None
    title, lead, rows = _WRITERS[assignment.section](assignment.facts)
    shown = rows if rows_at_most is None else rows[:rows_at_most]
    if shown and rows_at_most and len(rows) > rows_at_most:
        shown.append(f"- … and {len(rows) - rows_at_most} more")
    if not lead and not shown and feedback.startswith("empty"):
        lead = "Nothing was found."
    return Draft(title=title, markdown="\n".join(part for part in (lead, "", *shown) if part is not None).strip())


def _overview(facts: dict[str, Any]) -> tuple[str, str, list[str]]:
    inventory, languages = facts["inventory"], facts["facts"]["languages"]
    lines = sum(row["lines"] for row in languages)
    lead = f"{inventory['files']:,} files, {size(inventory['bytes'])}, {lines:,} lines in {len(languages)} languages."
    rows = [f"- {r['language']}: {r['lines']:,} lines in {r['files']:,} files ({share(r, lines)})" for r in languages]
    return "Overview", lead, rows


def _structure(facts: dict[str, Any]) -> tuple[str, str, list[str]]:
    structure = facts["structure"]
    rows = []
    for row in sorted(structure["rows"], key=lambda row: row["bytes"], reverse=True):
        count = f", {row['files']:,} files" if structure["kind"] == "folders" else ""
        note = f": {row['note']}" if row["note"] else ""
        rows.append(f"- `{row['place']}` ({size(row['bytes'])}{count}){note}")
    return "Structure", f"By size, {structure['kind']} first to look at:", rows


def _dependencies(facts: dict[str, Any]) -> tuple[str, str, list[str]]:
    rows = []
    for manifest in facts["facts"]["manifests"]:
        names = ", ".join(f"`{name}`" for name in manifest["dependencies"][:20]) or "no dependencies"
        more = len(manifest["dependencies"]) - 20
        rows.append(
            f"- `{manifest['file']}`: {manifest['problem'] or names}" + (f" and {more} more" if more > 0 else "")
        )
    return "Dependencies", "", rows


def _hot_spots(facts: dict[str, Any]) -> tuple[str, str, list[str]]:
    churn = facts["facts"]["churn"]
    if not churn["available"]:
        return "Hot spots", f"No git history to read: {churn['reason']}.", []
    lead = (
        f"{churn['commits']:,} commits by {churn['authors']} authors in {facts['inventory']['months']} months; "
        f"touched most:"
    )
    rows = [f"- `{r['file']}`: {r['commits']} commits, {r['lines']:,} lines changed" for r in churn["files"]]
    return "Hot spots", lead, rows


def _open_ends(facts: dict[str, Any]) -> tuple[str, str, list[str]]:
    todos = facts["facts"]["todos"]
    counts = ", ".join(f"{count} {tag}" for tag, count in sorted(todos["counts"].items()))
    lead = f"{counts} in comments:" if counts else ""
    return (
        "Open ends",
        lead,
        [f"- `{r['file']}:{r['line']}` {r['tag']}: {r['text']}" for r in todos["places"]],
    )


def _long_functions(facts: dict[str, Any]) -> tuple[str, str, list[str]]:
    rows = [r for r in facts["facts"]["functions"] if r["lines"] >= 30]
    lead = (
        f"{len(rows)} functions of 30 lines or more, the longest first:" if rows else "No function of 30 lines or more."
    )
    return (
        "Long functions",
        lead,
        [f"- `{r['name']}` in `{r['file']}:{r['line']}`: {r['lines']} lines" for r in rows],
    )


_WRITERS = {
    "overview": _overview,
    "structure": _structure,
    "dependencies": _dependencies,
    "hot_spots": _hot_spots,
    "open_ends": _open_ends,
    "long_functions": _long_functions,
}


def size(count: int) -> str:
    value = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def share(row: dict[str, Any], lines: int) -> str:
    return f"{row['lines'] / lines:.0%}" if lines else "0%"
