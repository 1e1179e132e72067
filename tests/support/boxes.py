"""Programs that tests run in the sandbox, at the levels that hold on this machine."""

from __future__ import annotations

import asyncio
import sys

import pytest

from podium.protocols.library.sandbox import Box, run_boxed

PYTHON = [sys.executable, "-I", "-S", "-c"]
WALLED = ("landlock", "bubblewrap")


def at(*levels):
    return pytest.mark.parametrize("level", levels, indirect=True)


def boxed(argv, box=None, level=None, stdin=b""):
    return asyncio.run(run_boxed(argv, box or Box(), stdin, level))


def python(source, *args, box=None, level=None, stdin=b""):
    return boxed([*PYTHON, source, *map(str, args)], box, level, stdin)
