"""Loads workflows from files, `module:name` or `file.py:name`, and sets the import path that their protocols need."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from ..protocols.decoding import decoded
from ..protocols.errors import InvalidDefinition, PodiumError
from ..protocols.reading import read_workflow
from ..protocols.workflow import Workflow


def load_workflow(source: str | Path) -> Workflow:
    """Load a workflow: from a YAML or JSON file, by `module:name` or `file.py:name`, or the only one in `file.py`.

    Protocols are imported from the working directory and from the folder of the file. If the file is in a package,
    the folder above the package is used instead.

    Raises:
        InvalidDefinition: Something is wrong; names file:line:column and the path in the tree.
    """
    path = Path(source)
    _import_from(Path.cwd())
    file, _, name = str(source).partition(".py:")
    if name or path.suffix == ".py":
        return _of_file(Path(f"{file}.py") if name else path, name, str(source))
    if path.suffix in (".yaml", ".yml", ".json") or path.exists():
        _import_from(_import_root(path.resolve().parent))
        return read_workflow(_text(path), str(source))
    return _named(str(source))


def _import_root(folder: Path) -> Path:
    """Return `folder`, or the folder above the package if `folder` is part of one."""
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


def _of_file(path: Path, name: str, source: str) -> Workflow:
    """Return the workflow of this name in a Python file; without a name, the only workflow.

    The file is imported as a module, by the name under which other processes find it.
    """
    place = path.resolve()
    if not place.is_file():
        raise InvalidDefinition(problem=os.strerror(errno.ENOENT), where=str(path))
    root = _import_root(place.parent)
    _import_from(root)
    parts = place.relative_to(root).with_suffix("").parts
    module = _imported(".".join(parts[:-1] if parts[-1] == "__init__" else parts), source)
    if Path(getattr(module, "__file__", None) or "").resolve() != place:
        problem = f"'{module.__name__}' is already another module: give the file another name"
        raise InvalidDefinition(problem=problem, where=source)
    return _workflow_in(module, name or _only_workflow(module, source), source)


def _only_workflow(module: ModuleType, source: str) -> str:
    names = _workflows(module)
    if len({id(getattr(module, name)) for name in names}) == 1:
        return names[0]
    ways = " or ".join(f"{source}:{name}" for name in names) or "a Workflow is needed at module level"
    found = f"{len(names)} workflows in it; write" if names else "no workflow in it;"
    raise InvalidDefinition(problem=f"{found} {ways}", where=source)


def _workflows(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, Workflow)]


def _named(source: str) -> Workflow:
    module_name, _, name = source.partition(":")
    if not name or module_name.startswith(".") or "/" in module_name:
        problem = "expected a YAML or JSON file, module:workflow or file.py:workflow"
        raise InvalidDefinition(problem=problem, where=source)
    return _workflow_in(_imported(module_name, source), name, source)


def _imported(module_name: str, source: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except PodiumError:
        raise  # what is wrong in it says where
    except (Exception, SystemExit) as error:
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise InvalidDefinition(problem=f"does not import: {kind}{error}", where=source) from error


def _workflow_in(module: ModuleType, name: str, source: str) -> Workflow:
    target = getattr(module, name, None)
    if not isinstance(target, Workflow):
        found = "nothing" if target is None else type(target).__name__
        near = get_close_matches(name, _workflows(module), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise InvalidDefinition(problem=f"expected a Workflow, found {found}{hint}", where=source)
    return target


def _import_from(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
