"""Configuration: one frozen object; keywords over PODIUM_* variables over podium.toml over defaults.

The only file that reads or sets environment variables.
"""

from __future__ import annotations

import errno
import getpass
import json
import os
import re
import secrets
import shlex
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Unpack

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from ..protocols.conditions import check_expression
from ..protocols.decoding import decoded
from ..protocols.errors import InvalidInput, InvalidSetting
from ..protocols.json_forms import from_json
from ..protocols.large import INLINE_BYTES, MAX_BLOB_BYTES
from ..protocols.limits import Amount, Limit, read_limits
from ..protocols.quantities import Count, CountOrNone, Quantity, Seconds, SecondsOrNone, shown
from ..protocols.requests.grants import requests_config
from ..protocols.secret import NAME, SOURCE
from ..protocols.values import MAX_VALUE_BYTES, check_value
from ..protocols.wording import problem_of
from ..supervisors.settings import Governance
from .blobs.place import read_place
from .connect_options import ConnectOptions
from .store.address import StoreAddress, folder_name, is_url

DEFAULT_LIMITS: dict[str, Amount] = {
    "request": 50,
    "request per user": 10,
    "llm": 5,
    "tool": 10,
    "context": 20,
    "background": 20,
}
"""Permits per quota, cluster-wide; from the project's first design document."""
_PREFIX = "PODIUM_"
_FILE = "podium.toml"
_PLACEMENT = re.compile(r"[A-Za-z0-9][\w./-]*(=[\w.-]+)?")
_SOURCE = re.compile(r"(driver|cli|mcp)(\.[A-Za-z0-9][A-Za-z0-9_-]{0,63})?")


