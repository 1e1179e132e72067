"""Messages between actors: each is read as it was sent, what fits no class is refused, the page tells all of them."""

from __future__ import annotations

import types
import typing

import pytest

from podium.errors import InvalidInput, NotFound
from podium.protocols.values import pack, unpack
from podium.supervisors.messages import client, door, host, resources, supervisor
from tests.support import messages_page

RECEIVERS = {name: receiver for name, _, receiver in messages_page.RECEIVERS}
CHUNKS = {
    "submit": client.SUBMIT_SAID,
    "step": host.STEP_SAID,
    "ledger": resources.LEDGER_SAID,
    "breakers": resources.BREAKERS_SAID,
}
SENT = [(receiver, cls) for receiver in RECEIVERS.values() for cls in receiver.classes.values()]


def some(hint):
    """A value of that type."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return some(typing.get_args(hint)[0])
    if origin is typing.Literal:
        return typing.get_args(hint)[0]
    if origin is not None:
        return {} if origin.__name__ in ("Mapping", "dict") else []
    return {str: "x", int: 7, float: 0.5, bool: True, bytes: b"x"}.get(hint)


def one_of(cls):
    hints = typing.get_type_hints(cls)
    return cls(*(some(hints[name]) for name in cls._fields))


@pytest.mark.parametrize("receiver, cls", SENT, ids=lambda each: getattr(each, "__name__", ""))
def test_each_message_is_read_as_it_was_sent(receiver, cls):
    sent = one_of(cls)
    kind, fields = unpack(pack([door.KINDS[cls], sent]))
    assert receiver.read(kind, fields) == sent
    assert type(receiver.read(kind, fields)) is cls


@pytest.mark.parametrize("told", CHUNKS.values(), ids=CHUNKS)
def test_each_chunk_is_read_as_it_was_told(told):
    for cls in told.classes.values():
        assert told.read_chunk(unpack(pack(door.with_kind(one_of(cls))))) == one_of(cls)


@pytest.mark.parametrize("receiver", RECEIVERS.values(), ids=RECEIVERS)
@pytest.mark.parametrize("kind", ["", "fly", "!cancel", "Run", "submission"])
def test_what_is_not_said_to_a_receiver_is_refused(receiver, kind):
    with pytest.raises(NotFound, match="message kind"):
        receiver.read(kind, [])


@pytest.mark.parametrize("receiver, cls", SENT, ids=lambda each: getattr(each, "__name__", ""))
@pytest.mark.parametrize("fields", [[1] * 40, None, 7], ids=repr)
def test_fields_that_do_not_fit_are_refused_with_the_kind(receiver, cls, fields):
    kind = door.KINDS[cls]
    with pytest.raises(InvalidInput, match=f"{kind}: not the fields of such a message"):
        receiver.read(kind, fields)


def test_a_supervisor_and_the_resource_actor_share_no_reply_of_another_meaning():
    answers = [door.answers_of(cls).reply for _, cls in SENT]
    named = [cls.__name__ for _, cls in SENT]
    assert len(named) - len(set(named)) == 2, "SetLimits and SetBreaker are passed on as they are"
    assert supervisor.RunEnded in answers and host.StepResult in answers


def test_the_page_of_messages_is_true():
    assert messages_page.PAGE.read_text() == messages_page.page(), (
        "docs/messages.md is old; write it anew: python -m tests.support.messages_page"
    )
