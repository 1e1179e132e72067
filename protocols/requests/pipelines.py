"""The pipelines: one workflow per type of request, and the workflow `ask` that routes a request to one of them.

They are ordinary workflow YAML, shipped beside this and checked against the machine when they are read. One of the
user's with the same name takes the place of a shipped one; hooks are steps of the user's before a state.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

from ..errors import InvalidDefinition
from ..protocol import declaration_of, resolve
from ..reading import read_mapping, read_workflow
from ..tree import Adaptive, Node, Step, takers_back
from ..tree_parts import END, Rule
from ..workflow import Workflow
from .grants import OPERATION_S
from .hooks import hooked, read_hooks, with_end
from .machine import check_pipeline
from .request import REQUEST_TYPES, RequestType

NAME = "ask"
ROUTE = "podium.protocols.library.front:route"


def read_pipeline(text: str, source: str) -> Workflow:
    """Read and check a pipeline in YAML. Raises InvalidDefinition with file:line:column or the forbidden transition."""
    workflow = read_workflow(text, source)
    check_pipeline(workflow.root, f"pipeline {workflow.name} in {source}")
    return workflow


def hooks_from(text: str, source: str) -> dict[str, object]:
    """Read hooks by state in YAML, as in the setting. Raises InvalidDefinition with the file and the state."""
    found = read_mapping(text, source)
    try:
        read_hooks(found)
    except InvalidDefinition as error:
        raise InvalidDefinition(problem=error.problem, path=error.path, where=source) from error
    return found


@lru_cache(maxsize=1)
def shipped_pipelines() -> Mapping[RequestType, Workflow]:
    found: dict[RequestType, Workflow] = {}
    for type in REQUEST_TYPES:
        file = files(__package__).joinpath(f"{type}.yaml")
        found[type] = read_pipeline(file.read_text(), f"{type}.yaml")
    return found


def ask_workflow(
    own: Mapping[RequestType, Workflow] | None = None,
    hooks: Mapping[Any, object] | None = None,
    operation_s: float = OPERATION_S,
) -> Workflow:
    """Return the workflow that answers requests.

    Args:
        own: pipelines that take the place of shipped ones.
        hooks: by state, steps to run before it is entered, in every pipeline (see hooks.py). They get the stage's input
            and pass on what they return; one that fails keeps the request from entering the state, as any failed step
            would. Before `completed` they get the answer, before `failed` and `cancelled` {"request", "route"}, and
            change nothing.
        operation_s: longest time of one attempt of a step that says nothing of its own about that; 0 is no bound.

    Raises:
        InvalidDefinition: a pipeline makes a transition that the machine forbids, or no hook can stand before a state.
    """
    steps = read_hooks(hooks)
    pipelines = {**shipped_pipelines(), **(own or {})}
    nodes: dict[str, Node] = {"route": with_end(Step(ROUTE), steps)}
    rules = []
    for type, pipeline in pipelines.items():
        check_pipeline(pipeline.root, f"pipeline {type}")
        nodes[type] = hooked(pipeline.root, steps).model_copy(update={"name": None})
        rules.append(Rule(after="route", when=f"output.route.type == '{type}'", to=type))
    if operation_s:
        nodes = {label: bounded(node, operation_s) for label, node in nodes.items()}
    adaptive = Adaptive(nodes, start="route", rules=(*rules, Rule(to=END)), max_visits=1)
    description = "Answers requests: routed to the pipeline of their type."
    return Workflow(NAME, adaptive, quotas={"request": 1}, description=description, starts="as_needed")


def bounded(node: Node, operation_s: float) -> Node:
    """Return the tree with a time-out of attempts for each step that has none, neither here nor by its protocol. A step
    with only an idle time-out gets none: it may take long on purpose."""
    changed: dict[str, object] = {"fallback": tuple(bounded(other, operation_s) for other in node.fallback)}
    changed |= {name: bounded(step, operation_s) for name, step in takers_back(node).items()}
    if isinstance(node, Step) and not _is_bounded(node):
        changed["timeout_s"] = operation_s
    return node.with_children(lambda child: bounded(child, operation_s)).model_copy(update=changed)


def _is_bounded(step: Step) -> bool:
    try:
        declared = declaration_of(resolve(step.step))
    except LookupError:  # whoever submits the workflow is told so, with its place
        return True
    return any((step.timeout_s, step.idle_timeout_s, declared.timeout_s, declared.idle_timeout_s))
