"""Tools that misbehave, run by a request in real time: they are contained, and the answer says what it lacks."""

from __future__ import annotations

import socket
import sys
import time

import pytest

import podium
from podium.protocols.library.sandbox_launch import levels

pytestmark = pytest.mark.timeout(90)
WALLED = {"landlock", "bubblewrap"} & set(levels())


def answered(tmp_path, code, **spec):
    """The answer to a request whose only tool is a Python program."""
    root = tmp_path / "project"
    root.mkdir(exist_ok=True)
    (root / "fence.py").write_text('"""How writers are fenced."""\n')
    tool = {"about": "it", "command": [sys.executable, "-c", code], "wall_s": 3, **spec}
    config = {"requests": {"tools": {"it": tool}}}
    with podium.connect(data=tmp_path / "data", cluster="inprocess", config=config) as engine:
        task = engine.ask("how are writers fenced?", root=str(root), type="tool_execution", tools=["it"])
        return task.result(timeout_s=60)


def test_a_tool_that_behaves_says_at_which_level_it_ran(tmp_path):
    answer = answered(tmp_path, "print('well')")
    assert answer["tools"] == [{"tool": "it", "level": levels()[-1], "error": None}]
    assert "well" in answer["text"]


BAD = {
    "forks": ("import os\nfor _ in range(2000):\n    os.fork() or __import__('time').sleep(20)", {}),
    "eats memory": ("x = bytearray(1 << 30)\nprint(len(x))", {"memory_bytes": 128 << 20}),
    "never ends": ("while True: pass", {}),
    "hides": ("import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\ntime.sleep(600)", {}),
}


@pytest.mark.parametrize("what", BAD)
def test_a_tool_that_misbehaves_is_ended_and_named(tmp_path, what):
    code, spec = BAD[what]
    began = time.monotonic()
    answer = answered(tmp_path, code, **spec)
    assert answer["missing"].keys() >= {"tool it"}, answer
    assert "fence.py" in answer["text"]
    assert time.monotonic() - began < 30


@pytest.mark.skipif(not WALLED, reason="no sandbox with walls works here")
def test_a_tool_can_neither_write_nor_read_outside_nor_connect(tmp_path):
    (tmp_path / "secret").write_text("hush")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        code = (
            "import socket\n"
            "for attempt in (\n"
            f"    lambda: open({str(tmp_path / 'written')!r}, 'w').write('x'),\n"
            f"    lambda: open({str(tmp_path / 'secret')!r}).read(),\n"
            f"    lambda: socket.create_connection(('127.0.0.1', {port}), 1),\n"
            "):\n"
            "    try:\n        attempt()\n        print('COULD')\n"
            "    except OSError as error:\n        print('denied')\n"
        )
        answer = answered(tmp_path, code)
        with pytest.raises(TimeoutError):
            server.accept()
    assert answer["text"].count("denied") == 3 and "COULD" not in answer["text"]
    assert not (tmp_path / "written").exists()


def test_a_tool_that_demands_more_than_there_is_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("podium.protocols.library.sandbox.levels", lambda: ("process", "limits"))
    answer = answered(tmp_path, "print('ran')", minimum="bubblewrap")
    assert "sandbox level 'bubblewrap' is demanded" in answer["missing"]["tool it"]


def test_a_tool_that_needs_the_network_is_not_even_planned_without_a_grant(tmp_path):
    root = tmp_path / "project"
    root.mkdir()
    tool = {"about": "it", "command": ["true"], "network": True}
    grants = {"ada": {"tools": ["*"], "paths": [str(root)]}}
    config = {"requests": {"tools": {"it": tool}, "grants": grants}}
    with podium.connect(data=tmp_path / "data", cluster="inprocess", config=config, user="ada") as engine:
        answer = engine.ask("go", root=str(root), tools=["it"]).result(timeout_s=30)
    assert answer["missing"]["tool it"] == "it needs the network, which is not granted to this user"


def test_a_cancelled_request_takes_its_tool_with_it(tmp_path):
    mark = tmp_path / "project" / "mark"
    root = mark.parent
    root.mkdir()
    tool = {"about": "it", "command": [sys.executable, "-c", "import time; time.sleep(60)"], "wall_s": 60}
    config = {"requests": {"tools": {"it": tool}}}
    with podium.connect(data=tmp_path / "data", cluster="inprocess", config=config) as engine:
        task = engine.ask("go", root=str(root), type="tool_execution", tools=["it"])
        for event in task.events():
            if (event.kind == "started" and event.step.endswith("tool[0]")) or "tools[0]" in event.step:
                break
        assert task.cancel() == "cancelled"
        began = time.monotonic()
    assert time.monotonic() - began < 10