class Settings(BaseModel):
    """All settings. `sources` tells where each value came from."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)  # URLs may have passwords

    data: Path = Path(".podium")
    """The directory of the journal, or the URL of a PostgreSQL database: `postgresql://user@host/name`. One cluster at
    a time owns a directory. With a database, the directory of this machine's sockets, locks and logs is made below
    `~/.podium`."""
    database: str | None = Field(default=None, repr=False)
    """The URL of the PostgreSQL database that has the journal. A URL as `data` means the same. If both are
    given, `data` is the directory for the sockets, locks and logs of this machine."""
    database_schema: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")] = "podium"
    """The schema of the database in which the tables lie. Installations with different schemas share nothing."""
    database_timeout_s: Seconds = 30.0
    """The longest time of one statement in the database, and of a wait for a lock there, in seconds. Submissions
    that meet a database which is away get an answer after that time."""
    database_lease_s: Seconds = 5.0
    """The time in seconds that a machine's lease in the database lasts, unless it is renewed. When it is over, another
    machine may start a cluster. In a cluster of many machines the others then take over, and a machine that cannot
    renew has ended its processes (docs/cluster.md)."""
    cluster: Literal["ray", "inprocess"] = "ray"
    """The place where actors live: `ray` (processes of a Ray cluster) or `inprocess` (this process)."""
    address: str | None = None
    """The address of a running Ray cluster to use (host:port). None joins the cluster of `data`, or starts one on
    loopback."""
    placement: str | None = None
    """The machines on which the coordinator, the ResourceActor and the supervisors may live, in a Ray cluster with a
    database: a label of Ray, `tier=control`, or the name of a custom resource that these machines have, `control`.
    None means all."""
    num_cpus: Count | None = None
    """The CPUs that a cluster started here offers to Ray. None means all of the machine."""
    object_store_mb: Annotated[int, Field(ge=80)] = 256
    """The shared memory of a cluster started here, in MiB."""
    working_dir: str | None = None
    """The folder with your code, for every protocol that this client deploys without a `working_dir` of its own. It is
    packed and sent along; hosts run in it and import from it (docs/cluster.md). A folder, a `.zip` archive, or a
    URI."""
    runtime_env_timeout_s: Seconds = 600.0
    """The longest time in seconds to prepare the environment of a host (`runtime_env`, `working_dir`), such as pip's.
    After it the deployment fails. Time limits of steps do not count it."""
    user: str = Field(default_factory=lambda: _login())
    """The user whom tasks belong to, unless a call says otherwise."""
    limits: Mapping[str, Amount] = DEFAULT_LIMITS
    """The number of permits of each quota, for the cluster or "per user", "per workflow", "per protocol", "per key";
    or a rate such as "90000/min burst 20000" (docs/limits.md). Given limits are merged over the defaults."""
    weights: Mapping[str, Annotated[Quantity, Field(gt=0)]] = {}
    """The share of each user in scarce permits. A user who is not named has 1.0."""
    max_open_tasks: Count = 1_000_000
    """The number of open tasks of a workflow (per shard, if it has several). One more is refused as Overloaded."""
    max_open_per_user: Count = 1_000_000
    """The number of open tasks of each user in a workflow (per shard). One more is refused as Overloaded."""
    max_memory: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The share of the machine's memory in use above which new tasks are refused as Overloaded. Accepted ones go on."""
    max_cpu: Annotated[float, Field(gt=0, le=1)] | None = None
    """The share of the machine's processors in use above which new tasks are refused as Overloaded. None is no
    bound."""
    max_slots: Annotated[float, Field(gt=0, le=1)] | None = None
    """The share of the permits that tasks hold from start to end (for `ask`: those of `request`) above which new
    tasks of the workflow are refused as Overloaded. None means that they are accepted, and wait."""
    throttle: bool = False
    """If true, limits go down while the load of the machine is above `throttle_high`, at most to `throttle_floor`,
    and up again when it is below `throttle_low`. The load is the highest of three shares: CPU in use, memory in use,
    and the event loop's lag in `throttle_full_lag_s`."""
    throttle_high: Annotated[float, Field(gt=0, le=1)] = 0.8
    """The load above which limits go down, and above which presets retry less."""
    throttle_low: Annotated[float, Field(ge=0, le=1, validate_default=True)] = 0.3
    """The load of CPU and event loop below which limits go up again. It is not above `throttle_high`."""
    throttle_floor: Annotated[float, Field(gt=0, le=1)] = 0.6
    """The share of the limits that always stays."""
    throttle_step: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The share of the limits by which they go down or up in one step."""
    throttle_samples: Count = 5
    """The number of samples of the load in a row, one each second, before limits change."""
    throttle_full_lag_s: Seconds = 0.5
    """The lag of the event loop that counts as a load of 1, in seconds."""
    alerts: Mapping[str, str] = {}
    """Rules by name, in CEL over `workflows`, `quotas`, `load` and `throttle` as `podium status -o json` shows them:
    `quotas.llm.waiting > 100`. An alert is logged when it begins and when it is over."""
    on_alert: str | None = None
    """A command that gets each alert as JSON on its standard input. It has 30 s."""
    alert_every_s: Seconds = 10.0
    """The time between two looks at the figures of `alerts`, in seconds."""
    source: Literal["driver", "cli", "mcp"] = "driver"
    """The kind of client, for `rates`."""
    rates: Mapping[str, str] = {"cli": "50/s burst 500", "mcp": "10/s burst 50"}
    """The rate of new tasks of each user in each workflow, by source. More are refused as Overloaded. `mcp.<kind>`
    is for one workflow, or for the type that a request names ("mcp.tool_execution"), and counts instead. A source
    that is not named has no bound."""
    max_value_bytes: Annotated[int, Field(ge=1024)] = MAX_VALUE_BYTES
    """The size of the largest input or output of a step, packed, in bytes."""
    blobs: str | None = None
    """The place of the large parts of values: `file:///folder`, `s3://bucket/path`, `gs://bucket/path` or
    `az://container/path`. None means beside the journal: in the folder `blobs` of the data directory, or in the
    database (docs/values.md)."""
    inline_bytes: Annotated[int, Field(ge=1)] = INLINE_BYTES
    """The size in bytes above which a text, bytes, or an array and the like goes to the blob store, and travels by
    reference."""
    max_blob_bytes: Annotated[int, Field(ge=1024)] = MAX_BLOB_BYTES
    """The size of the largest part of a value, or of a file, in the blob store, in bytes."""
    blob_cache_mb: Annotated[Quantity, Field(gt=0)] = 1024.0
    """The size in MiB of the cache of blobs on each machine, if the blob store is a database or at a URL."""
    blob_grace_s: Seconds = 86_400.0
    """The time in seconds for which a blob is kept that no task names any more, or none has named yet. It must be
    longer than anything can take between the storing of a value and the recording of the step that gave it."""
    blobs_timeout_s: SecondsOrNone = 30.0
    """The time in seconds that a step or a client waits for a blob store that is away."""
    max_losses: CountOrNone = 5
    """The number of hosts that one attempt may lose before its step fails as `host_lost`."""
    retry_reserve: Quantity = 30.0
    """The number of retries that each protocol has in each workflow, beside the `budget` of its `retry`. Used ones
    come back within some minutes."""
    grace_s: Seconds = 1.5
    """The time that cancelled or timed-out work may take to end before its host is replaced, in seconds."""
    lookahead_s: SecondsOrNone = 0.05
    """The amount of work, in seconds, that a host is sent before it has room for it, so that it never waits for its
    supervisor."""
    lease_s: Seconds = 30.0
    """The silence in seconds after which an actor counts as lost, because it is stopped or its event loop is
    blocked. It is replaced. The permits of a supervisor that nobody replaces come back after five times as long."""
    rest_after_s: SecondsOrNone = 900.0
    """The time without open tasks and messages after which a workflow's actors end, in seconds. The next task or
    message starts them again. 0 means never."""
    host_idle_s: Seconds = 60.0
    """The time in seconds for which a host has to be idle before it ends, if the `replicas` of its protocol are a
    range."""
    keep_finished_s: Seconds = 7 * 86_400.0
    """The age in seconds at which a finished task is forgotten, with its submission key. Open tasks are never
    forgotten."""
    keep_finished_tasks: CountOrNone = 1_000_000
    """The number of finished tasks that are kept of a workflow (per shard). The oldest are forgotten first."""
    max_kept_answers: CountOrNone = 1_000
    """The number of answers that a task keeps under one name although no node has waited for them yet. More are
    refused."""
    max_waiting_in_memory: CountOrNone = 10_000
    """The number of tasks of a workflow (per shard) that stay in memory while they only wait for answers or for their
    time. The others are read from disk when something happens to them."""
    age_s: Seconds = 30.0
    """The waiting time that weighs as much as one level of priority, in seconds."""
    restart_intensity: CountOrNone = 10
    """The number of restarts below one supervisor within `restart_period_s`. At one more, the level above decides. A
    workflow's own `supervision` goes before this."""
    top_restart_intensity: CountOrNone = 3
    """The number of restarts of a workflow's supervisor within `restart_period_s`. At one more, the workflow is
    down."""
    restart_period_s: Seconds = 60.0
    """The period of `restart_intensity` and `top_restart_intensity`, in seconds."""
    max_emitted_bytes: CountOrNone = 4 * 1024 * 1024
    """The bytes of what the steps of one task emit (`ctx.emit`) that are recorded; each chunk counts 64 bytes more.
    What comes after that is live only."""
    max_unsaved_mb: Annotated[Quantity, Field(gt=0)] = 64.0
    """The size in MiB of the events of a workflow (per shard) that may wait to become durable, while a disk is slow or
    a database is away. When more wait, no further step starts."""
    log_mb: Quantity = 10.0
    """The size in MiB at which a log in the data directory is rotated: `logs/<protocol>.log` of a protocol,
    `logs/podium.engine.log` of the engine (docs/logs.md). 0 keeps no logs."""
    log_files: Annotated[int, Field(ge=0, le=1000)] = 5
    """The number of rotated logs that are kept of each protocol, and of the engine."""
    mcp_page_chars: CountOrNone = 65_536
    """The characters of a result that one answer over MCP holds. A larger one comes in pages (docs/mcp.md). 0 means
    no bound."""
    config: Mapping[str, Any] = {}
    """Plain data that protocols get as `ctx.config`. Its key `requests` is for `podium ask` (docs/requests.md),
    `mcp` for other MCP servers (docs/mcp.md)."""
    secrets: Mapping[str, str] = {}
    """Secrets by name, with their places on the machines of the hosts: `env:VARIABLE` or `file:/path`. Protocols reveal
    them (docs/values.md)."""
    reconnect_s: Seconds = 60.0
    """The time in seconds that a client waits for a lost coordinator, and for a supervisor that cannot start (as on
    a full disk) before new tasks are refused as Overloaded, with the reason."""
    sources: Mapping[str, str] = {}

    @field_validator("database")
    @classmethod
    def _is_database(cls, url: str | None) -> str | None:
        if url is not None and not is_url(url):
            raise ValueError("expected a URL such as postgresql://user@host/name")
        return url

    @field_validator("blobs")
    @classmethod
    def _is_place(cls, url: str | None) -> str | None:
        if url is not None:
            read_place(url)
        return url

    @field_validator("placement")
    @classmethod
    def _is_placement(cls, placement: str | None, info: ValidationInfo) -> str | None:
        if placement is not None and not _PLACEMENT.fullmatch(placement):
            raise ValueError("expected a label of Ray, as tier=control, or the name of a custom resource, as control")
        if placement is not None and info.data.get("database") is None:
            raise ValueError("it needs a database: a folder belongs to one machine, where all that owns tasks lives")
        return placement

    @field_validator("working_dir", mode="before")
    @classmethod
    def _is_path(cls, given: object) -> object:
        return os.fspath(given) if isinstance(given, os.PathLike) else given

    @field_validator("limits", mode="before")
    @classmethod
    def _merged(cls, limits: object) -> object:
        if not isinstance(limits, Mapping):
            return limits
        _readable(limits)
        return {**DEFAULT_LIMITS, **limits}

    @field_validator("config")
    @classmethod
    def _is_plain(cls, config: Mapping[str, object]) -> Mapping[str, object]:
        try:
            plain = dict(check_value(dict(config), "config"))
            requests_config(plain)
        except InvalidSetting as error:
            raise ValueError(f"{error.name}: {error.problem}") from error
        except InvalidInput as error:
            raise ValueError(str(error)) from error
        return plain

    @field_validator("secrets")
    @classmethod
    def _are_places(cls, secrets: Mapping[str, str]) -> Mapping[str, str]:
        for name, source in secrets.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"'{name}' is no name: letters, digits, `_`, `.` and `-`, at most 64")
            if not SOURCE.fullmatch(source):
                raise ValueError(f"'{name}': expected env:VARIABLE or file:/path, not the secret itself")
        return secrets

    @field_validator("alerts")
    @classmethod
    def _are_conditions(cls, alerts: Mapping[str, str]) -> Mapping[str, str]:
        for name, rule in alerts.items():
            try:
                check_expression(rule, "alert")
            except ValueError as error:
                raise ValueError(f"'{name}': {error}") from error
        return alerts

    @field_validator("on_alert")
    @classmethod
    def _is_command(cls, command: str | None) -> str | None:
        if command is not None and not shlex.split(command):
            raise ValueError("no command")
        return command

    @field_validator("rates")
    @classmethod
    def _are_rates(cls, rates: Mapping[str, str]) -> Mapping[str, str]:
        for source, limit in _readable(rates).items():
            if limit.interval_s is None or not _SOURCE.fullmatch(source):
                raise ValueError(
                    f"'{source}': expected a rate such as '10/s burst 50' for driver, cli or mcp, or one kind of task: "
                    "mcp.<workflow>, mcp.<type of request>"
                )
        return rates

    @field_validator("throttle_low")
    @classmethod
    def _is_not_above(cls, low: float, info: ValidationInfo) -> float:
        high = info.data.get("throttle_high", 1.0)
        if low > high:
            raise ValueError(f"it is above throttle_high={high:g}")
        return low

    @property
    def store(self) -> StoreAddress:
        """The place of the tasks."""
        return StoreAddress(
            str(self.data),
            self.database or "",
            self.database_schema,
            self.database_timeout_s,
            self.database_lease_s,
            self.blobs or "",
            self.blob_cache_mb,
        )

    def governance(self) -> Governance:
        """Return the settings that the cluster enforces. `config.requests.owner` defaults to our login name."""
        requests = {"owner": _login(), **self.config.get("requests", {})}
        return Governance.from_wire(self.model_dump() | {"config": {**self.config, "requests": requests}})


