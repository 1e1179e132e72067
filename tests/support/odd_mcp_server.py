"""An MCP server that misbehaves on demand, by the name of the tool. Its argument is a folder in which it notes what it
did.

It is a plain script: nothing of Podium, nothing of the SDK.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

STRICT = {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}}}


def out(content: bytes) -> None:
    os.write(1, content + b"\n")


def line(**fields: object) -> None:
    out(json.dumps({"jsonrpc": "2.0", **fields}).encode())


def said(id: int, text: str) -> None:
    line(id=id, result={"content": [{"type": "text", "text": text}]})


def head(id: int) -> bytes:
    return b'{"jsonrpc": "2.0", "id": %d, "result": {"content": [' % id


def die() -> None:
    sys.stderr.write("out of \x1b[1mmemory\n")
    sys.stderr.flush()
    os._exit(3)


def unknown(id: int) -> None:
    line(id=987654, result={})
    line(id="zz", error={"code": 1, "message": "?"})
    said(id, "after unknown")


def chatty(id: int) -> None:
    out(b'loading model...\n{"level": "info", "id": %d}\n' % id)
    said(id, "printed")


def noise(id: int) -> None:
    out(b"\x00\xff\xfe garbage \x1b[31m")
    said(id, "after noise")


def slow(id: int) -> None:
    time.sleep(0.6)
    said(id, "slow")


def grow(id: int) -> None:
    SCHEMAS["late"] = STRICT
    line(method="notifications/tools/list_changed")
    said(id, "grown")


def long(id: int) -> None:
    text = b'{"content": [{"type": "text", "text": "' + b"y" * 100_000
    out(b'{"result": ' + text + b'"}]}, "jsonrpc": "2.0", "id": %d}' % id)


IMAGE = {"type": "image", "data": "AAAA", "mimeType": "image/png"}
DOES = {
    "ok": lambda id, _: said(id, "fine"),
    "echo": lambda id, given: said(id, json.dumps(given)),
    "slow": lambda id, _: slow(id),
    "print": lambda id, _: chatty(id),
    "noise": lambda id, _: noise(id),
    "unknown": lambda id, _: unknown(id),
    "long": lambda id, _: long(id),
    "grow": lambda id, _: grow(id),
    "late": lambda id, _: said(id, "late"),
    "cut": lambda id, _: out(head(id)),
    "latin1": lambda id, _: out(head(id) + b'{"type": "text", "text": "caf\xe9"}]}}'),
    "pair": lambda id, _: out(head(id) + b'{"type": "text", "text": "\\ud83d"}]}}'),
    "null": lambda id, _: line(id=id, result=None),
    "list": lambda id, _: line(id=id, result=[1]),
    "widget": lambda id, _: line(
        id=id, result={"content": [{"type": "widget", "html": "<b>"}, {"type": "text", "text": "beside"}, 7]}
    ),
    "halftext": lambda id, _: line(id=id, result={"content": [{"type": "text"}]}),
    "die": lambda *_: die(),
    "dieread": lambda *_: die(),
    "mute": lambda *_: None,
    "rpc": lambda id, _: line(id=id, error={"code": -32000, "message": "quota of the day is used up"}),
    "internal": lambda id, _: line(id=id, error={"code": -32603, "message": "KeyError: 'x'"}),
    "wrong": lambda id, _: line(
        id=id, result={"content": [], "isError": True, "structuredContent": {"why": "locked", "until": 7}}
    ),
    "nocontent": lambda id, _: line(id=id, result={"isError": True, "structuredContent": {"why": "no content key"}}),
    "data": lambda id, _: line(id=id, result={"content": "as text", "structuredContent": {"x": 1}}),
    "untold": lambda id, _: said(id, "no data"),
    "unfit": lambda id, _: line(id=id, result={"content": [], "structuredContent": {"x": "one"}}),
    "odd": lambda id, _: line(id=id, result={"content": [], "structuredContent": {"x": 1}}),
    "fits": lambda id, _: line(id=id, result={"content": [IMAGE], "structuredContent": {"x": 1}}),
}
SCHEMAS = {"untold": STRICT, "unfit": STRICT, "fits": STRICT, "odd": {"$ref": "#/$defs/none"}}


def tool(name: str) -> dict[str, object]:
    about: dict[str, object] = {"name": name, "inputSchema": {"type": "object"}}
    if name in SCHEMAS:
        about["outputSchema"] = SCHEMAS[name]
    if name == "dieread":
        about["annotations"] = {"readOnlyHint": True}
    return about


def note(name: str) -> None:
    with open(os.path.join(sys.argv[1], name), "a") as file:
        file.write("x\n")


def call(id: int, name: str, given: object) -> None:
    note(f"ran-{name}")
    if name in DOES:
        DOES[name](id, given)
    else:
        line(id=id, error={"code": -32602, "message": f"no tool {name}"})


def answer(id: int, method: str, params: dict[str, str]) -> None:
    if method == "initialize":
        facts = {"serverInfo": {"name": "odd", "version": "1"}, "capabilities": {"tools": {}}}
        line(id=id, result={"protocolVersion": params["protocolVersion"], **facts})
    elif method == "tools/list":
        line(id=id, result={"tools": "none" if os.environ.get("BROKEN_LIST") else [tool(name) for name in DOES]})
    elif method == "tools/call":
        threading.Thread(target=call, args=(id, params["name"], params.get("arguments")), daemon=True).start()
    else:
        line(id=id, error={"code": -32601, "message": "no"})


if __name__ == "__main__":
    note("starts")
    for got in sys.stdin:
        message = json.loads(got)
        if message.get("id") is not None:
            answer(message["id"], message["method"], message.get("params", {}))
