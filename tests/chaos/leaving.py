"""A network that leads nowhere and remembers who wanted to go there: `python -m tests.chaos.leaving RECORD COMMAND...`.

As root.  COMMAND runs in a namespace whose every way out, and whose name server, is a tunnel device that this program
reads: one line of RECORD for each packet that would have left the machine.  Loopback, files and UNIX sockets are as
everywhere.  A refused or unanswered attempt is a packet all the same, so nothing is missed that a firewall would hide.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

# sched.h, linux/mount.h, linux/if_tun.h
NEW_NET, NEW_MOUNTS = 0x4000_0000, 0x0002_0000
BIND, PRIVATE = 0x1000, 0x4_4000  # MS_BIND; MS_PRIVATE | MS_REC
SET_INTERFACE, TUN, NO_HEADER = 0x4004_54CA, 0x1, 0x1000
DEVICE = "/dev/net/tun"
NAME_SERVER = "10.99.0.53"
PACKET = 65_536  # bytes
ICMP_V6 = 58  # the kernel's own, when an interface comes up
UDP, TCP = 17, 6
SETUP = (
    "link set lo up",
    "addr add 10.99.0.1/24 dev out",
    "link set out up",
    "route add default dev out",
    "-6 addr add fd99::1/64 dev out nodad",
    "-6 route add default dev out",
)

libc = ctypes.CDLL(None, use_errno=True)


def _checked(found: int, what: str) -> None:
    if found != 0:
        raise OSError(ctypes.get_errno(), what)


def described(packet: bytes) -> str | None:
    """`udp 10.99.0.53:53 example.org`; None for what no program sent."""
    version = packet[0] >> 4
    if version == 4:
        protocol, there, rest = (
            packet[9],
            socket.inet_ntop(socket.AF_INET, packet[16:20]),
            packet[(packet[0] & 15) * 4 :],
        )
    else:
        protocol, there, rest = packet[6], socket.inet_ntop(socket.AF_INET6, packet[24:40]), packet[40:]
    if version == 6 and (protocol == ICMP_V6 or there.startswith("ff")):
        return None
    if protocol not in (UDP, TCP):
        return f"protocol {protocol} {there}"
    (port,) = struct.unpack_from("!H", rest, 2)
    name = f" {_asked_for(rest[20:])}" if protocol == UDP and port == 53 else ""
    return f"{'udp' if protocol == UDP else 'tcp'} {there}:{port}{name}"


def _asked_for(question: bytes) -> str:
    """The name in a look-up, behind its header."""
    labels, at = [], 0
    while at < len(question) and question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode("ascii", "replace"))
        at += 1 + question[at]
    return ".".join(labels)


def _apart() -> int:
    """This process gets a network of its own; the device that all ways lead to."""
    _checked(libc.unshare(NEW_NET | NEW_MOUNTS), "unshare")
    _checked(libc.mount(None, b"/", None, PRIVATE, None), "mount")
    device = os.open(DEVICE, os.O_RDWR)
    fcntl.ioctl(device, SET_INTERFACE, struct.pack("16sH22x", b"out", TUN | NO_HEADER))
    for words in SETUP:
        subprocess.run(["ip", *words.split()], check=True)
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(f"nameserver {NAME_SERVER}\noptions timeout:1 attempts:1\n")
        file.flush()
        _checked(libc.mount(file.name.encode(), b"/etc/resolv.conf", None, BIND, None), "mount")
    return device


def _remember(device: int, record: Path) -> None:
    with record.open("a") as lines, contextlib.suppress(OSError):
        while packet := os.read(device, PACKET):
            if told := described(packet):
                lines.write(f"{told}\n")
                lines.flush()


def main(record: str, *command: str) -> int:
    device = _apart()
    threading.Thread(target=_remember, args=(device, Path(record)), daemon=True).start()
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
