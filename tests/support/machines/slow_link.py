"""Passes frames between two network interfaces, late and with losses: `slow_link.py A B DELAY_MS LOSS_PERCENT`.

It is for kernels without netem. It runs until it is ended.
"""

from __future__ import annotations

import heapq
import random
import select
import socket
import struct
import sys
import time
from contextlib import suppress

ALL_PROTOCOLS = socket.htons(3)
SOL_PACKET, ADD_MEMBERSHIP, PROMISCUOUS = 263, 1, 1
SENT_BY_US = 4


def opened(name: str) -> socket.socket:
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, ALL_PROTOCOLS)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    link.bind((name, 0))
    request = struct.pack("IHH8s", socket.if_nametoindex(name), PROMISCUOUS, 0, b"")
    link.setsockopt(SOL_PACKET, ADD_MEMBERSHIP, request)
    return link


def main(one: str, other: str, delay_ms: str, loss_percent: str) -> None:
    delay_s, loss = float(delay_ms) / 1000, float(loss_percent) / 100
    links = [opened(one), opened(other)]
    under_way: list[tuple[float, int, int, bytes]] = []
    """Frames by the time at which they arrive: (time, number, index of the link that sends it, frame)."""
    count = 0
    while True:
        wait_s = under_way[0][0] - time.monotonic() if under_way else 1.0
        ready, _, _ = select.select(links, [], [], max(0.0, wait_s))
        for link in ready:
            frame, address = link.recvfrom(65535)
            if address[2] != SENT_BY_US and random.random() >= loss:
                count += 1
                heapq.heappush(under_way, (time.monotonic() + delay_s, count, 1 - links.index(link), frame))
        while under_way and under_way[0][0] <= time.monotonic():
            _, _, to, frame = heapq.heappop(under_way)
            with suppress(OSError):  # the cable is pulled
                links[to].send(frame)


if __name__ == "__main__":
    main(*sys.argv[1:])
