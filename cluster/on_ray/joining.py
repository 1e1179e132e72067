"""Checks a Ray cluster before a client joins it: within seconds, in a child process, with one sentence as the error.

Ray itself tries to join for a long time, and prints the error to standard error sixty times. So a child process asks
the control store for the cluster's facts, and this module reads its output.
"""

from __future__ import annotations

import json
import platform
import socket
import subprocess
import sys
from importlib.metadata import version

from ...protocols.errors import EngineClosed

REACH_S = 3.0
"""Longest wait for a connection to the address, in seconds."""
PROBE_S = 10.0
"""Longest time of the child process that asks the control store, in seconds."""
_PROBE = """
import sys
from ray._raylet import GcsClient
print((GcsClient(address=sys.argv[1]).internal_kv_get(b"CLUSTER_METADATA", b"cluster", timeout=5) or b"{}").decode())
"""


def check_joinable(address: str) -> None:
    """Raise EngineClosed, with the reason, if this process cannot join the cluster at `host:port`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "//" in address:
        return  # "auto", "ray://…" and the like: Ray looks for it itself
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S).close()
    except OSError as error:
        raise _refused(address, f"nobody answers there ({error.strerror or error})") from error
    facts, said = _ask(address)
    if facts is None:
        raise _refused(address, _cause(said))
    _check_versions(address, facts)


def _ask(address: str) -> tuple[dict[str, str] | None, str]:
    """Return the facts of the cluster from its control store; or None, and the error output of Ray."""
    command = [sys.executable, "-c", _PROBE, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_S, check=False)
    except subprocess.TimeoutExpired as error:
        said = error.stderr or b""
        return None, said.decode(errors="replace") if isinstance(said, bytes) else said
    try:
        facts: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return None, done.stderr
    return facts, ""


def _cause(said: str) -> str:
    if "InvalidAuthToken" in said or "Unauthenticated" in said:
        return (
            "it asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file that has it (of a "
            "cluster of Podium's: ray.token in its data directory)"
        )
    last = said.strip().splitlines()[-1:] or [f"it does not answer within {PROBE_S:g} s as a Ray cluster does"]
    return last[0][:300]


def _check_versions(address: str, facts: dict[str, str]) -> None:
    theirs = facts.get("ray_version"), facts.get("python_version")
    ours = version("ray"), platform.python_version()
    if None in theirs or theirs == ours:
        return
    raise _refused(
        address,
        f"it runs Ray {theirs[0]} on Python {theirs[1]}, this is Ray {ours[0]} on Python {ours[1]}: use the same",
    )


def _refused(address: str, why: str) -> EngineClosed:
    return EngineClosed(reason=f"cannot join the Ray cluster at {address}: {why}")
