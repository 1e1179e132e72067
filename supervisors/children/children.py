"""The children of one supervisor: started in order, stopped in reverse, started again as its strategy says.

It knows how to restart a child, never what the child is. A child that dies, or does not start, is first
certainly ended, so that nothing of it still acts when its work goes elsewhere. What the strategy takes down
with it is stopped in reverse order; then all of them start in order again, after the back-off. More failures
than the intensity allows, and the family gives up: the supervisor ends, and the level above decides.

Source: Erlang/OTP `supervisor`. Children of a `one_for_one` family restart independently of each other; in the
other strategies one restart at a time is under way, and a failure meanwhile makes it begin again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol, assert_never

from ...protocols.errors import PeerLost, PodiumError, SpawnFailed, TooManyRestarts
from ..ports.world import World
from ..restarts import RestartPolicy, Restarts


class Child(Protocol):
    """Something that a supervisor starts and ends."""

    address: str
    is_wanted: bool
    """Whether it has been started, or is to be as soon as it can."""

    async def start(self) -> None:
        """Have it running. Raises SpawnFailed; with the kind LookupError, it waits for the next deployment."""

    async def end(self, error: PodiumError) -> None:
        """When this returns nothing of it acts any more, and its work has gone back to be done again.

        In order if it lives, by force if it does not answer.
        """


class Children:
    def __init__(
        self,
        world: World,
        policy: RestartPolicy,
        confirm: Callable[[], Awaitable[None]],
        give_up: Callable[[PodiumError], None],
    ) -> None:
        """`confirm` returns if this supervisor still owns its shard: one that was stopped for long and overtaken
        must not end its successor's children, nor start any, for what those would run may be recorded."""
        self._world, self._confirm, self._give_up = world, confirm, give_up
        self._restarts = Restarts(policy)
        self._children: list[Child] = []
        self._failed: dict[str, dict[str, tuple[PodiumError, float]]] = defaultdict(dict)
        """By restart (see `_restart_of`): the children that failed and are not started again yet, with why and
        with how long they are to wait."""
        self._under_way: set[str] = set()
        self._ended = False
        self.restarts = 0
        """Restarts since this supervisor started, for its status."""

    def govern(self, policy: RestartPolicy) -> None:
        """From now on by this policy; what failed before counts on."""
        self._restarts.policy = policy

    def adopt(self, children: Iterable[Child]) -> None:
        """Take children in, behind those that are there."""
        known = {child.address for child in self._children}
        self._children += [child for child in children if child.address not in known]

    async def start(self, children: Iterable[Child]) -> None:
        """Start those that do not run, in order, and are not retired meanwhile. Raises SpawnFailed for the first that
        does not start."""
        for child in self._in_order(children):
            if not child.is_wanted and child in self._children:
                child.is_wanted = True
                try:
                    await self._confirm()
                    await child.start()
                except SpawnFailed as error:
                    child.is_wanted = False
                    self._world.log("warning", "child does not start", child=child.address, reason=error.reason)
                    raise

    def start_soon(self, children: Iterable[Child]) -> None:
        """Start them in the background; one that does not start is a failure like any other."""
        for child in self._in_order(children):
            if not child.is_wanted:
                child.is_wanted = True
                self._world.background(self._start(child), f"start {child.address}")

    async def start_alone(self, child: Child) -> None:
        """Start one that does not run, if it is not ended or retired meanwhile; return when it does, or has failed."""
        if not child.is_wanted and child in self._children and not self._ended:
            child.is_wanted = True
            await self._start(child)

    async def _start(self, child: Child) -> None:
        try:
            await self._confirm()
            await child.start()
        except SpawnFailed as error:
            self.failed(child, error)

    def failed(self, child: Child, error: PodiumError, counted: bool = True) -> None:
        """`child` died or did not start. `counted` is False if its end says nothing about the child itself."""
        if self._ended:
            return
        if isinstance(error, SpawnFailed) and error.kind == "LookupError":
            child.is_wanted = False
            return
        delay_s = self._restarts.delay_after_failure(
            child.address, self._world.monotonic(), self._world.random, counted
        )
        self._world.log("warning", "child lost", child=child.address, reason=str(error), restarts_in_s=delay_s)
        if delay_s is None:
            policy = self._restarts.policy
            self._give_up(TooManyRestarts(intensity=policy.intensity, period_s=policy.period_s, last=str(error)))
            return
        self.restarts += 1
        restart = self._restart_of(child)
        self._failed[restart][child.address] = error, delay_s
        if restart not in self._under_way:
            self._under_way.add(restart)
            self._world.background(self._restart(restart), f"restart {child.address}")

    def _restart_of(self, child: Child) -> str:
        """Failures with the same answer share one restart."""
        return child.address if self._restarts.policy.strategy == "one_for_one" else "all"

    async def _restart(self, restart: str) -> None:
        failed: dict[str, tuple[PodiumError, float]] = {}
        while (more := self._failed.pop(restart, None)) and not self._ended:
            failed |= more
            await self._confirm()
            group = self._group(failed)
            for child in reversed(group):
                await child.end(_why(child, failed))
            await self._world.sleep(max(delay_s for _, delay_s in failed.values()))
            for child in group:
                if restart in self._failed or self._ended:
                    break  # from the beginning, with what failed meanwhile as well
                await self._start(child)
            else:
                failed = {}
        self._under_way.discard(restart)

    async def retire(self, children: Iterable[Child], why: PodiumError) -> None:
        """End children that are not needed any more, the last started first."""
        for child in reversed(self._in_order(children)):
            self._children.remove(child)
            child.is_wanted = False
            await child.end(why)

    async def end(self, why: PodiumError) -> None:
        """End all children, the last started first; nothing is started any more."""
        self._ended = True
        for child in reversed(self._children):
            if child.is_wanted:
                await child.end(why)

    def _group(self, failed: Iterable[str]) -> list[Child]:
        """Who is to be started again, in order."""
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
    """The child's own failure, or whose failure takes it down."""
    own = failed.get(child.address)
    return own[0] if own else PeerLost(address=child.address, reason=f"restarted with {next(iter(failed))}")
