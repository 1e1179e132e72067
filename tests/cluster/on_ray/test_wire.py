"""Frames over Unix sockets: what arrives, and how the end of the other process is told."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from podium.actors.exchange import ExchangeClient
from podium.actors.exchange_server import ExchangeServer
from podium.cluster.on_ray.sockets import FOLDER, _Entered, _name, connect, listen
from podium.cluster.on_ray.token_file import token_of
from podium.protocols.errors import PeerLost
from tests.support.said import Echo, Silence, only

ADDRESS = "host/flow/tests.sample:echo/0"
FAR_PROCESS = """
import asyncio, sys
from pathlib import Path
from podium.actors.exchange_server import ExchangeServer
from podium.cluster.on_ray.sockets import listen

async def main():
    def receive(ask):
        if ask.kind == "echo":
            ask.reply(ask.payload)
    await listen(Path(sys.argv[1]), sys.argv[2], ExchangeServer(receive, "far").take_in)
    print("listening", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def echo(ask):
    if ask.kind == "echo":
        ask.reply(ask.payload)


def near_to(data: Path) -> ExchangeClient:
    wire = connect(data, ADDRESS)
    assert wire is not None
    return ExchangeClient(ADDRESS, wire, "near", hang_up=wire.close)


def run(work):
    return asyncio.run(asyncio.wait_for(work, 20))


@pytest.fixture
def far_process(tmp_path):
    command = [sys.executable, "-c", FAR_PROCESS, str(tmp_path), ADDRESS]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"listening\n"
        yield process
        process.kill()


@pytest.mark.parametrize("size", [0, 1, 100_000, 12_000_000])
def test_frames_of_any_size_arrive(tmp_path, size):
    async def work():
        async with await listen(tmp_path, ADDRESS, ExchangeServer(echo, "far").take_in):
            near = near_to(tmp_path)
            assert await asyncio.gather(*(near.ask(Echo(bytes(size)), only) for _ in range(3))) == [bytes(size)] * 3
            near.close()

    run(work())


def test_the_death_of_the_other_process_is_told_at_once(tmp_path, far_process):
    async def work():
        near = near_to(tmp_path)
        assert await near.ask(Echo(7), only) == 7
        never = asyncio.ensure_future(near.ask(Silence(), only))
        await near.ask(Echo(8), only)
        os.kill(far_process.pid, signal.SIGKILL)
        with pytest.raises(PeerLost):
            await never
        with pytest.raises(PeerLost):
            await near.ask(Echo(9), only)

    run(work())


def test_a_wire_is_bound_to_the_process_that_it_was_opened_to(tmp_path, far_process):
    async def work():
        old = near_to(tmp_path)
        await old.ask(Echo(1), only)
        async with await listen(tmp_path, ADDRESS, ExchangeServer(echo, "successor").take_in):
            new = near_to(tmp_path)
            assert await new.ask(Echo(2), only) == 2
            assert await old.ask(Echo(3), only) == 3
            far_process.kill()
            with pytest.raises(PeerLost):
                await old.ask(Silence(), only)
            assert await new.ask(Echo(4), only) == 4
            new.close()

    run(work())


def test_nobody_there_is_known_without_waiting(tmp_path):
    async def work():
        assert connect(tmp_path, ADDRESS) is None
        server = await listen(tmp_path, ADDRESS, ExchangeServer(echo, "far").take_in)
        server.close()
        await server.wait_closed()
        assert connect(tmp_path, ADDRESS) is None

    run(work())


def test_a_deep_data_directory_is_no_problem(tmp_path):
    data = tmp_path / ("d" * 120) / ("e" * 120)

    async def work():
        async with await listen(data, ADDRESS, ExchangeServer(echo, "far").take_in):
            near = near_to(data)
            assert await near.ask(Echo("deep"), only) == "deep"
            near.close()

    run(work())


def test_only_the_owner_may_enter_the_folder(tmp_path):
    async def work():
        async with await listen(tmp_path, ADDRESS, ExchangeServer(echo, "far").take_in):
            assert (tmp_path / FOLDER).stat().st_mode & 0o777 == 0o700

    run(work())


@pytest.mark.parametrize("sent", [struct.pack("!QQ", 1 << 40, 1), struct.pack("!QQ", 3, 1) + b"\xc1\xc1\xc1"])
def test_who_sends_what_is_no_frame_is_cut_off_and_others_are_not(tmp_path, monkeypatch, sent):
    monkeypatch.chdir(tmp_path)

    async def work():
        loop = asyncio.get_running_loop()
        async with await listen(tmp_path, ADDRESS, ExchangeServer(echo, "far").take_in):
            near = near_to(tmp_path)
            (place,) = [f"sockets/{name}" for name in os.listdir("sockets")]
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.setblocking(False)
                stranger.connect(place)
                await loop.sock_sendall(stranger, token_of(tmp_path) + sent)
                assert await loop.sock_recv(stranger, 1) == b""
            assert await near.ask(Echo(1), only) == 1
            near.close()

    run(work())


# the secret


@pytest.mark.parametrize("shown", [b"", b"x" * 31, b"x" * 32, b"\x00" * 200], ids=len)
def test_who_does_not_show_the_secret_is_cut_off_and_not_read(tmp_path, shown):
    taken = []

    async def work():
        server = await listen(tmp_path, ADDRESS, lambda frame, answer: taken.append(frame))
        with _Entered(tmp_path / FOLDER) as folder:
            reader, writer = await asyncio.open_unix_connection(f"{folder}/{_name(ADDRESS)}")
        frame = struct.pack("!QQ", 3, 1) + b"abc"
        writer.write(shown + frame if len(shown) >= 32 else shown)
        if len(shown) >= 32:
            with suppress(ConnectionError):
                assert await reader.read() == b""
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(), 0.2)
        writer.close()
        server.close()

    run(work())
    assert taken == []


def test_the_secret_may_come_in_pieces_and_with_the_first_frame(tmp_path):
    async def work():
        server = await listen(tmp_path, ADDRESS, lambda frame, answer: answer(frame + b"!"))
        with _Entered(tmp_path / FOLDER) as folder:
            reader, writer = await asyncio.open_unix_connection(f"{folder}/{_name(ADDRESS)}")
        sent = token_of(tmp_path) + struct.pack("!QQ", 3, 1) + b"abc"
        for at in range(0, len(sent), 5):
            writer.write(sent[at : at + 5])
            await writer.drain()
            await asyncio.sleep(0)
        assert (await reader.readexactly(20))[16:] == b"abc!"
        writer.close()
        server.close()

    run(work())


def test_the_secret_is_made_once_and_its_owners_alone(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(lambda _: token_of(tmp_path), range(50)))
    assert len(tokens) == 1
    assert (tmp_path / "socket.token").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["socket.token"]
