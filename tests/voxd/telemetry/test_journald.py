"""Records of the journal are complete in a burst, cannot be forged, have fields to search for, and hold no words."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.asyncio.client import unix_connect

from tests.support.daemon import Daemon
from tests.support.fakes import short_folder
from tests.support.journals import Journal, journalled, parsed
from voxd.telemetry import journald
from voxd.telemetry.journald import JournalHandler, encode

ROOT = Path(__file__).parents[3]
CANARY = "periwinkle-flugelhorn"


def logger(handler: logging.Handler) -> logging.Logger:
    found = logging.getLogger("voxd.test")
    found.propagate, found.handlers = False, [handler]
    found.setLevel(logging.INFO)
    return found


# ── the protocol ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_for_operators_names_every_event() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "voxd").rglob("*.py"))
    events = set(re.findall(r'(?:fields\(|"EVENT": )\s*"([a-z]+\.[a-z]+)"', source)) | {
        "response.done",
        "transcription.done",
    }
    (row,) = [
        line for line in (ROOT / "docs" / "OPERATE.md").read_text().splitlines() if line.startswith("| `EVENT` |")
    ]

    assert set(re.findall(r"`([a-z]+\.[a-z]+)`", row)) == events


def test_a_value_cannot_become_a_field() -> None:
    forged = "a\nPRIORITY=0\nSESSION_ID=forged\n"

    assert parsed(encode({"MESSAGE": forged, "SESSION_ID": "sess_1"})) == {"MESSAGE": forged, "SESSION_ID": "sess_1"}


def test_only_names_of_fields_are_sent() -> None:
    data = encode({"EVENT": "x", "_UID": 0, "lower": 1, "A=B": 1, "A\nB": 1, "NOTHING": None, "TTFT_ENGINE_MS": 38.25})

    assert parsed(data) == {"EVENT": "x", "TTFT_ENGINE_MS": "38.25"}


def test_a_value_has_a_bound() -> None:
    assert len(encode({"MESSAGE": "x" * 10_000_000})) < 20_000


def test_a_burst_loses_nothing_and_keeps_its_order() -> None:
    with short_folder() as folder:
        path = folder / "journal"
        journal, handler = Journal(path), JournalHandler(path)
        log = logger(handler)
        for number in range(5000):
            log.info("number %d", number, extra={"fields": {"TURN": number}})
        log.error("last", extra={"fields": {"EVENT": "last"}})
        journal.until("last")
        handler.close()
        journal.close()

    assert [record["TURN"] for record in journal.records[:-1]] == [str(number) for number in range(5000)]
    assert {record["PRIORITY"] for record in journal.records} == {"6", "3"}
    assert journal.records[0]["CODE_FUNC"] == "test_a_burst_loses_nothing_and_keeps_its_order"


def test_what_is_lost_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nobody reading, the queue fills, and callers do not wait."""
    monkeypatch.setattr(journald, "QUEUE", 10)
    with short_folder() as folder:
        path = folder / "journal"
        handler = JournalHandler(path)  # there is no journal yet: its first record is tried again and again
        log = logger(handler)
        for number in range(100):
            log.info("number %d", number)
        journal = Journal(path)
        told = journal.until("log.lost")
        journal.arrived(100 - int(told["MESSAGE"].split()[0]) + 1)  # the queue is empty: nothing more can be lost
        log.info("last", extra={"fields": {"EVENT": "last"}})
        journal.until("last")
        arrived = len(journal.records) - 2
        lost = handler.lost
        handler.close()
        journal.close()

    assert told["MESSAGE"].startswith(f"{100 - arrived} log records were lost")
    assert lost == 100 - arrived


def test_what_was_lost_is_asked_for_by_metrics() -> None:
    with short_folder() as folder:
        handler = JournalHandler(folder / "journal")
        handler.lost = 3
        root = logging.getLogger()
        root.addHandler(handler)
        try:
            assert journald.dropped() == 3
        finally:
            root.removeHandler(handler)
            handler.close()
    assert journald.dropped() == 0


