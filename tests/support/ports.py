"""The world around a part of an actor, moved by hand: time that a test lets pass, lines whose messages it answers."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

from podium.supervisors.ports.messaging import Reply


class Ask:
    """A message that came in, with all that was said to it."""

    def __init__(self):
        self.chunks, self.answers, self.backlog = [], [], 0
        self.cancelled, self.on_cancel = False, None

    def chunk(self, value):
        assert not self.answers, "nothing is said after the answer"
        self.chunks.append(value)

    def reply(self, value=()):
        self._answer(value)

    def refuse(self, error):
        self._answer(error)

    def _answer(self, answer):
        assert not self.answers, "a message is answered once"
        self.answers.append(answer)

    def cancel(self):
        self.cancelled = True
        if not self.answers and self.on_cancel is not None:
            self.on_cancel()


class Line:
    """A connection to another actor; the test is that actor."""

    def __init__(self, address):
        self.address, self.on_lost = address, None
        self.sent, self.cancelled, self._numbers = [], [], itertools.count(1)

    def send(self, message, on_reply, on_chunk=None):
        say = SimpleNamespace(number=next(self._numbers), message=message, on_reply=on_reply, chunk=on_chunk)
        say.reply = lambda value=(): on_reply(Reply(list(value)))
        say.refuse = lambda error: on_reply(Reply(error=error))
        self.sent.append(say)
        return say.number

    def cancel(self, number):
        self.cancelled.append(number)

    def watch(self, on_lost, lease_s=None, may_compute=lambda _silent_s: False):
        self.on_lost = on_lost

    def take(self, kind):
        """Take out the messages of this class that were sent since the last time."""
        found = [say for say in self.sent if isinstance(say.message, kind)]
        self.sent = [say for say in self.sent if say not in found]
        return found

    def lose(self, error):
        """The other actor is gone: what is open is answered with the error."""
        lost, self.sent = self.sent, []
        for say in lost:
            say.on_reply(Reply(error=error))
        self.on_lost(error)


class Hands:
    """A world in which time passes when `sleep` is called."""

    address = "supervisor/w"

    def __init__(self):
        self.time, self.lines = 1_000.0, []
        self._timers, self._numbers = {}, itertools.count()

    def now(self):
        return self.time

    monotonic = now

    def line(self, address):
        self.lines.append(Line(address))
        return self.lines[-1]

    def call_later(self, delay_s, callback):
        key = (self.time + delay_s, next(self._numbers))
        self._timers[key] = callback
        return SimpleNamespace(cancel=lambda: self._timers.pop(key, None))

    def sleep(self, seconds=0.0):
        until = self.time + seconds
        while self._timers and min(self._timers)[0] <= until:
            key = min(self._timers)
            self.time = max(self.time, key[0])
            self._timers.pop(key)()
        self.time = until
