"""The file index: what it indexes, what it reads again, what it finds, and who may write it."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.protocols.library.file_index import FileIndex, IndexLimits
from podium.protocols.library.files import STANDARD_LIMITS, looks_secret, read_text, walk
from podium.protocols.library.passages import cut
from podium.protocols.library.words import match_of, spelled_out, words_of
from tests.support import ROOT
from tests.support.texts import any_text

LONG_AGO_NS = 1_700_000_000_000_000_000
INJECTIONS = [
    '" OR 1=1 --',
    "NEAR(",
    "NEAR(a b, 2)",
    "path:x",
    "a AND",
    "NOT",
    "*",
    "^a",
    "{a b}:c",
    "'; DROP TABLE files",
]


def write(root: Path, name: str, text: str | bytes, age: int = 1) -> Path:
    """A file that changed long ago; a greater `age` is another time."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    os.utime(path, ns=(LONG_AGO_NS - age, LONG_AGO_NS - age))
    return path


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def database(tmp_path):
    return tmp_path / "cache" / "index.db"


@pytest.fixture
def index(root, database):
    with closing(FileIndex(root, database)) as index:
        yield index


def found_by(index: FileIndex, question: str) -> set[str]:
    return {passage.path for passage in index.search(question)}


def indexed(index: FileIndex) -> set[str]:
    """Every file in an index all of whose files have this word."""
    return {passage.path for passage in index.search("word", limit=1000)}


# What is read again


def test_a_second_refresh_opens_no_file(root, index):
    write(root, "a.txt", "apple")
    write(root, "b.bin", b"\0")
    assert index.refresh().read == 2
    again = index.refresh()
    assert (again.complete, again.read, again.seen, again.unchanged, again.skipped) == (True, 0, 2, 1, {"binary": 1})


def test_a_file_that_was_touched_is_read_but_not_indexed_anew(root, index):
    write(root, "a.txt", "apple")
    index.refresh()
    write(root, "a.txt", "apple", age=2)
    touched = index.refresh()
    assert (touched.read, touched.indexed, touched.unchanged) == (1, 0, 1)
    assert index.refresh().read == 0


def test_a_changed_file_is_found_by_its_new_words_only(root, index):
    write(root, "a.txt", "apple")
    write(root, "b.txt", "bread")
    index.refresh()
    write(root, "a.txt", "cherry", age=2)
    changed = index.refresh()
    assert (changed.indexed, changed.unchanged) == (1, 1)
    assert (found_by(index, "apple"), found_by(index, "cherry")) == (set(), {"a.txt"})


def test_a_change_within_the_same_tick_and_of_the_same_size_is_noticed(root, index):
    path = root / "a.txt"
    path.write_text("apple")
    index.refresh()
    stamp = path.stat().st_mtime_ns
    path.write_text("bread")
    os.utime(path, ns=(stamp, stamp))
    index.refresh()
    assert found_by(index, "bread") == {"a.txt"}


def test_a_deleted_file_is_not_found_any_more(root, index):
    write(root, "a.txt", "apple")
    write(root, "b.txt", "bread")
    index.refresh()
    (root / "a.txt").unlink()
    assert index.refresh().removed == 1
    assert found_by(index, "apple bread") == {"b.txt"}


def test_a_renamed_file_is_found_under_its_new_name_only(root, index):
    write(root, "old.txt", "apple")
    index.refresh()
    (root / "old.txt").rename(root / "new.txt")
    renamed = index.refresh()
    assert (renamed.indexed, renamed.removed) == (1, 1)
    assert found_by(index, "apple") == {"new.txt"}


def test_a_file_that_becomes_ignored_is_taken_out(root, index):
    write(root, "a.txt", "apple")
    index.refresh()
    write(root, ".gitignore", "a.txt\n")
    assert index.refresh().removed == 1
    assert found_by(index, "apple") == set()


def test_a_text_file_that_becomes_binary_is_taken_out_of_the_results(root, index):
    write(root, "a.txt", "apple")
    index.refresh()
    write(root, "a.txt", b"apple\0", age=2)
    assert index.refresh().skipped == {"binary": 1}
    assert found_by(index, "apple") == set()


