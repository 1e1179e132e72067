"""The shipped tools: nothing that a stranger's repository names runs, at any level; and what is cut is said to be."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from podium.protocols.library.builtin import SHIPPED_FROM, SHIPPED_TOOLS
from podium.protocols.library.sandbox import LEVELS, Box, run_function
from tests.support import ROOT
from tests.support.boxes import at

QUIET = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false")
SIGNED = (
    "tree {tree}\nauthor a <a@b> 1700000000 +0000\ncommitter a <a@b> 1700000000 +0000\ngpgsig {kind}\n \n iQ==\n"
    " {end}\n\nthe message\n"
)
KINDS = {
    "openpgp": ("-----BEGIN PGP SIGNATURE-----", "-----END PGP SIGNATURE-----"),
    "ssh": ("-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"),
    "x509": ("-----BEGIN SIGNED MESSAGE-----", "-----END SIGNED MESSAGE-----"),
}
NAMED = [
    {"log.showSignature": "true", "gpg.program": "{run}"},
    {"log.showSignature": "true", "gpg.openpgp.program": "{run}"},
    {"log.showSignature": "true", "gpg.ssh.program": "{run}", "gpg.ssh.allowedSignersFile": "/dev/null"},
    {"log.showSignature": "true", "gpg.x509.program": "{run}"},
    {"core.fsmonitor": "{run}", "core.pager": "{run}", "pager.log": "{run}", "core.editor": "{run}"},
    {"diff.external": "{run}", "diff.x.textconv": "{run}", "core.attributesFile": "{folder}/attributes"},
    {"core.sshCommand": "{run}", "core.gitProxy": "{run}", "core.askPass": "{run}", "credential.helper": "{run}"},
    {"core.hooksPath": "{folder}/hooks", "alias.log": "!{run}", "core.alternateRefsCommand": "{run}"},
]


def git(root: Path, *words: str, stdin: str = "") -> str:
    command = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b", *QUIET, *words]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit, and a program beside it that leaves a trace when it runs."""
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "-q")
    run = root / ".git" / "run.sh"
    run.write_text(f"#!/bin/sh\necho ran >> {tmp_path}/trace\nexit 1\n")
    run.chmod(0o755)
    (root / "a.txt").write_text("one\n")
    git(root, "add", "a.txt")
    for hook in ("post-index-change", "reference-transaction", "pre-auto-gc"):
        (root / ".git" / "hooks" / hook).write_text(run.read_text())
        (root / ".git" / "hooks" / hook).chmod(0o755)
    (root / ".git" / "attributes").write_text("* diff=x\n")
    return root


def log(root: Path, level: str) -> str:
    reference = "library.boxed.builtin_tools:git_log"
    return asyncio.run(run_function(reference, {"root": str(root)}, Box(read=(str(root),)), (SHIPPED_FROM,), level))


def commit(root: Path, kind: str = "openpgp") -> str:
    begin, end = KINDS[kind]
    text = SIGNED.format(tree=git(root, "write-tree"), kind=begin, end=end)
    made = git(root, "hash-object", "-t", "commit", "-w", "--stdin", stdin=text)
    git(root, "update-ref", "HEAD", made)
    return made


def configure(root: Path, settings: dict[str, str]) -> None:
    run, folder = root / ".git" / "run.sh", root / ".git"
    for name, value in settings.items():
        git(root, "config", name, value.format(run=run, folder=folder))


@at(*LEVELS)
@pytest.mark.parametrize("settings", NAMED, ids=lambda named: next(reversed(named)))
def test_no_program_that_a_configuration_names_is_run(level, settings, repository):
    for kind in KINDS:
        commit(repository, kind)
    (repository.parent / "trace").unlink(missing_ok=True)
    configure(repository, settings)
    assert "the message" in log(repository, level)
    assert not (repository.parent / "trace").exists()


