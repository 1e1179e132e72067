"""`podium router`: train the scorer that chooses the type of a request, test it, and have a choice explained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Output

router = typer.Typer(no_args_is_help=True, help="How the type of a request is chosen.")
Examples = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help='JSON lines {"text", "type"}, and "split": "test" for some held out.'),
]


@router.command()
def train(
    file: Examples = None,
    out: Annotated[Path, typer.Option("--out", help="Where the scorer goes.")] = Path("router.json"),
    own_only: Annotated[bool, typer.Option("--own-only", help="Leave out the examples that come with Podium.")] = False,
) -> None:
    """Train a scorer on your examples and the shipped ones; `config.requests.router.trained` names it then."""
    from .training import train_scorer  # noqa: PLC0415  (60 ms, and other commands do without)

    train_scorer(file, out, own_only)


@router.command()
def test(file: Examples = None, output: Output = "table") -> None:
    """How often the scorer is right: on examples held out, and by cross-validation on the others."""
    from .training import test_scorer  # noqa: PLC0415  (see above)

    test_scorer(file, output)


@router.command()
def explain(question: str, output: Output = "table") -> None:
    """Show the type that a question would be treated as, and why."""
    from .training import explain_route  # noqa: PLC0415  (see above)

    explain_route(question, output)