def test_standard_error_is_the_journal_only_if_it_is_the_one_that_systemd_made(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        facts = os.fstat(stream.fileno())
        mine = {"JOURNAL_STREAM": f"{facts.st_dev}:{facts.st_ino}"}

        assert journald.is_journal(mine, stream.fileno())
        assert not journald.is_journal({"JOURNAL_STREAM": f"{facts.st_dev}:{facts.st_ino + 1}"}, stream.fileno())
        assert not journald.is_journal({}, stream.fileno())


# ── a real voxd ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def converse(daemon: Daemon) -> tuple[str, str]:
    """Says the canary, hears an answer to it; the session's id and everything that was heard."""
    heard = ""
    async with unix_connect(str(daemon.socket), "ws://localhost/v1/realtime") as link:
        session = json.loads(await link.recv())["session"]
        said = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": CANARY}]}
        await link.send(json.dumps({"type": "conversation.item.create", "item": said}))
        await link.send(json.dumps({"type": CANARY}))  # an error that names what was sent
        await link.send(
            json.dumps({"type": "response.create", "response": {"instructions": CANARY, "max_output_tokens": 5}})
        )
        while '"response.done"' not in heard:
            heard += str(await link.recv())
    return session["id"], heard


def test_a_session_leaves_figures_and_no_words() -> None:
    with journalled("--transcribe", "echo", "--respond", "echo") as (journal, daemon):
        session_id, heard = asyncio.run(converse(daemon))
        ended = journal.until("session.end")
        turn = journal.until("response.done")
        daemon.process.terminate()
        assert daemon.process.wait(60) == 0
        everything = "\n".join(f"{key}={value}" for record in journal.records for key, value in record.items())
        plain = daemon.log.read_text()

    assert CANARY in heard  # it was there to be written down
    assert CANARY not in everything
    assert CANARY not in plain
    assert {record["SESSION_ID"] for record in (ended, turn)} == {session_id}
    assert float(turn["TTFT_ENGINE_MS"]) <= float(turn["TTFT_SERVER_MS"]) <= float(turn["TOTAL_MS"])
    assert turn["ENGINE"] == "echo"
    assert turn["TURN_ID"].startswith("resp_")
    assert [record["EVENT"] for record in journal.records if record.get("EVENT", "").startswith("daemon.")] == [
        "daemon.start",
        "daemon.ready",
        "daemon.drain",
        "daemon.stop",
    ]


def test_the_last_record_of_a_failed_start_arrives() -> None:
    """What is queued when the process ends is sent before it does."""
    with short_folder() as folder:
        path = folder / "journal"
        journal = Journal(path)
        code = (
            "import logging, sys; from pathlib import Path; from voxd.telemetry.journald import JournalHandler;"
            "logging.basicConfig(handlers=[JournalHandler(Path(sys.argv[1]))], level='INFO');"
            "[logging.info('%d', n, extra={'fields': {'EVENT': 'n'}}) for n in range(500)];"
            "logging.info('end', extra={'fields': {'EVENT': 'end'}}); sys.exit(78)"
        )
        assert subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=300).returncode == 78
        journal.until("end")
        journal.close()

    assert len(journal.of("n")) == 500


# ── the real journald ───────────────────────────────────────────────────────────────────────────────────────────────

JOURNALD = r"""
mount -t tmpfs -o mode=755 tmpfs /run && mkdir -p /run/systemd/journal /run/log/journal /run/own /etc/systemd
printf '[Journal]\nStorage=volatile\nReadKMsg=no\nRateLimitIntervalSec=0\nForwardToSyslog=no\nAudit=no\n' >/run/own/conf
mount --bind /run/own/conf /etc/systemd/journald.conf
[ -s /etc/machine-id ] || { systemd-id128 new >/run/own/id && mount --bind /run/own/id /etc/machine-id; }
/lib/systemd/systemd-journald >&2 & daemon=$!
until [ -S /run/systemd/journal/socket ]; do kill -0 $daemon || exit 99; done
"$@" && journalctl --sync; journalctl -D /run/log/journal -o json LOGGER=voxd.test
kill $daemon
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and namespaces")
@pytest.mark.skipif(not Path("/lib/systemd/systemd-journald").exists(), reason="needs systemd-journald")
@pytest.mark.skipif(not Path("/etc/systemd/journald.conf").exists(), reason="needs systemd's configuration")
def test_the_real_journald_takes_a_burst() -> None:
    code = (
        "import logging; from pathlib import Path; from voxd.telemetry.journald import SOCKET, JournalHandler;"
        "logging.basicConfig(handlers=[JournalHandler(SOCKET)], level='INFO'); log = logging.getLogger('voxd.test');"
        "[log.info('a\\nPRIORITY=0', extra={'fields': {'SESSION_ID': 'sess_1', 'TURN': n}}) for n in range(5000)]"
    )
    command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", JOURNALD, "bash"]
    done = subprocess.run(
        [*command, sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode == 99 or "mount" in done.stderr:
        pytest.skip(f"no journald in a namespace here: {done.stderr[-300:]}")
    rows = [json.loads(line) for line in done.stdout.splitlines()]

    assert [row["TURN"] for row in rows] == [str(number) for number in range(5000)]
    assert {(row["MESSAGE"], row["PRIORITY"], row["SESSION_ID"]) for row in rows} == {("a PRIORITY=0", "6", "sess_1")}


def test_no_socket_is_left_open() -> None:
    with short_folder() as folder:
        handler = JournalHandler(folder / "nobody")
        handler.close()
        assert isinstance(handler._sock, socket.socket)
        assert handler._sock.fileno() == -1
