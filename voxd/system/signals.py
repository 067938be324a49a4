"""Signals of the daemon: which stop it, and which ask it to read its settings again.

It knows signals and the controlling terminal; not what is stopped or read.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal


def watched() -> tuple[asyncio.Queue[int], asyncio.Event]:
    """Those that stop the daemon, as they come, and whether one has asked for a reload.

    SIGHUP also says that the terminal is gone: then it stops a daemon that was started there.  Under nohup it is
    ignored and stays so."""
    stopping, asked = asyncio.Queue[int](maxsize=8), asyncio.Event()  # more than 8: the first two have said it all
    loop, at_terminal = asyncio.get_running_loop(), _has_terminal()

    def stop(number: int) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            stopping.put_nowait(number)

    def hang_up() -> None:
        if at_terminal and not _has_terminal():
            stop(signal.SIGHUP)
        else:
            asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, hang_up)
    return stopping, asked


def _has_terminal() -> bool:
    """A machine that has no descriptor left says nothing about terminals."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    return True
