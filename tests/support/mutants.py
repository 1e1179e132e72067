"""Planted bugs, and which layer of the tests notices each: a test bed that lets one through proves nothing.

Every mutant is a patch made here, around the product; none of it is in the product. `python -m tests.support.mutants`
(or `make mutants`) prints the whole table; test_mutants.py asks only that somebody notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from podium.actors import exchange, sweeper
from podium.actors.breaker_registry import BreakerRegistry
from podium.actors.exchange import ExchangeClient
from podium.actors.exchange_server import _Session
from podium.actors.host import ProtocolHost
from podium.actors.moving import Moving
from podium.actors.sweeper import Sweeper
from podium.cluster.blobs.memory import MemoryBlobs
from podium.cluster.client.link import Link
from podium.cluster.on_ray.keeper import Keeper
from podium.cluster.simulation.cluster import SimulatedWorld
from podium.cluster.simulation.machines import Machines as SimulatedMachines
from podium.cluster.store.memory.journal import MemoryJournal
from podium.cluster.store.postgres.journal import PostgresJournal
from podium.cluster.store.postgres.machines import Machines
from podium.cluster.store.postgres.mark import Known
from podium.cluster.store.postgres.writing import Writing
from podium.cluster.store.sqlite.journal import SqliteJournal
from podium.protocols import protocol as protocol_module
from podium.protocols.outcomes import OPEN
from podium.protocols.stored import BlobKey
from podium.supervisors.admission import intake
from podium.supervisors.children.children import Children
from podium.supervisors.limits import ledger
from podium.supervisors.limits.ledger import Ledger
from podium.supervisors.limits.permit_client import PermitClient
from podium.supervisors.limits.regimes import Borrowing
from podium.supervisors.messages.host import StepResult
from podium.supervisors.open_tasks import OpenTasks
from podium.supervisors.ports.journal import Entry, Note, OpenTask
from podium.supervisors.running.breaker import Breaker
from podium.supervisors.running.dispatch import Dispatcher
from podium.supervisors.running.lanes import Lanes
from podium.supervisors.running.pool import Pool
from podium.supervisors.running.scaling import Scaling
from podium.supervisors.tasks import entries
from podium.supervisors.tasks.events import StepFinished
from podium.supervisors.tasks.plan import Build, Plan
from podium.supervisors.upkeep.clock import Clock
from podium.supervisors.upkeep.leaving import Leaving
from podium.supervisors.upkeep.machine_lease import MachineLease
from podium.supervisors.upkeep.sweeping import Sweep
from tests.actors import test_exchange, test_sweeper
from tests.cluster.blobs import test_blobs
from tests.cluster.client import test_engine
from tests.cluster.on_ray import test_keeper
from tests.cluster.simulation import test_machines
from tests.cluster.store import test_journal, test_marks, test_postgres
from tests.protocols import test_large_values
from tests.supervisors import test_boundaries, test_versions
from tests.supervisors.children import test_supervision
from tests.supervisors.limits.test_ledger import LedgerMachine
from tests.supervisors.running import test_breaker, test_elastic, test_lanes, test_scaling
from tests.supervisors.tasks import test_timeouts
from tests.supervisors.upkeep import test_dead_letters, test_machine_lease, test_sweeping
from tests.support import postgres, waiting_mutants
from tests.support.storm import run_storm

PATIENCE_S = 10
"""Real seconds for one test; without a bug it needs two at the most."""
SEEDS = 150
"""Storms that a mutant must survive to pass for unnoticed."""


def acknowledge_before_commit() -> Any:
    def write(journal: Any, changes: Any, then: Any = None) -> None:
        journal._add(changes, None, None)
        if then is not None:
            asyncio.get_running_loop().call_soon(then)

    return patch.object(MemoryJournal, "write", write)


def skip_the_epoch_check() -> Any:
    inner = MemoryJournal._commit

    def commit(journal: Any) -> None:
        newest, journal._disk.epoch = journal._disk.epoch, journal.epoch
        inner(journal)
        journal._disk.epoch = newest

    stack = contextlib.ExitStack()
    stack.enter_context(patch.object(MemoryJournal, "_commit", commit))
    stack.enter_context(patch.object(SqliteJournal, "_count", lambda _journal, _db: None))
    return stack


def believe_in_probes_of_the_dead() -> Any:
    return patch.object(BreakerRegistry, "_void", lambda _board, _shard, _held: None)


def count_outcomes_of_older_states() -> Any:
    inner = Breaker.record

    def record(breaker: Any, call: Any, outcomes: Any, now: float) -> None:
        lease = next(iter(breaker.leases), call.lease)
        inner(breaker, call._replace(generation=breaker.generation, lease=lease), outcomes, now)

    return patch.object(Breaker, "record", record)


def send_what_runs_once_before_that_is_durable() -> Any:
    return patch.object(OpenTasks, "step_begins", lambda _open_tasks, _task, _place, go: go())


def release_a_permit_twice() -> Any:
    inner = Ledger.remove

    def remove(ledger: Any, id: str) -> None:
        request = ledger._grants.get(id)
        inner(ledger, id)
        if request is not None:
            ledger._held.subtract(request.needs)

    return patch.object(Ledger, "remove", remove)


def leave_permits_to_the_dead() -> Any:
    return patch.object(Ledger, "remove_holders", lambda _ledger, _shard: None)


def finish_a_task_again() -> Any:
    async def open_tasks(journal: Any) -> list[OpenTask]:
        records = [found.record for found in journal._disk.tasks.values()]
        return [OpenTask(record, journal._bodies(record.task_id)[:-1]) for record in records]

    def close(journal: Any, entry: Any) -> None:
        found = journal._disk.tasks[entry.task_id]
        if found.record.status in OPEN:
            inner(journal, entry)

    inner = MemoryJournal._close
    stack = contextlib.ExitStack()
    stack.enter_context(patch.object(MemoryJournal, "_close", close))
    stack.enter_context(patch.object(MemoryJournal, "open_tasks", open_tasks))
    return stack


def read_unknown_as_did_not_run() -> Any:
    """What ran on a host that is lost goes elsewhere at once, although the host may still be at it."""

    async def end_host(pool: Any, host: Any, error: Any) -> None:
        host.turn += 1
        host.line = None
        for job in list(host.jobs):
            was_sent = job.number is not None
            pool._leave(job, host)
            pool._requeue(job, error, was_sent)

    return patch.object(Pool, "end_host", end_host)


def submit_again_as_new() -> Any:
    inner = Link._lost

    def lost(link: Any, error: Any) -> None:
        inner(link, error)
        for batch in link._batches:
            batch.tasks = [task._replace(again=False) for task in batch.tasks]

    return patch.object(Link, "_lost", lost)


def let_a_late_result_overwrite() -> Any:
    def step_ended(open_tasks: Any, task: Any, place: Any, result: Any) -> None:
        if isinstance(result, StepResult) and result.status == "ok":
            task.running.setdefault(place.path, place)
            open_tasks.take(task, StepFinished(place.path, result.value, open_tasks._world.now()))
        else:
            inner(open_tasks, task, place, result)

    def cancel(pool: Any, job: Any) -> None:
        if job.number is None:
            unpatched(pool, job)

    inner, unpatched = OpenTasks.step_ended, Pool.cancel
    stack = contextlib.ExitStack()
    stack.enter_context(patch.object(OpenTasks, "step_ended", step_ended))
    stack.enter_context(patch.object(Pool, "cancel", cancel))
    return stack


def ignore_the_payload_of_a_key() -> Any:
    return patch.object(intake, "digest", lambda _value: "same")


def take_the_wall_clock_for_leases() -> Any:
    return patch.object(SimulatedWorld, "monotonic", SimulatedWorld.now)


def forget_results_whose_answer_was_lost() -> Any:
    def settle(session: Any, number: int, unanswered: Any, received: int) -> None:
        session._sent.clear()

    return patch.object(_Session, "settle", settle)


def never_look_at_a_lease() -> Any:
    return patch.object(ExchangeClient, "_check_lease", lambda _near, _lease_s, _due_at: None)


def start_children_without_asking_the_journal() -> Any:
    async def confirm() -> None:
        return

    inner = Children.__init__

    def init(family: Any, world: Any, policy: Any, _confirm: Any, give_up: Any) -> None:
        inner(family, world, policy, confirm, give_up)

    return patch.object(Children, "__init__", init)


def carry_effects_out_before_the_commit() -> Any:
    def take(open_tasks: Any, task: Any, event: Any) -> None:
        from podium.supervisors.tasks.fold import apply

        effects = apply(task, event)
        open_tasks._journal.write([open_tasks.entry(task, [event])])
        open_tasks.carry_out(task, effects)

    return patch.object(OpenTasks, "take", take)


def keep_the_books_after_their_recall() -> Any:
    """Grant on from the ledger that was returned, although the ResourceActor grants, too."""

    def joined(permits: Any, *args: Any) -> None:
        inner(permits, *args)
        permits._regime = kept.get(permits, permits._regime)

    kept: dict[Any, Any] = {}
    inner, leave = PermitClient._on_joined, PermitClient._leave
    stack = contextlib.ExitStack()
    stack.enter_context(patch.object(Borrowing, "leave", lambda borrowing: None))
    stack.enter_context(patch.object(PermitClient, "_leave", lambda p: (kept.update({p: p._regime}), leave(p))[1]))
    stack.enter_context(patch.object(PermitClient, "_on_joined", joined))
    return stack


def borrow_the_books_without_what_is_held() -> Any:
    def borrow(permits: Any, loan: Any) -> None:
        account = permits._account
        held, account.held = account.held, {}
        inner(permits, loan)
        account.held = {**held, **account.held}

    inner = PermitClient._borrow
    return patch.object(PermitClient, "_borrow", borrow)


def forget_the_limits_of_users() -> Any:
    inner = ledger.read_limits
    return patch.object(
        ledger, "read_limits", lambda written: {n: limit for n, limit in inner(written).items() if "user" not in n}
    )


def give_back_what_was_passed_on() -> Any:
    def free_permit(host: Any, attempt: Any) -> Any:
        permit = attempt.permit
        inner(host, attempt)
        return permit

    inner = ProtocolHost.free_permit
    return patch.object(ProtocolHost, "free_permit", free_permit)


def keep_a_permit_that_came_back() -> Any:
    return patch.object(Lanes, "_permit_unused", lambda _lanes, _host, _lane, _reply: None)


def lose_a_step_now_and_then() -> Any:
    inner = Dispatcher.run

    def run(dispatcher: Any, plan: Any, task: Any, place: Any, recovered: bool = False) -> None:
        if dispatcher._world.random.random() > 0.03:
            inner(dispatcher, plan, task, place, recovered)

    return patch.object(Dispatcher, "run", run)


def never_look_at_the_clock() -> Any:
    return patch.object(Clock, "check", lambda _clock: None)


def run_the_last_of_a_name_for_all() -> Any:
    return patch.object(protocol_module, "_told_apart", lambda _target: "")


def let_one_receiver_lose_the_rest_of_its_frame() -> Any:
    def report(_what: str, error: BaseException) -> None:
        raise error

    return patch.object(exchange, "report", report)


def give_new_tasks_the_old_hosts() -> Any:
    def build(plan: Any, ref: str) -> Build:
        return Build(ref, "", "")

    return patch.object(Plan, "build", build)


def commit_without_the_epoch() -> Any:
    def init(writing: Any, schema: str) -> None:
        inner(writing, schema)
        for name, sql in vars(writing).items():
            always = "coalesce(%s::text, %s::bigint::text, %s::bigint::text) IS NOT NULL"
            vars(writing)[name] = re.sub(r"EXISTS \(SELECT 1 FROM [^)]*line = %s\)", always, sql)

    inner = Writing.__init__
    stack = contextlib.ExitStack()
    stack.enter_context(patch.object(Writing, "__init__", init))
    stack.enter_context(patch.object(PostgresJournal, "_check_own", lambda _journal, _cursor: None))
    return stack


def take_a_commit_of_unknown_fate_for_lost() -> Any:
    return _fate(False)


def take_a_commit_of_unknown_fate_for_made() -> Any:
    return _fate(True)


def _fate(is_made: bool) -> Any:
    inner = PostgresJournal._come_back
    return patch.object(PostgresJournal, "_come_back", lambda j, error, probe: (inner(j, error, probe), is_made)[1])


def keep_the_line_of_a_lost_connection() -> Any:
    return patch.object(PostgresJournal, "_next_line", lambda _journal, epoch, line: (epoch, line))


def never_miss_an_acknowledged_commit() -> Any:
    return patch.object(PostgresJournal, "_last", property(lambda _j: None, lambda _j, _v: None), create=True)


def never_look_at_the_mark_of_a_shard() -> Any:
    return patch.object(Known, "loss", lambda _known, _epoch, _is_there: None)


def go_on_when_cut_off() -> Any:
    return patch.object(Keeper, "_end_all", lambda _keeper: None)


def declare_a_machine_lost_before_its_lease_is_over() -> Any:
    return _with_sql("_renew", " < now() RETURNING m.id", " < now() + interval '1 hour' RETURNING m.id")


def renew_what_was_declared_lost() -> Any:
    return _with_sql("_renew", "AND NOT m.lost AND m.generation", "AND m.generation")


def do_not_wait_for_the_machines_of_the_cluster_before() -> Any:
    return patch.object(Machines, "earlier_left_s", lambda *_: 0.0)


def _with_sql(name: str, right: str, wrong: str) -> Any:
    inner = Machines.__init__

    def init(machines: Machines, database: Any) -> None:
        inner(machines, database)
        assert right in getattr(machines, name)
        setattr(machines, name, getattr(machines, name).replace(right, wrong))

    return patch.object(Machines, "__init__", init)


def work_on_although_the_lease_is_over() -> Any:
    inner = MachineLease.look

    def look(lease: MachineLease, now: float, is_used: bool, has_coordinator: bool) -> None:
        inner(lease, min(now, lease.state.until or now), is_used, has_coordinator)

    return patch.object(MachineLease, "look", look)


def count_the_lease_from_the_answer() -> Any:
    inner = MachineLease.heard
    return patch.object(MachineLease, "heard", lambda lease, began, news: inner(lease, began + 1.5, news))


def declare_others_lost_as_soon_as_the_database_is_back() -> Any:
    return patch.object(MachineLease, "may_declare", lambda _lease, _now: True)


def start_a_successor_before_the_machine_is_lost() -> Any:
    async def ended(machines: SimulatedMachines, here: Any, cell: Any) -> None:
        if machines.reaches(here, cell.machine):
            cell.die("killed")

    return patch.object(SimulatedMachines, "ended", ended)


def take_every_wish_for_permits_for_work_of_a_host() -> Any:
    def lacking_places(ledger: Any, place: str, _now: float) -> int:
        return sum(request.who.place == place for request in ledger._waiting)

    return patch.object(Ledger, "lacking_places", lacking_places)


def end_hosts_before_they_were_idle_for_long_enough() -> Any:
    return patch.object(Scaling, "_note", lambda scaling, now, wanted: scaling._peaks.appendleft((now, wanted)))


def keep_hosts_on_a_machine_that_is_taken_away() -> Any:
    return patch.object(Pool, "leave", lambda _pool, _left_s: False)


def stay_on_a_machine_that_is_taken_away() -> Any:
    async def leave(_leaving: Leaving, _left_s: float) -> None:
        return

    return patch.object(Leaving, "_leave", leave)


def keep_the_coordinator_on_a_machine_that_is_taken_away() -> Any:
    async def move(_moving: Moving, _left_s: float) -> None:
        return

    return patch.object(Moving, "_move", move)


def move_the_coordinator_while_steps_run() -> Any:
    return patch.object(Moving, "attend", lambda _moving, _line: None)


def wait_long_for_the_coordinator_of_a_new_home() -> Any:
    return patch.object(MachineLease, "became_home", lambda _lease: None)


def answer_before_the_large_parts_are_stored() -> Any:
    def put(store: MemoryBlobs, pieces: Any) -> BlobKey:
        draft = store.new_draft()
        for piece in pieces:
            draft.write(piece)
        key = draft._hashing.key()
        asyncio.get_running_loop().call_later(0.3, draft.commit)
        return key

    return patch.object(MemoryBlobs, "put", put)


@contextlib.contextmanager
def sweep_without_dooming_first() -> Iterator[None]:
    def sweep(blobs: Any, named: Any, now: float, grace_s: float, clock_was_set: bool = False) -> Sweep:
        return Sweep(delete=[blob._replace(doomed_at=0.0) for blob in blobs if blob.name not in named])

    def delete(store: MemoryBlobs, name: str, _doomed_at: float) -> None:
        store._disk.blobs.pop(name, None)

    with patch.object(sweeper, "sweep_of", sweep), patch.object(MemoryBlobs, "delete", delete):
        yield


def read_the_names_before_the_blobs() -> Any:
    original = Sweeper._sweep

    async def sweep(self: Sweeper) -> None:
        names = await self._world.named_blobs()
        await self._world.sleep(self._grace_s)

        async def named() -> set[str]:
            return names

        with patch.object(self._world, "named_blobs", named):
            await original(self)

    return patch.object(Sweeper, "_sweep", sweep)


def give_the_key_of_a_doomed_blob() -> Any:
    def keep(store: MemoryBlobs, key: BlobKey, content: bytes) -> BlobKey:
        store.check()
        store._disk.blobs.setdefault(key.name, (content, store._now()))
        return key

    return patch.object(MemoryBlobs, "keep", keep)


def do_not_list_what_entries_name() -> Any:
    return patch.object(entries, "blobs_in", lambda _events: frozenset())


def never_sweep() -> Any:
    async def sweep(self: Sweeper) -> None:
        return

    return patch.object(Sweeper, "_sweep", sweep)


def keep_the_grace_of_before_the_clock_was_set() -> Any:
    return patch.object(sweeper, "was_set", lambda _before, _now: False)


MUTANTS: dict[Callable[[], Any], str] = {
    acknowledge_before_commit: "storms",
    skip_the_epoch_check: "examples",
    release_a_permit_twice: "examples",
    leave_permits_to_the_dead: "examples",
    finish_a_task_again: "examples",
    read_unknown_as_did_not_run: "examples",
    submit_again_as_new: "examples",
    let_a_late_result_overwrite: "examples",
    ignore_the_payload_of_a_key: "examples",
    take_the_wall_clock_for_leases: "examples",
    forget_results_whose_answer_was_lost: "examples",
    never_look_at_a_lease: "examples",
    start_children_without_asking_the_journal: "examples",
    carry_effects_out_before_the_commit: "examples",
    keep_the_books_after_their_recall: "examples",
    borrow_the_books_without_what_is_held: "examples",
    forget_the_limits_of_users: "examples",
    give_back_what_was_passed_on: "storms",
    keep_a_permit_that_came_back: "examples",
    believe_in_probes_of_the_dead: "resilience",
    count_outcomes_of_older_states: "resilience",
    send_what_runs_once_before_that_is_durable: "resilience",
    lose_a_step_now_and_then: "storms",
    never_look_at_the_clock: "resilience",
    run_the_last_of_a_name_for_all: "resilience",
    let_one_receiver_lose_the_rest_of_its_frame: "resilience",
    give_new_tasks_the_old_hosts: "resilience",
    commit_without_the_epoch: "database",
    take_a_commit_of_unknown_fate_for_lost: "database",
    take_a_commit_of_unknown_fate_for_made: "database",
    keep_the_line_of_a_lost_connection: "database",
    never_miss_an_acknowledged_commit: "database",
    never_look_at_the_mark_of_a_shard: "database",
    take_every_wish_for_permits_for_work_of_a_host: "resilience",
    end_hosts_before_they_were_idle_for_long_enough: "resilience",
    go_on_when_cut_off: "machines",
    declare_a_machine_lost_before_its_lease_is_over: "machines",
    renew_what_was_declared_lost: "machines",
    work_on_although_the_lease_is_over: "leases",
    count_the_lease_from_the_answer: "leases",
    declare_others_lost_as_soon_as_the_database_is_back: "leases",
    start_a_successor_before_the_machine_is_lost: "leases",
    keep_hosts_on_a_machine_that_is_taken_away: "leases",
    stay_on_a_machine_that_is_taken_away: "leases",
    keep_the_coordinator_on_a_machine_that_is_taken_away: "leases",
    move_the_coordinator_while_steps_run: "leases",
    wait_long_for_the_coordinator_of_a_new_home: "leases",
    do_not_wait_for_the_machines_of_the_cluster_before: "machines",
    answer_before_the_large_parts_are_stored: "values",
    sweep_without_dooming_first: "values",
    read_the_names_before_the_blobs: "values",
    give_the_key_of_a_doomed_blob: "values",
    do_not_list_what_entries_name: "values",
    never_sweep: "values",
    keep_the_grace_of_before_the_clock_was_set: "values",
    **waiting_mutants.MUTANTS,
}
"""Each with the layer that notices it soonest, which is asked first."""


# layers: each runs its tests one by one


def ledger_model() -> Iterator[tuple[str, Callable[[], Any]]]:
    chosen = settings(max_examples=100, stateful_step_count=30, deadline=None, database=None,
                      suppress_health_check=list(HealthCheck))  # fmt: skip
    yield "model", partial(run_state_machine_as_test, LedgerMachine, settings=chosen)


def journal_contract() -> Iterator[tuple[str, Callable[[], Any]]]:
    for test in (test_journal.test_sqlite_checks_the_epoch_in_every_commit,):
        yield test.__name__, partial(_in_a_folder, test)


def _in_a_folder(test: Callable[[Path], Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        test(Path(folder))


def database_contract() -> Iterator[tuple[str, Callable[[], Any]]]:
    """The tests of the journal in PostgreSQL that say what follows a lost connection or another owner."""
    changes = [Entry("t-1", 2, b"two"), Note("a", 2)]
    for moment in ("before", "after"):
        test = test_postgres.test_a_commit_over_a_lost_connection_is_made_once
        yield f"lost {moment}", partial(_in_a_database, partial(test, moment=moment, changes=changes))
    late = test_postgres.test_what_was_sent_over_a_lost_connection_and_is_late_changes_nothing
    yield "late", partial(_in_a_database, late)
    yield "replaced", partial(_in_a_database, test_postgres.test_an_owner_that_was_replaced_changes_nothing_any_more)
    older = test_postgres.test_an_older_copy_of_the_database_is_noticed_after_a_reconnection
    yield "older copy", partial(_in_a_database, partial(older, lost="the last entry"))
    backup = test_marks.test_the_next_owner_notices_a_backup_from_before_the_last_owner
    yield "older backup", partial(_in_a_database, backup)


def machines_contract() -> Iterator[tuple[str, Callable[[], Any]]]:
    """What the keeper of a machine promises, with a real server and real processes."""
    for test in (
        test_keeper.test_who_is_cut_off_is_dead_before_anybody_can_declare_the_machine_lost,
        test_keeper.test_another_cluster_ends_the_processes_of_this_one,
    ):
        yield test.__name__, partial(_in_a_database, partial(test_keeper.play, test))
    yield "declared lost", partial(_in_a_database, test_keeper.test_what_was_declared_lost_renews_no_more)


def leases() -> Iterator[tuple[str, Callable[[], Any]]]:
    """The decisions of keepers, and the simulated cluster on several machines."""
    yield "never lost and at work", test_machine_lease.test_no_machine_is_declared_lost_while_it_may_work
    for name, test in vars(test_machines).items():
        if name.startswith("test_"):
            yield name, test


def _in_a_database(test: Callable[..., Any]) -> None:
    database = postgres.new_database(timeout_s=5)
    wanted = inspect.signature(test).parameters
    try:
        with tempfile.TemporaryDirectory() as folder, psycopg.connect(database.url, autocommit=True) as admin:
            facts = {"database": database, "tmp_path": Path(folder), "admin": admin}
            test(**{name: fact for name, fact in facts.items() if name in wanted})
    finally:
        postgres.drop(database)


def examples() -> Iterator[tuple[str, Callable[[], Any]]]:
    """The tests of the engine on the simulated cluster and of the exchange, as they stand."""
    yield from _tests_in(test_supervision, test_engine, test_exchange)
    for seed in range(40):
        test = test_lanes.test_never_one_too_many_whatever_is_late_cancelled_or_changed
        yield f"lanes, seed {seed}", partial(test, seed)
    for victim in ("supervisor/w/wide-0", "supervisor/w"):
        test = test_supervision.test_an_actor_that_is_stopped_is_replaced_within_its_lease
        yield f"stopped {victim}", partial(test, victim, False)


def resilience() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Those of breakers, dead letters, boundaries, versions, and hosts that follow the backlog."""
    yield from _tests_in(test_breaker, test_dead_letters, test_boundaries, test_versions, test_elastic, test_scaling)
    yield "quotas bound hosts", partial(test_elastic.test_no_more_hosts_start_than_the_quotas_keep_busy, 3, 1, 1, 3)
    yield "receiver", partial(test_exchange.test_a_receiver_that_raises_loses_no_other_result_of_the_frame, 1)
    for jump_s in (3_600, -3_600):
        clock = test_timeouts.test_a_clock_that_is_set_changes_no_time_that_is_left
        yield f"clock by {jump_s} s", partial(clock, {"task": 60}, jump_s, "supervisor/w")
    for victim in ("supervisor/w", "resources"):
        yield f"prober and {victim}", partial(test_breaker.test_a_prober_that_dies_wedges_nothing, victim)


