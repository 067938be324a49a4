"""The signals of the daemon: those that stop it, and the one that asks it to read its settings again.  Not in the path.

It knows signals and the controlling terminal; not how the daemon stops or reads its settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal

STOPS = 8  # stop signals that wait; only the first two have an effect


def watched() -> tuple[asyncio.Queue[int], asyncio.Event]:
    """A queue of the signals that stop the daemon, and an event that is set when a signal asks for a reload.

    SIGHUP also means that the terminal is gone; a daemon that was started from that terminal then stops.  Under nohup
    SIGHUP is ignored, and stays ignored."""
    stopping, asked = asyncio.Queue[int](maxsize=STOPS), asyncio.Event()
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
    """Whether this process has a controlling terminal; True if it cannot be known for want of descriptors or memory."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    return True
