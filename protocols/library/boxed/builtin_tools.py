"""The tools in `SHIPPED_TOOLS`, which read a folder. Each takes a dict and returns a text or plain data.

They see the same files as the index: no ignored files, no secrets, no files of Podium's own, no symlinks.
"""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..files import STANDARD_LIMITS, read_text, walk, why_kept_out

MAX_HITS = 200
LINE_CHARS = 300
"""Longest line in a result of `grep`, in characters."""
ANSWER_CHARS = 15_000
"""Longest result of `grep` and `read_file`, in characters. An answer may have at most 64 KiB, as JSON."""
COMMITS = 30
"""Number of commits that `git_log` shows."""
_GIT_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_ALLOW_PROTOCOL": "",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
}
"""Environment of git: no configuration except the repository's own, and nothing is fetched for a partial clone."""
_GIT_SETTINGS = (
    *("-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.pager=cat"),
    *("-c", "log.showSignature=false", "-c", "gpg.program=false", "-c", "gpg.openpgp.program=false"),
    *("-c", "gpg.x509.program=false", "-c", "gpg.ssh.program=false", "-c", "core.sshCommand=false"),
    *("-c", "core.alternateRefsCommand=false", "-c", "credential.helper=", "-c", "i18n.logOutputEncoding=UTF-8"),
)
"""Settings that switch off all programs which a repository's own configuration could run: its author is not trusted."""


def grep(arguments: dict[str, Any]) -> str:
    """Search the files with a regular expression; returns lines as `path:line: text`."""
    pattern = re.compile(arguments["pattern"])
    hits: list[str] = []
    room = ANSWER_CHARS
    for path, text in _texts(Path(arguments["root"])):
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line):
                hit = f"{path}:{number}: {_clipped(line.strip(), LINE_CHARS, '… ')}"
                room -= len(hit)
                if len(hits) == MAX_HITS or room < 0:
                    return "\n".join([*hits, f"(only the first {len(hits)})"])
                hits.append(hit)
    return "\n".join(hits) or "nothing found"


def list_files(arguments: dict[str, Any]) -> str:
    """List paths below the folder, filtered by a pattern such as *.py if one is given."""
    wanted = arguments.get("path") or "*"
    found = [path for path in _files(Path(arguments["root"])) if fnmatch.fnmatch(path, wanted) or wanted in path]
    more = f"\n({len(found) - MAX_HITS} more)" if len(found) > MAX_HITS else ""
    return "\n".join(sorted(found)[:MAX_HITS]) + more or "no such files"


def read_file(arguments: dict[str, Any]) -> str:
    """Return the content of one file below the folder, found by its path or its name. Raises FileNotFoundError."""
    root, wanted = Path(arguments["root"]), os.path.normpath(arguments["path"])
    for path in _files(root):
        if path == wanted or path.endswith("/" + wanted):
            text = _text_of(root, path)
            if text is not None:
                return _clipped(text, ANSWER_CHARS, "\n")
    raise FileNotFoundError(
        f"no file '{wanted}' below {root}, or it is kept out: ignored, a secret, no text, or over 1 MiB"
    )


def count_lines(arguments: dict[str, Any]) -> str:
    """Count lines and files by kind of file, the most lines first."""
    lines: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for path, text in _texts(Path(arguments["root"])):
        kind = os.path.splitext(path)[1] or "(none)"
        lines[kind] += text.count("\n")
        files[kind] += 1
    rows = [f"{kind}: {count} lines in {files[kind]} files" for kind, count in lines.most_common()]
    return "\n".join([f"total: {sum(lines.values())} lines in {sum(files.values())} files", *rows])


def git_log(arguments: dict[str, Any]) -> str:
    """List the last commits of the repository. Raises RuntimeError if git fails."""
    root = arguments["root"]
    command = ["git", "--no-pager", "-C", root, *_GIT_SETTINGS, "log", "--no-show-signature", "--no-ext-diff"]
    command += ["--no-textconv", "--no-patch", "--no-mailmap", "-n", str(COMMITS + 1), "--date=short"]
    command += ["--format=%h %ad %an: %s"]
    env = _GIT_ENVIRONMENT | {"GIT_CEILING_DIRECTORIES": os.path.dirname(root)}
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace").strip() or "git failed")
    commits = done.stdout.decode(errors="replace").splitlines()
    older = [f"(only the last {COMMITS}; there are older ones)"] if len(commits) > COMMITS else []
    return "\n".join([*commits[:COMMITS], *older]) + "\n"


def _clipped(text: str, limit_chars: int, before: str) -> str:
    more = len(text) - limit_chars
    return text if more <= 0 else f"{text[:limit_chars]}{before}({more:,} characters more)"


def _files(root: Path) -> Iterator[str]:
    return (found.path for found in walk(root, STANDARD_LIMITS) if found.skipped is None)


def _text_of(root: Path, path: str) -> str | None:
    """Return the text of a file; None if the index would keep the file out."""
    text = read_text(root, path)
    plain = None if text is None else text.decoded()
    return None if text is None or why_kept_out(text, plain, STANDARD_LIMITS) else plain


def _texts(root: Path) -> Iterator[tuple[str, str]]:
    for path in _files(root):
        text = _text_of(root, path)
        if text is not None:
            yield path, text