def test_what_was_indexed_is_found_after_opening_again_without_reading(root, database):
    write(root, "a.txt", "apple")
    with closing(FileIndex(root, database)) as first:
        first.refresh()
    with closing(FileIndex(root, database)) as second:
        assert found_by(second, "apple") == {"a.txt"}
        assert second.refresh().read == 0


# Time


def test_a_refresh_out_of_time_stops_and_the_next_ones_go_on_where_it_was(root, index):
    for number in range(5):
        write(root, f"{number}.txt", "word")
    reports = [index.refresh(until=0.0) for _ in range(5)]
    assert [(report.complete, report.indexed) for report in reports] == [(False, 1)] * 5
    assert len(indexed(index)) == 5
    assert index.refresh().complete


def test_a_refresh_that_finishes_an_earlier_one_looks_again_at_what_that_one_saw(root, index):
    for number in range(4):
        write(root, f"{number}.txt", "word")
    asked = iter([False, True])
    assert index.refresh(until=lambda: next(asked)).complete is False
    write(root, "0.txt", "changed word", age=2)
    (root / "1.txt").unlink()
    assert index.refresh().complete
    assert found_by(index, "changed") == {"0.txt"}
    assert indexed(index) == {"0.txt", "2.txt", "3.txt"}


def test_a_refresh_out_of_time_takes_nothing_out_that_it_did_not_look_for(root, index):
    for number in range(4):
        write(root, f"{number}.txt", "word")
    index.refresh()
    assert index.refresh(until=time.monotonic() - 1).removed == 0
    assert len(indexed(index)) == 4


def test_ten_thousand_small_files_are_indexed_in_seconds_and_not_read_again(root, index):
    for folder in range(100):
        (root / f"d{folder}").mkdir()
        for number in range(100):
            text = f"def function_{folder}_{number}():\n    return 'value{number}'\n\n\n# a word of file {folder}\n"
            (root / f"d{folder}" / f"f{number}.py").write_text(text)
    first = index.refresh()
    second = index.refresh()
    assert (first.complete, first.indexed, second.complete, second.unchanged) == (True, 10_000, True, 10_000)
    assert second.read == 0
    assert first.took_s < 20
    assert second.took_s < 3
    assert index.search("function_42_17")[0].path == "d42/f17.py"


# What is kept out


def reasons(root: Path, limits: IndexLimits = STANDARD_LIMITS) -> dict[str, str | None]:
    return {found.path: found.skipped for found in walk(root, limits)}


def test_binary_and_huge_files_are_skipped_with_their_reasons(root, database):
    write(root, "late.txt", b"a" * 9000 + b"\0")
    write(root, "early.txt", b"a" * 8191 + b"\0")
    write(root, "huge.txt", "a" * 10_001)
    with closing(FileIndex(root, database, IndexLimits(max_file_bytes=10_000))) as index:
        done = index.refresh()
    assert (done.indexed, done.skipped) == (1, {"binary": 1, "too large": 1})


def test_symlinks_are_never_followed(root, tmp_path, index):
    outside = write(tmp_path, "outside/secret.txt", "word")
    write(root, "real.txt", "word")
    (root / "loop").symlink_to(root)
    (root / "out").symlink_to(outside.parent)
    (root / "out.txt").symlink_to(outside)
    (root / "dangling").symlink_to(root / "nowhere")
    assert index.refresh().skipped == {"symlink": 4}
    assert indexed(index) == {"real.txt"}


def test_a_folder_that_becomes_a_symlink_during_the_walk_is_not_gone_into(root, tmp_path):
    write(tmp_path, "outside/secret.txt", "word")
    write(root, "a.txt", "word")
    write(root, "inner/b.txt", "word")
    steps = walk(root, STANDARD_LIMITS)
    assert next(steps).path == "a.txt"
    (root / "inner" / "b.txt").unlink()
    (root / "inner").rmdir()
    (root / "inner").symlink_to(tmp_path / "outside")
    assert [(found.path, found.skipped) for found in steps] == [("inner", "unreadable")]
    assert read_text(root, "inner/secret.txt") is None
    assert read_text(root, "a.txt").content == b"word"