def _tests_in(*modules: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Tests that need nothing, and are not about many generated cases."""
    for module in modules:
        for name, test in inspect.getmembers(module, inspect.isfunction):
            is_plain = not inspect.signature(test).parameters and not hasattr(test, "hypothesis")
            if name.startswith("test_") and is_plain:
                yield name, test


WITHIN_S = 5_000
"""Virtual seconds that a storm may take; without a bug it is a few hundred, and 2,000 more where blobs are swept."""


def storms() -> Iterator[tuple[str, Callable[[], Any]]]:
    for seed in range(SEEDS):
        yield f"seed {seed}", partial(run_storm, seed, WITHIN_S)


def values() -> Iterator[tuple[str, Callable[[], Any]]]:
    """The tests of large values, and of what is swept."""
    yield from _tests_in(test_large_values, test_sweeper, test_sweeping)
    yield (
        "contract",
        partial(test_blobs.test_a_doomed_content_is_stored_under_another_generation, test_blobs.in_memory()),
    )


LAYERS: dict[str, Callable[[], Iterator[tuple[str, Callable[[], Any]]]]] = {
    "examples": examples,
    "ledger model": ledger_model,
    "journal": journal_contract,
    "database": database_contract,
    "machines": machines_contract,
    "leases": leases,
    "resilience": resilience,
    "values": values,
    "waiting": partial(waiting_mutants.waiting, _tests_in),
    "storms": storms,
}


def is_noticed(mutant: Callable[[], Any]) -> bool:
    """Whether any layer notices it; the one that is known to is asked first, the cheap ones before the storms."""
    soonest = MUTANTS[mutant]
    return any(noticed_by(mutant, layer) for layer in sorted(LAYERS, key=lambda layer: layer != soonest))


def noticed_by(mutant: Callable[[], Any], layer: str) -> str | None:
    """The first test of the layer that fails under the mutant, None if none does."""
    for name, test in LAYERS[layer]():
        test_supervision.LOG.clear()
        with patch.dict(protocol_module._KNOWN), mutant(), _within(PATIENCE_S):
            try:
                test()
            except BaseException:
                return name
    return None


@contextlib.contextmanager
def _within(seconds: int) -> Iterator[None]:
    """A test that does not end under a mutant has noticed it, too."""

    def ring(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt  # nothing else gets through an event loop

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 3)  # again and again: one may be swallowed by a cleanup
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def quiet() -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def main() -> int:
    quiet()
    print(f"{'':<44}" + "".join(f"{layer:<46}" for layer in LAYERS))
    passed = [mutant.__name__ for mutant in MUTANTS if not _row(mutant)]
    print(f"{len(MUTANTS)} mutants, {len(passed)} unnoticed {passed or ''}")
    return int(bool(passed))


def _row(mutant: Callable[[], Any]) -> bool:
    found = {layer: noticed_by(mutant, layer) for layer in LAYERS}
    cells = "  ".join(f"{(name or '-')[:44]:<44}" for name in found.values())
    print(f"{mutant.__name__:<44}{cells}", flush=True)
    return any(found.values())


if __name__ == "__main__":
    sys.exit(main())