def _readable(limits: Mapping[str, Any]) -> dict[str, Limit]:
    try:
        return read_limits(limits)
    except InvalidInput as error:
        raise ValueError(str(error)) from error


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def load_settings(**keywords: Unpack[ConnectOptions]) -> Settings:
    """The settings in force; keywords that are None count as not given.

    Raises:
        InvalidSetting: names the setting and the keyword, variable or file:key that it came from.
    """
    layers = [_from_file(Path(_FILE)), _from_environment(), _from_keywords(keywords)]
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        if "data" in layer and "database" not in layer:  # both say where the tasks are, so the nearer one holds
            values.pop("database", None)
            sources.pop("database", None)
        for name, (value, source) in layer.items():
            if name not in Settings.model_fields or name == "sources":
                raise InvalidSetting(name=name, source=source, problem=_no_such(name))
            values[name], sources[name] = value, source
    _place_database(values, sources)
    try:
        return Settings(**values, sources=sources)
    except ValidationError as error:
        row = error.errors(include_url=False)[0]
        name, *below = map(str, row["loc"])
        problem = problem_of(row, Settings)
        if row["type"] not in ("value_error", "extra_forbidden"):  # these name what was given
            problem += f", not {shown(row['input'])}"
        problem = ": ".join([".".join(below), problem]) if below else problem
        raise InvalidSetting(name=name, source=sources.get(name, "default"), problem=problem) from error


