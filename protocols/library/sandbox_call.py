"""Calls one Python function in a box. The order comes as JSON on stdin; the answer goes as JSON to the original stdout.

A stand-alone script, run by `python -I -B sandbox_call.py`. Output of the function goes to stderr, so that it cannot
spoil the answer. The exit code is 0 even if the function raises: the answer then contains the exception.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import traceback
from typing import Any


def main() -> None:
    answer_fd = os.dup(1)
    os.dup2(2, 1)
    order = json.loads(sys.stdin.buffer.read())
    sys.path[:0] = order["search_path"]
    answer = _packed(_answer(order["ref"], order["value"]))
    with open(answer_fd, "wb") as out:
        out.write(answer)


def _packed(answer: dict[str, object]) -> bytes:
    try:
        return json.dumps(answer, ensure_ascii=False).encode()  # Half as long for texts beyond ASCII.
    except UnicodeEncodeError:
        return json.dumps(answer).encode()


def _answer(ref: str, value: object) -> dict[str, object]:
    try:
        returned = _call(ref, value)
    except (Exception, SystemExit) as error:
        return {"kind": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
    try:
        json.dumps(returned)
    except (TypeError, ValueError, RecursionError) as error:
        return {"kind": "InvalidAnswer", "message": f"what '{ref}' returned is not JSON: {error}", "traceback": ""}
    return {"value": returned}


def _call(ref: str, value: object) -> object:
    module, _, name = ref.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    returned = found(value)
    if inspect.iscoroutine(returned):
        return importlib.import_module("asyncio").run(returned)  # Only then: its import takes 40 ms.
    return returned


if __name__ == "__main__":
    main()
