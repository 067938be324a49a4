"""Two machines in one, and a network of known delay between them: three namespaces, two veth pairs, a bridge in Python.

    client ── veth ── middle: this module as a program, which holds each frame for a while ── veth ── server

The kernel's own delay (netem) is a module that many machines lack.  Needs root; nothing outside the namespaces is
changed, and none of them has another way out.  Files and UNIX sockets are the same everywhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO

CLIENT, SERVER = "10.77.0.1", "10.77.0.2"
NEAR = ("client0", "server0")  # the ends in the middle
TIMEOUT_S = 120.0

# sched.h, linux/if_packet.h, linux/sockios.h, linux/ethtool.h
CLONE_NEWNET = 0x4000_0000
SOL_PACKET, PACKET_IGNORE_OUTGOING, ETH_P_ALL = 263, 23, 3
SIOCETHTOOL = 0x8946
OFFLOADS = {"tx-checksum": (0x16, 0x17), "sg": (0x18, 0x19), "tso": (0x1E, 0x1F), "gso": (0x23, 0x24)}  # get, set
ARP = b"\x08\x06"  # a machine that has lost the other's address asks again after a second: no loss of interest here
ECHO_REQUEST = 8
FRAME = 65_536  # bytes


@dataclass(frozen=True, slots=True)
class Network:
    """`client` and `server` are names of namespaces; their addresses are CLIENT and SERVER."""

    client: str
    server: str
    _orders: IO[bytes]

    def lose(self, share: float) -> None:
        """From now on, of the frames of each way."""
        self._orders.write(f"{share}\n".encode())
        self._orders.flush()

    def round_trips_ms(self, count: int = 50) -> list[float]:
        """As the bare network gives them: echoes by the far kernel."""
        with entered(self.client):
            sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        with sock:
            sock.settimeout(TIMEOUT_S)
            _round_trip_ms(sock, 0)  # the first one also asks for the address of the far veth
            return [_round_trip_ms(sock, number) for number in range(1, count + 1)]


def _round_trip_ms(sock: socket.socket, number: int) -> float:
    begun = time.monotonic_ns()
    checksum = ~((ECHO_REQUEST << 8) + number) & 0xFFFF
    sock.sendto(struct.pack("!BBHHH", ECHO_REQUEST, 0, checksum, 0, number), (SERVER, 0))
    while int.from_bytes(sock.recv(FRAME)[-2:]) != number:
        pass
    return (time.monotonic_ns() - begun) / 1e6


def inside(namespace: str) -> list[str]:
    """What goes before a command so that it runs there; the process is the command's own."""
    return ["ip", "netns", "exec", namespace]


def processes(namespace: str) -> list[int]:
    """Those that run there."""
    return [int(pid) for pid in _ip("netns", "pids", namespace).split()]


@contextmanager
def entered(namespace: str) -> Iterator[None]:
    """This thread is there: sockets that it makes and processes that it starts stay there."""
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:
        _set_namespace(there.fileno())
        try:
            yield
        finally:
            _set_namespace(home.fileno())


def _set_namespace(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):  # os.setns is of Python 3.12
        raise OSError(ctypes.get_errno(), "setns")


def why_not() -> str | None:
    """Why there can be no such network here; None: there can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "`ip` is not installed (iproute2)"
    try:
        with network(0):
            return None
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.decode(errors='replace').strip()}"
    except OSError as error:
        return f"no network namespaces here: {error}"


@contextmanager
def network(one_way_ms: float, loss: float = 0, seed: int = 1) -> Iterator[Network]:
    """Gone at the end, with all processes that still run in it.  `loss`: the share of frames that never arrive, each
    way, none depending on another; the same ones for the same seed and the same traffic."""
    with ExitStack() as stack:
        client, middle, server = (_namespace(stack, f"vx{os.getpid()}-{part}") for part in ("cli", "mid", "srv"))
        ends = (("client", client, CLIENT, NEAR[0]), ("server", server, SERVER, NEAR[1]))
        for name, namespace, _, near in ends:
            _ip("link", "add", name, "netns", namespace, "type", "veth", "peer", "name", near, "netns", middle)
            _ip("-n", middle, "link", "set", near, "up")
            with entered(namespace):
                _send_whole(name)
        command = [*inside(middle), sys.executable, "-P", __file__, str(one_way_ms), str(loss), str(seed)]
        bridge = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        stack.callback(bridge.kill)
        assert bridge.stdin is not None
        assert bridge.stdout is not None
        if bridge.stdout.readline() != b"ready\n":
            raise OSError("the bridge between the namespaces did not start")
        for name, namespace, address, _ in ends:
            _ip("-n", namespace, "address", "add", f"{address}/24", "dev", name)
            _ip("-n", namespace, "link", "set", name, "up")
        yield Network(client, server, bridge.stdin)


def _namespace(stack: ExitStack, name: str) -> str:
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "delete", name)
    stack.callback(_empty, name)
    _ip("-n", name, "link", "set", "lo", "up")
    return name


def _empty(name: str) -> None:
    """Whoever is left in a namespace keeps it alive."""
    for pid in processes(name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _ip(*arguments: str) -> bytes:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=TIMEOUT_S).stdout


def _send_whole(interface: str) -> None:
    """No segments or checksums are left for a device to do: the bridge sends on what it gets."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for name, (get, put) in OFFLOADS.items():
            for command in (put, get):
                value = array("I", [command, 0])
                fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), value.buffer_info()[0]))
            if value[1]:
                raise OSError(f"{name} of a veth cannot be turned off")


# ── the program in the middle ───────────────────────────────────────────────────────────────────────────────────────


def frames_of(interface: str) -> socket.socket:
    """All that arrives there; what is sent there is not heard again."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind((interface, ETH_P_ALL))
    return sock


def bridge(one_way_ms: float, loss: float, seed: int) -> None:
    """Each frame goes to the other side, in order, when its time has come, or is lost.  For ever; each line of standard
    input is another `loss`."""
    with contextlib.suppress(PermissionError):  # a late bridge would be taken for a slow tunnel
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    first, second = map(frames_of, NEAR)
    other, luck = {first: second, second: first}, random.Random(seed)
    held: deque[tuple[int, socket.socket, bytes]] = deque()
    print("ready", flush=True)  # noqa: T201
    while True:
        # Of the waits that Python 3.11 has, select's is the one that is not rounded to milliseconds.
        wait_s = max(0, held[0][0] - time.monotonic_ns()) / 1e9 if held else None
        ready, _, _ = select.select((first, second, sys.stdin), (), (), wait_s)
        due = time.monotonic_ns() + round(one_way_ms * 1e6)
        if sys.stdin in ready:
            loss = float(sys.stdin.readline())
        for sock in (each for each in (first, second) if each in ready):
            frame = sock.recv(FRAME)
            if frame[12:14] == ARP or luck.random() >= loss:
                held.append((due, other[sock], frame))
        while held and held[0][0] <= time.monotonic_ns():
            _, out, frame = held.popleft()
            with contextlib.suppress(OSError):  # a full queue, a far end that is gone: a network loses frames
                out.send(frame)


if __name__ == "__main__":
    bridge(float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
