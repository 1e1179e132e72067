"""`podium show --save` writes the output of a task as other programs read it, and never over another file."""

from __future__ import annotations

import base64
import json
import os
import re

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

import podium
from podium import Workflow
from podium.cluster.blobs.folder import FolderBlobs
from podium.cluster.blobs.stores import blobs_of
from podium.cluster.gateways.cli.main import app
from podium.cluster.gateways.cli.saving import save
from podium.errors import InvalidInput
from podium.protocols.stored import Stored
from podium.protocols.values import check_value
from tests.support import postgres
from tests.support.commands import run_command
from tests.support.typed import Molecule, passes_anything

DESCRIBED = "JSON, in which each numpy.ndarray is only described"


def saved(value, path):
    return save(check_value(value, "output"), path, FolderBlobs(path.parent / "blobs"))


ARRAY, FRAME = np.arange(400_000.0).reshape(-1, 4), pd.DataFrame({"n": np.arange(50_000)})
IMAGE = Image.effect_noise((600, 600), 50)
LONG, RAW = "é" * 200_000, b"\xff" * 300_000


@podium.protocol
def gives(ctx, name):
    if name == "file":
        with ctx.new_file("made.bin") as made:
            made.write(RAW)
        return made.file
    values = {
        "array": ARRAY, "frame": FRAME, "polars": pl.DataFrame({"n": np.arange(50_000)}), "image": IMAGE, "text": LONG,
        "bytes": RAW, "lazy": podium.Lazy([{"n": n} for n in range(50_000)]), "molecule": Molecule("H" * 300_000),
        "mixed": {"text": LONG, "raw": RAW, "array": ARRAY, "lazy": [podium.Lazy(list(range(100_000)))]},
    }  # fmt: skip
    return values[name]


GIVES = Workflow("gives", gives)


class Saved:
    """An installation with a task for each value; a call is `podium show ID --save FILE`."""

    def __init__(self, folder, **database):
        self.folder, self.data = folder, folder / "data"
        names = ("file", "array", "frame", "polars", "image", "text", "bytes", "lazy", "molecule", "mixed")
        with podium.connect(data=self.data, cluster="inprocess", **database) as engine:
            tasks = {name: engine.submit(GIVES, name) for name in names}
            for task in tasks.values():
                task.plain_result(timeout_s=30)
            self.blobs = blobs_of(engine.settings.store)
        self.ids = {name: task.id for name, task in tasks.items()}

    def __call__(self, name, file):
        """Return the exit code, what was printed, and the path of the file."""
        path = self.folder / file
        code, out, err = run_command(
            ("show", self.ids[name], "--data", str(self.data), "--save", str(path)), self.folder, dict(os.environ)
        )
        return code, (out + err).decode().strip().removeprefix(f"{path}: "), path


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return Saved(tmp_path_factory.mktemp("stored"))


def test_a_stored_array_frame_text_or_file_is_copied_as_it_is(stored, monkeypatch):
    code, form, path = stored("array", "a.npy")
    assert (code, form) == (0, "numpy's file format") and np.array_equal(np.load(path), ARRAY)
    _, form, path = stored("frame", "f.arrow")
    assert form == "an Arrow stream" and pa.ipc.open_stream(path.read_bytes()).read_all().to_pandas().equals(FRAME)
    _, form, path = stored("polars", "p.arrow")
    assert form == "an Arrow file" and pl.read_ipc(path)["n"].sum() == FRAME["n"].sum()
    _, form, path = stored("text", "t.txt")
    assert form == "text" and path.read_text("utf-8") == LONG
    for name, told in (("bytes", "bytes"), ("file", "a file")):
        _, form, path = stored(name, f"{name}.bin")
        assert form == told and path.read_bytes() == RAW


def test_a_stored_image_is_written_by_the_name_of_the_file(stored):
    _, form, path = stored("image", "i.png")
    assert form == "an image, PNG" and Image.open(path).tobytes() == IMAGE.tobytes()


def test_json_has_large_texts_bytes_and_lists_and_describes_arrays(stored):
    _, form, path = stored("mixed", "m.json")
    value = json.loads(path.read_text("utf-8"))
    assert (form, value["text"], base64.b64decode(value["raw"])) == (DESCRIBED, LONG, RAW)
    assert value["lazy"] == [list(range(100_000))]
    assert value["array"]["$type"] == "numpy.ndarray" and value["array"]["shape"] == [100_000, 4]
    _, form, path = stored("lazy", "l.json")
    assert form == "JSON" and json.loads(path.read_text())[49_999] == {"n": 49_999}
    _, form, path = stored("molecule", "c.json")
    assert form == "JSON, in which each tests.molecule is only described"
    assert json.loads(path.read_text())["$type"] == "tests.molecule"


def test_a_stored_value_is_never_written_over_a_file(stored):
    (stored.folder / "mine").write_text("kept")
    for name in ("array", "image", "mixed"):
        code, said, path = stored(name, "mine")
        assert code == 2 and "the file is there already; name another" in said and path.read_text() == "kept"
    code, said, _ = stored("array", "no/folder")
    assert code == 2 and "it cannot be written: No such file or directory" in said


def test_a_copy_that_breaks_off_leaves_no_file(tmp_path, monkeypatch):
    blobs = FolderBlobs(tmp_path / "blobs")
    part = Stored.under(blobs.put([RAW]), "bytes", {}, is_packed=False)

    def full(_source, target, _size):
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(InvalidInput, match="it cannot be written: No space left on device"):
        save(part, tmp_path / "out", blobs)
    assert not (tmp_path / "out").exists()


def test_a_missing_or_damaged_blob_says_so_and_leaves_no_file(tmp_path):
    stored = Saved(tmp_path)
    for blob in stored.blobs.listing():
        stored.blobs.path(blob.name).write_bytes(b"x" * blob.size)
    for name in ("array", "image", "mixed"):
        code, said, path = stored(name, "out")
        assert code == 1 and re.match("BlobCorrupt: blob [0-9a-f]{64} in .*: the checksum does not match", said)
        assert re.search("podium doctor( --blobs)?$", said) and not path.exists()
    for blob in stored.blobs.listing():
        stored.blobs.path(blob.name).unlink()
    for name in ("array", "image", "mixed"):
        code, said, path = stored(name, "out")
        assert code == 1 and re.match("BlobMissing: blob [0-9a-f]{64} is not in .*blobs: it is lost", said)
        assert not path.exists()


def test_what_is_in_a_database_is_saved_too(tmp_path, monkeypatch):
    database = postgres.new_database()
    stored = Saved(tmp_path, database=database.url, database_schema=database.schema)
    monkeypatch.setenv("PODIUM_DATABASE_SCHEMA", database.schema)
    stored.data = database.url
    monkeypatch.setenv("HOME", str(tmp_path))  # a machine without a cache
    code, form, path = stored("array", "a.npy")
    postgres.drop(database)
    assert (code, form) == (0, "numpy's file format") and np.array_equal(np.load(path), ARRAY)


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
    assert saved({"a": [1, array]}, tmp_path / "j.json") == DESCRIBED
    assert json.loads((tmp_path / "j.json").read_text())["a"][1]["shape"] == [2, 3]
    assert saved(Molecule("H2O"), tmp_path / "m") == "JSON, in which each tests.molecule is only described"


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
    assert done.output.strip() == f"{tmp_path / 'out.json'}: {DESCRIBED}"
    assert json.loads((tmp_path / "out.json").read_text())["image"]["shape"] == [100, 100]
