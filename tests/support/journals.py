"""A socket in journald's place, and a voxd whose standard error it is."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.daemon import Daemon, environment
from tests.support.fakes import short_folder

RUN = """
import sys
from pathlib import Path
from voxd import cli
from voxd.telemetry import journald
journald.SOCKET = Path(sys.argv.pop(1))
cli.main()
"""


def parsed(data: bytes) -> dict[str, str]:
    """One record of the native protocol, as journald reads it."""
    fields: dict[str, str] = {}
    while data:
        name, separator, rest = data.partition(b"\n")
        if b"=" in name:
            key, _, value = name.partition(b"=")
            data = rest
        else:
            assert separator, name
            (size,) = struct.unpack_from("<Q", rest)
            key, value, data = name, rest[8 : 8 + size], rest[9 + size :]
        assert key.decode() not in fields
        fields[key.decode()] = value.decode()
    return fields


class Journal:
    """Keeps every record."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self.records: list[dict[str, str]] = []
        self._arrived = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with suppress(OSError):
            while data := self._sock.recv(1 << 20):
                with self._arrived:
                    self.records.append(parsed(data))
                    self._arrived.notify_all()

    def until(self, event: str) -> dict[str, str]:
        """The first record of that event."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: self.of(event), 30), f"no {event} in {self.records}"
        return self.of(event)[0]

    def arrived(self, count: int) -> None:
        """Waits until so many records are here."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.records) >= count, 30), f"{len(self.records)} of {count}"

    def of(self, event: str) -> list[dict[str, str]]:
        return [record for record in self.records if record.get("EVENT") == event]

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


@contextmanager
def journalled(*arguments: str, env: Mapping[str, str] = {}) -> Iterator[tuple[Journal, Daemon]]:
    """`voxd start ARGUMENTS...` as under a unit: its standard error is the journal's."""
    with short_folder() as folder:
        journal, log = Journal(folder / "journal"), folder / "log"
        with log.open("wb") as stream:
            facts = os.fstat(stream.fileno())
            whole = environment(folder, {"JOURNAL_STREAM": f"{facts.st_dev}:{facts.st_ino}", **env})
            path = folder / "voxd.sock"
            command = [sys.executable, "-c", RUN, str(folder / "journal"), "start", "--socket", str(path), *arguments]
            process = subprocess.Popen(command, stderr=stream, env=whole)
        daemon = Daemon(process, path, folder, log)
        try:
            daemon.until_ready()
            yield journal, daemon
        finally:
            process.terminate()
            process.wait(60)
            journal.close()
