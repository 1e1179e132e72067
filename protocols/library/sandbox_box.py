"""The box that a tool runs in, as values: what it may use, and how strongly that is enforced.

Nothing here acts. `sandbox.py` is the public door; import from there.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ..errors import FixTheCall, GiveUp

Level: TypeAlias = Literal["process", "limits", "landlock", "bubblewrap"]
"""How strongly a box holds, weakest first; `sandbox.py` says what each denies."""
LEVELS: tuple[Level, ...] = get_args(Level)
Exceeded: TypeAlias = Literal["processes", "memory"]


def _absolute(folder: str) -> str:
    if not folder.startswith("/") or "\0" in folder:
        raise ValueError(f"'{folder}' is not an absolute path")
    return folder


Folder: TypeAlias = Annotated[str, AfterValidator(_absolute)]


class Box(BaseModel):
    """What one tool may use. Everything else is denied, as far as the level in force can."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wall_s: Annotated[float, Field(gt=0, le=86_400)] = 10.0
    """Seconds from its start until the tool and all that it started are killed. At every level."""
    cpu_s: Annotated[int, Field(ge=1, le=86_400)] = 10
    """Seconds of processor time of each process."""
    memory_bytes: Annotated[int, Field(ge=16 << 20)] = 512 << 20
    """Bytes of address space of each process, and of memory in use by all of them together."""
    output_bytes: Annotated[int, Field(ge=0, le=1 << 30)] = 64 << 10
    """Bytes kept of each of stdout and stderr, from the beginning; what follows is read and dropped."""
    processes: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Processes alive at once, the tool's own included; 16 times as many threads."""
    file_bytes: Annotated[int, Field(ge=0)] = 64 << 20
    """Bytes of the largest file that it may write. The number of files is not limited."""
    read: tuple[Folder, ...] = ()
    """Folders (or single files) that may be read, beside the system's programs and the Python installation. One
    that does not exist is ignored."""
    write: tuple[Folder, ...] = ()
    """Folders that may be read and written, beside its own temporary one."""
    network: bool = False
    """Whether it may use the network: all of it, this machine's loopback included. From `landlock` on, Unix sockets are
    not part of it."""
    minimum: Level = "process"
    """The weakest level that this tool may run at."""


class Ran(BaseModel):
    """How a tool ended."""

    model_config = ConfigDict(frozen=True)

    exit_code: int | None
    """None if a signal ended it."""
    signal: int | None
    """The signal that ended it: SIGXCPU for `cpu_s`, SIGXFSZ for `file_bytes`, SIGKILL for the other limits."""
    stdout: str
    stderr: str
    """Undecodable bytes are replaced."""
    truncated: bool
    """Whether either stream was longer than `output_bytes`."""
    timed_out: bool
    """Whether `wall_s` ended it."""
    exceeded: Exceeded | None = None
    """Which limit on all its processes together ended it."""
    seconds: float
    """From its start until it ended or was killed."""
    level: Level
    """In force while it ran."""


class SandboxTooWeak(FixTheCall):
    """Nothing was started. `demanded` is a level, `available` the strongest there is, None if there is none."""

    code = "sandbox_too_weak"

    def __init__(self, *, demanded: Level, available: Level | None) -> None:
        super().__init__(f"sandbox level '{demanded}' is demanded, the strongest available is '{available or 'none'}'")
        self.demanded, self.available = demanded, available


class ToolNotStarted(FixTheCall):
    """The program `program` could not be executed in its box; nothing ran."""

    code = "tool_not_started"

    def __init__(self, *, program: str, problem: str) -> None:
        super().__init__(f"cannot run '{program}': {problem}")
        self.program, self.problem = program, problem


class ToolFailed(GiveUp):
    """A function in a box raised, or was ended.

    `kind` is the exception's class name; `TimeoutError`, `MemoryError` and `ProcessLimit` for the limits of the
    box, `ProcessDied` for any other end without an answer, and `InvalidAnswer` for one that is not JSON or too long.
    """

    code = "tool_failed"

    def __init__(self, *, message: str, kind: str, traceback: str = "") -> None:
        super().__init__(f"{kind}: {message}")
        self.message, self.kind, self.traceback = message, kind, traceback
