"""Chooses the kind of session of a client by its settings."""

from __future__ import annotations

from ..cluster_file import make_folder
from ..config import Settings
from ..importing import check_not_importing
from ..session import InProcessSession, Session


def new_session(settings: Settings, daemon: bool = False) -> Session:
    check_not_importing()
    make_folder(settings.data)
    if settings.cluster == "inprocess":
        return InProcessSession(settings)
    from ..on_ray.session import RaySession  # noqa: PLC0415  (Ray takes a second to be imported)

    return RaySession(settings, daemon)
