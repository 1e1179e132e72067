"""Submissions that wait for a store which is away."""

from __future__ import annotations

from types import SimpleNamespace

from podium.protocols.errors import AcceptanceUnknown, from_wire
from podium.supervisors.admission.intake import Intake
from podium.supervisors.messages.client import Submission

PLAN = SimpleNamespace(name="w", version="1", hash="h")


class Away:
    """A journal that answers when the test says so."""

    is_away = True

    def __init__(self):
        self.asked, self.written = [], []

    def find(self, ids, keys, then):
        self.asked.append(then)

    def write(self, changes, then=None):
        self.written.append(then)

    def come_back(self, found=()):
        for then in self.asked:
            then(list(found))
        for then in self.written:
            then()


def made():
    journal = Away()
    world = SimpleNamespace(now=lambda: 1.0, load=lambda: None, monotonic=lambda: 1.0)
    gate = SimpleNamespace(refusal=lambda *_: None)
    open_tasks = SimpleNamespace(gate=gate, tasks={"t-1": object(), "t-2": object()})
    quarantine = SimpleNamespace(refusal=lambda _id: None)
    return journal, Intake(world, journal, open_tasks, quarantine, None)


def sent(id, source="cli", key=None, again=True):
    return Submission(id, {"n": 1}, "ada", 0, key, again, source, "critical", None)


def test_who_waits_is_told_that_nobody_knows_and_not_told_again():
    journal, intake = made()
    heard = []
    intake.take(PLAN, [sent("t-1"), sent("t-2", key="k")], lambda acks, ended: heard.append((acks, ended)))
    assert heard == []
    intake.answer_those_who_wait()
    ((acks, ended),) = heard
    errors = [from_wire(ack.error) for ack in acks]
    assert [error.task_id for error in errors] == ["t-1", "t-2"] and ended == []
    assert all(isinstance(error, AcceptanceUnknown) and error.retry_after_s > 0 for error in errors)
    intake.answer_those_who_wait()
    journal.come_back()
    assert len(heard) == 1


def test_a_refused_submission_leaves_its_key_free():
    """Its next try was acknowledged under the id of a task that nobody had accepted."""
    journal, intake = made()
    heard = []
    new = sent("t-9", key="k", again=False)
    intake.take(PLAN, [sent("t-1"), new], lambda acks, _ended: heard.append(acks))
    journal.come_back()
    ((_, refused),) = heard
    assert refused.error["code"] == "overloaded"
    assert intake._keys == {}


def test_a_nested_run_goes_on_waiting():
    journal, intake = made()
    heard = []
    intake.take(PLAN, [sent("t-1", source=None)], lambda acks, _ended: heard.append(acks))
    intake.answer_those_who_wait()
    assert heard == []
    journal.come_back()
    assert [[(ack.id, ack.error) for ack in acks] for acks in heard] == [[("t-1", None)]]


def test_a_submission_that_is_wrong_keeps_its_own_error():
    _journal, intake = made()
    heard = []
    intake.take(PLAN, [sent("t-1"), sent("t-2", key=7)], lambda acks, _ended: heard.append(acks))
    intake.answer_those_who_wait()
    assert [ack.error["code"] for ack in heard[0]] == ["acceptance_unknown", "invalid_input"]


def test_who_was_answered_in_time_is_not_told_later():
    journal, intake = made()
    heard = []
    intake.take(PLAN, [sent("t-1")], lambda acks, _ended: heard.append(acks))
    journal.come_back()
    intake.answer_those_who_wait()
    assert [[ack.id for ack in acks] for acks in heard] == [["t-1"]]
