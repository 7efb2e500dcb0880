"""How listening sockets end: callers whom the kernel has accepted are answered, later ones are refused."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
import sys
import time
from collections.abc import Sequence

# A handshake under way ends within this time.
SETTLE_S = 0.2
# How long accepted connections may wait for a worker to take them.
LONGEST_S = 2.0
CHECK_S = 0.01

_SO_ATTACH_FILTER = 26
# Classic BPF over the TCP header: a first SYN is dropped, so its caller asks again; all else passes.
_NO_SYN = (
    (0x30, 0, 0, 13),  # load the flags
    (0x54, 0, 0, 0x12),  # SYN and ACK of them
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFF),  # pass
)
# Where `struct tcp_info` of a listening socket holds the number of connections that nobody has taken.
_ACCEPTED = struct.Struct("=24xI")


async def drain(sockets: Sequence[socket.socket]) -> None:
    """Lets workers take what the kernel has accepted, then closes `sockets`.

    A socket that closes with connections in its queue resets them, and one may come between the last `accept`
    and the close. So the queue is closed at its other end first: SYNs are dropped while it empties. Their
    callers send them again and are refused. Off Linux that moment remains.

    Args:
        sockets: this process's; the port ends once the other processes have closed theirs.
    """
    for each in sockets:
        _drop_new(each)
    until_s = time.monotonic() + LONGEST_S
    await asyncio.sleep(SETTLE_S)
    while any(_waiting(each) for each in sockets) and time.monotonic() < until_s:
        await asyncio.sleep(CHECK_S)
    for each in sockets:
        each.close()


def _drop_new(listening: socket.socket) -> None:
    if sys.platform != "linux":
        return
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in _NO_SYN))
    given = struct.pack("HL", len(_NO_SYN), ctypes.addressof(program))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, given)
    except OSError:  # a sandbox that knows no filters
        return


def _waiting(listening: socket.socket) -> int:
    if sys.platform != "linux":
        return 0
    try:
        (count,) = _ACCEPTED.unpack(listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACCEPTED.size))
    except OSError:
        return 0
    return int(count)
