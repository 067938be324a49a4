"""System call filters as systemd installs them, for a machine without systemd.  x86-64 only.

A program of the kernel's packet filter, assembled here: allowed calls, and those of which the arguments decide."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

# @system-service ~@privileged @obsolete @resources, as numbers of x86-64:
# systemd-analyze syscall-filter @system-service (252), numbers of asm/unistd_64.h, and fchmodat2 of later versions
ALLOWED = (
    "0-26 28-91 95-100 102 104 106-112 114-115 118-121 123-125 127-133 135 137-138 140 143 145-152 157-158 162 186-202 "
    "204-211 213-226 228-235 239-245 247-250 252-255 257-259 261-278 280-297 299 302-303 306-312 315-316 318-319 "
    "322-328 332-334 424-427 434-437 439-441 449 452"
)
KNOWN = 452  # what is newer is not there, as systemd has it
FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK
NAMESPACES = 0x7E020000  # CLONE_NEW*
SET_IDS = 0o6000
SOCKET, CLONE, CLONE3, UNSHARE, SETNS, PERSONALITY, OPENAT2 = 41, 56, 435, 272, 308, 135, 437
MODES = {90: 1, 91: 1, 268: 2, 452: 2, 83: 1, 258: 2, 133: 1, 259: 2, 85: 1, 2: 2, 257: 3}  # call -> its mode's place
FLAGS = {2: 1, 257: 2}  # of those that make a file only with O_CREAT
EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97

LOAD, EQUAL, OVER, FROM, ANY, RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
X86_64, X32 = 0xC000003E, 0x40000000
Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, value


def _end(value: int) -> Instruction:
    return RETURN, 0, 0, value


def _argument(index: int) -> Instruction:
    return LOAD, 0, 0, ARGUMENTS + 8 * index


def _special(number: int, block: list[Instruction]) -> list[Instruction]:
    """`block` decides on this call, or lets it go on."""
    return [(EQUAL, 0, len(block) + 1, number), *block, (LOAD, 0, 0, NUMBER)]


def _blocks() -> Iterable[Instruction]:
    families: list[Instruction] = [(EQUAL, len(FAMILIES) - i, 0, family) for i, family in enumerate(FAMILIES)]
    yield from _special(SOCKET, [_argument(0), *families, _end(ERRNO | EAFNOSUPPORT)])
    yield from _special(CLONE, [_argument(0), (ANY, 0, 1, NAMESPACES), _end(ERRNO | EPERM)])
    yield from _special(UNSHARE, [_argument(0), (ANY, 0, 1, NAMESPACES | 0x80), _end(ERRNO | EPERM)])
    yield from _special(SETNS, [_end(ERRNO | EPERM)])
    yield from _special(CLONE3, [_end(ERRNO | ENOSYS)])  # its flags lie in memory, which no filter reads
    yield from _special(OPENAT2, [_end(ERRNO | ENOSYS)])
    yield from _special(PERSONALITY, [_argument(0), (EQUAL, 2, 0, 0), (EQUAL, 1, 0, 0xFFFFFFFF), _end(ERRNO | EPERM)])
    for number, place in MODES.items():
        block = [_argument(place), (ANY, 0, 1, SET_IDS), _end(ERRNO | EPERM)]
        if number in FLAGS:
            block = [_argument(FLAGS[number]), (ANY, 0, len(block), os.O_CREAT), *block]
        yield from _special(number, block)


def program() -> bytes:
    """The filter that the unit of the machine's service asks for."""
    found: list[Instruction] = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, X86_64), _end(KILL), (LOAD, 0, 0, NUMBER)]
    found += [(FROM, 0, 1, X32), _end(KILL), *_blocks()]
    for part in ALLOWED.split():
        low, _, high = part.partition("-")
        found += [(FROM, 0, 2, int(low)), (OVER, 1, 0, int(high or low)), _end(ALLOW)]
    found += [(OVER, 0, 1, KNOWN), _end(ERRNO | ENOSYS), _end(ERRNO | EPERM)]
    return b"".join(struct.pack("HBBI", *each) for each in found)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install() -> None:
    """For this process and all that it starts; cannot be undone.  It must not be able to gain privileges."""
    code = program()
    buffer = ctypes.create_string_buffer(code, len(code))
    given = _Program(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, 2, ctypes.byref(given), 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        raise OSError(ctypes.get_errno(), "seccomp")
