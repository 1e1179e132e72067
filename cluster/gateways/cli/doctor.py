"""`podium doctor`: finds problems of the machine, the data directory, journal and blobs, and says how to mend them."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ...config import Settings, load_settings
from ...doctor.blobs import BlobCheck
from ...doctor.checks import examine
from ...doctor.findings import Finding
from ...doctor.repair import repair
from ...doctor.running import running_findings
from ...store.stores import store_of
from .alone import alone
from .options import Data, Output
from .terminal import Terminal, styled, to_json

_MARKS = {"problem": ("✗ problem", "red"), "warning": ("! warning", "yellow"), "ok": ("✓ ok", "green")}
_ORDER = ["problem", "warning", "ok"]
_MANY = ("record", "blob")
"""Checks that may find thousands of the same kind."""
_BLOB = re.compile("([0-9a-f]{12})[0-9a-f]{52}((?:[.][0-9]+)?)")
_ALIKE = 5
"""Most findings of one kind and remedy that are shown singly. More are counted; the JSON form has all."""


def doctor(
    data: Data = None,
    mend: Annotated[bool, typer.Option("--repair", help="Do what is safe; needs that no cluster runs.")] = False,
    accept_loss: Annotated[
        list[str] | None,
        typer.Option("--accept-loss", metavar="SHARD", help="With --repair: go on with what is left of a shard."),
    ] = None,
    reads_blobs: Annotated[
        bool,
        typer.Option("--blobs", help="Also read each blob that a task names, and check its content; it may take long."),
    ] = False,
    output: Output = "table",
) -> None:
    """Check the machine, the data directory, the journal and the blobs. Exits with 1 if there is a problem."""
    if accept_loss and not mend:
        raise typer.BadParameter("needs --repair", param_hint="--accept-loss")
    settings = load_settings(data=data)
    lost, now = accept_loss or [], time.time()
    if settings.database is not None:
        findings = _of_database(settings, mend, lost, reads_blobs, now)
    else:
        blobs = BlobCheck(settings.store, settings.blob_grace_s, now, reads_blobs)
        findings = repair(settings.data, lost, now, blobs) if mend else examine(settings.data, blobs=blobs)
        findings += [] if mend else running_findings(settings.store)
    if output == "json":
        print(to_json([asdict(finding) for finding in findings]))
    else:
        Terminal().print(findings_table(findings, settings.store.place))
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(1)


def _of_database(
    settings: Settings, mend: bool, accept_loss: list[str], reads_blobs: bool, now: float
) -> list[Finding]:
    if mend and not accept_loss:
        what = "alone is for data directories: a database is restored from its backup"
        raise typer.BadParameter(what, param_hint="--repair")
    place = settings.store
    store_of(place)  # says so if the driver is missing
    from ...doctor.database import accept_losses, examine_database  # noqa: PLC0415  (psycopg is an extra)

    blobs = BlobCheck(place, settings.blob_grace_s, now, reads_blobs)
    if mend:
        with alone(settings):
            return [*accept_losses(place, accept_loss), *examine_database(place, blobs)]
    return [*examine_database(place, blobs), *running_findings(place)]


def findings_table(findings: list[Finding], data: str) -> RenderableType:
    """Return a table of findings: the repaired first, then the worst. Below each, or several alike, is the remedy."""
    parts: list[RenderableType] = []
    shown = _folded(_sorted(findings))
    remedies = [finding.remedy for finding, _ in shown]
    for (finding, more), below in zip(shown, [*remedies[1:], ""], strict=True):
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(no_wrap=True, width=10)
        table.add_column(no_wrap=True, width=9)
        table.add_column(overflow="fold")
        mark = ("↻ done", "cyan") if finding.repaired and finding.level == "ok" else _MARKS[finding.level]
        also = f" (and {more} more like it: -o json)" if more else ""
        what = styled((_short(finding.place, data), "bold"), f": {finding.what}", (also, "dim"))
        table.add_row(styled(mark), finding.check, what)
        parts.append(table)
        if finding.remedy not in ("", below) and finding.level != "ok":
            parts.append(Padding(styled(("→ ", "dim"), finding.remedy), (0, 0, 0, 22)))
    return Group(*parts, _verdict(findings))


def _sorted(findings: list[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: (not finding.repaired, _ORDER.index(finding.level)))


def _folded(findings: list[Finding]) -> list[tuple[Finding, int]]:
    """Return the findings to show, each with the number of findings of the same kind and remedy that it stands for."""
    shown: list[tuple[Finding, int]] = []
    kinds: dict[tuple[str, str, str, bool], list[int]] = {}
    for finding in findings:
        places = kinds.setdefault((finding.check, finding.level, finding.remedy, finding.repaired), [])
        if finding.check in _MANY and len(places) >= _ALIKE:
            shown[places[-1]] = (shown[places[-1]][0], shown[places[-1]][1] + 1)
        else:
            places.append(len(shown))
            shown.append((finding, 0))
    return shown


def _short(place: str, data: str) -> str:
    """Return a place without the data directory in front, which the first lines name; of a blob, the first digits."""
    blob = _BLOB.fullmatch(place)
    if blob is not None:
        return f"{blob[1]}…{blob[2]}"
    inside = place.removeprefix(f"{data}/")
    return inside if inside != place else place


def _verdict(findings: list[Finding]) -> Text:
    count = {level: sum(finding.level == level for finding in findings) for level in _ORDER}
    problems, warnings = count["problem"], count["warning"]
    if not problems and not warnings:
        return styled(("All is well.", "green"))
    said = [f"{number} {word}{'s' if number > 1 else ''}" for word, number in count.items() if number and word != "ok"]
    return styled((f"{', '.join(said)}.", "red" if problems else "yellow"))
