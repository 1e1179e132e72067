"""The environment of a protocol's hosts, in Ray's terms: packages, variables, and folders with code.

This is data. `cluster/packages.py` packs local folders when the workflow is deployed, and `cluster/on_ray/` prepares
the environment before a host starts. Clusters without Ray refuse it.

Source: https://docs.ray.io/en/latest/ray-core/handling-dependencies.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from types import ModuleType
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

MAX_ENVIRONMENT_BYTES = 65_536
"""The size of one `runtime_env` as JSON, in bytes. It is part of the journal, and every host is started with it."""
PACKAGE = "package-sha256:"
"""Prefix of a packed folder in a deployed environment; the SHA-256 of its content follows, hexadecimal."""
_KEYS = ("pip", "uv", "env_vars", "working_dir", "py_modules")
_ELSEWHERE = ("conda", "container", "image_uri", "py_executable", "java_jars", "excludes", "config")
"""Keys of Ray's that Podium does not take."""

Text: TypeAlias = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$")]


class _Installer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    packages: tuple[Text, ...] | Text


class Pip(_Installer):
    """The packages that pip installs, as Ray takes them."""

    pip_check: bool = False
    pip_version: Text | None = None
    pip_install_options: tuple[Text, ...] | None = None


class Uv(_Installer):
    """The packages that uv installs, as Ray takes them."""

    packages: tuple[Text, ...]
    uv_check: bool = False
    uv_version: Text | None = None
    uv_pip_install_options: tuple[Text, ...] | None = None


class RuntimeEnv(BaseModel):
    """The environment of a protocol's hosts. It is part of the protocol's version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pip: Pip | None = None
    """Packages that pip installs beside those of the machine: a list, the path of a requirements file, or a mapping
    with `packages`, `pip_check`, `pip_version` and `pip_install_options`."""
    uv: Uv | None = None
    """The same for uv, in place of `pip`: a list, or a mapping."""
    env_vars: Mapping[Annotated[str, Field(pattern=r"^[^=\x00]+$")], Annotated[str, Field(pattern=r"^[^\x00]*$")]] = {}
    """Environment variables. They are stored in the journal."""
    working_dir: Text | None = None
    """The folder in which hosts run, and from which they import: a local folder, an archive of one, or a URI."""
    py_modules: tuple[Text, ...] = ()
    """Folders of packages, `.py` files, wheels, or URIs that hosts can import."""

    @model_validator(mode="before")
    @classmethod
    def _is_known(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        for key in given:
            if key in _ELSEWHERE:
                raise ValueError(
                    f"Podium does not take `{key}`, but {', '.join(_KEYS)}; start Ray with what else you need, "
                    "as `ray.init(runtime_env=…)` before podium.connect"
                )
        return given

    @field_validator("pip", "uv", mode="before")
    @classmethod
    def _is_list_or_file(cls, given: object) -> object:
        return {"packages": given} if isinstance(given, str | list | tuple) else given

    @field_validator("working_dir", "py_modules", mode="before")
    @classmethod
    def _are_paths(cls, given: object, info: ValidationInfo) -> object:
        if info.field_name == "py_modules" and isinstance(given, str | PurePath):
            raise ValueError("give a list: [path, …]")
        return [_path(each) for each in given] if isinstance(given, list | tuple) else _path(given)

    @model_validator(mode="after")
    def _fits(self) -> RuntimeEnv:
        if self.pip is not None and self.uv is not None:
            raise ValueError("give `pip` or `uv`, not both")
        size = len(self.model_dump_json(exclude_defaults=True).encode())
        if size > MAX_ENVIRONMENT_BYTES:
            raise ValueError(
                f"{size} bytes as JSON, the limit is {MAX_ENVIRONMENT_BYTES}: put what is large into `working_dir`"
            )
        return self

    def to_ray(self) -> dict[str, Any]:
        """Return it as Ray takes it, without what was not given."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def paths(self) -> Iterator[str]:
        """The places of code: `working_dir`, and each of `py_modules`."""
        if self.working_dir is not None:
            yield self.working_dir
        yield from self.py_modules

    @property
    def packages(self) -> list[str]:
        """The keys of the packed folders that it needs; see `PACKAGE`."""
        return [path for path in self.paths if path.startswith(PACKAGE)]


def _path(given: object) -> object:
    if isinstance(given, ModuleType):
        raise ValueError(f"give the path of the module '{given.__name__}' in place of the module")
    return str(given) if isinstance(given, PurePath) else given


def packages_of(protocols: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the keys of all packed folders that the hosts of these protocols need.

    Args:
        protocols: declarations as plain data, by reference.
    """
    given = (declared.get("runtime_env") for declared in protocols.values())
    return {key for each in given if each for key in RuntimeEnv.model_validate(each).packages}


__all__ = ["MAX_ENVIRONMENT_BYTES", "PACKAGE", "Pip", "RuntimeEnv", "Uv", "packages_of"]
