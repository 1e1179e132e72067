"""Names and fingerprints of carried code: the same in each process, and others for other code, wherever that is."""

from __future__ import annotations

import subprocess
import sys
from functools import cached_property, partial

import pytest

from podium.protocols.fingerprint import code_fingerprint

MAKES = """
import podium
from podium.protocols.protocol import reference
class Adder:
    def __init__(self, n):
        self.n = n
    async def add(self, x):
        return x + self.n
def make(y):
    @podium.protocol
    async def made(x):
        return x, y
    return made
elsewhere = [object() for _ in range({n})]
made = [podium.protocol(Adder(n).add) for n in range(3)] + [make(Adder(n)) for n in range(3)] + [make(print)]
print(*(reference(each) for each in made))
"""
SETS = """
from podium.protocols.fingerprint import code_fingerprint
WORDS = {"a", "b", "c", "d", "e", "f"}
def uses(x, more=frozenset({"u", "v", "w", "x"})):
    return x in WORDS or x in more
print(code_fingerprint(uses))
"""


def said(source, seed):
    command = [sys.executable, "-c", source]
    return subprocess.run(command, check=True, capture_output=True, text=True, env={"PYTHONHASHSEED": seed}).stdout


def test_products_of_a_factory_have_the_same_names_in_each_process():
    names = said(MAKES.format(n=10), "0")
    assert names == said(MAKES.format(n=7_777), "0")
    assert len(set(names.split())) == 7


def test_products_that_differ_by_an_object_without_content_have_names_of_their_own():
    names = said("import io\n" + MAKES.format(n=1).replace("Adder(n)) for", "io.TextIOWrapper(io.BytesIO())) for"), "0")
    assert len(set(names.split())) == 7


def test_sets_have_one_fingerprint_in_each_process():
    assert said(SETS, "1") == said(SETS, "2")
    assert code_fingerprint({1, 2}, exactly=True) == code_fingerprint({2, 1}, exactly=True)
    assert code_fingerprint({1, 2}) != code_fingerprint({1, 3})


def variants(code):
    class Helper:
        def work(self):
            return helps(self)

    def helps(self):
        return None

    helps.__code__ = code.__code__
    return [
        type("WithProperty", (), {"p": property(code)}),
        type("WithClassMethod", (), {"c": classmethod(code)}),
        type("WithStaticMethod", (), {"s": staticmethod(code)}),
        type("WithCached", (), {"p": cached_property(code)}),
        partial(code, 1),
        Helper(),
        Helper().work,
        {"in": [Helper()]},
    ]


@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize("exactly", [False, True])
def test_code_counts_wherever_it_is_bound(at, exactly):
    one, same, other = (variants(code)[at] for code in (lambda x: 1, lambda x: 1, lambda x: 2))

    def uses(value):
        return lambda: value

    assert code_fingerprint(uses(one)) == code_fingerprint(uses(same))
    assert code_fingerprint(uses(one), exactly) != code_fingerprint(uses(other), exactly)
