"""Grants say what the requests of a user may touch. Grants and tools come from the cluster's setting `config`.

    [config.requests.grants.ada]
    tools = ["grep", "read_file"]
    paths = ["/srv/code"]

    [config.requests.tools.words]
    about = "counts the words of a text"
    command = ["wc", "-w"]
    stdin = "{text}"
    arguments = {text = {type = "string"}}

Permissions go by the user whom the engine knows the task to be of, and are asked for again by every step that touches
something. No text that is read, no output of a tool and no answer of a model has a part in that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from string import Formatter
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import InvalidSetting
from ..wording import first_problem

OPERATION_S = 30.0
"""Longest time of one long operation of a request, by the first design document."""
M = TypeVar("M", bound=BaseModel)


class Grants(BaseModel):
    """The tools, folders and hosts that one user may touch: none, unless they are named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tools: tuple[str, ...] = ()
    """The names of the tools; `*` means all."""
    paths: tuple[str, ...] = ()
    """Absolute paths of folders that may be read, with all below them."""
    hosts: tuple[str, ...] = ()
    """`*` lets tools use the network. Single hosts cannot be granted: no sandbox here can tell them apart."""

    def allows_tool(self, name: str) -> bool:
        return "*" in self.tools or name in self.tools

    def allows_path(self, path: str) -> bool:
        """Whether `path` may be read. The caller has made it absolute, without `..`, and with links resolved."""
        wanted = PurePosixPath(path)
        return any(wanted.is_relative_to(PurePosixPath(folder)) for folder in self.paths)

    @property
    def allows_network(self) -> bool:
        return "*" in self.hosts


EVERYTHING = Grants(tools=("*",), paths=("/",), hosts=("*",))


class ToolSpec(BaseModel):
    """A tool: a command, or a Python function in a process of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: Annotated[str, Field(min_length=1, max_length=1000)]
    """A description of the tool. The planner and the model choose the tool by its words."""
    command: tuple[str, ...] = ()
    """Program and arguments; `{name}` in one stands for the argument of that name. It runs in an empty folder: a file
    of the request's folder is `{root}/{path}`."""
    stdin: str | None = None
    """The text for the standard input of the command. `{name}` stands for an argument, as in `command`."""
    function: str | None = None
    """`module:name` of a function of one dict, instead of a command."""
    arguments: Mapping[str, object] = {}
    """The JSON Schemas of the arguments, by name. An argument `root` is filled in with the folder of the request.
    Unless a model says otherwise, `text` is the request's text, and `pattern` and `path` are quoted or named in it."""
    required: tuple[str, ...] = ()
    network: bool = False
    """Whether it needs the network; then the user needs `hosts = ["*"]`."""
    minimum: Literal["process", "limits", "landlock", "bubblewrap"] = "process"
    """The weakest sandbox that it may run in."""
    wall_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    memory_bytes: Annotated[int, Field(ge=16 * 1024 * 1024)] = 512 * 1024 * 1024
    output_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024

    @model_validator(mode="after")
    def _can_run(self) -> ToolSpec:
        if bool(self.command) == (self.function is not None):
            raise ValueError("give either `command` or `function`")
        for text in (*self.command, self.stdin or ""):
            for _, name, _, _ in Formatter().parse(text):
                if name is not None and name not in self.arguments:
                    raise ValueError(f"'{{{name}}}' is not in `arguments`; a brace itself is written twice")
        for name in self.required:
            if name not in self.arguments:
                raise ValueError(f"required '{name}' is not in `arguments`")
        return self


class ModelSettings(BaseModel):
    """The endpoint that answers: anything that speaks OpenAI's protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    base_url: Annotated[str, Field(pattern=r"^https?://[^/\s]")] | None = None
    """The address of the endpoint, such as `https://api.openai.com/v1`. Without one, answers are made of quotations."""
    name: str = "gpt-5-mini"
    key_env: str | None = "OPENAI_API_KEY"
    """The environment variable of the hosts that holds the key. The key is read there, and goes nowhere else."""
    first_token_s: Annotated[float, Field(gt=0)] = 30.0
    """The longest silence of the endpoint, in seconds, before the first token and between two tokens."""
    whole_answer_s: Annotated[float, Field(gt=0)] = 120.0
    """The longest silence, in seconds, if the endpoint does not stream and is silent until the answer is there."""
    stream: bool = True
    """The switches from here on are for what a server does not know. One that says so by itself is asked without it."""
    usage: bool = True
    """Whether to ask for the count of tokens (`stream_options`); without it they are estimated."""
    tools: bool = True
    """Whether the model may be offered tools to call."""
    schema_as: Literal["json_schema", "json_object", "text"] = "json_schema"
    """How the model is told the JSON Schema of its answer. The last two also tell it in words."""
    answer_tokens_as: Literal["max_completion_tokens", "max_tokens", "none"] = "max_completion_tokens"
    """The name of the parameter that limits the tokens of an answer; `none` sends no limit."""
    system_role: Literal["system", "developer", "user"] = "system"
    """The role of the instructions. `user`: the model has no such role, and gets them with the question."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """The temperature of sampling. None means the default of the endpoint."""
    extra: Mapping[str, object] = {}
    """Further parameters, as they are: `{reasoning_effort = "low"}`."""
    cents_per_1000_in: Annotated[float, Field(ge=0)] = 0.0
    cents_per_1000_out: Annotated[float, Field(ge=0)] = 0.0
    """The costs of 1,000 tokens of input and of output, for a limit named `cents`."""


class RouterSettings(BaseModel):
    """Settings of the router, which chooses types (router.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: tuple[Mapping[str, str], ...] = ()
    """{"name", "when", "type"} each; they come before the shipped ones."""
    trained: str | None = None
    """Path of a scorer that `podium router train` has written."""
    scorer: str | None = None
    """`module:name` of a class of your own with `scores(request)`."""


class RequestsConfig(BaseModel):
    """The setting `config.requests`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    grants: Mapping[str, Grants] = {}
    """Grants by user. `*` stands for every user who is not named."""
    owner: str | None = None
    """The user who runs the cluster, and has all rights that the cluster itself has, unless `grants` names them."""
    tools: Mapping[str, ToolSpec] = {}
    model: ModelSettings = ModelSettings()
    router: RouterSettings = RouterSettings()
    operation_s: Annotated[float, Field(ge=0, le=86_400)] = OPERATION_S
    """The longest time, in seconds, of an attempt of a step without a time-out, such as a model call. 0: no bound."""
    hooks: Mapping[str, object] = {}
    """Hooks by state, which run before a request enters it: `module:name` of a protocol, a step, or a list of these."""
    pipelines: str | None = None
    """Folder of pipelines that take the place of shipped ones with the same name."""

    def grants_of(self, user: str) -> Grants:
        if user in self.grants:
            return self.grants[user]
        if user and user == self.owner:
            return EVERYTHING
        return self.grants.get("*", Grants())


def requests_config(config: Mapping[str, object]) -> RequestsConfig:
    """Read `requests` in `ctx.config`, or in the setting. Raises InvalidSetting with the path of the field."""
    return read_setting(RequestsConfig, config.get("requests") or {}, "config.requests")


def read_setting(kind: type[M], value: object, name: str) -> M:
    """Read a part of the setting `config`. Raises InvalidSetting with the path of the field."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        loc, problem = first_problem(error, kind)
        place = ".".join([name, *map(str, loc)])
        raise InvalidSetting(name=place, source="config", problem=problem) from error
