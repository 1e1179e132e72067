"""Coverage counters of the test bed: which faults struck whom, and which edges of the engine's states were taken.

A storm that never reaches an edge proves nothing about it; so a long run fails if one was never hit. Counting is
done from outside, around the engine's methods: none of it is in the product.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

from podium.actors.coordinator import Coordinator
from podium.actors.exchange import ExchangeClient
from podium.actors.exchange_server import _Session
from podium.actors.host import ProtocolHost
from podium.actors.resources import ResourceActor
from podium.cluster.client.link import Link
from podium.cluster.store.memory.journal import MemoryJournal
from podium.errors import PodiumError
from podium.protocols.errors import Fenced, PeerUnreachable
from podium.supervisors import open_tasks
from podium.supervisors.children.children import Children
from podium.supervisors.children.nested import NestedSupervisor
from podium.supervisors.limits.permit_client import PermitClient
from podium.supervisors.limits.regimes import Asking, Borrowing
from podium.supervisors.ports.journal import Entry, NewTask, StatusChange
from podium.supervisors.running.lanes import Lanes
from podium.supervisors.running.pool import Pool
from podium.supervisors.supervisor import Supervisor
from podium.supervisors.upkeep.takeover import Takeover
from podium.testing import Simulation

COUNTS: Counter[str] = Counter()
EDGES: list[str] = []
ROLES = ("host", "supervisor", "tier", "resources", "coordinator")


def role_of(address: str) -> str:
    """`supervisor/storm/work-0` is a host, `supervisor/storm/team` a tier."""
    if address in ("resources", "coordinator"):
        return address
    if address[-1].isdigit() and address[-2] == "-":
        return "host"
    return "supervisor" if address.count("/") == 1 else "tier"


def around(owner: Any, name: str, edges: list[str], which: Callable[..., str | None]) -> None:
    """Count what `which(*args)` says before each call of `owner.name`; `edges` are all that it may say."""
    EDGES.extend(edges)
    inner = getattr(owner, name)

    @wraps(inner)
    def counted(*args: Any, **kwargs: Any) -> Any:
        edge = which(*args, **kwargs)
        if edge is not None:
            COUNTS[edge] += 1
        return inner(*args, **kwargs)

    setattr(owner, name, counted)


def always(owner: Any, name: str, edge: str) -> None:
    around(owner, name, [edge], lambda *_args, **_kwargs: edge)


def where(owner: Any, name: str, edge: str, condition: Callable[..., bool]) -> None:
    around(owner, name, [edge], lambda *args, **kwargs: edge if condition(*args, **kwargs) else None)


def install() -> None:
    """Count from now on; once per process."""
    if not EDGES:
        _faults()
        _exchange()
        _journal()
        _children()
        _permits()
        _above()


def _faults() -> None:
    around(Simulation, "kill", [f"killed: {role}" for role in ROLES], lambda _s, a: f"killed: {role_of(a)}")
    around(Simulation, "freeze", [f"stopped: {role}" for role in ROLES if role != "coordinator"], _stopped)
    for role in ("supervisor", "tier", "resources"):
        EDGES.append(f"stopped out of reach: {role}")
    always(Simulation, "_jump", "clock jumped")


def _stopped(_simulation: Simulation, address: str, _for_s: float, out_of_reach: bool = False) -> str:
    return f"stopped{' out of reach' if out_of_reach else ''}: {role_of(address)}"


def _exchange() -> None:
    where(
        ExchangeClient,
        "_called",
        "frame sent again",
        lambda _n, _number, _f, _r, answer: isinstance(answer, PeerUnreachable),
    )
    always(_Session, "answer_again", "frame came again")
    where(ExchangeClient, "lose", "lost by silence", lambda _near, error: "lease" in str(error))
    where(
        ExchangeClient,
        "_take_in",
        "results came early",
        lambda near, answer: any(r[0] > near._received + 1 for r in answer[1]),
    )


def _journal() -> None:
    EDGES.extend(["committed, not acknowledged", "fenced"])
    COUNTS["committed, not acknowledged"] = 0
    where(MemoryJournal, "_fail", "fenced", lambda _j, error: isinstance(error, Fenced))
    commit, acknowledge = MemoryJournal._commit, MemoryJournal._acknowledge

    def committed(journal: Any) -> None:
        COUNTS["committed, not acknowledged"] += journal._disk.epoch == journal.epoch
        commit(journal)

    def acknowledged(journal: Any, answers: Any) -> None:
        COUNTS["committed, not acknowledged"] -= 1
        acknowledge(journal, answers)

    MemoryJournal._commit, MemoryJournal._acknowledge = committed, acknowledged  # type: ignore[method-assign]
    edges = [f"task {end}" for end in ("accepted", "accepted pending", "running", "completed", "cancelled")]
    around(MemoryJournal, "_apply", edges, _change)
    steps = ["StepFinished", "StepFailed", "StepLost", "Cancelled"]
    around(open_tasks, "apply", steps, lambda _task, event: type(event).__name__)


def _change(_journal: MemoryJournal, change: Any) -> str | None:
    match change:
        case NewTask():
            return "task accepted pending" if change.record.status == "pending" else "task accepted"
        case StatusChange():
            return "task running"
        case Entry(closing=end) if end is not None:
            return f"task {end.status}"
    return None


def _children() -> None:
    around(Pool, "_lost", ["host lost idle", "host lost at work"], _host_lost)
    always(Pool, "_requeue", "job queued again")
    where(Pool, "end_host", "dropped job lost", lambda _p, host, _e: any(job.dropped for job in host.jobs))
    where(Pool, "_room", "suspect runs beside fewer", lambda _p, host, job: bool(job.losses or host.suspects))
    where(Pool, "end_host", "host stopped with others", lambda _p, host, _e: host.line is not None)
    where(Children, "failed", "restart excused", lambda _f, _c, _e, counted=True: not counted)
    where(
        Children, "failed", "failed during a restart", lambda f, c, _e, counted=True: f._restart_of(c) in f._under_way
    )
    always(Supervisor, "_give_up", "supervisor gave up")
    always(NestedSupervisor, "_lost", "tier lost")
    where(NestedSupervisor, "end", "tier stopped with others", lambda tier, _e: tier.is_up)
    where(NestedSupervisor, "cancel", "nested run cancelled", lambda tier, id: id in tier._nested_runs)


def _host_lost(_pool: Pool, host: Any, _error: PodiumError) -> str:
    return "host lost at work" if host.jobs else "host lost idle"


def _permits() -> None:
    always(PermitClient, "_lost", "ResourceActor lost")
    where(Asking, "withdraw", "wish withdrawn", lambda _asking, wish: wish.number is not None)
    where(Asking, "kept_for", "idle permits are there", lambda asking, _request: bool(asking._idle))
    where(Asking, "_drop", "idle permits dropped", lambda asking, ticket: ticket in asking._idle)
    always(Borrowing, "hand_over", "waits in a lane")
    always(Asking, "hand_over", "waits in a reuse window")
    around(ProtocolHost, "free_permit", ["permit passed on", "permit goes back"], _freed)
    where(Lanes, "permit_back", "permit sent again", lambda _l, _h, lane, _t: lane.jobs >= len(lane.tickets))
    where(Lanes, "_permit_unused", "permit sent in vain", lambda _l, _h, _lane, reply: any(reply.fields))
    where(ResourceActor, "_join", "joined with claims", lambda _r, joining: bool(joining.claims))
    where(ResourceActor, "_join", "books returned", lambda _r, joining: joining.meters is not None)
    where(ResourceActor, "_end_loan", "books lost", lambda r, shard, meters: r._lent_to == shard and meters is None)
    always(PermitClient, "_borrow", "books lent")
    where(ResourceActor, "_grant", "grants held back", lambda resources: bool(resources._expected))
    where(ResourceActor, "_forget", "silent holder forgotten", lambda resources, shard: shard in resources._renewed_at)


def _freed(host: ProtocolHost, attempt: Any) -> str | None:
    if attempt.permit is None:
        return None
    return "permit passed on" if host._lanes.get(attempt.lane) else "permit goes back"


def _above() -> None:
    where(Coordinator, "_lost", "supervisor lost", lambda _c, child, _line, _e: child.address != "resources")
    always(Coordinator, "_resume", "coordinator started")
    where(Takeover, "resume", "open tasks taken over", lambda _t, tasks, _keep: bool(tasks))
    where(Takeover, "resume", "tier drops a task", _drops)
    where(Link, "_lost", "client lost it before the acknowledgement", lambda link, _e: bool(link._batches))
    where(Link, "_lost", "client lost it while following", lambda link, _e: bool(link._followed))
    where(Link, "_lost", "client lost it while watching", lambda link, _e: bool(link._watched))


def _drops(_takeover: Takeover, tasks: list[Any], keep: list[str] | None) -> bool:
    return keep is not None and any(task.record.task_id not in keep for task in tasks)


def missed() -> list[str]:
    """Edges that were never taken."""
    return [edge for edge in EDGES if COUNTS[edge] <= 0]


def table() -> str:
    width = max(map(len, EDGES))
    return "\n".join(f"{edge:<{width}}  {COUNTS[edge]:>10,}" for edge in dict.fromkeys(EDGES))
