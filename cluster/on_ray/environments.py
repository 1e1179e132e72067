"""Turns the environment of a host into Ray's `runtime_env`, and Ray's errors about it into a reason.

Packed folders go to Ray's control store each time a host starts, unless they are there: Ray drops them when nothing of
a job uses them for a while, and a cluster that was started anew has none. Each machine keeps what it has prepared, so a
host that starts again there starts at once.

Importing this module imports ray.
"""

from __future__ import annotations

import math
import re
import sys
from typing import Any

from ray._private.runtime_env.packaging import package_exists, pin_runtime_env_uri, upload_package_to_gcs
from ray.runtime_env import RuntimeEnv

from ...protocols.environment import PACKAGE
from ...supervisors.ports.world import Environment

PIN_S = 600
"""Seconds for which Ray keeps a package, beyond the time to prepare an environment."""
LINES = 12
"""Most lines of the output of pip, or of another installer, in an error."""
_LINE_CHARS = 300
_OUTPUT = re.compile(r"Last \d+ lines of stdout:\n")
_PACKED = re.compile(r"/runtime_resources/(working_dir|py_modules)_files/")
_LOGS = "Ray's logs of that machine have more (runtime_env_setup-*.log)"
_attempts: dict[str, int] = {}
"""Number of failures of each environment in this process, by its `spec`."""


def runtime_env_of(environment: Environment) -> dict[str, Any]:
    """Send the packages of an environment to Ray, and return its `runtime_env`. Blocks while it sends.

    Raises:
        LookupError: nobody has a package any more.
        TypeError, ValueError: Ray does not take the environment.
    """
    spec = dict(environment.spec)
    if "working_dir" in spec:
        spec["working_dir"] = _sent(spec["working_dir"], environment)
    if "py_modules" in spec:
        spec["py_modules"] = [_sent(path, environment) for path in spec["py_modules"]]
    failures = _attempts.get(repr(environment.spec), 0)
    if failures:  # Ray answers with an old failure for ten minutes if nothing differs
        spec["env_vars"] = {**spec.get("env_vars", {}), "PODIUM_ENVIRONMENT_ATTEMPT": str(failures + 1)}
    spec["config"] = {"setup_timeout_seconds": math.ceil(environment.timeout_s)}
    RuntimeEnv(**spec)
    return spec


def _sent(path: str, environment: Environment) -> str:
    """Return the URI of a package, after it was sent; a path that is a URI is returned as it is."""
    if not path.startswith(PACKAGE):
        return path
    packed = environment.packages.get(path)
    if packed is None:
        digest = path.removeprefix(PACKAGE)[:12]
        raise LookupError(
            f"its folder (package {digest}) is not kept any more: deploy again from a machine that has the folder"
        )
    uri = f"gcs://podium_{path.removeprefix(PACKAGE)}.zip"
    pin_runtime_env_uri(uri, expiration_s=PIN_S + math.ceil(environment.timeout_s))
    if not package_exists(uri):
        upload_package_to_gcs(uri, packed)
    return uri


def put_packages_first() -> None:
    """Have this process import from packed folders before all others.

    Ray puts the working directory and the script's folder of the driver first. On the driver's own machine these would
    hide the packages, and a task of an old version would run the files of today.
    """
    sys.path.sort(key=lambda folder: _PACKED.search(folder) is None)  # keeps the order otherwise


def why_not_ready(environment: Environment, error: Exception, waited_s: float) -> str:
    """Say why an environment was not prepared, with the last lines of what pip said, and note the failure."""
    key = repr(environment.spec)
    _attempts[key] = _attempts.get(key, 0) + 1
    given = ", ".join(sorted(environment.spec))
    limit = f"{environment.timeout_s:g} s (runtime_env_timeout_s)"
    text = str(error)
    if isinstance(error, TimeoutError):
        return (
            f"neither its environment ({given}), which has {limit}, nor the host was ready in {waited_s:g} s; {_LOGS}"
        )
    if "Failed to install runtime_env within the timeout" in text:
        return f"its environment ({given}) was not ready within {limit}; {_LOGS}"
    return f"its environment ({given}) cannot be prepared:\n{_last_lines(text)}"


def _last_lines(text: str) -> str:
    """Return the last lines that the installer wrote, or else the last line of Ray's traceback."""
    outputs = _OUTPUT.split(text)
    if len(outputs) == 1:
        told = [line.strip() for line in text.splitlines() if line.strip()][-1:]
    else:
        told = [line.strip() for line in outputs[-1].splitlines() if line.startswith("    ") and line.strip()][-LINES:]
    return "\n".join(line[:_LINE_CHARS] for line in told)