@at(*LEVELS)
def test_what_is_missing_in_a_partial_clone_is_not_fetched(level, repository):
    made = commit(repository)
    child = git(repository, "commit-tree", f"{made}^{{tree}}", "-p", made, "-m", "child")
    git(repository, "update-ref", "HEAD", child)
    (repository / ".git" / "objects" / made[:2] / made[2:]).unlink()
    (repository.parent / "trace").unlink(missing_ok=True)
    configure(repository, {
        "core.repositoryformatversion": "1", "extensions.partialClone": "origin", "remote.origin.promisor": "true",
        "remote.origin.url": "{folder}", "remote.origin.uploadpack": "{run}", "protocol.file.allow": "always",
    })  # fmt: skip
    with pytest.raises(Exception, match=r"fatal|error"):
        log(repository, level)
    assert not (repository.parent / "trace").exists()


@at(*LEVELS)
def test_the_trap_would_have_been_sprung_without_care(level, repository):
    commit(repository)
    configure(repository, NAMED[0])
    subprocess.run(["git", "-C", str(repository), "log"], capture_output=True, check=False)
    assert (repository.parent / "trace").exists()


@at(*LEVELS)
def test_a_repository_around_the_folder_is_not_read(level, repository):
    commit(repository)
    (repository / "below").mkdir()
    with pytest.raises(Exception, match="not a git repository"):
        log(repository / "below", level)


@at(*LEVELS)
def test_a_history_that_is_cut_says_so(level, repository):
    commit(repository)
    for number in range(31):
        git(repository, "commit", "-q", "--allow-empty", "-m", f"number {number}")
    lines = log(repository, level).splitlines()
    assert len(lines) == 31
    assert lines[-1] == "(only the last 30; there are older ones)"


def test_the_shipped_tools_demand_what_they_need():
    found = {name: spec.minimum for name, spec in SHIPPED_TOOLS.items()}
    assert found.pop("git_log") == "landlock"
    assert set(found.values()) == {"limits"}


@pytest.mark.parametrize("settings", [NAMED[0], {"core.fsmonitor": "{run}"}], ids=["signatures", "fsmonitor"])
def test_the_example_runs_nothing_either(settings, repository, monkeypatch):
    commit(repository)
    configure(repository, settings)
    (repository.parent / "trace").unlink(missing_ok=True)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from repo_brief.inventory import git as of_example

    assert of_example(repository, "ls-files", "-z", "--cached", "--others", "--exclude-standard") is not None
    assert "a" in (of_example(repository, "log", "--since=1970-01-02", "--numstat", "--format=%an") or "")
    assert not (repository.parent / "trace").exists()
    assert "repo_brief.inventory" in sys.modules


def tool(name: str, root: Path, **arguments: str) -> str:
    reference = f"library.boxed.builtin_tools:{name}"
    box = Box(read=(str(root),))
    return asyncio.run(run_function(reference, {"root": str(root), **arguments}, box, (SHIPPED_FROM,)))


@pytest.mark.parametrize("letter", ["x", "漢", "😀", '"'])
def test_what_tools_give_fits_an_answer_and_says_what_is_cut(letter, tmp_path):
    (tmp_path / "long.txt").write_text(f"a {letter * 500}\n" * 400)
    read = tool("read_file", tmp_path, path="long.txt")
    assert read.endswith(" characters more)") and letter in read
    found = tool("grep", tmp_path, pattern="^a").splitlines()
    assert found[0].endswith("… (202 characters more)")
    assert found[-1] == f"(only the first {len(found) - 1})"


def test_tools_read_what_the_index_reads_and_keep_out_what_it_keeps_out(tmp_path):
    (tmp_path / "wide.log").write_bytes("the ocelot failed\n".encode("utf-16"))
    (tmp_path / "old.txt").write_bytes("die Prüfung der Zugänge\n".encode("latin-1"))
    (tmp_path / "key.txt").write_text("-----BEGIN PRIVATE KEY-----\n" + "A" * 64 + "\n")
    (tmp_path / "secrets.py").write_text("ocelot = 1\n")
    assert tool("grep", tmp_path, pattern="ocelot") == "secrets.py:1: ocelot = 1\nwide.log:1: the ocelot failed"
    assert tool("read_file", tmp_path, path="old.txt") == "die Prüfung der Zugänge\n"
    assert tool("grep", tmp_path, pattern="AAAA") == "nothing found"
    with pytest.raises(Exception, match="kept out"):
        tool("read_file", tmp_path, path="key.txt")
