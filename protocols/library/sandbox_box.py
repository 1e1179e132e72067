"""The values that describe a box: the resources that a tool may use, the levels of enforcement, and the results.

Nothing here acts. `sandbox.py` is the public door; import from there.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, TypedDict, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ..errors import FixTheCall, GiveUp

Level: TypeAlias = Literal["process", "limits", "landlock", "bubblewrap"]
"""Levels of enforcement, weakest first; `sandbox.py` lists what each level denies."""
LEVELS: tuple[Level, ...] = get_args(Level)
Exceeded: TypeAlias = Literal["processes", "memory"]
Reason: TypeAlias = Literal["", "stopped", "orphaned", "time"] | Exceeded
"""Why the keeper ended a tool; "" if the tool ended by itself."""


def _absolute(folder: str) -> str:
    if not folder.startswith("/") or "\0" in folder:
        raise ValueError(f"'{folder}' is not an absolute path")
    return folder


Folder: TypeAlias = Annotated[str, AfterValidator(_absolute)]


class Box(BaseModel):
    """The resources that one tool may use. All others are denied, as far as the level in force can deny them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wall_s: Annotated[float, Field(gt=0, le=86_400)] = 10.0
    """Seconds from the start until the tool and all its processes are killed, at every level."""
    cpu_s: Annotated[int, Field(ge=1, le=86_400)] = 10
    """Limit of the processor time of each process, in seconds."""
    memory_bytes: Annotated[int, Field(ge=16 << 20)] = 512 << 20
    """Limit of the address space of each process, and of the memory in use by all of them together, in bytes."""
    output_bytes: Annotated[int, Field(ge=0, le=1 << 30)] = 64 << 10
    """Number of bytes kept of each of stdout and stderr, from the beginning; the rest is read and dropped."""
    processes: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Largest number of live processes, the tool's own included. Threads: 16 times as many."""
    file_bytes: Annotated[int, Field(ge=0)] = 64 << 20
    """Largest file that the tool may write, in bytes. The number of files is not limited."""
    read: tuple[Folder, ...] = ()
    """Folders or files that may be read, beside the system's programs and Python. Missing ones are ignored."""
    write: tuple[Folder, ...] = ()
    """Folders that may be read and written, beside the tool's own temporary folder."""
    network: bool = False
    """Whether the tool may use the network, loopback included. From `landlock` on, Unix sockets are excluded."""
    minimum: Level = "process"
    """Weakest level at which the tool may run."""


class Ran(BaseModel):
    """The result of a tool's run."""

    model_config = ConfigDict(frozen=True)

    exit_code: int | None
    """Exit code of the tool; None if a signal ended it."""
    signal: int | None
    """The signal that ended it: SIGXCPU for `cpu_s`, SIGXFSZ for `file_bytes`, SIGKILL for the other limits."""
    stdout: str
    stderr: str
    """Standard error of the tool. In both streams undecodable bytes are replaced."""
    truncated: bool
    """Whether either stream was longer than `output_bytes`."""
    timed_out: bool
    """Whether `wall_s` ended it."""
    exceeded: Exceeded | None = None
    """Limit on all processes together that ended the tool; None if neither did."""
    seconds: float
    """Seconds from the start until the tool ended or was killed."""
    level: Level
    """Level in force during the run."""


class Watch(TypedDict):
    """The limits that the keeper checks itself."""

    processes: int
    threads: int
    memory_bytes: int


class Walls(TypedDict):
    """Landlock's rules: rights as bits, and how many bytes of the attribute this kernel knows."""

    files: int
    tcp: int
    scopes: int
    on_files: int
    rules: list[tuple[str, int]]
    attribute_bytes: int


class Order(TypedDict):
    """The command of one box and its limits, which the keeper gets marshalled (sandbox_child.py)."""

    argv: list[str]
    env: dict[str, str]
    folder: str
    parent: int
    wall_s: float
    limits: list[tuple[int, int, int]]
    tasks: int
    watch: Watch | None
    unprivileged: bool
    landlock: Walls | None
    seccomp: bytes | None


class Report(TypedDict):
    """The end of a tool, as its keeper reports it."""

    ended: bool
    problem: str
    code: int | None
    reason: Reason
    seconds: float


class SandboxTooWeak(FixTheCall):
    """The demanded level is not available, and nothing was started. `available` is the strongest level, or None."""

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
    """A function in a box raised an exception, or was ended.

    `kind` is the class name of the exception. For the limits of the box it is `TimeoutError`, `MemoryError` or
    `ProcessLimit`. `ProcessDied` stands for any other end without an answer, and `InvalidAnswer` for an answer that is
    not JSON or is too long.
    """

    code = "tool_failed"

    def __init__(self, *, message: str, kind: str, traceback: str = "") -> None:
        super().__init__(f"{kind}: {message}")
        self.message, self.kind, self.traceback = message, kind, traceback
