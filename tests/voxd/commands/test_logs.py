"""`voxd logs`: its filter, its lines, and journalctl's own output behind it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner, Result

from voxd.cli import main
from voxd.commands import service
from voxd.commands.logs import BadFilter, parse, row, shown, wanted

TURN = {
    "__REALTIME_TIMESTAMP": "1700000000000000",
    "MESSAGE": "session 1f9a0c22 · turn 3 · …",
    "EVENT": "response.done",
    "SESSION_ID": "sess_aa001f9a0c22",
    "TURN": "3",
    "ENGINE": "echo",
    "TTFT_ENGINE_MS": "231.5",
    "TTFT_SERVER_MS": "234.0",
    "TOTAL_MS": "900.25",
    "SLO_BREACH": "1",
}
START = {"__REALTIME_TIMESTAMP": "1700000000000000", "MESSAGE": "stopped\x1b[2J", "PRIORITY": "3"}


@pytest.mark.parametrize(
    ("text", "meets"),
    [
        ("ttft_engine_ms>200", True),
        ("ttft_engine_ms > 231.5", False),
        ("ttft_engine_ms>=231.5", True),
        ("ttft_engine_ms<200", False),
        ("ttft_engine_ms>200 and engine=echo", True),
        ("ttft_engine_ms>200 and engine!=echo", False),
        ("slo_breach=1", True),
        ("final_ms<1000000", False),  # what does not apply is no small number
        ("turn=3.0", True),
        ("TTFT_ENGINE_MS>200 and ENGINE=echo", True),  # as the journal has them
    ],
)
def test_a_filter(text: str, meets: bool) -> None:
    assert wanted(TURN, None, parse(text)) is meets


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no comparison"),
        ("ttft_engine_ms", "no comparison"),
        ("ttft_engine_ms>", "no comparison"),
        ("ttft_engine_ms>200 and", "no comparison"),
        ("ttft_engine_ms>200; rm -rf /", "no comparison"),
        ("ttft_engine_ms>__import__('os')", "no comparison"),
        ("ttft_engine_ms>fast", "compared with a number"),
        ("ttft_engine_ms>nan", "compared with a number"),
        ("ttft_engin_ms>200", "did you mean ttft_engine_ms"),
        ("engine>echo", "is a word"),
    ],
)
def test_what_is_no_filter(text: str, reason: str) -> None:
    with pytest.raises(BadFilter, match=reason):
        parse(text)


def test_a_figure_that_no_voxd_wrote_ends_nothing() -> None:
    odd = TURN | {"TTFT_ENGINE_MS": "fast", "TOTAL_MS": ""}

    assert not wanted(odd, None, parse("ttft_engine_ms>0"))
    assert "engine" not in shown(odd)
    assert shown(odd).endswith("server    234 ms  ✗ over target")
    assert shown(START | {"PRIORITY": "high"}).endswith("  stopped [2J")


def test_a_session_is_known_by_the_end_of_its_id() -> None:
    assert wanted(TURN, "1f9a0c22", ())
    assert wanted(TURN, "sess_aa001f9a0c22", ())
    assert not wanted(TURN, "1f9a0c23", ())
    assert not wanted(START, "1f9a0c22", ())


def test_a_turn_is_figures_in_columns() -> None:
    line = shown(TURN)

    assert line.split("  ", 1)[1] == (
        "aa001f9a0c22  turn 3     engine    232 ms  server    234 ms  total    900 ms  ✗ over target"
    )


def test_a_message_cannot_act_on_the_terminal() -> None:
    assert shown(START).endswith("✗ stopped [2J")


@pytest.mark.parametrize("line", [b"", b"{", b"[1]", b'"x"', b"\xff"])
def test_what_is_no_record(line: bytes) -> None:
    assert row(line) is None


def test_bytes_and_nulls_of_journalctl_are_left_out() -> None:
    assert row(b'{"MESSAGE":[27,91],"EVENT":"x","BIG":null}') == {"EVENT": "x"}


# ── with a journalctl ───────────────────────────────────────────────────────────────────────────────────────────────


def logs(folder: Path, script: str, *arguments: str) -> Result:
    """`voxd logs` where systemd runs and journalctl is this script."""
    program = folder / "journalctl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    with patch.object(service, "SYSTEMD", folder):
        return CliRunner().invoke(main, ["logs", *arguments], env={"PATH": f"{folder}:{os.environ['PATH']}"})


def printing(folder: Path, *records: dict[str, str]) -> str:
    rows = folder / "rows"
    rows.write_text("".join(json.dumps(record) + "\n" for record in records))
    return f'echo "$@" > {folder}/asked; cat {rows}'


def test_both_kinds_of_service_are_asked_for(tmp_path: Path) -> None:
    done = logs(tmp_path, printing(tmp_path, TURN, START), "--follow")

    assert done.exit_code == 0
    assert [line[-16:] for line in done.output.splitlines()] == [shown(TURN)[-16:], shown(START)[-16:]]
    asked = (tmp_path / "asked").read_text().split()
    assert {"--unit=voxd.service", "--user-unit=voxd.service", "--output=json", "--all", "--follow"} <= set(asked)


def test_for_programs_it_is_journalctls_own(tmp_path: Path) -> None:
    done = logs(tmp_path, printing(tmp_path, START, TURN), "--json", "--where", "ttft_engine_ms>200")

    assert [json.loads(line) for line in done.output.splitlines()] == [TURN]


def test_a_journal_that_may_not_be_read(tmp_path: Path) -> None:
    done = logs(tmp_path, "exit 1")

    assert done.exit_code == 1
    assert "systemd-journal" in done.output


def test_nothing_found_is_said(tmp_path: Path) -> None:
    done = logs(tmp_path, printing(tmp_path, TURN), "--session", "1f9a0c23")

    assert (done.exit_code, done.stdout) == (0, "")
    assert "no such record in the journal" in done.stderr


def test_a_bad_filter_is_wrong_use(tmp_path: Path) -> None:
    done = logs(tmp_path, "exit 1", "--where", "nonsense>1")

    assert done.exit_code == 2
    assert "no field is called nonsense" in done.output
