"""docs/guide.md, done as a reader would do it: files are saved, commands run, and what they print is compared."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

GUIDE = (ROOT / "docs" / "guide.md").read_text()
BLOCK = re.compile(r"```(python|toml|console)\n(.*?)```", re.DOTALL)
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "100"}


def shell(command: str, folder: Path) -> tuple[str, str, int]:
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    return done.stdout, done.stderr, done.returncode


def newest_task(folder: Path) -> str:
    stdout, _, _ = shell("podium ps -n 1 -o json", folder)
    return str(json.loads(stdout)[0]["task_id"])


def fits(printed: str, expected: str) -> bool:
    """Whether it is what the page shows, in which … stands for anything and blanks for any number of blanks."""
    pattern = re.escape(" ".join(expected.split())).replace("…", ".*").replace(r"\ ", r"\s*")
    return re.fullmatch(r"\s*" + pattern + r"\s*", printed, re.DOTALL) is not None


def commands(block: str) -> list[tuple[str, str]]:
    """Each command of a block with what the page shows below it."""
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_the_guide_works_from_its_first_line_to_its_last(tmp_path):
    try:
        for language, block in BLOCK.findall(GUIDE):
            if language == "console":
                for command, expected in commands(block):
                    ready = re.sub(r"\bID\b", lambda _: newest_task(tmp_path), command)
                    stdout, stderr, code = shell(ready, tmp_path)
                    assert code == 0, f"{command}: {stderr or stdout}"
                    assert not expected or fits(stdout, expected), f"{command} printed {stdout!r}"
            else:
                first, _, _ = block.partition("\n")
                (tmp_path / first.removeprefix("# ")).write_text(block)
    finally:
        shell("podium down", tmp_path)


def test_the_blocks_of_the_guide_are_files_or_commands():
    for language, block in BLOCK.findall(GUIDE):
        start = r"\$ " if language == "console" else r"# [a-z_]+\.(py|toml)\n"
        assert re.match(start, block), block[:80]