def _place_database(values: dict[str, Any], sources: dict[str, str]) -> None:
    """Take a URL that is given as `data` for the database, and find the directory for what belongs to this machine."""
    given = str(values.get("data", ""))
    if isinstance(values.get("data"), str) and is_url(given):
        values["database"], sources["database"] = values.pop("data"), sources.pop("data")
    elif re.match(r"postgres(ql)?:", given):
        problem = "give the URL as text, not as a path" if "://" not in given else "give a URL postgresql://host/name"
        raise InvalidSetting(name="data", source=sources["data"], problem=problem)
    url = values.get("database")
    if url is None or "data" in values:
        return
    values["data"] = Path.home() / ".podium" / folder_name(str(url), str(values.get("database_schema", "podium")))
    sources["data"] = sources["database"]


def _no_such(name: str) -> str:
    known = [field for field in Settings.model_fields if field != "sources"]
    near = get_close_matches(name, known, n=1)
    return f"no such setting; did you mean '{near[0]}'?" if near else f"no such setting; there are {', '.join(known)}"


def _from_file(path: Path) -> dict[str, tuple[object, str]]:
    if not path.is_file():
        return {}
    try:
        values = tomllib.loads(decoded(path.read_bytes()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSetting(name="", source=str(path), problem=f"not TOML: {error}") from error
    return {name: (value, f"{path}: {name}") for name, value in values.items()}


def _from_environment() -> dict[str, tuple[object, str]]:
    found = {}
    for variable, text in os.environ.items():
        if variable.startswith(_PREFIX):
            name = variable.removeprefix(_PREFIX).lower()
            found[name] = (_from_text(name, text, variable), variable)
    return found


def environment_of(place: StoreAddress) -> dict[str, str]:
    """Return the environment of a child process that is to use the same store. Command lines would show passwords."""
    names = {"data": place.folder, "database": place.url, "database_schema": place.schema}
    own = {f"{_PREFIX}{name.upper()}": value for name, value in names.items() if value}
    kept = {name: value for name, value in os.environ.items() if name != f"{_PREFIX}DATABASE"}
    return kept | own


def _from_text(name: str, text: str, variable: str) -> object:
    """Parse the text of a variable: JSON if it begins with `{`, `parse_limits` for `limits`, else the text itself."""
    if name == "limits":
        return parse_limits(text, variable)
    if not text.lstrip().startswith("{"):
        return text
    try:
        return from_json(text)
    except (ValueError, RecursionError) as error:
        raise InvalidSetting(name=name, source=variable, problem=f"not JSON: {error}") from error


def _from_keywords(keywords: Mapping[str, object]) -> dict[str, tuple[object, str]]:
    return {name: (value, f"keyword {name}") for name, value in keywords.items() if value is not None}


def parse_limits(text: str, source: str) -> dict[str, Amount]:
    """Parse limits: `llm=5,llm per user=2,tokens=90000/min` or a JSON object. Raises InvalidSetting."""
    try:
        if text.lstrip().startswith("{"):
            return dict(json.loads(text))
        pairs = [part.split("=") for part in text.split(",") if part.strip()]
        return {name.strip(): int(limit) if limit.strip().isdecimal() else limit.strip() for name, limit in pairs}
    except ValueError as error:
        raise InvalidSetting(name="limits", source=source, problem=f"expected llm=5,tool=10, got {text!r}") from error


def prepare_ray(token: Path | None, address: str | None = None) -> bool:
    """Set what Ray reads when it is imported: quiet, and for a cluster of ours loopback only and token authentication.

    Variables that the user has set stay. The token path of another data directory, known by the same file name, is
    replaced. The file `token` is created if it is missing, readable by its owner alone.

    Args:
        token: the file of the token; None for a cluster that the user has started, whose security is up to the user.
        address: the address of that cluster, if the user named it.

    Raises:
        IsADirectoryError: `token` is a folder.

    Returns:
        Whether a cluster started now is to listen on loopback only.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")  # else leaving a broken cluster takes 5 s more
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RUNTIME_ENV_RETRY_TIMES", "1")  # else a broken environment fails after three time-outs
    os.environ.setdefault(
        "RAY_preload_python_modules", "podium.cluster.on_ray.actors"
    )  # workers import it while they start
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if token is not None or _is_loopback(address):  # Ray would look for the machine's own address instead
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if token is not None:
        _use_token(token)
    return os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "").lower() in ("0", "false")


def _use_token(token: Path) -> None:
    if "RAY_AUTH_MODE" in os.environ and Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "")).name != token.name:
        return  # the user's own
    if token.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(token))
    if not token.exists():
        token.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token.resolve())


def _is_loopback(address: str | None) -> bool:
    host = (address or "").rpartition(":")[0].strip("[]")
    return host == "localhost" or host == "::1" or host.startswith("127.")
