"""Trains, tests and explains the router's scorer from the command line."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError
from rich.table import Table

from ....protocols.decoding import decoded
from ....protocols.errors import InvalidInput
from ....protocols.library.front import router_from
from ....protocols.requests.grants import requests_config
from ....protocols.requests.request import REQUEST_TYPES
from ....protocols.requests.scorer import (
    Example,
    NaiveBayes,
    Report,
    evaluate,
    evaluate_held_out,
    shipped_examples,
    shipped_scorer,
)
from ....protocols.wording import first_problem
from ...client.ask_input import request_of
from ...config import load_settings
from .answering import print_route
from .terminal import Terminal, error_console, to_json


def train_scorer(file: Path | None, out: Path, own_only: bool) -> None:
    own = [] if file is None else _read(file)
    examples = own if own_only else [*own, *shipped_examples()]
    training = [each for each in examples if each.split == "train"]
    if not training:
        raise InvalidInput(problem="there are no examples to train on", path=str(file or "examples"))
    out.write_text(NaiveBayes.train(training).to_json())
    error_console().print(f"Trained on {len(training)} examples: {out}")


def test_scorer(file: Path | None, output: str) -> None:
    examples = shipped_examples() if file is None else tuple(_read(file))
    reports: dict[str, Report] = {"5-fold": evaluate([each for each in examples if each.split == "train"])}
    if any(each.split == "test" for each in examples):
        reports["held out"] = evaluate_held_out(examples)
    if output == "json":
        print(to_json({name: report.model_dump(mode="json") for name, report in reports.items()}))
        return
    for name, report in reports.items():
        _print_report(Terminal(), name, report)


def explain_route(question: str, output: str) -> None:
    settings = load_settings(source="cli")
    request = request_of(question, settings, {})
    route = router_from(requests_config(settings.config).router).route(request)
    if output == "json":
        features = shipped_scorer().explain(request)[:8]
        print(to_json({**route.model_dump(mode="json"), "features": features}))
        return
    console = Terminal()
    print_route(console, route)
    for type, share in sorted(route.scores.items(), key=lambda each: -each[1]):
        console.print(f"  {type:<18} {share:.2f}")


def _read(file: Path) -> list[Example]:
    """Read a file of examples. Raises InvalidInput with the line."""
    try:
        lines = decoded(file.read_bytes()).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(problem=f"cannot be read: {error}", path=str(file)) from error
    rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    return [_example(line, f"{file}:{number}") for number, line in rows if not line.startswith('{"version"')]


def _example(line: str, where: str) -> Example:
    try:
        return Example.model_validate({"split": "train", **json.loads(line)})
    except ValidationError as error:
        loc, problem = first_problem(error, Example)
        raise InvalidInput(problem=f"{'.'.join(map(str, loc))}: {problem}", path=where) from error
    except (ValueError, TypeError) as error:
        raise InvalidInput(problem=f"not a JSON object: {error}", path=where) from error


def _print_report(console: Terminal, name: str, report: Report) -> None:
    console.print(f"{name}: {report.accuracy:.1%} of {report.examples} right")
    table = Table("is \\ taken for", *REQUEST_TYPES, "precision", "recall", box=None, pad_edge=False)
    for actual in REQUEST_TYPES:
        row = [str(report.confusion[actual].get(taken, 0)) for taken in REQUEST_TYPES]
        table.add_row(actual, *row, f"{report.precision[actual]:.2f}", f"{report.recall[actual]:.2f}")
    console.print(table)
