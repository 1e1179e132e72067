"""Workflows from files and from `module:name`, with the import path that their protocols need."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from ..protocols.decoding import decoded
from ..protocols.errors import InvalidDefinition
from ..protocols.reading import read_workflow
from ..protocols.workflow import Workflow


def load_workflow(source: str | Path) -> Workflow:
    """The workflow in a YAML or JSON file, or under `module:name`.

    Protocols import from the working directory and from the file's own folder, or from above the package that
    the file is in.

    Raises:
        InvalidDefinition: with file:line:column and the path in the tree.
    """
    path = Path(source)
    _import_from(Path.cwd())
    if path.suffix in (".yaml", ".yml", ".json") or path.exists():
        _import_from(_import_root(path.resolve().parent))
        return read_workflow(_text(path), str(source))
    return _named(str(source))


def _import_root(folder: Path) -> Path:
    """`folder`, or the folder above the package that it is part of."""
    while (folder / "__init__.py").exists():
        folder = folder.parent
    return folder


def _text(path: Path) -> str:
    try:
        return decoded(path.read_bytes())
    except OSError as error:
        raise InvalidDefinition(problem=error.strerror or str(error), where=str(path)) from error
    except UnicodeDecodeError as error:
        problem = f"not {error.encoding.upper()} at byte {error.start}"
        raise InvalidDefinition(problem=problem, where=str(path)) from error


def _named(source: str) -> Workflow:
    module_name, _, name = source.partition(":")
    if not name:
        raise InvalidDefinition(problem="expected a YAML or JSON file, or module:workflow", where=source)
    try:
        target = getattr(importlib.import_module(module_name), name, None)
    except ImportError as error:
        raise InvalidDefinition(problem=f"does not import: {error}", where=source) from error
    if not isinstance(target, Workflow):
        found = "nothing" if target is None else type(target).__name__
        raise InvalidDefinition(problem=f"expected a Workflow, found {found}", where=source)
    return target


def _import_from(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
