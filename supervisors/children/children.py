"""Starts the children of one supervisor in order, stops them in reverse, and restarts them as the strategy says.

This module knows how to restart a child, but not what the child is. A child that died, or did not start, is first ended
for certain, so that nothing of it still acts when its work goes elsewhere. The other children that the strategy takes
down are stopped in reverse order. Then all of them start in order again, after the back-off. If there are more failures
than the intensity allows, the supervisor gives up: it ends, and the level above decides.

Source: Erlang/OTP `supervisor`. With `one_for_one` the children restart independently of each other. With the other
strategies one restart at a time is under way, and a failure meanwhile makes it begin again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol, assert_never

from ...protocols.errors import PeerLost, PodiumError, SpawnFailed, TooManyRestarts
from ...protocols.probes import hit
from ..ports.world import World
from ..restarts import RestartPolicy, Restarts


class Child(Protocol):
    """An actor that a supervisor starts and ends."""

    address: str
    is_wanted: bool
    """Whether the child has been started, or is to be started as soon as possible."""

    async def start(self) -> None:
        """Start the actor. Raises SpawnFailed; with `is_of_code` the child is not started again by itself."""

    async def end(self, error: PodiumError) -> None:
        """End the actor: in order if it lives, by force if it does not answer.

        On return the actor is certainly gone, and its work may be done again elsewhere.
        """


class Children:
    def __init__(
        self,
        world: World,
        policy: RestartPolicy,
        confirm: Callable[[], Awaitable[None]],
        give_up: Callable[[PodiumError], None],
    ) -> None:
        """Make the list of children, empty at first.

        Args:
            confirm: returns only if this supervisor still owns its shard. A supervisor that was stopped for long and
                overtaken must not end its successor's children, nor start any: their work may be on record already.
            give_up: called when there were more failures than the intensity allows.
        """
        self._world, self._confirm, self._give_up = world, confirm, give_up
        self._restarts = Restarts(policy)
        self._children: list[Child] = []
        self._failed: dict[str, dict[str, tuple[PodiumError, float]]] = defaultdict(dict)
        """By restart (see `_restart_of`): the failed children that are not started again yet, with error and delay in
        seconds."""
        self._under_way: set[str] = set()
        self._starts: Counter[str] = Counter()
        """Number of starts that began, by child."""
        self._ended = False
        self.restarts = 0
        """Number of restarts since this supervisor started, for its status."""

    def replace(self, old: Child, new: Child) -> None:
        """Add a child in the place of another, which is retired later."""
        self._children.insert(self._children.index(old), new)

    def govern(self, policy: RestartPolicy) -> None:
        """Set the restart policy; earlier failures still count."""
        self._restarts.policy = policy

    def adopt(self, children: Iterable[Child]) -> None:
        """Add children behind those that are there; known addresses are skipped."""
        known = {child.address for child in self._children}
        self._children += [child for child in children if child.address not in known]

    async def start(self, children: Iterable[Child]) -> None:
        """Start the children that do not run, in order. Children that are retired meanwhile are skipped.

        Raises SpawnFailed for the first child whose start fails, or that dies in it more often than the policy allows.
        """
        for child in self._in_order(children):
            if not child.is_wanted and child in self._children:
                child.is_wanted = True
                try:
                    await self._start_at_last(child)
                except SpawnFailed as error:
                    child.is_wanted = False
                    self._world.log("warning", "child does not start", child=child.address, reason=error.reason)
                    raise

    async def _start_at_last(self, child: Child) -> None:
        """Start a child, again and again while it dies in its start, as its machine may be the cause."""
        while await self._may_start(child):
            try:
                await child.start()
            except SpawnFailed as error:
                delay_s = self._delay_s(child) if error.has_died else None
                if delay_s is None:
                    raise
                self._world.log("warning", "child died in its start", child=child.address, reason=error.reason)
                hit("died in its start")
            else:
                return
            self.restarts += 1
            await self._world.sleep(delay_s)

    def start_soon(self, children: Iterable[Child]) -> None:
        """Start children in the background. A child that does not start counts as failed."""
        for child in self._in_order(children):
            if not child.is_wanted:
                child.is_wanted = True
                self._world.background(self._start(child), f"start {child.address}")

    async def start_alone(self, child: Child) -> None:
        """Start one child if it does not run and is not retired; return when it runs or has failed."""
        if not child.is_wanted and child in self._children and not self._ended:
            child.is_wanted = True
            await self._start(child)

    async def _start(self, child: Child) -> None:
        try:
            if await self._may_start(child):
                await child.start()
        except SpawnFailed as error:
            self.failed(child, error)

    async def _may_start(self, child: Child) -> bool:
        """Confirm that this supervisor owns its shard; returns whether the child is still wanted then."""
        self._starts[child.address] += 1
        await self._confirm()
        return child.is_wanted and child in self._children and not self._ended

    def failed(self, child: Child, error: PodiumError, counted: bool = True) -> None:
        """Handle a child that died or did not start: restart it, or give up.

        Args:
            counted: whether the failure counts towards the intensity; False if the child itself is not the cause.
        """
        if self._ended:
            return
        if not counted:
            hit("restart excused")
        if isinstance(error, SpawnFailed) and error.is_of_code:
            child.is_wanted = False
            return
        delay_s = self._delay_s(child, counted)
        self._world.log("warning", "child lost", child=child.address, reason=str(error), restarts_in_s=delay_s)
        if delay_s is None:
            policy = self._restarts.policy
            self._give_up(TooManyRestarts(intensity=policy.intensity, period_s=policy.period_s, last=str(error)))
            return
        self.restarts += 1
        restart = self._restart_of(child)
        self._failed[restart][child.address] = error, delay_s
        if restart in self._under_way:
            hit("failed during a restart")
        else:
            self._under_way.add(restart)
            self._world.background(self._restart(restart), f"restart {child.address}")

    def _delay_s(self, child: Child, counted: bool = True) -> float | None:
        """Note a failure; returns the seconds until the next start, None after too many failures."""
        return self._restarts.delay_after_failure(child.address, self._world.monotonic(), self._world.random, counted)

    def _restart_of(self, child: Child) -> str:
        """Name the restart that a failure of this child belongs to: one for each child, or "all" for all together."""
        return child.address if self._restarts.policy.strategy == "one_for_one" else "all"

    async def _restart(self, restart: str) -> None:
        failed: dict[str, tuple[PodiumError, float]] = {}
        while (more := self._failed.pop(restart, None)) and not self._ended:
            failed |= more
            await self._confirm()
            group = self._group(failed)
            for child in reversed(group):
                await child.end(_why(child, failed))
            before = {child.address: self._starts[child.address] for child in group}
            await self._world.sleep(max(delay_s for _, delay_s in failed.values()))
            for child in group:
                if restart in self._failed or self._ended:
                    break  # begin again, with the children that failed meanwhile
                if child.is_wanted and self._starts[child.address] == before[child.address]:
                    await self._start(child)  # else it was ended meanwhile, and somebody started it again
            else:
                failed = {}
        self._under_way.discard(restart)

    async def rest(self, child: Child, why: PodiumError) -> None:
        """End a child that is not needed now. It can be started again when this has returned."""
        child.is_wanted = False
        await self._confirm()
        await child.end(why)

    async def retire(self, children: Iterable[Child], why: PodiumError) -> None:
        """End and remove children that are not needed any more, in reverse order."""
        for child in reversed(self._in_order(children)):
            self._children.remove(child)
            child.is_wanted = False
            await child.end(why)

    async def end(self, why: PodiumError) -> None:
        """End all children, in reverse order. No child is started after this."""
        self._ended = True
        for child in reversed(self._children):
            if child.is_wanted:
                await child.end(why)

    def _group(self, failed: Iterable[str]) -> list[Child]:
        """Return the children that the strategy restarts after these failures, in order."""
        places = [place for place, child in enumerate(self._children) if child.address in set(failed)]
        match self._restarts.policy.strategy:
            case "one_for_one":
                group = [self._children[place] for place in places]
            case "one_for_all":
                group = list(self._children)
            case "rest_for_one":
                group = self._children[min(places) :]
            case _:
                assert_never(self._restarts.policy.strategy)
        return [child for child in group if child.is_wanted]

    def _in_order(self, children: Iterable[Child]) -> list[Child]:
        wanted = {child.address for child in children}
        return [child for child in self._children if child.address in wanted]


def _why(child: Child, failed: Mapping[str, tuple[PodiumError, float]]) -> PodiumError:
    """Return the child's own error, or one that names the child whose failure takes this child down."""
    own = failed.get(child.address)
    return own[0] if own else PeerLost(address=child.address, reason=f"restarted with {next(iter(failed))}")
