"""Checks the figures of the cluster now and then, logs the alerts that begin or end, and calls the hook."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from ..protocols.errors import PodiumError
from ..supervisors.figures.alerts import Alert, Alerts
from ..supervisors.messages.client import ClusterFigures
from ..supervisors.ports.world import Level, World
from ..supervisors.settings import Governance

UNASKED_S = 60.0
"""Seconds between two checks of the figures if only the built-in alerts are set."""


class Alerting:
    def __init__(self, world: World, settings: Governance, status: Callable[[], Awaitable[ClusterFigures]]) -> None:
        self._world, self._settings, self._status = world, settings, status
        self._alerts = Alerts(settings.alerts)

    def to_wire(self) -> list[dict[str, object]]:
        """Return the alerts that fire."""
        return [alert.to_json() for alert in self._alerts.firing]

    async def keep_looking(self) -> None:
        every_s = self._settings.alert_every_s if self._settings.alerts else UNASKED_S
        while True:
            await self._world.sleep(every_s)
            try:
                status = await self._status()
            except PodiumError:
                continue  # an actor is just being replaced
            for alert in self._alerts.look(status._asdict(), self._world.now()):
                await self._tell(alert)

    async def _tell(self, alert: Alert) -> None:
        level: Level = "warning" if alert.firing else "info"
        self._world.log(level, "alert fires" if alert.firing else "alert is over", alert=alert.name, rule=alert.rule)
        if self._settings.on_alert is None:
            return
        try:
            await self._world.run_command(self._settings.on_alert, json.dumps(alert.to_json()))
        except PodiumError as error:
            self._world.log("error", "alert not passed on", alert=alert.name, reason=str(error))
