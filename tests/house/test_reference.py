"""docs/reference.md is what docs/make_reference.py writes, and has everything that is public."""

from __future__ import annotations

import importlib.util
import re

import pytest

import podium
from podium import errors, status, testing, verdict
from tests.support import ROOT

DOCS = ROOT / "docs"
PAGE = (DOCS / "reference.md").read_text()
spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
assert spec is not None and spec.loader is not None
make_reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_reference)


def test_the_reference_is_what_the_docstrings_say():
    assert make_reference.page() == PAGE, "docs/reference.md is old; write it anew: python docs/make_reference.py"


@pytest.mark.parametrize("module", [podium, errors, verdict, status, testing], ids=lambda module: module.__name__)
def test_everything_public_has_its_place(module):
    modules = {"errors", "status", "verdict"}
    for name in set(module.__all__) - modules:
        assert re.search(rf"^### {name}\b|^\| `{name}` \|", PAGE, re.MULTILINE), f"'{name}' is not in the reference"


def test_the_settings_page_says_what_the_settings_say():
    page = (DOCS / "settings.md").read_text()
    for name, _, _, text in make_reference.fields_of(podium.Settings):
        linked = re.sub(r"docs/(\w+\.md)", r"[\1](\1)", text).replace("|", "\\|")
        default = podium.Settings.model_fields[name].default if name != "user" else "login name"
        row = f"| `{name}` | `{default}` | {linked} |"
        assert name == "sources" or row in page, f"docs/settings.md needs the row {row}"


def test_no_row_and_no_entry_is_without_a_text():
    assert not re.findall(r"^\| .* \|\s*\|$(?<!\| \|)", PAGE.partition("| kind |")[0], re.MULTILINE)
    entries = re.split(r"^#{3,4} ", PAGE, flags=re.MULTILINE)[1:]
    for entry in entries:
        name, _, rest = entry.partition("\n")
        text = re.sub(r"```text\n.*?```", "", rest, flags=re.DOTALL)
        assert re.search(r"[a-z]{3}", text), f"{name} has no docstring"
    for row in re.findall(r"^\| `\w+` \| `.*\|$", PAGE, re.MULTILINE):
        assert re.search(r"\w", row.rstrip("| ").rpartition(" | ")[2]), row


def test_docstrings_are_sentences_and_no_riddles():
    texts = re.findall(r"^\| `\w+` \| `.*\| ([^|]+) \|$|```\n\n(\w.*)$", PAGE, re.MULTILINE)
    for text in (cell or entry for cell, entry in texts):
        assert not re.match(r"(Of|What|Who|Whose|That of|Those) ", text), text
