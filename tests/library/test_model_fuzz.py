"""Replies with anything in the place of anything: an answer comes out, or one of our errors, and it can be sent on."""

from __future__ import annotations

import json
import random

import pytest

from podium.protocols.library.model_errors import ModelError, ModelRefused, failure_of
from podium.protocols.library.model_stream import Heard, Reader, error_in
from podium.protocols.values import pack
from tests.support.replays import cut, replays

HOSTILE = [
    None,
    True,
    0,
    -1,
    1e308,
    2**70,
    "",
    "x",
    "\ud83d",
    "\x00",
    [],
    [[]],
    {},
    {"": None},
    [None],
    "null",
    "[DONE]",
]
STREAMS = [replay.sent for replay in replays()]


def _spoilt(value, chance):
    """The value with something else in some of its places."""
    if chance.random() < 0.05:
        return chance.choice(HOSTILE)
    if isinstance(value, dict):
        return {name: _spoilt(each, chance) for name, each in value.items()}
    return [_spoilt(each, chance) for each in value] if isinstance(value, list) else value


def _spoilt_stream(sent, chance):
    lines = []
    for line in sent.decode().splitlines():
        if line.startswith("data: {"):
            line = f"data: {json.dumps(_spoilt(json.loads(line[6:]), chance))}"
        lines += [line] * chance.choice([1, 1, 1, 1, 0, 2])
    spoilt = bytearray("\n".join(lines).encode())
    for _ in range(chance.choice([0, 0, 0, 1, 3])):
        if spoilt:
            spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
    return bytes(spoilt)


BATCH = 100
"""Seeds per test."""


@pytest.mark.parametrize("first", range(0, 1_500, BATCH))
def test_whatever_comes_is_an_answer_or_an_error_of_ours(first):
    for seed in range(first, first + BATCH):
        try:
            _read(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error


def _read(seed):
    chance = random.Random(seed)
    sent = _spoilt_stream(chance.choice(STREAMS), chance)
    reader, heard = Reader(), Heard()
    said = ""
    try:
        for pieces in ([*map(reader.feed, cut(sent, seed))] if len(sent) > 2 else [reader.feed(sent)]) + [reader.end()]:
            for piece in pieces:
                if (error := error_in(piece)) is not None:
                    raise failure_of("m", None, error, {"tools"})
                said += heard.take(piece)
        said += heard.end()
        arguments = [(call.name, call.read()) for call in heard.calls.heard]
    except (ModelError, ModelRefused) as error:
        str(error).encode()
        return
    assert said == heard.text
    pack([said, heard.refusal, heard.calls.ids(1), *map(list, arguments), *(call.extra for call in heard.calls.heard)])
