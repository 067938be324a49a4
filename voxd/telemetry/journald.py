"""Sends log records to journald by its native protocol, with searchable fields: `journalctl EVENT=response.done`.
Not in the path.

The thread that logs only encodes the record; a thread of its own sends it.  So no caller waits, although journald's
socket has a short queue (10 records in a container) and a sender that never waits would lose most of a burst.  This
module does not know what is logged.

Bounds: QUEUE records wait; a field has at most VALUE bytes; a journald that is being restarted is waited for RETRY_S.
Records lost beyond that are counted, and a warning reports how many.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from shared.safe_text import safe_line, safe_text
from voxd.traces import Reticent

SOCKET = Path("/run/systemd/journal/socket")
QUEUE = 10_000
VALUE = 16 << 10
RETRY_S = 5.0
PAUSE_S = 0.05  # between two tries
FLUSH_S = 2.0
PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
GONE = {errno.ENOENT, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOBUFS, errno.EAGAIN}
_name = re.compile(r"[A-Z][A-Z0-9_]{0,63}")  # without `_` in front: such fields are journald's own


def is_journal(environ: Mapping[str, str], descriptor: int = 2) -> bool:
    """Does standard error lead to journald?  In JOURNAL_STREAM systemd names the device and inode of that stream."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def encode(fields: Mapping[str, object]) -> bytes:
    """The bytes of one record.  A value with a newline is written with its length, so that it cannot forge a field."""
    parts: list[bytes] = []
    for name, value in fields.items():
        if value is None or not _name.fullmatch(name):
            continue
        data = str(value).encode("utf-8", "backslashreplace")[:VALUE]
        if b"\n" in data:
            parts += [name.encode(), b"\n", struct.pack("<Q", len(data)), data, b"\n"]
        else:
            parts += [name.encode(), b"=", data, b"\n"]
    return b"".join(parts)


def _record(record: logging.LogRecord) -> dict[str, object]:
    """The journal's fields for a log record."""
    fields: dict[str, object] = {
        "MESSAGE": safe_line(record.getMessage()),
        "PRIORITY": PRIORITIES.get(record.levelno, 6),
        "SYSLOG_IDENTIFIER": "voxd",
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": record.lineno,
        "CODE_FUNC": record.funcName,
    }
    if record.exc_info:
        fields["EXCEPTION"] = Reticent().formatException(record.exc_info)
    fields |= getattr(record, "fields", {})
    return {name: safe_text(value) if isinstance(value, str) else value for name, value in fields.items()}


class JournalHandler(logging.Handler):
    """A logging handler that turns `extra={"fields": {"EVENT": ...}}` into fields of the journal."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = str(path)
        self._waiting: queue.Queue[bytes | None] = queue.Queue(QUEUE)
        self._unreported = 0  # records lost since the last warning about lost records
        self.lost = 0  # records lost since the start
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._waiting.put_nowait(encode(_record(record)))
        except queue.Full:
            self._lose()
        except Exception:  # noqa: BLE001  # like every logging handler: a line that cannot be written must end nothing
            self.handleError(record)

    def flush(self) -> None:
        """Waits until every record is sent, at most FLUSH_S; `logging` calls it when the program ends."""
        with self._waiting.all_tasks_done:
            self._waiting.all_tasks_done.wait_for(lambda: not self._waiting.unfinished_tasks, FLUSH_S)

    def close(self) -> None:
        super().close()
        if self._thread.is_alive():
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                return  # journald accepts nothing; the thread ends with the process
            self._thread.join(FLUSH_S)

    # ── the sending thread ──────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while (data := self._waiting.get()) is not None:
            if not self._send(data):
                self._lose()
            elif self._unreported:
                lost, self._unreported = self._unreported, 0
                text = f"{lost} log records were lost: journald accepted none for a while"
                self._send(encode({"MESSAGE": text, "PRIORITY": 4, "SYSLOG_IDENTIFIER": "voxd", "EVENT": "log.lost"}))
            self._waiting.task_done()
        self._waiting.task_done()
        self._sock.close()

    def _lose(self) -> None:
        self._unreported += 1
        self.lost += 1

    def _send(self, data: bytes) -> bool:
        """False if journald has not accepted the record within RETRY_S."""
        latest = time.monotonic() + RETRY_S
        while True:
            try:
                self._sock.sendto(data, self._path)
            except OSError as error:
                if error.errno not in GONE or time.monotonic() > latest:
                    return False
                time.sleep(PAUSE_S)
            else:
                return True


def handler(environ: Mapping[str, str] = os.environ) -> logging.Handler | None:
    """The handler for journald; None if standard error does not lead to it."""
    return JournalHandler(SOCKET) if SOCKET.exists() and is_journal(environ, sys.stderr.fileno()) else None


def dropped() -> int:
    """The number of records of this process that journald did not accept."""
    return sum(handler.lost for handler in logging.getLogger().handlers if isinstance(handler, JournalHandler))
