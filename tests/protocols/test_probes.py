"""Each edge that a probe may name is named by the product, and only a listener hears of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import get_args

import pytest

from podium.protocols import probes
from tests.support import ROOT

ROOMS = ("protocols", "supervisors", "actors", "cluster")


@pytest.fixture
def heard() -> Iterator[list[str]]:
    edges: list[str] = []
    probes.listen(edges.append)
    yield edges
    probes.listen(None)


def test_a_listener_hears_of_an_edge(heard: list[str]) -> None:
    probes.hit("fenced")
    assert heard == ["fenced"]
    probes.listen(None)
    probes.hit("fenced")
    assert heard == ["fenced"]


def test_every_edge_is_named_somewhere_in_the_product() -> None:
    sources = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if path.name != "probes.py"]
    hits = [line for path in sources for line in path.read_text().splitlines() if "hit(" in line]
    named = {edge for line in hits for edge in re.findall(r'"([^"]+)"', line)}
    assert set(get_args(probes.Edge)) - named == set()
