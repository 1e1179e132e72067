"""The briefing as a Python tree; brief.yaml is the same tree (a test compares them)."""

from podium import Adaptive, Hierarchy, Parallel, Retry, Rule, Sequence, Step, Workflow

from .analysis import churn, functions, languages, manifests, todos
from .inventory import BriefRequest, inventory
from .report import assemble
from .sections import Editor, write_section
from .structure import by_folder, in_detail, size_up

LARGE = 1000
"""Files from which a tree is summarised per folder."""

brief = Workflow(
    "repo-brief",
    Sequence(
        Step(inventory, timeout_s=120),
        Parallel(
            {
                "languages": languages,
                "manifests": manifests,
                "todos": todos,
                "churn": Step(churn, timeout_s=60, retry=Retry(attempts=2)),
                "functions": functions,
            },
            name="facts",
        ),
        Adaptive(
            {
                "size_up": Step(size_up, with_={"inventory": "outputs.inventory"}),
                "by_folder": by_folder,
                "in_detail": in_detail,
            },
            name="structure",
            start="size_up",
            rules=[
                Rule(after="size_up", when=f"output.files > {LARGE}", to="by_folder"),
                Rule(after="size_up", to="in_detail"),
                Rule(to="end"),
            ],
        ),
        Hierarchy(
            Editor,
            name="sections",
            with_={
                "inventory": "outputs.inventory",
                "facts": "outputs.facts",
                "structure": "outputs.structure",
            },
            team={
                "overview": write_section,
                "structure": write_section,
                "dependencies": write_section,
                "hot_spots": write_section,
                "open_ends": write_section,
                "long_functions": write_section,
            },
            max_rounds=4,
        ),
        Step(assemble, with_={"inventory": "outputs.inventory", "sections": "input"}),
    ),
    description="A briefing on a folder of source code, as one Markdown report.",
    input=BriefRequest,
)
