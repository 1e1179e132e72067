"""`podium show --save` writes the output of a task as other programs read it, and never over another file."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

import podium
from podium import Workflow
from podium.cluster.gateways.cli.main import app
from podium.cluster.gateways.cli.saving import save
from podium.errors import InvalidInput
from podium.protocols.values import check_value
from tests.support.typed import Molecule, passes_anything


def saved(value, path):
    return save(check_value(value, "output"), path)


def test_each_value_is_written_in_its_own_form(tmp_path):
    array, frame = np.arange(6.0).reshape(2, 3), pd.DataFrame({"n": [1, 2]})
    assert saved(array, tmp_path / "a.npy") == "numpy's file format"
    assert np.array_equal(np.load(tmp_path / "a.npy"), array)
    assert saved(frame, tmp_path / "f.arrow") == "an Arrow stream"
    assert pa.ipc.open_stream((tmp_path / "f.arrow").read_bytes()).read_all().to_pandas().equals(frame)
    assert saved(pl.DataFrame({"n": [1]}), tmp_path / "p.arrow") == "an Arrow file"
    assert pl.read_ipc(tmp_path / "p.arrow")["n"].to_list() == [1]
    assert saved(Image.new("RGB", (3, 2), (1, 2, 3)), tmp_path / "i.png") == "an image, PNG"
    assert Image.open(tmp_path / "i.png").getpixel((0, 0)) == (1, 2, 3)
    assert saved(b"\xff", tmp_path / "b") == "bytes" and (tmp_path / "b").read_bytes() == b"\xff"
    assert saved("é", tmp_path / "t") == "text" and (tmp_path / "t").read_text() == "é"
    assert saved({"a": [1, array]}, tmp_path / "j.json") == "JSON"
    assert json.loads((tmp_path / "j.json").read_text())["a"][1]["shape"] == [2, 3]
    assert saved(Molecule("H2O"), tmp_path / "m") == "JSON"


def test_no_file_is_overwritten_and_what_cannot_be_written_says_so(tmp_path):
    (tmp_path / "there").write_text("kept")
    with pytest.raises(InvalidInput, match="the file is there already; name another"):
        saved("x", tmp_path / "there")
    assert (tmp_path / "there").read_text() == "kept"
    with pytest.raises(InvalidInput, match="it cannot be written: No such file or directory"):
        saved("x", tmp_path / "no" / "folder")
    with pytest.raises(InvalidInput, match="no image can be written there"):
        saved(Image.new("RGB", (3, 2)), tmp_path / "i.nothing")
    assert not (tmp_path / "i.nothing").exists()


def test_the_command_saves_what_a_task_gave(tmp_path):
    data = tmp_path / "data"
    with podium.connect(cluster="inprocess", data=data) as engine:
        task = engine.submit(Workflow("w", passes_anything), {"image": np.zeros((100, 100))})
        task.result(timeout_s=10)
    shown = CliRunner().invoke(app, ["show", task.id, "--data", str(data)])
    assert 'output: {"image": <numpy.ndarray float64 [100, 100], 80 kB>}' in shown.output
    done = CliRunner().invoke(app, ["show", task.id, "--data", str(data), "--save", str(tmp_path / "out.json")])
    assert done.output.strip() == f"{tmp_path / 'out.json'}: JSON"
    assert json.loads((tmp_path / "out.json").read_text())["image"]["shape"] == [100, 100]
