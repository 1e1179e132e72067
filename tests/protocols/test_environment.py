"""What a protocol may say of the environment of its hosts, and that it is part of the version."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import podium
from podium import Sequence, Workflow
from podium.cluster.client.definition import definition_of
from podium.errors import InvalidDefinition
from podium.protocols.environment import MAX_ENVIRONMENT_BYTES, RuntimeEnv, packages_of
from podium.protocols.protocol import declaration_of
from podium.supervisors.tasks.plan import version_hash


def declared(environment):
    @podium.protocol(runtime_env=environment)
    def work(n: int) -> int:
        return n

    return declaration_of(work)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"pip": ["six"]}, {"pip": {"packages": ["six"]}}),
        ({"pip": "needs.txt"}, {"pip": {"packages": "needs.txt"}}),
        ({"pip": {"packages": ["six"], "pip_check": True}}, {"pip": {"packages": ["six"], "pip_check": True}}),
        ({"uv": ["six"]}, {"uv": {"packages": ["six"]}}),
        ({"env_vars": {"HUE": ""}}, {"env_vars": {"HUE": ""}}),
        ({"working_dir": Path("there")}, {"working_dir": "there"}),
        ({"py_modules": [Path("a"), "b.py"]}, {"py_modules": ["a", "b.py"]}),
    ],
)
def test_the_keys_are_those_of_ray(given, kept):
    environment = declared(given).runtime_env
    assert environment is not None
    assert environment.to_ray() == kept
    assert RuntimeEnv.model_validate(kept) == environment


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"conda": "torch"}, r"Podium does not take `conda`, but pip, uv, .*; start Ray with what else you need"),
        ({"excludes": ["a"]}, r"Podium does not take `excludes`"),
        ({"env_var": {}}, r"runtime_env\.env_var: unknown key `env_var`; did you mean `env_vars`\?"),
        ({"env_vars": {"A": 1}}, r"runtime_env\.env_vars\.A"),
        ({"env_vars": {"A=B": "1"}}, r"runtime_env\.env_vars\.A=B"),
        ({"env_vars": {"A": "1\0"}}, r"runtime_env\.env_vars\.A"),
        ({"pip": {"packages": ["six"], "pip_chek": True}}, r"runtime_env\.pip\.pip_chek: .*did you mean `pip_check`"),
        ({"pip": [7]}, r"runtime_env\.pip\.packages"),
        ({"uv": "needs.txt"}, r"runtime_env\.uv\.packages"),
        ({"pip": ["a"], "uv": ["b"]}, r"give `pip` or `uv`, not both"),
        ({"working_dir": ""}, r"runtime_env\.working_dir"),
        ({"py_modules": "lib"}, r"runtime_env\.py_modules: give a list: \[path, …\]"),
        ({"py_modules": [sys]}, r"give the path of the module 'sys' in place of the module"),
        ({"env_vars": {"A": "x" * MAX_ENVIRONMENT_BYTES}}, r"bytes as JSON, the limit is 65536"),
        (["six"], r"runtime_env: "),
    ],
)
def test_what_does_not_fit_is_refused_at_the_declaration(given, problem):
    with pytest.raises(InvalidDefinition, match=problem) as caught:
        declared(given)
    assert "protocol tests.protocols.test_environment" in caught.value.path


def test_an_empty_environment_is_none():
    assert declared({}).runtime_env is None


def test_a_class_declares_it_as_an_attribute():
    class Painter(podium.Protocol):
        runtime_env = {"env_vars": {"HUE": "teal"}}  # noqa: RUF012

        def run(self, n: int) -> int:
            return n

    environment = declaration_of(Painter).runtime_env
    assert environment is not None
    assert dict(environment.env_vars) == {"HUE": "teal"}


def hash_of(environment):
    protocols = {"m:f": declared(environment).model_dump(mode="json")}
    return version_hash("tree", protocols, {"m:f": "code"})


def test_each_part_of_it_is_part_of_the_version():
    given = [None, {"pip": ["six"]}, {"pip": ["six==1"]}, {"uv": ["six"]}, {"env_vars": {"A": "1"}}]
    given += [{"env_vars": {"A": "2"}}, {"working_dir": "s3://b/a.zip"}, {"py_modules": ["s3://b/a.zip"]}]
    assert len({hash_of(each) for each in given}) == len(given)


def test_a_version_without_it_keeps_its_hash():
    plain = {"m:f": {"ref": "m:f", "name": "f"}}
    assert version_hash("tree", plain, {"m:f": "code"}) == version_hash(
        "tree", {"m:f": {**plain["m:f"], "runtime_env": None}}, {"m:f": "code"}
    )


def test_the_content_of_a_folder_is_part_of_the_version_and_its_place_is_not(tmp_path):
    def version(folder, text):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "inner.py").write_text(text)

        @podium.protocol(runtime_env={"working_dir": tmp_path / folder})
        def work(n: int) -> int:
            return n

        return definition_of(Workflow("w", Sequence(work)))["hash"]

    first = version("a", "x = 1")
    assert first == version("a", "x = 1")
    assert first != version("a", "x = 2")


def test_a_copy_of_the_folder_is_the_same_version(tmp_path):
    protocols = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "inner.py").write_text("x = 1")

        @podium.protocol(runtime_env={"working_dir": tmp_path / folder})
        def one(n: int) -> int:
            return n

        definition = definition_of(Workflow("w", Sequence(one)))
        (declaration,) = definition["protocols"].values()
        protocols.append(declaration["runtime_env"])
        assert packages_of(definition["protocols"]) == {declaration["runtime_env"]["working_dir"]}
    assert protocols[0] == protocols[1]
