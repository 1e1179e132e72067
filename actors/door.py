"""What a client brings is checked here, by the rules that hold in the client, before anything of it is stored.

A client may be older, foreign or wrong: whatever it brings ends at most its own deployment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ..protocols.check import walk
from ..protocols.errors import InvalidDefinition, PodiumError
from ..protocols.tree import Step
from ..protocols.values import pack
from ..protocols.workflow import Workflow
from ..supervisors.plan import Plan


def check_definition(definition: Any) -> None:
    """Raises InvalidDefinition for what is no definition that a supervisor can govern."""
    if not isinstance(definition, Mapping) or not isinstance(definition.get("name"), str):
        raise InvalidDefinition(problem="a definition is a mapping with a name", path="definition")
    try:
        plan = Plan(definition)
        workflow = {key: definition.get(key) for key in ("name", "version", "root", "shards")}
        Workflow.from_trusted(workflow)
    except PodiumError:
        raise
    except (ValidationError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        problem = f"workflow '{str(definition['name'])[:64]}' cannot be governed: {type(error).__name__}: {error}"
        raise InvalidDefinition(problem=problem, path="definition") from error
    _check_declared(plan)
    pack(definition)


def _check_declared(plan: Plan) -> None:
    for _, node in walk(plan.root, ()):
        if isinstance(node, Step) and node.step not in plan.declarations:
            raise InvalidDefinition(problem=f"the protocol '{node.step}' is not declared", path="definition.protocols")


def check_code(code: Any) -> dict[str, bytes]:
    """Code that is carried, by protocol. Raises InvalidDefinition."""
    if not isinstance(code, Mapping) or not all(isinstance(k, str) and isinstance(v, bytes) for k, v in code.items()):
        raise InvalidDefinition(problem="code is bytes by protocol", path="code")
    return dict(code)
