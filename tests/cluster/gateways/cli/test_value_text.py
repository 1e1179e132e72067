"""Values as people see them: a few words stand for each array, image, file or large text."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image

import podium
from podium import Workflow
from podium.cluster.gateways.cli.one_task import print_result, printed
from podium.cluster.gateways.cli.value_text import json_with_parts, value_text
from podium.protocols.stored import BlobKey, Stored
from podium.protocols.values import check_value
from tests.support.commands import Shown
from tests.support.typed import passes_anything

KEY = BlobKey(b"d" * 32, 1_234_567, 1)


def text_of(value):
    return value_text(check_value(value, "value"))


def stored(codec, **about):
    return Stored.under(KEY, codec, about, is_packed=False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.arange(6.0).reshape(2, 3), "numpy.ndarray float64 [2, 3], 260 B, first 0.0 1.0 2.0 3.0"),
        (pd.DataFrame({"a": [1], "b c": [2]}), r"pandas.DataFrame 1 row, \d.\d kB, columns a b c"),
        (pl.Series("n", [1, 2]), r"polars.Series Int64 2 rows, \d+ B, name n"),
        (Image.new("RGB", (3, 2)), r"PIL.Image RGB \[3, 2\], \d+ B"),
        (stored("str", chars=9, preview="first\nwörds"), 'text of 1.2 MB: "first\\nwörds…"'),
        (stored("str"), "text of 1.2 MB"),
        (stored("bytes"), "bytes, 1.2 MB"),
        (stored("podium.File", name="out.bin"), 'podium.File "out.bin", 1.2 MB'),
        (stored("podium.value", items=12_345), "podium.value 12,345 items, 1.2 MB"),
        (stored("chem.molecule"), "chem.molecule, 1.2 MB"),
        ("plain", '"plain"'),
        ({"n": [1, None]}, '{"n": [1, null]}'),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_a_value_is_one_line(value, text):
    assert text_of(value) == text or re.fullmatch(text, text_of(value))


def test_within_another_value_parts_are_shorter():
    value = {"image": np.zeros((64, 64)), "said": stored("str", preview="word " * 16), "n": [stored("bytes")]}
    image = '"image": <numpy.ndarray float64 [64, 64], 33 kB>'
    said = '"said": <text of 1.2 MB: "word word word word word word …">'
    assert text_of(value) == f'{{{image}, {said}, "n": [<bytes, 1.2 MB>]}}'
    lines = value_text(check_value(value, "value"), indent=2).splitlines()
    assert lines[1:3] == [f"  {image},", f"  {said},"] and len(lines) == 7
    assert json_with_parts(stored("bytes")) == "<bytes, 1.2 MB>"


def test_a_text_that_looks_like_a_part_stays_a_text():
    assert text_of({"a": "<bytes, 1.2 MB>", "b": b"\0"}) == '{"a": "<bytes, 1.2 MB>", "b": "AA=="}'


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    value = {"image": np.zeros((200, 200)), "text": "z" * 300_000}
    return Shown(Workflow("w", passes_anything), value, tmp_path_factory.mktemp("told"))


def test_show_prints_a_line_for_each_part_and_json_its_description(told):
    _, out, _ = told()
    assert '  "image": <numpy.ndarray float64 [200, 200], 320 kB>,' in out.splitlines()
    assert '  "text": <text of 300 kB: "' + "z" * 30 + '…">' in out.splitlines()
    facts = json.loads(told("-o", "json")[1])
    assert facts["result"]["image"]["$type"] == "numpy.ndarray" and facts["result"]["text"]["chars"] == 300_000


def test_show_events_prints_them_on_their_lines(told):
    _, out, _ = told("--events")
    accepted, finished = out.splitlines()[1:]
    for line in (accepted, finished):
        assert '{"image": <numpy.ndarray float64 [200, 200], 320 kB>, ' in line
    assert json.loads(told("--events", "-o", "json")[1])["events"][1]["says"]["output"]["text"]["$type"] == "str"


@podium.protocol
def emits(ctx, value):
    ctx.emit(np.zeros(3))
    return np.zeros((1000, 100))


def test_a_single_part_is_one_line_in_show_and_events(tmp_path):
    told = Shown(Workflow("w", emits), 1, tmp_path)
    assert "output: numpy.ndarray float64 [1000, 100], 800 kB, first 0.0 0.0 0.0 0.0" in told()[1].splitlines()
    rows = [line.split(maxsplit=5)[5] for line in told("--events")[1].splitlines()[2:]]
    assert rows[0].strip() == "1 chunk: <numpy.ndarray float64 [3], 226 B>"
    assert rows[1].strip().startswith("numpy.ndarray float64 [1000, 100], 800 kB, first 0.0")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """An output with an array and a large text in it, as `run` and `watch` have it."""
    value = {"image": np.zeros((300, 300)), "text": "z" * 300_000}
    with podium.connect(data=tmp_path_factory.mktemp("large"), cluster="inprocess") as engine:
        yield engine.submit(Workflow("w", passes_anything), value).plain_result(timeout_s=60)


def output_of(capsys, value, output="table"):
    print_result(printed(value, output), output, "t1")
    return capsys.readouterr()


def test_a_terminal_gets_a_few_words_for_large_parts_and_the_way_to_have_them(large, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    out, err = output_of(capsys, large)
    assert "<numpy.ndarray float64 [300, 300], 720 kB>" in out and "<text of 300 kB: " in out and len(out) < 300
    assert err == "to have all of it: podium show t1 --save FILE\n"
    assert output_of(capsys, large["text"])[0].startswith('text of 300 kB: "zzz')
    assert output_of(capsys, "small\n") == ("small\n\n", "")
    assert output_of(capsys, {"n": np.zeros(2)})[1] == ""


def test_a_pipe_and_json_get_large_texts_whole(large, capsys, monkeypatch):
    assert json.loads(output_of(capsys, large)[0])["text"] == "z" * 300_000
    assert output_of(capsys, large["text"]) == ("z" * 300_000 + "\n", "")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert json.loads(output_of(capsys, large, "json")[0])["text"] == "z" * 300_000
