"""Checks the definitions and code that clients bring, by the same rules as in the client, before they are stored.

A client may be older, foreign or wrong. A bad definition fails only its own deployment.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from ..protocols.check import walk
from ..protocols.errors import InvalidDefinition, PodiumError
from ..protocols.tree import Step
from ..supervisors.tasks.plan import Plan, tree_of, version_hash


def check_definition(definition: object) -> None:
    """Raise InvalidDefinition if a supervisor could not govern this definition."""
    if not isinstance(definition, Mapping) or not isinstance(definition.get("name"), str):
        raise InvalidDefinition(problem="a definition is a mapping with a name", path="definition")
    try:
        plan = Plan(definition)
        tree = tree_of(definition).hash
    except PodiumError:
        raise
    except (ValidationError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        problem = f"workflow '{str(definition['name'])[:64]}' cannot be governed: {type(error).__name__}: {error}"
        raise InvalidDefinition(problem=problem, path="definition") from error
    _check_declared(plan)
    if plan.tree != tree or plan.hash != version_hash(tree, definition["protocols"], plan.code):
        problem = f"the hash of '{plan.name}' is not that of what it holds: make the definition with this Podium"
        raise InvalidDefinition(problem=problem, path="definition.hash")


def _check_declared(plan: Plan) -> None:
    for _, node in walk(plan.root, ()):
        if isinstance(node, Step) and node.step not in plan.declarations:
            raise InvalidDefinition(problem=f"the protocol '{node.step}' is not declared", path="definition.protocols")


def check_code(code: object) -> dict[str, bytes]:
    """Return the code that a client brings, by `carried_key`. Raises InvalidDefinition if it has another form."""
    if not isinstance(code, Mapping) or not all(isinstance(k, str) and isinstance(v, bytes) for k, v in code.items()):
        raise InvalidDefinition(problem="code is bytes by protocol", path="code")
    return dict(code)
