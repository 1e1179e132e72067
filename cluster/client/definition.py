"""Turns a driver's workflow into a definition for a cluster: the tree, and the facts and places of its protocols."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...protocols.binding import schemas_of, settle_hints
from ...protocols.errors import InvalidDefinition
from ...protocols.protocol import Declaration, ProtocolLike, declaration_of, resolve
from ...protocols.tree import Node, Sequence, Step
from ...protocols.workflow import Workflow
from ...supervisors.tasks.plan import version_hash
from ..packages import Packages
from ..sources import fingerprint_of


def definition_of(workflow: Workflow, packages: Packages | None = None) -> dict[str, Any]:
    """Return the definition as plain data (see supervisors/tasks/plan.py).

    The local folders of its protocols are packed into `packages`.

    Its `hash` covers the tree, the declarations of the protocols, and their code. If any of these changes, the workflow
    is another version, which runs beside the versions of open tasks. `tree` is the hash of the tree alone.

    Raises:
        InvalidDefinition: a protocol is missing, or a file or folder of its `runtime_env`.
    """
    packages = packages or Packages()
    targets = protocols_of(workflow)
    tree = workflow.to_dict()
    declared = {ref: _deployed(declaration_of(target), packages) for ref, target in targets.items()}
    code = {ref: fingerprint_of(target, _root_of(ref, target)) for ref, target in targets.items()}
    protocols = {ref: each.model_dump(mode="json") for ref, each in declared.items()}
    return {
        "name": workflow.name,
        "version": workflow.version,
        "description": workflow.description,
        "interface": interface_of(workflow),
        "when_left": workflow.when_left,
        "needs_tasks": workflow.needs_tasks,
        "elicit": workflow.elicit,
        "hash": version_hash(workflow.hash, protocols, code),
        "tree": workflow.hash,
        "code": code,
        "root": tree["root"],
        "input": tree.get("input"),
        "supervision": tree.get("supervision"),
        "timeout_s": workflow.timeout_s,
        "undo_on_cancel": workflow.undo_on_cancel,
        "quotas": dict(workflow.quotas),
        "when_down": workflow.when_down,
        "starts": workflow.starts,
        "shards": workflow.shards,
        "protocols": protocols,
        "search_path": sorted({root for ref in targets if (root := import_root(ref))}),
    }


def _deployed(declared: Declaration, packages: Packages) -> Declaration:
    """Return the declaration with an environment that the machines of the cluster can prepare."""
    return declared.model_copy(update={"runtime_env": packages.environment(declared.runtime_env, declared.ref)})


def _root_of(ref: str, target: ProtocolLike) -> str | None:
    return import_root(ref) if is_importable(ref, target) else None


def interface_of(workflow: Workflow) -> dict[str, Any]:
    """Return the JSON Schemas of a task's input and output; {} allows anything.

    The input schema is the workflow's own, or that of the first protocol's type hints. The output schema is that of
    the last protocol's type hints.
    """
    first: Node = workflow.root
    while isinstance(first, Sequence) and first.with_ is None:
        first = first.sequence[0]
    last: Node = workflow.root
    while isinstance(last, Sequence) and not last.fallback and last.otherwise is None:
        last = last.sequence[-1]
    takes = workflow.input
    if takes is None and isinstance(first, Step) and first.with_ is None:
        takes = schemas_of(resolve(first.step))[0]
    is_plain = isinstance(last, Step) and not last.fallback and last.otherwise is None
    gives = schemas_of(resolve(last.step))[1] if is_plain and isinstance(last, Step) else {}
    return {"input": dict(takes or {}), "output": gives}


def protocols_of(workflow: Workflow) -> dict[str, ProtocolLike]:
    try:
        return {ref: resolve(ref) for ref in workflow.refs}
    except LookupError as error:
        raise InvalidDefinition(problem=f"unknown protocol: {error.args[0]}", path=workflow.name) from error


def is_importable(ref: str, target: ProtocolLike) -> bool:
    """Return whether another process can import the protocol under this name.

    It cannot if the protocol is in `__main__` or a notebook, was made in a function or of a method, or if its name
    means another object now.
    """
    module, _, qualname = ref.partition(":")
    if module == "__main__" or import_root(ref) is None:
        return False
    found: object = sys.modules[module]
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found is target


def import_root(ref: str) -> str | None:
    """Return the folder that the import path needs for `ref`; None if its module has no file or is `__main__`."""
    module = sys.modules.get(ref.partition(":")[0])
    file = getattr(module, "__file__", None)
    if module is None or file is None or module.__name__ == "__main__":
        return None
    path = Path(file).resolve()
    depth = module.__name__.count(".") + (path.name == "__init__.py")
    return str(path.parents[depth])


def code_of(workflow: Workflow, pickle: Callable[[object], bytes]) -> dict[str, bytes]:
    """Return pickles of the protocols that other processes cannot import. They are only for the same cluster."""
    moving = {ref: target for ref, target in protocols_of(workflow).items() if not is_importable(ref, target)}
    for target in moving.values():
        settle_hints(target)
    return {ref: pickle(target) for ref, target in moving.items()}
