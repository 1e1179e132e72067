"""The files of examples/cluster, as far as they can be checked without a cluster."""

from __future__ import annotations

import re
import shlex
import subprocess
from importlib.metadata import version

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from typer.main import get_command

from podium.cluster.gateways.cli.main import app
from tests.support import ROOT

FOLDER = ROOT / "examples" / "cluster"
KUBERAY = yaml.safe_load((FOLDER / "kuberay.yaml").read_text())
RAY_UP = yaml.safe_load((FOLDER / "ray_up.yaml").read_text())
HEAD = KUBERAY["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]

WORKER = KUBERAY["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]


def scripts():
    yield HEAD["lifecycle"]["postStart"]["exec"]["command"][-1]
    yield WORKER["lifecycle"]["preStop"]["exec"]["command"][-1]
    yield from (line for name, lines in RAY_UP.items() if name.endswith("_commands") for line in lines)


def test_the_file_for_ray_up_is_as_ray_wants_it():
    config = prepare_config(RAY_UP)
    validate_config(config)
    assert config["max_workers"] == len(RAY_UP["provider"]["worker_ips"])


@pytest.mark.parametrize("script", list(scripts()))
def test_the_shell_can_read_every_command(script):
    subprocess.run(["bash", "-n", "-c", script], check=True)


def test_podium_can_read_every_command_of_its_own():
    texts = [*scripts(), *(path.read_text() for path in FOLDER.glob("*.yaml"))]
    found = {line for text in texts for line in re.findall(r"podium ((?:up|status)[^;&'\n]*)", text)}
    assert len(found) >= 4
    for name, *words in map(shlex.split, found):
        get_command(app).commands[name].make_context(name, words)


def test_the_versions_of_ray_are_one_and_the_one_that_is_tested():
    image = re.search(r"FROM rayproject/ray:([\d.]+)", (FOLDER / "Dockerfile").read_text())
    assert image[1] == KUBERAY["spec"]["rayVersion"] == version("ray")


def test_only_the_head_has_the_address_of_the_database():
    assert [each["name"] for each in HEAD["env"]] == ["PODIUM_DATA"]
    for group in KUBERAY["spec"]["workerGroupSpecs"]:
        assert all("env" not in container for container in group["template"]["spec"]["containers"])
