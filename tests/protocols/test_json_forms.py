"""What JSON cannot hold, at the edges where we speak JSON; and texts with byte-order marks."""

from __future__ import annotations

import codecs
import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from podium.cluster.config import load_settings
from podium.cluster.gateways.cli.inputs import read_input
from podium.cluster.loading import load_workflow
from podium.errors import InvalidInput, InvalidSetting
from podium.protocols.decoding import decoded
from podium.protocols.json_forms import from_json, json_form, to_json

NEPAL = timezone(timedelta(hours=5, minutes=45))
FORMS = [
    (math.nan, "NaN"),
    (math.inf, "Infinity"),
    ({"deep": [-math.inf]}, {"deep": ["-Infinity"]}),
    (b"\xff\x00", "/wA="),
    (b"", ""),
    (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
    (datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=NEPAL), "2026-01-02T03:04:05.000600+05:45"),
    (date(2026, 1, 2), "2026-01-02"),
    ({1: "a", False: "b", b"\xff": "c", None: "d"}, {"1": "a", "false": "b", "/w==": "c", "null": "d"}),
    ({math.nan: 1}, {"NaN": 1}),
    ((1, Path("/a")), [1, "/a"]),
    ({"é": "🚀\u2028"}, {"é": "🚀\u2028"}),
    (2**63, 2**63),
]


@pytest.mark.parametrize(("value", "form"), FORMS)
def test_what_json_cannot_hold_has_a_form(value, form):
    assert json_form(value) == form
    assert from_json(to_json(value)) == form


@pytest.mark.parametrize("number", [math.inf, -math.inf])
def test_a_number_that_is_not_finite_comes_back_where_a_number_is_wanted(number):
    assert TypeAdapter(float).validate_python(json_form(number)) == number


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e400", "[-1e999]", "[NaN]", "9" * 5000])
def test_what_is_no_number_of_json_stays_text_on_the_command_line(text):
    assert read_input([f"city={text}"], lambda: "") == {"city": text}


@pytest.mark.parametrize(
    ("text", "value"), [("1e5", 1e5), ("-0.5", -0.5), ("true", True), ("null", None), ("nan", "nan")]
)
def test_what_is_json_is_read_as_json_on_the_command_line(text, value):
    assert read_input([f"x={text}"], lambda: "") == {"x": value}


@pytest.mark.parametrize("text", ['{"a": NaN}', "[1e400]", '{"a": -Infinity}'])
def test_a_file_with_what_is_no_json_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InvalidInput, match=r"a\.json.*not JSON"):
        read_input([f"@{tmp_path}/a.json"], lambda: "")


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ],
)
def test_a_byte_order_mark_says_how_a_file_is_written_and_is_not_part_of_it(tmp_path, mark, encoding):
    (tmp_path / "a.json").write_bytes(mark + '{"Ort": "Köln"}'.encode(encoding))
    assert read_input([f"@{tmp_path}/a.json"], lambda: "") == {"Ort": "Köln"}
    (tmp_path / "w.yaml").write_bytes(mark + "name: w\nroot: tests.sample:add\n".encode(encoding))
    assert load_workflow(tmp_path / "w.yaml").name == "w"
    assert decoded(mark + "ü".encode(encoding)) == "ü"


@pytest.mark.parametrize(("mark", "encoding"), [(codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le")])
def test_settings_may_begin_with_a_mark(tmp_path, monkeypatch, mark, encoding):
    monkeypatch.chdir(tmp_path)
    Path("podium.toml").write_bytes(mark + 'user = "Zoë"\n'.encode(encoding))
    assert load_settings().user == "Zoë"


def test_settings_of_the_environment_have_the_numbers_of_json(monkeypatch):
    monkeypatch.setenv("PODIUM_CONFIG", '{"x": NaN}')
    with pytest.raises(InvalidSetting, match="not JSON: NaN is no number of JSON"):
        load_settings()


def test_standard_input_may_begin_with_a_mark():
    assert read_input(["-"], lambda: "\ufeff[1]") == [1]


def test_bytes_that_are_no_text_are_refused_with_their_place(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InvalidInput, match="not UTF-8 at byte 7"):
        read_input([f"@{tmp_path}/a.json"], lambda: "")


@pytest.mark.parametrize("value", [row[0] for row in FORMS])
def test_a_strict_reader_takes_what_is_printed(value):
    def refuse(name):
        raise AssertionError(name)

    json.loads(to_json(value, indent=2), parse_constant=refuse)
