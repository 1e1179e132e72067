"""The exchange over a transport that loses, repeats and delays: every message handled once, answered once."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium.actors.exchange import DEFAULT_LIMITS, ExchangeClient, ExchangeLimits
from podium.actors.exchange_server import ExchangeServer
from podium.cluster.simulation.virtual_loop import VirtualLoop
from podium.protocols.errors import InvalidInput, Overloaded, PeerLost, PeerUnreachable, Unknown
from podium.protocols.values import pack, unpack
from tests.support.said import Break, Chunks, Echo, Never, Refuse, only


def run(work, faults=()):
    loop = VirtualLoop()
    try:
        result = loop.run_until_complete(asyncio.wait_for(work, 10_000))
    finally:
        loop.close()
    assert [str(error) for error in loop.uncaught] == list(faults)
    return result


class EchoActor:
    """Answers with the payload, after the seconds it names; notes what it handled."""

    def __init__(self):
        self.handled = []
        self.cancelled = []

    def receive(self, ask):
        value = ask.payload[0] if ask.payload else None
        self.handled.append(value)
        ask.on_cancel = lambda: self.cancelled.append(value)
        if ask.kind == "never":
            return
        if ask.kind == "refuse":
            raise InvalidInput(problem="no", path="x")
        if ask.kind == "break":
            raise ZeroDivisionError("oops")
        if ask.kind == "chunks":
            for number in range(value):
                ask.chunk(number)
        delay_s = value.get("s", 0) if isinstance(value, dict) else 0
        asyncio.get_running_loop().call_later(delay_s, ask.reply, ask.payload)


class Network:
    def __init__(self, far, rng=None, loss=0.0, repeat=0.0, delay_s=0.0):
        self.far, self.rng = far, rng or Random(0)
        self.loss, self.repeat, self.delay_s = loss, repeat, delay_s
        self.calls = 0

    def call(self, frame, then):
        asyncio.get_running_loop().create_task(self._answered(frame, then))

    async def _answered(self, frame, then):
        try:
            answer = await self._call(frame)
        except Unknown as error:
            answer = error
        then(answer)

    async def _call(self, frame):
        self.calls += 1
        await asyncio.sleep(self.rng.uniform(0, self.delay_s))
        if self.rng.random() < self.loss:
            raise PeerUnreachable(address="far", reason="request lost")
        if self.rng.random() < self.repeat:
            asyncio.get_running_loop().create_task(self.far.exchange(frame))
        answer = await self.far.exchange(frame)
        await asyncio.sleep(self.rng.uniform(0, self.delay_s))
        if self.rng.random() < self.loss:
            raise PeerUnreachable(address="far", reason="reply lost")
        return answer


def pair(limits=DEFAULT_LIMITS, **faults):
    echo = EchoActor()
    far = ExchangeServer(echo.receive, "far@1", limits)
    network = Network(far, **faults)
    return echo, network, ExchangeClient("far", network.call, "near", limits)


def test_what_waits_together_leaves_together():
    async def work():
        _echo, network, near = pair()
        results = await asyncio.gather(*(near.ask(Echo(n), only) for n in range(1000)))
        assert results == list(range(1000))
        assert network.calls <= 4

    run(work())


def test_a_slow_message_does_not_hold_a_fast_one():
    async def work():
        _, _, near = pair()
        slow = asyncio.ensure_future(near.ask(Echo({"s": 100}), only))
        await asyncio.wait_for(near.ask(Echo({"s": 0}), only), 1)
        assert not slow.done()
        await slow

    run(work())


def test_results_that_keep_coming_one_by_one_collect_but_not_for_long():
    def answers(seconds_each):
        async def work():
            loop = asyncio.get_running_loop()
            asks, packed, clock = [], [], [0.0]
            loop.time = lambda: clock[0]
            far = ExchangeServer(asks.append, "far@1")
            far.take_in(pack(["near/1", 1, [], 0, [[n, "echo", n] for n in range(20)]]), packed.append)
            while len(packed) < 1:
                clock[0] += seconds_each
                asks.pop(0).reply()
                await asyncio.sleep(0)
            return len(unpack(packed[0])[1])

        return asyncio.run(work())

    assert answers(0.00001) > 10
    assert answers(0.1) <= 2


def test_messages_that_are_never_answered_do_not_hold_later_ones():
    async def work():
        _, _, near = pair()
        for _ in range(5):
            near.send(Never(), lambda reply: None)
            await asyncio.sleep(1)
        await asyncio.wait_for(near.ask(Echo("x"), only), 0.1)

    run(work())


def test_refusals_and_crashes_of_a_handler_come_back_as_errors():
    async def work():
        _, _, near = pair()
        with pytest.raises(InvalidInput, match="x: no"):
            await near.ask(Refuse(), only)
        with pytest.raises(Exception, match="ZeroDivisionError: oops"):
            await near.ask(Break(), only)

    run(work(), faults=["oops"])


def test_an_answer_that_is_not_plain_data_harms_only_itself():
    async def work():
        echo, _, _near = pair()
        echo.receive = lambda ask: ask.reply([object() if ask.payload == ["bad"] else "good"])
        near_two = ExchangeClient("far", Network(ExchangeServer(echo.receive, "far@2")).call, "near")
        good, bad = await asyncio.gather(
            near_two.ask(Echo("x"), only), near_two.ask(Echo("bad"), only), return_exceptions=True
        )
        assert good == "good"
        assert isinstance(bad, InvalidInput)

    run(work())


def test_cancelling_reaches_the_far_side():
    async def work():
        echo, _, near = pair()
        asked = asyncio.ensure_future(near.ask(Never("x"), only))
        await asyncio.sleep(1)
        asked.cancel()
        await asyncio.sleep(1)
        assert echo.cancelled == ["x"]

    run(work())


def test_the_death_of_the_far_side_is_known_at_once_even_when_nothing_was_asked():
    async def work():
        _, network, near = pair()
        lost = []
        near.watch(lost.append)
        asked = asyncio.ensure_future(near.ask(Never(), only))
        await asyncio.sleep(1)

        near._call = lambda frame, then: then(PeerLost(address="far"))
        next(iter(network.far._sessions.values())).wake_all()  # the call that is out comes back, the next one fails
        await asyncio.sleep(1)
        assert [type(error) for error in lost] == [PeerLost]
        with pytest.raises(PeerLost):
            await asked
        with pytest.raises(PeerLost):
            await near.ask(Echo(1), only)

    run(work())


def test_another_incarnation_is_a_loss():
    async def work():
        echo, network, near = pair()
        await near.ask(Echo(1), only)
        network.far = ExchangeServer(echo.receive, "far@2")
        with pytest.raises(PeerLost, match="another incarnation"):
            await near.ask(Echo(2), only)

    run(work())


def test_the_queue_is_bounded_with_a_typed_refusal():
    async def work():
        _, _, near = pair(ExchangeLimits(queue=3, calls=1))
        for number in range(3):
            near.send(Echo(number), lambda reply: None)
        with pytest.raises(Overloaded, match="3 messages wait for far"):
            near.send(Echo(4), lambda reply: None)

    run(work())


def test_large_frames_are_split_and_a_message_too_large_alone_is_refused():
    async def work():
        _, _, near = pair(ExchangeLimits(frame_bytes=5_000))
        results = await asyncio.gather(*(near.ask(Echo("x" * 1000), only) for _ in range(20)))
        assert all(len(result) == 1000 for result in results)
        with pytest.raises(InvalidInput, match="the limit is 5000"):
            await near.ask(Echo("x" * 6000), only)
        assert await near.ask(Echo("still works"), only) == "still works"

    run(work())


@settings(max_examples=150)
@given(
    seed=st.integers(0, 10**6),
    loss=st.sampled_from([0.0, 0.1, 0.3]),
    repeat=st.sampled_from([0.0, 0.2]),
    delay_s=st.sampled_from([0.0, 0.05]),
    count=st.integers(1, 40),
)
def test_every_message_is_handled_once_and_answered_once(seed, loss, repeat, delay_s, count):
    async def work():
        limits = ExchangeLimits(resends=100)
        echo, _, near = pair(limits, rng=Random(seed), loss=loss, repeat=repeat, delay_s=delay_s)
        chunks = {number: [] for number in range(count)}

        async def one(number):
            done = asyncio.get_running_loop().create_future()
            await asyncio.sleep(number % 3)
            near.send(Chunks(5), done.set_result, chunks[number].append)
            return (await done).read(only)

        results = await asyncio.gather(*(one(number) for number in range(count)))
        assert results == [5] * count
        assert len(echo.handled) == count
        assert all(seen == [0, 1, 2, 3, 4] for seen in chunks.values())

    run(work())


def test_a_value_that_cannot_be_packed_leaves_nothing_in_the_next():
    """Packers are used again: half of a value must not stay in one."""
    for _ in range(3):
        with pytest.raises(InvalidInput, match="not plain data"):
            pack({"n": [1, 2, object()]})
        assert unpack(pack({"n": [1]})) == {"n": [1]}


# one message, or one receiver, harms no other


@pytest.mark.parametrize("bad", range(4))
def test_a_receiver_that_raises_loses_no_other_result_of_the_frame(bad):
    got = []

    def receiver(n):
        def take(reply):
            if n == bad:
                raise ZeroDivisionError("mine")
            got.append(n)

        return take

    async def work():
        _, _, near = pair()
        for n in range(4):
            near.send(Echo(n), receiver(n))
        await asyncio.sleep(1)
        return await near.ask(Echo("still there"), only)

    assert run(work(), faults=["mine"]) == "still there"
    assert sorted(got) == [n for n in range(4) if n != bad]


@pytest.mark.parametrize("bad", [2**70, "\ud800", object(), {(1, 2): 3}, b"x" * 2_000_000], ids=lambda v: str(v)[:12])
@pytest.mark.parametrize("place", range(3))
def test_a_message_that_fits_no_frame_is_refused_and_the_others_go(bad, place):
    async def work():
        _, _, near = pair(limits=ExchangeLimits(frame_bytes=1_000_000))
        payloads = [0, 1, 2]
        payloads[place] = bad
        asked = [near.ask(Echo(payload), only) for payload in payloads]
        return await asyncio.gather(*asked, return_exceptions=True)

    outcomes = run(work())
    assert isinstance(outcomes[place], InvalidInput)
    assert [o for n, o in enumerate(outcomes) if n != place] == [n for n in range(3) if n != place]


def test_answers_that_are_large_together_come_in_several_frames():
    async def work():
        _, _, near = pair(limits=ExchangeLimits(frame_bytes=1_000_000))
        texts = [str(n) * 300_000 for n in range(8)]
        return [
            len(text) for text in await asyncio.gather(*(near.ask(Echo(text), only) for text in texts))
        ], near.counts.frames

    lengths, frames = run(work())
    assert lengths == [300_000] * 8
    assert frames >= 3


@pytest.mark.parametrize("place", range(3))
def test_an_answer_that_packs_but_does_not_unpack_is_an_error_and_the_others_come(place):
    def receive(ask):
        ask.reply([{(1, 2): 3}] if ask.payload == [place] else ask.payload)

    async def work():
        far = ExchangeServer(receive, "far@1")
        near = ExchangeClient("far", Network(far).call, "near")
        return await asyncio.gather(*(near.ask(Echo(n), only) for n in range(3)), return_exceptions=True)

    outcomes = run(work())
    assert isinstance(outcomes[place], InvalidInput)
    assert [o for n, o in enumerate(outcomes) if n != place] == [n for n in range(3) if n != place]