def test_a_root_that_is_a_symlink_is_followed(root, tmp_path, database):
    write(root, "a.txt", "word")
    (tmp_path / "link").symlink_to(root)
    with closing(FileIndex(tmp_path / "link", database)) as index:
        index.refresh()
        assert indexed(index) == {"a.txt"}


def test_folders_of_tools_are_not_gone_into(root):
    for name in (".git/a", "node_modules/a", "x/__pycache__/a", "env/pyvenv.cfg", "env/lib/a", "kept/a"):
        write(root, name, "word")
    write(root, "state/cluster.lock", "")  # a data directory of ours
    write(root, "state/daemon.log", "word")
    expected = dict.fromkeys((".git", "node_modules", "x/__pycache__", "env", "state"), "tool folder")
    assert reasons(root) == {**expected, "kept/a": None}


def test_what_looks_secret_is_skipped_unless_it_is_asked_for(root):
    for name in (".env", "deploy/server.PEM", "id_rsa", ".ssh/config", ".env.example", "id_rsa.pub"):
        write(root, name, "word")
    kept_out = dict.fromkeys((".env", "deploy/server.PEM", "id_rsa", ".ssh"), "secret")
    assert reasons(root) == {**kept_out, ".env.example": None, "id_rsa.pub": None}
    assert set(reasons(root, IndexLimits(with_secrets=True)).values()) == {None}


@pytest.mark.parametrize("name", [".env.local", "prod.env", "credentials.json", ".netrc", "tls.key", "ID_ED25519"])
def test_names_that_look_secret(name):
    assert looks_secret(name)


@pytest.mark.parametrize("name", ["environment.py", "keys.py", "monkey", "secretary.md", "test_credentials.py"])
def test_names_that_only_resemble_secrets(name):
    assert not looks_secret(name)


def test_what_cannot_be_read_is_counted_not_raised(root, index, monkeypatch):
    write(root, "a.txt", "word")
    write(root, "b.txt", "word")
    real_open = os.open

    def refuse(path, *args, **kwargs):
        if str(path).endswith("a.txt"):
            raise PermissionError(path)
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    done = index.refresh()
    assert (done.complete, done.indexed, done.skipped) == (True, 1, {"unreadable": 1})


def test_a_pipe_does_not_hold_the_walk_up(root, index):
    os.mkfifo(root / "pipe")
    assert index.refresh().skipped == {"special": 1}


def test_a_name_that_is_not_utf8_is_skipped(root, index):
    (root / os.fsdecode(b"\xff.txt")).write_text("word")
    assert index.refresh().skipped == {"name": 1}


def test_files_beyond_the_greatest_number_are_counted(root, database):
    for number in range(5):
        write(root, f"{number}.txt", "word")
    with closing(FileIndex(root, database, IndexLimits(max_files=3))) as index:
        assert index.refresh().skipped == {"too many": 2}
        assert indexed(index) == {"0.txt", "1.txt", "2.txt"}


def test_limits_are_checked_where_they_are_set():
    with pytest.raises(ValueError, match="passage_lines is 1; it must be at least 4"):
        IndexLimits(passage_lines=1)


# Ignored as git ignores


