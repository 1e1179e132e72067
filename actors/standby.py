"""An actor that has nothing to do but to live on its machine: the world around it starts the coordinator there.

The coordinator's other children end with it. A standby does not, so it can start the coordinator that comes next. That
one ends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..protocols.errors import NotFound
from ..supervisors.ports.messaging import Incoming
from ..supervisors.ports.world import World


class Standby:
    def __init__(self, _world: World) -> None: ...

    async def start(self, _setup: Mapping[str, Any]) -> None: ...

    async def stop(self) -> None: ...

    def receive(self, ask: Incoming) -> None:
        raise NotFound(what="message", name=ask.kind)
