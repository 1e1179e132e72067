"""Local folders are packed as they are, without what does not belong to the code, and within bounds."""

from __future__ import annotations

import io
import os
import zipfile

import pytest

from podium.cluster import packages as packing
from podium.cluster.packages import Packages
from podium.errors import InvalidDefinition
from podium.protocols.environment import RuntimeEnv


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "project"
    (folder / "lib").mkdir(parents=True)
    (folder / "flow.py").write_text("x = 1")
    (folder / "lib" / "deep.py").write_text("y = 2")
    return folder


def packed(given, working_dir=None, data=None):
    packages = Packages(working_dir, data)
    environment = packages.environment(None if given is None else RuntimeEnv.model_validate(given), "m:f")
    archives = [zipfile.ZipFile(io.BytesIO(content)) for content in packages.packed.values()]
    return environment, packages, archives


def names(given, **more):
    return sorted(name for archive in packed(given, **more)[2] for name in archive.namelist())


def test_a_working_dir_has_the_files_of_the_folder(folder):
    assert names({"working_dir": str(folder)}) == ["flow.py", "lib/deep.py"]


def test_a_module_keeps_its_name(folder):
    assert names({"py_modules": [str(folder / "lib")]}) == ["lib/deep.py"]
    assert names({"py_modules": [str(folder / "flow.py")]}) == ["flow.py"]


def test_what_is_not_code_stays(folder):
    for name in (".git", ".podium", "__pycache__", ".venv", "venv", "data", "ignored", "heavy"):
        (folder / name).mkdir()
        (folder / name / "f").write_text("x")
    (folder / ".gitignore").write_text("ignored/\n*.log\n")
    (folder / ".rayignore").write_text("heavy\n")
    (folder / "lib" / "run.log").write_text("x")
    (folder / "lib" / ".gitignore").write_text("!run.log\n")
    given = {"working_dir": str(folder)}
    kept = [".gitignore", ".rayignore", "flow.py", "lib/.gitignore", "lib/deep.py", "lib/run.log"]
    assert names(given, data=folder / "data") == kept


def test_links_are_followed_once(folder, tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "s.py").write_text("s")
    (folder / "shared").symlink_to(tmp_path / "shared")
    (folder / "lib" / "up").symlink_to(folder)
    assert names({"working_dir": str(folder)}) == ["flow.py", "lib/deep.py", "shared/s.py"]


def test_times_make_no_other_package_but_contents_names_and_modes_do(folder):
    def key():
        return packed({"working_dir": str(folder)})[0].working_dir

    first = key()
    os.utime(folder / "flow.py", (1, 1))
    assert key() == first
    (folder / "flow.py").chmod(0o755)
    changed = {first, key()}
    (folder / "flow.py").rename(folder / "flow2.py")
    changed.add(key())
    (folder / "flow2.py").write_text("x = 3")
    changed.add(key())
    assert len(changed) == 4


def test_an_archive_goes_as_it_is(tmp_path):
    wheel = tmp_path / "thing-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("thing.py", "x = 1")
    _, packages, _ = packed({"py_modules": [str(wheel)]})
    assert list(packages.packed.values()) == [wheel.read_bytes()]


@pytest.mark.parametrize("uri", ["s3://bucket/code.zip", "https://example.org/code.zip", "gcs://code.zip"])
def test_a_uri_is_left_to_ray(uri):
    environment, packages, _ = packed({"working_dir": uri, "py_modules": [uri]})
    assert (environment.working_dir, environment.py_modules, packages.packed) == (uri, (uri,), {})


def test_the_folder_of_the_client_is_for_protocols_without_their_own(folder, tmp_path):
    default, _, _ = packed(None, working_dir=str(folder))
    with_variables, _, _ = packed({"env_vars": {"A": "1"}}, working_dir=str(folder))
    own, _, _ = packed({"working_dir": str(folder / "lib")}, working_dir=str(folder))
    assert default.working_dir == with_variables.working_dir
    assert own.working_dir != default.working_dir


def test_the_same_folder_is_packed_once(folder):
    packages = Packages(str(folder))
    first = packages.environment(None, "m:f")
    (folder / "flow.py").write_text("changed meanwhile")
    assert packages.environment(None, "m:g") == first
    assert len(packages.packed) == 1


def test_a_requirements_file_is_read_where_it_is(tmp_path):
    file = tmp_path / "needs.txt"
    file.write_text("# what we need\nsix==1.17.0  # old\n\n--no-deps\ntoolz\n")
    assert packed({"pip": str(file)})[0].pip.packages == ("six==1.17.0", "--no-deps", "toolz")


@pytest.mark.parametrize("line", ["-r more.txt", "--requirement=more.txt", "-c bounds.txt", "-e ."])
def test_a_requirements_file_may_not_name_other_files(tmp_path, line):
    (tmp_path / "needs.txt").write_text(f"six\n{line}\n")
    with pytest.raises(InvalidDefinition, match=f"protocol m:f: .*`{line}` names a file of this machine"):
        packed({"pip": str(tmp_path / "needs.txt")})


@pytest.mark.parametrize("key", ["working_dir", "py_modules", "pip"])
def test_what_is_not_there_is_named(tmp_path, key):
    path = str(tmp_path / "nowhere")
    with pytest.raises(InvalidDefinition, match=r"protocol m:f: .*nowhere: No such file"):
        packed({key: [path] if key == "py_modules" else path})


def test_a_file_is_no_working_dir(folder):
    with pytest.raises(InvalidDefinition, match=r"flow\.py is not a folder or a \.zip archive"):
        packed({"working_dir": str(folder / "flow.py")})


@pytest.mark.parametrize("limit", ["MAX_PACKAGE_BYTES", "MAX_UNPACKED_BYTES"])
def test_too_much_is_refused_with_the_ways_out(folder, monkeypatch, limit):
    (folder / "model.bin").write_bytes(os.urandom(3_000))
    (folder / "z.py").write_text("z")
    monkeypatch.setattr(packing, limit, 2_000)
    with pytest.raises(InvalidDefinition, match=r"project: .* packed.*\.rayignore.*URI of an archive"):
        packed({"working_dir": str(folder)})


def test_all_packages_of_a_deployment_count_together(folder, tmp_path, monkeypatch):
    for n in range(2):
        (tmp_path / f"m{n}.py").write_bytes(os.urandom(1_500))
    monkeypatch.setattr(packing, "MAX_PACKAGE_BYTES", 2_500)
    with pytest.raises(InvalidDefinition, match=r"m1\.py: .* packed, the limit is"):
        packed({"py_modules": [str(tmp_path / f"m{n}.py") for n in range(2)]})