def git(folder: Path, *arguments: str, given: str = "") -> str:
    """Run git with nobody's settings."""
    environment = {"PATH": os.defpath, "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    command = ["git", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, input=given, capture_output=True, text=True).stdout


def ignored_by_git(top: Path, names: list[str]) -> set[str]:
    output = git(top, "check-ignore", "--no-index", "--stdin", "-z", given="\0".join(names))
    return {name for name in output.split("\0") if name}


def check_against_git(top: Path, below: str = "") -> None:
    """What the walk finds below a folder of a repository is what git does not ignore there."""
    files = [path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file()]
    files = [name for name in files if not name.startswith(".git/") and name.startswith(below)]
    found = {below + name for name, reason in reasons(top / below).items() if reason is None}
    assert found == set(files) - ignored_by_git(top, files)


PATTERNS = [
    ("*.log", "!keep.log"),
    ("build/**", "!build/keep.txt"),
    ("build/", "!build/keep.txt"),
    ("/a", "!/a/b"),
    ("*", "!*/", "!*.py"),
    ("a/**/x.txt",),
    ("**/b/c.txt", "# comment", "", "\\#hash", "\\!bang"),
    ("a/**/",),
    ("a/*", "!a/b/"),
    ("[ab].py", "[!ab].txt", "?.md"),
    ("trailing.txt   ", "space\\ ", "x.txt\r"),
    ("[", "a/[z-", "\\"),
    ("**",),
    ("**/", "!b"),
    ("/**", "!/a", "!/a/**/"),
    ("a//b", "/", "//", "!"),
    ("*.txt", "!/**/*", "/**/**/a.py"),
]


@pytest.mark.parametrize("patterns", PATTERNS, ids=" ".join)
def test_patterns_mean_what_they_mean_to_git(root, patterns):
    git(root, "init", "--quiet")
    write(root, ".gitignore", "\n".join(patterns))
    places = ("", "a/", "a/b/", "a/b/a/", "b/", "build/", "build/deep/", "sub/build/")
    names = ("a.py", "c.py", "x.txt", "c.txt", "keep.txt", "keep.log", "z.log", "m.md", "#hash", "!bang", "space ")
    for place in places:
        for name in (*names, "trailing.txt"):
            write(root, place + name, "word")
    check_against_git(root)


def generate_tree(root: Path, rng: random.Random) -> None:
    """A repository with files and nested rules made of few names, so that rules often meet files."""
    git(root, "init", "--quiet")
    folders = [""]
    for _ in range(8):
        folders.append(f"{rng.choice(folders)}{rng.choice(['a', 'b', 'c', 'lib'])}/")
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for folder in folders:
        for name in rng.sample(["a.py", "b.py", "a.txt", "b", "c.log", "lib.md"], 4):
            if not (root / folder / name).exists():
                write(root, folder + name, "word")
    for folder in sorted({"", *rng.sample(folders, 3)}):
        write(root, f"{folder}.gitignore", "\n".join(pattern(rng) for _ in range(rng.randint(1, 4))))
    write(root, ".git/info/exclude", pattern(rng))


def pattern(rng: random.Random) -> str:
    segments = ["a", "b", "c", "lib", "*", "**", "*.py", "a.*", "?", "[ab]*", "[!a].py", "b.py", "*.log", "l*b"]
    parts = rng.choices(segments, k=rng.choice([1, 1, 1, 2, 2, 3]))
    ends = rng.choice(["", "!", "!"]), rng.choice(["", "", "/"]), rng.choice(["", "", "/"])
    return f"{ends[0]}{ends[1]}{'/'.join(parts)}{ends[2]}"


@pytest.mark.parametrize("seed", range(40))
def test_generated_trees_are_ignored_as_git_ignores_them(root, seed):
    generate_tree(root, random.Random(seed))
    check_against_git(root)


def test_below_a_part_of_a_repository_the_rules_above_hold(root):
    git(root, "init", "--quiet")
    write(root, ".gitignore", "*.log\n/part/sub/deep.txt\n/deep.txt\n")
    write(root, ".git/info/exclude", "excluded.txt\n")
    write(root, "part/.gitignore", "!kept.log\n")
    for name in ("x.log", "kept.log", "deep.txt", "excluded.txt", "a.txt"):
        write(root, f"part/sub/{name}", "word")
    check_against_git(root, "part/sub/")


def test_rules_hold_outside_of_a_repository_too(root):
    write(root, ".gitignore", "*.log\n")
    write(root, "sub/.gitignore", "!b.log\n")
    write(root, "sub/a.log", "word")
    write(root, "sub/b.log", "word")
    assert {name for name, reason in reasons(root).items() if reason == "ignored"} == {"sub/a.log"}


def test_a_linked_work_tree_has_the_excludes_of_its_repository(root):
    write(root, "main.git/info/exclude", "*.log\n")
    write(root, "main.git/worktrees/tree/commondir", "../..\n")
    write(root, "tree/.git", f"gitdir: {root}/main.git/worktrees/tree\n")
    write(root, "tree/a.log", "word")
    assert reasons(root / "tree")["a.log"] == "ignored"


# Passages


def test_markdown_is_cut_at_headings_but_not_within_code(root):
    text = "# One\nfirst\n\n## Two\n```\n# not a heading\n```\nlast\n"
    assert [(piece.line, piece.end_line) for piece in cut("a.md", text, STANDARD_LIMITS)] == [(1, 3), (4, 9)]


def test_code_is_cut_between_top_level_blocks():
    block = "def function():\n" + "    pass\n" * 20 + "\n\n"
    pieces = cut("a.py", block * 3, STANDARD_LIMITS)
    assert [(piece.line, piece.text.splitlines()[0]) for piece in pieces] == [
        (1, "def function():"),
        (24, "def function():"),
        (47, "def function():"),
    ]


def test_a_long_block_is_cut_and_its_parts_know_what_they_belong_to():
    text = "class Long:\n" + "    x = 1\n" * 99
    pieces = cut("a.py", text, STANDARD_LIMITS)
    assert [(piece.line, piece.end_line) for piece in pieces][:3] == [(1, 40), (41, 80), (81, 101)]
    assert {piece.titles for piece in pieces} == {"class Long:"}


@pytest.mark.alone
def test_cutting_takes_time_in_proportion_to_length():
    started_at = time.monotonic()
    assert len(cut("a.md", "# a\n" * 100_000, STANDARD_LIMITS)) == 100_000
    assert len(cut("a.py", "a\n\n" * 100_000, STANDARD_LIMITS)) == 5_001
    assert time.monotonic() - started_at < 10  # some 0.5 s; hours, were it the square


@given(st.text(alphabet="a# \n`d)", max_size=400), st.sampled_from(["a.md", "a.py"]))
def test_passages_cover_every_line_that_is_not_blank_once(text, name):
    limits = IndexLimits(passage_lines=5, passage_chars=200)
    pieces = cut(name, text, limits)
    lines = text.split("\n")
    covered = [line for piece in pieces for line in range(piece.line, piece.end_line + 1)]
    whole = [line for line in covered if len(lines[line - 1]) <= limits.passage_chars]
    assert len(set(whole)) == len(whole)
    assert {number for number, line in enumerate(lines, 1) if line.strip()} <= set(covered)
    assert all(len(piece.text) <= limits.passage_chars for piece in pieces)
    assert all(piece.end_line - piece.line < limits.passage_lines for piece in pieces)


def test_a_passage_says_where_it_is(root, index):
    write(root, "deep/a.py", "\n" * 50 + "def apple():\n    return 1\n\n\n" + "x = 1\n" * 60)
    index.refresh()
    best = index.search("apple")[0]
    lines = (root / best.path).read_text().split("\n")
    assert (best.path, best.line <= 51 <= best.end_line) == ("deep/a.py", True)
    assert best.text == "\n".join(lines[best.line - 1 : best.end_line])


def test_one_long_line_makes_passages_of_bounded_length(root, index):
    write(root, "a.json", "word " * 10_000)
    index.refresh()
    assert {(p.line, p.end_line, len(p.text) <= 4_000) for p in index.search("word")} == {(1, 1, True)}


# Searching


def test_identifiers_are_found_whole_and_by_their_parts(root, index):
    write(root, "snake.py", "take_epoch(shard)\n")
    write(root, "camel.ts", "takeEpoch(shard)\n")
    index.refresh()
    assert index.search("take_epoch")[0].path == "snake.py"
    assert index.search("takeEpoch")[0].path == "camel.ts"
    assert found_by(index, "which epoch?") == {"snake.py", "camel.ts"}


def test_words_are_found_in_other_forms_and_by_their_beginning(root, index):
    write(root, "a.txt", "fences guard the configuration\n")
    index.refresh()
    assert [found_by(index, asked) for asked in ("fenced", "guarding", "config")] == [{"a.txt"}] * 3


def test_a_name_or_a_definition_counts_more_than_a_mention(root, index):
    write(root, "mention.py", "x = 1\n# the apple and the bread\n")
    write(root, "apple.py", "x = 1\n# nothing of it in here, not one bit\n")
    write(root, "definition.py", "y = 2\n\n\ndef bread():\n    return y\n")
    for number in range(5):  # a word that is in most files tells nothing
        write(root, f"other{number}.py", "z = 3\n")
    index.refresh()
    assert index.search("apple")[0].path == "apple.py"
    assert index.search("bread")[0].path == "definition.py"


def test_at_most_three_passages_of_a_file_while_there_are_others(root, index):
    write(root, "many.txt", "word\n" * 400)
    for number in range(3):
        write(root, f"{number}.txt", "word and other things\n")
    index.refresh()
    assert sum(passage.path == "many.txt" for passage in index.search("word", limit=6)) == 3
    filled = index.search("word", limit=10)
    assert sum(passage.path == "many.txt" for passage in filled) == 7
    assert [passage.score for passage in filled] == sorted((passage.score for passage in filled), reverse=True)


def test_tests_come_behind_what_they_test_unless_they_are_asked_for(root, index):
    write(root, "tests/test_fruit.py", "apple = bread\n")
    write(root, "src/fruit_code.py", "apple = bread\n")
    index.refresh()
    assert index.search("apple")[0].path == "src/fruit_code.py"
    assert index.search("which test has the apple?")[0].path == "tests/test_fruit.py"


def test_a_question_without_words_finds_nothing(root, index):
    write(root, "a.txt", "word")
    index.refresh()
    assert index.search("?!") == index.search("") == index.search("word", limit=0) == []


def test_a_question_of_stop_words_alone_is_taken_by_its_word(root, index):
    write(root, "a.txt", "to be or not to be")
    index.refresh()
    assert found_by(index, "to be?") == {"a.txt"}


@pytest.mark.parametrize("text", INJECTIONS)
def test_syntax_in_a_question_is_text(root, index, text):
    write(root, "a.txt", f"before {text} after")
    write(root, "elsewhere.md", "other")
    index.refresh()
    assert found_by(index, text) <= {"a.txt"}


def test_every_word_that_is_looked_for_stands_in_quotes():
    assert match_of('NEAR("x" y) OR path:z*') == '"near"* OR "x" OR "y" OR "path"* OR "z"'


def test_identifiers_are_split_where_a_part_begins():
    assert words_of("takeEpoch HTTPServer snake_case __init__") == [
        *("takeepoch", "take", "epoch", "httpserver", "http", "server", "snake_case", "snake", "case", "init")
    ]
    assert spelled_out("plain takeEpoch HTTPServer") == "take epoch http server"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    (folder / "root").mkdir()
    write(folder / "root", "a.txt", "some words ÄÖ 漢字 und_so weiter")
    with closing(FileIndex(folder / "root", folder / "index.db")) as index:
        index.refresh()
        yield index


@given(any_text(INJECTIONS))
def test_no_text_makes_a_search_fail(small, text):
    for passage in small.search(text):
        assert passage.path == "a.txt"


def test_a_very_long_question_is_answered(small):
    question = " ".join(f"term{number}" for number in range(20_000))
    assert small.search(f"words {question}")[0].path == "a.txt"


QUESTIONS = {
    "how is the journal fenced?": ("cluster/store/", "docs/journal.md"),
    "when does a circuit breaker open?": ("supervisors/running/breaker.py", "docs/workflows.md"),
    "how is a CEL condition evaluated?": ("protocols/conditions.py",),
    "how is a zombie process killed?": ("cluster/store/lock.py",),
    "how are database schema migrations done?": (
        "cluster/store/sqlite/migrations.py",
        "cluster/store/postgres/tables.py",
    ),
    "how do simulated runs use a virtual clock?": (
        "cluster/simulation/virtual_loop.py",
        "cluster/simulation/simulated.py",
    ),
}


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """An index of this repository."""
    with closing(FileIndex(ROOT, tmp_path_factory.mktemp("ours") / "index.db")) as index:
        index.refresh()
        yield index


@pytest.mark.parametrize("question", QUESTIONS)
def test_questions_about_this_repository_lead_to_the_right_file(ours, question):
    files = list(dict.fromkeys(passage.path for passage in ours.search(question)))[:3]
    assert any(path.startswith(QUESTIONS[question]) for path in files), files


# The database


def test_a_second_index_of_the_same_file_searches_and_does_not_write(root, database, index):
    write(root, "a.txt", "apple")
    index.refresh()
    with closing(FileIndex(root, database)) as second:
        done = second.refresh()
        assert (done.locked_out, done.complete, done.seen) == (True, False, 0)
        assert found_by(second, "apple") == {"a.txt"}
        write(root, "b.txt", "bread")
        index.refresh()
        assert found_by(second, "bread") == {"b.txt"}


def test_a_second_index_writes_once_the_first_is_closed(root, database):
    first = FileIndex(root, database)
    with closing(FileIndex(root, database)) as second:
        assert second.refresh().locked_out
        first.close()
        write(root, "a.txt", "apple")
        assert second.refresh().indexed == 1


def test_a_second_index_of_another_root_does_not_answer_from_the_first(root, tmp_path, database, index):
    write(root, "a.txt", "apple")
    index.refresh()
    (tmp_path / "other").mkdir()
    with closing(FileIndex(tmp_path / "other", database)) as second:
        assert second.search("apple") == []


@pytest.mark.parametrize("damage", [b"", b"no database at all", b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_damaged_file_is_made_anew(root, database, damage):
    write(root, "a.txt", "apple")
    database.parent.mkdir()
    database.write_bytes(damage)
    with closing(FileIndex(root, database)) as index:
        assert index.refresh().indexed == 1
        assert found_by(index, "apple") == {"a.txt"}


@pytest.mark.parametrize("keep", ["open", "closed"])
def test_damage_in_the_middle_of_the_file_is_mended(root, database, keep):
    for number in range(300):
        write(root, f"{number}.txt", f"word {number}number " * 50)
    index = FileIndex(root, database)
    index.refresh()
    if keep == "closed":
        index.close()
    else:
        index._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        index._db.execute("PRAGMA cache_size=0")
    content = database.read_bytes()
    database.write_bytes(content[:8192] + b"\xa5" * (len(content) - 8192))
    with closing(FileIndex(root, database) if keep == "closed" else index) as index:
        index.search("7number")
        assert index.refresh().complete
        assert found_by(index, "7number") == {"7.txt"}


def test_another_format_root_or_limits_make_the_index_anew(root, tmp_path, database):
    write(root, "a.txt", "apple")
    other = IndexLimits(passage_lines=10)
    with closing(FileIndex(root, database)) as index:
        assert index.refresh().indexed == 1
    with closing(FileIndex(root, database, other)) as index:
        assert index.refresh().indexed == 1
    with closing(sqlite3.connect(database)) as db:
        db.execute("PRAGMA user_version=99")
    with closing(FileIndex(root, database, other)) as index:
        assert index.refresh().indexed == 1
    with closing(FileIndex(tmp_path / "root" / "..", database, other)) as index:
        assert index.search("apple") == []


def test_a_database_of_something_else_is_refused_and_left_alone(root, tmp_path):
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE files (id)")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="SQLite database of something else"):
        FileIndex(root, path)
    assert path.read_bytes() == before


def test_only_its_owner_may_read_the_file(database, index):
    index.refresh()
    assert database.stat().st_mode & 0o077 == 0


def test_a_root_that_is_no_folder_is_refused(tmp_path, database):
    with pytest.raises(NotADirectoryError, match="must be a folder"):
        FileIndex(tmp_path / "nowhere", database)


def test_a_closed_index_says_so(index):
    index.close()
    index.close()
    with pytest.raises(ValueError, match="is closed"):
        index.search("word")
