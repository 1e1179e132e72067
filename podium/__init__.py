"""Podium: durable, supervised, rate-limited workflows of stateful actors, on Ray.

    import podium

    @podium.protocol
    def double(input: int) -> int:
        return 2 * input

    workflow = podium.Workflow("doubling", podium.Sequence(double, double))

    with podium.connect() as engine:
        print(engine.submit(workflow, 3).result())

This is the front door: everything public is here, errors in `podium.errors`, verdicts of supervising protocols
in `podium.verdict`, the classes of `engine.status()` in `podium.status`, the simulated cluster in `podium.testing`.
"""

from . import errors, status, verdict
from .cluster.client.dead_letters import DeadLetter
from .cluster.client.engine import Engine, Task, connect
from .cluster.client.engine_async import AsyncEngine, AsyncTask, connect_async
from .cluster.client.waits import AnswerReceipt, OpenWait
from .cluster.config import Settings
from .cluster.loading import load_workflow
from .protocols.asking import Answer, Ask
from .protocols.codecs.registry import codec, decoded
from .protocols.context import Context
from .protocols.errors import PodiumError
from .protocols.file import File
from .protocols.lazy import Lazy
from .protocols.outcomes import BACKGROUND, Failure, TaskEvent, TaskRecord
from .protocols.policy import Breaker, Retry, Supervision
from .protocols.protocol import Protocol, protocol
from .protocols.reading import read_workflow
from .protocols.requests.request import Request
from .protocols.secret import Secret
from .protocols.tree import Adaptive, Hierarchy, Parallel, Sequence, Sleep, Step, Wait, quorum
from .protocols.tree_parts import Constant, Rule
from .protocols.verdicts import Goto
from .protocols.workflow import Workflow

__version__ = "0.1.0"

__all__ = [
    "BACKGROUND",
    "Adaptive",
    "Answer",
    "AnswerReceipt",
    "Ask",
    "AsyncEngine",
    "AsyncTask",
    "Breaker",
    "Constant",
    "Context",
    "DeadLetter",
    "Engine",
    "Failure",
    "File",
    "Goto",
    "Hierarchy",
    "Lazy",
    "OpenWait",
    "Parallel",
    "PodiumError",
    "Protocol",
    "Request",
    "Retry",
    "Rule",
    "Secret",
    "Sequence",
    "Settings",
    "Sleep",
    "Step",
    "Supervision",
    "Task",
    "TaskEvent",
    "TaskRecord",
    "Wait",
    "Workflow",
    "codec",
    "connect",
    "connect_async",
    "decoded",
    "errors",
    "load_workflow",
    "protocol",
    "quorum",
    "read_workflow",
    "status",
    "verdict",
]
